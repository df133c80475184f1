"""What leaves the device. Sign and scale are in the type: nothing turns a delta into a gradient by accident."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.core.arguments import instance
from leakscope.core.errors import BadInput
from leakscope.numerics import trees
from leakscope.numerics.trees import Named


@dataclass(frozen=True, eq=False)
class AbstractRelease(ABC):
    """Named tensors that an observer sees. A partial update simply has fewer names; sparse ones are held densely."""

    by_name: Named

    def __post_init__(self) -> None:
        instance(f"{type(self).__name__}(...)", self.by_name, Mapping, "give tensors by parameter name")
        if not self.by_name:
            raise BadInput("a release needs at least one named tensor, got none")
        object.__setattr__(self, "by_name", dict(self.by_name))
        for name, value in self.by_name.items():
            instance("each name", name, str, "give tensors by parameter name")
            instance(f"{name!r}", value, Tensor, "use torch.as_tensor, and leave out what has no gradient (None)")
        # Embedding(sparse=True) gives its gradient as the rows that were looked up; no attack compares such.
        held = {n: v if v.layout is torch.strided else v.to_dense() for n, v in self.by_name.items()}
        object.__setattr__(self, "by_name", held)

    def __repr__(self) -> str:
        count = sum(value.numel() for value in self.by_name.values())
        return f"{type(self).__name__}({len(self.by_name)} tensors, {count} numbers)"

    def fingerprint(self) -> str:
        """A hash of the kind of release and of every byte."""
        return f"{type(self).__name__}:{trees.fingerprint(self.by_name)}"


TELLING = 64
"""Different numbers that say of which precision they are: of float32 each is a half by a chance of 2^-13."""


def half_in_disguise(by_name: Named) -> torch.dtype | None:
    """The type of half precision in which all of these wider numbers can be written, None where there is none.

    None too where they are of half precision by type, or too few to tell (`TELLING`).
    """
    wide = [value.reshape(-1) for value in by_name.values() if value.is_floating_point() and value.element_size() > 2]
    numbers = torch.cat(wide) if wide else torch.zeros(0)
    # The coarser first: short numbers of the usual size fit into both.
    for kind in (torch.bfloat16, torch.float16):
        if bool((numbers.to(kind).to(numbers.dtype) == numbers).all()) and len(numbers.unique()) >= TELLING:
            return kind
    return None


def _coarser(value: Tensor, before: Tensor, after: Tensor, held: torch.dtype | None) -> Tensor:
    kinds = [value.dtype, before.dtype, after.dtype, *([] if held is None else [held])]
    return value.to(max(kinds, key=lambda kind: torch.finfo(kind).eps))


@final
class Gradient(AbstractRelease):
    """The gradient of the mean loss with respect to each parameter."""


COUNTER = "num_batches_tracked"
"""What torch calls the batches that a normalization has seen."""


@final
class Delta(AbstractRelease):
    """Weights after minus weights before. For one SGD step this is -lr * Gradient.

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
        """`after - before` on the names that both have and that are floating point, or count batches.

        Of the coarser type of the two, also where numbers of half precision were stored as float32: the difference is
        known no better than its less precise side, and attacks in closed form ask the type how exact an update is.

        >>> weights = {"w": torch.linspace(0, 1, 100)}
        >>> Delta.between(weights, {"w": (weights["w"] + 0.1).half()}).by_name["w"].dtype
        torch.float16
        """
        names = [n for n in after if n in before and after[n].is_floating_point()]
        moved = {n: after[n][after[n] != before[n]] for n in names if after[n].shape == before[n].shape}
        # Together, since a small tensor has too few numbers to tell; and each by itself, where only some were rounded.
        held = half_in_disguise(moved)
        each = {name: held or half_in_disguise({name: value}) for name, value in moved.items()}
        changes = trees.subtract(trees.select(after, names), trees.select(before, names))
        by_name = {name: _coarser(value, before[name], after[name], each.get(name)) for name, value in changes.items()}
        # Whether running statistics are of one batch, only their counters say; as floats, as everything in a release.
        counters = [n for n in after if n in before and n.endswith(COUNTER) and n not in by_name]
        return Delta(
            by_name | {n: (after[n] - before[n]).float() for n in counters if after[n].shape == before[n].shape}
        )


@final
class Weights(AbstractRelease):
    """Released parameters themselves (a model file, a classifier head)."""


Release = Gradient | Delta | Weights


def same_kind(like: Release, by_name: dict[str, Tensor]) -> Release:
    """A release of the kind of `like` with other numbers: defenses change values, never the kind."""
    return type(like)(by_name)
