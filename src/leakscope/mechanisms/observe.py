"""The challenger's move: run the mechanism on the batch and hand over what the adversary may see."""

from __future__ import annotations

from collections.abc import Sequence

from leakscope.core.arguments import instance
from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.core.facts import Fact, facts
from leakscope.core.mechanism import AbstractMechanism
from leakscope.core.observation import Observation
from leakscope.core.target import Target
from leakscope.domains.vision import Images
from leakscope.numerics.rng import Key


def observe(
    target: Target, batch: Batch, mechanism: AbstractMechanism, *, key: Key, tell: Sequence[Fact] = ()
) -> Observation:
    """Run `mechanism` on `batch` and return what an adversary sees.

    tell: the facts that are given away besides the release; each is checked against the batch.
    Raises `BadInput` on an argument of another type, on a batch that does not fit the target's domain or classes, on
    outputs that do not fit the classes, or on a fact that is not true.
    """
    instance("target", target, Target, "wrap a module: Target(module, domain, classes)")
    instance("batch", batch, Batch, "give Batch(inputs, labels), or what `reveal()` of a secret returns")
    instance("mechanism", mechanism, AbstractMechanism, "give an object such as FedSGD() or FedAvg(steps=1, lr=0.1)")
    instance("key", key, Key, "write key=Key(0)")
    told = facts(tell)
    if not target.domain.fits(batch.inputs):
        raise BadInput(
            f"inputs of shape {tuple(batch.inputs.shape[1:])} do not fit the target's domain {target.domain}; "
            "reshape or resize them"
        )
    _in_range(target, batch)
    target.loss.check(batch, target.classes)
    for fact in told:
        contradiction = fact.contradiction(batch)
        if contradiction is not None:
            raise BadInput(f"{contradiction}; tell what is true or nothing")
    release = mechanism.release(target, batch.checked(), key=key.child("release"))
    return Observation(target, release, mechanism, told)


BEYOND = 0.05
"""How far beyond the range, in ranges, inputs are taken for rounding or resizing that overshoots."""


def _in_range(target: Target, batch: Batch) -> None:
    """Raises `BadInput` on images in other units than the domain's: attacks would search where they cannot be."""
    if not isinstance(target.domain, Images):
        return
    low, high = target.domain.bounds(batch.inputs)
    slack = BEYOND * (high - low)
    if bool(((batch.inputs < low - slack) | (batch.inputs > high + slack)).any()):
        raise BadInput(
            f"inputs from {float(batch.inputs.min()):.3g} to {float(batch.inputs.max()):.3g} lie outside the range of "
            f"{target.domain}, {float(low.min()):.3g} to {float(high.max()):.3g}; give it the mean and std that the "
            "inputs were normalized with"
        )
