"""The referee: claim and secret in, scores out. It changes neither and is the only place where both meet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

from leakscope.core.annotation import Annotation
from leakscope.core.arguments import instance
from leakscope.core.batch import Batch
from leakscope.core.claim import AbstractClaim, Labels
from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput, MissingExtra, UnknownName
from leakscope.core.labels import are_classes
from leakscope.core.secret import Secret
from leakscope.numerics import intervals
from leakscope.numerics.rng import Key
from leakscope.scoring.case import Case, Client
from leakscope.scoring.chance import Level
from leakscope.scoring.kinds.kind import Comparison, Judged
from leakscope.scoring.kinds.table import Kind, kind_of
from leakscope.scoring.metrics.metric import AbstractMetric
from leakscope.scoring.pairing import Pairing
from leakscope.scoring.score import Direction, Score


@final
@dataclass(frozen=True)
class Scores:
    """All scores of one claim, how it was paired, and what a reader must know beside the numbers.

    `scores["psnr"]` raises `UnknownName` with the names that there are.
    """

    scores: tuple[Score, ...]
    pairing: Pairing
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Score]:
        return iter(self.scores)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, name: str) -> Score:
        for score in self.scores:
            if score.metric == name:
                return score
        raise UnknownName("metric", name, [score.metric for score in self.scores])

    def __str__(self) -> str:
        return "\n".join([*(str(score) for score in self.scores), *(f"note: {note}" for note in self.notes)])


def applies(metric: AbstractMetric, claim: AbstractClaim) -> bool:
    """Whether `metric` can judge `claim`.

    >>> import torch
    >>> from leakscope.core.claim import Labels
    >>> from leakscope.scoring.metrics.vision import PSNR
    >>> applies(PSNR(), Labels(torch.tensor([3])))
    False
    """
    return metric.refusal(claim) is None


def score(  # noqa: PLR0913 - what the referee may know is one argument each, by keyword
    claim: AbstractClaim | None,
    secret: Secret | Batch,
    *,
    domain: AbstractDomain | None = None,
    metrics: Sequence[AbstractMetric] | None = None,
    public: Batch | None = None,
    public_annotations: tuple[Annotation, ...] = (),
    client: Client | None = None,
    key: Key = Key(0),  # noqa: B008 - a key is a frozen value
) -> Scores:
    """How much of `secret` the `claim` has right: one `Score` per metric, with its interval and its chance level.

    Each private item counts once. One that nothing was claimed for scores what the best blind guess scores on it
    (inputs) or zero (labels); claims beyond the number of private items are not looked at (`pairing.kept`).
    domain: turns inputs into display units, in which errors are measured; None when they already are. metrics: None for
    the default ones of the claim's kind. public: a pool for blind guesses; without one these are gray and noise, and
    each class counts as equally likely among the fewest classes that the labels allow. public_annotations: what is
    known of the pool's examples; without it, each category of an attribute counts as equally likely. client: whose
    model was run, for claims of what its layers were fed. key: of guesses and intervals.
    A secret of sequences is compared with claimed frames and their lengths, or with claimed transcripts; one of token
    ids with claimed tokens; a claimed attribute with the annotation of its name, which a bare batch does not have.
    Raises `BadInput` without a claim, on shapes that do not fit and on a metric that does not apply, `MissingExtra` on
    one that this machine cannot compute.

    >>> import torch
    >>> from leakscope.core.claim import Inputs
    >>> batch = Batch(torch.linspace(0, 1, 32).reshape(2, 1, 4, 4), torch.tensor([0, 1]))
    >>> result = score(Inputs(batch.inputs.flip(0)), batch)
    >>> result["psnr"].value, result["psnr"].exact, result.pairing.partners
    (120.0, 2, (1, 0))
    """
    if claim is None:
        raise BadInput("there is no claim to score: the attempt refused, diverged or was stopped; read its sentence")
    instance("claim", claim, AbstractClaim, "give the claim of an attempt: attempt.claim")
    if not isinstance(secret, Secret | Batch):
        raise BadInput(f"expected a Secret or a Batch to compare with, got {type(secret).__name__}")
    instance("key", key, Key, "write key=Key(0)")
    case = Case(secret, domain, public, public_annotations, client=client)
    case.batch()  # what cannot be compared is said before anything is computed
    # Metrics before pairing: one that does not apply is a mistake of the caller, and pairing may take long.
    chosen = _chosen(metrics, claim, case)
    parts = _parts(claim, case)
    at = parts[0].at
    # Levels for all metrics of a part at once: they share the guesses, which are drawn and paired once.
    levels: dict[AbstractMetric, tuple[_Part, Level]] = {}
    for part, own in _shared(chosen, parts):
        found = part.kind.levels(own, part.at, case, key=key.child("chance"))
        levels.update({metric: (part, level) for metric, level in found.items()})
    scores = []
    for metric in chosen:
        part, chance = levels[metric]
        judged = part.kind.items(metric, part.at, chance.items)
        nearest = () if public is None else part.kind.nearest(metric, part.at, public)
        scores.append(_score(metric, judged, chance, claimed=part.kind.claimed(part.at), nearest=nearest))
    # What metrics say of the inputs first, what is missing after it.
    notes = (note for part, own in _shared(chosen, parts) for note in part.kind.notes(part.at, own))
    return Scores(tuple(scores), at.pairing, (*notes, *at.pairing.notes()))


def right(claim: AbstractClaim, case: Case, tolerances: Sequence[float]) -> tuple[bool, ...]:
    """Of each claimed item, in the claim's order, whether it is a private one, as one must be that is proved.

    tolerances: of the certificate, one for each item. Empty for kinds of claims that nothing proves. Raises `BadInput`
    on shapes that do not fit, as `score` does.

    >>> import torch
    >>> from leakscope.core.claim import Labels
    >>> batch = Batch(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]))
    >>> right(Labels(torch.tensor([1, 1])), Case(batch), (0.1, 0.1))
    (True, False)
    """
    kind = kind_of(claim)
    return kind.right(claim, kind.truth(claim, case), tolerances)


@final
@dataclass(frozen=True, eq=False)
class _Part:
    """One claim of those that a claim consists of, compared."""

    kind: Kind
    at: Comparison[Any, Any]


def _parts(claim: AbstractClaim, case: Case) -> list[_Part]:
    """The claim itself, and what it carries: claimed inputs bring claimed labels along."""
    kind = kind_of(claim)
    carried = _carried(claim, case)
    parts = [_Part(kind, kind.compared(claim, case))]
    # A part of its own: labels are a multiset whether or not the pictures that they came with are any good.
    return parts if carried is None else [*parts, *_parts(carried, case)]


def _shared(
    metrics: Sequence[AbstractMetric], parts: Sequence[_Part]
) -> list[tuple[_Part, tuple[AbstractMetric, ...]]]:
    """Each part with the metrics that judge it. Raises `BadInput` on a metric that is for none of them."""
    shares = [(part, tuple(one for one in metrics if part.kind.takes(one))) for part in parts]
    for metric in metrics:
        if not any(metric in own for _, own in shares):
            raise BadInput(f"{metric.name} does not apply to {parts[0].kind!r}; leave this metric out")
    return shares


def _chosen(metrics: Sequence[AbstractMetric] | None, claim: AbstractClaim, case: Case) -> tuple[AbstractMetric, ...]:
    if metrics is None:
        return _default(claim, case)
    names = [metric.name for metric in metrics]
    for metric in metrics:
        # Scores are looked up by name, so two of one name would hide each other.
        if names.count(metric.name) > 1:
            raise BadInput(f"the metric {metric.name} was named {names.count(metric.name)} times; name each once")
        lacking = metric.unavailable()
        if lacking is not None:
            raise MissingExtra(lacking)
        refusal = metric.refusal(claim)
        if refusal is not None:
            raise BadInput(f"{refusal}; leave this metric out")
    return tuple(metrics)


def _default(claim: AbstractClaim, case: Case) -> tuple[AbstractMetric, ...]:
    """What is computed when no metrics are named: the default ones of its kind that apply, and of what it carries."""
    kind = kind_of(claim)
    own, carried = tuple(metric for metric in kind.default if applies(metric, claim)), _carried(claim, case)
    return own if carried is None else (*own, *_default(carried, case))


def _carried(claim: AbstractClaim, case: Case) -> AbstractClaim | None:
    """What the claim brings along; labels only where the private targets are classes, as a number has no class."""
    carried = kind_of(claim).carried(claim, case)
    return None if isinstance(carried, Labels) and not are_classes(case.batch()) else carried


def _score(metric: AbstractMetric, judged: Judged, chance: Level, *, claimed: int, nearest: tuple[float, ...]) -> Score:
    found = intervals.pooled([(item,) for item in judged.items])
    higher = metric.direction is Direction.HIGHER
    least, most = (metric.worst, metric.perfect) if higher else (metric.perfect, metric.worst)
    estimate = found.telling(least, most)
    return Score(
        metric=metric.name,
        value=estimate.value,
        unit=metric.unit,
        direction=metric.direction,
        low=estimate.low,
        high=estimate.high,
        chance=chance.value,
        perfect=metric.perfect,
        items=judged.items,
        exact=judged.exact,
        blind=chance.items,
        claimed=claimed,
        worst=metric.worst,
        nearest=nearest,
    )
