"""Which claimed item is for which private one: by assignment, so that order cannot change a score."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

from numpy.typing import ArrayLike

from leakscope.core.claim import AbstractClaim
from leakscope.numerics.assign import assign

Costs = Callable[[list[int], list[int]], ArrayLike]
"""The costs (rows, columns) of claimed items in the order `rows` for private ones in the order `columns`."""


@final
@dataclass(frozen=True)
class Pairing:
    """For each private item, in the secret's order, the place of its claimed one; None where nothing was claimed.

    extra: claimed items beyond the number of private ones, which are not looked at.

    >>> Pairing((1, None), extra=0).unclaimed
    (False, True)
    """

    partners: tuple[int | None, ...]
    extra: int = 0

    @property
    def unclaimed(self) -> tuple[bool, ...]:
        """Whether each private item went without a claim."""
        return tuple(partner is None for partner in self.partners)

    def known(self) -> tuple[list[int], list[int]]:
        """Places in the secret and in the claim of the items that have a partner."""
        pairs = [(place, partner) for place, partner in enumerate(self.partners) if partner is not None]
        return [place for place, _ in pairs], [partner for _, partner in pairs]

    def notes(self) -> Iterator[str]:
        """What a reader must know: how many private items have no claim, how many claimed ones no private item."""
        missing, count = sum(self.unclaimed), len(self.partners)
        if missing:
            yield f"{missing} of {count} private items were not claimed; they stay in every mean"
        if self.extra:
            yield f"{self.extra} claimed items beyond the {count} private ones were not looked at"


def kept(claim: AbstractClaim, count: int) -> list[int]:
    """The places of the claimed items that are judged: the `count` most confident ones, for every kind of claim.

    A claim of more items than there are private ones must not win by guessing everything: with m items for k private
    ones a pairing would choose the best k of m, which is m - k tries more than the blind guess has. What is judged here
    depends on the claim and on k alone, so the attack could have claimed just that, and no rule needs a correction.
    Where confidences tie or are missing (NaN ranks last), the claim's own order is its ranking. A certificate answers
    for the whole claim, also for what is not judged (`AbstractKind.right`).
    """
    sure = claim.confidence
    rank = [-1.0] * len(claim) if sure is None else sure.nan_to_num(nan=-1.0).tolist()
    # By place where confidences tie, so that what is judged is a function of the claim; back in the claim's order, as
    # items are looked up by their places.
    chosen = sorted(range(len(claim)), key=lambda place: (-rank[place], place))[:count]
    return sorted(chosen)


def assigned(
    claim: AbstractClaim, true: Sequence[Any], content: Callable[[list[int]], Sequence[Any]], costs: Costs
) -> Pairing:
    """Pairs the judged items of `claim` with the private ones at the lowest total cost, each used once.

    true: the content of each private item; content(places): that of the claimed ones at these places, in their order.
    A content may be anything that sorts, and is equal for equal items alone. costs(rows, columns): see `Costs`; rows
    and columns are places in the claim and in the secret.
    """
    places = kept(claim, len(true))
    own = dict(zip(places, content(places), strict=True))
    # Both sides are sorted by content first. Several pairings may cost the same, and which of them the solver returns
    # depends on the order of its rows and columns; a metric other than the cost then scores differently. Sorted, the
    # same pairs are chosen in whatever order claim and secret came: the law "order is nothing".
    rows = sorted(places, key=own.__getitem__)
    columns = sorted(range(len(true)), key=true.__getitem__)
    partners: list[int | None] = [None] * len(true)
    if rows:
        for row, column in zip(*assign(costs(rows, columns)), strict=True):
            partners[columns[column]] = rows[row]
    return Pairing(tuple(partners), len(claim) - len(places))
