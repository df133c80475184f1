"""CIFAR-10 from its published files; the binary version needs no pickle."""

from __future__ import annotations

import functools
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch

from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.datasets.draw import AbstractSource
from leakscope.datasets.sources.images import from_bytes
from leakscope.domains.vision import Images

RECORDS = 10_000
"""Images in each published file."""
PIXELS = 3 * 32 * 32

Bytes = npt.NDArray[np.uint8]


@final
@dataclass(frozen=True)
class Cifar10(AbstractSource):
    """CIFAR-10 (Krizhevsky 2009): 50 000 training or 10 000 test images, 10 classes.

    `folder` is the unpacked `cifar-10-batches-bin` (the version "suitable for C programs"): `data_batch_1.bin` to
    `data_batch_5.bin` and `test_batch.bin`. The Python version (`data_batch_1` ...) consists of pickles; it is
    read only with `allow_pickle=True`, and then by an unpickler that builds nothing but arrays.
    inputs: (N, 3, 32, 32) in [0, 1], RGB (the training part takes 614 MB). Raises `BadInput` when a file is
    missing, truncated or of another format.
    """

    folder: str
    train: bool = True
    allow_pickle: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", os.fspath(self.folder))

    @property
    def domain(self) -> Images:
        """Colored images."""
        return Images(3, 32, 32)

    @property
    def classes(self) -> int:
        """Airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck."""
        return 10

    def load(self) -> Batch:
        """All examples of this part."""
        return _cifar(Path(self.folder).resolve(), self.train, self.allow_pickle)


@functools.lru_cache(maxsize=2)
def _cifar(folder: Path, train: bool, allow_pickle: bool) -> Batch:
    names = [f"data_batch_{i}" for i in range(1, 6)] if train else ["test_batch"]
    parts = [_part(folder, name, allow_pickle) for name in names]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    # one image is 1024 red, 1024 green, 1024 blue bytes, each row by row
    return Batch(from_bytes(images.reshape(-1, 3, 32, 32)), torch.from_numpy(labels.astype(np.int64)))


def _part(folder: Path, name: str, allow_pickle: bool) -> tuple[Bytes, Bytes]:
    """Pixels (RECORDS, 3072) and labels (RECORDS,) of one file."""
    binary, pickled = folder / f"{name}.bin", folder / name
    if binary.is_file():
        images, labels = _from_binary(binary)
    elif not pickled.is_file():
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) if folder.is_dir() else "no such folder"
        raise BadInput(f"expected {binary.name} of the binary version in {folder}; found: {found or 'nothing'}")
    elif not allow_pickle:
        raise BadInput(
            f"{pickled} belongs to the Python version of CIFAR-10, which is made of pickles; "
            "use the binary version (cifar-10-batches-bin), or allow_pickle=True if you trust the file"
        )
    else:
        images, labels = _from_pickle(pickled)
    if labels.max() > 9:
        raise BadInput(
            f"expected labels 0..9 in {folder / name}, got {labels.max()}; the file is damaged, get it again"
        )
    return images, labels


def _from_binary(path: Path) -> tuple[Bytes, Bytes]:
    content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    wanted = RECORDS * (1 + PIXELS)
    if content.size != wanted:
        raise BadInput(
            f"{path} holds {content.size} bytes, expected {wanted} ({RECORDS} records of 1 + 3072); get it again"
        )
    records = content.reshape(RECORDS, 1 + PIXELS)
    return records[:, 1:], records[:, 0]


_RECONSTRUCT = np.empty(0).__reduce__()[0]


@final
class _ArraysOnly(pickle.Unpickler):
    """Finds the three names that a pickled array needs, and no others."""

    def find_class(self, module: str, name: str) -> Any:
        """The class or function; anything that is not part of an array is refused."""
        allowed = {
            ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
            ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): _latin1,  # how Python 3 writes bytes in the old protocol
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return allowed[module, name]


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the encoding {encoding}")
    return text.encode("latin1")


def _from_pickle(path: Path) -> tuple[Bytes, Bytes]:
    try:
        with path.open("rb") as file:
            content = _ArraysOnly(file, encoding="bytes").load()
        # strings of Python 2 arrive as bytes, of Python 3 as text
        by_name = {k.decode() if isinstance(k, bytes) else k: v for k, v in content.items()}
        images, labels = by_name["data"], np.asarray(by_name["labels"], dtype=np.uint8)
    except (pickle.UnpicklingError, EOFError, KeyError, AttributeError, ValueError, TypeError, OverflowError) as error:
        raise BadInput(f"{path} is not a batch of CIFAR-10 ({error}); get it again") from error
    shape, wanted = getattr(images, "shape", None), (RECORDS, PIXELS)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or shape != wanted or labels.shape != (RECORDS,):
        raise BadInput(f"{path} holds pixels {shape} and labels {labels.shape}, expected bytes {wanted}; get it again")
    return images, labels
