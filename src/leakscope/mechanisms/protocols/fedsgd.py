"""Federated SGD: the client sends the gradient of its mean loss."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import final

import torch

from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.core.release import Gradient, Release
from leakscope.core.target import Target
from leakscope.mechanisms.compose import AbstractProtocol
from leakscope.numerics.rng import Key


@final
@dataclass(frozen=True)
class FedSGD(AbstractProtocol):
    """g = d/dw mean_b loss(w; x_b, y_b), one tensor per parameter (McMahan et al. 2017, arXiv:1602.05629, section 2).

    >>> FedSGD()
    FedSGD()
    """

    def release(self, target: Target, batch: Batch, *, key: Key) -> Gradient:
        """Backward through a copy of the module itself, as a client does."""
        module = copy.deepcopy(target.module).requires_grad_(True)
        with key.child("model").isolated(), torch.enable_grad():
            target.loss(module(batch.inputs.detach()), batch).backward()
        named = dict(module.named_parameters())
        missing = [name for name, value in named.items() if value.grad is None]
        if len(missing) == len(named):
            raise BadInput("the loss does not depend on any parameter; check the model's forward")
        return Gradient({n: torch.zeros_like(p) if p.grad is None else p.grad.detach() for n, p in named.items()})

    def replay(self, target: Target, batch: Batch) -> Gradient:
        """The same by functional differentiation, differentiable in the candidate."""
        return Gradient(torch.func.grad(target.loss_at)(target.parameters(), batch))

    def as_gradient(self, release: Release) -> Gradient:
        """The release itself. Raises `BadInput` when it is not a gradient."""
        if not isinstance(release, Gradient):
            raise BadInput(f"FedSGD releases a Gradient, got {release!r}; declare the mechanism that made it")
        return release
