"""Noise for a promise: enough, hardly more than enough, and as closed forms and a published calculation have it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from leakscope.bounds.accounting import epsilon
from leakscope.bounds.calibration import noise_for_advantage, noise_for_epsilon, noise_for_power
from leakscope.bounds.upper import largest_power
from leakscope.core.errors import BadInput


def sampled(steps: int) -> Any:
    return lambda s: SelfComposedDpEvent(PoissonSampledDpEvent(0.5, GaussianDpEvent(s)), steps)


@pytest.mark.parametrize(
    ("steps", "tpr", "noise"),
    [(64, 0.05, 5.93), (64, 0.10, 3.88), (64, 0.25, 2.47), (64, 0.50, 1.75), (100, 0.05, 7.39), (100, 0.50, 2.18)],
)
def test_noise_for_a_power_is_that_of_the_specification(steps: int, tpr: float, noise: float) -> None:
    found = noise_for_power(sampled(steps), tpr=tpr, fpr=0.01)
    assert found == pytest.approx(noise, abs=0.0051)
    assert (
        largest_power(sampled(steps)(found), fpr=0.01) <= tpr < largest_power(sampled(steps)(0.998 * found), fpr=0.01)
    )


@settings(max_examples=5, deadline=None)
@given(st.floats(0.001, 0.2), st.floats(0.05, 0.7))
def test_of_gaussian_noise_it_is_the_closed_form_rounded_up(fpr: float, more: float) -> None:
    """Phi(Phi^-1(a) + 1 / s) = tpr."""
    tpr = fpr + more
    exact = 1 / float(norm.ppf(tpr) - norm.ppf(fpr))
    assert exact * (1 - 1e-9) <= noise_for_power(GaussianDpEvent, tpr=tpr, fpr=fpr) <= exact * 1.002


def test_noise_for_an_advantage_and_for_an_epsilon() -> None:
    # erf(1 / (2 sqrt 2 s)) = 0.2
    exact = 1 / (2 * float(norm.ppf(0.6)))
    assert exact <= noise_for_advantage(GaussianDpEvent, advantage=0.2) <= exact * 1.002
    found = noise_for_epsilon(sampled(64), epsilon=8.0, delta=1e-5)
    assert epsilon(sampled(64)(found), delta=1e-5) <= 8.0 < epsilon(sampled(64)(found * 0.998), delta=1e-5)


def test_what_cannot_be_promised() -> None:
    for wrong, text in (
        ({"tpr": 0.01, "fpr": 0.01}, "0.01 < tpr < 1"),
        ({"tpr": 1.0, "fpr": 0.01}, "0.01 < tpr < 1"),
        ({"tpr": 0.5, "fpr": -1.0}, "fpr"),
        ({"tpr": 0.5, "fpr": math.nan}, "fpr"),
    ):
        with pytest.raises(BadInput, match=text):
            noise_for_power(GaussianDpEvent, **wrong)
    with pytest.raises(BadInput, match="advantage"):
        noise_for_advantage(GaussianDpEvent, advantage=0.0)
    with pytest.raises(BadInput, match="epsilon"):
        noise_for_epsilon(GaussianDpEvent, epsilon=0.0, delta=1e-5)
    with pytest.raises(BadInput, match="no noise multiplier up to 1e\\+06"):
        noise_for_advantage(lambda s: GaussianDpEvent(1.0), advantage=0.1)
