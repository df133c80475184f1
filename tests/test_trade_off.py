"""Trade-off curves: closed forms, riskcal, Monte Carlo, and what a curve has to be."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from dp_accounting import (
    ComposedDpEvent,
    GaussianDpEvent,
    LaplaceDpEvent,
    NonPrivateDpEvent,
    NoOpDpEvent,
    PoissonSampledDpEvent,
    SelfComposedDpEvent,
    ZCDpEvent,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from leakscope.bounds.heuristics import limit_power, main_advantage, renyi_share
from leakscope.bounds.trade_off import PLACES, Question, TradeOff, trade_off
from leakscope.bounds.upper import largest_advantage, largest_power, largest_share
from leakscope.core.errors import BadInput

RATES = (0.001, 0.01, 0.1, 0.4, 0.9)
PRESENT, EITHER = Question.PRESENT, Question.EITHER


def heads(multiplier: float, steps: int, rate: float = 0.5) -> SelfComposedDpEvent:
    """DP-SGD on Poisson samples."""
    return SelfComposedDpEvent(PoissonSampledDpEvent(rate, GaussianDpEvent(multiplier)), steps)


def shifted(rate: float, mu: float) -> float:
    return float(norm.cdf(norm.ppf(rate) + mu))


def laplace(rate: float, eps: float) -> float:
    if rate < math.exp(-eps) / 2:
        return math.exp(eps) * rate
    return 1 - math.exp(-eps) / (4 * rate) if rate <= 0.5 else 1 - math.exp(-eps) * (1 - rate)


# --- the specification's table: any single-record attack at FPR 0.1 %, 1 %, 10 %, and the advantage ------------------

TABLE = [
    (1.82, 64, 0.205, 0.466, 0.822, 0.728),
    (1.23, 64, 0.603, 0.834, 0.977, 0.895),
    (0.85, 64, 0.954, 0.991, 1.0, 0.981),
    (0.60, 64, 1.0, 1.0, 1.0, 0.999),
    (5.21, 100, 0.017, 0.087, 0.375, 0.369),
    (2.75, 100, 0.108, 0.314, 0.706, 0.637),
    (1.75, 100, 0.432, 0.713, 0.943, 0.847),
    (1.15, 100, 0.907, 0.978, 1.0, 0.970),
    (0.79, 100, 0.999, 1.0, 1.0, 0.998),
    (1.48, 96, 0.614, 0.845, 0.980, 0.902),
    (2.15, 156, 0.443, 0.726, 0.948, 0.854),
    (1.41, 156, 0.917, 0.982, 0.999, 0.973),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]}-{row[1]}")
def test_the_table_of_powers_is_reproduced(row: tuple[float, ...]) -> None:
    multiplier, steps, *powers, advantage = row
    curve = trade_off(heads(multiplier, int(steps)))
    found = [curve.power(rate) for rate in RATES[:3]]
    assert found == pytest.approx(powers, abs=0.001)
    assert curve.advantage == pytest.approx(advantage, abs=0.001)


# --- closed forms ---------------------------------------------------------------------------------------------------


@settings(max_examples=5, deadline=None)
@given(st.floats(0.3, 20), st.integers(1, 64), st.floats(1e-5, 0.99))
def test_whole_batches_are_one_gaussian(multiplier: float, steps: int, rate: float) -> None:
    """T full-batch steps: Phi(Phi^-1(a) + sqrt(T) / s)."""
    exact = shifted(rate, math.sqrt(steps) / multiplier)
    for question in Question:
        found = trade_off(SelfComposedDpEvent(GaussianDpEvent(multiplier), steps), question=question).power(rate)
        assert exact * (1 - 1e-9) <= found <= exact + 3e-5


@settings(max_examples=5, deadline=None)
@given(st.floats(0.4, 10), st.floats(0.01, 0.99), st.floats(1e-4, 0.99))
def test_one_sampled_step_is_the_mixture(multiplier: float, q: float, rate: float) -> None:
    """(1 - q) a + q Phi(Phi^-1(a) + 1 / s) at every rate, where "either way round" is larger at high ones."""
    event, exact = heads(multiplier, 1, q), (1 - q) * rate + q * shifted(rate, 1 / multiplier)
    found = trade_off(event, question=PRESENT).power(rate)
    assert exact * (1 - 1e-9) <= found <= exact + 1e-4
    assert found <= trade_off(event).power(rate) + 1e-4


@pytest.mark.parametrize("question", [Question.EITHER, PRESENT])
def test_rare_samples_that_lose_much_take_seconds(question: Question) -> None:
    """Epsilon is 0 at a delta above q, and a step loses up to 1700: cells as fine as that epsilon are forty million."""
    event, exact = heads(0.02, 1, 1e-6), (1 - 1e-6) * 0.01 + 1e-6
    assert exact <= trade_off(event, question=question).power(0.01) <= exact + 1e-6


def test_laplace_noise_asked_for_presence() -> None:
    eps = 1.25
    curve = trade_off(LaplaceDpEvent(1 / eps), question=PRESENT)
    for rate in RATES:
        exact = laplace(rate, eps)
        assert exact * (1 - 1e-9) <= curve.power(rate) <= exact + 2e-4


def test_an_epsilon_and_a_delta_alone() -> None:
    """1 - max(0, 1 - delta - e^eps a, e^-eps (1 - delta - a)): the curve of a pair, from its divergences."""
    eps, delta = 1.0, 0.01

    # its corners: no alarm, the one in the middle, nothing missed
    middle = (1 - delta) / (1 + math.exp(eps))
    corners = ((0.0, delta), (middle, 1 - middle), (1 - delta, 1.0))
    lines = np.max([power - np.exp(PLACES) * alarm for alarm, power in corners], axis=0)
    for rate in RATES:
        exact = 1 - max(0.0, 1 - delta - math.exp(eps) * rate, math.exp(-eps) * (1 - delta - rate))
        assert TradeOff(lines).power(rate) == pytest.approx(exact, abs=1e-12)


def test_steps_whose_pattern_is_known_are_an_upper_bound() -> None:
    """Told in which steps the example was: K ~ Bin(T, q), and the loss is normal given K; no convolution."""
    for multiplier, steps, q in ((1.82, 64, 0.5), (2.75, 100, 0.5), (1.0, 30, 0.1)):
        many, c = np.arange(steps + 1), 1 / multiplier
        weights, spread = binom.pmf(many, steps, q), np.maximum(np.sqrt(many) * c, 1e-12)
        low, high = -100.0, 100.0
        for _ in range(100):
            middle = (low + high) / 2
            alarms = float(weights @ norm.sf(middle, -many * c**2 / 2, spread))
            low, high = (middle, high) if alarms > 0.01 else (low, middle)
        # at the threshold itself a test may toss a coin: the mass of K = 0 sits at one point
        told = float(weights @ norm.sf(low, many * c**2 / 2, spread))
        found = trade_off(heads(multiplier, steps, q), question=PRESENT).power(0.01)
        assert 0.01 < found < told + 0.01


# --- Monte Carlo (Hayes et al. 2023) --------------------------------------------------------------------------------


@pytest.mark.parametrize(("multiplier", "steps"), [(0.85, 64), (1.82, 64), (5.21, 100)])
@pytest.mark.parametrize("rate", [0.01, 0.1])
def test_samples_of_the_pair_agree(multiplier: float, steps: int, rate: float) -> None:
    """1 - mean of the ratios over the smallest (1 - a) n: by the complement, since of the largest ones few are seen."""
    rng, many = np.random.default_rng(5), 40_000
    ratios = np.zeros(many)
    for _ in range(steps):
        x = multiplier * rng.normal(size=many)
        ratios += np.log(0.5 + 0.5 * np.exp((2 * x - 1) / (2 * multiplier**2)))
    kept = np.exp(np.sort(ratios)[: math.floor((1 - rate) * many)])
    found = 1 - kept.sum() / many
    # what is kept varies by its own spread and by where the cut falls, which weighs as much as the ratio there
    error = (kept.std() + kept[-1] * math.sqrt(rate * (1 - rate))) / math.sqrt(many)
    exact = trade_off(heads(multiplier, steps), question=PRESENT).power(rate)
    assert abs(found - exact) < 4 * error + 1e-4


@pytest.mark.parametrize(("multiplier", "steps"), [(row[0], int(row[1])) for row in TABLE])
def test_riskcal_agrees(multiplier: float, steps: int) -> None:
    from dp_accounting.pld import privacy_loss_distribution

    riskcal = pytest.importorskip("riskcal.analysis", reason="no extra needs it: pip install --no-deps riskcal")
    pld = privacy_loss_distribution.from_gaussian_mechanism(
        multiplier, value_discretization_interval=1e-3, sampling_prob=0.5
    ).self_compose(steps)
    curve = trade_off(heads(multiplier, steps))
    missed = riskcal.get_beta_from_pld(pld, alpha=np.array(RATES))
    assert [1 - curve.power(rate) for rate in RATES] == pytest.approx(list(missed), abs=5e-4)  # the grid
    assert curve.advantage == pytest.approx(float(riskcal.get_advantage_from_pld(pld)), abs=5e-4)


# --- what a curve has to be -----------------------------------------------------------------------------------------

EVENTS = [
    GaussianDpEvent(0.7),
    LaplaceDpEvent(0.5),
    PoissonSampledDpEvent(0.2, LaplaceDpEvent(0.5)),
    heads(1.0, 20, 0.3),
    ComposedDpEvent([heads(1.0, 3, 0.1), GaussianDpEvent(2.0), LaplaceDpEvent(1.0)]),
]


@pytest.mark.parametrize("event", EVENTS, ids=repr)
def test_curves_rise_are_concave_and_mirror_one_another(event: object) -> None:
    rates = np.linspace(0, 1, 41)
    either, present, absent = (trade_off(event, question=question) for question in Question)
    for curve in (either, present, absent):
        powers = np.array([curve.power(rate) for rate in rates])
        assert (np.diff(powers) >= -1e-9).all()
        assert (np.diff(powers, 2) <= 1e-4).all()
        assert (powers >= rates).all()
        assert powers[-1] == 1
        assert (powers - rates).max() <= curve.advantage + 1e-9
    for rate in rates:
        # the larger of both ways round, up to the corner that convexity cuts off and the width of the grids
        assert max(present.power(rate), absent.power(rate)) <= either.power(rate) + 2e-4
        # exchanged: what is missed and what is raised in vain change places
        missed = 1 - present.power(rate)
        assert absent.power(missed) == pytest.approx(1 - rate, abs=1e-3) or present.power(rate) > 0.999
    assert present.advantage == pytest.approx(absent.advantage, abs=1e-5)


def test_ends_of_presence() -> None:
    for rate in (0.0, 0.3, 1.0):
        assert trade_off(NonPrivateDpEvent(), question=PRESENT).power(rate) == 1.0
        assert trade_off(NoOpDpEvent(), question=PRESENT).power(rate) == rate
    for event in (GaussianDpEvent(0.0), GaussianDpEvent(1e-300), heads(1e-30, 3), heads(1e-3, 3)):
        assert trade_off(event, question=PRESENT).power(0.1) > 1 - 1e-6
    assert trade_off(heads(1e6, 3), question=PRESENT).power(0.1) == pytest.approx(0.1, abs=1e-5)
    with pytest.raises(BadInput, match=r"Question\.EITHER"):
        trade_off(ZCDpEvent(0.5), question=PRESENT)
    with pytest.raises(BadInput, match="expected question"):
        trade_off(GaussianDpEvent(1.0), question="present")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="neither is absent"):
        largest_power(GaussianDpEvent(1.0), fpr=0.1, replaced=True, question=PRESENT)


def test_shares_and_advantages_are_those_of_the_curve() -> None:
    event = heads(1.82, 64)
    assert largest_share(event, chance=0.1, question=PRESENT) == largest_power(event, fpr=0.1, question=PRESENT)
    assert largest_share(event, chance=0.1, question=PRESENT) <= largest_share(event, chance=0.1)
    assert largest_advantage(event) == trade_off(event).advantage


# --- simpler formulas -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("multiplier", "steps", "rate"), [(5.21, 100, 0.5), (1.82, 64, 0.5), (1.0, 50, 0.05)])
def test_the_renyi_form_is_a_bound_and_the_others_are_near(multiplier: float, steps: int, rate: float) -> None:
    setting: Any = {"noise_multiplier": multiplier, "rate": rate, "steps": steps}
    curve = trade_off(heads(multiplier, steps, rate), question=PRESENT)
    for chance in (0.001, 0.01, 0.1):
        assert curve.power(chance) <= renyi_share(**setting, chance=chance) + 1e-9
        assert limit_power(**setting, fpr=chance) == pytest.approx(curve.power(chance), abs=0.1)
    assert main_advantage(**setting) == pytest.approx(curve.advantage, abs=0.05)


def test_published_values_of_the_simpler_formulas() -> None:
    """The limit is above the truth by far; without sampling all three are what they are for one Gaussian."""
    assert limit_power(noise_multiplier=1.23, rate=0.5, steps=64, fpr=0.01) == pytest.approx(0.939, abs=5e-4)
    assert main_advantage(noise_multiplier=2.75, rate=0.5, steps=100) == pytest.approx(0.637, abs=5e-4)
    whole: Any = {"noise_multiplier": 3.0, "rate": 1.0, "steps": 4}
    assert main_advantage(**whole) == pytest.approx(trade_off(GaussianDpEvent(1.5)).advantage, abs=1e-5)
    assert main_advantage(**whole, distance=0.0) == 0.0
    # exp(-(sqrt L - sqrt rho)^2) for rho = T / (2 s^2) and the best real order, of which whole ones come near
    rho, length = 4 / (2 * 9), math.log(100)
    exact = math.exp(-((math.sqrt(length) - math.sqrt(rho)) ** 2))
    assert exact <= renyi_share(**whole, chance=0.01) <= exact * 1.02
    assert renyi_share(**whole, chance=0.0) == 0.0
    assert renyi_share(**whole, chance=1.0) == 1.0
    assert limit_power(noise_multiplier=1e-3, rate=0.5, steps=9, fpr=0.1) == 1.0


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"noise_multiplier": 0.0}, "noise_multiplier"),
        ({"rate": 0.0}, "rate"),
        ({"rate": 1.5}, "rate"),
        ({"steps": 0}, "steps"),
        ({"chance": -0.1}, "chance"),
    ],
)
def test_impossible_settings_are_named(changed: dict[str, float], text: str) -> None:
    setting: Any = {"noise_multiplier": 1.0, "rate": 0.5, "steps": 3, "chance": 0.1} | changed
    with pytest.raises(BadInput, match=text):
        renyi_share(**setting)
