"""Gauss-Newton steps that end a search: by scipy's bounded least squares, and where nothing may get worse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear
from torch import Tensor, nn

import leakscope as ls
from leakscope.attacks.parts.search.gauss_newton import SHORTENED, gauss_newton
from leakscope.core.effort import Budget, Progress

UNIT = (torch.zeros(1), torch.ones(1))


def sums(residuals: Tensor) -> Tensor:
    return residuals.square().sum(1)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), many=st.integers(1, 4), width=st.integers(1, 6), more=st.integers(0, 4))
def test_linear_residuals_end_where_scipy_ends(seed: int, many: int, width: int, more: int) -> None:
    rng = np.random.default_rng(seed)
    maps = rng.normal(size=(many, width + more, width)) + 2 * np.eye(width + more, width)
    # About a third of what is wanted lies beyond the bounds.
    wanted = np.einsum("nij,nj->ni", maps, rng.uniform(-0.5, 1.5, (many, width))) + 0.01 * rng.normal(
        size=(many, width + more)
    )
    weights, right = torch.from_numpy(maps), torch.from_numpy(wanted)

    def left(inputs: Tensor) -> Tensor:
        return torch.einsum("nij,nj->ni", weights, inputs) - right

    start = torch.full((many, width), 0.5, dtype=torch.float64)
    found, _, _ = gauss_newton(left, start, UNIT, clock=Budget().start(), steps=200)
    assert bool((found >= 0).all() and (found <= 1).all())
    for one in range(many):
        best = lsq_linear(maps[one], wanted[one], (0, 1), tol=1e-14)
        begun = float(sums(left(start))[one])
        # Steps end where they no longer halve the sum of squares, so the valley's floor is reached to a part only.
        assert 2 * best.cost - 1e-9 <= float(sums(left(found))[one]) <= max(2.5 * 2 * best.cost + 1e-6, begun * 0.51)


def test_inputs_that_nothing_bounds_are_solved_to_rounding() -> None:
    rng = np.random.default_rng(7)
    weights = torch.from_numpy(rng.normal(size=(9, 5)))
    true = torch.from_numpy(rng.uniform(0.2, 0.8, (3, 5)))
    found, spent, _ = gauss_newton(
        lambda inputs: (inputs - true) @ weights.T, torch.full_like(true, 0.5), UNIT, clock=Budget().start()
    )
    assert torch.allclose(found, true, atol=1e-9)
    # Five unknowns take five products with J and five with its transpose, each of two steps, a slope and a look each.
    assert spent <= 2 * (2 * 6 + 2 + SHORTENED)


def test_each_input_stands_alone() -> None:
    """Of one that is solved, one whose step leads nowhere and one that is NaN, the first alone moves."""

    def left(inputs: Tensor) -> Tensor:
        return torch.cat([inputs[:1] - 0.25, 1 + (inputs[1:2] - 0.5).abs(), inputs[2:] * torch.nan])

    start = torch.full((3, 2), 0.5)
    found, _, _ = gauss_newton(left, start, UNIT, clock=Budget().start())
    assert torch.allclose(found[0], torch.full((2,), 0.25))
    assert torch.equal(found[1:], start[1:])


def test_what_the_residuals_do_not_fix_stays_as_it_was() -> None:
    start = torch.tensor([[0.9, 0.3, 0.1]], dtype=torch.float64)
    found, _, _ = gauss_newton(lambda inputs: inputs[:, :1] - 0.4, start, UNIT, clock=Budget().start())
    assert torch.allclose(found, torch.tensor([[0.4, 0.3, 0.1]], dtype=torch.float64))
    # The sum alone is known: each half takes half of what is missing.
    found, _, _ = gauss_newton(
        lambda inputs: inputs[:, :2].sum(1, keepdim=True) - 1, start, UNIT, clock=Budget().start()
    )
    assert torch.allclose(found, torch.tensor([[0.8, 0.2, 0.1]], dtype=torch.float64))


def test_rectifiers_are_no_obstacle() -> None:
    key = ls.Key(3)
    with key.isolated():
        net = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU()).double()
        true = torch.rand(5, 6, dtype=torch.float64)
        start = (true + 0.1 * torch.randn(5, 6, dtype=torch.float64)).clamp(0, 1)
    wanted = net(true).detach()
    found, _, _ = gauss_newton(lambda inputs: net(inputs) - wanted, start, UNIT, clock=Budget().start())
    assert float((found - true).abs().max()) < 1e-9 < 0.05 < float((start - true).abs().max())


class Once(torch.autograd.Function):
    """The square, which can be differentiated once."""

    @staticmethod
    def forward(context: torch.autograd.function.FunctionCtx, values: Tensor) -> Tensor:
        context.save_for_backward(values)
        return values.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: torch.autograd.function.FunctionCtx, above: Tensor) -> Tensor:
        (values,) = context.saved_tensors
        return 2 * values * above


def test_without_a_second_derivative_the_inputs_come_back() -> None:
    start = torch.full((2, 2), 0.5)
    found, spent, _ = gauss_newton(lambda inputs: Once.apply(inputs) - 0.1, start, UNIT, clock=Budget().start())
    assert torch.equal(found, start)
    assert spent == 0


def test_residuals_that_fail_are_not_silenced() -> None:
    with pytest.raises(RuntimeError, match="shape"):
        gauss_newton(lambda inputs: inputs @ torch.ones(7, 1), torch.ones(1, 2), UNIT, clock=Budget().start())


@pytest.mark.parametrize("most", [1, 7, 8, 9, 40])
def test_a_budget_ends_it(most: int) -> None:
    rng = np.random.default_rng(0)
    weights = torch.from_numpy(rng.normal(size=(60, 50)))
    left = lambda inputs: inputs @ weights.T - 1  # noqa: E731
    start = torch.full((1, 50), 0.5, dtype=torch.float64)
    found, spent, _ = gauss_newton(left, start, UNIT, clock=Budget(evaluations=most).start())
    assert spent <= most
    assert (spent > 0) == (most >= 8)
    assert float(sums(left(found))) <= float(sums(left(start)))


def test_no_steps_are_refused() -> None:
    with pytest.raises(ls.BadInput, match="steps"):
        gauss_newton(lambda inputs: inputs, torch.ones(1, 1), UNIT, clock=Budget().start(), steps=0)


@pytest.mark.parametrize("at", [1, 2])
def test_an_interruption_keeps_the_steps_before_it(at: int) -> None:
    def left(inputs: Tensor) -> Tensor:
        return (inputs * (1 + inputs) - 0.75) * 10

    def stop(sign: Progress) -> None:
        if sign.fraction >= at / 10:
            raise KeyboardInterrupt

    start = torch.full((1, 3), 0.3, dtype=torch.float64)
    whole = gauss_newton(left, start, UNIT, clock=Budget().start(), steps=at)
    stopped = gauss_newton(left, start, UNIT, clock=Budget().start(), watch=stop)
    assert torch.equal(stopped[0], whole[0])
    assert stopped[1:] == (whole[1], True)
    assert not whole[2]
    assert float(sums(left(stopped[0]))) < float(sums(left(start)))
