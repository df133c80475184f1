"""Which tokens a text has, from the rows of the embedding's gradient that are not zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from leakscope.attacks import citations
from leakscope.attacks.attack import AbstractAttack
from leakscope.attacks.parts.reading.trained import NOT_TRAINED
from leakscope.core.attempt import Attempt, Outcome
from leakscope.core.claim import Tokens
from leakscope.core.effort import Clock, Watch
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.domains.text import PAD
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.reading import keeps_zeros
from leakscope.numerics.rng import Key
from leakscope.targets.looking.lookup_tables import lookup_tables


@final
@dataclass(frozen=True)
class EmbeddingRows(AbstractAttack[Tensor, Tokens]):
    """Token v is in the batch if row v of dL/dE is not zero: only its own lookups reach it (Melis et al. 2019, 3.2).

    Claims the set of tokens as a bag, however large the batch. A row is zero although its token is there only if the
    loss does not depend on that token (the last one of a model that predicts the next).
    E is whatever the ids are looked up in: an embedding before attention, LSTM, GRU or convolution, or an EmbeddingBag.
    Refuses where E is not released or was not trained, where it is also the output layer (tied: every row is reached),
    where the client may have added something to zeros, and where no row is zero.
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
    tables = lookup_tables(seen.target)
    sent = [name for name in tables.names if name in seen.release.by_name]
    if not sent:
        if tables.everywhere and not tables.names:
            name = tables.everywhere[0]
            return Refusal(
                f"every row of {name} has a gradient, whatever the tokens: it is used for the output as well"
            )
        if not tables.names:
            return Refusal("the model looks its tokens up in no table with a row for each of them")
        return Refusal(f"the release lacks {', '.join(tables.names)}")
    name = sent[0]
    if keeps_zeros(seen.mechanism) is not Answer.YES:
        return Refusal(f"{seen.mechanism!r} may add something to zeros, so a row that is not zero proves nothing")
    # Exactly zero, without a tolerance: backward adds to the rows that were looked up and writes nowhere else, and rows
    # that no step has moved are equal before and after.
    rows = (seen.release.by_name[name] != 0).any(1)
    # The filling (row 0) is no token, even in a model that reads it.
    rows[PAD] = False
    if not bool(rows.any()):
        return Refusal(f"the gradient of {name} {NOT_TRAINED}")
    if bool(rows[1:].all()):
        return Refusal(f"no row of the gradient of {name} is zero: noise was added, or every token occurs")
    return rows
