"""What image sources share: sizes, bytes to numbers, resizing, and files that other packages ship."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import skimage
import torch
import torch.nn.functional as F
from torch import Tensor

from leakscope.core import file_limits
from leakscope.core.errors import BadInput


def checked_size(size: int) -> None:
    """Raises `BadInput` unless `size` is a positive number of pixels."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise BadInput(f"expected a positive number of pixels, got size={size!r}")


def from_bytes(pixels: npt.NDArray[np.uint8]) -> Tensor:
    """Bytes 0..255 as float32 in [0, 1], same shape."""
    return torch.from_numpy(pixels.astype(np.float32) / 255)


def resized(images: Tensor, size: int) -> Tensor:
    """(N, C, H, W) in [0, 1] to (N, C, size, size) in [0, 1]: bilinear, with antialiasing where it shrinks.

    >>> resized(torch.ones(1, 1, 4, 4), 2)
    tensor([[[[1., 1.],
              [1., 1.]]]])
    """
    if images.shape[-2:] == (size, size):
        return images
    # twice: before and after the clamp
    file_limits.afford(
        f"{len(images)} pictures of {size} x {size}", 8 * images.shape[0] * images.shape[1] * size * size
    )
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True).clamp(0, 1)


def shipped(name: str) -> Path:
    """The path of a data file inside the installed scikit-image; nothing is downloaded.

    Raises `BadInput` when this version of scikit-image does not carry the file.
    """
    path = Path(skimage.__file__).parent / "data" / name
    if not path.is_file():
        raise BadInput(f"scikit-image {version('scikit-image')} does not carry {name}; reinstall scikit-image>=0.22")
    return path
