"""More distances: other norms, the largest entries only, and clipping of both sides."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.attacks.parts.distance.distances import AbstractDistance
from leakscope.core.errors import BadInput
from leakscope.numerics import trees
from leakscope.numerics.rng import Key, uniform
from leakscope.numerics.trees import Named


@final
@dataclass(frozen=True)
class Euclidean(AbstractDistance):
    """|g - g*|_2 of all entries together: the root of `Squared`, with slopes that do not fade near the truth.

    >>> Euclidean()({"w": torch.tensor([3.0]), "b": torch.tensor([4.0])}, {"w": torch.zeros(1), "b": torch.zeros(1)})
    tensor(5.)
    """

    def __call__(self, candidate: Named, observed: Named) -> Tensor:
        """The distance, a scalar >= 0."""
        # One root over all layers, not a sum of roots by layer.
        squares = torch.stack([(candidate[n] - observed[n]).square().sum() for n in observed]).sum()
        # the tiny constant keeps the slope finite at the truth itself
        return (squares + torch.finfo(squares.dtype).tiny).sqrt()


@final
@dataclass(frozen=True)
class LInfinity(AbstractDistance):
    """sum over layers of max |g - g*|.

    >>> LInfinity()({"w": torch.tensor([1.0, -3.0]), "b": torch.ones(1)}, {"w": torch.zeros(2), "b": torch.zeros(1)})
    tensor(4.)
    """

    def __call__(self, candidate: Named, observed: Named) -> Tensor:
        """The distance, a scalar >= 0."""
        # By layer and not over all: with one maximum every other layer would have slope zero.
        return torch.stack([(candidate[n] - observed[n]).abs().amax() for n in observed]).sum()


@final
@dataclass(frozen=True)
class SquareRoot(AbstractDistance):
    """sum sqrt |g - g*|, of each entry: large differences count little, so a few wrong entries are borne.

    Each root begins at 1e-12, which keeps its slope finite.

    >>> round(SquareRoot()({"w": torch.tensor([4.0, 1.0])}, {"w": torch.zeros(2)}).item(), 4)
    3.0
    """

    def __call__(self, candidate: Named, observed: Named) -> Tensor:
        """The distance, a scalar >= 0."""
        least = 1e-12
        # sqrt(|d| + c) - sqrt(c), zero at d = 0, with slopes up to 1 / (2 sqrt(c)) = 5e5 instead of infinity.
        roots = [((candidate[n] - observed[n]).abs() + least).sqrt() - least**0.5 for n in observed]
        return torch.stack([root.sum() for root in roots]).sum()


@final
@dataclass(frozen=True)
class TopGradients(AbstractDistance):
    """`of`, on the share `ratio` of largest |g*| in each layer, less a random share `drop` of these.

    At least one entry of each layer stays. The random part is drawn from `seed` and the layer's name, the same in
    every step. 0 < ratio <= 1, 0 <= drop < 1; raises `BadInput` outside.

    >>> far, near = {"w": torch.tensor([9.0, 9.0, 9.0])}, {"w": torch.tensor([0.0, 5.0, -1.0])}
    >>> from leakscope.attacks.parts.distance.distances import L1
    >>> TopGradients(L1(), ratio=0.34)(far, near)
    tensor(4.)
    """

    of: AbstractDistance
    ratio: float = 0.5
    drop: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1 or not 0 <= self.drop < 1:
            raise BadInput(f"expected 0 < ratio <= 1 and 0 <= drop < 1, got {self.ratio} and {self.drop}")

    @property
    def citation(self) -> str:
        """That of the distance inside."""
        return self.of.citation

    @property
    def scale_free(self) -> bool:
        """As the distance inside."""
        return self.of.scale_free

    def reads(self, names: list[str]) -> list[str]:
        """As the distance inside."""
        return self.of.reads(names)

    def __call__(self, candidate: Named, observed: Named) -> Tensor:
        """The distance on the kept entries."""
        # Chosen by the observed side alone: the set is the same in every step, and cannot be escaped by a candidate.
        kept = {name: self._kept(name, value) for name, value in observed.items()}
        return self.of({n: candidate[n] * kept[n] for n in observed}, {n: observed[n] * kept[n] for n in observed})

    def _kept(self, name: str, value: Tensor) -> Tensor:
        # By layer, so that no layer is left out because its gradients are small.
        flat = value.detach().abs().flatten()
        largest = flat.topk(max(1, int(self.ratio * len(flat)))).indices
        if self.drop > 0:
            # A random order cut off: the number that stays is exact, as a coin for each entry would not make it.
            order = uniform(flat[largest], Key(self.seed).child("top gradients", name)).argsort()
            largest = largest[order[: max(1, round((1 - self.drop) * len(largest)))]]
        return torch.zeros_like(flat).index_fill(0, largest, 1.0).reshape(value.shape)


@final
class Limit(enum.Enum):
    """What is bounded: the norm of all entries together, or each entry; `Limit("norm")` names the first."""

    NORM = "norm"
    VALUE = "value"

    def __repr__(self) -> str:
        return f"Limit.{self.name}"


@final
@dataclass(frozen=True)
class Clipped(AbstractDistance):
    """`of`, after both sides were clipped: u min(1, most / |u|_2) over all layers, or each entry to [-most, most].

    Keeps single huge gradients from deciding everything. Where the client clips, its mechanism is replayed anyway.
    Raises `BadInput` unless most > 0.

    >>> Clipped(Euclidean(), 1.0)({"w": torch.tensor([30.0, 40.0])}, {"w": torch.tensor([0.6, 0.8])}).item() < 1e-6
    True
    """

    of: AbstractDistance
    most: float
    limit: Limit = Limit.NORM

    def __post_init__(self) -> None:
        if not self.most > 0:
            raise BadInput(f"expected most > 0, got {self.most}")
        object.__setattr__(self, "limit", Limit(self.limit))

    @property
    def citation(self) -> str:
        """That of the distance inside."""
        return self.of.citation

    def __call__(self, candidate: Named, observed: Named) -> Tensor:
        """The distance of the clipped sides."""
        return self.of(self._clipped(candidate), self._clipped(observed))

    def _clipped(self, side: Named) -> dict[str, Tensor]:
        if self.limit is Limit.VALUE:
            return {name: value.clamp(-self.most, self.most) for name, value in side.items()}
        # most / max(|u|, most) = min(1, most / |u|): inside the ball the factor is 1 and has slope zero.
        return trees.scale(side, self.most / trees.norm(side).clamp_min(self.most))
