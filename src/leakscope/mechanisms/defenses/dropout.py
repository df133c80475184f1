"""Dropout in the client's model as a defense."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import final

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from leakscope.core.arguments import number
from leakscope.core.errors import NoSuchLayer
from leakscope.core.target import Target
from leakscope.mechanisms.compose import AbstractModelDefense
from leakscope.mechanisms.effects import Answer, ModelEffect


@final
@dataclass(frozen=True)
class Dropout(AbstractModelDefense):
    """The client trains with all of the model's dropout layers active at `rate` (Srivastava et al. 2014, JMLR 15).

    As a defense: Scheliga et al. 2022 (arXiv:2208.06163), who also show that an adversary who searches for the masks
    undoes it. All other layers, batch normalization too, keep the target's mode.
    rate: the probability that a unit is dropped, in [0, 1). Raises `BadInput` on another rate, `NoSuchLayer` when the
    model has no dropout layer.

    >>> Dropout(0.5)
    Dropout(rate=0.5)
    """

    rate: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", number("rate", self.rate, low=0, high=1, high_open=True))

    def apply(self, target: Target) -> Target:
        """A copy of the target whose dropout layers drop; they draw from torch's stream, which the protocol keys."""
        copied = dataclasses.replace(target)  # a target copies its module, so the caller's keeps its mode
        for layer in _layers(copied):
            # this layer alone: a batch normalization in training mode would be another mechanism
            layer.train()
            if isinstance(layer, _DropoutNd):
                layer.p = self.rate
            elif isinstance(layer, nn.RNNBase | nn.MultiheadAttention):
                layer.dropout = self.rate
        return copied

    def replay(self, target: Target) -> Target:
        """The target itself: every protocol's replay runs without dropout."""
        # raises where `apply` would: an attack must not replay a defense that cannot be there
        _layers(target)
        return target

    @property
    def effect(self) -> ModelEffect:
        """Units are dropped at random; the replay runs without."""
        return ModelEffect(keeps_model=Answer.NO, drops_units=Answer.YES, unbiased=Answer.YES)


def _layers(target: Target) -> list[nn.Module]:
    """The dropout layers, and the recurrent and attention layers that were built with dropout inside."""
    found: list[nn.Module] = [
        module
        for module in target.module.modules()
        if isinstance(module, _DropoutNd) or (isinstance(module, nn.RNNBase | nn.MultiheadAttention) and module.dropout)
    ]
    if not found:
        raise NoSuchLayer(
            f"the model {target.name!r} has no dropout layer; build it with one, or choose another defense than Dropout"
        )
    return found
