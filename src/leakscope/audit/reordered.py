"""Whether sentences that are wrong tell the words: an attack that knows all of them in no order has read them.

Errors of a transcript are counted in its order (those of a text are not). A sum over the places of a sentence may say
which pieces were said and hardly where, so that a claim of all of them, in the wrong order, has the error of a guess.
A piece is a word or a part of one, whose neighboring letters stay together, or, where a model spells, a letter.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from leakscope.audit.evidence import Evidence
from leakscope.audit.measures import LUCK, Records
from leakscope.ledger.record import Ending
from leakscope.numerics.rng import Key
from leakscope.scoring.metrics.speech import CharacterErrorRate

DRAWS: Final = 399
"""Over how many exchanges of truths between trials: a probability down to 1 / 400, half of `LUCK` for each kind."""
KINDS: Final = ((2, 1.0), (1, 3.0))
"""How many letters a piece has, and how many times the smallest leak its gain has to reach where luck may be all of it.
The letters of sentences are much alike: of two trials without a leak the gain is 6 dB in one of twelve pairs of them,
and 9 dB in one of fifty. All letters in no order are an infinite gain."""

Bag = Counter[tuple[str, ...]]
Bags = tuple[Bag, Bag]
"""Of one trial, in no order: what was claimed, and what is true."""


def reordering(side: Records, found: Evidence, least: float) -> str:
    """Why sentences that are wrong by `found` still tell the words; empty where they do not, or it judges none.

    least: the smallest leak of interest, in dB. Of few trials no exchange is beyond luck, and the size tells.
    """
    if found.metric != CharacterErrorRate.name:
        return ""
    for letters, times in KINDS:
        known = _bags(side, letters)
        if len(known) < 2:
            continue
        gain, by_luck = reordered(known)
        by_luck = min(len(KINDS) * by_luck, 1.0)
        # Of many trials, a told length says something of which letters there are, which is beyond luck and is no leak.
        beyond = by_luck <= LUCK and (letters > 1 or gain >= least)
        if beyond or gain >= times * least:
            what = "words" if letters > 1 else "letters"
            return (
                f"but in another order what is claimed is {gain:.3g} dB nearer to its own trial's {what} than to those "
                f"of others, which luck does with a probability of {by_luck:.2g}: the {what} are told, and this error "
                "counts their order"
            )
    return ""


def reordered(trials: Sequence[Bags]) -> tuple[float, float]:
    """How much nearer a claimed bag is to its own truth than to those of other trials, and the luck of that.

    The gain: -20 log10(own / others) in dB of mean errors 1 - cos(claimed_t, true_u), own where t = u.
    The luck: of how many of `DRAWS` exchanges of truths between trials the mean of cos(claimed_t - |claimed_t| c,
    true_t - |true_t| f) is as large, itself counted; |.| counts a bag's pieces, c and f are their shares in all claims
    and in all truths. A long bag is nearer to what all sentences share, so that by the bags themselves one sentence for
    all, cut to lengths that are told, fits its own truths best; without a leak, what is apart from that share fits
    every other truth as well.
    trials: two or more.

    >>> one, two = Counter([("a", "b")]), Counter([("b", "c")])
    >>> reordered([(one, one), (two, two)] * 8)
    (inf, 0.0025)
    """
    claimed, true = _counts([one for one, _ in trials], [one for _, one in trials])
    errors = 1 - _cosines(claimed, true)
    own, count = float(np.trace(errors)) / len(trials), len(trials)
    others = float(errors.sum() - np.trace(errors)) / (count * (count - 1))
    apart = _cosines(_apart(claimed), _apart(true))
    generator, place, seen = Key(0).child("reordered").numpy(), np.arange(count), float(np.trace(apart)) / count
    drawn = [float(apart[place, generator.permutation(count)].mean()) for _ in range(DRAWS)]
    # Rounding apart: an exchange of equal truths is as near as they are.
    luck = (1 + sum(one >= seen - 1e-12 for one in drawn)) / (1 + DRAWS)
    if others <= 1e-12:
        return 0.0, luck
    return (math.inf if own <= 1e-12 else -20 * math.log10(own / others)), luck


def _bags(side: Records, letters: int) -> list[Bags]:
    """Of the finished trials whose records tell both: pieces of so many neighboring letters, as a word keeps them."""
    found: list[Bags] = []
    for record in side:
        if record is None or record.ending is not Ending.CLAIMED:
            continue
        claimed, true = (
            Counter(piece for said in one for piece in zip(*(said[first:] for first in range(letters)), strict=False))
            for one in (record.transcripts_claimed, record.transcripts_true)
        )
        if true:
            found.append((claimed, true))
    return found


def _counts(some: Sequence[Bag], others: Sequence[Bag]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(T, K) each: how often every piece that occurs in some bag does in each."""
    names = list(dict.fromkeys(name for one in (*some, *others) for name in one))
    left, right = (np.array([[one[name] for name in names] for one in side], float) for side in (some, others))
    return left, right


def _apart(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """(T, K) what each bag has beyond its share of all of them, (K,) shares times its number of pieces."""
    shares = counts.sum(0) / max(float(counts.sum()), 1.0)
    return np.asarray(counts - counts.sum(1, keepdims=True) * shares)


def _cosines(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """[t, u] of the rows; 0 where one of the two is zero to rounding."""
    sizes = (np.linalg.norm(side, axis=1, keepdims=True) for side in (left, right))
    left, right = (side / np.where(size > 1e-9, size, np.inf) for side, size in zip((left, right), sizes, strict=True))
    return np.asarray(left @ right.T)
