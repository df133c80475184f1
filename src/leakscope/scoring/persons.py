"""Statistics of claims about persons, of whom the persons are what was drawn, and not their updates.

Sixty updates of one speaker are right or wrong together: an interval over updates is too short by several times. So
whoever is drawn again, held out or given another label here is a person, with all that is known of them. NumPy and
SciPy only, no torch, so that a report can be written without it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from leakscope.core.errors import BadInput
from leakscope.numerics.intervals import Interval
from leakscope.numerics.rng import Key

Floats = NDArray[np.float64]
Places = NDArray[np.int64]

DRAWS = 2000
"""Samples of persons: the end of a 95 % interval then moves by a tenth of its length at most."""
SHUFFLES = 20_000
"""Random labelings: of a plan of thirty rows one still counts that none of them reaches."""
EXACTLY = 20_000
"""Labelings up to which all are looked at, which are those of 16 persons of two categories and no tie in sizes."""
MUTUAL = math.sqrt(2)
"""How many times as far luck reaches where two halves attack each other. What looks like the category by chance in both
halves is learned in each and then right in both: Var((a + b) / 2) = (1 + rho) sigma^2 / 2, where persons drawn apart
show rho = 0. rho is at most 1, and gets there: of AUC by 1 000 signals, of UAR where each person of a half is most like
one of the other half, as siblings or two names of one person, since each is named as the other is."""
ROUNDING = 1e-9
"""Statistics of two labelings that differ by less are equal: else a tie would be counted on one side by rounding."""


@final
@dataclass(frozen=True, eq=False)
class People:
    """What was claimed of persons, and what is true. Arrays are copied, checked, and not written to again.

    truth: (N,) the category of each item, 0 .. G - 1, the same for all items of a person. scores: (N, G) the logarithm
    of each category's probability, -inf allowed. persons: (N,) whose each item is; None where each is another person.
    sides: (N,) which half of all people each is in, where halves attack each other; None where none do. Scores of two
    sides are of two attackers, of whom one may call everybody more than the other does.
    Raises `BadInput` on other shapes, on a person of two categories or sides, and on scores that are NaN or +inf.

    >>> People([0, 0, 1], np.log([[0.7, 0.3], [0.6, 0.4], [0.2, 0.8]]), [5, 5, 9]).count
    2
    """

    truth: Places
    scores: Floats
    persons: Places
    sides: Places

    def __init__(
        self,
        truth: ArrayLike,
        scores: ArrayLike,
        persons: ArrayLike | None = None,
        sides: ArrayLike | None = None,
    ) -> None:
        # Copied: what was judged may not change under its judgment.
        known, said = np.asarray(truth), np.array(scores, dtype=np.float64)
        whose = np.arange(len(known)) if persons is None else np.asarray(persons)
        halves = np.zeros(len(known), np.int64) if sides is None and known.ndim else np.asarray(sides)
        shapes = (known.shape, said.shape, whose.shape, halves.shape)
        if known.ndim != 1 or not len(known) or said.shape[:1] != known.shape or len({*shapes[::2], shapes[3]}) > 1:
            raise BadInput(
                "expected a category, a row of scores, a person and a side for each item, got "
                f"{', '.join(map(str, shapes))}"
            )
        if said.ndim != 2 or said.shape[1] < 2:
            raise BadInput(f"expected scores (N, G) of at least 2 categories, got {said.shape}")
        if bool((np.isnan(said) | (said == np.inf)).any()):
            raise BadInput("scores must be numbers below infinity; leave out what was not claimed, and say so")
        for what, given in (("categories", known), ("persons", whose), ("sides", halves)):
            if given.dtype.kind not in "iu":
                raise BadInput(f"expected {what} as whole numbers, got {given.dtype}; number them from 0")
        if int(known.min()) < 0 or int(known.max()) >= said.shape[1]:
            raise BadInput(f"expected categories 0 to {said.shape[1] - 1}, got {known.min()} to {known.max()}")
        object.__setattr__(self, "truth", known.astype(np.int64))
        object.__setattr__(self, "scores", said)
        # Numbered from 0 on, whatever they were called: arrays are counted by them.
        object.__setattr__(self, "persons", np.unique(whose, return_inverse=True)[1].astype(np.int64))
        object.__setattr__(self, "sides", np.unique(halves, return_inverse=True)[1].astype(np.int64))
        if len(set(zip(self.persons.tolist(), self.sides.tolist(), strict=True))) > self.count:
            raise BadInput("a person is on two sides; who is attacked is in one half")
        # Shuffling categories over persons would mean nothing then.
        if len(set(zip(self.persons.tolist(), self.truth.tolist(), strict=True))) > self.count:
            raise BadInput("a person has items of two categories; an attribute of a person is the same in all of them")

    @property
    def count(self) -> int:
        """How many different persons there are."""
        return int(self.persons.max()) + 1

    @property
    def categories(self) -> Places:
        """(P,) of each person."""
        found = np.empty(self.count, dtype=np.int64)
        found[self.persons] = self.truth
        return found

    def fused(self) -> People:
        """One item for each person: the scores of their items added up, and brought to probabilities again.

        log P(g | u_1 .. u_n) = sum_i log P(u_i | g) + const for updates that are independent given g. With log
        P(u | g) = log P(g | u) - log P(g) + const and an even prior, of which the scores of `leakscope`'s attacks are,
        the prior is a constant and drops out; one that is uneven would be counted n times.
        """
        # In float64, and not by multiplying probabilities: sixty of them may be too small for one.
        total = np.zeros((self.count, self.scores.shape[1]))
        np.add.at(total, self.persons, self.scores)
        # All ruled out by one item or another: nothing is said of this person, which is an even score.
        total[np.isneginf(total).all(1)] = 0.0
        sides = np.empty(self.count, dtype=np.int64)
        sides[self.persons] = self.sides
        return People(self.categories, total - np.logaddexp.reduce(total, axis=1, keepdims=True), sides=sides)

    def joined(self) -> People:
        """The same people, of no sides."""
        return People(self.truth, self.scores, self.persons)

    def halves(self) -> tuple[People, ...]:
        """The people of each side by themselves."""
        return tuple(People(self.truth[own], self.scores[own], self.persons[own]) for own in _rows_of_sides(self))


Statistic = Callable[[Places, Floats], float]
"""Of the truth (N,) and the scores (N, G): one number."""


def uar(truth: Places, scores: Floats) -> float:
    """mean_g P(claimed g | true g) over the categories that occur: unweighted average recall, in [0, 1], chance 1/G.

    truth: (N,). scores: (N, G). The claimed category has the largest score; of k that tie each is claimed by 1/k, so
    that who prefers nobody is at chance. Balanced accuracy elsewhere (scikit-learn's `balanced_accuracy_score`).

    >>> uar(np.array([0, 0, 1]), np.array([[2.0, 1.0], [0.0, 1.0], [0.0, 1.0]]))
    0.75
    """
    best = scores == scores.max(1, keepdims=True)
    # A share where scores tie: the first of equals is no claim.
    right = best[np.arange(len(truth)), truth] / best.sum(1)
    return float(np.mean([right[truth == category].mean() for category in np.unique(truth)]))


def auc(truth: Places, scores: Floats) -> float:
    """Mean over categories g of P(s(a) > s(b)) + P(s(a) = s(b)) / 2 for a of g and b of another, in [0, 1], chance .5.

    s is the log-odds of g against the rest, so the area under the curve of each category against all others; of two
    categories both are the same. Categories that do not occur, or alone, are left out; .5 where none is left.

    >>> auc(np.array([0, 0, 1]), np.log([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]]))
    0.5
    """
    found = []
    # Of two categories one says both: a bootstrap asks a thousand times.
    for category in (1,) if scores.shape[1] == 2 else np.unique(truth):
        own = truth == category
        if own.all() or not own.any():
            continue
        odds = _odds(scores, int(category))
        others = np.sort(odds[~own])
        # The statistic of Mann and Whitney over the number of pairs: how many others lie below, and half of the ties.
        below = np.searchsorted(others, odds[own], "left") + np.searchsorted(others, odds[own], "right")
        found.append(float(below.mean()) / (2 * len(others)))
    return float(np.mean(found)) if found else 0.5


def caught(truth: Places, scores: Floats, *, category: int = 1, false: float = 0.01) -> float:
    """P(claimed | true) where at most a share `false` of the others is claimed: TPR at a low FPR, in [0, 1].

    What is found with hardly any false alarm (Carlini et al. 2022, arXiv:2112.03570, section 2.2). Of M others the
    least share that can be told is 1/M: with fewer than 1/false of them none may be claimed.

    >>> scores = np.log([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.5, 0.5]])
    >>> caught(np.array([0, 0, 1, 1]), scores), caught(np.array([0, 0, 1, 1]), scores, false=0.5)
    (0.5, 1.0)
    """
    odds, own = _odds(scores, category), truth == category
    if not own.any() or own.all():
        return 0.0
    others = np.sort(odds[~own])[::-1]
    # Claimed is what lies above the first of the others that may not be: never as many false alarms as would be too
    # many, also where several of them tie.
    allowed = math.floor(false * len(others) + ROUNDING)
    return 1.0 if allowed >= len(others) else float((odds[own] > others[allowed]).mean())


def log_loss(truth: Places, scores: Floats) -> float:
    """-mean log P(true category), in nats, >= 0: the score that honest probabilities make least; log G knows nothing.

    Infinite where a true category was ruled out.

    >>> round(log_loss(np.array([1]), np.log([[0.5, 0.5]])), 4)
    0.6931
    """
    # Scores need not be normalized: those of a claim are rounded to float32.
    norm = np.logaddexp.reduce(scores, axis=1)
    return float(np.mean(norm - scores[np.arange(len(truth)), truth]))


def accuracy_by_chance(shares: ArrayLike) -> float:
    """max_g share_g: how often who knows only the prior names a category right. shares: (G,) counts or probabilities.

    Of UAR the chance is 1/G, whatever the prior.

    >>> accuracy_by_chance([30, 10])
    0.75
    """
    given = np.asarray(shares, dtype=np.float64)
    if given.ndim != 1 or not np.isfinite(given).all() or (given < 0).any() or not given.sum() > 0:
        raise BadInput(f"expected shares >= 0 with a sum above 0, got {shares!r}")
    return float(given.max() / given.sum())


def interval(people: People, statistic: Statistic = uar, *, key: Key, level: float = 0.95) -> Interval:
    """The statistic, with the percentile interval of `DRAWS` samples of persons, each with all of their items.

    Clustered bootstrap (Field and Welsh 2007, doi:10.1111/j.1467-9868.2007.00593.x), drawn within each category, so
    that no sample lacks one. A category of one person varies in nothing: with fewer than two in any, (-inf, inf). Where
    all samples are the same, as all 12 of 12 right, the interval is a point, which promises more than persons can:
    use `intervals.binomial` of the persons who are named right beside it. Where two halves attack each other it is
    `MUTUAL` times as long. Raises `BadInput` unless 0 < level < 1.
    """
    if not 0 < level < 1:
        raise BadInput(f"expected a level between 0 and 1, got {level}")
    value, categories = statistic(people.truth, people.scores), people.categories
    own = [np.flatnonzero(categories == category) for category in np.unique(categories)]
    # Drawn again it is always that one.
    if min(map(len, own)) < 2:
        return Interval(value, -math.inf, math.inf)
    items = [np.flatnonzero(people.persons == person) for person in range(people.count)]
    random, found = key.child("bootstrap").numpy(), np.empty(DRAWS)
    for draw in range(DRAWS):
        drawn = np.concatenate([random.choice(places, len(places)) for places in own])
        rows = np.concatenate([items[person] for person in drawn])
        found[draw] = statistic(people.truth[rows], people.scores[rows])
    low, high = np.quantile(found, ((1 - level) / 2, (1 + level) / 2))
    if len(np.unique(people.sides)) > 1:
        # Persons that are drawn apart show rho = 0 as well.
        low, high = (value + MUTUAL * (end - value) for end in (low, high))
        low, high = (min(max(end, 0.0), 1.0) for end in (low, high)) if statistic in (uar, auc) else (low, high)
    # Percentiles of a skewed statistic may lie on one side of it.
    return Interval(value, min(float(low), value), max(float(high), value))


def ranked(people: People) -> float:
    """`auc` within each side of these people, in the mean over the sides: scores of two attackers are not compared."""
    return float(np.mean([auc(half.truth, half.scores) for half in people.halves()]))


def luck(people: People, statistic: Statistic = uar, *, key: Key, turned: bool = False) -> float:
    """The p-value of the statistic under categories that are shuffled over persons: P(as large or larger), in (0, 1].

    All labelings with as many persons of each category are looked at where there are at most `EXACTLY`, which is
    exact; else (1 + hits) / (1 + draws) of `SHUFFLES` random ones, which is valid at any number (Phipson and Smyth
    2010, doi:10.2202/1544-6115.1585). The least that it can be is one over the number of labelings: 1/924 of 6 and 6.
    Of halves that attack each other it is the mean of the statistic within each (`ranked`), where both are as lucky as
    each other (`_alike`). turned: P(as small or smaller) instead.
    """
    halves = people.halves()
    laws = [
        _law(half, statistic, -1.0 if turned else 1.0, key.child(at) if at else key) for at, half in enumerate(halves)
    ]
    return _alike([values for _, values in laws], float(np.mean([found for found, _ in laws])) - ROUNDING)


def _law(people: People, statistic: Statistic, sign: float, key: Key) -> tuple[float, Floats]:
    """The statistic times sign, and what it is of each labeling, rising; the true one is among them."""
    categories = people.categories
    counts = [int(count) for count in np.bincount(categories) if count]
    total = math.factorial(people.count) // math.prod(math.factorial(count) for count in counts)
    value = _of_labelings(people, statistic)
    found = sign * float(value(categories[None])[0])
    # Counted out where it can be: no seed decides then.
    if total <= EXACTLY:
        every = np.array([labels.copy() for labels in _labelings(categories)])
        return found, np.sort(sign * value(every))
    random, drawn = key.child("permutation").numpy(), np.tile(categories, (DRAWS, 1))
    # In parts: a person for each category makes (L, P, P) numbers.
    parts = (sign * value(random.permuted(drawn, axis=1)) for _ in range(SHUFFLES // DRAWS))
    return found, np.sort(np.concatenate([[found], *parts]))


def _alike(laws: Sequence[Floats], least: float) -> float:
    """P(mean_h F_h^-1(U) >= least) with one U for all halves h: luck, where no half is luckier than another.

    Given the other half, labelings of one are as likely as each other, so each has its own law. Together they hang on
    each other: person for person where each is named as their like in the other half is (`MUTUAL`), and then this is
    exact. By laws and not by normal quantiles of variances: eight and eight persons who come in such pairs are all
    named right in one world of 70, and a normal law with rho = 1 says one of 265.
    """
    if len(laws) == 1:
        return float((laws[0] >= least).mean())
    # Steps of all laws together: between two cuts none of them changes.
    cuts = np.unique(np.concatenate([np.arange(len(law) + 1) / len(law) for law in laws]))
    middle = (cuts[1:] + cuts[:-1]) / 2
    mean = np.mean([law[(middle * len(law)).astype(np.int64)] for law in laws], axis=0)
    return min(1.0, float(np.diff(cuts)[mean >= least].sum()))


def _of_labelings(people: People, statistic: Statistic) -> Callable[[Places], Floats]:
    """The statistic of labelings (L, P) of the persons.

    Both named ones are means over categories g of (sum of x_ig over the items i that are called g - c_g) / (their
    number times another), x the share by which i is claimed as g, or its rank among all for g: what changes from
    labeling to labeling are sums over persons alone.
    """
    if statistic not in (uar, auc):
        return lambda labelings: np.array([statistic(one[people.persons], people.scores) for one in labelings])
    count, scores = people.scores.shape[1], people.scores
    best = scores == scores.max(1, keepdims=True)
    each = best / best.sum(1, keepdims=True)
    if statistic is auc:
        each = np.stack([stats.rankdata(_odds(scores, one)) for one in range(count)], 1)
    # Of each person: items, and the sums of x over them.
    size, whole = np.bincount(people.persons).astype(float), np.zeros((people.count, count))
    np.add.at(whole, people.persons, each)

    def value(labelings: Places) -> Floats:
        called = labelings[:, :, None] == np.arange(count)
        many, total = np.einsum("lpg,p->lg", called, size), np.einsum("lpg,pg->lg", called, whole)
        if statistic is uar:
            there = many > 0
            found = total / np.maximum(many, 1.0)
        else:
            # Mann and Whitney: the sum of ranks above the least that so many can have, of all pairs.
            there, others = (many > 0) & (many < size.sum()), size.sum() - many
            found = (total - many * (many + 1) / 2) / np.maximum(many * others, 1.0)
        mean: Floats = (found * there).sum(1) / np.maximum(there.sum(1), 1)
        return np.where(there.any(1), mean, 0.5)

    return value


def _rows_of_sides(people: People) -> list[NDArray[np.bool_]]:
    return [people.sides == side for side in np.unique(people.sides)]


def _labelings(categories: Places) -> Iterator[Places]:
    """Every different order of these categories, once."""
    # Combinations of places and not permutations of persons: of 6 and 6 there are 924, and not 479 million.
    names, counts = np.unique(categories, return_counts=True)
    yield from _placed(np.arange(len(categories)), names.tolist(), counts.tolist(), np.empty_like(categories))


def _placed(free: Places, names: Sequence[int], counts: Sequence[int], labels: Places) -> Iterator[Places]:
    if len(names) == 1:
        made = labels.copy()
        made[free] = names[0]
        yield made
        return
    for chosen in itertools.combinations(range(len(free)), counts[0]):
        labels[free[list(chosen)]] = names[0]
        yield from _placed(np.delete(free, chosen), names[1:], counts[1:], labels)


def _odds(scores: Floats, category: int) -> Floats:
    """(N,) log P(category) - log P(another)."""
    if scores.shape[1] == 2:
        with np.errstate(invalid="ignore"):
            return np.nan_to_num(scores[:, category] - scores[:, 1 - category], nan=0.0, posinf=np.inf, neginf=-np.inf)
    rest = np.logaddexp.reduce(np.delete(scores, category, axis=1), axis=1)
    # -inf - -inf is no number: nobody knows of an item for which everything is ruled out.
    with np.errstate(invalid="ignore"):
        found: Floats = np.nan_to_num(scores[:, category] - rest, nan=0.0, posinf=np.inf, neginf=-np.inf)
    return found
