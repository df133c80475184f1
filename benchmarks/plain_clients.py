"""What clients do for `certificates.py`, in plain PyTorch: as declared, or something else. None is told of it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from plain_models import ACTIVATIONS, World, chance, whole
from torch import Tensor, nn

Update = dict[str, Tensor]
Client = Callable[[World], Update]
LR = 0.01
ONE = ", one step"
"""How the names of situations end whose update is declared as one step."""


def gradient(world: World, loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy) -> Update:
    """The gradient of the mean cross entropy, or of another loss, by `autograd`."""
    # a copy, since the target shares the net
    net = copy.deepcopy(world.net).requires_grad_(True)
    names, values = zip(*net.named_parameters(), strict=True)
    slopes = torch.autograd.grad(
        loss(net(world.inputs), world.labels), values, allow_unused=True, materialize_grads=True
    )
    return dict(zip(names, slopes, strict=True))


def apart(world: World, other: World) -> float:
    """The relative distance of the gradients of two."""
    one, two = (torch.cat([value.flatten() for value in gradient(each).values()]) for each in (world, other))
    return float((one - two).norm() / one.norm().clamp_min(1e-30))


def trained(
    world: World, make: Callable[[Any], torch.optim.Optimizer], steps: int = 2, *, rows: int | None = None
) -> Update:
    """The change of weights after some steps of one of torch's optimizers, on `rows` examples at a time."""
    net = copy.deepcopy(world.net).requires_grad_(True)
    optimizer = make(net.parameters())
    for step in range(steps):
        part = slice(None) if rows is None else [(step * rows + i) % len(world.inputs) for i in range(rows)]
        optimizer.zero_grad()
        F.cross_entropy(net(world.inputs[part]), world.labels[part]).backward()
        optimizer.step()
    before = dict(world.net.named_parameters())
    return {name: (value - before[name]).detach() for name, value in net.named_parameters()}


def sgd(**how: Any) -> Callable[[Any], torch.optim.Optimizer]:
    """torch's SGD of the declared rate, with something more."""
    return lambda parameters: torch.optim.SGD(parameters, **{"lr": LR, **how})


def adapted(kind: Callable[..., torch.optim.Optimizer]) -> Client:
    """One step or two of an optimizer that divides each entry by its size."""
    return lambda world: trained(world, lambda parameters: kind(parameters, lr=LR), whole(1, 2, world.draw))


def noise(world: World) -> Tensor:
    """Noise on the inputs, from a tenth of their range to all of it."""
    size = 0.1 * 10 ** chance(world.draw)
    return world.inputs + size * torch.randn(world.inputs.shape, generator=world.draw)


def dropped(world: World) -> Tensor:
    """Dropout of the inputs, of which the declared model knows nothing."""
    rate = 0.1 + 0.5 * chance(world.draw)
    kept = torch.rand(world.inputs.shape, generator=world.draw) >= rate
    return world.inputs * kept / (1 - rate)


def changed(change: Callable[[Tensor, World], Tensor]) -> Client:
    """The gradient, each tensor changed by itself."""
    return lambda world: {name: change(value, world) for name, value in gradient(world).items()}


def largest(value: Tensor, world: World) -> Tensor:
    """Only the largest entries, from one percent to a half."""
    kept = max(1, int(value.numel() * 0.01 * 50 ** chance(world.draw)))
    least = value.abs().flatten().topk(kept).values[-1]
    return torch.where(value.abs() >= least, value, 0.0)


def levels(value: Tensor, world: World) -> Tensor:
    """From three to 255 levels."""
    half = (1, 3, 7, 127)[whole(0, 3, world.draw)]
    size = value.abs().max().clamp_min(1e-30) / half
    return (value / size).round() * size


def clipped(world: World) -> Update:
    """Each tensor by itself, to one norm."""
    found = gradient(world)
    norms = torch.stack([value.norm() for value in found.values()])
    bound = float(norms.quantile(0.2 + 0.6 * chance(world.draw)))
    return {name: value * min(1.0, bound / max(float(value.norm()), 1e-30)) for name, value in found.items()}


def clipped_one_by_one(world: World) -> Update:
    """Each example's gradient to a norm that shortens some of them, as DP-SGD without noise."""
    parts = [one(world, row) for row in range(len(world.inputs))]
    norms = torch.tensor([float(torch.cat([v.flatten() for v in part.values()]).norm()) for part in parts])
    bound = float(norms.max()) * (0.3 + 0.6 * chance(world.draw))
    scales = (bound / norms.clamp_min(1e-30)).clamp(max=1.0)
    return {n: sum(s * part[n] for s, part in zip(scales, parts, strict=True)) / len(parts) for n in parts[0]}  # type: ignore[misc]


