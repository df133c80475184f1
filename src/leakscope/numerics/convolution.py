"""What a convolution and its weight gradient say of its input, as one linear system."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from leakscope.numerics import conjugate

Array = NDArray[np.float64]
Places = NDArray[np.int64]

SINGULAR = 1e-6
"""Smallest singular value, relative to the largest, at which a system counts as having full rank."""
SMALLEST = 1e-100
"""Size of the numbers below which their squares are not to be trusted."""
EASY = 0.05
"""The same, above which conjugate gradients are fast and the matrix is never formed."""


@final
@dataclass(frozen=True, eq=False)
class Unfolded:
    """A convolution of one example as a product: y (O, P) = weight (O, C K) @ x[places] + bias.

    places: (K, P) flat positions in one channel of height * width values, -1 for padding. channels: C.
    """

    weight: Array
    bias: Array
    places: Places
    channels: int
    pixels: int

    @staticmethod
    def of(layer: nn.Conv2d, given: tuple[int, ...]) -> Unfolded:
        """The layer on an input (C, height, width). The padding is given in numbers: zeros."""
        channels, height, width = given
        # torch unfolds the positions themselves, counted from 1: its zeros of padding then become -1.
        positions = torch.arange(1, height * width + 1, dtype=torch.float64).reshape(1, 1, height, width)
        padding = (0, 0) if isinstance(layer.padding, str) else layer.padding
        places = F.unfold(positions, layer.kernel_size, layer.dilation, padding, layer.stride)[0].long() - 1
        weight = layer.weight.detach().double().cpu().flatten(1).numpy()
        bias = np.zeros(len(weight)) if layer.bias is None else layer.bias.detach().double().cpu().numpy()
        return Unfolded(weight, bias, places.numpy(), channels, height * width)

    def gathered(self, x: Array) -> Array:
        """(C, pixels) to (C K, P), zeros for padding."""
        # A last column of zeros is what place -1 refers to.
        padded = np.hstack([x, np.zeros((len(x), 1))])
        return padded[:, self.places].reshape(len(x) * len(self.places), -1)

    def scattered(self, columns: Array) -> Array:
        """(C K, P) to (C, pixels): the transpose of `gathered`."""
        flat = columns.reshape(self.channels, -1)
        # What the padding would get goes into one position more, which is cut off. bincount adds where a place repeats.
        targets = np.where(self.places < 0, self.pixels, self.places).reshape(-1)
        return np.stack([np.bincount(targets, row, self.pixels + 1)[: self.pixels] for row in flat])

    def back(self, errors: Array) -> Array:
        """The loss's derivative by x, (C, pixels), from that by y, (O, P)."""
        return self.scattered(self.weight.T @ errors)


@final
@dataclass(frozen=True, eq=False)
class Solved:
    """x: (C, pixels). least: the smallest singular value of the scaled system relative to its largest. residual:
    relative, of all equations together."""

    x: Array
    least: float
    residual: float


