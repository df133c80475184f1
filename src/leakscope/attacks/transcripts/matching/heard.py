"""What both searches over transcripts begin with: frames that another attack claims, in the order of its claim."""

from __future__ import annotations

import dataclasses

from leakscope.attacks.attack import Ready
from leakscope.core.claim import Inputs
from leakscope.core.effort import Clock
from leakscope.core.facts import Lengths
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.numerics.rng import Key


def heard(frames: Ready[Inputs], *, key: Key, clock: Clock) -> tuple[Observation, Inputs] | Refusal:
    """The claimed frames, and the observation that knows their lengths; a refusal where no frames are claimed.

    The lengths are those of the claim, whatever was told: a transcript is searched for each claimed utterance, and the
    claim need not be in the client's order.
    """
    # A clock of its own without the checkpoint, which belongs to the search over transcripts.
    claim = frames.run(key=key.child("frames"), clock=clock.remaining().start()).claim
    if claim is None or claim.lengths is None:
        return Refusal(f"{frames.attack!r} claims no frames to begin with")
    # Told lengths are in the client's order and would be paired with other frames.
    others = tuple(fact for fact in frames.seen.facts if not isinstance(fact, Lengths))
    known = Lengths(tuple(claim.lengths.tolist()))
    return dataclasses.replace(frames.seen, facts=(*others, known)), claim
