"""The most that any attack can reach, from a mechanism's event: membership, attributes and reconstruction."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from leakscope.bounds.trade_off import Question, trade_off
from leakscope.core.arguments import flag, number
from leakscope.core.errors import BadInput

if TYPE_CHECKING:
    from dp_accounting import DpEvent

FINE, LEAST = 0.05, 200.0
"""Of rates of false positives on a grid: the logarithm of the ratio of neighbors, and minus that of the smallest."""


def largest_power(event: DpEvent, *, fpr: float, replaced: bool = False, question: Question = Question.EITHER) -> float:
    """The largest true positive rate of any test with this false positive rate, in [fpr, 1]: 1 - f(fpr).

    The test says whether somebody is in the release or not (the event's adjacency), which way round by `question`, or,
    if `replaced`, whether the one or the other of two known contributions is: two steps, one out and one in.
    Every divergence of the two laws gives a bound, and the smallest is exact (`trade_off`); all are the accountant's,
    rounded up. No randomness.

    fpr: in [0, 1]. Raises `BadInput` on another, for a question that `replaced` does not ask, and as `trade_off` does.

    >>> from dp_accounting import GaussianDpEvent, NonPrivateDpEvent
    >>> round(largest_power(GaussianDpEvent(1.0), fpr=0.01), 3), largest_power(NonPrivateDpEvent(), fpr=0.01)
    (0.092, 1.0)
    """
    rate = number("fpr", fpr, low=0, high=1)
    return power_curve(event, replaced=replaced, question=question)(rate)


def power_curve(
    event: DpEvent, *, replaced: bool = False, question: Question = Question.EITHER
) -> Callable[[float], float]:
    """`largest_power` as a function of the false positive rate in [0, 1]: the accountant is asked once for many rates.

    Raises as `largest_power`.

    >>> from dp_accounting import GaussianDpEvent
    >>> curve = power_curve(GaussianDpEvent(1.0), replaced=True)
    >>> [round(curve(rate), 2) for rate in (0.01, 0.1)]
    [0.37, 0.76]
    """
    twice = flag("replaced", replaced)
    if twice and question is not Question.EITHER:
        raise BadInput("of two contributions that replace each other neither is absent; leave question out")
    curve = trade_off(event, question=question)

    def power(rate: float) -> float:
        once = curve.power(rate)
        # Group privacy as a composition of curves: the reference is what is sent without either. For normal noise the
        # distance doubles: Phi(Phi^-1(Phi(Phi^-1(a) + mu)) + mu) = Phi(Phi^-1(a) + 2 mu).
        return curve.power(once) if twice else once

    return power


def replaced_epsilon(event: DpEvent, *, delta: float) -> float:
    """An e for which what is sent with a contribution, or another in its place, is (e, delta)-private; in [0, inf].

    Of `power_curve(event, replaced=True)` the least e with power(a) <= exp(e) a + delta for every rate a, rounded up by
    at most `FINE`; infinite where a test of rates below exp(-`LEAST`) is not excluded. It is what an epsilon that was
    observed beside the replaced control has to stay below. delta: in (0, 1]. Raises as `largest_power`.

    >>> from dp_accounting import GaussianDpEvent, NonPrivateDpEvent
    >>> round(replaced_epsilon(GaussianDpEvent(2.0), delta=1e-5), 1), replaced_epsilon(NonPrivateDpEvent(), delta=0.1)
    (4.4, inf)
    """
    lost = number("delta", delta, low=0, high=1, low_open=True)
    power = power_curve(event, replaced=True)
    rates = np.exp(-np.arange(0.0, LEAST, FINE))
    above = np.array([power(float(rate)) for rate in rates]) - lost
    if above[-1] > 0:
        return math.inf
    # Between two rates the power is at most that of the larger, and the rate at least the smaller.
    ratios = above[:-1].clip(min=0) / rates[1:]
    return math.log(max(1.0, float(ratios.max())))


def largest_advantage(event: DpEvent) -> float:
    """The largest TPR - FPR of any test whether somebody is in the release, in [0, 1]: the total variation, delta(0).

    1 - this is the Bayes security of Cherubin et al. 2024 (USENIX Security). A guess of one of two equally likely
    worlds is right with at most (1 + this) / 2. Raises as `trade_off`.

    >>> from dp_accounting import GaussianDpEvent
    >>> round(largest_advantage(GaussianDpEvent(1.0)), 3)
    0.383
    """
    return trade_off(event).advantage


def largest_share(event: DpEvent, *, chance: float, question: Question = Question.EITHER) -> float:
    """The largest probability with which a guess of a secret is right, where a guess that sees nothing is right with
    at most `chance`; in [chance, 1]: 1 - f(chance).

    The secret is drawn from a known prior and enters the release by the contribution that the event hides: a label, an
    attribute, a person, an input within some distance. chance = max_c P(c) is 1 / K for K equally likely candidates;
    of a reconstruction that counts as right within a distance, the largest prior probability of one such ball.
    Proof: let A_c be the outputs on which c is guessed and Q the release without the contribution, which knows no
    secret. sum_c P(c) Q(A_c) <= chance; if c is there, A_c has at most the probability 1 - f(Q(A_c)), which is concave
    in Q(A_c); so the mean over c is at most 1 - f(chance) (Hayes et al. 2023, arXiv:2302.07225; Kulynych et al. 2025,
    arXiv:2507.06969). Hence one step, in or out, is enough, although the candidates replace each other.

    chance: in [0, 1]. question: PRESENT is what this proof uses, and the smaller bound; EITHER holds for more events.
    Raises as `largest_power`.

    >>> from dp_accounting import GaussianDpEvent
    >>> round(largest_share(GaussianDpEvent(1.0), chance=0.1), 3)
    0.389
    """
    return largest_power(event, fpr=number("chance", chance, low=0, high=1), question=question)
