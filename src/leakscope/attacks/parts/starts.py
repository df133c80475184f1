"""Where a search begins. A start is drawn in the domain's range, whatever the model's units."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.numerics.rng import Key, normal, uniform


class AbstractStart(ABC):
    """Draws first candidates."""

    @abstractmethod
    def draw(self, like: Tensor, domain: AbstractDomain, *, key: Key) -> Tensor:
        """First candidates with the shape (..., *shape), dtype and device of `like`."""


@final
@dataclass(frozen=True)
class Uniform(AbstractStart):
    """U(low, high) within the domain."""

    def draw(self, like: Tensor, domain: AbstractDomain, *, key: Key) -> Tensor:
        """Uniform noise."""
        low, high = domain.bounds(like)
        return low + (high - low) * uniform(like, key)


@final
@dataclass(frozen=True)
class Gaussian(AbstractStart):
    """N(0, std^2) in the model's units, the start of the original papers."""

    std: float = 1.0

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise BadInput(f"expected std > 0, got {self.std}")

    def draw(self, like: Tensor, domain: AbstractDomain, *, key: Key) -> Tensor:
        """Gaussian noise."""
        del domain
        return self.std * normal(like, key)


@final
@dataclass(frozen=True)
class Gray(AbstractStart):
    """The middle of the domain's range everywhere; the same for every key."""

    def draw(self, like: Tensor, domain: AbstractDomain, *, key: Key) -> Tensor:
        """The constant candidate."""
        del key
        low, high = domain.bounds(like)
        return torch.zeros_like(like) + (low + high) / 2
