"""Text: sequences of token ids, and words to read them by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput

PAD = 0
"""The id that fills a sequence up at its end; it is no token of any text."""
UNKNOWN = 1
"""The id of every word that is in no vocabulary."""


@final
@dataclass(frozen=True)
class Text(AbstractDomain):
    """Sequences (T,) of int64 token ids 1 .. vocabulary - 1 with T <= length, filled up with the id 0 at their end.

    Raises `BadInput` on a vocabulary below 2 or a length below 1.

    >>> Text(vocabulary=100, length=8).fits(torch.ones(2, 5, dtype=torch.int64))
    True
    """

    vocabulary: int
    length: int

    def __post_init__(self) -> None:
        if self.vocabulary < 2 or self.length < 1:
            raise BadInput(f"expected vocabulary >= 2 and length >= 1, got {self.vocabulary} and {self.length}")

    @property
    def shape(self) -> tuple[int, ...]:
        """(length,), the longest sequence."""
        return (self.length,)

    def fits(self, inputs: Tensor) -> bool:
        """Whether `inputs` are (B, T) whole numbers with 1 <= T <= length."""
        return inputs.dim() == 2 and not inputs.is_floating_point() and 1 <= inputs.shape[1] <= self.length

    def bounds(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The ids of the first and the last token."""
        return like.new_tensor(1), like.new_tensor(self.vocabulary - 1)

    def to_display(self, inputs: Tensor) -> Tensor:
        """The ids themselves: their differences mean nothing, so no error is measured in them."""
        return inputs


def sequences_of(ids: Tensor) -> tuple[tuple[int, ...], ...]:
    """Each row of (B, T) ids up to its last token.

    >>> sequences_of(torch.tensor([[5, 3, 0], [7, 0, 0]]))
    ((5, 3), (7,))
    """
    rows = []
    for row in ids.tolist():
        while row and row[-1] == PAD:
            row.pop()
        rows.append(tuple(int(one) for one in row))
    return tuple(rows)


def padded(sequences: Sequence[Sequence[int]], length: int | None = None) -> Tensor:
    """(N, T) int64, filled up with `PAD` to `length` or to the longest.

    >>> padded([(5, 3), (7,)])
    tensor([[5, 3],
            [7, 0]])
    """
    width = max((len(one) for one in sequences), default=0) if length is None else length
    rows = [[*one, *[PAD] * (width - len(one))] for one in sequences]
    return torch.tensor(rows, dtype=torch.int64).reshape(len(sequences), width)


@final
@dataclass(frozen=True)
class Words:
    """Words numbered from 2; 0 is the filling, 1 every other word.

    >>> words = Words.of(["the cat sat", "the dog"])
    >>> words.encode("the bird sat"), words.decode((5, 1, 4))
    ((5, 1, 4), 'the <unknown> sat')
    """

    known: tuple[str, ...]

    @staticmethod
    def of(sentences: Iterable[str]) -> Words:
        """All different words of the sentences, sorted."""
        return Words(tuple(sorted({word for sentence in sentences for word in sentence.split()})))

    def __len__(self) -> int:
        return len(self.known) + 2

    def encode(self, sentence: str) -> tuple[int, ...]:
        """The id of each word."""
        places = {word: place for place, word in enumerate(self.known, 2)}
        return tuple(places.get(word, UNKNOWN) for word in sentence.split())

    @property
    def by_id(self) -> tuple[str, ...]:
        """What each id is read as: nothing for the filling, then the mark of other words, then the words.

        >>> Words.of(["the cat"]).by_id
        ('', '<unknown>', 'cat', 'the')
        """
        return "", "<unknown>", *self.known

    def decode(self, ids: Sequence[int]) -> str:
        """The words, with a mark for each id that is none."""
        return " ".join(self.known[one - 2] if 2 <= one < len(self) else "<unknown>" for one in ids)
