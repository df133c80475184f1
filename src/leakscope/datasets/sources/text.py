"""Written sentences as token ids, one token per word; made here, so nothing is downloaded."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import final

import torch

from leakscope.core import file_limits
from leakscope.core.arguments import count as whole
from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.datasets.draw import AbstractSource
from leakscope.datasets.sources.sentences import (
    DEEDS,
    LINKS,
    PLACES,
    SHORT_DEEDS,
    SHORT_SUBJECTS,
    SUBJECTS,
    TIMES,
    sentence,
)
from leakscope.domains.text import Text, Words, padded
from leakscope.numerics.rng import Key

WORDS = Words.of((*SUBJECTS, *SHORT_SUBJECTS, *DEEDS, *SHORT_DEEDS, *PLACES, *TIMES, *LINKS))
"""Every word that a sentence can have; the same numbers whatever is drawn."""
SENTENCE = 4096
"""Bytes that one sentence takes while it is drawn."""
CHARACTERS = 7
"""Letters per word, about: how long a sentence is drawn to reach `length` words."""


@final
@dataclass(frozen=True)
class Sentences(AbstractSource):
    """`count` different English sentences of at most `length` words; 2 classes.

    inputs: (count, length) int64 ids of `WORDS`, filled up with 0. Class 1: somebody is described (the old teacher),
    0: named or meant by a pronoun (ruth, she). Raises `BadInput` on count < 2, or length outside 4 to 40, or where so
    many different sentences are not found.

    >>> source = Sentences(length=8, count=4)
    >>> WORDS.decode(source.load().inputs[0].tolist()[:3])
    'a busy painter'
    """

    length: int = 12
    count: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        whole("length", self.length)
        whole("count", self.count)
        file_limits.afford(f"{self.count} sentences", self.count * SENTENCE)
        if self.count < 2 or not 4 <= self.length <= 40:
            raise BadInput(f"expected count >= 2 and 4 <= length <= 40, got {self.count} and {self.length}")
        if self.seed < 0:
            raise BadInput(f"expected seed >= 0, got {self.seed}")

    @property
    def domain(self) -> Text:
        """Ids of `WORDS`."""
        return Text(len(WORDS), self.length)

    @property
    def classes(self) -> int:
        """Described or not."""
        return 2

    @property
    def most(self) -> int:
        """As many as were asked for."""
        return self.count

    def load(self) -> Batch:
        """All examples."""
        return _sentences(self)

    def words(self) -> tuple[str, ...]:
        """`WORDS` by their ids."""
        return WORDS.by_id


@functools.lru_cache(maxsize=8)
def _sentences(source: Sentences) -> Batch:
    random = Key(source.seed).child("sentences").numpy()
    found: dict[str, int] = {}
    for _ in range(50 * source.count):
        text = sentence(int(random.integers(2 * CHARACTERS, CHARACTERS * source.length)), random=random)
        if len(text.split()) <= source.length:
            found.setdefault(text, int(any(text.startswith(one) for one in SUBJECTS)))
        if len(found) == source.count:
            break
    if len(found) < source.count:
        raise BadInput(f"only {len(found)} different sentences of at most {source.length} words were found; ask fewer")
    inputs = padded([WORDS.encode(text) for text in found], source.length)
    return Batch(inputs, torch.tensor(list(found.values())))
