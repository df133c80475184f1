"""Claims of texts: token ids that are equal or not, paired, and guessed blindly."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from numpy.typing import ArrayLike

from leakscope.core.batch import Batch
from leakscope.core.claim import AbstractClaim, Tokens
from leakscope.core.errors import BadInput
from leakscope.domains.text import sequences_of
from leakscope.numerics.rng import Key
from leakscope.scoring.case import Case
from leakscope.scoring.chance import AbstractGuess, Constant, keys
from leakscope.scoring.kinds.kind import AbstractKind, Comparison, Judged, Outsider, Shown, filled
from leakscope.scoring.metrics.metric import AbstractMetric, AbstractTokenMetric
from leakscope.scoring.metrics.tokens import ExactText, Said, TokenError, TokenOrder, TokenOverlap
from leakscope.scoring.pairing import Pairing, assigned, kept

POOL = 64
"""How many public texts are looked at for the best constant guess."""

DRAWS = 8
"""Over how many draws of random public texts, and of uniform tokens, their expectation is taken."""


@final
@dataclass(frozen=True, eq=False)
class RandomTexts(AbstractGuess[Tokens]):
    """Random public texts, without repeating one while the pool lasts."""

    public: tuple[Said, ...]
    count: int

    def claims(self, *, key: Key) -> Iterator[tuple[float, Tokens]]:
        """`count` members of the pool, drawn `DRAWS` times."""
        size = len(self.public)
        for one in keys(self, key, DRAWS):
            generator = one.numpy()
            order = [place for _ in range(-(-self.count // size)) for place in generator.permutation(size).tolist()]
            yield 1 / DRAWS, Tokens(tuple(self.public[place] for place in order[: self.count]))


@final
@dataclass(frozen=True, eq=False)
class UniformTokens(AbstractGuess[Tokens]):
    """Tokens drawn uniformly from those in public use, as many for each item as public texts have on average."""

    public: tuple[Said, ...]
    count: int

    def claims(self, *, key: Key) -> Iterator[tuple[float, Tokens]]:
        """`count` texts, drawn `DRAWS` times."""
        # Only tokens in public use: all others are never right, and a guess that knows them would be weaker.
        known = sorted({token for one in self.public for token in one})
        shape = self.count, round(sum(map(len, self.public)) / len(self.public))
        for one in keys(self, key, DRAWS):
            drawn = one.numpy().choice(known, size=shape).tolist() if known else [()] * self.count
            yield 1 / DRAWS, Tokens(tuple(tuple(row) for row in drawn))


def constant_texts(public: Batch | None) -> tuple[Said, ...]:
    """What a constant guess could say: nothing; the public text most like the others; the most frequent tokens."""
    if public is None:
        return ((),)
    if not public.holds_tokens:
        raise BadInput(f"public inputs {tuple(public.inputs.shape)} {public.inputs.dtype} are no texts")
    pool = sequences_of(public.inputs[:POOL])
    # The mode of a set of texts, as no text occurs twice: the one that overlaps most with all others.
    likest = max(pool, key=lambda one: sum(_likeness(one, other) for other in pool))
    ranks = [token for token, _ in Counter(token for one in sequences_of(public.inputs) for token in one).most_common()]
    length = round(sum(map(len, pool)) / len(pool))
    # Few tokens are surely there, many cover more: which pays depends on the metric and on the size of the batch.
    return (), likest, *(tuple(ranks[:count]) for count in (2, length, 3 * length))


def true_texts(batch: Batch) -> tuple[Said, ...]:
    """The private token ids, without the filling. Raises `BadInput` where the secret holds no text."""
    if not batch.holds_tokens:
        raise BadInput(f"the claim is of texts, the secret of inputs {tuple(batch.inputs.shape)} {batch.inputs.dtype}")
    return sequences_of(batch.inputs)


def read_as(ids: Iterable[int], words: Sequence[str]) -> tuple[str, ...]:
    """Each token as its word; as its number where no word is known for it.

    >>> read_as([1, 7], ("", "cat"))
    ('cat', '#7')
    """
    return tuple(words[one] if 0 <= one < len(words) and words[one] else f"#{one}" for one in ids)


@final
@dataclass(frozen=True)
class Texts(AbstractKind[Tokens, tuple[Said, ...], AbstractTokenMetric]):
    """Token ids, in their order or as one bag of the batch."""

    claims: ClassVar[type[AbstractClaim]] = Tokens
    default: ClassVar[tuple[AbstractMetric, ...]] = (TokenError(), TokenOverlap(), TokenOrder(), ExactText())

    @property
    def examples(self) -> tuple[Tokens, ...]:
        """One text, and a bag."""
        return (Tokens(((1,),)), Tokens(((1,),), bag=True))

    def holds(self, claim: AbstractClaim) -> bool:
        """Tokens."""
        return isinstance(claim, Tokens)

    def takes(self, metric: AbstractMetric) -> bool:
        """Metrics of texts."""
        return isinstance(metric, AbstractTokenMetric)

    def truth(self, claim: Tokens, case: Case) -> tuple[Said, ...]:
        """The private token ids, without the filling. Raises `BadInput` where the secret holds no text."""
        del claim
        return true_texts(case.batch())

    def pair(self, claim: Tokens, truth: tuple[Said, ...]) -> Pairing:
        """Pairs with the highest total of `TokenOverlap` and `TokenOrder`; a bag is for every item at once."""
        if claim.bag:
            # The one bag is for all of them: it says nothing of which token is in which text.
            return Pairing((0,) * len(truth))

        def costs(rows: list[int], columns: list[int]) -> ArrayLike:
            return [[-_likeness(claim.sequences[row], truth[item]) for item in columns] for row in rows]

        return assigned(claim, truth, lambda places: [claim.sequences[place] for place in places], costs)

    def guesses(self, at: Comparison[Tokens, tuple[Said, ...]], case: Case) -> Sequence[AbstractGuess[Tokens]]:
        """Constants, the public mode among them; random public texts; uniform tokens."""
        count = len(at.truth)
        found: list[AbstractGuess[Tokens]] = [Constant(Tokens((said,) * count)) for said in constant_texts(case.public)]
        if case.public is not None:
            public = sequences_of(case.public.inputs)
            found += [RandomTexts(public, count), UniformTokens(public, count)]
        return found

    def items(
        self, metric: AbstractTokenMetric, at: Comparison[Tokens, tuple[Said, ...]], blind: Sequence[float]
    ) -> Judged:
        """The score of each private text; one without a claim scores the blind guess."""
        sequences, true = at.claim.sequences, at.truth
        # Judged as a whole: precision is of everything that was claimed, whoever it belongs to.
        if not metric.paired:
            values = metric.items([sequences[place] for place in kept(at.claim, len(true))], true)
            return Judged(values, sum(value == metric.perfect for value in values))
        places, partners = at.pairing.known()
        values = metric.items([sequences[i] for i in partners], [true[i] for i in places])
        return Judged(filled(blind, places, values), sum(value == metric.perfect for value in values))

    def nearest(
        self, metric: AbstractTokenMetric, at: Comparison[Tokens, tuple[Said, ...]], public: Batch
    ) -> tuple[float, ...]:
        """The error of the public text that is nearest to each private one; nothing of a bag, which is one for all."""
        if metric != TokenError() or at.claim.bag or not public.holds_tokens:
            return ()
        known = set(sequences_of(public.inputs))
        return tuple(min(metric.items([other], [one])[0] for other in known) for one in at.truth)

    def right(self, claim: Tokens, truth: tuple[Said, ...], tolerances: Sequence[float]) -> tuple[bool, ...]:
        """Whether it is a private text, word for word; of the bag whether it holds the tokens of all and no other."""
        del tolerances
        if claim.bag:
            return (set(claim.sequences[0]) == {token for one in truth for token in one},)
        return tuple(one in truth for one in claim.sequences)

    def claimed(self, at: Comparison[Tokens, tuple[Said, ...]]) -> int:
        """Those with a token."""
        return sum(len(at.claim.sequences[partner]) > 0 for partner in at.pairing.known()[1])

    def shown(self, claim: Tokens, case: Case) -> Shown:
        """The claimed words for each private text, None where nothing was claimed; of a bag one entry for all."""
        if claim.bag:
            return Shown(tokens=(read_as(claim.sequences[0], case.words),), tokens_bag=True)
        partners = self.compared(claim, case).pairing.partners
        found = (None if place is None else read_as(claim.sequences[place], case.words) for place in partners)
        return Shown(tokens=tuple(found))

    def control(self, outsider: Outsider, *, key: Key) -> Tokens | None:
        """The constant guess with the least `TokenError` on public texts."""
        del key
        public = outsider.public
        if not public.holds_tokens:
            return None
        known = sequences_of(public.inputs[:POOL])
        best = min(constant_texts(public), key=lambda guess: math.fsum(TokenError().items([guess] * len(known), known)))
        return Tokens((best,) * outsider.count)


def _likeness(one: Said, other: Said) -> float:
    # Order alone would not tell apart two claims that have the right tokens in a wrong order; overlap alone would not
    # tell which of two is in the right one.
    return TokenOverlap().items([one], [other])[0] + TokenOrder().items([one], [other])[0]
