"""What a record tells of one claim beside the secret: its scores, and what a person looks at side by side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leakscope.audit.display_speech import claimed_texts, frame_arrays, true_texts
from leakscope.core.attempt import Attempt, Certificate, Trace
from leakscope.core.batch import Batch
from leakscope.core.claim import Attribute, Claim, Inputs, Labels, Tokens, Transcripts
from leakscope.core.domain import AbstractDomain
from leakscope.core.secret import Secret
from leakscope.ledger.record import CertificateRecord, RankingRecord, ScoreRecord
from leakscope.numerics.rng import Key
from leakscope.scoring.attributes import Ranked
from leakscope.scoring.referee import paired, paired_labels, paired_texts, rankings
from leakscope.scoring.referee import true_texts as true_ids
from leakscope.scoring.score import Direction, Score

PICTURES = 12
"""How many pictures of a search are kept; a longer list is thinned evenly, first and last included."""


@final
@dataclass(frozen=True, eq=False)
class Truth:
    """What a claim is set beside. public: a pool for blind guesses. words: of a source, how its token ids are read."""

    secret: Secret
    domain: AbstractDomain
    public: Batch | None = None
    words: tuple[str, ...] = ()


def private_fields(truth: Truth) -> dict[str, Any]:
    """The fields of a `Record` that tell of the secret alone."""
    batch = truth.secret.reveal()
    return {
        "labels_true": _whole(batch.labels),
        "transcripts_true": true_texts(truth.secret),
        "tokens_true": tuple(_read(ids, truth) for ids in true_ids(truth.secret)) if batch.holds_tokens else (),
    }


def claimed_fields(
    attempt: Attempt[Claim], scores: Iterable[Score], truth: Truth, *, key: Key
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The fields of a `Record` that tell of the claim, and the arrays beside it, each in the secret's order.

    key: of the phases of sounds that are made of frames.
    """
    claim = attempt.claim
    assert claim is not None
    at, arrays = _arrays(claim, attempt.trace, truth, key)
    said = {
        "scores": tuple(_score(one) for one in scores),
        "labels_claimed": _claimed_labels(claim, truth.secret),
        "transcripts_claimed": claimed_texts(claim, truth.secret) if isinstance(claim, Transcripts) else (),
        "tokens_claimed": _claimed_tokens(claim, truth) if isinstance(claim, Tokens) else (),
        "tokens_bag": isinstance(claim, Tokens) and claim.bag,
        "rankings": _rankings(claim, truth.secret),
        "picture_evaluations": at,
    }
    return said, arrays


def _claimed_tokens(claim: Tokens, truth: Truth) -> tuple[tuple[str, ...] | None, ...]:
    if claim.bag:
        return (_read(claim.sequences[0], truth),)
    return tuple(None if ids is None else _read(ids, truth) for ids in paired_texts(claim, truth.secret))


def _read(ids: Iterable[int], truth: Truth) -> tuple[str, ...]:
    """Each token as its word; as its number where no word is known for it."""
    return tuple(truth.words[one] if 0 <= one < len(truth.words) and truth.words[one] else f"#{one}" for one in ids)


def _rankings(claim: Claim, secret: Secret) -> tuple[RankingRecord, ...]:
    """Where each private item's true category stands in the claim; none for other claims."""
    return tuple(_ranking(claim.name, one) for one in rankings(claim, secret)) if isinstance(claim, Attribute) else ()


def _ranking(attribute: str, one: Ranked) -> RankingRecord:
    where = one.standing
    return RankingRecord(
        attribute=attribute,
        true=one.true,
        best=one.best,
        rank=None if where is None else where.rank,
        candidates=0 if where is None else where.of,
    )


def _arrays(claim: Claim, trace: Trace, truth: Truth, key: Key) -> tuple[tuple[int, ...], dict[str, NDArray[Any]]]:
    """Originals, claims and pictures of the search in display units, each in the secret's order."""
    secret, domain, public = truth.secret, truth.domain, truth.public
    if not isinstance(claim, Inputs):
        return (), {}
    if secret.reveal().lengths is not None:
        return (), frame_arrays(claim, secret, domain, public, key=key)
    pair = paired(claim, secret, domain=domain)
    arrays: dict[str, NDArray[Any]] = {"original": _plain(pair.original), "claim": _plain(pair.claimed)}
    if any(pair.unclaimed):
        arrays["unclaimed"] = np.array(pair.unclaimed)
    fitting = [(at, shown) for at, shown in trace.pictures if _fits(shown, claim)]
    chosen = [fitting[i] for i in np.linspace(0, len(fitting) - 1, min(PICTURES, len(fitting))).round().astype(int)]
    if chosen:
        # Paired anew each time: early on, the candidate for an original need not be the one that ends there.
        shown = [paired(Inputs(values), secret, domain=domain).claimed for _, values in chosen]
        arrays["pictures"] = _plain(torch.stack(shown))
    return tuple(at for at, _ in chosen), arrays


def _fits(shown: Tensor, claim: Inputs) -> bool:
    return shown.shape == claim.values.shape and bool(torch.isfinite(shown).all())


def _plain(values: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = values.detach().cpu().float().numpy()
    return array


def _claimed_labels(claim: Claim, secret: Secret) -> tuple[int, ...]:
    """The claimed label for each private item, -1 where none was claimed; none at all for claims without labels."""
    if isinstance(claim, Labels) or (isinstance(claim, Inputs) and claim.labels is not None):
        return tuple(-1 if label is None else label for label in paired_labels(claim, secret))
    return ()


def certificate(given: Certificate | None) -> CertificateRecord | None:
    """The residual of an exact attack's own equations, None where there is none."""
    if given is None:
        return None
    return CertificateRecord(
        residual=given.residual,
        tolerance=given.tolerance,
        holds=given.holds,
        statement=given.statement,
        residuals=given.residuals,
        tolerances=given.tolerances,
    )


def _score(one: Score) -> ScoreRecord:
    return ScoreRecord(
        metric=one.metric,
        value=one.value,
        unit=one.unit,
        higher_is_better=one.direction is Direction.HIGHER,
        low=one.low,
        high=one.high,
        chance=one.chance,
        perfect=one.perfect,
        items=one.items,
        exact=one.exact,
    )


def _whole(labels: Tensor | None) -> tuple[int, ...]:
    """Class indices as plain integers; none for probabilities, which are no classes."""
    return () if labels is None or labels.dim() != 1 else tuple(int(v) for v in labels)
