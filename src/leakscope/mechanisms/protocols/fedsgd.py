"""Federated SGD: the client sends the gradient of its mean loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.core.release import Gradient, Release
from leakscope.core.target import Target
from leakscope.mechanisms.compose import AbstractProtocol
from leakscope.mechanisms.effects import Answer, ProtocolEffect
from leakscope.mechanisms.protocols.passes import client_gradient, own_module, quiet, replayed_gradient
from leakscope.numerics.rng import Key


@final
@dataclass(frozen=True)
class FedSGD(AbstractProtocol):
    """g = d/dw mean_b loss(w; x_b, y_b), one tensor per parameter (McMahan et al. 2017, arXiv:1602.05629, section 2).

    >>> FedSGD()
    FedSGD()
    """

    @property
    def effect(self) -> ProtocolEffect:
        """The mean gradient at the known weights, and nothing else."""
        return ProtocolEffect(
            known_weights=Answer.YES,
            one_gradient=Answer.YES,
            keeps_ratios=Answer.YES,
            keeps_zeros=Answer.YES,
            clips=Answer.NO,
            unbiased=Answer.YES,
            adds_weights=Answer.NO,
            bends=Answer.NO,
            signs=Answer.NO,
            only_disturbs=Answer.YES,
            keeps_inputs=Answer.YES,
        )

    def noise(self, examples: int | None) -> float | None:
        """0: nothing is added."""
        del examples
        return 0.0

    def evenly(self, examples: int) -> Answer:
        """Each is in the mean once."""
        del examples
        return Answer.YES

    def release(self, target: Target, batch: Batch, *, key: Key) -> Gradient:
        """Backward through a copy of the module itself, as a client does.

        Raises `BadInput` when the loss does not depend on any parameter.
        """
        with key.child("model").isolated(), torch.enable_grad():
            # a copy in the target's own mode: dropout draws from the key, running statistics change on the copy alone
            return Gradient(client_gradient(own_module(target), target, batch))

    def replay(self, target: Target, batch: Batch) -> Gradient:
        """The same by functional differentiation, differentiable in the candidate; dropout is off."""
        with quiet(target):
            # quiet: the adversary knows the layers, but not what they drew
            return Gradient(replayed_gradient(target, target.parameters(), batch))

    def as_gradient(self, release: Release) -> Gradient:
        """The release itself. Raises `BadInput` when it is not a gradient."""
        if not isinstance(release, Gradient):
            raise BadInput(f"FedSGD releases a Gradient, got {release!r}; declare the mechanism that made it")
        return release
