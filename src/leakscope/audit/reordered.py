"""Whether sentences that are wrong tell the words: an attack that knows all of them in no order has read them.

Errors of a transcript are counted in its order (those of a text are not). A sum over the places of a sentence may say
which pieces were said and hardly where, so that a claim of all of them, in the wrong order, has the error of a guess.
"""

from __future__ import annotations

import itertools
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

DRAWS: Final = 199
"""Over how many exchanges of truths between trials: a probability down to 1 / 200, half of `LUCK`."""

Bag = Counter[tuple[str, str]]
Bags = tuple[Bag, Bag]
"""Of one trial, in no order: what was claimed, and what is true."""


def reordering(side: Records, found: Evidence, least: float) -> str:
    """Why sentences that are wrong by `found` still tell the words; empty where they do not, or it judges none.

    least: the smallest leak of interest, in dB. Of few trials no exchange is beyond luck, and the size tells.
    """
    known = _bags(side) if found.metric == CharacterErrorRate.name else []
    if len(known) < 2:
        return ""
    gain, by_luck = reordered(known)
    if by_luck > LUCK and gain < least:
        return ""
    return (
        f"but in another order what is claimed is {gain:.3g} dB nearer to its own trial's words than to those of "
        f"others, which luck does with a probability of {by_luck:.2g}: the words are told, and this error counts their "
        "order"
    )


def reordered(trials: Sequence[Bags]) -> tuple[float, float]:
    """How much nearer a claimed bag is to its own truth than to those of other trials, and the luck of that.

    The gain: -20 log10(own / others) in dB of mean errors 1 - cos(claimed_t, true_u), own where t = u: by cosines
    the length of a sentence alone says nothing. The luck: of how many of `DRAWS` exchanges of truths between trials the
    own error is as small, itself counted; exact, since without a leak each claim fits every other truth as well.
    trials: two or more.

    >>> one, two = Counter([("a", "b")]), Counter([("b", "c")])
    >>> reordered([(one, one), (two, two)] * 8)
    (inf, 0.005)
    """
    errors = 1 - _cosines([one for one, _ in trials], [one for _, one in trials])
    own, count = float(np.trace(errors)) / len(trials), len(trials)
    others = float(errors.sum() - np.trace(errors)) / (count * (count - 1))
    generator, place = Key(0).child("reordered").numpy(), np.arange(count)
    drawn = [float(errors[place, generator.permutation(count)].mean()) for _ in range(DRAWS)]
    # Rounding apart: an exchange of equal truths is as near as they are.
    luck = (1 + sum(one <= own + 1e-12 for one in drawn)) / (1 + DRAWS)
    if others <= 1e-12:
        return 0.0, luck
    return (math.inf if own <= 1e-12 else -20 * math.log10(own / others)), luck


def _bags(side: Records) -> list[Bags]:
    """Of the finished trials whose records tell both: pairs of neighboring letters, which pieces of a word keep."""
    found: list[Bags] = []
    for record in side:
        if record is None or record.ending is not Ending.CLAIMED:
            continue
        claimed, true = (
            Counter(pair for said in one for pair in itertools.pairwise(said))
            for one in (record.transcripts_claimed, record.transcripts_true)
        )
        if true:
            found.append((claimed, true))
    return found


def _cosines(some: Sequence[Bag], others: Sequence[Bag]) -> NDArray[np.float64]:
    """[t, u] of the counts; 0 where one of the two is empty."""
    names = list(dict.fromkeys(name for one in (*some, *others) for name in one))
    left, right = (np.array([[one[name] for name in names] for one in side], float) for side in (some, others))
    sizes = [np.linalg.norm(side, axis=1, keepdims=True) for side in (left, right)]
    left, right = (side / np.maximum(size, 1.0) for side, size in zip((left, right), sizes, strict=True))
    return np.asarray(left @ right.T)
