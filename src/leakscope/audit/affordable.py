"""Whether what files and plans name fits into memory and patience: models, batches, local steps, told facts.

Each is a number in a text, and a few letters can name any. What is computed from them is bounded here, before it is
made, by the limit of `core.file_limits`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from leakscope.core import file_limits
from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.core.facts import BatchSize, Fact, Lengths, TrueLabels, TrueTranscripts
from leakscope.core.mechanism import AbstractMechanism
from leakscope.domains.speech import Frames
from leakscope.mechanisms.compose import Defended
from leakscope.mechanisms.protocols.fedavg import FedAvg
from leakscope.targets.recipes.architecture import AbstractArchitecture
from leakscope.targets.vetting.size import numbers

COPIES = 16
"""Bytes that one parameter of a model takes: weights and gradient, and one more of each while they are made."""

MOVED = 8
"""Bytes that one parameter takes in each replayed local step: the weights there, and the step to the next."""

KEPT = 24
"""Bytes that one number of an input takes in a search: candidate, gradient, optimizer, and what the layers keep."""

STEP = 2**19
"""Bytes that a replayed local step takes beside weights and inputs: what is kept to differentiate through it."""

EXAMPLE = 2**12
"""Numbers in the largest example times this many bytes are the limit: first layers are hundreds of rows wide."""


def check_domain(domain: AbstractDomain, *, held: int = 0) -> None:
    """Raises `BadInput` where one input is larger than any model of the limit takes, and than what is held."""
    file_limits.afford(f"a model for inputs {domain!r}", math.prod(domain.shape) * EXAMPLE, held=held * EXAMPLE // 8)


def check_model(architecture: AbstractArchitecture, domain: AbstractDomain, classes: int, *, held: int = 0) -> int:
    """How many parameters the model has, 0 where that is not known. held: bytes of the file that belongs to it.

    Raises `BadInput` where an input, the classes or the model ask for more than the limit.
    """
    check_domain(domain, held=held)
    file_limits.afford(f"a model of {classes} classes", classes * EXAMPLE, held=held * EXAMPLE // 8)
    # twice what is held is allowed, and a file of all weights holds 4 bytes of each
    found = numbers(architecture, domain, classes, most=max(file_limits.limit(), 4 * held) / COPIES)
    if found is not None:
        file_limits.afford(
            f"{file_limits.shortened(repr(architecture))} of at least {found} numbers", found * COPIES, held=2 * held
        )
    return found or 0


def check_step(mechanism: AbstractMechanism, domain: AbstractDomain, examples: int, weights: int) -> None:
    """weights: how many numbers the model has. Raises `BadInput` on more examples or local steps than the limit."""
    fed = math.prod(domain.shape) * KEPT
    file_limits.afford(f"a batch of {examples} inputs {domain!r}", examples * fed)
    protocol = mechanism.protocol if isinstance(mechanism, Defended) else mechanism
    if isinstance(protocol, FedAvg):
        at_once = min(protocol.batch_size or examples, examples)
        # Micro-batches are passes of their own, however small.
        each = STEP * protocol.accumulate + weights * MOVED + at_once * fed
        file_limits.afford(f"replaying {protocol.steps} local steps", protocol.steps * each)


def check_facts(facts: Iterable[Fact], domain: AbstractDomain, classes: int) -> int:
    """How many examples the facts speak of, 1 where none says so.

    Raises `BadInput` where they contradict each other, or name a class that the model lacks or frames without end.
    """
    counts: dict[str, int] = {}
    for one in facts:
        if isinstance(one, BatchSize):
            counts["BatchSize"] = one.count
        if isinstance(one, TrueLabels):
            counts["TrueLabels"] = len(one.values)
            _classes("TrueLabels", one.values, classes)
        if isinstance(one, Lengths):
            counts["Lengths"] = len(one.values)
            width = domain.coefficients if isinstance(domain, Frames) else math.prod(domain.shape)
            file_limits.afford(
                f"utterances of {max(one.values)} frames", max(one.values) * len(one.values) * width * KEPT
            )
        if isinstance(one, TrueTranscripts):
            counts["TrueTranscripts"] = len(one.values)
            _classes("TrueTranscripts", [label for text in one.values for label in text], classes)
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{name} of {count}" for name, count in counts.items())
        raise BadInput(f"the told facts are of different batches: {said}; tell what is true or nothing")
    return next(iter(counts.values()), 1)


def _classes(name: str, values: Iterable[int], classes: int) -> None:
    strange = sorted({value for value in values if value >= classes})
    if strange:
        raise BadInput(f"{name} names the class {strange[0]}, the model has {classes}; tell what is true or nothing")
