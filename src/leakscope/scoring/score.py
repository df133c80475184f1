"""A score is never a bare float: value, unit, direction, interval, chance level."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import final

from leakscope.core.errors import BadInput


@final
class Direction(enum.Enum):
    """Which way is better for the attacker (and worse for privacy)."""

    HIGHER = "higher"
    LOWER = "lower"


@final
@dataclass(frozen=True)
class Score:
    """One metric of one claim.

    value: the mean over items. low, high: its 95 % interval, infinite where the items say nothing of it: a
    single one, or few that differ so much that it would hold every possible score.
    chance: what the best guess that saw nothing scores on the same secret. perfect: the score of the truth itself.
    items: one value per private item, in the secret's order. exact: items recovered to within rounding.
    blind: what the guess behind the chance level scores on each item. claimed: for how many private items anything was
    claimed: the others score `blind`, so that a claim of none is exactly as good as a guess. worst: the least that can
    be scored, None where there is no such end. nearest: what the public example nearest to each private one scores, the
    best that a claim can be which knows public examples and nothing else; empty where nobody looked.
    """

    metric: str
    value: float
    unit: str
    direction: Direction
    low: float
    high: float
    chance: float
    perfect: float
    items: tuple[float, ...]
    exact: int = 0
    blind: tuple[float, ...] = ()
    claimed: int | None = None
    worst: float | None = None
    nearest: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        # Also false for NaN: a score that is no number may not reach a verdict.
        if not self.low <= self.value <= self.high:
            raise BadInput(f"the interval [{self.low}, {self.high}] does not hold the value {self.value}")

    @property
    def beats_chance(self) -> bool:
        """Whether the whole interval lies on the attacker's side of chance."""
        # The whole interval, not the mean: one lucky item of many is no leak.
        return self.low > self.chance if self.direction is Direction.HIGHER else self.high < self.chance

    def __str__(self) -> str:
        # Higher is not better for everybody: the sign says which way leaks.
        better = "^" if self.direction is Direction.HIGHER else "v"
        exact = f", {self.exact} exact" if self.exact else ""
        unit = f" {self.unit}" if self.unit else ""
        interval = f" [{self.low:.4g}, {self.high:.4g}]" if math.isfinite(self.low) else ""
        return (
            f"{self.metric} {self.value:.4g}{unit}{interval} "
            f"(chance {self.chance:.4g}, {better} leaks more, n={len(self.items)}{exact})"
        )
