"""Sentences through which a decoder cannot be followed with certainty, by a beam over their pieces.

Where two pieces fit a place nearly alike, or none does well, `decoder_order` stops. Here several are kept: each is fed
to the decoder, and what follows from it has to agree with the gradient as well. dL/dW = (1 / N) sum_s g_s h_s^T makes
g_s^T (dL/dW)^+ h_t zero for two different pieces and N for one and the same (T6), so that every path is judged by the
gradient alone, whatever the other sentences are; and what a path has read already is taken out of what comes next.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from leakscope.attacks.transcripts.exact.decoder_order import Following, Sentence, away
from leakscope.core.errors import BadInput
from leakscope.targets.spelling import PublicTexts, Spelling
from leakscope.targets.zoo.listen_attend_spell import State

Array = NDArray[np.float64]

LOOSE = 0.3
"""Largest relative distance from the gradient that a piece of a path may have: of what the decoder reaches, of the
piece's error, and of its features from those of other pieces."""
FLOOR = 1e-5
"""Distance below which one piece fits no better than another: rounding."""
AGREES = 0.05
"""Largest geometric mean of a sentence's distances with which it is claimed."""
RIVALS = 8
"""Pieces that are tried at each step of each path, the nearest first."""
SAME_PLACE = 0.02
"""Relative distance of features of one piece that are those of one place: twice what a path may be off."""
WEIGHT = 0.1
"""How much the language counts beside the gradient: a pair that is e^10 times rarer costs a piece that fits e times
worse."""
TURNS = 4
"""How often what was read to the end helps to find the rest."""


@final
class Language:
    """-`WEIGHT` log P(after | before), by the pairs of pieces in public texts: P = (n_ab + P(b)) / (n_a + 1), and
    P(b) = (n_b + 1) / (n + C)."""

    def __init__(self, spelling: Spelling, texts: PublicTexts) -> None:
        batch = texts.public()
        if batch.label_lengths is None:
            raise BadInput("a language is learned from transcripts, and this data has none; give it a source of speech")
        count = np.zeros((spelling.classes, spelling.classes))
        said, lengths = spelling.of(batch.labels, batch.label_lengths)
        for row, length in zip(said.tolist(), lengths.tolist(), strict=True):
            one = [spelling.end, *row[:length], spelling.end]
            np.add.at(count, (one[:-1], one[1:]), 1)
        single = (count.sum(0) + 1) / (count.sum() + len(count))
        self.cost = -WEIGHT * np.log((count + single) / (count.sum(1, keepdims=True) + 1))

    def __call__(self, before: int, after: int) -> float:
        """Of a pair of pieces."""
        return float(self.cost[before, after])


@final
@dataclass(frozen=True, eq=False)
class Path:
    """The pieces so far. points: features. duals: of each piece. reached, state: of the decoder. cost: the sum over
    pieces of log(distance / FLOOR) and of what the language adds. worst: the largest distance."""

    said: tuple[int, ...]
    points: tuple[Array, ...]
    duals: tuple[Array, ...]
    reached: Array
    state: State
    cost: float = 0.0
    worst: float = 0.0
    moved: float = 0.0

    @property
    def mean(self) -> float:
        """The cost of a piece: paths of any length are compared by it."""
        return self.cost / max(len(self.said), 1)


