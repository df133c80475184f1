"""How high the truth stands in a ranking: of persons in a lineup, or of the categories of any attribute."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

from leakscope.core.errors import BadInput
from leakscope.scoring.metrics.metric import AbstractRankMetric
from leakscope.scoring.score import Direction


@final
@dataclass(frozen=True)
class Standing:
    """Where the truth stands among `of` candidates: `above` score higher, `tied` others score the same.

    Ties are broken at random and scores are expectations over that, so that a ranking which prefers nobody scores
    exactly what a blind guess scores. Raises `BadInput` on counts that do not fit.

    >>> Standing(above=2, tied=1, of=10).rank
    3.5
    """

    above: int
    tied: int
    of: int

    def __post_init__(self) -> None:
        if self.above < 0 or self.tied < 0 or self.above + self.tied >= self.of:
            raise BadInput(f"expected above + tied < of, got {self.above}, {self.tied} and {self.of}")

    @property
    def rank(self) -> float:
        """From 1, the best, to `of`; the mean rank of those that are tied."""
        return 1 + self.above + self.tied / 2

    def within(self, best: int) -> float:
        """The probability that the truth is among the `best` first.

        >>> Standing(above=0, tied=4, of=5).within(2)
        0.4
        """
        return min(max((best - self.above) / (self.tied + 1), 0.0), 1.0)

    def reciprocal(self) -> float:
        """The expectation of 1 / rank.

        >>> Standing(above=0, tied=1, of=5).reciprocal()
        0.75
        """
        ranks = range(self.above + 1, self.above + self.tied + 2)
        return math.fsum(1 / rank for rank in ranks) / len(ranks)


@final
@dataclass(frozen=True)
class TopOne(AbstractRankMetric):
    """P(rank of the truth = 1), in [0, 1]: how often the first guess is right. Chance is 1/G among G candidates.

    >>> TopOne().item(Standing(above=0, tied=0, of=40)), TopOne().item(Standing(above=1, tied=0, of=40))
    (1.0, 0.0)
    """

    name: ClassVar[str] = "top-1"
    unit: ClassVar[str] = "of 1"
    direction: ClassVar[Direction] = Direction.HIGHER

    def item(self, standing: Standing) -> float:
        """1 where the truth is first."""
        return standing.within(1)


@final
@dataclass(frozen=True)
class TopFive(AbstractRankMetric):
    """P(rank of the truth <= 5), in [0, 1]: how often five guesses hold the truth. Chance is 5/G among G candidates.

    >>> TopFive().item(Standing(above=4, tied=0, of=40)), TopFive().item(Standing(above=5, tied=0, of=40))
    (1.0, 0.0)
    """

    name: ClassVar[str] = "top-5"
    unit: ClassVar[str] = "of 1"
    direction: ClassVar[Direction] = Direction.HIGHER

    def item(self, standing: Standing) -> float:
        """1 where the truth is among the first five."""
        return standing.within(5)


@final
@dataclass(frozen=True)
class ReciprocalRank(AbstractRankMetric):
    """1 / rank of the truth, in (0, 1]; its mean is the MRR. Chance is (1 + 1/2 + ... + 1/G) / G among G candidates.

    >>> ReciprocalRank().item(Standing(above=3, tied=0, of=40))
    0.25
    """

    name: ClassVar[str] = "reciprocal-rank"
    unit: ClassVar[str] = "of 1"
    direction: ClassVar[Direction] = Direction.HIGHER

    def item(self, standing: Standing) -> float:
        """The reciprocal of the rank."""
        return standing.reciprocal()
