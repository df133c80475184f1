"""What the adversary may be told besides the release. One type for each kind of knowledge."""

from __future__ import annotations

import hashlib
import math
from abc import ABC
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import final

from leakscope.core.arguments import count as whole
from leakscope.core.arguments import instance, number, places
from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput


class Fact(ABC):
    """Something that an adversary was told. What was not told is absent, not `None`."""

    __slots__ = ()

    def contradiction(self, batch: Batch) -> str | None:
        """Why this is not true of `batch`, or None. The challenger tells no lies by accident."""
        del batch
        return None


def facts(given: object) -> tuple[Fact, ...]:
    """`given` as a tuple if it is a sequence of facts. Raises `BadInput`, with what to write, where it is not."""
    if isinstance(given, Fact) or not isinstance(given, Iterable) or isinstance(given, str):
        raise BadInput(f"expected a sequence of facts, got {given!r}; write a list, as in [BatchSize(1)]")
    found = tuple(given)
    for one in found:
        instance("each fact", one, Fact, "give facts with their values, such as BatchSize(1)")
    return found


@final
@dataclass(frozen=True)
class BatchSize(Fact):
    """The number of examples behind the release."""

    count: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", whole("a batch size", self.count))

    def contradiction(self, batch: Batch) -> str | None:
        """Whether the batch has another size."""
        return None if len(batch) == self.count else f"told BatchSize({self.count}), but the batch has {len(batch)}"


@final
@dataclass(frozen=True)
class TrueLabels(Fact):
    """The class of every example, in the order in which the client used them."""

    values: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", places("the labels", self.values))
        if not self.values:
            raise BadInput("expected a label for each example, got none; leave the fact out")

    def contradiction(self, batch: Batch) -> str | None:
        """Whether the batch has other labels."""
        if batch.labels.dim() != 1:
            return "told TrueLabels, but the batch is labeled by probabilities"
        true = tuple(int(v) for v in batch.labels)
        return None if true == self.values else f"told {self}, but the labels are others"


@final
@dataclass(frozen=True)
class Lengths(Fact):
    """The number of frames of every utterance, in the order in which the client used them."""

    values: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", places("the numbers of frames", self.values, low=1))
        if not self.values:
            raise BadInput("expected a number of frames >= 1 for each utterance, got none; leave the fact out")

    def contradiction(self, batch: Batch) -> str | None:
        """Whether the utterances have other lengths."""
        if batch.lengths is None:
            return "told Lengths, but the batch does not hold sequences"
        true = tuple(int(v) for v in batch.lengths)
        return None if true == self.values else f"told {self}, but the utterances have {true} frames"


@final
@dataclass(frozen=True)
class TrueTranscripts(Fact):
    """The labels of every utterance, numbered as in the model's alphabet, in the client's order."""

    values: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        given: object = self.values
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise BadInput(f"expected one sequence of labels for each utterance, got {self.values!r}; write ((0, 1),)")
        object.__setattr__(self, "values", tuple(places("a transcript", one) for one in self.values))
        if not self.values:
            raise BadInput("expected a transcript for each utterance, got none; leave the fact out")

    def contradiction(self, batch: Batch) -> str | None:
        """Whether the utterances have other transcripts."""
        if batch.label_lengths is None:
            return "told TrueTranscripts, but the batch has class labels"
        return None if batch.transcripts() == self.values else "told TrueTranscripts, but the transcripts are others"


@final
@dataclass(frozen=True)
class LayerStatistics:
    """Mean and (biased) variance of one normalization layer's input, per channel."""

    mean: tuple[float, ...]
    variance: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, low in (("mean", -math.inf), ("variance", 0.0)):
            given = getattr(self, name)
            if isinstance(given, str) or not isinstance(given, Iterable):
                raise BadInput(f"expected one {name} per channel, got {given!r}; write (0.0, 1.0)")
            object.__setattr__(self, name, tuple(number(name, one, low=low) for one in given))
        if len(self.mean) != len(self.variance) or not self.mean:
            raise BadInput(f"{len(self.mean)} means do not fit {len(self.variance)} variances; give one per channel")


def _layers(given: object) -> tuple[tuple[str, LayerStatistics], ...]:
    """Pairs of a layer's name and its statistics. Raises `BadInput` on anything else."""
    pairs = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else None
    if pairs is None or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        raise BadInput("expected pairs of a layer's name and its statistics, such as (('bn1', LayerStatistics(...)),)")
    for name, statistics in pairs:
        instance("a layer's name", name, str, "write it in quotes")
        instance(f"the statistics of {name!r}", statistics, LayerStatistics, "write LayerStatistics((0.0,), (1.0,))")
    return pairs


