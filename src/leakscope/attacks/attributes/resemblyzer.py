"""The speaker encoder of Resemblyzer: its published weights in a network of our own."""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leakscope.attacks import citations
from leakscope.attacks.attributes.encoder import AbstractSpeakerEncoder, checked
from leakscope.core.errors import BadInput, MissingExtra
from leakscope.domains.speech import RATE, to_sound
from leakscope.numerics.rng import Key

PACKAGE = "Resemblyzer==0.1.4"
WINDOW, HOP, BANDS = 400, 160, 40
"""Of its spectrogram: 25 ms, 10 ms, mel filters."""
PART, STEP = 160, 77
"""Frames of the pieces of which an embedding is the mean (1.6 s), and from one to the next (1.3 per second)."""
COVERED = 0.75
"""The last piece counts when at least so much of it is sound."""
LOUDNESS = 10 ** (-30 / 20)
"""Recordings below this root mean square are made louder (-30 dBFS)."""
# Of the published network; its weights fit no other size.
HIDDEN, LAYERS = 256, 3


@final
@dataclass(frozen=True)
class Resemblyzer(AbstractSpeakerEncoder):
    """Three LSTM layers of 256 on mel spectrograms, trained by the GE2E loss on 1 800 hours of speech.

    Frames become sound first, by Griffin-Lim (`domains.speech.to_sound`) with a fixed phase to begin with; turns: how
    often it is refined. Recordings below -30 dBFS are made louder; silence is not cut out, unlike in the package.
    The weights are those inside the package Resemblyzer, which is looked up but not imported: it would need webrtcvad
    and librosa. Raises `MissingExtra` without it, `BadInput` on turns < 0.
    """

    turns: int = 30

    def __post_init__(self) -> None:
        if self.turns < 0:
            raise BadInput(f"expected turns >= 0, got {self.turns}")

    @property
    def citation(self) -> str:
        """Wan et al. 2018."""
        return citations.GE2E

    def version(self) -> str:
        """The repr; the package is pinned."""
        _weights()
        return repr(self)

    def of_frames(self, utterances: Sequence[Tensor]) -> Tensor:
        """Of the sound that is made of the frames."""
        _weights()  # before the sound is made, so that what is missing is said at once
        checked(utterances)
        # One phase for all: frames and their recovery become the same sound.
        phase = Key(0).child("resemblyzer")
        wide = (frames.detach().double() for frames in utterances)
        return self.of_sound([to_sound(frames, key=phase, iterations=self.turns) for frames in wide])

    def of_sound(self, recordings: Sequence[Tensor]) -> Tensor:
        """The mean over pieces of 1.6 s of each recording, scaled to length 1."""
        network = _network(_weights())
        return torch.stack([_embedded(network, samples) for samples in recordings])


