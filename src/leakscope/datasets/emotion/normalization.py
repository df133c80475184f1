"""How feature vectors are brought to one scale before a model is trained on them."""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from leakscope.core.errors import BadInput

FLOOR = 1e-5
"""Added to deviations, so that a feature that never changes becomes 0."""


@final
class Normalization(enum.Enum):
    """Each feature x of a recording of speaker s in corpus c becomes, by statistics of all recordings that are taken:

    SPEAKER: (x - mean_s) / (std_s + 1e-5), what each client can do alone; takes out what all recordings of a speaker
    share, so most of what their mean says of the person. CORPUS: the same with mean_c and std_c, what clients have to
    agree on. RANGE: (x - min_c) / (max_c - min_c), in [0, 1], 0 for what never changes. Deviations are those of the
    population (divided by n), so of n recordings none is further than sqrt(n - 1) from 0 (Samuelson 1968).

    >>> Normalization("speaker")
    Normalization.SPEAKER
    """

    SPEAKER = "speaker"
    CORPUS = "corpus"
    RANGE = "range"

    def __repr__(self) -> str:
        return f"Normalization.{self.name}"


def normalized(values: Tensor, how: Normalization, *, speakers: Sequence[str], corpora: Sequence[str]) -> Tensor:
    """`values` (N, d) of recordings by these speakers in these corpora, (N, d) float32.

    Raises `BadInput` where a speaker has a single recording and all of it would become 0.

    >>> normalized(torch.tensor([[1.0], [3.0]]), Normalization.SPEAKER, speakers="aa", corpora="cc").round()
    tensor([[-1.],
            [ 1.]])
    """
    places: dict[str, list[int]] = {}
    for place, owner in enumerate(_together(how, speakers, corpora)):
        places.setdefault(owner, []).append(place)
    # In float64: some features are of the order of 1e6, their deviations far below.
    wide, made = values.double(), torch.empty_like(values)
    for owner, rows in places.items():
        if len(rows) < 2:
            raise BadInput(
                f"{owner!r} has a single recording, which normalization would turn into zeros; take more recordings, "
                "or another normalization"
            )
        made[rows] = _of(wide[rows], how).to(made.dtype)
    return made


def limits(how: Normalization, *, speakers: Sequence[str], corpora: Sequence[str]) -> tuple[float, float]:
    """What no normalized value of these recordings lies beyond, whatever the features: -+ sqrt(n - 1) rounded outward.

    >>> limits(Normalization.SPEAKER, speakers="aaab", corpora="cccc")
    (-2.0, 2.0)
    """
    if how is Normalization.RANGE:
        return 0.0, 1.0
    most = max(Counter(_together(how, speakers, corpora)).values())
    end = float(math.ceil(math.sqrt(most - 1)))
    return -end, end


def _together(how: Normalization, speakers: Sequence[str], corpora: Sequence[str]) -> list[str]:
    """Equal for recordings whose statistics are taken together."""
    own = how is Normalization.SPEAKER
    return [f"{corpus}, {speaker}" if own else corpus for corpus, speaker in zip(corpora, speakers, strict=True)]


def _of(rows: Tensor, how: Normalization) -> Tensor:
    """(n, d) by their own statistics."""
    if how is Normalization.RANGE:
        low, high = rows.amin(0), rows.amax(0)
        span = high - low
        return torch.where(span > 0, (rows - low) / torch.where(span > 0, span, 1.0), 0.0)
    return (rows - rows.mean(0)) / (rows.std(0, correction=0) + FLOOR)
