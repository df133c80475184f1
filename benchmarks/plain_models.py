"""Random models and private batches for `certificates.py`, in plain PyTorch: what a client may train."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import leakscope as ls

Draw = torch.Generator
ACTIVATIONS = (nn.ReLU, nn.ReLU, nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.ELU, nn.LeakyReLU, nn.SiLU, nn.Softplus)
INVERTIBLE = (nn.Sigmoid, nn.Sigmoid, nn.Tanh, nn.ELU, nn.LeakyReLU)
WORDS = 30


@dataclass(frozen=True, eq=False)
class World:
    """What is declared (`target`), what the client trains and on what, and its random numbers."""

    target: ls.Target
    net: nn.Module
    inputs: Tensor
    labels: Tensor
    draw: Draw


def chance(draw: Draw) -> float:
    """Uniform in [0, 1)."""
    return float(torch.rand((), generator=draw))


def whole(least: int, most: int, draw: Draw) -> int:
    """A whole number from `least` to `most`, both included."""
    return least + int(torch.randint(most - least + 1, (), generator=draw))


def pictures(count: int, size: int, draw: Draw) -> Tensor:
    """(count, 1, size, size) in [0, 1]: even, dark, sparse as digits are, black and white, or with a repetition."""
    images = torch.rand(count, 1, size, size, generator=draw)
    kind = whole(0, 9, draw)
    if kind == 1:
        return images * 0.02
    if kind in (2, 3):
        return images * (torch.rand(images.shape, generator=draw) < 0.5)
    if kind == 4:
        return (images > 0.5).float()
    if kind == 5 and count > 1:
        return images[[0, *range(count - 1)]]
    return images


def dense(classes: int, size: int, draw: Draw) -> nn.Module:
    """Two or three dense layers, sometimes with batch normalization, sometimes sure of what they say."""
    widths = [size * size, *(whole(24, 80, draw) for _ in range(whole(1, 2, draw))), classes]
    act, norm = ACTIVATIONS[whole(0, len(ACTIVATIONS) - 1, draw)], chance(draw) < 0.2
    layers: list[nn.Module] = [nn.Flatten()]
    for place, (given, made) in enumerate(itertools.pairwise(widths)):
        layers.append(nn.Linear(given, made))
        if norm and place == 0:
            layers.append(_used(nn.BatchNorm1d(made)))
        if place < len(widths) - 2:
            layers.append(act())
    return _headed(nn.Sequential(*layers), draw)


def resting(classes: int, size: int, draw: Draw) -> nn.Module:
    """Units at rest enough to tell a few examples apart."""
    width = whole(90, 160, draw)
    return _headed(
        nn.Sequential(nn.Flatten(), nn.Linear(size * size, width), nn.ReLU(), nn.Linear(width, classes)), draw
    )


def many_classes(classes: int, size: int, draw: Draw) -> nn.Module:
    """Two or three dense layers through ReLU, sometimes through another activation, and classes enough for rows."""
    widths = [size * size, *(whole(24, 60, draw) for _ in range(whole(1, 2, draw))), 5 * classes]
    act = ACTIVATIONS[whole(0, len(ACTIVATIONS) - 1, draw)] if chance(draw) < 0.2 else nn.ReLU
    layers: list[nn.Module] = [nn.Flatten()]
    for given, made in itertools.pairwise(widths):
        layers += [nn.Linear(given, made), act()]
    return _headed(nn.Sequential(*layers[:-1]), draw)


def layered(classes: int, size: int, draw: Draw) -> nn.Module:
    """Two convolutions that can be undone, and a dense layer."""
    act = INVERTIBLE[whole(0, len(INVERTIBLE) - 1, draw)]
    narrow, broad, side = whole(9, 12, draw), whole(20, 28, draw), (size + 1) // 2
    first = (nn.Conv2d(1, narrow, 3, 2, 1), act(), nn.Conv2d(narrow, broad, 3, 1, 1), act())
    return nn.Sequential(*first, nn.Flatten(), nn.Linear(broad * side * side, classes))


def _used(norm: nn.BatchNorm1d) -> nn.BatchNorm1d:
    """With statistics as of a model in use."""
    nn.init.uniform_(norm.running_var, 0.05, 0.5)
    nn.init.normal_(norm.running_mean, 0, 0.3)
    return norm


def _headed(net: nn.Sequential, draw: Draw) -> nn.Module:
    kind = whole(0, 9, draw)
    if kind < 2:
        with torch.no_grad():
            net[-1].weight.mul_((6.0, 0.05)[kind])
    return net


def unbiased(net: nn.Module, *, everywhere: bool) -> None:
    """The output layer loses its bias, or all layers do: the size of an error is then the loss's word alone."""
    layers = [one for one in net.modules() if isinstance(one, nn.Linear | nn.Conv2d)]
    for layer in layers if everywhere else layers[-1:]:
        layer.bias = None


