"""Random images for tests and law checks."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F

from leakscope.core import file_limits
from leakscope.core.arguments import count, places
from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.datasets.draw import AbstractSource
from leakscope.domains.vision import Images
from leakscope.numerics.rng import Key

COARSE = 4


@final
@dataclass(frozen=True)
class Synthetic(AbstractSource):
    """Images without a world behind them; class i % classes, independent of the picture.

    smooth: Phi(z) of a Gaussian field z drawn on a 4 x 4 grid per channel and interpolated (bicubic); otherwise
    every pixel is drawn from U[0, 1). inputs: (count, *shape) in [0, 1], a function of `seed` and the other fields.
    Raises `BadInput` on sizes below 1.

    >>> Synthetic((3, 8, 8), classes=2, count=4).load().labels
    tensor([0, 1, 0, 1])
    """

    shape: tuple[int, int, int] = (3, 32, 32)
    classes: int = 10
    count: int = 64
    smooth: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", places("the shape", self.shape))
        count("classes", self.classes)
        count("count", self.count)
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise BadInput(f"expected shape (channels, height, width) of positive numbers, got {self.shape}")
        count("seed", self.seed, low=0)
        # three times: the field, its probabilities, and what is made on the way
        file_limits.afford(f"{self.count} pictures of shape {self.shape}", 12 * self.count * math.prod(self.shape))

    @property
    def domain(self) -> Images:
        """Images of `shape`."""
        return Images(*self.shape)

    @property
    def most(self) -> int:
        """As many as were asked for."""
        return self.count

    @property
    def most_private(self) -> int | None:
        """The larger half: pictures of several numbers do not repeat; single ones do, of 24 bits each."""
        return self.count - self.count // 2 if self.shape != (1, 1, 1) else None

    def load(self) -> Batch:
        """All examples."""
        return _synthetic(self)


@functools.lru_cache(maxsize=16)
def _synthetic(source: Synthetic) -> Batch:
    generator = Key(source.seed).child("synthetic").generator()
    labels = torch.arange(source.count) % source.classes
    if not source.smooth:
        return Batch(torch.rand((source.count, *source.shape), generator=generator), labels)
    channels, height, width = source.shape
    coarse = torch.randn((source.count, channels, COARSE, COARSE), generator=generator)
    field = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
    return Batch(torch.special.ndtr(field), labels)
