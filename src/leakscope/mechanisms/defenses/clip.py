"""Bounding the norm of the update."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from leakscope.core.arguments import count, number
from leakscope.mechanisms.compose import AbstractUpdateDefense, Sensitivity
from leakscope.mechanisms.effects import Answer, UpdateEffect
from leakscope.numerics import trees
from leakscope.numerics.rng import Key
from leakscope.numerics.trees import Named

if TYPE_CHECKING:
    from dp_accounting import DpEvent


@final
@dataclass(frozen=True)
class Clip(AbstractUpdateDefense):
    """u * min(1, norm / ||u||_order), the norm taken over the whole update (Abadi et al. 2016, arXiv:1607.00133).

    norm > 0, in the units of the update (a gradient's or a weight change's). order: 1 or 2; 1 prepares for
    `LaplaceNoise`, 2 for `GaussianNoise`. A bound of order 1 is also one of order 2, because ||u||_2 <= ||u||_1.
    Raises `BadInput` on other values.

    >>> import torch
    >>> Clip(1.0).replay({"w": torch.tensor([3.0, 4.0])})
    {'w': tensor([0.6000, 0.8000])}
    """

    norm: float
    order: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", number("norm", self.norm, low=0, low_open=True))
        object.__setattr__(self, "order", count("order", self.order, high=2))

    def apply(self, update: Named, *, key: Key) -> dict[str, Tensor]:
        """The norm of the tensors' norms decides whether the update is scaled, as clients do it."""
        del key
        # In float64: in float32 the squares of numbers below 1e-23 are zero, and what is not short would pass as short.
        per_tensor = [
            float(torch.linalg.vector_norm(value, ord=self.order, dtype=_wide(value))) for value in update.values()
        ]
        # ||u||_2 = hypot of the tensors' norms, ||u||_1 = their sum: another route than the concatenation of `replay`
        total = math.hypot(*per_tensor) if self.order == 2 else math.fsum(per_tensor)
        return trees.scale(update, self.norm / total) if total > self.norm else trees.detached(update)

    def replay(self, update: Named) -> dict[str, Tensor]:
        """The same by the norm of the concatenation; inside the ball the factor is one and has gradient zero."""
        # norm / max(||u||, norm): never above one, and without a branch on values, which vmap cannot take
        return trees.scale(update, self.norm / trees.norm(update, self.order).clamp_min(self.norm))

    @property
    def effect(self) -> UpdateEffect:
        """One factor for the whole update: proportions and zeros stay."""
        return UpdateEffect(
            keeps_ratios=Answer.YES,
            keeps_zeros=Answer.YES,
            bends=Answer.NO,
            signs=Answer.NO,
            rounds=Answer.NO,
            clips=Answer.YES,
            unbiased=Answer.NO,
            adds=Answer.NO,
            keeps_signs=Answer.YES,
            only_disturbs=Answer.YES,
        )

    def noise(self, sent: Tensor) -> float | None:
        """0: nothing is added."""
        del sent
        return 0.0

    def sensitivity(self, before: Sensitivity) -> Sensitivity:
        """Never above `norm` in this order, nor above what held before: scaling down enlarges no norm."""
        # ||u||_2 bounds ||u||_1 only by sqrt(d), and d is not known here
        l1 = min(before.l1, self.norm) if self.order == 1 else before.l1
        return Sensitivity(l1=l1, l2=min(before.l2, self.norm))

    def event(self, before: Sensitivity) -> DpEvent | None:
        """None: no noise."""
        del before
        return None


def _wide(value: Tensor) -> torch.dtype:
    return torch.complex128 if value.is_complex() else torch.float64
