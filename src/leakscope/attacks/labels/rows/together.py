"""All rows of one gradient at once: samples of one class that run into one another row by row are told apart by all."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from leakscope.attacks.labels.rows.known_rows import KnownRows

Array = NDArray[np.float64]

LARGEST_RANK = 48
"""Samples up to which all k^2 coordinates are solved for at once, in k^6 / 3 operations a step: a second at 48."""
STEPS = 60
"""Of Levenberg-Marquardt from one start; those that end right need twenty."""
STARTS = 12
"""From which it is tried, as long as steps are left."""
SPENT = 1.5e11
"""k^6 times the steps of all starts: twelve steps at 48 samples, 140 at 32."""
GENTLE = 1e-7
"""First damping relative to the mean of the diagonal: what is weak is a millionth as steep as what is strong."""
FITS = 1.0
"""What may be left of the gradient, in units of what rounding is expected to leave."""
OPEN = 3.0
"""How many samples a row may stand for, give or take, before anything is known of it."""
FORWARD = 3e-7
"""Relative rounding of a sample's own error in its forward pass; it stays within the row space, and is in no noise."""


@final
class Together:
    """Rows a_s with labels y_s for which (1/N) sum_s a_s (scale g(a_s, y_s))^T is diag(values) right.

    By its own equation a row of near-uniform softmax is known to a few percent only: along h_s - h_t of two samples of
    one class its error hardly leaves the row space, so that any point between two samples, and beyond, solves it. What
    tells these apart is T6, beta_s^T Sigma^-1 a_t = N where s is t and 0 else, which is the gradient itself.
    """

    def __init__(self, known: KnownRows, rng: np.random.Generator, stop: Callable[[], bool]) -> None:
        self.known, self.space, self.rng, self.stop = known, known.space, rng, stop
        self.sent = known.space.values[:, None] * known.space.right
        self.spent = 0.0

    def run(self, found: list[tuple[int, Array]], labels: list[int]) -> Array | None:
        """(k, k) the coordinates of all samples, in the order of `found` and then of `labels`; None for none.

        found: label and coordinates of each row so far. labels: of those that are missing, k in all; N is k.
        """
        rank = self.space.rank
        every = np.array([label for label, _ in found] + labels, np.int64)
        if len(every) != rank or rank > LARGEST_RANK or not found:
            return None
        best: Array | None = None
        least = FITS
        # Nothing is drawn where no sample is missing. Where two pairs ran into one another, or three samples, how they
        # lie is known by little more than rounding: of all starts the one that leaves least.
        for _ in range(STARTS if labels else 1):
            points = self._start(found, every)
            if points is None or self.stop() or self.spent > SPENT:
                break
            solved, left = self._solve(points, every, float(rank))
            if left <= least:
                best, least = solved, left
        return best

    def vague(self, points: Array, labels: NDArray[np.int64]) -> float:
        """How far from one m_s may be, the number of samples that a row stands for, all features left open: the most of
        what the gradient asks for and two standard deviations.

        (1/N) sum_s m_s a_s (scale g(a_s, y_s))^T says m_s a_s, and m_s apart from a_s only as far as the softmax sees
        the size of a_s: where it is uniform one sample is as good as six with a sixth of the features, whatever is
        fitted. And where it is linear in the features, two samples of a class that weigh 2 : 1 are as good as two
        others of equal weight that have the same mean and second moment.
        """
        rank, samples = len(points), float(len(points))
        errors, rest = self._residual(points, labels, samples)
        slopes = np.stack([self._slope(one, int(y)) for one, y in zip(points, labels, strict=True)])
        normal, slope = self._normal(points, errors, slopes, rest, samples)
        # m_s grows by d and a_s shrinks by d: all that changes is -a_s q_s^T d / N, q_s = K_s a_s. With all a left open
        # this is the same question as of m_s alone, without the difference of what is nearly equal.
        seen = np.einsum("sci,si->sc", slopes, points)
        inner = points @ points.T
        # Against dR_jc / da_ti = (delta_ij e_tc + a_tj K_tci) / N.
        pushed = np.einsum("tci,sc->tis", slopes, seen)
        crossed = (errors @ seen.T)[:, None, :] * points.T[None] + inner[:, None, :] * pushed
        crossed = crossed.reshape(rank**2, rank) / samples**2
        # What does not show in the gradient at all is left as open as rounding leaves it.
        normal[np.diag_indices_from(normal)] += 1e-14 * float(np.trace(normal)) / rank**2
        # What is left says how exact the forward passes were; what they may be (`FITS`) leaves room for other counts.
        noise = max(self.space.noise**2, float((rest**2).sum()) / max(rest.size - rank**2 - rank, 1))
        try:
            free = scipy.linalg.solve(normal, crossed, assume_a="pos", check_finite=False)
            # What the shares change when all features follow them (Schur complement), and what is left open of each.
            left = inner * (seen @ seen.T) / samples**2 - crossed.T @ free + noise / OPEN**2 * np.eye(rank)
            spread = scipy.linalg.solve(left, np.eye(rank), assume_a="pos", check_finite=False)
        except (scipy.linalg.LinAlgError, ValueError):
            return math.inf
        # The step of Gauss and Newton in m: where others fit better, what is left leans towards them.
        leans = np.einsum("sj,jc,sc->s", points, rest, seen) / samples - free.T @ slope
        moved = np.abs(spread @ leans) + 2 * np.sqrt(noise * np.maximum(np.diag(spread), 0.0))
        return float(moved.max())

    def _start(self, found: list[tuple[int, Array]], every: NDArray[np.int64]) -> Array | None:
        """Of each class that lacks samples a simplex across all rows of other classes, about where one was found.

        Along the directions in which an error does not leave the row space, P(v, w) = beta(v)^T Sigma^-1 w is a
        quadratic form, least at the mean of the class's m samples, where it is N / m; these are the corners of a
        simplex that T6 gives the size of. How it is turned is drawn where two samples do not say it.
        """
        points = np.zeros((len(every), self.space.rank))
        points[: len(found)] = [point for _, point in found]
        mean = points[: len(found)].mean(0)
        for label in np.unique(every[len(found) :]):
            own = [place for place, (one, _) in enumerate(found) if one == label]
            others = [place for place, (one, _) in enumerate(found) if one != label]
            middle = points[own].mean(0) if own else mean
            corners = self._corners(middle, label, [found[place] for place in others], int((every == label).sum()))
            if corners is None:
                return None
            points[every == label] = corners
        return points

    def _corners(self, middle: Array, label: int, others: list[tuple[int, Array]], many: int) -> Array | None:
        space, rank = self.space, self.space.rank
        outside = np.eye(rank)
        if others:
            betas = np.stack([space.right @ (self.known.error(point, one) * space.scale) for one, point in others])
            outside = np.linalg.qr((betas / space.values).T, mode="complete")[0][:, len(others) :]
        slope = self._slope(middle, label)
        lean = slope @ outside
        lean -= space.right.T @ (space.right @ lean)
        # All but the steepest: there the softmax sees the size of the features.
        along = outside @ np.linalg.svd(lean, full_matrices=True)[2][1:].T
        if many == 1 or along.shape[1] < many - 1:
            return np.repeat(middle[None], many, 0) if many == 1 else None
        form = (space.right @ slope @ along / space.values[:, None]).T @ along
        sizes, turned = np.linalg.eigh((form + form.T) / 2)
        # Of samples alone it is positive; what is not is rounding.
        sizes = np.maximum(np.abs(sizes), 1e-6 * float(np.abs(sizes).max(initial=0.0)) + 1e-300)
        beta = space.right @ (self.known.error(middle, label) * space.scale)
        # P(c) = P_0 + 2 b c + c Q c, b the mean of both orders since the slope is that of one point.
        linear = ((beta / space.values) @ along + (space.right @ slope @ along / space.values[:, None]).T @ middle) / 2
        middle = middle - along @ (turned @ ((turned.T @ linear) / sizes))
        # c_s c_t = N [s is t] - N / m
        corners = math.sqrt(rank) * (np.eye(many) - 1 / many)
        frame = np.linalg.qr(self.rng.standard_normal((along.shape[1], many - 1)))[0]
        flat = np.linalg.svd(corners)[2][: many - 1]
        return np.asarray(middle + (corners @ flat.T @ frame.T / np.sqrt(sizes)) @ turned.T @ along.T)

    def _slope(self, point: Array, label: int) -> Array:
        """(C, k) of the scaled error of one row at its coordinates."""
        error = self.known.error(point, label)
        shares = error + self.known.smoothing / len(error)
        shares[label] += 1.0 - self.known.smoothing
        return np.asarray((self.space.scale * shares)[:, None] * (self.known.slopes - shares @ self.known.slopes))

    def _solve(self, points: Array, labels: NDArray[np.int64], samples: float) -> tuple[Array, float]:
        """(points, what is left in units of rounding) by Levenberg-Marquardt on all rows."""
        rank, damping = len(points), GENTLE
        errors, rest = self._residual(points, labels, samples)
        cost, idle = float((rest**2).sum()), 0
        for _ in range(STEPS):
            self.spent += float(rank) ** 6
            if self.spent > SPENT or self.stop():
                break
            slopes = np.stack([self._slope(one, int(y)) for one, y in zip(points, labels, strict=True)])
            normal, slope = self._normal(points, errors, slopes, rest, samples)
            level = float(np.trace(normal)) / len(normal)
            for _ in range(8):
                # Only the diagonal changes from try to try.
                damped = normal.copy()
                damped[np.diag_indices_from(damped)] += damping * level
                try:
                    move = scipy.linalg.solve(damped, slope, assume_a="pos", check_finite=False)
                except (scipy.linalg.LinAlgError, ValueError):
                    damping = max(10 * damping, 1e-13)
                    continue
                ahead = points - move.reshape(rank, rank)
                reached = self._residual(ahead, labels, samples)
                size = float((reached[1] ** 2).sum())
                if math.isfinite(size) and size < cost:
                    break
                damping *= 6
            else:
                break
            gain = 1 - size / cost
            points, (errors, rest), cost = ahead, reached, size
            damping = max(damping / 8, 1e-13)
            idle = idle + 1 if gain < 1e-4 else 0
            if idle > 2:
                break
        # Noise in k C coordinates of which k^2 are fitted, and each forward pass's own.
        own = self._forward(points, errors) * rest.shape[1]
        expected = self.space.noise**2 * rank * max(rest.shape[1] - rank, 1) + float(own.sum())
        return points, math.sqrt(cost / max(expected, 1e-300))

    @staticmethod
    def _forward(points: Array, errors: Array) -> Array:
        """(k,) the variance that the forward pass of each sample leaves in a coordinate of the gradient along a_s."""
        lengths = np.linalg.norm(points, axis=1) * np.linalg.norm(errors, axis=1)
        return np.asarray((FORWARD / len(points) * lengths) ** 2 / errors.shape[1])

    def _residual(self, points: Array, labels: NDArray[np.int64], samples: float) -> tuple[Array, Array]:
        """Scaled errors (k, C) and (1/N) points^T errors - sent (k, C)."""
        rows = [self.known.error(one, int(label)) for one, label in zip(points, labels, strict=True)]
        errors = np.stack(rows) * self.space.scale
        return errors, points.T @ errors / samples - self.sent

    @staticmethod
    def _normal(points: Array, errors: Array, slopes: Array, rest: Array, samples: float) -> tuple[Array, Array]:
        """J^T J (k^2, k^2) and J^T rest of R_jc = (1/N) sum_s a_sj e_sc - T_jc.

        dR_jc / da_si = (delta_ij e_sc + a_sj K_sci) / N.
        """
        rank = len(points)
        flat = slopes.transpose(1, 0, 2).reshape(slopes.shape[1], -1)
        # s i t l: the products of slopes, of errors with slopes both ways, and of errors.
        normal = (flat.T @ flat).reshape(rank, rank, rank, rank)
        normal *= (points @ points.T)[:, None, :, None]
        mixed = (errors @ flat).reshape(rank, rank, rank)
        crossed = np.einsum("stl,ti->sitl", mixed, points)
        normal += crossed + crossed.transpose(2, 3, 0, 1)
        places = np.arange(rank)
        normal[:, places, :, places] += errors @ errors.T
        slope = errors @ rest.T + np.einsum("sci,sc->si", slopes, points @ rest)
        return normal.reshape(rank**2, rank**2) / samples**2, slope.ravel() / samples
