"""Speech: 16 kHz sound, its MFCC frames as DeepSpeech takes them, and the way back to sound."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.numerics.rng import Key

RATE = 16_000
"""Samples per second."""
WINDOW = 512
"""Samples per frame (32 ms); also the length of the Fourier transform."""
HOP = 320
"""Samples from one frame to the next (20 ms)."""
BINS = WINDOW // 2 + 1
BANDS = 40
"""Triangular mel filters."""
LOWEST, HIGHEST = 20.0, 8000.0
"""Edges of the filter bank in Hz."""
FLOOR = 1e-12
"""Filter outputs below this count as this, so that the logarithm of silence is finite."""


@final
@dataclass(frozen=True)
class Frames(AbstractDomain):
    """Utterances (T, coefficients) of any length T: MFCC at 50 frames per second, in the units of `mfcc`.

    Raises `BadInput` unless 1 <= coefficients <= 40, the number of mel filters.

    >>> Frames(26).fits(torch.zeros(2, 148, 26))
    True
    """

    coefficients: int = 26

    def __post_init__(self) -> None:
        _checked_count(self.coefficients)

    @property
    def shape(self) -> tuple[int, ...]:
        """(50, coefficients), one second: what a probe feeds; real utterances have other lengths."""
        return (RATE // HOP, self.coefficients)

    def fits(self, inputs: Tensor) -> bool:
        """Whether `inputs` are (B, T, coefficients) with T >= 1."""
        return inputs.dim() == 3 and inputs.shape[1] >= 1 and inputs.shape[2] == self.coefficients

    def bounds(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Lowest and highest value of each coefficient that any sound in [-1, 1] can have; each (coefficients,)."""
        transform = _dct()[: self.coefficients]
        low, high = _log_range()
        rising, falling = transform.clamp(min=0), transform.clamp(max=0)
        lowest, highest = rising @ low + falling @ high, rising @ high + falling @ low
        return lowest.to(like), highest.to(like)

    def to_display(self, inputs: Tensor) -> Tensor:
        """The coefficients themselves: their errors are reported in their own units."""
        return inputs


@final
@dataclass(frozen=True)
class Alphabet:
    """The characters of transcripts, numbered from 0; the blank of CTC comes after the last.

    Raises `BadInput` on no characters or on repeated ones.

    >>> ENGLISH.encode("it's")
    (9, 20, 27, 19)
    >>> ENGLISH.decode((9, 20)), ENGLISH.blank
    ('it', 28)
    """

    characters: str = " abcdefghijklmnopqrstuvwxyz'"

    def __post_init__(self) -> None:
        if not self.characters or len(set(self.characters)) != len(self.characters):
            raise BadInput(f"an alphabet needs different characters, got {self.characters!r}")

    @property
    def blank(self) -> int:
        """The index of the blank: the number of characters."""
        return len(self.characters)

    @property
    def classes(self) -> int:
        """Characters and the blank."""
        return len(self.characters) + 1

    def encode(self, text: str) -> tuple[int, ...]:
        """The index of each character. Raises `BadInput` on one that is not in the alphabet."""
        strange = sorted(set(text) - set(self.characters))
        if strange:
            lower = set(text.lower()) <= set(self.characters)
            advice = "write it in lower case" if lower else "spell out numbers and remove other marks"
            raise BadInput(f"{text!r} holds {', '.join(map(repr, strange))}, outside {self.characters!r}; {advice}")
        return tuple(self.characters.index(character) for character in text)

    def decode(self, indices: tuple[int, ...] | list[int]) -> str:
        """The text. Raises `BadInput` on an index that is no character; the blank is none."""
        wrong = sorted({i for i in indices if not 0 <= i < len(self.characters)})
        if wrong:
            raise BadInput(f"expected indices from 0 to {len(self.characters) - 1}, got {wrong}; remove the blanks")
        return "".join(self.characters[i] for i in indices)


ENGLISH = Alphabet()
"""Space, a to z, apostrophe as 0..27; the blank is 28."""


def frame_count(samples: int) -> int:
    """1 + floor((samples - 512) / 320), and 0 below 512: a frame is whole or it is not there.

    >>> frame_count(16_000)
    49
    """
    return 0 if samples < WINDOW else 1 + (samples - WINDOW) // HOP


