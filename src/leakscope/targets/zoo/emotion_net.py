"""The recognizer of emotions that federations of speakers train, for feature vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import nn

from leakscope.core.arguments import flag, number
from leakscope.core.domain import AbstractDomain
from leakscope.core.target import Target
from leakscope.numerics.rng import Key
from leakscope.targets.recipes.architecture import AbstractArchitecture
from leakscope.targets.zoo.fit import checked_classes, flat_size


@final
@dataclass(frozen=True)
class EmotionNet(AbstractArchitecture):
    """d -> 256 -> 128 -> classes with ReLU and dropout behind both hidden layers (FL-SER, arXiv:2112.13416, section 4).

    dropout: the rate behind the first, in [0, 1). second: behind the second. training: whether units drop, as they do
    while clients train. The original trains log-softmax with the negative log-likelihood, which is cross entropy on
    logits. Parameters: 256 (d + 1) + 257 * 128 + 129 * classes. Raises `BadInput` on other values.

    >>> from leakscope.domains.vectors import Vectors
    >>> EmotionNet().build(Vectors(988, -3, 3), 4, key=Key(0)).count()
    286596
    """

    dropout: float = 0.2
    second: float = 0.2
    training: bool = True

    def __post_init__(self) -> None:
        for name in ("dropout", "second"):
            object.__setattr__(self, name, number(name, getattr(self, name), low=0, high=1, high_open=True))
        flag("training", self.training)

    def build(self, domain: AbstractDomain, classes: int, *, key: Key) -> Target:
        """The target with weights drawn from `key`."""
        checked_classes(classes)
        with key.isolated():
            module = nn.Sequential(
                nn.Flatten(),
                nn.Linear(flat_size(domain), 256),
                nn.ReLU(),
                nn.Dropout(self.dropout),
                nn.Linear(256, 128),
                nn.ReLU(),
                nn.Dropout(self.second),
                nn.Linear(128, classes),
            )
        return Target(module, domain, classes, name=repr(self), training=self.training)