def one(world: World, row: int) -> Update:
    """The gradient of one example."""
    return gradient(dataclasses.replace(world, inputs=world.inputs[[row]], labels=world.labels[[row]]))


def noisy(world: World) -> Update:
    """Noise on the update, from a ten-thousandth of each tensor's size."""
    size = 1e-4 * 1000 ** chance(world.draw)
    return {
        n: v + size * v.std(correction=0) * torch.randn(v.shape, generator=world.draw)
        for n, v in gradient(world).items()
    }


def regularized(world: World) -> Update:
    """A penalty on the weights that the loss does not show."""
    start = dict(world.net.named_parameters())
    return {name: (value + 0.01 * start[name]).detach() for name, value in gradient(world).items()}


def blend(world: World) -> Tensor:
    """Mixup: each picture with another one, of the batch where it holds several."""
    other = world.inputs.flip(0) if len(world.inputs) > 1 else 1 - world.inputs
    return 0.7 * world.inputs + 0.3 * other


def blended(world: World) -> Update:
    """Mixup blends the labels as the pictures."""
    labels = (world.labels.flip(0) + (len(world.inputs) == 1)) % world.target.classes
    return gradient(world, lambda out, y: 0.7 * F.cross_entropy(out, y) + 0.3 * F.cross_entropy(out, labels))


def weighted(world: World) -> Update:
    """Classes have weights in the loss."""
    weights = torch.rand(world.target.classes, generator=world.draw) + 0.2
    return gradient(world, lambda out, y: F.cross_entropy(out, y, weight=weights, reduction="sum") / len(y))


def smoothed(world: World) -> Update:
    """Labels are smoothed."""
    return gradient(world, lambda out, y: F.cross_entropy(out, y, label_smoothing=0.1))


def focal(world: World) -> Update:
    """A focal loss."""

    def loss(out: Tensor, y: Tensor) -> Tensor:
        each = F.cross_entropy(out, y, reduction="none")
        return ((1 - torch.exp(-each)) ** 2 * each).mean()

    return gradient(world, loss)


def activated(world: World) -> Update:
    """The client's activations are others than the declared model's."""
    net = copy.deepcopy(world.net)
    other = ACTIVATIONS[whole(0, len(ACTIVATIONS) - 1, world.draw)]
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, ACTIVATIONS):
                setattr(module, name, other())
    return gradient(dataclasses.replace(world, net=net))


def training(world: World) -> Update:
    """Batch normalization uses the batch, where there is some; and there is a dropout behind the first layer."""
    net = copy.deepcopy(world.net)
    first = next((m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d)), None)
    if len(world.inputs) > 1:
        net.train()
    rate, draw = 0.3, world.draw

    def drop(module: nn.Module, given: Any, made: Tensor) -> Tensor:
        return made * (torch.rand(made.shape, generator=draw) >= rate) / (1 - rate)

    if first is not None and chance(draw) < 0.5:
        first.register_forward_hook(drop)
    return gradient(dataclasses.replace(world, net=net))


def stale(world: World) -> Update:
    """The client has weights of another round."""
    net = copy.deepcopy(world.net)
    with torch.no_grad():
        for value in net.parameters():
            value.add_(0.05 * value.std(correction=0) * torch.randn(value.shape, generator=world.draw))
    return gradient(dataclasses.replace(world, net=net))


def half(world: World) -> Update:
    """The client computes in bfloat16."""
    net = copy.deepcopy(world.net).bfloat16()
    inputs = world.inputs.bfloat16() if world.inputs.is_floating_point() else world.inputs
    found = gradient(dataclasses.replace(world, net=net, inputs=inputs))
    return {name: value.float() for name, value in found.items()}


def permuted(world: World) -> Update:
    """Outputs in another order than the declared model's: what is told as class 0 is another."""
    order = torch.randperm(world.target.classes, generator=world.draw)
    return {n: v[order] if len(v) == len(order) else v for n, v in gradient(world).items()}


def scaled(factor: float) -> Client:
    """A multiple of the gradient."""
    return lambda world: {name: factor * value for name, value in gradient(world).items()}


def stepped(client: Client) -> Client:
    """One step by what the client would send as a gradient: the difference of weights, in their precision."""

    def step(world: World) -> Update:
        start = {name: value.detach() for name, value in world.net.named_parameters()}
        return {name: (start[name] - LR * value) - start[name] for name, value in client(world).items()}

    return step


