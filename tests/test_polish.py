"""The Gauss-Newton step on frames against finite differences and dense algebra, and what it gains under noise."""

from __future__ import annotations

import numpy as np
import pytest

from leakscope.attacks.inputs.frames.exact.polish import _Step, polished
from leakscope.attacks.inputs.frames.window.window_span import span_of
from leakscope.numerics import banded
from leakscope.targets.looking.context_window import ContextWindow

WINDOW = ContextWindow("w", "b", left=1, right=2, features=3)
LENGTHS = (4, 3)
RANDOM = np.random.default_rng(5)
TRUTH = tuple(RANDOM.standard_normal((count, 3)) for count in LENGTHS)
SCALE = RANDOM.uniform(0.5, 2.0, 13)
ERRORS = RANDOM.standard_normal((sum(LENGTHS), 40)) * np.geomspace(1, 100, sum(LENGTHS))[:, None]
NOISE = 0.05 * RANDOM.standard_normal((13, 40))


def stacked(utterances: tuple[np.ndarray, ...]) -> np.ndarray:
    parts = [banded.windows(frames, left=1, right=2) for frames in utterances]
    return np.hstack([np.vstack(parts), np.ones((sum(LENGTHS), 1))])


MATRIX = stacked(TRUTH).T @ ERRORS + NOISE


def left(flat: np.ndarray) -> float:
    """|A - S [X; 1] Delta|^2 with the best Delta, by least squares."""
    rows = stacked(tuple(np.split(flat.reshape(-1, 3), np.cumsum(LENGTHS)[:-1]))) * SCALE
    scaled = MATRIX * SCALE[:, None]
    return float(((scaled - rows.T @ np.linalg.lstsq(rows.T, scaled, rcond=None)[0]) ** 2).sum())


def step() -> _Step:
    return _Step(MATRIX * SCALE[:, None], TRUTH, SCALE, WINDOW)


def test_the_slope_is_minus_half_the_derivative_of_what_is_left() -> None:
    at, size = np.vstack(TRUTH).ravel(), 1e-5
    moves = size * np.eye(len(at))
    expected = np.array([(left(at + move) - left(at - move)) / (2 * size) for move in moves])
    np.testing.assert_allclose(-2 * step().slope.ravel(), expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


def test_the_step_solves_the_dense_normal_equations_and_lowers_what_is_left() -> None:
    problem = step()
    columns = [problem.normal(unit.reshape(-1, 3)).ravel() for unit in np.eye(problem.slope.size)]
    dense = np.linalg.solve(np.stack(columns, axis=1), problem.slope.ravel())
    taken = np.vstack(problem.taken(200))
    np.testing.assert_allclose((taken - np.vstack(TRUTH)).ravel(), dense, rtol=1e-3, atol=1e-4 * np.abs(dense).max())
    assert left(taken.ravel()) < left(np.vstack(TRUTH).ravel()) == pytest.approx(problem.value)


def test_weak_frames_no_longer_spoil_the_strong() -> None:
    """The errors of the last frame are a hundred times those of the first: all count alike in the linear system."""
    span = span_of(MATRIX)
    assert span.rank == sum(LENGTHS)
    off = tuple(frames + 0.05 * RANDOM.standard_normal(frames.shape) for frames in TRUTH)
    better = polished(MATRIX, off, span, WINDOW)
    away = [np.abs(np.vstack(some) - np.vstack(TRUTH)).mean() for some in (off, better)]
    assert away[1] < 0.3 * away[0]
