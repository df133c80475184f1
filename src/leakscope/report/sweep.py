"""One figure for the question that a plan asks: the score of every group in the plan's order, interval and chance."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from leakscope.ledger.record import ScoreRecord
from leakscope.report.figures import BLIND, FAINT, INK, STYLE, Drawing, svg
from leakscope.report.tables import Row, metric_name, number, unit_name

FEWEST = 3
"""With fewer groups the overview says it all."""
LINE, WIDE, MOST_LETTERS = 0.3, 7.6, 46


@final
@dataclass(frozen=True)
class Lane:
    """One group: what tells it from the others, and its main score."""

    label: str
    score: ScoreRecord


def lanes(rows: Sequence[Row]) -> tuple[Lane, ...]:
    """The groups that have a finite main score, each labeled by what varies: scene, batch size, mechanism, attack."""
    kept = [(row.group.title, row.main) for row in rows if row.main is not None and math.isfinite(row.main.value)]
    coordinates = [_coordinates(title) for title, _ in kept]
    varying = [at for at in range(4) if len({one[at] for one in coordinates}) > 1]
    labels = [" · ".join(one[at] for at in varying if one[at]) or one[0] for one in coordinates]
    return tuple(Lane(label, score) for label, (_, score) in zip(labels, kept, strict=True))


def _coordinates(title: str) -> tuple[str, str, str, str]:
    """Scene, batch, mechanism, attack of a group's title; a title of another form is a scene by itself.

    >>> _coordinates("faces · batch of 4 · FedSGD() · idlg()")
    ('faces', 'batch of 4', 'FedSGD()', 'idlg()')
    """
    parts = title.split(" · ")
    if len(parts) == 3:
        return parts[0], "batch of 1", parts[1], parts[2]
    return (parts[0], parts[1], parts[2], parts[3]) if len(parts) == 4 else (title, "", "", "")


def figures(rows: Sequence[Row]) -> tuple[Drawing, ...]:
    """One figure for each main metric that at least three groups have."""
    found = lanes(rows)
    metrics = dict.fromkeys(lane.score.metric for lane in found)
    grouped = ([lane for lane in found if lane.score.metric == metric] for metric in metrics)
    return tuple(_drawn(lane) for lane in grouped if len(lane) >= FEWEST)


def _drawn(shown: Sequence[Lane]) -> Drawing:
    first = shown[0].score
    tall = LINE * len(shown) + 0.75
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDE, tall))
        axes = figure.add_axes((0.42, 0.55 / tall, 0.55, (tall - 0.65) / tall))
        for line, lane in enumerate(shown):
            score = lane.score
            low, high = (v if math.isfinite(v) else score.value for v in (score.low, score.high))
            axes.plot([low, high], [-line, -line], "-", color=INK, linewidth=2.2, solid_capstyle="butt")
            axes.plot([score.value], [-line], "o", color=INK, markersize=6)
            if math.isfinite(score.chance):
                axes.plot([score.chance], [-line], "|", color=BLIND, markersize=11, markeredgewidth=2)
        axes.set_yticks([-line for line in range(len(shown))], [_short(lane.label) for lane in shown])
        axes.set_ylim(-len(shown) + 0.5, 0.5)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=FAINT, linewidth=0.6)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        way = "→ leaks more" if first.higher_is_better else "← leaks more"
        unit = unit_name(first.unit)
        axes.set_xlabel(f"{metric_name(first.metric)}{f' ({unit})' if unit else ''}  {way}")
        source = svg(figure)
    said = "; ".join(
        f"{lane.label}: {number(lane.score.value)}, interval {number(lane.score.low)} to {number(lane.score.high)}, "
        f"chance {number(lane.score.chance)}"
        for lane in shown
    )
    return Drawing(source, f"{metric_name(first.metric)} of every group. {said}.")


def _short(label: str) -> str:
    return textwrap.shorten(label, MOST_LETTERS, placeholder=" ...") if " " in label else label[:MOST_LETTERS]