def mel_spectrogram(samples: Tensor) -> Tensor:
    """|FFT_400|^2 of periodic Hann windows through 40 mel filters of unit area, no logarithm: (S,) to (frames, 40).

    Frames are centered: frame i begins at sample 160 i - 200, and before and after the sound are zeros.

    >>> mel_spectrogram(torch.zeros(16_000)).shape
    torch.Size([101, 40])
    """
    # Half a window of zeros on either side puts frame i around sample 160 i.
    padded = F.pad(samples.double(), (WINDOW // 2, WINDOW // 2))
    window = torch.hann_window(WINDOW, periodic=True, dtype=torch.float64)
    power = torch.fft.rfft(padded.unfold(0, WINDOW, HOP) * window).abs().square()
    mel: Tensor = power @ slaney_filters()
    return mel


@functools.cache
def slaney_filters() -> Tensor:
    """(201, 40): triangles between 42 frequencies from 0 to 8000 Hz, equally far apart in mel, each of area 1 per Hz.

    Mel as in Slaney's Auditory Toolbox (1998): 3 f / 200 up to 1000 Hz, above 15 + 27 ln(f / 1000) / ln 6.4.
    """
    # 8000 Hz in mel; 15 mel are 1000 Hz, where the straight part goes over into the logarithm.
    top = 15 + 27 * math.log(RATE / 2 / 1000) / math.log(6.4)
    mel = torch.linspace(0, top, BANDS + 2, dtype=torch.float64)
    edges = torch.where(mel < 15, 200 * mel / 3, 1000 * torch.exp((mel - 15) * math.log(6.4) / 27))
    bins = torch.arange(WINDOW // 2 + 1, dtype=torch.float64).unsqueeze(1) * RATE / WINDOW
    left, middle, right = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (bins - left) / (middle - left), (right - bins) / (right - middle)
    # A triangle of height 1 has area (right - left) / 2.
    return torch.minimum(rising, falling).clamp(min=0) * 2 / (right - left)


def pieces(count: int) -> list[int]:
    """At which frames the pieces of a recording of `count` samples begin.

    >>> pieces(16_000), pieces(48_000)
    ([0], [0, 77, 154])
    """
    frames = math.ceil((count + 1) / HOP)
    # STEP + 1 more than whole pieces need: the last one may reach beyond the sound.
    starts = list(range(0, max(1, frames - PART + STEP + 1), STEP))
    # A last piece that is mostly padding would weigh as much as the others; the only one stays.
    covered = (count - starts[-1] * HOP) / (PART * HOP)
    return starts[:-1] if covered < COVERED and len(starts) > 1 else starts


def _embedded(network: _Network, samples: Tensor) -> Tensor:
    if samples.dim() != 1 or len(samples) == 0 or not bool(torch.isfinite(samples).all()):
        raise BadInput(f"expected finite samples (S,), got {tuple(samples.shape)}; leave out what is empty")
    loud = samples.detach().double()
    level = float(loud.square().mean().sqrt())
    # Only louder, never softer; silence has no level to be raised from.
    if 0 < level < LOUDNESS:
        loud = loud * (LOUDNESS / level)
    starts = pieces(len(loud))
    # Zeros up to the end of the last piece.
    missing = (starts[-1] + PART) * HOP - len(loud)
    mel = mel_spectrogram(F.pad(loud, (0, max(0, missing)))).float()
    with torch.no_grad():
        parts = network(torch.stack([mel[start : start + PART] for start in starts]))
    # Pieces count alike, whatever their loudness: each is of length 1 before the mean.
    return F.normalize(parts.double().mean(0), dim=0)


@final
class _Network(nn.Module):
    """Mel spectrograms (N, 160, 40) to unit vectors (N, 256) without negative entries."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.lstm = nn.LSTM(BANDS, HIDDEN, LAYERS, batch_first=True)
        self.linear = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, mel: Tensor) -> Tensor:
        """The last state of the last layer, through a dense layer and ReLU."""
        _, (hidden, _) = self.lstm(mel)
        return F.normalize(torch.relu(self.linear(hidden[-1])), dim=1)


def _weights() -> Path:
    found = importlib.util.find_spec("resemblyzer")  # finds the folder, runs nothing of it
    if found is None or found.origin is None:
        raise MissingExtra(
            "the speaker encoder Resemblyzer needs the weights in the package of this name, which is not installed: "
            f"pip install --no-deps '{PACKAGE}' (what it depends on is not needed)"
        )
    return Path(found.origin).parent / "pretrained.pt"


@functools.lru_cache(maxsize=1)
def _network(path: Path) -> _Network:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
        with Key(0).isolated():  # the start is overwritten, but drawing it would move the global stream
            network = _Network()
        network.load_state_dict({name: state[name] for name in network.state_dict()})
    except (OSError, KeyError, RuntimeError) as error:
        raise BadInput(f"{path} holds no weights of Resemblyzer 0.1.4 ({error}); install {PACKAGE} again") from error
    return network.eval()
