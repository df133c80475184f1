"""Claims of transcripts: paired by their edits, or as bags of characters, and guessed blindly."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from numpy.typing import ArrayLike

from leakscope.core.claim import AbstractClaim, Transcripts
from leakscope.core.errors import BadInput
from leakscope.domains.speech import ENGLISH
from leakscope.numerics.edits import edits
from leakscope.numerics.rng import Key
from leakscope.scoring.case import Case
from leakscope.scoring.chance import AbstractGuess, Constant, keys
from leakscope.scoring.kinds.kind import AbstractKind, Answer, Comparison, Judged, Outsider, Shown, filled
from leakscope.scoring.metrics.metric import AbstractMetric, AbstractTranscriptMetric
from leakscope.scoring.metrics.speech import CharacterErrorRate, CharacterSetError, WordErrorRate
from leakscope.scoring.pairing import Pairing, assigned

POOL = 24
"""How many public transcripts are looked at for the best constant guess."""

DRAWS = 4
"""Over how many draws of random public transcripts their expectation is taken; each costs B^2 edit distances."""

Said = tuple[int, ...]


@final
@dataclass(frozen=True, eq=False)
class RandomTranscripts(AbstractGuess[Transcripts]):
    """Random public transcripts, without repeating one while the pool lasts."""

    public: tuple[Said, ...]
    count: int

    def claims(self, *, key: Key) -> Iterator[tuple[float, Transcripts]]:
        """`count` members of the pool, drawn `DRAWS` times."""
        size = len(self.public)
        for one in keys(self, key, DRAWS):
            generator = one.numpy()
            order = [place for _ in range(-(-self.count // size)) for place in generator.permutation(size).tolist()]
            yield 1 / DRAWS, Transcripts(tuple(self.public[place] for place in order[: self.count]))


@final
@dataclass(frozen=True, eq=False)
class UniformCharacters(AbstractGuess[Transcripts]):
    """Characters drawn uniformly from those in public use, as many as transcripts are long on average."""

    public: tuple[Said, ...]
    count: int

    def claims(self, *, key: Key) -> Iterator[tuple[float, Transcripts]]:
        """One string for all items, drawn `DRAWS` times: chance favors none of them, so they need no own ones."""
        known = sorted({character for said in self.public for character in said})
        length = round(sum(map(len, self.public)) / len(self.public))
        for one in keys(self, key, DRAWS):
            drawn = one.numpy().choice(known, size=length).tolist() if known else []
            yield 1 / DRAWS, Transcripts((tuple(drawn),) * self.count)


@functools.lru_cache(maxsize=32)
def constant_transcripts(public: tuple[Said, ...]) -> tuple[Said, ...]:
    """What a constant guess could say: nothing; the public transcript nearest to the others; the most frequent public
    character as often as transcripts are long. The nearest of the first `POOL` public transcripts is by their edits.

    >>> constant_transcripts(((1, 2, 2), (1, 2), (4, 1, 2, 2)))
    ((), (1, 2, 2), (2, 2, 2))
    """
    pool = public[:POOL]
    # The mode of a set of strings, as no string occurs twice: the one with the fewest edits to all others.
    nearest = min(pool, key=lambda one: sum(edits(one, other) / max(1, len(other)) for other in pool))
    counts = Counter(character for said in public for character in said)
    length = round(sum(map(len, public)) / len(public))
    # One character over and over has that one right wherever it occurs: a strong guess of nothing at all.
    frequent = tuple([counts.most_common(1)[0][0]] * length) if counts else ()
    return (), nearest, frequent


def constant_bags(public: tuple[Said, ...]) -> tuple[Said, ...]:
    """The same as bags: nothing; the characters of each of `POOL` public transcripts; the 1, 2, 3, ... most frequent.

    >>> constant_bags(((1, 2, 2), (1, 2)))
    ((), (1, 2), (2,))
    """
    ranks = [character for character, _ in Counter(c for said in public for c in said).most_common()]
    frequent = [tuple(sorted(ranks[:size])) for size in range(len(ranks) + 1)]
    # Many public transcripts have the same characters; dict keeps the first of each, in order.
    return tuple(dict.fromkeys([(), *(tuple(sorted(set(said))) for said in public[:POOL]), *frequent]))


def spelled(said: Said) -> str:
    """As text. A claim may hold what is no character, such as the blank: a report shows it rather than fails."""
    return "".join(ENGLISH.characters[i] if 0 <= i < ENGLISH.blank else "\N{REPLACEMENT CHARACTER}" for i in said)


@final
@dataclass(frozen=True)
class PrivateTranscripts(AbstractKind[Transcripts, tuple[Said, ...], AbstractTranscriptMetric]):
    """What was said, as strings or as bags of characters."""

    claims: ClassVar[type[AbstractClaim]] = Transcripts
    default: ClassVar[tuple[AbstractMetric, ...]] = (CharacterErrorRate(), WordErrorRate(), CharacterSetError())

    @property
    def examples(self) -> tuple[Transcripts, ...]:
        """One transcript, and a bag."""
        return (Transcripts(((1,),)), Transcripts(((1,),), bag=True))

    def holds(self, claim: AbstractClaim) -> bool:
        """Transcripts."""
        return isinstance(claim, Transcripts)

    def takes(self, metric: AbstractMetric) -> bool:
        """Metrics of transcripts."""
        return isinstance(metric, AbstractTranscriptMetric)

    def truth(self, claim: Transcripts, case: Case) -> tuple[Said, ...]:
        """The private transcripts. Raises `BadInput` where the examples have none, or the public ones."""
        batch, public = case.batch(), case.public
        if batch.lengths is None:
            name = type(claim).__name__
            raise BadInput(f"a batch is compared with Inputs or Labels, not with a claim of {name}")
        if public is not None and public.lengths is None:
            raise BadInput(
                f"public inputs {tuple(public.inputs.shape)} are no sequences like {tuple(batch.inputs.shape)}"
            )
        return batch.transcripts()

    def pair(self, claim: Transcripts, truth: tuple[Said, ...]) -> Pairing:
        """Pairs with the lowest total `CharacterErrorRate`, bags `CharacterSetError`; one bag is for every item."""
        if _of_batch(claim):
            return Pairing((0,) * len(truth))
        # By characters for words as well: words are few, and most pairings would cost the same.
        metric = CharacterSetError() if claim.bag else CharacterErrorRate()

        def costs(rows: list[int], columns: list[int]) -> ArrayLike:
            return [[metric.items([claim.labels[row]], [truth[i]])[0] for i in columns] for row in rows]

        return assigned(
            claim, [repr(said) for said in truth], lambda places: [repr(claim.labels[place]) for place in places], costs
        )

    def guesses(
        self, at: Comparison[Transcripts, tuple[Said, ...]], case: Case
    ) -> Sequence[AbstractGuess[Transcripts]]:
        """Constants, the public mode among them; random public transcripts; uniform characters. Of bags, bags."""
        # Strings for strings and bags for bags: a guess has to be judged by the metric of the claim.
        public, count = () if case.public is None else case.public.transcripts(), len(at.truth)
        if at.claim.bag:
            # A bag of the batch is guessed as one bag: repeated for each item, what others say would count as wrong.
            times = 1 if _of_batch(at.claim) else count
            return [
                Constant(Transcripts((bag,) * times, bag=True)) for bag in (constant_bags(public) if public else ((),))
            ]
        constants = constant_transcripts(public) if public else ((),)
        found: list[AbstractGuess[Transcripts]] = [Constant(Transcripts((said,) * count)) for said in constants]
        return [*found, *([RandomTranscripts(public, count), UniformCharacters(public, count)] if public else [])]

    def items(
        self, metric: AbstractTranscriptMetric, at: Comparison[Transcripts, tuple[Said, ...]], blind: Sequence[float]
    ) -> Judged:
        """The metric of each pair; a transcript without a claim scores the blind guess."""
        places, partners = at.pairing.known()
        said, true = [at.claim.labels[i] for i in partners], [at.truth[i] for i in places]
        if _of_batch(at.claim):
            said = [_without_others(one, own, at.truth) for one, own in zip(said, true, strict=True)]
        # Exact is the string itself; of bags, which have no order to be wrong, a perfect score.
        values = metric.items(said, true)
        exact = sum(value == metric.perfect for value in values) if metric.bags else sum(map(_equal, said, true))
        return Judged(filled(blind, places, values), exact)

    def right(self, claim: Transcripts, truth: tuple[Said, ...], tolerances: Sequence[float]) -> tuple[bool, ...]:
        """Whether it was said, to the character; of bags whether the characters are those of one, or of all."""
        del tolerances
        if _of_batch(claim):
            return (set(claim.labels[0]) == {character for said in truth for character in said},)
        known = [tuple(sorted(set(said))) for said in truth] if claim.bag else truth
        return tuple(one in known for one in claim.labels)

    def claimed(self, at: Comparison[Transcripts, tuple[Said, ...]]) -> int:
        """Those with a character."""
        return sum(len(at.claim.labels[partner]) > 0 for partner in at.pairing.known()[1])

    def shown(self, claim: Transcripts, case: Case) -> Shown:
        """The claimed text for each private one, empty where nothing was claimed; bags as the characters in them."""
        at = self.compared(claim, case)
        found = [None if place is None else claim.labels[place] for place in at.pairing.partners]
        if not claim.bag:
            return Shown(transcripts=tuple("" if said is None else spelled(said) for said in found))
        pairs = zip(at.truth, found, strict=True)
        said = ((spelled(own), None if bag is None else spelled(bag)) for own, bag in pairs)
        return Shown(answers=tuple(Answer("which characters were said", *one) for one in said))

    def control(self, outsider: Outsider, *, key: Key) -> Transcripts | None:
        """The public transcript that is nearest to the others, for every item."""
        del key
        if outsider.public.lengths is None:
            return None
        return Transcripts((constant_transcripts(outsider.public.transcripts())[1],) * outsider.count)


def _of_batch(claim: Transcripts) -> bool:
    """Whether it is one bag for the whole batch."""
    return claim.bag and len(claim) == 1


def _without_others(bag: Said, own: Said, all_said: Sequence[Said]) -> Said:
    """The bag without what only other transcripts say: rightly claimed, but not of this one."""
    # True of somebody, so no mistake; and of somebody else, so no success here.
    others = {character for said in all_said for character in said} - set(own)
    return tuple(character for character in bag if character not in others)


def _equal(one: Said, other: Said) -> bool:
    return one == other
