"""Figures of a plan of federations: intervals of all rows, and attack and utility against epsilon in one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import matplotlib as mpl
from matplotlib.figure import Figure

from leakscope.ledger.played import Found
from leakscope.report.figures import BLIND, FAINT, INK, STYLE, UNDEFENDED, Drawing, svg
from leakscope.report.tables import at_most, number

WIDE, LINE, LETTER, MOST_LETTERS = 8.4, 0.27, 0.066, 62
"""Inches of a figure and of a line; inches of a letter, letters of a label."""


@final
@dataclass(frozen=True)
class Point:
    """One level of noise. epsilon: of all updates of a client, infinite without noise. utility: UAR of the model."""

    epsilon: float
    found: tuple[Found, ...]
    utility: float


def forest(rows: Sequence[tuple[str, bool, Found]]) -> Drawing:
    """UAR of persons by all of their updates, 95 % interval and chance, a line for each (label, audited, found)."""
    tall = LINE * len(rows) + 0.75
    labels = [_short(label) for label, _, _ in rows]
    left = min(0.62, (LETTER * max(map(len, labels)) + 0.25) / WIDE)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDE, tall))
        axes = figure.add_axes((left, 0.55 / tall, 0.97 - left, (tall - 0.65) / tall))
        for line, (_, audited, one) in enumerate(rows):
            color = INK if audited else UNDEFENDED
            low, high = (v if math.isfinite(v) else one.uar for v in (one.low, one.high))
            axes.plot([low, high], [-line, -line], "-", color=color, linewidth=2.2, solid_capstyle="butt")
            axes.plot([one.uar], [-line], "o", color=color, markersize=6)
            axes.plot([one.chance], [-line], "|", color=BLIND, markersize=11, markeredgewidth=2)
        axes.set_yticks([-line for line in range(len(rows))], labels)
        axes.set_ylim(-len(rows) + 0.5, 0.5)
        axes.set_xlim(0, 1.02)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=FAINT, linewidth=0.6)
        axes.set_xlabel("UAR of persons, by all of their updates  → leaks more")
        source = svg(figure)
    said = "; ".join(
        f"{label}: {number(one.uar)} from {number(one.low)} to {number(one.high)}, chance {number(one.chance)}"
        for label, _, one in rows
    )
    return Drawing(source, f"UAR of persons with 95 % intervals. {said}.")


def against_epsilon(points: Sequence[Point], title: str) -> Drawing:
    """Attack (UAR of persons, by each number of updates) and utility (UAR of the model) at each level of noise.

    Levels stand side by side, the strongest promise first, since epsilon goes from below one to infinity; epsilon is
    that of who sees all updates of a client.
    """
    own = sorted(points, key=lambda one: one.epsilon)
    numbers = list(dict.fromkeys(found.updates for one in own for found in one.found))
    places = range(len(own))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.3))
        axes = figure.add_axes((0.09, 0.2, 0.64, 0.68))
        for turn, updates in enumerate(numbers):
            rows = [(x, one) for x in places for one in own[x].found if one.updates == updates]
            shift = 0.08 * (turn - (len(numbers) - 1) / 2)
            xs, values = [x + shift for x, _ in rows], [one.uar for _, one in rows]
            style, color = ("-", INK) if updates == 0 else ((0, (1 + turn, 2)), BLIND)
            called = "all updates" if updates == 0 else f"{updates} update{'s' if updates > 1 else ''}"
            axes.plot(xs, values, linestyle=style, color=color, marker="o", markersize=4, label=f"attack, {called}")
            for x, (_, one) in zip(xs, rows, strict=True):
                low, high = (v if math.isfinite(v) else one.uar for v in (one.low, one.high))
                axes.plot([x, x], [low, high], color=color, linewidth=1.1, alpha=0.7)
        utility = [one.utility for one in own]
        if any(map(math.isfinite, utility)):
            axes.plot(places, utility, "s--", color=UNDEFENDED, markersize=4.5, label="recognizer")
        axes.axhline(own[0].found[0].chance, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.text(len(own) - 0.6, own[0].found[0].chance, "chance of the attack", fontsize=8, ha="right", va="bottom")
        axes.set_xticks(list(places), ["no noise" if math.isinf(one.epsilon) else at_most(one.epsilon) for one in own])
        axes.set_xlim(-0.4, len(own) - 0.6)
        axes.set_ylim(0, 1.03)
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.set_xlabel("epsilon for who sees all updates of a client")
        axes.set_ylabel("UAR")
        axes.set_title(_short(title), fontsize=9, loc="left")
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
        source = svg(figure)
    said = "; ".join(
        f"epsilon {'infinite' if math.isinf(one.epsilon) else at_most(one.epsilon)}: "
        + ", ".join(f"{found.updates or 'all'} updates {number(found.uar)}" for found in one.found)
        + f", recognizer {number(one.utility)}"
        for one in own
    )
    return Drawing(source, f"{title}: attack and utility against epsilon. {said}.")


def _short(label: str) -> str:
    # the ends tell rows apart as often as the beginnings do
    if len(label) <= MOST_LETTERS:
        return label
    half = (MOST_LETTERS - 3) // 2
    return f"{label[:half]}...{label[-half:]}"
