"""Which tokens a text has, from the rows of the embedding's gradient that are not zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.attacks import citations
from leakscope.attacks.attack import AbstractAttack
from leakscope.core.attempt import Attempt, Outcome
from leakscope.core.batch import Batch
from leakscope.core.claim import Tokens
from leakscope.core.effort import Clock, Watch
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.domains.text import PAD
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.protocols.passes import quiet
from leakscope.mechanisms.reading import keeps_zeros
from leakscope.numerics.rng import Key
from leakscope.targets.looking.token_entry import token_entry


@final
@dataclass(frozen=True)
class EmbeddingRows(AbstractAttack[Tensor, Tokens]):
    """Token v is in the batch if row v of dL/dE is not zero: only its own lookups reach it (Melis et al. 2019, 3.2).

    Claims the set of tokens as a bag, however large the batch. A row is zero although its token is there only if the
    loss does not depend on that token (the last one of a model that predicts the next).
    Refuses where E is not released, where it is also the output layer (tied: every row is reached), where the client
    may have added something to zeros, and where no row is zero.
    """

    @property
    def citation(self) -> str:
        """Melis et al. 2019."""
        return citations.MELIS

    def _read(self, seen: Observation) -> Tensor | Refusal:
        return _rows(seen)

    def _attempt(self, seen: Observation, read: Tensor, *, key: Key, clock: Clock, watch: Watch) -> Attempt[Tokens]:
        del key, clock, watch
        bag = tuple(read.nonzero().flatten().tolist())
        sentence = f"{len(bag)} of {len(read) - 1} rows of the embedding's gradient are not zero"
        return Attempt(repr(self), Outcome.CLAIMED, sentence, Tokens((bag,), bag=True))


def _rows(seen: Observation) -> Tensor | Refusal:
    """(V,) True for tokens whose row is not zero, or why that says nothing."""
    name = token_entry(seen.target).embedding
    if name is None or name not in seen.release.by_name:
        return Refusal(f"the release lacks {name or 'an embedding that the tokens are looked up in'}")
    # Row 1 and no other: through a tied output layer the softmax reaches every row, and an unused table none.
    if _reached(seen, name) != {1}:
        return Refusal(f"every row of {name} has a gradient, whatever the tokens: it is used for the output as well")
    if keeps_zeros(seen.mechanism) is not Answer.YES:
        return Refusal(f"{seen.mechanism!r} may add something to zeros, so a row that is not zero proves nothing")
    # Exactly zero, without a tolerance: backward adds to the rows that were looked up and writes nowhere else, and rows
    # that no step has moved are equal before and after.
    rows = (seen.release.by_name[name] != 0).any(1)
    # The filling (row 0) is no token, even in a model that reads it.
    rows[PAD] = False
    if bool(rows[1:].all()):
        return Refusal(f"no row of the gradient of {name} is zero: noise was added, or every token occurs")
    return rows


def _reached(seen: Observation, name: str) -> set[int]:
    """The rows that a text of nothing but token 1 gives a gradient to, on the model itself."""
    target = seen.target
    # Asked of the model rather than of names, so that ties and lookups in other people's code show as well.
    ids = torch.ones((1, target.domain.shape[0]), dtype=torch.int64, device=target.device())
    # Dropout could hide the only token from the loss.
    with quiet(target):
        slope = torch.func.grad(target.loss_at)(target.parameters(), Batch(ids, torch.zeros_like(ids[:, 0])))[name]
    return set((slope != 0).any(1).nonzero().flatten().tolist())
