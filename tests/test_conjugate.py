"""Conjugate gradients against a dense solution, and how many products they take."""

from __future__ import annotations

import numpy as np
import pytest

from leakscope.numerics import conjugate

RANDOM = np.random.default_rng(0)
TURN = np.linalg.qr(RANDOM.standard_normal((24, 24)))[0]
MATRIX = (TURN * np.geomspace(1, 1e4, 24)) @ TURN.T
RIGHT = RANDOM.standard_normal((4, 6))
DENSE = np.linalg.solve(MATRIX, RIGHT.ravel()).reshape(RIGHT.shape)


class Counted:
    """A product that counts its uses."""

    def __init__(self, matrix: np.ndarray) -> None:
        self.matrix, self.uses = matrix, 0

    def __call__(self, one: np.ndarray) -> np.ndarray:
        self.uses += 1
        return (self.matrix @ one.ravel()).reshape(one.shape)


@pytest.mark.parametrize("size", [1.0, 1e-30, 1e30])
def test_the_solution_is_that_of_the_dense_system_for_every_size(size: float) -> None:
    found = conjugate.solved(Counted(MATRIX), size * RIGHT, within=1e-13, most=500)
    assert found.shape == RIGHT.shape
    np.testing.assert_allclose(found, size * DENSE, rtol=1e-7)  # the condition number costs four of the digits


@pytest.mark.parametrize("within", [1e-1, 1e-4, 1e-8])
def test_it_ends_where_the_residual_is_small_enough_and_not_much_later(within: float) -> None:
    counts = Counted(MATRIX), Counted(MATRIX)
    found = conjugate.solved(counts[0], RIGHT, within=within, most=500)
    left = np.linalg.norm(MATRIX @ found.ravel() - RIGHT.ravel()) / np.linalg.norm(RIGHT)
    assert left <= 1.01 * within
    conjugate.solved(counts[1], RIGHT, within=1e-3 * within, most=500)
    assert counts[0].uses < counts[1].uses


def test_no_more_products_than_allowed() -> None:
    counted = Counted(MATRIX)
    conjugate.solved(counted, RIGHT, within=1e-12, most=7)
    assert counted.uses == 7


def test_with_the_inverse_at_hand_one_product_suffices() -> None:
    counted = Counted(MATRIX)
    found = conjugate.solved(counted, RIGHT, within=1e-8, most=500, near=Counted(np.linalg.inv(MATRIX)))
    assert counted.uses <= 2
    np.testing.assert_allclose(found, DENSE, rtol=1e-6)


def test_nothing_is_solved_by_nothing() -> None:
    assert not conjugate.solved(Counted(MATRIX), 0 * RIGHT, within=1e-3, most=5).any()
