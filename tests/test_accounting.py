"""Epsilon against closed forms that the accountants do not use."""

from __future__ import annotations

import math
import sys

import pytest
from dp_accounting import (
    ComposedDpEvent,
    DpEvent,
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
from scipy.optimize import brentq
from scipy.stats import norm

from leakscope.bounds.accounting import Accountant, epsilon, training_event
from leakscope.core.errors import BadInput, MissingExtra
from leakscope.mechanisms.defenses.clip import Clip
from leakscope.mechanisms.defenses.noise import GaussianNoise, LaplaceNoise
from leakscope.mechanisms.protocols.dpsgd import DPSGD
from leakscope.mechanisms.protocols.fedsgd import FedSGD


def analytic_gaussian(multiplier: float, delta: float) -> float:
    """Balle & Wang 2018 (arXiv:1805.06530), theorem 8, solved for epsilon: the exact privacy of Gaussian noise."""

    def excess(eps: float) -> float:
        half, shift = 0.5 / multiplier, eps * multiplier
        return float(norm.cdf(half - shift) - math.exp(eps + norm.logcdf(-half - shift)) - delta)

    if excess(0.0) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > 0:
        high *= 2
    return brentq(excess, 0.0, high, xtol=1e-13, rtol=1e-13)


def analytic_laplace(multiplier: float, delta: float) -> float:
    """delta(e) = 1 - exp((e - 1/b) / 2) for 0 <= e <= 1/b: the mass beyond the ratio exp(e), solved for e."""
    return max(0.0, 1 / multiplier + 2 * math.log1p(-delta))


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-9])
@pytest.mark.parametrize("multiplier", [0.05, 0.5, 1.0, 4.0, 50.0])
def test_gaussian_noise_has_the_epsilon_of_the_closed_form(multiplier: float, delta: float):
    # the privacy loss is rounded up on a grid of a ten-thousandth of epsilon: never below, at most that far above
    found, exact = epsilon(GaussianDpEvent(multiplier), delta=delta), analytic_gaussian(multiplier, delta)
    assert exact * (1 - 1e-8) <= found <= exact * (1 + 2e-4)


def test_next_to_no_noise_has_a_finite_and_enormous_epsilon():
    """The README's own example, a thousandth of the clip: a fixed grid would need billions of cells."""
    found = epsilon((FedSGD() >> Clip(1.0) >> GaussianNoise(1e-3)).event(), delta=1e-5)
    assert found == pytest.approx(analytic_gaussian(1e-3, 1e-5), rel=1e-3)


@pytest.mark.parametrize("multiplier", [0.1, 1.0, 20.0])
def test_laplace_noise_has_the_epsilon_of_the_closed_form(multiplier: float):
    found, exact = epsilon(LaplaceDpEvent(multiplier), delta=1e-5), analytic_laplace(multiplier, 1e-5)
    assert exact * (1 - 1e-8) <= found <= exact * (1 + 2e-4)


def test_mechanisms_measure_noise_in_units_of_the_clip():
    gaussian = FedSGD() >> Clip(0.5) >> GaussianNoise(1.0)
    laplace = FedSGD() >> Clip(0.5, order=1) >> LaplaceNoise(1.0)
    assert epsilon(gaussian.event(), delta=1e-5) == pytest.approx(analytic_gaussian(2.0, 1e-5), rel=2e-4)
    assert epsilon(laplace.event(), delta=1e-5) == pytest.approx(analytic_laplace(2.0, 1e-5), rel=2e-4)


def test_rounds_of_gaussian_noise_add_up_in_closed_form():
    """n Gaussian releases are one with multiplier std / sqrt(n) (Dong, Roth & Su 2019, corollary 3.3)."""
    mechanism = FedSGD() >> Clip(1.0) >> GaussianNoise(8.0)
    found = epsilon(mechanism.event(rounds=16), delta=1e-5)
    assert found == pytest.approx(analytic_gaussian(2.0, 1e-5), rel=2e-4)


def test_two_noises_in_one_release_are_composed():
    both = ComposedDpEvent([GaussianDpEvent(3.0), GaussianDpEvent(4.0)])
    assert epsilon(both, delta=1e-5) == pytest.approx(analytic_gaussian(12 / 5, 1e-5), rel=1e-3)


def test_any_part_that_is_not_private_makes_the_whole_infinite():
    assert epsilon(NonPrivateDpEvent(), delta=1e-5) == math.inf
    assert epsilon(ComposedDpEvent([GaussianDpEvent(9.0), NonPrivateDpEvent()]), delta=1e-5) == math.inf
    assert epsilon(SelfComposedDpEvent(NonPrivateDpEvent(), 2), delta=0.5) == math.inf


def test_doing_nothing_costs_nothing():
    assert epsilon(NoOpDpEvent(), delta=1e-5) == 0


def test_an_event_that_only_renyi_knows_is_read_by_renyi():
    """rho-zCDP: epsilon <= rho + 2 sqrt(rho log(1/delta)) (Bun & Steinke 2016, proposition 1.3)."""
    found = epsilon(ZCDpEvent(0.5), delta=1e-5)
    assert 0 < found <= 0.5 + 2 * math.sqrt(0.5 * math.log(1e5))


