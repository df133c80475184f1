"""The residual network for 32 x 32 images."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch.nn.functional as F
from torch import Tensor, nn

from leakscope.core.domain import AbstractDomain
from leakscope.core.target import Target
from leakscope.numerics.rng import Key
from leakscope.targets.recipes.architecture import AbstractArchitecture
from leakscope.targets.zoo.fit import Activation, checked_classes, image_shape


@final
class _Block(nn.Module):
    """Two convolutions beside an identity; where the size changes, the identity is subsampled and zero-padded."""

    def __init__(self, before: int, after: int, activation: Activation) -> None:
        nn.Module.__init__(self)
        self.stride = 1 if before == after else 2
        self.added = after - before
        # no bias: the normalization that follows would subtract it
        self.conv1 = nn.Conv2d(before, after, 3, stride=self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.activation = activation.layer()

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) to (B, after, ceil(H / stride), ceil(W / stride))."""
        residual = self.bn2(self.conv2(self.activation(self.bn1(self.conv1(x)))))
        # option A of the paper: every second pixel, new channels zero, no parameters
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))
        result: Tensor = self.activation(residual + shortcut)
        return result


@final
@dataclass(frozen=True)
class ResNet20(AbstractArchitecture):
    """One convolution, three stages of three blocks (16, 32, 64 channels), average pooling, one dense layer.

    269 722 parameters for 3 input channels and 10 classes; shortcuts without parameters. Source: He et al. 2016
    (arXiv:1512.03385), section 4.2, weights by He et al. 2015 (arXiv:1502.01852), equation 10.
    training: normalize by the statistics of the batch instead of the running ones (0 and 1 before training).

    >>> from leakscope.domains.vision import Images
    >>> ResNet20().build(Images(3, 32, 32), 10, key=Key(0)).count()
    269722
    """

    activation: Activation = Activation.RELU
    training: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "activation", Activation(self.activation))

    def build(self, domain: AbstractDomain, classes: int, *, key: Key) -> Target:
        """The target with weights drawn from `key`. Raises `BadInput` when the inputs are not images."""
        channels, _, _ = image_shape(domain, self)
        checked_classes(classes)
        # neighbors give the blocks: three per stage, of which the first of stages two and three widens
        widths = [16] * 4 + [32] * 3 + [64] * 3
        with key.isolated():
            module = nn.Sequential(
                nn.Conv2d(channels, 16, 3, padding=1, bias=False),
                nn.BatchNorm2d(16),
                self.activation.layer(),
                *(_Block(before, after, self.activation) for before, after in pairwise(widths)),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(64, classes),
            )
            for layer in module.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        return Target(module, domain, classes, name=repr(self), training=self.training)
