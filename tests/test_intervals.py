"""Assignment against brute force; intervals against scipy, closed forms and their own promise (coverage)."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from leakscope.numerics import intervals
from leakscope.numerics.assign import assign

matrices = hnp.arrays(
    np.float64,
    st.tuples(st.integers(0, 4), st.integers(0, 5)),
    elements=st.floats(-100, 100) | st.sampled_from([0.0, 1.0]),
)


@given(matrices)
def test_assignment_is_the_best_of_all_permutations(costs):
    rows, columns = assign(costs)
    short, long = sorted(costs.shape)
    wide = costs if costs.shape[0] == short else costs.T
    best = min(
        math.fsum(wide[row, column] for row, column in enumerate(chosen))
        for chosen in itertools.permutations(range(long), short)
    )
    assert len(rows) == len(columns) == short
    assert len(set(rows.tolist())) == len(set(columns.tolist())) == short
    assert costs[rows, columns].sum() == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_assignment_refuses_what_orders_nothing(bad):
    with pytest.raises(ValueError, match="got 1 of 4 that are NaN or infinite"):
        assign([[1.0, bad], [0.0, 2.0]])


def test_assignment_refuses_what_is_no_matrix():
    with pytest.raises(ValueError, match=r"matrix.*got shape \(3,\)"):
        assign([1.0, 2.0, 3.0])


def covered(draw, truth, *, interval, repeats=400):
    """In how many of `repeats` fresh samples the interval holds the truth, as a share."""
    generator = np.random.default_rng(7)
    return sum(interval(draw(generator), seed=place).holds(truth) for place in range(repeats)) / repeats


# 400 repeats: the share of a true 95 % interval has a standard error of 0.011, so four of them are allowed.
@pytest.mark.parametrize("count", [6, 10, 40])
def test_bootstrap_covers_the_mean_of_a_normal_sample(count):
    share = covered(lambda g: g.normal(3, 2, count), 3.0, interval=intervals.mean)
    assert 0.906 <= share <= 0.994


def test_a_plain_percentile_interval_would_be_too_narrow():
    """Why the percentiles are widened: scipy's plain bootstrap misses far more often at 6 items."""

    def plain(sample, *, seed):
        found = stats.bootstrap((sample,), np.mean, method="percentile", n_resamples=500, rng=seed).confidence_interval
        return intervals.Interval(float(sample.mean()), float(found.low), float(found.high))

    def draw(generator):
        return generator.normal(3, 2, 6)

    ours, theirs = (covered(draw, 3.0, interval=way, repeats=200) for way in (intervals.mean, plain))
    assert theirs + 0.03 < ours


def test_bootstrap_agrees_with_scipy_on_a_large_sample():
    sample = np.random.default_rng(1).exponential(2.0, 500)
    ours = intervals.mean(sample, seed=0, resamples=20_000)
    theirs = stats.bootstrap((sample,), np.mean, method="percentile", n_resamples=20_000, rng=1).confidence_interval
    error = sample.std() / math.sqrt(500)
    # Each end is a 2.5 % quantile of 20 000 draws: standard error 0.02 of the mean's own, five of them allowed.
    assert abs(ours.low - theirs.low) < 0.1 * error
    assert abs(ours.high - theirs.high) < 0.1 * error
    assert ours.value == pytest.approx(sample.mean(), rel=1e-14)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.integers(0, 5), st.randoms())
def test_order_is_nothing_and_the_value_is_inside(values, seed, random):
    shuffled = random.sample(values, len(values))
    found = intervals.mean(values, seed=seed, resamples=100)
    assert found == intervals.mean(shuffled, seed=seed, resamples=100)
    assert min(values) <= found.low <= found.value <= found.high <= max(values)


def test_one_value_has_no_spread_and_equal_values_neither():
    assert intervals.mean([0.1], seed=0) == intervals.Interval(0.1, 0.1, 0.1)
    assert intervals.mean([0.1] * 7, seed=0) == intervals.Interval(0.1, 0.1, 0.1)


def test_seed_rules_and_global_state_rests():
    state = np.random.get_state()[1].copy()
    values = np.arange(12.0) ** 2
    assert intervals.mean(values, seed=1) == intervals.mean(values, seed=np.random.default_rng(1))
    assert intervals.mean(values, seed=1) != intervals.mean(values, seed=2)
    assert (np.random.get_state()[1] == state).all()


def test_many_items_are_drawn_in_blocks_without_changing_the_answer(monkeypatch):
    values = np.random.default_rng(0).normal(size=50)
    whole = intervals.mean(values, seed=3)
    monkeypatch.setattr(intervals, "_CELLS", 1)
    assert intervals.mean(values, seed=3) == whole


