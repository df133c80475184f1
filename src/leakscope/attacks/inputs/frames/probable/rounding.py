"""Entries of an update that are known up to an interval: rounded to a level, or too small to be sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from leakscope.attacks.inputs.frames.probable.frame_count import matrices
from leakscope.attacks.inputs.frames.probable.terms import Term
from leakscope.core.observation import Observation
from leakscope.core.release import same_kind
from leakscope.mechanisms import reading
from leakscope.targets.looking.context_window import ContextWindow
from leakscope.targets.looking.dense_stack import DenseStack

Array = NDArray[np.float64]

REFITS = 10
"""Rounds of imputing and fitting the errors for one set of frames."""
NARROW = 1e-2
"""In cells of less than this many standard deviations the density is a straight line."""


@final
@dataclass(frozen=True, eq=False)
class Cells:
    """Where the entries of [dL/dW; dL/db] (n + 1, H) lie: low <= A <= high, equal where an entry is known."""

    low: Array
    high: Array

    def conditional(self, mean: Array, noise: float) -> tuple[Array, Array]:
        """Mean and variance of each entry A ~ N(mean, noise^2), given its cell (a truncated normal)."""
        values, variances = self.low.copy(), np.zeros_like(self.low)
        open_ = self.high > self.low
        low, high, center = self.low[open_], self.high[open_], mean[open_]
        shifts, shares = _truncated((low - center) / noise, (high - center) / noise)
        # Known entries keep their value, with variance 0.
        values[open_] = np.clip(center + noise * shifts, low, high)
        variances[open_] = noise**2 * shares
        return values, variances


def _truncated(low: Array, high: Array) -> tuple[Array, Array]:
    """Mean and variance of the standard normal between low < high.

    With p(x) the density over the probability of the interval: p(low) - p(high), and
    1 + low p(low) - high p(high) - mean^2. By logarithms, on the side where the normal's tail is not rounded to 1.
    """
    # Mirrored to the left tail, where log Phi is exact; on the right Phi is 1 but for rounding.
    flipped = low + high > 0
    left, right = np.where(flipped, -high, low), np.where(flipped, -low, high)
    width = right - left
    narrow = width < NARROW
    # Narrow cells are put in below; until then any width will do whose logarithm is finite.
    right = np.where(narrow, left + NARROW, right)
    # log (Phi(right) - Phi(left)) = log Phi(right) + log (1 - exp(log Phi(left) - log Phi(right))).
    until, inside = log_ndtr(left), log_ndtr(right)
    inside = inside + np.log1p(-np.exp(until - inside))
    at_left, at_right = (np.exp(-0.5 * (edge**2 + np.log(2 * np.pi)) - inside) for edge in (left, right))
    mean = np.clip(at_left - at_right, left, right)
    variance = 1 + left * at_left - right * at_right - mean**2
    middle = left + width / 2
    # p(x) = p(m) (1 - m (x - m)) around the middle m: the mean moves by -m w^2 / 12, w^2 / 12 the variance. Elsewhere a
    # variance is at most that of the whole normal, and w^2 / 4 (Popoviciu).
    mean = np.where(narrow, np.clip(middle * (1 - width**2 / 12), left, left + width), mean)
    variance = np.where(narrow, width**2 / 12, np.clip(variance, 0.0, np.minimum(1.0, width**2 / 4)))
    return np.where(flipped, -mean, mean), variance


def cells(seen: Observation, window: ContextWindow, stack: DenseStack) -> list[Cells] | None:
    """The cells of the first layer and those behind it, in the order of `stack`; None where entries have none.

    They have where the last defense declares them, such as pruning (what is not sent is at most as large as the
    smallest that is) or rounding to the nearest level (half a step around it), and none before it does the like.
    """
    edges = reading.cells(seen)
    if edges is None:
        return None
    found: list[list[Array]] = []
    for side in edges:
        moved = Observation(seen.target, same_kind(seen.release, dict(side)), seen.mechanism, seen.facts)
        found.append([np.vstack(window.read(moved.gradient().by_name)), *matrices(moved, stack)])
    # a difference of weights is minus a gradient, and turns the edges around
    return [Cells(np.minimum(one, other), np.maximum(one, other)) for one, other in zip(*found, strict=True)]


@final
@dataclass(frozen=True, eq=False)
class Imputed:
    """What is believed of a layer's gradient A. matrix: its mean (n, H). variance: of each entry. noise: the standard
    deviation of A around the fit."""

    matrix: Array
    variance: Array
    noise: float

    def term(self) -> Term:
        """The likelihood of the expected A A^T."""
        # E[A A^T]: given the fit entries are independent, so their variances add to the diagonal only.
        gram = self.matrix @ self.matrix.T + np.diag(self.variance.sum(1))
        columns = self.matrix.shape[1]
        return Term(gram / (columns * self.noise**2), columns)


def imputed(where: Cells, before: Imputed, inputs: Array) -> Imputed:
    """`REFITS` rounds of expectation-maximization (Dempster, Laird and Rubin 1977) at inputs X (T, n).

    The mean of X^T Delta given the imputed A, with the covariance of Delta that makes it most probable (`Term`), is its
    projection on the rows of X, shrunk; entries are imputed by their means in their cells around it.
    """
    basis = _rows(inputs)
    matrix, variance, noise = before.matrix, before.variance, before.noise
    # Where the fit meets every cell the noise shrinks in each round, and the likelihood would end in a division by
    # zero.
    least = 1e-9 * max(float(np.abs(matrix).max()), 1e-300)
    for _ in range(REFITS):
        inside = basis @ matrix
        values, turn = np.linalg.eigh(inside @ inside.T / (matrix.shape[1] * noise**2))
        # With C's eigenvalue s in the span, the share of signal in what is seen is (s - 1) / s; at s < 1 there is none.
        shrunk = np.maximum(1 - 1 / np.maximum(values, 1e-300), 0.0)
        fitted = basis.T @ ((turn * shrunk) @ (turn.T @ inside))
        matrix, variance = where.conditional(fitted, noise)
        # The M step: E (A - fit)^2, the variance of what is imputed included.
        noise = max(float(np.sqrt(((matrix - fitted) ** 2 + variance).mean())), least)
    return Imputed(matrix, variance, noise)


def _rows(inputs: Array) -> Array:
    """An orthonormal basis of the rows of X, less directions that are rounding."""
    _, sizes, axes = np.linalg.svd(inputs, full_matrices=False)
    return np.asarray(axes[sizes > 1e-10 * sizes[0]])
