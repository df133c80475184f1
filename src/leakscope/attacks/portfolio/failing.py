"""What an attack that raised becomes among others: a sentence in its place, so that what they found is not lost."""

from __future__ import annotations

from typing import Any, TypeVar

from leakscope.attacks.attack import Attack, Ready
from leakscope.core.attempt import Attempt, Outcome
from leakscope.core.claim import AbstractClaim
from leakscope.core.errors import first_line
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.targets.looking.probe import FORWARD_ERRORS

ClaimT = TypeVar("ClaimT", bound=AbstractClaim)

FAILURES = (*FORWARD_ERRORS, ArithmeticError, MemoryError)
"""What attacks raise on models and updates that nobody thought of. Of torch's own errors all are among them."""


def failed(attack: Attack[Any], error: BaseException) -> Attempt[Any]:
    """An attempt that claims nothing and says what was raised.

    >>> from leakscope import LabelCounts
    >>> failed(LabelCounts(), RuntimeError("shapes differ")).sentence
    'failed with RuntimeError: shapes differ; nothing is known of this attack here, the others are not affected'
    """
    # DIVERGED and not REFUSED: a refusal says that the attack does not apply, and nobody knows that here.
    said = f"failed with {first_line(error)}; nothing is known of this attack here, the others are not affected"
    return Attempt(repr(attack), Outcome.DIVERGED, said)


def ready_or_why(attack: Attack[ClaimT], seen: Observation) -> Ready[ClaimT] | Refusal:
    """`attack.ready`, where what it raises becomes a refusal with the same sentence as `failed`."""
    try:
        return attack.ready(seen)
    except FAILURES as error:
        return Refusal(failed(attack, error).sentence)
