"""What a group of trials shows against its blind control, in numbers; `verdict` turns them into a word."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from leakscope.audit.measures import (
    FLOORS,
    LUCK,
    MARGIN,
    MOST_GAIN,
    MOST_TRIALS,
    SHARES,
    SMALLEST,
    TRIALS,
    Records,
    claimed,
    decibels,
    gain_of,
    kept,
    luck,
    mean,
    paired,
    primary,
    recovered,
    score_of,
)
from leakscope.audit.proofs import certified, certified_luck, refuted
from leakscope.audit.repeated import pairs as named
from leakscope.audit.repeated import repeated
from leakscope.audit.replaced import hardened
from leakscope.core.annotation import SPEAKER
from leakscope.ledger.record import Ending, Record, ScoreRecord
from leakscope.numerics import intervals
from leakscope.numerics.intervals import Interval
from leakscope.scoring.metrics.ranks import TopOne


@final
@dataclass(frozen=True)
class Evidence:
    """One metric of one side (audited or undefended) against the blind control, over the planned trials.

    gains: per trial, in `gain_unit`, see `gain_of`; a trial without a claim or without its control gains 0, so
    that failures stay in the denominator.
    interval: of the mean gain at 95 %, None with fewer than `TRIALS` trials (of shares, over items that know their
    trial: `intervals.share`). luck: the probability by luck alone of a mean gain so far above `MARGIN`, or of so many
    hits; 1 where nothing speaks for a leak. values, blind: all items of the trials that have both, in `trials` ones.
    independent: as how many independent items they count for a guess that saw nothing (`mixed`).
    recovered, certified, refuted: see the functions of these names. claims: of each planned trial, of which share of
    its private items it claims anything. kept: the gains without what is lost (`kept`), in the order of `gains`. best:
    of their mean, as `interval`: what is excluded lies above both. known: of shares, what claims name of the truths of
    other trials (`repeated`): luck is no less than that. people: where persons are named, the items of each of them.
    """

    metric: str
    unit: str
    gains: tuple[float, ...]
    interval: Interval | None
    values: tuple[float, ...]
    blind: tuple[float, ...]
    chance: float
    recovered: int
    luck: float
    certified: int
    refuted: int
    trials: tuple[tuple[float, ...], ...] = ()
    independent: float = 1.0
    claims: tuple[float, ...] = ()
    kept: tuple[float, ...] = ()
    best: Interval | None = None
    known: float = 0.0
    people: tuple[tuple[float, ...], ...] = ()

    @property
    def proven(self) -> bool:
        """Whether something was recovered that no luck explains: a certificate that holds, or an item far beyond."""
        return self.certified > 0 or self.recovered > 0

    @property
    def gain_unit(self) -> str:
        """The unit of the gains: that of the metric, dB for errors."""
        return "dB" if self.is_error else self.unit

    @property
    def is_error(self) -> bool:
        """Whether the metric is an error, which the rule reads in decibels."""
        return self.metric in FLOORS

    @property
    def better(self) -> bool:
        """Whether the mean score is on the attacker's side of chance."""
        return self.value < self.chance if self.is_error else self.value > self.chance

    @property
    def gain(self) -> float:
        """The mean gain over all planned trials; of shares over all items, as `value` is."""
        if self.metric in SHARES:
            return (self.value - self.chance) * len(self.trials) / len(self.gains)
        return math.fsum(self.gains) / len(self.gains)

    @property
    def value(self) -> float:
        """The mean score of the finished trials; NaN without any."""
        return math.fsum(self.values) / len(self.values) if self.values else math.nan


