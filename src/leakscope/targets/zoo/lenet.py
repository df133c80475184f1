"""The LeNet of the gradient-inversion literature."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.core.target import Target
from leakscope.numerics.rng import Key
from leakscope.targets.recipes.architecture import AbstractArchitecture
from leakscope.targets.zoo.fit import Activation, checked_classes, image_shape

WIDTH = 12


@final
@dataclass(frozen=True)
class LeNet(AbstractArchitecture):
    """Three 5 x 5 convolutions of 12 channels (strides 2, 2, 1, padding 2), sigmoid, one dense layer.

    init_range: every weight and bias is drawn from U(-init_range, init_range); None keeps torch's initialization.
    85 036 parameters for 3 x 32 x 32 and 100 classes. Source: Zhu et al. 2019 (arXiv:1906.08935), section 4
    and its published code; sigmoid, because the matching needs a second derivative.
    Raises `BadInput` on a range that is not positive and finite.

    >>> from leakscope.domains.vision import Images
    >>> LeNet().build(Images(3, 32, 32), 100, key=Key(0)).count()
    85036
    """

    init_range: float | None = 0.5
    activation: Activation = Activation.SIGMOID

    def __post_init__(self) -> None:
        object.__setattr__(self, "activation", Activation(self.activation))
        if self.init_range is not None and not 0 < self.init_range < math.inf:
            raise BadInput(f"expected a positive finite init_range or None, got {self.init_range}")

    def build(self, domain: AbstractDomain, classes: int, *, key: Key) -> Target:
        """The target with weights drawn from `key`. Raises `BadInput` when the inputs are not images."""
        channels, height, width = image_shape(domain, self)
        checked_classes(classes)
        # a stride of 2 with padding 2 and kernel 5 halves, rounding up; twice
        rows, columns = math.ceil(math.ceil(height / 2) / 2), math.ceil(math.ceil(width / 2) / 2)
        with key.isolated():
            module = nn.Sequential(
                nn.Conv2d(channels, WIDTH, 5, padding=2, stride=2),
                self.activation.layer(),
                nn.Conv2d(WIDTH, WIDTH, 5, padding=2, stride=2),
                self.activation.layer(),
                nn.Conv2d(WIDTH, WIDTH, 5, padding=2),
                self.activation.layer(),
                nn.Flatten(),
                nn.Linear(WIDTH * rows * columns, classes),
            )
            # wide weights, as published: with torch's own the sigmoids stay near their middle, and inputs hardly show
            if self.init_range is not None:
                with torch.no_grad():
                    for parameter in module.parameters():
                        parameter.uniform_(-self.init_range, self.init_range)
        return Target(module, domain, classes, name=repr(self))
