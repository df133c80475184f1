"""What the ledger keeps of claimed speech: matrices of frames, and sound made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leakscope.core.domain import AbstractDomain
from leakscope.domains.speech import RATE, Frames, to_sound
from leakscope.numerics.rng import Key
from leakscope.scoring.kinds.kind import PairedSequences

MOST_SOUNDS = 3
"""How many utterances of a cell are made sound."""
SECONDS = 4
"""What is longer is cut: it is for listening, the frames are kept whole."""
TURNS = 30
"""Iterations of Griffin-Lim."""


def frame_arrays(pair: PairedSequences, domain: AbstractDomain | None, *, key: Key) -> dict[str, NDArray[Any]]:
    """`original` and `claim` (N, T, F), NaN after the end of each; `audio_*` (n, S) of the first, where they are MFCC.

    Both sounds are made from frames in the same way and with the same phase, so that what differs is the frames.
    """
    nothing = torch.empty(0, pair.original[0].shape[1], dtype=torch.float64)
    claimed = [nothing if one is None else one for one in pair.claimed]
    arrays: dict[str, NDArray[Any]] = {"original": _padded(pair.original), "claim": _padded(claimed)}
    if any(one is None for one in pair.claimed):
        arrays["unclaimed"] = np.array([one is None for one in pair.claimed])
    if isinstance(domain, Frames):
        arrays["audio_original"] = _sounds(pair.original, key)
        arrays["audio_claim"] = _sounds(claimed, key)
        arrays["audio_rate"] = np.array([RATE])
    return arrays


def _padded(sequences: tuple[Tensor, ...] | list[Tensor]) -> NDArray[np.float32]:
    count = max(1, *(len(one) for one in sequences))
    filled = [torch.full((count - len(one), one.shape[1]), float("nan"), dtype=one.dtype) for one in sequences]
    both = zip(sequences, filled, strict=True)
    array: NDArray[np.float32] = torch.stack([torch.cat(pair) for pair in both]).float().numpy()
    return array


def _sounds(sequences: tuple[Tensor, ...] | list[Tensor], key: Key) -> NDArray[np.float32]:
    """(n, S), padded with silence; an utterance of no frames is silence."""
    longest = SECONDS * 50
    made = [
        to_sound(one[:longest], key=key.child("sound", place), iterations=TURNS) if len(one) else torch.zeros(1)
        for place, one in enumerate(sequences[:MOST_SOUNDS])
    ]
    sounds = np.zeros((len(made), max(len(one) for one in made)), np.float32)
    for row, one in zip(sounds, made, strict=True):
        row[: len(one)] = one.float().numpy()
    return sounds


def heard(frames: Sequence[Tensor], key: Key) -> tuple[NDArray[np.float32], int]:
    """Sounds (n, S) of the first few matrices of MFCC (T, F), padded with silence, and their rate in Hz."""
    return _sounds(tuple(frames), key), RATE