def log_mel(samples: Tensor) -> Tensor:
    """log max(|FFT_512(w x_t)| B, 1e-12) with the periodic Hann window w and the mel filters B.

    samples: (..., N) at 16 kHz in [-1, 1]. Returns (..., T, 40) in nepers, T = `frame_count(N)`, in the dtype of the
    samples (computed in float64). Magnitudes, not powers; no pre-emphasis, no padding. Differentiable.
    Raises `BadInput` on fewer than 512 samples.

    >>> log_mel(torch.zeros(832)).shape
    torch.Size([2, 40])
    """
    if samples.dim() < 1 or not samples.is_floating_point():
        raise BadInput(f"expected floating samples (..., N) in [-1, 1], got {tuple(samples.shape)} {samples.dtype}")
    if samples.shape[-1] < WINDOW:
        raise BadInput(f"{samples.shape[-1]} samples are less than one frame of {WINDOW} (32 ms); use longer sound")
    magnitudes = _spectrum(samples.double())
    return (magnitudes @ _filters().to(samples.device)).clamp(min=FLOOR).log().to(samples.dtype)


def mfcc(samples: Tensor, *, coefficients: int = 26) -> Tensor:
    """c_tk = sqrt(2/40) sum_m log_mel_tm cos(pi k (m + 1/2) / 40), the same factor for every k.

    samples: (..., N) at 16 kHz in [-1, 1]. Returns (..., T, coefficients) in the dtype of the samples. No liftering, no
    mean or variance normalization. The features of DeepSpeech 0.7 and TensorFlow's `Mfcc` operation.
    Raises `BadInput` as `log_mel` does, and unless 1 <= coefficients <= 40.

    >>> round(mfcc(torch.zeros(512))[0, 0].item(), 3)  # silence: 40 * sqrt(2/40) * log(1e-12)
    -247.139
    """
    # Ours, digit by digit what the audited models were trained on: speech libraries start from powers, pad the ends or
    # # scale k = 0 apart, and a frame that is off by a constant counts as not recovered.
    _checked_count(coefficients)
    transform = _dct()[:coefficients].to(samples.device)
    return (log_mel(samples).double() @ transform.T).to(samples.dtype)


def log_mel_of(frames: Tensor) -> Tensor:
    """The log-mel that `frames` (..., T, coefficients) describe, the missing coefficients zero: (..., T, 40).

    Clipped to what sound in [-1, 1] can have, so that frames that no sound has still give one.
    """
    low, high = (edge.to(frames.device) for edge in _log_range())
    return torch.minimum(torch.maximum(bands_of(frames.double()), low), high).to(frames.dtype)


def bands_of(frames: Tensor) -> Tensor:
    """The same without the clip, linear in the frames and differentiable everywhere: (..., T, 40), in their dtype.

    Raises `BadInput` unless 1 <= coefficients <= 40.
    """
    count = frames.shape[-1]
    _checked_count(count)
    transform = _dct()[:count].to(frames.device)
    # the rows are orthogonal; the first has squared length 2, the others 1
    return frames @ (transform / transform.square().sum(1, keepdim=True)).to(frames.dtype)


def to_sound(frames: Tensor, *, key: Key, iterations: int = 50) -> Tensor:
    """Sound whose MFCC are close to `frames`: inverse DCT, exp, inverse mel filters, Griffin-Lim.

    frames: (T, coefficients). Returns (512 + 320 (T - 1),) samples at 16 kHz, in the dtype of the frames. The phase is
    drawn from `key` and refined `iterations` times (Griffin and Lim 1984, doi:10.1109/TASSP.1984.1164317).
    Raises `BadInput` when frames are not (T, coefficients) or not finite.
    """
    if frames.dim() != 2 or len(frames) == 0 or not bool(torch.isfinite(frames).all()):
        raise BadInput(f"expected finite frames (T, coefficients), got {tuple(frames.shape)}; cut off the padding")
    if iterations < 0:
        raise BadInput(f"expected iterations >= 0, got {iterations}")
    magnitudes = magnitudes_of(log_mel_of(frames.detach().double().cpu()))
    return _griffin_lim(magnitudes, key=key.child("phase"), iterations=iterations).to(frames)


def gap(samples: Tensor, frames: Tensor) -> float:
    """mean |log_mel(samples) - log_mel_of(frames)| in nepers: how far sound is from the frames that it was made for.

    Both describe the same T frames of one utterance, smoothed to the same number of coefficients. Range [0, inf).
    """
    asked = log_mel_of(frames.double())
    got = log_mel_of(mfcc(samples.double(), coefficients=frames.shape[-1]))
    if got.shape != asked.shape:
        raise BadInput(f"the sound has {len(got)} frames, expected {len(asked)}; compare one with its own")
    return float((got - asked).abs().mean())


