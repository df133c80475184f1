"""What of an update was trained, and how: what a search has to know before it compares anything."""

from __future__ import annotations

import dataclasses

from leakscope.core.observation import Observation
from leakscope.core.release import same_kind
from leakscope.numerics import trees
from leakscope.numerics.trees import Named
from leakscope.targets.looking.batch_statistics import with_batch_statistics

NOT_TRAINED = "is zero throughout, as of a layer that was not trained, so nothing can be read of it"


def idle(by_name: Named) -> frozenset[str]:
    """The tensors that are zero throughout, unless all are.

    Whole state dicts hold frozen layers as well, whose change is zero whatever the data: to ask a candidate for a
    gradient of zero there would be to ask for another input. A layer that was trained and got exactly zero is left out
    too: it says less than the others.

    >>> import torch
    >>> idle({"a": torch.zeros(2), "b": torch.ones(2)}), idle({"a": torch.zeros(2)})
    (frozenset({'a'}), frozenset())
    """
    still = frozenset(name for name, value in by_name.items() if not bool((value != 0).any()))
    return still if len(still) < len(by_name) else frozenset()


def as_trained(seen: Observation) -> Observation:
    """`seen` with the model in training mode where the update shows that the client normalized over its batch."""
    if seen.target.training or not with_batch_statistics(seen.target, seen.gradient().by_name):
        return seen
    target = dataclasses.replace(seen.target, training=True)
    return Observation(target, seen.rounds, seen.mechanism, seen.facts)


def as_mean(seen: Observation, factor: int) -> Observation:
    """`seen` with an update that is `factor` times smaller: of a mean loss where the client had summed."""
    if factor == 1:
        return seen
    release = same_kind(seen.release, trees.scale(seen.release.by_name, 1 / factor))
    return Observation(seen.target, release, seen.mechanism, seen.facts)
