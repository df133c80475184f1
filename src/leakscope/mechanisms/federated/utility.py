"""How good a model is on data of nobody's training: what a defense costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.core.target import Target
from leakscope.mechanisms.protocols.passes import quiet
from leakscope.numerics.trees import Named

AT_ONCE = 4096
"""Examples of one pass."""


@final
@dataclass(frozen=True)
class Utility:
    """Before the round `number`: accuracy in [0, 1], and uar, the mean over classes of the share that is recognized.

    uar is of the classes that there are examples of: each counts the same, however rare. loss: the training loss.
    """

    number: int
    accuracy: float
    uar: float
    loss: float


def utility(target: Target, weights: Named, held: Batch, *, number: int = 0) -> Utility:
    """Of the model at `weights` on `held`; dropout is off. Raises `BadInput` where labels are no classes."""
    if held.labels.dim() != 1:
        raise BadInput(f"accuracy needs classes, got labels of shape {tuple(held.labels.shape)}; hold nothing out")
    parts, losses = [], []
    # the original judges with dropout on, which makes the number random
    with quiet(target), torch.no_grad():
        for rows in torch.arange(len(held)).split(AT_ONCE):
            part = held.rows(rows)
            outputs = target.outputs(weights, part)
            parts.append(outputs.argmax(-1))
            losses.append(float(target.loss_of(outputs, part)) * len(part))
    named: Tensor = torch.cat(parts)
    right = named == held.labels
    recalls = [float(right[held.labels == one].double().mean()) for one in held.labels.unique()]
    return Utility(number, float(right.double().mean()), sum(recalls) / len(recalls), sum(losses) / len(held))
