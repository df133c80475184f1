"""How far a claim may be from inputs that are nearly one another, and of which it is the mean: asked of the model."""

from __future__ import annotations

import math
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leakscope.attacks.inputs.dense.silent_errors import MOST_PAIRS, Resting
from leakscope.attacks.parts.reading.explained import LIKELY
from leakscope.attacks.parts.reading.output_gradient import read_output, told_count
from leakscope.core.claim import Inputs
from leakscope.core.observation import Observation
from leakscope.core.overriding import acts_as
from leakscope.core.refusal import Refusal
from leakscope.core.target import CrossEntropy
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.reading import clipped
from leakscope.numerics.rng import Key
from leakscope.targets.looking.dense_ends import DenseLayer

Array = NDArray[np.float64]

STEP = 1e-2
"""Relative distance from the claim at which two inputs are tried that have it as their mean."""
TURNS = 3
"""How often the distance is found anew, at the one that was found."""
LEAST = 1e-5
"""Least distance that is tried, well above rounding in float64."""
CAUTION = 4.0
"""By what a residual is multiplied before it is compared with theirs: others may leave less than those that are tried,
and a distance counts as the root of it."""
SPARSE = 0.1
"""Share of the values that differ where only some do."""
SINGLE = 128
"""How many values are tried that differ alone."""
AT_END = 1e-6
"""Of the range, how near to an end of it a value counts as that: others at twice this distance would be its mean."""
MANY = 32
"""How many pairs are tried at once, half as many as the examples behind a claim may be."""


def hidden_distance(
    seen: Observation, layer: DenseLayer, claim: Inputs, residuals: tuple[float, ...], *, units: Tensor | None = None
) -> tuple[float, ...]:
    """(N,) how far each claimed input may be, relative to itself, from inputs whose mean it is; infinite if unknown.

    Two inputs x + d and x - d of errors e + J d and e - J d give the gradient e x^T + (J d) d^T, which is that of their
    mean but for a residual of about |J d| |d|, the square of their distance: what rounding leaves of one example hides
    inputs at its root. How far that is depends on the model, which is run on such pairs, first at `STEP`: other
    in all values, in a tenth of them, in each single one (`SINGLE` of them at most), and as the claim is from itself
    moved by half; and on `MANY` pairs at once, which differ from each other in all values, since what many examples
    leave has many directions, each of them small. Not brighter and darker: examples whose errors differ in size alone
    may have any mean of theirs, which is said with every such certificate. The distance is that of the nearest of them:
    of many that are alike and a few others, the others are further off.
    residuals: of the layer's gradient, relative to it. units: (N, H), those whose rows each residual is of; all where
    None, and then it is relative to the whole batch, in which each example has its own part.
    """
    count = len(claim)
    tried = _labels(seen, claim)
    if not acts_as(seen.target.loss, CrossEntropy) or count * len(tried[0]) > MOST_PAIRS:
        return (math.inf,) * count
    pairs = _Pairs(seen, layer, claim, np.array(tried, np.int64), units)
    found, step = np.zeros(count), np.full(count, STEP)
    for _ in range(TURNS):
        # Nearer by, no unit may change between them that does further off, and less is left than by the square.
        off = step * np.sqrt(CAUTION * np.array(residuals) / np.maximum(pairs.left(step), 1e-300))
        found = np.maximum(found, off)
        step = off.clip(LEAST, STEP)
    return tuple(found.tolist())


@final
class _Pairs:
    """Pairs of inputs that have a claimed one as their mean, and what their gradients leave when it is taken for one.

    labels: (N, L), those that each input may have. units: as in `hidden_distance`.
    """

    def __init__(
        self, seen: Observation, layer: DenseLayer, claim: Inputs, labels: NDArray[np.int64], units: Tensor | None
    ) -> None:
        self._values = claim.values.detach().double().cpu().flatten(1).numpy()
        self._sizes = np.linalg.norm(self._values, axis=1, keepdims=True)
        # A value at an end of its range is the mean of nothing but itself.
        low, high = (
            bound.double().cpu().expand(claim.values.shape).flatten(1).numpy() for bound in _bounds(seen, claim)
        )
        room, whole = np.minimum(self._values - low, high - self._values), high - low
        # Not `>` of a range without end, which nothing is: there every value can differ.
        self._directions = _directions(self._values, ~(np.isfinite(whole) & (room <= AT_END * whole)))
        self._labels, self._resting = labels, Resting(seen.target, layer)
        self._units = None if units is None else units.cpu().numpy()
        self._whole = 0.0 if units is not None else _whole(seen, layer, len(claim))
        self._clipped = clipped(seen) is not Answer.NO

    def left(self, step: Array) -> Array:
        """(N,) the least residual of pairs at the relative distance `step` (N,), in the units of the claim's own."""
        count, many = len(self._values), len(self._directions)
        left, sizes = np.full(count, math.inf), np.zeros(count)
        away = (step[:, None] * self._sizes * self._directions).reshape(many * count, -1)
        base = np.tile(self._values, (many, 1))
        for label in self._labels.T:
            labels = torch.from_numpy(np.tile(label, many))
            above, below = (self._resting.slopes(given, labels=labels) for given in (base + away, base - away))
            middle, half = ((above + sign * below).reshape(many, count, -1) / 2 for sign in (1, -1))
            if self._units is not None:
                middle, half = middle * self._units, half * self._units
            moved = away.reshape(many, count, -1)
            first, second = _singular(middle, half, self._values, moved)
            cloud = _cloud(middle[:MANY].mean(0), half[:MANY], self._values, moved[:MANY])
            # What has no room to differ is no pair.
            second = np.where(self._directions.any(2), second, math.inf)
            cloud = np.where(self._directions[:MANY].any((0, 2)), cloud, math.inf)
            for one in (*second, cloud):
                # Of an input whose errors vanish nothing is in the update, and two of them leave nothing either.
                own = one if self._units is None else one / np.maximum(first.max(0), 1e-300)
                left = np.minimum(left, own)
            sizes = np.maximum(sizes, first.max(0))
        if self._units is not None:
            return left
        # A clip makes the update smaller, and not what each example left.
        return np.asarray(left / max(self._whole, float(sizes.sum()) if self._clipped else 0.0, 1e-300))


