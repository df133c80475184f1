"""The error of one example at an output layer that has no bias gradient: known but for one factor, and the loss's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar
from scipy.special import softmax

Array = NDArray[np.float64]

LOGS = np.linspace(-12, 12, 2000)
"""Logarithms of the factors that are tried: steps of 1.2 %, taken to hold one root at most."""
LEAST = 1e-12
"""Least size of an error in float64 that has a direction."""
FEW = 3
"""Minima on the grid that are looked at more closely, the least ones."""


@final
@dataclass(frozen=True, eq=False)
class ScaledError:
    """errors: (C,), dL/dz. residual: how far they are from softmax(W h + b) - q, relative to their size."""

    errors: Array
    residual: float


@final
class OneFactor:
    """dL/dW = s u v^T of one example: its features are h = t v, its errors (s / t) u, with one unknown t of any sign.

    slope: dL/dW (C, d). weight: (C, d). bias: (C,). Zhu and Blaschko (2021, section 3.1) solve the same for a binary
    loss; more than one t may do.
    """

    def __init__(self, slope: Array, weight: Array, bias: Array) -> None:
        # u and v are known up to their common sign, so t may have either.
        left, values, right = np.linalg.svd(slope, full_matrices=False)
        self.along, self.logits, self.bias = values[0] * left[:, 0], weight @ right[0], bias
        size = float(np.linalg.norm(values))
        self.second = float(np.linalg.norm(values[1:])) / size if size > 0 else float("inf")
        """Size of what is not of rank one, relative to all: of one example it is rounding."""

    def solved(self, label: int, smoothing: float) -> ScaledError | None:
        """The errors for which (s / t) u = softmax(t W v + b) - q is nearest to true; None where no t does.

        q = (1 - smoothing) e_label + smoothing / C.

        >>> weight, features = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), np.array([0.5, 2.0])
        >>> errors = softmax(weight @ features) - np.array([0.0, 1.0, 0.0])
        >>> found = OneFactor(np.outer(errors, features), weight, np.zeros(3)).solved(1, 0.0)
        >>> bool(found.residual < 1e-9), bool(np.allclose(found.errors, errors))
        (True, True)
        """
        if not self.along.any():
            return None
        wanted = self._wanted(label, smoothing)
        roots: list[tuple[float, float]] = []
        for sign in (1.0, -1.0):
            roots += [(self._away(sign * t, wanted), sign * t) for t in self._roots(label, sign, wanted)]
        if not roots:
            return None
        # Hence the root at which all entries together miss least; relative, since both vanish as t grows.
        residual, factor = min(roots)
        return ScaledError(self.along / factor, residual)

    def turned(self, label: int, smoothing: float) -> float:
        """The least sine between softmax(t W v + b) - q and u / t, over t: what can be said of a slope of any size."""
        if not self.along.any():
            return float("inf")
        wanted, unit = self._wanted(label, smoothing), self.along / np.linalg.norm(self.along)

        def sines(logs: Array, sign: float) -> Array:
            error = softmax(sign * np.exp(logs)[:, None] * self.logits + self.bias, axis=1) - wanted
            along = error @ unit
            size = np.maximum(np.linalg.norm(error, axis=1), np.finfo(np.float64).tiny)
            found = np.linalg.norm(error - along[:, None] * unit, axis=1) / size
            # More than a right angle is further than any sine says; of an error that is all rounding there is none.
            return np.where(sign * along <= LEAST, 2.0, found)

        def sine(log: float, sign: float) -> float:
            return float(sines(np.array([log]), sign)[0])

        best = 2.0
        for sign in (1.0, -1.0):
            curve = sines(LOGS, sign)
            inner = np.flatnonzero((curve[1:-1] <= curve[:-2]) & (curve[1:-1] <= curve[2:])) + 1
            for at in inner[np.argsort(curve[inner])][:FEW]:
                bounds = (LOGS[at - 1], LOGS[at + 1])
                near = minimize_scalar(sine, bounds=bounds, args=(sign,), method="bounded", options={"xatol": 1e-12})
                best = min(best, float(near.fun))
        return best

    def _wanted(self, label: int, smoothing: float) -> Array:
        wanted = np.full(len(self.bias), smoothing / len(self.bias))
        wanted[label] += 1 - smoothing
        return wanted

    def _roots(self, label: int, sign: float, wanted: Array) -> list[float]:
        """|t| where the label's entry vanishes, in which |softmax - q| is largest; it need not be a root of all."""

        def missing(log: float) -> float:
            return float(self._missing(sign * np.exp(log), wanted)[label])

        # All at once: one by one they were half of an attack's time.
        factors = sign * np.exp(LOGS)
        shares = softmax(factors[:, None] * self.logits + self.bias, axis=1)[:, label]
        curve = shares - wanted[label] - self.along[label] / factors
        turns = np.flatnonzero(curve[:-1] * curve[1:] < 0)
        return [float(np.exp(brentq(missing, LOGS[at], LOGS[at + 1], xtol=1e-14))) for at in turns]

    def _missing(self, factor: float, wanted: Array) -> Array:
        return np.asarray(softmax(factor * self.logits + self.bias) - wanted - self.along / factor)

    def _away(self, factor: float, wanted: Array) -> float:
        return float(np.linalg.norm(self._missing(factor, wanted)) / np.linalg.norm(self.along / factor))
