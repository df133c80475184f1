"""One window at a time: which inputs of the first layer give hidden units in the span of the second's gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from leakscope.attacks.inputs.frames.window.window_span import Span
from leakscope.targets.looking.dense_stack import Dense

Array = NDArray[np.float64]

FOUND = 1e-4
"""Largest relative residual of a true window: rounding leaves 1e-6, the nearest wrong windows of quiet speech 2e-3."""
SETTLED = 1e-5
"""Below this residual a step that no longer halves the energy only moves rounding about."""


@final
@dataclass(frozen=True, eq=False)
class Descent:
    """A window (D,), its relative residual, and how many linear systems were solved on the way to it."""

    window: Array
    residual: float
    steps: int


@final
class HiddenSpan:
    """(I - U U^T) S [h(x); 1] with h(x) = min(max(W^T x + b, 0), clip): zero when x (D,) is the window of a frame.

    U (H + 1, T) is the basis of the span of [dL/dW_2; dL/db_2] and S its factors of rows. H + 1 - T equations.
    """

    def __init__(self, layer: Dense, clip: float, span: Span) -> None:
        self.weight, self.bias, self.clip, self.scale = layer.weight, layer.bias, clip, span.scale
        self.rank, self.equations = span.rank, len(span.scale) - span.rank
        self._inside = 2 * span.rank <= len(span.scale)  # the smaller of the two bases
        kept = span.basis[:, : span.rank] if self._inside else span.basis[:, span.rank :]
        self._basis = np.ascontiguousarray(kept)

    def hidden(self, windows: Array) -> Array:
        """S [h; 1] of windows (N, D): (N, H + 1)."""
        units = np.clip(windows @ self.weight + self.bias, 0.0, self.clip)
        return np.hstack([units, np.ones((len(units), 1))]) * self.scale

    def residuals(self, windows: Array) -> Array:
        """Distances (N,) of S [h; 1] from the span, relative to the units alone: a large 1 proves nothing."""
        values = self.hidden(windows)
        sizes = np.linalg.norm(values[:, :-1], axis=1)
        return np.asarray(np.linalg.norm(self._outside(values), axis=1) / np.maximum(sizes, 1e-300))

    def _outside(self, values: Array) -> Array:
        projected = (values @ self._basis) @ self._basis.T
        return np.asarray(values - projected if self._inside else projected)

    def descend(self, window: Array, free: slice, *, steps: int = 40) -> Descent:
        """Levenberg and Marquardt over the entries `free` of a window (D,), the others held, until rounding is left."""
        # Ours, though scipy.optimize.least_squares finds the same windows: it decomposes a Jacobian (H + 1 - T, free)
        # at each step, where to form the normal matrix and solve it costs less. scipy takes 1.2 times as long for one
        # frame of 26 unknowns, 1.7 times for 260 with 1024 units, 3 times for 494 with 2048. To square the condition
        # costs steps, not digits: what is left is always that of the equations themselves.
        best, rest, energy, size = window.copy(), *self._at(window)
        damping, taken = 1e-2, 0
        while taken < steps:
            slope, matrix = self._normal(best, rest, free)
            before = energy
            for _ in range(6):  # damped by up to 6^6 times as much: a kink that is nearer than this ends it
                taken += 1
                tried = best.copy()
                tried[free] -= _damped(matrix, slope, damping)
                following = self._at(tried)
                if following[1] < energy:
                    break
                damping = max(6 * damping, 1e-8)
            else:
                break
            best, rest, energy, size = tried, *following
            damping = max(damping / 6, 1e-9)
            # Far from a window small steps may go on; near one the energy falls by orders until rounding is left.
            settled = 0.5 if energy <= (SETTLED * size) ** 2 else 0.9999
            if energy > settled * before:
                break
        return Descent(best, float(np.sqrt(energy) / size), taken)

    def _at(self, window: Array) -> tuple[Array, float, float]:
        """What is outside the span, its energy, and the norm of the units."""
        values = self.hidden(window[None])[0]
        rest = self._outside(values)
        return rest, float(rest @ rest), max(float(np.linalg.norm(values[:-1])), 1e-300)

    def _normal(self, window: Array, rest: Array, free: slice) -> tuple[Array, Array]:
        """Half the slope and the Gauss-Newton matrix over the free entries; only units between their kinks move."""
        before = window @ self.weight + self.bias
        moving = np.flatnonzero((before > 0) & (before < self.clip))
        jacobian = self.weight[free][:, moving] * self.scale[moving]
        seen = jacobian @ self._basis[moving]
        # J (I - U U^T) J^T: with U at hand J J^T less what is seen inside, with its complement what is seen outside.
        matrix = seen @ seen.T
        return jacobian @ rest[moving], jacobian @ jacobian.T - matrix if self._inside else matrix


def _damped(matrix: Array, slope: Array, damping: float) -> Array:
    # In units of the mean eigenvalue, so that the damping means the same for every scale of weights; 1e-300 keeps the
    # matrix of a window at which no unit moves from being exactly zero.
    level = damping * float(np.trace(matrix)) / len(matrix) + 1e-300
    try:
        return np.asarray(np.linalg.solve(matrix + level * np.eye(len(matrix)), slope), dtype=np.float64)
    except np.linalg.LinAlgError:
        return np.zeros_like(slope)
