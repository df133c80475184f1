"""One scored claim by itself: rules 1 and 2 of docs/verdicts.md, which need neither trials nor controls; its record."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from numpy.typing import NDArray

from leakscope.audit.display import certificate, claimed_fields, compared, private_fields
from leakscope.audit.measures import DECIDING, LUCK, SHARES, decibels, luck, recovered
from leakscope.audit.proofs import Proof, confirmed, wrong
from leakscope.core.attempt import Attempt, Certificate
from leakscope.core.claim import AbstractClaim
from leakscope.ledger.record import CellSpec, Ending, Record, Role, Word
from leakscope.numerics.rng import Key
from leakscope.scoring.case import Case
from leakscope.scoring.score import Score

ONE = (
    "one update is one trial: it can show a leak, never that there is none; `leakscope audit` runs trials and controls"
)


def judged(scores: Iterable[Score], certificate: Certificate | None, right: tuple[bool, ...] = ()) -> tuple[Word, str]:
    """LEAKS or INCONCLUSIVE, with the reason. The blind guess of each item is that of the chance level.

    right: of each claimed item whether it is a private one (`display.compared`); without it they are counted.
    LEAKS where the certificate holds and the score confirms it (`proofs.confirmed`, or all labels right beyond luck),
    or where a single item is recovered far beyond blind guesses (`measures.recovered`). Where anything that is proved
    is wrong (`proofs.wrong`), the certificate counts for nothing, and the sentence reports the defect.

    >>> judged([], None)[0]
    <Word.INCONCLUSIVE: 'inconclusive'>
    """
    by_name = {score.metric: score for score in scores}
    score = next((by_name[name] for name in DECIDING if name in by_name), None)
    if score is None or not score.items or len(score.blind) != len(score.items):
        return Word.INCONCLUSIVE, f"no metric that decides could be computed; {ONE}"
    proof = None if certificate is None else Proof.of(certificate, right)
    defect = proof is not None and wrong(proof, score)
    if proof is not None and proof.holds and not defect and _confirmed(proof, score):
        assert certificate is not None
        return Word.LEAKS, f"the attack's own equations hold (residual {certificate.residual:.1e}) and {_said(score)}"
    either = "something that its certificate proves is wrong, or what its statement assumes is not so"
    spoiled = f"a defect of the attack: {either}; " if defect else ""
    count = 0 if score.metric in SHARES else recovered(*_both(score), decibels(score.metric, score.nearest))
    if count:
        said = f"{count} of {len(score.items)} recovered far beyond blind guesses: {_said(score)}"
        return Word.LEAKS, f"{spoiled}{said}"
    return Word.INCONCLUSIVE, f"{spoiled}{_said(score)}; {ONE}"


def recorded(
    attempt: Attempt[AbstractClaim], scores: Iterable[Score], case: Case, *, data: str, key: Key
) -> tuple[Record, dict[str, NDArray[Any]]]:
    """What a page shows of a claim that somebody else's attack made, as of a cell of an audit.

    data: where the secret is from. What only an audit knows of its cells stays empty.
    """
    said, arrays = claimed_fields(attempt, scores, case, key=key)
    spec = CellSpec(
        role=Role.AUDITED,
        target="",
        dataset=data,
        mechanism="",
        attack=attempt.attack,
        batch_size=len(case.batch()),
        told=(),
        metrics=(),
        trial=1,
        seed=0,
    )
    record = Record(
        identity="claim",
        spec=spec,
        ending=Ending.CLAIMED,
        sentence=attempt.sentence,
        certificate=certificate(attempt.certificate, compared(attempt, case)),
        seconds=attempt.cost.seconds,
        evaluations=attempt.cost.evaluations,
        trace_evaluations=attempt.trace.evaluations,
        trace_losses=attempt.trace.losses,
        steps=attempt.steps,
        **private_fields(case),
        **said,
    )
    return record, arrays


def _both(score: Score) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Items and blind guesses, errors in decibels."""
    return decibels(score.metric, score.items), decibels(score.metric, score.blind)


def _confirmed(proof: Proof, score: Score) -> bool:
    if score.metric in SHARES:
        # By the rule of an audit: one right label of two is as good as a coin, proved or not.
        return all(item == score.perfect for item in score.items) and luck(1.0, len(score.items), score.chance) <= LUCK
    return confirmed(proof, score, score.blind)


def _said(score: Score) -> str:
    unit = f" {score.unit}" if score.unit else ""
    return f"{score.metric} {score.value:.4g}{unit}, chance {score.chance:.4g}"
