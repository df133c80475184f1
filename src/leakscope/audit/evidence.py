"""What a group of trials shows against its blind control, in numbers; `verdict` turns them into a word."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from scipy import special

from leakscope.ledger.record import Ending, Record, ScoreRecord
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
"""The largest accepted probability that as many labels, or persons, are guessed by chance."""

SHARES = {LabelAccuracy.name: "labels right", TopOne.name: "named right"}
"""Metrics that count hits, and what a hit is; they are read against the chance level, not in decibels."""

Records = Sequence[Record | None]


@final
@dataclass(frozen=True)
class Evidence:
    """One metric of one side (audited or undefended) against the blind control, over the planned trials.

    gains: per trial, in `gain_unit`, see `gain_of`; a trial without a claim or without its control gains 0, so
    that failures stay in the denominator.
    interval: of the mean gain at 95 %, None with fewer than `TRIALS` trials. values, blind: all items of the trials
    that have both. recovered, luck, certified, refuted: see the functions of these names.
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
        """The mean gain over all planned trials."""
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
    values = tuple(item for ours, _ in scored for item in ours.items)
    guesses = tuple(item for _, theirs in scored for item in theirs.items)
    chance = math.fsum(ours.chance * len(ours.items) for ours, _ in scored) / len(values)
    counts = metric in SHARES
    return Evidence(
        metric=metric,
        unit=scored[0][0].unit,
        gains=gains,
        interval=intervals.mean(gains, seed=0) if len(gains) >= TRIALS else None,
        values=values,
        blind=guesses,
        chance=chance,
        recovered=0 if counts else recovered(decibels(metric, values), decibels(metric, guesses)),
        luck=luck(values, chance) if counts else 1.0,
        certified=certified(metric, side, blind),
        refuted=refuted(metric, side, blind),
    )


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


def luck(values: Sequence[float], chance: float) -> float:
    """P(X >= hits) for X binomial with as many items and the chance level: how likely a guess has as many right.

    values: one 0 or 1 per private label or person, between them where scores tie; the sum is rounded down. chance: in
    [0, 1].

    >>> round(luck([1.0, 1.0, 1.0], 0.1), 6)
    0.001
    """
    hits = math.floor(math.fsum(values) + NOTHING)
    if hits == 0:
        return 1.0
    return float(special.bdtrc(hits - 1, len(values), min(max(chance, 0.0), 1.0)))


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
    items = [item for _, ours, _ in pairs for item in ours.items]
    if not items:
        return 0
    # Together and not trial by trial: of two classes one label is right by luck every other time.
    chance = math.fsum(ours.chance * len(ours.items) for _, ours, _ in pairs) / len(items)
    if luck(items, chance) > LUCK:
        return 0
    return sum(all(item == ours.perfect for item in ours.items) for _, ours, _ in pairs)


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
    """Whether the evidence is a leak; the rule is in `verdict`."""
    if found.certified > 0 or found.recovered > 0:
        return True
    if found.interval is None or not found.better:
        return False
    if found.metric in SHARES:
        return found.interval.low > 0 and found.luck <= LUCK
    return found.interval.low > MARGIN


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
    estimate = intervals.clustered_mean([score.items for score in scores], seed=0)
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
