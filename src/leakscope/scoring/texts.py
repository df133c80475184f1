"""Texts as the referee looks at them: token ids that are equal or not, paired, and guessed blindly."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from leakscope.core.batch import Batch
from leakscope.core.claim import Tokens
from leakscope.core.errors import BadInput
from leakscope.domains.text import sequences_of
from leakscope.numerics.assign import assign
from leakscope.scoring.chance import Level
from leakscope.scoring.metrics.metric import AbstractMetric, AbstractTokenMetric
from leakscope.scoring.metrics.tokens import Said, TokenOrder, TokenOverlap
from leakscope.scoring.pairing import Pairing, kept
from leakscope.scoring.score import Direction

POOL = 64
"""How many public texts are looked at for the best constant guess."""


def pair_texts(claim: Tokens, true: Sequence[Said]) -> Pairing:
    """Pairs with the highest total of `TokenOverlap` and `TokenOrder`; a bag is for every item at once."""
    if claim.bag:
        return Pairing((0,) * len(true), 0)
    places = kept(claim, len(true))
    # Sorted by content first: among pairings of equal cost the same one is chosen in whatever order the items came.
    rows = sorted(places, key=lambda place: claim.sequences[place])
    columns = sorted(range(len(true)), key=lambda item: true[item])
    partners: list[int | None] = [None] * len(true)
    if rows:
        costs = [[-_likeness(claim.sequences[place], true[item]) for item in columns] for place in rows]
        for row, column in zip(*assign(costs), strict=True):
            partners[columns[column]] = rows[row]
    return Pairing(tuple(partners), len(claim) - len(places))


def _likeness(one: Said, other: Said) -> float:
    return TokenOverlap().items([one], [other])[0] + TokenOrder().items([one], [other])[0]


def constant_texts(public: Batch | None) -> tuple[Said, ...]:
    """What a constant guess could say: nothing; the public text most like the others; the most frequent tokens."""
    if public is None:
        return ((),)
    if not public.holds_tokens:
        raise BadInput(f"public inputs {tuple(public.inputs.shape)} {public.inputs.dtype} are no texts")
    pool = sequences_of(public.inputs[:POOL])
    likest = max(pool, key=lambda one: sum(_likeness(one, other) for other in pool))
    ranks = [token for token, _ in Counter(token for one in sequences_of(public.inputs) for token in one).most_common()]
    length = round(sum(map(len, pool)) / len(pool))
    return (), likest, *(tuple(ranks[:count]) for count in (2, length, 3 * length))


def text_levels(
    metrics: Sequence[AbstractMetric], true: Sequence[Said], public: Batch | None
) -> dict[AbstractMetric, Level]:
    """For each metric what the best constant guess scores; chosen with the secret at hand, which only helps it."""
    guesses = constant_texts(public)
    found: dict[AbstractMetric, Level] = {}
    for metric in metrics:
        if not isinstance(metric, AbstractTokenMetric):
            raise BadInput(f"{metric.name} does not apply to texts; leave this metric out")
        scored = [metric.items([guess] * len(true), true) for guess in guesses]
        sign = 1 if metric.direction is Direction.HIGHER else -1
        best = max(scored, key=lambda items: sign * math.fsum(items))
        found[metric] = Level(math.fsum(best) / len(best), best)
    return found


def judged_texts(
    metric: AbstractTokenMetric, claim: Tokens, true: Sequence[Said], pairing: Pairing, chance: Level
) -> tuple[tuple[float, ...], int]:
    """The score of each private text, and how many are perfect; one without a claim scores the blind guess."""
    if not metric.paired:
        values = metric.items([claim.sequences[place] for place in kept(claim, len(true))], true)
        return values, sum(value == metric.perfect for value in values)
    places, partners = pairing.known()
    items = list(chance.items)
    values = metric.items([claim.sequences[i] for i in partners], [true[i] for i in places])
    for place, value in zip(places, values, strict=True):
        items[place] = value
    return tuple(items), sum(value == metric.perfect for value in values)
