"""What is known of examples, or of whoever they belong to, beside their labels. No secret, and no torch."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import SupportsInt, final

from leakscope.core.arguments import places
from leakscope.core.errors import BadInput

SPEAKER = "speaker"
"""The annotation that tells who it is, and not what somebody is like."""


@final
class Per(enum.Enum):
    """What one value of an annotation is about: one example, or the owner of the whole batch."""

    EXAMPLE = "example"
    OWNER = "owner"


@final
@dataclass(frozen=True)
class Annotation:
    """What a corpus tells besides the labels: who spoke, of which sex.

    values: places in `categories`: one per example in the order of the batch, or, `per` OWNER, one for all of them.
    Raises `BadInput` outside of the categories, and on an owner with several values.

    >>> Annotation("speaker", (1, 0, 1), ("ada", "ben")).rows([2, 1]).values
    (1, 0)
    >>> Annotation("sex", (1,), ("f", "m"), Per.OWNER).rows([2, 1]).values
    (1,)
    """

    name: str
    values: tuple[int, ...]
    categories: tuple[str, ...]
    per: Per = Per.EXAMPLE

    def __post_init__(self) -> None:
        texts = (self.name, *self.categories)
        given: object = self.categories
        if isinstance(given, str) or not all(isinstance(one, str) for one in texts):
            raise BadInput("an annotation needs a name and a sequence of names of categories; give texts")
        object.__setattr__(self, "values", places(f"the values of {self.name!r}", self.values))
        strange = sorted({value for value in self.values if not 0 <= value < len(self.categories)})
        if strange:
            raise BadInput(f"{self.name}: expected places in {len(self.categories)} categories, got {strange[:4]}")
        if self.per is Per.OWNER and len(self.values) != 1:
            raise BadInput(f"{self.name}: expected one value for the owner of the batch, got {len(self.values)}")

    def rows(self, index: Iterable[SupportsInt]) -> Annotation:
        """The same of the examples at `index`, in that order; their owner stays who it is."""
        if self.per is Per.OWNER:
            return self
        return Annotation(self.name, tuple(self.values[int(place)] for place in index), self.categories)

    def fits(self, count: int) -> bool:
        """Whether it can be of a batch of `count` examples."""
        return self.per is Per.OWNER or len(self.values) == count
