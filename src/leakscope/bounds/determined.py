"""What released numbers determine of each sample, where they depend on all samples linearly, or are linearized.

y = A x + noise: x stacks the samples (their features, say), y are the released numbers, A (M, sum of sizes) is the map
or its Jacobian. Of one sample only that part of its columns counts which no change of the others can imitate:
R_i = (I - P) A_i, where P projects onto the columns of all other samples. Its rank is the number of directions of the
sample that y fixes; A_i^T (I - P) A_i / noise^2 is the Fisher information about it when nothing is known of the others.

No prior enters. What lies beyond these directions is not in the release: whoever reconstructs it knew it before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leakscope.core.arguments import count, number, places
from leakscope.core.errors import BadInput

TOLERANCE = 1e-9
"""Singular values below this share of the map's largest are rounding, for maps of 64 bits."""

Matrix = NDArray[np.float64]


def determined_directions(linear: Matrix, sizes: Sequence[int], *, tolerance: float = TOLERANCE) -> tuple[int, ...]:
    """How many directions of each sample y = A x fixes without noise: the rank of R_i, from 0 to its size.

    A direction c is fixed if c^T x_i is the same for all x with the same y. linear: A, (M, sum(sizes)). sizes: of the
    samples, in the order of the columns. tolerance: in (0, 1), relative to the largest singular value of A; about
    1e-5 for a map of 32 bits. Raises `BadInput` on shapes, sizes or numbers that do not fit.

    >>> determined_directions(np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]), [1, 1, 1])  # x_1 and x_2 + x_3
    (1, 0, 0)
    """
    below = number("tolerance", tolerance, low=0, high=1, low_open=True, high_open=True)
    return tuple(int(values.size) for values in _strengths(linear, sizes, below))


def standard_errors(
    linear: Matrix, sizes: Sequence[int], *, noise: float, tolerance: float = TOLERANCE
) -> tuple[Matrix, ...]:
    """The least standard error of any unbiased estimate along each direction of each sample (Cramer and Rao).

    noise / s_k for the singular values s_k of R_i, in rising order and in units of x; infinite where y says nothing. A
    direction whose error exceeds the spread that the public already knows is not in the release, whatever its rank.
    noise: > 0, the standard deviation of independent normal noise on every number of y. linear, sizes, tolerance: as in
    `determined_directions`. One array of each sample's size. Raises as that does.

    >>> standard_errors(np.array([[2.0, 0.0], [0.0, 0.0]]), [2], noise=1.0)
    (array([0.5, inf]),)
    """
    std = number("noise", noise, low=0, low_open=True)
    below = number("tolerance", tolerance, low=0, high=1, low_open=True, high_open=True)
    found = []
    for size, strengths in zip(places("sizes", sizes, low=1), _strengths(linear, sizes, below), strict=True):
        errors = np.full(size, math.inf)
        errors[: strengths.size] = std / strengths
        found.append(errors)
    return tuple(found)


def means_and_differences(linear: Matrix, size: int, groups: Sequence[Sequence[int]]) -> Matrix:
    """The same map over the groups' means and what is left of their samples: A x = A' x'.

    x' has, in the place of each group's first sample, the group's mean m and, in the places of its others, their
    differences d_b = x_b - m. A sample in no group stays. With it `determined_directions` says of each group how many
    directions of its mean are fixed: of k samples of one class in a head, often the mean alone.
    linear: (M, N D) for N samples, all of the size D. groups: of numbers of samples, none twice, at least one in each.
    Raises `BadInput` on groups that are none of the map's.

    >>> a = np.array([[1.0, 1.0, 0.0]])  # x_1 + x_2 is released, x_3 is not
    >>> determined_directions(a, [1, 1, 1]), determined_directions(means_and_differences(a, 1, [[0, 1]]), [1, 1, 1])
    ((0, 0, 0), (1, 0, 0))
    """
    matrix, wide = _matrix(linear), count("size", size)
    many, rest = divmod(matrix.shape[1], wide)
    if rest:
        raise BadInput(f"the map has {matrix.shape[1]} columns, which is no whole number of samples of size {wide}")
    named = [places("groups", group) for group in groups]
    flat = [sample for group in named for sample in group]
    if not all(named) or len(set(flat)) < len(flat) or max(flat, default=0) >= many:
        raise BadInput(
            f"expected groups of the samples 0 to {many - 1}, each in one group at most, got {list(groups)!r}"
        )
    blocks = matrix.reshape(len(matrix), many, wide)
    changed = blocks.copy()
    for first, *others in named:
        # x_b = m + d_b, and the first d is minus the sum of the others
        changed[:, first] = blocks[:, [first, *others]].sum(axis=1)
        changed[:, others] = blocks[:, others] - blocks[:, [first]]
    return changed.reshape(matrix.shape)


def weight_gradient_map(errors: Matrix, size: int) -> Matrix:
    """The map of features to the weight gradient of a dense output layer, dL/dW = sum_b e_b x_b^T, for known errors.

    errors: (N, C), e_b = dL/d logits of sample b, by whatever weight it has. size: D of a feature. (C D, N D). A sample
    has all of its D directions fixed if its error is no combination of the others' errors, else none.

    >>> determined_directions(weight_gradient_map(np.array([[-1.0, 1.0], [1.0, -1.0]]), 3), [3, 3])
    (0, 0)
    """
    same: Any = np.eye(count("size", size))
    return _matrix(np.kron(_matrix(errors).T, same))


def _strengths(linear: Matrix, sizes: Sequence[int], tolerance: float) -> Iterator[Matrix]:
    """The singular values of each R_i that are more than rounding, the largest first."""
    matrix, blocks = _matrix(linear), places("sizes", sizes, low=1)
    if sum(blocks) != matrix.shape[1]:
        raise BadInput(f"the sizes {blocks} add up to {sum(blocks)}, but the map has {matrix.shape[1]} columns")
    floor = tolerance * float(np.linalg.norm(matrix, 2))
    ends = np.cumsum(blocks)
    for size, end in zip(blocks, ends, strict=True):
        own = matrix[:, end - size : end]
        others = np.delete(matrix, np.s_[end - size : end], axis=1)
        basis, values, _ = np.linalg.svd(others, full_matrices=False)
        basis = basis[:, values > floor]
        # twice: what is left of the first projection is as large as rounding, which the second takes off
        for _ in range(2):
            own = own - basis @ (basis.T @ own)
        strengths = np.asarray(np.linalg.svd(own, compute_uv=False), dtype=np.float64)
        yield strengths[strengths > floor]


def _matrix(given: Matrix) -> Matrix:
    matrix = np.asarray(given, dtype=np.float64)
    if matrix.ndim != 2 or 0 in matrix.shape or not bool(np.isfinite(matrix).all()):
        raise BadInput(f"expected a matrix of finite numbers with rows and columns, got shape {matrix.shape}")
    return matrix
