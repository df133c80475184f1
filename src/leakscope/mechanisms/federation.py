"""Many clients in one round: what the server sees when their updates are aggregated."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from leakscope.core.arguments import number
from leakscope.core.errors import BadInput
from leakscope.core.release import Release, same_kind
from leakscope.numerics import trees


def mean_update(releases: Sequence[Release], weights: Sequence[float] | None = None) -> Release:
    """sum_i w_i * u_i / sum_i w_i, of the kind of the releases (McMahan et al. 2017, arXiv:1602.05629, algorithm 1).

    This is all that a server learns under secure aggregation (Bonawitz et al. 2017), and the input of an attack on it.
    releases: one per client, same kind, names and shapes. weights: each client's share, usually its number of examples,
    >= 0 and not all zero; None weighs all alike. The mean of identical updates is that update to the last bit.
    Raises `BadInput` when there is none, when they do not match, or on unusable weights.

    >>> import torch
    >>> from leakscope.core.release import Delta
    >>> mean_update([Delta({"w": torch.tensor([1.0])}), Delta({"w": torch.tensor([4.0])})], weights=[2, 1]).by_name["w"]
    tensor([2.])
    """
    if not releases:
        raise BadInput("expected at least one release to average, got none")
    shares = _shares(len(releases), weights)
    for place, release in enumerate(releases[1:], start=2):
        _matching(releases[0], release, place)
    # Weight 0 is left out and not multiplied: 0 times infinity is NaN, and the total so far is divided by.
    counted = [(release, share) for release, share in zip(releases, shares, strict=True) if share > 0]
    # Times 1: a copy to the last bit.
    mean, total = trees.scale(counted[0][0].by_name, 1.0), counted[0][1]
    # m_k = m_(k-1) + (w_k / (w_1 + ... + w_k)) (u_k - m_(k-1)), which is the weighted mean of the first k.
    for release, share in counted[1:]:
        total += share
        # what is added is the difference from the mean so far: zero when the updates are identical
        mean = trees.over(torch.add, mean, trees.scale(trees.subtract(release.by_name, mean), share / total))
    return same_kind(releases[0], mean)


def _shares(clients: int, weights: Sequence[float] | None) -> list[float]:
    if weights is None:
        return [1.0] * clients
    if len(weights) != clients:
        raise BadInput(f"expected one weight per release ({clients}), got {len(weights)}")
    shares = [number("weight", weight, low=0) for weight in weights]
    # Each is >= 0 by now, so only all zeros fail.
    if not math.fsum(shares) > 0:
        raise BadInput(f"expected at least one positive weight, got {list(weights)}")
    return shares


def _matching(first: Release, other: Release, place: int) -> None:
    if type(other) is not type(first):
        raise BadInput(
            f"release 1 is a {type(first).__name__} and release {place} a {type(other).__name__}; "
            "average releases of one kind"
        )
    shapes, others = ({n: tuple(v.shape) for n, v in r.by_name.items()} for r in (first, other))
    if shapes != others:
        odd = sorted(n for n in shapes.keys() | others.keys() if shapes.get(n) != others.get(n))
        raise BadInput(
            f"release {place} differs from release 1 in the names or shapes of {odd}; average updates of one model"
        )
