"""Sending only some entries of the update."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from leakscope.core.arguments import flag, number
from leakscope.mechanisms.compose import AbstractUpdateDefense, Cells, Sensitivity, around
from leakscope.mechanisms.effects import Answer, UpdateEffect
from leakscope.numerics import trees
from leakscope.numerics.rng import Key, uniform
from leakscope.numerics.trees import Named

if TYPE_CHECKING:
    from dp_accounting import DpEvent


@final
@dataclass(frozen=True)
class Prune(AbstractUpdateDefense):
    """u where |u| is among the ceil(keep * n) largest, else 0 (top-k; Aji & Heafield 2017, arXiv:1704.05021).

    keep: the fraction that stays, in (0, 1]. whole: rank the n entries of the whole update together instead of those
    of each tensor by themselves. Of equal values the first stays. Raises `BadInput` on a fraction outside (0, 1].

    >>> Prune(0.5).replay({"w": torch.tensor([1.0, -3.0, 2.0, 0.5])})
    {'w': tensor([ 0., -3.,  2.,  0.])}
    """

    keep: float
    whole: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", number("keep", self.keep, low=0, high=1, low_open=True))
        flag("whole", self.whole)

    def apply(self, update: Named, *, key: Key) -> dict[str, Tensor]:
        """By sorting: the entries in the first places are copied into zeros."""
        del key
        if not self.whole:
            return {name: self._sorted(value.detach().reshape(-1)).view_as(value) for name, value in update.items()}
        kept = self._sorted(trees.flatten(update).detach()).split([value.numel() for value in update.values()])
        return {name: part.view_as(value) for part, (name, value) in zip(kept, update.items(), strict=True)}

    def replay(self, update: Named) -> dict[str, Tensor]:
        """By threshold; differentiable in the entries that stay, which are taken as given."""
        if not self.whole:
            return {name: value * self._mask(value.reshape(-1)).view_as(value) for name, value in update.items()}
        masks = self._mask(trees.flatten(update)).split([value.numel() for value in update.values()])
        return {name: value * mask.view_as(value) for mask, (name, value) in zip(masks, update.items(), strict=True)}

    @property
    def effect(self) -> UpdateEffect:
        """What is left stands as it was, but which entries are left depends on their sizes."""
        return UpdateEffect(
            keeps_ratios=Answer.NO,
            keeps_zeros=Answer.YES,
            bends=Answer.YES,
            signs=Answer.NO,
            rounds=Answer.NO,
            clips=Answer.NO,
            unbiased=Answer.NO,
            adds=Answer.NO,
            keeps_signs=Answer.YES,
            only_disturbs=Answer.NO,
        )

    def noise(self, sent: Tensor) -> float | None:
        """0: entries are left out, none is changed."""
        del sent
        return 0.0

    def cells(self, sent: Named) -> Cells | None:
        """What was not sent is at most as large as the smallest entry that was, of its tensor or of the update."""
        smallest = {name: _smallest(value) for name, value in sent.items()}
        if self.whole:
            smallest = dict.fromkeys(smallest, min(smallest.values()))
        # a tensor of which nothing was sent although its largest entries are: they are zero, hence all of it
        most = {name: size if math.isfinite(size) else 0.0 for name, size in smallest.items()}
        half = {name: (value == 0).double() * most[name] for name, value in sent.items()}
        return around(sent, half)

    def sensitivity(self, before: Sensitivity) -> Sensitivity:
        """Unchanged: setting entries to zero enlarges no norm."""
        return before

    def event(self, before: Sensitivity) -> DpEvent | None:
        """None: no noise."""
        del before
        return None

    def _count(self, entries: int) -> int:
        # 0.1 * 30 is 3.0000000000000004: what exceeds a whole number by rounding alone is that number
        return min(entries, max(1, math.ceil(self.keep * entries - 1e-9)))

    def _sorted(self, flat: Tensor) -> Tensor:
        # stable: of equal values the first stays, as in the other route
        places = torch.sort(flat.abs(), descending=True, stable=True).indices[: self._count(flat.numel())]
        sent = torch.zeros_like(flat)
        sent[places] = flat[places]
        return sent

    def _mask(self, flat: Tensor) -> Tensor:
        if not flat.numel():
            return flat
        size, kept = flat.detach().abs(), self._count(flat.numel())
        # the smallest size that is kept; several entries may have it
        threshold = torch.topk(size, kept).values.amin()
        above, level = size > threshold, size == threshold
        # of those at the threshold, the first ones that still have room
        first = level.cumsum(0) <= kept - above.sum()
        return (above | (level & first)).to(flat.dtype)


@final
@dataclass(frozen=True)
class RandomDrop(AbstractUpdateDefense):
    """u * m, m ~ Bernoulli(1 - rate) for each entry, without rescaling (random masks; Konecny et al. 2016, 1610.05492).

    rate: the probability that an entry becomes zero, in [0, 1). Raises `BadInput` on another rate.

    >>> RandomDrop(0.25).replay({"w": torch.tensor([4.0])})
    {'w': tensor([3.])}
    """

    rate: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", number("rate", self.rate, low=0, high=1, high_open=True))

    def apply(self, update: Named, *, key: Key) -> dict[str, Tensor]:
        """Each tensor draws from the key's child of its name."""
        return {
            # not divided by 1 - rate: the client sends what it computed, and the mean shrinks
            name: torch.where(uniform(value, key.child(name)) < self.rate, torch.zeros_like(value), value.detach())
            for name, value in update.items()
        }

    def replay(self, update: Named) -> dict[str, Tensor]:
        """(1 - rate) * u, the mean over the masks."""
        return trees.scale(update, 1.0 - self.rate)

    @property
    def effect(self) -> UpdateEffect:
        """Entries vanish at random, whatever they were."""
        return UpdateEffect(
            keeps_ratios=Answer.NO,
            keeps_zeros=Answer.YES,
            bends=Answer.YES,
            signs=Answer.NO,
            rounds=Answer.NO,
            clips=Answer.NO,
            unbiased=Answer.NO,
            adds=Answer.NO,
            keeps_signs=Answer.YES,
            only_disturbs=Answer.NO,
        )

    def noise(self, sent: Tensor) -> float | None:
        """0: entries are left out, none is changed."""
        del sent
        return 0.0

    def sensitivity(self, before: Sensitivity) -> Sensitivity:
        """Unchanged: setting entries to zero enlarges no norm. The randomness of the mask is not counted."""
        return before

    def event(self, before: Sensitivity) -> DpEvent | None:
        """None: a random mask hides no entry that it sends."""
        del before
        return None


def _smallest(sent: Tensor) -> float:
    """The smallest size that was sent; infinite where nothing was."""
    kept = sent[sent != 0].abs()
    return float(kept.amin()) if kept.numel() else math.inf
