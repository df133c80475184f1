"""Anybody's pictures: a folder of image files, one class per subfolder."""

from __future__ import annotations

import functools
import os
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from leakscope.core import file_limits
from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.datasets.draw import AbstractSource
from leakscope.domains.vision import Images

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"})

PIXEL = 24
"""Bytes that one pixel takes while a picture is read: its colors as floats, and once more as bytes."""

_UNREADABLE = (
    OSError, ValueError, TypeError, SyntaxError, EOFError, IndexError, KeyError, OverflowError, MemoryError,
    AttributeError, NotImplementedError, RuntimeError, struct.error, zlib.error, Warning,
    Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow raises on bytes that are no picture; warnings (of bombs, of truncated tags) are made errors."""


@final
@dataclass(frozen=True)
class ImageFolder(AbstractSource):
    """The pictures of `folder`, in the order of their paths; the class is the subfolder, in alphabetical order.

    Without subfolders all are of one class. shape: (channels, height, width) with 1 or 3 channels: each picture is cut
    to that ratio around its center and resized with antialiasing; color to gray by ITU-R 601-2 luma, gray to three
    equal channels. What is transparent is laid over white; 16 bits are kept; cameras' notes on rotation are obeyed; of
    animations the first picture is taken. Hidden files and files of other suffixes are not looked at.

    inputs: (N, *shape) in [0, 1]. Raises `BadInput`, naming the file, on one that is empty, damaged, of floats or too
    large to be a picture, and when there is none; pictures beside subfolders are refused, as they have no class.

    >>> ImageFolder("pictures", (3, 32, 32)).domain
    Images(channels=3, height=32, width=32, mean=(), std=())
    """

    folder: str
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", os.fspath(self.folder))
        object.__setattr__(self, "shape", tuple(self.shape))
        if (
            len(self.shape) != 3
            or not all(type(side) is int for side in self.shape)
            or self.shape[0] not in (1, 3)
            or min(self.shape) < 1
        ):
            raise BadInput(f"expected a shape (1 or 3, height, width), got {self.shape}")

    @property
    def domain(self) -> Images:
        """Images of the given shape."""
        return Images(*self.shape)

    @property
    def classes(self) -> int:
        """The number of subfolders, or 1."""
        return len(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes: the subfolders in alphabetical order; one empty name where there are none."""
        return tuple(Path(one).name for one in _listed(Path(self.folder).resolve())[0])

    def load(self) -> Batch:
        """All pictures."""
        return _pictures(Path(self.folder).resolve(), self.shape)


def _listed(folder: Path) -> tuple[tuple[str, ...], tuple[tuple[Path, int], ...]]:
    """Names of the classes, and the files with their classes."""
    if not folder.is_dir():
        raise BadInput(f"no folder {folder}; check the path")
    loose = _files(folder)
    inner = [(one, _files(one, deep=True)) for one in sorted(folder.iterdir()) if one.is_dir() and _shown(one)]
    inner = [(one, files) for one, files in inner if files]
    if loose and inner:
        raise BadInput(
            f"{folder} holds pictures ({loose[0].name}, ...) beside subfolders with pictures ({inner[0][0].name}, "
            "...); put each picture into the subfolder of its class"
        )
    if not loose and not inner:
        raise BadInput(f"no pictures in {folder}; expected {', '.join(sorted(SUFFIXES))}")
    if loose:
        return ("",), tuple((path, 0) for path in loose)
    named = tuple(one.name for one, _ in inner)
    return named, tuple((path, label) for label, (_, files) in enumerate(inner) for path in files)


def _files(folder: Path, *, deep: bool = False) -> list[Path]:
    found = folder.rglob("*") if deep else folder.iterdir()
    return sorted(path for path in found if path.is_file() and path.suffix.lower() in SUFFIXES and _shown(path))


def _shown(path: Path) -> bool:
    return not path.name.startswith(".")


@functools.lru_cache(maxsize=4)
def _pictures(folder: Path, shape: tuple[int, int, int]) -> Batch:
    _, files = _listed(folder)
    inputs = torch.stack([read_picture(path, shape) for path, _ in files])
    return Batch(inputs, torch.tensor([label for _, label in files]))


def read_picture(path: Path, shape: tuple[int, int, int]) -> Tensor:
    """The picture in the file `path` as float32 `shape` in [0, 1]; what is done to it is said at `ImageFolder`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(path) as file:
                file_limits.afford(f"its {file.width} x {file.height} pixels", file.width * file.height * PIXEL)
                picture = ImageOps.exif_transpose(file)
                pixels = _pixels(picture, shape[0])
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    except _UNREADABLE as error:
        size = path.stat().st_size
        why = "it is empty" if size == 0 else f"{type(error).__name__}: {error}"
        raise BadInput(f"{path} is no picture that can be read ({why}); mend it or take it away") from None
    return _fitted(torch.from_numpy(pixels).permute(2, 0, 1), shape[1:])


def _pixels(picture: Image.Image, channels: int) -> npt.NDArray[np.float32]:
    """(H, W, channels) in [0, 1]."""
    if picture.mode == "F":
        raise BadInput("it holds floats of unknown range; save it with 8 or 16 bits")
    if picture.mode.startswith("I"):
        deep: npt.NDArray[np.float32] = np.asarray(picture).astype(np.float32)
        if deep.min() < 0 or deep.max() > 65535:
            raise BadInput("it has more than 16 bits; save it with 8 or 16 bits")
        return np.repeat(deep[..., None] / np.float32(65535), channels, axis=2)
    if picture.has_transparency_data:
        over = picture.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, over)
    wanted = picture.convert("L" if channels == 1 else "RGB")
    plain: npt.NDArray[np.float32] = np.asarray(wanted).astype(np.float32) / np.float32(255)
    return plain.reshape(*plain.shape[:2], channels)


def _fitted(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(C, H, W) cut around the center to the ratio of `size`, then resized, in [0, 1]."""
    height, width = image.shape[1:]
    scale = min(height / size[0], width / size[1])
    rows, columns = (max(1, round(side * scale)) for side in size)
    top, left = (height - rows) // 2, (width - columns) // 2
    cut = image[:, top : top + rows, left : left + columns]
    if (rows, columns) == size:
        return cut.contiguous()
    return F.interpolate(cut[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)
