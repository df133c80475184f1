"""What a group of trials shows against its blind control, in numbers; `verdict` turns them into a word."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

from scipy import special

from leakscope.ledger.record import Ending, Record, ScoreRecord, Word
from leakscope.numerics import intervals
from leakscope.numerics.intervals import Interval
from leakscope.scoring.metrics.guesses import LabelAccuracy
from leakscope.scoring.metrics.ranks import TopOne
from leakscope.scoring.metrics.speech import CharacterErrorRate, FrameError
from leakscope.scoring.metrics.tokens import TokenError
from leakscope.scoring.metrics.vision import PSNR

TRIALS = 3
"""With fewer trials no interval is given: the spread of two numbers says nothing."""

MARGIN = 3.0
"""dB above the blind guess that count as a leak on average: half its squared error."""

SMALLEST = MappingProxyType(
    {
        PSNR.name: MARGIN,
        FrameError.name: MARGIN,
        TokenError.name: MARGIN,
        CharacterErrorRate.name: MARGIN,
        LabelAccuracy.name: 0.2,
        TopOne.name: 0.1,
    }
)
"""The smallest leak of interest of each metric that decides, unless a plan says otherwise: a gain over the blind guess,
in dB (of errors too), or as a share. A larger one must be excluded before anything is called *no leak found*."""

ITEM_GAIN, ITEM_BAR = 10.0, 6.0
"""A single input counts as recovered this many dB above its own and above the best blind guess (see `recovered`)."""

NOTHING = 1e-6
"""A gain below this is none: an attack that claims nothing scores what a blind guess scores, up to rounding."""

FLOORS = {FrameError.name: 1e-6, CharacterErrorRate.name: 1e-2, TokenError.name: 1e-2}
"""Metrics that are errors, and the error below which none is told from another: rounding, 1 % of characters or tokens.
The rule reads them in decibels, -20 log10(error), as it reads PSNR: 3 dB are half the squared error, or 71 % of it."""

DECIDING = (PSNR.name, FrameError.name, TokenError.name, LabelAccuracy.name, CharacterErrorRate.name, TopOne.name)
"""The metrics that verdicts are read from; the first of them that was scored decides."""

LUCK = 0.01
"""The largest accepted probability that luck alone looks as much like a leak, over all that is judged together."""

MOST_TRIALS = 100_000
"""Where more trials would be needed, it is not said how many."""

SHARES = {LabelAccuracy.name: "labels right", TopOne.name: "named right"}
"""Metrics that count hits, and what a hit is; they are read against the chance level, not in decibels."""

WORST_FIRST = (Word.LEAKS, Word.INCONCLUSIVE, Word.NO_LEAK_FOUND)

Records = Sequence[Record | None]


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
    recovered, certified, refuted: see the functions of these names.
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


def evidence(metric: str, side: Records, blind: Records) -> Evidence | None:
    """What `side` shows in `metric`; None when no trial scored it. Both hold one record (or None) per planned trial."""
    pairs = [_pair(metric, one, other) for one, other in zip(side, blind, strict=True)]
    scored = [pair for pair in pairs if pair is not None]
    if not scored:
        return None
    gains = tuple(0.0 if pair is None else gain_of(*pair) for pair in pairs)
    trials = tuple(ours.items for ours, _ in scored)
    values = tuple(item for items in trials for item in items)
    guesses = tuple(item for _, theirs in scored for item in theirs.items)
    chance = math.fsum(ours.chance * len(ours.items) for ours, _ in scored) / len(values)
    found = Evidence(
        metric=metric,
        unit=scored[0][0].unit,
        gains=gains,
        interval=None,
        values=values,
        blind=guesses,
        chance=chance,
        recovered=0 if metric in SHARES else recovered(decibels(metric, values), decibels(metric, guesses)),
        luck=1.0,
        certified=certified(metric, side, blind),
        refuted=refuted(metric, side, blind),
        trials=trials,
        independent=_independent(side, pairs) if metric in SHARES else 1.0,
    )
    # A certificate of labels is held against luck over its own items, and so counts in fewer trials too.
    least = _certified_luck(metric, side, blind) if found.certified and metric in SHARES else 1.0
    if len(gains) < TRIALS:
        return dataclasses.replace(found, luck=least)
    return dataclasses.replace(found, interval=_interval(found), luck=min(least, _luck(found)))


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


def _independent(side: Records, pairs: Sequence[tuple[ScoreRecord, ScoreRecord] | None]) -> float:
    """`mixed` of what the records say is true: labels, or who it was. Where they do not say, each trial is one item."""
    truths: list[Sequence[Hashable]] = []
    for place, (record, pair) in enumerate(zip(side, pairs, strict=True)):
        if record is None or pair is None:
            continue
        count = len(pair[0].items)
        said: list[Sequence[Hashable]] = [record.labels_true, [one.true for one in record.rankings]]
        truths.append(next((one for one in said if len(one) == count), [("trial", place)] * count))
    return mixed(truths)


def _interval(found: Evidence) -> Interval:
    if found.metric not in SHARES:
        return intervals.mean(found.gains)
    right, kept = intervals.share(found.trials), len(found.trials) / len(found.gains)
    # Trials that failed gain 0, whatever the others do.
    low, high = ((end - found.chance) * kept for end in (right.low, right.high))
    return Interval(found.gain, min(low, found.gain), max(high, found.gain))


def _luck(found: Evidence) -> float:
    if not found.better:
        return 1.0
    if found.metric in SHARES:
        return luck(found.value, found.independent, found.chance)
    return intervals.exceeds(found.gains, MARGIN)


def smallest(metric: str, wanted: Mapping[str, float]) -> float:
    """The smallest leak of interest of a metric: what a plan wants, else `SMALLEST`."""
    return wanted.get(metric, SMALLEST[metric])


def excludes(found: Evidence, gain: float) -> bool:
    """Whether a mean gain of this size or more is excluded: the upper end of the interval lies below it."""
    return found.interval is not None and found.interval.high < gain


def needed(found: Evidence, gain: float) -> int | None:
    """How many trials like these would exclude a mean gain of this size; None where no number would.

    As many as it takes for the interval around the same mean, with the same spread, to end below `gain`.
    """
    if found.interval is None or found.gain >= gain:
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
    return lambda count: intervals.binomial(found.value, per_trial * count).high - found.chance


def _mean_end(found: Evidence) -> Callable[[int], float]:
    """The same for gains of the same mean, spread and skewness."""
    of = intervals.moments(found.gains)
    return lambda count: intervals.of_moments(of, count).high


def gain_of(ours: ScoreRecord, theirs: ScoreRecord) -> float:
    """The mean score of a trial minus what a blind guess scores on the same secret.

    Inputs: minus the blind control's own score. Labels and persons: minus the chance level, the expected score of the
    best blind guess, as a single guess of few is lucky or not and says little. Errors are compared in `decibels`.
    """
    if ours.metric in SHARES:
        return _mean(ours.items) - ours.chance
    return _mean(decibels(ours.metric, ours.items)) - _mean(decibels(theirs.metric, theirs.items))


def decibels(metric: str, values: Sequence[float]) -> tuple[float, ...]:
    """-20 log10(max(value, floor)) for metrics that are errors, so that more is a leak as in PSNR; others as they are.

    >>> decibels("frame-error", [0.1, 0.0]), decibels("psnr", [12.0])
    ((20.0, 120.0), (12.0,))
    """
    if metric not in FLOORS:
        return tuple(values)
    return tuple(-20 * math.log10(max(value, FLOORS[metric])) for value in values)


def recovered(values: Sequence[float], blind: Sequence[float]) -> int:
    """How many inputs are recovered far beyond what blind guesses reach: one clear success must not drown in a mean.

    values[i], blind[i]: the PSNR, or the error in `decibels`, of claim and blind guess for the same private input.
    Counted is each i with values[i] > blind[i] + ITEM_GAIN and values[i] > max(blind) + ITEM_BAR.

    The false-positive rate is a property of the data. Measured with claims that saw nothing but are as lifelike as
    can be (a random public image for each private one), the share of groups in which anything is counted is at most
    0.4 % on digits and faces and 1.2 % on photographs, for 1 to 32 items (`tests/test_audit_verdict.py` repeats it).

    >>> recovered([40.0, 12.0], [13.0, 12.0])
    1
    """
    bar = max(blind) + ITEM_BAR
    return sum(value > guess + ITEM_GAIN and value > bar for value, guess in zip(values, blind, strict=True))


def luck(share: float, count: float, chance: float) -> float:
    """P(X >= share * count) for X binomial with `count` items and the chance level: how likely a guess is as good.

    share: of items that are right, in [0, 1]. count: of independent items, between two whole numbers perhaps
    (`intervals.effective`). chance: in [0, 1].

    >>> round(luck(1.0, 3, 0.1), 6), luck(0.0, 3, 0.1)
    (0.001, 1.0)
    """
    hits, level = share * count, min(max(chance, 0.0), 1.0)
    # Whole hits only where there are whole items: a tie counts for nothing then, as in the binomial tail.
    hits = math.floor(hits + NOTHING) if float(count).is_integer() else hits
    if hits <= NOTHING:
        return 1.0
    # The tail of the binomial as a beta integral, which knows what lies between whole numbers.
    return float(special.betainc(hits, count - hits + 1, level))


def certified(metric: str, side: Records, blind: Records) -> int:
    """In how many trials a certificate holds and the score confirms it; 0 where any certified claim is `refuted`.

    Confirmed: inputs more than `MARGIN` dB above the blind guess on average, or one of them exact; labels all right,
    where so many right ones over all certified trials together have a probability of at most `LUCK` by chance.
    """
    if refuted(metric, side, blind):
        return 0
    pairs = _certified_pairs(metric, side, blind)
    if metric not in SHARES:
        return sum(ours.exact > 0 or gain_of(ours, theirs) > MARGIN for _, ours, theirs in pairs)
    if _certified_luck(metric, side, blind) > LUCK:
        return 0
    return sum(all(item == ours.perfect for item in ours.items) for _, ours, _ in pairs)


def _certified_luck(metric: str, side: Records, blind: Records) -> float:
    """The probability of so many right labels by luck, over all trials with a certificate.

    Together and not trial by trial: of two classes one label is right by luck every other time.
    """
    scores = [ours for _, ours, _ in _certified_pairs(metric, side, blind)]
    items = [item for score in scores for item in score.items]
    if not items:
        return 1.0
    chance = math.fsum(score.chance * len(score.items) for score in scores) / len(items)
    return luck(_mean(items), len(items), chance)


def refuted(metric: str, side: Records, blind: Records) -> int:
    """In how many trials a certificate holds although the claim is wrong: a defect of the attack, not a leak.

    Wrong: fewer labels right than were proved (all, where the record does not say how many); of inputs, none that is
    more than `MARGIN` dB above its blind guess, and none exact. An attack may prove fewer items than the batch has.
    """
    count = 0
    for proved, ours, theirs in _certified_pairs(metric, side, blind):
        if metric in SHARES:
            count += math.fsum(ours.items) < min(proved, len(ours.items)) - NOTHING
        else:
            mine, guess = decibels(metric, ours.items), decibels(metric, theirs.items)
            count += ours.exact == 0 and not any(one > other + MARGIN for one, other in zip(mine, guess, strict=True))
    return count


def _certified_pairs(metric: str, side: Records, blind: Records) -> list[tuple[int, ScoreRecord, ScoreRecord]]:
    """Of each trial whose certificate holds: how many items it proves, the score, and the blind control's."""
    found = []
    for one, other in zip(side, blind, strict=True):
        pair = _pair(metric, one, other)
        if one is not None and pair is not None and one.certificate is not None and one.certificate.holds:
            # Records of versions that kept one residual for all items name none: all were said to be proved.
            found.append((len(one.certificate.residuals) or len(pair[0].items), *pair))
    return found


