"""How high the truth stands in a ranking: of persons in a lineup, or of the categories of any attribute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from leakscope.scoring.metrics.metric import AbstractRankMetric
from leakscope.scoring.score import Direction
from leakscope.scoring.standing import Standing


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
        # A share where scores tie: naming nobody is right as often as a random candidate.
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
        # With five candidates or fewer always 1: read it against chance, which then is 1 as well.
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
