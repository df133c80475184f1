"""Images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput


@final
@dataclass(frozen=True)
class Images(AbstractDomain):
    """Images (channels, height, width) whose displayed value is `inputs * std + mean`, in [0, 1].

    mean, std: one number per channel, as in torchvision's `Normalize`; empty when the model takes [0, 1] directly.
    Raises `BadInput` on sizes below 1 or on as many numbers as fit no channel count.

    >>> Images(3, 32, 32).shape
    (3, 32, 32)
    """

    channels: int
    height: int
    width: int
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("channels", "height", "width"):
            if isinstance(getattr(self, name), bool) or not isinstance(getattr(self, name), int):
                raise BadInput(f"expected {name} to be a whole number, got {getattr(self, name)!r}")
        for name in ("mean", "std"):
            if isinstance(getattr(self, name), str):
                raise BadInput(f"expected one {name} per channel, got {getattr(self, name)!r}; write (0.5,)")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if min(self.channels, self.height, self.width) < 1:
            raise BadInput(f"expected positive sizes, got {self.channels} x {self.height} x {self.width}")
        if len(self.mean) not in (0, self.channels) or len(self.mean) != len(self.std):
            raise BadInput(
                f"expected {self.channels} means and as many standard deviations (or none), "
                f"got {len(self.mean)} and {len(self.std)}"
            )
        if not all(0 < s < math.inf for s in self.std) or not all(math.isfinite(m) for m in self.mean):
            raise BadInput(
                f"means must be finite and standard deviations positive and finite, got {self.mean} and {self.std}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """(channels, height, width)."""
        return (self.channels, self.height, self.width)

    def fits(self, inputs: Tensor) -> bool:
        """Whether `inputs` are (B, channels, height, width)."""
        return tuple(inputs.shape[1:]) == self.shape

    def _normalization(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean = torch.tensor(self.mean or (0.0,) * self.channels, dtype=like.dtype, device=like.device)
        std = torch.tensor(self.std or (1.0,) * self.channels, dtype=like.dtype, device=like.device)
        return mean.reshape(-1, 1, 1), std.reshape(-1, 1, 1)

    def bounds(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The model's values for black and white, each (channels, 1, 1)."""
        mean, std = self._normalization(like)
        return -mean / std, (1 - mean) / std

    def to_display(self, inputs: Tensor) -> Tensor:
        """(..., channels, height, width) in the model's units to [0, 1]; values outside stay outside."""
        mean, std = self._normalization(inputs)
        return inputs * std + mean
