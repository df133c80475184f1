"""One cell: draw, build, observe, attack, score, record."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leakscope.audit.controls import BlindGuess
from leakscope.audit.facts import tell
from leakscope.audit.plan import Cell
from leakscope.audit.speaking import claimed_texts, frame_arrays, true_texts
from leakscope.core.attempt import Attempt, Certificate, Outcome, Trace, Watch, unwatched
from leakscope.core.batch import Batch
from leakscope.core.claim import Attribute, Claim, Inputs, Labels, Transcripts
from leakscope.core.domain import AbstractDomain
from leakscope.core.facts import Gallery
from leakscope.core.observation import Observation
from leakscope.core.secret import Secret
from leakscope.core.target import Target
from leakscope.ledger.record import CertificateRecord, Ending, RankingRecord, Record, ScoreRecord
from leakscope.mechanisms.observe import observe
from leakscope.numerics.rng import Key
from leakscope.scoring.attributes import Ranked
from leakscope.scoring.referee import applies, paired, paired_labels, rankings, score
from leakscope.scoring.score import Direction, Score

PICTURES = 12
"""How many pictures of a search are kept; a longer list is thinned evenly, first and last included."""

ENDINGS = {
    Outcome.CLAIMED: Ending.CLAIMED,
    Outcome.REFUSED: Ending.REFUSED,
    Outcome.DIVERGED: Ending.DIVERGED,
}


@final
class TamperedError(RuntimeError):
    """A secret or an observation changed while an attack ran: the cell says nothing about leakage."""


@final
@dataclass(frozen=True, eq=False)
class Found:
    """What came of a cell, ready for the ledger."""

    record: Record
    arrays: dict[str, NDArray[Any]]


@final
@dataclass(frozen=True, eq=False)
class Stage:
    """A cell's secret, target and observation, as the challenger sets them up."""

    secret: Secret
    target: Target
    seen: Observation


def run_cell(cell: Cell, *, watch: Watch = unwatched) -> Found:
    """Run one cell on one thread, so that its record does not depend on the machine's load or on the engine.

    A refused or diverged attempt is a record with its sentence and without scores. Raises `KeyboardInterrupt` when
    the attempt was interrupted: that cell is not finished and will be run again. Raises `TamperedError` when secret
    or observation are not what they were before the attack; whatever else the parts raise passes through.
    """
    with _one_thread():
        stage = set_up(cell)
        before = stage.secret.fingerprint(), stage.seen.fingerprint()
        key = _root(cell).child("attack", cell.trial)
        attempt = cell.attack.run(stage.seen, key=key, budget=cell.budget, watch=watch)
        if attempt.outcome is Outcome.INTERRUPTED:
            raise KeyboardInterrupt
        found = _found(cell, stage, attempt)
        _same(before, (stage.secret.fingerprint(), stage.seen.fingerprint()))
        return found


def set_up(cell: Cell) -> Stage:
    """Draw the secret, build the target, observe.

    Secret and weights depend on the seed, the scene and the trial alone, so that every mechanism, attack and
    control of a trial meets the same ones; the mechanism's own randomness depends on the mechanism besides.
    """
    root, source = _root(cell), cell.scene.source
    secret = source.draw(cell.batch_size, key=root.child("secret", cell.trial))
    target = cell.scene.architecture.build(source.domain, source.classes, key=root.child("weights", cell.trial))
    batch = secret.reveal()
    facts = tell(cell.told, target, batch, source=source)
    key = root.child("release", repr(cell.mechanism), cell.trial)
    return Stage(secret, target, observe(target, batch, cell.mechanism, key=key, tell=facts))


def _root(cell: Cell) -> Key:
    return Key(cell.seed).child("audit", repr(cell.scene.source), repr(cell.scene.architecture))


def _same(before: tuple[str, str], after: tuple[str, str]) -> None:
    for what, one, other in zip(("secret", "observation"), before, after, strict=True):
        if one != other:
            raise TamperedError(f"the {what} changed while the attack ran or was scored; it writes to its inputs")


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _found(cell: Cell, stage: Stage, attempt: Attempt[Claim]) -> Found:
    claim, secret, domain = attempt.claim, stage.secret, stage.target.domain
    record = Record(
        identity=cell.identity,
        spec=cell.spec,
        ending=ENDINGS[attempt.outcome],
        sentence=attempt.sentence,
        certificate=_certificate(attempt.certificate),
        seconds=attempt.cost.seconds,
        evaluations=attempt.cost.evaluations,
        trace_evaluations=attempt.trace.evaluations,
        trace_losses=attempt.trace.losses,
        steps=attempt.steps,
        labels_true=_whole(secret.reveal().labels),
        transcripts_true=true_texts(secret),
    )
    if claim is None:
        return Found(record, {})  # what a failed search looked like on the way is not shown either
    key, public = _root(cell).child("score", cell.trial), cell.scene.source.public()
    scored = []
    for one in _claims(cell, claim, stage):
        metrics = [metric for metric in cell.metrics if applies(metric, one)]
        scored.append(score(one, secret, domain=domain, metrics=metrics, public=public, key=key))
    at, arrays = _arrays(claim, attempt.trace, (secret, domain, public), key)
    said = {
        "scores": tuple(_score(one) for scores in scored for one in scores),
        "labels_claimed": _claimed_labels(claim, secret),
        "transcripts_claimed": claimed_texts(claim, secret) if isinstance(claim, Transcripts) else (),
        "rankings": _rankings(claim, secret),
        "picture_evaluations": at,
        "steps": (*attempt.steps, *scored[0].notes),
    }
    return Found(record.model_copy(update=said), arrays)


def _claims(cell: Cell, claim: Claim, stage: Stage) -> tuple[Claim, ...]:
    """The claim; of the blind control guesses of words and persons on speech, of labels on texts, as well."""
    if isinstance(cell.attack, BlindGuess) and stage.secret.reveal().holds_tokens:
        return claim, cell.attack.labels(key=_root(cell).child("attack", cell.trial))
    if isinstance(cell.attack, BlindGuess) and stage.secret.reveal().lengths is not None:
        told = stage.seen.knows(Gallery)
        persons = (cell.attack.persons(stage.seen.told(Gallery)),) if told else ()
        return claim, cell.attack.words(), *persons
    return (claim,)


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


def _arrays(
    claim: Claim, trace: Trace, truth: tuple[Secret, AbstractDomain, Batch], key: Key
) -> tuple[tuple[int, ...], dict[str, NDArray[Any]]]:
    """Originals, claims and pictures of the search in display units, each in the secret's order."""
    secret, domain, public = truth
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


def _certificate(given: Certificate | None) -> CertificateRecord | None:
    if given is None:
        return None
    return CertificateRecord(
        residual=given.residual, tolerance=given.tolerance, holds=given.holds, statement=given.statement
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
