"""Feature vectors: what is computed of a recording, a picture or a person before any model sees it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from torch import Tensor

from leakscope.core.arguments import count, number
from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput


@final
@dataclass(frozen=True)
class Vectors(AbstractDomain):
    """Vectors (size,) of real numbers, each from `low` to `high`.

    Nobody looks at one, so errors are measured in the units of the model. The range is finite and has no default:
    models are looked at with noise in it, and what counts as rounding in a proof is a share of it. Raises `BadInput` on
    a size below 1, and unless low < high are finite.

    >>> import torch
    >>> Vectors(988, -6, 6).shape, Vectors(2, 0, 1).bounds(torch.zeros(2))
    ((988,), (tensor(0.), tensor(1.)))
    """

    size: int
    low: float
    high: float

    def __post_init__(self) -> None:
        count("size", self.size)
        for name in ("low", "high"):
            object.__setattr__(self, name, number(name, getattr(self, name), low=-math.inf))
        if not self.low < self.high:
            raise BadInput(f"expected low < high, got {self.low} and {self.high}")

    @property
    def shape(self) -> tuple[int, ...]:
        """(size,)."""
        return (self.size,)

    def fits(self, inputs: Tensor) -> bool:
        """Whether `inputs` are (B, size) floating numbers."""
        return inputs.is_floating_point() and tuple(inputs.shape[1:]) == self.shape

    def bounds(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """`low` and `high`, each a scalar."""
        return like.new_tensor(self.low), like.new_tensor(self.high)

    def to_display(self, inputs: Tensor) -> Tensor:
        """The numbers themselves."""
        return inputs
