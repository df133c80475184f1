"""Each sample's label and features from dL/dW where the output layer's weights are known: one system per sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from leakscope.attacks.labels.rows.known_rows import KnownRows
from leakscope.attacks.labels.rows.together import Together

Array = NDArray[np.float64]

FLOOR = 3e-6
"""Relative residual that float32 leaves whatever the noise says: the forward pass's own rounding is of low rank, since
it is one error per sample, and hides within the row space."""
RATIO = 4.0
"""How many times the expected residual an accepted row may leave."""
CROWD = 1000
"""How many samples may be copies of others: more would be a share N / m that rounding made."""
SHARP = 0.01
"""Relative error of a share N / m below which it is known well."""
ONE = 16 * 2.0**-24
"""How far p_y - 1 may be off: roundings of float32 at 1."""
LOOSEST = 0.1
"""Relative residual beyond which nothing was solved, however noisy the update is."""
SAME = 0.5
"""beta_s^T Sigma^-1 a_t relative to that of s with itself: one where t is s, zero where it is another sample."""
LARGEST = 1e100
"""Coordinates beyond this are no features."""
VAGUE = 0.1
"""Relative uncertainty of a share beyond which one cannot be told from half of it."""
ALONE = 0.1
"""How far from one the samples of a row may be that stands for one: of two equal samples beside a third, two rows would
stand for 4/3 and 2/3, of four beside three for 8/7 and 6/7."""
SPENT = ", and the budget is spent"
"""What follows where not all rows were found because the search was stopped: nothing speaks against the others."""
UNEVEN = "of samples of one class that are nearly equal to the output layer one may be there more often than another"
"""What is said of rows whose numbers of samples are open."""
FAR = 2.0
"""By how much N, as vague rows say it, may be off."""
WHOLE = 0.15
"""How far N / m may lie from one over a whole share m of the samples."""


@final
@dataclass(frozen=True, eq=False)
class Row:
    """One sample, or several that are equal to within rounding.

    label: y. features: (k,) coordinates a of h = left @ a. error: (C,) g = softmax(W h + b) - e_y. misfit: relative
    distance of g from the row space. expected: what rounding makes of it. parts: N / m by T6. vague: how far off they
    may be, relative, since the features are not known better.
    """

    label: int
    features: Array
    error: Array
    misfit: float
    expected: float
    parts: float
    vague: float = 0.0


@final
@dataclass(frozen=True, eq=False)
class Apart:
    """What was found: rows, N as the rows say it, each row's number of samples, and how many tries it took.

    open: whether other numbers of samples, with other features, explain the gradient as well.
    """

    rows: tuple[Row, ...]
    samples: float
    times: tuple[int, ...]
    tries: int
    open: bool = False

    @property
    def count(self) -> int:
        """How many samples the rows stand for."""
        return sum(self.times)


@final
class Peeling:
    """All rows of one gradient, one after the other; those found are left out of both spaces for the next ones.

    bias: (C,) dL/db or None; where it is there, N (p - db) counts what is still missing of each class. stop: asked
    before each try.
    """

    def __init__(
        self,
        known: KnownRows,
        bias: Array | None,
        rng: np.random.Generator,
        stop: Callable[[], bool],
        told: int | None = None,
    ) -> None:
        self.known, self.space, self.bias, self.rng, self.stop = known, known.space, bias, rng, stop
        self.told, self.open = told, False
        self.samples: float | None = None
        self.rows: list[Row] = []
        self.tries = 0

    def run(self) -> Apart:
        """First the easy rows, from standard starts in the whole space; then the rest with those taken out."""
        self._first()
        while len(self.rows) < self.space.rank and not self.stop():
            if not self._next():
                break
        apart = self._apart()
        whole = len(apart.rows) == apart.count == self.space.rank
        if apart.rows and (not whole or max(one.vague for one in apart.rows) > SHARP) and self._together():
            return self._apart()
        return apart

    def _first(self) -> None:
        rank, misses = self.space.rank, 0
        worth = self._leverage(np.eye(rank))
        if self.bias is not None:
            worth = worth + (self.bias < 0)
        for label in np.argsort(-worth)[: rank + 20]:
            if len(self.rows) >= rank or misses > 25 or self.stop():
                return
            starts = [np.zeros(rank)]
            if self.rows:
                starts.append(self._mean())
            for start in starts:
                point, misfit = self.known.solve(label, start, self.known.slopes, self.space.right, least=12)
                if self._kept(int(label), point, misfit):
                    misses = 0
                    break
            else:
                misses += 1

    def _next(self) -> bool:
        """One more row, from the classes that most of what is left points at."""
        outside, across = self._deflated()
        slopes, right = self.known.slopes @ outside, across.T @ self.space.right
        worth = self._leverage(across) + self._missing()
        for label in np.argsort(-worth)[:15]:
            for start in self._starts(int(label), outside):
                if self.stop():
                    return False
                point, misfit = self.known.solve(int(label), start, slopes, right)
                if misfit >= 0.6 and outside.shape[1] < self.space.rank:
                    # What was taken out may have been taken out wrongly: the whole space from the same start.
                    point, misfit = self.known.solve(int(label), outside @ start, self.known.slopes, self.space.right)
                    point = outside.T @ point
                whole, misfit = self.known.solve(
                    int(label), outside @ point, self.known.slopes, self.space.right, most=40
                )
                if self._kept(int(label), whole, misfit):
                    return True
        return False

    def _kept(self, label: int, point: Array, misfit: float) -> bool:
        """Keep a solution if it is one to within its own rounding, has a possible share, and is new.

        A row's rounding: beta = right (scale g) are its coordinates, and an error E of dW moves the row space by
        beta Sigma^-1 left^T E, of size |beta Sigma^-1| sigma sqrt(C).
        """
        self.tries += 1
        space, off, reach = self.space, 0.0, 0.0
        if misfit <= LOOSEST:
            point, misfit, off, reach = self.known.refined(label, point)
        # A search that ran away ends where even squares overflow.
        if not float(np.abs(point).max(initial=0.0)) < LARGEST:
            return False
        error = self.known.error(point, label)
        scaled = error * space.scale
        size = math.sqrt(float(scaled @ scaled))
        if not (math.isfinite(misfit) and misfit <= LOOSEST and size > 0):
            return False
        dual = (space.right @ scaled) / space.values
        # T6: beta_s^T Sigma^-1 a_s = N for one sample of a mean over N, N / m for m equal ones.
        parts = float(dual @ point)
        expected = float(np.linalg.norm(dual)) * space.noise * math.sqrt(len(scaled)) / size
        if misfit > RATIO * (expected + FLOOR) or not parts > 1e-3:
            return False
        # `off` is in units of 1 - p_y, as all of rho. Of C coordinates of the row's own rounding one lies along it.
        own = RATIO * max(expected, misfit) * size * reach / math.sqrt(len(scaled))
        # All logits are rounded, and the shares of the likely classes with them, against which p_y - 1 is held; that of
        # an unlikely label is small where those of others are not.
        logits = float(np.abs(self.known.slopes @ point).max())
        if abs(off) * -error[label] > ONE * max(1.0, logits) + own:
            return False
        spread = self.known.covariance(point, label, max(expected, misfit))
        vague = math.sqrt(max(float(dual @ spread @ dual), 0.0)) / parts
        if self.samples is not None:
            # N / m beside N, or N beside the N / m of which N was read off so far.
            ratio = max(self.samples / parts, parts / self.samples)
            if abs(round(ratio) / ratio - 1) > min(0.5, WHOLE + 6 * vague):
                return False
        near = max(1e-6, 2 * expected) * float(np.linalg.norm(point))
        if any(one.label == label and np.linalg.norm(one.features - point) < near for one in self.rows):
            return False
        # The same again where rounding leaves more of it open: T6 is zero between different samples.
        if any(one.label == label and abs(float(dual @ one.features)) > SAME * parts for one in self.rows):
            return False
        self.rows.append(Row(label, point, error, misfit, expected, parts, vague))
        self._counted()
        return True

    def _together(self) -> bool:
        """All rows again by the whole gradient, where samples of one class ran into one another; whether that went.

        One row in place of two, or two that are neither, with as many samples as the rank says there are. Whether there
        are more, of which some are equal, it says nothing of: that is `open` where the shares of rows do not tell.
        """
        assert self.samples is not None
        rank = self.space.rank
        # Equal samples are no directions of their own: then there are more samples than these, by far at times.
        if not 1 / FAR < self.samples / rank < FAR or self.told not in (None, rank):
            return False
        found = [(one.label, one.features) for one in self.rows]
        lacking = self._lacking(rank)
        search = Together(self.known, self.rng, self.stop)
        points = search.run(found, lacking)
        if points is None:
            return False
        labels = [label for label, _ in found] + lacking
        rows = [self._row(label, point) for label, point in zip(labels, points, strict=True)]
        duals = np.stack([self.space.right @ (one.error * self.space.scale) for one in rows]) / self.space.values
        # T6: N on the diagonal, and zero between different samples.
        if not np.abs(duals @ points.T / rank - np.eye(rank)).max() <= WHOLE:
            return False
        if any(one.misfit > RATIO * (one.expected + FLOOR) for one in rows):
            return False
        self.rows, self.samples = rows, float(rank)
        self.open = self.told != rank and not search.vague(points, np.array(labels, np.int64)) <= ALONE
        return True

    def _lacking(self, rank: int) -> list[int]:
        """Labels of the samples that no row stands for, the likeliest first: of what the bias gradient leaves, or
        where there is none of the rows that seem to stand for more than one."""
        labels = np.array([one.label for one in self.rows])
        left = np.zeros(len(self.space.scale))
        if self.bias is None:
            np.add.at(left, labels, [(self.samples or rank) / one.parts - 1 for one in self.rows])
        else:
            # N db = sum_s (p_s - e_(y_s)), and p is about the same of all samples.
            shares = np.mean([one.error for one in self.rows], axis=0) + np.bincount(labels, minlength=len(left)) / len(
                labels
            )
            left = rank * (shares - self.bias) - np.bincount(labels, minlength=len(left))
        lacking = list[int]()
        for _ in range(rank - len(labels)):
            lacking.append(int(left.argmax()))
            left[lacking[-1]] -= 1
        return lacking

    def _row(self, label: int, point: Array) -> Row:
        """A row at these coordinates, with what it leaves of its own equation."""
        space, error = self.space, self.known.error(point, label)
        scaled = error * space.scale
        size, inside = math.sqrt(float(scaled @ scaled)), space.right @ scaled
        misfit = math.sqrt(max(size**2 - float(inside @ inside), 0.0)) / size
        dual = inside / space.values
        expected = float(np.linalg.norm(dual)) * space.noise * math.sqrt(len(scaled)) / size
        spread = self.known.covariance(point, label, max(expected, misfit))
        parts = float(dual @ point)
        vague = math.sqrt(max(float(dual @ spread @ dual), 0.0)) / parts
        return Row(label, point, error, misfit, expected, parts, vague)

    def _counted(self) -> None:
        """N: the largest of those known well, else of the more exact half, since m equal samples say N / m."""
        if len(self.rows) <= 5 or len(self.rows) % 5 == 0:
            half = sorted(self.rows, key=lambda one: one.vague)[: max(1, len(self.rows) // 2)]
            best = [one for one in self.rows if one.vague < SHARP] or half
            self.samples = max(one.parts for one in best)

    def _apart(self) -> Apart:
        if not self.rows:
            return Apart((), 0.0, (), self.tries)
        parts = np.array([one.parts for one in self.rows])
        samples = self.samples or float(parts.max())
        vague = np.array([one.vague for one in self.rows])
        weights = 1 / (vague + 1e-6) ** 2
        for _ in range(5):
            times = self._times(samples, parts, vague)
            samples = float((weights * parts * times).sum() / weights.sum())
        times = self._times(samples, parts, vague)
        return Apart(tuple(self.rows), samples, tuple(int(one) for one in times), self.tries, self.open)

    @staticmethod
    def _times(samples: float, parts: Array, vague: Array) -> Array:
        """How many samples each row stands for; one where that cannot be told from its share."""
        times = np.clip(np.round(samples / parts), 1, None)
        times = np.where(vague > VAGUE, 1.0, times)
        # Whoever claims each of them would fill the memory with copies.
        return np.asarray(times if times.sum() <= len(times) + CROWD else np.ones(len(times)))

    def _deflated(self) -> tuple[Array, Array]:
        """Bases (k, r) of the coordinates of features and of errors that the rows found leave.

        a_t^T Sigma^-1 beta_s = 0 between different samples (T6), so the others lie across those found: exactly, and
        without subtracting anything from the gradient.
        """
        if not self.rows:
            eye = np.eye(self.space.rank)
            return eye, eye
        betas = np.stack([self.space.right @ (one.error * self.space.scale) for one in self.rows])
        features = np.stack([one.features for one in self.rows])
        return _null(betas / self.space.values), _null(features / self.space.values)

    def _leverage(self, across: Array) -> Array:
        """(C,) how much of each class's unit vector lies in the errors that are left: those of present classes do."""
        scale = self.space.scale
        rows = np.divide(
            across.T @ self.space.right, scale, out=np.zeros_like(across.T @ self.space.right), where=scale > 0
        )
        basis, _ = np.linalg.qr(rows.T)
        return np.asarray((basis**2).sum(1))

    def _missing(self) -> Array:
        """(C,) twice how many samples of each class are not explained, as far as the bias gradient says."""
        if self.bias is None:
            return np.zeros(len(self.space.scale))
        if self.samples is None or not self.rows:
            return np.asarray((self.bias < 0).astype(float))
        # N db = sum_s (p_s - e_(y_s)): of those not found about 1 - p is left at their class, negative.
        left = -self.samples * self.bias
        for one in self.rows:
            left = left + one.error * max(1, round(self.samples / one.parts))
        return np.asarray(2 * np.clip(left, -0.5, 1.0))

    def _mean(self) -> Array:
        return np.asarray(np.mean([one.features for one in self.rows], axis=0))

    def _starts(self, label: int, outside: Array) -> Iterator[Array]:
        """Where to search from, the likeliest first: the mean of what was found, nothing, a fit of the logarithms,
        pushes along the label's own weights, and single samples that were found."""
        mean = self._mean() if self.rows else None
        if mean is not None:
            yield outside.T @ mean
        yield np.zeros(outside.shape[1])
        yield from self._logarithmic(label, outside)
        own = self.known.weight[label]
        push = outside.T @ (self.space.left.T @ own) / max(float(own @ own), 1e-300)
        yield 4 * push
        yield 10 * push
        if mean is not None:
            yield outside.T @ mean + 6 * push
            for place in self.rng.permutation(len(self.rows))[:6]:
                yield outside.T @ self.rows[place].features

    def _logarithmic(self, label: int, outside: Array) -> Iterator[Array]:
        """log rho_c = (A a + b)_c - const is linear in a; rho is taken from the projection of -e_y on the row space.

        Floors, since a projection has negative entries where a softmax has none.
        """
        space, slopes = self.space, self.known.slopes @ outside
        unit = -space.right[:, label] * space.scale[label]
        shape = np.divide(space.right.T @ unit, space.scale, out=np.zeros(len(space.scale)), where=space.scale > 0)
        if shape[label] != 0:
            shape = shape / abs(shape[label])
        others = np.arange(len(shape)) != label
        for floor in (1e-2, 1e-4):
            rho = np.maximum(shape, floor * max(float(shape.max()), 1e-12))[others]
            rho /= rho.sum()
            weights = np.sqrt(rho + 0.1 / len(shape))
            system = np.column_stack([slopes[others], np.ones(len(rho))]) * weights[:, None]
            wanted = (np.log(rho) - self.known.offset[others]) * weights
            normal = system.T @ system
            ridge = 1e-3 * float(np.trace(normal)) / max(outside.shape[1], 1)
            yield np.linalg.solve(normal + ridge * np.eye(len(normal)), system.T @ wanted)[:-1]


