"""A fresh classifier head on a public backbone: transfer learning in which only the head is trained."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from leakscope.core.arguments import count, instance, number
from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput, NoSuchLayer
from leakscope.core.target import Target
from leakscope.numerics.rng import Key
from leakscope.targets.looking.dense_ends import output_layer
from leakscope.targets.losses import OneLogit
from leakscope.targets.recipes.architecture import AbstractArchitecture
from leakscope.targets.restricted import only

HEAD = "head"


@final
class _Probe(nn.Module):
    """The backbone's features times a constant, and the head on them."""

    def __init__(self, body: nn.Module, head: nn.Module, scale: float) -> None:
        nn.Module.__init__(self)
        self.body, self.head, self.scale = body, head, scale

    def forward(self, x: Tensor) -> Tensor:
        """(B, *shape) to (B, classes)."""
        result: Tensor = self.head(self.body(x) * self.scale)
        return result


@final
@dataclass(frozen=True)
class LinearProbe(AbstractArchitecture):
    """logits = W (scale phi(x)) + b, phi what the output layer of `backbone` is fed; parameters are W and b alone.

    The backbone is public: its weights are those of `Key(0)`, whatever the target's key, which draws the head alone.
    They are buffers of the target, so that every protocol trains and releases the head and nothing else.
    backbone_classes: of the task that the backbone was trained for; its own output layer is cut off.
    scale: > 0, a public constant; the rates that suit a head depend on the size of its features.
    whole: nothing is cut off: phi(x) is what the backbone returns, a vector of `backbone_classes` numbers.
    hidden: >= 1, the width of a layer with ReLU before the last, W2 relu(W1 scale phi(x) + b1) + b2; None for none.
    positive_weight: > 0, and the head has one logit for two classes, trained by `OneLogit`; None: a row for each.
    Raises `BadInput` on other values and on one logit for other than two classes, `NoSuchLayer` for a backbone without
    a dense output layer that one vector of each example is fed to.

    >>> from leakscope.domains.vision import Images
    >>> from leakscope.targets.zoo.mlp import MLP
    >>> target = LinearProbe(MLP((8,)), 26).build(Images(1, 4, 4), 3, key=Key(0))
    >>> {name: tuple(value.shape) for name, value in target.parameters().items()}
    {'head.weight': (3, 8), 'head.bias': (3,)}
    """

    backbone: AbstractArchitecture
    backbone_classes: int
    scale: float = 1.0
    whole: bool = False
    hidden: int | None = None
    positive_weight: float | None = None

    def __post_init__(self) -> None:
        instance("backbone", self.backbone, AbstractArchitecture, "give a target such as VGGTiny()")
        object.__setattr__(self, "backbone_classes", count("backbone_classes", self.backbone_classes))
        object.__setattr__(self, "scale", number("scale", self.scale, low=0, low_open=True))
        instance("whole", self.whole, bool, "write True or False")
        if self.hidden is not None:
            object.__setattr__(self, "hidden", count("hidden", self.hidden))
        if self.positive_weight is not None:
            object.__setattr__(self, "positive_weight", OneLogit(self.positive_weight).positive_weight)

    def build(self, domain: AbstractDomain, classes: int, *, key: Key) -> Target:
        """The target. Raises what the backbone raises."""
        public = self.backbone.build(domain, self.backbone_classes, key=Key(0))
        body, features = copy.deepcopy(public.module), self.backbone_classes
        if not self.whole:
            features = self._cut(public, body)
        loss = public.loss if self.positive_weight is None else OneLogit(self.positive_weight)
        if self.positive_weight is not None and classes != 2:
            raise BadInput(
                f"{self!r} has one logit, which tells 2 classes apart, not {classes}; leave positive_weight out"
            )
        with key.isolated():
            head = self._head(features, classes)
        made = _Probe(body, head, self.scale)
        whole = dataclasses.replace(public, module=made, classes=classes, name=repr(self), loss=loss)
        return only(whole, [f"{HEAD}.{name}" for name, _ in head.named_parameters()])

    def _head(self, features: int, classes: int) -> nn.Module:
        outputs = classes if self.positive_weight is None else 1
        if self.hidden is None:
            return nn.Linear(features, outputs)
        return nn.Sequential(nn.Linear(features, self.hidden), nn.ReLU(), nn.Linear(self.hidden, outputs))

    def _cut(self, public: Target, body: nn.Module) -> int:
        """Take the output layer off `body`; returns how many features it was fed."""
        place = output_layer(public).name
        layer = body.get_submodule(place)
        if not isinstance(layer, nn.Linear):
            raise NoSuchLayer(f"{place!r} of {self.backbone!r} is {type(layer).__name__} and no torch.nn.Linear")
        body.set_submodule(place, nn.Identity())
        return layer.in_features
