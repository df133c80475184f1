"""What the accountant says of the game that an audit plays, and the sentence where more was seen than it allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from leakscope.bounds import upper
from leakscope.bounds.accounting import epsilon
from leakscope.bounds.lower import lower_from_guesses
from leakscope.core.arguments import number
from leakscope.core.asking import asking
from leakscope.core.errors import BadInput, MissingExtra
from leakscope.core.mechanism import AbstractMechanism, Adjacency
from leakscope.mechanisms.declared import promise_complaint
from leakscope.numerics.decimals import downward, downward_share, upward, upward_share
from leakscope.numerics.intervals import clopper_pearson

if TYPE_CHECKING:
    from dp_accounting import DpEvent

DOUBT = 1e-3
"""The probability with which a true promise is called broken, for one comparison: audits make hundreds of them."""
MOST_TRIALS = 1_000_000
"""Of how many trials it is asked whether they could break a promise: nobody runs more."""


@final
@dataclass(frozen=True)
class Theory:
    """What a mechanism's two events promise at delta.

    adjacency: whom they hide; None where that is not declared or nobody is hidden. epsilon: of one release that is
    known to hold whoever is hidden, which is what stands beside an attack on that release; in [0, inf].
    training_epsilon: of one round of a training in which nobody knows who takes part; at most `epsilon`.
    """

    adjacency: Adjacency | None
    epsilon: float
    training_epsilon: float
    delta: float


def theory(mechanism: AbstractMechanism, *, delta: float) -> Theory | None:
    """The promises of one release; None where they cannot be computed: no accountant installed, or none that knows.

    >>> from leakscope.mechanisms.protocols.dpsgd import DPSGD
    >>> found = theory(DPSGD(1.0, 1.0, rate=1e-4), delta=1e-5)
    >>> found.adjacency.value, round(found.epsilon, 2), round(found.training_epsilon, 4)
    ('one example', 4.38, 0.0002)
    """
    try:
        # The accountant too: an event that somebody else's code returns need not be one.
        with asking(mechanism, "say what it promises"):
            event, training, adjacency = _event(mechanism), mechanism.training_event(), mechanism.adjacency
            given = epsilon(event, delta=delta)
            # Most mechanisms sample nobody, and the accountant takes half a second.
            sampled = given if training == event else epsilon(training, delta=delta)
    except (MissingExtra, BadInput):
        return None
    # Amplification only lowers: two roundings of the same number must not say otherwise.
    return Theory(adjacency, given, min(given, sampled), delta)


def largest_power(mechanism: AbstractMechanism, *, fpr: float) -> float | None:
    """The largest true positive rate that any test of one release has at this false positive rate, in [fpr, 1].

    Of the question whether the contribution is there, by the event of participation. None as for `theory`.
    Raises `BadInput` where fpr is not in [0, 1].
    """
    return _most(mechanism, "fpr", fpr)


def largest_share(mechanism: AbstractMechanism, *, chance: float) -> float | None:
    """The largest share of right guesses about what one release holds, in [chance, 1] (`upper.largest_share`).

    chance: the share of a guess that sees nothing, at least that of the most frequent candidate. None as for `theory`.
    Raises `BadInput` where chance is not in [0, 1].
    """
    return _most(mechanism, "chance", chance)


def replaced_epsilon(mechanism: AbstractMechanism, *, delta: float) -> float | None:
    """The epsilon of one contribution in place of another, which is what the replaced control can show at most.

    In [0, inf]; at most about twice that of one that is there or not. None as for `theory`.
    """
    try:
        with asking(mechanism, "say what it promises"):
            return upper.replaced_epsilon(_event(mechanism), delta=delta)
    except (MissingExtra, BadInput):
        return None


def replaced_power(mechanism: AbstractMechanism, *, fpr: float) -> float | None:
    """The largest true positive rate of any test which of two contributions a release holds, in [fpr, 1].

    The game of the replaced control. None as for `theory`. Raises `BadInput` where fpr is not in [0, 1].
    """
    rate = number("fpr", fpr, low=0, high=1)
    with asking(mechanism, "say what it promises"):
        power = _replaced_power(mechanism)
    return None if power is None else power(rate)


def contradiction(
    mechanism: AbstractMechanism, *, right: int, guesses: int, chance: float, delta: float = 1e-5
) -> str | None:
    """The sentence of a broken promise: more guesses were right than the mechanism's event allows; None otherwise.

    It is one where the lower confidence limit of the share (error `DOUBT`) is above `largest_share`. Then the event
    understates what is sent, the code does not do what it declares, or the guesses knew more than the release.

    The game matches where each of the `guesses` claims the label or the person of one trial, the trials are
    independent, each attacks one release of a batch of **one** example, and `chance` is at least the share of the most
    frequent candidate in the private data. Then both adjacencies fit: the secret enters by that example's gradient
    (EXAMPLE), which is the client's whole update (CLIENT), and the reference is the release without it. Of larger
    batches, where labels are paired with claims after the fact, it says nothing: do not call it.
    delta: of the two epsilons in the sentence; it decides nothing. Raises `BadInput` on impossible counts or chance.

    >>> from leakscope.mechanisms.protocols.dpsgd import DPSGD
    >>> contradiction(DPSGD(1.0, 1.0, rate=1e-4), right=137, guesses=300, chance=0.1) is None
    True
    """
    observed = lower_from_guesses(right, guesses, chance=chance, delta=delta, level=1 - DOUBT)
    share = clopper_pearson(right, guesses, level=1 - 2 * DOUBT).low
    # Whatever the mechanism is, chance is allowed.
    allowed = largest_share(mechanism, chance=chance) if share > chance else None
    if allowed is None or share <= allowed:
        return None
    promised = theory(mechanism, delta=delta)
    at_most = "" if promised is None else f" against {upward(promised.epsilon, 2)} by its event"
    return (
        f"{right} of {guesses} guesses are right, where chance is {chance:.1%}: a share of at least "
        f"{downward_share(share, 1)} with confidence {1 - DOUBT:.1%}, but by the event of {mechanism!r} no attack is "
        f"right in more than {upward_share(allowed, 2)} (epsilon at least {downward(observed, 2)}{at_most}, at delta "
        f"{delta:g}). The mechanism sends more than it declares, "
        "or the attack was told more than the release"
    )


def guesses_needed(mechanism: AbstractMechanism, *, chance: float) -> int | None:
    """How many guesses it takes until `contradiction` could find anything: so many break the promise if all are right.

    n with DOUBT^(1/n), the lower limit of n right ones of n, above `largest_share`. None where no number does: nothing
    is promised, or all may be right. Raises `BadInput` where chance is not in [0, 1].

    >>> from leakscope.mechanisms.protocols.dpsgd import DPSGD
    >>> guesses_needed(DPSGD(1.0, 1.0), chance=0.1), guesses_needed(DPSGD(1.0, 0.3), chance=0.1)
    (8, 341)
    """
    allowed = largest_share(mechanism, chance=chance)
    if allowed is None or allowed >= 1:
        return None
    return max(1, math.floor(math.log(DOUBT) / math.log(allowed)) + 1) if allowed > 0 else 1


def broken_by_scores(mechanism: AbstractMechanism, *, present: Sequence[float], absent: Sequence[float]) -> str | None:
    """The sentence of a promise that scores break: releases with and without an example differ more than they may.

    present, absent: one score for each independent trial, of how well an attack recovers an example from the release
    that held it and from one that held another in its place. That is one contribution out and one in, two steps
    (`upper.power_curve`, replaced). Both of a trial may depend on each other.
    Broken where the lower limit of the true positive rate is above the largest power at the upper limit of the false
    positive rate, for any threshold of `_limits`; with error `DOUBT` for all of them together.
    None where nothing is promised, and where it is kept.

    >>> from leakscope.mechanisms.protocols.dpsgd import DPSGD
    >>> broken_by_scores(DPSGD(1.0, 1.0), present=[9.0] * 40, absent=[1.0] * 40) is None
    True
    >>> print(broken_by_scores(DPSGD(1.0, 9.0), present=[9.0] * 40, absent=[1.0] * 40)[:64])
    an attack tells releases with an example from those with another
    """
    power = _replaced_power(mechanism)
    if power is None:
        return None
    for found, alarms, low, high in _limits(present, absent):
        allowed = power(high)
        if low > allowed:
            return (
                f"an attack tells releases with an example from those with another in its place: {found} of "
                f"{len(present)} at a threshold with {alarms} false alarms in {len(absent)}, so at least "
                f"{downward(low, 3)} true positives at a false positive rate of at most {upward(high, 3)} (confidence "
                f"{1 - DOUBT:.1%}), but by the event of {mechanism!r} no attack has more than {upward(allowed, 3)} "
                "there. The mechanism sends more than it declares"
            )
    return None


def scores_needed(mechanism: AbstractMechanism) -> int | None:
    """About how many trials it takes until `broken_by_scores` could find anything: a perfect attack breaks it then.

    None where even `MOST_TRIALS` do not, and where nothing is promised.

    >>> from leakscope.mechanisms.protocols.dpsgd import DPSGD
    >>> scores_needed(DPSGD(1.0, 9.0))
    15
    """
    power = _replaced_power(mechanism)
    if power is None:
        return None

    def enough(trials: int) -> bool:
        # Every example recovered and no alarm: nothing else says as much.
        share: float = _error(trials) ** (1 / trials)
        return share > power(1 - share)

    if not enough(MOST_TRIALS):
        return None
    low, high = 0, MOST_TRIALS
    # More trials move both limits outward, but for the few thresholds that they add.
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _event(mechanism: AbstractMechanism) -> DpEvent:
    """Of one release. Raises `BadInput` where it is the event of other code than what acts."""
    why = promise_complaint(mechanism)
    if why is not None:
        raise BadInput(f"{mechanism!r} {why}, so nothing is promised; define event in it")
    return mechanism.event()


def _replaced_power(mechanism: AbstractMechanism) -> Callable[[float], float] | None:
    """The largest power where one contribution takes the place of another; None where nothing is promised."""
    try:
        return upper.power_curve(_event(mechanism), replaced=True)
    except (MissingExtra, BadInput):
        return None


def _limits(present: Sequence[float], absent: Sequence[float]) -> Iterator[tuple[int, int, float, float]]:
    """For each threshold: found, false alarms, and the limits of Clopper and Pearson, low of one and high of the other.

    The thresholds are the absent scores with 0, 1, 3, 7, ... others above them: ranks that are fixed before anybody
    looks, so that Bonferroni over them is all the correction that it takes. For rank k let a be the upper limit of k
    alarms in n, and t the smallest threshold with a false positive rate of at most a. Unless an error of the given
    probability happens, the absent score of rank k is at least t, as at least a share a reaches t; what is found above
    it is then no more than what is found above t, which is fixed, so its lower limit is one of t. Nothing is assumed of
    how the two scores of a trial depend on each other.
    """
    there, gone = np.asarray(present, dtype=np.float64), np.sort(np.asarray(absent, dtype=np.float64))[::-1]
    if min(len(there), len(gone)) == 0:
        return
    error = _error(len(gone))
    for alarms in _ranks(len(gone)):
        found = int((there > gone[alarms]).sum())
        # An interval of level 1 - 2 a errs with a on either side.
        low = clopper_pearson(found, len(there), level=1 - 2 * error).low
        high = clopper_pearson(alarms, len(gone), level=1 - 2 * error).high
        yield found, alarms, low, high


def _ranks(trials: int) -> list[int]:
    return [2**power - 1 for power in range(trials.bit_length())]


def _error(trials: int) -> float:
    """Of each limit: two of them for each threshold."""
    return DOUBT / 2 / len(_ranks(trials))


def _most(mechanism: AbstractMechanism, name: str, rate: float) -> float | None:
    # Before what is caught below: a wrong rate is the caller's mistake, an unknown event is not.
    rate = number(name, rate, low=0, high=1)
    try:
        with asking(mechanism, "say what it promises"):
            return upper.largest_power(_event(mechanism), fpr=rate)
    except (MissingExtra, BadInput):
        return None