def _null(rows: Array) -> Array:
    """(k, k - r) orthonormal columns across all of `rows` (r, k)."""
    basis, _ = np.linalg.qr(rows.T, mode="complete")
    return np.asarray(basis[:, len(rows) :])


def take_apart(
    known: KnownRows,
    bias: Array | None,
    rng: np.random.Generator,
    *,
    stop: Callable[[], bool] = lambda: False,
    told: int | None = None,
) -> Apart:
    """Every sample's row of dL/dW; `bias`, `stop` and `told`, of how many samples, as of `Peeling`."""
    return Peeling(known, bias, rng, stop, told).run()


def row_rounding(known: KnownRows, row: Row) -> float:
    """Relative error of a row g = softmax(W h + b) - e_y: its misfit, and what that leaves open of the row itself.

    Where there are few more classes than unknowns a row that is wrong fits nearly as well: what the fit leaves of the
    equations, which may be two, says by chance less than there is, so that what rounding lets expect counts where it is
    more.
    """
    misfit = max(row.misfit, row.expected, 1e-7)
    # dg = (diag p - p p^T) W dh, p being g and the labels, smoothed or not, that were taken off.
    shares = known.error(row.features, row.label) + known.smoothing / len(known.slopes)
    shares[row.label] += 1.0 - known.smoothing
    slope = shares[:, None] * (known.slopes - shares @ known.slopes)
    covariance = known.covariance(row.features, row.label, misfit)
    off = math.sqrt(max(float(np.trace(slope @ covariance @ slope.T)), 0.0))
    return max(misfit, off / max(float(np.linalg.norm(row.error)), 1e-300))
