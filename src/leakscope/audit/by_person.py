"""A word for what was claimed of persons, each judged by all of their updates: the rule of `verdict`, at their level.

Trials of one speaker are right or wrong together, and counting them apart would make luck look impossible: here a
person is one trial. People are judged by UAR, whose chance is 1/G, and by the order they are put in (AUC, chance 1/2):
who calls everybody a woman, and women more so than men, has told them apart for all that UAR says. It **leaks** where
the attribute shuffled over the persons gives so much in at most 1 % of cases (`measures.LUCK`), for one of the two at
half of that. It is **no leak found at this power** where it does not, the same attack leaks by the same rule on the
control and gains more there than the smallest gain of interest, and the upper ends of both 95 % intervals exclude such
a gain (half of it of three categories and more for AUC, a mean over them), of two categories also for the attack turned
round, and of more no other names for them tell them apart; nor is the attack wrong so often, or right
or wrong of the persons of one half, that luck gives as much in at most 1 % of cases. Else it is **inconclusive**, and
the sentence says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from leakscope.audit.measures import LUCK
from leakscope.audit.renamed import renamed
from leakscope.core.arguments import number
from leakscope.core.errors import BadInput
from leakscope.ledger.record import Word
from leakscope.numerics import intervals
from leakscope.numerics.intervals import Interval
from leakscope.numerics.rng import Key
from leakscope.scoring import persons
from leakscope.scoring.persons import People

FEWEST = 3
"""Persons of each category, below which nothing is excluded."""
BELOW = 0.05
"""How often at most the upper end of an order lies below the truth, whatever the law of scores."""


@final
@dataclass(frozen=True)
class PersonsVerdict:
    """uar: with its interval, the wider of two (`interval`). luck: of the shuffled persons, of UAR and AUC together.
    chance: 1/G."""

    word: Word
    sentence: str
    uar: Interval
    luck: float
    chance: float


def judged(
    audited: People,
    control: People | None,
    *,
    smallest: float,
    key: Key,
    silent: Sequence[str] = (),
    noiseless: People | None = None,
) -> PersonsVerdict:
    """The word for an attack on `audited`, which worked or did not on `control`, a world that is known to leak.

    noiseless: the same people behind the same defenses without their noise, where the attack has to work too; None
    where nothing but noise is between `audited` and `control`.

    smallest: the smallest gain of interest over chance, in (0, 1). silent: why nothing was claimed of others who sent
    something: with any of them nothing is cleared. Raises `BadInput` on another one, or where the two
    are of other numbers of categories.

    >>> people = People(np.arange(24) % 2, np.eye(2)[np.arange(24) % 2])
    >>> judged(people, None, smallest=0.2, key=Key(0)).word
    <Word.LEAKS: 'leaks'>
    """
    smallest = number("smallest", smallest, low=0, high=1, low_open=True, high_open=True)
    if control is not None and control.scores.shape[1] != audited.scores.shape[1]:
        raise BadInput(
            f"the control has {control.scores.shape[1]} categories, what is audited {audited.scores.shape[1]}; "
            "ask both the same"
        )
    audited, chance = audited.fused(), 1 / audited.scores.shape[1]
    found, by_luck = interval(audited, key=key), luck(audited, key=key)
    auc = persons.ranked(audited)
    # Of one person of a category nothing can be drawn again.
    ends = f"[{found.low:.3f}, {found.high:.3f}]" if np.isfinite(found.low) else "without an interval"
    said = f"UAR {found.value:.3f} {ends} of {audited.count} persons, chance {chance:.3f}, AUC {auc:.3f}"
    said += f", by luck {by_luck:.2g}"
    if by_luck <= LUCK:
        return PersonsVerdict(Word.LEAKS, said, found, by_luck, chance)
    # Who was not attacked may leak: refusals and crashes never become an all-clear.
    doubt = f"of {len(silent)} more persons nothing was claimed ({silent[0]})" if silent else ""
    doubt = doubt or _doubt(audited, found, control, chance, smallest, key)
    if not doubt and noiseless is not None:
        doubt = _unable(noiseless, "without the noise, clipped and summed as it is,", chance, smallest, key)
    word = Word.INCONCLUSIVE if doubt else Word.NO_LEAK_FOUND
    return PersonsVerdict(word, f"{said}; {doubt or f'a gain of {smallest:g} is excluded'}", found, by_luck, chance)


def luck(people: People, *, key: Key) -> float:
    """How probable it is that shuffled persons give as much by UAR or by AUC, whichever is less likely, times two.

    >>> luck(People(np.arange(24) % 2, np.eye(2)[np.arange(24) % 2]), key=Key(0)) < 0.002
    True
    """
    both = (persons.luck(people, one, key=key) for one in (persons.uar, persons.auc))
    return min(1.0, 2 * min(both))


def interval(people: People, *, key: Key) -> Interval:
    """95 % of the UAR of persons: the hull of a bootstrap over persons, and of binomial intervals of each category.

    A bootstrap of persons who are all right, or all alike, is a point, and would exclude everything else. The ends of
    the categories' intervals, each at 1 - 0.05 / G, hold all recalls together at 95 %, and so their mean. Where each
    category is one person, as where persons are recognized, nothing can be drawn within one: of all persons together it
    is binomial then.
    """
    if people.count == len(np.unique(people.truth)):
        whole = people.fused()
        hits = persons.uar(whole.truth, whole.scores)
        found = intervals.binomial(hits, float(whole.count), level=0.95)
        return Interval(hits, found.low, found.high)
    # Halves that attack each other are off together by at most what the binomial ends have room for.
    drawn = persons.interval(people.joined(), key=key)
    level = 1 - 0.05 / people.scores.shape[1]
    # Of scores that tie each category counts by a share, as in UAR.
    best = people.scores == people.scores.max(1, keepdims=True)
    right = best[np.arange(people.count), people.truth] / best.sum(1)
    own = [right[people.truth == category] for category in np.unique(people.truth)]
    each = [intervals.binomial(float(one.mean()), float(len(one)), level=level) for one in own]
    low, high = float(np.mean([one.low for one in each])), float(np.mean([one.high for one in each]))
    return Interval(drawn.value, min(drawn.low, low), max(drawn.high, high)).within(0.0, 1.0)


def _doubt(audited: People, found: Interval, control: People | None, chance: float, smallest: float, key: Key) -> str:
    """Why nothing is cleared; empty where it is."""
    fewest = min(int(count) for count in np.bincount(audited.truth, minlength=audited.scores.shape[1]))
    if fewest < FEWEST:
        return f"{fewest} persons of one category are too few to exclude anything, {FEWEST} are needed"
    if control is None:
        return "no control, so that nobody knows whether this attack can work here at all"
    if why := _telling(audited, key.child("turned")):
        return why
    if why := _unable(control, "on the control", chance, smallest, key):
        return why
    if not found.high - chance < smallest:
        return f"a gain of {smallest:g} is not excluded, which more persons would do"
    # A threshold that gains g over chance makes an AUC of 1/2 + g at least, wherever the attack has its own. Of G > 2
    # categories one that tells a single one apart, all others being called alike, gains (TPR - FPR) / G, and an AUC
    # of (TPR - FPR) / 2 is in the mean over G, where the others are at chance, half of that.
    ranked, share = order(audited), 1 if audited.scores.shape[1] == 2 else 2
    if not share * (ranked.high - 0.5) < smallest:
        return f"with another threshold a gain of {smallest:g} is not excluded (AUC up to {ranked.high:.3f})"
    return _turned(audited, found, chance, smallest) if audited.scores.shape[1] == 2 else _renamed(audited)


def _turned(audited: People, found: Interval, chance: float, smallest: float) -> str:
    """Why the attack turned round, as nobody but its reader has to decide, may gain as much; empty where it may not.

    Of two categories there is one other way to read it, and what is excluded has to hold of both (as in `renamed`): who
    is wrong of 70 % tells as much as who is right of them, and luck alone (`_telling`) doubts that too seldom.
    """
    other = People(audited.truth, audited.scores[:, ::-1], audited.persons, audited.sides)
    if not chance - found.low < smallest:
        return f"turned round, a gain of {smallest:g} is not excluded, which more persons would do"
    if not (ranked := order(other)).high - 0.5 < smallest:
        return (
            f"turned round, a gain of {smallest:g} by another threshold is not excluded (AUC up to {ranked.high:.3f})"
        )
    return ""


def _renamed(audited: People) -> str:
    """Why categories tell the attribute under other names, of three and more; empty where they do not.

    Who always calls B C, C D and D B has a UAR and an AUC of chance, and tells nearly everybody apart. There are too
    many maps for the limit of each to be excluded: the luck of the best one tells.
    """
    trials = [
        ([said], [true]) for said, true in zip(audited.scores.argmax(1).tolist(), audited.truth.tolist(), strict=True)
    ]
    share, by_luck = renamed(trials)
    if by_luck > LUCK:
        return ""
    return f"with another name for each category {share:.0%} of the persons are right, by luck {by_luck:.2g}"


def _unable(control: People, where: str, chance: float, smallest: float, key: Key) -> str:
    """Why an attack that did no more than this there cannot tell; empty where it can."""
    control = control.fused()
    reached, by_luck = persons.uar(control.truth, control.scores), luck(control, key=key.child("control"))
    if by_luck > LUCK:
        return f"{where} the attack does not beat chance either ({reached:.3f}, by luck {by_luck:.2g}): it cannot tell"
    if not reached - chance > smallest:
        return f"{where} the attack gains {reached - chance:.3f}, and cannot tell a leak of {smallest:g} from none"
    return ""


def order(people: People) -> Interval:
    """95 % of the AUC within each half, whose truth may be any that would show this one (a score interval).

    Of an AUC of A no law of scores makes the variance larger than A (1 - A) / m, m the fewer of the two kinds of
    persons (Birnbaum and Klose 1957, Annals of Mathematical Statistics 28), as of a share of m: so Wilson's interval.
    A bootstrap has the spread at what was seen, and excludes hardly anything of a dozen persons. Halves are right or
    wrong together (`persons.MUTUAL`), and count as one of their size.

    No variance says how skewed it is: where each person of the fewer kind stands above all others or below them, A of
    nearly 1 shows 5 of 6 too often for a score interval, whose upper end then lies below A in up to 16 % of worlds. So
    the upper end is no lower than the exact binomial one of a share of m at `BELOW`. Of halves m is the sum there: who
    is an exception in a half that is nearly all in order is nobody's like in the other.
    """
    spread, fewer = [], []
    for half in people.halves():
        counts = np.bincount(half.truth, minlength=half.scores.shape[1])
        # Each category against all others, of which AUC is the mean: their errors may be the same.
        own = [min(count, half.count - count) for count in counts.tolist() if 0 < count < half.count]
        spread += [1 / one for one in own]
        fewer += [len(own) / sum(1 / one for one in own)] if own else []
    if not spread:
        # Each half is of one category: nobody stands above another.
        return Interval(0.5, 0.0, 1.0)
    found = intervals.score(persons.ranked(people), 1 / float(np.mean(spread)))
    exact = intervals.binomial(found.value, float(sum(fewer)), level=1 - 2 * BELOW)
    return Interval(found.value, found.low, max(found.high, exact.high))


def _telling(audited: People, key: Key) -> str:
    """How the attack tells the attribute to who reads it otherwise than by its word; empty where it does not.

    All questions together are asked at `LUCK`: a world without a leak is not doubted more often than that.
    """
    asked = list(_questions(audited))
    for said, people, statistic, turned in asked:
        by_luck = persons.luck(people, statistic, key=key, turned=turned)
        if by_luck <= LUCK / len(asked):
            return f"{said} than luck would be ({by_luck:.2g})"
    return ""


def _questions(audited: People) -> Iterator[tuple[str, People, persons.Statistic, bool]]:
    turned = "turned round it tells the attribute, as one does that learned of people who are otherwise: it is wrong"
    yield f"{turned} more often", audited, persons.uar, True
    yield f"{turned} in the order of persons more often", audited, persons.auc, True
    # One half told and the other turned round look like chance together.
    halves = audited.halves()
    for people in halves if len(halves) > 1 else ():
        yield "of one half of the persons the attack is right more often", people, persons.auc, False
        yield f"of one half of the persons {turned} more often", people, persons.auc, True
