"""Which dense layers end a model one after the other, joined by ReLU and dropout alone; found by running it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from leakscope.core.target import Target
from leakscope.numerics.rng import Key
from leakscope.targets.looking.dense_ends import output_layer, probe_inputs
from leakscope.targets.looking.tape import Call, innermost, recorded

SILENT = (nn.Flatten, nn.Identity)


@final
@dataclass(frozen=True)
class TailLayer:
    """One dense layer z = W a + b of the end of a model, by the names of its parameters; bias is None without one.

    What follows it, up to the next dense layer: relu: whether a ReLU. keep: the share of units that dropout keeps, each
    times 1 / keep; 1 where none drops.
    """

    name: str
    weight: str
    bias: str | None
    relu: bool = False
    keep: float = 1.0


def dense_tail(target: Target) -> tuple[TailLayer, ...]:
    """The longest such end, the output layer first. Raises `NoSuchLayer` without a dense output layer.

    What stands between two layers is told by the values of two probes, not by the modules alone: a function that the
    forward calls, or a second path, ends it. So does a layer that is called twice or for several places.

    >>> from leakscope import Images
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3)).train()
    >>> dense_tail(Target(net, Images(1, 2, 2), 3, training=True))[1]
    TailLayer(name='1', weight='1.weight', bias='1.bias', relu=True, keep=0.8)
    """
    last = output_layer(target)
    key = Key(0).child("tail")
    with (
        recorded(target.module, innermost(target.module)) as calls,
        key.child("model").isolated(),
        torch.no_grad(),
    ):
        target.outputs(target.parameters(), probe_inputs(target, 2, key=key))
    place = max(at for at, call in enumerate(calls) if call.name == last.name)
    found = [TailLayer(last.name, last.weight, last.bias)]
    while (below := _below(calls, place)) is not None:
        place, layer = below
        found.append(layer)
    return tuple(found)


def _below(calls: list[Call], place: int) -> tuple[int, TailLayer] | None:
    """The dense layer whose output, through ReLU and dropout alone, is what the layer of this call is fed."""
    wanted, between = calls[place].given, []
    for at in range(place - 1, -1, -1):
        call = calls[at]
        # To the last bit: what a forward computes without a module would lie between.
        if not isinstance(call.module, nn.Linear) and _same(call.returned, wanted):
            between.append(call)
            wanted = call.given
            continue
        if not isinstance(call.module, nn.Linear):
            return None
        once = sum(other.name == call.name for other in calls) == 1
        if call.given.dim() != 2 or not once:
            return None
        functional = not _same(call.returned, wanted)
        if functional and not _same(call.returned.relu(), wanted):
            return None
        joined = _joined(list(reversed(between)), functional=functional)
        if joined is None:
            return None
        relu, keep = joined
        return at, TailLayer(call.name, call.weights[0], call.bias, relu, keep)
    return None


def _joined(between: list[Call], *, functional: bool) -> tuple[bool, float] | None:
    """Whether a ReLU is among them, and the share that dropout keeps; None where anything else is."""
    relu, keep = functional, 1.0
    for call in between:
        module = call.module
        if isinstance(module, nn.ReLU):
            relu = True
        elif isinstance(module, nn.Dropout):
            # One dropout: of two in a row the factors of a unit are the same, but what is behind a ReLU must be last.
            keep *= 1 - module.p if module.training else 1.0
        elif isinstance(module, _DropoutNd) or not isinstance(module, SILENT):
            return None
    return relu, keep


def _same(one: Tensor, other: Tensor) -> bool:
    return one.numel() == other.numel() and torch.equal(one.flatten(1), other.flatten(1))
