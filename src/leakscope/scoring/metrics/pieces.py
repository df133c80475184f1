"""How much of a bag of pieces is right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from leakscope.core.claim import AbstractClaim
from leakscope.core.pieces import Pieces
from leakscope.scoring.metrics.metric import AbstractMetric
from leakscope.scoring.score import Direction


@final
@dataclass(frozen=True)
class PieceError(AbstractMetric):
    """1 - 2 P R / (P + R), P the share of claimed pieces that were said, R of those that were said that are claimed.

    In [0, 1]; 0 only where every piece of the batch is claimed and no other, and `Score.exact` counts these. One number
    for the batch, over its different pieces.

    >>> PieceError().item(frozenset({(1,), (2, 3)}), frozenset({(1,), (2,), (4, 5)}))
    0.6
    """

    name: ClassVar[str] = "piece-error"
    unit: ClassVar[str] = "of 1"
    direction: ClassVar[Direction] = Direction.LOWER

    @property
    def perfect(self) -> float:
        """No error: 0."""
        return 0.0

    @property
    def worst(self) -> float:
        """No piece is right: 1."""
        return 1.0

    def refusal(self, claim: AbstractClaim) -> str | None:
        """Anything but pieces."""
        if isinstance(claim, Pieces):
            return None
        return f"{self.name} compares bags of pieces, but the claim is {type(claim).__name__}"

    def item(self, claimed: frozenset[tuple[int, ...]], true: frozenset[tuple[int, ...]]) -> float:
        """The error of a bag; two empty ones agree."""
        # 2 P R / (P + R) = 2 hits / (claimed + true)
        total = len(claimed) + len(true)
        return (total - 2 * len(claimed & true)) / total if total else 0.0
