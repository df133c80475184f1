"""The contract of every kind of claim: pair, guess blindly, judge, show. The referee asks; it knows no kind by name."""

from __future__ import annotations

import dataclasses
import enum
import typing
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar, final

from torch import Tensor

from leakscope.core.batch import Batch
from leakscope.core.claim import AbstractClaim
from leakscope.core.errors import BadInput
from leakscope.core.facts import Gallery
from leakscope.core.target import Target
from leakscope.numerics.rng import Key
from leakscope.scoring.case import Case
from leakscope.scoring.chance import AbstractGuess, Level, expected, higher
from leakscope.scoring.metrics.metric import AbstractMetric
from leakscope.scoring.pairing import Pairing
from leakscope.scoring.standing import Standing

ClaimT = TypeVar("ClaimT", bound=AbstractClaim)
TruthT = TypeVar("TruthT")
MetricT = TypeVar("MetricT", bound=AbstractMetric)


@final
@dataclass(frozen=True, eq=False)
class Comparison(Generic[ClaimT, TruthT]):
    """A claim, the truth that it is about, and which item is for which."""

    claim: ClaimT
    truth: TruthT
    pairing: Pairing


@final
@dataclass(frozen=True)
class Judged:
    """The score of each private item, in the secret's order, and how many were found to within rounding."""

    items: tuple[float, ...]
    exact: int


@final
@dataclass(frozen=True, eq=False)
class Paired:
    """What a report shows side by side: claimed[i] is for original[i], both (B, *shape) float64 in display units.

    Items without a claim are shown as the middle of the range (mid-gray) and marked in `unclaimed`.
    """

    original: Tensor
    claimed: Tensor
    unclaimed: tuple[bool, ...]


@final
@dataclass(frozen=True, eq=False)
class PairedSequences:
    """What a report shows and plays: claimed[i] (T', F) is for original[i] (T, F), None where nothing was claimed."""

    original: tuple[Tensor, ...]
    claimed: tuple[Tensor | None, ...]


@final
@dataclass(frozen=True)
class Ranked:
    """What a report shows of one private item: its category, where it stands, and the best candidates in order.

    standing: None where the truth is no candidate or nothing was claimed, in which case `best` may be empty.
    """

    attribute: str
    true: str
    standing: Standing | None
    best: tuple[str, ...]


@final
@dataclass(frozen=True)
class Answer:
    """What was asked, the truth and the claim in words: how a kind is shown that has no pictures, sounds or texts."""

    asked: str
    true: str
    claimed: str | None


@final
@dataclass(frozen=True, eq=False)
class Shown:
    """What a person looks at beside the scores, each in the secret's order; a kind fills in what it has.

    labels: -1 where none was claimed. transcripts: empty where none was. tokens: words, None where nothing was claimed;
    of a bag one entry for all items.
    """

    inputs: Paired | None = None
    frames: PairedSequences | None = None
    labels: tuple[int, ...] = ()
    transcripts: tuple[str, ...] = ()
    tokens: tuple[tuple[str, ...] | None, ...] = ()
    tokens_bag: bool = False
    rankings: tuple[Ranked, ...] = ()
    answers: tuple[Answer, ...] = ()


@final
@dataclass(frozen=True, eq=False)
class Outsider:
    """Who makes the blind control: public data, the number of private examples (given away), the lineup if told, the
    model, which everybody knows.

    labels: those of the private examples (count,) where the source fixes them, so that they are public; else None.
    suspected: what is asked of two suspects, where they are told.
    """

    public: Batch
    count: int
    gallery: Gallery | None = None
    target: Target | None = None
    labels: Tensor | None = None
    suspected: str | None = None