def _singular(middle: Array, half: Array, inputs: Array, away: Array) -> tuple[Array, Array]:
    """The two singular values of e [x, 1]^T + f [d, 0]^T, (K, N) each, with e, f: (K, N, H), x: (N, D), d: (K, N, D).

    The second is the area of both pairs over the first: as a root of the eigenvalues it would be rounding.
    """
    extended = np.concatenate([inputs, np.ones((len(inputs), 1))], 1)[None]
    moved = np.concatenate([away, np.zeros((*away.shape[:2], 1))], 2)
    one, other = np.linalg.norm(middle, axis=2), np.linalg.norm(extended, axis=2)
    area = (
        one * np.linalg.norm(_beside(half, middle), axis=2) * other * np.linalg.norm(_beside(moved, extended), axis=2)
    )
    total = (one * other) ** 2 + (np.linalg.norm(half, axis=2) * np.linalg.norm(moved, axis=2)) ** 2
    total = total + 2 * (middle * half).sum(2) * (extended * moved).sum(2)
    first = np.sqrt((total + np.sqrt(np.maximum(total**2 - 4 * area**2, 0))) / 2)
    return first, area / np.maximum(first, 1e-300)


def _cloud(middle: Array, half: Array, inputs: Array, away: Array) -> Array:
    """(N,) the size of mean_k f_k [d_k, 0]^T beside e and [x, 1], with e: (N, H), f: (K, N, H), x: (N, D)."""
    extended = np.concatenate([inputs, np.ones((len(inputs), 1))], 1)[None]
    f = _beside(half, middle[None]).swapaxes(0, 1)
    d = _beside(np.concatenate([away, np.zeros((*away.shape[:2], 1))], 2), extended).swapaxes(0, 1)
    # |sum f_k d_k^T|^2 is the sum over k, l of (f_k f_l) (d_k d_l).
    squared = ((f @ f.swapaxes(1, 2)) * (d @ d.swapaxes(1, 2))).sum((1, 2))
    return np.asarray(np.sqrt(np.maximum(squared, 0)) / half.shape[0])


def _beside(given: Array, base: Array) -> Array:
    """The part of `given` orthogonal to `base`, along the last axis."""
    size = np.maximum((base * base).sum(-1, keepdims=True), 1e-300)
    return np.asarray(given - (given * base).sum(-1, keepdims=True) / size * base)


def _bounds(seen: Observation, claim: Inputs) -> tuple[Tensor, Tensor]:
    return seen.target.domain.bounds(claim.values.detach())


def _directions(values: Array, free: NDArray[np.bool_]) -> Array:
    """(K, N, D) what is added to each of (N, D) and taken from it, of length one each; the first `MANY` are noise.

    free: (N, D), the values that can be higher and lower; the others stay as they are.
    """
    rng = Key(0).child("near duplicates").numpy()
    count, size = values.shape
    noise = rng.standard_normal((MANY, count, size))
    # The largest of as many random numbers: of a few values at least one.
    chosen = rng.random(values.shape)
    least = np.quantile(chosen, 1 - SPARSE, axis=1, keepdims=True, method="lower")
    some = rng.standard_normal(values.shape) * (chosen >= least)
    moved = np.roll(values, size // 2, 1) - values
    # Fewer of many claims, which are run together.
    single = np.zeros((min(size, max(SINGLE // count, 8)), count, size))
    single[np.arange(len(single)), :, rng.permutation(size)[: len(single)]] = 1
    every = np.concatenate([noise, some[None], moved[None], single]) * free
    return np.asarray(every / np.maximum(np.linalg.norm(every, axis=2, keepdims=True), 1e-300))


def _whole(seen: Observation, layer: DenseLayer, count: int) -> float:
    """|G| of the sum over examples, of which at least `count` are behind the mean that was sent."""
    sent = seen.gradient().by_name
    assert layer.bias is not None
    norms = [float(torch.linalg.vector_norm(sent[name].double())) for name in (layer.weight, layer.bias)]
    return max(count, told_count(seen)) * math.hypot(*norms)


def _labels(seen: Observation, claim: Inputs) -> list[list[int]]:
    """Of each input its label, or those that may be it: the classes whose bias gradient is lowest."""
    if claim.labels is not None:
        return [[label] for label in claim.labels.tolist()]
    output = read_output(seen)
    few = list(range(min(seen.target.classes, LIKELY)))
    if not isinstance(output, Refusal) and output.bias is not None:
        few = output.bias.argsort()[:LIKELY].tolist()
    return [few] * len(claim)
