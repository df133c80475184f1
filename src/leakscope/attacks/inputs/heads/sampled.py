"""Features behind heads of which nobody knows which example took part in which step: two posterior means in a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.attacks.inputs.heads.inversion import ROUNDING
from leakscope.attacks.inputs.heads.prior import FeaturePrior
from leakscope.core.effort import State
from leakscope.core.errors import BadInput
from leakscope.mechanisms.heads.private import left_of
from leakscope.mechanisms.heads.together import Heads
from leakscope.mechanisms.protocols.training import PrivateHeadTraining

TAUGHT, RANK = 2000, 256
"""Heads that the law of their coefficients is taken from, and how many of its axes are kept at most."""
SHARE = 1e-9
"""Of the largest variance of a coefficient: axes with less are rounding."""
FARTHEST = 4.0
"""Deviations from its class's mean that a feature is believed along an axis: beyond, an example hardly took part and
what is left of its row is noise that was divided by next to nothing."""
PART = 256
"""Heads that are read at a time."""


@final
@dataclass(frozen=True, eq=False)
class Sampled:
    """W = r W_0 + A^T X + noise and b = A^T 1 + noise, A random by the samples and secret: A from both, then X.

    A ~ N(mean, axes diag(variances) axes^T) by public heads, X_j ~ N(M_j, e_j 1) along the prior's axes j. Given A the
    row W_j has mean A^T M_j and covariance e_j A^T A + s^2 1; with E[A^T A] in its place, A given (W, b) is a linear
    regression by generalized least squares, whose matrix all heads share (`slope`). The bias is A^T 1 but for noise, so
    that what is left to be found of A is beside (participation) x (mean feature), by which it outweighs all else in W.
    Then X_j = M_j + (A A^T + (s_j^2 / e_j) 1)^-1 A (W_j - A^T M_j), as `inversion.invert` has it, where s_j^2 also
    holds what an error of A leaves of M_j, as public heads show it. Bilinear: a regression on W alone can not divide by
    who took part. Several examples of a class are read as one, A the sum of theirs. Derived here.
    means (C, d), axes (d, d), variances (d,): the prior's. center (C, C), slope (C d + C, C C): of A, from (W, b) less
    `center` applied to the means. noise: (d,), s_j^2.
    """

    means: Tensor
    axes: Tensor
    variances: Tensor
    center: Tensor
    slope: Tensor
    noise: Tensor

    @staticmethod
    def learned(heads: Heads, coefficients: Tensor, prior: FeaturePrior, mechanism: PrivateHeadTraining) -> Sampled:
        """From public heads and their A (m, C, C). Raises `BadInput` where they are all the same: nothing was drawn."""
        weights, biases, a = heads.weights[0].double(), heads.biases[0].double(), coefficients.double()
        means, axes, variances = (one.double() for one in (prior.means, prior.axes, prior.variances))
        kept, variance = left_of(mechanism)
        secret = (kept * (mechanism.training.init_std or 0.0)) ** 2
        noise = variance + secret + (ROUNDING * float(weights.abs().max())) ** 2
        # biases begin at zero: there is no secret in them but the steps' noise
        loud = variance + (ROUNDING * float(biases.abs().max())) ** 2
        center = a.mean(0)
        found, basis = _axes(a - center)
        slope = _slope(a, basis, found, (means @ axes, variances), (noise, loud))
        first = Sampled(means, axes, variances, center, slope, torch.full_like(variances, noise))
        wrong = (a - first.coefficients(weights, biases)).transpose(1, 2) @ (means @ axes)
        return Sampled(means, axes, variances, center, slope, noise + wrong.square().mean((0, 1)))

    def coefficients(self, weights: Tensor, biases: Tensor) -> Tensor:
        """(m, C, C) float64: the posterior mean of A given weights (m, C, d) and biases (m, C)."""
        rest = weights.double() @ self.axes - self.center.T @ (self.means @ self.axes)
        given = torch.cat([rest.flatten(1), biases.double() - self.center.sum(0)], 1)
        found: Tensor = self.center + (given @ self.slope).unflatten(1, self.center.shape)
        return found

    def read(self, weights: Tensor, biases: Tensor) -> Tensor:
        """(m, C, d): along each axis, in deviations of the prior, how far from its class's mean an example is."""
        parts = zip(weights.split(PART), biases.split(PART), strict=True)
        return torch.cat([self._read(one, other) for one, other in parts])

    def _read(self, weights: Tensor, biases: Tensor) -> Tensor:
        a = self.coefficients(weights, biases)
        if not bool(torch.isfinite(a).all()):
            return torch.full_like(weights, torch.nan)
        left, sizes, right = torch.linalg.svd(a)
        rest = right @ ((weights.double() - a.transpose(1, 2) @ self.means) @ self.axes)
        size = sizes.unsqueeze(2)
        gain = size * self.variances.sqrt() / (size.square() * self.variances + self.noise)
        found: Tensor = (left @ (gain * rest)).clamp(-FARTHEST, FARTHEST).to(weights)
        return found

    def told_apart(self, heads: Heads, two: Tensor, one: int, each: int) -> Tensor:
        """(m,) float64: log P(W | A, first) - log P(W | A, second), suspects (2, d) for an example of class `one`.

        At the posterior mean of A, the other examples drawn from the prior: of `each` of the class it is one. Who took
        no part has a row of zeros in A, and 0.
        """
        weights = heads.weights[0].double()
        a = self.coefficients(weights, heads.biases[0])
        along = two.double() @ self.axes
        middle, apart = along.mean(0) - self.means[one] @ self.axes, along[0] - along[1]
        own = a[:, one] / each
        rest = (weights - a.transpose(1, 2) @ self.means) @ self.axes - own.unsqueeze(2) * middle
        # the variance of a class's mean that one known example leaves: none of one, (each - 1) / each of more
        beside = a.clone()
        beside[:, one] *= ((each - 1) / each) ** 0.5
        sizes, turn = torch.linalg.eigh(beside.transpose(1, 2) @ beside)
        spread = sizes.clamp_min(0).unsqueeze(2) * self.variances + self.noise
        turned = turn.transpose(1, 2)
        found: Tensor = (turned @ own.unsqueeze(2) * apart * (turned @ rest) / spread).sum((1, 2))
        return found

    @property
    def state(self) -> State:
        """As it is kept."""
        return {name: getattr(self, name) for name in ("means", "axes", "variances", "center", "slope", "noise")}


