"""Thousands of linear heads trained with DP-SGD at once, each with the law of `PrivateHeadTraining`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from leakscope.core.errors import BadInput
from leakscope.core.overriding import acts_as
from leakscope.mechanisms.heads.together import Heads, slope, told
from leakscope.mechanisms.protocols.optimizers import ClientSGD
from leakscope.mechanisms.protocols.training import PrivateHeadTraining
from leakscope.numerics.rng import Key


def train_private(training: PrivateHeadTraining, features: Tensor, labels: Tensor, start: Heads, *, key: Key) -> Heads:
    """Heads with the law of `training.release`, in which only the last weights are released; not its very draws.

    features: (m, N, d). labels: (m, N) int64. start: m heads of one layer with C >= 2 outputs.

    An example's gradient is delta_b x_b^T, where x_b ends with a one for the bias, of norm ||delta_b|| ||x_b||: it
    is clipped without being formed. Of the noise only what lies in the span of the x_b reaches a logit before the end.
    With X = L Q, Q of orthonormal rows, B = W Q^T is all that the course depends on:

        B <- rho B - (lr / E) ((P * w)^T L + sigma C n),  n ~ N(0, 1)^(C x N),  logits = L B^T,

    w_b = [b in S] min(1, C / norm_b). Beside the span W is rho^K W_0 plus independent normal noise, whose variance adds
    up to a number; it is drawn once. C N normal draws a step instead of C (d + 1). Exact in law since the normal draw
    in an orthonormal basis has independent coordinates; not for who sees the steps, who would see the noise beside it.
    Raises `BadInput` for an optimizer other than SGD without momentum, for heads of several layers or of one output,
    and on shapes or labels that do not fit.
    """
    optimizer, step = _sgd(training), training.step
    if len(start.weights) > 1 or start.biases[0].shape[1] < 2:
        raise BadInput("private heads are trained together as one layer of two or more outputs; use release")
    many, size, _ = features.shape
    divisor = step.expected or 1
    ones = features.new_ones(many, size, 1)
    wide = torch.cat([features, ones], 2)
    norms = wide.norm(dim=2)
    # Householder's QR and not Cholesky's: its rows are orthonormal also where two examples are the same, and what it
    # chooses for the missing direction is one more coordinate in which W is tracked
    basis, lower = torch.linalg.qr(wide.transpose(1, 2))
    basis, lower = basis.transpose(1, 2), lower.transpose(1, 2)
    begun = torch.cat([start.weights[0], start.biases[0].unsqueeze(2)], 2)
    inside = torch.bmm(begun, basis.transpose(1, 2))
    hot = told(features, labels, start)
    stream = key.child("course").generator()
    noise, (kept, variance) = step.noise_multiplier * step.clip / divisor, left_of(training)
    draws, pulled = torch.empty_like(inside), torch.zeros_like(hot)
    for rate in training.training.rates:
        rho = 1 - rate * optimizer.weight_decay
        at = slope(torch.bmm(lower, inside.transpose(1, 2)), hot, 1.0)
        # 0 / 0 cannot be: C / 0 is infinite, and cut to one
        weights = (step.clip / (at.norm(dim=2) * norms)).clamp_(max=1.0)
        if step.rate < 1:
            weights.mul_(torch.rand(many, size, generator=stream, dtype=features.dtype) < step.rate)
        inside.mul_(rho).baddbmm_(at.mul_(weights.unsqueeze(2)).transpose(1, 2), lower, alpha=-rate / divisor)
        pulled.mul_(rho).add_(at, alpha=-rate / divisor)
        if noise > 0:
            inside.add_(draws.normal_(generator=stream), alpha=-rate * noise)
    whole = begun.mul_(kept)
    if noise > 0:
        outside = torch.empty_like(whole).normal_(generator=key.child("beside").generator())
        whole.add_(outside, alpha=math.sqrt(variance))
    # in the span what was tracked, beside it what was drawn: W = G + (B - G Q^T) Q
    whole.baddbmm_(inside - torch.bmm(whole, basis.transpose(1, 2)), basis)
    return Heads((whole[:, :, :-1],), (whole[:, :, -1],), pulled)


def left_of(training: PrivateHeadTraining) -> tuple[float, float]:
    """What is left of the first weights at the end, as a factor, and the variance of the noise in each weight and bias.

    >>> from leakscope import DPSGD, HeadTraining
    >>> left_of(PrivateHeadTraining(HeadTraining(4, 0.5), DPSGD(2.0, 1.0, expected=2, rate=0.5)))
    (1.0, 1.0)
    """
    step, decay = training.step, _sgd(training).weight_decay
    noise, kept, variance = step.noise_multiplier * step.clip / (step.expected or 1), 1.0, 0.0
    for rate in training.training.rates:
        rho = 1 - rate * decay
        # each step's noise is shortened by the decay of those after it
        kept, variance = kept * rho, variance * rho**2 + (rate * noise) ** 2
    return kept, variance


def _sgd(training: PrivateHeadTraining) -> ClientSGD:
    optimizer = training.training.optimizer
    if not acts_as(optimizer, ClientSGD) or optimizer.momentum > 0:
        raise BadInput(f"private heads are trained together by SGD without momentum, got {optimizer!r}; use release")
    return optimizer
