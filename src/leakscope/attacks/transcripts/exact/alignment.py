"""The sequence of CTC states blank, l1, blank, l2, ..., blank, for strings that may still be soft.

A soft string has a distribution over letters at each position; a state emits the mean probability of its letters. At a
string proper this is the forward-backward recursion of Graves et al. 2006 (doi:10.1145/1143844.1143891), section 4.
All masses are normalized at every frame, which a posterior does not notice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

TINY = 1e-200
"""Masses below are zero: no occupancy is known so well, and subnormal numbers are slow."""


@final
@dataclass(frozen=True, eq=False)
class Evidence:
    """letters: (T, K) the model's probabilities of the letters, blank: (T,) its probability of the blank.

    seen: (T, K + 1), the occupancies that the gradient revealed, how much of frame t each letter holds, the blank last.
    The letters need not be all of them: then `letters` and `blank` do not sum to 1. noise: the standard deviation of
    what was seen, as far as it is known.
    """

    letters: Array
    blank: Array
    seen: Array
    noise: float = 0.0

    def __len__(self) -> int:
        return len(self.blank)

    def reversed(self) -> Evidence:
        """The same, last frame first: the evidence of the reversed string."""
        return Evidence(self.letters[::-1], self.blank[::-1], self.seen[::-1], self.noise)

    def only(self, classes: Indices) -> Evidence:
        """Some letters alone."""
        return Evidence(self.letters[:, classes], self.blank, self.seen[:, [*classes, -1]], self.noise)

    def between(self, first: int, last: int) -> Evidence:
        """Frames `first` to `last - 1`."""
        return Evidence(self.letters[first:last], self.blank[first:last], self.seen[first:last], self.noise)


@final
@dataclass(frozen=True, eq=False)
class Spelling:
    """letters: (L, K) the distribution at each position. skips: (L,) 1 where a label may follow the one before it
    without a blank (they differ), 0 where it may not."""

    letters: Array
    skips: Array

    def __len__(self) -> int:
        return len(self.letters)

    @property
    def states(self) -> int:
        """2 L + 1."""
        return 2 * len(self.letters) + 1


def spelled(string: Sequence[int], count: int, *, before: int = -1) -> Spelling:
    """A string proper over `count` letters; `before` is the label before its first."""
    labels = np.array(string, dtype=np.int64)
    # Equal neighbors exclude the skip: the blank between them is what tells them from one long label.
    return Spelling(np.eye(count)[labels], (labels != np.r_[before, labels[:-1]]).astype(np.float64))


def followed(head: Spelling, tail: Spelling) -> Spelling:
    """One after the other."""
    return Spelling(np.vstack([head.letters, tail.letters]), np.r_[head.skips, tail.skips])


def enter(mass: Array, skips: Array) -> Array:
    """Where the mass (..., S) goes in one step: it stays, moves on by one state, or over a blank."""
    moved = mass.copy()
    moved[..., 1:] += mass[..., :-1]
    # From label i - 1, state 2 i - 1, to label i, state 2 i + 1. skips[0] is never read: what precedes the first label
    # is the first blank alone.
    moved[..., 3::2] += mass[..., 1:-2:2] * skips[..., 1:]
    return moved


def leave(mass: Array, skips: Array) -> Array:
    """The transpose of `enter`: what a state can reach in one step."""
    reached = mass.copy()
    reached[..., :-1] += mass[..., 1:]
    reached[..., 1:-2:2] += mass[..., 3::2] * skips[..., 1:]
    return reached


def at_start(states: int) -> Array:
    """The mass before the first frame: all in the first blank."""
    # One step of `enter` then gives alpha_1 of section 4.1: the first blank or the first label.
    return np.asarray(np.eye(1, states)[0])


def at_end(states: int) -> Array:
    """The weights of the states after the last frame: the last label or the blank behind it."""
    # Without labels the only state is both: the comparison is with -1 then.
    return (np.arange(states) >= states - 2).astype(np.float64)


@final
@dataclass(frozen=True, eq=False)
class Passes:
    """The two recursions over frames and states (T, S).

    emitted: the probability of each state's letter. ahead: forward mass, rows sum to 1. behind: backward mass without
    the frame's own emission, scaled so that `occupancies` sum to 1. scale: (T,) what the forward masses were divided
    by. before: (S,) the mass before the first frame.
    """

    spelling: Spelling
    emitted: Array
    ahead: Array
    behind: Array
    scale: Array
    before: Array

    @property
    def possible(self) -> bool:
        """Whether the frames suffice for the string at all."""
        # No mass at an end that has weight: `run` divided by zero, and every entry is infinite or NaN.
        return bool(np.isfinite(self.behind[0, 0]))

    def occupancies(self) -> Array:
        """How much of each frame each state holds (T, S)."""
        return self.ahead * self.behind

    def shares(self, evidence: Evidence) -> Array:
        """How much of each frame each letter and, last, the blank holds (T, K + 1)."""
        held = self.occupancies()
        # Of what label i holds of frame t, letter k has v_ik y_tk / e_ti, with the emission e_ti = sum_k v_ik y_tk.
        letters = (held[:, 1::2] / self.emitted[:, 1::2]) @ self.spelling.letters * evidence.letters
        return np.hstack([letters, held[:, ::2].sum(1, keepdims=True)])


def run(spelling: Spelling, evidence: Evidence, *, before: Array, after: Array) -> Passes:
    """Both recursions, from the masses `before` the first frame and the weights `after` the last, (S,) each."""
    frames, skips = len(evidence), spelling.skips
    emitted = np.empty((frames, spelling.states))
    emitted[:, 0::2] = evidence.blank[:, None]
    # Above zero, because `shares` and `jacobian` divide by it.
    emitted[:, 1::2] = np.maximum(evidence.letters @ spelling.letters.T, TINY)
    ahead, behind, scale = np.empty_like(emitted), np.empty_like(emitted), np.empty(frames)
    # alpha_t = (enter alpha_t-1) e_t, divided by its sum: unscaled it underflows after a few hundred frames.
    mass = before
    for t in range(frames):
        mass = enter(mass, skips) * emitted[t]
        scale[t] = max(mass.sum(), TINY)
        mass = _clean(mass / scale[t])
        ahead[t] = mass
    behind[-1] = after
    # beta_t-1 = leave(beta_t e_t), divided by what alpha_t was divided by. Since leave is the transpose of enter,
    # alpha_t . beta_t is then the same number for all t, and one division normalizes every frame.
    for t in range(frames - 1, 0, -1):
        behind[t - 1] = _clean(leave(behind[t] * emitted[t], skips) / scale[t])
    # Zero where no alignment fits: the infinities are the answer, which `possible` reads.
    with np.errstate(divide="ignore", invalid="ignore"):
        behind /= ahead[-1] @ behind[-1]
    return Passes(spelling, emitted, ahead, behind, scale, before)


def _clean(mass: Array) -> Array:
    mass[mass < TINY] = 0.0
    return mass


def through(spelling: Spelling, evidence: Evidence) -> Passes:
    """The recursions over a whole utterance."""
    return run(spelling, evidence, before=at_start(spelling.states), after=at_end(spelling.states))


def misfit(string: Sequence[int], evidence: Evidence) -> float:
    """sum over frames and classes of (occupancy of the string - seen occupancy)^2, in [0, inf).

    The noise of the evidence for the true string, 0.01 to 10 for another one; infinite for one that needs more frames.
    """
    passes = through(spelled(string, evidence.letters.shape[1]), evidence)
    if not passes.possible:
        return float("inf")
    return float(((passes.shares(evidence) - evidence.seen) ** 2).sum())


# In float64 160 MB for `emitted`, and as much again for `ahead`.
MEMORY = 2 * 10**7
"""Numbers that the passes of many strings may hold together."""


def missed(strings: Sequence[tuple[int, ...]], evidence: Evidence) -> Array:
    """For each string and frame (N, T): the sum over classes of (occupancy - seen occupancy)^2.

    Their sums over the frames are the `misfit` of each string, by one pass for many strings.
    """
    states = 2 * max((1, *(len(one) for one in strings))) + 1
    # By the longest string: shorter ones are padded to it.
    step = max(1, MEMORY // (len(evidence) * states))
    parts = [_missed(strings[first : first + step], evidence) for first in range(0, len(strings), step)]
    return np.concatenate([np.zeros((0, len(evidence))), *parts])


def _missed(strings: Sequence[tuple[int, ...]], evidence: Evidence) -> Array:
    lengths = np.array([len(one) for one in strings])
    labels = np.zeros((len(strings), max(1, lengths.max())), dtype=np.int64)
    real = np.arange(labels.shape[1]) < lengths[:, None]
    labels[real] = [label for one in strings for label in one]
    # Skips into padding may be anything: nothing is emitted there.
    skips = np.ones(labels.shape)
    skips[:, 1:] = labels[:, 1:] != labels[:, :-1]
    letters = np.eye(evidence.letters.shape[1])[labels] * real[..., None]
    place = np.arange(2 * labels.shape[1] + 1)
    # A string of L labels has the states 0..2 L and ends in 2 L - 1 or 2 L, both 1/2 away from 2 L - 1/2.
    inside, end = place <= 2 * lengths[:, None], np.abs(place - 2 * lengths[:, None] + 0.5) < 1
    emitted = np.empty((len(evidence), *inside.shape))
    emitted[:, :, ::2] = evidence.blank[:, None, None]
    emitted[:, :, 1::2] = np.maximum(evidence.letters[:, labels], TINY)
    emitted *= inside  # what is beyond the end of a string takes nothing
    ahead, scale = np.empty_like(emitted), np.empty((*emitted.shape[:2], 1))
    mass = np.tile(at_start(len(place)), (len(strings), 1))
    for t in range(len(evidence)):
        mass = enter(mass, skips) * emitted[t]
        scale[t] = np.maximum(mass.sum(1, keepdims=True), TINY)
        mass = _clean(mass / scale[t])
        ahead[t] = mass
    # As in `run`, alpha_t . beta_t is the same for all t, so the weights at the end are divided by it beforehand. For
    # an impossible string it is 0: 1 instead, so that nothing is NaN, and infinity at the end.
    total = (mass * end).sum(1, keepdims=True)
    behind = end / np.where(total > 0, total, 1.0)
    found = np.empty((len(strings), len(evidence)))
    # Backward masses are needed at one frame only, so they are not kept.
    for t in range(len(evidence) - 1, -1, -1):
        held = ahead[t] * behind
        # Letters are one-hot here: v_ik y_tk / e_ti = v_ik, and the division of `Passes.shares` cancels.
        shares = np.hstack([(held[:, None, 1::2] @ letters)[:, 0], held[:, ::2].sum(1, keepdims=True)])
        found[:, t] = ((shares - evidence.seen[t]) ** 2).sum(1)
        behind = _clean(leave(behind * emitted[t], skips) / scale[t])
    return np.where(total > 0, found, np.inf)


def jacobian(passes: Passes, evidence: Evidence, first: int, after: Array, rough: float) -> Array:
    """The derivative of `shares` (flattened, T (K + 1)) to what is open from position `first` on, one column each:

    letters[first:] (row by row), skips[first:], and coefficients u of the weights after the last frame, which are
    w exp(after @ u); after: (S, M). Letters act on the occupancies only through their profile over the frames,
    probabilities (T, K), which are taken in as few patterns as leave a share `rough` of their norm.
    """
    # shares_tk = sum_i gamma_t(i) v_ik y_tk / e_ti depends on v_jl in three ways: gamma, through the emissions e_tj of
    # all frames, the factor v_jk itself, and 1 / e_tj. d e_tj / d v_jl = y_tl, a combination of a few patterns over the
    # frames: one pass for each pattern instead of one for each letter.
    patterns, mixture = _patterns(evidence.letters, rough)
    spelling, held = passes.spelling, passes.occupancies()
    places = np.arange(first, len(spelling))
    moved = _moved(passes, places, patterns, after)
    frames, count = evidence.letters.shape
    # First way: d gamma, with v y / e held.
    per_label = moved[:, :, 1::2] / passes.emitted[:, None, 1::2]
    letters = (per_label @ spelling.letters) * evidence.letters[:, None]
    changes = np.concatenate([letters, moved[:, :, ::2].sum(2)[:, :, None]], 2).transpose(0, 2, 1)
    split = len(places) * patterns.shape[1]
    # From patterns back to letters: (T, K + 1, positions, R) by (R, K).
    mixed = changes[:, :, :split].reshape(frames, count + 1, len(places), -1) @ mixture
    # The other two: gamma_t(j) (delta_kl y_tk / e_tj - v_jk y_tk y_tl / e_tj^2), minus since a larger v_jl also raises
    # e_tj. In frame t and label j alone; the blank, last, has no such factor.
    share = held[:, 2 * places + 1] / passes.emitted[:, 2 * places + 1]
    weight = share / passes.emitted[:, 2 * places + 1]
    inside = spelling.letters[places] * evidence.letters[:, None] * weight[:, :, None]
    mixed[:, :-1] -= inside.transpose(0, 2, 1)[..., None] * evidence.letters[:, None, None]
    diagonal = np.arange(count)
    # Two indices that are apart: numpy puts their axis first, (K, T, positions).
    mixed[:, diagonal, :, diagonal] += share * evidence.letters.T[:, :, None]
    flat = mixed.reshape(frames, count + 1, -1)
    return np.concatenate([flat, changes[:, :, split:]], 2).reshape(frames * (count + 1), -1)


def _patterns(profiles: Array, rough: float) -> tuple[Array, Array]:
    """Profiles (T, K) as patterns (T, R) @ mixture (R, K), up to a share `rough` of their norm."""
    left, sizes, right = np.linalg.svd(profiles, full_matrices=False)
    # left_over[r] = |profiles - their best approximation of rank r|, in the Frobenius norm.
    left_over = np.sqrt(np.cumsum(sizes[::-1] ** 2)[::-1])
    kept = max(1, int((left_over > rough * left_over[0]).sum()))
    return left[:, :kept] * sizes[:kept], right[:kept]


def _moved(passes: Passes, places: Indices, patterns: Array, after: Array) -> Array:
    """The change of the occupancies (T, N, S) per change of the emissions at `places` by each of the patterns, of the
    skips into `places`, and of the weights after the last frame."""
    # Both recursions differentiated, with their scales held: a factor per frame cancels in alpha beta / (alpha . beta).
    spelling, skips = passes.spelling, passes.spelling.skips
    rank = patterns.shape[1]
    states, bend = np.repeat(2 * places + 1, rank), np.tile(patterns, len(places))
    emitting = np.arange(len(states))
    inner = places[places > 0]
    # The skip into the first position is never read, so its column stays zero.
    skipping = len(states) + np.flatnonzero(places > 0)
    count = len(states) + len(places) + after.shape[1]
    forward = np.zeros((len(patterns), count, spelling.states))
    change = forward[0]
    for t in range(len(patterns)):
        earlier = passes.ahead[t - 1] if t else passes.before
        # d alpha_t = (enter d alpha_t-1 + d enter / d skip alpha_t-1) e_t + (enter alpha_t-1) d e_t. Before the first
        # frame nothing depends on what is open.
        change = enter(change, skips) if t else change.copy()
        change[skipping, 2 * inner + 1] += earlier[2 * inner - 1]
        change *= passes.emitted[t]
        # enter alpha_t-1, taken back from alpha_t.
        entered = passes.ahead[t] / passes.emitted[t] * passes.scale[t]
        change[emitting, states] += entered[states] * bend[t]
        forward[t] = change = change / passes.scale[t]
    # The weights at the end are w exp(after @ u): their derivative to u is after times themselves.
    backward = np.zeros((count, spelling.states))
    backward[len(states) + len(places) :] = (after * passes.behind[-1][:, None]).T
    # gamma = alpha beta / Z with Z = 1 here, so d gamma = d alpha beta + alpha d beta - gamma d Z, and Z is the same at
    # every frame: the last one gives d Z.
    total = (forward[-1] * passes.behind[-1] + passes.ahead[-1] * backward).sum(1)
    for t in range(len(patterns) - 1, -1, -1):
        held = passes.ahead[t] * passes.behind[t]
        # In the place of d alpha, which is read no more: the array is the largest here.
        forward[t] = forward[t] * passes.behind[t] + passes.ahead[t] * backward - held * total[:, None]
        if t:
            # d beta_t-1, the transposed steps in the same order.
            leaving = backward * passes.emitted[t]
            leaving[emitting, states] += passes.behind[t][states] * bend[t]
            backward = leave(leaving, skips)
            backward[skipping, 2 * inner - 1] += (passes.behind[t] * passes.emitted[t])[2 * inner + 1]
            backward /= passes.scale[t]
    return forward
