"""Claims of transcripts: paired by their edits, and guessed blindly."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from numpy.typing import ArrayLike

from leakscope.core.batch import Batch
from leakscope.core.claim import AbstractClaim, Transcripts
from leakscope.core.errors import BadInput
from leakscope.domains.speech import ENGLISH
from leakscope.numerics.edits import edits
from leakscope.numerics.rng import Key
from leakscope.scoring.case import Case
from leakscope.scoring.chance import AbstractGuess, Constant, keys
from leakscope.scoring.kinds.kind import AbstractKind, Comparison, Judged, Outsider, Shown, filled
from leakscope.scoring.metrics.metric import AbstractMetric, AbstractTranscriptMetric
from leakscope.scoring.metrics.speech import CharacterErrorRate, WordErrorRate
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


def spelled(said: Said) -> str:
    """As text. A claim may hold what is no character, such as the blank: a report shows it rather than fails."""
    return "".join(ENGLISH.characters[i] if 0 <= i < ENGLISH.blank else "\N{REPLACEMENT CHARACTER}" for i in said)


@final
@dataclass(frozen=True)
class PrivateTranscripts(AbstractKind[Transcripts, tuple[Said, ...], AbstractTranscriptMetric]):
    """What was said."""

    claims: ClassVar[type[AbstractClaim]] = Transcripts
    default: ClassVar[tuple[AbstractMetric, ...]] = (CharacterErrorRate(), WordErrorRate())

    @property
    def examples(self) -> tuple[Transcripts, ...]:
        """One transcript."""
        return (Transcripts(((1,),)),)

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
        """Pairs with the lowest total `CharacterErrorRate`."""
        # By characters for words as well: words are few, and most pairings would cost the same.
        metric = CharacterErrorRate()

        def costs(rows: list[int], columns: list[int]) -> ArrayLike:
            return [[metric.items([claim.labels[row]], [truth[i]])[0] for i in columns] for row in rows]

        return assigned(
            claim, [repr(said) for said in truth], lambda places: [repr(claim.labels[place]) for place in places], costs
        )

    def guesses(
        self, at: Comparison[Transcripts, tuple[Said, ...]], case: Case
    ) -> Sequence[AbstractGuess[Transcripts]]:
        """Constants, the public mode among them; random public transcripts; uniform characters."""
        public, count = () if case.public is None else case.public.transcripts(), len(at.truth)
        # Constants even where nobody knows public speech: to say nothing at all is always open.
        constants = constant_transcripts(public) if public else ((),)
        found: list[AbstractGuess[Transcripts]] = [Constant(Transcripts((said,) * count)) for said in constants]
        return [*found, *([RandomTranscripts(public, count), UniformCharacters(public, count)] if public else [])]

    def items(
        self, metric: AbstractTranscriptMetric, at: Comparison[Transcripts, tuple[Said, ...]], blind: Sequence[float]
    ) -> Judged:
        """The metric of each pair; a transcript without a claim scores the blind guess."""
        places, partners = at.pairing.known()
        said, true = [at.claim.labels[i] for i in partners], [at.truth[i] for i in places]
        values = metric.items(said, true)
        # Exact is the string itself: words can be right where spaces are not.
        exact = sum(map(_equal, said, true))
        return Judged(filled(blind, places, values), exact)

    def nearest(
        self, metric: AbstractTranscriptMetric, at: Comparison[Transcripts, tuple[Said, ...]], public: Batch
    ) -> tuple[float, ...]:
        """The error of the public transcript that is nearest to each private one: often the same was said."""
        if metric != CharacterErrorRate() or public.lengths is None:
            return ()
        known = set(public.transcripts())
        return tuple(min(metric.items([other], [one])[0] for other in known) for one in at.truth)

    def right(self, claim: Transcripts, truth: tuple[Said, ...], tolerances: Sequence[float]) -> tuple[bool, ...]:
        """Whether it was said, to the character."""
        del tolerances
        # Wherever it stands: a claim says that it was said, and not by whom.
        return tuple(one in truth for one in claim.labels)

    def claimed(self, at: Comparison[Transcripts, tuple[Said, ...]]) -> int:
        """Those with a character, and half as many as were said: a word of each sentence is an abstention."""
        pairs = zip(*at.pairing.known(), strict=True)
        lengths = ((len(at.claim.labels[partner]), len(at.truth[place])) for place, partner in pairs)
        return sum(said > 0 and 2 * said >= true for said, true in lengths)

    def shown(self, claim: Transcripts, case: Case) -> Shown:
        """The claimed text for each private one, empty where nothing was claimed."""
        at = self.compared(claim, case)
        found = [None if place is None else claim.labels[place] for place in at.pairing.partners]
        return Shown(transcripts=tuple("" if said is None else spelled(said) for said in found))

    def control(self, outsider: Outsider, *, key: Key) -> Transcripts | None:
        """The public transcript that is nearest to the others, for every item."""
        del key
        if outsider.public.lengths is None:
            return None
        return Transcripts((constant_transcripts(outsider.public.transcripts())[1],) * outsider.count)


def _equal(one: Said, other: Said) -> bool:
    return one == other
