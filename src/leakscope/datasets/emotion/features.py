"""What is computed of each recording: the contract, and vectors that another program has computed."""

from __future__ import annotations

import os
import tokenize
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from leakscope.core import file_limits
from leakscope.core.arguments import count
from leakscope.core.errors import BadInput, first_line
from leakscope.datasets.emotion.corpus import AbstractCorpus

UNREADABLE = (
    OSError, EOFError, ValueError, TypeError, LookupError, OverflowError, MemoryError, RecursionError, SyntaxError,
    tokenize.TokenError,
)  # fmt: skip
"""What numpy raises on bytes that are no array: a header is Python's literals, which it has Python parse."""


class AbstractFeatures(ABC):
    """One vector for each recording. Concrete ones are frozen dataclasses; the same recording gives the same bytes."""

    @property
    @abstractmethod
    def size(self) -> int:
        """How many numbers there are in one vector; known before any recording is read."""

    @abstractmethod
    def of(self, corpus: AbstractCorpus, positions: Sequence[int]) -> Tensor:
        """(len(positions), size) float32, all finite. Raises `BadInput`, naming the recording, where there is none."""


@final
@dataclass(frozen=True)
class FeatureFiles(AbstractFeatures):
    """`folder`/**/NAME.npy for each recording NAME: what a pretrained network or another program has computed of it.

    A file holds `size` numbers, or (T, size) of T frames, whose mean over time is taken, as is usual for APC, VQ-APC,
    NPC, TERA and DeCoAR 2. Objects are not unpickled. Raises `BadInput`, naming the file, on a missing, damaged or
    second file, another size, and numbers that are not finite.

    >>> FeatureFiles("features/apc", 512).size
    512
    """

    folder: str
    width: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", os.fspath(self.folder))
        count("width", self.width)

    @property
    def size(self) -> int:
        """`width`."""
        return self.width

    def of(self, corpus: AbstractCorpus, positions: Sequence[int]) -> Tensor:
        """Read anew."""
        folder = Path(self.folder).resolve()
        if not folder.is_dir():
            raise BadInput(f"no folder {folder}; give that of the feature files")
        files: dict[str, Path] = {}
        for path in sorted(folder.rglob("*.npy")):
            if files.setdefault(path.stem, path) != path:
                raise BadInput(f"{path.name} is there twice, as {files[path.stem]} and as {path}; take one away")
        known = corpus.recordings()
        return torch.stack([_vector(files, folder, known[place].name, self.width) for place in positions])


def _vector(files: dict[str, Path], folder: Path, name: str, size: int) -> Tensor:
    path = files.get(name)
    if path is None:
        raise BadInput(f"no file {name}.npy below {folder}; compute the features of all recordings")
    try:
        # Mapped, so that a header cannot promise more than the file holds; objects cannot be. By this and not by
        # `np.load`, which opens an archive under this name as one. What overflows is a ValueError besides.
        with np.errstate(over="ignore"):
            held = np.lib.format.open_memmap(path, mode="r")
    except UNREADABLE as error:
        why = file_limits.shortened(first_line(error), 200)
        raise BadInput(f"{path} is no array that can be read ({why}); write it with numpy.save") from None
    if held.ndim not in (1, 2) or held.shape[-1] != size or held.shape[0] == 0 or held.dtype.kind not in "fiu":
        raise BadInput(
            f"{path} holds {held.shape} {held.dtype}, expected ({size},) or (frames, {size}) numbers; set width"
        )
    file_limits.afford(f"the features in {path}", 8 * held.size, held=path.stat().st_size)
    vector = np.asarray(held, dtype=np.float64).reshape(-1, size).mean(0)
    # As float32, in which the model is fed: 1e300 is a number in the file and none there.
    if not bool((np.abs(vector) <= np.finfo(np.float32).max).all()):
        raise BadInput(f"{path} holds numbers that are not finite in float32; compute it again")
    return torch.from_numpy(vector.astype(np.float32))
