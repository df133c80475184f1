"""What an update looks like, in sentences: of its numbers, and beside the model that it is declared to belong to."""

from __future__ import annotations

import torch

from leakscope.attacks.parts.reading.proof import contradictions
from leakscope.core.facts import BatchSize
from leakscope.core.mechanism import AbstractStep
from leakscope.core.observation import Observation
from leakscope.core.release import Delta
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.reading import keeps_ratios, known_weights
from leakscope.numerics.trees import Named
from leakscope.targets.vetting.beside_model import beside
from leakscope.targets.vetting.numbers import Look, halved, halved_before


def looked(seen: Observation, *, types: bool = True) -> tuple[Look, ...]:
    """What the update of one round shows that the declared mechanism and model do not do, with what to declare.

    types: numbers of half precision too, which `vet_update` finds as well.
    """
    found = contradictions(seen)
    if not isinstance(seen.mechanism, AbstractStep) or keeps_ratios(seen.mechanism) is not Answer.YES:
        return found
    if isinstance(seen.release, Delta) and known_weights(seen.mechanism) is Answer.YES:
        found = (*found, *halved_before(*_step(seen)))
    examples = seen.told(BatchSize).count if seen.knows(BatchSize) else None
    return (*found, *(halved(seen.release) if types else ()), *beside(seen.target, seen.gradient().by_name, examples))


def _step(seen: Observation) -> tuple[Named, Named]:
    """The gradient of one step, and what the last place of the weights makes of each entry."""
    start, sent, gradient = seen.target.parameters(), seen.release.by_name, seen.gradient().by_name
    # How much larger a gradient is than the step that it makes.
    units = {n: float(v.double().norm()) / max(float(sent[n].double().norm()), 1e-300) for n, v in gradient.items()}
    names = [name for name in gradient if name in start]
    sizes = {n: start[n].abs() + sent[n].to(start[n]).abs() for n in names}
    rounding = {n: 2 * torch.finfo(start[n].dtype).eps * size * units[n] for n, size in sizes.items()}
    return {name: gradient[name] for name in names}, rounding


def said(seen: Observation) -> list[str]:
    """The same as sentences."""
    return [f"{look.sentence}; {seen.mechanism!r} does not do that: {look.remedy}" for look in looked(seen)]
