"""Whether some inputs of a batch are what was fed: by the errors of the units that each wakes alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from leakscope.attacks.inputs.dense.silent_errors import MOST_PAIRS, Resting
from leakscope.attacks.parts.reading.replayed import last_places, unreplayable
from leakscope.core.facts import BatchSize
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.reading import clipped, evenly, known_weights
from leakscope.targets.looking.dense_ends import DenseLayer

SAME = 1e-3
"""Largest relative difference that is rounding of a forward and a backward pass in float32."""
COARSEST = 1e-2
"""Largest one that rounding of a difference of weights may excuse: a share of the batch is farther from others."""


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
    if unable is None and evenly(seen) is Answer.NO:
        unable = "not all examples are in the update equally often"
    classes = seen.target.classes
    if unable is None and len(values) * classes > MOST_PAIRS:
        unable = "there are too many labels to try"
    if unable is not None:
        return Refusal(f"not all of the batch is claimed, and its errors cannot be compared: {unable}")
    assert layer.bias is not None
    sent = seen.gradient().by_name[layer.bias].double().cpu().numpy()
    given = np.repeat(values.double().cpu().numpy(), classes, axis=0)
    rounding = last_places(seen, layer.bias, float(np.linalg.norm(sent)))
    # Row (s, y): the error of input s with label y, as if it were alone.
    alone = Resting(seen.target, layer).slopes(given, labels=torch.arange(classes).repeat(len(values)))
    errors = alone.reshape(len(values), classes, -1) / seen.told(BatchSize).count
    for error, woken in zip(errors, units.cpu().numpy(), strict=True):
        size = max(float(np.linalg.norm(sent[woken])), 1e-300)
        away = float(np.linalg.norm(error[:, woken] - sent[woken], axis=1).min()) / size
        if not away <= min(SAME + rounding / size, COARSEST):
            return Refusal(f"the error of an input, run through the declared model, is {away:.0e} from what was sent")
    return True
