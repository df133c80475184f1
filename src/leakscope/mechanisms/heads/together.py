"""Thousands of classifier heads trained at once, each as `HeadTraining` trains it, in closed form."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.core.arguments import count, number
from leakscope.core.errors import BadInput
from leakscope.core.overriding import acts_as
from leakscope.mechanisms.protocols.optimizers import ClientSGD, Moments
from leakscope.mechanisms.protocols.training import HeadTraining
from leakscope.numerics.rng import Key
from leakscope.numerics.trees import Named

CHUNK = 256
"""Heads at a time: enough that a step is one large product, few enough that ten examples' kernels stay in the cache."""
ROOM = 2**25
"""Numbers of the examples behind the heads of one chunk: 128 MiB. A thousand examples of a class leave a few heads."""


@final
@dataclass(frozen=True, eq=False)
class Heads:
    """m heads of the same sizes. weights: for each layer (m, outputs, inputs). biases: for each layer (m, outputs).

    coefficients: (m, N, C) A of W = r W_0 + A^T X + noise where the training knows it, of DP-SGD; None otherwise.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    coefficients: Tensor | None = None

    def __len__(self) -> int:
        return len(self.weights[0])

    def flat(self) -> Tensor:
        """(m, P): each head's numbers in the order of its layers, weight before bias."""
        layers = zip(self.weights, self.biases, strict=True)
        return torch.cat([part.flatten(1) for pair in layers for part in pair], 1)


def first(training: HeadTraining, sizes: tuple[int, ...], many: int, *, key: Key) -> Heads:
    """What `many` trainers begin with, of the law of `HeadTraining.start`, float32 and drawn from one stream.

    sizes: (inputs, ..., outputs). Raises `BadInput` where `init_std` is None: there is no law to draw from.

    >>> first(HeadTraining(2, 0.1, init_std=0.5), (4, 3), 2, key=Key(0)).flat().shape
    torch.Size([2, 15])
    """
    if training.init_std is None:
        raise BadInput("the first weights are the target's own; give them as Heads, or a training with init_std")
    layers = list(itertools.pairwise(sizes))
    drawn = [
        torch.randn(many, after, before, generator=key.child(place).generator()).mul_(training.init_std)
        for place, (before, after) in enumerate(layers)
    ]
    return Heads(tuple(drawn), tuple(torch.zeros(many, after) for _, after in layers))


def train(
    training: HeadTraining, features: Tensor, labels: Tensor, start: Heads, *, positive_weight: float = 1.0
) -> Heads:
    """The heads that `training` makes of `start`; head i is trained on features[i].

    features: (m, N, d). labels: (m, N) int64. Several outputs are logits of classes with cross-entropy; one output is
    the logit of class 1 with binary cross-entropy, whose positive examples count `positive_weight` times. Layers are
    joined by ReLU. One layer and SGD take the dual form while there are no more examples than features, since its
    kernel is N x N; anything else closed gradients.
    Raises `BadInput` on shapes or labels that do not fit.
    """
    positive_weight = number("positive_weight", positive_weight, low=0, low_open=True)
    hot = told(features, labels, start)
    _, size, wide = features.shape
    if len(start.weights) == 1 and size <= wide and acts_as(training.optimizer, ClientSGD):
        return _dual(training, features, hot, start, positive_weight)
    return _direct(training, features, hot, start, positive_weight)


