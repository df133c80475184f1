"""Intervals for means and shares of few items; numpy and scipy only, no torch, so that the report can use them.

What they cover is measured by `benchmarks/interval_coverage.py`: at 3, 4, 8 and 16 items at least 93 % of normal,
binary and skewed samples, up to log-normal ones with a sigma of 1, where 95 % are promised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

SPARE = 0.3
"""Of the tails that an interval of a mean may leave out, the part that it uses up: the rest is for skewed samples,
which both constructions cover too rarely (at 0.6, log-normal ones of 4 items 91 % of the time). It costs width: normal
samples are covered 98.7 % of the time."""

ROUNDING = 1e-12
"""Values that differ by less, relative to the largest, are equal."""

Floats = NDArray[np.float64]


@final
@dataclass(frozen=True)
class Interval:
    """An estimate with the interval that is meant to hold the truth: low <= value <= high.

    >>> Interval(0.5, 0.4, 0.7).holds(0.6)
    True
    """

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"the interval [{self.low}, {self.high}] does not hold the value {self.value}")

    def within(self, least: float | None, most: float | None) -> Interval:
        """The same, cut where no truth lies: beyond the worst and the best that there is. None: there is no such end.

        What says nothing, with infinite ends, stays so.

        >>> Interval(0.9, 0.7, 1.1).within(None, 1.0), Interval(70.0, -2037.0, 2177.0).within(-120.0, 120.0)
        (Interval(value=0.9, low=0.7, high=1.0), Interval(value=70.0, low=-120.0, high=120.0))
        """
        if not math.isfinite(self.low):
            return self
        low = self.low if least is None else max(self.low, least)
        high = self.high if most is None else min(self.high, most)
        return Interval(self.value, min(self.value, low), max(self.value, high))

    def telling(self, least: float | None, most: float | None) -> Interval:
        """`within`, and (-inf, inf) where that leaves nothing out: what holds every possible truth says nothing of it.

        >>> Interval(70.0, -2037.0, 2177.0).telling(-120.0, 120.0), Interval(70.0, 50.0, 90.0).telling(-120.0, 120.0)
        (Interval(value=70.0, low=-inf, high=inf), Interval(value=70.0, low=50.0, high=90.0))
        """
        found = self.within(least, most)
        whole = least is not None and most is not None and found.low <= least < most <= found.high
        return Interval(self.value, -math.inf, math.inf) if whole else found

    def holds(self, number: float) -> bool:
        """Whether `number` lies in the closed interval."""
        return self.low <= number <= self.high


def mean(values: ArrayLike, *, level: float = 0.95) -> Interval:
    """(1/n) sum_i values[i] with an interval for the mean of what the values were drawn from.

    values: (n,) finite, n >= 1, independent. From one value no interval follows: it is (-inf, inf). Equal values give
    themselves. The interval is the hull of two, both at 1 - `SPARE` (1 - level): Student's m +- t s / sqrt(n), and the
    one of the t statistic without skewness, by Hall's transformation (1992, J. R. Statist. Soc. B 54, p. 221).
    Student's alone covers 88 % of exponential samples of 3. The order of the values does not matter.
    Raises `ValueError` on an empty or non-finite sample.

    >>> mean([3.0])
    Interval(value=3.0, low=-inf, high=inf)
    >>> found = mean([1.0, 2.0, 3.0, 4.0])
    >>> round(found.low, 2), round(found.high, 2)
    (-0.76, 5.76)
    """
    sample = np.sort(_sample(values))
    value = _exact_mean(sample)
    if len(sample) == 1:
        return Interval(value, -math.inf, math.inf)
    spread = float(sample.std(ddof=1))
    if spread <= ROUNDING * max(abs(sample[0]), abs(sample[-1])):
        # Equal up to rounding: skewness would be 0/0.
        return Interval(value, min(value, float(sample[0])), max(value, float(sample[-1])))
    return of_moments(Moments(value, spread, _skewness(sample)), len(sample), level=level)


@final
@dataclass(frozen=True)
class Moments:
    """What an interval of a mean is made of. spread: the unbiased standard deviation. skew: m3 / spread^3."""

    value: float
    spread: float
    skew: float


def moments(values: ArrayLike) -> Moments:
    """Those of a sample of two or more.

    >>> moments([1.0, 2.0, 3.0])
    Moments(value=2.0, spread=1.0, skew=0.0)
    """
    sample = np.sort(_sample(values))
    spread = float(sample.std(ddof=1))
    equal = spread <= ROUNDING * max(abs(sample[0]), abs(sample[-1]))
    return Moments(_exact_mean(sample), 0.0 if equal else spread, 0.0 if equal else _skewness(sample))


def of_moments(of: Moments, count: int, *, level: float = 0.95) -> Interval:
    """The interval of `mean` for `count` >= 2 values with these moments."""
    error = of.spread / math.sqrt(count)
    far = -float(special.stdtrit(count - 1, SPARE * (1 - _level(level)) / 2))
    # The truth is m - error t, with t between -far and far: the largest t gives the lowest end.
    ends = [far, -far, _unskewed(far, of.skew, count), _unskewed(-far, of.skew, count)]
    return Interval(of.value, of.value - error * max(ends), of.value - error * min(ends))


def exceeds(values: ArrayLike, bound: float) -> float:
    """The probability of a mean at least as far above `bound` by luck, if the truth were `bound`: a one-sided p-value.

    The larger one of Student's and Hall's, see `mean`; 1 where the mean does not exceed the bound or n = 1, and 0 where
    all values are equal and above.

    >>> round(exceeds([4.0, 5.0, 6.0], 3.0), 3), exceeds([4.0], 3.0)
    (0.037, 1.0)
    """
    sample = np.sort(_sample(values))
    above = _exact_mean(sample) - bound
    if len(sample) == 1 or above <= 0:
        return 1.0
    error = float(sample.std(ddof=1)) / math.sqrt(len(sample))
    if error <= ROUNDING * max(abs(sample[0]), abs(sample[-1])):
        return 0.0
    statistic = above / error
    scaled, skew = statistic / math.sqrt(len(sample)), _skewness(sample)
    # Hall's g(t) = t + a t^2 / 3 + a^2 t^3 / 27 + a / 6n, of t / sqrt(n); increasing in t, and near to Student's.
    even = math.sqrt(len(sample)) * (
        scaled + skew * scaled**2 / 3 + skew**2 * scaled**3 / 27 + skew / (6 * len(sample))
    )
    return max(float(special.stdtr(len(sample) - 1, -one)) for one in (statistic, even))


def paired_difference(left: ArrayLike, right: ArrayLike, *, level: float = 0.95) -> Interval:
    """The mean of left[i] - right[i] with its interval; what the sides of a pair share cancels.

    left, right: (n,), item i of both belongs together. Raises `ValueError` on lengths that differ, and as `mean`.

    >>> paired_difference([2.0, 12.0], [1.0, 11.0])
    Interval(value=1.0, low=1.0, high=1.0)
    """
    first, second = _sample(left), _sample(right)
    if len(first) != len(second):
        raise ValueError(f"expected pairs, got {len(first)} values on the left and {len(second)} on the right")
    return mean(first - second, level=level)


def clustered_mean(groups: Sequence[ArrayLike], *, level: float = 0.95) -> Interval:
    """The mean of all values with an interval for items that share a batch and an attack: it is groups that are drawn.

    groups: G >= 1 non-empty samples, G independent. The mean is a ratio of two sums, of values and of sizes; it is
    `mean` over its linearization, value + G (S_g - value m_g) / sum m (Cochran 1977, Sampling Techniques, section 6.3).
    One group gives (-inf, inf), and as many values in each the mean of their means.

    >>> clustered_mean([[0.0, 0.0], [1.0, 1.0]]) == mean([0.0, 1.0])
    True
    """
    samples = sorted(np.sort(_sample(group)).tolist() for group in groups)
    if not samples:
        raise ValueError("expected at least one group of values, got none")
    value = _exact_mean(np.array([item for sample in samples for item in sample]))
    per_group = sum(len(sample) for sample in samples) / len(samples)
    # Items of one trial stand or fall together: the residual of a group counts once, however many items it has.
    found = mean([value + (math.fsum(s) - value * len(s)) / per_group for s in samples], level=level)
    return Interval(value, min(found.low, value), max(found.high, value))


def share(groups: Sequence[ArrayLike], *, level: float = 0.95) -> Interval:
    """The share of hits among all items, with an exact interval that knows that items of one group go together.

    groups: G >= 1 non-empty samples in [0, 1], G independent; an item counts as a part of a hit where it is between.
    Clopper and Pearson's interval for `effective` items in place of all: Korn and Graubard (1998, Survey Methodology
    24, p. 193). With one item in each group it is `clopper_pearson`. From one item no interval is made, as in `mean`.

    >>> share([[1.0], [0.0], [0.0]]) == clopper_pearson(1, 3)
    True
    >>> share([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]).high > clopper_pearson(4, 8).high
    True
    """
    samples = [_sample(group) for group in groups]
    if not samples:
        raise ValueError("expected at least one group of values, got none")
    items = np.sort(np.concatenate(samples))
    if not (items[0] >= 0 and items[-1] <= 1):
        raise ValueError(f"expected hits between 0 and 1, got {items[0]} to {items[-1]}")
    value = _exact_mean(items)
    if len(items) == 1:
        return Interval(value, -math.inf, math.inf)
    return binomial(value, effective(samples, level=level), level=level)


def pooled(groups: Sequence[ArrayLike], *, level: float = 0.95) -> Interval:
    """`share` where every item is a hit or none (0 or 1), else `clustered_mean`: one interval for every kind of score.

    >>> pooled([[1.0], [0.0]]) == share([[1.0], [0.0]]), pooled([[1.5], [0.0]]) == mean([1.5, 0.0])
    (True, True)
    """
    # Hits by their values and not by the metric's name: whatever counts them needs an interval that knows so.
    hits = all(item in (0.0, 1.0) for group in groups for item in _sample(group).tolist())
    return share(groups, level=level) if hits else clustered_mean(groups, level=level)


def effective(groups: Sequence[ArrayLike], *, level: float = 0.95) -> float:
    """As how many independent items those of the groups count, for a share: between 1 and all of them.

    n / deff (t_{n-1} / t_{G-1})^2, where deff = (variance between groups) / (p (1 - p) / n) is how much more the share
    varies than that of independent items would, and Student's quantiles account for G groups only that tell it. Where
    all items are alike nothing tells it: then each group counts once.

    >>> effective([[1.0], [0.0], [1.0]]), effective([[0.0, 0.0], [0.0, 0.0]])
    (3.0, 2.0)
    """
    samples = [_sample(group) for group in groups]
    total, count = sum(len(sample) for sample in samples), len(samples)
    if total == count:
        return float(total)
    value = math.fsum(item for sample in samples for item in sample) / total
    if count == 1 or not 0 < value < 1:
        return float(count)
    apart = math.fsum((math.fsum(s) - value * len(s)) ** 2 for s in samples) * count / (count - 1) / total**2
    quantiles = (float(special.stdtrit(n - 1, (1 - _level(level)) / 2)) for n in (total, count))
    few = (next(quantiles) / next(quantiles)) ** 2
    # Never more than there are: groups that happen to be alike are no evidence that items repel each other.
    independent = total if apart == 0 else min(total, value * (1 - value) / apart)
    return max(1.0, independent * few)


def binomial(value: float, count: float, *, level: float = 0.95) -> Interval:
    """Clopper and Pearson's interval of `value * count` hits among `count`, which need not be whole numbers.

    value: in [0, 1]. count: > 0, as many independent items as there are (`effective`).
    """
    hits, tail = value * count, (1 - _level(level)) / 2
    failures = count - hits
    # scipy's own beta quantile and not its binomtest, which solves for the bound only to 2e-12 in absolute size (of one
    # success in 10^9 the lower bound is off by 0.1 %) and takes 15 ms instead of 0.05. At 0 and n the bound is exact.
    low = float(special.betaincinv(hits, failures + 1, tail)) if hits > 0 else 0.0
    high = float(special.betaincinv(hits + 1, failures, 1 - tail)) if failures > 0 else 1.0
    return Interval(value, min(low, value), max(high, value))


def clopper_pearson(successes: int, trials: int, *, level: float = 0.95) -> Interval:
    """successes / trials with the exact binomial interval: covers at least `level`, whatever the truth.

    Beta quantiles (Clopper and Pearson 1934, doi:10.1093/biomet/26.4.404). Raises `ValueError` on impossible counts.

    >>> round(clopper_pearson(0, 10).high, 4)
    0.3085
    """
    return binomial(_share(successes, trials), trials, level=level)


def wilson(successes: int, trials: int, *, level: float = 0.95) -> Interval:
    """successes / trials with the score interval: close to `level` on average, shorter than Clopper-Pearson.

    (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)  (Wilson 1927, doi:10.1080/01621459.1927.10502953).

    >>> round(wilson(10, 10).low, 4)
    0.7225
    """
    return score(_share(successes, trials), trials, level=level)


def score(value: float, count: float, *, level: float = 0.95) -> Interval:
    """Wilson's interval of `value * count` hits among `count`, which need not be whole numbers.

    value: in [0, 1]. count: > 0. Of any statistic whose variance at a truth of p is at most p (1 - p) / count.

    >>> score(1.0, 10) == wilson(10, 10)
    True
    """
    z = float(special.ndtri((1 + _level(level)) / 2))
    middle, reach = value + z**2 / (2 * count), z * math.sqrt(value * (1 - value) / count + (z / (2 * count)) ** 2)
    low, high = ((middle + sign * reach) / (1 + z**2 / count) for sign in (-1, 1))
    # At a level near 0 both bounds meet at the share, and rounding must not push one past it.
    return Interval(value, min(max(low, 0.0), value), max(min(high, 1.0), value))


def _skewness(sample: Floats) -> float:
    # a = m3 / s^3 with the plain third moment and the unbiased variance, as Hall has it
    # each value in units of the spread first: cubes of tiny ones would be zero
    return float((((sample - sample.mean()) / sample.std(ddof=1)) ** 3).mean())


def _unskewed(t: float, skew: float, count: int) -> float:
    """The t statistic whose transform is t: the inverse of Hall's g, see `exceeds`."""
    if abs(skew) < 1e-6:
        return t
    root = math.sqrt(count)
    # g(x) - a / 6n = ((1 + a x / 3)^3 - 1) / a, of x = t / sqrt(n): a cube, so that there is one real root
    inside = 1 + skew * (t / root - skew / (6 * count))
    return root * 3 / skew * (math.copysign(abs(inside) ** (1 / 3), inside) - 1)


def _exact_mean(sample: Floats) -> float:
    # fsum rounds once, so that the order of the items cannot change the last bit.
    value = math.fsum(sample) / len(sample)
    return min(max(value, float(sample.min())), float(sample.max()))


def _sample(values: ArrayLike) -> Floats:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or len(sample) == 0:
        raise ValueError(f"expected a sample of at least one value, got shape {sample.shape}")
    if not bool(np.isfinite(sample).all()):
        raise ValueError("expected finite values; count failures apart, do not average over NaN or infinity")
    return sample


def _level(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"expected a confidence level between 0 and 1, got {level}")
    return level


def _share(successes: int, trials: int) -> float:
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"expected 0 <= successes <= trials and trials >= 1, got {successes} of {trials}")
    return successes / trials
