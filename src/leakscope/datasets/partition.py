"""Examples divided among clients: evenly, with skewed labels, or by whose they are; and owners into folds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from leakscope.core.arguments import count as count_of
from leakscope.core.arguments import places
from leakscope.core.errors import BadInput
from leakscope.core.owners import by_owner as by_owner
from leakscope.numerics.rng import Key

TRIES = 1000


def iid(count: int, clients: int, *, key: Key) -> list[Tensor]:
    """A random partition of 0..count-1 into `clients` parts whose sizes differ by at most one.

    Returns one (n_k,) int64 tensor of positions per client. Raises `BadInput` unless 1 <= clients <= count.

    >>> [len(part) for part in iid(10, 3, key=Key(0))]
    [4, 3, 3]
    """
    _checked(count, clients, least=1)
    order = torch.randperm(count, generator=key.child("iid").generator())
    return list(order.tensor_split(clients))


def by_label(labels: Tensor, clients: int, *, alpha: float, key: Key, least: int = 1) -> list[Tensor]:
    """A partition with skewed labels: p_c ~ Dirichlet(alpha, ..., alpha) divides class c among the clients.

    Small `alpha` gives clients with few classes, large `alpha` comes close to `iid`. labels: (N,) int64.
    Returns one (n_k,) int64 tensor of positions per client, in random order. All proportions are drawn again
    until every client has at least `least` examples (Yurochkin et al. 2019, arXiv:1905.12022, section 4, as done
    by Li et al. 2022, arXiv:2102.02079), which conditions the draw: it matters for small `alpha`.
    Raises `BadInput` on alpha <= 0, on too few examples, or when 1000 draws do not suffice.

    >>> parts = by_label(torch.arange(100) % 10, 4, alpha=0.5, key=Key(0))
    >>> sorted(torch.cat(parts).tolist()) == list(range(100))
    True
    """
    if labels.dim() != 1 or labels.dtype != torch.int64:
        raise BadInput(f"expected labels (N,) int64, got {tuple(labels.shape)} {labels.dtype}")
    if not alpha > 0:
        raise BadInput(f"expected alpha > 0, got {alpha}")
    if least < 0:
        raise BadInput(f"expected least >= 0, got {least}")
    _checked(len(labels), clients, least=least)
    for trial in range(TRIES):
        parts = _skewed(labels, clients, alpha, key.child("by label", trial))
        if min(len(part) for part in parts) >= least:
            return parts
    raise BadInput(
        f"{TRIES} draws left a client with fewer than {least} of {len(labels)} examples; "
        f"use a larger alpha than {alpha} or fewer clients than {clients}"
    )


def owner_folds(owners: Sequence[int], folds: int = 5) -> list[tuple[Tensor, Tensor]]:
    """`folds` ways to hold owners out: positions (n,) int64 of the examples of all others, and of those held out.

    Owners in the order of their numbers are cut into runs whose lengths differ by at most one, so nobody is on both
    sides, and each is held out once. Raises `BadInput` unless 2 <= folds <= the number of owners.

    >>> [held.tolist() for _, held in owner_folds([0, 0, 1, 2], folds=3)]
    [[0, 1], [2], [3]]
    """
    folds = count_of("folds", folds, low=2)
    known = torch.tensor(places("the owners", owners), dtype=torch.int64)
    different = torch.unique(known)
    if len(different) < folds:
        raise BadInput(f"{len(different)} owners cannot be held out in {folds} folds; take fewer folds or more owners")
    held = [torch.isin(known, run) for run in different.tensor_split(folds)]
    return [(torch.nonzero(~one).flatten(), torch.nonzero(one).flatten()) for one in held]


def _skewed(labels: Tensor, clients: int, alpha: float, key: Key) -> list[Tensor]:
    random = key.numpy()
    shares: list[list[Tensor]] = [[] for _ in range(clients)]
    for label in torch.unique(labels).tolist():
        members = torch.nonzero(labels == label).flatten()
        members = members[torch.from_numpy(random.permutation(len(members)))]
        proportions = torch.from_numpy(random.dirichlet([alpha] * clients))
        cuts = (proportions.cumsum(0)[:-1] * len(members)).round().long()
        for share, piece in zip(shares, members.tensor_split(cuts), strict=True):
            share.append(piece)
    parts = [torch.cat(share) for share in shares]
    return [part[torch.from_numpy(random.permutation(len(part)))] for part in parts]


def _checked(count: int, clients: int, *, least: int) -> None:
    if clients < 1:
        raise BadInput(f"expected clients >= 1, got {clients}")
    if count < clients * max(least, 1):
        raise BadInput(f"{count} examples do not suffice for {clients} clients with at least {max(least, 1)} each")
