"""The releases of many clients at the same weights: dense networks all at once, everything else one by one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leakscope.core.batch import Batch
from leakscope.core.feed import InputsOnly
from leakscope.core.overriding import acts_as
from leakscope.core.release import Delta, Gradient, Release, same_kind
from leakscope.core.target import CrossEntropy, Target
from leakscope.mechanisms.compose import (
    AbstractInputDefense,
    AbstractModelDefense,
    AbstractProtocol,
    AbstractUpdateDefense,
    Defended,
)
from leakscope.mechanisms.protocols.fedavg import FedAvg
from leakscope.mechanisms.protocols.fedsgd import FedSGD
from leakscope.mechanisms.protocols.optimizers import ClientAdam, ClientAdamW, ClientSGD, Moments
from leakscope.numerics.rng import Key
from leakscope.numerics.trees import Named

CHUNK = 8
"""Clients at a time: their weights and moments then stay in a processor's cache."""


@final
@dataclass(frozen=True, eq=False)
class Job:
    """What one client has to do: `mechanism.release(target, batch, key=key)`."""

    mechanism: AbstractProtocol | Defended
    batch: Batch
    key: Key


@final
@dataclass(frozen=True)
class _Layer:
    """A dense layer by its parameters' names, and the rate at which its units are dropped after a ReLU; None for the
    last one, which has neither.
    """

    weight: str
    bias: str
    rate: float | None


@final
@dataclass(frozen=True, eq=False)
class _Local:
    """The part of a job that is the same in kind for all: a protocol on data that defenses have passed."""

    protocol: FedSGD | FedAvg
    batch: Batch
    key: Key
    schedule: list[list[Tensor | None]]

    @property
    def shape(self) -> tuple[object, ...]:
        """Equal for those that can be computed side by side: the same steps on as many examples."""
        first = self.schedule[0][0]
        size = len(self.batch) if first is None else len(first)
        plain = dataclasses.replace(self.protocol, steps=1) if isinstance(self.protocol, FedAvg) else self.protocol
        return repr(plain), len(self.schedule), size, self.batch.inputs.shape[1:], self.batch.inputs.dtype


def releases(target: Target, jobs: Sequence[Job]) -> list[Release]:
    """What `release` gives for each, to rounding, with the very draws of its key; in the order of the jobs.

    Side by side where the model is a `Sequential` of dense layers with ReLU and dropout between them, trained by cross
    entropy on classes, and clients run `FedSGD` or `FedAvg` as they are; everything else by `release` itself.
    Side by side gradients are written out by hand, so that tests compare two routes. Raises what `release` raises.
    """
    found: list[Release | None] = [None] * len(jobs)
    # by its model defenses, which change the model for everybody who has them alike
    runs: dict[tuple[str, ...], Target] = {}
    groups: dict[tuple[object, ...], list[tuple[int, _Local]]] = {}
    for place, job in enumerate(jobs):
        local, changed = None, _models(job.mechanism)
        if changed is not None:
            if changed not in runs:
                runs[changed] = _as_run(target, job.mechanism)
            local = _local(runs[changed], job) if _dense(runs[changed]) else None
        if local is None or changed is None:
            found[place] = job.mechanism.release(target, job.batch, key=job.key)
        else:
            groups.setdefault((changed, *local.shape), []).append((place, local))
    for (changed, *_), members in groups.items():
        assert isinstance(changed, tuple)
        for begin in range(0, len(members), CHUNK):
            part = members[begin : begin + CHUNK]
            made = _together(runs[changed], [local for _, local in part])
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


def _local(run: Target, job: Job) -> _Local | None:
    """The protocol on what input defenses leave, with the keys that `Defended.release` gives both; None where unfit."""
    mechanism, batch, key = job.mechanism, job.batch, job.key
    if isinstance(mechanism, Defended):
        for place, one in enumerate(mechanism.defenses):
            if isinstance(one, AbstractInputDefense):
                batch = one.apply(run, batch, key=key.child("defense", place))
        protocol, key = mechanism.protocol, key.child("protocol")
    else:
        protocol = mechanism
    if batch.labels.dim() != 1 or batch.lengths is not None or not batch.inputs.is_floating_point():
        return None
    if acts_as(protocol, FedSGD):
        return _Local(protocol, batch, key, [[None]])
    if acts_as(protocol, FedAvg) and any(
        acts_as(protocol.steps_by, one) for one in (ClientSGD, ClientAdam, ClientAdamW)
    ):
        order = key.child("order") if protocol.shuffle else None
        return _Local(protocol, batch, key, protocol.schedule(len(batch), order))
    return None


def _defended(job: Job, sent: Release) -> Release:
    """What update defenses make of it, with the keys of `Defended.release`."""
    if isinstance(job.mechanism, Defended):
        for place, one in enumerate(job.mechanism.defenses):
            if isinstance(one, AbstractUpdateDefense):
                sent = same_kind(sent, one.apply(sent.by_name, key=job.key.child("defense", place)))
    return sent


