"""What came of an attempt, as the ledger keeps it: outcomes become endings, claims become scores and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from numpy.typing import NDArray

from leakscope.audit.blind import BlindGuess
from leakscope.audit.cell import Stage, attack_key, root
from leakscope.audit.display import certificate, claimed_fields, compared, private_fields
from leakscope.audit.plan import Cell
from leakscope.audit.preparation import Prepared
from leakscope.core.asking import asking
from leakscope.core.attempt import Attempt, Outcome
from leakscope.core.batch import Batch
from leakscope.core.claim import Claim
from leakscope.core.errors import BadInput
from leakscope.core.release import Weights
from leakscope.ledger.record import Ending, Record, Role
from leakscope.mechanisms.protocols.passes import quiet
from leakscope.scoring.case import Case
from leakscope.scoring.referee import applies, score

ENDINGS = {
    Outcome.CLAIMED: Ending.CLAIMED,
    Outcome.REFUSED: Ending.REFUSED,
    Outcome.DIVERGED: Ending.DIVERGED,
}
"""INTERRUPTED is missing: what a person stopped is not finished and leaves no record. CRASHED is the runner's own."""


HELD = 256
"""Public examples behind an accuracy: a fraction of a second for a network of ImageNet."""


@final
@dataclass(frozen=True, eq=False)
class Found:
    """What came of a cell, ready for the ledger."""

    record: Record
    arrays: dict[str, NDArray[Any]]


def recorded(cell: Cell, stage: Stage, attempt: Attempt[Claim], ready: Prepared) -> Found:
    """The record of an attempt that ended by itself. One without a claim has its sentence and no scores."""
    claim, secret, domain = attempt.claim, stage.secret, stage.target.domain
    source, key = cell.scene.source, root(cell).child("score", cell.trial)
    public = source.public()
    case = Case(secret, domain, public, source.public_annotations(), source.words(), stage.client)
    record = Record(
        identity=cell.identity,
        spec=cell.spec,
        ending=ENDINGS[attempt.outcome],
        sentence=attempt.sentence,
        certificate=certificate(attempt.certificate, compared(attempt, case)),
        seconds=attempt.cost.seconds,
        evaluations=attempt.cost.evaluations,
        prepared=ready.fingerprint,
        preparing_seconds=ready.seconds,
        trace_evaluations=attempt.trace.evaluations,
        trace_losses=attempt.trace.losses,
        steps=attempt.steps,
        accuracy=_accuracy(cell, stage, public),
        **private_fields(case),
    )
    if claim is None:
        return Found(record, {})  # what a failed search looked like on the way is not shown either
    scored = []
    for one in _claims(cell, claim, stage):
        metrics = [metric for metric in cell.metrics if applies(metric, one)]
        scored.append(
            score(
                one,
                secret,
                domain=domain,
                metrics=metrics,
                public=case.public,
                public_annotations=case.annotations,
                client=stage.client,
                key=key,
            )
        )
    said, arrays = claimed_fields(attempt, (one for scores in scored for one in scores), case, key=key)
    return Found(record.model_copy(update={**said, "steps": (*attempt.steps, *scored[0].notes)}), arrays)


def _accuracy(cell: Cell, stage: Stage, public: Batch) -> float | None:
    """Of released weights on the first `HELD` public examples, which are a random choice; None where it is none.

    What a defense costs. Controls that another batch is sent for, or that see nothing, are not asked.
    """
    labels, release = public.labels, stage.seen.release
    if cell.role not in (Role.AUDITED, Role.UNDEFENDED) or not isinstance(release, Weights):
        return None
    if labels.dim() != 1 or labels.is_floating_point():
        return None
    held, target = public.rows(torch.arange(min(HELD, len(public)))), stage.target
    try:
        # A stranger's model may fail on so many at once: then nobody knows, and the attack is judged all the same.
        with asking(target, "name public examples"), quiet(target), torch.no_grad():
            outputs = target.outputs({**target.parameters(), **release.by_name}, held)
    except BadInput:
        return None
    # One logit for two classes has no largest one.
    if outputs.shape != (len(held), target.classes):
        return None
    return float((outputs.argmax(1) == held.labels).double().mean())


def crashed(cell: Cell, sentence: str, trace: str = "") -> Found:
    """The record of a cell that broke."""
    record = Record(identity=cell.identity, spec=cell.spec, ending=Ending.CRASHED, sentence=sentence, traceback=trace)
    return Found(record, {})


def _claims(cell: Cell, claim: Claim, stage: Stage) -> tuple[Claim, ...]:
    """The claim; of the blind control one of every kind that the source holds, of which it is the first."""
    if isinstance(cell.attack, BlindGuess):
        _, *others = cell.attack.claims(stage.seen, key=attack_key(cell))
        return claim, *others
    return (claim,)
