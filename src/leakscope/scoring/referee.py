"""The referee: claim and secret in, scores out. It changes neither and is the only place where both meet."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from leakscope.core.batch import Batch
from leakscope.core.claim import Attribute, Claim, Inputs, Labels, Tokens, Transcripts
from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput, MissingExtra, UnknownName
from leakscope.core.secret import Annotation, Secret
from leakscope.domains.text import sequences_of
from leakscope.numerics import intervals
from leakscope.numerics.rng import Key
from leakscope.scoring import attributes, sequences, texts
from leakscope.scoring.chance import Level, blind, levels
from leakscope.scoring.metrics.guesses import LabelAccuracy, LabelCounts
from leakscope.scoring.metrics.metric import (
    AbstractInputMetric,
    AbstractLabelMetric,
    AbstractMetric,
    AbstractRankMetric,
    AbstractTokenMetric,
)
from leakscope.scoring.metrics.ranks import ReciprocalRank, TopFive, TopOne
from leakscope.scoring.metrics.speech import CharacterErrorRate, FrameError, WordErrorRate
from leakscope.scoring.metrics.tokens import ExactText, TokenError, TokenOrder, TokenOverlap
from leakscope.scoring.metrics.vision import MSE, PSNR, SSIM
from leakscope.scoring.pairing import Pairing, Truth, displayed, kept, pair_inputs, pair_labels, reveal
from leakscope.scoring.score import Score
from leakscope.scoring.sequences import Blindly

DEFAULT: tuple[AbstractMetric, ...] = (
    MSE(),
    PSNR(),
    SSIM(),
    LabelAccuracy(),
    LabelCounts(),
    FrameError(),
    CharacterErrorRate(),
    WordErrorRate(),
    TopOne(),
    TopFive(),
    ReciprocalRank(),
    TokenError(),
    TokenOverlap(),
    TokenOrder(),
    ExactText(),
)
"""What is computed when no metrics are named, each where it applies."""


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


@final
@dataclass(frozen=True, eq=False)
class Paired:
    """What a report shows side by side: claimed[i] is for original[i], both (B, *shape) float64 in display units.

    Items without a claim are shown as the middle of the range (mid-gray) and marked in `unclaimed`.
    """

    original: Tensor
    claimed: Tensor
    unclaimed: tuple[bool, ...]


def applies(metric: AbstractMetric, claim: Claim) -> bool:
    """Whether `metric` can judge `claim`.

    >>> import torch
    >>> applies(PSNR(), Labels(torch.tensor([3])))
    False
    """
    return metric.refusal(claim) is None


def score(
    claim: Claim | None,
    secret: Secret | Batch,
    *,
    domain: AbstractDomain | None = None,
    metrics: Sequence[AbstractMetric] | None = None,
    public: Batch | None = None,
    key: Key = Key(0),  # noqa: B008 - a key is a frozen value
) -> Scores:
    """How much of `secret` the `claim` has right: one `Score` per metric, with its interval and its chance level.

    Each private item counts once. One that nothing was claimed for scores what the best blind guess scores on it
    (inputs) or zero (labels); claims beyond the number of private items are not looked at (`pairing.kept`).
    domain: turns inputs into display units, in which errors are measured; None when they already are. metrics: None for
    those of `DEFAULT` that apply. public: a pool for blind guesses; without one these are gray and noise, and each
    class counts as equally likely among the fewest classes that the labels allow. key: of guesses and bootstrap.
    A secret of sequences is compared with claimed frames and their lengths, or with claimed transcripts; one of token
    ids with claimed tokens; a claimed attribute with the annotation of its name, which a bare batch does not have.
    Raises `BadInput` without a claim, on shapes that do not fit and on a metric that does not apply, `MissingExtra` on
    one that this machine cannot compute.

    >>> import torch
    >>> batch = Batch(torch.linspace(0, 1, 32).reshape(2, 1, 4, 4), torch.tensor([0, 1]))
    >>> result = score(Inputs(batch.inputs.flip(0)), batch)
    >>> result["psnr"].value, result["psnr"].exact, result.pairing.partners
    (120.0, 2, (1, 0))
    """
    if claim is None:
        raise BadInput("there is no claim to score: the attempt refused, diverged or was stopped; read its sentence")
    truth = reveal(secret, domain)
    chosen = _chosen(metrics, claim)
    if isinstance(claim, Attribute):
        return _attributes(claim, secret, chosen, key)
    if isinstance(claim, Tokens):
        return _texts(claim, secret, chosen, public, key)
    if truth.lengths is not None:
        return _sequences(claim, truth, chosen, public, key)
    pairing = _pair(claim, truth)
    known = blind(len(truth), truth.shape, classes=_classes(secret, truth), domain=domain, public=public)
    chance = levels(chosen, truth, known, key=key.child("chance"))
    judged = ((metric, *_items(metric, claim, truth, pairing, chance[metric])) for metric in chosen)
    scores = tuple(_score(metric, items, exact, chance[metric], key) for metric, items, exact in judged)
    return Scores(scores, pairing, _notes(chosen, pairing, truth))


def _sequences(
    claim: Claim, truth: Truth, chosen: tuple[AbstractMetric, ...], public: Batch | None, key: Key
) -> Scores:
    known = sequences.known_blindly(truth, public)
    pairing = _pair(claim, truth, known)
    assert isinstance(claim, Inputs | Transcripts)
    chance = sequences.sequence_levels(chosen, truth, known)
    judged = (
        (metric, *sequences.judged(metric, claim, truth, pairing, chance[metric], known.frame)) for metric in chosen
    )
    scores = tuple(_score(metric, items, exact, chance[metric], key) for metric, items, exact in judged)
    length = sequences.length_note(claim, truth, pairing) if isinstance(claim, Inputs) else None
    return Scores(scores, pairing, (*_notes((), pairing, truth), *(() if length is None else (length,))))


def _texts(
    claim: Tokens, secret: Secret | Batch, chosen: tuple[AbstractMetric, ...], public: Batch | None, key: Key
) -> Scores:
    true = true_texts(secret)
    pairing = texts.pair_texts(claim, true)
    chance = texts.text_levels(chosen, true, public)
    judged = (
        (metric, *texts.judged_texts(metric, claim, true, pairing, chance[metric]))
        for metric in chosen
        if isinstance(metric, AbstractTokenMetric)
    )
    scores = tuple(_score(metric, items, exact, chance[metric], key) for metric, items, exact in judged)
    return Scores(scores, pairing, tuple(_missing(pairing, len(true))))


def true_texts(secret: Secret | Batch) -> tuple[tuple[int, ...], ...]:
    """The private token ids, without the filling. Raises `BadInput` where the secret holds no text."""
    batch = secret.reveal() if isinstance(secret, Secret) else secret
    if not batch.holds_tokens:
        raise BadInput(f"the claim is of texts, the secret of inputs {tuple(batch.inputs.shape)} {batch.inputs.dtype}")
    return sequences_of(batch.inputs)


def paired_texts(claim: Tokens, secret: Secret | Batch) -> tuple[tuple[int, ...] | None, ...]:
    """The claimed text for each private one, in the secret's order; None where nothing was claimed."""
    partners = texts.pair_texts(claim, true_texts(secret)).partners
    return tuple(None if place is None else claim.sequences[place] for place in partners)


