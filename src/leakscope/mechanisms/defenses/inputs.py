"""Changing the inputs before the client trains on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from leakscope.core.arguments import number
from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.core.target import Target
from leakscope.mechanisms.compose import AbstractInputDefense
from leakscope.mechanisms.effects import Answer, InputEffect
from leakscope.numerics.rng import Key, normal


@final
@dataclass(frozen=True)
class InputNoise(AbstractInputDefense):
    """x + std * n, n ~ N(0, 1) for each value, not cut to the legal range.

    std >= 0, in the model's units (after normalization). The noise is on a copy: whoever scores a claim compares it
    with the inputs as they were. It bounds no update, so no epsilon follows from it.
    Raises `BadInput` on a negative or infinite std, and on text, whose tokens bear no noise.

    >>> InputNoise(0.1)
    InputNoise(std=0.1)
    """

    std: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "std", number("std", self.std, low=0))

    @property
    def only_noise(self) -> bool:
        """Yes."""
        return True

    def apply(self, target: Target, batch: Batch, *, key: Key) -> Batch:
        """A new batch with noisy inputs and the same labels; the padding of sequences stays zero."""
        del target
        if batch.holds_tokens:
            raise BadInput("tokens are whole numbers, to which no noise can be added; choose another defense")
        noise = normal(batch.inputs, key)
        if batch.lengths is not None:
            # noise in the padding would tell the model, and the adversary, where an utterance ends
            real = torch.arange(batch.inputs.shape[1], device=batch.inputs.device) < batch.lengths.unsqueeze(1)
            noise = noise * real.unsqueeze(2)
        # a new tensor: scored against noised inputs, noise would look like protection
        return batch.with_inputs(batch.inputs.detach() + self.std * noise)

    def replay(self, target: Target, batch: Batch) -> Batch:
        """The batch itself: the noise has mean zero (it shifts the mean update by what is of second order in std)."""
        del target
        return batch

    @property
    def effect(self) -> InputEffect:
        """The client trains on other inputs: whatever is proved is proved of these."""
        return InputEffect(keeps_inputs=Answer.YES if self.std == 0 else Answer.NO, unbiased=Answer.YES)
