"""One forward pass of anybody's model, with a sentence where it fails."""

from __future__ import annotations

import torch
from torch import Tensor

from leakscope.core.target import Target
from leakscope.numerics.rng import Key

FORWARD_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, AssertionError, KeyError)
"""What other people's forward passes raise on inputs that they were not written for."""


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of its text.

    >>> first_line(ValueError("one\\ntwo"))
    'ValueError: one'
    """
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def run(target: Target, inputs: Tensor, *, key: Key) -> Tensor | str:
    """The outputs (B, classes), or a sentence that says why the model does not give them."""
    try:
        with key.isolated(), torch.no_grad():
            outputs: object = target.outputs(target.parameters(), inputs)
    except FORWARD_ERRORS as error:
        return f"the model fails on inputs of shape {tuple(inputs.shape)}: {first_line(error)}"
    wanted = (len(inputs), target.classes)
    if not isinstance(outputs, Tensor):
        return f"the model returns a {type(outputs).__name__}, expected one tensor of logits {wanted}"
    if tuple(outputs.shape) != wanted:
        return f"the model turns {tuple(inputs.shape)} into {tuple(outputs.shape)}, expected logits {wanted}"
    return outputs
