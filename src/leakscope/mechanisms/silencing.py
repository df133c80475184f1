"""Whether it is known what a mechanism does besides its noise: nobody clears noise who fails by what else it does."""

from __future__ import annotations

import torch

from leakscope.core.mechanism import AbstractMechanism
from leakscope.core.overriding import acts_as
from leakscope.mechanisms.compose import (
    AbstractProtocol,
    AbstractUpdateDefense,
    Defended,
    Sensitivity,
    accounting,
)
from leakscope.mechanisms.declared import asked, effect_of, noise_alone, silenced, size_of
from leakscope.mechanisms.effects import Answer, UpdateEffect

EXAMPLES = 8
"""Of how many a protocol is asked for the size of its noise."""


def unsilenced(mechanism: AbstractMechanism) -> str:
    """Why nobody knows what it does without the noise that it declares, and how to say so; empty where that is known.

    Of ours it always is. A class of one's own that clips, samples or drops and adds noise in one has no control without
    the noise: an attack that fails by the rest would clear a noise of any size.
    """
    if acts_as(mechanism, Defended):
        for one in mechanism.defenses:
            if isinstance(one, AbstractUpdateDefense) and not noise_alone(one) and _adds(one):
                return (
                    f"{one!r} declares noise, and nobody knows what it does without it: what it does besides may be "
                    "what the attack fails by; write the noise as a defense of its own that says only_noise"
                )
        return unsilenced(mechanism.protocol)
    if silenced(mechanism) or not _promises(mechanism):
        return ""
    return (
        f"{mechanism!r} declares noise, and nobody knows what it is without it: what it does besides may be what the "
        "attack fails by; let its property noiseless say what is left"
    )


def _adds(one: AbstractUpdateDefense) -> bool:
    """Whether a defense declares that it adds noise: by its size, or by an event. Rounding to levels is none."""
    event, _ = asked(lambda: one.event(Sensitivity(1.0, 1.0)))
    size, _ = size_of(lambda: one.noise(torch.ones(2)))
    return _private(event) or (bool(size) and effect_of(one, UpdateEffect).rounds is not Answer.YES)


def _promises(mechanism: AbstractMechanism) -> bool:
    """Whether a mechanism declares noise: by its size, by whom it hides, or by an event."""
    if isinstance(mechanism, AbstractProtocol) and size_of(lambda: mechanism.noise(EXAMPLES))[0]:
        return True
    return asked(lambda: mechanism.adjacency)[0] is not None or _private(asked(mechanism.event)[0])


def _private(event: object) -> bool:
    """Whether it is an event that hides something. Without the accountant's package no event is made."""
    return event is not None and not isinstance(event, accounting().NonPrivateDpEvent)
