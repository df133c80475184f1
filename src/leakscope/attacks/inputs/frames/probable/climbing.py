"""The most probable frames under all dense layers and a prior: damped Gauss-Newton, from coarse noise to fine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from leakscope.attacks.inputs.frames.probable.terms import Fit, Term
from leakscope.attacks.parts.priors.speech import Chain
from leakscope.numerics import banded, conjugate
from leakscope.targets.looking.context_window import ContextWindow
from leakscope.targets.looking.dense_stack import DenseStack

Array = NDArray[np.float64]
Alive = NDArray[np.bool_]

MOST_DAMPED = 1e4
"""A step that does not help at this damping is no step."""
SETTLED = 0.1
"""Steps that gain less than this many nats end the search."""


@final
@dataclass(frozen=True, eq=False)
class Problem:
    """terms: what each layer's gradient says, by its place in `stack`. lengths: frames of each utterance."""

    terms: dict[int, Term]
    stack: DenseStack
    window: ContextWindow
    chain: Chain
    lengths: tuple[int, ...]

    @property
    def depth(self) -> int:
        """Layers that are run through."""
        return max(self.terms) + 1

    def inflated(self, factor: float) -> Problem:
        """As if the noise were `factor` times as strong."""
        terms = {place: term.inflated(factor) for place, term in self.terms.items()}
        return Problem(terms, self.stack, self.window, self.chain, self.lengths)

    def split(self, frames: Array) -> list[Array]:
        """Utterance by utterance."""
        return np.split(frames, np.cumsum(self.lengths)[:-1])

    def windows(self, frames: Array) -> Array:
        """Of all utterances, one below the other: (T, D)."""
        left, right = self.window.left, self.window.right
        return np.vstack([banded.windows(part, left=left, right=right) for part in self.split(frames)])

    def folded(self, parts: Array) -> Array:
        """The transpose of `windows`."""
        left, features = self.window.left, self.window.features
        return np.vstack([banded.overlap_add(part, left=left, features=features) for part in self.split(parts)])

    def precision(self, frames: Array) -> Array:
        """The prior's inverse covariance applied to frames (T, F) less their mean."""
        axes = self.chain.axes
        done = []
        for part in self.split(frames):
            components = part @ axes
            # Symmetric and banded: below the diagonal each lag once, above it the transpose, in the axes of the prior.
            bands = self.chain.precision(len(part))
            total = bands[0] * components
            for lag, band in enumerate(bands[1:], start=1):
                total[lag:] += band * components[: len(band)]
                total[: len(band)] += band * components[lag:]
            done.append(total @ axes.T)
        return np.vstack(done)

    def at(self, frames: Array) -> Point:
        """The value and its slopes at frames (T, F)."""
        entering, active = self.stack.inputs(self.windows(frames), self.depth)
        ones = np.ones((len(frames), 1))
        fits = {place: term.at(np.hstack([entering[place], ones])) for place, term in self.terms.items()}
        pull = self.precision(frames - self.chain.mean)
        value = sum(fit.value for fit in fits.values()) + 0.5 * float(((frames - self.chain.mean) * pull).sum())
        return Point(frames, value, fits, active, pull)

    def forward(self, change: Array, active: list[Alive]) -> list[Array]:
        """What a change of the frames changes at the input of each layer."""
        # J_l: masks stay as they are at the point, since a ReLU is linear between its kinks.
        changes = [self.windows(change)]
        for layer, alive in zip(self.stack.layers, active, strict=False):
            changes.append((changes[-1] @ layer.weight) * alive)
        return changes

    def backward(self, slopes: dict[int, Array], active: list[Alive]) -> Array:
        """The transpose of `forward`; slopes by place, each with the column of the 1, which cannot change."""
        total = np.zeros_like(slopes[max(slopes)][:, :-1])
        # Backpropagation, from the last layer that is read to the windows: a slope joins at its own layer.
        for place in range(max(slopes), -1, -1):
            if place in slopes:
                total = total + slopes[place][:, :-1]
            if place:
                total = (total * active[place - 1]) @ self.stack.layers[place - 1].weight.T
        return self.folded(total)


@final
@dataclass(frozen=True, eq=False)
class Point:
    """Frames and what was computed there. value in nats, constants left out."""

    frames: Array
    value: float
    fits: dict[int, Fit]
    active: list[Alive]
    pull: Array


Ended = Callable[[Point], bool]
"""Shown the point after each step, says whether to stop."""


def climb(problem: Problem, frames: Array, *, steps: int, inner: int, ended: Ended) -> Point:
    """Up to `steps` damped Gauss-Newton steps that lower the value, each lengthened while that helps."""
    best, damping = problem.at(frames), 1e-3
    taken = 0
    while taken < steps and damping <= MOST_DAMPED:
        change = _System(problem, best, damping).solved(inner)
        following = problem.at(best.frames + change)
        if not following.value < best.value:
            # From the least damping, 1e-7, eightfold steps would try three systems first that hardly differ.
            damping = max(8 * damping, 1e-4)
            continue
        length = 2.0  # a damped step is often too short, and to lengthen it costs one value, no system
        while length < 64:
            further = problem.at(best.frames + length * change)
            if not further.value < following.value:
                break
            following, length = further, 2 * length
        gain, best, damping = best.value - following.value, following, max(damping / 5, 1e-7)
        taken += 1
        # 1e-13 of the value is its rounding: a smaller gain is none.
        if ended(best) or gain < max(SETTLED, 1e-13 * abs(best.value)):
            break
    return best


