"""A small convolutional network, large enough that matching needs a prior."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from torch import nn

from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.core.target import Target
from leakscope.numerics.rng import Key
from leakscope.targets.recipes.architecture import AbstractArchitecture
from leakscope.targets.zoo.fit import Activation, checked_classes, image_shape


@final
@dataclass(frozen=True)
class ConvNet(AbstractArchitecture):
    """Four 3 x 3 convolutions of w, 2w, 2w, 4w channels (strides 1, 2, 1, 2), one dense layer.

    73 802 parameters for 3 x 32 x 32 and 10 classes at the default width 16. No normalization, no pooling.
    Raises `BadInput` on a width below 1.

    >>> from leakscope.domains.vision import Images
    >>> ConvNet().build(Images(3, 32, 32), 10, key=Key(0)).count()
    73802
    """

    width: int = 16
    activation: Activation = Activation.RELU

    def __post_init__(self) -> None:
        object.__setattr__(self, "activation", Activation(self.activation))
        if self.width < 1:
            raise BadInput(f"expected width >= 1, got {self.width}")

    def build(self, domain: AbstractDomain, classes: int, *, key: Key) -> Target:
        """The target with weights drawn from `key`. Raises `BadInput` when the inputs are not images."""
        channels, height, width = image_shape(domain, self)
        checked_classes(classes)
        w = self.width
        layers: list[nn.Module] = []
        with key.isolated():
            # channels double where the picture is halved
            for before, after, stride in ((channels, w, 1), (w, 2 * w, 2), (2 * w, 2 * w, 1), (2 * w, 4 * w, 2)):
                layers += [nn.Conv2d(before, after, 3, padding=1, stride=stride), self.activation.layer()]
            # two strides of 2, each rounding up because of the padding of 1
            places = math.ceil(height / 4) * math.ceil(width / 4)
            module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * w * places, classes))
        return Target(module, domain, classes, name=repr(self))
