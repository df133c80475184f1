"""The labels behind a stretch of frames, as distributions: least squares on simplices, by an interior point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from scipy import linalg

from leakscope.attacks.transcripts.exact.alignment import Array, Evidence, Passes, Spelling, followed, jacobian, run

ROUGH = 0.03
"""Share of the norm of the profiles that the linearization leaves out; the residual itself is always exact."""
# The weight m stands for the variance of the noise: at first as if occupancies were known to 1 / 4 only.
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
    """The minimum of |shares - seen|^2 / 2 - m sum w log v + m |bend|^2 / 2 as m falls to 0.1 noise^2.

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
        # The exponents w of prod v^w, in the order of `_Point.bounded`: letters, skips, 1 - skips.
        differing = np.full(count, 1 - stretch.equal)
        self.frequency = np.concatenate([np.tile(usual, count), differing, 1 - differing])
        self.sums = np.zeros((count * len(usual) + count + stretch.bends.shape[1], count))
        # sums^T change = 0 keeps each row of letters on its simplex; skips and bends are free.
        self.sums[: count * len(usual)] = np.kron(np.eye(count), np.ones((len(usual), 1)))

    def solved(self, rounds: int, wanted: int) -> Relaxed:
        stretch, weight = self.stretch, START
        # -sum w log v is least at v = w: the start is the minimum for infinite m.
        here = self.at(np.tile(stretch.usual, (stretch.count, 1)), np.full(stretch.count, 1 - stretch.equal), None)
        # Multipliers z of v >= 0 on the central path, z v = m w.
        pull = weight * self.frequency / here.bounded
        # Twice what noise explains at the truth: nothing is left to fit.
        floor = 2 * self.noise**2 * here.residual.size
        for _ in range(rounds):
            here, pull, moved = self.step(here, pull, weight)
            if (here.residual**2).sum() < floor or (here.letters.max(1)[:wanted] > SETTLED).all():
                break
            # A step cut short says that the path is not followed yet: with a smaller m, v would run into the boundary.
            if moved > 0.1:
                # At m = noise^2 the objective is noise^2 times -log of the posterior; somewhat below, so that the
                # letters are the sharper for it.
                weight = max(FALL * weight, 0.1 * self.noise**2)
        return Relaxed(here.letters, float((here.residual**2).sum()))

    def at(self, letters: Array, skips: Array, bend: Array | None) -> _Point:
        stretch = self.stretch
        bend = np.zeros(stretch.bends.shape[1]) if bend is None else bend
        spelling = followed(stretch.known, Spelling(letters, skips))
        # No step overflows: e^50 is 5e21. Only ratios of the weights count.
        after = stretch.after * np.exp(np.clip(stretch.bends @ bend, -50, 50))
        passes = run(spelling, stretch.evidence, before=stretch.before, after=after)
        residual = (passes.shares(stretch.evidence) - stretch.evidence.seen).ravel()
        return _Point(letters, skips, bend, passes, residual)

    def value(self, point: _Point, weight: float) -> float:
        # Finite, because no step reaches the boundary (`_within`).
        prior = 0.5 * point.bend @ point.bend - self.frequency @ np.log(point.bounded)
        return float(0.5 * point.residual @ point.residual + weight * prior)

    def step(self, here: _Point, pull: Array, weight: float) -> tuple[_Point, Array, float]:
        """The next point and multipliers, and how much of the step was taken."""
        change, slope = self.direction(here, pull, weight)
        count, letters = here.letters.shape
        split = count * letters
        # The last part is 1 - skips, which moves against the skips.
        bounded, moved = here.bounded, np.concatenate([change[: split + count], -change[split : split + count]])
        # (z + dz) v + z dv = m w, the linearized z v = m w, solved for dz.
        pushed = weight * self.frequency / bounded - pull - pull / bounded * moved
        # Armijo: a share 1e-4 of what the slope promises (slope < 0), and 1e-14 for rounding. A step below 1e-3 is
        # taken in any case: the next one starts from another linearization.
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
        # Near enough to the central path that z / v stays a usable curvature of the barrier.
        center = weight * self.frequency / there.bounded
        pull = np.clip(pull + _within(pull, pushed) * pushed, 1e-4 * center, 1e4 * center)
        return there, pull, length

    def direction(self, here: _Point, pull: Array, weight: float) -> tuple[Array, float]:
        """The Newton step within the simplices, and the slope of `value` along it."""
        stretch, known = self.stretch, len(self.stretch.known)
        split = here.letters.size
        bounded = here.bounded
        matrix = jacobian(here.passes, stretch.evidence, known, stretch.bends, ROUGH)
        # Far below rounding; and products of the smallest would be subnormal, which is slow.
        matrix[np.abs(matrix) < 1e-30] = 0.0
        normal = matrix.T @ matrix
        # Primal-dual: z / v in the place of the barrier's m w / v^2, which it equals on the central path.
        stiff, push = pull / bounded, weight * self.frequency / bounded
        count = len(here.skips)
        normal[np.diag_indices(len(normal))] += np.concatenate(
            # A skip stands in two barriers, of itself and of 1 - itself, and both bend upward; below, the slope of the
            # second has the other sign.
            [stiff[:split], stiff[split:-count] + stiff[-count:], np.full(len(here.bend), weight)]
        )
        gradient = matrix.T @ here.residual
        gradient += np.concatenate([-push[:split], push[-count:] - push[split:-count], weight * here.bend])
        # Positive definite: J^T J is semidefinite, and what was added to its diagonal is above zero.
        factor = linalg.cho_factor(normal, lower=True, overwrite_a=True, check_finite=False)
        solved = linalg.cho_solve(factor, np.column_stack([self.sums, gradient]), check_finite=False)
        # H dx + sums l = -g with sums^T dx = 0: dx = H^-1 (sums (sums^T H^-1 sums)^-1 sums^T H^-1 g - g).
        across, along = solved[:, :-1], solved[:, -1]
        change = across @ np.linalg.solve(self.sums.T @ across, self.sums.T @ along) - along
        return change, float(gradient @ change)


def _within(values: Array, change: Array) -> float:
    """The longest step up to 1 that leaves all values 5 % of what they are."""
    # The boundary itself would be the last point: its logarithm is infinite.
    falling = change < 0
    return float(min(1.0, 0.95 * np.min(-values[falling] / change[falling]))) if falling.any() else 1.0
