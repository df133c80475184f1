"""Keeping layers back: a part of the model is not shared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from torch import Tensor

from leakscope.core.arguments import instance
from leakscope.core.errors import BadInput, NoSuchLayer
from leakscope.mechanisms.compose import AbstractUpdateDefense, Sensitivity
from leakscope.mechanisms.effects import Answer, UpdateEffect
from leakscope.numerics import trees
from leakscope.numerics.rng import Key
from leakscope.numerics.trees import Named

if TYPE_CHECKING:
    from dp_accounting import DpEvent


@final
@dataclass(frozen=True)
class FreezeLayers(AbstractUpdateDefense):
    """The update without the tensors of `layers`: what belongs to them does not leave the client, everything else does.

    layers: names of modules, as in "1" for "1.weight" and "1.bias". Nobody's update moves them, so that they stay what
    they were for everybody. Raises `BadInput` on names that are none, and when applied `NoSuchLayer` where the update
    has none of them, which a misspelled name would share unseen, and `BadInput` where nothing else is left.

    >>> import torch
    >>> FreezeLayers(("1",)).replay({"1.weight": torch.ones(2), "2.weight": torch.ones(1)})
    {'2.weight': tensor([1.])}
    """

    layers: tuple[str, ...]

    def __post_init__(self) -> None:
        instance("layers", self.layers, tuple, 'write for example layers=("1",)')
        for one in self.layers:
            instance("each of the layers", one, str, 'write for example layers=("1",)')
        if not self.layers or not all(self.layers) or len(set(self.layers)) < len(self.layers):
            raise BadInput(f"expected names of layers, each once, got {self.layers}")

    def apply(self, update: Named, *, key: Key) -> dict[str, Tensor]:
        """Copies of the rest."""
        del key
        shared = [name for name in update if not self._frozen(name)]
        self._checked(update, shared)
        return trees.detached(trees.select(update, shared))

    def replay(self, update: Named) -> dict[str, Tensor]:
        """The rest itself."""
        frozen = {name for name in update for layer in self.layers if name.startswith(f"{layer}.")}
        rest = {name: value for name, value in update.items() if name not in frozen}
        self._checked(update, list(rest))
        return rest

    @property
    def effect(self) -> UpdateEffect:
        """Whatever is sent is what it was; the rest is absent, which attacks see by its name."""
        return UpdateEffect(
            keeps_ratios=Answer.YES,
            keeps_zeros=Answer.YES,
            bends=Answer.NO,
            signs=Answer.NO,
            rounds=Answer.NO,
            clips=Answer.NO,
            unbiased=Answer.YES,
            adds=Answer.NO,
            keeps_signs=Answer.YES,
            only_disturbs=Answer.YES,
        )

    def noise(self, sent: Tensor) -> float | None:
        """0: nothing is added."""
        del sent
        return 0.0

    def sensitivity(self, before: Sensitivity) -> Sensitivity:
        """Unchanged: a part has no larger norm than the whole."""
        return before

    def event(self, before: Sensitivity) -> DpEvent | None:
        """None: no noise."""
        del before
        return None

    def _frozen(self, name: str) -> bool:
        # a whole name: "1" is a layer of "1.weight" and of no "11.weight"
        return any(name.removeprefix(layer).startswith(".") for layer in self.layers if name.startswith(layer))

    def _checked(self, update: Named, shared: list[str]) -> None:
        # loud, since a misspelled layer would be shared and looked upon as safe
        if len(shared) == len(update):
            raise NoSuchLayer(f"none of the layers {self.layers} is in the update, which has {', '.join(update)}")
        if not shared:
            raise BadInput(f"with {self.layers} frozen nothing of the update is left; freeze fewer layers")
