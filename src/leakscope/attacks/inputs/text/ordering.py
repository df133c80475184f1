"""From tokens at places to sequences: prefix by prefix in a decoder, all combinations in an encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.attacks.inputs.text.row_span import RowSpan, row_span_of
from leakscope.core.effort import Clock
from leakscope.domains.text import padded
from leakscope.numerics.rng import Key
from leakscope.numerics.trees import Named
from leakscope.targets.looking.token_entry import Readers, TokenEntry

MOST = 2_000
"""Sequences that are run through the model at once, at most, to tell true ones from mixtures."""
STARTS, SWEEPS, ROUNDS, PATIENCE = 16, 6, 8, 4
"""Of a descent: sequences that start at random, passes over their places, repetitions with new starts, and how many of
these may find nothing new before it ends."""
NEXT = 1e-3
"""A logit's gradient below minus this share of the largest one marks the next token."""

Said = tuple[int, ...]


@final
@dataclass(frozen=True, eq=False)
class Context:
    """Dense layers that see a token together with others, and the span of what they were fed."""

    readers: Readers
    span: RowSpan


def context_of(entry: TokenEntry, gradient: Named, least: int) -> Context | None:
    """The first later readers whose span is no smaller than `least` and not everything; else the largest there is."""
    found: list[Context] = []
    for readers in entry.later:
        if not set(readers.weights) <= gradient.keys():
            continue
        span = row_span_of([gradient[name] for name in readers.weights])
        # A LayerNorm leaves its output d - 1 dimensions: a span of d - 1 could be all of them, and confirm every token.
        if span is not None and span.rank <= readers.features - 2:
            found.append(Context(readers, span))
            # As many directions as the first layer's tokens have: none of them is lost here.
            if span.rank >= least:
                return found[-1]
    return max(found, key=lambda one: one.span.rank, default=None)


def prefixes(
    entry: TokenEntry, context: Context, places: Sequence[Sequence[int]], *, clock: Clock
) -> list[Said] | None:
    """Every prefix of the private sequences whose last token had a gradient, shorter ones first.

    A causal model's later layers see at each token its prefix alone, so that each is tested by itself. None where
    more than `MOST` are to be tested at once, or time is up.
    """
    found: list[Said] = []
    level: list[Said] = [()]
    for place, tokens in enumerate(places):
        longer = [(*prefix, token) for prefix in level for token in tokens]
        if not longer:
            break
        if len(longer) > MOST or clock.exhausted(0):
            return None
        # At the last token only: those before it were confirmed when they were the last.
        fed = entry.fed(context.readers, padded(longer).to(context.span.null.device))[:, place]
        near = context.span.distance(fed) <= context.span.tolerance
        level = [one for one, inside in zip(longer, near.tolist(), strict=True) if inside]
        found += level
    return found


def leaves(found: Sequence[Said]) -> list[Said]:
    """The prefixes that none of the others continues.

    >>> leaves([(1,), (2,), (1, 5)])
    [(2,), (1, 5)]
    """
    inner = {one[:-1] for one in found}
    return [one for one in found if one not in inner]


def with_last_tokens(entry: TokenEntry, found: Sequence[Said], weight: Tensor, *, clock: Clock) -> list[Said] | None:
    """Whole sequences of a model that predicts the next token, whose own last token sends no gradient as an input.

    dL/dW = sum_n e_n h_n^T at the output layer, h_n its known input at prefix n, so that e_n follows by least squares:
    it is negative only at tokens that come next. None where the inputs are not independent, or time is up.
    """
    assert entry.output is not None
    # One by one, unpadded, at its own last token: h_n of prefix n, (n, d).
    rows: list[Tensor] = []
    for one in found:
        rows.append(entry.fed(entry.output, torch.tensor([one], device=weight.device))[0, -1])
        # E is unique only where the rows h_n are independent.
        if clock.exhausted(0) or len(found) > len(rows[0]):
            return None
    inputs = torch.stack(rows)
    values = torch.linalg.svdvals(inputs)
    if not float(values[-1]) > 1e-6 * float(values[0]):
        return None
    # H^T E = (dL/dW)^T, (d, V), for E (n, V).
    errors = torch.linalg.lstsq(inputs.T, weight.T).solution
    known = set(found)
    whole: list[Said] = []
    for prefix, error in zip(found, errors, strict=True):
        # A weighted sum of p - y over the texts with this prefix: p >= 0, so only y makes an entry negative; several of
        # them where texts part here. Smaller ones are rounding.
        following = (error < -NEXT * error.abs().max()).nonzero().flatten().tolist()
        # Where it goes on as a prefix, that a text ends with it too leaves no trace here: the caller tries such texts.
        whole += [(*prefix, token) for token in following if (*prefix, token) not in known]
    return whole


def descended(
    entry: TokenEntry, context: Context, places: Sequence[Sequence[int]], *, key: Key, clock: Clock
) -> list[Said]:
    """Sequences of tokens at their places that the later layers confirm at every token, of the length of `places`.

    Where tokens see each other, a wrong one moves all: the squared distances from the span fall as tokens become
    right. Place by place the best token is taken, from random starts; all combinations where they are few.
    """
    device = context.span.null.device
    tokens = [torch.tensor(one, device=device) for one in places]
    if math.prod(map(len, places)) <= MOST:
        ids = torch.cartesian_prod(*tokens).reshape(-1, len(tokens))
    else:
        generator = key.generator()
        drawn = [torch.randint(len(one), (STARTS,), generator=generator).to(device) for one in tokens]
        ids = torch.stack([one[chosen] for one, chosen in zip(tokens, drawn, strict=True)], 1)
        ids = _settled(entry, context, ids, tokens, clock=clock)
    # At every token: where tokens see each other, the inputs of right tokens are moved by a wrong one as well.
    near = context.span.distance(entry.fed(context.readers, ids)) <= context.span.tolerance
    return list(dict.fromkeys(tuple(row) for row in ids[near.all(1)].tolist()))


def _settled(entry: TokenEntry, context: Context, ids: Tensor, tokens: Sequence[Tensor], *, clock: Clock) -> Tensor:
    """Coordinate descent of the summed squared distances, all sequences (S, T) side by side."""
    best = torch.full((len(ids),), torch.inf, dtype=torch.float64, device=ids.device)
    for _ in range(SWEEPS):
        before = best
        for place, known in enumerate(tokens):
            if clock.exhausted(0):
                return ids
            tried = ids[:, None].repeat(1, len(known), 1)
            tried[:, :, place] = known
            fed = entry.fed(context.readers, tried.flatten(0, 1))
            # What stands at this place is among those tried, so the cost of a sequence never rises.
            costs = context.span.distance(fed).square().sum(1).reshape(len(ids), len(known))
            best, chosen = costs.min(1)
            ids = torch.cat([ids[:, :place], known[chosen][:, None], ids[:, place + 1 :]], 1)
        # No sequence fell in a whole sweep: each is at a minimum in every single token.
        if not bool((best < before * (1 - 1e-6)).any()):
            break
    return ids
