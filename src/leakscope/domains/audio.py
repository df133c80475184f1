"""Sound files become samples: any rate, any width, any number of channels."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.signal import resample_poly
from torch import Tensor

from leakscope.core import file_limits
from leakscope.core.errors import BadInput, optional
from leakscope.domains.speech import RATE, WINDOW

SLOWEST, FASTEST = 4000, 768_000
"""Hz; below the first nothing that a recognizer needs is left, above the second no sound card records."""

MOST_TAPS = 50_000
"""The largest part of the ratio of two rates in lowest terms: the filter has twenty times as many taps."""

LOUDEST = 1e30
"""What float32 still holds after sums and products of a filter."""

COSTS = 4
"""Arrays of float64 that reading one recording takes at once."""

Samples = npt.NDArray[np.float64]


def resampled(samples: Samples, rate: int) -> Tensor:
    """`samples` (N,) at `rate` Hz as (ceil(16000 N / rate),) float32 at 16 kHz, by a polyphase low-pass filter.

    Raises `BadInput` on a rate below 4000 or above 768000 Hz: the filter has as many taps as the rate.

    >>> resampled(np.zeros(8000), 8000).shape
    torch.Size([16000])
    """
    if rate < SLOWEST:
        raise BadInput(f"expected at least {SLOWEST} samples per second, got {rate}; record it again")
    if rate > FASTEST:
        raise BadInput(f"expected at most {FASTEST} samples per second, got {rate}; write it again at 16000")
    common = math.gcd(RATE, rate)
    if max(RATE, rate) // common > MOST_TAPS:
        raise BadInput(
            f"{rate} samples per second have no ratio to {RATE} that a filter can have; write it again at 16000"
        )
    values = samples if rate == RATE else resample_poly(samples, RATE // common, rate // common)
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def read_sound(path: str | os.PathLike[str]) -> Tensor:
    """The samples of a sound file (WAV, FLAC, OGG and what else libsndfile reads): (N,) float32, 16 kHz, mono.

    Integers of any width are scaled to [-1, 1], channels averaged, other rates resampled. Raises `BadInput`, with the
    file's name, when it is missing, no sound, damaged, truncated, not finite or shorter than one frame (32 ms);
    `MissingExtra` without the extra `speech`.
    """
    place = Path(path)
    if not place.is_file():
        raise BadInput(f"no sound file {place}; check the path")
    soundfile = optional("soundfile", extra="speech", purpose="reading sound files")
    values, rate = _decoded(soundfile, place)
    # NaN is not below anything, so it is found as well
    if not bool((np.abs(values) < LOUDEST).all()):
        raise BadInput(f"{place} holds samples that are not finite or far beyond [-1, 1]; write it again as integers")
    try:
        samples = resampled(values.mean(1), rate)
    except BadInput as error:
        raise BadInput(f"{place}: {error}") from None
    if len(samples) < WINDOW:
        raise BadInput(
            f"{place} holds {len(samples)} samples at 16 kHz, less than one frame of {WINDOW} (32 ms); leave it out"
        )
    return samples


def duration(path: str | os.PathLike[str]) -> float:
    """Seconds of sound according to the file's header. Raises `BadInput` as `read_sound` does."""
    place = Path(path)
    if not place.is_file():
        raise BadInput(f"no sound file {place}; check the path")
    soundfile = optional("soundfile", extra="speech", purpose="reading sound files")
    try:
        return float(soundfile.info(str(place)).duration)
    except (soundfile.SoundFileError, OSError, ValueError, OverflowError) as error:
        raise BadInput(f"{place} is no sound file that can be read ({error}); get it again or convert it") from error


def _decoded(soundfile: Any, path: Path) -> tuple[Samples, int]:
    """(N, channels) and the rate."""
    try:
        with soundfile.SoundFile(str(path)) as file:
            promised, rate = int(file.frames), int(file.samplerate)
            # slow recordings become longer when they are resampled
            numbers = promised * max(file.channels, RATE / max(rate, 1))
            file_limits.afford(f"the {promised} samples of {path}", numbers * COSTS * 8, held=path.stat().st_size)
            values: Samples = file.read(dtype="float64", always_2d=True)
    except (soundfile.SoundFileError, OSError, ValueError, OverflowError, MemoryError) as error:
        raise BadInput(
            f"{path} cannot be decoded: it is truncated, damaged or no sound ({error}); get it again"
        ) from error
    if len(values) < promised:
        raise BadInput(f"{path} is truncated: it holds {len(values)} of {promised} samples; get it again")
    _complete(path)
    return values, rate


def _complete(path: Path) -> None:
    """Refuse a RIFF file shorter than its header says: libsndfile reads what there is without a word."""
    with path.open("rb") as file:
        head = file.read(8)
    if len(head) < 8 or head[:4] != b"RIFF":
        return
    promised, size = int.from_bytes(head[4:], "little") + 8, path.stat().st_size
    # writers to a pipe leave 0 or the largest number, as they cannot know; some leave out a last byte of padding
    if promised not in (8, 2**32 + 7) and size < promised - 1:
        raise BadInput(f"{path} is truncated: {size} of {promised} bytes; get it again")
