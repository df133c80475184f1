"""A small VGG: eight 3 x 3 convolutions and three dense layers."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import final

from torch import nn

from leakscope.core.arguments import count
from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.core.target import Target
from leakscope.numerics.rng import Key
from leakscope.targets.recipes.architecture import AbstractArchitecture
from leakscope.targets.zoo.fit import checked_classes, image_shape

POOLINGS = 3


@final
@dataclass(frozen=True)
class VGGTiny(AbstractArchitecture):
    """Convolutions of w, 2w | 4w, 4w, 8w, 8w | 8w, 8w channels, at each "|" and the end a 2 x 2 maximum; dense layers.

    features: the width of both hidden dense layers; the output layer is fed the second one's, after ReLU. All
    convolutions are 3 x 3 with padding 1 and bias, followed by ReLU. Convolutions are drawn by Kaiming's rule
    (He et al. 2015, section 2.2, fan out). 240 010 parameters for 1 x 32 x 32 and 26 classes at width 4, as in the
    published system of attacks on transfer-learned classifiers; the family is of Simonyan & Zisserman 2015
    (arXiv:1409.1556). Raises `BadInput` on sizes below 1, and on pictures below 8 x 8.

    >>> from leakscope.domains.vision import Images
    >>> VGGTiny().build(Images(1, 32, 32), 26, key=Key(0)).count()
    240010
    """

    width: int = 4
    features: int = 256

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", count("width", self.width))
        object.__setattr__(self, "features", count("features", self.features))

    def build(self, domain: AbstractDomain, classes: int, *, key: Key) -> Target:
        """The target with weights drawn from `key`. Raises `BadInput` when the inputs are not images."""
        channels, height, width = image_shape(domain, self)
        checked_classes(classes)
        if min(height, width) < 2**POOLINGS:
            raise BadInput(
                f"{self!r} halves pictures {POOLINGS} times and takes at least 8 x 8, got {height} x {width}"
            )
        w = self.width
        blocks = ((channels, w, 2 * w), (2 * w, 4 * w, 4 * w, 8 * w, 8 * w), (8 * w, 8 * w, 8 * w))
        # each maximum halves, rounding down
        places = (height >> POOLINGS) * (width >> POOLINGS)
        with key.isolated():
            layers: list[nn.Module] = []
            for widths in blocks:
                for before, after in itertools.pairwise(widths):
                    convolution = nn.Conv2d(before, after, 3, padding=1)
                    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
                    layers += [convolution, nn.ReLU()]
                layers.append(nn.MaxPool2d(2))
            layers.append(nn.Flatten())
            for before, after in ((8 * w * places, self.features), (self.features, self.features)):
                layers += [nn.Linear(before, after), nn.ReLU()]
            module = nn.Sequential(*layers, nn.Linear(self.features, classes))
        return Target(module, domain, classes, name=repr(self))
