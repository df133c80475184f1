"""Local training with clipped mini-batches and noise on the weights, as it was published as user-level privacy."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from leakscope.core.arguments import count, instance, number
from leakscope.core.batch import Batch
from leakscope.core.release import Delta, Gradient, Release
from leakscope.core.target import Target
from leakscope.mechanisms.compose import AbstractProtocol
from leakscope.mechanisms.effects import Answer, ProtocolEffect
from leakscope.mechanisms.protocols.fedavg import FedAvg
from leakscope.mechanisms.protocols.optimizers import Moments
from leakscope.mechanisms.protocols.passes import client_gradient, own_module, quiet, reached, replayed_gradient
from leakscope.numerics import trees
from leakscope.numerics.rng import Key, normal

BOUNDS_NOTHING = (
    "it clips the gradient of each mini-batch and not the update. The optimizer comes after the clip (Adam divides by "
    "the size of what it is given, so that any clip leads to the same steps): what a client changes is not bounded by "
    "the clip, and noise that is measured by it hides nothing. Its delta of 0.5 allows to reveal half of all clients, "
    "and its noise depends on how many examples a client has. Use Federation(..., privacy=UserLevel(...))"
)
"""Why no epsilon is computed of it."""
SILENT = 1e300
"""Its epsilon with noise of no size: the noise is proportional to 1 / epsilon, and an infinite one is refused."""


@final
@dataclass(frozen=True)
class BatchClipped(AbstractProtocol):
    """FedAvg on g min(1, C / ||g||_2) for each mini-batch, then w_K + N(0, s^2).

    s = (2 C / n) sqrt(2 q T ln(1 / delta)) / epsilon with n the client's examples (UDP: arXiv:2204.02500, section 3 and
    its code). To audit, not to protect with: its epsilon is no bound on anything (`BOUNDS_NOTHING`).
    local: what the client does besides. clip: C > 0. epsilon: > 0. delta: in (0, 1). rate: q, the share of clients in
    a round, in (0, 1]. rounds: T >= 1. Raises `BadInput` on other values.

    >>> from leakscope import FedAvg
    >>> round(BatchClipped(FedAvg(1, 5e-4), epsilon=10.0).std(20), 4)
    0.0132
    """

    local: FedAvg
    clip: float = 0.25
    epsilon: float = 10.0
    delta: float = 0.5
    rate: float = 0.1
    rounds: int = 200

    def __post_init__(self) -> None:
        instance("local", self.local, FedAvg, "give FedAvg(steps=1, lr=0.0005, optimizer=ClientAdam())")
        for name in ("clip", "epsilon"):
            object.__setattr__(self, name, number(name, getattr(self, name), low=0, low_open=True))
        object.__setattr__(self, "delta", number("delta", self.delta, low=0, high=1, low_open=True, high_open=True))
        object.__setattr__(self, "rate", number("rate", self.rate, low=0, high=1, low_open=True))
        object.__setattr__(self, "rounds", count("rounds", self.rounds))

    @property
    def undefended(self) -> FedAvg:
        """The local training without clip and noise."""
        return self.local

    @property
    def noiseless(self) -> BatchClipped:
        """The clipped training, with noise that is below the rounding of any weight."""
        return replace(self, epsilon=SILENT)

    @property
    def effect(self) -> ProtocolEffect:
        """Steps of shortened gradients, and noise on all of it: no proportion and no zero survives."""
        local = self.local.effect
        return ProtocolEffect(
            known_weights=Answer.NO,
            one_gradient=Answer.NO,
            keeps_ratios=Answer.NO,
            keeps_zeros=Answer.NO,
            clips=Answer.YES,
            bends=local.bends,
            signs=Answer.NO,
            keeps_inputs=local.keeps_inputs,
        )

    @property
    def passes(self) -> int:
        """As of the local training."""
        return self.local.passes

    def unfit(self, target: Target) -> str | None:
        """As of the local training."""
        return self.local.unfit(target)

    def std(self, examples: int) -> float:
        """s, of a client with so many examples."""
        spent = math.sqrt(2 * self.rate * self.rounds * math.log(1 / self.delta)) / self.epsilon
        return 2 * self.clip / count("examples", examples) * spent

    def release(self, target: Target, batch: Batch, *, key: Key) -> Delta:
        """A module trained by `torch.optim`, its gradients cut by torch's own `clip_grad_norm_`, and the noise.

        Raises `BadInput` when the loss does not depend on any parameter.
        """
        order = key.child("order") if self.local.shuffle else None
        with key.child("model").isolated(), torch.enable_grad():
            module = own_module(target)
            optimizer = self.local.steps_by.build(module.parameters(), lr=self.local.lr)
            for parts in self.local.schedule(len(batch), order):
                slopes = [client_gradient(module, target, _part(batch, rows)) for rows in parts]
                for name, parameter in module.named_parameters():
                    if parameter.grad is not None:
                        parameter.grad = torch.stack([one[name] for one in slopes]).sum(0) * self._share
                # here, before the optimizer: what the published code does, and what makes the clip bound nothing
                torch.nn.utils.clip_grad_norm_(module.parameters(), self.clip)
                optimizer.step()
        std = self.std(len(batch))
        after = {name: value.detach() for name, value in module.named_parameters()}
        # on the weights, from their own keys: so it is in the change of them, as large as it is
        noisy = {name: value + std * normal(value, key.child("noise", name)) for name, value in after.items()}
        return Delta.between(target.parameters(), noisy)

    def replay(self, target: Target, batch: Batch) -> Delta:
        """The steps unrolled, without noise and dropout, the order as given."""
        start = target.parameters()
        moved: dict[str, Tensor] = {name: torch.zeros_like(value) for name, value in start.items()}
        moments, steps_by = Moments(), self.local.steps_by
        with quiet(target):
            trained = reached(target, batch) if steps_by.decays else frozenset(start)
            for parts in self.local.schedule(len(batch), None):
                weights = trees.over(torch.add, start, moved)
                slopes = [replayed_gradient(target, weights, _part(batch, rows)) for rows in parts]
                slope = {name: torch.stack([one[name] for one in slopes]).sum(0) * self._share for name in start}
                # torch's own clip adds 1e-6 to the norm: a client's factor is that
                cut = trees.scale(slope, (self.clip / (trees.norm(slope) + 1e-6)).clamp_max(1.0))
                change, moments = steps_by.step(cut, weights, moments, lr=self.local.lr)
                moved = {name: moved[name] + change[name] if name in trained else moved[name] for name in start}
        return Delta(moved)

    def as_gradient(self, release: Release) -> Gradient:
        """As of the local training: the mean of the shortened gradients along the path, and the noise."""
        return self.local.as_gradient(release)

    @property
    def _share(self) -> float:
        return 1.0 if self.local.summed else 1 / self.local.accumulate


def _part(batch: Batch, rows: Tensor | None) -> Batch:
    return batch if rows is None else batch.rows(rows.to(batch.inputs.device))
