"""What the replaced control says of a group: how well an example is recovered from a release that never saw it."""

from __future__ import annotations

import math

from leakscope.audit.measures import SHARES, Records, decibels, primary, score_of
from leakscope.ledger.record import Record, ScoreRecord


def hardened(blind: Records, replaced: Records) -> list[Record | None]:
    """The blind records, where the first example of each trial has the better score of the blind and replaced controls.

    What is recovered of an example from a release that never saw it, but another of its class, is known of the class.
    Only of inputs and the like: labels are those of the class.
    """
    if not replaced:
        return list(blind)
    return [_harder(one, other) for one, other in zip(blind, replaced, strict=True)]


def _harder(blind: Record | None, replaced: Record | None) -> Record | None:
    if blind is None or replaced is None:
        return blind
    return blind.model_copy(update={"scores": tuple(_better(score, replaced) for score in blind.scores)})


def _better(score: ScoreRecord, replaced: Record) -> ScoreRecord:
    other = None if score.metric in SHARES else score_of(score.metric, replaced)
    if other is None or not score.items:
        return score
    best = max if score.higher_is_better else min
    items = (best(score.items[0], other.items[0]), *score.items[1:])
    return score.model_copy(update={"items": items, "value": math.fsum(items) / len(items)})


def firsts(audited: Records, replaced: Records) -> tuple[list[float], list[float]]:
    """Scores of the first example of each trial, more where more is known: from its release, and from the other one.

    In decibels where they are errors. Of trials that ran on both sides, in the metric that decides about inputs; labels
    tell nothing here, since they stay. A side without a claim scores less than every claim: to leave such trials out
    would compare only releases of which the attack is sure, and no event bounds what is found in a choice of them.
    """
    metric = primary(audited)
    if metric is None or metric in SHARES or not replaced:
        return [], []
    sides = [(one, other) for one, other in zip(audited, replaced, strict=True) if one and other]
    there = [_first(metric, one) for one, _ in sides]
    gone = [_first(metric, other) for _, other in sides]
    silent = min((score for score in (*there, *gone) if score is not None), default=0.0) - 1.0
    return [silent if one is None else one for one in there], [silent if one is None else one for one in gone]


def _first(metric: str, record: Record) -> float | None:
    score = score_of(metric, record)
    return None if score is None else decibels(metric, score.items[:1])[0]
