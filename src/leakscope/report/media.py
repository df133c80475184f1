"""Pictures and sounds as data URIs: nothing is loaded from elsewhere, nothing is drawn that was not measured."""

from __future__ import annotations

import base64
import io
import wave
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from leakscope.core.errors import BadInput

Array = NDArray[Any]
Pixels = NDArray[np.uint8]

LARGEST_EDGE = 96
"""Pictures with a longer edge are averaged down to it, so that a page stays a few megabytes."""

NOT_A_NUMBER = (255, 0, 255)
"""The color of pixels that are NaN: no photograph holds it, so a broken claim cannot pass for a gray one."""

FULL = 32767
"""The largest 16-bit sample. +1 and -1 are both drawn this far from 0, so -32768 is not used and 0 stays silence."""


def uri(kind: str, content: bytes) -> str:
    """`data:KIND;base64,...`

    >>> uri("text/plain", b"hi")
    'data:text/plain;base64,aGk='
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def png(pixels: Pixels) -> bytes:
    """A PNG file of (H, W) gray or (H, W, 3) RGB bytes, written by Pillow.

    Raises `BadInput` for any other shape or type. The same pixels give the same bytes.

    >>> png(np.zeros((2, 2), np.uint8))[:4]
    b'\x89PNG'
    """
    rank_fits = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if not rank_fits or pixels.dtype != np.uint8 or 0 in pixels.shape:
        raise BadInput(f"expected uint8 pixels (H, W) or (H, W, 3), got {pixels.dtype} {pixels.shape}")
    file = io.BytesIO()
    # A page holds hundreds of pictures: the smallest file is worth the slowest level of compression.
    Image.fromarray(pixels).save(file, "PNG", compress_level=9)
    return file.getvalue()


def _unit_to_bytes(image: Array) -> Pixels:
    """(H, W) or (H, W, 3) in [0, 1] to bytes; values outside are clipped, NaN is painted."""
    values = np.asarray(image, np.float64)
    # Asked for first: clip keeps NaN, and a cast of NaN to a byte is whatever the processor makes of it.
    broken = np.isnan(values)
    bytes_: Pixels = np.rint(np.clip(np.where(broken, 0.0, values), 0.0, 1.0) * 255).astype(np.uint8)
    if not broken.any():
        return bytes_
    if bytes_.ndim == 2:
        bytes_, broken = np.repeat(bytes_[..., None], 3, axis=2), broken[..., None]
    bytes_[broken.any(axis=2)] = NOT_A_NUMBER
    return bytes_


def shrink(image: Array, edge: int = LARGEST_EDGE) -> Array:
    """(C, H, W) averaged over whole blocks until no side is longer than `edge`; smaller ones are returned as they are.

    >>> shrink(np.ones((3, 200, 100)), 96).shape
    (3, 67, 34)
    """
    step = -(-max(image.shape[1:]) // edge)
    if step <= 1:
        return image
    # Each block is summed and divided by what is in it: those at the right and lower edge hold fewer pixels.
    rows = np.arange(0, image.shape[1], step)
    columns = np.arange(0, image.shape[2], step)
    sums = np.add.reduceat(np.add.reduceat(image.astype(np.float64), rows, axis=1), columns, axis=2)
    counts = np.outer(np.diff([*rows, image.shape[1]]), np.diff([*columns, image.shape[2]]))
    return np.asarray(sums / counts)


def images(batch: Array) -> tuple[str, ...]:
    """(N, C, H, W) in [0, 1] to N PNG data URIs, C = 1 or 3; clipped, NaN painted magenta, long edges averaged down.

    Raises `BadInput` for other shapes.

    >>> images(np.zeros((2, 1, 4, 4)))[0][:22]
    'data:image/png;base64,'
    """
    if batch.ndim != 4 or batch.shape[1] not in (1, 3) or 0 in batch.shape[2:]:
        raise BadInput(f"expected pictures (N, C, H, W) with 1 or 3 channels, got {batch.shape}")
    return tuple(image(one) for one in batch)


def image(one: Array) -> str:
    """(C, H, W) in [0, 1], C = 1 or 3, to a PNG data URI; see `images`."""
    if one.ndim != 3 or one.shape[0] not in (1, 3):
        raise BadInput(f"expected a picture (C, H, W) with 1 or 3 channels, got {one.shape}")
    small = shrink(one)
    return uri("image/png", png(_unit_to_bytes(small[0] if len(small) == 1 else np.moveaxis(small, 0, 2))))


def picture_file(one: Array) -> bytes:
    """(C, H, W) in [0, 1], C = 1 or 3, as a PNG file of full size; clipped, NaN painted magenta."""
    return png(_unit_to_bytes(one[0] if len(one) == 1 else np.moveaxis(one, 0, 2)))


Scale = tuple[float | Array, float | Array]
"""(low, high): which values are drawn darkest and brightest; shared by what is compared. Of matrices, one each per
coefficient (F,): the first of MFCC is ten times the others, which would all look alike."""


def scale_of(*arrays: Array) -> tuple[float, float]:
    """The range of the finite values of all arrays together; (0, 1) where there are none.

    >>> scale_of(np.array([1.0, np.nan]), np.array([3.0]))
    (1.0, 3.0)
    """
    finite = [a[np.isfinite(a)] for a in (np.asarray(array, np.float64) for array in arrays)]
    values = np.concatenate([*(f.ravel() for f in finite), np.empty(0)])
    if not values.size:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    return low, (high if high > low else low + 1.0)


def scale_of_columns(*arrays: Array) -> Scale:
    """The range of each coefficient (F,) over the frames of all matrices together, as in `scale_of`.

    >>> scale_of_columns(np.array([[1.0, 5.0], [3.0, 9.0]]))[1].tolist()
    [3.0, 9.0]
    """
    columns = [scale_of(*(array[:, k] for array in arrays)) for k in range(arrays[0].shape[1])]
    return np.array([low for low, _ in columns]), np.array([high for _, high in columns])


def matrix(array: Array, scale: Scale | None = None) -> Array:
    """(frames, coefficients) of any unit to a (3, coefficients, frames) picture: time to the right, first row lowest.

    Colors are cividis, whose lightness rises evenly and which color-blind readers see alike (Nunez et al. 2018).
    Raises `BadInput` unless the array has two axes.
    """
    from matplotlib import colormaps

    if array.ndim != 2 or 0 in array.shape:
        raise BadInput(f"expected a matrix (frames, coefficients), got {array.shape}")
    low, high = scale or scale_of(array)
    unit = (np.asarray(array, np.float64) - low) / (high - low)
    colors = np.asarray(colormaps["cividis"](np.clip(unit, 0, 1)))[..., :3]
    # The color map makes NaN black, which looks like a low value; `_unit_to_bytes` paints it as broken.
    colors[np.isnan(unit)] = np.nan
    return np.moveaxis(colors, 2, 0).transpose(0, 2, 1)[:, ::-1]


def matrix_picture(array: Array, scale: Scale | None = None) -> str:
    """The PNG data URI of `matrix`."""
    return image(matrix(array, scale))


def drawable(one: Array, scale: Scale) -> Array:
    """Anything as a (1 or 3, H, W) picture in [0, 1], by its rank.

    (C, H, W) with 1 or 3 channels is taken as it is; other channel counts are laid side by side; (frames, coefficients)
    and vectors are drawn as a matrix in `scale`, without the frames at the end that are NaN.
    """
    if one.ndim == 2:
        heard = np.flatnonzero(~np.isnan(np.asarray(one, np.float64)).all(axis=1))
        return matrix(one[: int(heard[-1]) + 1] if heard.size else one, scale)
    if one.ndim == 3 and one.shape[0] in (1, 3):
        return one
    if one.ndim == 3:
        return np.concatenate(list(one), axis=1)[None]
    return matrix(np.atleast_1d(one).reshape(-1, 1), scale)


def wav(samples: Array, rate: int) -> bytes:
    """(S,) in [-1, 1] to a mono 16-bit PCM file; clipped, NaN is silence. Raises `BadInput` on other shapes."""
    if samples.ndim != 1 or not samples.size or rate < 1:
        raise BadInput(f"expected samples (S,) and a positive rate, got {samples.shape} at {rate} Hz")
    sound = np.nan_to_num(np.asarray(samples, np.float64), nan=0.0, posinf=1.0, neginf=-1.0)
    body = np.rint(np.clip(sound, -1, 1) * FULL).astype("<i2").tobytes()
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, rate, len(samples), "NONE", ""))  # one channel of two bytes, not compressed
        writer.writeframes(body)
    return file.getvalue()


def audio_player(samples: Array, rate: int, *, label: str = "recording") -> Markup:
    """An `<audio>` element of (S,) in [-1, 1] at `rate` Hz, nothing loaded from elsewhere.

    >>> str(audio_player(np.zeros(4), 8000, label='a "b"'))[:47]
    '<audio controls preload="none" aria-label="a &#'
    """
    return Markup('<audio controls preload="none" aria-label="{}" src="{}"></audio>').format(
        label, uri("audio/wav", wav(samples, rate))
    )
