"""The label string that has given CTC occupancies, read from left to right.

The first frames can only be in the first states, so they reveal the first labels, and every label that is known lets
the next ones show. What is not known yet enters the occupancies of earlier frames only through the weights of the
states at some horizon; up to there the sums over alignments are exact. So the labels ahead are fitted as
distributions, stretch after stretch (`relaxing`), the first of them become certain, and the horizon moves on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import numpy as np

from leakscope.attacks.transcripts.exact.alignment import (
    Array,
    Evidence,
    Passes,
    Spelling,
    at_end,
    at_start,
    followed,
    misfit,
    missed,
    spelled,
    through,
)
from leakscope.attacks.transcripts.exact.relaxing import Relaxed, Stretch, relaxed
from leakscope.attacks.transcripts.exact.repairing import (
    EXPLAINED,
    Labels,
    beamed,
    first_and_worst,
    neighbors,
    outright,
    repaired,
    worst,
)

Going = Callable[[float], bool]

PRESENT = 0.5
"""A label holds at least one frame altogether, so a class that holds less is not in the string."""
PEAKED = 0.5
"""Where one class holds more than this of a frame in the mean, the string is nearly legible outright."""
# Rounding of float32. Where a model gives absent classes next to nothing they show less, but the present ones have it.
LEAST_NOISE = 1e-7
UNCLEAR = 0.02
"""Standard deviation of occupancies from which on they are not read and prove nothing."""
MARGIN = 30.0
"""A proved string's misfit over what noise explains in the mean, at most; correlated noise stays well below."""
CLOSE = 1e-3
"""No wrong string comes so close: they miss 0.01 or more."""
NOISY = 4.0
"""The same where noise leaves more than that: it is white there, and known well."""
AHEAD = (5.0, 2.0, 1.0, 0.5, 0.25)
"""The horizon lies where this many labels beyond the known ones have passed in the mean; nearer if that fails."""
STUCK = 0.05
"""Misfit of a stretch above which the labels found do not explain it; right ones leave 0.005 at most."""
FARTHEST = 9
"""No more labels than these are taken from one stretch."""
# Of Gauss-Newton for one stretch; at the end twice as many, since all labels are wanted there and not just the first.
ROUNDS = 16
CLOSING = 6
"""This many frames before the end there is no horizon any more, but an end; the number of labels left is tried."""
TURNS = 6
"""How often a way that ends nowhere is left for another one."""
SPREAD = 5
"""By how much that number is tried to differ from what the blanks suggest."""


@final
@dataclass(frozen=True)
class Manner:
    """certain: distributions this sharp are taken for labels. equal: how probable two equal neighbors are beforehand.

    turned: from the last frame to the first. stubborn: goes on where the labels found explain nothing.
    """

    certain: float
    equal: float
    turned: bool = False
    stubborn: bool = False


MANNERS = (
    Manner(0.85, 0.05),
    Manner(0.95, 0.3),
    Manner(0.85, 0.05, turned=True),
    Manner(0.95, 0.3, turned=True, stubborn=True),
)
"""One after the other until a string is proved: quickly, as suits a language, then as suits anything."""


@final
@dataclass(frozen=True, eq=False)
class Reading:
    """labels: classes. misfit: as in `alignment.misfit`. swapped: the least misfit when two neighbors change places.

    tolerance: the largest misfit that proves the string.
    """

    labels: Labels
    misfit: float
    swapped: float
    tolerance: float

    @property
    def certain(self) -> bool:
        """Whether the string is proved."""
        return self.misfit <= self.tolerance

    @property
    def ratio(self) -> float:
        """Above 1 when it is not proved."""
        return self.misfit / self.tolerance if self.tolerance > 0 else np.inf


def occupancy_noise(evidence: Evidence) -> float:
    """Root mean square of the occupancies of classes that are not in the string; not less than was known before."""
    # Their true occupancy is zero in every frame, so what is seen of them is all noise.
    absent = evidence.seen[:, :-1].sum(0) <= PRESENT
    values = evidence.seen[:, :-1][:, absent]
    absent_noise = float(np.sqrt(np.mean(values**2))) if values.size else 0.0
    return max(LEAST_NOISE, evidence.noise, absent_noise)


