"""MNIST and the sets of the same format, from their published IDX files."""

from __future__ import annotations

import functools
import gzip
import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt
import torch

from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.datasets.draw import AbstractSource
from leakscope.datasets.sources.images import from_bytes
from leakscope.domains.vision import Images

UNSIGNED_BYTES = 0x08


@final
@dataclass(frozen=True)
class Mnist(AbstractSource):
    """MNIST (LeCun et al. 1998), or Fashion-MNIST or KMNIST, which have the same files; 10 classes.

    `folder` holds `train-images-idx3-ubyte` and `train-labels-idx1-ubyte` (with `train=False` the two files that
    begin with `t10k`), each as it is or with `.gz`. inputs: (N, 1, 28, 28) in [0, 1], ink is bright.
    Raises `BadInput` when a file is missing, truncated or of another format.
    """

    folder: str
    train: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", os.fspath(self.folder))

    @property
    def domain(self) -> Images:
        """Gray images."""
        return Images(1, 28, 28)

    @property
    def classes(self) -> int:
        """The ten digits."""
        return 10

    def load(self) -> Batch:
        """All examples of this part."""
        return _mnist(Path(self.folder).resolve(), self.train)


@functools.lru_cache(maxsize=4)
def _mnist(folder: Path, train: bool) -> Batch:
    part = "train" if train else "t10k"
    images = idx(folder, f"{part}-images-idx3-ubyte", dimensions=3)
    labels = idx(folder, f"{part}-labels-idx1-ubyte", dimensions=1)
    if images.shape[1:] != (28, 28):
        raise BadInput(f"expected images of 28 x 28 pixels in {folder}, got {images.shape[1]} x {images.shape[2]}")
    if len(images) != len(labels):
        raise BadInput(f"{folder} holds {len(images)} images but {len(labels)} labels; get both files again")
    if labels.size and labels.max() > 9:
        raise BadInput(f"expected labels 0..9 in {folder}, got {labels.max()}; get the file of labels again")
    return Batch(from_bytes(images).unsqueeze(1), torch.from_numpy(labels.astype(np.int64)))


def idx(folder: Path, name: str, *, dimensions: int) -> npt.NDArray[np.uint8]:
    """The array of bytes in the IDX file `name` or `name.gz` of `folder`.

    Format: two zero bytes, the type (0x08), the number of dimensions, each size as a big-endian 32-bit integer,
    then the bytes with the last index running fastest. Raises `BadInput` on anything else.
    """
    path, content = _content(folder, name)
    if len(content) < 4 or content[:2] != b"\0\0":
        raise BadInput(f"{path} is not an IDX file: it begins with {content[:4]!r}; get it again")
    if content[2] != UNSIGNED_BYTES or content[3] != dimensions:
        raise BadInput(
            f"{path} holds type 0x{content[2]:02x} in {content[3]} dimensions; "
            f"expected bytes (0x08) in {dimensions} dimensions: is it under another file's name?"
        )
    start = 4 + 4 * dimensions
    shape = tuple(int(n) for n in np.frombuffer(content[4:start].ljust(4 * dimensions, b"\0"), dtype=">u4"))
    if len(content) - start != math.prod(shape):
        raise BadInput(
            f"{path} announces {shape}, which is {math.prod(shape)} bytes, but holds {max(len(content) - start, 0)}; "
            "the file is truncated or damaged, get it again"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def _content(folder: Path, name: str) -> tuple[Path, bytes]:
    plain, packed = folder / name, folder / f"{name}.gz"
    if plain.is_file():
        return plain, plain.read_bytes()
    if not packed.is_file():
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) if folder.is_dir() else "no such folder"
        raise BadInput(f"expected {name} or {name}.gz in {folder}; found: {found or 'nothing'}")
    try:
        return packed, gzip.decompress(packed.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BadInput(f"{packed} cannot be unpacked ({error}); get it again") from error
