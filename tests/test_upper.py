"""The most that any attack can reach: against closed forms, and against guesses of somebody who knows everything."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting import (
    GaussianDpEvent,
    LaplaceDpEvent,
    NonPrivateDpEvent,
    NoOpDpEvent,
    PoissonSampledDpEvent,
    SelfComposedDpEvent,
    UnsupportedDpEvent,
    ZCDpEvent,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from leakscope.bounds.accounting import deltas, epsilon
from leakscope.bounds.upper import largest_power, largest_share, replaced_epsilon
from leakscope.core.errors import BadInput


def gaussian(rate: float, mu: float) -> float:
    """Phi(Phi^-1(a) + mu): the power of the likelihood ratio between N(0, 1) and N(mu, 1)."""
    return float(norm.cdf(norm.ppf(rate) + mu))


def laplace(rate: float, eps: float) -> float:
    """The power of the likelihood ratio between two Laplace laws at a distance of eps of their scales."""
    if rate < math.exp(-eps) / 2:
        return math.exp(eps) * rate
    return 1 - math.exp(-eps) / (4 * rate) if rate <= 0.5 else 1 - math.exp(-eps) * (1 - rate)


@settings(max_examples=15, deadline=None)
@given(st.floats(0.3, 20), st.floats(1e-5, 0.99))
def test_of_normal_noise_it_is_the_closed_form_and_never_below(multiplier: float, rate: float) -> None:
    exact = gaussian(rate, 1 / multiplier)
    assert exact * (1 - 1e-12) <= largest_power(GaussianDpEvent(multiplier), fpr=rate) <= exact + 2e-5


@settings(max_examples=10, deadline=None)
@given(st.floats(0.3, 20), st.floats(1e-4, 0.99))
def test_of_laplace_noise_too(scale: float, rate: float) -> None:
    exact = laplace(rate, 1 / scale)
    assert exact * (1 - 1e-9) <= largest_power(LaplaceDpEvent(scale), fpr=rate) <= exact + 2e-4


@pytest.mark.parametrize("rate", [0.001, 0.05])
def test_of_rounds_it_is_that_of_their_sum(rate: float) -> None:
    event = SelfComposedDpEvent(GaussianDpEvent(8.0), 16)
    assert largest_power(event, fpr=rate) == pytest.approx(gaussian(rate, 0.5), rel=1e-3)


@pytest.mark.parametrize(("q", "noise"), [(0.1, 1.0), (0.5, 0.7)])
def test_of_a_sampled_step_it_is_the_mixture_where_that_is_the_worse_direction(q: float, noise: float) -> None:
    """(1 - q) a + q Phi(Phi^-1(a) + 1 / s) for "was it in the batch" (Kaissis et al. 2023), exact for a small a.

    "Was it not" has the mirrored curve, which is above for a large a; the bound holds for both questions.
    """
    event = PoissonSampledDpEvent(q, GaussianDpEvent(noise))
    for rate in (0.001, 0.01, 0.1):
        exact = (1 - q) * rate + q * gaussian(rate, 1 / noise)
        assert exact * (1 - 1e-9) <= largest_power(event, fpr=rate) <= exact + 1e-5
    # mirrored: FPR = 1 - power, TPR = 1 - false alarm
    for alarm in (0.01, 0.1):
        missed = 1 - ((1 - q) * alarm + q * gaussian(alarm, 1 / noise))
        assert 1 - alarm <= largest_power(event, fpr=missed) <= 1 - alarm + 1e-5


def test_replacing_one_by_another_is_two_steps() -> None:
    event = GaussianDpEvent(1.0)
    for rate in (0.001, 0.1, 0.7):
        found = largest_power(event, fpr=rate, replaced=True)
        assert gaussian(rate, 2.0) <= found <= gaussian(rate, 2.0) + 1e-4


def test_ends() -> None:
    for rate in (0.0, 0.3, 1.0):
        assert largest_power(NonPrivateDpEvent(), fpr=rate) == 1.0
        assert largest_power(NoOpDpEvent(), fpr=rate) == rate
    assert largest_power(GaussianDpEvent(1.0), fpr=0.0) < 1e-9
    assert largest_power(GaussianDpEvent(1.0), fpr=1.0) == 1.0
    # an event that only Renyi knows: looser, and true
    assert gaussian(0.1, 1.0) <= largest_power(ZCDpEvent(0.5), fpr=0.1) < 0.8


@pytest.mark.parametrize("multiplier", [1e-300, 1e-30])
def test_what_overflows_bounds_nothing(multiplier: float) -> None:
    assert largest_power(GaussianDpEvent(multiplier), fpr=0.1) == 1.0


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan, True, "0.1"])
def test_rates_are_rates(rate: float) -> None:
    with pytest.raises(BadInput, match="expected 0 <= fpr <= 1"):
        largest_power(GaussianDpEvent(1.0), fpr=rate)
    with pytest.raises(BadInput, match="expected 0 <= chance <= 1"):
        largest_share(GaussianDpEvent(1.0), chance=rate)


def test_an_unknown_event_is_named() -> None:
    with pytest.raises(BadInput, match="neither accountant"):
        largest_power(UnsupportedDpEvent(), fpr=0.1)


def test_a_curve_of_losses_falls_and_is_that_of_the_closed_form() -> None:
    places = np.linspace(0, 6, 25)
    found = deltas(GaussianDpEvent(1.0))(places)
    exact = norm.cdf(0.5 - places) - np.exp(places) * norm.cdf(-0.5 - places)
    assert (np.diff(found) <= 0).all()
    assert (found >= exact * (1 - 1e-9)).all()
    assert (found <= exact + 1e-5).all()


@pytest.mark.parametrize("noise", [0.4, 0.8, 2.0])
@pytest.mark.parametrize("prior", [np.full(2, 0.5), np.full(10, 0.1), np.array([0.5, 0.2, 0.1, 0.1, 0.1])], ids=len)
def test_the_best_guess_among_directions_is_below_the_share(noise: float, prior: np.ndarray) -> None:
    """Each candidate is a unit vector of its own, clipped at 1: the guess of largest posterior, who knows all but the
    draw, is right at most as often as the bound says, and comes near it (one step in or out, not two)."""
    rng, trials = np.random.default_rng(len(prior)), 200_000
    truth = rng.choice(len(prior), size=trials, p=prior)
    # two candidates at +1 and -1 are the worst pair; more than two are as far apart as the axes of a simplex
    corners = np.eye(len(prior)) - np.full((len(prior), len(prior)), 1 / len(prior))
    corners /= np.linalg.norm(corners, axis=1, keepdims=True)
    sent = corners[truth] + noise * rng.normal(size=(trials, len(prior)))
    posterior = np.log(prior) + sent @ corners.T / noise**2
    share = float((posterior.argmax(1) == truth).mean())
    bound = largest_share(GaussianDpEvent(noise), chance=float(prior.max()))
    assert share <= bound + 4 / math.sqrt(4 * trials)
    assert share > prior.max() + 0.05 * (bound - prior.max())
    if len(prior) == 2:
        # the reference, what is sent without either, lies in the middle: the bound of one step is reached
        assert share == pytest.approx(bound, abs=0.005)


@pytest.mark.parametrize("multiplier", [1.0, 4.0])
def test_of_another_in_its_place_it_is_that_of_twice_the_distance(multiplier: float) -> None:
    """N(0, s^2) and N(2, s^2): the closed form of half the multiplier, never below it."""
    exact = epsilon(GaussianDpEvent(multiplier / 2), delta=1e-5)
    assert exact - 1e-3 <= replaced_epsilon(GaussianDpEvent(multiplier), delta=1e-5) <= exact + 0.1


def test_what_is_not_private_has_no_epsilon_of_replacing() -> None:
    assert replaced_epsilon(NonPrivateDpEvent(), delta=1e-5) == math.inf
    assert 0 <= replaced_epsilon(NoOpDpEvent(), delta=1e-5) <= 0.05
    with pytest.raises(BadInput, match="delta"):
        replaced_epsilon(NoOpDpEvent(), delta=0.0)
