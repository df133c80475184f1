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


# 2000 repeats: the share at the promise of 93 % has a standard error of 0.006, of which four are allowed.
REPEATS, LEAST = 2000, 0.93 - 4 * math.sqrt(0.93 * 0.07 / 2000)

CONTINUOUS = {
    "normal": (lambda g, n: g.normal(3, 2, n), 3.0),
    "right": (lambda g, n: g.exponential(size=n), 1.0),
    "left": (lambda g, n: -g.exponential(size=n), -1.0),
    "heavy": (lambda g, n: g.lognormal(0, 1, n), math.exp(0.5)),
}


def covered(draw, truth, interval, *, repeats=REPEATS):
    """In which share of fresh samples the interval holds the truth. Every run of the tests draws others."""
    generator = np.random.default_rng()
    return sum(interval(draw(generator)).holds(truth) for _ in range(repeats)) / repeats


@pytest.mark.parametrize("count", [3, 4, 8, 16])
@pytest.mark.parametrize("kind", CONTINUOUS)
def test_the_interval_of_a_mean_covers_what_it_promises(kind, count):
    draw, truth = CONTINUOUS[kind]
    assert covered(lambda g: draw(g, count), truth, intervals.mean) >= LEAST


@pytest.mark.parametrize("count", [3, 4, 8, 16])
@pytest.mark.parametrize("probability", [0.1, 0.3, 0.5, 0.9])
def test_the_interval_of_a_share_covers_what_it_promises(probability, count):
    def draw(generator):
        return (generator.random((count, 1)) < probability).astype(float)

    assert covered(draw, probability, intervals.share) >= LEAST


@pytest.mark.parametrize("count", [3, 8, 16])
@pytest.mark.parametrize("together", [0.1, 0.5])
def test_hits_of_one_batch_are_not_taken_for_independent_ones(together, count):
    """Beta-binomial batches of 8: two of a batch agree more often than two of different batches."""
    a, b = (p * (1 / together - 1) for p in (0.3, 0.7))

    def draw(generator):
        return (generator.random((count, 8)) < generator.beta(a, b, count)[:, None]).astype(float)

    assert covered(draw, 0.3, intervals.share) >= LEAST
    if together == 0.5 and count >= 8:
        assert covered(draw, 0.3, lambda rows: intervals.share([[x] for x in rows.ravel()])) < 0.85


def test_students_interval_alone_would_be_too_narrow():
    """Why Hall's is beside it, and both are wider than asked: of 4 heavy-tailed values a plain one covers 82 %."""

    def plain(sample):
        found = stats.ttest_1samp(sample, 0).confidence_interval(0.95)
        return intervals.Interval(float(sample.mean()), float(found.low), float(found.high))

    draw, truth = CONTINUOUS["heavy"]
    assert covered(lambda g: draw(g, 4), truth, plain) < 0.87


def test_of_many_values_it_is_students_at_the_stated_level():
    sample = np.random.default_rng(1).normal(2.0, 1.0, 4000)
    ours = intervals.mean(sample)
    theirs = stats.ttest_1samp(sample, 0).confidence_interval(1 - intervals.SPARE * 0.05)
    error = sample.std() / math.sqrt(len(sample))
    assert abs(ours.low - theirs.low) < 0.05 * error
    assert abs(ours.high - theirs.high) < 0.05 * error
    assert ours.value == pytest.approx(sample.mean(), rel=1e-14)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30), st.randoms())
def test_order_is_nothing_and_the_value_is_inside(values, random):
    found = intervals.mean(values)
    assert found == intervals.mean(random.sample(values, len(values)))
    assert found.low <= found.value <= found.high


# To a billionth: squares of what is smaller than 1e-150 are zero in float64.
SCORES = st.floats(-100, 100).map(lambda value: round(value, 9))


@given(st.lists(SCORES, min_size=3, max_size=12, unique=True), st.floats(0.5, 0.99))
def test_a_mean_exceeds_a_bound_by_luck_exactly_where_the_interval_ends(values, level):
    """The p-value and the interval are one construction: at its lower end the luck is what the tail leaves out."""
    found = intervals.mean(values, level=level)
    if found.low < found.value - 1e-9 * max(map(abs, values)):
        assert intervals.exceeds(values, found.low) == pytest.approx(intervals.SPARE * (1 - level) / 2, rel=1e-4)


