"""What the gradient of one dense layer says of its inputs over time, when noise is on it: a likelihood without errors.

A = X^T Delta + E: X (T, n) the layer's inputs with the appended 1, Delta (T, H) its errors, E noise of one standard
deviation. With columns of Delta drawn from N(0, G), those of A / sd have the covariance C = I + X^T G X, so that
-log p(A | X, G) = H / 2 (log det C + tr C^-1 S) but for a constant, S = A A^T / (H sd^2). Delta is gone, and what it
was is not overfitted, as it is where Delta is solved for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SINGULAR = 1e-10
"""Directions of X below this share of the largest are rounding."""


@final
@dataclass(frozen=True, eq=False)
class Term:
    """The gradient of one layer, whitened. gram: S (n, n). columns: H. prior: a root R (T, k) of G = R R^T, in units of
    sd^2; None for the G that makes A most probable, which has a closed form for each X.
    """

    gram: Array
    columns: int
    prior: Array | None = None

    def inflated(self, factor: float) -> Term:
        """As if the noise were `factor` >= 1 times as strong, in the mean over that noise: coarse before fine."""
        size = len(self.gram)
        # In units of the stronger noise: S in the mean over what is added is (S + (f^2 - 1) I) / f^2, and G is G / f^2.
        root = None if self.prior is None else self.prior / factor
        return Term((self.gram + (factor**2 - 1) * np.eye(size)) / factor**2, self.columns, root)

    def at(self, inputs: Array) -> Fit:
        """The likelihood at inputs X (T, n)."""
        return self._most_probable(inputs) if self.prior is None else self._expected(inputs, self.prior)

    def excess(self, inputs: Array) -> float:
        """How much energy is left outside the span of X (T, n), T < n, in standard deviations of that of noise alone.

        H (tr S - tr Q^T S Q) is chi-square with H (n - T) degrees of freedom when the span is right.
        """
        basis = np.linalg.qr(inputs.T)[0]
        degrees = self.columns * (len(self.gram) - basis.shape[1])
        left = self.columns * (np.trace(self.gram) - float((basis * (self.gram @ basis)).sum()))
        return float((left - degrees) / np.sqrt(2 * degrees)) if degrees > 0 else 0.0

    def _most_probable(self, inputs: Array) -> Fit:
        """In the span of X, eigenvalues of S above 1 are signal of their own size, and the others noise."""
        # X = P D V^T. In the span V, G can make C any covariance above 1; the best has the eigenvectors of S there, and
        # its eigenvalues s where they exceed 1: -log p falls by H / 2 (s - 1 - log s) for each.
        times, sizes, axes = np.linalg.svd(inputs, full_matrices=False)
        kept = sizes > SINGULAR * sizes[0]
        times, sizes, axes = times[:, kept], sizes[kept], axes[kept]
        seen = self.gram @ axes.T
        values, turn = np.linalg.eigh(axes @ seen)
        above = values > 1
        values, turn = values[above], turn[:, above]
        # Relative to noise alone, C = I, so never positive.
        value = 0.5 * self.columns * float(np.sum(np.log(values) - (values - 1)))
        outer = axes.T @ turn
        return Fit(value, (times / sizes) @ turn * np.sqrt(values - 1), outer, values - 1, seen @ turn, self.columns)

    def _expected(self, inputs: Array, root: Array) -> Fit:
        # X^T G X = (R^T X)^T (R^T X): its eigenvalues are squares of these, and only k of them are not zero.
        turn, sizes, outer = np.linalg.svd(root.T @ inputs, full_matrices=False)
        signal = sizes**2
        seen = self.gram @ outer.T
        shrunk = signal / (1 + signal)
        # log det C = sum log(1 + signal); tr C^-1 S = tr S - sum shrunk v^T S v, tr S left out.
        value = 0.5 * self.columns * float((np.log1p(signal) - shrunk * (outer.T * seen).sum(0)).sum())
        return Fit(value, root @ turn, outer.T, signal, seen, self.columns)


@final
@dataclass(frozen=True, eq=False)
class Fit:
    """A likelihood, and what is needed of it to take a step.

    value: -log p. G X = root diag(sqrt(signal)) axes^T with root (T, k), axes (n, k) orthonormal, and
    C^-1 = I - axes diag(signal / (1 + signal)) axes^T. seen: S axes.
    """

    value: float
    root: Array
    axes: Array
    signal: Array
    seen: Array
    columns: int

    @property
    def shrinkage(self) -> Array:
        """signal / (1 + signal)."""
        return self.signal / (1 + self.signal)

    def outside(self, parts: Array) -> Array:
        """C^-1 applied to rows: what is not in the span that the update shows."""
        return np.asarray(parts - ((parts @ self.axes) * self.shrinkage) @ self.axes.T)

    def slope(self) -> Array:
        """d value / dX = H G X (C^-1 - C^-1 S C^-1), (T, n)."""
        # axes^T C^-1 = axes^T / (1 + signal), so axes^T C^-1 S C^-1 is seen^T / (1 + signal) times C^-1. A most
        # probable G moves with X, but the value is stationary in it: no further term.
        bent = self.seen.T / (1 + self.signal)[:, None]
        inner = self.axes.T / (1 + self.signal)[:, None] - self.outside(bent)
        return np.asarray(self.columns * (self.root * np.sqrt(self.signal)) @ inner)

    def coupling(self) -> Array:
        """K (T, T) of the Gauss-Newton matrix K (x) C^-1: K = H G X C^-1 X^T G, the errors' products, shrunk."""
        return np.asarray(self.columns * (self.root * self.shrinkage) @ self.root.T)
