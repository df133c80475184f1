"""Sending fewer bits per entry. The replay's gradient is taken straight through: d(sent)/d(update) = 1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from leakscope.core.arguments import count, flag
from leakscope.mechanisms.compose import AbstractUpdateDefense, Cells, Sensitivity, around
from leakscope.mechanisms.effects import Answer, UpdateEffect
from leakscope.numerics.rng import Key, uniform
from leakscope.numerics.trees import Named

if TYPE_CHECKING:
    from dp_accounting import DpEvent


@final
@dataclass(frozen=True)
class Quantize(AbstractUpdateDefense):
    """step * round(u / step), step = max|u| / (2^(bits - 1) - 1), for each tensor by itself.

    The 2^bits - 1 levels are uniform over [-max|u|, max|u|] and hold zero, so that what is zero stays zero.
    bits: 2 to 16; one bit is `Sign`. stochastic: round up with the probability that makes the mean exact; two
    stochastic bits are TernGrad (Wen et al. 2017, arXiv:1705.07878), more are QSGD with the largest entry for its norm
    (Alistarh et al. 2017, arXiv:1610.02132). Raises `BadInput` on other values.

    >>> Quantize(2).replay({"w": torch.tensor([1.0, 0.4, -0.6])})
    {'w': tensor([ 1.,  0., -1.])}
    """

    bits: int
    stochastic: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", count("bits", self.bits, low=2, high=16))
        flag("stochastic", self.stochastic)

    def apply(self, update: Named, *, key: Key) -> dict[str, Tensor]:
        """Each tensor draws from the key's child of its name, if anything is drawn."""
        return {name: self._sent(value.detach(), key.child(name)) for name, value in update.items()}

    def replay(self, update: Named) -> dict[str, Tensor]:
        """Rounded to the nearest level, or, if stochastic, the update itself: that rounding is unbiased."""
        if self.stochastic:
            return dict(update)
        return {name: _straight_through(self._nearest(value.detach()), value) for name, value in update.items()}

    @property
    def effect(self) -> UpdateEffect:
        """Each entry moves by less than a step, in a direction that depends on all of them."""
        return UpdateEffect(
            keeps_ratios=Answer.NO,
            keeps_zeros=Answer.YES,
            bends=Answer.NO,
            signs=Answer.NO,
            rounds=Answer.YES,
            clips=Answer.NO,
            unbiased=Answer.YES if self.stochastic else Answer.NO,
            adds=Answer.NO,
            keeps_signs=Answer.YES,
            only_disturbs=Answer.YES,
        )

    def noise(self, sent: Tensor) -> float | None:
        """step / sqrt(12), of an error that is uniform over one step; step / sqrt(6) where it is rounded at random.

        At random an entry at the share s of a step errs by variance s (1 - s) step^2, which is step^2 / 6 on average.
        """
        step = float(sent.abs().max()) / (2 ** (self.bits - 1) - 1)
        return float(step / math.sqrt(6 if self.stochastic else 12))

    def cells(self, sent: Named) -> Cells | None:
        """Half a step around each level; None for rounding at random, which may go a whole step either way."""
        if self.stochastic:
            return None
        levels = 2 ** (self.bits - 1) - 1
        half = {
            name: torch.full_like(value, 0.5 * float(value.abs().max()) / levels, dtype=torch.float64)
            for name, value in sent.items()
        }
        return around(sent, half)

    def sensitivity(self, before: Sensitivity) -> Sensitivity:
        """Twice the bounds if rounding is to the nearest, none if it is stochastic.

        Proof for the nearest: |u| < step / 2 becomes 0, any other entry grows by at most step / 2 <= |u|. Stochastic
        rounding can lift any number of tiny entries to one step, so no factor of the norm bounds it.
        """
        return Sensitivity() if self.stochastic else Sensitivity(l1=2 * before.l1, l2=2 * before.l2)

    def event(self, before: Sensitivity) -> DpEvent | None:
        """None: the randomness of the rounding is not noise that an accountant counts."""
        del before
        return None

    def _step(self, value: Tensor) -> Tensor:
        # a tensor of zeros has step 1 instead of 0: its entries stay zero
        step = value.abs().amax() / (2 ** (self.bits - 1) - 1) if value.numel() else value.new_ones(())
        return torch.where(step > 0, step, torch.ones_like(step))

    def _sent(self, value: Tensor, key: Key) -> Tensor:
        step = self._step(value)
        if not self.stochastic:
            # half to even, as IEEE and torch round
            return (value / step).round() * step
        # P(up) = the remainder, so the mean is the value: floor(a + U) with U ~ U[0, 1)
        return torch.floor(value / step + uniform(value, key)) * step

    def _nearest(self, value: Tensor) -> Tensor:
        """By whole part and remainder, half to even as IEEE rounding does."""
        step = self._step(value)
        whole = torch.floor(value / step)
        rest = value / step - whole
        # a tie goes to the even neighbor: up exactly where the whole part is odd
        odd = torch.remainder(whole, 2) == 1
        return (whole + ((rest > 0.5) | ((rest == 0.5) & odd)).to(value.dtype)) * step


@final
@dataclass(frozen=True)
class Sign(AbstractUpdateDefense):
    """sign(u), one of -1, 0, 1 for each entry (signSGD; Bernstein et al. 2018, arXiv:1802.04434).

    Scale: none is sent. The release keeps its type, but its magnitude says nothing; a server that averages signs
    multiplies by its own learning rate. Only attacks that ignore scale (cosine distance) read such an update well.
    An entry that is zero but for rounding gets a sign by rounding.

    >>> Sign().replay({"w": torch.tensor([0.5, -2.0, 0.0])})
    {'w': tensor([ 1., -1.,  0.])}
    """

    def apply(self, update: Named, *, key: Key) -> dict[str, Tensor]:
        """By `torch.sign`."""
        del key
        return {name: torch.sign(value.detach()) for name, value in update.items()}

    def replay(self, update: Named) -> dict[str, Tensor]:
        """By comparison with zero; the gradient is straight through."""
        return {
            # the true slope is zero almost everywhere, and a search could not follow it
            name: _straight_through((value > 0).to(value.dtype) - (value < 0).to(value.dtype), value)
            for name, value in update.items()
        }

    @property
    def effect(self) -> UpdateEffect:
        """The size of every entry is lost."""
        return UpdateEffect(
            keeps_ratios=Answer.NO,
            keeps_zeros=Answer.YES,
            bends=Answer.YES,
            signs=Answer.YES,
            rounds=Answer.NO,
            clips=Answer.NO,
            unbiased=Answer.NO,
            adds=Answer.NO,
            keeps_signs=Answer.YES,
            only_disturbs=Answer.NO,
        )

    def noise(self, sent: Tensor) -> float | None:
        """0 by declaration: what is lost is no noise that could be averaged."""
        del sent
        return 0.0

    def sensitivity(self, before: Sensitivity) -> Sensitivity:
        """None: d signs have norm up to d (order 1) and sqrt(d) (order 2), and d is the model's, not the defense's."""
        del before
        return Sensitivity()

    def event(self, before: Sensitivity) -> DpEvent | None:
        """None: no noise."""
        del before
        return None


def _straight_through(sent: Tensor, value: Tensor) -> Tensor:
    """The value of `sent`, to the last bit, with the gradient of `value`: x - x is zero for finite x."""
    return sent.detach() + (value - value.detach())
