"""A part of a plan's cells, so that several machines can share one audit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from leakscope.core.errors import BadInput

if TYPE_CHECKING:  # so that a misspelled --shard is answered without torch
    from leakscope.audit.plan import Cell


@final
@dataclass(frozen=True)
class Shard:
    """The `place`-th of `count` parts, counted from 1.

    The cells are dealt out in the order of their identities, which are hashes: the parts differ by at most one cell,
    and no part gets all the cells of one attack. Every part of one plan must be cut with the same `count`.
    Raises `BadInput` unless 1 <= place <= count.

    >>> Shard(2, 3)
    Shard(place=2, count=3)
    """

    place: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.place <= self.count:
            raise BadInput(f"expected a shard from 1/{max(self.count, 1)} to the last, got {self.place}/{self.count}")

    @staticmethod
    def read(text: str) -> Shard:
        """The shard that `text` names: 2/3 is the second of three. Raises `BadInput`."""
        found = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", text)
        if found is None:
            raise BadInput(f"expected a shard such as 2/3, the second of three, got {text!r}")
        return Shard(int(found[1]), int(found[2]))

    @property
    def name(self) -> str:
        """For the names of locks: `2-of-3`."""
        return f"{self.place}-of-{self.count}"

    def of(self, cells: Sequence[Cell]) -> tuple[Cell, ...]:
        """Its cells, in the order in which they were given."""
        # Every count-th in the order of the hashes: hashes know nothing of attacks, so that expensive ones are spread.
        dealt = sorted(cell.identity for cell in cells)[self.place - 1 :: self.count]
        mine = frozenset(dealt)
        return tuple(cell for cell in cells if cell.identity in mine)
