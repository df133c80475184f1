"""How many utterances of which length are behind one update, and the space in which those of one length lie."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from leakscope.numerics import banded

Array = NDArray[np.float64]

EACH = 8
"""Smallest eigenvalues that are looked at for one length: more utterances of the same length are not told apart."""
APART = 30.0
"""The eigenvalues of true lengths lie at the square of rounding; the next ones must be at least this factor above."""


def lengths_of(form: Array, total: int, *, left: int, features: int) -> dict[int, int] | None:
    """The lengths, each with the number of utterances that have it, whose frames sum to `total`; None when unclear.

    form: (D, D) of the span of dL/dW. A sequence of T frames whose windows all lie in the span is a zero eigenvalue of
    the normal matrix of length T. All lengths from 1 to `total` are tried.
    """
    # All lengths in one order: eigenvalues of true ones lie at the floor and come first.
    found = sorted(
        (float(value), count)
        for count, values in enumerate(_smallest(form, total, left=left, features=features), start=1)
        for value in values
    )
    lengths: Counter[int] = Counter()
    for place, (value, count) in enumerate(found):
        lengths[count] += 1
        summed = sum(length * times for length, times in lengths.items())
        if summed >= total:
            following = found[place + 1][0] if place + 1 < len(found) else np.inf
            # Rounding makes a zero eigenvalue negative as easily as positive, so sizes count; and one that is zero to
            # the last digit is known no better than the form's own digits.
            floor = max(abs(found[0][0]), abs(value), float(np.finfo(np.float64).eps * np.linalg.norm(form, 2)))
            clear = following > APART * floor
            return dict(lengths) if summed == total and clear else None
    return None


def _smallest(form: Array, longest: int, *, left: int, features: int) -> list[Array]:
    """For each length from 1 to `longest`, up to `EACH` smallest eigenvalues of a matrix that is singular when N_T is.

    N_T differs from the leading part of a longer matrix only in its last `left` frames, which no later window reaches.
    Hence one Cholesky factor of the longest serves all: the Schur complement that remains for the last frames of N_T is
    L L^T, with the factor's own corner, less what the missing windows added, which is the same for every T.
    """
    # With left = 0 nothing is missing, and the corner is that of the last frame alone.
    tail = max(left, 1)
    far = banded.assemble(form, np.ones(longest + left), left=left, features=features)
    factored = banded.factor(far)
    if factored is None:
        # rows that were rounded to zero; without a factor every length would cost an eigenvalue problem of its size
        far[0] += 1e-13 * far[0].mean()
        factored = banded.factor(far)
    missing = np.zeros((tail * features, tail * features))
    if left:
        # Windows T + 1 to T + left, in frames counted from T - left + 1: the same for every T.
        beyond = np.repeat([0.0, 1.0], left)
        missing = banded.dense(banded.assemble(form, beyond, left=left, features=features))[: tail * features]
        missing = missing[:, : tail * features]
    values = []
    for count in range(1, longest + 1):
        if count <= tail or factored is None:
            matrix = banded.dense(banded.assemble(form, np.ones(count), left=left, features=features))
        else:
            corner = banded.corner(factored, (count - tail) * features, tail * features)
            # Eliminating the frames before keeps the number of zero eigenvalues (Haynsworth 1968), not the others'
            # sizes.
            matrix = corner @ corner.T - missing
        values.append(_lowest(matrix))
    return values


def _lowest(matrix: Array) -> Array:
    """The smallest eigenvalues, by inverse iteration where the matrix is positive definite, which costs least."""
    size = min(EACH, len(matrix))
    try:
        factored = linalg.cho_factor(matrix, lower=True, check_finite=False)
    except linalg.LinAlgError:
        result: Array = linalg.eigvalsh(matrix, subset_by_index=[0, size - 1], check_finite=False)
        return result
    # A zero eigenvalue is orders below the others, and each solve brings its vector out by as much: three are plenty.
    # The others need no digits, and are never found too small (Courant and Fischer).
    vectors = _mixed(len(matrix), size)
    for _ in range(3):
        vectors = _orthonormal(linalg.cho_solve(factored, vectors, check_finite=False))
    return np.asarray(np.linalg.eigvalsh(vectors.T @ matrix @ vectors))


def _orthonormal(vectors: Array) -> Array:
    return np.asarray(np.linalg.qr(vectors).Q, dtype=np.float64)


def _mixed(size: int, count: int) -> Array:
    """Vectors (size, count) without pattern, the same every time: fractional parts of multiples of square roots."""
    # Ten: `EACH`, and the two that `null_space` takes along. Roots of primes have no rational relation, so no vector
    # repeats another.
    roots = np.sqrt(np.array([2.0, 3.0, 5.0, 7.0, 11.0, 13.0, 17.0, 19.0, 23.0, 29.0])[:count])
    return np.asarray(np.mod(np.arange(1, size + 1)[:, None] * roots, 1.0) - 0.5)


def null_space(form: Array, count: int, several: int, *, left: int, features: int) -> Array:
    """Orthonormal sequences (several, T, F) whose windows lie in the span: mixtures of the utterances of length T."""
    band = banded.assemble(form, np.ones(count), left=left, features=features)
    shifted = band.copy()
    shifted[0] += 1e-13 * band[0].mean()  # keeps a matrix that is singular by design factorable
    factored = banded.factor(shifted)
    # Two more than are wanted: what is wanted converges by its ratio to the first eigenvalue that is not taken along.
    size = min(several + 2, count * features)
    if factored is None:
        _, vectors = np.linalg.eigh(banded.dense(band))
        return np.asarray(vectors[:, :several].T.reshape(several, count, features))
    vectors = _mixed(count * features, size)
    for _ in range(4):
        vectors = _orthonormal(banded.solve(factored, vectors))
    # Of the inverse, where the smallest eigenvalues are the largest and clear of rounding.
    values, turn = np.linalg.eigh(vectors.T @ banded.solve(factored, vectors))
    kept = vectors @ turn[:, np.argsort(values)[::-1][:several]]
    return np.asarray(kept.T.reshape(several, count, features))
