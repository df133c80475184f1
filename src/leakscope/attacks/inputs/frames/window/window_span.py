"""The space that the windows of all frames span, read off the gradient of the layer that is fed them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from leakscope.numerics import banded

Array = NDArray[np.float64]

CLEAR = 30.0
"""A gap this wide needs no second look: exact updates have gaps of 1e3 and more."""
LEAST = 1.5
"""Neighbors in the spectrum of noise are within a few percent of each other, so this is still a gap."""
FLAT = 50.0
"""Behind the last frame the spectrum is that of rounding: flat but for this factor."""


@final
@dataclass(frozen=True, eq=False)
class Span:
    """Column space of dL/dW (D, H), or of [dL/dW; dL/db] (D + 1, H), whose rank is the number of frames.

    scale: (n,), columns: (H,) factors of rows and columns before the decomposition, which make the noise in them alike.
    basis: (n, n) orthonormal, the first `rank` columns span the windows. spectrum: singular values, falling.
    gap: spectrum[rank - 1] / spectrum[rank], the evidence for the rank.
    """

    scale: Array
    columns: Array
    basis: Array
    spectrum: Array
    rank: int
    gap: float

    def form(self) -> Array:
        """The quadratic form (n, n) that measures how far a scaled vector is outside the span; zero inside."""
        # x^T form x = |V^T S x|^2 with V V^T = I - U U^T, S the factors of rows: a Gram matrix, never clearly negative.
        outside = self.basis[:, self.rank :]
        weighted = outside * self.scale[:, None]
        result: Array = weighted @ weighted.T
        return result

    def without_last(self) -> Span:
        """The span of dL/dW, from that of [dL/dW; dL/db]: the first D coordinates of every vector in it."""
        # S scales row by row, so the other rows of the span are the span of the other rows; `complete`, as `form` wants
        # what is outside. The rank stays: T windows are independent without the 1 too, while T <= D.
        inside, _ = np.linalg.qr(self.basis[:-1, : self.rank], mode="complete")
        return Span(self.scale[:-1], self.columns, inside, self.spectrum, self.rank, self.gap)


def spans_of(matrix: Array) -> tuple[Span, Span]:
    """Two spans of the columns of `matrix` (n, H), the wider gap first: with rows and columns as they are, or balanced.

    Rounding of a sum is in proportion to what is summed, so rows and columns are brought to the same size; where an
    update carries added noise, or is a difference of weights, noise is alike in all entries already. Balanced, the
    noise of a unit that was never active is then as large as a frame, and looks like one. The wider gap tells which it
    was; whoever solves for the frames sees in their residual when it was the other.
    """
    balanced = _decomposed(matrix, *_balance(matrix))
    plain = _decomposed(matrix, np.ones(len(matrix)), np.ones(matrix.shape[1]))
    return (balanced, plain) if balanced.gap >= plain.gap else (plain, balanced)


def span_of(matrix: Array) -> Span:
    """The one with the wider gap of the two `spans_of` the columns of `matrix` (n, H)."""
    return spans_of(matrix)[0]


def _balance(matrix: Array, rounds: int = 4) -> tuple[Array, Array]:
    """Factors of rows and columns that bring all to the same mean square; rows and columns of zeros get factor 1."""
    squares = matrix**2
    rows, columns = np.ones(len(matrix)), np.ones(matrix.shape[1])
    # Sinkhorn and Knopp 1967 on the squares. Columns come last: their mean squares are 1, those of rows only nearly.
    for _ in range(rounds):
        rows = _inverse(squares @ columns / matrix.shape[1])
        columns = _inverse(rows @ squares / len(matrix))
    return np.sqrt(rows), np.sqrt(columns)


def _inverse(values: Array) -> Array:
    return np.divide(1.0, values, out=np.ones_like(values), where=values > 0)


def _decomposed(matrix: Array, rows: Array, columns: Array) -> Span:
    """Rows of zeros (blocks of a window that no frame reaches) hold no noise; they are set aside and put back.

    Columns of zeros (units that were never active) are left out: kept, they would end the spectrum in a second drop
    that looks like a rank.
    """
    heard, active = np.any(matrix != 0, axis=1), np.any(matrix != 0, axis=0)
    scaled = (matrix[heard] * rows[heard, None] * columns)[:, active]
    # All columns of `left`, those behind the spectrum too: they complete the basis.
    left, spectrum, _ = np.linalg.svd(compressed(scaled))
    basis = np.zeros((len(matrix), len(matrix)))
    known = len(left)
    # A number that is zero in every window is outside the span: its unit vector goes last, and says so in `form`.
    basis[np.ix_(heard, np.arange(known))] = left
    basis[np.flatnonzero(~heard), np.arange(known, len(matrix))] = 1.0
    rank, gap = rank_of(spectrum, known)
    typical = np.exp(np.mean(np.log(rows[heard]))) if heard.any() else 1.0
    return Span(rows / typical, columns, basis, spectrum, rank, gap)


def compressed(matrix: Array) -> Array:
    """(n, min(n, H)) with the Gram matrix of `matrix` (n, H): all that its column space and spectrum depend on."""
    # M^T = Q R, so M M^T = R^T R: an SVD of n x n in place of n x H. From the Gram matrix itself, values below 1e-8 of
    # the largest would be lost.
    return np.asarray(np.linalg.qr(matrix.T, mode="r"), dtype=np.float64).T


def rank_of(spectrum: Array, size: int) -> tuple[int, float]:
    """Where a falling spectrum drops to the flat floor of noise, and by what factor.

    size: how many singular values there could be; when `spectrum` has fewer (fewer columns than rows), all of them may
    belong to frames, and the rank is then their number with gap 1. A gap below `LEAST` is none: rank `size`, gap 1.
    A last value alone behind a gap is not taken for a floor: a bias without noise would make one.

    >>> rank_of(np.array([9.0, 3.0, 1.0, 1e-7, 0.9e-7]), 5)
    (3, 10000000.0)
    """
    if not len(spectrum) or not spectrum[0] > 0:
        return 0, 1.0
    # Below rounding of float64 values are what they are by chance, and their ratios no evidence.
    floored = np.maximum(spectrum, spectrum[0] * np.finfo(np.float64).eps)
    best, gap = size, LEAST
    for rank in range(1, min(len(floored), size - 1)):
        ratio = floored[rank - 1] / floored[rank]
        # What follows a gap between two frames goes on falling by orders; a floor does not.
        if ratio > gap and floored[rank] <= FLAT * np.median(floored[rank:]):
            best, gap = rank, float(ratio)
    return (best, gap) if best < size else (size, 1.0)


def affine_solution(form: Array, count: int, *, left: int, features: int) -> Array | None:
    """The m (T, F) with the least sum_t [x_t; 1]^T form [x_t; 1], x_t its windows; None when there is no single one.

    The constant 1 makes the system inhomogeneous, so scale and sign are part of the solution.
    """
    dimension = len(form) - 1
    # Half the slope is N m + sum_t W_t^T q = 0, W_t m = x_t, q the last column of the form: hence the minus below. N is
    # not positive definite when several sequences lie in the span.
    factored = banded.factor(banded.assemble(form[:-1, :-1], np.ones(count), left=left, features=features))
    if factored is None:
        return None
    pull = np.broadcast_to(-form[:-1, -1], (count, dimension))
    right_hand = banded.overlap_add(pull, left=left, features=features)
    return banded.solve(factored, right_hand.ravel()).reshape(count, features)
