"""The features that a linear head was trained on, in closed form, for many heads at once."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from leakscope.attacks.inputs.heads.prior import FeaturePrior
from leakscope.mechanisms.heads.together import coefficients
from leakscope.mechanisms.protocols.training import HeadTraining

ROUNDS = 4
"""Times that features and coefficients are computed from each other. More gain a few thousandths of the variance where
training is short; where it saturates, an error of one feeds the other's and grows."""
FALL = 0.02
"""Nats of likelihood for each weight that a round may lose. Where training is short, rounds lose thousandths and find
more; where it saturates and errors feed each other, they lose ten times that, and the round before them is kept."""
ROUNDING = 1e-6
"""Of the largest weight: what is not known of weights in float32, where nothing secret was added to them."""
QUIET = 8
"""One axis in so many, those of the least variance, shows the size of the first weights and hardly anything else."""


def invert(
    weights: Tensor,
    prior: FeaturePrior,
    training: HeadTraining,
    *,
    start: tuple[Tensor, Tensor] | None = None,
    floor: bool = True,
    positive_weight: float = 1.0,
) -> Tensor:
    """The posterior mean of X (m, C, d), example c of class c, given the heads' weights (m, C, d).

    SGD gives W = r W_0 + A^T X. A depends on X only through the kernel X X^T + 1, so from X follows A by the recursion
    of C x C numbers (`together.coefficients`), and from A follows X: in the basis of the prior's axes, where W_0 is
    noise of deviation s = |r| init_std,

        X_j = M_j + (A A^T + (s^2 / e_j) I)^-1 A (W_j - r W_0j - A^T M_j),  e_j the variance along axis j.

    Both are repeated, from the class means on. The rows of A sum to 0: one direction v of the examples, A^T v = 0, is
    in no weight. Where features cannot be negative (`floor`) they are moved along it, see `floored`.
    start: weight (C, d) and bias (C,) of the first head where it is known (`init_std` None). Derived here.
    Of one logit for two classes, weights (m, 1, d), A has one column: the one direction of the two examples that it
    holds, mostly their difference, is found, and the other is the prior's, or the floor's.
    positive_weight: of `OneLogit`.
    """
    start = start or _nothing(prior, weights.shape[1])
    features = prior.means.expand(len(weights), -1, -1)
    # of the squared norm of an example, what is beside that of its mean: the kernel is quadratic in X
    beside = prior.variances.sum().expand(features.shape[:2])
    most, alive = weights.new_full((len(weights),), -math.inf), torch.ones(len(weights), dtype=torch.bool)
    for _ in range(ROUNDS):
        fit = explained(weights, features, beside, prior, training, start, positive_weight)
        likelihood = fit.likelihood()
        alive &= likelihood >= most - FALL * weights[0].numel()
        most = torch.maximum(most, likelihood)
        found, around = fit.features(prior)
        if floor:
            found = floored(found, fit.left[:, :, -1], prior)
        features = torch.where(alive[:, None, None], found, features)
        beside = torch.where(alive[:, None], around, beside)
    return features


@final
@dataclass(frozen=True, eq=False)
class Explained:
    """W - r W_0 - A^T M along the prior's axes and the right singular vectors of A: all numbers are independent there.

    rest, expected: (m, C, d), these numbers and their variances sigma_k^2 e_j + s^2. left, sizes: A = left diag(sizes)
    right. noise: s.
    """

    rest: Tensor
    expected: Tensor
    left: Tensor
    sizes: Tensor
    noise: float

    def likelihood(self) -> Tensor:
        """(m,): log p(W | A), but for a constant."""
        return -0.5 * (self.rest.square() / self.expected + self.expected.log()).sum((1, 2))

    def features(self, prior: FeaturePrior) -> tuple[Tensor, Tensor]:
        """The posterior mean (m, C, d) and, summed over the features, the variance around it (m, C)."""
        gain = self.sizes.unsqueeze(2) * prior.variances / self.expected
        seen = self.left[:, :, : self.sizes.shape[1]]
        mean = prior.means + seen @ (gain * self.rest) @ prior.axes.T
        around = (seen.square() @ (self.noise**2 * prior.variances / self.expected)).sum(2)
        # of one logit: what no weight holds keeps the prior's variance
        unseen = self.left[:, :, self.sizes.shape[1] :].square().sum(2)
        return mean, around + unseen * prior.variances.sum()


