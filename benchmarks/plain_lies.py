"""More of what clients do for `certificates.py` and do not declare: other losses, steps, sums and parts of the update.

Where a client mixes in what another client, or another round, has computed, the last example of the world is that one's
and the batch size that is told leaves it out.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from plain_clients import LR, Client, Situation, Update, changed, gradient, sgd, smoothed, stale, trained, weighted
from plain_models import World, chance, whole
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]


# --- what the client is fed -------------------------------------------------------------------------------------------


def standardized(world: World) -> Tensor:
    """Each picture with mean 0 and deviation 1."""
    flat = world.inputs.flatten(1)
    made = (flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True).clamp_min(1e-3)
    return made.reshape(world.inputs.shape)


def adversarial(world: World) -> Tensor:
    """Adversarial training: one step uphill, left in the range or not."""
    inputs, size = world.inputs.clone().requires_grad_(True), 0.02 * 15 ** chance(world.draw)
    (slope,) = torch.autograd.grad(F.cross_entropy(world.net(inputs), world.labels), inputs)
    made = world.inputs + size * slope.sign()
    return made.clamp(0, 1) if chance(world.draw) < 0.5 else made


def pasted(world: World) -> Tensor:
    """CutMix: the lower half of another picture."""
    other = world.inputs.flip(0) if len(world.inputs) > 1 else 1 - world.inputs
    half = world.inputs.shape[2] // 2
    return torch.cat([world.inputs[:, :, :half], other[:, :, half:]], 2)


def redrawn(world: World) -> World:
    """As many examples as told, some of them more than once and others not."""
    count = len(world.inputs)
    return part(world, torch.randint(count, (count,), generator=world.draw))


# --- losses -----------------------------------------------------------------------------------------------------------


def under(loss: Callable[[Tensor, Tensor, World], Tensor]) -> Client:
    """The gradient of another loss, of the outputs (B, C) and labels (B,)."""
    return lambda world: gradient(world, lambda out, labels: loss(out, labels, world))


def hot(out: Tensor, labels: Tensor) -> Tensor:
    """Labels as rows of the identity."""
    return F.one_hot(labels, out.shape[1]).to(out)


def halved(out: Tensor, labels: Tensor, world: World) -> Tensor:
    """The labels of both halves of a pasted picture."""
    other = (labels.flip(0) + (len(labels) == 1)) % world.target.classes
    return (F.cross_entropy(out, labels) + F.cross_entropy(out, other)) / 2


def distilled(out: Tensor, labels: Tensor, world: World) -> Tensor:
    """A teacher's soft labels, which favor the true one."""
    soft = torch.softmax(2 * torch.randn(out.shape, generator=world.draw) + 3 * hot(out, labels), 1)
    return -(soft * out.log_softmax(1)).sum(1).mean()


def tempered(out: Tensor, labels: Tensor, world: World) -> Tensor:
    """Logits are divided by a temperature."""
    return F.cross_entropy(out / (0.3 * 12 ** chance(world.draw)), labels)


def mixed(out: Tensor, labels: Tensor, world: World) -> Tensor:
    """Labels that are mixed with other ones, or with all of them, as of mixup and of strong smoothing."""
    share = 0.5 + 0.45 * chance(world.draw)
    other = (labels + whole(1, out.shape[1] - 1, world.draw)) % out.shape[1]
    if chance(world.draw) < 0.5:
        return share * F.cross_entropy(out, labels) + (1 - share) * F.cross_entropy(out, other)
    return F.cross_entropy(out, labels, label_smoothing=1.9 * (1 - share))


def taught(out: Tensor, labels: Tensor, world: World) -> Tensor:
    """A teacher's soft labels at a temperature, which do not favor the true one."""
    del labels
    soft = torch.softmax(2 * torch.randn(out.shape, generator=world.draw), 1)
    return -(soft * (out / 4).log_softmax(1)).sum(1).mean()


