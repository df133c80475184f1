"""One figure for each attack on several levels of noise: what it found, below the most that any attack finds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from leakscope.ledger.record import GameRecord, GroupVerdict
from leakscope.numerics.decimals import upward
from leakscope.report.figures import BLIND, FAINT, INK, STYLE, UNDEFENDED, Drawing, svg
from leakscope.report.sweep import coordinates
from leakscope.report.tables import at_least, at_most, number

FEWEST, MOST = 2, 6
"""Levels of noise behind a figure, figures of a page."""
WIDE, LEFT, RIGHT = 7.2, 0.10, 0.66
"""Inches, and the ends of the axes as shares of it: keys stand at the right."""
ABOVE, BESIDE, GAP = 2.3, 1.15, 0.3
"""Inches of the panels and between them."""


@final
@dataclass(frozen=True)
class Level:
    """One level of noise. epsilon: of one release, infinite without noise. broken: whether it is not kept.

    control: whether it is what the levels have in common without their defense.
    """

    epsilon: float
    game: GameRecord
    broken: bool = False
    control: bool = False

    @property
    def name(self) -> str:
        """The epsilon to three digits, rounded up."""
        said = "∞" if math.isinf(self.epsilon) else number(float(upward(self.epsilon, 3)))
        return f"{said} (undefended)" if self.control else said


def figures(groups: Sequence[GroupVerdict]) -> tuple[Drawing, ...]:
    """For each scene, batch size and attack with two finite epsilons or more whose replaced control was run."""
    together: dict[tuple[str, str, str, str], list[GroupVerdict]] = {}
    for group in groups:
        scene, batch, _, attack = coordinates(group.title)
        # Levels of one training: its undefended trials are the same ones.
        bare = "" if group.undefended_game is None else group.undefended_game.model_dump_json()
        together.setdefault((scene, batch, attack, bare), []).append(group)
    found = []
    for (scene, batch, attack, _), own in together.items():
        levels = _levels(own)
        if sum(math.isfinite(one.epsilon) for one in levels) >= FEWEST:
            # the name alone: all settings stand in the groups
            said = " · ".join(part for part in (scene, batch, attack.partition("(")[0]) if part)
            found.append(_drawn(levels, said))
    return tuple(found[:MOST])


def _levels(groups: Sequence[GroupVerdict]) -> list[Level]:
    """The strongest promise first; each undefended control once, as the last ones."""
    levels = [
        Level(group.epsilon, group.game, bool(group.broken))
        for group in groups
        if group.game is not None and group.epsilon is not None
    ]
    for game in (group.undefended_game for group in groups):
        # Mechanisms share it, and one without a defense is its own.
        if game is not None and game not in [one.game for one in levels]:
            levels.append(Level(math.inf, game, control=True))
    return sorted(levels, key=lambda one: (one.epsilon, one.control))


def _drawn(levels: Sequence[Level], title: str) -> Drawing:
    utility = any(one.game.accuracy is not None for one in levels)
    heights = [ABOVE, BESIDE, BESIDE] if utility else [ABOVE, BESIDE]
    tall = sum(heights) + GAP * (len(heights) - 1) + 1.05
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDE, tall))
        top, panels = tall - 0.35, []
        for high in heights:
            panels.append(figure.add_axes((LEFT, (top - high) / tall, RIGHT - LEFT, high / tall)))
            top -= high + GAP
        _shares(panels[0], levels)
        _epsilons(panels[1], levels)
        if utility:
            _accuracy(panels[2], levels)
        panels[0].set_title(title, fontsize=9, loc="left")
        for axes in panels:
            axes.set_xlim(-0.5, len(levels) - 0.5)
            axes.set_xticks(range(len(levels)), [""] * len(levels))
            axes.grid(axis="y", color=FAINT, linewidth=0.6)
            axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
        panels[-1].set_xticks(range(len(levels)), [one.name.replace(" ", "\n") for one in levels])
        panels[-1].set_xlabel("epsilon of one example, in or out")
        source = svg(figure)
    said = "; ".join(map(_said, levels))
    return Drawing(source, f"{title}: what was found against epsilon, below the bound. {said}.", _note(levels))


def _shares(axes: Axes, levels: Sequence[Level]) -> None:
    """What was found, and what any attack finds at most."""
    places = range(len(levels))
    known = [(x, one.game.power) for x, one in enumerate(levels) if one.game.power is not None]
    axes.plot([x for x, _ in known], [power for _, power in known], "_-", color=BLIND, markersize=16,
              markeredgewidth=2, linewidth=1, label="bound of any attack")  # fmt: skip
    axes.plot(places, [one.game.found for one in levels], "o-", color=INK, markersize=5,
              linewidth=1, label="this attack, with 95 % interval")  # fmt: skip
    for x, one in enumerate(levels):
        axes.plot([x, x], [one.game.low, one.game.high], color=INK, linewidth=1.4)
    broken = [x for x, one in enumerate(levels) if one.broken]
    if broken:
        axes.plot(broken, [levels[x].game.found for x in broken], "x", color=INK, markersize=14, markeredgewidth=3,
                  label="PROMISE BROKEN")  # fmt: skip
    axes.plot(places, [one.game.fpr for one in levels], color=INK, linewidth=1, linestyle=(0, (4, 3)), label="chance")
    axes.set_ylim(0, 1.04)
    axes.set_ylabel(f"found at {_rate(levels)} false positives")


def _epsilons(axes: Axes, levels: Sequence[Level]) -> None:
    """What the trials show of epsilon, and what they may show."""
    allowed = [(x, one.game.allowed) for x, one in enumerate(levels) if one.game.allowed is not None]
    finite = [(x, most) for x, most in allowed if math.isfinite(most)]
    axes.plot([x for x, _ in finite], [most for _, most in finite], "_", color=BLIND, markersize=16, markeredgewidth=2,
              label="allowed")  # fmt: skip
    axes.plot(range(len(levels)), [one.game.shown for one in levels], "o", color=INK, markersize=5,
              label="shown, at least (95 %)")  # fmt: skip
    axes.set_yscale("symlog", linthresh=1.0)
    most = max([1.0, *(one.game.shown for one in levels), *(value for _, value in finite)])
    axes.set_ylim(-0.15, 3 * most)
    powers = range(1, math.ceil(math.log10(3 * most)))
    # Five at most, however small the noise.
    ticks = [0.0, 1.0, *(10.0**power for power in powers[:: math.ceil(len(powers) / 5) or 1])]
    axes.set_yticks(ticks, [number(one) for one in ticks])
    axes.minorticks_off()
    axes.set_ylabel("epsilon, replaced")
    for x, value in allowed:
        if math.isinf(value):
            axes.annotate("∞", (x, 2.2 * most), ha="center", va="center", color=BLIND)


def _accuracy(axes: Axes, levels: Sequence[Level]) -> None:
    known = [(x, one.game.accuracy) for x, one in enumerate(levels) if one.game.accuracy is not None]
    axes.plot([x for x, _ in known], [value for _, (value, _, _) in known], "s-", color=UNDEFENDED, markersize=4.5,
              linewidth=1, label="accuracy on public data")  # fmt: skip
    for x, (value, *ends) in known:
        low, high = (end if math.isfinite(end) else value for end in ends)
        axes.plot([x, x], [low, high], color=UNDEFENDED, linewidth=1.4)
    axes.set_ylim(0, 1.04)
    axes.set_ylabel("accuracy")


def _rate(levels: Sequence[Level]) -> str:
    """The rate of false positives, or both ends where levels have another number of trials."""
    ends = dict.fromkeys(f"{100 * one(level.game.fpr for level in levels):.2g}" for one in (min, max))
    return " to ".join(ends) + " %"


def _said(one: Level) -> str:
    game = one.game
    power = "of an unknown bound" if game.power is None else f"of at most {at_most(game.power)}"
    allowed = "" if game.allowed is None else f" of {at_most(game.allowed)} allowed"
    accuracy = "" if game.accuracy is None else f", accuracy {number(game.accuracy[0])}"
    broken = ", the promise is broken" if one.broken else ""
    return (
        f"epsilon {one.name}: found {number(game.found)}, interval {number(game.low)} to "
        f"{number(game.high)}, {power}; epsilon shown {at_least(game.shown)}{allowed}{accuracy}{broken}"
    )


def _note(levels: Sequence[Level]) -> str:
    """What a reader has to know of few trials, and of limits that err."""
    said = []
    least = min(one.game.trials for one in levels)
    if least < 99:
        said.append(f"With {number(least)} trials a rate of 1 % cannot be asked about; 99 are enough for it.")
    above = [one for one in levels if one.game.allowed is not None and one.game.shown > one.game.allowed]
    doubtful = [one.name for one in above if not one.broken]
    if doubtful:
        said.append(
            f"More is shown than is allowed at epsilon {', '.join(doubtful)}: of such limits one in twenty errs, and a "
            "promise is called broken where one in a thousand would."
        )
    lucky = [one.name for one in levels if one.game.power is not None and one.game.found > one.game.power]
    if lucky:
        said.append(
            f"At epsilon {', '.join(lucky)} more was found than the bound is, which the interval is to be held to."
        )
    broken = [one.name for one in levels if one.broken]
    if broken:
        said.append(f"The promise is broken at epsilon {', '.join(broken)}.")
    return " ".join(said)
