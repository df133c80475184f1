"""A label string put right by single edits, where its occupancies are not those that were seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from leakscope.attacks.transcripts.chain import Array, Evidence, spelled, through

Labels = tuple[int, ...]

TRIED = 4
"""Labels that are tried at one place: those that are missed most nearby."""
NEAR = 2
"""Positions and frames around the worst frame that count as nearby."""
PLACES = 6
"""Worst frames that are looked at before it is given up."""


def outright(evidence: Evidence) -> Labels:
    """The most present class of every frame, repetitions collapsed and blanks left out.

    >>> seen = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.7, 0.3]])
    >>> outright(Evidence(seen[:, :1], seen[:, 1], seen))
    (0, 0)
    """
    best = evidence.seen.argmax(1)
    kept = (best != np.r_[-1, best[:-1]]) & (best != evidence.seen.shape[1] - 1)
    return tuple(int(label) for label in best[kept])


def repaired(labels: Labels, evidence: Evidence, *, going: Callable[[], bool]) -> Labels:
    """The string after edits, each the best of those around the worst frame: insert, leave out, replace, exchange.

    It ends where no edit around the `PLACES` worst frames lowers the misfit, or when `going` says so.
    """
    missed, misfit = _missed(labels, evidence)
    while going():
        for frame in np.argsort(-(missed**2).sum(1))[:PLACES]:
            edits = [(_missed(edit, evidence), edit) for edit in _edits(labels, evidence, missed, int(frame))]
            (following, least), edit = min(edits, key=lambda one: one[0][1], default=((missed, misfit), labels))
            if least < misfit:
                break
        else:
            return labels
        labels, missed, misfit = edit, following, least
    return labels


def _missed(labels: Labels, evidence: Evidence) -> tuple[Array, float]:
    """What was seen less what the string explains (T, K + 1), and the sum of its squares."""
    passes = through(spelled(labels, evidence.letters.shape[1]), evidence)
    if not passes.possible:
        return evidence.seen, np.inf
    missed = evidence.seen - passes.shares(evidence)
    return missed, float((missed**2).sum())


def _edits(labels: Labels, evidence: Evidence, missed: Array, frame: int) -> Iterator[Labels]:
    held = through(spelled(labels, evidence.letters.shape[1]), evidence).occupancies()[frame]
    middle = int(held.argmax()) // 2
    nearby = missed[max(0, frame - NEAR) : frame + NEAR + 1, :-1].sum(0)
    wanted = [int(label) for label in np.argsort(-nearby)[:TRIED]]
    for place in range(max(0, middle - NEAR), min(len(labels), middle + NEAR) + 1):
        before, after = labels[:place], labels[place:]
        yield from ((*before, label, *after) for label in wanted)
        if after:
            yield (*before, *after[1:])
            yield from ((*before, label, *after[1:]) for label in wanted if label != after[0])
        if len(after) > 1:
            yield (*before, after[1], after[0], *after[2:])
