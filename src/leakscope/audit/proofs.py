"""What certificates are worth once the secret is known: confirmed by what was scored, or a defect of the attack."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from leakscope.audit.measures import FLOORS, LUCK, MARGIN, NOTHING, SHARES, Records, decibels, luck, mean, paired
from leakscope.core.attempt import Certificate
from leakscope.ledger.record import CertificateRecord, Record, ScoreRecord
from leakscope.scoring.metrics.features import FeatureError
from leakscope.scoring.metrics.speech import FrameError
from leakscope.scoring.proved import FEATURES, FRAMES, least_psnr
from leakscope.scoring.score import Score


@final
@dataclass(frozen=True)
class Proof:
    """A certificate beside the secret. proved: of each claimed item whether it is. holds: whether all are.

    right: of each claimed item whether it is a private one (`AbstractKind.right`); empty where nobody compared them.
    tolerance: the largest of its tolerances.
    """

    proved: tuple[bool, ...]
    right: tuple[bool, ...]
    holds: bool
    tolerance: float

    @staticmethod
    def of(given: Certificate | CertificateRecord, right: tuple[bool, ...] = ()) -> Proof:
        """A certificate of an attempt with what the referee says of its items, or that of a record, which knows it."""
        if isinstance(given, Certificate):
            return Proof(given.proved, right, given.holds, max(given.tolerances, default=given.tolerance))
        pairs = zip(given.residuals, given.tolerances, strict=True)
        proved = tuple(residual <= tolerance for residual, tolerance in pairs)
        return Proof(proved, given.right, given.holds, max(given.tolerances, default=given.tolerance))


def wrong(proof: Proof, score: Score | ScoreRecord) -> bool:
    """Whether something is proved that is not so: a defect of the attack, whatever else of the claim is right.

    A proved item has to be a private one, to within what its tolerance allows (`scoring.proved`); it may be any of
    them, so that an input which occurs twice and is claimed once, or the other way around, is no defect. An attack may
    prove fewer items than the batch has. Of labels, also of those that are claimed along with inputs, as many have to
    be right as are proved.
    """
    if any(proved and not right for proved, right in zip(proof.proved, proof.right, strict=False)):
        return True
    if score.metric in SHARES:
        count = sum(proof.proved) if proof.proved else len(score.items) * proof.holds
        return math.fsum(score.items) < min(count, len(score.items)) - NOTHING
    if proof.right:
        return False
    # Nobody compared item by item, so they are counted: more were proved than are there. Records of versions with one
    # residual for all items do not say how many there are, but for the private ones of which something was claimed.
    least = sum(proof.proved) if proof.proved else (score.claimed or 1) * proof.holds
    return sum(_near(proof, score)) < least


def confirmed(proof: Proof, score: Score | ScoreRecord, blind: Sequence[float]) -> bool:
    """Whether a private item is as near as a proved one must be, and `MARGIN` above the blind guess; not of shares."""
    ours, theirs = decibels(score.metric, score.items), decibels(score.metric, blind)
    found = zip(_near(proof, score), ours, theirs, strict=True)
    return any(near and one > other + MARGIN for near, one, other in found)


def _near(proof: Proof, score: Score | ScoreRecord) -> tuple[bool, ...]:
    """Of each private item whether what was claimed of it is as near as it must be where it is proved."""
    if score.metric not in FLOORS:
        least = least_psnr(proof.tolerance)
        return tuple(item >= least for item in score.items)
    # Of characters and tokens nothing is nearly right.
    most = {FrameError.name: FRAMES, FeatureError.name: FEATURES}.get(score.metric, NOTHING)
    return tuple(item <= most for item in score.items)


def certified(metric: str, side: Records, blind: Records) -> int:
    """In how many trials a certificate holds and the score confirms it; 0 where any certified claim is `refuted`.

    Confirmed: an input (a text, an utterance) that is as near as a proved one must be, and more than `MARGIN` dB above
    its blind guess; labels all right, where so many right ones over all certified trials together have a
    probability of at most `LUCK` by chance.
    """
    if refuted(metric, side, blind):
        return 0
    holding = _holding(metric, side, blind)
    if metric not in SHARES:
        return sum(confirmed(proof, ours, theirs.items) for proof, ours, theirs in holding)
    if certified_luck(metric, side, blind) > LUCK:
        return 0
    return sum(all(item == ours.perfect for item in ours.items) for _, ours, _ in holding)


def certified_luck(metric: str, side: Records, blind: Records) -> float:
    """The probability of so many right labels by luck, over all trials with a certificate.

    Together and not trial by trial: of two classes one label is right by luck every other time. And labels of one name
    in a batch are one piece of luck: of a client that has one class whoever guesses it is right of all examples.
    """
    certain = [(one, pair[1]) for one, pair in _proofs_of(metric, side, blind) if pair[0].holds]
    items = [item for _, score in certain for item in score.items]
    if not items:
        return 1.0
    count = math.fsum(_names(one, len(score.items)) for one, score in certain)
    chance = math.fsum(score.chance * len(score.items) for _, score in certain) / len(items)
    return luck(mean(items), count, chance)


def _names(record: Record, items: int) -> int:
    """How many different labels are in the batch of a trial; of a record that does not say, as many as items."""
    return len(set(record.labels_true)) if len(record.labels_true) == items else items


def refuted(metric: str, side: Records, blind: Records) -> int:
    """In how many trials something is proved that is wrong (`wrong`): a defect of the attack, not a leak.

    Also of certificates that do not hold for all items: what they prove of single ones has to be true too.
    """
    return sum(wrong(proof, ours) for proof, ours, _ in _proofs(metric, side, blind))


def _holding(metric: str, side: Records, blind: Records) -> list[tuple[Proof, ScoreRecord, ScoreRecord]]:
    return [one for one in _proofs(metric, side, blind) if one[0].holds]


def _proofs(metric: str, side: Records, blind: Records) -> list[tuple[Proof, ScoreRecord, ScoreRecord]]:
    return [proof for _, proof in _proofs_of(metric, side, blind)]


def _proofs_of(
    metric: str, side: Records, blind: Records
) -> list[tuple[Record, tuple[Proof, ScoreRecord, ScoreRecord]]]:
    """Of each trial with a certificate: its record; what it proves, the score, and the blind control's."""
    found = []
    for one, other in zip(side, blind, strict=True):
        pair = paired(metric, one, other)
        if one is not None and pair is not None and one.certificate is not None:
            found.append((one, (Proof.of(one.certificate), *pair)))
    return found
