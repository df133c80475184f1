"""A model as a chain of dense and convolutional layers with activations between them; found by running it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leakscope.core.errors import NoSuchLayer
from leakscope.core.target import Target
from leakscope.numerics.rng import Key
from leakscope.targets.looking.dense_ends import probe_inputs
from leakscope.targets.looking.tape import Call, innermost, recorded

Layer = nn.Conv2d | nn.Linear
Elementwise = nn.ReLU | nn.LeakyReLU | nn.ELU | nn.Tanh | nn.Sigmoid | nn.Softplus
PASSING = (nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)
FUNCTIONAL: tuple[tuple[Callable[[Tensor], Tensor], Elementwise], ...] = (
    (F.relu, nn.ReLU()),
    (torch.tanh, nn.Tanh()),
    (torch.sigmoid, nn.Sigmoid()),
    (F.leaky_relu, nn.LeakyReLU()),
    (F.elu, nn.ELU()),
    (F.softplus, nn.Softplus()),
)
"""What a forward may call without a module; recognized by its values."""


@final
@dataclass(frozen=True, eq=False)
class Link:
    """One layer. weight, bias: parameter names. given, returned: shapes of one example. activation: what follows it."""

    name: str
    layer: Layer
    weight: str
    bias: str | None
    given: tuple[int, ...]
    returned: tuple[int, ...]
    activation: Elementwise | None = None


def layer_chain(target: Target) -> tuple[Link, ...]:
    """The layers from the input to the logits. Each is fed what the activation of the one before returns, reshaped.

    Raises `NoSuchLayer` with the name of the first thing that is neither: a residual connection, pooling,
    normalization, active dropout, a layer that is called twice, grouped convolutions.
    """
    calls, inputs, outputs = _calls(target)
    links: list[Link] = []
    current = inputs
    for call in calls:
        # what this layer is fed is not what the last one returned: something without a module happened between
        if not _same(call.given, current):
            links = _functional(links, current, call.given, f"before {type(call.module).__name__} {call.name!r}")
        current = call.returned
        if isinstance(call.module, Layer):
            links.append(_link(call, links))
        elif isinstance(call.module, Elementwise):
            links = _activated(links, call.module, f"{type(call.module).__name__} {call.name!r}")
        elif not isinstance(call.module, PASSING):
            raise NoSuchLayer(f"{type(call.module).__name__} {call.name!r} cannot be undone layer by layer")
        # a layer that passes values on at this probe may still drop: equal values prove that it did nothing
        elif not _same(call.given, current):
            raise NoSuchLayer(f"{type(call.module).__name__} {call.name!r} is active: what it dropped is unknown")
    if not calls:
        raise NoSuchLayer(f"{target.name} calls no layer of its own on the way from its input to its output")
    # a softmax or a scale after the last layer would be taken for a part of the loss
    if not _same(current, outputs):
        raise NoSuchLayer(f"{target.name} changes the output of {calls[-1].name!r} before it returns it")
    if not links or links[-1].activation is not None or not isinstance(links[-1].layer, nn.Linear):
        raise NoSuchLayer(f"{target.name} does not end in a dense layer (torch.nn.Linear) that gives the logits")
    return tuple(links)


def _same(one: Tensor, other: Tensor) -> bool:
    # values in their order, whatever the shape: flattening and unflattening are no steps of their own
    return one.numel() == other.numel() and torch.equal(one.flatten(1), other.flatten(1))


def _calls(target: Target) -> tuple[list[Call], Tensor, Tensor]:
    """Every call of a module without children on two probing inputs, with the model's input and output."""
    key = Key(0).child("chain")
    inputs = probe_inputs(target, 2, key=key)
    with (
        recorded(target.module, innermost(target.module)) as calls,
        key.child("model").isolated(),
        torch.no_grad(),
    ):
        # a copy: a model that begins in place must not change what its first layer is compared with
        outputs = target.outputs(target.parameters(), inputs.clone())
    return calls, inputs, outputs


def _link(call: Call, links: list[Link]) -> Link:
    """Raises `NoSuchLayer` when it is a layer that the recursion does not know."""
    module = call.module
    assert isinstance(module, Layer)
    said = f"{type(module).__name__} {call.name!r}"
    # R-GAP reads each weight's gradient as that of one place; a sum over two cannot be taken apart
    if any(link.name == call.name for link in links):
        raise NoSuchLayer(f"{said} is called twice, so its gradient is a sum of two")
    if isinstance(module, nn.Conv2d) and (module.groups != 1 or module.padding_mode != "zeros"):
        raise NoSuchLayer(f"{said} has groups or a padding other than zeros")
    if isinstance(module, nn.Conv2d) and isinstance(module.padding, str):
        raise NoSuchLayer(f"{said} pads by {module.padding!r}; give the padding in numbers")
    # the same weight at several places: again its gradient is a sum
    if isinstance(module, nn.Linear) and call.given.dim() != 2:
        raise NoSuchLayer(f"{said} is applied to several places of one example, {tuple(call.given.shape[1:])}")
    shapes = tuple(call.given.shape[1:]), tuple(call.returned.shape[1:])
    return Link(call.name, module, call.weights[0], call.bias, *shapes)


def _activated(links: list[Link], activation: Elementwise, said: str) -> list[Link]:
    if not links or links[-1].activation is not None:
        raise NoSuchLayer(f"{said} does not follow a dense or convolutional layer directly")
    last = links[-1]
    return [*links[:-1], Link(last.name, last.layer, last.weight, last.bias, last.given, last.returned, activation)]


def _functional(links: list[Link], current: Tensor, given: Tensor, where: str) -> list[Link]:
    """With the activation that the forward calls as a function, if that is what happens there."""
    for function, module in FUNCTIONAL:
        # by values: nothing else says which function a forward called
        if _same(function(current), given):
            return _activated(links, module, f"{type(module).__name__} {where}")
    raise NoSuchLayer(f"something else than an activation happens {where}: a residual connection, pooling or the like")