def leaks(found: Evidence) -> bool:
    """Whether the evidence by itself is a leak; the rule is in `verdict`."""
    return found.proven or found.luck <= LUCK


def score_of(metric: str, record: Record | None) -> ScoreRecord | None:
    """The score of a finished trial; None for a trial that is missing, claimed nothing or was not scored so."""
    if record is None or record.ending is not Ending.CLAIMED:
        return None
    return next((score for score in record.scores if score.metric == metric and score.items), None)


def primary(side: Records) -> str | None:
    """The metric that decides: PSNR where inputs were claimed, the frame error where sequences were, label accuracy,
    the character error rate or top-1 where labels, transcripts or persons were; None for none of these.
    """
    for metric in DECIDING:
        if any(score_of(metric, record) is not None for record in side):
            return metric
    return None


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
    estimate = found.up_to(scores[0].perfect, higher=scores[0].higher_is_better)
    count = sum(len(score.items) for score in scores)
    said = {
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "chance": math.fsum(score.chance * len(score.items) for score in scores) / count,
        "items": tuple(item for score in scores for item in score.items),
        "exact": sum(score.exact for score in scores),
    }
    return scores[0].model_copy(update=said)


def _pair(metric: str, one: Record | None, other: Record | None) -> tuple[ScoreRecord, ScoreRecord] | None:
    ours, theirs = score_of(metric, one), score_of(metric, other)
    if ours is None or theirs is None or len(ours.items) != len(theirs.items):
        return None
    return ours, theirs


def _mean(items: Sequence[float]) -> float:
    return math.fsum(items) / len(items)
