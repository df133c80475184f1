"""How often an example is told from another in its place, beside the most that theory lets any attack find."""

from __future__ import annotations

from collections.abc import Sequence

from leakscope.audit.measures import Records
from leakscope.audit.promises import Promises
from leakscope.audit.replaced import firsts
from leakscope.bounds.lower import lower_from_scores
from leakscope.core.mechanism import AbstractMechanism
from leakscope.ledger.record import GameRecord
from leakscope.numerics import intervals

PER_ALARM = 100
"""Trials for each false positive: a rate of 1 %."""

Sides = tuple[Records, Records]
"""The trials of one mechanism, and its replaced control."""


def game(mechanism: AbstractMechanism, sides: Sides, promises: Promises) -> GameRecord | None:
    """What these trials say of one example in the place of another; None with fewer than two on both sides.

    Of n trials of the control the threshold is the score of rank k + 1, with k + 1 = (n + 1) / 100, at least 1. Another
    trial of the control is above it with probability (k + 1) / (n + 1), which is the rate of false positives that is
    stated: with few trials it is not 1 %. The bound is concave in that rate, so that what it is at the mean rate is at
    least its mean, and the found share stays below it but for luck. What luck does not explain says `broken_by_scores`.
    """
    audited, replaced = sides
    present, absent = firsts(audited, replaced)
    if len(present) < 2:
        return None
    rank, rate = threshold(len(absent))
    limit = sorted(absent, reverse=True)[rank]
    found = intervals.clopper_pearson(sum(one > limit for one in present), len(present))
    return GameRecord(
        trials=len(present),
        fpr=rate,
        found=found.value,
        low=found.low,
        high=found.high,
        shown=lower_from_scores(present, absent, delta=promises.delta),
        power=promises.power(mechanism, rate),
        allowed=promises.allowed(mechanism),
        accuracy=_mean([one.accuracy for one in audited if one is not None]),
    )


def threshold(trials: int) -> tuple[int, float]:
    """How many trials of the control are above the threshold, and the rate of false positives that this stands for.

    >>> threshold(8), threshold(99), threshold(1000)
    ((0, 0.1111111111111111), (0, 0.01), (9, 0.00999000999000999))
    """
    rank = max(1, (trials + 1) // PER_ALARM)
    return rank - 1, rank / (trials + 1)


def _mean(values: Sequence[float | None]) -> tuple[float, float, float] | None:
    known = [one for one in values if one is not None]
    if not known:
        return None
    found = intervals.mean(known).within(0.0, 1.0)
    return found.value, found.low, found.high
