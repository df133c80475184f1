"""How much of private texts was found: which tokens, in which order, whole sequences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from leakscope.core.claim import AbstractClaim, Tokens
from leakscope.scoring.metrics.metric import AbstractTokenMetric
from leakscope.scoring.score import Direction

Said = tuple[int, ...]


def _order_needed(name: str, claim: AbstractClaim) -> str | None:
    if isinstance(claim, Tokens) and claim.bag:
        return f"{name} compares sequences, but the claim is a bag of tokens"
    return None


def _harmonic(hits: int, claimed: int, true: int) -> float:
    """2 hits / (claimed + true), the harmonic mean of precision and recall; 1 where both are empty."""
    # 2 P R / (P + R) with P = hits / claimed and R = hits / true; symmetric, so too many costs what too few costs.
    return 2 * hits / (claimed + true) if claimed + true else 1.0


@final
@dataclass(frozen=True)
class TokenError(AbstractTokenMetric):
    """1 - 2 P R / (P + R): R the share of a private text's different tokens that are claimed, P of claimed ones true.

    In [0, 1]; 0 only where every token is claimed and no other. P is of the whole claim, so that claiming the whole
    vocabulary does not pay. Judges bags as well as sequences; verdicts on texts are read from it.

    >>> TokenError().items([(5, 3), (8,)], [(5, 5, 8), (7,)])
    (0.19999999999999996, 1.0)
    """

    name: ClassVar[str] = "token-error"
    unit: ClassVar[str] = "of 1"
    direction: ClassVar[Direction] = Direction.LOWER
    paired: ClassVar[bool] = False

    @property
    def perfect(self) -> float:
        """No error: 0."""
        return 0.0

    @property
    def worst(self) -> float:
        """Not one token: 1."""
        return 1.0

    def unfit(self, claim: AbstractClaim) -> str | None:
        """Judges every claim of tokens."""
        del claim
        return None

    def items(self, claimed: Sequence[Said], true: Sequence[Said]) -> tuple[float, ...]:
        """One for each private sequence, of all claimed tokens."""
        # Sets: which of several equal tokens was found cannot be told from a bag.
        found = {token for one in claimed for token in one}
        real = {token for one in true for token in one}
        precision = len(found & real) / len(found) if found else 0.0
        # An empty private text has nothing to miss.
        recalls = (len(found & set(one)) / len(set(one)) if one else 1.0 for one in true)
        return tuple(1 - 2 * precision * one / (precision + one) if precision and one else 1.0 for one in recalls)


@final
@dataclass(frozen=True)
class TokenOverlap(AbstractTokenMetric):
    """2 sum_v min(claimed_v, true_v) / (|claimed| + |true|), the F-measure of ROUGE-1 (Lin 2004); in [0, 1].

    >>> TokenOverlap().items([(5, 3, 3)], [(3, 5, 8)])
    (0.6666666666666666,)
    """

    name: ClassVar[str] = "token-overlap"
    unit: ClassVar[str] = "of 1"
    direction: ClassVar[Direction] = Direction.HIGHER

    @property
    def perfect(self) -> float:
        """Every token right: 1."""
        return 1.0

    @property
    def worst(self) -> float:
        """Nothing right: 0."""
        return 0.0

    def unfit(self, claim: AbstractClaim) -> str | None:
        """A bag has no sequences."""
        return _order_needed(self.name, claim)

    def items(self, claimed: Sequence[Said], true: Sequence[Said]) -> tuple[float, ...]:
        """One for each pair."""
        return tuple(
            # & takes the smaller count of each token: a repeated one is right as often as it truly occurs.
            _harmonic((Counter(one) & Counter(other)).total(), len(one), len(other))
            for one, other in zip(claimed, true, strict=True)
        )


@final
@dataclass(frozen=True)
class TokenOrder(AbstractTokenMetric):
    """2 LCS / (|claimed| + |true|) with LCS the longest common subsequence, the F-measure of ROUGE-L (Lin 2004).

    >>> TokenOrder().items([(5, 3, 8)], [(3, 5, 8)])
    (0.6666666666666666,)
    """

    name: ClassVar[str] = "token-order"
    unit: ClassVar[str] = "of 1"
    direction: ClassVar[Direction] = Direction.HIGHER

    @property
    def perfect(self) -> float:
        """Every token right: 1."""
        return 1.0

    @property
    def worst(self) -> float:
        """Nothing right: 0."""
        return 0.0

    def unfit(self, claim: AbstractClaim) -> str | None:
        """A bag has no order."""
        return _order_needed(self.name, claim)

    def items(self, claimed: Sequence[Said], true: Sequence[Said]) -> tuple[float, ...]:
        """One for each pair."""
        return tuple(
            _harmonic(common(one, other), len(one), len(other)) for one, other in zip(claimed, true, strict=True)
        )


@final
@dataclass(frozen=True)
class ExactText(AbstractTokenMetric):
    """1 where every token is right and in its place, else 0.

    >>> ExactText().items([(5, 3), (7,)], [(5, 3), (7, 7)])
    (1.0, 0.0)
    """

    name: ClassVar[str] = "exact-text"
    unit: ClassVar[str] = "of 1"
    direction: ClassVar[Direction] = Direction.HIGHER

    @property
    def perfect(self) -> float:
        """Every token right: 1."""
        return 1.0

    @property
    def worst(self) -> float:
        """Nothing right: 0."""
        return 0.0

    def unfit(self, claim: AbstractClaim) -> str | None:
        """A bag has no order."""
        return _order_needed(self.name, claim)

    def items(self, claimed: Sequence[Said], true: Sequence[Said]) -> tuple[float, ...]:
        """One for each pair."""
        return tuple(float(one == other) for one, other in zip(claimed, true, strict=True))


def common(one: Said, other: Said) -> int:
    """The length of the longest common subsequence.

    >>> common((1, 2, 3, 4), (2, 4, 3))
    2
    """
    # row[j]: the length for what was read of `one` and the first j of `other`; diagonal: row[j - 1] one step ago.
    row = [0] * (len(other) + 1)
    for item in one:
        diagonal = 0
        for column, partner in enumerate(other, 1):
            diagonal, row[column] = row[column], max(row[column], row[column - 1], diagonal + (item == partner))
    return row[-1]