def _attributes(claim: Attribute, secret: Secret | Batch, chosen: tuple[AbstractMetric, ...], key: Key) -> Scores:
    truth = annotated(secret, claim.name)
    pairing = attributes.pair_attributes(claim, truth)
    where = attributes.standings(claim, truth, pairing)
    chance = attributes.attribute_levels(chosen, claim, truth, key=key.child("chance"))
    first = sum(one is not None and one.above == one.tied == 0 for one in where)
    judged = ((metric, metric.items(where)) for metric in chosen if isinstance(metric, AbstractRankMetric))
    scores = tuple(_score(metric, items, first, chance[metric], key) for metric, items in judged)
    absent = sum(one is None for one in where) - sum(pairing.unclaimed)
    note = f"{absent} of {len(where)} private items are of a category that was ruled out; they count as not found"
    return Scores(scores, pairing, (*_missing(pairing, len(where)), *((note,) if absent else ())))


def rankings(claim: Attribute, secret: Secret | Batch) -> tuple[attributes.Ranked, ...]:
    """What a report shows of each private item: who it was, where that person stands, and who is nearest."""
    return attributes.ranked(claim, annotated(secret, claim.name))


def annotated(secret: Secret | Batch, name: str) -> Annotation:
    """What the secret tells of its examples under this name. Raises `BadInput` when it tells nothing of the kind."""
    if not isinstance(secret, Secret):
        raise BadInput(f"a batch does not tell the {name} of its examples; pass the Secret that was drawn")
    return secret.annotation(name)


@final
@dataclass(frozen=True, eq=False)
class PairedSequences:
    """What a report shows and plays: claimed[i] (T', F) is for original[i] (T, F), None where nothing was claimed."""

    original: tuple[Tensor, ...]
    claimed: tuple[Tensor | None, ...]


def paired_sequences(
    claim: Inputs, secret: Secret | Batch, *, domain: AbstractDomain | None = None, public: Batch | None = None
) -> PairedSequences:
    """Originals and their claims in the secret's order, each as long as it is. Raises as `score`."""
    truth = reveal(secret, domain)
    pairing = sequences.pair_sequences(claim, truth, sequences.known_blindly(truth, public))
    claimed = sequences.claimed_frames(claim, truth)
    partners = (None if place is None else claimed[place] for place in pairing.partners)
    return PairedSequences(tuple(sequences.true_frames(truth)), tuple(partners))


def paired_transcripts(claim: Transcripts, secret: Secret | Batch) -> tuple[tuple[int, ...] | None, ...]:
    """The claimed transcript for each private item, in the secret's order; None where nothing was claimed."""
    partners = _pair(claim, reveal(secret, None)).partners
    return tuple(None if place is None else claim.labels[place] for place in partners)