@pytest.mark.parametrize("multiplier", [1e-300, 1e-30])
def test_overflow_is_an_upper_bound_too(multiplier: float):
    for kind in (GaussianDpEvent, LaplaceDpEvent):
        assert epsilon(kind(multiplier), delta=1e-5) >= 1e29


@settings(max_examples=50, deadline=None)
@given(st.one_of(st.floats(max_value=0), st.floats(min_value=1), st.just(math.nan), st.booleans(), st.text()))
def test_delta_lies_strictly_between_zero_and_one(delta: float):
    with pytest.raises(BadInput, match=r"expected 0 < delta < 1, got .*; choose"):
        epsilon(GaussianDpEvent(1.0), delta=delta)


def test_an_unknown_event_is_named():
    with pytest.raises(BadInput, match=r"neither accountant of dp-accounting knows UnsupportedDpEvent\(\)"):
        epsilon(UnsupportedDpEvent(), delta=1e-5)


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    for name in [n for n in sys.modules if n.split(".")[0] == "dp_accounting"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Hidden(), *sys.meta_path])
    with pytest.raises(MissingExtra, match=r"pip install 'leakscope\[dp\]'"):
        epsilon(None, delta=1e-5)  # type: ignore[arg-type]
    with pytest.raises(MissingExtra, match=r"pip install 'leakscope\[dp\]'"):
        (FedSGD() >> Clip(1.0)).event()


class _Hidden:
    """An import hook under which dp_accounting is not installed."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.split(".")[0] == "dp_accounting":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


# --- DP-SGD as a published table printed it -------------------------------------------------------------------------

PRINTED = [
    *[(10, 64, s, eps) for s, eps in (("1.82", 5), ("1.23", 10), ("0.85", 20), ("0.60", 40), ("0.435", 80))],
    *[(40, 100, s, eps) for s, eps in (("5.21", 2), ("2.75", 5), ("1.75", 10), ("1.15", 20), ("0.79", 40))],
    *[(10, 96, s, eps) for s, eps in (("1.48", 10), ("1.02", 20), ("0.714", 40), ("0.514", 80), ("0.374", 160))],
    *[(40, 156, s, eps) for s, eps in (("2.15", 10), ("1.41", 20), ("0.953", 40), ("0.666", 80), ("0.477", 160))],
]
"""Examples, steps, multiplier as it was printed, epsilon at delta = N^-1.1. The sampler's rate is 1/2: its loader has
two batches of N - 1. What its authors' accountant (PRV, an error of 0.01) gives is within 0.05 of ours."""


def head(multiplier: float, steps: int, rate: float = 0.5) -> DpEvent:
    return training_event(DPSGD(4.0, multiplier, expected=5, rate=rate), steps=steps)


@pytest.mark.parametrize(("examples", "steps", "printed", "eps"), PRINTED)
def test_the_printed_epsilons_are_those_of_the_true_sampling_rate(examples, steps, printed, eps):
    delta = examples**-1.1
    # a multiplier printed as 0.60 is one between 0.595 and 0.605: the epsilon of one of them is what was aimed at
    half = 0.5 * 10 ** -len(printed.partition(".")[2])
    most, least = (
        epsilon(head(float(printed) + sign * half, steps), delta=delta, accountant=Accountant.PLD) for sign in (-1, 1)
    )
    assert least * 0.99 < eps < most * 1.01
    # the rate that the loader's batch size suggests is far off
    if eps == 10:
        assert not 0.8 < epsilon(head(float(printed), steps // 2, 1 - 1 / examples), delta=delta) / eps < 1.2


def test_the_accountant_can_be_chosen():
    event = head(1.82, 64)
    both = {one: epsilon(event, delta=1e-5, accountant=one) for one in Accountant}
    assert both[Accountant.PLD] < both[Accountant.RDP]
    assert epsilon(event, delta=1e-5) == both[Accountant.PLD]
    with pytest.raises(BadInput, match="the accountant 'pld' does not know"):
        epsilon(ZCDpEvent(0.5), delta=1e-5, accountant=Accountant.PLD)


def test_a_secret_size_divides_nothing():
    with pytest.raises(BadInput, match="size of a Poisson sample is secret"):
        training_event(DPSGD(4.0, 1.0, rate=0.5), steps=3)
    with pytest.raises(BadInput, match="steps >= 1"):
        training_event(DPSGD(4.0, 1.0), steps=0)
    # the whole batch in every step: its size is the same each time
    assert training_event(DPSGD(4.0, 1.0), steps=3) == SelfComposedDpEvent(GaussianDpEvent(1.0), 3)


def test_orders_that_are_left_out_are_not_reported(caplog):
    epsilon(head(1.82, 64), delta=1e-5)
    # nor divergences that are 0 but for rounding, when epsilon is asked of them
    assert epsilon(SelfComposedDpEvent(PoissonSampledDpEvent(1e-9, GaussianDpEvent(1e6)), 10**6), delta=1e-5) == 0
    assert not caplog.records