def test_pairs_cancel_what_they_share():
    generator = np.random.default_rng(5)
    shared, gap = generator.normal(0, 100, 40), generator.normal(1, 0.5, 40)
    paired = intervals.paired_difference(shared + gap, shared, seed=0)
    reference = stats.ttest_rel(shared + gap, shared).confidence_interval(0.95)
    assert paired.low > 0
    assert paired.low == pytest.approx(reference.low, abs=0.1)
    assert paired.high == pytest.approx(reference.high, abs=0.1)
    with pytest.raises(ValueError, match="2 values on the left and 3 on the right"):
        intervals.paired_difference([1, 2], [1, 2, 3], seed=0)


def test_items_of_one_trial_are_redrawn_together():
    """Items that share their trial's effect: redrawing items covers too rarely, redrawing trials as promised."""

    def draw(generator):
        return list(generator.normal(0, 1, (12, 1)) + generator.normal(0, 0.1, (12, 8)))

    def by_item(groups, *, seed):
        return intervals.mean(np.concatenate(groups), seed=seed)

    assert 0.906 <= covered(draw, 0.0, interval=intervals.clustered_mean) <= 0.994
    assert covered(draw, 0.0, interval=by_item, repeats=200) < 0.7


def test_groups_count_by_their_size():
    """Two groups are redrawn as (a, a), (a, b) or (b, b): means 0, 1/4 and 1, the outer two with 25 % each."""
    assert intervals.clustered_mean([[0.0, 0.0, 0.0], [1.0]], seed=0) == intervals.Interval(0.25, 0.0, 1.0)
    assert intervals.clustered_mean([[0.0, 2.0]], seed=0) == intervals.Interval(1.0, 1.0, 1.0)
    middle = intervals.clustered_mean([[0.0, 0.0, 0.0], [1.0]], seed=0, level=0.001)
    assert middle == intervals.Interval(0.25, 0.25, 0.25)


@pytest.mark.parametrize("trials", [1, 2, 7, 30, 1000])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.999])
def test_proportions_agree_with_scipy(trials, level):
    for successes in {0, 1, trials // 3, trials - 1, trials}:
        test = stats.binomtest(successes, trials)
        for ours, method in ((intervals.clopper_pearson, "exact"), (intervals.wilson, "wilson")):
            found, wanted = ours(successes, trials, level=level), test.proportion_ci(level, method=method)
            assert found.low == pytest.approx(wanted.low, abs=1e-9)
            assert found.high == pytest.approx(wanted.high, abs=1e-9)


@pytest.mark.parametrize("trials", [1, 7, 1000, 10**9])
@pytest.mark.parametrize("level", [1e-9, 0.8, 0.999])
def test_a_wilson_bound_is_where_the_share_is_z_standard_deviations_away(trials, level):
    """Its definition, |p - k/n| = z sqrt(p (1 - p) / n), which has no root below 0 or above 1."""
    z = stats.norm.isf((1 - level) / 2)
    for successes in {0, 1, trials // 3, trials}:
        found = intervals.wilson(successes, trials, level=level)
        for bound in (found.low, found.high):
            away, step = abs(bound - successes / trials), z * math.sqrt(bound * (1 - bound) / trials)
            assert away == pytest.approx(step, rel=1e-7, abs=1e-15)


@pytest.mark.parametrize("trials", [5, 10**6, 10**9])
def test_a_clopper_pearson_bound_leaves_its_tail_even_of_one_success_among_very_many(trials):
    """Its definition, P(k or more | low) = P(k or fewer | high) = (1 - level) / 2."""
    for successes in (1, trials // 2):
        found = intervals.clopper_pearson(successes, trials, level=0.9)
        assert stats.binom.sf(successes - 1, trials, found.low) == pytest.approx(0.05, rel=1e-6)
        assert stats.binom.cdf(successes, trials, found.high) == pytest.approx(0.05, rel=1e-6)


@pytest.mark.parametrize("trials", [5, 23])
def test_clopper_pearson_never_covers_less_than_it_says(trials):
    for truth in np.linspace(0.01, 0.99, 25):
        weights = stats.binom.pmf(np.arange(trials + 1), trials, truth)
        holds = [intervals.clopper_pearson(k, trials).holds(truth) for k in range(trials + 1)]
        assert weights[holds].sum() >= 0.95


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: intervals.mean([], seed=0), "at least one value"),
        (lambda: intervals.mean([[1.0]], seed=0), r"got shape \(1, 1\)"),
        (lambda: intervals.mean([1.0, math.nan], seed=0), "expected finite values"),
        (lambda: intervals.mean([1.0, 2.0], seed=0, level=95), "between 0 and 1, got 95"),
        (lambda: intervals.mean([1.0, 2.0], seed=0, resamples=10), "at least 100 resamples"),
        (lambda: intervals.clustered_mean([], seed=0), "at least one group"),
        (lambda: intervals.clopper_pearson(3, 2), "got 3 of 2"),
        (lambda: intervals.wilson(0, 0), "got 0 of 0"),
        (lambda: intervals.Interval(2.0, 0.0, 1.0), "does not hold the value 2.0"),
    ],
)
def test_error_texts(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_no_torch_is_loaded():
    code = "import sys, leakscope.numerics.assign, leakscope.numerics.intervals; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
