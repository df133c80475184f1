"""What an input of the model is: its shape, its range, and how a person looks at it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class AbstractDomain(ABC):
    """The public description of one example. Concrete domains are frozen dataclasses that rebuild from their repr."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of one example, without the batch dimension; of a typical one where examples differ in length."""

    @abstractmethod
    def fits(self, inputs: Tensor) -> bool:
        """Whether `inputs` (B, ...) are a batch of such examples, by shape alone."""

    @abstractmethod
    def bounds(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Lowest and highest legal value in the model's units, broadcastable against `like` (..., *shape)."""

    @abstractmethod
    def to_display(self, inputs: Tensor) -> Tensor:
        """Model units to the units in which errors are measured, (..., *shape); for images the range [0, 1]."""
