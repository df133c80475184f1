"""Whether claims that are wrong tell what is right: an attack that names the other of two classes knows the label.

A defense may negate what is sent, or exchange rows of the output layer. Attacks that know nothing of it then name
another label for each one, and always the same: all of them are wrong, and whoever knows the defense, as everybody
may, reads all of them. A score against chance sees the opposite of a leak.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from leakscope.audit.evidence import Evidence
from leakscope.audit.measures import LUCK, SHARES, Records
from leakscope.audit.repeated import Pair, pairs
from leakscope.numerics import intervals
from leakscope.numerics.assign import assign
from leakscope.numerics.rng import Key
from leakscope.scoring.metrics.ranks import TopOne

DRAWS: Final = 199
"""Over how many exchanges of truths between trials: a probability down to 1 / 200, half of `LUCK`."""


def renaming(side: Records, found: Evidence, least: float) -> str:
    """Why claims that are wrong by `found` still tell what is right; empty where they do not, or nothing is named.

    least: the smallest leak of interest. Of two names the only other map is the opposite, and the limit of a share that
    is excluded has to hold of both; of more names there are too many maps for that, and the luck of the best one tells.
    """
    known = pairs(side, persons=found.metric == TopOne.name) if found.metric in SHARES else []
    if not known:
        return ""
    share, by_luck = renamed(known)
    high = intervals.binomial(share, intervals.effective(found.trials)).high - found.chance
    two = len({name for trial in known for names in trial for name in names}) == 2
    if by_luck > LUCK and not (two and high >= least):
        return ""
    return (
        f"but with another name for each that is claimed {share:.0%} would be right, which luck does with a "
        f"probability of {by_luck:.2g}: a defense that exchanges or negates hides labels from this attack alone"
    )


def renamed(trials: Sequence[Pair]) -> tuple[float, float]:
    """The largest share of items that are right if each claimed name stands for one other, and its luck.

    The share: max over one-to-one maps m of sum_t |m(claimed_t) & true_t| / sum_t |true_t|, as multisets, in [0, 1].
    The luck: of how many of `DRAWS` exchanges of truths between the trials the share is as large, itself counted;
    exact whatever the classes' frequencies are, since without a leak each trial's claim fits every other trial's truth
    as well. trials: one or more, each with a truth.

    >>> renamed([([0], [1]), ([1], [0])] * 8)
    (1.0, 0.005)
    >>> renamed([([0], [1]), ([0], [0])] * 8)
    (0.5, 1.0)
    """
    claimed, true = _counts([one for one, _ in trials]), _counts([one for _, one in trials])
    seen, generator = _fitting(claimed, true), Key(0).child("renamed").numpy()
    drawn = [_fitting(claimed, true[generator.permutation(len(true))]) for _ in range(DRAWS)]
    return seen / float(true.sum()), (1 + sum(one >= seen for one in drawn)) / (1 + DRAWS)


def _counts(trials: Sequence[Sequence[Hashable]]) -> NDArray[np.int64]:
    """(T, K): how often each of the names that occur in some trial does in each."""
    names = list(dict.fromkeys(name for trial in trials for name in trial))
    counted = [Counter(trial) for trial in trials]
    return np.array([[one[name] for name in names] for one in counted], dtype=np.int64)


def _fitting(claimed: NDArray[np.int64], true: NDArray[np.int64]) -> float:
    """How many items are right under the best map: an assignment, as each pair of names adds what both have."""
    gains = np.array([np.minimum(one[:, None], true).sum(0) for one in claimed.T])
    return float(gains[assign(-gains)].sum())
