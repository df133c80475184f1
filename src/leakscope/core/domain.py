"""What an input of the model is: its shape, its range, and how a person looks at it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from leakscope.core import file_limits


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


def rangeless(domain: AbstractDomain, shape: tuple[int, ...]) -> str | None:
    """Why nothing can be searched in the range of a domain, as its author wrote it; None where something can.

    shape: of one input. A search starts in the range and returns to it, so that has to be two tensors, low <= high,
    that stretch to the shape; infinite ends are as good as any.
    """
    like = torch.zeros(1, *shape)
    given: object = domain.bounds(like)
    ends = list(given) if isinstance(given, tuple | list) else []
    if len(ends) != 2 or not all(isinstance(one, Tensor) for one in ends):
        return f"the domain's bounds are {file_limits.shortened(repr(given), 60)}, expected two tensors, low and high"
    try:
        low, high = (one.expand_as(like) for one in ends)
    except RuntimeError:
        sizes = " and ".join(str(tuple(one.shape)) for one in ends)
        return f"the domain's bounds have the shapes {sizes}, expected what stretches to {shape}"
    return None if bool((low <= high).all()) else "the domain's lower bound is not below its upper bound everywhere"
