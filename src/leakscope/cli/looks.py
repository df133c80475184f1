"""What an update looks like, in sentences: of its numbers, and beside the model that it is declared to belong to."""

from __future__ import annotations

from leakscope.attacks.parts.reading.proof import contradictions
from leakscope.core.facts import BatchSize
from leakscope.core.mechanism import AbstractStep
from leakscope.core.observation import Observation
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.reading import keeps_ratios
from leakscope.targets.vetting.beside_model import beside
from leakscope.targets.vetting.numbers import Look


def looked(seen: Observation) -> tuple[Look, ...]:
    """What the update of one round shows that the declared mechanism and model do not do, with what to declare."""
    found = contradictions(seen)
    if not isinstance(seen.mechanism, AbstractStep) or keeps_ratios(seen.mechanism) is not Answer.YES:
        return found
    examples = seen.told(BatchSize).count if seen.knows(BatchSize) else None
    return (*found, *beside(seen.target, seen.gradient().by_name, examples))


def said(seen: Observation) -> list[str]:
    """The same as sentences."""
    return [f"{look.sentence}; {seen.mechanism!r} does not do that: {look.remedy}" for look in looked(seen)]
