"""The output layer's gradient, read once for all label attacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.attacks.parts.reading.trained import NOT_TRAINED, idle
from leakscope.core.errors import NoSuchLayer
from leakscope.core.facts import BatchSize, TrueLabels
from leakscope.core.observation import Observation
from leakscope.core.overriding import acts_as
from leakscope.core.refusal import Refusal
from leakscope.core.target import CrossEntropy
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.reading import clipped, keeps_ratios
from leakscope.targets.looking.dense_ends import DenseLayer, alone_at_output, output_layer
from leakscope.targets.losses import NextToken

HEARD = 1e-3
"""Share of the largest entry below which a sign is rounding: that of a weight's last place, divided by a small lr."""


@final
@dataclass(frozen=True, eq=False)
class OutputGradient:
    """The gradient of the mean cross entropy at the output layer, in float64.

    weight: (C, d) = mean_b (p_b - y_b) h_b^T. bias: (C,) = mean_b (p_b - y_b). Each is None when it is not in the
    release or zero throughout (frozen, filtered, pruned away); never both.
    Label smoothing is public and already taken out of `bias`: y is (1 - smoothing) times one-hot.
    """

    layer: DenseLayer
    weight: Tensor | None
    bias: Tensor | None
    smoothing: float


def told_one(seen: Observation) -> bool:
    """Whether the adversary was told that there is one example, so that nothing can be mixed."""
    if seen.knows(BatchSize):
        return seen.told(BatchSize).count == 1
    # Labels are told of all examples, and so is their number.
    return seen.knows(TrueLabels) and len(seen.told(TrueLabels).values) == 1


def read_output(seen: Observation, *, tokens: bool = False) -> OutputGradient | Refusal:
    """The output layer's gradient, or the reason why it cannot be read.

    tokens: also of `NextToken`, where b counts the places that have a next token, and the mean is over these as long as
    all texts have as many.
    """
    loss = seen.target.loss
    smoothing = loss.smoothing if acts_as(loss, CrossEntropy) else 0.0
    if not acts_as(loss, CrossEntropy) and not (tokens and acts_as(loss, NextToken)):
        return Refusal(f"reads the gradient of a cross entropy, but the target is trained with {loss!r}")
    try:
        layer = output_layer(seen.target)
    except NoSuchLayer as error:
        # Not the exception: some callers can do without the output layer.
        return Refusal(str(error))
    gradient = seen.gradient().by_name
    if not any(bool((value != 0).any()) for value in gradient.values()):
        return Refusal("every number of the update is zero: nothing was trained, as after a step that a scaler skipped")
    # What was not trained is no gradient; zeros would say that every class is there as often as expected.
    still = idle(gradient)
    weight = gradient[layer.weight].double() if layer.weight in gradient.keys() - still else None
    bias = None
    # A weight that is used elsewhere too has a gradient of its own from there, which looks like labels.
    own_weight, own_bias = alone_at_output(seen.target)
    if weight is not None and not own_weight:
        weight = None
        if layer.bias not in gradient or not own_bias:
            return Refusal(
                f"{layer.weight} is used elsewhere in the model too (tied, or called twice), so its gradient is a sum"
            )
    if smoothing > 0 and clipped(seen) is not Answer.NO:
        # p - y = p - (1 - s) e_y - s / C: the shift is public, the factor by which a clip shrank it is not.
        return Refusal("labels are smoothed, and a clip may have scaled by how much: no sign is sure")
    if own_bias and layer.bias is not None and layer.bias in gradient and layer.bias not in still:
        # mean(p - q) with q = (1 - smoothing) one-hot + smoothing / C; the second part is the same for every class.
        bias = gradient[layer.bias].double() + smoothing / layer.outputs
    if weight is None and bias is None:
        return Refusal(
            f"the gradient of {layer.weight} {NOT_TRAINED}"
            if layer.weight in gradient
            else f"the release lacks {layer.weight}, the output layer's weight"
        )
    return OutputGradient(layer, weight, bias, smoothing)


def too_many(seen: Observation, output: OutputGradient) -> str | None:
    """Why the bias gradient is none: more classes fall than there are examples. None where nothing speaks against.

    mean_b (p_bc - y_bc) is negative at the classes of the batch alone, and of B examples these are at most B. Not asked
    where a defense changes entries one by one, nor where the number of examples was not told.
    """
    if output.bias is None or not told_count(seen) or keeps_ratios(seen.mechanism) is not Answer.YES:
        return None
    low = int((output.bias < -HEARD * output.bias.abs().max()).sum())
    if low <= told_count(seen):
        return None
    return (
        f"the output bias falls at {low} of {len(output.bias)} classes, and only the classes of {told_count(seen)} "
        "examples can: the sign is reversed, or the batch is larger; declare a gradient as a gradient and a change of "
        "weights as a delta"
    )


def told_count(seen: Observation) -> int:
    """How many examples there are; 0 where it was not told."""
    if seen.knows(BatchSize):
        return seen.told(BatchSize).count
    return len(seen.told(TrueLabels).values) if seen.knows(TrueLabels) else 0


def only_row_pattern(weight: Tensor) -> tuple[int, float]:
    """The class of a single example from weight (C, d) = (p - y) h^T alone, and a residual in [0, 2].

    Every row but the true one is a positive multiple of h, the true one a negative multiple, and it is the longest
    (|1 - p_y| = sum of the others). The residual is the largest 1 + cos between the true row and another: 0 when the
    gradient is that of one example. Rows below rounding say nothing and are left out.
    """
    norms = torch.linalg.vector_norm(weight, dim=1)
    label = int(norms.argmax())
    # A millionth of the longest row is rounding of float32.
    heard = norms > 1e-6 * norms[label]
    heard[label] = False
    # No row to compare with is no agreement: the worst value of 1 + cos.
    if not bool(heard.any()):
        return label, 2.0
    # -1 for one example: p_c h against (p_y - 1) h. The largest, since one row that differs shows a second example.
    cosine = (weight[heard] @ weight[label]) / (norms[heard] * norms[label])
    return label, float((1 + cosine).max())
