"""A classifier that is a convolution over one place is a dense layer, and is attacked as one."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from leakscope.attacks.attack import AbstractAttack, Attack, Ready
from leakscope.core.attempt import Attempt
from leakscope.core.claim import Claim
from leakscope.core.effort import Clock, Watch
from leakscope.core.errors import LeakscopeError, NoSuchLayer
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.core.release import same_kind
from leakscope.core.target import Target
from leakscope.numerics.rng import Key
from leakscope.targets.looking.dense_ends import output_layer, probe_inputs
from leakscope.targets.looking.probe import FORWARD_ERRORS
from leakscope.targets.looking.tape import Call, named, recorded

ROUNDING = 1e-4
"""Relative difference of the logits of the two models that is rounding: of a dense layer and of a convolution sums are
taken in another order."""


@final
@dataclass(frozen=True)
class PooledHead(AbstractAttack[Ready[Claim], Claim]):
    """`attack`, on the same model with its last 1 x 1 convolution as the dense layer that it is.

    Of a map (B, d, 1, 1), as after global pooling, W (C, d, 1, 1) gives W h + b of its d numbers h: a dense layer with
    the same numbers in the same order, so that gradients are reshaped and nothing else. What `attack` says holds of the
    client's model as well, certificates included. Of a model that ends in a dense layer it is `attack` itself.
    Refuses where the convolution is fed more than one place (each gives logits of its own, and what is averaged over
    places behind a ReLU, as in SqueezeNet, is no row of one example), is called more than once, shares its weight, or
    has groups or hooks.
    """

    attack: Attack[Claim]

    @property
    def citation(self) -> str:
        """That of the attack inside."""
        return self.attack.citation

    def _read(self, seen: Observation) -> Ready[Claim] | Refusal:
        found = dense_headed(seen)
        return found if isinstance(found, Refusal) else self.attack.ready(found)

    def _attempt(
        self, seen: Observation, read: Ready[Claim], *, key: Key, clock: Clock, watch: Watch
    ) -> Attempt[Claim]:
        attempt = read.within(key=key, clock=clock, watch=watch)
        return dataclasses.replace(attempt, attack=repr(self))


def dense_headed(seen: Observation) -> Observation | Refusal:
    """The same observation of a model that ends in a dense layer; itself where it does, a refusal where none is equal.

    >>> from leakscope import FedSGD, Gradient, Images
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 7, 1), nn.Flatten())
    >>> sent = Gradient({name: torch.ones_like(value) for name, value in net.named_parameters()})
    >>> found = dense_headed(Observation(Target(net, Images(1, 8, 8), 7), sent, FedSGD()))
    >>> found.release.by_name["2.weight"].shape, output_layer(found.target).name
    (torch.Size([7, 4]), '2')
    """
    target = seen.target
    try:
        output_layer(target)
    except NoSuchLayer:
        pass
    else:
        return seen
    inputs = probe_inputs(target, 2, key=Key(0).child("head"))
    calls, outputs = _run(target, inputs)
    if not calls:
        return Refusal(f"{target.name} ends neither in a dense layer nor in a convolution")
    last = calls[-1]
    why = _unequal(target, calls, last, outputs)
    if why is not None:
        return Refusal(f"{target.name} does not end in a dense layer, and {why}")
    changed = dataclasses.replace(target, module=_replaced(target.module, last.name))
    try:
        _, again = _run(changed, inputs)
    except (*FORWARD_ERRORS, LeakscopeError):
        return Refusal(f"{target.name} needs the map that its last convolution {last.name} returns as a map")
    size = float(outputs.abs().max())
    if again.shape != outputs.shape or not torch.allclose(again, outputs, rtol=ROUNDING, atol=ROUNDING * size):
        return Refusal(f"with a dense layer for {last.name}, {target.name} gives other logits")
    weight = last.weights[0]
    sent = {name: value.flatten(1) if name == weight else value for name, value in seen.release.by_name.items()}
    return Observation(changed, same_kind(seen.release, sent), seen.mechanism, seen.facts)


def _run(target: Target, inputs: Tensor) -> tuple[list[Call], Tensor]:
    with (
        recorded(target.module, named(target.module, nn.Conv2d)) as calls,
        Key(0).child("head").isolated(),
        torch.no_grad(),
    ):
        outputs = target.outputs(target.parameters(), inputs)
    return calls, outputs


def _unequal(target: Target, calls: list[Call], last: Call, outputs: Tensor) -> str | None:
    """Why the last convolution is no dense layer that gives the logits; None where it is one."""
    layer, name = last.module, last.name
    assert isinstance(layer, nn.Conv2d)
    if last.given.dim() != 4 or last.given.shape[2:] != (1, 1) or last.returned.shape[2:] != (1, 1):
        places = " x ".join(map(str, last.given.shape[2:]))
        return f"its last convolution {name} is fed {places} places, of which each gives logits of its own"
    plain = type(layer) is nn.Conv2d and layer.kernel_size == (1, 1) and layer.groups == 1
    if not plain or layer.padding not in (0, (0, 0), "valid", "same"):
        return f"its last convolution {name} is not a plain one of 1 x 1"
    hooked = layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer)
    if hooked or not {"weight"} <= set(layer._parameters):
        return f"its last convolution {name} has hooks, or a weight that is made of others"
    # Of a weight that is used elsewhere too the gradient is a sum.
    uses = [one for one, value in target.module.named_parameters(remove_duplicate=False) if value is layer.weight]
    uses += [one for one, value in target.module.named_parameters(remove_duplicate=False) if value is layer.bias]
    if sum(one.name == name for one in calls) > 1 or len(uses) > 1 + (layer.bias is not None):
        return f"its last convolution {name} is called twice, or shares its parameters"
    if last.returned.flatten(1).shape != outputs.shape or not torch.equal(last.returned.flatten(1), outputs):
        return f"what its last convolution {name} returns is not what the model returns"
    return None


def _replaced(module: nn.Module, name: str) -> nn.Module:
    """A copy with the dense layer in place of the convolution, under the same name."""
    changed = copy.deepcopy(module)
    layer = changed.get_submodule(name)
    assert isinstance(layer, nn.Conv2d)
    dense = FlatLinear(layer.in_channels, layer.out_channels, bias=layer.bias is not None)
    dense.to(layer.weight)
    with torch.no_grad():
        dense.weight.copy_(layer.weight.flatten(1))
        if layer.bias is not None:
            dense.bias.copy_(layer.bias)
    dense.weight.requires_grad_(layer.weight.requires_grad)
    dense.train(layer.training)
    if not name:
        return dense
    parent, _, own = name.rpartition(".")
    setattr(changed.get_submodule(parent) if parent else changed, own, dense)
    return changed


@final
class FlatLinear(nn.Linear):
    """A dense layer of what it is given, (B, d, 1, 1), as (B, d)."""

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C). Flattened before hooks look: what reads this layer's input reads rows."""
        returned: Tensor = nn.Linear.__call__(self, x.flatten(1))
        return returned
