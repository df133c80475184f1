"""Frames that are right but in the wrong places: blocks of them exchanged where that is more probable."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from leakscope.attacks.inputs.frames.probable.climbing import SETTLED, Ended, Point, Problem, climb

Places = NDArray[np.int64]

# Three of 14 cuts are 364 exchanges, each of which costs one value; only the `TRIED` best cost steps.
CUTS = 12
"""Cuts per round: one exchange for each three of them, and those at both ends."""
TRIED = 6
"""Exchanges per round that are worth steps."""
STEPS = 8
"""For each of them."""
ROUNDS = 10


def exchanges(count: int, offset: int) -> list[Places]:
    """Orders of `count` frames with the blocks [a, b) and [b, c) exchanged, a < b < c on a grid moved by `offset`."""
    every = max(1, count // CUTS)
    cuts = sorted({0, *range(offset % every or every, count, every), count})
    whole = np.arange(count)
    return [
        np.concatenate([whole[:a], whole[b:c], whole[a:b], whole[c:]]) for a, b, c in itertools.combinations(cuts, 3)
    ]


def reordered(problem: Problem, point: Point, *, inner: int, ended: Ended) -> Point:
    """The most probable point that exchanges of blocks lead to, one round of them after the other.

    The gradient's span knows frames, not their times: these show only in the windows at a seam, so that a search ends
    with words in the wrong order and is stuck, because no small step moves a word. Of all exchanges the `TRIED` that
    cost least are refined, and the best is kept. Ends after `ROUNDS`, or when one on each of two grids helped nothing.
    """
    best, idle = point, 0
    stopped: list[Point] = []

    def watched(step: Point) -> bool:
        # The log keeps the last point that it is shown, and an interrupted attempt claims it: no trial may take its
        # place.
        if ended(min(best, step, key=_value)):
            stopped.append(step)
        return bool(stopped)

    for turn in range(ROUNDS):
        if idle == 2 or stopped:
            break
        every = max(1, len(best.frames) // CUTS)
        # Every other round half a block later: a word that a cut goes through in one is whole in the other.
        orders = exchanges(len(best.frames), turn * every // 2)
        orders.sort(key=lambda order: problem.at(best.frames[order]).value)
        before = best
        for order in orders[:TRIED]:
            if not stopped:
                # From `before`, which the orders were sorted for, also when a trial has been better.
                found = climb(problem, before.frames[order], steps=STEPS, inner=inner, ended=watched)
                best = min(best, found, key=_value)
        idle = 0 if best.value < before.value - SETTLED else idle + 1
    return best


def _value(point: Point) -> float:
    return point.value
