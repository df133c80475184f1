"""Observed beside allowed: a true promise breaks as seldom as it says, a false one does."""

from __future__ import annotations

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent
from scipy.stats import binom, norm

from leakscope.bounds.comparison import compared
from leakscope.bounds.upper import largest_power
from leakscope.core.errors import BadInput

RUNS, TRIALS = 40, 400


@pytest.mark.parametrize("noise", [0.5, 1.0])
def test_the_best_test_breaks_a_true_promise_seldom_and_a_false_one_often(noise: float) -> None:
    rng, event, boast = np.random.default_rng(4), GaussianDpEvent(noise), GaussianDpEvent(2 * noise)
    cut = 0.8 / noise
    pairs = [
        (int(rng.binomial(TRIALS, norm.sf(cut - 1 / noise))), int(rng.binomial(TRIALS, norm.sf(cut))))
        for _ in range(RUNS)
    ]
    true = [compared(event, (right, TRIALS), (wrong, TRIALS), level=0.95).broken for right, wrong in pairs]
    assert sum(true) <= binom.ppf(0.999, len(true), 0.05)
    false = [compared(boast, (right, TRIALS), (wrong, TRIALS), level=0.95).broken for right, wrong in pairs]
    assert np.mean(false) > 0.5


def test_limits_and_bound_are_what_they_say() -> None:
    event = GaussianDpEvent(1.0)
    found = compared(event, (30, 100), (3, 100), level=0.95)
    # one-sided at 2.5 % each: the binomial law itself
    assert binom.sf(29, 100, found.tpr) == pytest.approx(0.025)
    assert binom.cdf(3, 100, found.fpr) == pytest.approx(0.025)
    assert found.allowed == largest_power(event, fpr=found.fpr)
    assert compared(event, (30, 100), (3, 100), replaced=True).allowed > found.allowed
    chosen = compared(event, (30, 100), (3, 100), level=0.95, thresholds=50)
    assert chosen.tpr < found.tpr
    assert chosen.fpr > found.fpr


@pytest.mark.parametrize(
    ("found", "alarms", "level", "text"),
    [((5, 4), (0, 4), 0.9, "found"), ((1, 4), (0, 0), 0.9, "alarms, of"), ((1, 4), (0, 4), 1.0, "level")],
)
def test_impossible_counts_are_named(found, alarms, level, text: str) -> None:
    with pytest.raises(BadInput, match=text):
        compared(GaussianDpEvent(1.0), found, alarms, level=level)
