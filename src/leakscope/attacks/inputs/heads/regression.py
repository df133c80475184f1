"""Features behind heads that no closed form inverts, read by a regression that public heads of their kind teach."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.attacks.inputs.heads.prior import FeaturePrior
from leakscope.attacks.inputs.heads.sampled import TAUGHT, Sampled
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
    """x_c = means[c] + (z_c - centers[c]) slope, z_c = (W_c, mean of the other rows): the best linear estimate.

    means: (C, d). centers: (C, k). slope: (k, d), for all classes. What entry-by-entry steps or noise did to a head
    need not be known to be undone on average; of several examples of a class the mean is read.
    sampled: where each step draws its examples, what it finds stands in z_c as well: who took part is random and
    multiplies the features, which nothing linear undoes. None where nothing is drawn.
    """

    means: Tensor
    centers: Tensor
    slope: Tensor
    sampled: Sampled | None = None

    @staticmethod
    def learned(heads: Iterable[tuple[Heads, Tensor]], prior: FeaturePrior, mechanism: AbstractMechanism) -> Reading:
        """From heads and the features (m, C, d) that are to be read off them, by least squares.

        prior: of these features.
        """
        parts = list(heads)
        sampled = _sampled(parts, prior, mechanism)
        given = torch.cat([_rows(one, sampled) for one, _ in parts])
        wanted = torch.cat([one for _, one in parts])
        centers, means = given.mean(0), wanted.mean(0)
        scale = (given - centers).flatten(0, 1).std(0)
        # a weight that never moves says nothing
        scale = torch.where(scale > 0, scale, 1.0)
        z = ((given - centers) / scale).flatten(0, 1).double()
        kernel = z.T @ z + RIDGE * len(z) * torch.eye(z.shape[1], dtype=z.dtype)
        slope = torch.linalg.solve(kernel, z.T @ (wanted - means).flatten(0, 1).double())
        return Reading(means, centers, slope.float() / scale.unsqueeze(1), sampled)

    def read(self, heads: Heads, *, floor: bool) -> Tensor:
        """(m, C, d) of m heads of one layer; none negative where features cannot be (`floor`)."""
        found = self.means + (_rows(heads, self.sampled) - self.centers) @ self.slope
        return found.clamp_min(0) if floor else found

    @property
    def state(self) -> State:
        """As it is kept."""
        own = {"means": self.means, "centers": self.centers, "slope": self.slope}
        return own if self.sampled is None else own | {"sampled": self.sampled.state}

    @staticmethod
    def kept(state: State) -> Reading:
        """What was kept as `state`."""
        own = {name: state[name] for name in ("means", "centers", "slope")}
        return Reading(**own, sampled=Sampled(**state["sampled"]) if "sampled" in state else None)


def _rows(heads: Heads, sampled: Sampled | None) -> Tensor:
    """(m, C, k): each class's row, beside it the mean of the others, and what `sampled` finds."""
    weights = heads.weights[0]
    others = (weights.sum(1, keepdim=True) - weights) / (weights.shape[1] - 1)
    found = () if sampled is None else (sampled.read(weights, heads.biases[0]),)
    return torch.cat([weights, others, *found], 2)


def _sampled(parts: list[tuple[Heads, Tensor]], prior: FeaturePrior, mechanism: AbstractMechanism) -> Sampled | None:
    """Of the first heads; None of trainings on the whole batch, in which all take part alike."""
    if not acts_as(mechanism, PrivateHeadTraining):
        return None
    weights, biases, coefficients, many = [], [], [], 0
    for heads, features in parts:
        if heads.coefficients is None or many >= TAUGHT:
            break
        weights.append(heads.weights[0])
        biases.append(heads.biases[0])
        # examples stand ordered by class
        classes = features.shape[1]
        coefficients.append(heads.coefficients.unflatten(1, (classes, -1)).sum(2))
        many += len(heads)
    whole = Heads((torch.cat(weights),), (torch.cat(biases),))
    return Sampled.learned(whole, torch.cat(coefficients), prior, mechanism)
