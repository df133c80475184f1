"""Where tokens enter a text model, and what its dense layers are fed for given tokens; found by running the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from leakscope.core.errors import NoSuchLayer, first_line
from leakscope.core.target import Target
from leakscope.domains.text import Text
from leakscope.numerics.rng import Key
from leakscope.targets.looking.dense_ends import probe_inputs
from leakscope.targets.looking.probe import FORWARD_ERRORS
from leakscope.targets.looking.tape import Call, Doubled, given_to, running

SAME = 1e-9
"""Relative difference of two float64 tensors that counts as rounding."""
CHUNK = 1024
"""Sequences that are run at once."""


@final
@dataclass(frozen=True)
class Readers:
    """Dense layers that are fed the same (B, T, features): parameters `weights`, each (., features).

    layer, turn: the first of them, and which of its calls it is, from 0.
    """

    weights: tuple[str, ...]
    features: int
    layer: str
    turn: int


@final
@dataclass(frozen=True, eq=False)
class TokenEntry:
    """first: what is fed token by token, a function of token and place alone. later: what has seen other tokens.

    causal: whether no token sees a later one. output: the readers that give the model's output per token, or None.
    embedding: the parameter (V, .) that the ids are looked up in, or None. model: a float64 copy that may be run.
    """

    domain: Text
    model: Doubled
    first: Readers
    later: tuple[Readers, ...]
    causal: bool
    output: Readers | None
    embedding: str | None

    def fed(self, readers: Readers, ids: Tensor) -> Tensor:
        """What `readers` are fed for `ids` (S, T): (S, T, features) float64."""
        device = self.model.target.device()
        parts = (given_to(self.model, readers.layer, part, turn=readers.turn) for part in ids.to(device).split(CHUNK))
        return torch.cat(list(parts))

    def table(self) -> Tensor:
        """What the first readers are fed for token v at place t: (V, T, features); zeros for the filling."""
        ids = torch.arange(1, self.domain.vocabulary)
        # one token, repeated at all places: enough where tokens do not see one another
        found = self.fed(self.first, ids[:, None].expand(-1, self.domain.length))
        return torch.cat([torch.zeros_like(found[:1]), found])


def token_entry(target: Target) -> TokenEntry:
    """How tokens enter `target`. Raises `NoSuchLayer`, with the reason, where it is not as in `TokenEntry`."""
    if not isinstance(target.domain, Text) or target.domain.length < 2:
        raise NoSuchLayer(f"{target.name} takes {target.domain}, not text of two tokens or more")
    ids = probe_inputs(target, 2, key=Key(0).child("tokens"))
    ids[1] = 1 + ids[0] % (target.domain.vocabulary - 1)  # another token at every place
    # three runs: the texts as they are, mixed place by place, and with their last tokens exchanged
    even = torch.arange(ids.shape[1], device=ids.device) % 2 == 0
    mixed, ended = torch.where(even, ids, ids.flip(0)), ids.clone()
    ended[:, -1] = ids.flip(0)[:, -1]
    (calls, outputs), (swapped, _), (others, _) = _run(target, ids), _run(target, mixed), _run(target, ended)
    dense, dense_mixed = _dense(calls, ids), _dense(swapped, mixed)
    groups = [place for place, call in enumerate(dense) if not any(_same(call, other) for other in dense[:place])]
    readers = {place: _readers(dense, place) for place in groups}
    # fed token by token: then mixing the texts mixes what is fed in the same way
    lonely = [p for p in groups if _near(dense_mixed[p].given, _mixture(dense[p].given, even))]
    if not groups or groups[0] not in lonely:
        raise NoSuchLayer(
            f"{target.name} has no dense layer (Linear or MultiheadAttention) that is fed each token by itself, "
            "before tokens see one another"
        )
    ends = _dense(others, ended)
    # another last token must change nothing before it, at any layer
    causal = all(_near(dense[place].given[:, :-1], ends[place].given[:, :-1]) for place in groups)
    # the last readers whose product is the model's output, if there are any: a pooled head has none per token
    last = [p for p, call in enumerate(dense) if call.returned.shape == outputs.shape and _near(call.returned, outputs)]
    output = next((one for one in readers.values() if last and dense[last[-1]].weights[0] in one.weights), None)
    # the table that the ids themselves are looked up in; positions are looked up in another
    tables = [c for c in calls if isinstance(c.module, nn.Embedding) and torch.equal(c.given, ids)]
    later = tuple(readers[place] for place in groups if place not in lonely)
    embedding = tables[0].weights[0] if tables else None
    return TokenEntry(target.domain, Doubled.of(target), readers[groups[0]], later, causal, output, embedding)


def _run(target: Target, ids: Tensor) -> tuple[list[Call], Tensor]:
    with running(target) as (model, calls):
        try:
            return calls, model(ids).detach()
        except FORWARD_ERRORS as error:
            raise NoSuchLayer(f"the model fails on tokens in double precision: {first_line(error)}") from error


def _dense(calls: list[Call], ids: Tensor) -> list[Call]:
    return [call for call in calls if call.dense and call.given.shape[:2] == ids.shape]


def _same(call: Call, other: Call) -> bool:
    return call.given.shape == other.given.shape and torch.equal(call.given, other.given)


def _near(one: Tensor, other: Tensor) -> bool:
    one, other = one.detach(), other.detach()
    # not to the last bit: batches of other texts may be multiplied in another order
    return float((one - other).abs().max()) <= SAME * float(one.abs().max())


def _mixture(given: Tensor, even: Tensor) -> Tensor:
    return torch.where(even[:, None], given, given.flip(0))


def _readers(dense: list[Call], place: int) -> Readers:
    call = dense[place]
    weights = tuple(name for other in dense if _same(call, other) for name in other.weights)
    # a shared layer is called several times; this one is told from the others by its turn
    turn = sum(other.name == call.name for other in dense[:place])
    return Readers(weights, int(call.given.shape[-1]), call.name, turn)