@final
class _System:
    """(sum_l J_l^T (K_l (x) C_l^-1) J_l + prior + damping) change = -slope, by preconditioned conjugate gradients."""

    def __init__(self, problem: Problem, point: Point, damping: float) -> None:
        self.problem, self.point = problem, point
        self.coupling = {place: fit.coupling() for place, fit in point.fits.items()}
        slopes = {place: fit.slope() for place, fit in point.fits.items()}
        self.slope = problem.backward(slopes, point.active) + point.pull
        bands = self._bands()
        self.damping = np.concatenate([damping * band[0] for band in bands]).reshape(self.slope.shape)
        # In proportion to the diagonal (Marquardt 1963): coefficients differ by a factor of ten in size.
        for band in bands:
            band[0] *= 1 + damping
        self.factors = [banded.factor(band) for band in bands]

    def _bands(self) -> list[Array]:
        """The part that couples near frames, masks of units replaced by how often two are active together."""
        problem, window = self.problem, self.problem.window
        bands = [_prior_band(problem.chain, length, window.width) for length in problem.lengths]
        for place, fit in self.point.fits.items():
            weights = np.diag(self.coupling[place])
            inner = fit.axes[:-1]
            # C^-1 on the inputs of this layer, taken back through the layers before it to a form on windows.
            form = np.eye(len(inner)) - (inner * fit.shrinkage) @ inner.T
            share = weights / max(float(weights.sum()), 1e-300)
            # The mask D_t of a frame makes M to D_t M D_t; in the mean M times how often two units are active together.
            for layer, alive in zip(problem.stack.layers[:place][::-1], self.point.active[:place][::-1], strict=True):
                form = layer.weight @ (form * ((alive.T * share) @ alive)) @ layer.weight.T
            for band, part in zip(bands, np.split(weights, np.cumsum(problem.lengths)[:-1]), strict=True):
                near = banded.assemble(form, part, left=window.left, features=window.features)
                band[: len(near)] += near
        return bands

    def _normal(self, change: Array) -> Array:
        changes = self.problem.forward(change, self.point.active)
        images = {}
        for place, fit in self.point.fits.items():
            whole = np.hstack([changes[place], np.zeros((len(change), 1))])
            images[place] = self.coupling[place] @ fit.outside(whole)
        image = self.problem.backward(images, self.point.active)
        return image + self.problem.precision(change) + self.damping * change

    def _preconditioned(self, rest: Array) -> Array:
        parts = self.problem.split(rest)
        solved = [
            part if factor is None else banded.solve(factor, part.ravel()).reshape(part.shape)
            for factor, part in zip(self.factors, parts, strict=True)
        ]
        return np.vstack(solved)

    def solved(self, inner: int) -> Array:
        """To a hundredth of the slope, or `inner` products."""
        # Minus: the value falls against its slope. A tenth would lose up to 1 % of what the step gains, a thousandth
        # gains 1e-4 more for a quarter more products.
        return conjugate.solved(self._normal, -self.slope, within=1e-2, most=inner, near=self._preconditioned)


def linear_start(problem: Problem, span: Term) -> Array:
    """The frames (T, F) whose windows lie best in what is seen of their span, beside the prior: one linear system.

    Only what stands above the noise is taken for the span (`span` is the first layer's term); the frames that it does
    not show stay near the prior's mean.
    """
    window, count = problem.window, sum(problem.lengths)
    values, axes = np.linalg.eigh(span.gram)
    # Where the spectrum of noise alone ends (Marchenko and Pastur 1967), n by H entries of variance 1.
    edge = (1 + np.sqrt(len(values) / span.columns)) ** 2
    shrunk = np.where(values > edge, 1 - 1 / np.maximum(values, 1.0), 0.0)
    form = np.eye(len(values)) - (axes * shrunk) @ axes.T
    mean = problem.chain.mean
    typical = np.append(np.tile(mean, window.width), 1.0)
    size = float(typical @ typical) + window.width * float(problem.chain.rest[0].sum())
    # The weight of a frame's equations: the energy of all errors that stand above noise, by the size of [x; 1].
    weight = span.columns * float(np.maximum(values - 1, 0).sum()) / (count * size)
    frames = []
    for length in problem.lengths:
        band = _prior_band(problem.chain, length, window.width)
        weights = np.full(length, weight)
        near = banded.assemble(form[:-1, :-1], weights, left=window.left, features=window.features)
        band[: len(near)] += near
        alone = Problem(problem.terms, problem.stack, window, problem.chain, (length,))
        # The 1 of [x; 1] is known, so its column of the form is the right-hand side, with the other sign.
        pull = alone.folded(np.broadcast_to(-weight * form[:-1, -1], (length, window.dimension)))
        factor = banded.factor(band)
        # P (m - mean), the prior's slope: P goes to the left, P mean to the right.
        right_hand = pull + alone.precision(np.broadcast_to(mean, (length, len(mean))))
        solved = None if factor is None else banded.solve(factor, right_hand.ravel()).reshape(length, len(mean))
        frames.append(np.tile(mean, (length, 1)) if solved is None else solved)
    return np.vstack(frames)


def _prior_band(chain: Chain, count: int, width: int) -> Array:
    """The prior's inverse covariance of `count` frames in lower banded form (W F, T F)."""
    features = len(chain.mean)
    # Three blocks at least: the prior's recursion reaches two frames back.
    band = np.zeros((max(width, 3) * features, count * features))
    for lag, weights in enumerate(chain.precision(count)):
        blocks = np.einsum("fk,tk,gk->tfg", chain.axes, weights, chain.axes)
        for g in range(features):
            top = max(0, g - lag * features)
            rows = slice(lag * features - g + top, (lag + 1) * features - g)
            band[rows, g : len(weights) * features : features] = blocks[:, top:, g].T
    return band
