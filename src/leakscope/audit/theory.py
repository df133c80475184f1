"""What the accountant says of the game that an audit plays, and whether what was seen can be squared with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from leakscope.bounds import upper
from leakscope.bounds.accounting import epsilon
from leakscope.bounds.lower import lower_from_guesses, lower_from_scores
from leakscope.core.arguments import number
from leakscope.core.asking import asking
from leakscope.core.errors import BadInput, MissingExtra
from leakscope.core.mechanism import AbstractMechanism, Adjacency
from leakscope.numerics.intervals import clopper_pearson

DOUBT = 1e-3
"""The probability with which a true promise is called broken, for one comparison: audits make hundreds of them."""


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
            event, training, adjacency = mechanism.event(), mechanism.training_event(), mechanism.adjacency
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
    at_most = "" if promised is None else f" against {promised.epsilon:.2g} by its event"
    return (
        f"{right} of {guesses} guesses are right, where chance is {chance:.1%}: a share of at least {share:.1%} with "
        f"confidence {1 - DOUBT:.1%}, but by the event of {mechanism!r} no attack is right in more than {allowed:.1%} "
        f"(epsilon at least {observed:.2g}{at_most}, at delta {delta:g}). The mechanism sends more than it declares, "
        "or the attack was told more than the release"
    )


def broken_by_scores(
    mechanism: AbstractMechanism, *, present: Sequence[float], absent: Sequence[float], delta: float
) -> str | None:
    """The sentence of a promise that scores break: releases with and without an example differ more than they may.

    present, absent: one score for each independent trial, of how well an attack recovers an example from the release
    that held it and from one that held another in its place. That is one contribution out and one in, two steps: a
    mechanism that is (e, d)-private for either is (2 e, (1 + exp(e)) d)-private here (group privacy; Dwork and
    Roth 2014, section 2.3). Broken where `lower_from_scores`, with error `DOUBT`, is above 2 e.
    None where nothing is promised.

    >>> from leakscope.mechanisms.protocols.dpsgd import DPSGD
    >>> broken_by_scores(DPSGD(1.0, 1.0), present=[9.0] * 40, absent=[1.0] * 40, delta=1e-5) is None
    True
    """
    promised = theory(mechanism, delta=delta)
    if promised is None or promised.epsilon > -math.log(delta):
        return None
    both = (1 + math.exp(promised.epsilon)) * delta
    if both >= 1:
        return None
    observed = lower_from_scores(present, absent, delta=both, level=1 - DOUBT)
    if observed <= 2 * promised.epsilon:
        return None
    return (
        f"scores of an example tell releases with and without it apart as only an epsilon of at least {observed:.2g} "
        f"lets them (confidence {1 - DOUBT:.1%}), but the event of {mechanism!r} allows {2 * promised.epsilon:.2g} for "
        "one example in place of another. The mechanism sends more than it declares"
    )


def _most(mechanism: AbstractMechanism, name: str, rate: float) -> float | None:
    # Before what is caught below: a wrong rate is the caller's mistake, an unknown event is not.
    rate = number(name, rate, low=0, high=1)
    try:
        with asking(mechanism, "say what it promises"):
            return upper.largest_power(mechanism.event(), fpr=rate)
    except (MissingExtra, BadInput):
        return None