def normalized(out: Tensor, labels: Tensor, world: World) -> Tensor:
    """Logits of one length (LogitNorm, Wei et al. 2022)."""
    return F.cross_entropy(F.normalize(out) / (0.04 * 10 ** chance(world.draw)), labels)


def unsure(out: Tensor, labels: Tensor, world: World) -> Tensor:
    """Confidence is penalized."""
    del world
    logs = out.log_softmax(1)
    return F.cross_entropy(out, labels) + 0.3 * (logs.exp() * logs).sum(1).mean()


def unequal(out: Tensor, labels: Tensor, world: World) -> Tensor:
    """Examples have weights of their own, which sum to one."""
    weights = torch.rand(len(labels), generator=world.draw) + 0.1
    return (weights / weights.sum() * F.cross_entropy(out, labels, reduction="none")).sum()


# --- sums with what is not of this batch ------------------------------------------------------------------------------


def part(world: World, rows: Any) -> World:
    """Some of the examples."""
    return dataclasses.replace(world, inputs=world.inputs[rows], labels=world.labels[rows])


def added(share: Callable[[World], tuple[float, float]], late: bool = False) -> Client:
    """The gradient of the batch and that of the last example, at other weights where it is of another round."""

    def client(world: World) -> Update:
        own, other = share(world)
        last = (stale if late else gradient)(part(world, slice(-1, None)))
        return {n: own * v + other * last[n] for n, v in gradient(part(world, slice(-1))).items()}

    return client


def summed_shares(world: World) -> tuple[float, float]:
    """Any share, as of clients with unequal numbers of examples."""
    one = 0.1 + 0.8 * chance(world.draw)
    return one, 1 - one


def fed_back(world: World) -> Update:
    """Error feedback: what the last round's compression left out is added, and only large entries are sent."""
    whole_ = added(lambda w: (1.0, 1.0), late=True)(world)
    return {n: torch.where(v.abs() >= v.abs().flatten().quantile(0.5), v, 0.0) for n, v in whole_.items()}


# --- steps ------------------------------------------------------------------------------------------------------------


def walked(
    world: World, rates: Sequence[float], batches: Sequence[Any] = (), pull: float = 0.0, momentum: Update | None = None
) -> Update:
    """Steps of these rates, on parts of the batch; pull: of FedProx; momentum: a buffer from before, times 0.9."""
    net, start = copy.deepcopy(world.net), dict(world.net.named_parameters())
    buffer = dict(momentum or {})
    for step, rate in enumerate(rates):
        found = gradient(dataclasses.replace(part(world, batches[step] if batches else slice(None)), net=net))
        with torch.no_grad():
            for name, value in net.named_parameters():
                slope = found[name] + pull * (value - start[name])
                if momentum is not None:
                    slope = buffer[name] = 0.9 * buffer[name] + slope
                value.sub_(rate * slope)
    return {name: (value - start[name]).detach() for name, value in net.named_parameters()}


def sharpened(world: World) -> Update:
    """Sharpness-aware: the gradient at weights that are some way uphill."""
    found = gradient(world)
    size = torch.cat([v.flatten() for v in found.values()]).norm().clamp_min(1e-30)
    net, far = copy.deepcopy(world.net), 0.01 * 50 ** chance(world.draw)
    with torch.no_grad():
        for name, value in net.named_parameters():
            value.add_(far * found[name] / size)
    return gradient(dataclasses.replace(world, net=net))


def averaged(world: World) -> Update:
    """The mean of the weights after each of two steps, or an exponential one."""
    share = chance(world.draw)
    one, two = trained(world, sgd(), 1), trained(world, sgd(), 2)
    return {name: share * value + (1 - share) * two[name] for name, value in one.items()}


def lion(world: World) -> Update:
    """Signs with a decay of the weights, in float32."""
    start = dict(world.net.named_parameters())
    decay = 0.1 * chance(world.draw)
    return {n: (-LR * (v.sign() + decay * start[n])).detach() for n, v in gradient(world).items()}


