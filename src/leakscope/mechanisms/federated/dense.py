"""Dense networks of many clients trained side by side, their gradients written out by hand.

The first layer holds nearly all parameters. Under plain SGD its weights stay in the span of what it was fed, so that
they are formed once, at the end; under Adam, which divides entry by entry, they are formed in each step.
"""

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
from leakscope.core.release import Delta, Gradient, Release
from leakscope.core.target import CrossEntropy, Target
from leakscope.mechanisms.protocols.fedavg import FedAvg
from leakscope.mechanisms.protocols.fedsgd import FedSGD
from leakscope.mechanisms.protocols.optimizers import PLAIN, ClientAdam, ClientAdamW, Moments
from leakscope.numerics.rng import Key
from leakscope.numerics.trees import Named

SPAN = 512
"""Examples of all steps up to which the first layer is cheaper by its span: a step costs a product with each before."""


@final
@dataclass(frozen=True, eq=False)
class Local:
    """The part of a job that is the same in kind for all: a protocol on data that defenses have passed."""

    protocol: FedSGD | FedAvg
    batch: Batch
    key: Key
    schedule: list[list[Tensor | None]]

    @property
    def shape(self) -> tuple[object, ...]:
        """Equal for those that can be computed side by side: the same steps on as many examples."""
        # the number of steps is that of the schedule, and not of the field, which epochs may have set
        plain = dataclasses.replace(self.protocol, steps=1) if isinstance(self.protocol, FedAvg) else self.protocol
        return repr(plain), len(self.schedule), _size(self), self.batch.inputs.shape[1:], self.batch.inputs.dtype


@final
@dataclass(frozen=True)
class Layer:
    """A dense layer by its parameters' names, and the rate at which its units are dropped after a ReLU; None for the
    last one, which has neither.
    """

    weight: str
    bias: str
    rate: float | None


@final
@dataclass(frozen=True, eq=False)
class DenseRun:
    """A plain dense network, its layers, and the smoothing of its labels."""

    target: Target
    layers: tuple[Layer, ...]
    smoothing: float


def dense_run(target: Target) -> DenseRun | None:
    """The network as `together` takes it; None for any other."""
    layers = dense_layers(target)
    if layers is None or not isinstance(target.loss, CrossEntropy):
        return None
    return DenseRun(target, layers, target.loss.smoothing)


def dense_layers(target: Target) -> tuple[Layer, ...] | None:
    """The layers of a plain dense network in float32 or float64; None for anything else.

    By exact classes: a layer that derives from one of these, or has a hook, may compute something else.
    """
    module = target.module
    if not acts_as(target.loss, CrossEntropy) or target.feed != InputsOnly() or target.device().type != "cpu":
        return None
    if type(module) is not nn.Sequential or any(_hooked(one) for one in module.modules()):
        return None
    # not `named_children`, which leaves out what stands there for the second time, as one ReLU for all layers does
    inside = [(name, one) for name, one in module._modules.items() if one is not None]
    if inside and type(inside[0][1]) is nn.Flatten and (inside[0][1].start_dim, inside[0][1].end_dim) == (1, -1):
        inside = inside[1:]
    elif len(target.domain.shape) != 1:
        # a dense layer works along the last axis, and here everything is one
        return None
    layers = _chain(inside)
    parameters = target.parameters()
    # weights that two layers share have one name, and neither layer's gradient is theirs; a bias may be lacking
    if layers is None or {n for one in layers for n in (one.weight, one.bias)} != parameters.keys():
        return None
    kinds = {value.dtype for value in parameters.values()}
    # narrower types round every product, in an order that is each kernel's own
    return layers if kinds in ({torch.float32}, {torch.float64}) else None


def _chain(inside: list[tuple[str, nn.Module]]) -> tuple[Layer, ...] | None:
    layers: list[Layer] = []
    # what may come next: a dense layer first; after it a ReLU; after that at most one dropout
    last: type[nn.Module] | None = None
    for name, one in inside:
        kind = type(one)
        if kind is nn.Linear and last in (None, nn.ReLU, nn.Dropout):
            layers.append(Layer(f"{name}.weight", f"{name}.bias", None))
        elif kind is nn.ReLU and last is nn.Linear:
            layers[-1] = dataclasses.replace(layers[-1], rate=0.0)
        elif isinstance(one, nn.Dropout) and kind is nn.Dropout and last is nn.ReLU:
            # by the layer's own mode: somebody may have switched on one of them
            layers[-1] = dataclasses.replace(layers[-1], rate=float(one.p) if one.training else 0.0)
        else:
            return None
        last = kind
    return tuple(layers) if last is nn.Linear else None


