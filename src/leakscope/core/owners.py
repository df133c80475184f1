"""Examples divided among clients by whose they are; for private sources and for public pools alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from leakscope.core.arguments import count as count_of
from leakscope.core.arguments import places
from leakscope.core.errors import BadInput
from leakscope.numerics.rng import Key


def by_owner(owners: Sequence[int], *, each: int = 1, key: Key) -> list[Tensor]:
    """Clients that have the examples of one owner: one client for each, or `each` among whom an owner is divided.

    owners: (N,), such as the speaker of each example. Returns one (n_k,) int64 tensor of positions per client, owner
    after owner in the order of their numbers; with each > 1 an owner's examples are shuffled and divided into parts
    whose sizes differ by at most one (FL-SER, arXiv:2112.13416, divides each speaker of a small corpus in ten).
    Raises `BadInput` on an owner with fewer than `each` examples.

    >>> [part.tolist() for part in by_owner([7, 3, 7, 3, 3], key=Key(0))]
    [[1, 3, 4], [0, 2]]
    >>> [len(part) for part in by_owner([7, 3, 7, 3, 3], each=2, key=Key(0))]
    [2, 1, 1, 1]
    """
    each = count_of("each", each)
    known = torch.tensor(places("the owners", owners), dtype=torch.int64)
    parts: list[Tensor] = []
    for owner in torch.unique(known).tolist():
        own = torch.nonzero(known == owner).flatten()
        if len(own) < each:
            raise BadInput(f"owner {owner} has {len(own)} examples, which cannot be divided among {each} clients")
        if each > 1:
            own = own[torch.randperm(len(own), generator=key.child("by owner", owner).generator())]
        parts += own.tensor_split(each)
    return parts
