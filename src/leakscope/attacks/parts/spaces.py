"""Where the search moves: the map from the searched variable to inputs and labels."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.numerics.rng import Key


class AbstractSpace(ABC):
    """How a searched tensor becomes inputs."""

    @abstractmethod
    def decode(self, point: Tensor, domain: AbstractDomain) -> Tensor:
        """The inputs (..., *shape) at `point`; differentiable."""

    @abstractmethod
    def encode(self, inputs: Tensor, domain: AbstractDomain) -> Tensor:
        """A point that decodes to `inputs`, as nearly as the space can."""

    @abstractmethod
    def project(self, point: Tensor, domain: AbstractDomain) -> Tensor:
        """The nearest legal point; applied after every step of a first-order search."""

    def searched(self, lengths: Tensor, frames: int) -> Tensor:
        """Of sequences padded to `frames`, which frames move; the others stay as they were drawn. (B,) to (B, frames).

        Every real frame, unless the space says otherwise.
        """
        # (frames,) against (B, 1).
        return torch.arange(frames, device=lengths.device) < lengths.unsqueeze(1)


@final
@dataclass(frozen=True)
class Pixels(AbstractSpace):
    """The inputs themselves; `boxed` clips them to the domain's range after every step.

    >>> from leakscope.domains.vision import Images
    >>> Pixels(boxed=True).project(torch.tensor([[[2.0]]]), Images(1, 1, 1))
    tensor([[[1.]]])
    """

    boxed: bool = False

    def decode(self, point: Tensor, domain: AbstractDomain) -> Tensor:
        """The identity."""
        del domain
        return point

    def encode(self, inputs: Tensor, domain: AbstractDomain) -> Tensor:
        """The identity."""
        del domain
        return inputs

    def project(self, point: Tensor, domain: AbstractDomain) -> Tensor:
        """The clipped point, or the point itself when not boxed."""
        if not self.boxed:
            return point
        low, high = domain.bounds(point)
        # The nearest point of a box, entry by entry; bounds (C, 1, 1) or (F,) spread over the rest.
        return torch.maximum(torch.minimum(point, high), low)


@final
@dataclass(frozen=True)
class Squashed(AbstractSpace):
    """x = low + (high - low) * sigmoid(z): every point is legal, so that L-BFGS needs no clipping.

    >>> from leakscope.domains.vision import Images
    >>> Squashed().decode(torch.zeros(1, 1, 1), Images(1, 1, 1))
    tensor([[[0.5000]]])
    """

    def decode(self, point: Tensor, domain: AbstractDomain) -> Tensor:
        """The squashed inputs."""
        low, high = domain.bounds(point)
        # Open at both ends: an input that is exactly black is only approached.
        return low + (high - low) * torch.sigmoid(point)

    def encode(self, inputs: Tensor, domain: AbstractDomain) -> Tensor:
        """The inverse; inputs at or beyond the bounds are pulled inside by a thousandth of the range."""
        low, high = domain.bounds(inputs)
        # At the bound z is infinite and the slope x (1 - x) zero; at a thousandth from it 1e-3, and a search gets away.
        return torch.logit(((inputs - low) / (high - low)).clamp(1e-3, 1 - 1e-3))

    def project(self, point: Tensor, domain: AbstractDomain) -> Tensor:
        """The point itself."""
        del domain
        return point


@final
class Where(enum.Enum):
    """Which frames of an utterance; `Where("start")` names the same."""

    START = "start"
    END = "end"
    RANDOM = "random"
    SPREAD = "spread"

    def __repr__(self) -> str:
        return f"Where.{self.name}"


@final
@dataclass(frozen=True)
class SomeFrames(AbstractSpace):
    """`of`, of which only `count` frames of each utterance are searched; the others stay as the start drew them.

    where: the first ones, the last ones, a draw from `seed`, or evenly spread. Utterances with fewer frames are
    searched as a whole. Begin with zeros (`Between(0.0, 0.0)`) or with what another attack claims (`Claimed`).
    Raises `BadInput` on count < 1.

    >>> SomeFrames(2, Where.END).searched(torch.tensor([3, 4]), 4).int()
    tensor([[0, 1, 1, 0],
            [0, 0, 1, 1]], dtype=torch.int32)
    """

    count: int
    where: Where = Where.START
    of: AbstractSpace = field(default_factory=Pixels)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise BadInput(f"expected count >= 1, got {self.count}")
        # "start" from a plan and Where.START are one value, and one repr.
        object.__setattr__(self, "where", Where(self.where))

    def decode(self, point: Tensor, domain: AbstractDomain) -> Tensor:
        """As the space inside."""
        return self.of.decode(point, domain)

    def encode(self, inputs: Tensor, domain: AbstractDomain) -> Tensor:
        """As the space inside."""
        return self.of.encode(inputs, domain)

    def project(self, point: Tensor, domain: AbstractDomain) -> Tensor:
        """As the space inside."""
        return self.of.project(point, domain)

    def searched(self, lengths: Tensor, frames: int) -> Tensor:
        """`count` frames of each utterance."""
        chosen = torch.zeros(len(lengths), frames, dtype=torch.bool, device=lengths.device)
        for item, length in enumerate(lengths.tolist()):
            # A key for each utterance: which frames are drawn does not depend on what else is in the batch.
            chosen[item, self._places(length, Key(self.seed).child("frames", item)).to(lengths.device)] = True
        return chosen

    def _places(self, length: int, key: Key) -> Tensor:
        # Within the real frames: the last ones of a short utterance are not those of the padding.
        count = min(self.count, length)
        if self.where is Where.START:
            return torch.arange(count)
        if self.where is Where.END:
            return torch.arange(length - count, length)
        if self.where is Where.SPREAD:
            # floor(k T / n) rises by 1 at least where n <= T, so no frame is taken twice.
            return torch.arange(count) * length // count
        return torch.randperm(length, generator=key.generator())[:count]