def test_how_rarely_a_mean_exceeds_its_truth():
    generator = np.random.default_rng()
    for draw, truth in CONTINUOUS.values():
        rate = sum(intervals.exceeds(draw(generator, 8), truth) <= 0.01 for _ in range(REPEATS)) / REPEATS
        # Values skewed to the left have a mean that is overrated: Student's own rate would be 7 %.
        assert rate <= 0.05


def test_one_value_has_no_interval_and_equal_values_are_their_own():
    assert intervals.mean([0.1]) == intervals.Interval(0.1, -math.inf, math.inf)
    assert intervals.share([[1.0]]) == intervals.Interval(1.0, -math.inf, math.inf)
    assert intervals.mean([0.1] * 7) == intervals.Interval(0.1, 0.1, 0.1)
    assert intervals.exceeds([0.1], 0.0) == 1.0
    assert (intervals.exceeds([0.1] * 7, 0.0), intervals.exceeds([0.1] * 7, 0.2)) == (0.0, 1.0)


def test_pairs_cancel_what_they_share():
    generator = np.random.default_rng(5)
    shared, gap = generator.normal(0, 100, 40), generator.normal(1, 0.5, 40)
    paired = intervals.paired_difference(shared + gap, shared)
    reference = stats.ttest_rel(shared + gap, shared).confidence_interval(1 - intervals.SPARE * 0.05)
    assert paired.low > 0
    assert paired.low == pytest.approx(reference.low, abs=0.05)
    assert paired.high == pytest.approx(reference.high, abs=0.05)
    with pytest.raises(ValueError, match="2 values on the left and 3 on the right"):
        intervals.paired_difference([1, 2], [1, 2, 3])


def test_items_of_one_trial_stand_together():
    """Items that share their trial's effect: taken one by one they cover too rarely, by trials as promised."""

    def draw(generator):
        return list(generator.normal(0, 1, (12, 1)) + generator.normal(0, 0.1, (12, 8)))

    assert covered(draw, 0.0, intervals.clustered_mean) >= LEAST
    assert covered(draw, 0.0, lambda groups: intervals.mean(np.concatenate(groups)), repeats=400) < 0.7


def test_groups_count_by_their_size():
    """A ratio of sums: 1 of 4 items, and each group's residual counts once, (0 - 3/4) / 2 and (1 - 1/4) / 2."""
    found = intervals.clustered_mean([[0.0, 0.0, 0.0], [1.0]])
    assert found.value == 0.25
    wanted = intervals.mean([0.25 - 0.375, 0.25 + 0.375])
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))


def test_effective_items_by_the_textbook():
    """Korn and Graubard: deff = 2 here, 4 groups of 4, all or nothing in pairs; t quantiles of 15 and 3 degrees."""
    groups = [[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]]
    between = sum((sum(g) - 2.0) ** 2 for g in groups) * 4 / 3 / 16**2
    deff = between / (0.25 / 16)
    wanted = 16 / deff * (stats.t.ppf(0.975, 15) / stats.t.ppf(0.975, 3)) ** 2
    assert intervals.effective(groups) == pytest.approx(wanted)
    assert intervals.effective([[1.0], [0.0], [1.0]]) == 3
    assert intervals.effective([[1.0] * 5] * 4) == 4, "where all are alike nothing tells how much they go together"


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
        (lambda: intervals.mean([]), "at least one value"),
        (lambda: intervals.mean([[1.0]]), r"got shape \(1, 1\)"),
        (lambda: intervals.mean([1.0, math.nan]), "expected finite values"),
        (lambda: intervals.mean([1.0, 2.0], level=95), "between 0 and 1, got 95"),
        (lambda: intervals.clustered_mean([]), "at least one group"),
        (lambda: intervals.share([]), "at least one group"),
        (lambda: intervals.share([[1.5]]), "between 0 and 1, got 1.5"),
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
