"""Federated averaging: the client trains for some steps and sends how its weights changed."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import final

import torch
from torch import Tensor

from leakscope.core.arguments import count, flag, instance, number
from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.core.release import Delta, Gradient, Release
from leakscope.core.target import Target
from leakscope.mechanisms.compose import AbstractProtocol
from leakscope.mechanisms.effects import Answer, ProtocolEffect
from leakscope.mechanisms.protocols.optimizers import PLAIN, AbstractOptimizer, ClientSGD, Moments
from leakscope.mechanisms.protocols.passes import (
    client_gradient,
    own_module,
    quiet,
    reached,
    replayed_gradient,
    sum_of,
)
from leakscope.numerics import trees
from leakscope.numerics.rng import Key
from leakscope.numerics.trees import Named

MOST_PASSES = 100_000
"""Micro-batches of all steps, beyond which nobody attacks: each is a pass over the model in every replay."""


@final
@dataclass(frozen=True, repr=False)
class FedAvg(AbstractProtocol):
    """delta = w_K - w_0 with v_k = momentum * v_(k-1) + g(w_(k-1)), w_k = w_(k-1) - lr * v_k, k = 1..K.

    McMahan et al. 2017 (arXiv:1602.05629), algorithm 1, with PyTorch's momentum (no dampening) or another optimizer.

    steps: K >= 1, how often the weights are updated before they are sent. lr > 0: weight change per gradient.
    batch_size: examples per step, taken one after the other and from the front again when they run out; None, or as
    many as there are, takes the whole batch in each step. momentum: in [0, 1), short for `ClientSGD(momentum)`.
    shuffle: the client permutes its examples by its key at the start of each pass. The adversary does not know the
    order: `replay` takes the given one, so it differs from the release by what the order does.
    optimizer: what makes a step of a gradient, `ClientSGD`, `ClientAdam` or `ClientAdamW`.
    accumulate: micro-batches of `batch_size` whose gradients make one step, by their mean, or by their sum if `summed`,
    which is what a client gets that calls `backward` for each without dividing.
    Raises `BadInput` on a value outside these ranges, and on several micro-batches without their size.

    >>> FedAvg(steps=4, lr=0.1)
    FedAvg(steps=4, lr=0.1, batch_size=None, momentum=0.0, shuffle=False)
    >>> FedAvg(steps=4, lr=0.1, batch_size=2, accumulate=2)
    FedAvg(steps=4, lr=0.1, batch_size=2, momentum=0.0, shuffle=False, accumulate=2)
    """

    steps: int
    lr: float
    batch_size: int | None = None
    momentum: float = 0.0
    shuffle: bool = False
    optimizer: AbstractOptimizer = PLAIN
    accumulate: int = 1
    summed: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", count("steps", self.steps))
        object.__setattr__(self, "lr", number("lr", self.lr, low=0, low_open=True))
        if self.batch_size is not None:
            object.__setattr__(self, "batch_size", count("batch_size", self.batch_size))
        object.__setattr__(self, "momentum", number("momentum", self.momentum, low=0, high=1, high_open=True))
        flag("shuffle", self.shuffle)
        object.__setattr__(self, "accumulate", count("accumulate", self.accumulate))
        flag("summed", self.summed)
        instance("optimizer", self.optimizer, AbstractOptimizer, "give ClientSGD(...), ClientAdam() or ClientAdamW()")
        if self.momentum > 0 and self.optimizer != PLAIN:
            raise BadInput(f"momentum={self.momentum} beside {self.optimizer!r}; say it there, as ClientSGD(momentum)")
        if self.accumulate > 1 and self.batch_size is None:
            raise BadInput(f"accumulate={self.accumulate} needs batch_size, the examples of one micro-batch")
        unfit = self.steps_by.unfit(lr=self.lr)
        if unfit is not None:
            raise BadInput(unfit)

    def __repr__(self) -> str:
        # What is as it was before there were optimizers keeps its name: it is how records know a mechanism again.
        usual = (("optimizer", PLAIN), ("accumulate", 1), ("summed", False))
        shown = [field.name for field in fields(self) if (field.name, getattr(self, field.name)) not in usual]
        return f"FedAvg({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    @property
    def effect(self) -> ProtocolEffect:
        """A sum of gradients, of which all but the first are at weights that moved, as far as the optimizer keeps it.

        Micro-batches, summed or not, are one more sum. One plain step is -lr times a gradient at the known weights.
        """
        effect = self.steps_by.effect(lr=self.lr)
        # One with a memory or a decay may not have begun afresh, and of Adam no sizes are left.
        plain = self.steps == 1 and self.steps_by == PLAIN
        return replace(effect, known_weights=Answer.YES) if plain else effect

    def noise(self, examples: int | None) -> float | None:
        """0: nothing is added."""
        del examples
        return 0.0

    @property
    def passes(self) -> int:
        """One for each micro-batch of each step."""
        return self.steps * self.accumulate

    def evenly(self, examples: int) -> Answer:
        """Whether whole passes over the examples are taken, and none of them twice in one where another is not."""
        size = examples if self.batch_size is None else min(self.batch_size, examples)
        even = size == examples or self.seen(size) % examples == 0
        return Answer.YES if even else Answer.NO

    def unfit(self, target: Target) -> str | None:
        """More passes than anybody replays, whatever the model: what a header says costs nothing to write."""
        del target
        if self.passes <= MOST_PASSES:
            return None
        return (
            f"replaying it takes {self.passes} passes over the model (steps * accumulate), at most {MOST_PASSES} are "
            "taken; check the number of steps"
        )

    def seen(self, size: int) -> int:
        """How many examples all steps take, counted as often as they are, in micro-batches of `size`."""
        return self.steps * self.accumulate * size

    def release(self, target: Target, batch: Batch, *, key: Key) -> Delta:
        """The module is trained with an optimizer of `torch.optim`, as a client does, and compared with what it was.

        Raises `BadInput` when the loss does not depend on any parameter.
        """
        order = key.child("order") if self.shuffle else None
        with key.child("model").isolated(), torch.enable_grad():
            module = own_module(target)
            # torch's own optimizer, and not the recursion of `replay`: a law compares the two
            optimizer = self.steps_by.build(module.parameters(), lr=self.lr)
            for parts in self.schedule(len(batch), order):
                slopes = [client_gradient(module, target, _part(batch, rows)) for rows in parts]
                # `client_gradient` left in .grad the gradients of the last micro-batch: enough where it is the only one
                for name, parameter in module.named_parameters() if len(parts) > 1 else ():
                    if parameter.grad is not None:
                        total = torch.stack([slope[name] for slope in slopes]).sum(0)
                        parameter.grad = total if self.summed else total / len(slopes)
                optimizer.step()
        return Delta.between(target.parameters(), {name: p.detach() for name, p in module.named_parameters()})

    def replay(self, target: Target, batch: Batch) -> Delta:
        """The steps unrolled, differentiable in the candidate through all of them; dropout is off, the order as given.

        The displacement from the first weights is carried instead of the weights, which saves the difference of two
        nearly equal numbers at the end. Steps of Adam have a slope that is straight through.
        """
        start = target.parameters()
        moved: dict[str, Tensor] = {name: torch.zeros_like(value) for name, value in start.items()}
        moments = Moments()
        share = 1.0 if self.summed else 1 / self.accumulate
        with quiet(target):
            # a parameter that the loss does not reach has no gradient, and torch's optimizers do not decay it
            trained = reached(target, batch) if self.steps_by.decays else frozenset(start)
            for parts in self.schedule(len(batch), None):
                # g(w_(k-1)) with w_(k-1) = w_0 + moved
                weights = trees.over(torch.add, start, moved)
                slopes = [replayed_gradient(target, weights, _part(batch, rows)) for rows in parts]
                slope = {n: share * sum_of(slopes, n) for n in start} if len(slopes) > 1 else slopes[0]
                change, moments = self.steps_by.step(slope, weights, moments, lr=self.lr)
                moved = {name: moved[name] + change[name] if name in trained else moved[name] for name in start}
        return Delta(moved)

    def as_gradient(self, release: Release) -> Gradient:
        """-delta / (lr * S), S = sum_(k=1..K) (1 - momentum^k) / (1 - momentum): exact if the gradient stays the same.

        S is what K steps make of a constant gradient 1 (K without momentum). In general the result is a mean of the
        gradients along the path, of which momentum weighs the early ones more. With weight decay it is that of the
        decayed loss, see `at_weights`; of Adam it is a mean of normalized steps, whose sizes are not a gradient's.
        Raises `BadInput` when the release is not a delta.
        """
        if not isinstance(release, Delta):
            raise BadInput(
                f"FedAvg releases a Delta (weights after minus before), got {release!r}; wrap the change of the "
                "weights in Delta, or declare the mechanism that made this release"
            )
        # as_gradient divides by lr * steps; the factor makes of it lr * S
        return release.as_gradient(lr=self.lr * (self._travel() / self.steps), steps=self.steps)

    def at_weights(self, release: Release, weights: Named) -> Gradient:
        """The same without what weight decay did to the known weights: w_K = c w_0 - lr * S * g, hence less

        (1 - c) / (lr * S) * w_0. Tensors that did not move at all were not decayed either.
        """
        gradient = self.as_gradient(release)
        if self.effect.adds_weights is not Answer.YES:
            return gradient
        course = self.steps_by.course(steps=self.steps, lr=self.lr)
        share = (1 - course.kept) / (self.lr * self._travel())
        # A change of buffers is no change of weights: nothing decays them.
        moved = {name for name, value in release.by_name.items() if name in weights and bool((value != 0).any())}
        return Gradient({n: v - share * weights[n].to(v) if n in moved else v for n, v in gradient.by_name.items()})

    @property
    def steps_by(self) -> AbstractOptimizer:
        """The optimizer in effect: `momentum` is short for one."""
        return ClientSGD(momentum=self.momentum) if self.momentum > 0 else self.optimizer

    def _travel(self) -> float:
        """S of `as_gradient`."""
        travel = self.steps_by.course(steps=self.steps, lr=self.lr).travel
        # Of a sum of micro-batches the mean gradient is one part; steps of Adam have their size whatever the sum.
        scaled = self.summed and self.effect.bends is Answer.NO
        return travel * self.accumulate if scaled else travel

    def schedule(self, examples: int, order: Key | None) -> list[list[Tensor | None]]:
        """The rows of each micro-batch of each step; None is the whole batch.

        examples: how many there are. order: permutes them anew in each pass; None leaves them as they are.
        """
        size = examples if self.batch_size is None else min(self.batch_size, examples)
        if size == examples:
            return [[None] * self.accumulate] * self.steps
        # rounded up: enough passes over the examples for all steps
        passes = -(-self.seen(size) // examples)
        if order is None:
            stream = torch.arange(examples).repeat(passes)
        else:
            stream = torch.cat([torch.randperm(examples, generator=order.child(p).generator()) for p in range(passes)])
        parts: list[Tensor | None] = list(stream[: self.seen(size)].split(size))
        return [parts[k : k + self.accumulate] for k in range(0, len(parts), self.accumulate)]


def _part(batch: Batch, rows: Tensor | None) -> Batch:
    return batch if rows is None else batch.rows(rows.to(batch.inputs.device))