@final
@dataclass(frozen=True)
class BatchNormStatistics(Fact):
    """The batch statistics of each normalization layer on the private batch, as some protocols share them."""

    by_layer: tuple[tuple[str, LayerStatistics], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_layer", _layers(self.by_layer))


@final
@dataclass(frozen=True)
class PublicStatistics(Fact):
    """What the adversary estimates these statistics to be, from public examples of the same kind."""

    by_layer: tuple[tuple[str, LayerStatistics], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_layer", _layers(self.by_layer))


@final
@dataclass(frozen=True, eq=False, repr=False)
class Gallery(Fact):
    """Public examples of everybody who may be behind the release, as a police lineup: `examples[i]` is of `members[i]`.

    attribute: what is to be told apart, such as "speaker". categories: the names. members: one place in `categories`
    per example. people: a number per example, the same for all of one person, or None where that is not known. Printed
    with the hash of its content. Raises `BadInput` on members that fit neither.
    """

    attribute: str
    categories: tuple[str, ...]
    members: tuple[int, ...]
    examples: Batch
    people: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        instance("attribute", self.attribute, str, "name what is told apart, such as 'speaker'")
        instance("examples", self.examples, Batch, "give a batch with one example for each member")
        # A text is a sequence of texts too, and a single name is what it is given for.
        given: object = self.categories
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise BadInput(f"expected the names of several categories, got {self.categories!r}; write ('ada', 'ben')")
        object.__setattr__(self, "categories", tuple(self.categories))
        object.__setattr__(self, "members", places("members", self.members))
        if len(self.members) != len(self.examples):
            raise BadInput(f"{len(self.members)} members do not fit {len(self.examples)} examples; give one each")
        if any(member >= len(self.categories) for member in self.members):
            raise BadInput(f"members must be places in the {len(self.categories)} categories")
        if self.people is not None:
            object.__setattr__(self, "people", places("people", self.people))
            if len(self.people) != len(self.examples):
                raise BadInput(f"{len(self.people)} people do not fit {len(self.examples)} examples; give one each")

    def contradiction(self, batch: Batch) -> str | None:
        """Whether a private example is among them: recognizing a recording is not recognizing a person."""
        public = set(_digests(self.examples))
        again = sum(digest in public for digest in _digests(batch))
        return f"told a Gallery that holds {again} of the private examples themselves" if again else None

    def of(self, category: int) -> tuple[int, ...]:
        """The places of the examples of one category."""
        return tuple(place for place, member in enumerate(self.members) if member == category)

    def fingerprint(self) -> str:
        """A hash of names, members and every byte of the examples."""
        told = (self.attribute, self.categories, self.members, self.examples.fingerprint())
        text = repr(told if self.people is None else (*told, self.people))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def __repr__(self) -> str:
        return f"Gallery({self.attribute!r}, {len(self.categories)} categories, fingerprint={self.fingerprint()[:12]})"


MEMBER = "member"
"""What is asked of `Suspects`, as attributes are named."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class Suspects(Fact):
    """Two examples of one class, of which exactly one is behind the release: which one is what is to be found out.

    examples: both, as a batch of two with the same label. Printed with the hash of its content. Raises `BadInput` on
    others. The one that is not is drawn from where the private ones are from, and the order by a fair coin, so that
    nobody who has not seen the release is right more often than half of the time.
    """

    examples: Batch

    def __post_init__(self) -> None:
        instance("examples", self.examples, Batch, "give a batch of two examples of one class")
        labels = self.examples.labels
        if labels.shape != (2,) or labels.is_floating_point() or bool(labels[0] != labels[1]):
            raise BadInput(
                f"expected two suspects of one class, got labels {labels.tolist()}; give examples of the same"
            )

    def contradiction(self, batch: Batch) -> str | None:
        """Whether not exactly one of them is in the batch."""
        inside = set(_digests(batch))
        found = sum(digest in inside for digest in _digests(self.examples))
        return None if found == 1 else f"told two Suspects, of which {found} are in the batch; one has to be"

    def __repr__(self) -> str:
        return f"Suspects(of class {int(self.examples.labels[0])}, fingerprint={self.examples.fingerprint()[:12]})"


def _digests(batch: Batch) -> Iterator[bytes]:
    lengths = [batch.inputs.shape[1]] * len(batch) if batch.lengths is None else batch.lengths.tolist()
    for row, length in zip(batch.inputs, lengths, strict=True):
        yield hashlib.blake2b(row[:length].contiguous().cpu().numpy().tobytes(), digest_size=16).digest()
