"""What a picture of a released head is to be looked at beside: what the public alone would show in its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.core.batch import Batch


@final
@dataclass(frozen=True, eq=False)
class Beside:
    """neighbors, means: (C, *shape). places: (C,) int64, the neighbors' rows in the pool."""

    neighbors: Tensor
    means: Tensor
    places: Tensor


def beside(estimates: Tensor, features: Tensor, pool: Batch) -> Beside:
    """For each class the public example whose features are nearest to the estimate, and the mean of all of them.

    estimates: (C, d). features: (n, d), those of the pool's n examples, each class of which has one at least.

    >>> pool = Batch(torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([0, 0, 1]))
    >>> found = beside(torch.tensor([[0.9], [0.9]]), pool.inputs, pool)
    >>> found.neighbors.tolist(), found.means.tolist(), found.places.tolist()
    ([[1.0], [5.0]], [[0.5], [5.0]], [1, 2])
    """
    places, means = [], []
    for one, estimate in enumerate(estimates):
        own = (pool.labels == one).nonzero().flatten()
        places.append(own[(features[own] - estimate).square().sum(1).argmin()])
        means.append(pool.inputs[own].mean(0))
    where = torch.stack(places)
    return Beside(pool.inputs[where], torch.stack(means), where)
