"""Claims of an attribute: where the truth stands in a ranking, and where it stands in a blind guess."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from leakscope.core.annotation import Annotation
from leakscope.core.claim import AbstractClaim, Attribute
from leakscope.core.errors import BadInput
from leakscope.numerics.rng import Key
from leakscope.scoring.case import Case
from leakscope.scoring.chance import AbstractGuess, keys
from leakscope.scoring.kinds.kind import AbstractKind, Comparison, Judged, Outsider, Ranked, Shown
from leakscope.scoring.metrics.metric import AbstractMetric, AbstractRankMetric
from leakscope.scoring.metrics.ranks import ReciprocalRank, TopFive, TopOne
from leakscope.scoring.pairing import Pairing, assigned
from leakscope.scoring.standing import Standing

DRAWS = 128
"""Over how many random rankings the chance level of a batch is taken; that of a single item is exact."""

NOISE = 2.0
"""Standard deviations by which two counts must differ for a public pool to tell their categories apart: by accident
one pair of twenty does. With fewer, balanced categories have modes; with more, 80 % are none in a pool of a dozen."""

SHOWN = 5
"""How many of the best candidates a report shows."""


@final
@dataclass(frozen=True, eq=False)
class Candidates:
    """What a blind ranking may rank: the name of the attribute, and which of its G categories the claim leaves open.

    open: (G,) bool. count: of private items. A category that the claim rules out for every item is no candidate for a
    guess either, so that naming few candidates does not pay by itself.
    """

    name: str
    open: Tensor
    count: int

    def ranking(self, scores: Tensor) -> Attribute:
        """The claim with these scores, (G,) for all items or (count, G)."""
        # A claim needs a value for each item; it is not read, as scoring looks at the rank of the truth alone.
        rows = torch.where(self.open, scores, -torch.inf).expand(self.count, -1)
        return Attribute(self.name, rows.argmax(1), scores=rows.clone())


@final
@dataclass(frozen=True, eq=False)
class Nobody(AbstractGuess[Attribute]):
    """A ranking that prefers nobody: of one item exactly k/G for the first k of G candidates, H_G/G for 1/rank."""

    among: Candidates

    def claims(self, *, key: Key) -> Iterator[tuple[float, Attribute]]:
        """All candidates tied."""
        del key
        yield 1.0, self.among.ranking(torch.zeros(len(self.among.open), dtype=torch.float64))


@final
@dataclass(frozen=True, eq=False)
class RandomRanking(AbstractGuess[Attribute]):
    """A random ranking for each of several items. Claims are paired to their advantage; so are these."""

    among: Candidates

    def claims(self, *, key: Key) -> Iterator[tuple[float, Attribute]]:
        """`DRAWS` rankings."""
        # Drawn at once, so that the level does not depend on how often the generator was asked.
        shape = (DRAWS, self.among.count, len(self.among.open))
        for one in torch.rand(shape, generator=key.child("ranking").generator(), dtype=torch.float64):
            yield 1 / DRAWS, self.among.ranking(one)


@final
@dataclass(frozen=True, eq=False)
class ByFrequency(AbstractGuess[Attribute]):
    """The categories in the order of their public frequencies (G,): the most frequent first, for every item."""

    among: Candidates
    frequencies: Tensor

    def claims(self, *, key: Key) -> Iterator[tuple[float, Attribute]]:
        """That ranking; equally frequent categories are tied."""
        del key
        yield 1.0, self.among.ranking(self.frequencies)


@final
@dataclass(frozen=True, eq=False)
class Majority(AbstractGuess[Attribute]):
    """The most frequent public category for every item, all others tied behind it: what a constant claim says.

    Where 80 % of people share a category it is right for 80 % of them, and no leak. Where several are equally
    frequent, each of them alike.
    """

    among: Candidates
    frequencies: Tensor

    def claims(self, *, key: Key) -> Iterator[tuple[float, Attribute]]:
        """One claim for each of the most frequent categories."""
        del key
        known = torch.where(self.among.open, self.frequencies, -torch.inf)
        ties = (known == known.max()).nonzero().flatten().tolist()
        for category in ties:
            yield 1 / len(ties), self.among.ranking(_first(category, len(known)))


@final
@dataclass(frozen=True, eq=False)
class RandomPerson(AbstractGuess[Attribute]):
    """The category of a random public example: for one item in exact expectation, for several drawn for each."""

    among: Candidates
    frequencies: Tensor

    def claims(self, *, key: Key) -> Iterator[tuple[float, Attribute]]:
        """One claim for each category with its frequency, or `DRAWS` claims of independent ones."""
        # Who is ruled out cannot be drawn; the others keep their proportions.
        shares = torch.where(self.among.open, self.frequencies, 0.0)
        size = len(shares)
        if self.among.count == 1:
            for category in shares.nonzero().flatten().tolist():
                yield float(shares[category] / shares.sum()), self.among.ranking(_first(category, size))
            return
        for one in keys(self, key, DRAWS):
            drawn = torch.multinomial(shares, self.among.count, replacement=True, generator=one.generator())
            rows = torch.stack([_first(category, size) for category in drawn.tolist()])
            yield 1 / DRAWS, self.among.ranking(rows)


def told_apart(counts: Tensor) -> Tensor:
    """(G,) float64: counts of a public pool, those that differ by no more than sampling noise made equal to their mean.

    A group are all counts n with top - n <= `NOISE` sqrt(top + n), top being the largest that is in no group yet.

    >>> told_apart(torch.tensor([80.0, 21.0, 15.0, 0.0])).tolist(), told_apart(torch.tensor([5.0, 4.0, 3.0])).tolist()
    ([80.0, 18.0, 18.0, 0.0], [4.0, 4.0, 4.0])
    """
    # The level is chosen with the secret at hand. A mode that is one by accident would be right for 1/G of all secrets
    # and set their chance to 1, while the others keep 1/G: a balanced attribute of two categories would have a chance
    # of 3/4 instead of 1/2 over many trials, and hardly any attack could be seen to beat it.
    found, left = counts.double().clone(), torch.ones(len(counts), dtype=torch.bool)
    while bool(left.any()):
        top = float(counts[left].max())
        # Counts are about Poisson: the difference of two has the variance of their sum.
        alike = left & (top - counts <= NOISE * (top + counts).sqrt())
        found[alike] = counts[alike].double().mean()
        left &= ~alike
    return found


def table(scores: Tensor, categories: Sequence[int]) -> list[list[Standing | None]]:
    """Where each of B categories stands in each row of `scores` (N, G); None where it is ruled out.

    Candidates are those above -inf.

    >>> table(torch.tensor([[0.2, 0.9, 0.2]]), [0])
    [[Standing(above=1, tied=1, of=3)]]
    """
    # own[n, b]: the score that row n gives to the category of item b.
    own = scores[:, list(categories)]
    above = (scores[:, None] > own[..., None]).sum(2).tolist()
    same = (scores[:, None] == own[..., None]).sum(2).tolist()
    there, of = (own > -torch.inf).tolist(), (scores > -torch.inf).sum(1).tolist()
    # `same` counts the category itself, which is not tied with itself.
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
        # Without scores nothing is said of the others: tied, they share the ranks behind the claimed one.
        return torch.nn.functional.one_hot(claim.values, count).double()
    if claim.scores.shape[1] != count:
        raise BadInput(f"the claim scores {claim.scores.shape[1]} categories, {truth.name!r} has {count}")
    return claim.scores.double()


def standings(at: Comparison[Attribute, Annotation]) -> tuple[Standing | None, ...]:
    """Where each private item stands in the ranking that it was paired with."""
    found = table(scores_of(at.claim, at.truth), at.truth.values)
    partners = at.pairing.partners
    return tuple(None if partner is None else found[partner][item] for item, partner in enumerate(partners))


@final
@dataclass(frozen=True)
class PrivateAttributes(AbstractKind[Attribute, Annotation, AbstractRankMetric]):
    """An attribute of each example, or of the owner of the batch, who is then the one private item."""

    claims: ClassVar[type[AbstractClaim]] = Attribute
    default: ClassVar[tuple[AbstractMetric, ...]] = (TopOne(), TopFive(), ReciprocalRank())

    @property
    def examples(self) -> tuple[Attribute, ...]:
        """One value."""
        return (Attribute("sex", torch.tensor([1])),)

    def holds(self, claim: AbstractClaim) -> bool:
        """Attributes."""
        return isinstance(claim, Attribute)

    def takes(self, metric: AbstractMetric) -> bool:
        """Metrics of rankings."""
        return isinstance(metric, AbstractRankMetric)

    def truth(self, claim: Attribute, case: Case) -> Annotation:
        """The annotation of the claim's name, which a bare batch does not have."""
        return case.annotation(claim.name)

    def pair(self, claim: Attribute, truth: Annotation) -> Pairing:
        """Pairs with the lowest total rank: a batch has no order, and a blind guess is paired in the same way."""
        # Rank, not score: scores of two rows have no common scale, so a sum of them would mean nothing.
        scores = scores_of(claim, truth)
        last = len(truth.categories) + 1  # a category that is ruled out is behind all others

        def content(places: list[int]) -> list[bytes]:
            return [scores[place].numpy().tobytes() for place in places]

        def costs(rows: list[int], columns: list[int]) -> ArrayLike:
            found = table(scores[rows], [truth.values[item] for item in columns])
            return [[last if where is None else where.rank for where in row] for row in found]

        return assigned(claim, truth.values, content, costs)

    def guesses(self, at: Comparison[Attribute, Annotation], case: Case) -> Sequence[AbstractGuess[Attribute]]:
        """Rankings that prefer nobody, random ones, and what the public annotation of the same name makes likely."""
        count = len(at.truth.values)
        # .any(0): open for some item, since which row is for which item is not known before they are paired.
        among = Candidates(at.truth.name, (scores_of(at.claim, at.truth) > -torch.inf).any(0), count)
        found: list[AbstractGuess[Attribute]] = [Nobody(among)]
        if count > 1:  # of one item, a random ranking is nobody's in expectation
            found.append(RandomRanking(among))
        frequencies = case.frequencies(at.truth)
        if frequencies is not None and bool((frequencies[among.open] > 0).any()):
            known = told_apart(frequencies)
            found += [Majority(among, known), ByFrequency(among, known), RandomPerson(among, known)]
        return found

    def items(
        self, metric: AbstractRankMetric, at: Comparison[Attribute, Annotation], blind: Sequence[float]
    ) -> Judged:
        """The metric of each standing; who is ruled out or not claimed was not found. Exact: first, and alone."""
        del blind
        where = standings(at)
        return Judged(metric.items(where), sum(one is not None and one.above == one.tied == 0 for one in where))

    def notes(self, at: Comparison[Attribute, Annotation], metrics: Sequence[AbstractRankMetric]) -> tuple[str, ...]:
        """How many items are of a category that was ruled out."""
        del metrics
        where = standings(at)
        absent = sum(one is None for one in where) - sum(at.pairing.unclaimed)
        note = f"{absent} of {len(where)} private items are of a category that was ruled out; they count as not found"
        return (note,) if absent else ()

    def shown(self, claim: Attribute, case: Case) -> Shown:
        """Who each item was, where that person stands, and who is nearest."""
        at = self.compared(claim, case)
        truth, scores = at.truth, scores_of(claim, at.truth)
        found = []
        for partner, category, where in zip(at.pairing.partners, truth.values, standings(at), strict=True):
            order = [] if partner is None else torch.argsort(scores[partner], descending=True, stable=True).tolist()
            best = tuple(
                truth.categories[g] for g in order[:SHOWN] if partner is not None and scores[partner, g] > -torch.inf
            )
            found.append(Ranked(truth.name, truth.categories[category], where, best))
        return Shown(rankings=tuple(found))

    def control(self, outsider: Outsider, *, key: Key) -> Attribute | None:
        """A ranking that prefers nobody of those who are in the lineup, or of two suspects; without any nothing."""
        del key
        if outsider.suspected is not None:
            return Attribute(outsider.suspected, torch.zeros(1, dtype=torch.int64), scores=torch.zeros(1, 2))
        lineup = outsider.gallery
        if lineup is None:
            return None
        # Who has no recording in the lineup is no candidate of an attack either; guessing them would lower chance.
        there = torch.full((len(lineup.categories),), -torch.inf)
        there[torch.tensor(lineup.members)] = 0.0
        values = torch.full((outsider.count,), lineup.members[0])
        return Attribute(lineup.attribute, values, scores=there.expand(outsider.count, -1).clone())


def _first(category: int, size: int) -> Tensor:
    """(G,) scores that put one category first and tie all others."""
    return torch.nn.functional.one_hot(torch.tensor(category), size).double()
