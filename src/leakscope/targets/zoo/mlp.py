"""Dense networks, for inputs of any shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import nn

from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.core.target import Target
from leakscope.numerics.rng import Key
from leakscope.targets.recipes.architecture import AbstractArchitecture
from leakscope.targets.zoo.fit import Activation, checked_classes, flat_size


@final
@dataclass(frozen=True)
class MLP(AbstractArchitecture):
    """Flatten, then dense layers of `widths`, each followed by the activation and by dropout, then the output.

    dropout: the rate in [0, 1) of the dropout layers; they drop only in training mode, and never at rate 0.
    Parameters: sum over the layers of inputs * outputs + outputs. Raises `BadInput` on other widths or rates.

    >>> from leakscope.domains.vision import Images
    >>> MLP((5,)).build(Images(1, 2, 2), 3, key=Key(0)).count()  # 4 * 5 + 5 + 5 * 3 + 3
    43
    """

    widths: tuple[int, ...] = (256, 128)
    dropout: float = 0.0
    activation: Activation = Activation.RELU
    training: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "activation", Activation(self.activation))
        object.__setattr__(self, "widths", tuple(self.widths))
        if any(width < 1 for width in self.widths):
            raise BadInput(f"expected widths >= 1, got {self.widths}")
        if not 0 <= self.dropout < 1:
            raise BadInput(f"expected 0 <= dropout < 1, got {self.dropout}")

    def build(self, domain: AbstractDomain, classes: int, *, key: Key) -> Target:
        """The target with weights drawn from `key`."""
        checked_classes(classes)
        # inside the model, so that the first dense layer is fed the input itself, which exact attacks look for
        layers: list[nn.Module] = [nn.Flatten()]
        before = flat_size(domain)
        with key.isolated():
            for width in self.widths:
                # also at rate 0: the names of the parameters are then the same with and without dropout
                layers += [nn.Linear(before, width), self.activation.layer(), nn.Dropout(self.dropout)]
                before = width
            module = nn.Sequential(*layers, nn.Linear(before, classes))
        return Target(module, domain, classes, name=repr(self), training=self.training)


@final
@dataclass(frozen=True)
class Linear(AbstractArchitecture):
    """Flatten and one dense layer: multinomial logistic regression, (d + 1) * classes parameters.

    >>> from leakscope.domains.vision import Images
    >>> Linear().build(Images(3, 32, 32), 100, key=Key(0)).count()
    307300
    """

    def build(self, domain: AbstractDomain, classes: int, *, key: Key) -> Target:
        """The target with weights drawn from `key`."""
        checked_classes(classes)
        with key.isolated():
            module = nn.Sequential(nn.Flatten(), nn.Linear(flat_size(domain), classes))
        return Target(module, domain, classes, name=repr(self))