@final
@dataclass(frozen=True, eq=False)
class System:
    """The equations of one layer for its input x, each block scaled to right sides of size one.

    Weight constraints: sure * (W x[places] + b) = sure * values, (O, P); `sure` is zero where the value is unknown.
    Gradient constraints: errors @ x[places]^T = gradient, (O, C K).
    """

    layer: Unfolded
    values: Array
    sure: Array
    errors: Array
    gradient: Array

    def scales(self) -> tuple[float, float]:
        """Factors of the two blocks; one whose right side vanishes is scaled by its left side, or has no say."""
        right = self.sure * (self.values - self.layer.bias[:, None])
        return _scale(right, self.sure), _scale(self.gradient, self.errors)

    def shared(self) -> Array:
        """(pixels, pixels): A^T A of the gradient constraints, the same for each channel of x."""
        layer = self.layer
        # Row (o, k) has sum_p errors[o, p] x[places[k, p]], the equations of one channel of x, which meets no other.
        # Padding goes into the last column, cut off below.
        mixed = np.zeros((len(self.errors), len(layer.places), layer.pixels + 1))
        for place in range(layer.places.shape[1]):
            mixed[:, np.arange(len(layer.places)), layer.places[:, place]] += self.errors[:, place, None]
        flat = mixed[..., : layer.pixels].reshape(-1, layer.pixels)
        return np.asarray(self.scales()[1] ** 2 * (flat.T @ flat))

    def normal(self, shared: Array) -> Array:
        """(C pixels, C pixels): A^T A of all constraints, block by block of places that a window sees together."""
        layer, forward = self.layer, self.scales()[0]
        normal: Array = scipy.linalg.block_diag(*[shared] * layer.channels)
        offsets = layer.pixels * np.arange(layer.channels)[:, None]
        # One position p of y at a time: its O equations involve only what its window sees, a block of C K by C K.
        for place in range(layer.places.shape[1]):
            inside = np.tile(layer.places[:, place] >= 0, layer.channels)
            seen = (offsets + layer.places[:, place]).reshape(-1)[inside]
            weighted = forward * self.sure[:, place, None] * layer.weight[:, inside]
            normal[np.ix_(seen, seen)] += weighted.T @ weighted
        return normal

    def remainder(self, x: Array) -> tuple[Array, float]:
        """A^T (right - A x) as (C, pixels), and |right - A x| / |right|."""
        layer, (forward, backward) = self.layer, self.scales()
        gathered = layer.gathered(x)
        values = forward * self.sure * (self.values - layer.bias[:, None] - layer.weight @ gathered)
        gradient = backward * (self.gradient - self.errors @ gathered.T)
        # Each block's factor enters twice, once in its residual and once in A^T.
        columns = layer.weight.T @ (forward * self.sure * values) + backward * gradient.T @ self.errors
        right = forward * self.sure * (self.values - layer.bias[:, None])
        # Relative to the right sides as they are scaled, so that neither block can hide behind the other's size.
        total = np.sum(right**2) + np.sum((backward * self.gradient) ** 2)
        return layer.scattered(columns), float(np.sqrt((np.sum(values**2) + np.sum(gradient**2)) / total))

    def times(self, x: Array) -> Array:
        """A^T A x, (C, pixels), without forming the matrix."""
        (forward, backward), gathered = self.scales(), self.layer.gathered(x)
        values = (forward * self.sure) ** 2 * (self.layer.weight @ gathered)
        gradient = backward**2 * (self.errors @ gathered.T)
        return self.layer.scattered(self.layer.weight.T @ values + gradient.T @ self.errors)

    def solve(self) -> Solved | None:
        """Least squares; None when the rank is not full.

        Where the gradient constraints alone determine x, a bound on the singular values is known from one channel, and
        conjugate gradients solve it. Otherwise by the normal equations, refined on the equations themselves.
        """
        shared = self.shared()
        # The weight constraints only add to A^T A, so the smallest eigenvalue of the gradient block is a lower bound.
        lowest, largest = float(np.linalg.eigvalsh(shared)[0]), self._largest()
        if not largest > 0:
            return None  # no unit is awake, and nothing is an equation
        least = math.sqrt(max(lowest, 0.0) / largest)
        if least > EASY:
            # A^T A x = A^T right. A condition of 1 / EASY^2 = 400 at most lets a few hundred products reach rounding.
            start = np.zeros((self.layer.channels, self.layer.pixels))
            x = conjugate.solved(self.times, self.remainder(start)[0], within=1e-14, most=1000)
            return Solved(x, least, self.remainder(x)[1])
        return self._direct(shared)

    def _largest(self) -> float:
        """The largest eigenvalue of A^T A, from a fixed start."""
        x = np.random.default_rng(0).standard_normal((self.layer.channels, self.layer.pixels))
        size = 1.0
        # Power iteration, from below; some percent are enough, since EASY is no sharp line.
        for _ in range(20):
            x = self.times(x / np.linalg.norm(x))
            size = float(np.linalg.norm(x))
            if not size > 0:
                break
        return size

    def _direct(self, shared: Array) -> Solved | None:
        normal = self.normal(shared)
        diagonal = np.sqrt(np.diag(normal))
        if not (diagonal > 0).all():
            return None
        # Unit diagonal: what is left of the condition is not that of pixels seen by few windows.
        normal /= diagonal[:, None]
        normal /= diagonal
        try:
            factor = scipy.linalg.cho_factor(normal, check_finite=False)
        except np.linalg.LinAlgError:
            return None
        least = _least(normal, factor)
        if not least > SINGULAR:
            return None
        x = np.zeros((self.layer.channels, self.layer.pixels))
        # Refined on the equations themselves: the normal matrix has the condition squared, and four steps take it back.
        for _ in range(4):
            down, _ = self.remainder(x)
            step = scipy.linalg.cho_solve(factor, down.reshape(-1) / diagonal, check_finite=False) / diagonal
            x = x + step.reshape(x.shape)
        return Solved(x, least, self.remainder(x)[1])


def _scale(right: Array, left: Array) -> float:
    """1 / root mean square of the first of them that is not zero."""
    sizes = (float(np.sqrt(np.mean(side**2))) for side in (right, left))
    return next((1 / size for size in sizes if size > SMALLEST), 0.0)


def _least(normal: Array, factor: tuple[Array, bool]) -> float:
    """sqrt(smallest / largest eigenvalue) of a positive definite matrix, by iteration from a fixed start."""
    # A fixed start: whether a layer is refused may not depend on a key.
    start = np.random.default_rng(0).standard_normal(len(normal))
    high, low = start / np.linalg.norm(start), start / np.linalg.norm(start)
    largest = smallest = 1.0
    for _ in range(20):
        high = normal @ high
        largest = float(np.linalg.norm(high))
        high /= largest
        # Inverse iteration, by the factor that the solution needs anyway.
        low = scipy.linalg.cho_solve(factor, low, check_finite=False)
        smallest = 1 / float(np.linalg.norm(low))
        low *= smallest
    return float(np.sqrt(smallest / largest))