# --- entries ----------------------------------------------------------------------------------------------------------


def centralized(value: Tensor, world: World) -> Tensor:
    """Rows of weights lose their mean."""
    del world
    return value - value.mean(tuple(range(1, value.dim())), keepdim=True) if value.dim() > 1 else value


def orthogonal(value: Tensor, world: World) -> Tensor:
    """Muon: the singular values of weights become one, up to rounding."""
    del world
    if value.dim() < 2 or not bool((value != 0).any()):
        return value
    left, sizes, right = torch.linalg.svd(value.flatten(1), full_matrices=False)
    kept = (sizes > 1e-5 * sizes[0]).to(sizes)
    return ((left * kept) @ right).reshape(value.shape)


def low_rank(value: Tensor, world: World) -> Tensor:
    """PowerSGD: weights of rank one or two, biases as they are."""
    if value.dim() < 2:
        return value
    left, sizes, right = torch.linalg.svd(value.flatten(1), full_matrices=False)
    kept = whole(1, 2, world.draw)
    return ((left[:, :kept] * sizes[:kept]) @ right[:kept]).reshape(value.shape)


def ternary(value: Tensor, world: World) -> Tensor:
    """TernGrad: -1, 0 or 1 times the largest size, right on average."""
    size = value.abs().max().clamp_min(1e-30)
    return size * value.sign() * (torch.rand(value.shape, generator=world.draw) < value.abs() / size)


def some(value: Tensor, world: World) -> Tensor:
    """Random entries, the others zero."""
    return value * (torch.rand(value.shape, generator=world.draw) < 0.2 + 0.7 * chance(world.draw))


def narrowed(value: Tensor, world: World) -> Tensor:
    """Sent in float16 after a scale, with what is too small or too large for it."""
    scale = 2.0 ** whole(-12, 12, world.draw)
    return (value * scale).half().clamp(-65504, 65504).float() / scale


def rated(world: World) -> Update:
    """LARS: a rate for each tensor, from the size of its weights or at will."""
    start, free = dict(world.net.named_parameters()), chance(world.draw) < 0.5
    return {
        n: v * (0.3 + 3 * chance(world.draw) if free else float(start[n].detach().norm() / v.norm().clamp_min(1e-30)))
        for n, v in gradient(world).items()
    }


def lasso(world: World) -> Update:
    """A penalty on the sizes of the weights."""
    start = dict(world.net.named_parameters())
    return {n: (v + 0.001 * start[n].sign()).detach() for n, v in gradient(world).items()}


# --- models -----------------------------------------------------------------------------------------------------------


def rounded(world: World) -> Update:
    """Trained for rounded weights, of three to eight bits, whose gradient is taken as the weights' own."""
    net, half = copy.deepcopy(world.net), 2 ** (whole(3, 8, world.draw) - 1) - 1
    with torch.no_grad():
        for value in net.parameters():
            size = value.abs().max().clamp_min(1e-30) / half
            value.copy_((value / size).round() * size)
    return gradient(dataclasses.replace(world, net=net))


def disconnected(world: World) -> Update:
    """DropConnect: weights are left out at random, and have no gradient."""
    net, rate = copy.deepcopy(world.net), 0.1 + 0.4 * chance(world.draw)
    masks = {n: torch.rand(v.shape, generator=world.draw) >= rate for n, v in net.named_parameters() if v.dim() > 1}
    with torch.no_grad():
        for name, value in net.named_parameters():
            value.mul_(masks.get(name, 1))
    return {n: v * masks.get(n, 1) for n, v in gradient(dataclasses.replace(world, net=net)).items()}


def reordered(world: World) -> Update:
    """The units of the first layer in another order than declared: a legal gradient, but not of these weights."""
    found, names = gradient(world), ends(world)[0]
    order = torch.randperm(len(found[names[0]]), generator=world.draw)
    return {n: v[order] if n in names else v for n, v in found.items()}


