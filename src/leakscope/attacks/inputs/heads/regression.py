"""Features behind heads that no closed form inverts, read by a regression that public heads of their kind teach."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.core.effort import State
from leakscope.core.mechanism import AbstractMechanism
from leakscope.core.overriding import acts_as
from leakscope.mechanisms.heads.private import train_private
from leakscope.mechanisms.heads.together import Heads, first, sets, streamed, together
from leakscope.mechanisms.protocols.training import HeadTraining, PrivateHeadTraining
from leakscope.numerics.rng import Key

RIDGE = 1e-3
"""Of the number of examples, in units of a weight's variance: keeps weights that are nearly the same apart."""


def made(
    mechanism: AbstractMechanism, features: Tensor, labels: Tensor, each: int, many: int, *, key: Key
) -> Iterator[tuple[Tensor, Heads]]:
    """`streamed` for training with noise too. Raises `BadInput` where many heads cannot be trained at once."""
    if acts_as(mechanism, HeadTraining):
        yield from streamed(mechanism, features, labels, each, many, key=key)
        return
    assert isinstance(mechanism, PrivateHeadTraining)
    drawn, classes = sets(labels, each, key=key.child("sets")), int(labels.max()) + 1
    chunk = together(classes * each, features.shape[1])
    for place, begin in enumerate(range(0, many, chunk)):
        rows = torch.stack([next(drawn) for _ in range(min(chunk, many - begin))])
        start = first(mechanism.training, (features.shape[1], classes), len(rows), key=key.child("start", place))
        own = key.child("course", place)
        yield rows, train_private(mechanism, features[rows], labels[rows], start, key=own)


@final
@dataclass(frozen=True, eq=False)
class Reading:
    """x_c = means[c] + ((W_c, mean of the other rows) - centers[c]) slope: the best linear estimate, for all classes.

    means: (C, d). centers: (C, 2 d). slope: (2 d, d). What entry-by-entry steps or noise did to a head need not be
    known to be undone on average; of several examples of a class the mean is read.
    """

    means: Tensor
    centers: Tensor
    slope: Tensor

    @staticmethod
    def learned(heads: Iterable[tuple[Tensor, Tensor]]) -> Reading:
        """From parts of weights (m, C, d) and the features (m, C, d) that are to be read off them, by least squares."""
        parts = [(_rows(weights), features) for weights, features in heads]
        given, wanted = torch.cat([one for one, _ in parts]), torch.cat([one for _, one in parts])
        centers, means = given.mean(0), wanted.mean(0)
        scale = (given - centers).flatten(0, 1).std(0)
        # a weight that never moves says nothing
        scale = torch.where(scale > 0, scale, 1.0)
        z = ((given - centers) / scale).flatten(0, 1).double()
        kernel = z.T @ z + RIDGE * len(z) * torch.eye(z.shape[1], dtype=z.dtype)
        slope = torch.linalg.solve(kernel, z.T @ (wanted - means).flatten(0, 1).double())
        return Reading(means, centers, slope.float() / scale.unsqueeze(1))

    def read(self, weights: Tensor, *, floor: bool) -> Tensor:
        """(m, C, d) of weights (m, C, d); none negative where features cannot be (`floor`)."""
        found = self.means + (_rows(weights) - self.centers) @ self.slope
        return found.clamp_min(0) if floor else found

    @property
    def state(self) -> State:
        """As it is kept."""
        return {"means": self.means, "centers": self.centers, "slope": self.slope}


def _rows(weights: Tensor) -> Tensor:
    """(m, C, 2 d): each class's row, and beside it the mean of the others."""
    others = (weights.sum(1, keepdim=True) - weights) / (weights.shape[1] - 1)
    return torch.cat([weights, others], 2)
