"""What a whole state dict says beside the update: running statistics that moved are of the client's batch."""

from __future__ import annotations

import dataclasses

import torch

from leakscope.core.facts import BatchNormStatistics, BatchSize, Fact
from leakscope.core.observation import Observation
from leakscope.core.overriding import acts_as
from leakscope.core.release import Delta, same_kind
from leakscope.mechanisms.protocols.fedavg import FedAvg
from leakscope.numerics import trees
from leakscope.numerics.trees import Named
from leakscope.targets.looking.batch_statistics import moved_statistics


def without_buffers(seen: Observation) -> Observation:
    """`seen` with an update of parameters alone; what buffers say of the batch becomes a fact.

    Differences of whole state dicts hold running statistics as well. They have no gradient; but where they moved, the
    client normalized over its batch, so the model is in training mode, and after one step they say the batch's mean
    and variance in each layer (`BatchNormStatistics`), unless these were told; of one client alone, with the layers'
    momentum, which a mean over clients or another momentum does not show.
    """
    buffers, parameters = seen.target.buffers(), seen.target.parameters().keys()
    extra = {name for one in seen.rounds for name in one.release.by_name if name in buffers and name not in parameters}
    if not extra or any(not one.release.by_name.keys() - extra for one in seen.rounds):
        return seen
    rounds = []
    for one in seen.rounds:
        kept = {name: value for name, value in one.release.by_name.items() if name not in extra}
        rounds.append(dataclasses.replace(one, release=same_kind(one.release, kept)))
    first = seen.rounds[0].release
    if len(rounds) > 1 or not isinstance(first, Delta):
        return Observation(seen.target, rounds, seen.mechanism, seen.facts)
    moves = {name: first.by_name[name] for name in extra if first.by_name[name].shape == buffers[name].shape}
    after = {name: buffers[name] + value.to(buffers[name]) for name, value in moves.items()}
    facts = told_by(seen, trees.select(buffers, moves), after)
    statistics = any(
        name.endswith(("running_mean", "running_var")) for name, v in moves.items() if bool((v != 0).any())
    )
    target = dataclasses.replace(seen.target, training=True) if statistics else seen.target
    return Observation(target, rounds, seen.mechanism, (*seen.facts, *facts))


def told_by(seen: Observation, before: Named, after: Named) -> tuple[Fact, ...]:
    """What buffers before and after the client's training say of its batch: its statistics, or nothing.

    Only of one step on the whole batch, for they are means over the passes through the model, and by a mechanism
    without defenses, which may have changed them too. The optimizer has no say.
    """
    if seen.knows(BatchNormStatistics) or not seen.knows(BatchSize):
        return ()
    client, count = seen.mechanism, seen.told(BatchSize).count
    if not acts_as(client, FedAvg) or client.steps > 1 or client.accumulate > 1:
        return ()
    if client.batch_size is not None and client.batch_size < count:
        return ()
    if any(not bool(torch.isfinite(value).all()) for value in after.values()):
        return ()
    found = moved_statistics(seen.target, before, after, count)
    return (BatchNormStatistics(found),) if found else ()
