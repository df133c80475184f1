"""Sequences of any length as the referee looks at them: completed, paired, and guessed blindly."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.core.batch import Batch
from leakscope.core.claim import Inputs, Transcripts
from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.numerics.assign import assign
from leakscope.numerics.edits import edits
from leakscope.scoring.chance import Level
from leakscope.scoring.metrics.metric import AbstractMetric, AbstractSequenceMetric, AbstractTranscriptMetric
from leakscope.scoring.metrics.speech import CharacterErrorRate, FrameError
from leakscope.scoring.pairing import Pairing, Truth, displayed, kept
from leakscope.scoring.score import Direction

EXACT_FRAMES = 1e-4
"""A sequence of the right length with no larger mean absolute error is exact: MFCC reach 26, where float32 rounds at
2e-6, and the solution of a long utterance multiplies that."""

POOL = 24
"""How many public transcripts are looked at for the best constant guess."""

Said = tuple[int, ...]


@final
@dataclass(frozen=True, eq=False)
class Blindly:
    """What one says of speech without having heard it.

    frame: (F,) the mean public frame in display units, or the middle of the domain's range.
    transcripts: what a constant guess could say: nothing, the public transcript nearest to the others, the most
    frequent public character as often as transcripts are long.
    """

    frame: Tensor
    transcripts: tuple[Said, ...]


def known_blindly(truth: Truth, public: Batch | None) -> Blindly:
    """The blind knowledge about a secret of sequences. Raises `BadInput` without public data and without a range."""
    if public is not None and (public.lengths is None or public.inputs.shape[2] != truth.inputs.shape[2]):
        raise BadInput(f"public inputs {tuple(public.inputs.shape)} are no sequences like {tuple(truth.inputs.shape)}")
    if public is not None:
        return Blindly(mean_frame(public, truth.domain), constant_transcripts(transcripts_of(public)))
    like = torch.zeros(truth.inputs.shape[2], dtype=torch.float64)
    low, high = (torch.zeros(()), torch.ones(())) if truth.domain is None else truth.domain.bounds(like)
    if not bool(torch.isfinite(low).all() and torch.isfinite(high).all()):
        raise BadInput("no blind guess exists for an unbounded domain without public data; pass public=")
    middle = ((low.double() + high.double()) / 2).expand_as(like)
    return Blindly(displayed(middle[None, None], truth.domain)[0, 0], ((),))


def mean_frame(public: Batch, domain: AbstractDomain | None = None) -> Tensor:
    """(F,) float64: the mean of all real frames of a public batch, in display units."""
    assert public.lengths is not None
    return torch.cat(frames_of(displayed(public.inputs, domain), public.lengths.tolist())).mean(0)


def transcripts_of(batch: Batch) -> tuple[Said, ...]:
    """The labels of each sequence without their padding."""
    assert batch.label_lengths is not None
    pairs = zip(batch.labels.tolist(), batch.label_lengths.tolist(), strict=True)
    return tuple(tuple(row[:count]) for row, count in pairs)


@functools.lru_cache(maxsize=32)
def constant_transcripts(public: tuple[Said, ...]) -> tuple[Said, ...]:
    """Three constant guesses, see `Blindly`; the nearest of the first `POOL` public transcripts is by their edits.

    >>> constant_transcripts(((1, 2, 2), (1, 2), (4, 1, 2, 2)))
    ((), (1, 2, 2), (2, 2, 2))
    """
    pool = public[:POOL]
    nearest = min(pool, key=lambda one: sum(edits(one, other) / max(1, len(other)) for other in pool))
    counts = Counter(character for said in public for character in said)
    length = round(sum(map(len, public)) / len(public))
    frequent = tuple([counts.most_common(1)[0][0]] * length) if counts else ()
    return (), nearest, frequent


def frames_of(values: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    """The real frames of each padded sequence. Raises `BadInput` on a length that `values` (N, T, F) do not have."""
    if values.dim() != 3 or any(not 0 <= length <= values.shape[1] for length in lengths):
        raise BadInput(f"sequences (N, T, F) of lengths {list(lengths)} cannot be {tuple(values.shape)}; check both")
    return [row[:length] for row, length in zip(values, lengths, strict=True)]


def completed(frames: Tensor, count: int, frame: Tensor) -> Tensor:
    """Exactly `count` frames: what is missing at the end becomes the blind `frame`, what is beyond is cut off.

    >>> completed(torch.ones(1, 1), 2, torch.zeros(1)).tolist(), completed(torch.ones(3, 1), 2, torch.zeros(1)).shape
    ([[1.0], [0.0]], torch.Size([2, 1]))
    """
    missing = max(0, count - len(frames))
    return torch.cat([frames[:count], frame.to(frames).expand(missing, -1)])


def claimed_frames(claim: Inputs, truth: Truth) -> list[Tensor]:
    """Each claimed sequence (T, F) in display units. Raises `BadInput` on a claim that holds none like the secret's."""
    if claim.lengths is None:
        raise BadInput("the secret holds sequences, the claim whole inputs; claim frames with their lengths")
    if claim.values.dim() != 3 or claim.values.shape[2] != truth.inputs.shape[2]:
        raise BadInput(
            f"claimed sequences {tuple(claim.values.shape)} do not fit private ones {tuple(truth.inputs.shape)}"
        )
    return frames_of(displayed(claim.values, truth.domain), claim.lengths.tolist())


