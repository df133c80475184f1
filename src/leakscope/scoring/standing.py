"""Where the truth stands in a ranking; a noun of its own, read by metrics and made by the kind of attributes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from leakscope.core.errors import BadInput


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
        # Of tied + 1 equal candidates, best - above places are left: each is as likely to get one of them.
        return min(max((best - self.above) / (self.tied + 1), 0.0), 1.0)

    def reciprocal(self) -> float:
        """The expectation of 1 / rank.

        >>> Standing(above=0, tied=1, of=5).reciprocal()
        0.75
        """
        # Not 1 / self.rank: the mean of reciprocals is above the reciprocal of the mean, and a blind ranking has the
        # former, H_G / G.
        ranks = range(self.above + 1, self.above + self.tied + 2)
        return math.fsum(1 / rank for rank in ranks) / len(ranks)