# --- parts of the update ----------------------------------------------------------------------------------------------


def ends(world: World) -> tuple[list[str], list[str]]:
    """The names of the first layer's tensors and of the last one's, weight and bias."""
    layers = [n for n, m in world.net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.Embedding)]
    names = [n for n, _ in world.net.named_parameters()]
    return tuple([n for n in names if n.rpartition(".")[0] == layers[at]] for at in (0, -1))  # type: ignore[return-value]


def only(client: Client, end: int, biases: bool = False) -> Client:
    """Of an update, what is of the first layer (0) or of the last (1) or its bias alone."""

    def some_of(world: World) -> Update:
        names = ends(world)[end]
        found = {n: v for n, v in client(world).items() if n in names}
        # A layer without a bias sends its weight.
        return {n: v for n, v in found.items() if v.dim() == 1} or found if biases else found

    return some_of


def without_biases(world: World) -> Update:
    """Biases are frozen, and sent as zeros."""
    return {n: torch.zeros_like(v) if n.endswith("bias") else v for n, v in gradient(world).items()}


def headless(world: World) -> Update:
    """All but the last layer is trained, and sent."""
    names = ends(world)[1]
    return {n: v for n, v in gradient(world).items() if n not in names}


# --- texts ------------------------------------------------------------------------------------------------------------


def by_frequency(world: World) -> Update:
    """Rows of the embedding are divided by how often their word occurs."""
    found = gradient(world)
    counts = torch.bincount(world.inputs.flatten(), minlength=len(found["words.weight"]))
    return {**found, "words.weight": found["words.weight"] / counts.clamp_min(1)[:, None]}


def word_left_out(world: World) -> Update:
    """A word of the batch is taken for padding, whose row does not learn."""
    found = gradient(world)
    row = found["words.weight"].clone()
    row[world.inputs.flatten()[0]] = 0
    return {**found, "words.weight": row}