def true_frames(truth: Truth) -> list[Tensor]:
    """Each private sequence (T, F) in display units."""
    assert truth.lengths is not None
    return frames_of(truth.inputs, truth.lengths)


def pair_sequences(claim: Inputs, truth: Truth, known: Blindly) -> Pairing:
    """Pairs with the lowest total `FrameError`."""
    claimed, true = claimed_frames(claim, truth), true_frames(truth)

    def cost(place: int, item: int) -> float:
        return FrameError().items([completed(claimed[place], len(true[item]), known.frame)], [true[item]])[0]

    return _assigned(kept(claim, len(true)), len(claim), (claimed, true), cost)


def pair_transcripts(claim: Transcripts, truth: Truth) -> Pairing:
    """Pairs with the lowest total `CharacterErrorRate`."""
    claimed, true = claim.labels, truth.transcripts

    def cost(place: int, item: int) -> float:
        return CharacterErrorRate().items([claimed[place]], [true[item]])[0]

    return _assigned(kept(claim, len(true)), len(claim), (claimed, true), cost)


def _assigned(
    places: list[int], count: int, contents: tuple[Sequence[Tensor | Said], ...], cost: Callable[[int, int], float]
) -> Pairing:
    # Sorted by content first: among pairings of equal cost the same one is chosen in whatever order the items came.
    rows = sorted(places, key=lambda place: _bytes(contents[0][place]))
    columns = sorted(range(len(contents[1])), key=lambda item: _bytes(contents[1][item]))
    partners: list[int | None] = [None] * len(columns)
    if rows:
        chosen = assign([[cost(place, item) for item in columns] for place in rows])
        for row, column in zip(*chosen, strict=True):
            partners[columns[column]] = rows[row]
    return Pairing(tuple(partners), count - len(places))


def _bytes(content: Tensor | Said) -> bytes:
    return content.numpy().tobytes() if isinstance(content, Tensor) else repr(content).encode()


def sequence_levels(metrics: Iterable[AbstractMetric], truth: Truth, known: Blindly) -> dict[AbstractMetric, Level]:
    """For each metric what the best constant guess scores; chosen with the secret at hand, which only helps it."""
    found: dict[AbstractMetric, Level] = {}
    true = true_frames(truth)
    for metric in metrics:
        if isinstance(metric, AbstractSequenceMetric):
            guesses = [metric.items([known.frame.expand_as(frames) for frames in true], true)]
        elif isinstance(metric, AbstractTranscriptMetric):
            guesses = [metric.items([guess] * len(true), truth.transcripts) for guess in known.transcripts]
        else:
            raise BadInput(f"{metric.name} does not apply to sequences; leave this metric out")
        sign = 1 if metric.direction is Direction.HIGHER else -1
        best = max(guesses, key=lambda items: sign * math.fsum(items))
        found[metric] = Level(math.fsum(best) / len(best), best)
    return found


def judged(
    metric: AbstractMetric, claim: Inputs | Transcripts, truth: Truth, pairing: Pairing, chance: Level, frame: Tensor
) -> tuple[tuple[float, ...], int]:
    """The score of each private item, and how many are exact; an item without a claim scores the blind guess."""
    places, partners = pairing.known()
    items = list(chance.items)
    values: tuple[float, ...] = ()
    exact = 0
    if isinstance(metric, AbstractSequenceMetric) and isinstance(claim, Inputs):
        claimed, true = claimed_frames(claim, truth), true_frames(truth)
        chosen, wanted = [claimed[i] for i in partners], [true[i] for i in places]
        whole = [completed(one, len(other), frame) for one, other in zip(chosen, wanted, strict=True)]
        values = metric.items(whole, wanted)
        errors = FrameError().items(whole, wanted)
        sizes = [len(one) == len(other) for one, other in zip(chosen, wanted, strict=True)]
        exact = sum(fits and error <= EXACT_FRAMES for fits, error in zip(sizes, errors, strict=True))
    elif isinstance(metric, AbstractTranscriptMetric) and isinstance(claim, Transcripts):
        said, true_said = [claim.labels[i] for i in partners], [truth.transcripts[i] for i in places]
        values = metric.items(said, true_said)
        exact = sum(left == right for left, right in zip(said, true_said, strict=True))
    for place, value in zip(places, values, strict=True):
        items[place] = value
    return tuple(items), exact


def length_note(claim: Inputs, truth: Truth, pairing: Pairing) -> str | None:
    """How many claimed sequences are too short or too long, or None when all lengths are right."""
    assert truth.lengths is not None
    assert claim.lengths is not None
    lengths = claim.lengths.tolist()
    places, partners = pairing.known()
    wrong = sum(lengths[partner] != truth.lengths[place] for place, partner in zip(places, partners, strict=True))
    if not wrong:
        return None
    return (
        f"{wrong} of {len(places)} claimed sequences have a wrong length; "
        "missing frames count as the mean public frame, frames beyond the end as nothing"
    )
