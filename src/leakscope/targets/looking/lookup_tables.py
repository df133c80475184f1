"""The tables that token ids are looked up in, found by the rows that a text gives a gradient to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from leakscope.core.errors import NoSuchLayer
from leakscope.core.target import Target
from leakscope.domains.text import Text
from leakscope.numerics.rng import Key

TRIED = (1, 2)
"""Texts of nothing but one token: the first two that are no filling."""


@final
@dataclass(frozen=True)
class LookupTables:
    """names: parameters (V, .) of which a text reaches the rows of its own tokens alone. everywhere: those of which it
    reaches others too, as of a table that is also the output layer."""

    names: tuple[str, ...]
    everywhere: tuple[str, ...]


def lookup_tables(target: Target) -> LookupTables:
    """The tables of a text model. Raises `NoSuchLayer` where the model takes no text.

    By gradients and not by kinds of layers: a table may be read by Embedding, EmbeddingBag, or an index in a forward.
    """
    if not isinstance(target.domain, Text):
        raise NoSuchLayer(f"{target.name} takes {target.domain}, not text")
    own: dict[str, bool] = {}
    reached: dict[str, bool] = {}
    for token in TRIED:
        for name, rows in _reached(target, token).items():
            # A row that the loss does not depend on is none of the text's own, but no other's either.
            own[name] = own.get(name, True) and rows <= {token}
            reached[name] = reached.get(name, False) or bool(rows)
    looked_up = tuple(name for name in own if own[name] and reached[name])
    return LookupTables(looked_up, tuple(name for name in own if not own[name]))


def _reached(target: Target, token: int) -> dict[str, set[int]]:
    """Of each parameter with a row for every token, the rows that a text of this token alone gives a gradient to."""
    parameters, domain = target.parameters(), target.domain
    assert isinstance(domain, Text)
    tables = [name for name, value in parameters.items() if value.dim() == 2 and len(value) >= domain.vocabulary]
    copies = {name: parameters[name].clone().requires_grad_(True) for name in tables}
    ids = torch.full((1, domain.length), token, dtype=torch.int64, device=target.device())
    with Key(0).child("lookup tables").isolated(), torch.enable_grad():
        loss = target.loss_at({**parameters, **copies}, target.loss.labeled(ids, target.classes))
        values = list(copies.values())
        # A table that the loss does not reach has no gradient, hence no rows.
        slopes = torch.autograd.grad(loss, values, allow_unused=True) if loss.requires_grad else [None] * len(values)
    return {
        name: set() if slope is None else set((slope.to_dense() != 0).any(1).nonzero().flatten().tolist())
        for name, slope in zip(tables, slopes, strict=True)
    }