ANY: dict[str, Situation] = {
    "flipped": Situation(fed=lambda w: w.inputs.flip(-1)),
    "standardized": Situation(fed=standardized),
    "adversarial": Situation(fed=adversarial),
    "cutmix": Situation(under(halved), fed=pasted),
    "one twice": Situation(lambda w: gradient(part(w, [*range(len(w.inputs)), -1])), least=2),
    "soft labels": Situation(under(distilled)),
    "mixed labels": Situation(under(mixed)),
    "taught": Situation(under(taught)),
    "normalized logits": Situation(under(normalized)),
    "uniform labels": Situation(under(lambda o, y, w: F.cross_entropy(o, torch.full_like(o, 1 / o.shape[1])))),
    "absolute error": Situation(under(lambda o, y, w: F.l1_loss(o, hot(o, y)))),
    "squared error": Situation(under(lambda o, y, w: F.mse_loss(o, hot(o, y)))),
    "Brier": Situation(under(lambda o, y, w: F.mse_loss(o.softmax(1), hot(o, y), reduction="sum") / len(y))),
    "sigmoid loss": Situation(under(lambda o, y, w: F.binary_cross_entropy_with_logits(o, hot(o, y)))),
    "hinge": Situation(under(lambda o, y, w: F.multi_margin_loss(o, y))),
    "temperature": Situation(under(tempered)),
    "penalty on confidence": Situation(under(unsure)),
    "weighted examples": Situation(under(unequal)),
    "two clients": Situation(added(lambda w: (0.5, 0.5)), told=-1),
    "two clients, unequal": Situation(added(summed_shares), told=-1),
    "momentum carried over": Situation(added(lambda w: (1.0, 0.9), late=True), told=-1),
    "rest of a round": Situation(added(lambda w: (1.0, 1e-3 * 300 ** chance(w.draw)), late=True), told=-1),
    "error feedback": Situation(fed_back, told=-1),
    "drawn with repetition": Situation(batch=redrawn, least=2),
    "momentum carried over, steps": Situation(
        lambda w: walked(part(w, slice(-1)), (LR, LR), momentum=gradient(part(w, slice(-1, None)))),
        told=-1, moved=True,
    ),
    "falling rate": Situation(lambda w: walked(w, (LR, LR * chance(w.draw))), moved=True),
    "rising rate, large": Situation(lambda w: walked(w, (LR, 30 * LR)), moved=True),
    "last batch smaller": Situation(lambda w: walked(w, (0.3, 0.3), ([0, 1], [-1])), least=3, moved=True),
    "FedProx": Situation(lambda w: walked(w, (LR, LR), pull=1000 ** chance(w.draw)), moved=True),
    "averaged weights": Situation(averaged, moved=True),
    "Lion": Situation(lion, moved=True),
    "Adam, large epsilon": Situation(
        lambda w: trained(w, lambda p: torch.optim.Adam(p, lr=LR, eps=1e-3 * 1e3 ** chance(w.draw))), moved=True
    ),
    "sharpness-aware": Situation(sharpened),
    "sharpness-aware, steps": Situation(lambda w: {n: -2 * LR * v for n, v in sharpened(w).items()}, moved=True),
    "centralized": Situation(changed(centralized)),
    "orthogonalized": Situation(changed(orthogonal)),
    "low rank": Situation(changed(low_rank), least=2),
    "three levels": Situation(changed(ternary)),
    "random entries": Situation(changed(some)),
    "float16": Situation(changed(narrowed)),
    "loss scale left in": Situation(changed(lambda v, w: v * 2.0**12)),
    "rates by tensor": Situation(rated),
    "rates by tensor, several": Situation(rated, least=3),
    "hinge, several": Situation(under(lambda o, y, w: F.multi_margin_loss(o, y)), least=3),
    "penalty on sizes": Situation(lasso),
    "rounded weights": Situation(rounded),
    "dropped connections": Situation(disconnected),
    "units reordered": Situation(reordered),
    "frozen biases": Situation(without_biases),
    "all but the last layer": Situation(headless),
    **{f"first layer alone, {name}": Situation(only(client, 0), told=told, least=least)
       for name, client, told, least in (
        ("as declared", gradient, 0, 1), ("soft labels", under(distilled), 0, 1), ("low rank", changed(low_rank), 0, 2),
        ("two clients", added(summed_shares), -1, 1), ("centralized", changed(centralized), 0, 1),
        ("other scale", changed(lambda v, w: v * (0.2 + 3 * chance(w.draw))), 0, 1), ("stale", stale, 0, 1),
    )},
    **{f"last bias alone, {name}": Situation(only(client, 1, True), told=told) for name, client, told in (
        ("as declared", gradient, 0), ("two clients", added(summed_shares), -1), ("smoothed", smoothed, 0),
        ("temperature", under(tempered), 0), ("weights", weighted, 0), ("sigmoids", under(
            lambda o, y, w: F.binary_cross_entropy_with_logits(o, hot(o, y), reduction="sum") / len(y)), 0),
        ("squared", under(lambda o, y, w: F.mse_loss(o, hot(o, y), reduction="sum") / len(y)), 0),
        ("opposite sign", changed(lambda v, w: -v), 0), ("one too few", gradient, -1),
    )},
    **{f"last layer alone, {name}": Situation(only(client, 1), told=told) for name, client, told in (
        ("as declared", gradient, 0), ("two clients", added(summed_shares), -1), ("one too few", gradient, -1),
        ("soft labels", under(distilled), 0), ("opposite sign", changed(lambda v, w: -v), 0),
    )},
}  # fmt: skip
TEXTS: dict[str, Situation] = {
    "rows by frequency": Situation(by_frequency, least=2),
    "a word left out": Situation(word_left_out),
}
"""What only texts can be."""