def _dense(target: Target) -> tuple[_Layer, ...] | None:
    """The layers of a plain dense network; None for anything else.

    By exact classes: a layer that derives from one of these, or has a hook, may compute something else.
    """
    module = target.module
    if not acts_as(target.loss, CrossEntropy) or target.feed != InputsOnly() or target.device().type != "cpu":
        return None
    if type(module) is not nn.Sequential or any(_hooked(one) for one in module.modules()):
        return None
    layers: list[_Layer] = []
    inside = list(module.named_children())
    if inside and type(inside[0][1]) is nn.Flatten and (inside[0][1].start_dim, inside[0][1].end_dim) == (1, -1):
        inside = inside[1:]
    # what may come next: a dense layer first; after it a ReLU; after that at most one dropout
    last: type[nn.Module] | None = None
    for name, one in inside:
        kind = type(one)
        if kind is nn.Linear and last in (None, nn.ReLU, nn.Dropout) and isinstance(one.bias, Tensor):
            layers.append(_Layer(f"{name}.weight", f"{name}.bias", None))
        elif kind is nn.ReLU and last is nn.Linear:
            layers[-1] = dataclasses.replace(layers[-1], rate=0.0)
        elif isinstance(one, nn.Dropout) and kind is nn.Dropout and last is nn.ReLU:
            layers[-1] = dataclasses.replace(layers[-1], rate=float(one.p) if one.training else 0.0)
        else:
            return None
        last = kind
    return tuple(layers) if last is nn.Linear else None


def _hooked(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    # an instance may hide the class's own forward
    return any(hooks) or "forward" in vars(module)


def _together(target: Target, members: Sequence[_Local]) -> list[Release]:
    """All of one shape, as trees whose tensors have the clients in front."""
    layers = _dense(target)
    assert layers is not None and isinstance(target.loss, CrossEntropy)
    start = target.parameters()
    draws = [_Draws(one.key.child("model")) for one in members]
    protocol = members[0].protocol
    many = len(members)
    weights = {name: value.expand(many, *value.shape) for name, value in start.items()}
    if isinstance(protocol, FedSGD):
        slope = _slope(layers, target, weights, members, 0, draws)
        return [Gradient({name: slope[name][at] for name in start}) for at in range(many)]
    moments = Moments()
    for turn in range(len(members[0].schedule)):
        slope = _slope(layers, target, weights, members, turn, draws)
        if not protocol.summed and protocol.accumulate > 1:
            slope = {name: value / protocol.accumulate for name, value in slope.items()}
        change, moments = protocol.steps_by.step({n: slope[n] for n in start}, weights, moments, lr=protocol.lr)
        weights = {name: weights[name] + change[name] for name in start}
    # the difference of rounded weights, as a client's is
    moved = {name: weights[name] - start[name] for name in start}
    return [Delta({name: moved[name][at] for name in start}) for at in range(many)]


def _slope(
    layers: tuple[_Layer, ...],
    target: Target,
    weights: Named,
    members: Sequence[_Local],
    turn: int,
    draws: Sequence[_Draws],
) -> dict[str, Tensor]:
    """The sum over the micro-batches of one step of each client's mean gradient."""
    total: dict[str, Tensor] = {}
    for place in range(len(members[0].schedule[turn])):
        parts = [_rows(one.batch, one.schedule[turn][place]) for one in members]
        fed = torch.stack([part.inputs.flatten(1) for part in parts])
        labels = torch.stack([part.labels for part in parts])
        assert isinstance(target.loss, CrossEntropy)
        hot = _told(labels, target.classes, target.loss.smoothing, fed.dtype)
        one = _backward(layers, weights, fed, hot, draws)
        total = {name: total[name] + value for name, value in one.items()} if total else one
    return total


def _rows(batch: Batch, rows: Tensor | None) -> Batch:
    return batch if rows is None else batch.rows(rows)


def _told(labels: Tensor, classes: int, smoothing: float, dtype: torch.dtype) -> Tensor:
    """What the outputs should be, (m, n, C): the label's share is 1 - smoothing + smoothing / C."""
    return (1 - smoothing) * F.one_hot(labels, classes).to(dtype) + smoothing / classes


def _backward(
    layers: tuple[_Layer, ...], weights: Named, fed: Tensor, hot: Tensor, draws: Sequence[_Draws]
) -> dict[str, Tensor]:
    """The gradients of each client's mean loss. fed: (m, n, d). hot: (m, n, C)."""
    entered, kept = [fed], []
    for layer in layers:
        out = torch.baddbmm(weights[layer.bias].unsqueeze(1), entered[-1], weights[layer.weight].transpose(1, 2))
        if layer.rate is None:
            entered.append(out)
            continue
        # ReLU is closed where it gave zero, as torch's backward has it; a dropped unit passes nothing either
        passed = (out > 0).to(out.dtype)
        if layer.rate > 0:
            passed *= torch.stack([one.mask(tuple(out.shape[1:]), layer.rate, out.dtype) for one in draws])
        kept.append(passed)
        entered.append(out * passed)
    back = (torch.softmax(entered.pop(), -1) - hot) / fed.shape[1]
    found: dict[str, Tensor] = {}
    for depth in reversed(range(len(layers))):
        layer = layers[depth]
        found[layer.weight] = torch.bmm(back.transpose(1, 2), entered[depth])
        found[layer.bias] = back.sum(1)
        if depth > 0:
            back = torch.bmm(back, weights[layer.weight]) * kept[depth - 1]
    return found


@final
class _Draws:
    """One client's stream of dropout masks, in the order in which its own passes would draw them."""

    def __init__(self, key: Key) -> None:
        self._key = key
        self._state: Tensor | None = None

    def mask(self, shape: tuple[int, ...], rate: float, dtype: torch.dtype) -> Tensor:
        """What `torch.nn.Dropout` multiplies with: 0, or 1 / (1 - rate)."""
        with self._key.isolated():
            # by the state and not by a generator of one's own: torch's dropout takes none
            if self._state is not None:
                torch.default_generator.set_state(self._state)
            drawn: Tensor = F.dropout(torch.ones(shape, dtype=dtype), rate, training=True)
            self._state = torch.default_generator.get_state()
        return drawn
