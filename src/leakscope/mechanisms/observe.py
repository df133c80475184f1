"""The challenger's move: run the mechanism on the batch and hand over what the adversary may see."""

from __future__ import annotations

from collections.abc import Sequence

from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.core.facts import Fact
from leakscope.core.mechanism import AbstractMechanism
from leakscope.core.observation import Observation
from leakscope.core.target import Target
from leakscope.numerics.rng import Key


def observe(
    target: Target, batch: Batch, mechanism: AbstractMechanism, *, key: Key, tell: Sequence[Fact] = ()
) -> Observation:
    """Run `mechanism` on `batch` and return what an adversary sees.

    tell: the facts that are given away besides the release; each is checked against the batch.
    Raises `BadInput` on a batch that does not fit the target's domain or classes, or on a fact that is not true.
    """
    if not target.domain.fits(batch.inputs):
        raise BadInput(
            f"inputs of shape {tuple(batch.inputs.shape[1:])} do not fit the target's domain {target.domain}; "
            "reshape or resize them"
        )
    target.loss.check(batch, target.classes)
    for fact in tell:
        contradiction = fact.contradiction(batch)
        if contradiction is not None:
            raise BadInput(f"{contradiction}; tell what is true or nothing")
    release = mechanism.release(target, batch.checked(), key=key.child("release"))
    return Observation(target, release, mechanism, tuple(tell))
