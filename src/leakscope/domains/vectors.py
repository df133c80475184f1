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
    """Vectors (size,) of real numbers, each from `low` to `high`; None on a side that has no end.

    Nobody looks at one, so errors are measured in the units of the model. Raises `BadInput` on a size below 1 and
    unless low < high.

    >>> import torch
    >>> Vectors(988).shape, Vectors(2, 0, 1).bounds(torch.zeros(2))
    ((988,), (tensor(0.), tensor(1.)))
    """

    size: int
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        count("size", self.size)
        for name in ("low", "high"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, number(name, getattr(self, name), low=-math.inf))
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise BadInput(f"expected low < high, got {self.low} and {self.high}")

    @property
    def shape(self) -> tuple[int, ...]:
        """(size,)."""
        return (self.size,)

    def fits(self, inputs: Tensor) -> bool:
        """Whether `inputs` are (B, size) floating numbers."""
        return inputs.is_floating_point() and tuple(inputs.shape[1:]) == self.shape

    def bounds(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """`low` and `high`, infinite where there is no end; each a scalar."""
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        return like.new_tensor(low), like.new_tensor(high)

    def to_display(self, inputs: Tensor) -> Tensor:
        """The numbers themselves."""
        return inputs