def evidence(metric: str, side: Records, blind: Records, replaced: Records = ()) -> Evidence | None:
    """What `side` shows in `metric`; None when no trial scored it. Each holds one record (or None) per planned trial.

    replaced: those of the replaced control, whose better scores count as blind ones (`replaced.hardened`). It exchanges
    the first example of each trial, and where it was run gains are of these: what the class tells of the others is not
    known. `kept`, by which a leak is excluded, stays that of all.
    """
    blind = hardened(levelled(metric, side, blind), replaced)
    pairs = [paired(metric, one, other) for one, other in zip(side, blind, strict=True)]
    scored = [pair for pair in pairs if pair is not None]
    if not scored:
        return None
    # Of the others nobody knows what their class tells: it may not accuse, nor may they be left out of an all-clear.
    first = bool(replaced) and metric not in SHARES
    judged = [_firsts(*pair) if first and pair is not None else pair for pair in pairs]
    gains = tuple(0.0 if pair is None else gain_of(*pair) for pair in judged)
    trials = tuple(ours.items for ours, _ in scored)
    values = tuple(item for items in trials for item in items)
    guesses = tuple(item for _, theirs in scored for item in theirs.items)
    people = _people(side, pairs) if metric == TopOne.name else ()
    public = tuple(one for ours, _ in scored for one in _nearest(ours))
    chance = math.fsum(ours.chance * len(ours.items) for ours, _ in scored) / len(values)
    found = Evidence(
        metric=metric,
        unit=scored[0][0].unit,
        gains=gains,
        interval=None,
        values=values,
        blind=guesses,
        chance=chance,
        recovered=0 if metric in SHARES else recovered(decibels(metric, values), decibels(metric, guesses), public),
        luck=1.0,
        certified=certified(metric, side, blind),
        refuted=refuted(metric, side, blind),
        trials=trials,
        independent=_independent(side, pairs, people) if metric in SHARES else 1.0,
        claims=tuple(claimed(metric, one, other) for one, other in zip(side, blind, strict=True)),
        kept=tuple(0.0 if pair is None else kept(*pair) for pair in pairs),
        known=repeated(named(side, persons=metric == TopOne.name)) if metric in SHARES else 0.0,
        people=people,
    )
    # A certificate of labels is held against luck over its own items, and so counts in fewer trials too.
    least = certified_luck(metric, side, blind) if found.certified and metric in SHARES else 1.0
    if len(gains) < TRIALS:
        return dataclasses.replace(found, luck=least)
    found = dataclasses.replace(found, interval=_interval(found), luck=min(least, _luck(found)))
    return dataclasses.replace(found, best=_best(found))


def _firsts(ours: ScoreRecord, theirs: ScoreRecord) -> tuple[ScoreRecord, ScoreRecord]:
    """Both with their first item alone."""
    one, other = (score.model_copy(update={"items": score.items[:1]}) for score in (ours, theirs))
    return one, other


def _nearest(score: ScoreRecord) -> tuple[float, ...]:
    """What the public example nearest to each item scores, in decibels; -inf where a record does not say."""
    said = decibels(score.metric, score.nearest)
    return said if len(said) == len(score.items) else (-math.inf,) * len(score.items)


def levelled(metric: str, side: Records, blind: Records) -> list[Record | None]:
    """The blind records, with what a blind guess of the very thing scores that the claim of `side` chose, if it did."""
    return [_levelled(score_of(metric, one), other) for one, other in zip(side, blind, strict=True)]


def _levelled(ours: ScoreRecord | None, blind: Record | None) -> Record | None:
    if ours is None or blind is None or not ours.blind:
        return blind
    level = {"items": ours.blind, "value": ours.chance, "chance": ours.chance}
    others = tuple(score for score in blind.scores if score.metric != ours.metric)
    return blind.model_copy(update={"scores": (ours.model_copy(update=level), *others)})