class AbstractKind(ABC, Generic[ClaimT, TruthT, MetricT]):
    """One kind of claim. It is a value without fields; `KINDS` has one of each.

    claims: the type of the claim. default: the metrics that are computed unasked.
    """

    claims: ClassVar[type[AbstractClaim]]
    # Class variables and no fields: a kind has nothing to configure, so that two audits cannot score differently.
    default: ClassVar[tuple[AbstractMetric, ...]]

    @property
    @abstractmethod
    def examples(self) -> tuple[ClaimT, ...]:
        """Small claims, so that each metric of `default` judges one: what the laws of kinds are tested on."""

    @abstractmethod
    def holds(self, claim: AbstractClaim) -> bool:
        """Whether `claim` is of this kind; of one claim it is true for one kind."""

    @abstractmethod
    def takes(self, metric: AbstractMetric) -> bool:
        """Whether `metric` is of the family that judges this kind."""

    @abstractmethod
    def truth(self, claim: ClaimT, case: Case) -> TruthT:
        """What the secret has to say. Raises `BadInput` where it holds nothing that such a claim could be about."""

    @abstractmethod
    def pair(self, claim: ClaimT, truth: TruthT) -> Pairing:
        """Which claimed item is for which private one; it must not depend on their order (`pairing.assigned`)."""

    @abstractmethod
    def guesses(self, at: Comparison[ClaimT, TruthT], case: Case) -> Sequence[AbstractGuess[ClaimT]]:
        """Every way to claim this without having seen anything: uniformly, the public mode, a random public one, ...

        The best of them is the chance level, so a guess too many does no harm and one too few is a false alarm.
        """

    @abstractmethod
    def items(self, metric: MetricT, at: Comparison[ClaimT, TruthT], blind: Sequence[float]) -> Judged:
        """The score of each private item; one without a claim scores what `blind` scores on it, or nothing."""

    @abstractmethod
    def shown(self, claim: ClaimT, case: Case) -> Shown:
        """What a person is shown of the claim beside the secret."""

    @abstractmethod
    def control(self, outsider: Outsider, *, key: Key) -> ClaimT | None:
        """The claim of the blind control; None where the public data holds nothing of the kind."""

    def carried(self, claim: ClaimT, case: Case) -> AbstractClaim | None:
        """A claim of another kind that this one brings along, as inputs bring their labels; None for most."""
        del claim, case
        return None

    def notes(self, at: Comparison[ClaimT, TruthT], metrics: Sequence[MetricT]) -> tuple[str, ...]:
        """What a reader must know beside the numbers and the pairing; nothing for most."""
        del at, metrics
        return ()

    def right(self, claim: ClaimT, truth: TruthT, tolerances: Sequence[float]) -> tuple[bool, ...]:
        """Of each claimed item, in the claim's order, whether it is a private one, as one must be that is proved.

        Whichever it is: no pairing can make a wrong item right, nor a right one wrong. tolerances: of the certificate,
        one for each claimed item (`scoring.proved`). Empty for kinds that nothing proves.
        """
        del claim, truth, tolerances
        return ()

    def nearest(self, metric: MetricT, at: Comparison[ClaimT, TruthT], public: Batch) -> tuple[float, ...]:
        """What the public example that is nearest to each private item scores, in the secret's order.

        What is no better may be a public example that was picked without a look at the release. Only of metrics that
        decide; empty for kinds of which no single item is judged by itself.
        """
        del metric, at, public
        return ()

    def claimed(self, at: Comparison[ClaimT, TruthT]) -> int:
        """For how many private items something was claimed: a text without a word is an abstention, and no claim."""
        return len(at.pairing.known()[0])

    @final
    def compared(self, claim: ClaimT, case: Case) -> Comparison[ClaimT, TruthT]:
        """The claim beside its truth. Raises `BadInput` where they are not of one kind or one shape."""
        truth = self.truth(claim, case)
        return Comparison(claim, truth, self.pair(claim, truth))

    @final
    def levels(
        self, metrics: Sequence[MetricT], at: Comparison[ClaimT, TruthT], case: Case, *, key: Key
    ) -> dict[MetricT, Level]:
        """For each metric the best score that a blind guess reaches in expectation over its own randomness.

        The best guess is chosen with the secret at hand, which can only raise the level. Guesses are paired and judged
        on the same path as claims, so that whatever favors a claim favors them as well. Raises `BadInput` when no guess
        applies (an unbounded domain without public data).
        """
        # For each metric by itself: the best guess in MSE, the mean image, need not be the best in SSIM.
        found: dict[MetricT, Level] = {}
        for guess in self.guesses(at, case) if metrics else ():
            drawn: dict[MetricT, list[tuple[float, tuple[float, ...]]]] = {}
            for weight, claim in guess.claims(key=key):
                blind = Comparison(claim, at.truth, self.pair(claim, at.truth))
                # Not a number: a guess that leaves an item out has no level to fall back on, and `Level` refuses it.
                nothing = (float("nan"),) * len(blind.pairing.partners)
                for metric in metrics:
                    # A multiset cannot be judged where a set was asked for: such a guess is none for that metric.
                    if metric.refusal(claim) is None:
                        drawn.setdefault(metric, []).append((weight, self.items(metric, blind, nothing).items))
            for metric, pairs in drawn.items():
                found[metric] = higher(metric, found.get(metric), expected(pairs, guess))
        # Silence would be a chance of nothing, which every claim beats.
        if len(found) < len(metrics):
            raise BadInput("no blind guess exists for an unbounded domain without public data; pass public=")
        return found

    @final
    def written(self, claim: ClaimT) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """A claim as its tensors and its other fields that are not None, for a file."""
        # Field by field, by name: what is added to a claim later is in the file without a line here.
        fields = {one.name: getattr(claim, one.name) for one in dataclasses.fields(claim)}  # type: ignore[arg-type]
        tensors = {name: value for name, value in fields.items() if isinstance(value, Tensor)}
        text = {name: v for name, v in fields.items() if v is not None and not isinstance(v, Tensor)}
        return tensors, {name: v.value if isinstance(v, enum.Enum) else v for name, v in text.items()}

    @final
    def read(self, tensors: Mapping[str, Tensor], text: Mapping[str, Any]) -> ClaimT:
        """The claim that was written so. Raises `TypeError` or `ValueError` on fields that make no such claim."""
        made: ClaimT = self.claims(**tensors, **self._meant(text))  # type: ignore[assignment]
        return made

    def _meant(self, text: Mapping[str, Any]) -> dict[str, Any]:
        # A file has texts where a claim has members of an enum: the field's declared type says which.
        declared = typing.get_type_hints(self.claims)
        found = {}
        for name, value in text.items():
            kind = declared.get(name)
            chosen = isinstance(kind, type) and issubclass(kind, enum.Enum)
            found[name] = kind(value) if chosen else _frozen(value)  # type: ignore[misc]
        return found


def filled(blind: Sequence[float], places: Sequence[int], values: Sequence[float]) -> tuple[float, ...]:
    """`blind` with `values` at `places`: an item without a claim stays in every mean, at what a blind guess scores."""
    items = list(blind)
    for place, value in zip(places, values, strict=True):
        items[place] = value
    return tuple(items)


def _frozen(value: Any) -> Any:
    """Lists as tuples: JSON has no tuples."""
    return tuple(_frozen(one) for one in value) if isinstance(value, list) else value