def once(situations: dict[str, Situation]) -> dict[str, Situation]:
    """The same lies of clients that take one step, which is a gradient at known weights as well."""
    return {
        name + ONE: replace(one, client=stepped(one.client), moved=True, once=True)
        for name, one in situations.items()
        if not one.moved
    }


@dataclass(frozen=True)
class Situation:
    """What the client does; moved: it sends a change of weights, declared as two steps of SGD.

    once: it is declared as one step instead. fed: what it trains on in place of its inputs, where these are numbers.
    told: the batch size that is told, less the true one. untold: how often none is. least: how many examples there are
    at least. batch: which of them are trained on, as often as they are. mean: whether the mean of examples of one error
    is what a certificate has to prove that speaks of means: no example then shows what tells it from the others.
    """

    client: Client = gradient
    moved: bool = False
    once: bool = False
    told: int = 0
    untold: float = 0.1
    fed: Callable[[World], Tensor] | None = None
    least: int = 1
    batch: Callable[[World], World] | None = None
    mean: bool = False


SITUATIONS: dict[str, Situation] = {
    "as declared": Situation(),
    "as declared, two steps": Situation(lambda w: trained(w, sgd()), moved=True),
    "input noise": Situation(fed=noise),
    "input dropout": Situation(fed=dropped),
    "other range": Situation(fed=lambda w: (w.inputs - 0.4) / 0.3),
    "bytes": Situation(fed=lambda w: 255 * w.inputs),
    "mixup": Situation(blended, fed=blend),
    "signs": Situation(changed(lambda v, w: v.sign())),
    "scaled signs": Situation(changed(lambda v, w: v.sign() * v.abs().mean())),
    "largest entries": Situation(changed(largest)),
    "quantized": Situation(changed(levels)),
    "clipped by tensor": Situation(clipped),
    "clipped by example": Situation(clipped_one_by_one),
    "normalized by tensor": Situation(changed(lambda v, w: v / v.norm().clamp_min(1e-30))),
    "clamped entries": Situation(changed(lambda v, w: v.clamp(-0.5 * v.abs().max(), 0.5 * v.abs().max()))),
    "noisy update": Situation(noisy),
    "delta told as gradient": Situation(scaled(-LR)),
    "gradient told as delta": Situation(gradient, moved=True),
    "summed loss": Situation(scaled(3.0)),
    "label smoothing": Situation(smoothed),
    "class weights": Situation(weighted),
    "focal loss": Situation(focal),
    "penalty on weights": Situation(regularized),
    "other activation": Situation(activated),
    "train mode, dropout": Situation(training),
    "stale weights": Situation(stale),
    "bfloat16": Situation(half),
    "permuted outputs": Situation(permuted),
    "Adam": Situation(adapted(torch.optim.Adam), moved=True),
    "AdamW": Situation(adapted(torch.optim.AdamW), moved=True),
    "RMSprop": Situation(adapted(torch.optim.RMSprop), moved=True),
    "Adagrad": Situation(adapted(torch.optim.Adagrad), moved=True),
    "momentum": Situation(lambda w: trained(w, sgd(momentum=0.9)), moved=True),
    "Nesterov": Situation(lambda w: trained(w, sgd(momentum=0.9, nesterov=True)), moved=True),
    "weight decay": Situation(lambda w: trained(w, sgd(weight_decay=0.1)), moved=True),
    "larger steps": Situation(lambda w: trained(w, sgd(lr=0.5)), moved=True),
    "more steps": Situation(lambda w: trained(w, sgd(), 3), moved=True),
    "one at a time": Situation(lambda w: trained(w, sgd(lr=0.3), 2, rows=1), moved=True),
    "one told too few": Situation(gradient, told=-1),
    "one told too many": Situation(gradient, told=1),
}  # fmt: skip
ONCE: dict[str, Situation] = {
    "Adam, one step": Situation(lambda w: trained(w, lambda p: torch.optim.Adam(p, lr=LR), 1), moved=True, once=True),
    "weight decay, one step": Situation(lambda w: trained(w, sgd(weight_decay=0.1), 1), moved=True, once=True),
    "larger step, one step": Situation(lambda w: trained(w, sgd(lr=0.5), 1), moved=True, once=True),
    "two steps, one step": Situation(lambda w: trained(w, sgd()), moved=True, once=True),
    "a hundred steps, one step": Situation(lambda w: trained(w, sgd(lr=LR / 100), 100), moved=True, once=True),
}
