"""The labels behind a stretch of frames, as distributions: least squares on simplices, by an interior point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from scipy import linalg

from leakscope.attacks.transcripts.exact.alignment import Array, Evidence, Passes, Spelling, followed, jacobian, run

ROUGH = 0.03
"""Share of the norm of the profiles that the linearization leaves out; the residual itself is always exact."""
START = 1 / 16
FALL = 0.2
"""The weight of the prior, and what it is multiplied by after each round that goes ahead."""
SETTLED = 0.9


@final
@dataclass(frozen=True, eq=False)
class Stretch:
    """Some frames, the labels that are known to be around, and how many open ones follow.

    before: (S,) masses before the first frame, after: (S,) weights after the last one, over the states of known and
    open labels. bends: (S, M) smooth changes of the logarithm of `after` which the fit may make, with coefficients of
    variance 1; none when `after` is exact. usual: (K,) how frequent the letters are,
    equal: how probable it is that one equals the one before it.
    """

    evidence: Evidence
    known: Spelling
    count: int
    before: Array
    after: Array
    bends: Array
    usual: Array
    equal: float


@final
@dataclass(frozen=True, eq=False)
class Relaxed:
    """letters: (count, K), a distribution per open label. misfit: sum of squares over the stretch."""

    letters: Array
    misfit: float


@final
@dataclass(frozen=True, eq=False)
class _Point:
    """letters (n, K), skips (n,) of the open labels, bend (M,); passes and residual that belong to them."""

    letters: Array
    skips: Array
    bend: Array
    passes: Passes
    residual: Array

    @property
    def bounded(self) -> Array:
        """All that must stay above zero."""
        return np.concatenate([self.letters.ravel(), self.skips, 1 - self.skips])


def relaxed(stretch: Stretch, *, noise: float, rounds: int, wanted: int) -> Relaxed:
    """The minimum of |shares - seen|^2 / 2 - m sum w log v + m |bend|^2 / 2 as m falls to the variance of the noise.

    v: the open letters, each row on the simplex, with w their usual frequencies, and skips and 1 - skips. Skips are
    variables of their own: that equal neighbors exclude a skip holds at the solution, not on the way. Gauss-Newton
    steps with multipliers (primal-dual). Ends when the first `wanted` labels have settled, or after `rounds`.
    """
    return _InteriorPoint(stretch, noise).solved(rounds, wanted)


@final
class _InteriorPoint:
    def __init__(self, stretch: Stretch, noise: float) -> None:
        self.stretch, self.noise = stretch, noise
        count, usual = stretch.count, stretch.usual
        differing = np.full(count, 1 - stretch.equal)
        self.frequency = np.concatenate([np.tile(usual, count), differing, 1 - differing])
        self.sums = np.zeros((count * len(usual) + count + stretch.bends.shape[1], count))
        self.sums[: count * len(usual)] = np.kron(np.eye(count), np.ones((len(usual), 1)))

    def solved(self, rounds: int, wanted: int) -> Relaxed:
        stretch, weight = self.stretch, START
        here = self.at(np.tile(stretch.usual, (stretch.count, 1)), np.full(stretch.count, 1 - stretch.equal), None)
        pull = weight * self.frequency / here.bounded
        floor = 2 * self.noise**2 * here.residual.size
        for _ in range(rounds):
            here, pull, moved = self.step(here, pull, weight)
            if (here.residual**2).sum() < floor or (here.letters.max(1)[:wanted] > SETTLED).all():
                break
            if moved > 0.1:
                weight = max(FALL * weight, 0.1 * self.noise**2)
        return Relaxed(here.letters, float((here.residual**2).sum()))

    def at(self, letters: Array, skips: Array, bend: Array | None) -> _Point:
        stretch = self.stretch
        bend = np.zeros(stretch.bends.shape[1]) if bend is None else bend
        spelling = followed(stretch.known, Spelling(letters, skips))
        after = stretch.after * np.exp(np.clip(stretch.bends @ bend, -50, 50))
        passes = run(spelling, stretch.evidence, before=stretch.before, after=after)
        residual = (passes.shares(stretch.evidence) - stretch.evidence.seen).ravel()
        return _Point(letters, skips, bend, passes, residual)

    def value(self, point: _Point, weight: float) -> float:
        prior = 0.5 * point.bend @ point.bend - self.frequency @ np.log(point.bounded)
        return float(0.5 * point.residual @ point.residual + weight * prior)

    def step(self, here: _Point, pull: Array, weight: float) -> tuple[_Point, Array, float]:
        """The next point and multipliers, and how much of the step was taken."""
        change, slope = self.direction(here, pull, weight)
        count, letters = here.letters.shape
        split = count * letters
        bounded, moved = here.bounded, np.concatenate([change[: split + count], -change[split : split + count]])
        pushed = weight * self.frequency / bounded - pull - pull / bounded * moved
        length, value = _within(bounded, moved), self.value(here, weight)
        while True:
            there = self.at(
                here.letters + length * change[:split].reshape(count, letters),
                here.skips + length * change[split : split + count],
                here.bend + length * change[split + count :],
            )
            if length < 1e-3 or self.value(there, weight) <= value + 1e-4 * length * slope + 1e-14:
                break
            length /= 2
        center = weight * self.frequency / there.bounded
        pull = np.clip(pull + _within(pull, pushed) * pushed, 1e-4 * center, 1e4 * center)
        return there, pull, length

    def direction(self, here: _Point, pull: Array, weight: float) -> tuple[Array, float]:
        """The Newton step within the simplices, and the slope of `value` along it."""
        stretch, known = self.stretch, len(self.stretch.known)
        split = here.letters.size
        bounded = here.bounded
        matrix = jacobian(here.passes, stretch.evidence, known, stretch.bends, ROUGH)
        matrix[np.abs(matrix) < 1e-30] = 0.0
        normal = matrix.T @ matrix
        stiff, push = pull / bounded, weight * self.frequency / bounded
        count = len(here.skips)
        normal[np.diag_indices(len(normal))] += np.concatenate(
            [stiff[:split], stiff[split:-count] + stiff[-count:], np.full(len(here.bend), weight)]
        )
        gradient = matrix.T @ here.residual
        gradient += np.concatenate([-push[:split], push[-count:] - push[split:-count], weight * here.bend])
        factor = linalg.cho_factor(normal, lower=True, overwrite_a=True, check_finite=False)
        solved = linalg.cho_solve(factor, np.column_stack([self.sums, gradient]), check_finite=False)
        across, along = solved[:, :-1], solved[:, -1]
        change = across @ np.linalg.solve(self.sums.T @ across, self.sums.T @ along) - along
        return change, float(gradient @ change)


def _within(values: Array, change: Array) -> float:
    """The longest step up to 1 that leaves all values 5 % of what they are."""
    falling = change < 0
    return float(min(1.0, 0.95 * np.min(-values[falling] / change[falling]))) if falling.any() else 1.0
