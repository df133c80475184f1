"""Where the search moves: the map from the searched variable to inputs and labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.core.domain import AbstractDomain


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
        return low + (high - low) * torch.sigmoid(point)

    def encode(self, inputs: Tensor, domain: AbstractDomain) -> Tensor:
        """The inverse; inputs at or beyond the bounds are pulled inside by a thousandth of the range."""
        low, high = domain.bounds(inputs)
        return torch.logit(((inputs - low) / (high - low)).clamp(1e-3, 1 - 1e-3))

    def project(self, point: Tensor, domain: AbstractDomain) -> Tensor:
        """The point itself."""
        del domain
        return point
