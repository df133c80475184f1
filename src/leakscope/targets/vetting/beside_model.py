"""What an update shows beside the model that it belongs to: a reversed sign, a scale, normalization over a batch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from leakscope.core.errors import NoSuchLayer
from leakscope.core.overriding import acts_as
from leakscope.core.target import CrossEntropy, Target
from leakscope.numerics.trees import Named
from leakscope.targets.looking.batch_statistics import with_batch_statistics
from leakscope.targets.looking.dense_ends import output_layer
from leakscope.targets.vetting.numbers import Look

HEARD = 1e-3
"""Share of the largest entry below which a sign is rounding: that of a weight's last place, divided by a small lr."""
SLACK = 0.02
"""Rounding, of half precision too, beyond what a mean can be."""
CLASSES = 8
"""From so many, one positive entry alone is no chance: of a large batch each sign is near a coin's, 8 / 2^8."""


def beside(target: Target, gradient: Named, examples: int | None) -> tuple[Look, ...]:
    """Looks at an update read as a `gradient` of the model. examples: how many are behind it, None where not told.

    For updates that are sums of gradients; noise, rounding and signs have patterns of their own. Runs the model once.

    >>> from torch import nn
    >>> from leakscope.domains.vision import Images
    >>> target = Target(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), Images(1, 2, 2), 3)
    >>> beside(target, {"1.bias": torch.tensor([0.8, -0.5, -0.3])}, 1)[0].sentence
    'the output bias falls at 2 of 3 classes for 1 examples, whose own classes alone can fall: the sign is reversed'
    """
    return (
        *_reversed(target, gradient, examples),
        *_scaled(target, gradient, examples),
        *_normalized(target, gradient),
    )


def _reversed(target: Target, gradient: Named, examples: int | None) -> Iterator[Look]:
    """dL/db_c = mean_b (p_bc - y_bc) is negative only at the classes of the batch, and positive at all others."""
    bias = _bias(target, gradient)
    if bias is None:
        return
    low, high = (int((sign * bias > HEARD * bias.abs().max()).sum()) for sign in (-1, 1))
    remedy = (
        "a gradient goes against the labels and a change of weights with them: declare the other one of gradient and "
        "delta, with FedSGD() or FedAvg(...), or turn the sign of weights before minus after"
    )
    if examples is not None and low > examples:
        yield Look(
            f"the output bias falls at {low} of {len(bias)} classes for {examples} examples, whose own classes alone "
            "can fall: the sign is reversed",
            remedy,
        )
    elif examples is None and high == 1 and low + high >= CLASSES:
        yield Look(
            f"the output bias falls at {low} classes and rises at one, as the reverse of one example's gradient does",
            remedy,
        )


def _scaled(target: Target, gradient: Named, examples: int | None) -> Iterator[Look]:
    """Negative entries of mean_b (p_b - y_b) sum to -1 at most, whatever the batch, and of a sum over it to -B."""
    bias = _bias(target, gradient)
    fallen = 0.0 if bias is None else float(-bias.clamp(max=0).sum())
    if not 1 + SLACK < fallen < float("inf"):
        return
    if examples is not None and fallen <= (1 + SLACK) * examples:
        yield Look(
            f"the output bias falls by {fallen:.3g} in all, and of a mean loss by one at most: the loss was summed or "
            "weighs its examples, or the rate is another one",
            "divide the update by what was not divided, or declare FedAvg(..., summed=True) or its true lr",
        )
        return
    most = "of a mean loss by one" if examples is None else f"of {examples} examples, summed, by {examples}"
    yield Look(
        f"the output bias falls by {fallen:.3g} in all, and {most} at most: a loss scale was left in the update, as of "
        "a GradScaler that was not undone, or the rate is another one",
        "unscale the gradients (scaler.unscale_), divide the update by the scale, or declare the true lr",
    )


def _bias(target: Target, gradient: Named) -> Tensor | None:
    """The output bias's gradient, of a cross entropy with hard labels; None where there is none to read."""
    if not acts_as(target.loss, CrossEntropy) or target.loss.smoothing > 0:
        return None
    try:
        layer = output_layer(target)
    except NoSuchLayer:
        return None
    value = None if layer.bias is None else gradient.get(layer.bias)
    return None if value is None or not bool((value != 0).any()) else value.double()


def _normalized(target: Target, gradient: Named) -> Iterator[Look]:
    finite = all(bool(torch.isfinite(value).all()) for value in gradient.values())
    if finite and with_batch_statistics(target, gradient):
        yield Look(
            "the gradients before each batch normalization are orthogonal to the weights, as of a client that "
            "normalized over its own batch",
            "declare the model in training mode: training=True",
        )
