"""How far a claim may be from inputs that are nearly one another, and of which it is the mean: asked of the model."""

from __future__ import annotations

import itertools
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


def hidden_distance(
    seen: Observation, layer: DenseLayer, claim: Inputs, residuals: tuple[float, ...], *, units: Tensor | None = None
) -> tuple[float, ...]:
    """(N,) how far each claimed input may be, relative to itself, from inputs whose mean it is; infinite if unknown.

    Two inputs x + d and x - d of errors e + J d and e - J d give the gradient e x^T + (J d) d^T, which is that of their
    mean but for a residual of about |J d| |d|, the square of their distance: what rounding leaves of one example hides
    inputs at its root. How far that is depends on the model, which is run on such pairs, first at `STEP`: other
    in all values, in a tenth of them, and as the claim is from itself moved by half. Not brighter and darker: examples
    whose errors differ in size alone may have any mean of theirs, which is said with every such certificate.
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
        self._directions = _directions(self._values)
        self._labels, self._resting = labels, Resting(seen.target, layer)
        self._units = None if units is None else units.cpu().numpy()
        self._whole = 0.0 if units is not None else _whole(seen, layer, len(claim))
        self._clipped = clipped(seen) is not Answer.NO

    def left(self, step: Array) -> Array:
        """(N,) the least residual of pairs at the relative distance `step` (N,), in the units of the claim's own."""
        count = len(self._values)
        left, sizes = np.full(count, math.inf), np.zeros(count)
        for label, direction in itertools.product(self._labels.T, self._directions):
            away = step[:, None] * self._sizes * direction
            both = self._values + away, self._values - away
            errors = [self._resting.slopes(given, labels=torch.from_numpy(label.copy())) for given in both]
            for place in range(count):
                kept = slice(None) if self._units is None else self._units[place]
                pair = np.stack([each[place][kept] for each in errors])
                first, second = _singular(pair, np.stack([given[place] for given in both]))
                if self._units is not None:
                    second = second / first if first > 0 else 0.0
                # Of an input whose errors vanish nothing is in the update, and two of them leave nothing either.
                left[place] = min(left[place], second)
                sizes[place] = max(sizes[place], first)
        if self._units is not None:
            return left
        # A clip makes the update smaller, and not what each example left.
        return np.asarray(left / max(self._whole, float(sizes.sum()) if self._clipped else 0.0, 1e-300))


def _singular(errors: Array, inputs: Array) -> tuple[float, float]:
    """The two singular values of sum_s e_s [x_s, 1]^T / 2 for two samples; errors: (2, H), inputs: (2, D)."""
    extended = np.hstack([inputs, np.ones((2, 1))])
    # E^T X with E^T = Q R and X^T = Q' R': the values are those of R R'^T.
    left, right = np.linalg.qr(errors.T).R, np.linalg.qr(extended.T).R
    found = np.linalg.svd(left @ right.T / 2, compute_uv=False)
    return float(found[0]), float(found[1]) if len(found) > 1 else 0.0


def _directions(values: Array) -> list[Array]:
    """What is added to each of (N, D) and taken from it, of length one each."""
    rng = Key(0).child("near duplicates").numpy()
    noise = rng.standard_normal(values.shape)
    # The largest of as many random numbers: of a few values at least one.
    chosen = rng.random(values.shape)
    least = np.quantile(chosen, 1 - SPARSE, axis=1, keepdims=True, method="lower")
    some = rng.standard_normal(values.shape) * (chosen >= least)
    moved = np.roll(values, values.shape[1] // 2, 1) - values
    return [one / np.maximum(np.linalg.norm(one, axis=1, keepdims=True), 1e-300) for one in (noise, some, moved)]


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