def magnitudes_of(mel: Tensor, *, updates: int = 100) -> Tensor:
    """S >= 0 (T, 257) with S B close to exp(mel) (T, 40), by multiplicative updates.

    S <- S * (B (M / S B)) / sum_m B lowers the Kullback-Leibler divergence at each step and keeps S >= 0 (Lee and Seung
    2001). The start spreads each filter's mean over its triangle, so that of many solutions a smooth one is found.
    """
    filters, wanted = _filters().to(mel.device), mel.double().exp()
    mass = filters.sum(1).clamp(min=FLOOR)
    magnitudes = wanted / filters.sum(0) @ filters.T / mass
    for _ in range(updates):
        magnitudes = magnitudes * (wanted / (magnitudes @ filters).clamp(min=FLOOR) @ filters.T) / mass
    return magnitudes


def _griffin_lim(magnitudes: Tensor, *, key: Key, iterations: int) -> Tensor:
    turns = torch.rand(magnitudes.shape, generator=key.generator(), dtype=torch.float64)
    samples = _overlapped(torch.polar(magnitudes, 2 * math.pi * turns))
    for _ in range(iterations):
        samples = _overlapped(torch.polar(magnitudes, _short_time(samples).angle()))
    return samples


def _overlapped(spectra: Tensor) -> Tensor:
    """The sound whose windowed spectra are nearest to `spectra` (T, 257) in the least squares: (512 + 320 (T - 1),)."""
    pieces = torch.fft.irfft(spectra, n=WINDOW) * _hann()
    weights = _hann().square().expand(len(spectra), -1)
    # 0.19 is the least weight where two frames meet; only the faint first and last 5 ms are not divided by theirs
    return _added(pieces) / _added(weights).clamp(min=0.05)


def _added(pieces: Tensor) -> Tensor:
    """Frames (T, 512) laid 320 samples apart and summed."""
    length = WINDOW + HOP * (len(pieces) - 1)
    return torch.flatten(F.fold(pieces.T.unsqueeze(0), (1, length), (1, WINDOW), stride=(1, HOP)))


def _short_time(samples: Tensor) -> Tensor:
    spectra: Tensor = torch.fft.rfft(samples.unfold(-1, WINDOW, HOP) * _hann().to(samples.device))
    return spectra


def _spectrum(samples: Tensor) -> Tensor:
    """(..., N) float64 to magnitudes (..., T, 257)."""
    return _short_time(samples).abs()


def _checked_count(coefficients: int) -> None:
    if not 1 <= coefficients <= BANDS:
        raise BadInput(f"expected 1 to {BANDS} coefficients, got {coefficients}")


def _mel(hertz: float | Tensor) -> Tensor:
    return 1127.0 * torch.log1p(torch.as_tensor(hertz, dtype=torch.float64) / 700.0)


@functools.cache
def _hann() -> Tensor:
    return torch.hann_window(WINDOW, periodic=True, dtype=torch.float64)


@functools.cache
def _filters() -> Tensor:
    """(257, 40): each bin divides its weight between the two filters whose centers it lies between, by mel distance.

    As in TensorFlow's mel filter bank: bins below 1.5 + 20 / 31.25 (among them 0 Hz) and above 8000 Hz count nothing,
    and weights are not normalized.
    """
    spacing = RATE / WINDOW
    edges = torch.linspace(float(_mel(LOWEST)), float(_mel(HIGHEST)), BANDS + 2, dtype=torch.float64)
    bins = torch.arange(int(1.5 + LOWEST / spacing), int(HIGHEST / spacing) + 1)
    mel = _mel(bins * spacing)
    # edges[k] < mel <= edges[k + 1]; edges[k + 1] is the center of filter k
    left = torch.searchsorted(edges, mel).sub(1).clamp(0, BANDS)
    upward = (mel - edges[left]) / (edges[left + 1] - edges[left])
    # filter `left` rises, filter `left - 1` falls; the columns before the first and after the last are cut off
    bank = torch.zeros(BINS, BANDS + 2, dtype=torch.float64)
    bank[bins, left] = 1 - upward
    bank[bins, left + 1] = upward
    return bank[:, 1:-1].contiguous()


@functools.cache
def _dct() -> Tensor:
    """(40, 40): row k is sqrt(2/40) cos(pi k (m + 1/2) / 40)."""
    k, m = torch.arange(BANDS, dtype=torch.float64).unsqueeze(1), torch.arange(BANDS, dtype=torch.float64)
    return math.sqrt(2 / BANDS) * torch.cos(math.pi / BANDS * k * (m + 0.5))


@functools.cache
def _log_range() -> tuple[Tensor, Tensor]:
    """Lowest and highest log-mel of sound in [-1, 1], each (40,): silence, and every bin at the sum of the window."""
    high = (_filters().sum(0) * _hann().sum()).log()
    return torch.full_like(high, math.log(FLOOR)), high