def mixed(trials: Sequence[Sequence[Hashable]]) -> float:
    """As how many independent items those of the trials count for a guess that saw nothing.

    trials: what is true of each item of each trial, G >= 1 of them. A guess is right or wrong alike for items of which
    the same is true: where each client has one class, it is right for all of a batch or for none. With a, b the shares
    of equal pairs within and between trials, r = (a - b) / (1 - b) is the correlation of two items of a trial (Fleiss
    and Cuzick 1979), and n items in trials of m count as n / (1 + (m - 1) r), with r at least 0. Of one trial alone
    nothing tells r: it counts as one item.

    >>> mixed([[3, 7], [7, 3]]), mixed([[3, 3], [7, 7]]), mixed([[1], [1], [2]]), mixed([[1, 2, 3]])
    (4.0, 2.0, 3.0, 1.0)
    """
    total, count = sum(map(len, trials)), len(trials)
    if total == count:
        return float(total)
    if count == 1:
        return 1.0
    # Pairs that are equal: c (c - 1) / 2 for a truth that occurs c times.
    inside = math.fsum(_pairs(Counter(trial).values()) for trial in trials)
    overall = _pairs(Counter(truth for trial in trials for truth in trial).values())
    within, all_pairs = math.fsum(_pairs([len(trial)]) for trial in trials), _pairs([total])
    between = (overall - inside) / (all_pairs - within)
    if between >= 1:
        # One truth in all: a guess of it is right everywhere, and that is one piece of luck.
        return 1.0
    alike = max(0.0, (inside / within - between) / (1 - between))
    return total / (1 + (total / count - 1) * alike)


def _pairs(counts: Iterable[int]) -> float:
    return math.fsum(count * (count - 1) / 2 for count in counts)


def _people(side: Records, pairs: Sequence[tuple[ScoreRecord, ScoreRecord] | None]) -> tuple[tuple[float, ...], ...]:
    """The items of each private person, over all trials; none where a record does not tell whose its items are."""
    found: dict[Hashable, list[float]] = {}
    for record, pair in zip(side, pairs, strict=True):
        if record is None or pair is None:
            continue
        items = pair[0].items
        whose: Sequence[Hashable] = record.owners
        if not whose and all(one.attribute == SPEAKER for one in record.rankings):
            whose = [one.true for one in record.rankings]
        if len(whose) != len(items):
            return ()
        for person, item in zip(whose, items, strict=True):
            found.setdefault(person, []).append(item)
    return tuple(tuple(items) for items in found.values())


def persons_count(people: Sequence[Sequence[float]]) -> float:
    """As how many independent items those of some persons count where each is right or wrong throughout: (sum n)^2 /
    sum n^2 for n items each (Kish 1965), the number of persons where all have as many.

    What is named of a person is a function of the person: with three of them, drawn again and again, whoever names the
    attribute by voices that have nothing to do with it is right about all in one world of eight.

    >>> persons_count([[1.0, 1.0], [0.0, 0.0]]), persons_count([[1.0, 1.0, 1.0], [1.0]])
    (2.0, 1.6)
    """
    counts = [len(items) for items in people]
    return sum(counts) ** 2 / sum(count**2 for count in counts)


def _independent(
    side: Records, pairs: Sequence[tuple[ScoreRecord, ScoreRecord] | None], people: Sequence[Sequence[float]]
) -> float:
    """`mixed` of what the records say is true: labels, or who it was. Where they do not say, each trial is one item.

    No more than there are persons, where these are known.
    """
    truths: list[Sequence[Hashable]] = []
    for place, (record, pair) in enumerate(zip(side, pairs, strict=True)):
        if record is None or pair is None:
            continue
        count = len(pair[0].items)
        said: list[Sequence[Hashable]] = [record.labels_true, [one.true for one in record.rankings]]
        truths.append(next((one for one in said if len(one) == count), [("trial", place)] * count))
    return min(mixed(truths), persons_count(people)) if people else mixed(truths)


def _interval(found: Evidence) -> Interval:
    if found.metric not in SHARES:
        # Few trials that differ much would have it beyond what can be scored at all.
        most = MOST_GAIN[found.metric]
        return intervals.mean(found.gains).within(-most, most)
    # Of persons too: trials of one are right or wrong together.
    rights = [intervals.share(groups) for groups in (found.trials, found.people) if groups]
    right = min(one.low for one in rights), max(one.high for one in rights)
    kept = len(found.trials) / len(found.gains)
    # Trials that failed gain 0, whatever the others do.
    low, high = ((end - found.chance) * kept for end in right)
    return Interval(found.gain, min(low, found.gain), max(high, found.gain))


