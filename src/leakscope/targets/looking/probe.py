"""One forward pass of anybody's model, with a sentence where it fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from leakscope.core.target import CrossEntropy, Target
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
    """The outputs, (B, classes) for cross-entropy and (B, ..., classes) else, or a sentence that says why not."""
    try:
        with key.isolated(), torch.no_grad():
            outputs: object = target.outputs(target.parameters(), inputs)
    except FORWARD_ERRORS as error:
        return f"the model fails on inputs of shape {tuple(inputs.shape)}: {first_line(error)}"
    wanted = (len(inputs), target.classes)
    if not isinstance(outputs, Tensor):
        return f"the model returns a {type(outputs).__name__}, expected one tensor of logits {wanted}{_inside(outputs)}"
    if isinstance(target.loss, CrossEntropy):
        fits, per_step = tuple(outputs.shape) == wanted, outputs.dim() == 3
        hint = "; one output per frame or token needs the loss of sequences (CTC), or the logits of one position"
    else:
        fits, per_step = outputs.dim() >= 2 and (len(outputs), outputs.shape[-1]) == wanted, False
        hint = ""
    if not fits:
        return (
            f"the model turns {tuple(inputs.shape)} into {tuple(outputs.shape)}, expected logits "
            f"{wanted if isinstance(target.loss, CrossEntropy) else (wanted[0], '...', wanted[1])}{hint * per_step}"
        )
    return outputs


def _inside(outputs: object) -> str:
    """Where the logits may be: in a mapping, an object of model libraries (`.logits`), or a sequence."""
    if isinstance(outputs, Mapping):
        names = [str(name) for name, value in outputs.items() if isinstance(value, Tensor)]
        return f"; wrap the model so that forward returns one of its {', '.join(names)}" if names else ""
    if isinstance(getattr(outputs, "logits", None), Tensor):
        return "; wrap the model so that forward returns its .logits"
    if isinstance(outputs, Sequence) and any(isinstance(value, Tensor) for value in outputs):
        return "; wrap the model so that forward returns one of them"
    return ""
