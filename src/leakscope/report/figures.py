"""Figures as SVG data URIs that follow the reader's light or dark page."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from leakscope.ledger.record import ScoreRecord
from leakscope.report.media import Array, uri
from leakscope.report.tables import metric_name, number, power_of_ten, span, unit_name

MOST_POINTS = 160
"""Curves with more points are thinned to so many, evenly, ends included."""
MOST_CURVES = 16
MOST_DOTS = 80
HIGHEST = 1000.0
"""Losses beyond so many times the largest first one are drawn at the upper edge: a divergence would hide the rest."""

# Inches. Fixed margins: a layout engine draws every figure twice.
_WIDTH, _GAP = 4.4, 0.68

# Colors by role. The first is what matplotlib writes, the second what a dark page shows instead.
INK, UNDEFENDED, BLIND, FAINT = "#1d2733", "#00796b", "#7a5c9e", "#c3ccd5"
_DARK = {INK: "#e3e8ee", UNDEFENDED: "#4fc3b0", BLIND: "#bda3dd", FAINT: "#3d4955"}
STYLE: Any = {
    "font.size": 9,
    "font.family": ["DejaVu Sans"],
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",  # letters stay letters: searchable, and a fraction of the bytes of their outlines
    "svg.hashsalt": "leakscope",  # else the ids, and with them the page, differ from run to run
    "axes.unicode_minus": True,
    "path.simplify": True,
}


def svg(figure: Figure) -> str:
    """The figure as a data URI. Colors become variables, set once for light and once for dark."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    # An image in a data URI sees none of the page's styles, so both palettes travel inside it.
    names = {color: f"var(--c{index})" for index, color in enumerate(_DARK)}
    for color, name in names.items():
        text = text.replace(color, name)
    light = ";".join(f"--c{index}:{color}" for index, color in enumerate(_DARK))
    dark = ";".join(f"--c{index}:{color}" for index, color in enumerate(_DARK.values()))
    style = f"<style>:root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"
    text = text.replace("'DejaVu Sans'", "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif")
    # What stands before <svg is for files of their own. The style comes first, before anything that uses it.
    opening, closing, rest = text[text.index("<svg") :].partition(">")
    return uri("image/svg+xml", (opening + closing + style + rest).encode())


Triple = tuple[ScoreRecord | None, ScoreRecord | None, ScoreRecord | None]
"""One metric of the attack, the undefended control and the blind control."""


@final
@dataclass(frozen=True)
class Mark:
    """One line of an interval figure: whose score, how it is drawn."""

    label: str
    score: ScoreRecord
    color: str
    shape: str


def marks_of(scores: Triple) -> tuple[Mark, ...]:
    """The attack's score and those of its undefended and blind controls, where they exist."""
    drawn = (("this attack", INK, "o"), ("undefended", UNDEFENDED, "s"), ("blind", BLIND, "D"))
    return tuple(
        Mark(label, score, color, shape)
        for score, (label, color, shape) in zip(scores, drawn, strict=True)
        if score is not None
    )


