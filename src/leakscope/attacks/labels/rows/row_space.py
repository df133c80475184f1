"""The row and column spaces of an output layer's weight gradient, the number of samples in it, and its rounding."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

GUARD = 4.0
"""How far above the largest singular value of noise one of a sample lies. Rounding is not alike in all entries, which
raises its largest one by up to three; a sample below is lost, a noise above is a row that nothing solves."""
SKETCH = 48
"""Singular values of the first sketch; twice as many as long as the rank is within `SPARE` of their number."""
SPARE = 16
ROUNDING = 1e-5
"""Noise of entries of size one that is rounding of float32, with all sums on the way, and nothing that was added."""
GAP = 1e3
"""Ratio of two successive singular values that no rounding has, however unlike its entries are."""
FULLEST = 0.9
"""Share of min(d, C) beyond which a rank is no low rank: the space is then all there is, and says nothing."""


@final
@dataclass(frozen=True, eq=False)
class RowSpace:
    """dW * scale = left @ diag(values) @ right + noise, for dW (d, C) = sum_s h_s g_s^T of `rank` samples.

    left: (d, k), orthonormal columns: the space of the features h. right: (k, C), orthonormal rows: that of the scaled
    errors g. values: (k,) falling. scale: (C,) one over each column's root mean square, so that the rounding of every
    class weighs alike: errors of absent classes are a thousandth of those of present ones, and as exact relative to
    themselves. noise: standard deviation of an entry of dW * scale that no sample explains. beyond: the next value.
    """

    left: Array
    values: Array
    right: Array
    scale: Array
    noise: float
    beyond: float
    shape: tuple[int, int]

    @property
    def rank(self) -> int:
        """k."""
        return len(self.values)

    def cut(self, rank: int) -> RowSpace:
        """The first `rank` directions only."""
        left, right = self.left[:, :rank], self.right[:rank]
        return RowSpace(left, self.values[:rank], right, self.scale, self.noise, self.beyond, self.shape)


def row_space(gradient: Array, rng: np.random.Generator, *, least: int = 0) -> RowSpace | str:
    """The spaces of dL/dW (d, C), or why it has none: as many samples as it can hold, or nothing but noise.

    The rank is the number of singular values above `GUARD` times the largest that independent noise of the same size
    has, sigma (sqrt(d) + sqrt(C)) (Marchenko-Pastur); sigma is what the first directions leave.
    least: directions to keep at least, where more samples are known to be there than stand out.

    >>> errors = np.array([[0.5, -0.8, 0.1, 0.1, 0.1], [-0.9, 0.4, 0.2, 0.2, 0.1]])
    >>> found = row_space(np.random.default_rng(0).random((9, 2)) @ errors, np.random.default_rng(1))
    >>> found.rank
    2
    """
    # Units that are at rest on the whole batch have no gradient at all, and no rounding either.
    awake = np.asarray(gradient.any(1))
    live = gradient[awake]
    height, width = live.shape
    rms = np.sqrt((live**2).mean(0)) if height else np.zeros(width)
    if not rms.any():
        return "the output layer's gradient is zero throughout"
    # A class whose column is zero to the last bit (pruned, or p below the smallest number) weighs nothing.
    scale = np.divide(1.0, rms, out=np.zeros(width), where=rms > 0)
    scaled, smallest = live * scale, min(height, int((rms > 0).sum()))
    size = max(SKETCH, least + SPARE)
    while True:
        size = smallest if 3 * size > smallest else size
        left, values, right = _sketched(scaled, size, rng)
        rank, noise = _stands_out(values, float(np.sum(scaled**2)), height, width)
        # A sketch cannot tell noise from more samples of one size: only what is plainly rounding ends it early.
        if size >= smallest or (rank <= size - SPARE and noise <= ROUNDING):
            break
        size *= 2
    rank = max(rank, min(least, len(values)))
    if rank == 0:
        return "no rank stands out of the output layer's gradient: as many samples as it can hold, or noise"
    if rank > FULLEST * smallest and (below := _gap(values)) is not None:
        # Rounding that differs by orders from entry to entry has no edge; a gap that no rounding bridges is one.
        rank, noise = below, max(noise, float(values[below]) / (GUARD * (math.sqrt(height) + math.sqrt(width))))
    if rank > FULLEST * smallest:
        return f"the output layer's gradient has rank {rank} of {smallest}: more samples than it can tell apart"
    full = np.zeros((len(gradient), rank))
    full[awake] = left[:, :rank]
    beyond = float(values[rank]) if rank < len(values) else 0.0
    return RowSpace(full, values[:rank], right[:rank], scale, noise, beyond, (height, width))


def _gap(values: Array) -> int | None:
    """How many of the first half of the values lie above the widest gap; None where none is `GAP` wide.

    >>> _gap(np.array([1.0, 0.3, 1e-8, 3e-9, 1e-9])), _gap(np.array([1.0, 0.3, 0.1, 0.01]))
    (2, None)
    """
    ratios = values[: len(values) // 2] / np.maximum(values[1 : len(values) // 2 + 1], 1e-300)
    place = int(ratios.argmax()) if len(ratios) else 0
    return place + 1 if len(ratios) and ratios[place] >= GAP else None


def _sketched(matrix: Array, size: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """The first `size` singular triples; approximate where there are more."""
    if size >= min(matrix.shape):
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        return left, values, right
    from sklearn.utils.extmath import randomized_svd  # takes seconds to import

    left, values, right = randomized_svd(
        matrix, size, n_oversamples=0, n_iter=2, power_iteration_normalizer="QR", flip_sign=False,
        random_state=int(rng.integers(2**32)),
    )  # fmt: skip
    return left, values, right


def _stands_out(values: Array, total: float, height: int, width: int) -> tuple[int, float]:
    """How many of the first values are none of noise, and the noise: the mean square of what they leave.

    Each cut says how large the noise is, and the noise where the cut is; from above, since a cut too low takes samples
    for noise, and cuts even lower.
    """
    # Of all singular values the second half is noise, where anything can be said at all.
    whole = len(values) == min(height, width)
    cut = len(values) // 2 if whole else len(values)
    # Below it a singular value is rounding in float64, as of a matrix that is exactly of low rank.
    least = float(np.finfo(np.float64).eps) * float(values[0]) / math.sqrt(height * width)
    squares = values**2
    # Summed from the end: as a difference of sums of all, what rounding of float32 leaves is rounding of float64.
    tails = np.append(np.cumsum(squares[::-1])[::-1][1:], 0.0) + (0.0 if whole else max(0.0, total - squares.sum()))
    while True:
        # (height - j) (width - j) entries are free after j directions.
        noise = math.sqrt(max(0.0, float(tails[cut - 1]) if cut else total) / ((height - cut) * (width - cut)))
        noise = max(noise, least)
        rank = int((values > GUARD * noise * (math.sqrt(height) + math.sqrt(width))).sum())
        if rank >= cut:
            return rank, noise
        cut = rank
