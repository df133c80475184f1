"""A label string put right by edits, where its occupancies are not those that were seen.

Single edits that lower the misfit go far where a model is sharp; where none does, several edits must be made before the
misfit falls, and a beam of strings finds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from leakscope.attacks.transcripts.exact.alignment import Array, Evidence, missed, spelled, through

Labels = tuple[int, ...]
Where = Callable[[Array], list[int]]
"""What each frame misses (T,) to the frames around which a string is edited."""

TRIED = 4
"""Labels that are tried at one place: those that are missed most nearby."""
NEAR = 2
"""Positions and frames around the worst frame that count as nearby."""
PLACES = 6
"""Worst frames that are looked at before it is given up."""
WIDTH, BRANCHES, APART = 4, 2, 4
"""Strings of a beam, and the worst frames of each around which it is edited, that many frames apart."""
A_LOT = 0.1
"""Share of what the worst frame misses."""
PATIENCE = 12
"""Rounds in which a beam may find nothing better."""
EXPLAINED = 1e-4
"""A misfit that is only left by noise, or by none at all: wrong strings leave 0.01 or more."""


def outright(evidence: Evidence) -> Labels:
    """The most present class of every frame, repetitions collapsed and blanks left out.

    >>> seen = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.7, 0.3]])
    >>> outright(Evidence(seen[:, :1], seen[:, 1], seen))
    (0, 0)
    """
    # The map B of CTC (section 3.1) on the likeliest alignment: first repetitions, then blanks. -1 is no class.
    best = evidence.seen.argmax(1)
    kept = (best != np.r_[-1, best[:-1]]) & (best != evidence.seen.shape[1] - 1)
    return tuple(int(label) for label in best[kept])


def repaired(labels: Labels, evidence: Evidence, *, going: Callable[[], bool]) -> Labels:
    """The string after edits, each the best of those around the worst frame: insert, leave out, replace, exchange.

    It ends where no edit around the `PLACES` worst frames lowers the misfit, or when `going` says so.
    """
    off = missed([labels], evidence)[0]
    while going():
        # The next worst frames only where no edit around the worst one helps.
        for frame in np.argsort(-off)[:PLACES]:
            tried = list(_edits(labels, _place(labels, evidence, frame), _wanted(labels, evidence, frame)))
            left = missed(tried, evidence) if tried else np.full((1, 1), np.inf)
            best = int(left.sum(1).argmin())
            # Strictly, so that no string comes twice and it ends. An impossible string misses infinitely much.
            if left[best].sum() < off.sum():
                break
        else:
            return labels
        labels, off = tried[best], left[best]
    return labels


def beamed(start: Labels, evidence: Evidence, *, where: Where, going: Callable[[], bool]) -> Labels:
    """The best string of a beam that begins with `start`: all edits are made around the frames that `where` names.

    It ends where the misfit is explained, or nothing better came up for `PATIENCE` rounds, or when `going` says so.
    """
    every = range(evidence.letters.shape[1])
    beam, seen = [(start, missed([start], evidence)[0])], {start}
    best, least, idle = start, float(beam[0][1].sum()), 0
    while going() and idle < PATIENCE and least > EXPLAINED:
        edits = (
            edit
            for one, off in beam
            for frame in where(off)
            for edit in _edits(one, _place(one, evidence, frame), every)
        )
        # The strings of the beam are not tried again, and so are given up: it has to get past worse ones, which
        # `repaired` never takes.
        tried = list(dict.fromkeys(edit for edit in edits if edit not in seen))
        if not tried:
            return best
        seen.update(tried)
        left = missed(tried, evidence)
        order = left.sum(1).argsort()[:WIDTH]
        beam = [(tried[place], left[place]) for place in order]
        idle += 1
        if left[order[0]].sum() < least:
            best, least, idle = tried[order[0]], float(left[order[0]].sum()), 0
    return best


def worst(off: Array) -> list[int]:
    """The frames that miss the most, apart from each other."""
    chosen: list[int] = []
    # Apart, so that the second one is another error and not the rest of the first.
    for frame in np.argsort(-off):
        if len(chosen) < BRANCHES and all(abs(frame - one) >= APART for one in chosen):
            chosen.append(int(frame))
    return chosen


def first_and_worst(off: Array) -> list[int]:
    """The first frame that misses a lot, before which the string is probably right, and the worst."""
    # A wrong label can shift those that follow it, so the worst frame may be far behind the error.
    most = int(off.argmax())
    first = int((off >= A_LOT * off[most]).argmax())
    return [first, most] if first != most else [most]


def _place(labels: Labels, evidence: Evidence, frame: int) -> int:
    """Which label is around in a frame; by proportion where the string needs more frames than there are."""
    # Which state holds most of the frame; 2 i + 1 is label i and 2 i the blank in front of it, so half of it is i.
    passes = through(spelled(labels, evidence.letters.shape[1]), evidence)
    if not passes.possible:
        return round(len(labels) * frame / len(evidence))
    return int(passes.occupancies()[frame].argmax()) // 2


def _wanted(labels: Labels, evidence: Evidence, frame: int) -> list[int]:
    """The labels that are missed most nearby."""
    passes = through(spelled(labels, evidence.letters.shape[1]), evidence)
    # Above zero where a class holds more than the string gives it. The blank, last, is no label to insert.
    more = evidence.seen - passes.shares(evidence) if passes.possible else evidence.seen
    nearby = more[max(0, frame - NEAR) : frame + NEAR + 1, :-1].sum(0)
    return [int(label) for label in np.argsort(-nearby)[:TRIED]]


def neighbors(labels: Labels, wanted: Iterable[int]) -> list[Labels]:
    """All strings that one edit with the wanted labels makes."""
    wanted = list(wanted)
    every = (edit for place in range(len(labels) + 1) for edit in _edited(labels, place, wanted))
    return [edit for edit in dict.fromkeys(every) if edit != labels]


def _edits(labels: Labels, middle: int, wanted: Iterable[int]) -> Iterator[Labels]:
    wanted = list(wanted)
    for place in range(max(0, middle - NEAR), min(len(labels), middle + NEAR) + 1):
        yield from _edited(labels, place, wanted)


def _edited(labels: Labels, place: int, wanted: Sequence[int]) -> Iterator[Labels]:
    before, after = labels[:place], labels[place:]
    # Insert, leave out, replace, exchange with the next: two edits of the others, between which the misfit may rise.
    yield from ((*before, label, *after) for label in wanted)
    if after:
        yield (*before, *after[1:])
        yield from ((*before, label, *after[1:]) for label in wanted if label != after[0])
    if len(after) > 1:
        yield (*before, after[1], after[0], *after[2:])
