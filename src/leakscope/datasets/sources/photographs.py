"""Colored crops of the photographs that are inside the scikit-image package."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import final

import torch
from skimage.io import imread
from torch import Tensor

from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.datasets.draw import AbstractSource
from leakscope.datasets.sources.images import checked_size, from_bytes, resized, shipped
from leakscope.domains.vision import Images

PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
"""The label is the place in this list: a portrait, a cat, a cup, galaxies, tissue, a motorcycle, a retina, a rocket."""

FLAT = 0.05
"""Contrast below which a tile shows nothing and its neighbor looks the same (a clear sky, a dark corner)."""


@final
@dataclass(frozen=True)
class Photographs(AbstractSource):
    """Tiles of eight RGB photographs, each tile shrunk to `size`; the class is the photograph (8 classes).

    Each photograph is cut into squares whose side is its shorter side / `rows`. The squares do not overlap and
    each is shrunk by itself, so no pixel of a public tile enters a private one; neighbors still share light,
    texture and edges that run on. Tiles whose every channel has a standard deviation below 0.05 are left out.

    inputs: (N, 3, size, size) in [0, 1]. Raises `BadInput` when a tile would have to be enlarged.

    >>> Photographs().domain
    Images(channels=3, height=32, width=32, mean=(), std=())
    """

    size: int = 32
    rows: int = 6

    def __post_init__(self) -> None:
        checked_size(self.size)
        if self.rows < 1:
            raise BadInput(f"expected rows >= 1, got {self.rows}")

    @property
    def domain(self) -> Images:
        """Colored images."""
        return Images(3, self.size, self.size)

    @property
    def classes(self) -> int:
        """One per photograph."""
        return len(PHOTOGRAPHS)

    def load(self) -> Batch:
        """All tiles, photograph by photograph."""
        return _photographs(self.size, self.rows)


def _tiles(photograph: Tensor, side: int) -> Tensor:
    """(3, H, W) to (n, 3, side, side): the squares that fit, row by row."""
    rows = photograph.unfold(1, side, side).unfold(2, side, side)
    return rows.permute(1, 2, 0, 3, 4).reshape(-1, 3, side, side)


def _contrast(tiles: Tensor) -> Tensor:
    """(n, 3, side, side) to (n,): the standard deviation of the channel that varies most."""
    return tiles.flatten(2).std(2).amax(1)


@functools.lru_cache(maxsize=4)
def _photographs(size: int, rows: int) -> Batch:
    inputs, labels = [], []
    for label, name in enumerate(PHOTOGRAPHS):
        photograph = from_bytes(imread(shipped(name))).permute(2, 0, 1)
        shorter = min(photograph.shape[1:])
        if shorter // rows < size:
            raise BadInput(
                f"{name} is {shorter} pixels on its shorter side: {rows} rows give tiles below {size} pixels; "
                f"use rows <= {shorter // size}"
            )
        tiles = _tiles(photograph, shorter // rows)
        tiles = resized(tiles[_contrast(tiles) >= FLAT], size)
        inputs.append(tiles)
        labels.append(torch.full((len(tiles),), label))
    return Batch(torch.cat(inputs), torch.cat(labels))
