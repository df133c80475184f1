"""What leaves the device. Sign and scale are in the type: nothing turns a delta into a gradient by accident."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor

from leakscope.core.arguments import instance
from leakscope.core.errors import BadInput
from leakscope.numerics import trees
from leakscope.numerics.trees import Named


@dataclass(frozen=True, eq=False)
class AbstractRelease(ABC):
    """Named tensors that an observer sees. A partial update simply has fewer names."""

    by_name: Named

    def __post_init__(self) -> None:
        instance(f"{type(self).__name__}(...)", self.by_name, Mapping, "give tensors by parameter name")
        if not self.by_name:
            raise BadInput("a release needs at least one named tensor, got none")
        object.__setattr__(self, "by_name", dict(self.by_name))
        for name, value in self.by_name.items():
            instance("each name", name, str, "give tensors by parameter name")
            instance(f"{name!r}", value, Tensor, "use torch.as_tensor, and leave out what has no gradient (None)")

    def __repr__(self) -> str:
        count = sum(value.numel() for value in self.by_name.values())
        return f"{type(self).__name__}({len(self.by_name)} tensors, {count} numbers)"

    def fingerprint(self) -> str:
        """A hash of the kind of release and of every byte."""
        return f"{type(self).__name__}:{trees.fingerprint(self.by_name)}"


@final
class Gradient(AbstractRelease):
    """The gradient of the mean loss with respect to each parameter."""


@final
class Delta(AbstractRelease):
    """Weights after minus weights before. For one SGD step this is -lr * Gradient.

    >>> import torch
    >>> Delta({"w": torch.tensor([-0.2])}).as_gradient(lr=0.1, steps=2).by_name["w"]
    tensor([1.])
    """

    def as_gradient(self, *, lr: float, steps: int = 1) -> Gradient:
        """-delta / (lr * steps): the mean gradient along the local path. The only conversion there is."""
        if not lr > 0:
            raise BadInput(f"expected lr > 0, got {lr}")
        if steps < 1:
            raise BadInput(f"expected steps >= 1, got {steps}")
        return Gradient(trees.scale(self.by_name, -1.0 / (lr * steps)))

    @staticmethod
    def between(before: Named, after: Named) -> Delta:
        """`after - before` on the names that both have and that are floating point."""
        names = [n for n in after if n in before and after[n].is_floating_point()]
        return Delta(trees.subtract(trees.select(after, names), trees.select(before, names)))


@final
class Weights(AbstractRelease):
    """Released parameters themselves (a model file, a classifier head)."""


Release = Gradient | Delta | Weights


def same_kind(like: Release, by_name: dict[str, Tensor]) -> Release:
    """A release of the kind of `like` with other numbers: defenses change values, never the kind."""
    return type(like)(by_name)
