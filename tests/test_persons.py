"""Statistics over persons, against scikit-learn, SciPy and counting by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from leakscope.core.errors import BadInput
from leakscope.numerics.rng import Key
from leakscope.scoring import persons
from leakscope.scoring.persons import People

KEY = Key(0)


def drawn(count, categories, seed, *, strength=1.0, ties=False):
    """Truth and scores that know something of it."""
    random = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(categories), random.integers(0, categories, count - categories)])
    scores = random.standard_normal((count, categories)) + strength * np.eye(categories)[truth]
    return truth, (np.round(scores) if ties else scores)


@settings(max_examples=40, deadline=None)
@given(count=st.integers(6, 40), categories=st.integers(2, 4), seed=st.integers(0, 10**6))
def test_uar_and_log_loss_are_those_of_scikit_learn(count, categories, seed):
    truth, scores = drawn(count, categories, seed)
    assert persons.uar(truth, scores) == pytest.approx(metrics.balanced_accuracy_score(truth, scores.argmax(1)))
    chances = np.exp(scores - np.logaddexp.reduce(scores, axis=1, keepdims=True))
    wanted = metrics.log_loss(truth, chances, labels=range(categories))
    assert persons.log_loss(truth, scores) == pytest.approx(wanted)


@settings(max_examples=40, deadline=None)
@given(count=st.integers(4, 40), seed=st.integers(0, 10**6), ties=st.booleans())
def test_auc_is_that_of_scikit_learn(count, seed, ties):
    truth, scores = drawn(count, 2, seed, ties=ties)
    assert persons.auc(truth, scores) == pytest.approx(metrics.roc_auc_score(truth, scores[:, 1] - scores[:, 0]))


def test_auc_of_several_categories_is_the_mean_of_each_against_the_rest():
    truth, scores = drawn(30, 3, 1)
    odds = [scores[:, g] - np.logaddexp(*np.delete(scores, g, 1).T) for g in range(3)]
    wanted = np.mean([metrics.roc_auc_score(truth == g, odds[g]) for g in range(3)])
    assert persons.auc(truth, scores) == pytest.approx(wanted)
    assert persons.auc(np.zeros(5, dtype=int), scores[:5]) == 0.5


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(4, 30),
    seed=st.integers(0, 10**6),
    ties=st.booleans(),
    false=st.sampled_from((0.0, 0.1, 0.5, 1.0)),
)
def test_what_is_caught_is_the_best_threshold_of_the_curve(count, seed, ties, false):
    truth, scores = drawn(count, 2, seed, ties=ties)
    fpr, tpr, _ = metrics.roc_curve(truth, scores[:, 1] - scores[:, 0], drop_intermediate=False)
    assert persons.caught(truth, scores, false=false) == pytest.approx(tpr[fpr <= false + 1e-9].max())


def test_nobody_is_caught_where_all_or_none_are_of_the_category():
    scores = np.zeros((3, 2))
    assert persons.caught(np.array([1, 1, 1]), scores) == persons.caught(np.array([0, 0, 0]), scores) == 0.0


def test_who_prefers_nobody_is_at_chance():
    truth = np.array([0, 0, 0, 1])
    assert persons.uar(truth, np.zeros((4, 2))) == 0.5 == persons.auc(truth, np.zeros((4, 2)))
    assert persons.accuracy_by_chance([3, 1]) == 0.75


def test_updates_of_a_person_are_added_up_as_bayes_rule_says():
    """Against the product of likelihoods, with an even prior."""
    random = np.random.default_rng(3)
    likelihood = random.uniform(0.1, 1.0, (7, 3))
    posterior = np.log(likelihood / likelihood.sum(1, keepdims=True))
    whose = np.array([4, 4, 4, 9, 9, 2, 2])
    found = People([0, 0, 0, 1, 1, 2, 2], posterior, whose).fused()
    wanted = np.stack([likelihood[whose == one].prod(0) for one in (2, 4, 9)])
    assert np.allclose(np.exp(found.scores), wanted / wanted.sum(1, keepdims=True))
    assert found.truth.tolist() == [2, 0, 1]


def test_what_is_ruled_out_stays_so_and_nothing_left_is_even():
    found = People([0, 0], [[-math.inf, 0.0], [0.0, -math.inf]], [0, 0]).fused()
    assert np.allclose(np.exp(found.scores), 0.5)
    assert People([0, 0], [[-math.inf, 0.0], [-1.0, -1.0]], [0, 0]).fused().scores[0, 0] == -math.inf


def test_luck_of_few_persons_is_counted_out():
    """Every labeling, by hand: 3 and 3 persons, and the p-value of SciPy's exact rank test, whose statistic AUC is."""
    truth, scores = drawn(6, 2, 5)
    truth = np.array([0, 1, 0, 1, 0, 1])
    people = People(truth, scores)
    labelings = [np.isin(np.arange(6), own).astype(int) for own in itertools.combinations(range(6), 3)]
    least = persons.uar(truth, scores)
    assert persons.luck(people, key=KEY) == np.mean([persons.uar(one, scores) >= least - 1e-9 for one in labelings])
    odds = scores[:, 1] - scores[:, 0]
    wanted = stats.mannwhitneyu(odds[truth == 1], odds[truth == 0], alternative="greater", method="exact").pvalue
    assert persons.luck(people, persons.auc, key=KEY) == pytest.approx(wanted)


