"""Adding noise to the update."""

from __future__ import annotations

import math
from collections.abc import Callable
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


MOST = 1e12
"""The largest multiplier that is promised: accountants overflow beyond it, and epsilon is 0 long before."""


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

    @property
    def only_noise(self) -> bool:
        """Yes."""
        return True

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
            adds=Answer.YES,
            keeps_signs=_without(self.std),
            only_disturbs=Answer.YES,
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
        """The Gaussian mechanism with multiplier std / l2 bound: not private where that is infinite."""
        # in units of what one client changes at most (adding or removing it), the l2 bound
        return None if self.std == 0 else _measured(accounting().GaussianDpEvent, self.std, before.l2)


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

    @property
    def only_noise(self) -> bool:
        """Yes."""
        return True

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
            adds=Answer.YES,
            keeps_signs=_without(self.scale),
            only_disturbs=Answer.YES,
        )

    def noise(self, sent: Tensor) -> float | None:
        """sqrt(2) * scale: the difference of two exponential draws, each of variance scale^2."""
        del sent
        return math.sqrt(2) * self.scale

    def sensitivity(self, before: Sensitivity) -> Sensitivity:
        """Nothing bounds a noisy update; without noise the bounds stay."""
        return Sensitivity() if self.scale > 0 else before

    def event(self, before: Sensitivity) -> DpEvent | None:
        """The Laplace mechanism with multiplier scale / l1 bound: not private where that is infinite."""
        # the Laplace mechanism is calibrated to order 1: epsilon = l1 / scale per release
        return None if self.scale == 0 else _measured(accounting().LaplaceDpEvent, self.scale, before.l1)


def _measured(kind: Callable[..., DpEvent], noise: float, bound: float) -> DpEvent:
    """The event of that kind with the multiplier noise / bound."""
    dp = accounting()
    if bound == 0:
        return dp.NoOpDpEvent()  # nobody contributes anything
    # rounded down where it is too large: more noise than is promised costs nothing
    multiplier = min(noise / bound, MOST)
    # 0 where the bound is infinite, and where so little noise is added that the ratio underflows
    return kind(noise_multiplier=multiplier) if multiplier > 0 else dp.NonPrivateDpEvent()


def _without(noise: float) -> Answer:
    """Noise of size 0 keeps everything."""
    return Answer.NO if noise > 0 else Answer.YES


def _laplace(like: Tensor, key: Key) -> Tensor:
    """The difference of two exponential draws. (The inverse of the distribution function is infinite at u = 0.)"""
    generator = key.generator(like.device)
    # two independent Exp(1): their difference has density exp(-|n|) / 2
    draws = torch.empty((2, *like.shape), dtype=like.dtype, device=like.device).exponential_(generator=generator)
    return draws[0] - draws[1]
