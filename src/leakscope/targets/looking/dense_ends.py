"""Which dense layers touch the input and the output; found by running the model, not by position or name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from leakscope.core.errors import NoSuchLayer
from leakscope.core.target import Target
from leakscope.domains.text import Text
from leakscope.numerics.rng import Key, normal

ALONE = 1e-3
"""Relative difference between a layer's gradient and what one call of it gives that counts as rounding."""


@final
@dataclass(frozen=True)
class DenseLayer:
    """A dense layer by the names of its parameters; bias is None when it has none."""

    name: str
    weight: str
    bias: str | None
    features: int
    outputs: int


@final
@dataclass(frozen=True, eq=False)
class _Call:
    """One call of a dense layer during the probe."""

    layer: DenseLayer
    given: Tensor
    returned: Tensor


def probe_inputs(target: Target, count: int, *, key: Key) -> Tensor:
    """(count, *shape) uniform noise within the domain, on the target's device; random tokens where it is text."""
    like = next(p for p in target.module.parameters())
    shape = (count, *target.domain.shape)
    if isinstance(target.domain, Text):
        generator = key.generator(like.device)
        return torch.randint(1, target.domain.vocabulary, shape, generator=generator, device=like.device)
    noise = torch.rand(shape, generator=key.generator(like.device), dtype=like.dtype, device=like.device)
    low, high = target.domain.bounds(noise)
    return low + (high - low) * noise


def _calls(target: Target) -> tuple[list[_Call], Tensor, Tensor]:
    """Every call of a dense layer on one probing input, with the model's own input and output."""
    calls: list[_Call] = []
    handles = []

    def watch(name: str, module: nn.Linear) -> None:
        prefix = f"{name}." if name else ""
        bias = None if module.bias is None else f"{prefix}bias"
        layer = DenseLayer(name, f"{prefix}weight", bias, module.in_features, module.out_features)

        def hook(_: nn.Module, given: tuple[Tensor, ...], returned: Tensor) -> None:
            calls.append(_Call(layer, given[0].detach().clone(), returned.detach().clone()))

        handles.append(module.register_forward_hook(hook))

    key = Key(0).child("anatomy")
    try:
        for name, module in target.module.named_modules():
            if isinstance(module, nn.Linear):
                watch(name, module)
        inputs = probe_inputs(target, 2, key=key)
        with key.child("model").isolated(), torch.no_grad():
            outputs = target.outputs(target.parameters(), inputs)
    finally:
        for handle in handles:
            handle.remove()
    return calls, inputs, outputs


def input_layer(target: Target) -> DenseLayer:
    """The dense layer that is fed the flattened input itself.

    Raises `NoSuchLayer` when there is none, and when its weight is used elsewhere too (called twice, tied to another
    layer): its gradient is then not that of the layer alone.
    """
    calls, inputs, _ = _calls(target)
    flat = inputs.flatten(1)
    for call in calls:
        if call.given.shape == flat.shape and torch.equal(call.given, flat):
            uses = sum(other.layer.name == call.layer.name for other in calls)
            if uses > 1 or not _alone(target, call.layer, inputs):
                raise NoSuchLayer(
                    f"the weight of the dense layer {call.layer.name or target.name} is used elsewhere too (called "
                    "twice, or tied), so its gradient is a sum"
                )
            return call.layer
    raise NoSuchLayer(f"{target.name} has no dense layer (torch.nn.Linear) that is fed the flattened input itself")


def _alone(target: Target, layer: DenseLayer, inputs: Tensor) -> bool:
    """Whether dL/dW is what the layer's first call gives, (dL/dz)^T x, at two inputs and for some loss."""
    named = {name: value.detach().requires_grad_(True) for name, value in target.parameters().items()}
    returned: list[Tensor] = []
    handle = target.module.get_submodule(layer.name).register_forward_hook(
        lambda _, given, returns: returned.append(returns)
    )
    key = Key(0).child("anatomy")
    try:
        with key.child("model").isolated(), torch.enable_grad():
            outputs = target.outputs(named, inputs)
            loss = (outputs * normal(outputs.detach(), key.child("loss"))).sum()
    finally:
        handle.remove()
    if layer.weight not in named or not loss.requires_grad:
        return True  # nothing can be read of it, which its readers say themselves
    read = (named[layer.weight], returned[0])
    slope, error = torch.autograd.grad(loss, read, allow_unused=True, materialize_grads=True)
    wanted = error.flatten(1).T @ inputs.flatten(1)
    return float((slope - wanted).norm()) <= ALONE * float(slope.norm())


def output_layer(target: Target) -> DenseLayer:
    """The dense layer whose output is the model's output. Raises `NoSuchLayer` when there is none."""
    calls, _, outputs = _calls(target)
    for call in reversed(calls):
        if call.returned.shape == outputs.shape and torch.equal(call.returned, outputs):
            return call.layer
    raise NoSuchLayer(f"{target.name} does not end in a dense layer (torch.nn.Linear) that gives the logits")


def features_at(target: Target, inputs: Tensor) -> Tensor:
    """What the output layer is fed for `inputs` (B, *shape): (B, d). Raises `NoSuchLayer` as `output_layer` does."""
    layer = output_layer(target)
    seen: list[Tensor] = []
    module = target.module.get_submodule(layer.name)
    handle = module.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    try:
        with Key(0).child("features").isolated(), torch.no_grad():
            target.outputs(target.parameters(), inputs)
    finally:
        handle.remove()
    return seen[-1]
