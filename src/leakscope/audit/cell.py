"""One cell: draw, build, observe, attack, score, record."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from numpy.typing import NDArray

from leakscope.audit.controls import BlindGuess
from leakscope.audit.display import certificate, claimed_fields, private_fields
from leakscope.audit.plan import Cell
from leakscope.audit.telling import tell
from leakscope.core.attempt import Attempt, Outcome, Watch, unwatched
from leakscope.core.claim import Claim
from leakscope.core.observation import Observation
from leakscope.core.secret import Secret
from leakscope.core.target import Target
from leakscope.ledger.record import Ending, Record
from leakscope.mechanisms.observe import observe
from leakscope.numerics.rng import Key
from leakscope.scoring.case import Case
from leakscope.scoring.referee import applies, score

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
    source, key = cell.scene.source, _root(cell).child("score", cell.trial)
    case = Case(secret, domain, source.public(), source.public_annotations(), source.words())
    record = Record(
        identity=cell.identity,
        spec=cell.spec,
        ending=ENDINGS[attempt.outcome],
        sentence=attempt.sentence,
        certificate=certificate(attempt.certificate),
        seconds=attempt.cost.seconds,
        evaluations=attempt.cost.evaluations,
        trace_evaluations=attempt.trace.evaluations,
        trace_losses=attempt.trace.losses,
        steps=attempt.steps,
        **private_fields(case),
    )
    if claim is None:
        return Found(record, {})  # what a failed search looked like on the way is not shown either
    scored = []
    for one in _claims(cell, claim, stage):
        metrics = [metric for metric in cell.metrics if applies(metric, one)]
        pool, known = case.public, case.annotations
        scored.append(
            score(one, secret, domain=domain, metrics=metrics, public=pool, public_annotations=known, key=key)
        )
    said, arrays = claimed_fields(attempt, (one for scores in scored for one in scores), case, key=key)
    return Found(record.model_copy(update={**said, "steps": (*attempt.steps, *scored[0].notes)}), arrays)


def _claims(cell: Cell, claim: Claim, stage: Stage) -> tuple[Claim, ...]:
    """The claim; of the blind control one of every kind that the source holds, of which it is the first."""
    if isinstance(cell.attack, BlindGuess):
        _, *others = cell.attack.claims(stage.seen, key=_root(cell).child("attack", cell.trial))
        return claim, *others
    return (claim,)
