"""The most that any attack can reach, from a mechanism's event: the trade-off between finding and false alarm."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from leakscope.bounds.accounting import DeltaOf, deltas
from leakscope.core.arguments import flag, number

if TYPE_CHECKING:
    from dp_accounting import DpEvent

CELLS = 40
"""Values of epsilon that are compared at once, each time between the neighbors of the best."""
ROUNDS = 5
TABLE = 4000
"""Values of epsilon of a table, in one ratio to each other: powers of it are then within 1e-4 of the smallest bound."""
FURTHEST = 50.0
"""The largest epsilon that is tried where nothing else ends the range: exp(-50) is below rounding of a probability."""


def largest_power(event: DpEvent, *, fpr: float, replaced: bool = False) -> float:
    """The largest true positive rate of any test with this false positive rate, in [fpr, 1]: 1 - f(fpr).

    The test says whether somebody is in the release or not (the event's adjacency, either way round), or, if
    `replaced`, whether the one or the other of two known contributions is: two steps, one out and one in.
    For all e >= 0 with P(A) <= exp(e) Q(A) + d(e), for A and its complement (Dong, Roth & Su 2019, arXiv:1905.02383,
    proposition 2.12): TPR <= exp(e) FPR + d(e) and TPR <= 1 - exp(-e) (1 - d(e) - FPR). Every pair (e, d(e)) gives a
    bound, and the smallest over all e is exact; d(e) is the accountant's, rounded up. No randomness.

    fpr: in [0, 1]. Raises `BadInput` on another, and as `epsilon` does for events that no accountant knows.

    >>> from dp_accounting import GaussianDpEvent, NonPrivateDpEvent
    >>> round(largest_power(GaussianDpEvent(1.0), fpr=0.01), 3), largest_power(NonPrivateDpEvent(), fpr=0.01)
    (0.092, 1.0)
    """
    rate = number("fpr", fpr, low=0, high=1)
    return power_curve(event, replaced=replaced)(rate)


def power_curve(event: DpEvent, *, replaced: bool = False, tabulated: bool = False) -> Callable[[float], float]:
    """`largest_power` as a function of the false positive rate in [0, 1]: the accountant is asked once for many rates.

    tabulated: from one table of `TABLE` values of epsilon, a bound as well, in a hundredth of the time for each rate.
    Raises as `largest_power`.

    >>> from dp_accounting import GaussianDpEvent
    >>> curve = power_curve(GaussianDpEvent(1.0), replaced=True)
    >>> [round(curve(rate), 2) for rate in (0.01, 0.1)]
    [0.37, 0.76]
    """
    twice = flag("replaced", replaced)
    delta = deltas(event)
    single = _tabulated(delta) if flag("tabulated", tabulated) else functools.partial(_power, delta)

    def power(rate: float) -> float:
        once = single(rate)
        # Group privacy as a composition of curves: the reference is what is sent without either. For normal noise the
        # distance doubles: Phi(Phi^-1(Phi(Phi^-1(a) + mu)) + mu) = Phi(Phi^-1(a) + 2 mu).
        return single(once) if twice else once

    return power


def largest_share(event: DpEvent, *, chance: float) -> float:
    """The largest probability with which a guess of a secret is right, where a guess that sees nothing is right with
    at most `chance`; in [chance, 1]: 1 - f(chance).

    The secret is drawn from a known prior and enters the release by the contribution that the event hides: a label, a
    person, an input within some distance. chance = max_c P(c) is 1 / K for K equally likely candidates.
    Proof: let A_c be the outputs on which c is guessed and Q the release without the contribution, which knows no
    secret. sum_c P(c) Q(A_c) <= chance; if c is there, A_c has at most the probability 1 - f(Q(A_c)), which is concave
    in Q(A_c); so the mean over c is at most 1 - f(chance) (Hayes et al. 2023, arXiv:2302.07225; Kulynych et al. 2025,
    arXiv:2507.06969). Hence one step, in or out, is enough, although the candidates replace each other.

    chance: in [0, 1]. Raises as `largest_power`.

    >>> from dp_accounting import GaussianDpEvent
    >>> round(largest_share(GaussianDpEvent(1.0), chance=0.1), 3)
    0.389
    """
    return largest_power(event, fpr=number("chance", chance, low=0, high=1))


def _power(delta: DeltaOf, rate: float) -> float:
    # exp(e) FPR >= 1 says nothing, so the first kind of bound ends where that begins.
    end = min(FURTHEST, -math.log(rate)) if rate > 0 else FURTHEST
    rising = _least(lambda e: np.exp(e) * rate + delta(e), end)
    falling = _least(lambda e: 1 - np.exp(-e) * np.maximum(0.0, 1 - delta(e) - rate), FURTHEST)
    # A test that ignores the release has TPR = FPR, so nothing below that is a bound; only rounding could go there.
    return float(min(1.0, max(rate, min(rising, falling))))


def _tabulated(delta: DeltaOf) -> Callable[[float], float]:
    """`_power` by the values of epsilon of a table alone, of which each bounds by itself."""
    places = np.concatenate([[0.0], np.geomspace(1e-4, FURTHEST, TABLE)])
    lost = delta(places)

    def power(rate: float) -> float:
        rising = float((np.exp(places) * rate + lost).min())
        falling = float((1 - np.exp(-places) * np.maximum(0.0, 1 - lost - rate)).min())
        return min(1.0, max(rate, min(rising, falling)))

    return power


def _least(bound: DeltaOf, end: float) -> float:
    """The smallest value of a bound over e in [0, end], which falls and then rises."""
    low, high, best = 0.0, end, math.inf
    for _ in range(ROUNDS):
        places = np.linspace(low, high, CELLS + 1)
        values = bound(places)
        at = int(values.argmin())
        # Each value bounds by itself: to miss the smallest costs tightness, never truth.
        best = min(best, float(values[at]))
        low, high = float(places[max(0, at - 1)]), float(places[min(CELLS, at + 1)])
    return best
