"""Which facts an adversary may be told, by kind; the challenger makes them from the secret."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from leakscope.attacks.parts.priors.statistics import layer_statistics
from leakscope.core.annotation import SPEAKER, Annotation, Per
from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput, UnknownName
from leakscope.core.facts import (
    MEMBER,
    BatchNormStatistics,
    BatchSize,
    Fact,
    Gallery,
    LayerStatistics,
    Lengths,
    PublicStatistics,
    Suspects,
    TrueLabels,
    TrueTranscripts,
)
from leakscope.core.target import Target
from leakscope.datasets.draw import AbstractSource
from leakscope.numerics.rng import Key

Source = AbstractSource | None

SEX = "sex"
"""The annotation that galleries are made of where nobody is in both halves; else `SPEAKER`."""

PLACES = ("the first", "the second")
"""Which of two `Suspects` it is."""


def _batch_size(target: Target, batch: Batch, source: Source) -> Fact:
    return BatchSize(len(batch))


def _labels(target: Target, batch: Batch, source: Source) -> Fact:
    if batch.labels.dim() != 1:
        raise BadInput("there are no class labels to tell: each example has a transcript or probabilities")
    return TrueLabels(tuple(int(v) for v in batch.labels))


def _lengths(target: Target, batch: Batch, source: Source) -> Fact:
    if batch.lengths is None:
        raise BadInput("there are no lengths to tell: the examples are not sequences")
    return Lengths(tuple(batch.lengths.tolist()))


def _transcripts(target: Target, batch: Batch, source: Source) -> Fact:
    if batch.label_lengths is None:
        raise BadInput("there are no transcripts to tell: the examples have classes")
    return TrueTranscripts(batch.transcripts())


def _statistics(target: Target, batch: Batch, source: Source) -> Fact:
    return BatchNormStatistics(_by_layer(target, batch))


def _public_statistics(target: Target, batch: Batch, source: Source) -> Fact:
    """Of the public half, all of it in one pass."""
    if source is None:
        raise BadInput("PublicStatistics come from the public half of a data set, and this batch is of none")
    return PublicStatistics(_by_layer(target, source.public()))


def _by_layer(target: Target, batch: Batch) -> tuple[tuple[str, LayerStatistics], ...]:
    found = layer_statistics(target, target.parameters(), batch.inputs)
    return tuple((name, LayerStatistics(tuple(m.tolist()), tuple(v.tolist()))) for name, (m, v) in found.items())


def _gallery(target: Target, batch: Batch, source: Source) -> Fact:
    """From the public half alone: the same speakers in other utterances, or the sex of other speakers.

    A gallery of speakers who are none of the private ones would make an attack fail that works.
    """
    if source is None:
        raise BadInput("a Gallery is made of the public half of a data set, and this batch is of none; do not tell it")
    asked = SPEAKER if source.owners() is None else SEX
    for one in source.public_annotations():
        if one.name == asked:
            return Gallery(asked, one.categories, one.values, source.public(), source.public_owners())
    said = "its speakers" if asked == SPEAKER else "the sex of its speakers, of whom none is in both halves"
    raise BadInput(f"{source!r} does not tell {said}, so there is no Gallery; use LibriSpeech or Spoken")


def _suspects(target: Target, batch: Batch, source: Source) -> Fact:
    return lineup(batch, source)[0]


def lineup(batch: Batch, source: Source) -> tuple[Suspects, Annotation]:
    """The first example of the batch beside another private one of its class, in random order, and which it is.

    The draw is a function of the batch, which whoever is told of it has not seen. Raises `BadInput` without another.
    """
    if source is None:
        raise BadInput(
            "Suspects are drawn from where the batch is from, and this batch is of no data set; leave it out"
        )
    if batch.labels.dim() != 1 or batch.labels.is_floating_point() or batch.lengths is not None:
        raise BadInput("expected examples of one length, each of one class, for Suspects; leave the fact out")
    key, label = Key(0).child("suspects", batch.fingerprint()), int(batch.labels[0])
    other = source.alike(label, besides=batch, key=key)
    if other is None:
        raise BadInput(f"{source!r} has no other private example of class {label}; leave Suspects out")
    place = int(torch.randint(2, (), generator=key.child("place").generator()))
    pair = [batch.inputs[:1], other.to(batch.inputs)]
    examples = Batch(torch.cat(pair if place == 0 else pair[::-1]), batch.labels[:1].repeat(2))
    return Suspects(examples), Annotation(MEMBER, (place,), PLACES, Per.OWNER)


MAKERS: dict[type[Fact], Callable[[Target, Batch, Source], Fact]] = {
    BatchSize: _batch_size,
    TrueLabels: _labels,
    BatchNormStatistics: _statistics,
    PublicStatistics: _public_statistics,
    Lengths: _lengths,
    TrueTranscripts: _transcripts,
    Gallery: _gallery,
    Suspects: _suspects,
}
"""Every kind of fact that a plan can tell, with the function that makes it."""


KNOWN_ANYWAY: frozenset[type[Fact]] = frozenset({BatchSize, PublicStatistics, Gallery})
"""Of public data, or how many examples there are, which no promise hides. All others are of the private batch, and what
is found with them need not have come out of the release."""


def private_facts(told: Iterable[type[Fact]]) -> tuple[str, ...]:
    """The names of those kinds that tell of the private batch.

    >>> private_facts([BatchSize, TrueLabels])
    ('TrueLabels',)
    """
    return tuple(kind.__name__ for kind in told if kind not in KNOWN_ANYWAY)


def kind_named(name: str) -> type[Fact]:
    """The kind of fact with this name. Raises `UnknownName`.

    >>> kind_named("BatchSize").__name__
    'BatchSize'
    """
    kinds = {kind.__name__: kind for kind in MAKERS}
    if name not in kinds:
        raise UnknownName("fact", name, kinds)
    return kinds[name]


def tell(kinds: Iterable[type[Fact]], target: Target, batch: Batch, *, source: Source = None) -> list[Fact]:
    """The facts of exactly these kinds, nothing else. source: where `batch` is from, for facts about public data."""
    return [MAKERS[kind](target, batch, source) for kind in kinds]