@final
@dataclass(frozen=True, eq=False)
class Beam:
    """`width` paths at a time. allowed: (C,) the pieces that may have been said. language: what a pair of pieces costs
    beside its distance."""

    following: Following
    width: int
    allowed: NDArray[np.bool_]
    language: Language | None
    stop: Callable[[], bool]

    def completed(self, sentences: list[Sentence], random: np.random.Generator) -> list[Sentence]:
        """The sentences that were read to their ends, those that the beam completes, and the rest as they were."""
        one = self.following
        ended = [sentence for sentence in sentences if not sentence.stuck]
        rest = [sentence for sentence in sentences if sentence.stuck]
        if one.several == 1:
            alone = None if ended else self.searched(None, np.zeros((0, one.space.rank)))
            return sentences if alone is None else [alone]
        for turn in range(TURNS):
            read = one.pieces([*ended, *rest])
            begun = [(sentence.outputs[0], sentence.features[0]) for sentence in rest if sentence.outputs]
            missing = one.several - len(ended) - len(begun)
            if missing > 0:
                begun += one.first(missing, one.across(read), self.stop, random, turn + 1, loose=True)
            tried = [self.searched(first, one.across(self._of_others(first, ended, rest, begun))) for first in begun]
            # The surest first: what is read twice was read wrongly the second time.
            found = sorted((sentence for sentence in tried if sentence is not None), key=lambda each: each.misfit)
            new = []
            for sentence in found:
                if len(ended) < one.several and not self._again(sentence, ended):
                    ended.append(sentence)
                    new.append(sentence)
            rest = [sentence for sentence in rest if not self._again(sentence, new)]
            if not new or len(ended) >= one.several or self.stop():
                break
        return [*ended, *rest]

    def _of_others(
        self, first: tuple[int, Array], ended: list[Sentence], rest: list[Sentence], begun: list[tuple[int, Array]]
    ) -> list[tuple[int, Array]]:
        """The pieces that were read of all sentences but the one that begins with `first`."""
        others = [one for one in rest if one.outputs and not _one_place(first, (one.outputs[0], one.features[0]))]
        return [*self.following.pieces([*ended, *others]), *begun]

    def _again(self, sentence: Sentence, others: list[Sentence]) -> bool:
        """Whether a piece of it is one of theirs, in the same place of the gradient."""
        own, known = self.following.pieces([sentence]), self.following.pieces(others)
        return any(_one_place(piece, other) for piece in own for other in known)

    def searched(self, first: tuple[int, Array] | None, across: Array) -> Sentence | None:
        """The path to the end that agrees best with the gradient; None where none does."""
        one = self.following
        paths = [Path((), (), (), one.reached, one.begun)]
        ended: list[Path] = []
        for place in range(one.space.rank + 1):
            if not paths or self.stop():
                break
            known = first if place == 0 else None
            grown = [longer for path in paths for longer in self._grown(path, known, across)]
            ended += [path for path in grown if path.said[-1] == one.end]
            open_ = [path for path in grown if path.said[-1] != one.end]
            paths = sorted(open_, key=lambda path: path.cost)[: self.width]
        ended = [path for path in ended if FLOOR * math.exp(path.mean) <= AGREES]
        if not ended:
            return None
        best = min(ended, key=lambda path: path.mean)
        errors = [one.known.error(point, label) for label, point in zip(best.said, best.points, strict=True)]
        return Sentence(best.said, np.array(best.points), np.array(errors), best.worst, best.moved, 0.0, searched=True)

    def _grown(self, path: Path, first: tuple[int, Array] | None, across: Array) -> list[Path]:
        """The path with each piece that may come next."""
        one = self.following
        if first is not None:
            return [self._with(path, *first, 0.0)]
        units = [dual / np.linalg.norm(dual) for dual in path.duals]
        rows = np.vstack([one.own, across, *units])
        wanted = np.concatenate([path.reached, np.zeros(len(rows) - len(path.reached))])
        point = np.linalg.lstsq(rows, wanted, rcond=1e-6)[0]
        misfit = away(one.own @ point, path.reached)
        if not misfit <= LOOSE:
            return []
        off = np.where(self.allowed, one.distances(point), math.inf)
        grown = []
        for label in np.argsort(off)[:RIVALS].tolist():
            if not math.isfinite(off[label]):
                break
            refined, left = one.known.solve(label, point, one.known.slopes, one.space.right)
            with np.errstate(over="ignore", invalid="ignore"):
                moved = away(one.own @ refined, one.own @ point)
            distance = max(misfit, left, moved)
            if distance <= LOOSE:
                grown.append(self._with(path, label, refined, distance))
        return [longer for longer in grown if longer.worst <= LOOSE]

    def _with(self, path: Path, label: int, point: Array, distance: float) -> Path:
        one = self.following
        dual = one.dual(label, point)
        size = abs(float(dual @ point))
        # N for each, and nothing for a pair; one and the same place twice would be all of it.
        shares = [abs(size / one.space.rank - 1)]
        for other, at in zip(path.duals, path.points, strict=True):
            shares += [abs(float(dual @ at)) / size, abs(float(other @ point)) / size]
        distance = max(distance, *(share if math.isfinite(share) else math.inf for share in shares))
        reached, state = one.ahead(label, point, path.state)
        more = self.language(path.said[-1] if path.said else one.end, label) if self.language is not None else 0.0
        return Path(
            (*path.said, label),
            (*path.points, point),
            (*path.duals, dual),
            reached,
            state,
            path.cost + math.log(max(distance, FLOOR) / FLOOR) + more,
            max(path.worst, distance),
            max(path.moved, away(one.own @ point, path.reached)),
        )


def _one_place(piece: tuple[int, Array], other: tuple[int, Array]) -> bool:
    return piece[0] == other[0] and away(piece[1], other[1]) < SAME_PLACE
