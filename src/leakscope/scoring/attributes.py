"""Claimed attributes as the referee looks at them: where the truth stands, and where it stands in a blind guess."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.core.claim import Attribute
from leakscope.core.errors import BadInput
from leakscope.core.secret import Annotation
from leakscope.numerics.assign import assign
from leakscope.numerics.rng import Key
from leakscope.scoring.chance import Level
from leakscope.scoring.metrics.metric import AbstractMetric, AbstractRankMetric
from leakscope.scoring.metrics.ranks import Standing
from leakscope.scoring.pairing import Pairing, kept

DRAWS = 128
"""Over how many random rankings the chance level of a batch is taken; that of a single item is exact."""

SHOWN = 5
"""How many of the best candidates a report shows."""


@final
@dataclass(frozen=True)
class Ranked:
    """What a report shows of one private item: its category, where it stands, and the best candidates in order.

    standing: None where the truth is no candidate or nothing was claimed, in which case `best` may be empty.
    """

    true: str
    standing: Standing | None
    best: tuple[str, ...]


def table(scores: Tensor, categories: Sequence[int]) -> list[list[Standing | None]]:
    """Where each of B categories stands in each row of `scores` (N, G); None where it is ruled out.

    Candidates are those above -inf.

    >>> table(torch.tensor([[0.2, 0.9, 0.2]]), [0])
    [[Standing(above=1, tied=1, of=3)]]
    """
    own = scores[:, list(categories)]
    above = (scores[:, None] > own[..., None]).sum(2).tolist()
    same = (scores[:, None] == own[..., None]).sum(2).tolist()
    there, of = (own > -torch.inf).tolist(), (scores > -torch.inf).sum(1).tolist()
    return [
        [Standing(a, t - 1, of[row]) if fine else None for a, t, fine in zip(*columns, strict=True)]
        for row, columns in enumerate(zip(above, same, there, strict=True))
    ]


def scores_of(claim: Attribute, truth: Annotation) -> Tensor:
    """(N, G) float64; of a claim without scores, the claimed category first and all others tied.

    Raises `BadInput` when the claim is about other categories than the truth.
    """
    count = len(truth.categories)
    if claim.name != truth.name:
        raise BadInput(f"the claim is about {claim.name!r}, the truth about {truth.name!r}; compare like with like")
    if claim.scores is None:
        if bool(((claim.values < 0) | (claim.values >= count)).any()):
            raise BadInput(f"claimed categories must lie in 0..{count - 1}, the categories of {truth.name!r}")
        return torch.nn.functional.one_hot(claim.values, count).double()
    if claim.scores.shape[1] != count:
        raise BadInput(f"the claim scores {claim.scores.shape[1]} categories, {truth.name!r} has {count}")
    return claim.scores.double()


def pair_attributes(claim: Attribute, truth: Annotation) -> Pairing:
    """Pairs with the lowest total rank: a batch has no order, and a blind guess is paired in the same way."""
    places = kept(claim, len(truth.values))
    scores = scores_of(claim, truth)[places]
    partners = _assigned(scores, truth.values, table(scores, truth.values))
    back = tuple(None if partner is None else places[partner] for partner in partners)
    return Pairing(back, len(claim) - len(places))


def standings(claim: Attribute, truth: Annotation, pairing: Pairing) -> tuple[Standing | None, ...]:
    """Where each private item stands in the ranking that it was paired with."""
    found = table(scores_of(claim, truth), truth.values)
    return tuple(None if partner is None else found[partner][item] for item, partner in enumerate(pairing.partners))


def ranked(claim: Attribute, truth: Annotation) -> tuple[Ranked, ...]:
    """For each private item what a report shows of its ranking."""
    pairing, scores = pair_attributes(claim, truth), scores_of(claim, truth)
    found = []
    for partner, category, where in zip(pairing.partners, truth.values, standings(claim, truth, pairing), strict=True):
        order = [] if partner is None else torch.argsort(scores[partner], descending=True, stable=True).tolist()
        best = tuple(
            truth.categories[g] for g in order[:SHOWN] if partner is not None and scores[partner, g] > -torch.inf
        )
        found.append(Ranked(truth.categories[category], where, best))
    return tuple(found)


def attribute_levels(
    metrics: Sequence[AbstractMetric], claim: Attribute, truth: Annotation, *, key: Key
) -> dict[AbstractMetric, Level]:
    """For each metric what a blind ranking of the same candidates scores, on the same path as the claim.

    One item: exactly k/G for the first k of G candidates, and H_G/G for 1/rank. Of a batch, the better of a ranking
    that prefers nobody and of random ones, in expectation over `DRAWS`.
    """
    scores = scores_of(claim, truth)
    open_to_all = (scores > -torch.inf).any(0)
    count = len(truth.values)
    nobody = torch.where(open_to_all, 0.0, -torch.inf).expand(count, -1)
    guesses = [[nobody]]
    if count > 1:
        shape = (DRAWS, count, len(truth.categories))
        drawn = torch.rand(shape, generator=key.child("ranking").generator(), dtype=torch.float64)
        guesses.append([torch.where(open_to_all, one, -torch.inf) for one in drawn])
    looked_at = [[_standings(one, truth) for one in draws] for draws in guesses]
    found: dict[AbstractMetric, Level] = {}
    for metric in metrics:
        if not isinstance(metric, AbstractRankMetric):
            raise BadInput(f"{metric.name} does not apply to attributes; leave this metric out")
        means = [_mean([metric.items(one) for one in draws]) for draws in looked_at]
        best = max(means, key=math.fsum)
        found[metric] = Level(math.fsum(best) / len(best), best)
    return found


def _standings(scores: Tensor, truth: Annotation) -> tuple[Standing | None, ...]:
    found = table(scores, truth.values)
    partners = _assigned(scores, truth.values, found)
    return tuple(None if partner is None else found[partner][item] for item, partner in enumerate(partners))


def _mean(drawn: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(math.fsum(column) / len(drawn) for column in zip(*drawn, strict=True))


def _assigned(
    scores: Tensor, truth: tuple[int, ...], found: Sequence[Sequence[Standing | None]]
) -> tuple[int | None, ...]:
    """For each private item the row of `scores` (N, G) that is for it, by the `table` of both."""
    # Sorted by content first: among pairings of equal cost the same one is chosen in whatever order the items came.
    contents = [row.numpy().tobytes() for row in scores]
    rows = sorted(range(len(contents)), key=contents.__getitem__)
    columns = sorted(range(len(truth)), key=truth.__getitem__)
    partners: list[int | None] = [None] * len(truth)
    if rows:
        last = scores.shape[1] + 1  # a category that is ruled out is behind all others
        costs = [[_rank(found[row][column], last) for column in columns] for row in rows]
        for row, column in zip(*assign(costs), strict=True):
            partners[columns[column]] = rows[row]
    return tuple(partners)


def _rank(where: Standing | None, last: int) -> float:
    return last if where is None else where.rank
