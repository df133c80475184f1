"""The sparse vectors of a subspace: directions along which many rows of a tall matrix vanish exactly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

STARTS = 100
THRESHOLDS = (0.5, 0.3, 0.4, 0.2)
"""Shrinkage of the alternating search, in units of the root mean square entry; another one in each round. Above 0.5 it
is faster, but the vectors with few zeros are no fixed points any more and are never found."""
STEPS = 100
"""Iterations of the alternating search; the first 60 % keep away from what is known."""
WALLS = (2, 1, 4, 3, 6)
"""Rows at which a start has to vanish, in turn: a vector that does not vanish there cannot be found again."""
SHARPEN = (0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 3e-3, 1e-3, 1e-4, 1e-5, 1e-6)
"""Scales of the reweighting, relative to the mean entry, down to the noise."""
SURPLUS = 5
"""Zeros beyond the r - 1 that any vertex has; chance gives none."""
LARGEST_PLANE = 5
"""Most vectors that one mixture may hide; they are told apart by sampling rows."""
SAMPLED = 16
"""Largest rank at which rows of the whole matrix are sampled too; the chance of a hit halves with each dimension."""
SAMPLES = 8000
TRIES = 20
"""Different candidates of a sample that are looked at, per vector in the plane."""
ROUNDED = 1e-11
"""Least noise of an entry relative to its row: what solving small, perhaps ill-conditioned systems in float64 costs."""
BALANCING = 30
"""Times that rows are brought to one length, at most; ten do where there is a frame in which they have one."""
EVEN = 0.01
"""Relative difference in length at which rows are even."""
ZERO = 8.0
"""An entry within so many standard deviations of its noise is zero."""


@final
@dataclass(frozen=True, eq=False)
class Direction:
    """q (r,) of unit length and the rows at which it vanishes beyond chance, (m,)."""

    vector: Array
    zeros: Flags

    @property
    def count(self) -> int:
        """The number of zeros."""
        return int(self.zeros.sum())


@final
@dataclass(frozen=True, eq=False)
class Whitened:
    """The rows that stand clear of noise, each of unit length, in coordinates in which their columns are orthonormal.

    rows: (m, r), columns of norm sqrt(m). turn: (r, r), original q = turn @ q. noise: (m,) relative to the row.
    live: (all rows,) which rows these are.
    """

    rows: Array
    turn: Array
    noise: Array
    live: Flags

    @property
    def rank(self) -> int:
        """r."""
        return int(self.rows.shape[1])

    def zeros(self, vectors: Array) -> Flags:
        """(m, n): where the directions (r, n) vanish to within the noise of their row."""
        turned = np.linalg.norm(self.turn @ vectors, axis=0)
        return np.asarray(np.abs(self.rows @ vectors) <= ZERO * self.noise[:, None] * turned)


def whitened(matrix: Array, noise: Array) -> Whitened | None:
    """`matrix` (m, r) with noise (m,) per entry of a row, ready for the search; None when its rank is lower."""
    norms = np.linalg.norm(matrix, axis=1)
    live = norms > 2 * ZERO * noise
    # No more rows than columns: any r - 1 of them give a direction that vanishes there, and nothing stands out.
    if int(live.sum()) <= matrix.shape[1]:
        return None
    unit = matrix[live] / norms[live, None]
    left, values, right = np.linalg.svd(unit, full_matrices=False)
    # A row of unit length has its noise relative to it; below ROUNDED no residual can be told from that of the solver.
    relative = np.maximum(noise[live] / norms[live], ROUNDED)
    # Noise alone would have singular values of sqrt(m) times its size; the smallest must stand clear of that.
    if values[-1] <= 10 * float(np.median(relative)) * math.sqrt(len(unit)):
        return None
    # unit = U S V^T, so unit (V S^-1 sqrt(m)) = sqrt(m) U: columns are orthonormal but for sqrt(m), which makes the
    # root mean square entry 1, the unit of THRESHOLDS.
    grow = math.sqrt(len(unit))
    return Whitened(left * grow, right.T / values * grow, relative, live)


def balanced(problem: Whitened) -> Whitened | None:
    """`problem` in coordinates in which the columns are orthonormal and all rows of one length; None where none are.

    The scatter of Tyler (1987, doi:10.1214/aos/1176350263, section 2): it is the same, whatever the length of rows and
    of the directions behind them is. Rows of length one in the coordinates that are given show of an example with small
    errors only what no other wakes, a few entries that a search for many small ones cannot see beyond. There is no such
    frame where more than m k / r of the m rows lie in k dimensions, as where many units are awake for one example only.
    """
    count, rank = problem.rows.shape
    rows, turn, scale = problem.rows, problem.turn, np.ones(count)
    for _ in range(BALANCING):
        lengths = np.linalg.norm(rows, axis=1) / math.sqrt(rank)
        if np.abs(lengths - 1).max() <= EVEN:
            # Noise is compared with numbers of the order of one: the typical row keeps the length it had.
            typical = float(np.median(scale))
            return Whitened(rows, turn * typical, problem.noise * scale / typical, problem.live)
        rows, scale = rows / lengths[:, None], scale / lengths
        _, values, right = np.linalg.svd(rows, full_matrices=False)
        # In one direction nothing is left: rows in the others take it all, and there is no such frame.
        if values[-1] <= 1e-6 * values[0]:
            return None
        step = right.T / values * math.sqrt(count)
        rows, turn = rows @ step, turn @ step
    return None


def sparse_directions(
    problem: Whitened, rng: np.random.Generator, *, stop: Callable[[int, int], bool]
) -> list[Direction]:
    """Independent directions, most zeros first, of which the sparsest basis of the column space is made.

    Three ideas in turn. (1) From random starts q <- A^T shrink(A q) (Qu, Sun and Wright 2014, arXiv:1412.4659), kept
    orthogonal to what was found before, then reweighted least squares, which puts the small entries to zero.
    (2) A result may be a mixture of k sparse vectors; then its zeros, without those rows that alone pin it down, leave
    a k-dimensional kernel, and the k vectors are found inside it. (3) Few dimensions are searched by sampling rows.
    Ends when there are r of them, or when `stop(round, found)` says so. Works in the coordinates of `problem.rows`.
    """
    if problem.rank == 1:
        return [Direction(np.ones(1), np.zeros(len(problem.live), dtype=bool))]
    pool: list[Direction] = []
    for turn in itertools.count():
        chosen = independent(pool, problem.rank)
        if len(chosen) == problem.rank or stop(turn, len(chosen)):
            return chosen
        # At first and every third time, where dimensions are few: what is found so the searches keep away from.
        if turn % 3 == 0 and problem.rank <= SAMPLED:
            _merge(pool, _inside(problem, np.eye(problem.rank), rng))
            continue
        for vector in _sharpened(problem, _search(problem, chosen, turn, rng)).T:
            kernel = _kernel(problem, vector)
            if kernel is not None and not _known(pool, kernel):
                _merge(pool, _inside(problem, kernel, rng))
    raise AssertionError("the count of rounds has no end")


def refitted(problem: Whitened, vector: Array) -> list[Direction]:
    """The direction `vector`, given in the coordinates of the original matrix, if it is a sparse one; else nothing."""
    return _direction(problem, _unit(np.linalg.solve(problem.turn, vector)[:, None])[:, 0])


def independent(pool: list[Direction], most: int) -> list[Direction]:
    """The sparsest that are clearly independent of those before."""
    chosen: list[Direction] = []
    basis = np.zeros((0, 0))
    for one in sorted(pool, key=lambda one: -one.count):
        # Gram and Schmidt, the sparsest first: a mixture of two sparse vectors is dependent on them and comes after.
        rest = one.vector - (basis.T @ (basis @ one.vector) if len(chosen) else 0)
        length = float(np.linalg.norm(rest))
        if length > 1e-3 and len(chosen) < most:
            chosen.append(one)
            basis = np.vstack([basis, rest / length]) if len(basis) else rest[None] / length
    return chosen


def _known(pool: list[Direction], plane: Array) -> bool:
    """Whether a plane (r, k) holds k directions that are already there."""
    inside = sum(float(np.linalg.norm(plane.T @ one.vector)) > 1 - 1e-7 for one in pool)
    return bool(inside >= plane.shape[1])


def _merge(pool: list[Direction], found: list[Direction]) -> None:
    for one in found:
        if all(abs(float(one.vector @ other.vector)) < 1 - 1e-7 for other in pool):
            pool.append(one)


def _search(problem: Whitened, found: list[Direction], turn: int, rng: np.random.Generator) -> Array:
    """Candidates (r, n): fixed points of q <- A^T shrink(A q), different from each other."""
    rows, threshold = problem.rows, THRESHOLDS[turn % len(THRESHOLDS)]
    vectors = _unit(rng.standard_normal((problem.rank, STARTS)))
    walls = _walls(problem, found, turn, rng)
    for step in range(STEPS):
        entries = rows @ vectors
        # q <- A^T shrink(A q): entries below the threshold pull no more, so q turns to where they vanish.
        vectors = rows.T @ (np.sign(entries) * np.maximum(np.abs(entries) - threshold, 0))
        # The walls lead away from what is known; the last steps are free, since a vector need not be orthogonal to it.
        if step < 0.6 * STEPS:
            for wall in walls:
                vectors = vectors - wall * (wall * vectors).sum(0)
        vectors = _unit(vectors)
    # q and -q are the same direction.
    close = np.abs(vectors.T @ vectors) > 0.999
    first = [place for place in range(vectors.shape[1]) if not close[place, :place].any()]
    return vectors[:, first]


def _walls(problem: Whitened, found: list[Direction], turn: int, rng: np.random.Generator) -> list[Array]:
    """Orthonormal vectors (r, 1 or STARTS) from which a search keeps away, so that it finds something else."""
    if turn % 2 == 0:
        if not found:
            return []
        # Every other round: away from all that is known.
        return list(np.linalg.qr(np.stack([one.vector for one in found], axis=1))[0].T[:, :, None])
    # In between: orthogonal to some rows, that is, vanishing there. Different rows for each start.
    walls: list[Array] = []
    for _ in range(WALLS[turn // 2 % len(WALLS)]):
        wall = problem.rows[rng.integers(0, len(problem.rows), STARTS)].T
        for other in walls:
            wall = wall - other * (other * wall).sum(0)
        walls.append(_unit(wall))
    return walls[: problem.rank - 1]


def _sharpened(problem: Whitened, vectors: Array) -> Array:
    """min sum_i (y_i^2 + e^2)^(1/4), y = A q, |q| = 1, by inverse iteration on reweighted squares, e from coarse to
    fine."""
    rows, floor = problem.rows, float(np.median(problem.noise))
    for scale in SHARPEN:
        if scale < floor:
            break
        for _ in range(2):
            # The derivative of (y^2 + e^2)^(1/4) by y^2 but for a constant: the weights of least squares with the same
            # slope. One step of inverse iteration with A^T W A, one r by r system for each candidate.
            weights = ((rows @ vectors) ** 2 + scale**2) ** -0.75
            systems = (rows.T[None] * weights.T[:, None, :]) @ rows
            vectors = _unit(np.linalg.solve(systems, vectors.T[..., None])[..., 0].T)
    return vectors


def _kernel(problem: Whitened, vector: Array) -> Array | None:
    """The directions (r, k) that vanish wherever `vector` does for a reason shared by several rows."""
    zeros = problem.zeros(vector[:, None])[:, 0]
    if int(zeros.sum()) < problem.rank - 1 + SURPLUS:
        return None
    # Weak rows are noisier; they count for less, so that the noise of all is at most the typical one.
    typical = float(np.median(problem.noise))
    rows = problem.rows[zeros] * np.minimum(1, typical / problem.noise[zeros])[:, None]
    least = max(1e-3, 10 * typical)
    left, values, _ = np.linalg.svd(rows, full_matrices=False)
    # A row with leverage 1 is the only one of its kind: it fixes the mixture, and no other row agrees with it.
    rows = rows[(left[:, values > least * values[0]] ** 2).sum(1) < 0.9999]
    if len(rows) < SURPLUS:
        return None
    _, values, right = np.linalg.svd(rows, full_matrices=True)
    size = problem.rank - int((values > least * values[0]).sum())
    return right[problem.rank - size :].T if 1 <= size <= LARGEST_PLANE else None


def _direction(problem: Whitened, vector: Array) -> list[Direction]:
    """`vector` refitted to all rows at which it vanishes, if these are more than chance."""
    for _ in range(2):
        zeros = problem.zeros(vector[:, None])[:, 0]
        if int(zeros.sum()) < problem.rank - 1 + SURPLUS:
            return []
        # The least right singular vector: what the rows where it vanishes agree on, each by its own noise.
        weighted = problem.rows[zeros] / problem.noise[zeros, None]
        vector = np.linalg.svd(weighted, full_matrices=True)[2][-1]
    kernel = _kernel(problem, vector)
    if kernel is None or kernel.shape[1] != 1:
        return []
    # Among all rows of the original matrix; those that noise hides are no zeros, nothing is known of them.
    everywhere = np.zeros(len(problem.live), dtype=bool)
    everywhere[problem.live] = problem.zeros(vector[:, None])[:, 0]
    return [Direction(vector, everywhere)]


def _inside(problem: Whitened, plane: Array, rng: np.random.Generator) -> list[Direction]:
    """The sparse directions within a small plane (r, k): each is orthogonal to some k - 1 of the rows."""
    size = plane.shape[1]
    if size == 1:
        return _direction(problem, plane[:, 0])
    entries = problem.rows @ plane
    norms = np.linalg.norm(entries, axis=1)
    awake = np.flatnonzero(norms > 1e-6 * np.linalg.norm(problem.rows, axis=1))
    if len(awake) < size:
        return []
    # k - 1 rows of the plane and a random last equation that sets the length: one system for each sample. Where
    # half of the entries vanish it hits with a chance of 2^-(k - 1), so 60 2^k of them hit each vector a hundred times.
    picks = awake[rng.integers(0, len(awake), (min(60 * 2**size, SAMPLES), size - 1))]
    systems = np.concatenate([entries[picks] / norms[picks][..., None], rng.standard_normal((len(picks), 1, size))], 1)
    sides = np.zeros((len(picks), size, 1))
    sides[:, -1] = 1
    # The same row twice, or rows that are alike, fix no direction.
    usable = np.abs(np.linalg.det(systems)) > 1e-9
    vectors = plane @ _unit(np.linalg.solve(systems[usable], sides[usable])[..., 0].T)
    counts = problem.zeros(vectors).sum(0)
    found: list[Direction] = []
    tried = np.zeros((problem.rank, 0))
    for place in np.argsort(-counts):
        if len(found) == size or counts[place] < problem.rank - 1 + SURPLUS or tried.shape[1] > TRIES * size:
            break
        vector = vectors[:, [place]]
        if not (np.abs(tried.T @ vector) > 1 - 1e-7).any():
            tried = np.hstack([tried, vector])
            _merge(found, _direction(problem, vector[:, 0]))
    return found


def _unit(vectors: NDArray[np.floating[Any]]) -> Array:
    return np.asarray(vectors / (np.linalg.norm(vectors, axis=0) + 1e-300))  # zero stays zero
