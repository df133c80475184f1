"""The releases of many clients at the same weights: dense networks side by side, everything else one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from leakscope.core.batch import Batch
from leakscope.core.overriding import acts_as
from leakscope.core.release import Release, same_kind
from leakscope.core.target import Target
from leakscope.mechanisms.compose import (
    AbstractInputDefense,
    AbstractModelDefense,
    AbstractProtocol,
    AbstractUpdateDefense,
    Defended,
)
from leakscope.mechanisms.federated.dense import Local, dense_layers, together
from leakscope.mechanisms.protocols.fedavg import FedAvg
from leakscope.mechanisms.protocols.fedsgd import FedSGD
from leakscope.mechanisms.protocols.optimizers import ClientAdam, ClientAdamW, ClientSGD
from leakscope.numerics.rng import Key

CHUNK = 8
"""Clients at a time: more are not faster, and would hold memory."""


@final
@dataclass(frozen=True, eq=False)
class Job:
    """What one client has to do: `mechanism.release(target, batch, key=key)`."""

    mechanism: AbstractProtocol | Defended
    batch: Batch
    key: Key


def releases(target: Target, jobs: Sequence[Job]) -> list[Release]:
    """What `release` gives for each, to rounding, with the very draws of its key; in the order of the jobs.

    Side by side where the model is a `Sequential` of dense layers with ReLU and dropout between them, trained by cross
    entropy on classes, and clients run `FedSGD` or `FedAvg` as they are; everything else by `release` itself.
    Side by side gradients are written out by hand, so that tests compare two routes. Raises what `release` raises.
    """
    found: list[Release | None] = [None] * len(jobs)
    # by its model defenses, which change the model for everybody who has them alike
    runs: dict[tuple[str, ...], Target] = {}
    groups: dict[tuple[tuple[str, ...], tuple[object, ...]], list[tuple[int, Local]]] = {}
    for place, job in enumerate(jobs):
        local, changed = None, _models(job.mechanism)
        if changed is not None:
            if changed not in runs:
                # once for all: it copies the model
                runs[changed] = _as_run(target, job.mechanism)
            local = _local(runs[changed], job) if dense_layers(runs[changed]) else None
        if local is None or changed is None:
            # the definition itself: whatever is not known to be plain is played as it stands
            found[place] = job.mechanism.release(target, job.batch, key=job.key)
        else:
            groups.setdefault((changed, local.shape), []).append((place, local))
    for (alike, _), members in groups.items():
        for begin in range(0, len(members), CHUNK):
            part = members[begin : begin + CHUNK]
            made = together(runs[alike], [local for _, local in part])
            for (place, _), one in zip(part, made, strict=True):
                found[place] = _defended(jobs[place], one)
    return [one for one in found if one is not None]


def _models(mechanism: AbstractProtocol | Defended) -> tuple[str, ...] | None:
    """The defenses that change the model; None for a chain that may act otherwise than ours."""
    if not isinstance(mechanism, Defended):
        return ()
    if not acts_as(mechanism, Defended):
        return None
    return tuple(repr(one) for one in mechanism.defenses if isinstance(one, AbstractModelDefense))


def _as_run(target: Target, mechanism: AbstractProtocol | Defended) -> Target:
    """The model as the client runs it."""
    for one in mechanism.defenses if isinstance(mechanism, Defended) else ():
        if isinstance(one, AbstractModelDefense):
            target = one.apply(target)
    return target


def _local(run: Target, job: Job) -> Local | None:
    """The protocol on what input defenses leave, with the keys that `Defended.release` gives both; None where unfit."""
    mechanism, batch, key = job.mechanism, job.batch, job.key
    if isinstance(mechanism, Defended):
        for place, one in enumerate(mechanism.defenses):
            if isinstance(one, AbstractInputDefense):
                if _models(mechanism):
                    # in `release` it sees the model as far as defenses before it have changed it
                    return None
                # by its place in the chain, as `release` names its draws
                batch = one.apply(run, batch, key=key.child("defense", place))
        protocol, key = mechanism.protocol, key.child("protocol")
    else:
        protocol = mechanism
    # probabilities as labels, sequences, token ids, or numbers of another type than the weights: as `release` has it
    weights = next(iter(run.parameters().values()))
    if batch.labels.dim() != 1 or batch.lengths is not None or batch.inputs.dtype != weights.dtype:
        return None
    if acts_as(protocol, FedSGD):
        return Local(protocol, batch, key, [[None]])
    # an optimizer of one's own may draw, or look across entries, and then clients cannot be stacked
    if acts_as(protocol, FedAvg) and any(
        acts_as(protocol.steps_by, one) for one in (ClientSGD, ClientAdam, ClientAdamW)
    ):
        order = key.child("order") if protocol.shuffle else None
        return Local(protocol, batch, key, protocol.schedule(len(batch), order))
    return None


def _defended(job: Job, sent: Release) -> Release:
    """What update defenses make of it, with the keys of `Defended.release`."""
    if isinstance(job.mechanism, Defended):
        for place, one in enumerate(job.mechanism.defenses):
            if isinstance(one, AbstractUpdateDefense):
                sent = same_kind(sent, one.apply(sent.by_name, key=job.key.child("defense", place)))
    return sent
