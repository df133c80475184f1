"""Least squares on overlapping windows of a sequence: one block-banded normal matrix, solved in time linear in frames.

A sequence m (T, F) enters window t as x_t = [m_(t-left), ..., m_(t+right)], zeros outside, W = left + 1 + right blocks.
A quadratic form K (W F, W F) on every window, weighted by w (T,), is sum_t w_t x_t^T K x_t = m^T N m, where N
(T F, T F) has half-bandwidth W F - 1. Everything is float64; systems are in LAPACK's lower banded form,
band[d, j] = N[j + d, j].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

Array = NDArray[np.float64]


def windows(frames: Array, *, left: int, right: int) -> Array:
    """The windows (T, W F) of a sequence (T, F), oldest frame first, zeros outside.

    >>> windows(np.array([[1.0], [2.0]]), left=1, right=1)
    array([[0., 1., 2.],
           [1., 2., 0.]])
    """
    count = len(frames)
    padded = np.pad(frames, ((left, right), (0, 0)))
    # Block j of window t is frame t - left + j, which stands at t + j in the padded sequence.
    return np.concatenate([padded[j : j + count] for j in range(left + 1 + right)], axis=1)


def overlap_add(parts: Array, *, left: int, features: int) -> Array:
    """The transpose of `windows`: (T, W F) back to (T, F), every entry added to the frame that it was taken from.

    >>> overlap_add(np.ones((2, 3)), left=1, features=1)
    array([[2.],
           [2.]])
    """
    count, width = len(parts), parts.shape[1] // features
    padded = np.zeros((count + width - 1, features))
    for j in range(width):
        # The transpose of a copy is a sum: here a frame collects from every window in which it is block j.
        padded[j : j + count] += parts[:, j * features : (j + 1) * features]
    return padded[left : left + count]


def assemble(form: Array, weights: Array, *, left: int, features: int) -> Array:
    """The lower band (W F, T F) of N for the form (W F, W F), symmetric, and one weight per window (T,).

    N's block (a + k, a) is sum_j w_(a - j + left) form[j + k, j]: one product of a Toeplitz matrix of weights with the
    k-th block diagonal of the form. O(T W^2 F^2).
    """
    count, width = len(weights), len(form) // features
    blocks = form.reshape(width, features, width, features)
    reach = np.zeros((count, width))  # the weight of the window in which frame a is block j
    for j in range(width):
        first, last = max(0, j - left), max(0, min(count, count + j - left))
        # An utterance that is no longer than |j - left| frames: none of them is ever block j.
        if first >= last:
            continue
        reach[first:last, j] = weights[first - j + left : last - j + left]
    band = np.zeros((width * features, count * features))
    for k in range(min(width, count)):
        inner = width - k
        # Sum over j as a product of matrices: (frames, j) by (j, F F), instead of W blocks for each of T frames.
        diagonal = blocks[np.arange(k, width), :, np.arange(inner), :].reshape(inner, features * features)
        product = (reach[: count - k, :inner] @ diagonal).reshape(count - k, features, features)
        for g in range(features):
            top = max(0, g - k * features)  # entries above the diagonal are the transposed ones
            rows = slice(k * features - g + top, (k + 1) * features - g)
            band[rows, g : (count - k) * features : features] = product[:, top:, g].T
    return band


def dense(band: Array) -> Array:
    """The symmetric matrix of a lower band.

    >>> dense(np.array([[2.0, 3.0], [1.0, 0.0]]))
    array([[2., 1.],
           [1., 3.]])
    """
    size = band.shape[1]
    matrix = np.zeros((size, size))
    for d in range(min(len(band), size)):
        index = np.arange(size - d)
        matrix[index + d, index] = matrix[index, index + d] = band[d, : size - d]
    return matrix


def factor(band: Array) -> Array | None:
    """The banded Cholesky factor L of N = L L^T, or None when N is not positive definite."""
    try:
        result: Array = linalg.cholesky_banded(band, lower=True, check_finite=False)
    except linalg.LinAlgError:
        return None
    return result


def solve(factored: Array, right_hand: Array) -> Array:
    """N^-1 right_hand, from the factor of N; right_hand (T F,) or (T F, k)."""
    result: Array = linalg.cho_solve_banded((factored, True), right_hand, check_finite=False)
    return result


def corner(factored: Array, start: int, size: int) -> Array:
    """The dense lower triangle L[start : start + size, start : start + size] of a banded factor."""
    rows, columns = np.tril_indices(size)
    # Farther from the diagonal than the band reaches, L is zero as N is: a band factor does not fill in.
    near = rows - columns < len(factored)
    rows, columns = rows[near], columns[near]
    lower = np.zeros((size, size))
    lower[rows, columns] = factored[rows - columns, start + columns]
    return lower