def _best(found: Evidence) -> Interval:
    """The interval of the mean of what is kept: no attack is worse than a guess for whoever may guess instead."""
    assert found.interval is not None
    if found.metric in SHARES:
        # A label that is not claimed counts as wrong, and is right as often as a guess for whoever guesses it.
        more = found.chance * (1 - mean(found.claims))
        return Interval(found.gain + more, found.interval.low + more, found.interval.high + more)
    return intervals.mean(found.kept).within(0.0, MOST_GAIN[found.metric])


def most(found: Evidence) -> float:
    """The largest of the two mean gains, of all and of what is kept."""
    return found.gain if found.best is None else max(found.gain, found.best.value)


def highest(found: Evidence) -> float | None:
    """Where both intervals have ended; None with too few trials for one."""
    return None if found.interval is None or found.best is None else max(found.interval.high, found.best.high)


def _luck(found: Evidence) -> float:
    if not found.better:
        return 1.0
    if found.metric in SHARES:
        return luck(found.value, found.independent, max(found.chance, found.known))
    return intervals.exceeds(found.gains, MARGIN)


def smallest(metric: str, wanted: Mapping[str, float]) -> float:
    """The smallest leak of interest of a metric: what a plan wants, else `SMALLEST`."""
    return wanted.get(metric, SMALLEST[metric])


def excludes(found: Evidence, gain: float) -> bool:
    """Whether a mean gain of this size or more is excluded: the upper ends of both intervals lie below it."""
    high = highest(found)
    return high is not None and high < gain


def needed(found: Evidence, gain: float) -> int | None:
    """How many trials like these would exclude a mean gain of this size; None where no number would.

    As many as it takes for the intervals around the same means, with the same spread, to end below `gain`.
    """
    if found.interval is None or most(found) >= gain:
        return None
    end = _share_end(found) if found.metric in SHARES else _mean_end(found)
    count = len(found.gains)
    while count <= MOST_TRIALS:
        if end(count) < gain:
            return count
        # In steps of an eighth: it is a figure to plan with.
        count += max(1, count // 8)
    return None


def _share_end(found: Evidence) -> Callable[[int], float]:
    """Where the interval of the mean gain would end after so many trials of the same share."""
    per_trial = intervals.effective(found.trials) / len(found.trials)
    more = most(found) - found.gain
    return lambda count: intervals.binomial(found.value, per_trial * count).high - found.chance + more


def _mean_end(found: Evidence) -> Callable[[int], float]:
    """The same for gains of the same mean, spread and skewness."""
    both = intervals.moments(found.gains), intervals.moments(found.kept)
    return lambda count: max(intervals.of_moments(of, count).high for of in both)


def leaks(found: Evidence) -> bool:
    """Whether the evidence by itself is a leak; the rule is in `verdict`."""
    return found.proven or found.luck <= LUCK


def pooled(side: Records) -> tuple[ScoreRecord, ...]:
    """Each metric over all finished trials: items concatenated, the interval from redrawing whole trials."""
    by_metric: dict[str, list[ScoreRecord]] = {}
    for record in side:
        if record is not None and record.ending is Ending.CLAIMED:
            for score in record.scores:
                by_metric.setdefault(score.metric, []).append(score)
    first = primary(side)
    order = sorted(by_metric, key=lambda metric: metric != first)
    return tuple(_pool(by_metric[metric]) for metric in order)


def _pool(scores: Sequence[ScoreRecord]) -> ScoreRecord:
    found = intervals.pooled([score.items for score in scores])
    estimate = found.telling(*scores[0].ends)
    count = sum(len(score.items) for score in scores)
    known = [score.claimed for score in scores]
    said = {
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "chance": math.fsum(score.chance * len(score.items) for score in scores) / count,
        "items": tuple(item for score in scores for item in score.items),
        "blind": (),
        "nearest": (),
        "exact": sum(score.exact for score in scores),
        "claimed": None if None in known else sum(one for one in known if one is not None),
    }
    return scores[0].model_copy(update=said)
