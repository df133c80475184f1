"""What a record tells of one claim beside the secret: its scores, and what a person looks at side by side."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leakscope.audit.display_speech import frame_arrays
from leakscope.core.attempt import Attempt, Certificate, Trace
from leakscope.core.claim import AbstractClaim, Inputs
from leakscope.core.secret import Secret
from leakscope.ledger.record import AnswerRecord, CertificateRecord, RankingRecord, ScoreRecord
from leakscope.numerics.rng import Key
from leakscope.scoring.case import Case
from leakscope.scoring.kinds.inputs import paired
from leakscope.scoring.kinds.kind import Paired, Ranked, Shown
from leakscope.scoring.kinds.table import kind_of
from leakscope.scoring.kinds.tokens import read_as, true_texts
from leakscope.scoring.kinds.transcripts import spelled
from leakscope.scoring.metrics.features import FeatureError
from leakscope.scoring.referee import right
from leakscope.scoring.score import Direction, Score

PICTURES = 12
"""How many pictures of a search are kept; a longer list is thinned evenly, first and last included."""


def private_fields(case: Case) -> dict[str, Any]:
    """The fields of a `Record` that tell of the secret alone."""
    batch = case.batch()
    said = () if batch.label_lengths is None else batch.transcripts()
    return {
        "labels_true": _whole(batch.labels),
        "owners": case.secret.owners if isinstance(case.secret, Secret) else (),
        "transcripts_true": tuple(spelled(one) for one in said),
        "tokens_true": tuple(read_as(ids, case.words) for ids in true_texts(batch)) if batch.holds_tokens else (),
    }


def claimed_fields(
    attempt: Attempt[AbstractClaim], scores: Iterable[Score], case: Case, *, key: Key
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The fields of a `Record` that tell of the claim, and the arrays beside it, each in the secret's order.

    What is shown is the business of the claim's kind; here it only becomes fields and arrays. key: of the phases of
    sounds that are made of frames.
    """
    claim = attempt.claim
    assert claim is not None
    shown = kind_of(claim).shown(claim, case)
    at, arrays = _arrays(shown, attempt.trace, claim, case)
    if shown.frames is not None:
        arrays = frame_arrays(shown.frames, case.domain, key=key)
    said = {
        "scores": tuple(_score(one) for one in scores),
        "labels_claimed": shown.labels,
        "transcripts_claimed": shown.transcripts,
        "tokens_claimed": shown.tokens,
        "tokens_bag": shown.tokens_bag,
        "rankings": tuple(_ranking(one) for one in shown.rankings),
        "answers": tuple(AnswerRecord(asked=a.asked, true=a.true, claimed=a.claimed) for a in shown.answers),
        "picture_evaluations": at,
    }
    return said, arrays


def _ranking(one: Ranked) -> RankingRecord:
    where = one.standing
    return RankingRecord(
        attribute=one.attribute,
        true=one.true,
        best=one.best,
        rank=None if where is None else where.rank,
        candidates=0 if where is None else where.of,
    )


def _arrays(
    shown: Shown, trace: Trace, claim: AbstractClaim, case: Case
) -> tuple[tuple[int, ...], dict[str, NDArray[Any]]]:
    """Originals, claims and pictures of the search in display units, each in the secret's order; of inputs alone."""
    pair: Paired | None = shown.inputs
    if pair is None or not isinstance(claim, Inputs):
        return (), {}
    arrays: dict[str, NDArray[Any]] = {"original": _plain(pair.original), "claim": _plain(pair.claimed)}
    if any(pair.unclaimed):
        arrays["unclaimed"] = np.array(pair.unclaimed)
    fitting = [(at, picture) for at, picture in trace.pictures if _fits(picture, claim)]
    chosen = [fitting[i] for i in np.linspace(0, len(fitting) - 1, min(PICTURES, len(fitting))).round().astype(int)]
    if chosen:
        # Paired anew each time: early on, the candidate for an original need not be the one that ends there. With the
        # claim's confidence, so that of too many items those are shown that are scored.
        claims = [Inputs(values, confidence=claim.confidence) for _, values in chosen]
        arrays["pictures"] = _plain(torch.stack([paired(one, case).claimed for one in claims]))
    return tuple(at for at, _ in chosen), arrays


def _fits(shown: Tensor, claim: Inputs) -> bool:
    return shown.shape == claim.values.shape and bool(torch.isfinite(shown).all())


def _plain(values: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = values.detach().cpu().float().numpy()
    return array


def certificate(given: Certificate | None, right: tuple[bool, ...] = ()) -> CertificateRecord | None:
    """The residual of an exact attack's own equations, None where there is none. right: see `CertificateRecord`."""
    if given is None:
        return None
    return CertificateRecord(
        residual=given.residual,
        tolerance=given.tolerance,
        holds=given.holds,
        statement=given.statement,
        residuals=given.residuals,
        tolerances=given.tolerances,
        right=right,
    )


def compared(attempt: Attempt[AbstractClaim], case: Case) -> tuple[bool, ...]:
    """Of each item that an attempt with a certificate claims whether it is a private one; () without a certificate."""
    if attempt.claim is None or attempt.certificate is None:
        return ()
    return right(attempt.claim, case, attempt.certificate.tolerances)


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
        claimed=one.claimed,
        worst=one.worst,
        # What layer it is is the claim's choice, and the blind control guesses what the output layer was fed.
        blind=one.blind if one.metric == FeatureError.name else (),
        nearest=one.nearest,
    )


def _whole(labels: Tensor | None) -> tuple[int, ...]:
    """Class indices as plain integers; none for probabilities, which are no classes."""
    return () if labels is None or labels.dim() != 1 else tuple(int(v) for v in labels)
