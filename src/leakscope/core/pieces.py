"""A claim of which pieces of words were said in a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.core.claim import AbstractClaim
from leakscope.core.errors import BadInput


@final
@dataclass(frozen=True, eq=False)
class Pieces(AbstractClaim):
    """Asserts: "In the whole batch these pieces were said, and no other", without order, owner or count.

    pieces: what the outputs of a decoder stand for (`targets.spelling`), each as its alphabet indices; each once, in
    rising order, the one way to write a set down. confidence: (N,) in [0, 1], NaN for none.
    Raises `BadInput` on pieces that do not rise or are empty, and on confidences that are none.

    >>> len(Pieces(((3, 1), (4,))))
    2
    """

    pieces: tuple[tuple[int, ...], ...]
    confidence: Tensor | None = None

    def __post_init__(self) -> None:
        if list(self.pieces) != sorted(set(self.pieces)) or () in self.pieces:
            raise BadInput(
                "a bag of pieces holds different ones of a letter or more in rising order; sort a set of them"
            )
        sure = self.confidence
        if sure is None:
            sure = torch.full((len(self.pieces),), float("nan"))
        if sure.shape != (len(self.pieces),) or bool(((sure < 0) | (sure > 1)).any()):
            raise BadInput(f"expected a confidence in [0, 1] or NaN for each of {len(self.pieces)} pieces")
        object.__setattr__(self, "confidence", sure.detach().float().cpu())

    def __len__(self) -> int:
        return len(self.pieces)
