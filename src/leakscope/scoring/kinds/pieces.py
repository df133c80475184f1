"""Claims of which pieces were said: one bag for the batch, spelled as the client's decoder spells it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from leakscope.core.batch import Batch
from leakscope.core.claim import AbstractClaim
from leakscope.core.errors import BadInput
from leakscope.core.pieces import Pieces
from leakscope.core.target import Target
from leakscope.domains.speech import ENGLISH
from leakscope.numerics.rng import Key
from leakscope.scoring.case import Case
from leakscope.scoring.chance import AbstractGuess, Constant, keys
from leakscope.scoring.kinds.kind import AbstractKind, Answer, Comparison, Judged, Outsider, Shown
from leakscope.scoring.kinds.transcripts import spelled
from leakscope.scoring.metrics.metric import AbstractMetric
from leakscope.scoring.metrics.pieces import PieceError
from leakscope.scoring.pairing import Pairing
from leakscope.targets.spelling import NextPiece, Spelling

POOL = 256
"""How many public transcripts are spelled at most."""
DRAWS = 8
"""Over how many draws of random public transcripts their expectation is taken."""

Letters = tuple[int, ...]
Bag = frozenset[Letters]


@final
@dataclass(frozen=True, eq=False)
class PieceTruth:
    """said: the pieces of all private transcripts. count: how many transcripts. spelling: of the client's decoder."""

    said: Bag
    count: int
    spelling: Spelling

    def __len__(self) -> int:
        return 1


@final
@dataclass(frozen=True, eq=False)
class RandomBags(AbstractGuess[Pieces]):
    """All pieces of `count` random public transcripts, without repeating one while the pool lasts."""

    public: tuple[Bag, ...]
    count: int

    def claims(self, *, key: Key) -> Iterator[tuple[float, Pieces]]:
        """As many as are private, drawn `DRAWS` times."""
        for one in keys(self, key, DRAWS):
            order = one.numpy().permutation(len(self.public))[: self.count]
            yield 1 / DRAWS, _claim(frozenset().union(*(self.public[place] for place in order)))


@final
@dataclass(frozen=True)
class SaidPieces(AbstractKind[Pieces, PieceTruth, PieceError]):
    """Which pieces a batch holds: one item, however many utterances there are."""

    claims: ClassVar[type[AbstractClaim]] = Pieces
    default: ClassVar[tuple[AbstractMetric, ...]] = (PieceError(),)

    @property
    def examples(self) -> tuple[Pieces, ...]:
        """Two pieces, one of them a letter."""
        return (Pieces(((1,), (1, 2))),)

    def holds(self, claim: AbstractClaim) -> bool:
        """Pieces."""
        return isinstance(claim, Pieces)

    def takes(self, metric: AbstractMetric) -> bool:
        """The error of a bag of pieces."""
        return isinstance(metric, PieceError)

    def truth(self, claim: Pieces, case: Case) -> PieceTruth:
        """The pieces of the private transcripts. Raises `BadInput` without transcripts, or a client whose decoder
        spells them.
        """
        del claim
        batch, spelling = case.batch(), None if case.client is None else _spelling(case.client.target)
        if spelling is None:
            raise BadInput("pieces are those of a decoder's spelling; pass client=Client(target) of ListenAttendSpell")
        if batch.label_lengths is None:
            raise BadInput("the claim is of pieces that were said, and the secret has no transcripts")
        return PieceTruth(frozenset().union(*bags(batch, spelling)), len(batch), spelling)

    def pair(self, claim: Pieces, truth: PieceTruth) -> Pairing:
        """The one bag is for the one batch; without a piece nothing was claimed."""
        return Pairing((0 if len(claim) else None,))

    def guesses(self, at: Comparison[Pieces, PieceTruth], case: Case) -> Sequence[AbstractGuess[Pieces]]:
        """The 1, 2, 3, ... pieces most frequent in public; those of random public transcripts; every piece there is."""
        spelling = at.truth.spelling
        letters = [(letter,) for letter in range(spelling.letters)]
        found: list[AbstractGuess[Pieces]] = [Constant(_claim(frozenset([*letters, *spelling.known()])))]
        if case.public is None or case.public.label_lengths is None:
            return found
        public = bags(case.public, spelling)
        ranks = _ranked(public)
        found += [Constant(_claim(frozenset(ranks[:size]))) for size in range(1, len(ranks) + 1)]
        return [*found, RandomBags(public, at.truth.count)]

    def items(self, metric: PieceError, at: Comparison[Pieces, PieceTruth], blind: Sequence[float]) -> Judged:
        """The error of the bag; an empty one scores the blind guess."""
        if not len(at.claim):
            return Judged(tuple(blind), 0)
        error = metric.item(frozenset(at.claim.pieces), at.truth.said)
        return Judged((error,), int(error == metric.perfect))

    def claimed(self, at: Comparison[Pieces, PieceTruth]) -> int:
        """The bag, where it holds half as many pieces as were said: the few that are sure say nothing of the others."""
        return int(len(at.claim) > 0 and 2 * len(at.claim) >= len(at.truth.said))

    def shown(self, claim: Pieces, case: Case) -> Shown:
        """Both bags, piece by piece; a space within a piece is written as an underscore."""
        true, claimed = (_listed(one) for one in (sorted(self.truth(claim, case).said), claim.pieces))
        return Shown(answers=(Answer("which pieces were said in the batch", true, claimed),))

    def control(self, outsider: Outsider, *, key: Key) -> Pieces | None:
        """The most frequent public pieces, as many as so many random public transcripts hold on average."""
        spelling = None if outsider.target is None else _spelling(outsider.target)
        if spelling is None or outsider.public.label_lengths is None:
            return None
        public = bags(outsider.public, spelling)
        drawn = [len(claim) for _, claim in RandomBags(public, outsider.count).claims(key=key)]
        return _claim(frozenset(_ranked(public)[: round(sum(drawn) / len(drawn))]))


def bags(batch: Batch, spelling: Spelling) -> tuple[Bag, ...]:
    """The pieces of each of the first `POOL` transcripts, without their ends."""
    assert batch.label_lengths is not None
    outputs, counts = spelling.of(batch.labels[:POOL], batch.label_lengths[:POOL])
    return tuple(
        frozenset(spelling.read((one,)) for one in row[:count])
        for row, count in zip(outputs.tolist(), counts.tolist(), strict=True)
    )


def _spelling(target: Target) -> Spelling | None:
    return target.loss.spelling if isinstance(target.loss, NextPiece) else None


def _ranked(public: Sequence[Bag]) -> list[Letters]:
    """The most frequent first, and of equals the first in the alphabet, so that every process guesses the same."""
    often = Counter(piece for bag in public for piece in bag)
    return sorted(often, key=lambda piece: (-often[piece], piece))


def _claim(bag: Bag) -> Pieces:
    return Pieces(tuple(sorted(bag)))


def _listed(pieces: Sequence[Letters]) -> str:
    return " ".join(spelled(piece).replace(ENGLISH.characters[0], "_") for piece in pieces)
