"""Which dense layers touch the input and the output; found by running the model, not by position or name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from leakscope.core.errors import NoSuchLayer
from leakscope.core.overriding import acts_as
from leakscope.core.target import CrossEntropy, Target
from leakscope.domains.text import Text
from leakscope.numerics.rng import Key, normal
from leakscope.targets.looking.tape import Call, itself, named, recorded

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


def _calls(target: Target) -> tuple[list[Call], Tensor, Tensor]:
    """Every call of a dense layer on one probing input, with the model's own input and output."""
    key = Key(0).child("anatomy")
    inputs = probe_inputs(target, 2, key=key)
    with (
        recorded(target.module, named(target.module, nn.Linear)) as calls,
        key.child("model").isolated(),
        torch.no_grad(),
    ):
        outputs = target.outputs(target.parameters(), inputs)
    return calls, inputs, outputs


def _dense_layer(call: Call) -> DenseLayer:
    module = call.module
    assert isinstance(module, nn.Linear)
    return DenseLayer(call.name, call.weights[0], call.bias, module.in_features, module.out_features)


def input_layer(target: Target) -> DenseLayer:
    """The dense layer that is fed the flattened input itself.

    Raises `NoSuchLayer` when there is none, and when its weight is used elsewhere too (called twice, tied to another
    layer): its gradient is then not that of the layer alone.
    """
    calls, inputs, _ = _calls(target)
    flat = inputs.flatten(1)
    for call in calls:
        # to the last bit: what only resembles the input (normalized, quantized) would be read as the input itself
        if call.given.shape == flat.shape and torch.equal(call.given, flat):
            uses = sum(other.name == call.name for other in calls)
            if uses > 1 or not all(_alone(target, call, inputs, first=True)):
                raise NoSuchLayer(
                    f"the weight of the dense layer {call.name or target.name} is used elsewhere too (called "
                    "twice, or tied), so its gradient is a sum"
                )
            return _dense_layer(call)
    raise NoSuchLayer(f"{target.name} has no dense layer (torch.nn.Linear) that is fed the flattened input itself")


def _alone(target: Target, layer: Call, inputs: Tensor, *, first: bool) -> tuple[bool, bool]:
    """Whether dL/dW and dL/db are what one call of the layer gives, (dL/dz)^T x and dL/dz, at two inputs and for some
    loss: its first call, or its last one."""
    parameters = {name: value.detach().requires_grad_(True) for name, value in target.parameters().items()}
    key = Key(0).child("anatomy")
    with (
        recorded(target.module, [layer.name], keep=itself) as calls,
        key.child("model").isolated(),
        torch.enable_grad(),
    ):
        outputs = target.outputs(parameters, inputs)
        # a random sum of the outputs: no unit cancels in it, as one could in their plain sum
        loss = (outputs * normal(outputs.detach(), key.child("loss"))).sum()
    # nothing can be read of what is not there, which its readers say themselves
    held = [name for name in (layer.weights[0], layer.bias) if name is not None and name in parameters]
    if layer.weights[0] not in parameters or not loss.requires_grad:
        return True, True
    call = calls[0 if first else -1]
    read = (call.returned, *(parameters[name] for name in held))
    # zeros where the loss does not reach: a layer off the path has gradient zero, as its one call says
    error, *slopes = torch.autograd.grad(loss, read, allow_unused=True, materialize_grads=True)
    error, given = error.reshape(-1, error.shape[-1]), call.given.detach().reshape(-1, call.given.shape[-1])
    # dL/dW = sum_b (dL/dz_b) x_b^T and dL/db = sum_b dL/dz_b for one call of x W^T + b; a second use of either would
    # add its own sum, and a layer that multiplies its bias (equalized learning rates) has its multiple.
    wanted = [error.T @ given, error.sum(0)]
    found = [
        float((slope - one).norm()) <= ALONE * float(slope.norm()) for slope, one in zip(slopes, wanted, strict=False)
    ]
    return found[0], found[-1]


def alone_at_output(target: Target) -> tuple[bool, bool]:
    """Whether the gradients of the output layer's weight and of its bias are those of the output alone.

    A weight that is the embedding's too (tied, as in language models) has the sum of both. Raises `NoSuchLayer` as
    `output_layer` does.

    >>> from leakscope import Images
    >>> layer = nn.Linear(4, 4)
    >>> alone_at_output(Target(nn.Sequential(nn.Flatten(), nn.Linear(4, 4), layer), Images(1, 2, 2), 4))
    (True, True)
    >>> alone_at_output(Target(nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer), Images(1, 2, 2), 4))
    (False, False)
    """
    call, inputs = _output_call(target)
    weight, bias = _alone(target, call, inputs, first=False)
    # Under a name that is no parameter's it is another's weight too, of which the model lists the first name only.
    return weight and call.weights[0] in target.parameters(), bias


def output_layer(target: Target) -> DenseLayer:
    """The dense layer whose output is the model's output. Raises `NoSuchLayer` when there is none.

    Of a cross entropy, also where its output goes through a log softmax: softmax(log softmax(z)) = softmax(z), so loss
    and gradients are those of the logits z.
    """
    return _dense_layer(_output_call(target)[0])


def _output_call(target: Target) -> tuple[Call, Tensor]:
    """The call that gives the model's output, and the inputs of it."""
    calls, inputs, outputs = _calls(target)
    # from the end: of a layer that is called twice, the last call gives the output
    for call in reversed(calls):
        if call.returned.shape != outputs.shape:
            continue
        if torch.equal(call.returned, outputs) or _logarithms(target, call.returned, outputs):
            return call, inputs
    if not bool(outputs.isfinite().all()):
        # NaN equals nothing, itself included: of a diverged checkpoint it is the weights that are to be looked at.
        raise NoSuchLayer(f"the outputs of {target.name} are not finite; look for NaN and infinity in its weights")
    raise NoSuchLayer(f"{target.name} does not end in a dense layer (torch.nn.Linear) that gives the logits")


def _logarithms(target: Target, logits: Tensor, outputs: Tensor) -> bool:
    """Whether `outputs` are the log probabilities of `logits`, (B, C) each, where the loss takes one for the other."""
    if not acts_as(target.loss, CrossEntropy) or logits.dim() != 2 or not bool(outputs.isfinite().all()):
        return False
    # rounding apart, for there are several ways to write it; logits that are normalized already are both
    return torch.allclose(torch.log_softmax(logits, 1), outputs, rtol=1e-5, atol=1e-6)


def at(target: Target, layer: DenseLayer) -> tuple[Tensor, Tensor]:
    """Weight (C, d) and bias (C,), zeros where it has none, of a dense layer: parameters, or made of others.

    Not by name: a weight under `torch.nn.utils.parametrizations` is no parameter, a tied one has another's name.
    """
    module = target.module.get_submodule(layer.name)
    assert isinstance(module, nn.Linear)
    weight = module.weight.detach()
    return weight, weight.new_zeros(len(weight)) if module.bias is None else module.bias.detach()


def features_at(target: Target, inputs: Tensor) -> Tensor:
    """What the output layer is fed for `inputs` (B, *shape): (B, d). Raises `NoSuchLayer` as `output_layer` does."""
    layer = output_layer(target)
    with (
        recorded(target.module, [layer.name]) as calls,
        Key(0).child("features").isolated(),
        torch.no_grad(),
    ):
        target.outputs(target.parameters(), inputs)
    return calls[-1].given
