"""One figure for the question that a plan asks: the score of every group in the plan's order, interval and chance."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from leakscope.ledger.record import ScoreRecord
from leakscope.report.figures import BLIND, FAINT, INK, STYLE, Drawing, svg
from leakscope.report.tables import Row, metric_name, number, span, unit_name

FEWEST = 3
"""With fewer groups the overview says it all."""
LINE, WIDE, MOST_LETTERS, LETTER = 0.27, 8.4, 58, 0.066
"""Inches of a line, of the figure, letters of a label, inches of a letter."""


@final
@dataclass(frozen=True)
class Lane:
    """One group: what tells it from the others, and its main score.

    scene: heads the lanes that share it; empty where all do. score: None where no trial made a claim. partial: whether
    some trials made none, which the mean does not show.
    """

    label: str
    score: ScoreRecord | None
    scene: str = ""
    partial: bool = False

    @property
    def name(self) -> str:
        """Scene and label."""
        return " · ".join(dict.fromkeys(part for part in (self.scene, self.label) if part))


def lanes(rows: Sequence[Row]) -> tuple[Lane, ...]:
    """All groups, each labeled by what varies in its scene: batch size, mechanism, attack; groups without score too."""
    places = _shortened([coordinates(row.group.title) for row in rows])
    several = len({one[0] for one in places}) > 1
    found = []
    for row, (scene, *rest) in zip(rows, places, strict=True):
        siblings = [one[1:] for one in places if one[0] == scene]
        varying = [
            _apart(part, {one[at] for one in siblings if one[at]})
            for at, part in enumerate(rest)
            if part and len({one[at] for one in siblings}) > 1
        ]
        main = row.main if row.main is not None and math.isfinite(row.main.value) else None
        # A blind guess claims in every trial, so it has the items of all; a mean over fewer flatters.
        partial = main is not None and row.blind is not None and len(main.items) < len(row.blind.items)
        found.append(Lane(" · ".join(varying) or scene, main, scene if several else "", partial))
    return tuple(found)


def coordinates(title: str) -> tuple[str, str, str, str]:
    """Scene, batch, mechanism, attack of a group's title; a title of another form is a scene by itself.

    >>> coordinates("faces · batch of 4 · FedSGD() · idlg()")
    ('faces', 'batch of 4', 'FedSGD()', 'idlg()')
    """
    parts = title.split(" · ")
    if len(parts) == 3:
        return parts[0], "batch of 1", parts[1], parts[2]
    return (parts[0], parts[1], parts[2], parts[3]) if len(parts) == 4 else (title, "", "", "")


def _shortened(places: Sequence[tuple[str, str, str, str]]) -> list[tuple[str, str, str, str]]:
    """Attacks by their names alone, unless one attack has several settings.

    >>> _shortened([("a", "", "FedSGD()", "idlg(evaluations=3)"), ("a", "", "FedSGD()", "LowRank()")])
    [('a', '', 'FedSGD()', 'idlg'), ('a', '', 'FedSGD()', 'LowRank')]
    """
    attacks = {attack for *_, attack in places}
    bare = {attack: attack.partition("(")[0] for attack in attacks}
    # Two settings of one attack would get the same name.
    if len(set(bare.values())) < len(attacks):
        return list(places)
    return [(scene, batch, mechanism, bare[attack]) for scene, batch, mechanism, attack in places]


def _apart(text: str, among: Collection[str]) -> str:
    """The text without the parts that all of them begin and end with, but one, if one is too long to be shown whole.

    >>> long = "Head(" + "x" * 60 + ", Noise(4.0, {}, 5, rate=0.5))"
    >>> _apart(long.format(0.1), [long.format(0.1), long.format(0.435)])
    '... Noise(4.0, 0.1 ...'
    """
    if len(among) < 2 or max(len(one) for one in among) <= MOST_LETTERS:
        return text
    split = [one.split(", ") for one in among]
    least = min(len(one) for one in split)
    first = next((at for at in range(least) if len({one[at] for one in split}) > 1), least)
    last = next((at for at in range(least - first) if len({one[-1 - at] for one in split}) > 1), least - first)
    # one part before what differs says what it is of
    first, parts = max(0, first - 1), text.split(", ")
    kept = ", ".join(parts[first : len(parts) - last])
    return f"{'... ' if first else ''}{kept}{' ...' if last else ''}"


def figures(rows: Sequence[Row]) -> tuple[Drawing, ...]:
    """One figure for each main metric that at least three groups have."""
    found = lanes(rows)
    metrics = dict.fromkeys(lane.score.metric for lane in found if lane.score is not None)
    grouped = ([lane for lane in found if _metric(lane, found) == metric] for metric in metrics)
    return tuple(_drawn(lane) for lane in grouped if len(lane) >= FEWEST)


def _metric(lane: Lane, among: Sequence[Lane]) -> str | None:
    """The metric of a lane; of one without a claim that of its scene, else that of the first lane with one."""
    same = [one for one in among if one.scene == lane.scene]
    scored = [one.score.metric for one in (lane, *same, *among) if one.score is not None]
    return scored[0] if scored else None


def _drawn(shown: Sequence[Lane]) -> Drawing:
    lines = _lines(shown)
    first = next(lane.score for lane in shown if lane.score is not None)
    tall = LINE * len(lines) + 0.75
    # The room for labels is estimated from their letters: to measure it would take drawing everything twice.
    left = (LETTER * max(len(_short(text)) for text, _ in lines) + 0.25) / WIDE
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDE, tall))
        axes = figure.add_axes((left, 0.55 / tall, 0.97 - left, (tall - 0.65) / tall))
        for line, (_, lane) in enumerate(lines):
            if lane is not None:
                _draw(axes, -line, lane)
        axes.set_yticks([-line for line in range(len(lines))], [_short(text) for text, _ in lines])
        for tick, (_, lane) in zip(axes.get_yticklabels(), lines, strict=True):
            tick.set_fontweight("bold" if lane is None else "normal")
        axes.set_ylim(-len(lines) + 0.5, 0.5)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=FAINT, linewidth=0.6)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        way = "→ leaks more" if first.higher_is_better else "← leaks more"
        unit = unit_name(first.unit)
        axes.set_xlabel(f"{metric_name(first.metric)}{f' ({unit})' if unit else ''}  {way}")
        source = svg(figure)
    marks = []
    if any(lane.partial for lane in shown):
        marks.append("A hollow dot: some trials made no claim, and the mean is over the others.")
    if any(lane.score is None for lane in shown):
        marks.append("No dot: no trial made a claim.")
    said = "; ".join(_said(lane) for lane in shown)
    return Drawing(source, f"{metric_name(first.metric)} of every group. {said}.", " ".join(marks))


def _lines(shown: Sequence[Lane]) -> list[tuple[str, Lane | None]]:
    """What stands at the left, and whose it is; a scene with several lanes has a heading, which is no lane."""
    lines: list[tuple[str, Lane | None]] = []
    before = ""
    for lane in shown:
        headed = lane.scene != lane.label and bool(lane.scene)
        if headed and lane.scene != before:
            lines.append((lane.scene, None))
        before = lane.scene
        lines.append((lane.label, lane))
    return lines


def _draw(axes: Axes, height: float, lane: Lane) -> None:
    score = lane.score
    if score is None:
        axes.text(
            0.01, height, "no claim", transform=axes.get_yaxis_transform(), va="center", color=INK, style="italic"
        )
        return
    low, high = (v if math.isfinite(v) else score.value for v in (score.low, score.high))
    axes.plot([low, high], [height, height], "-", color=INK, linewidth=2.2, solid_capstyle="butt")
    if lane.partial:
        axes.plot([score.value], [height], "o", markersize=6.5, markerfacecolor=FAINT, markeredgecolor=INK)
    else:
        axes.plot([score.value], [height], "o", color=INK, markersize=6)
    if math.isfinite(score.chance):
        axes.plot([score.chance], [height], "|", color=BLIND, markersize=11, markeredgewidth=2)


def _said(lane: Lane) -> str:
    score = lane.score
    if score is None:
        return f"{lane.name}: no claim"
    some = ", of the trials with a claim" if lane.partial else ""
    return f"{lane.name}: {number(score.value)}, {span(score)}, chance {number(score.chance)}{some}"


def _short(label: str) -> str:
    return textwrap.shorten(label, MOST_LETTERS, placeholder=" ...") if " " in label else label[:MOST_LETTERS]
