"""What was named beside what is true, trial by trial, and how often that is right of other trials.

Blind guesses know the public data. Where the private ones differ from it, as where speakers are on one side each and
most of the private ones are women, an attack that says "female" whatever it sees is right more often than any of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from leakscope.audit.measures import Records
from leakscope.ledger.record import Ending

MOST: Final = 200
"""Of more trials some are compared, evenly chosen."""

Pair = tuple[Sequence[Hashable], Sequence[Hashable]]
"""Of one trial: what was claimed, and what is true."""


def pairs(side: Records, *, persons: bool) -> list[Pair]:
    """Claims and truths of the finished trials whose records tell both: of labels, or who or what somebody is."""
    found: list[Pair] = []
    for record in side:
        if record is None or record.ending is not Ending.CLAIMED:
            continue
        if persons:
            named = [(one.best[0], one.true) for one in record.rankings if one.best]
            found.append(([claimed for claimed, _ in named], [true for _, true in named]))
        else:
            claimed = [label for label in record.labels_claimed if label >= 0]
            found.append((claimed, list(record.labels_true)))
    return [(claimed, true) for claimed, true in found if claimed and true]


def repeated(trials: Sequence[Pair]) -> float:
    """The share of the truths of other trials that claims name, in [0, 1], as far as the trials show it.

    What a claim would be expected to name if it had nothing to do with its own trial: mean over t != u of
    |claimed_t & true_u| / |true_u|, as multisets. All of it where an attack says the same in more pairs of trials than
    the same is true; else less one standard error, since an attack that is right repeats itself as often as the truth,
    and a coincidence among few trials would hide its leak. Without the second part an attack that names the more
    frequent of two (.9 of the people) in .85 of 100 trials, and sees nothing, was called a leak 89 times of 100; with
    it about once, while 8 trials of 8 that are right by knowledge remain a leak in 99 of 100.

    >>> repeated([(["f"], ["f"]), (["f"], ["f"]), (["f"], ["m"])])
    0.6666666666666666
    >>> repeated([(["f"], ["f"]), (["m"], ["m"])] * 4) < 0.5
    True
    >>> repeated([(["f"], ["f"])])
    0.0
    """
    # Every pair of many thousand trials would take hours, and say no more.
    some = trials[:: -(-len(trials) // MOST) or 1]
    if len(some) < 2:
        return 0.0
    claims, truths = [Counter(one) for one, _ in some], [Counter(one) for _, one in some]
    named = _alike(claims, truths)
    share = float(named.sum() / _pairs(len(some)))
    if _alike(claims, claims).sum() > _alike(truths, truths).sum():
        return share
    # A mean over pairs varies as the mean of what each trial adds to it as claim and as truth (Hoeffding 1948). Two
    # trials more, one of nothing and one of everything, since equal ones among few are no proof of a certainty.
    each = np.append((named.sum(0) + named.sum(1)) / (len(some) - 1), (0.0, 2.0))
    return max(0.0, share - float(each.std(ddof=1)) / math.sqrt(len(some)))


def _alike(some: Sequence[Counter[Hashable]], others: Sequence[Counter[Hashable]]) -> NDArray[np.float64]:
    """[t, u]: the share of the items of trial u that trial t has too; 0 for t = u."""
    shares = [
        [(one & other).total() / other.total() if t != u else 0.0 for u, other in enumerate(others)]
        for t, one in enumerate(some)
    ]
    return np.array(shares)


def _pairs(count: int) -> int:
    return count * (count - 1)
