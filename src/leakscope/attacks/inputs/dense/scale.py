"""Whether the scale of claimed inputs is theirs: a weight and a bias sent in different scales give another one."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leakscope.attacks.inputs.dense.silent_errors import MOST_PAIRS, Judged, Resting
from leakscope.attacks.parts.reading.explained import MOST
from leakscope.attacks.parts.reading.replayed import drops, unreplayable
from leakscope.core.facts import BatchSize
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.protocols.passes import quiet
from leakscope.mechanisms.reading import clipped, keeps_model, known_weights
from leakscope.targets.looking.dense_ends import DenseLayer

Array = NDArray[np.float64]

SAME = 1e-3
"""Largest relative difference that is rounding of a forward and a backward pass in float32."""
OTHER = 1.02
"""A factor that a check has to tell from one, both ways: one that could not fail would show nothing."""
ENTRIES = 2e7
"""Largest product of entries and unknown errors, a second or two."""


def sized(seen: Observation, layer: DenseLayer, values: Tensor) -> bool | Refusal:
    """Whether the model itself shows that the inputs are not those that were fed times a number; why not, if they are.

    dL/dW = sum_s delta_s x_s^T, dL/db = sum_s delta_s: with dL/db c times as large (a learning rate of its own for
    biases, a clip by tensor), x_s / c and c delta_s explain the same to the last digit. The model ends this: by the
    whole update, which some errors at the output must give whatever the loss is, or by the units that are at rest.
    values: (N, D), all inputs of the batch.
    """
    for check in (_any_loss, _at_rest):
        left, larger, smaller = (check(seen, layer, factor, values) for factor in (1.0, OTHER, 1 / OTHER))
        if left is None:
            continue
        if left > SAME:
            return Refusal(f"the declared model, run on these inputs, is {left:.0e} from what was sent")
        if min(larger or 0.0, smaller or 0.0) > 3 * SAME:
            return True
    return False


def fitted(seen: Observation, layer: DenseLayer, values: Tensor, units: Tensor) -> bool | Refusal:
    """Whether the errors of inputs that wake units alone are those that were sent; why the inputs may be others if not.

    Of a mean over N examples dL/db of such a unit is 1/N times the error that the declared model gives that input with
    its label, size included: neither a multiple of the input nor a mixture of several has it.
    values: (N, D), some of the inputs of the batch. units: (N, H), those that each wakes alone.
    """
    unable = unreplayable(seen)
    if unable is None and known_weights(seen.mechanism) is not Answer.YES:
        unable = "the weights moved on the way"
    if unable is None and clipped(seen) is not Answer.NO:
        unable = "a clip may have scaled the update"
    if unable is None and not seen.knows(BatchSize):
        unable = "how many examples there are is not told"
    classes = seen.target.classes
    if unable is None and len(values) * classes > MOST_PAIRS:
        unable = "there are too many labels to try"
    if unable is not None:
        return Refusal(f"not all of the batch is claimed, and its errors cannot be compared: {unable}")
    assert layer.bias is not None
    sent = seen.gradient().by_name[layer.bias].double().cpu().numpy()
    given = np.repeat(values.double().cpu().numpy(), classes, axis=0)
    # Row (s, y): the error of input s with label y, as if it were alone.
    alone = Resting(seen.target, layer).slopes(given, labels=torch.arange(classes).repeat(len(values)))
    errors = alone.reshape(len(values), classes, -1) / seen.told(BatchSize).count
    for error, woken in zip(errors, units.cpu().numpy(), strict=True):
        size = max(float(np.linalg.norm(sent[woken])), 1e-300)
        away = float(np.linalg.norm(error[:, woken] - sent[woken], axis=1).min()) / size
        if not away <= SAME:
            return Refusal(f"the error of an input, run through the declared model, is {away:.0e} from what was sent")
    return True


def _any_loss(seen: Observation, layer: DenseLayer, factor: float, values: Tensor) -> float | None:
    """What is left of the worst tensor with the best errors e_s (C,) at the output: G = sum_s J(f x_s)^T e_s.

    factor f: the same for inputs f times as large and a bias gradient of the layer that is 1 / f of what was sent.
    None where the model that was run, or its weights, are not known, or there are too many unknowns.
    """
    if known_weights(seen.mechanism) is not Answer.YES or keeps_model(seen.mechanism) is not Answer.YES:
        return None
    target, sent = seen.target, seen.gradient().by_name
    names = [name for name in target.parameters() if name in sent]
    entries = sum(sent[name].numel() for name in names)
    unknown = len(values) * target.classes
    if drops(target.module) or unknown > MOST or entries * unknown > ENTRIES or entries <= unknown:
        return None
    parameters = target.parameters()
    like = next(iter(parameters.values()))
    columns = []

    def output(weights: dict[str, Tensor], given: Tensor, place: int) -> Tensor:
        return target.outputs(weights, given).reshape(-1)[place]

    with quiet(target):
        for value in values:
            given = (factor * value).reshape(1, *target.domain.shape).to(like)
            for place in range(target.classes):
                slope = torch.func.grad(output)(parameters, given, place)
                columns.append([slope[name].reshape(-1).double() for name in names])
    goal = [sent[name].reshape(-1).double() / (factor if name == layer.bias else 1.0) for name in names]
    # Each tensor counts alike: the layer's bias is a thousandth of the entries, and all that is in question.
    sizes = [max(float(torch.linalg.vector_norm(one)), 1e-300) for one in goal]
    most = max(sizes)
    sizes = [max(size, 1e-3 * most) for size in sizes]
    matrix = torch.stack([torch.cat([p / s for p, s in zip(one, sizes, strict=True)]) for one in columns], 1)
    wanted = torch.cat([one / size for one, size in zip(goal, sizes, strict=True)])
    found = torch.linalg.lstsq(matrix.cpu(), wanted.cpu()[:, None], driver="gelsd").solution
    left = (matrix.cpu() @ found)[:, 0] - wanted.cpu()
    return max(float(torch.linalg.vector_norm(one)) for one in left.split([part.numel() for part in goal]))


def _at_rest(seen: Observation, layer: DenseLayer, factor: float, values: Tensor) -> float | None:
    """What is left of [dL/dW, dL/db / f] with errors of zero where the model at f x is at rest; see `LowRank`.

    None where no unit of the layer is ever at rest, so that nothing could be left. It holds behind dropout too, and
    nearly after local steps, whose weights moved.
    """
    if keeps_model(seen.mechanism) is Answer.UNKNOWN:
        return None
    sent = seen.gradient().by_name
    assert layer.bias is not None
    weight, bias = (sent[name].double().cpu().numpy() for name in (layer.weight, layer.bias))
    gradient = np.hstack([weight.reshape(len(bias), -1), bias[:, None] / factor])
    given = factor * values.double().cpu().numpy()
    resting = Resting(seen.target, layer)
    reach = 1e-5 * np.linalg.norm(given, axis=1)[:, None] * np.linalg.norm(_matrix(seen, layer), axis=1)[None]
    awake = resting.awake(given, reach)
    live = np.linalg.norm(gradient, axis=1) > 0
    judged = Judged(gradient, given, awake, live)
    if awake.all() or not math.isfinite(judged.residual()):
        return None
    return judged.residual()


def _matrix(seen: Observation, layer: DenseLayer) -> Array:
    weight = seen.target.parameters()[layer.weight].detach().double().cpu().numpy()
    return np.asarray(weight.reshape(len(weight), -1))
