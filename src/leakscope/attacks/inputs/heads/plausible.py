"""Whether a head can be what a declared training makes of a backbone's features: judged beside heads that are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.attacks.inputs.heads.inversion import explained
from leakscope.attacks.inputs.heads.prior import FeaturePrior
from leakscope.core.effort import Progress, Watch, unwatched
from leakscope.mechanisms.heads.together import Heads, first, together, train
from leakscope.mechanisms.protocols.training import HeadTraining
from leakscope.numerics.rng import Key

HEADS = 200
"""Heads that are drawn to compare with."""
FAR = 6.0
"""Standard deviations from their mean, of heads that differ little, beyond which a head is none of them.

Far, because a normal prior is no law of real features; Adam and other rates are dozens away."""


@final
@dataclass(frozen=True)
class Oddity:
    """How a head differs from those of its declared training: name of the number, and its distance in deviations."""

    number: str
    deviations: float

    def __str__(self) -> str:
        return f"{self.number} is {abs(self.deviations):.0f} deviations {'above' if self.deviations > 0 else 'below'}"


def oddities(
    weight: Tensor,
    bias: Tensor,
    prior: FeaturePrior,
    training: HeadTraining,
    each: int,
    *,
    key: Key,
    watch: Watch = unwatched,
) -> tuple[Oddity, ...]:
    """What of a head (C, d), (C,) no head of `training` on features of the prior has; the farthest first.

    Compared are logarithms of numbers that the declared training fixes but for few percent: what the weights hold
    beyond class means along the prior's axes, in three bands from large to small variance, each over what is expected
    of it; the weights' sum over classes, which SGD leaves as it was drawn (softmax gradients sum to 0), and the
    biases'. Adam, another backbone, one that was trained along and other data all move some of them.
    """
    mean = prior.mean_of(each)
    own = _numbers(weight.unsqueeze(0), bias.unsqueeze(0), mean, prior, training)
    parts, chunk = [], together(len(weight) * each, weight.shape[1])
    for place, begin in enumerate(range(0, HEADS, chunk)):
        many = min(chunk, HEADS - begin)
        heads = _drawn(prior, training, each, many, key=key if place == 0 else key.child("chunk", place))
        parts.append(_numbers(heads.weights[0], heads.biases[0], mean, prior, training))
        watch(Progress((begin + many) / HEADS, math.nan, "trains heads to compare with"))
    others = {name: torch.cat([part[name] for part in parts]) for name in own}
    found = []
    for name, value in own.items():
        # a floor of a hundredth: a normal prior is no law of real features to the last percent
        spread = max(float(others[name].std()), 0.1 if name.startswith("what") else 0.01)
        found.append(Oddity(name, (float(value) - float(others[name].mean())) / spread))
    return tuple(sorted((one for one in found if abs(one.deviations) > FAR), key=lambda one: -abs(one.deviations)))


def _drawn(prior: FeaturePrior, training: HeadTraining, each: int, many: int, *, key: Key) -> Heads:
    """Heads on features of the prior."""
    classes, wide = prior.means.shape
    # means of `each` examples would do for the weights, not for the kernel's diagonal
    drawn = torch.randn(many, classes, each, wide, generator=key.child("features").generator())
    features = prior.means.unsqueeze(1) + (drawn * prior.variances.sqrt()) @ prior.axes.T
    labels = torch.arange(classes).repeat_interleave(each).expand(many, -1)
    start = first(training, (wide, classes), many, key=key.child("start"))
    return train(training, features.flatten(1, 2), labels, start)


def _numbers(
    weights: Tensor, biases: Tensor, mean: FeaturePrior, single: FeaturePrior, training: HeadTraining
) -> dict[str, Tensor]:
    """Each number of (m,) heads."""
    beside = single.variances.sum().expand(weights.shape[:2])
    none = (torch.zeros_like(mean.means), torch.zeros_like(mean.means[:, 0]))
    fit = explained(weights, mean.means.expand_as(weights), beside, mean, training, none)
    ratio = fit.rest.square() / fit.expected
    bands = ("the least", "the middle", "the largest")
    found = {
        f"what the weights hold along the third of axes with {name} variance": part.mean((1, 2)).log()
        for name, part in zip(bands, ratio[:, :-1].tensor_split(3, 2), strict=True)
        if part.shape[2]  # of one or two features there are fewer axes than bands
    }
    # of A the rows sum to 0, so that the last right singular vector is the sum over classes
    found["the sum of the weights over classes"] = ratio[:, -1].mean(1).log()
    size = biases.abs().amax(1).clamp_min(1e-30)
    found["the sum of the biases"] = (biases.sum(1).abs() / size).clamp_min(1e-3).log()
    return found
