"""Small gray photographs of faces, shipped with scikit-image."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import final

import numpy as np
import torch

from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.datasets.draw import AbstractSource
from leakscope.datasets.sources.images import checked_size, resized, shipped
from leakscope.domains.vision import Images

FACES = 100


@final
@dataclass(frozen=True)
class Faces(AbstractSource):
    """100 gray 25 x 25 face crops of Labeled Faces in the Wild, enlarged to `size`.

    The file carries no names. Therefore each face is a class of its own (100 classes): the label says which
    picture, not which person, and the public and private parts share no class. `background=True` instead loads
    the file's 100 non-faces too and asks face (1) or not (0): 200 images, 2 classes.

    inputs: (100 or 200, channels, size, size) in [0, 1]. With `channels=3` the gray value is repeated: the
    pictures were never colored. Source: `lfw_subset` of scikit-image (Huang et al. 2012).
    Raises `BadInput` on a size below 1 or on channels other than 1 and 3.

    >>> Faces().classes, Faces(background=True).classes
    (100, 2)
    """

    size: int = 32
    channels: int = 1
    background: bool = False

    def __post_init__(self) -> None:
        checked_size(self.size)
        if self.channels not in (1, 3):
            raise BadInput(f"expected 1 or 3 channels, got {self.channels}")

    @property
    def domain(self) -> Images:
        """Gray images, in one or three equal channels."""
        return Images(self.channels, self.size, self.size)

    @property
    def classes(self) -> int:
        """One per face, or face and background."""
        return 2 if self.background else FACES

    @property
    def most(self) -> int:
        """The faces, and as many others."""
        return 2 * FACES if self.background else FACES

    @property
    def most_private(self) -> int:
        """Half: no two pictures are equal."""
        return FACES if self.background else FACES // 2

    def load(self) -> Batch:
        """All examples."""
        return _faces(self.size, self.channels, self.background)


@functools.lru_cache(maxsize=4)
def _faces(size: int, channels: int, background: bool) -> Batch:
    raw = np.load(shipped("lfw_subset.npy"), allow_pickle=False)
    if raw.shape != (2 * FACES, 25, 25):
        raise BadInput(f"expected 200 crops of 25 x 25 pixels in lfw_subset.npy, got {raw.shape}; reinstall it")
    count = 2 * FACES if background else FACES
    gray = resized(torch.from_numpy(raw[:count].astype(np.float32)).unsqueeze(1), size)
    position = torch.arange(count)
    labels = (position < FACES).long() if background else position
    return Batch(gray.expand(-1, channels, -1, -1).contiguous(), labels)