class Patches(nn.Module):
    """A vision transformer: patches, learned places, one or two layers, the mean, classes."""

    def __init__(self, size: int, classes: int, draw: Draw) -> None:
        nn.Module.__init__(self)
        dim, patch = 8 * whole(3, 5, draw), size // 2
        self.patch = nn.Conv2d(1, dim, patch, patch)
        self.places = nn.Parameter(0.02 * torch.randn(1, 4, dim))
        first = chance(draw) < 0.5
        layer = nn.TransformerEncoderLayer(dim, 2, 2 * dim, dropout=0.0, batch_first=True, norm_first=first)
        self.body = nn.TransformerEncoder(layer, whole(1, 2, draw), enable_nested_tensor=False)
        self.head = nn.Linear(dim, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, size, size) to (B, classes)."""
        return self.head(self.body(self.patch(images).flatten(2).transpose(1, 2) + self.places).mean(1))


class Texts(nn.Module):
    """A classifier of four tokens that sees their order."""

    def __init__(self, classes: int, draw: Draw) -> None:
        nn.Module.__init__(self)
        dim = 8 * whole(3, 5, draw)
        self.words, self.places = nn.Embedding(WORDS, dim), nn.Embedding(4, dim)
        layer = nn.TransformerEncoderLayer(dim, 2, 48, dropout=0.0, batch_first=True, norm_first=chance(draw) < 0.3)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(dim, classes)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, 4) ids to (B, classes)."""
        return self.head(self.encoder(self.words(ids) + self.places(torch.arange(ids.shape[1]))).mean(1))


BY_ROWS = ("RevealedFeatures", "RevealedLabels", "LabelCounts")
"""Attacks that take a batch apart at an output layer of many classes."""


def drawn(name: str, draw: Draw, *, least: int = 1) -> World:
    """A world that the attack of that name is made for, of `least` examples or more."""
    classes, size = whole(2, 7, draw), whole(3, 4, draw) * 2
    count = max(least, 1 if name in ("Recursive", "FirstAttention") else (1, 1, 1, 1, 1, 2, 3)[whole(0, 6, draw)])
    with torch.random.fork_rng():
        seed = whole(0, 2**31 - 2, draw)
        torch.manual_seed(seed)
        if name == "EmbeddingSpan":
            net: nn.Module = Texts(classes, draw)
        elif name == "FirstAttention":
            net = Patches(size, classes, draw)
        else:
            made = {"Recursive": layered, "LowRank": resting} | dict.fromkeys(BY_ROWS, many_classes)
            net = made.get(name, dense)(classes, size, draw)
            # Counts are read with the output layer's bias gradient, and refused without: such a trial cannot fail.
            if seed % 3 == 0 and name != "LabelCounts":
                unbiased(net, everywhere=seed % 2 == 0)
    domain = ls.Text(WORDS, 4) if name == "EmbeddingSpan" else ls.Images(1, size, size)
    if name in BY_ROWS:
        # Two classes for each sample, one for each label, and some.
        classes = next(layer for layer in reversed(list(net.modules())) if isinstance(layer, nn.Linear)).out_features
        count = max(count, whole(2 if name == "LabelCounts" else 1, 4, draw))
    if name == "EmbeddingSpan":
        inputs = torch.randint(1, WORDS, (count, 4), generator=draw)
    else:
        inputs = pictures(count, size, draw)
    labels = torch.randint(classes, (count,), generator=draw)
    if chance(draw) < 0.3:
        labels = labels[:1].repeat(count)
    net = net.eval()
    return World(ls.Target(net, domain, classes), net, inputs, labels, draw)