def judged(labels: Labels, evidence: Evidence) -> Reading:
    """A string with what proves or disproves it.

    Its tolerance is `MARGIN` times the misfit that is explained by the noise of absent classes and by rounding of the
    client's loss (its gradient is as exact as the logarithm of a probability, -nll, in float32), at most a quarter of
    the misfit of its nearest neighbor among strings with two labels swapped. Beyond `CLOSE`, where an edit may be
    explained by so much noise, it is `NOISY` times what is explained, and at most half the misfit of any string that is
    one edit away. Noise that is not legible proves nothing.
    """
    passes = through(spelled(labels, evidence.letters.shape[1]), evidence)
    if not passes.possible:
        return Reading(labels, np.inf, np.inf, 0.0)
    shares, size, noise = passes.shares(evidence), evidence.seen.size, occupancy_noise(evidence)
    found = float(((shares - evidence.seen) ** 2).sum())
    # Not `>=`: NaN proves nothing.
    if not noise < UNCLEAR:
        return Reading(labels, found, np.inf, 0.0)
    # The product of the scales is p(z | x), up to the mass that ends in no end. gamma = exp(log alpha + log beta +
    # nll): rounding of a logarithm of size nll is a relative error eps nll of gamma, alike in all entries.
    rounded = float(np.finfo(np.float32).eps * np.log(passes.scale).sum())
    # E |shares - seen|^2 at the true string: noise in each of T C entries, rounding in proportion to the entry.
    explained = noise**2 * size + rounded**2 * float((shares**2).sum())
    # MARGIN is generous because rounding errors are correlated; CLOSE keeps it below every wrong string; beyond CLOSE
    # there is white noise, whose sum over T C entries stays near its mean.
    tolerance = max(min(MARGIN * explained, CLOSE), NOISY * explained)
    swapped = np.inf
    # The neighbors cost a pass each and can only lower the tolerance.
    if found <= tolerance:
        # Swapping equal labels changes nothing.
        pairs = [place for place in range(len(labels) - 1) if labels[place] != labels[place + 1]]
        swapped = min((misfit(_swapped(labels, place), evidence) for place in pairs), default=np.inf)
        if tolerance > CLOSE:
            # Only classes that are heard: an edit with another one gives it a frame or more, of which nothing is seen.
            wanted = {*labels, *np.flatnonzero(evidence.seen[:, :-1].sum(0) > PRESENT).tolist()}
            tolerance = min(tolerance, float(missed(neighbors(labels, sorted(wanted)), evidence).sum(1).min()) / 2)
    return Reading(labels, found, swapped, min(tolerance, swapped / 4))


def _swapped(labels: Labels, place: int) -> Labels:
    return (*labels[:place], labels[place + 1], labels[place], *labels[place + 2 :])


def read(evidence: Evidence, *, going: Going) -> Reading:
    """The string with the least misfit that is found; ends at once when it is proved.

    going: called with a share of the work in [0, 1], False ends it with the labels that are known so far.
    """
    # All work below is in proportion to the number of letters: only those that are in the string.
    classes = np.flatnonzero(evidence.seen[:, :-1].sum(0) > PRESENT)
    heard, best = evidence.only(classes), judged((), evidence)
    for found in _candidates(heard, occupancy_noise(evidence), going):
        reading = judged(tuple(int(classes[label]) for label in found), evidence)
        # The empty string is no start for the repairs below, however well it fits.
        if reading.misfit < best.misfit or not best.labels:
            best = reading
        if best.certain or not going(1.0):
            return best
    if not len(classes):
        return best
    places = {int(label): place for place, label in enumerate(classes)}
    start = tuple(places[label] for label in best.labels)
    # Nothing was proved: the best of the candidates is put right as far as single edits go, and then by a beam.
    mended = repaired(start, heard, going=lambda: going(1.0))
    if misfit(mended, heard) > EXPLAINED:
        mended = beamed(mended, heard, where=worst, going=lambda: going(1.0))
    return judged(tuple(int(classes[label]) for label in mended), evidence)