def test_luck_of_many_persons_is_drawn_and_never_zero():
    truth = np.arange(40) % 2
    sure = People(truth, np.eye(2)[truth])
    assert persons.luck(sure, key=KEY) == 1 / (1 + persons.SHUFFLES)
    blind = persons.luck(People(truth, np.random.default_rng(1).standard_normal((40, 2))), key=KEY)
    assert blind > 0.05


def halves_of(truth, claims):
    """Two halves (2, N): who is claimed to be of category 1, or with which odds."""
    odds = np.concatenate(claims).astype(float)
    sides = np.repeat([0, 1], len(truth[0]))
    return People(np.concatenate(truth), np.stack([np.zeros(len(odds)), odds], 1), sides=sides)


@pytest.mark.parametrize("count", [8, 10, 12])
def test_luck_of_halves_of_pairs_is_what_it_says(count):
    """Each person is named as their like in the other half is, so that both halves are right of the same pairs.

    Of all worlds in which half of each half is of category 1, by their overlap. No share of worlds is as lucky as a
    smaller luck says; a normal law of as much variance said .0016 of 8 and 8 where it is one in 70.
    """
    half, worlds, luck = count // 2, [], []
    for same in range(half + 1):
        worlds.append(math.comb(half, same) ** 2 / math.comb(count, half))
        mine = np.arange(count) < half
        other = np.roll(mine, half - same)
        people = halves_of((mine.astype(int), other.astype(int)), (2 * other - 1, 2 * mine - 1))
        luck.append(persons.luck(people, key=KEY))
        assert persons.luck(people, persons.auc, key=KEY) == pytest.approx(luck[-1]), "scores of two values"
    shares, found = np.array(worlds), np.array(luck)
    assert shares.sum() == pytest.approx(1.0)
    assert all(shares[found <= one + 1e-9].sum() <= one + 1e-9 for one in found)
    assert found[-1] == pytest.approx(1 / math.comb(count, half)), "and it is exact"


@pytest.mark.parametrize("signals", [1, 300])
def test_luck_of_halves_that_attack_each_other_reaches_farther(signals):
    """400 worlds of 8 + 8 persons and signals without meaning, each half named by the other's mean difference."""
    random, lucks = np.random.default_rng(91), []
    for _ in range(400):
        truth = random.permuted(np.tile([0, 1], (2, 4)), axis=1)
        own = random.standard_normal((2, 8, signals))
        learned = [one[said == 1].mean(0) - one[said == 0].mean(0) for one, said in zip(own, truth, strict=True)]
        claims = tuple((own[at] - own[1 - at].mean(0)) @ learned[1 - at] for at in (0, 1))
        people = halves_of(truth, claims)
        lucks.append([persons.luck(people, one, key=KEY) for one in (persons.uar, persons.auc)])
    for level in (0.05, 0.02):
        assert ((np.array(lucks) <= level).sum(0) <= stats.binom.ppf(0.999, 400, level)).all()