def paired(claim: Inputs, secret: Secret | Batch, *, domain: AbstractDomain | None = None) -> Paired:
    """Originals and their claims in the secret's order, in display units. Raises as `score`."""
    truth = reveal(secret, domain)
    if truth.lengths is not None:
        raise BadInput("the secret holds sequences; pair them with paired_sequences")
    pairing = pair_inputs(claim, truth)
    known = blind(len(truth), truth.shape, classes=1, domain=domain, public=None)
    middle = ((known.low + known.high) / 2).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    shown = displayed(middle.expand_as(truth.inputs), domain)
    places, partners = pairing.known()
    shown[places] = displayed(claim.values[partners], domain)
    return Paired(truth.inputs, shown, pairing.unclaimed)


def paired_labels(claim: Inputs | Labels, secret: Secret | Batch) -> tuple[int | None, ...]:
    """The claimed label for each private item, in the secret's order; None where nothing was claimed.

    Claimed inputs carry their labels along; bare labels are paired with equal ones first.
    """
    values = claim.values if isinstance(claim, Labels) else claim.labels
    partners = _pair(claim, reveal(secret, None)).partners
    return tuple(None if values is None or place is None else int(values[place]) for place in partners)


def _pair(claim: Claim, truth: Truth, known: Blindly | None = None) -> Pairing:
    if truth.lengths is not None:
        if isinstance(claim, Transcripts):
            return sequences.pair_transcripts(claim, truth)
        if isinstance(claim, Inputs) and known is not None:
            return sequences.pair_sequences(claim, truth, known)
        raise BadInput(f"sequences are compared with Inputs or Transcripts, not with a claim of {type(claim).__name__}")
    if isinstance(claim, Inputs):
        return pair_inputs(claim, truth)
    if isinstance(claim, Labels):
        return pair_labels(claim, truth)
    raise BadInput(f"a batch is compared with Inputs or Labels, not with a claim of {type(claim).__name__}")


def _chosen(metrics: Sequence[AbstractMetric] | None, claim: Claim) -> tuple[AbstractMetric, ...]:
    if metrics is None:
        return tuple(metric for metric in DEFAULT if applies(metric, claim))
    names = [metric.name for metric in metrics]
    for metric in metrics:
        if names.count(metric.name) > 1:
            raise BadInput(f"the metric {metric.name} was named {names.count(metric.name)} times; name each once")
        lacking = metric.unavailable()
        if lacking is not None:
            raise MissingExtra(lacking)
        refusal = metric.refusal(claim)
        if refusal is not None:
            raise BadInput(f"{refusal}; leave this metric out")
    return tuple(metrics)


def _score(metric: AbstractMetric, items: tuple[float, ...], exact: int, chance: Level, key: Key) -> Score:
    estimate = intervals.mean(items, seed=key.child("interval", metric.name).number())
    return Score(
        metric=metric.name,
        value=estimate.value,
        unit=metric.unit,
        direction=metric.direction,
        low=estimate.low,
        high=estimate.high,
        chance=chance.value,
        perfect=metric.perfect,
        items=items,
        exact=exact,
        blind=chance.items,
    )


def _items(
    metric: AbstractMetric, claim: Claim, truth: Truth, pairing: Pairing, chance: Level
) -> tuple[tuple[float, ...], int]:
    if isinstance(metric, AbstractInputMetric) and isinstance(claim, Inputs):
        places, partners = pairing.known()
        items = list(chance.items)
        claimed, true = displayed(claim.values[partners], truth.domain), truth.inputs[places]
        for place, value in zip(places, metric.items(claimed, true), strict=True):
            items[place] = value
        return tuple(items), metric.exact(claimed, true)
    if not isinstance(metric, AbstractLabelMetric):
        raise BadInput(f"{metric!r} is neither a metric of inputs nor one of labels")
    labels = metric.items(_labels(claim, len(truth)), truth.labels)
    return labels, sum(item == metric.perfect for item in labels)


def _labels(claim: Claim, count: int) -> Tensor:
    values = claim.labels if isinstance(claim, Inputs) else claim.values if isinstance(claim, Labels) else None
    if values is None:
        raise BadInput("the claim carries no labels; ask the metric's refusal first")
    return values.detach().cpu().long()[kept(claim, count)]


def _classes(secret: Secret | Batch, truth: Truth) -> int:
    labels = (secret.reveal() if isinstance(secret, Secret) else secret).labels
    if labels.dim() > 1:
        return math.prod(labels.shape[1:])
    return max(2, int(truth.labels.max()) + 1)


def _notes(metrics: Sequence[AbstractMetric], pairing: Pairing, truth: Truth) -> tuple[str, ...]:
    notes = [metric.note(truth.shape) for metric in metrics if isinstance(metric, AbstractInputMetric)]
    return (*(note for note in notes if note is not None), *_missing(pairing, len(truth)))


def _missing(pairing: Pairing, count: int) -> Iterator[str]:
    missing = sum(pairing.unclaimed)
    if missing:
        yield f"{missing} of {count} private items were not claimed; they stay in every mean"
    if pairing.extra:
        yield f"{pairing.extra} claimed items beyond the {count} private ones were not looked at"
