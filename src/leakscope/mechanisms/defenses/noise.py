"""Adding noise to the update."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from leakscope.core.arguments import number
from leakscope.mechanisms.compose import AbstractUpdateDefense, Sensitivity, accounting
from leakscope.mechanisms.effects import Answer, UpdateEffect
from leakscope.numerics.rng import Key, normal
from leakscope.numerics.trees import Named

if TYPE_CHECKING:
    from dp_accounting import DpEvent


@final
@dataclass(frozen=True)
class GaussianNoise(AbstractUpdateDefense):
    """u + std * n, n ~ N(0, 1) for each entry (Dwork & Roth 2014, appendix A; Abadi et al. 2016, arXiv:1607.00133).

    std >= 0, in the units of the update: it is not multiplied by a clipping norm. Private only after a `Clip`.
    Raises `BadInput` on a negative or infinite std.

    >>> GaussianNoise(0.01).event(Sensitivity(l2=2.0))
    GaussianDpEvent(noise_multiplier=0.005)
    """

    std: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "std", number("std", self.std, low=0))

    def apply(self, update: Named, *, key: Key) -> dict[str, Tensor]:
        """Each tensor draws from the key's child of its name."""
        return {name: value.detach() + self.std * normal(value, key.child(name)) for name, value in update.items()}

    def replay(self, update: Named) -> dict[str, Tensor]:
        """The update itself: the noise has mean zero."""
        return dict(update)

    @property
    def effect(self) -> UpdateEffect:
        """Each entry gets a draw of its own: no proportion and no zero survives."""
        return UpdateEffect(
            keeps_ratios=_without(self.std),
            keeps_zeros=_without(self.std),
            bends=Answer.NO,
            signs=Answer.NO,
            rounds=Answer.NO,
            clips=Answer.NO,
            unbiased=Answer.YES,
        )

    def noise(self, sent: Tensor) -> float | None:
        """std, for every tensor alike."""
        del sent
        return self.std

    def sensitivity(self, before: Sensitivity) -> Sensitivity:
        """Nothing bounds a noisy update; without noise the bounds stay."""
        # one draw can be of any size, so a later step cannot count on the clip before
        return Sensitivity() if self.std > 0 else before

    def event(self, before: Sensitivity) -> DpEvent | None:
        """The Gaussian mechanism with multiplier std / l2 bound; not private where l2 is unbounded or std is 0."""
        dp = accounting()
        if math.isinf(before.l2) or self.std == 0:
            return dp.NonPrivateDpEvent()
        # in units of what one client changes at most (adding or removing it), the l2 bound
        return dp.GaussianDpEvent(noise_multiplier=self.std / before.l2)


@final
@dataclass(frozen=True)
class LaplaceNoise(AbstractUpdateDefense):
    """u + scale * n, n ~ Laplace(0, 1), density exp(-|n|) / 2, for each entry (Dwork & Roth 2014, section 3.3).

    scale >= 0, in the units of the update; the standard deviation is sqrt(2) * scale. Private only after a `Clip` of
    order 1. Raises `BadInput` on a negative or infinite scale.

    >>> LaplaceNoise(0.01).event(Sensitivity(l1=2.0))
    LaplaceDpEvent(noise_multiplier=0.005)
    """

    scale: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", number("scale", self.scale, low=0))

    def apply(self, update: Named, *, key: Key) -> dict[str, Tensor]:
        """Each tensor draws from the key's child of its name."""
        return {name: value.detach() + self.scale * _laplace(value, key.child(name)) for name, value in update.items()}

    def replay(self, update: Named) -> dict[str, Tensor]:
        """The update itself: the noise has mean zero."""
        return dict(update)

    @property
    def effect(self) -> UpdateEffect:
        """Each entry gets a draw of its own: no proportion and no zero survives."""
        return UpdateEffect(
            keeps_ratios=_without(self.scale),
            keeps_zeros=_without(self.scale),
            bends=Answer.NO,
            signs=Answer.NO,
            rounds=Answer.NO,
            clips=Answer.NO,
            unbiased=Answer.YES,
        )

    def noise(self, sent: Tensor) -> float | None:
        """sqrt(2) * scale: the difference of two exponential draws, each of variance scale^2."""
        del sent
        return math.sqrt(2) * self.scale

    def sensitivity(self, before: Sensitivity) -> Sensitivity:
        """Nothing bounds a noisy update; without noise the bounds stay."""
        return Sensitivity() if self.scale > 0 else before

    def event(self, before: Sensitivity) -> DpEvent | None:
        """The Laplace mechanism with multiplier scale / l1 bound; not private where l1 is unbounded or scale is 0."""
        dp = accounting()
        if math.isinf(before.l1) or self.scale == 0:
            return dp.NonPrivateDpEvent()
        # the Laplace mechanism is calibrated to order 1: epsilon = l1 / scale per release
        return dp.LaplaceDpEvent(noise_multiplier=self.scale / before.l1)


def _without(noise: float) -> Answer:
    """Noise of size 0 keeps everything."""
    return Answer.NO if noise > 0 else Answer.YES


def _laplace(like: Tensor, key: Key) -> Tensor:
    """The difference of two exponential draws. (The inverse of the distribution function is infinite at u = 0.)"""
    generator = key.generator(like.device)
    # two independent Exp(1): their difference has density exp(-|n|) / 2
    draws = torch.empty((2, *like.shape), dtype=like.dtype, device=like.device).exponential_(generator=generator)
    return draws[0] - draws[1]