def test_luck_of_two_halves_is_the_mean_of_their_laws():
    """By hand, 6 and 4 persons with 20 and 6 labelings: quantiles at the sixtieths, at which neither law changes."""
    random = np.random.default_rng(17)
    truth = (np.array([0, 1] * 3), np.array([1, 0, 0, 1]))
    claims = (random.standard_normal(6), random.standard_normal(4))
    people = People(
        np.concatenate(truth), np.stack([np.zeros(10), np.concatenate(claims)], 1), sides=np.repeat([0, 1], [6, 4])
    )
    laws = []
    for known, odds in zip(truth, claims, strict=True):
        every = [
            np.isin(np.arange(len(known)), own) for own in itertools.combinations(range(len(known)), len(known) // 2)
        ]
        laws.append(np.sort([metrics.roc_auc_score(one, odds) for one in every]))
    sums = np.repeat(laws[0], 3) + np.repeat(laws[1], 10)
    found = 2 * persons.ranked(people)
    assert persons.luck(people, persons.auc, key=KEY) == pytest.approx((sums >= found - 1e-8).mean())
    assert persons.luck(people, persons.auc, key=KEY, turned=True) == pytest.approx((sums <= found + 1e-8).mean())
    even = People(people.truth, np.ones((10, 2)), sides=people.sides)
    assert persons.luck(even, key=KEY) == pytest.approx(1.0)
    # One half that says nothing leaves the other's luck what it is.
    silent = People(people.truth, people.scores * (people.sides == 0)[:, None], sides=people.sides)
    alone = persons.luck(People(truth[0], people.scores[:6]), persons.auc, key=KEY)
    assert persons.luck(silent, persons.auc, key=KEY) == pytest.approx(alone)


@pytest.mark.parametrize("statistic", [persons.uar, persons.auc])
def test_all_labelings_at_once_are_each_by_itself(statistic):
    """The statistic of sums over persons, against the statistic: persons of several items, three categories, ties."""
    random = np.random.default_rng(8)
    whose = np.repeat(np.arange(9), random.integers(1, 4, 9))
    scores = np.log(random.integers(1, 4, (len(whose), 3)))
    people = People(random.permutation([0, 1, 2] * 3)[whose], scores, whose)
    for turned, sign in ((False, 1), (True, -1)):
        one_by_one = persons.luck(people, lambda truth, said, s=sign: s * statistic(truth, said), key=KEY)
        assert persons.luck(people, statistic, key=KEY, turned=turned) == one_by_one


def test_an_interval_of_halves_that_attack_each_other_is_longer():
    truth, scores = drawn(40, 2, 3)
    truth = np.arange(40) % 2
    alone = persons.interval(People(truth, scores), key=KEY)
    mutual = persons.interval(People(truth, scores, sides=np.repeat([0, 1], 20)), key=KEY)
    assert mutual.value == alone.value
    assert mutual.high - mutual.value == pytest.approx(math.sqrt(2) * (alone.high - alone.value))
    assert mutual.value - mutual.low == pytest.approx(math.sqrt(2) * (alone.value - alone.low))
    sure = People(truth, 0.5 * np.eye(2)[np.where(np.arange(40) < 37, truth, 1 - truth)], sides=np.repeat([0, 1], 20))
    assert persons.interval(sure, key=KEY).high <= 1.0


def test_order_is_asked_within_each_half_and_halves_survive_fusing():
    """Each half in perfect order, and all of the one half called more than all of the other: AUC of both is 1."""
    truth, sides = np.tile([0, 1], 6), np.repeat([0, 1], 6)
    odds = truth + 10.0 * sides
    people = People(truth, np.stack([np.zeros(12), odds], 1), np.arange(12), sides + 5)
    assert persons.ranked(people) == 1.0
    assert persons.auc(people.truth, people.scores) == pytest.approx(0.75)
    assert people.fused().sides.tolist() == sides.tolist()
    assert [one.count for one in people.halves()] == [6, 6]
    with pytest.raises(BadInput, match="two sides"):
        People([0, 0], np.zeros((2, 2)), [3, 3], [0, 1])
    with pytest.raises(BadInput, match="a side for each item"):
        People([0, 1], np.zeros((2, 2)), sides=[0, 1, 1])


def test_categories_are_shuffled_over_persons_and_not_over_updates():
    """Of two persons there are two labelings: whatever their thousand updates say, luck is a half."""
    truth = np.repeat([0, 1], 500)
    assert persons.luck(People(truth, np.eye(2)[truth], truth), key=KEY) == 0.5
    three = np.repeat([0, 0, 1], 100)
    assert persons.luck(People(three, np.eye(2)[three], np.repeat([0, 1, 2], 100)), key=KEY) == pytest.approx(1 / 3)


def test_luck_is_uniform_where_nothing_is_known():
    """At most 5 % of 200 worlds without a leak are below 0.05, but for what chance allows (binomial, one in 10 000)."""
    below = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        whose = np.repeat(np.arange(8), 3)
        truth = np.repeat(random.permutation([0, 1] * 4), 3)
        people = People(truth, np.repeat(random.standard_normal((8, 2)), 3, 0) + random.standard_normal((24, 2)), whose)
        below += persons.luck(people.fused(), key=KEY) <= 0.05
    assert below <= stats.binom.ppf(1 - 1e-4, 200, 0.05)


def test_an_interval_over_persons_is_wider_than_one_over_updates():
    """Ten updates of each person are the same: the interval has to be that of the persons alone."""
    truth, scores = drawn(16, 2, 2, strength=0.7)
    alone = persons.interval(People(truth, scores), key=KEY)
    repeated = People(np.repeat(truth, 10), np.repeat(scores, 10, 0), np.repeat(np.arange(16), 10))
    assert persons.interval(repeated, key=KEY) == alone
    blind_to_persons = persons.interval(People(repeated.truth, repeated.scores), key=KEY)
    assert alone.high - alone.low > 2 * (blind_to_persons.high - blind_to_persons.low)


def test_an_interval_is_that_of_two_binomials():
    """Of persons drawn again, those who are right are binomial in each category: the interval without drawing."""
    truth = np.repeat([0, 1], 12)
    right = np.array([True] * 9 + [False] * 3 + [True] * 7 + [False] * 5)
    found = persons.interval(People(truth, np.eye(2)[np.where(right, truth, 1 - truth)]), key=KEY)
    sums = np.convolve(*(stats.binom.pmf(np.arange(13), 12, hits / 12) for hits in (9, 7)))
    low, high = (int(np.searchsorted(sums.cumsum(), end)) / 24 for end in (0.025, 0.975))
    assert found.value == pytest.approx(16 / 24)
    assert abs(found.low - low) <= 1 / 24 + 1e-9
    assert abs(found.high - high) <= 1 / 24 + 1e-9


def test_a_category_of_one_person_has_no_interval():
    found = persons.interval(People([0, 0, 1], np.zeros((3, 2))), key=KEY)
    assert (found.low, found.high) == (-math.inf, math.inf)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: People([], np.zeros((0, 2))), "expected a category"),
        (lambda: People([0, 1], np.zeros((3, 2))), "expected a category"),
        (lambda: People([0, 1], np.zeros((2, 1))), "at least 2 categories"),
        (lambda: People([0, 2], np.zeros((2, 2))), "expected categories 0 to 1"),
        (lambda: People([0, -1], np.zeros((2, 2))), "expected categories 0 to 1"),
        (lambda: People([0.0, 1.0], np.zeros((2, 2))), "whole numbers"),
        (lambda: People([0, 1], [[0.0, math.nan], [0.0, 0.0]]), "below infinity"),
        (lambda: People([0, 1], [[0.0, math.inf], [0.0, 0.0]]), "below infinity"),
        (lambda: People([0, 1], np.zeros((2, 2)), [3, 3]), "two categories"),
        (lambda: People([0, 1], np.zeros((2, 2)), [3]), "a person and a side for each item"),
        (lambda: persons.interval(People([0, 1], np.zeros((2, 2))), key=KEY, level=1.0), "between 0 and 1"),
        (lambda: persons.accuracy_by_chance([0, 0]), "expected shares"),
        (lambda: persons.accuracy_by_chance([-1, 2]), "expected shares"),
    ],
)
def test_bad_input_says_what_is_wrong(made, said):
    with pytest.raises(BadInput, match=said):
        made()
