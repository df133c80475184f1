"""One decision for each signal, learned of the same shadow updates, joined; and what it is worth on new persons."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.attacks.attributes.decide import FLOOR, AbstractDecision, Lessons, correlation, together
from leakscope.core.effort import Clock, State, Watch
from leakscope.core.errors import BadInput
from leakscope.numerics.rng import Key


@final
@dataclass(frozen=True, eq=False)
class Updates:
    """Shadow updates as several signals read them. vectors: (N, n_k) for signal k. shapes: (H, D) of its layer.

    members: (N,) the category of each, out of `categories`. persons: (N,) whose it is.
    """

    vectors: tuple[Tensor, ...]
    shapes: tuple[tuple[int, int], ...]
    members: Tensor
    persons: Tensor
    categories: int


@final
@dataclass(frozen=True)
class Study:
    """How it is learned. folds: parts of the persons that are left out in turn, 0 for none."""

    decision: AbstractDecision
    folds: int
    key: Key
    clock: Clock
    watch: Watch


def learned(updates: Updates, study: Study) -> State:
    """The state: what is learned of all shadow updates, and what was learned of parts says of those left out.

    It holds, of each signal, the mean and deviation of its numbers and what the decision learned ("parts"); how much
    updates of one person repeat each other ("repeats", by `decide.correlation`); and of how many persons ("of") how
    many were named right by all of their updates together who were left out ("right"). Without folds, or with
    two persons of a category, "repeats" is 1 and the last two are absent.
    Raises `BadInput` where there are fewer than two categories, or than two persons of one.
    """
    shares = _shares(updates)
    everybody = _lessons(updates)
    state: State = {
        "parts": [
            _fitted(one, shape, study, study.key.child("signal", place))
            for place, (one, shape) in enumerate(zip(everybody, updates.shapes, strict=True))
        ],
        "shares": shares,
        "repeats": 1.0,
    }
    # Of two persons of a category, one alone would be left to learn from.
    if not study.folds or everybody[0].fewest < 3:
        return state
    outside = torch.full((len(updates.persons), updates.categories), torch.nan, dtype=torch.float64)
    for turn, held in enumerate(everybody[0].folds(study.folds)):
        rows = torch.isin(updates.persons, torch.tensor(held))
        others = sorted(set(updates.persons.tolist()) - set(held))
        parts = [
            _fitted(one.of(others), shape, study, study.key.child("fold", turn, place))
            for place, (one, shape) in enumerate(zip(everybody, updates.shapes, strict=True))
        ]
        own = [vectors[rows] for vectors in updates.vectors]
        outside[rows] = judged(study.decision, {"parts": parts, "shares": shares}, own)
    state["repeats"] = correlation(outside, updates.members, updates.persons)
    people = [updates.persons == one for one in updates.persons.unique().tolist()]
    named = [int(together(outside[rows], state["repeats"]).argmax()) for rows in people]
    right = sum(one == int(updates.members[rows][0]) for one, rows in zip(named, people, strict=True))
    return state | {"right": right, "of": len(people)}


def tuned(state: State, updates: Updates, study: Study) -> State:
    """`state` of `learned`, with each decision brought further by these updates; all else stays what it was.

    Signals are brought to the scale of the shadow updates, which is what the decisions know. Raises `BadInput` as
    `AbstractDecision.tuned`.
    """
    parts = []
    for place, (part, shape, lessons) in enumerate(zip(state["parts"], updates.shapes, _lessons(updates), strict=True)):
        same = dataclasses.replace(lessons, vectors=_normal(lessons.vectors, part["mean"], part["deviation"]))
        key = study.key.child("tuned", place)
        found = study.decision.tuned(part["learned"], same, shape, key=key, clock=study.clock, watch=study.watch)
        parts.append({**part, "learned": found})
    return {**state, "parts": parts}


def judged(decision: AbstractDecision, state: State, vectors: Sequence[Tensor]) -> Tensor:
    """(m, G) log-probabilities of m updates under an even prior. vectors: (m, n_k) of each signal, in their order.

    log sum_k share_k P_k(g): the mean of the signals' probabilities, each by the parameters of its layer (Feng et al.
    2021, whose fusion of layers this is). Raises `BadInput` where a signal has another size than what was learned of.
    """
    found = []
    for part, share, own in zip(state["parts"], state["shares"], vectors, strict=True):
        if own.shape[1] != len(part["mean"]):
            raise BadInput(f"has learned of signals of {len(part['mean'])} numbers, these have {own.shape[1]}")
        scores = decision.probabilities(part["learned"], _normal(own.float(), part["mean"], part["deviation"]))
        found.append(scores + torch.tensor(float(share), dtype=torch.float64).log())
    return torch.stack(found).logsumexp(0)


def _fitted(lessons: Lessons, shape: tuple[int, int], study: Study, key: Key) -> State:
    # Of those who are learned from alone: who is left out may not set the scale either.
    mean, deviation = lessons.vectors.mean(0), lessons.vectors.std(0, correction=0)
    same = Lessons(_normal(lessons.vectors, mean, deviation), lessons.members, lessons.persons, lessons.categories)
    found = study.decision.learn(same, shape, key=key, clock=study.clock, watch=study.watch)
    return {"mean": mean, "deviation": deviation, "learned": found}


def _normal(vectors: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    return (vectors - mean) / (deviation + FLOOR)


def _lessons(updates: Updates) -> list[Lessons]:
    return [Lessons(own.float(), updates.members, updates.persons, updates.categories) for own in updates.vectors]


def _shares(updates: Updates) -> list[float]:
    sizes = [float(rows * (columns + 1)) for rows, columns in updates.shapes]
    return [size / sum(sizes) for size in sizes]
