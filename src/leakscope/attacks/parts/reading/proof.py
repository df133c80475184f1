"""Why an exact attack has no certificate, as far as that lies with the mechanism and not with its equations."""

from __future__ import annotations

from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.reading import doubt, keeps_ratios


def undeclared(seen: Observation) -> Refusal | None:
    """Why nothing is proved whatever the equations leave: an effect that is not declared, or inputs that were changed.

    An equation that holds to the last digit says that the numbers agree, not that the client computed them as the
    equation assumes: signs agree with each other too. Hence a proof needs a mechanism that says what it does.
    """
    why = doubt(seen.mechanism)
    return None if why is None else Refusal(why)


def bent(seen: Observation) -> Refusal | None:
    """The same for attacks that read proportions of entries, which noise, rounding, signs and pruning change."""
    # First, since a declared change of entries is no doubt to `undeclared`: that is left to each attack's equations.
    if keeps_ratios(seen.mechanism) is Answer.NO:
        return Refusal("a defense changed entries one by one")
    return undeclared(seen)
