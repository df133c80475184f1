"""Sources of private batches, with a public part that never overlaps the private one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from leakscope.core.batch import Batch
from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.core.secret import Secret
from leakscope.numerics.rng import Key

PUBLIC_SHARE = 0.5
"""The share of every source that attackers and chance levels may use; the rest is private."""


class AbstractSource(ABC):
    """Labeled examples. Concrete sources are frozen dataclasses; loading is cached by the process.

    The split into a public and a private part is a fixed permutation of the examples, the same in every run.
    """

    @property
    @abstractmethod
    def domain(self) -> AbstractDomain:
        """What one example is."""

    @property
    @abstractmethod
    def classes(self) -> int:
        """The number of classes."""

    @abstractmethod
    def load(self) -> Batch:
        """All examples in the domain's units, labels (N,) int64. Raises `BadInput` when the data is not there."""

    @final
    def _split(self) -> tuple[Tensor, Tensor]:
        order = torch.randperm(len(self.load()), generator=Key(0).child("public", "private").generator())
        cut = int(len(order) * PUBLIC_SHARE)
        return order[:cut], order[cut:]

    @final
    def draw(self, count: int, *, key: Key) -> Secret:
        """A private batch of `count` different examples.

        Raises `BadInput` when the private part has fewer than `count` examples.
        """
        everything, (_, private) = self.load(), self._split()
        if not 1 <= count <= len(private):
            raise BadInput(f"{self!r} has {len(private)} private examples, cannot draw {count}")
        chosen = torch.randperm(len(private), generator=key.child("draw").generator())[:count]
        return Secret(everything.rows(private[chosen]))

    @final
    def public(self) -> Batch:
        """The public part: for chance levels, shadow data and decoders."""
        everything, (public, _) = self.load(), self._split()
        return everything.rows(public)
