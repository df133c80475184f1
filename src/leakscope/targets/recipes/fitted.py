"""Targets trained on public data, so that a sweep over epochs needs no weight files."""

from __future__ import annotations

import copy
import dataclasses
import functools
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor

from leakscope.core.batch import Batch
from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.core.target import Target
from leakscope.numerics.rng import Key
from leakscope.targets.recipes.architecture import AbstractArchitecture


class PublicData(Protocol):
    """What training needs of a source of data: examples that anybody may use, and what they are."""

    @property
    def domain(self) -> AbstractDomain:
        """What an example is."""
        ...

    @property
    def classes(self) -> int:
        """How many classes there are."""
        ...

    def public(self) -> Batch:
        """The examples that are nobody's secret."""
        ...


@final
@dataclass(frozen=True)
class Fitted(AbstractArchitecture):
    """`architecture` after `epochs` of Adam on the public half of `data`, started at the weights of the key.

    No private example is among them, so that what an audit recovers from the update was not in the weights before.
    Epochs 0 are the fresh weights. The same key gives the same weights. Dropout and batch statistics are in training
    mode while it is fitted and afterwards as `architecture` says. lr: of Adam (Kingma & Ba 2015), > 0.
    Raises `BadInput` when the audited domain or its classes are others than those of `data`, or the loss diverges.
    """

    architecture: AbstractArchitecture
    data: PublicData
    epochs: int = 5
    lr: float = 1e-3
    batch_size: int = 32

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch_size < 1 or not self.lr > 0:
            raise BadInput(
                f"expected epochs >= 0, batch_size >= 1 and lr > 0, got {self.epochs}, {self.batch_size}, {self.lr}"
            )

    def build(self, domain: AbstractDomain, classes: int, *, key: Key) -> Target:
        """The fitted target."""
        if domain != self.data.domain or classes != self.data.classes:
            raise BadInput(
                f"{self!r} is fitted to {self.data.domain} with {self.data.classes} classes, but the audited data are "
                f"{domain} with {classes}; audit it on data of the same kind"
            )
        return _built(self, key)


@functools.lru_cache(maxsize=16)
def _built(recipe: Fitted, key: Key) -> Target:
    """Kept, because every mechanism and attack of a trial meets the same weights."""
    data = recipe.data
    fresh = recipe.architecture.build(data.domain, data.classes, key=key)
    module = copy.deepcopy(fresh.module).requires_grad_(True).train()
    optimizer = torch.optim.Adam(module.parameters(), lr=recipe.lr)
    examples = data.public()
    with key.child("training").isolated(), torch.enable_grad():
        for order in _orders(recipe, len(examples), key):
            rows = examples.rows(order).trimmed()
            optimizer.zero_grad()
            loss = fresh.loss(fresh.through(module, rows), rows)
            if not bool(torch.isfinite(loss.detach())):
                raise BadInput(f"the training of {recipe!r} diverged; give it a smaller lr")
            loss.backward()
            optimizer.step()
    return dataclasses.replace(fresh, module=module, name=repr(recipe))


def _orders(recipe: Fitted, count: int, key: Key) -> list[Tensor]:
    """The rows of each step, every epoch in an order of its own."""
    steps: list[Tensor] = []
    for epoch in range(recipe.epochs):
        order = torch.randperm(count, generator=key.child("order", epoch).generator())
        steps += order.split(recipe.batch_size)
    return steps
