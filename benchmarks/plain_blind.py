"""Batches for `certificates.py` in which a layer does not tell examples apart: their gradient is a mean's."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from plain_clients import Situation, gradient
from plain_models import World, chance, whole
from torch import Tensor, nn

import leakscope as ls

SAME = 1e-4
"""Relative distance of two errors that count as one."""
FAINT = 1e-7
"""Of a weight, what float32 does not see beside the others."""


def first(world: World) -> nn.Linear | None:
    """The dense layer that is fed the pictures themselves."""
    size = world.inputs[0].numel()
    layers = [one for one in world.net.modules() if isinstance(one, nn.Linear)]
    return layers[0] if layers[0].in_features == size and world.inputs.is_floating_point() else None


def declared(world: World) -> World:
    """With the weights that were changed as the declared ones: a target keeps those that it was made of."""
    target = world.target
    return dataclasses.replace(world, target=ls.Target(world.net, target.domain, target.classes))


def joined(world: World, others: Tensor) -> World:
    """With these as more examples of the first one's class."""
    labels = torch.cat([world.labels, world.labels[:1].repeat(len(others))])
    return dataclasses.replace(
        world, inputs=torch.cat([world.inputs, others.reshape(-1, *world.inputs.shape[1:])]), labels=labels
    )


def copies(world: World) -> Tensor:
    """(N, D): the first picture again, once or twice."""
    return world.inputs[:1].flatten(1).repeat(whole(1, 2, world.draw), 1)


def pruned(world: World, left: float = 0.0) -> World:
    """Columns of weights are zero, or nearly, and pictures differ in these pixels alone."""
    layer = first(world)
    if layer is None:
        return world
    hidden = torch.rand(layer.in_features, generator=world.draw) < 0.1 + 0.6 * chance(world.draw)
    with torch.no_grad():
        layer.weight[:, hidden] *= left
    others = copies(world)
    others[:, hidden] = torch.rand(others[:, hidden].shape, generator=world.draw)
    return declared(joined(world, others))


def tied(world: World) -> World:
    """Each second column is a multiple of the one before, and pictures differ in what these two pixels share."""
    layer = first(world)
    if layer is None:
        return world
    with torch.no_grad():
        layer.weight[:, 1::2] = layer.weight[:, ::2] * (1 if chance(world.draw) < 0.5 else -1.5)
    others = copies(world)
    weight = layer.weight.detach()
    ratio = float(weight[0, 1] / weight[0, 0])
    moved = torch.rand(others[:, ::2].shape, generator=world.draw) - 0.5
    one, two = others[:, ::2] + moved * ratio, others[:, 1::2] - moved
    legal = (one >= 0) & (one <= 1) & (two >= 0) & (two <= 1)
    others[:, ::2] = torch.where(legal, one, others[:, ::2])
    others[:, 1::2] = torch.where(legal, two, others[:, 1::2])
    return declared(joined(world, others))


def in_null_space(world: World) -> World:
    """Pictures differ by what all units together do not see."""
    layer = first(world)
    if layer is None or layer.out_features >= layer.in_features:
        return world
    basis = torch.linalg.svd(layer.weight.detach().double())[2][layer.out_features :]
    base = 0.3 + 0.4 * world.inputs[:1].flatten(1)
    moved = torch.randn(whole(1, 2, world.draw), len(basis), generator=world.draw).double() @ basis
    moved = 0.25 * moved / moved.abs().max()
    kept = dataclasses.replace(world, inputs=torch.cat([base.reshape(world.inputs[:1].shape), world.inputs[1:]]))
    return joined(kept, (base + moved).to(base))


def blind(world: World) -> World:
    """A dense layer without weights, or words of equal vectors, and one class: many examples have one error."""
    layers = [one for one in world.net.modules() if isinstance(one, nn.Linear)]
    words = world.net.get_submodule("words") if not world.inputs.is_floating_point() else None
    if isinstance(words, nn.Embedding):
        with torch.no_grad():
            words.weight[1::2] = words.weight[::2].clone() * float(chance(world.draw) < 0.7)
        return declared(dataclasses.replace(world, labels=world.labels[:1].repeat(len(world.labels))))
    with torch.no_grad():
        layers[whole(0, len(layers) - 1, world.draw)].weight.mul_(0.0 if chance(world.draw) < 0.7 else 1e-8)
    return declared(dataclasses.replace(world, labels=world.labels[:1].repeat(len(world.labels))))


def saturated(world: World) -> World:
    """A first layer of large biases, or weights where it has none: units are at their ends, or never at rest."""
    layers = [one for one in world.net.modules() if isinstance(one, nn.Linear)]
    with torch.no_grad():
        (layers[0].weight if layers[0].bias is None else layers[0].bias).mul_(10.0 ** whole(1, 4, world.draw))
    return declared(dataclasses.replace(world, labels=world.labels[:1].repeat(len(world.labels))))


def _errors(world: World) -> Tensor:
    """The errors of one example at all layers: gradients of biases, or else of the outputs of dense layers."""
    of_biases = [slope for slope in gradient(world).values() if slope.dim() == 1]
    if of_biases:
        return torch.cat(of_biases)
    outputs: list[Tensor] = []
    dense = [one for one in world.net.modules() if isinstance(one, nn.Linear)]
    hooks = [one.register_forward_hook(lambda _, __, given: outputs.append(given)) for one in dense]
    with torch.enable_grad():
        inputs = world.inputs.detach().requires_grad_(world.inputs.is_floating_point())
        loss = F.cross_entropy(world.net(inputs), world.labels)
    for hook in hooks:
        hook.remove()
    return torch.cat([slope.flatten() for slope in torch.autograd.grad(loss, outputs)])


def alike(world: World) -> list[list[int]]:
    """The examples that have one error in each layer, in groups of two or more: the gradient is that of their mean."""
    singles = [
        dataclasses.replace(world, inputs=world.inputs[[row]], labels=world.labels[[row]])
        for row in range(len(world.inputs))
    ]
    errors = [_errors(one) for one in singles]
    groups = [
        [at for at, other in enumerate(errors) if float((own - other).norm()) <= SAME * float(own.norm())]
        for own in errors
    ]
    return [group for row, group in enumerate(groups) if len(group) > 1 and group[0] == row]


def with_means(values: Tensor, groups: list[list[int]]) -> Tensor:
    """Rows for examples, and one for the mean of each group."""
    return torch.cat([values, *(values[group].mean(0, keepdim=True) for group in groups)])


BLIND: dict[str, Situation] = {
    "pruned pixels": Situation(batch=pruned, untold=0.5),
    "faint pixels": Situation(batch=lambda w: pruned(w, FAINT), untold=0.5),
    "tied pixels": Situation(batch=tied, untold=0.5),
    "differ in the null space": Situation(batch=in_null_space, untold=0.5, mean=True),
    "a layer without weights": Situation(batch=blind, least=3, untold=0.5),
    "saturated": Situation(batch=saturated, least=3, untold=0.5),
}
"""Situations whose client is as declared, and does not say how many examples there are."""
