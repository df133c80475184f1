"""How near claimed speech is to the private one: its frames, and its words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from leakscope.core.errors import BadInput
from leakscope.numerics.edits import edits
from leakscope.scoring.metrics.metric import AbstractSequenceMetric, AbstractTranscriptMetric, saturated
from leakscope.scoring.score import Direction


@final
@dataclass(frozen=True)
class FrameError(AbstractSequenceMetric):
    """mean_tk |claimed_tk - true_tk| over the true frames and coefficients, in MFCC units; >= 0, 0 for the truth.

    The referee aligns by position from the first frame: frames that were not claimed count as the mean public frame,
    frames beyond the end are not looked at (`kinds.sequences.completed`). Errors beyond 1e30 saturate.

    >>> import torch
    >>> FrameError().items([torch.zeros(3, 26)], [torch.ones(3, 26)])
    (1.0,)
    """

    name: ClassVar[str] = "frame-error"
    unit: ClassVar[str] = "MFCC"
    direction: ClassVar[Direction] = Direction.LOWER

    @property
    def perfect(self) -> float:
        """No error: 0."""
        return 0.0

    def items(self, claimed: Sequence[Tensor], true: Sequence[Tensor]) -> tuple[float, ...]:
        """The mean absolute error of each pair."""
        # |.| and not squares: one burst of noise would outweigh all the frames that were found.
        return tuple(
            float((saturated(left) - saturated(right)).abs().mean()) for left, right in zip(claimed, true, strict=True)
        )


@final
@dataclass(frozen=True)
class CharacterErrorRate(AbstractTranscriptMetric):
    """edits(claimed, true) / max(1, characters of true); 0 for the truth, 1 for an empty claim, more for a long one.

    Edits are insertions, deletions and substitutions of characters (Levenshtein 1966), blanks included.

    >>> CharacterErrorRate().items([(1, 2, 3)], [(1, 3, 3, 4)])
    (0.5,)
    """

    name: ClassVar[str] = "character-error-rate"
    direction: ClassVar[Direction] = Direction.LOWER

    @property
    def perfect(self) -> float:
        """No edit: 0."""
        return 0.0

    def items(self, claimed: Sequence[tuple[int, ...]], true: Sequence[tuple[int, ...]]) -> tuple[float, ...]:
        """The rate of each pair."""
        # By the true length, as the field does: a long claim can score above 1, so that saying everything does not pay.
        return tuple(edits(left, right) / max(1, len(right)) for left, right in zip(claimed, true, strict=True))


@final
@dataclass(frozen=True)
class WordErrorRate(AbstractTranscriptMetric):
    """edits(words of claimed, words of true) / max(1, words of true); 0 for the truth, 1 for an empty claim.

    space: the index of the space, which separates words; several in a row separate as one does.
    Raises `BadInput` on a negative one.

    >>> WordErrorRate().items([(1, 0, 2, 2)], [(1, 0, 0, 2)])
    (0.5,)
    """

    space: int = 0

    name: ClassVar[str] = "word-error-rate"
    direction: ClassVar[Direction] = Direction.LOWER

    def __post_init__(self) -> None:
        if self.space < 0:
            raise BadInput(f"expected the index of the space in the alphabet, got {self.space}")

    @property
    def perfect(self) -> float:
        """No edit: 0."""
        return 0.0

    def items(self, claimed: Sequence[tuple[int, ...]], true: Sequence[tuple[int, ...]]) -> tuple[float, ...]:
        """The rate of each pair."""
        # Each word is one symbol: a word with one wrong character is wrong.
        pairs = [(self._words(left), self._words(right)) for left, right in zip(claimed, true, strict=True)]
        return tuple(edits(left, right) / max(1, len(right)) for left, right in pairs)

    def _words(self, said: tuple[int, ...]) -> list[tuple[int, ...]]:
        words: list[tuple[int, ...]] = [()]
        for character in said:
            words = [*words, ()] if character == self.space else [*words[:-1], (*words[-1], character)]
        # Two spaces in a row enclose no word.
        return [word for word in words if word]