def explained(
    weights: Tensor,
    features: Tensor,
    beside: Tensor,
    prior: FeaturePrior,
    training: HeadTraining,
    start: tuple[Tensor, Tensor],
    positive_weight: float = 1.0,
) -> Explained:
    """The heads as training explains them, whose kernel is that of `features` with `beside` on its diagonal."""
    first, bias = start
    hot = torch.eye(features.shape[1], dtype=weights.dtype).expand(len(weights), -1, -1)
    if weights.shape[1] == 1:
        hot = hot[:, :, 1:]
    kernel = features @ features.transpose(1, 2) + torch.diag_embed(beside) + 1
    kept, pulled = coefficients(training, kernel, features @ first.T + bias, hot, positive_weight=positive_weight)
    noise = max((training.init_std or 0.0) * abs(kept), ROUNDING * float(weights.abs().max()))
    left, sizes, right = torch.linalg.svd(pulled)
    rest = right @ ((weights - kept * first - pulled.transpose(1, 2) @ prior.means) @ prior.axes)
    return Explained(rest, sizes.square().unsqueeze(2) * prior.variances + noise**2, left, sizes, noise)


def held(weights: Tensor, prior: FeaturePrior, training: HeadTraining) -> float:
    """The share of the variance within classes that a head's weights (C, d) hold by this training, from 0 to 1.

    1 - E|X - x^|^2 / E|X - M|^2 of the posterior, with the kernel that the prior expects. Where training saturates it
    is too large, since errors of the coefficients are not in it. Where it is next to nothing, x^ is the class mean.
    """
    features, beside = prior.means.unsqueeze(0), prior.variances.sum().expand(1, len(prior.means))
    fit = explained(weights.unsqueeze(0), features, beside, prior, training, _nothing(prior, len(weights)))
    return max(0.0, 1 - float(fit.features(prior)[1].sum() / beside.sum()))


def _nothing(prior: FeaturePrior, outputs: int) -> tuple[Tensor, Tensor]:
    """The mean of secret first weights."""
    return prior.means.new_zeros(outputs, prior.means.shape[1]), prior.means.new_zeros(outputs)


def floored(features: Tensor, direction: Tensor, prior: FeaturePrior) -> Tensor:
    """Features (m, C, d) moved along `direction` (m, C) until none is negative, and cut off at zero.

    Upward by what the most negative one asks for; downward, where all are positive, only as surely as the prior says
    that one of the examples is zero there: 1 - prod_c (1 - zeros_c), for each feature. A has a positive diagonal,
    negative entries elsewhere and rows that sum to 0, so that its left null vector has entries of one sign.
    """
    # of a singular vector the sign is arbitrary
    along = (direction * direction.sum(1, keepdim=True).sign()).clamp_min(1e-6).unsqueeze(2)
    shift = (-features / along).amax(1, keepdim=True)
    sure = 1 - (1 - prior.zeros).prod(0)
    return (features + along * shift * torch.where(shift > 0, sure, sure**2)).clamp_min(0)


def fitted(weights: Tensor, prior: FeaturePrior, training: HeadTraining) -> HeadTraining:
    """`training` with another factor on all of its rates and another init_std: those under which a head is likeliest.

    weights: (C, d). Steps, schedule, momentum and decay stay as they are declared: to first order A = t (I - 1/C) / C
    for any course of training, t the sum of the rates, and what one course adds to that depends on t above all. The
    kernel is the one that the prior expects; found by Nelder and Mead's simplex in the logarithms of both.
    """
    centered = prior.means - prior.means.mean(0)
    # W = A^T X with the first order of A, by least squares: too small where training saturates, and near enough
    slope = float((weights * centered).sum() / centered.square().sum()) * len(weights)
    factor = max(slope, 1e-6 * sum(training.rates)) / sum(training.rates)
    quiet = weights @ prior.axes[:, : max(1, len(prior.variances) // QUIET)]
    std = max(float(quiet.square().mean().sqrt()), ROUNDING * float(weights.abs().max()))
    features, beside = prior.means.unsqueeze(0), prior.variances.sum().expand(1, len(weights))

    def changed(at: NDArray[np.float64]) -> HeadTraining:
        times = math.exp(at[0])
        last = None if training.last_lr is None else training.last_lr * times
        return dataclasses.replace(training, lr=training.lr * times, last_lr=last, init_std=math.exp(at[1]))

    def unlikely(at: NDArray[np.float64]) -> float:
        fit = explained(weights.unsqueeze(0), features, beside, prior, changed(at), _nothing(prior, len(weights)))
        return -float(fit.likelihood())

    begun = np.array([math.log(factor), math.log(std)])
    found = minimize(unlikely, begun, method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-3, "maxiter": 200})
    return changed(found.x)
