"""Utterances grown frame by frame, in both directions, from one window that was found exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from leakscope.attacks.inputs.frames.long.hidden_span import FOUND, HiddenSpan
from leakscope.numerics import banded
from leakscope.targets.looking.context_window import ContextWindow

Array = NDArray[np.float64]
Ended = Callable[[int, int, float], bool]
"""Told the linear systems that were solved, the frames that are known and the last residual; whether to stop."""

# Each start costs a descent: up to 40 systems of almost the size of a window.
EDGES = 6
"""How many kinds of quiet are tried at each end of an utterance."""
INSIDE = 64
"""How many windows inside of utterances are tried."""
SILENT = 1e-3
"""Frames below this share of an utterance's root mean square are the zeros around it."""
DRAWN = 24
"""How many frames near the last one are tried where it does not lead to the next."""


@final
@dataclass(frozen=True, eq=False)
class Piece:
    """Consecutive frames (n, F). first, last: whether they begin and end with the utterance itself."""

    frames: Array
    first: bool
    last: bool

    @property
    def whole(self) -> bool:
        """An utterance from its first frame to its last."""
        return self.first and self.last


@final
class Grower:
    """Solves for one new frame at a time; every half window all frames of the last window are solved for again.

    A new frame has F unknowns in H + 1 - T equations. The errors of the frames that it is joined to are carried on, so
    that rounding would grow by a factor of 100 in 10 s; solving anew, where the equations suffice, takes it back.
    """

    def __init__(self, problem: HiddenSpan, window: ContextWindow, random: np.random.Generator, ended: Ended) -> None:
        self.problem, self.window, self.random, self.ended = problem, window, random, ended
        # A tenth more equations than unknowns: near the square system rounding is amplified, not taken back.
        self.again = problem.equations > 1.1 * window.dimension
        self.steps = 0

    def piece(self, seed: Array) -> Piece:
        """From a true window (D,) as far as it leads."""
        frames = seed.reshape(self.window.width, self.window.features)
        # Past the end every window still sees `right` zeros, before the beginning `left` of them: they are grown too,
        # and cut off here.
        frames, last = self._grown(frames, self.window.right, False)
        frames, first = self._grown(frames[::-1], self.window.left, True)
        frames = frames[::-1]
        return Piece(frames[_zeros(frames, self.window.left) :][: self._real(frames)], first, last)

    def _real(self, frames: Array) -> int:
        edges = _zeros(frames, self.window.left) + _zeros(frames[::-1], self.window.right)
        return len(frames) - edges

    def _grown(self, frames: Array, padding: int, backward: bool) -> tuple[Array, bool]:
        """Longer at the end, and whether the utterance ends there; backward: time runs the other way in `frames`."""
        since = 0
        # No utterance has more frames than the batch, and zeros on both sides: what grows beyond that is none.
        while len(frames) < self.problem.rank + 2 * self.window.width:
            if padding and _zeros(frames[::-1], padding) == padding:
                return frames, True
            following, residual = self._next(frames, backward)
            if residual > FOUND:
                # No window follows. A layer that does not look this way sees no zeros, so there this is the end of the
                # utterance; else the thread is lost.
                return frames, not padding
            frames = np.vstack([frames, following])
            since += 1
            if self.again and since >= max(1, self.window.width // 2):
                frames, since = self._anew(frames, backward), 0
            if self.ended(self.steps, len(frames), residual):
                return frames, False
        return frames, False

    def _turned(self, frames: Array, backward: bool) -> Array:
        return (frames[::-1] if backward else frames).ravel()

    def _next(self, frames: Array, backward: bool) -> tuple[Array, float]:
        """The frame after the last, and the residual of the window that it ends."""
        features = self.window.features
        known = frames[len(frames) - self.window.width + 1 :]
        # The new frame is the last of its window, or where time runs backward its first.
        free = slice(0, features) if backward else slice(self.window.dimension - features, self.window.dimension)
        # Three guesses: as before, moving on as before, or the zeros around the utterance.
        near = np.vstack([frames[-1], 2 * frames[-1] - frames[-2], np.zeros(features)])
        best = (near[0], np.inf)
        for starts in (near, self._wider(frames)):
            windows = np.stack([self._turned(np.vstack([known, start]), backward) for start in starts])
            # A residual is one product, a descent several systems: the likely ones first, and none after one that leads
            # there.
            for place in np.argsort(self.problem.residuals(windows))[:DRAWN]:
                found = self.problem.descend(windows[place], free, steps=30)
                self.steps += found.steps
                if found.residual < best[1]:
                    best = (found.window[free], found.residual)
                if best[1] <= FOUND:
                    return best
        return best

    def _wider(self, frames: Array) -> Array:
        """Where the next frame is unlike the last: frames that were heard before, and some around the last one."""
        spread = frames.std(0)
        drawn = frames[-1] + spread * self.random.standard_normal((4 * DRAWN, len(spread)))
        return np.vstack([frames, drawn])

    def _anew(self, frames: Array, backward: bool) -> Array:
        """All frames of the last window at once."""
        start = len(frames) - self.window.width
        found = self.problem.descend(self._turned(frames[start:], backward), slice(0, self.window.dimension), steps=6)
        self.steps += found.steps
        # In the order of `frames` again.
        better = found.window.reshape(self.window.width, self.window.features)
        return np.vstack([frames[:start], better[::-1] if backward else better])


def _zeros(frames: Array, most: int) -> int:
    """How many frames at the beginning are zeros, up to `most`."""
    level = SILENT * float(np.sqrt(np.mean(frames**2)))
    silent = np.abs(frames[:most]).max(1, initial=0.0) <= level
    # argmin of truth values: the first frame that is not silent.
    return int(most if silent.all() else np.argmin(silent))


def seeds(problem: HiddenSpan, window: ContextWindow, weight: Array, bias: Array) -> Iterator[tuple[Array, slice]]:
    """Windows (D,) to start from and which entries are unknown, the best first, made of the first layer's gradient.

    dL/dW_1 and dL/db_1 of one unit are sums over the frames that it is active in, with the same factors: their ratio is
    a mixture of few windows, and its mean frame a kind of quiet. An utterance's first window begins with zeros, so it
    has fewer unknowns, and no window beside it is like it; the same is true of the last. Where there are not more
    equations than unknowns, a window that solves them need not be a true one, so none is tried.
    """
    # At rest a unit has 0 / 0. Active in one frame alone its ratio is that window: x delta / delta.
    heard = np.abs(bias) > 1e-6 * np.abs(bias).max()
    mixed = (weight[:, heard] / bias[heard]).T
    quiet = mixed.reshape(len(mixed), window.width, window.features).mean(1)
    size, features = window.dimension, window.features
    first, last = np.tile(quiet, window.width), np.tile(quiet, window.width)
    # What is known is not solved for: `free` leaves the zeros out, H + 1 - T equations for the (right + 1) F unknowns
    # of a first window.
    first[:, : window.left * features] = 0
    last[:, size - window.right * features :] = 0
    edges = (first, slice(window.left * features, size)), (last, slice(0, size - window.right * features))
    for starts, free in edges:
        if problem.equations <= free.stop - free.start:
            continue
        for place in np.argsort(problem.residuals(starts))[:EDGES]:
            yield starts[place], free
    if problem.equations > size:
        for place in np.argsort(problem.residuals(mixed))[: 2 * INSIDE : 2]:
            yield mixed[place], slice(0, size)


def utterances(
    problem: HiddenSpan, window: ContextWindow, starts: Iterator[tuple[Array, slice]], total: int, grower: Grower
) -> tuple[list[Array], list[Piece]]:
    """Utterances (T_u, F) whose frames sum to `total`, or all whole ones that were found, and the other pieces."""
    whole: list[Array] = []
    parts: list[Piece] = []
    for start, free in starts:
        known = whole + [part.frames for part in parts]
        # The rank counts the frames of all utterances: with as many, none is missing.
        if sum(map(len, whole)) >= total or grower.ended(grower.steps, sum(map(len, known)), 1.0):
            break
        found = problem.descend(start, free)
        grower.steps += found.steps
        # A start inside an utterance that is known already would only grow it a second time.
        if found.residual > FOUND or _known(found.window, known, window):
            continue
        piece = grower.piece(found.window)
        if piece.whole:
            whole.append(piece.frames)
            # What was found of it before must not be joined once more, to something that was never said.
            parts = [part for part in parts if not _inside(part.frames, piece.frames)]
            continue
        parts.append(piece)
        joined = joined_parts(parts, total - sum(map(len, whole)))
        if joined is not None:
            whole.append(joined)
            parts = [part for part in parts if not _inside(part.frames, joined)]
    return whole, parts


def _known(found: Array, pieces: list[Array], window: ContextWindow) -> bool:
    """Whether that window is one of a piece."""
    # Within 3 % of the window's size in every number: more than rounding and growing leave.
    near = SILENT**0.5 * float(np.sqrt(np.mean(found**2)))
    for frames in pieces:
        there = banded.windows(frames, left=window.left, right=window.right)
        if np.abs(there - found).max(1).min() < near:
            return True
    return False


def _inside(frames: Array, whole: Array) -> bool:
    """Whether consecutive frames (n, F) are some of an utterance's (T, F)."""
    near = SILENT**0.5 * float(np.sqrt(np.mean(whole**2)))
    starts = range(len(whole) - len(frames) + 1)
    return any(np.abs(whole[start : start + len(frames)] - frames).max(initial=0.0) < near for start in starts)


def joined_parts(parts: list[Piece], total: int) -> Array | None:
    """A beginning and an end of `total` frames together, or overlapping, as one utterance; None when a part is missing.

    Only their lengths are looked at: whether they belong together is for the certificate to say.
    """
    # The longest of each: pieces of one utterance differ in how far they led.
    begun = max((part.frames for part in parts if part.first), key=len, default=None)
    ending = max((part.frames for part in parts if part.last), key=len, default=None)
    if begun is None or ending is None or not 0 <= len(begun) + len(ending) - total <= len(ending):
        return None
    return np.vstack([begun, ending[len(begun) + len(ending) - total :]])
