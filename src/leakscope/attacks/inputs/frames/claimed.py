"""Utterances of any lengths as one claim."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leakscope.core.claim import Inputs


def claimed(utterances: Sequence[NDArray[np.float64]], like: Tensor, *, proved: bool = False) -> Inputs:
    """Utterances (T_u, F) as a claim (N, T, F) of the type and on the device of `like`, padded with zeros.

    >>> claimed([np.ones((2, 1)), np.ones((1, 1))], torch.zeros(1)).values.squeeze(2)
    tensor([[1., 1.],
            [1., 0.]])
    """
    lengths = [len(frames) for frames in utterances]
    padded = np.zeros((len(lengths), max(lengths), utterances[0].shape[1]))
    # Zeros behind an utterance are what a window sees there too; the lengths tell them from frames of silence.
    for row, frames in zip(padded, utterances, strict=True):
        row[: len(frames)] = frames
    # Confidence 1 means proof; without one nothing is said, so None and not 0.
    confidence = torch.ones(len(lengths)) if proved else None
    return Inputs(torch.from_numpy(padded).to(like), confidence=confidence, lengths=torch.tensor(lengths))
