"""The equations of one sample's row p - y of dL/dW, where the output layer's weights are known."""

from __future__ import annotations

import math
from typing import final

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from leakscope.attacks.labels.rows.row_space import RowSpace
from leakscope.attacks.parts.reading.output_gradient import OutputGradient
from leakscope.core.facts import BatchSize
from leakscope.core.observation import Observation
from leakscope.core.overriding import acts_as
from leakscope.core.target import Target
from leakscope.targets.looking.dense_ends import at
from leakscope.targets.losses import NextToken

Array = NDArray[np.float64]


@final
class KnownRows:
    """The systems softmax(A a + b) - e_y in span(right), A = W left, one for each candidate label y.

    Unknown are the k coordinates a of the features, and C - k equations are left of the C of the row space: one
    solution per sample generically, where C > 2 k + the number of labels, by counting equations. The residual is that
    of rho = g / (1 - p_y): softmax over the classes other than y, minus e_y. It does not vanish with 1 - p_y, so that
    samples of which the model is sure weigh as much as others.
    smoothing: s > 0 makes g = softmax - (1 - s) e_y - s / C, which does not vanish, and is taken as it is.
    """

    def __init__(self, space: RowSpace, weight: Array, offset: Array, smoothing: float = 0.0) -> None:
        self.space, self.offset, self.smoothing = space, offset, smoothing
        self.slopes = weight @ space.left
        self.weight = weight

    def solve(
        self, label: int, start: Array, slopes: Array, right: Array, *, most: int = 60, least: int = 3
    ) -> tuple[Array, float]:
        """Levenberg-Marquardt on f(a) = (I - right^T right) scale (rho(a) - e_y) from `start`; (a, |f| / |u|).

        J = K - right^T right K with K = d(scale rho)/da, so J^T J = K^T K - (right K)^T (right K) and J^T f = K^T f.
        Ends when a step improves by less than 1e-4 of the whole, or f is rounding in float64.
        """
        point, damping = start.copy(), 1e-3
        rest, rho, size = self._residual(point, label, slopes, right)
        cost, eye = float(rest @ rest), np.eye(len(point))
        for step in range(most):
            if cost <= (1e-12 * size) ** 2:
                break
            lean = (self.space.scale * rho)[:, None] * (slopes - rho @ slopes)
            inside = right @ lean
            normal, slope = lean.T @ lean - inside.T @ inside, lean.T @ rest
            level = float(np.trace(normal)) / max(len(point), 1)
            improved = False
            for _ in range(8):
                try:
                    factor = scipy.linalg.cho_factor(normal + damping * level * eye, check_finite=False)
                except scipy.linalg.LinAlgError:
                    damping = max(10 * damping, 1e-14)
                    continue
                ahead = point - scipy.linalg.cho_solve(factor, slope, check_finite=False)
                found = self._residual(ahead, label, slopes, right)
                reached = float(found[0] @ found[0])
                if math.isfinite(reached) and reached < cost:
                    improved = True
                    break
                damping *= 6
            if not improved:
                break
            gain = 1 - reached / cost
            point, (rest, rho, size), cost = ahead, found, reached
            damping = max(damping / 8, 1e-14)
            if gain < 1e-4 and step >= least:
                break
        # Nothing is in the way of a row that lies wholly in columns that were rounded away.
        return point, math.sqrt(cost) / size if size > 0 else math.inf

    def refined(self, label: int, start: Array) -> tuple[Array, float, float, float]:
        """As `solve` in the whole space, with the error at the label left open.

        (a, |f| / |u|, how far it is off, and by what a residual of one in any coordinate would put it off).

        A client computes p_y - 1, whose rounding is that of 1: relative to 1 - p_y it is a thousandth where the model
        is sure to four digits. One equation fewer, and what is left is as exact as the rest.
        """
        space = self.space
        if self.smoothing > 0:
            point, misfit = self.solve(label, start, self.slopes, space.right, most=40)
            return point, misfit, 0.0, 0.0
        if space.scale[label] == 0:
            # Its column was rounded away, with all that speaks for it.
            return start, math.inf, 0.0, 0.0
        unit = -(space.right.T @ space.right[:, label])
        unit[label] += 1.0
        length = math.sqrt(float(unit @ unit))
        # The label's own unit vector lies in the row space: it has no equation of its own to leave out.
        if length < 1e-6:
            point, misfit = self.solve(label, start, self.slopes, space.right, most=40)
            return point, misfit, 0.0, 0.0
        unit /= length
        point, misfit = self.solve(label, start, self.slopes, np.vstack([space.right, unit]), most=40)
        rest, _, _ = self._residual(point, label, self.slopes, space.right)
        # rest = off * scale_y (I - right^T right) e_y + what fits; scale_y e_y is the whole error there, 1 in rho.
        reach = 1 / (length * float(space.scale[label]))
        return point, misfit, float(unit @ rest) * reach, reach

    def covariance(self, features: Array, label: int, misfit: float) -> Array:
        """(k, k) of the features that a relative misfit leaves: sigma^2 (J^T J)^-1, as of all least squares.

        sigma^2 = |f|^2 / (C - 2 k): of C coordinates k are of the row space, and k unknowns are fitted to the others.
        """
        space, wanted = self.space, self.error(features, label)
        if self.smoothing == 0:
            # As `_residual`, in units of 1 - p_y.
            shares = wanted.copy()
            shares[label] = 0.0
            shares /= max(float(shares.sum()), 1e-300)
            wanted = shares.copy()
            wanted[label] -= 1.0
        else:
            # p, and not p - (1 - s) e_y - s / C, is what its derivative is made of.
            shares = wanted + self.smoothing / len(wanted)
            shares[label] += 1.0 - self.smoothing
        lean = (space.scale * shares)[:, None] * (self.slopes - shares @ self.slopes)
        inside = space.right @ lean
        each = misfit * float(np.linalg.norm(space.scale * wanted)) / math.sqrt(max(len(wanted) - 2 * space.rank, 1))
        values, vectors = np.linalg.eigh(lean.T @ lean - inside.T @ inside)
        # What the difference of two squares cannot tell from zero is open.
        values = np.maximum(values, 1e-14 * float(values[-1]))
        return np.asarray((vectors * (each**2 / np.maximum(values, 1e-100))) @ vectors.T)

    def error(self, features: Array, label: int) -> Array:
        """g = softmax - e_y; its entry at y as minus the sum of the others, since 1 - p_y may be below rounding."""
        logits = self.slopes @ features + self.offset
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        # Smoothing shifts all classes alike, the label's own included.
        shares -= self.smoothing / len(shares)
        shares[label] = 0.0
        shares[label] = -shares.sum()
        return np.asarray(shares)

    def _residual(self, point: Array, label: int, slopes: Array, right: Array) -> tuple[Array, Array, float]:
        logits = slopes @ point + self.offset
        if self.smoothing == 0:
            logits[label] = -np.inf
        rho = np.exp(logits - logits.max())
        rho /= rho.sum()
        wanted = self.space.scale * (rho - self.smoothing / len(rho))
        wanted[label] -= self.space.scale[label] * (1 - self.smoothing)
        return wanted - right.T @ (right @ wanted), rho, math.sqrt(float(wanted @ wanted))


def known_rows(target: Target, output: OutputGradient, space: RowSpace) -> KnownRows:
    """The systems of the output layer whose gradient `output` is, at the weights that `target` has."""
    weight, offset = (value.double().cpu().numpy() for value in at(target, output.layer))
    return KnownRows(space, weight, offset, output.smoothing)


def told_rows(seen: Observation) -> int | None:
    """How many samples were told; None where no number was, and of texts, each of which has a row for each place."""
    return seen.told(BatchSize).count if seen.knows(BatchSize) and not acts_as(seen.target.loss, NextToken) else None


def spread(known: KnownRows, features: Array, label: int, misfit: float) -> float:
    """Relative error of a row's features that its misfit leaves."""
    off = math.sqrt(max(float(np.trace(known.covariance(features, label, misfit))), 0.0))
    return off / max(float(np.linalg.norm(features)), 1e-300)
