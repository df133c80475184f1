"""The space that the inputs of a dense layer span, read off its gradient, and which tokens lie in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from scipy import special
from torch import Tensor

GAP = 30.0
"""Smallest ratio of neighboring singular values that shows a rank; noise is flat, real gaps are 1e3 and more."""
FLOOR = 1e-2
"""A rank ends where the singular values fall below this share of the largest."""
LOOSEST, TIGHTEST = 1e-2, 1e-5
"""Bounds of the tolerance: vectors at random are above the first, exact ones in float32 below the second."""


DEPENDENT = 1e-6
"""Singular values of unit vectors below this share of the largest are rounding: these vectors depend on each other."""


@final
@dataclass(frozen=True, eq=False)
class RowSpan:
    """The row space of a gradient (rows, d), up to rounding.

    null: (d, d - rank) orthonormal, what is outside. gap: the ratio of singular values that shows the rank.
    tolerance: how far outside a vector of the span may be: the gap tells how much rounding turned the space.
    """

    null: Tensor
    rank: int
    gap: float

    @property
    def tolerance(self) -> float:
        """Largest `distance` of a vector that counts as inside."""
        return min(LOOSEST, max(TIGHTEST, GAP / self.gap))

    def distance(self, vectors: Tensor) -> Tensor:
        """|part outside| / |vector|, (...) for vectors (..., d); 1 for the zero vector."""
        size = torch.linalg.vector_norm(vectors, dim=-1)
        outside = torch.linalg.vector_norm(vectors @ self.null, dim=-1)
        # The zero vector lies in every span: a token that gives the layer nothing would be found in every batch.
        return torch.where(size > 0, outside / size.clamp_min(1e-300), torch.ones_like(size))


def row_span_of(gradients: Sequence[Tensor]) -> RowSpan | None:
    """The common row space of gradients (., d), each scaled to norm 1; None where no gap shows a rank below d.

    >>> rows = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]).double()
    >>> found = row_span_of([rows])
    >>> found.rank, found.distance(torch.eye(3).double()).tolist()
    (2, [0.0, 0.0, 1.0])
    """
    # Else the directions of a small gradient would pass for the rounding of a large one.
    scaled = [one / torch.linalg.vector_norm(one) for one in gradients if bool(one.any())]
    if not scaled:
        return None
    _, values, rows = torch.linalg.svd(torch.cat(scaled), full_matrices=True)
    # Values below eps of the largest are rounding of float64, and their ratios no gaps.
    floor = torch.finfo(torch.float64).eps * float(values[0])
    ratios = values[:-1] / values[1:].clamp_min(floor)
    # The gap to rounding, not one among the tokens: behind it all values are small.
    ratios = torch.where(values[1:] <= FLOOR * values[0], ratios, torch.zeros_like(ratios))
    if not len(ratios) or not float(ratios.max()) >= GAP:
        return None
    rank = int(ratios.argmax()) + 1
    # Rows of V^T beyond the rank: orthonormal, and orthogonal to every row of the gradients.
    return RowSpan(rows[rank:].T, rank, float(ratios.max()))


def dimensions(table: Tensor) -> int:
    """How many dimensions the inputs of all tokens at all places span, (V, T, d): d, or less by a normalization.

    >>> dimensions(torch.eye(4, 3)[:, None])
    3
    """
    flat = table.flatten(0, 1).double()
    values = torch.linalg.eigvalsh(flat.T @ flat)  # accurate to 1e-16 of the largest, hence no smaller threshold
    return int((values > 1e-12 * values[-1]).sum())


def strangers(span: RowSpan, room: int, candidates: int) -> float:
    """How many of `candidates` random vectors of a space of `room` dimensions are expected to fit by chance.

    The squared part outside of a random direction follows Beta((room - rank) / 2, rank / 2).
    """
    return float(candidates * special.betainc((room - span.rank) / 2, span.rank / 2, span.tolerance**2))


def covered(gradients: Sequence[Tensor], vectors: Tensor) -> float:
    """|G - G Pi| / |G| with Pi the projection on the span of `vectors` (n, d): what of the gradients they miss."""
    scaled = torch.cat([one / torch.linalg.vector_norm(one) for one in gradients if bool(one.any())])
    # Lengths do not change the span, but a short vector beside long ones would be rounding.
    unit = vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    # Not by QR: of vectors that repeat or depend on each other it makes directions that none of them has.
    _, sizes, axes = torch.linalg.svd(unit, full_matrices=False)
    basis = axes[sizes > DEPENDENT * sizes[0]].T
    # G - G Pi with Pi = Q Q^T.
    missed = scaled - scaled @ basis @ basis.T
    return float(torch.linalg.vector_norm(missed) / torch.linalg.vector_norm(scaled))