def _axes(around: Tensor) -> tuple[Tensor, Tensor]:
    """Variances (k,) and axes (k, C, C) of coefficients (m, C, C) around their mean."""
    _, sizes, right = torch.linalg.svd(around.flatten(1), full_matrices=False)
    variances = sizes.square() / len(around)
    if not float(variances[0]) > 0:
        raise BadInput("public heads of this training are all the same: nothing of it is drawn")
    keep = variances > SHARE * variances[0]
    keep[RANK:] = False
    return variances[keep], right[keep].unflatten(1, around.shape[1:])


def _slope(a: Tensor, basis: Tensor, found: Tensor, prior: tuple[Tensor, Tensor], noise: tuple[float, float]) -> Tensor:
    """(C d + C, C C): (B^T S^-1 B + D^-1)^-1 B^T S^-1, S the covariance of (W, b) given A and B what A's axes do."""
    means, variances = prior
    # E[A^T A] has the axes `turn`, in which the rows of W are independent of each other
    sizes, turn = torch.linalg.eigh((a.transpose(1, 2) @ a).mean(0))
    sure = 1 / (sizes.clamp_min(0).unsqueeze(1) * variances + noise[0])
    moved = turn.T @ (basis.transpose(1, 2) @ means)
    weighted = (turn @ (sure * moved)).flatten(1)
    bias = basis.sum(1)
    precision = (sure * moved).flatten(1) @ moved.flatten(1).T + bias @ bias.T / noise[1] + torch.diag(1 / found)
    gain = torch.linalg.solve(precision, torch.cat([weighted, bias / noise[1]], 1))
    slope: Tensor = gain.T @ basis.flatten(1)
    return slope
