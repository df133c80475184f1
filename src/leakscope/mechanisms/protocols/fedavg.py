"""Federated averaging: the client trains for some steps and sends how its weights changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.core.arguments import count, flag, number
from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.core.release import Delta, Gradient, Release
from leakscope.core.target import Target
from leakscope.mechanisms.compose import AbstractProtocol
from leakscope.mechanisms.effects import Answer, ProtocolEffect
from leakscope.mechanisms.protocols.passes import client_gradient, own_module, quiet, replayed_gradient
from leakscope.numerics import trees
from leakscope.numerics.rng import Key


@final
@dataclass(frozen=True)
class FedAvg(AbstractProtocol):
    """delta = w_K - w_0 with v_k = momentum * v_(k-1) + g(w_(k-1)), w_k = w_(k-1) - lr * v_k, k = 1..K.

    McMahan et al. 2017 (arXiv:1602.05629), algorithm 1, with PyTorch's momentum (no dampening).

    steps: K >= 1, how often the weights are updated before they are sent. lr > 0: weight change per gradient.
    batch_size: examples per step, taken one after the other and from the front again when they run out; None, or as
    many as there are, takes the whole batch in each step. momentum: in [0, 1).
    shuffle: the client permutes its examples by its key at the start of each pass. The adversary does not know the
    order: `replay` takes the given one, so it differs from the release by what the order does.
    Raises `BadInput` on a value outside these ranges.

    >>> FedAvg(steps=4, lr=0.1)
    FedAvg(steps=4, lr=0.1, batch_size=None, momentum=0.0, shuffle=False)
    """

    steps: int
    lr: float
    batch_size: int | None = None
    momentum: float = 0.0
    shuffle: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", count("steps", self.steps))
        object.__setattr__(self, "lr", number("lr", self.lr, low=0, low_open=True))
        if self.batch_size is not None:
            object.__setattr__(self, "batch_size", count("batch_size", self.batch_size))
        object.__setattr__(self, "momentum", number("momentum", self.momentum, low=0, high=1, high_open=True))
        flag("shuffle", self.shuffle)

    @property
    def effect(self) -> ProtocolEffect:
        """A sum of gradients, of which all but the first are at weights that moved."""
        return ProtocolEffect(
            known_weights=Answer.NO,
            one_gradient=Answer.NO,
            keeps_ratios=Answer.YES,
            keeps_zeros=Answer.YES,
            clips=Answer.NO,
            unbiased=Answer.YES,
        )

    def noise(self, examples: int | None) -> float | None:
        """0: nothing is added."""
        del examples
        return 0.0

    def release(self, target: Target, batch: Batch, *, key: Key) -> Delta:
        """The module is trained with `torch.optim.SGD`, as a client does, and compared with what it was.

        Raises `BadInput` when the loss does not depend on any parameter.
        """
        order = key.child("order") if self.shuffle else None
        with key.child("model").isolated(), torch.enable_grad():
            module = own_module(target)
            # torch's own optimizer, and not the recursion of `replay`: a law compares the two
            optimizer = torch.optim.SGD(module.parameters(), lr=self.lr, momentum=self.momentum)
            for rows in self._schedule(len(batch), order):
                client_gradient(module, target, _part(batch, rows))
                # reads the gradients that `client_gradient` left in .grad
                optimizer.step()
        return Delta.between(target.parameters(), {name: p.detach() for name, p in module.named_parameters()})

    def replay(self, target: Target, batch: Batch) -> Delta:
        """The steps unrolled, differentiable in the candidate through all of them; dropout is off, the order as given.

        The displacement from the first weights is carried instead of the weights, which saves the difference of two
        nearly equal numbers at the end.
        """
        start = target.parameters()
        moved: dict[str, Tensor] = {name: torch.zeros_like(value) for name, value in start.items()}
        # zeros as well: v_0 = 0
        velocity = moved
        with quiet(target):
            for rows in self._schedule(len(batch), None):
                # g(w_(k-1)) with w_(k-1) = w_0 + moved
                slope = replayed_gradient(target, trees.over(torch.add, start, moved), _part(batch, rows))
                # v_k = momentum * v_(k-1) + g, without dampening: the first step is the whole gradient
                velocity = trees.over(torch.add, trees.scale(velocity, self.momentum), slope)
                # minus: the weights go against the gradient, hence delta = -lr * gradient after one step
                moved = trees.subtract(moved, trees.scale(velocity, self.lr))
        return Delta(moved)

    def as_gradient(self, release: Release) -> Gradient:
        """-delta / (lr * S), S = sum_(k=1..K) (1 - momentum^k) / (1 - momentum): exact if the gradient stays the same.

        S is what K steps make of a constant gradient 1 (K without momentum). In general the result is a mean of the
        gradients along the path, of which momentum weighs the early ones more.
        Raises `BadInput` when the release is not a delta.
        """
        if not isinstance(release, Delta):
            raise BadInput(
                f"FedAvg releases a Delta (weights after minus before), got {release!r}; wrap the change of the "
                "weights in Delta, or declare the mechanism that made this release"
            )
        # as_gradient divides by lr * steps; the factor makes of it lr * S
        return release.as_gradient(lr=self.lr * (self._travel() / self.steps), steps=self.steps)

    def _travel(self) -> float:
        """S of `as_gradient`, by running the recursion on the constant gradient 1 with lr 1."""
        velocity = travel = 0.0
        for _ in range(self.steps):
            velocity = self.momentum * velocity + 1.0
            travel += velocity
        return travel

    def _schedule(self, examples: int, order: Key | None) -> list[Tensor | None]:
        """The rows of each step; None is the whole batch. `order` permutes the examples anew in each pass."""
        size = examples if self.batch_size is None else min(self.batch_size, examples)
        if size == examples:
            return [None] * self.steps
        # rounded up: enough passes over the examples for all steps
        passes = -(-self.steps * size // examples)
        if order is None:
            stream = torch.arange(examples).repeat(passes)
        else:
            stream = torch.cat([torch.randperm(examples, generator=order.child(p).generator()) for p in range(passes)])
        return list(stream[: self.steps * size].split(size))


def _part(batch: Batch, rows: Tensor | None) -> Batch:
    return batch if rows is None else batch.rows(rows.to(batch.inputs.device))
