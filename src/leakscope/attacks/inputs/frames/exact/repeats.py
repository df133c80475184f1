"""Whether the windows that were found can follow each other in one way only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from leakscope.core.facts import BatchSize, Lengths
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.numerics import banded
from leakscope.targets.looking.context_window import ContextWindow

Array = NDArray[np.float64]

ALIKE = 1e-2
"""Frames that differ by less than this share of the root mean square count as equal: ten times what half precision
leaves. Windows that differ by less than rounding share one dimension of the span, and more than that is on the safe
side: here a frame too many costs a proof, one too few would be a false one."""


def undetermined(seen: Observation, utterances: Sequence[Array], window: ContextWindow) -> Refusal | None:
    """Why these windows may have occurred in another number or order, or None: then the utterances are determined.

    utterances: (T_u, F) each, in the model's units. Equal windows have one dimension of the span together, so a rank
    counts different windows. What was said is a walk through them, from one to any whose first width - 1 frames are its
    last, that visits all. Were a window visited twice, the walk would have a step that is not from a found window to
    the next found one; where there is no such step, each occurred once per utterance, in this order. Digital silence
    longer than a window has one: from a silent window to itself. `Lengths`, where told, decide between those.
    """
    if seen.knows(BatchSize) and seen.told(BatchSize).count != len(utterances):
        return Refusal(f"{len(utterances)} utterances were found for a batch of {seen.told(BatchSize).count}")
    lengths = sorted(len(frames) for frames in utterances)
    told = seen.knows(Lengths)
    if told and sorted(seen.told(Lengths).values) != lengths:
        return Refusal(f"utterances of {lengths} frames were found, where {sorted(seen.told(Lengths).values)} are told")
    steps = other_steps(utterances, window)
    # A step that stays adds a frame, which told numbers of frames exclude; others may also change the order.
    if told and all(start == end for start, end in steps):
        steps = []
    if steps:
        places = len({start for start, _ in steps})
        return Refusal(
            f"these windows occur, but how often and in which order is not determined: {places} of {sum(lengths)} may "
            "be followed by another than the next (digital silence, padding or repeated speech)"
        )
    if not seen.knows(BatchSize) and any(divisible(frames, window) for frames in utterances):
        return Refusal(
            "these windows occur, but a pause of zeros in an utterance may be the end of one and another's start"
        )
    return None


def other_steps(utterances: Sequence[Array], window: ContextWindow) -> list[tuple[int, int]]:
    """Pairs (i, j) of windows, counted through all utterances, where j may follow i but is not the next one.

    >>> seen = ContextWindow("w", "b", 1, 1, 1)
    >>> other_steps([np.array([[1.0], [2.0], [2.0], [2.0], [3.0]])], seen)
    [(1, 3), (2, 2)]
    >>> other_steps([np.array([[1.0], [2.0], [4.0]])], seen)
    []
    """
    windows = np.vstack([banded.windows(frames, left=window.left, right=window.right) for frames in utterances])
    overlap = (window.width - 1) * window.features
    tails, heads = windows[:, windows.shape[1] - overlap :], windows[:, :overlap]
    ends = set((np.cumsum([len(frames) for frames in utterances]) - 1).tolist())
    limit = ALIKE * float(np.sqrt(np.mean(windows**2)))
    steps = []
    for place, tail in enumerate(tails):
        # Not strictly below, for utterances of zeros alone; without overlap (one frame per window) all may follow.
        near = np.flatnonzero(np.abs(heads - tail).max(1, initial=0.0) <= limit).tolist()
        following = None if place in ends else place + 1
        steps += [(place, other) for other in near if other != following]
    return steps


def divisible(frames: Array, window: ContextWindow) -> bool:
    """Whether (T, F) holds a pause of zeros that may as well be the zeros around two utterances.

    >>> divisible(np.array([[1.0], [0.0], [0.0], [3.0]]), ContextWindow("w", "b", 1, 1, 1))
    True
    """
    silent = np.abs(frames).max(1) <= ALIKE * float(np.sqrt(np.mean(frames**2)))
    needed, run = max(window.width - 1, 1), 0
    for quiet in silent.tolist():
        run = run + 1 if quiet else 0
        if run >= needed:
            return True
    return False
