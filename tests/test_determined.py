"""What released numbers determine: against null spaces, closed forms, least squares, and a head that is trained."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import null_space
from torch import nn

import leakscope as ls
from leakscope.bounds.determined import (
    determined_directions,
    means_and_differences,
    standard_errors,
    weight_gradient_map,
)
from leakscope.core.errors import BadInput


def free(linear: np.ndarray, start: int, size: int) -> int:
    """By another route: of the vectors that A maps to 0, how many dimensions this sample's part has."""
    silent = null_space(linear, rcond=1e-10)
    return int(np.linalg.matrix_rank(silent[start : start + size], tol=1e-8)) if silent.size else 0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 12), st.integers(1, 6), st.integers(0, 999))
def test_directions_are_those_that_no_silent_change_moves(sizes: list[int], rows: int, rank: int, seed: int) -> None:
    rng, wide = np.random.default_rng(seed), sum(sizes)
    linear = rng.normal(size=(rows, rank)) @ rng.integers(-1, 2, size=(rank, wide)).astype(float)
    if not linear.any():
        linear[0, 0] = 1.0
    starts = np.cumsum([0, *sizes[:-1]])
    wanted = tuple(size - free(linear, int(start), size) for start, size in zip(starts, sizes, strict=True))
    assert determined_directions(linear, sizes) == wanted


@pytest.mark.parametrize(("samples", "classes", "wanted"), [(3, 5, 4), (4, 5, 4), (5, 5, 0), (8, 5, 0)])
def test_fewer_samples_than_classes_are_determined_by_the_last_layer(samples: int, classes: int, wanted: int) -> None:
    """Errors p - y add up to 0 over the classes, so that C of them always depend on one another."""
    rng = np.random.default_rng(1)
    errors = rng.dirichlet(np.ones(classes), samples)
    errors -= np.eye(classes)[rng.integers(0, classes, samples)]
    assert determined_directions(weight_gradient_map(errors, 4), [4] * samples) == (wanted,) * samples


def test_samples_of_one_class_are_known_by_their_mean() -> None:
    """Equal errors within a class, as at small first weights: sums are released, and nothing of the summands."""
    errors = 0.25 - np.eye(4)[[0, 0, 0, 1]]
    linear = weight_gradient_map(errors, 5)
    assert determined_directions(linear, [5] * 4) == (0, 0, 0, 5)
    changed = means_and_differences(linear, 5, [[0, 1, 2], [3]])
    assert determined_directions(changed, [5] * 4) == (5, 0, 0, 5)
    # and it is the same map: A x = A' x'
    x = np.random.default_rng(2).normal(size=(4, 5))
    other = x.copy()
    other[0] = x[:3].mean(0)
    other[1:3] = x[1:3] - other[0]
    assert changed @ other.ravel() == pytest.approx(linear @ x.ravel())


def test_errors_are_those_of_least_squares() -> None:
    """The variance of the best unbiased estimate is the sample's block of noise^2 (A^T A)^-1."""
    rng = np.random.default_rng(3)
    linear, noise = rng.normal(size=(20, 6)), 0.3
    covariance = noise**2 * np.linalg.inv(linear.T @ linear)
    for errors, block in zip(standard_errors(linear, [2, 4], noise=noise), (np.s_[:2], np.s_[2:]), strict=True):
        wanted = np.sqrt(np.linalg.eigvalsh(covariance[block, block]))
        assert errors == pytest.approx(wanted, rel=1e-9)
    narrow = standard_errors(linear[:3], [2, 4], noise=noise)
    assert [len(errors) for errors in narrow] == [2, 4]
    assert all(math.isinf(error) for errors in narrow for error in errors[1:])


def jacobian(std: float, size: int) -> np.ndarray:
    """Of the five rows of a head after 32 steps on two classmates and another, by autograd."""
    with ls.Key(0).isolated():
        head = nn.Linear(size, 5)
        nn.init.normal_(head.weight, 0.0, std)
        nn.init.zeros_(head.bias)
    target = ls.Target(nn.Sequential(nn.Flatten(), head).double(), ls.Images(1, 1, size), 5)
    training, labels = ls.HeadTraining(steps=32, lr=0.05), torch.tensor([0, 0, 1])

    def released(inputs: torch.Tensor) -> torch.Tensor:
        return torch.cat([one.flatten() for one in training.replay(target, ls.Batch(inputs, labels)).by_name.values()])

    x = torch.randn(3, 1, 1, size, generator=ls.Key(1).generator(), dtype=torch.float64)
    return torch.autograd.functional.jacobian(released, x).reshape(5 * (size + 1), -1).numpy()


def test_a_trained_head_fixes_classmates_on_paper_and_their_mean_in_fact() -> None:
    """Rank says more of two classmates than a little noise leaves of them."""
    size = 4
    linear = jacobian(0.05, size)
    mean = means_and_differences(linear, size, [[0, 1]])
    # on paper every direction of each
    assert determined_directions(linear, [size] * 3) == (size,) * 3
    # with noise on the weights the mean is known as well as a single one, and a classmate far worse
    alone = standard_errors(linear, [size] * 3, noise=1e-3)
    together = standard_errors(mean, [size] * 3, noise=1e-3)
    assert np.median(alone[0]) > 4 * np.median(together[0])
    assert np.median(alone[0]) > 4 * np.median(alone[2])
    # from zero weights the outputs of absent classes stay alike: what differs are two rows of five numbers
    assert determined_directions(jacobian(0.0, size), [size] * 3) == (2, 2, 2)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: determined_directions(np.ones(3), [3]), "expected a matrix"),
        (lambda: determined_directions(np.full((1, 1), np.nan), [1]), "finite"),
        (lambda: determined_directions(np.ones((2, 3)), [1, 1]), "add up to 2"),
        (lambda: determined_directions(np.ones((2, 3)), [3], tolerance=0.0), "tolerance"),
        (lambda: standard_errors(np.ones((2, 3)), [3], noise=0.0), "noise"),
        (lambda: means_and_differences(np.ones((2, 3)), 2, [[0]]), "no whole number"),
        (lambda: means_and_differences(np.ones((2, 4)), 2, [[0], [0]]), "each in one group"),
        (lambda: means_and_differences(np.ones((2, 4)), 2, [[2]]), "samples 0 to 1"),
        (lambda: means_and_differences(np.ones((2, 4)), 2, [[]]), "each in one group"),
        (lambda: weight_gradient_map(np.ones((2, 2)), 0), "size >= 1"),
    ],
)
def test_impossible_shapes_are_named(call, text: str) -> None:
    with pytest.raises(BadInput, match=text):
        call()
