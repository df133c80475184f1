"""What a guess that saw nothing scores on the same secret: the level that a claim has to beat."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, final

from leakscope.core.claim import AbstractClaim
from leakscope.core.errors import BadInput
from leakscope.numerics.rng import Key
from leakscope.scoring.metrics.metric import AbstractMetric
from leakscope.scoring.score import Direction

ClaimT = TypeVar("ClaimT", bound=AbstractClaim, covariant=True)


class AbstractGuess(ABC, Generic[ClaimT]):
    """A way to claim without having seen anything. It holds what it knows: how many items, public data, a range."""

    @abstractmethod
    def claims(self, *, key: Key) -> Iterable[tuple[float, ClaimT]]:
        """Claims with their probabilities, which sum to 1; what the guess scores is the expectation over them.

        Few claims, and no draw, where that is exact; else as many draws as the mean needs. Each claims every item.
        """


def keys(guess: AbstractGuess[AbstractClaim], key: Key, draws: int) -> list[Key]:
    """The keys of equally likely draws; each guess has its own, so that a new guess does not move the others."""
    # By the name of the type: stored records keep their levels as long as a guess keeps its name.
    return [key.child(type(guess).__name__, draw) for draw in range(draws)]


@final
@dataclass(frozen=True)
class Constant(AbstractGuess[ClaimT]):
    """One claim, known in advance."""

    claim: ClaimT

    def claims(self, *, key: Key) -> tuple[tuple[float, ClaimT], ...]:
        """That claim, with certainty."""
        del key
        return ((1.0, self.claim),)


@final
@dataclass(frozen=True, eq=False)
class Level:
    """The chance level of one metric on one secret: value = mean of items, reached by `guess`.

    items: the guess's expected score on each private item, in the secret's order. Raises `BadInput` where one is no
    number: a guess that leaves an item out would lower the level that the claim is held against.
    """

    value: float
    items: tuple[float, ...]
    guess: AbstractGuess[AbstractClaim]

    def __post_init__(self) -> None:
        if not all(math.isfinite(item) for item in self.items):
            raise BadInput(f"{self.guess!r} guesses no number for some items; a blind guess has to claim each of them")


def expected(drawn: Sequence[tuple[float, tuple[float, ...]]], guess: AbstractGuess[AbstractClaim]) -> Level:
    """The expectation of each item over (probability, items) pairs."""
    items = tuple(
        math.fsum(weight * value for (weight, _), value in zip(drawn, column, strict=True))
        # Items first, then their mean: a verdict compares item by item, and needs what the guess scores on each.
        for column in zip(*(items for _, items in drawn), strict=True)
    )
    return Level(math.fsum(items) / len(items), items, guess)


def higher(metric: AbstractMetric, one: Level | None, other: Level) -> Level:
    """The level that is harder to beat; of equal ones the first."""
    if one is None:
        return other
    # The attacker's side of a metric may be down: an error of 3 is a harder level than one of 5.
    sign = 1 if metric.direction is Direction.HIGHER else -1
    return other if sign * other.value > sign * one.value else one
