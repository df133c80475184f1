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
from leakscope.mechanisms.federated.dense import DenseRun, Local, dense_run, together
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
    # by the objects, which those who do the same have in common: to look at their code takes longer than to run it
    plain: dict[int, bool] = {}
    runs: dict[tuple[int, ...], DenseRun | None] = {}
    groups: dict[tuple[tuple[int, ...], tuple[object, ...]], list[tuple[int, Local]]] = {}
    for place, job in enumerate(jobs):
        which = tuple(id(one) for one in _models(job.mechanism))
        if which not in runs:
            # once for all: it copies the model
            runs[which] = dense_run(_as_run(target, job.mechanism))
        if id(job.mechanism) not in plain:
            plain[id(job.mechanism)] = _plain(job.mechanism)
        run = runs[which] if plain[id(job.mechanism)] else None
        local = None if run is None else _local(run.target, job)
        if local is None:
            # the definition itself: whatever is not known to be plain is played as it stands
            found[place] = job.mechanism.release(target, job.batch, key=job.key)
        else:
            groups.setdefault((which, local.shape), []).append((place, local))
    for (which, _), members in groups.items():
        run = runs[which]
        assert run is not None
        for begin in range(0, len(members), CHUNK):
            part = members[begin : begin + CHUNK]
            made = together(run, [local for _, local in part])
            for (place, _), one in zip(part, made, strict=True):
                found[place] = _defended(jobs[place], one)
    return [one for one in found if one is not None]


def _models(mechanism: AbstractProtocol | Defended) -> list[AbstractModelDefense]:
    defenses = mechanism.defenses if isinstance(mechanism, Defended) else ()
    return [one for one in defenses if isinstance(one, AbstractModelDefense)]


def _as_run(target: Target, mechanism: AbstractProtocol | Defended) -> Target:
    """The model as the client runs it."""
    for one in _models(mechanism):
        target = one.apply(target)
    return target


def _plain(mechanism: AbstractProtocol | Defended) -> bool:
    """Whether it is ours, to the last line: what derives from it or was patched may act otherwise."""
    protocol = mechanism
    if isinstance(protocol, Defended):
        inputs = any(isinstance(one, AbstractInputDefense) for one in protocol.defenses)
        # in `release` an input defense sees the model as far as the defenses before it have changed it
        if not acts_as(protocol, Defended) or (inputs and _models(protocol)):
            return False
        protocol = protocol.protocol
    if isinstance(protocol, FedAvg) and acts_as(protocol, FedAvg):
        # an optimizer of one's own may draw, or look across entries, and then clients cannot be stacked
        return any(acts_as(protocol.steps_by, one) for one in (ClientSGD, ClientAdam, ClientAdamW))
    return acts_as(protocol, FedSGD)


def _local(run: Target, job: Job) -> Local | None:
    """The protocol on what input defenses leave, with the keys that `Defended.release` gives both; None where unfit."""
    batch, key = job.batch, job.key
    protocol = job.mechanism
    if isinstance(protocol, Defended):
        for place, one in enumerate(protocol.defenses):
            if isinstance(one, AbstractInputDefense):
                # by its place in the chain, as `release` names its draws
                batch = one.apply(run, batch, key=key.child("defense", place))
        protocol, key = protocol.protocol, key.child("protocol")
    # probabilities as labels, sequences, token ids, or numbers of another type than the weights: as `release` has it
    weights = next(run.module.parameters())
    if batch.labels.dim() != 1 or batch.lengths is not None or batch.inputs.dtype != weights.dtype:
        return None
    if isinstance(protocol, FedAvg):
        order = key.child("order") if protocol.shuffle else None
        return Local(protocol, batch, key, protocol.schedule(len(batch), order))
    return Local(protocol, batch, key, [[None]]) if isinstance(protocol, FedSGD) else None


def _defended(job: Job, sent: Release) -> Release:
    """What update defenses make of it, with the keys of `Defended.release`."""
    if isinstance(job.mechanism, Defended):
        for place, one in enumerate(job.mechanism.defenses):
            if isinstance(one, AbstractUpdateDefense):
                sent = same_kind(sent, one.apply(sent.by_name, key=job.key.child("defense", place)))
    return sent
