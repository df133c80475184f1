"""What was named beside what is true, trial by trial, and how often that is right of other trials.

Blind guesses know the public data. Where the private ones differ from it, as where speakers are on one side each and
most of the private ones are women, an attack that says "female" whatever it sees is right more often than any of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Final

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
    """The share of the truths of other trials that claims name, in [0, 1]; 0 where they repeat no more than truths do.

    What a claim would be expected to name if it had nothing to do with its own trial: mean over t != u of
    |claimed_t & true_u| / |true_u|, as multisets. Only of an attack that says the same in more pairs of trials than the
    same is true: one that is right repeats itself as often as the truth, and a coincidence among few trials would hide
    its leak.

    >>> repeated([(["f"], ["f"]), (["f"], ["f"]), (["f"], ["m"])])
    0.6666666666666666
    >>> repeated([(["f"], ["f"]), (["f"], ["f"]), (["m"], ["m"])])
    0.0
    """
    # Every pair of many thousand trials would take hours, and say no more.
    some = trials[:: -(-len(trials) // MOST) or 1]
    claims, truths = [Counter(one) for one, _ in some], [Counter(one) for _, one in some]
    if len(trials) < 2 or not _alike(claims, claims) > _alike(truths, truths):
        return 0.0
    return _alike(claims, truths)


def _alike(some: Sequence[Counter[Hashable]], others: Sequence[Counter[Hashable]]) -> float:
    """The mean share of the items of another trial that a trial has too."""
    shares = [
        (one & other).total() / other.total() for t, one in enumerate(some) for u, other in enumerate(others) if t != u
    ]
    return sum(shares) / len(shares)
