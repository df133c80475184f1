"""What all zoo models share: their activation, and whether a domain fits."""

from __future__ import annotations

import enum
import math
from typing import final

from torch import nn

from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput


@final
class Activation(enum.Enum):
    """An elementwise nonlinearity, never in place; `Activation("relu")` and its repr name the same.

    >>> Activation("relu")
    Activation.RELU
    """

    RELU = "relu"
    SIGMOID = "sigmoid"
    TANH = "tanh"
    SOFTPLUS = "softplus"
    GELU = "gelu"
    SILU = "silu"

    def __repr__(self) -> str:
        return f"Activation.{self.name}"

    def layer(self) -> nn.Module:
        """A new layer that applies it."""
        return _LAYERS[self]()


# torch's defaults, hence never in place: a second derivative reads the activations again
_LAYERS: dict[Activation, type[nn.Module]] = {
    Activation.RELU: nn.ReLU,
    Activation.SIGMOID: nn.Sigmoid,
    Activation.TANH: nn.Tanh,
    Activation.SOFTPLUS: nn.Softplus,
    Activation.GELU: nn.GELU,
    Activation.SILU: nn.SiLU,
}


def image_shape(domain: AbstractDomain, family: object) -> tuple[int, int, int]:
    """(channels, height, width). Raises `BadInput` when the domain's inputs are not images."""
    # by the rank of the shape, not by the kind of domain: a user's own domain of pictures is as good
    if len(domain.shape) != 3:
        raise BadInput(
            f"{family!r} takes images (channels, height, width), got inputs of shape {domain.shape}; use MLP or Linear"
        )
    channels, height, width = domain.shape
    return channels, height, width


def flat_size(domain: AbstractDomain) -> int:
    """The number of values of one input."""
    return math.prod(domain.shape)


def checked_classes(classes: int) -> None:
    """Raises `BadInput` on fewer than one class."""
    if classes < 1:
        raise BadInput(f"expected at least one class, got {classes}")
