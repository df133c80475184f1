"""How feature vectors are brought to one scale before a model is trained on them."""

from __future__ import annotations

import enum
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
    agree on. RANGE: (x - min_c) / (max_c - min_c), in [0, 1], 0 for what never changes. NONE: x. Deviations are those
    of the population (divided by n).

    >>> Normalization("speaker")
    Normalization.SPEAKER
    """

    SPEAKER = "speaker"
    CORPUS = "corpus"
    RANGE = "range"
    NONE = "none"

    def __repr__(self) -> str:
        return f"Normalization.{self.name}"


def normalized(values: Tensor, how: Normalization, *, speakers: Sequence[str], corpora: Sequence[str]) -> Tensor:
    """`values` (N, d) of recordings by these speakers in these corpora, (N, d) float32.

    Raises `BadInput` where a speaker has a single recording and all of it would become 0.

    >>> normalized(torch.tensor([[1.0], [3.0]]), Normalization.SPEAKER, speakers="aa", corpora="cc").round()
    tensor([[-1.],
            [ 1.]])
    """
    if how is Normalization.NONE:
        return values.clone()
    per_speaker = how is Normalization.SPEAKER
    owners = [f"{c}, {s}" if per_speaker else c for c, s in zip(corpora, speakers, strict=True)]
    places: dict[str, list[int]] = {}
    for place, owner in enumerate(owners):
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


def _of(rows: Tensor, how: Normalization) -> Tensor:
    """(n, d) by their own statistics."""
    if how is Normalization.RANGE:
        low, high = rows.amin(0), rows.amax(0)
        span = high - low
        return torch.where(span > 0, (rows - low) / torch.where(span > 0, span, 1.0), 0.0)
    return (rows - rows.mean(0)) / (rows.std(0, correction=0) + FLOOR)