def _hooked(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    # an instance may hide the class's own forward
    return any(hooks) or "forward" in vars(module)


@final
@dataclass(frozen=True, eq=False)
class _Net:
    """The layers, and how they are trained. draws: each client's stream of masks."""

    layers: tuple[Layer, ...]
    classes: int
    smoothing: float
    draws: tuple[_Draws, ...]

    @property
    def first(self) -> Layer:
        """The layer that is fed the inputs."""
        return self.layers[0]

    def slope(self, weights: Named, fed: Tensor, labels: Tensor, first: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The slope of each client's mean loss in `first`, what the first layer gives, and in the layers behind it.

        weights: of these layers, with the clients in front or, while they are the same for all, without.
        fed: (m, n, d). labels: (m, n). first: (m, n, H).
        """
        entered, kept, out = [fed], [], first
        for depth, layer in enumerate(self.layers):
            if depth > 0:
                out = _affine(entered[-1], weights[layer.weight], weights[layer.bias])
            if layer.rate is not None:
                # ReLU is closed where it gave zero, as torch's backward has it; a dropped unit passes nothing either
                passed = (out > 0).to(out.dtype)
                if layer.rate > 0:
                    shape = tuple(out.shape[1:])
                    passed *= torch.stack([one.mask(shape, layer.rate, out.dtype) for one in self.draws])
                kept.append(passed)
                entered.append(out * passed)
        # d loss / d logits = (p - q) / n, where q has 1 - s + s / C at the label and s / C elsewhere
        wanted = (1 - self.smoothing) * F.one_hot(labels, self.classes).to(out.dtype) + self.smoothing / self.classes
        back = (torch.softmax(out, -1) - wanted) / fed.shape[1]
        found: dict[str, Tensor] = {}
        for depth in reversed(range(1, len(self.layers))):
            layer = self.layers[depth]
            found[layer.weight] = torch.bmm(back.transpose(1, 2), entered[depth])
            found[layer.bias] = back.sum(1)
            # matmul: of one weight for all, or of each client's own
            back = torch.matmul(back, weights[layer.weight]) * kept[depth - 1]
        return back, found


def together(run: DenseRun, members: Sequence[Local]) -> list[Release]:
    """The releases of clients whose `Local.shape` is the same."""
    draws = tuple(_Draws(one.key.child("model")) for one in members)
    net, start = _Net(run.layers, run.target.classes, run.smoothing, draws), run.target.parameters()
    protocol, many = members[0].protocol, len(members)
    if isinstance(protocol, FedSGD):
        # nobody's weights move, so the clients share them and a pass is one product for all
        slope = _gradient(net, start, *_fed(members, 0, 0))
        return [Gradient({name: slope[name][at] for name in start}) for at in range(many)]
    # the products of n examples with all before them cost n^2 d / 2, forming the weights n d H for each step's batch
    if protocol.steps_by == PLAIN and protocol.seen(_size(members[0])) <= SPAN:
        after = _by_span(net, start, members, protocol)
    elif acts_as(protocol.steps_by, ClientAdam) or acts_as(protocol.steps_by, ClientAdamW):
        after = _by_adam(net, start, members, protocol, protocol.steps_by)
    else:
        after = _by_steps(net, start, members, protocol)
    # after minus before, both rounded, as a client has them: the difference is no more exact than that
    moved = {name: after[name] - start[name] for name in start}
    return [Delta({name: moved[name][at] for name in start}) for at in range(many)]


def _by_span(net: _Net, start: Named, members: Sequence[Local], protocol: FedAvg) -> dict[str, Tensor]:
    """Plain SGD: W_k = W_0 - lr sum_j B_j^T X_j in the first layer, so W_k x needs the products X_j x alone."""
    inner = {name: value for name, value in start.items() if name not in (net.first.weight, net.first.bias)}
    share = 1.0 if protocol.summed else 1 / protocol.accumulate
    fed_before: list[Tensor] = []
    back_before: list[Tensor] = []
    for turn in range(protocol.steps):
        slopes = []
        fresh: list[tuple[Tensor, Tensor]] = []
        for place in range(protocol.accumulate):
            fed, labels = _fed(members, turn, place)
            first = F.linear(fed, start[net.first.weight], start[net.first.bias])
            if fed_before:
                # + 1: the bias is the weight of an input that is always one
                products = torch.bmm(fed, torch.cat(fed_before, 1).transpose(1, 2)) + 1
                first = torch.baddbmm(first, products, torch.cat(back_before, 1), alpha=-protocol.lr)
            back, found = net.slope(inner, fed, labels, first)
            slopes.append(found)
            fresh.append((fed, share * back))
        # behind the whole step: its micro-batches see the same weights
        fed_before += [fed for fed, _ in fresh]
        back_before += [back for _, back in fresh]
        inner = {n: v - protocol.lr * share * _total([one[n] for one in slopes]) for n, v in inner.items()}
    fed, back = torch.cat(fed_before, 1), torch.cat(back_before, 1)
    return {
        **inner,
        net.first.weight: start[net.first.weight] - protocol.lr * torch.bmm(back.transpose(1, 2), fed),
        net.first.bias: start[net.first.bias] - protocol.lr * back.sum(1),
    }


def _by_adam(
    net: _Net, start: Named, members: Sequence[Local], protocol: FedAvg, steps_by: ClientAdam | ClientAdamW
) -> dict[str, Tensor]:
    """Adam by torch's fused kernel, which reads and writes each number once; entry by entry, so over all clients."""
    own = {name: value.repeat(len(members), *([1] * value.dim())) for name, value in start.items()}
    parameters = {name: nn.Parameter(value) for name, value in own.items()}
    # the only kernel that does not go over the weights ten times; a client's own, in `release`, is the usual one
    kind = torch.optim.Adam if isinstance(steps_by, ClientAdam) else torch.optim.AdamW
    optimizer = kind(
        parameters.values(), lr=protocol.lr, betas=steps_by.betas, eps=steps_by.eps,
        weight_decay=steps_by.weight_decay, fused=True,
    )  # fmt: skip
    with torch.no_grad():
        for turn in range(protocol.steps):
            # the first step is at weights that all have in common
            at = start if turn == 0 else {name: one.detach() for name, one in parameters.items()}
            slope = _step_slope(net, at, members, turn, protocol)
            for name, one in parameters.items():
                one.grad = slope[name]
            optimizer.step()
    return {name: one.detach() for name, one in parameters.items()}


def _by_steps(net: _Net, start: Named, members: Sequence[Local], protocol: FedAvg) -> dict[str, Tensor]:
    """Any other optimizer by its recursion, whose trees may have the clients in front."""
    weights = {name: value.expand(len(members), *value.shape) for name, value in start.items()}
    moments, steps_by = Moments(), protocol.steps_by
    for turn in range(protocol.steps):
        slope = _step_slope(net, start if turn == 0 else weights, members, turn, protocol)
        change, moments = steps_by.step({n: slope[n] for n in start}, weights, moments, lr=protocol.lr)
        weights = {name: weights[name] + change[name] for name in start}
    return weights


def _step_slope(net: _Net, weights: Named, members: Sequence[Local], turn: int, protocol: FedAvg) -> dict[str, Tensor]:
    """The gradient of one step: of its micro-batches the mean, or the sum."""
    slopes = [_gradient(net, weights, *_fed(members, turn, place)) for place in range(protocol.accumulate)]
    share = 1.0 if protocol.summed else 1 / protocol.accumulate
    return slopes[0] if len(slopes) == 1 else {n: share * _total([one[n] for one in slopes]) for n in slopes[0]}


def _gradient(net: _Net, weights: Named, fed: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Of all layers."""
    first = _affine(fed, weights[net.first.weight], weights[net.first.bias])
    back, found = net.slope(weights, fed, labels, first)
    return {**found, net.first.weight: torch.bmm(back.transpose(1, 2), fed), net.first.bias: back.sum(1)}


def _affine(fed: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """fed (m, n, d) through one layer for all, or through each client's own."""
    if weight.dim() == 2:
        # all clients' examples in one product, which is what a processor is fast at
        return F.linear(fed, weight, bias)
    return torch.baddbmm(bias.unsqueeze(1), fed, weight.transpose(1, 2))


def _fed(members: Sequence[Local], turn: int, place: int) -> tuple[Tensor, Tensor]:
    """Inputs (m, n, d) and labels (m, n) of one micro-batch."""
    parts = [_rows(one.batch, one.schedule[turn][place]) for one in members]
    return torch.stack([part.inputs.flatten(1) for part in parts]), torch.stack([part.labels for part in parts])


def _rows(batch: Batch, rows: Tensor | None) -> Batch:
    # None is the whole batch: no copy of it
    return batch if rows is None else batch.rows(rows)


def _size(one: Local) -> int:
    first = one.schedule[0][0]
    return len(one.batch) if first is None else len(first)


def _total(several: Sequence[Tensor]) -> Tensor:
    return several[0] if len(several) == 1 else torch.stack(list(several)).sum(0)


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
