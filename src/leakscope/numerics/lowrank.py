"""A matrix that is a product of two thin ones plus rounding: its rank, its factors, and the rounding of each row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SKETCHES = (64, 192)
"""Numbers of random combinations on which a larger matrix is projected first; the first that is large enough counts.
The largest rank that is looked for is the last one less `SPARE`."""
SPARE = 16
FLAT = 4.0
"""The first singular value of noise, in units of the one that noise of equal entries has; rows of different size
raise it."""
GAP = 3.0
"""Smallest ratio of the last singular value of the signal to the first one of the noise."""
ROUNDED = 16 * float(np.finfo(np.float64).eps)
"""Relative size below which a singular value is rounding in float64, whatever the others are."""


@final
@dataclass(frozen=True, eq=False)
class Factors:
    """matrix (m, n) = left (m, r) @ right (r, n) + noise; `right` has orthonormal rows.

    noise: (m,) the root mean square of each row's remainder, at least rounding in float64. gap: the ratio of the
    singular values before and after the cut.
    """

    left: Array
    right: Array
    noise: Array
    gap: float

    @property
    def rank(self) -> int:
        """r."""
        return len(self.right)


def factor(matrix: Array, rng: np.random.Generator) -> Factors | str:
    """The signal of a matrix (m, n) that is of low rank up to noise, or a sentence that says why there is none.

    The rank is the k with the largest gap s_k / s_(k+1) >= 3 after which the singular values can be those of noise:
    s_(k+1) <= 4 sigma (sqrt(m) + sqrt(n)), sigma^2 = sum_(j>k) s_j^2 / ((m - k) (n - k)).
    Large matrices are projected on random combinations of their rows first, drawn from `rng`.

    >>> matrix = np.outer([1.0, 2.0, 3.0], [1.0, 0.0, 1.0, 0.0])
    >>> factors = factor(matrix, np.random.default_rng(0))
    >>> factors.rank, bool(np.allclose(factors.left @ factors.right, matrix))
    (1, True)
    """
    awake: NDArray[np.bool_] = np.asarray(matrix.any(1))
    if not awake.all():
        smaller = factor(matrix[awake], rng) if awake.any() else "a matrix of zeros has no rank to be told from noise"
        return smaller if isinstance(smaller, str) else _spread(smaller, awake)
    rows, columns = len(matrix), int(matrix.any(0).sum())
    if min(rows, columns) < 2:
        return f"a {rows} x {columns} matrix has no rank to be told from noise"
    rank, values, right = _cut(matrix, rows, columns, rng)
    if rank is None:
        return f"no rank stands out from noise among {len(values) - 1} of the {rows} x {columns} matrix"
    right = right[:rank]
    left = matrix @ right.T  # least squares, since the rows of `right` are orthonormal
    rest = matrix - left @ right
    # columns - rank: what is left of a row has lost the r directions that were fitted.
    noise = np.linalg.norm(rest, axis=1) / math.sqrt(columns - rank)
    floor = ROUNDED * np.linalg.norm(matrix, axis=1) / math.sqrt(columns)
    gap = values[rank - 1] / max(values[rank], ROUNDED * values[0])
    return Factors(left, right, np.maximum(noise, floor), float(gap))


def _cut(matrix: Array, rows: int, columns: int, rng: np.random.Generator) -> tuple[int | None, Array, Array]:
    """The rank, with the singular values and right vectors; from a sketch where the rank is far below its size."""
    least, total = min(matrix.shape), float(np.sum(matrix**2))
    for size in SKETCHES:
        if least > 2 * size:
            values, right = _spectrum(matrix, size, rng)
            rank = _rank(values, rows, columns, total)
            if rank is not None and rank <= size - SPARE:
                return rank, values, right
    # The largest sketch shows no rank, and beyond it none is looked for.
    if least > 2 * SKETCHES[-1]:
        return None, values, right
    values, right = _spectrum(matrix, least, rng)
    return _rank(values, rows, columns, total), values, right


def _spread(factors: Factors, awake: NDArray[np.bool_]) -> Factors:
    """The factors of the matrix with its zero rows."""
    left, noise = np.zeros((len(awake), factors.rank)), np.zeros(len(awake))
    left[awake], noise[awake] = factors.left, factors.noise
    return Factors(left, factors.right, noise, factors.gap)


def _spectrum(matrix: Array, size: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """The largest `size` singular values, largest first, and right vectors as rows; approximate if there are more."""
    if size == min(matrix.shape):
        _, values, right = np.linalg.svd(matrix, full_matrices=False)
        return values, right
    from sklearn.utils.extmath import randomized_svd  # takes seconds, and small matrices need none of it

    # No oversampling: `_cut` believes a rank only `SPARE` below the size. Two passes suppress what is beyond the size
    # by the fifth power of its ratio to what is wanted; made orthonormal in between, else all below 1e-3 of the
    # largest would be rounded away. Signs cancel in left @ right. sklearn wants a seed for a generator.
    _, values, right = randomized_svd(
        matrix,
        size,
        n_oversamples=0,
        n_iter=2,
        power_iteration_normalizer="QR",
        flip_sign=False,
        random_state=int(rng.integers(2**32)),
    )
    return values, right


def _rank(values: Array, rows: int, columns: int, total: float) -> int | None:
    floor = ROUNDED * values[0]
    # sum_(j>k) s_j^2, with what a sketch did not see: |matrix|^2 less that of the values at hand.
    tails = np.concatenate([np.cumsum(values[::-1] ** 2)[::-1], [0.0]]) + max(0.0, total - float(np.sum(values**2)))
    best, found = GAP, None
    # As many values as rows or columns are no low rank: a zero column more would make the gap infinite.
    for rank in range(1, min(len(values), rows, columns)):
        sigma = math.sqrt(tails[rank] / ((rows - rank) * (columns - rank)))
        flat = values[rank] <= max(FLAT * sigma * (math.sqrt(rows) + math.sqrt(columns)), floor)
        gap = float(values[rank - 1] / max(values[rank], floor))
        if flat and gap >= best:
            best, found = gap, rank
    return found
