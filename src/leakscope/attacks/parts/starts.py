"""Where a search begins. A start is drawn in the domain's range, whatever the model's units."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

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
    """The middle of the domain's range plus U(-spread/2, spread/2) of the range; the same for every key at spread 0.

    What a search with a line search wants on smooth inputs: noise that it never draws it need not remove.
    """

    spread: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.spread <= 1:
            raise BadInput(f"expected a spread between 0 and 1, got {self.spread}")

    def draw(self, like: Tensor, domain: AbstractDomain, *, key: Key) -> Tensor:
        """Nearly constant candidates."""
        low, high = domain.bounds(like)
        return (low + high) / 2 + self.spread * (high - low) * (uniform(like, key) - 0.5)
