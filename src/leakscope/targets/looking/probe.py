"""One forward pass of anybody's model, with a sentence where it fails."""

from __future__ import annotations

import torch
from torch import Tensor

from leakscope.core.errors import BadInput, first_line
from leakscope.core.overriding import acts_as
from leakscope.core.refusal import Refusal
from leakscope.core.target import CrossEntropy, Target
from leakscope.numerics.rng import Key

FORWARD_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, AssertionError, KeyError)
"""What other people's forward passes raise on inputs that they were not written for."""


def probed(target: Target, inputs: Tensor, *, key: Key) -> Tensor | Refusal:
    """The outputs, (B, classes) for cross-entropy and (B, ..., classes) else, or a sentence that says why not."""
    try:
        with key.isolated(), torch.no_grad():
            outputs = target.outputs(target.parameters(), inputs)
    except BadInput as error:
        return Refusal(str(error))  # of the feed, which says itself what was returned and what to name
    except FORWARD_ERRORS as error:
        return Refusal(f"the model fails on inputs of shape {tuple(inputs.shape)}: {first_line(error)}")
    wanted = (len(inputs), target.loss.outputs(target.classes))
    # cross-entropy wants one row per example; other losses read one per frame, token or example
    if acts_as(target.loss, CrossEntropy):
        fits, per_step = tuple(outputs.shape) == wanted, outputs.dim() == 3
        hint = "; one output per frame or token needs the loss of sequences (CTC), or the logits of one position"
    else:
        fits, per_step = outputs.dim() >= 2 and (len(outputs), outputs.shape[-1]) == wanted, False
        hint = ""
    if not fits:
        return Refusal(
            f"the model turns {tuple(inputs.shape)} into {tuple(outputs.shape)}, expected logits "
            f"{wanted if acts_as(target.loss, CrossEntropy) else (wanted[0], '...', wanted[1])}{hint * per_step}"
        )
    return outputs