def _panel(axes: Axes, marks: Sequence[Mark]) -> None:
    """One metric: a line per mark, its items as faint strokes, chance as a broken line."""
    first = marks[0].score
    for line, mark in enumerate(marks):
        low, high = (v if math.isfinite(v) else mark.score.value for v in (mark.score.low, mark.score.high))
        items = np.asarray(mark.score.items, np.float64)
        items = items[np.isfinite(items)][:MOST_DOTS]
        axes.plot(items, np.full(len(items), -line - 0.28), "|", color=mark.color, markersize=5, alpha=0.55)
        axes.plot([low, high], [-line, -line], "-", color=mark.color, linewidth=2.2, solid_capstyle="butt")
        axes.plot([mark.score.value], [-line], mark.shape, color=mark.color, markersize=6)
    if math.isfinite(first.chance):
        axes.axvline(first.chance, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate("chance", (first.chance, 0.62), ha="center", va="bottom", fontsize=8, annotation_clip=False)
    # Line k is at -k, so that the attack is on top and its controls are below it.
    axes.set_ylim(-len(marks) + 0.4, 0.6)
    axes.set_yticks([-line for line in range(len(marks))], [mark.label for mark in marks])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    way = "→ leaks more" if first.higher_is_better else "← leaks more"
    name, unit = metric_name(first.metric), unit_name(first.unit)
    axes.set_xlabel(f"{name} ({unit})  {way}" if unit else f"{name}  {way}")


@final
@dataclass(frozen=True)
class Drawing:
    """A figure and the words that say the same to somebody who cannot see it."""

    source: str
    alt: str
    note: str = ""


def intervals(metrics: Sequence[Triple]) -> Drawing | None:
    """A dot and a 95 % interval for the attack, the undefended and the blind control; one panel per metric.

    None where no score is finite.
    """
    finite = ([mark for mark in marks_of(triple) if math.isfinite(mark.score.value)] for triple in metrics)
    panels = [marks for marks in finite if marks]
    if not panels:
        return None
    heights = [0.35 + 0.24 * len(marks) for marks in panels]
    with mpl.rc_context(STYLE):
        tall = sum(heights) + _GAP * len(panels)
        figure = Figure(figsize=(_WIDTH, tall))
        top = tall
        for height, marks in zip(heights, panels, strict=True):
            top -= height + _GAP
            _panel(figure.add_axes((0.19, (top + _GAP - 0.2) / tall, 0.77, height / tall)), marks)
        source = svg(figure)
    said = [
        f"{mark.label} {metric_name(mark.score.metric)} {number(mark.score.value)} {unit_name(mark.score.unit)}, "
        f"{span(mark.score)}, chance {number(mark.score.chance)}"
        for marks in panels
        for mark in marks
    ]
    return Drawing(source, "Scores with intervals. " + "; ".join(said) + ".")


@final
@dataclass(frozen=True)
class Curve:
    """The loss of one search. `lost`: whether it ended without a claim."""

    evaluations: Sequence[float]
    losses: Sequence[float]
    control: bool = False
    lost: bool = False


def _points(curve: Curve) -> tuple[Array, Array]:
    """What a logarithmic axis can show, thinned."""
    count = min(len(curve.evaluations), len(curve.losses))
    x, y = np.asarray(curve.evaluations[:count], np.float64), np.asarray(curve.losses[:count], np.float64)
    shown = np.isfinite(y) & (y > 0) & np.isfinite(x)
    x, y = x[shown], y[shown]
    keep = np.unique(np.linspace(0, max(len(x) - 1, 0), MOST_POINTS).round().astype(int)) if len(x) else slice(0)
    return x[keep], y[keep]


def curves(searches: Sequence[Curve]) -> Drawing | None:
    """Loss against gradient evaluations, logarithmic; None where no search left two positive finite losses."""
    # Controls last: when there are too many curves, it is theirs that are left out.
    thinned = ((curve, _points(curve)) for curve in sorted(searches, key=lambda c: c.control)[:MOST_CURVES])
    kept = [(curve, x, y) for curve, (x, y) in thinned if len(x) > 1]
    if not kept:
        return None
    # By the first losses, not by the smallest: a search that only diverges still shows where it began.
    top = HIGHEST * max(float(y[0]) for _, _, y in kept)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH, 2.5))
        axes = figure.add_axes((0.16, 0.18, 0.8, 0.77))
        for curve, x, far in kept:
            y = np.minimum(far, top)
            color, dashes = (UNDEFENDED, (0, (3, 2))) if curve.control else (INK, "-")
            axes.plot(x, y, color=color, linestyle=dashes, linewidth=1.1, alpha=0.85, label=_legend(curve))
            if curve.lost:
                axes.plot(x[-1:], y[-1:], "x", color=color, markersize=7, markeredgewidth=1.8)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=6))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(_power))
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.set_xlabel("gradient evaluations")
        axes.set_ylabel("loss of the search")
        handles, labels = axes.get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        if len(unique) > 1:
            axes.legend(unique.values(), unique.keys(), frameon=False, fontsize=8)
        source = svg(figure)
    beyond = any(bool((y > top).any()) for _, _, y in kept)
    note = f"Losses above {number(top)} are drawn at the upper edge." if beyond else ""
    ends = ", ".join(f"{number(float(y[0]))} to {number(float(y[-1]))}" for _, _, y in kept[:4])
    more = f" (and {len(kept) - 4} more)" if len(kept) > 4 else ""
    return Drawing(source, f"Loss of {len(kept)} searches on a logarithmic axis: {ends}{more}.", note)


def _power(value: float, position: int | None) -> str:
    """A tick of a logarithmic axis, without the cost of mathematical typesetting."""
    del position
    return power_of_ten(round(math.log10(value))) if value > 0 else ""


def _legend(curve: Curve) -> str:
    return "undefended control" if curve.control else "this attack"
