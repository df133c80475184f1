"""Lower bounds of epsilon: they exceed the truth as seldom as they say, and come near it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq

from leakscope.bounds.lower import lower_from_guesses, lower_from_rates, lower_from_scores
from leakscope.core.errors import BadInput

DELTA = 1e-5
RUNS = 400


def gaussian_epsilon(noise: float, delta: float = DELTA) -> float:
    """Balle & Wang 2018 (arXiv:1805.06530), theorem 8."""

    def excess(eps: float) -> float:
        half, shift = 0.5 / noise, eps * noise
        return float(stats.norm.cdf(half - shift) - math.exp(eps) * stats.norm.cdf(-half - shift) - delta)

    return brentq(excess, 0.0, 100.0)


def too_often(wrong: int) -> bool:
    """Whether more than 5 % of RUNS are wrong, beyond what 5 % themselves show once in a thousand times."""
    return wrong > stats.binom.ppf(0.999, RUNS, 0.05)


@pytest.mark.parametrize("noise", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("trials", [20, 120])
def test_scores_of_normal_noise_exceed_the_truth_seldom(noise: float, trials: int) -> None:
    rng, truth = np.random.default_rng(7), gaussian_epsilon(noise)
    found = [
        lower_from_scores(1 + noise * rng.normal(size=trials), noise * rng.normal(size=trials), delta=DELTA)
        for _ in range(RUNS)
    ]
    assert not too_often(sum(one > truth for one in found))


def test_the_trials_that_choose_the_threshold_are_not_counted() -> None:
    """Every other trial tells everything, and the counted ones nothing: nothing may follow."""
    told = [1.0, 0.0] * 100
    assert lower_from_scores(told, [0.0] * 200, delta=DELTA) == 0
    assert lower_from_scores(told[:-1], [0.0] * 200, delta=DELTA) == 0
    assert lower_from_scores([1.0] * 200, [0.0] * 200, delta=DELTA) > 3, "a hundred of a hundred that are counted"


def test_many_scores_come_near_the_truth() -> None:
    rng = np.random.default_rng(3)
    # at a delta that so many trials can see: one in 1e5 shows in no sample of this size
    truth = gaussian_epsilon(1.0, 0.01)
    found = lower_from_scores(1 + rng.normal(size=200_000), rng.normal(size=200_000), delta=0.01)
    assert 0.6 * truth < found <= truth


@pytest.mark.parametrize("eps", [0.0, 0.5, 2.0, 5.0])
@pytest.mark.parametrize("trials", [30, 1000])
def test_rates_of_randomized_response_exceed_the_truth_seldom(eps: float, trials: int) -> None:
    """It says the truth with probability exp(e) / (1 + exp(e)): the pair of laws that loses exactly e."""
    rng, honest = np.random.default_rng(11), 1 / (1 + math.exp(-eps))
    found = [
        lower_from_rates(
            (int(rng.binomial(trials, honest)), trials), (int(rng.binomial(trials, 1 - honest)), trials), delta=0.0
        )
        for _ in range(RUNS)
    ]
    assert not too_often(sum(one > eps for one in found))
    if trials == 1000 and 0 < eps < 5:
        assert np.median(found) > 0.7 * eps


def test_choosing_among_thresholds_after_looking_is_paid_for() -> None:
    """300 worthless attacks on a mechanism that loses nothing, the best of them reported."""
    rng, trials, tried = np.random.default_rng(2), 60, 300
    wrong = {1: 0, tried: 0}
    for _ in range(RUNS):
        counts = rng.binomial(trials, 0.3, size=(tried, 2))
        right, alarms = (int(value) for value in counts[(counts[:, 0] - counts[:, 1]).argmax()])
        for thresholds in wrong:
            found = lower_from_rates((right, trials), (alarms, trials), delta=0.0, thresholds=thresholds)
            wrong[thresholds] += found > 0
    assert not too_often(wrong[tried])
    assert too_often(wrong[1])  # without the correction it is a false proof


@pytest.mark.parametrize(("classes", "eps"), [(2, 1.0), (10, 0.0), (10, 1.0), (10, 4.0), (100, 2.0)])
def test_guesses_among_candidates_exceed_the_truth_seldom(classes: int, eps: float) -> None:
    """The best guess of a release that is e-private against "without it": right with exp(e) / K where that is allowed,
    else 1 - exp(-e) (1 - 1 / K)."""
    chance, trials = 1 / classes, 300
    share = min(math.exp(eps) * chance, 1 - math.exp(-eps) * (1 - chance))
    rng = np.random.default_rng(classes)
    found = [
        lower_from_guesses(int(rng.binomial(trials, share)), trials, chance=chance, delta=0.0) for _ in range(RUNS)
    ]
    assert not too_often(sum(one > eps * (1 + 1e-12) for one in found))
    assert eps == 0 or np.median(found) > 0.7 * eps


def test_the_bound_of_guesses_is_the_smallest_epsilon_that_is_compatible() -> None:
    for right, guesses, chance, delta in ((137, 300, 0.1, 1e-5), (290, 300, 0.5, 1e-3), (40, 40, 0.25, 0.0)):
        # one-sided, from the binomial law itself: the share at which as many are right in 5 % of all cases
        limit = brentq(lambda p, r=right, n=guesses: stats.binom.sf(r - 1, n, p) - 0.05, 1e-9, 1 - 1e-9)

        def excess(eps: float, limit: float = limit, chance: float = chance, delta: float = delta) -> float:
            return limit - min(math.exp(eps) * chance + delta, 1 - math.exp(-eps) * (1 - chance - delta))

        wanted = brentq(excess, 0.0, 50.0)
        assert lower_from_guesses(right, guesses, chance=chance, delta=delta) == pytest.approx(wanted, rel=1e-6)


def test_what_is_no_better_than_chance_shows_nothing() -> None:
    assert lower_from_guesses(30, 300, chance=0.1, delta=0.0) == 0.0
    assert lower_from_guesses(0, 1, chance=0.0, delta=0.0) == 0.0
    assert lower_from_guesses(300, 300, chance=1.0, delta=0.0) == 0.0
    assert lower_from_guesses(3, 300, chance=0.0, delta=0.0) == math.inf  # what is impossible by chance happened
    assert lower_from_rates((0, 10), (10, 10), delta=0.99) == 0.0
    # the other direction: who never is missed and often raised in vain
    assert lower_from_rates((1000, 1000), (900, 1000), delta=0.0) > 1


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: lower_from_rates((5, 4), (0, 4), delta=0.0), "found"),
        (lambda: lower_from_rates((4, 4), (-1, 4), delta=0.0), "alarms"),
        (lambda: lower_from_rates((4, 4), (0, 0), delta=0.0), "alarms, of"),
        (lambda: lower_from_rates((4, 4), (0, 4), delta=1.5), "delta"),
        (lambda: lower_from_rates((4, 4), (0, 4), delta=0.0, level=0.3), "level"),
        (lambda: lower_from_rates((4, 4), (0, 4), delta=0.0, thresholds=0), "thresholds"),
        (lambda: lower_from_scores([1.0], [0.0, 1.0], delta=0.0), "present"),
        (lambda: lower_from_scores([1.0, 2.0], [0.0, math.nan], delta=0.0), "absent"),
        (lambda: lower_from_guesses(2, 1, chance=0.5, delta=0.0), "right"),
        (lambda: lower_from_guesses(1, 2, chance=2.0, delta=0.0), "chance"),
    ],
)
def test_impossible_numbers_are_named(call, text: str) -> None:
    with pytest.raises(BadInput, match=text):
        call()