def _candidates(evidence: Evidence, noise: float, going: Going) -> Iterator[Labels]:
    """Strings over the letters of the evidence, by the quickest way first."""
    if not evidence.letters.shape[1] or not going(0.0):
        return
    if evidence.seen.max(1).mean() > PEAKED:
        legible = outright(evidence)
        mended = repaired(legible, evidence, going=lambda: going(0.0))
        yield mended
        for start, where in ((legible, first_and_worst), (mended, worst), (legible, worst)):
            yield beamed(start, evidence, where=where, going=lambda: going(0.0))
    for manner in MANNERS:
        if not going(0.0):
            return
        # CTC knows no direction: reversed frames have the occupancies of the reversed string. The end may be clearer.
        reader = _Reader(evidence.reversed() if manner.turned else evidence, noise, manner)
        yield from (found[::-1] if manner.turned else found for found in reader.readings(going))


@final
class _Reader:
    def __init__(self, evidence: Evidence, noise: float, manner: Manner) -> None:
        self.evidence, self.noise, self.manner = evidence, noise, manner
        mass = evidence.seen[:, :-1].sum(0)
        # Frames that a letter holds, over how much the model favors it: a favored letter holds more frames for each
        # time that it occurs. The floor keeps the quotient finite.
        usual = mass / np.maximum(evidence.letters.mean(0), 1e-12)
        self.usual: Array = usual / usual.sum()
        self.mass = float(mass.sum())
        # Two frames to a label, to begin with; `course` corrects it.
        self.left = max(1, round(self.mass / 2))

    def readings(self, going: Going) -> Iterator[Labels]:
        """Strings, the likeliest first; where a way ends nowhere, the last doubtful label is changed."""
        pending: list[Labels] = [()]
        for _ in range(TURNS):
            if not pending:
                return
            known = pending.pop()
            passes = self.course(known)
            # labels that need more frames than there are would be followed by more and more of them
            while passes.possible and not self.ending(passes, known):
                if not going(min(1.0, self.horizon(passes, len(known), AHEAD[0]) / len(self.evidence))):
                    yield known
                    return
                ways = self.following(passes, known)
                if not ways:
                    break
                # Reversed, so that the next to be popped is the second best way from the last doubtful label.
                pending += [(*known, *way) for way in ways[:0:-1]]
                known = (*known, *ways[0])
                passes = self.course(known)
            else:
                yield from self.endings(known, going)

    def following(self, passes: Passes, known: Labels) -> list[Labels]:
        """The labels that one stretch makes certain. Where it makes none, one with a nearer horizon may; where none
        does, the first labels that were found, the sharpest first. Empty where all labels found are contradicted."""
        first: dict[int, float] = {}
        for ahead in AHEAD:
            stretch = self.stretch(passes, known, self.horizon(passes, len(known), ahead), None)
            found = relaxed(stretch, noise=self.noise, rounds=ROUNDS, wanted=FARTHEST)
            # In the mean noise explains noise^2 times the size.
            if found.misfit < STUCK + 3 * self.noise**2 * stretch.evidence.seen.size or self.manner.stubborn:
                certain = self.certain(found)
                if certain:
                    return [certain]
                label = int(found.letters[0].argmax())
                # Not sharp: kept for the case that no horizon makes any label certain.
                first[label] = max(first.get(label, 0.0), float(found.letters[0, label]))
        return [(label,) for label in sorted(first, key=lambda one: -first[one])]

    def certain(self, found: Relaxed) -> Labels:
        """The first labels, up to one that is not sharp."""
        sharp = found.letters.max(1)[:FARTHEST] > self.manner.certain
        # The first False; the one that is added stands for none.
        count = int(np.r_[sharp, False].argmin())
        return tuple(int(label) for label in found.letters[:count].argmax(1))

    def usually(self, known: Labels, left: int) -> Spelling:
        """The known labels, followed by `left` usual ones."""
        open_ones = Spelling(np.tile(self.usual, (left, 1)), np.full(left, 1 - self.manner.equal))
        return followed(spelled(known, len(self.usual)), open_ones)

    def course(self, known: Labels) -> Passes:
        """The passes of what `usually` follows, for the number of labels with which letters hold what they were seen
        to hold; that number is kept in `left`."""
        best, off = self._tried(known, self.left)
        while True:
            # off < 0: letters hold too few frames, so there are more labels. Impossible is off = inf: there are fewer.
            following = self.left + (1 if off < 0 else -1)
            if following < 1:
                return best
            passes, new = self._tried(known, following)
            # One label at a time, to the first minimum of |held - seen|.
            if best.possible and not abs(new) < abs(off):
                return best
            best, off, self.left = passes, new, following

    def _tried(self, known: Labels, left: int) -> tuple[Passes, float]:
        passes = through(self.usually(known, left), self.evidence)
        held = float(passes.occupancies()[:, 1::2].sum()) if passes.possible else np.inf
        return passes, held - self.mass

    def horizon(self, passes: Passes, known: int, ahead: float) -> int:
        """How many frames until `ahead` labels beyond the known ones have passed in the mean."""
        held = passes.occupancies()
        # State 2 i + 1 is label i: half of it has passed. Alignments only go ahead, so the mean never falls.
        mean = held @ (np.arange(held.shape[1]) / 2)
        return max(2, int(np.searchsorted(mean, known + ahead)) + 1)

    def stretch(self, passes: Passes, known: Labels, horizon: int, left: int | None) -> Stretch:
        """The frames before `horizon` in which something open is heard; `left` labels to the end, or None before it."""
        held = passes.occupancies()
        # Masses that are far below what the fit can see.
        faint = 0.05 * self.noise
        beyond = held[:, 2 * len(known) + 1 :].sum(1)
        # The last frame before the first one with something open; two frames at least.
        first = min(horizon - 2, max(0, int((beyond < faint).argmin()) - 1)) if known else 0
        # Labels that have certainly passed: the first n states have no mass, and the stretch begins at the last blank
        # among them, 2 gone <= n - 1.
        gone = max(0, (int((np.cumsum(held[first - 1]) < 1e-3 * faint).sum()) - 1) // 2) if first else 0
        # As many open labels as may be reached by the horizon: the states with mass in or beyond them.
        tail = np.cumsum(held[horizon - 1][::-1])[::-1]
        count = left or min(self.left, max(2, -(-int((tail > 2 * faint).sum()) // 2) - len(known) + 1))
        near = spelled(known[gone:], len(self.usual), before=known[gone - 1] if gone else -1)
        states = 2 * (len(near) + count) + 1
        before, after = at_start(states), at_end(states)
        if first:
            before = np.zeros(states)
            # Exact up to what is faint: in front of the first frame only known states have mass.
            before[: 2 * len(near) + 1] = passes.ahead[first - 1, 2 * gone : 2 * len(known) + 1]
        if left is None:
            # A guess, that of usual labels beyond the horizon; `bends` lets the fit correct it.
            after = passes.behind[horizon - 1, 2 * gone :][:states]
            # Forward masses sum to 1, so with a floor alpha . after, by which `run` divides, is never zero.
            after = np.maximum(after / after.max(), 1e-250)
        bends = _bends(states) if left is None else np.zeros((states, 0))
        heard = self.evidence.between(first, horizon)
        return Stretch(heard, near, count, before, after, bends, self.usual, self.manner.equal)

    def ending(self, passes: Passes, known: Labels) -> bool:
        """Whether the horizon has reached the end."""
        return self.horizon(passes, len(known), AHEAD[0]) >= len(self.evidence) - CLOSING

    def endings(self, known: Labels, going: Going) -> Iterator[Labels]:
        """The whole string for each number of labels that may be left, the likeliest number first."""
        # No horizon and no guess any more: the weights at the end are exact, but the number of labels has to be right.
        around = range(max(1, self.left - SPREAD), self.left + SPREAD + 1)
        for left in sorted(around, key=lambda one: abs(one - self.left)):
            if not going(1.0):
                yield known
                return
            passes = through(self.usually(known, left), self.evidence)
            if passes.possible:
                stretch = self.stretch(passes, known, len(self.evidence), left)
                found = relaxed(stretch, noise=self.noise, rounds=2 * ROUNDS, wanted=left)
                yield (*known, *(int(label) for label in found.letters.argmax(1)))


def _bends(states: int) -> Array:
    """Smooth functions of the position, for all states and for labels apart from blanks (S, M)."""
    place = np.arange(states) / 2
    # Bumps 2 labels apart with a deviation of 2.5: their sums are smooth, and the ends lie under as many as the middle.
    centers = np.arange(-3.0, states / 2 + 4, 2.0)
    bumps = np.exp(-0.5 * ((place[:, None] - centers) / 2.5) ** 2)
    # Coefficients have variance 1, so 0.7 and 0.3 say how far the logarithm of a weight is expected to be off by one
    # bump: for all states, and for labels (odd) against blanks.
    return np.hstack([0.7 * bumps, 0.3 * bumps * (np.arange(states) % 2)[:, None]])