def together(size: int, wide: int) -> int:
    """How many heads on `size` examples of `wide` features are trained at a time, at most `CHUNK`.

    >>> together(10, 256), together(10_000, 256)
    (256, 13)
    """
    return max(1, min(CHUNK, ROOM // (size * wide)))


def sets(labels: Tensor, each: int, *, key: Key) -> Iterator[Tensor]:
    """Index sets (classes * each,) without end, ordered by class.

    Each class is permuted, cut into groups of `each`, and permuted anew when the smallest class has no whole group
    left: no example is in two sets of one pass.
    labels: (n,) int64, every class 0, 1, ... with at least `each` examples; raises `BadInput` otherwise.
    """
    count("each", each)
    classes = int(labels.max()) + 1
    members = [(labels == one).nonzero().flatten() for one in range(classes)]
    groups = min(len(one) for one in members) // each
    if groups == 0:
        raise BadInput(f"every one of the {classes} classes needs at least {each} examples; give more")
    turn = 0
    while True:
        own = key.child("pass", turn)
        mixed = [one[torch.randperm(len(one), generator=own.child(k).generator())] for k, one in enumerate(members)]
        for group in range(groups):
            yield torch.cat([one[group * each : (group + 1) * each] for one in mixed])
        turn += 1


def streamed(
    training: HeadTraining, features: Tensor, labels: Tensor, each: int, many: int, *, key: Key
) -> Iterator[tuple[Tensor, Heads]]:
    """`many` linear heads on sets of a public pool, some at a time: the sets' indices (m, N), and the heads.

    features: (n, d), labels: (n,). Nothing is kept: a chunk is a function of the key and of its place, so that whoever
    needs the heads again trains them again, which costs less than reading them from a disk.
    """
    drawn, classes = sets(labels, each, key=key.child("sets")), int(labels.max()) + 1
    chunk = together(classes * each, features.shape[1])
    for place, begin in enumerate(range(0, many, chunk)):
        rows = torch.stack([next(drawn) for _ in range(min(chunk, many - begin))])
        start = first(training, (features.shape[1], classes), len(rows), key=key.child("start", place))
        yield rows, train(training, features[rows], labels[rows], start)


def slope(logits: Tensor, hot: Tensor, positive_weight: float) -> Tensor:
    """d loss / d logits of each example by itself, (m, N, C) like both; `hot` is one-hot, or 0 and 1 for one output."""
    if logits.shape[-1] > 1:
        return torch.softmax(logits, -1).sub_(hot)
    # -(w y log s + (1 - y) log(1 - s)) has the slope s (1 - y + w y) - w y: at w = 1 the usual s - y
    return torch.sigmoid(logits) * (1 + (positive_weight - 1) * hot) - positive_weight * hot


def coefficients(
    training: HeadTraining, kernel: Tensor, begun: Tensor, hot: Tensor, *, positive_weight: float = 1.0
) -> tuple[float, Tensor]:
    """r and A (m, N, C) of the weights W = r W_0 + A^T X that SGD ends with: it never leaves this span.

    kernel: X X^T + 1 (m, N, N). begun: the logits X W_0^T + b_0 of the first weights. hot: as `slope` takes it. Both
    r and A depend on the examples only through these two. The bias is r b_0 + A^T 1.
    Every step is linear in weights and gradient, and the gradient is P^T X / N: iterated are the factor r and the
    coefficients A, never the (C, d) weights. The bias is the weight of an input that is always one, hence + 1 in the
    kernel. A step costs N^2 C instead of 2 N d C. Raises `BadInput` for other optimizers than SGD.

    >>> kernel, begun, hot = torch.full((1, 1, 1), 2.0), torch.zeros(1, 1, 2), torch.tensor([[[1.0, 0.0]]])
    >>> coefficients(HeadTraining(1, 0.1), kernel, begun, hot)
    (1.0, tensor([[[ 0.0500, -0.0500]]]))
    """
    optimizer = training.optimizer
    if not acts_as(optimizer, ClientSGD):
        raise BadInput(f"{optimizer!r} divides entry by entry, which no span of examples holds; give ClientSGD()")
    many = kernel.shape[-1]
    kept, pulled = 1.0, torch.zeros_like(begun)
    moments = Moments()
    for rate in training.rates:
        at = slope(torch.baddbmm(begun, kernel, pulled, beta=kept), hot, positive_weight)
        if optimizer.momentum == 0:
            # in place, where nothing is remembered: half of the time of the recursion below
            rho = 1 - rate * optimizer.weight_decay
            pulled.mul_(rho).add_(at, alpha=-rate / many)
            kept *= rho
            continue
        # the same linear recursion acts on r, whose gradient is zero, and on A, whose gradient is P / N
        state: Named = {"kept": torch.tensor(kept, dtype=torch.float64), "pulled": pulled}
        change, moments = optimizer.step(
            {"kept": torch.zeros((), dtype=torch.float64), "pulled": at / many}, state, moments, lr=rate
        )
        kept, pulled = kept + float(change["kept"]), pulled + change["pulled"]
    return kept, pulled


def _dual(training: HeadTraining, features: Tensor, hot: Tensor, start: Heads, positive_weight: float) -> Heads:
    """The weights by their coefficients in the span of the first weights and the examples."""
    first_weight, first_bias = start.weights[0], start.biases[0]
    kernel = torch.bmm(features, features.transpose(1, 2)) + 1
    begun = torch.baddbmm(first_bias.unsqueeze(1), features, first_weight.transpose(1, 2))
    kept, pulled = coefficients(training, kernel, begun, hot, positive_weight=positive_weight)
    weight = torch.baddbmm(first_weight, pulled.transpose(1, 2), features, beta=kept)
    return Heads((weight,), (kept * first_bias + pulled.sum(1),))


def _direct(training: HeadTraining, features: Tensor, hot: Tensor, start: Heads, positive_weight: float) -> Heads:
    """The weights themselves, by closed gradients: Adam divides entry by entry, which no span of examples holds."""
    layers = range(len(start.weights))
    weights: dict[str, Tensor] = {f"w{k}": start.weights[k] for k in layers} | {
        f"b{k}": start.biases[k] for k in layers
    }
    moments = Moments()
    for rate in training.rates:
        fed, last = [features], len(start.weights) - 1
        for k in layers:
            out = torch.baddbmm(weights[f"b{k}"].unsqueeze(1), fed[k], weights[f"w{k}"].transpose(1, 2))
            fed.append(out if k == last else out.relu())
        back = slope(fed[-1], hot, positive_weight) / features.shape[1]
        grown: dict[str, Tensor] = {}
        for k in reversed(layers):
            grown[f"w{k}"], grown[f"b{k}"] = torch.bmm(back.transpose(1, 2), fed[k]), back.sum(1)
            if k > 0:
                # through the ReLU that made fed[k]: closed where it gave zero, as torch's own backward has it
                back = torch.bmm(back, weights[f"w{k}"]) * (fed[k] > 0)
        change, moments = training.optimizer.step({n: grown[n] for n in weights}, weights, moments, lr=rate)
        weights = {name: value + change[name] for name, value in weights.items()}
    return Heads(tuple(weights[f"w{k}"] for k in layers), tuple(weights[f"b{k}"] for k in layers))


def told(features: Tensor, labels: Tensor, start: Heads) -> Tensor:
    """The labels as numbers (m, N, C). Raises `BadInput` on what does not fit."""
    outputs, many = start.biases[-1].shape[1], len(start)
    if features.dim() != 3 or len(features) != many or features.shape[2] != start.weights[0].shape[2]:
        raise BadInput(
            f"expected features ({many}, N, {start.weights[0].shape[2]}), got {tuple(features.shape)}; one set for "
            "each head, and as wide as its first layer"
        )
    if labels.shape != features.shape[:2] or labels.dtype != torch.int64:
        raise BadInput(f"expected labels {tuple(features.shape[:2])} int64, got {tuple(labels.shape)} {labels.dtype}")
    if int(labels.min()) < 0 or int(labels.max()) >= max(outputs, 2):
        raise BadInput(
            f"labels must be from 0 to {max(outputs, 2) - 1}, got {int(labels.min())} to {int(labels.max())}"
        )
    if outputs == 1:
        return labels.unsqueeze(2).to(features.dtype)
    return torch.eye(outputs, dtype=features.dtype)[labels]
