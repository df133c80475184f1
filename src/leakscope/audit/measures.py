"""What verdicts measure with: thresholds, and one trial's score against its blind control; `evidence` joins them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import MappingProxyType

from scipy import special

from leakscope.ledger.record import Ending, Record, ScoreRecord, Word
from leakscope.scoring.metrics.features import FeatureError
from leakscope.scoring.metrics.guesses import LabelAccuracy
from leakscope.scoring.metrics.pieces import PieceError
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
        FeatureError.name: MARGIN,
        CharacterErrorRate.name: MARGIN,
        PieceError.name: MARGIN,
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

FLOORS = {
    FrameError.name: 1e-6,
    FeatureError.name: 1e-6,
    CharacterErrorRate.name: 1e-2,
    TokenError.name: 1e-2,
    PieceError.name: 1e-2,
}
"""Metrics that are errors, and the error below which none is told from another: rounding, 1 % of characters or tokens.
The rule reads them in decibels, -20 log10(error), as it reads PSNR: 3 dB are half the squared error, or 71 % of it."""

DECIDING = (
    PSNR.name, FrameError.name, TokenError.name, FeatureError.name, LabelAccuracy.name, CharacterErrorRate.name,
    PieceError.name, TopOne.name,
)  # fmt: skip
"""The metrics that verdicts are read from; the first of them that was scored decides."""

KINDS = {
    LabelAccuracy.name: "labels",
    CharacterErrorRate.name: "transcripts",
    PieceError.name: "pieces",
    TopOne.name: "persons",
    FeatureError.name: "features",
}
"""What is claimed where this metric decides; inputs for all others. What a deep layer was fed is no input: that nobody
finds it says nothing of the pictures that the first layer was fed."""

LUCK = 0.01
"""The largest accepted probability that luck alone looks as much like a leak, over all that is judged together."""

HEARD = 0.5
"""Of more than this share of the private items something must be claimed before a group clears anything: what is not
claimed scores as a blind guess, and so excludes nothing."""

MOST_GAIN = MappingProxyType(
    {
        PSNR.name: 120.0,
        TokenError.name: 40.0,
        FrameError.name: 140.0,
        FeatureError.name: 140.0,
        CharacterErrorRate.name: 60.0,
        PieceError.name: 40.0,
    }
)
"""dB beyond which no mean gain lies, either way: from the blind guess, which is no worse than 0 dB (of frames and of
characters, whose errors may exceed 1, than -20 dB), to the score of the truth."""

MOST_TRIALS = 100_000
"""Where more trials would be needed, it is not said how many."""

SHARES = {LabelAccuracy.name: "labels right", TopOne.name: "named right"}
"""Metrics that count hits, and what a hit is; they are read against the chance level, not in decibels."""

WORST_FIRST = (Word.LEAKS, Word.INCONCLUSIVE, Word.NO_LEAK_FOUND)

Records = Sequence[Record | None]


def score_of(metric: str, record: Record | None) -> ScoreRecord | None:
    """The score of a finished trial; None for a trial that is missing, claimed nothing or was not scored so."""
    if record is None or record.ending is not Ending.CLAIMED:
        return None
    return next((score for score in record.scores if score.metric == metric and score.items), None)


def primary(side: Records) -> str | None:
    """The metric that decides: PSNR where inputs were claimed, the frame error where sequences were, label accuracy,
    the character error rate, the piece error or top-1 where labels, transcripts, pieces or persons were; else None.
    """
    for metric in DECIDING:
        if any(score_of(metric, record) is not None for record in side):
            return metric
    return None


def paired(metric: str, one: Record | None, other: Record | None) -> tuple[ScoreRecord, ScoreRecord] | None:
    """The scores of a trial and of its blind control, where both have one for each of the same items."""
    ours, theirs = score_of(metric, one), score_of(metric, other)
    if ours is None or theirs is None or len(ours.items) != len(theirs.items):
        return None
    return ours, theirs


def gain_of(ours: ScoreRecord, theirs: ScoreRecord) -> float:
    """The mean score of a trial minus what a blind guess scores on the same secret.

    Inputs: minus the blind control's own score. Labels and persons: minus the chance level, the expected score of the
    best blind guess, as a single guess of few is lucky or not and says little. Errors are compared in `decibels`.
    """
    if ours.metric in SHARES:
        return mean(ours.items) - ours.chance
    return mean(decibels(ours.metric, ours.items)) - mean(decibels(theirs.metric, theirs.items))


def kept(ours: ScoreRecord, theirs: ScoreRecord) -> float:
    """The gain of a trial whose items are never worse than a blind guess: mean of max(0, gain of the item); of shares
    the gain itself, since a single label is right or wrong by luck.

    A mean hides what is found of some clients behind what an attack loses of the others: 9 dB in every other picture
    and as much lost in the rest are a leak, and a mean gain of nothing.
    """
    if ours.metric in SHARES:
        return gain_of(ours, theirs)
    pairs = zip(decibels(ours.metric, ours.items), decibels(theirs.metric, theirs.items), strict=True)
    return mean([max(0.0, mine - guess) for mine, guess in pairs])


def decibels(metric: str, values: Sequence[float]) -> tuple[float, ...]:
    """-20 log10(max(value, floor)) for metrics that are errors, so that more is a leak as in PSNR; others as they are.

    >>> decibels("frame-error", [0.1, 0.0]), decibels("psnr", [12.0])
    ((20.0, 120.0), (12.0,))
    """
    if metric not in FLOORS:
        return tuple(values)
    return tuple(-20 * math.log10(max(value, FLOORS[metric])) for value in values)


def recovered(values: Sequence[float], blind: Sequence[float], nearest: Sequence[float] = ()) -> int:
    """How many inputs are recovered far beyond what blind guesses reach: one clear success must not drown in a mean.

    values[i], blind[i]: the PSNR, or the error in `decibels`, of claim and blind guess for the same private input.
    nearest[i]: that of the public example nearest to it, empty or -inf where it is not known.
    Counted is each i with values[i] > blind[i] + ITEM_GAIN, values[i] > max(blind) + ITEM_BAR and values[i] >
    nearest[i] + MARGIN.

    Whoever claims a public example, however it was picked, is never counted, nor what lies between those of one kind:
    where x = c + noise the center c is 3 dB nearer to a private x than another x is on average. Without `nearest` the
    false-positive rate is a property of the data: of a random public image for each private one the share of groups in
    which anything is counted is at most 0.4 % on digits and faces and 1.2 % on photographs, for 1 to 32 items
    (`tests/test_audit_verdict.py` repeats it), and two in three where data have two modes.

    >>> recovered([40.0, 12.0], [13.0, 12.0]), recovered([40.0, 12.0], [13.0, 12.0], [38.0, 12.0])
    (1, 0)
    """
    bar = max(blind) + ITEM_BAR
    known = nearest or (-math.inf,) * len(values)
    return sum(
        value > guess + ITEM_GAIN and value > bar and value > other + MARGIN
        for value, guess, other in zip(values, blind, known, strict=True)
    )


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


def claimed(metric: str, one: Record | None, other: Record | None) -> float:
    """Of which share of a trial's private items anything was claimed; 0 where no claim was scored in this metric.

    Earlier records do not say: there a trial whose every item scores what the blind control does counts as silent.
    """
    ours = score_of(metric, one)
    if ours is None:
        return 0.0
    if ours.claimed is not None:
        return ours.claimed / len(ours.items)
    pair = paired(metric, one, other)
    if metric in SHARES or pair is None:
        return 1.0
    return float(any(abs(mine - guess) > NOTHING for mine, guess in zip(ours.items, pair[1].items, strict=True)))


def mean(items: Sequence[float]) -> float:
    """The mean of one or more, rounded once."""
    return math.fsum(items) / len(items)


def kind(metric: str) -> str:
    """What is claimed where this metric decides.

    >>> kind("psnr"), kind("label-accuracy")
    ('inputs', 'labels')
    """
    return KINDS.get(metric, "inputs")
