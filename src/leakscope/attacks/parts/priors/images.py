"""Beliefs about images: neighbors are alike, values are legal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from leakscope.attacks import citations
from leakscope.attacks.parts.priors.prior import AbstractPrior, Penalty
from leakscope.core.observation import Observation


def total_variation(inputs: Tensor) -> Tensor:
    """Mean |vertical difference| + mean |horizontal difference| of (..., H, W), a scalar; any number of channels.

    A dimension of size 1 has no differences and adds nothing.

    >>> import torch
    >>> total_variation(torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]]))
    tensor(1.)
    """
    # Means and not sums: the weight of a prior then means the same at every size of image.
    parts = []
    if inputs.shape[-2] > 1:
        parts.append((inputs[..., 1:, :] - inputs[..., :-1, :]).abs().mean())
    if inputs.shape[-1] > 1:
        parts.append((inputs[..., :, 1:] - inputs[..., :, :-1]).abs().mean())
    # A start that is a tensor: a single pixel gives a zero of the right kind, not the number 0.
    return sum(parts, start=inputs.new_zeros(()))


@final
@dataclass(frozen=True)
class TotalVariation(AbstractPrior):
    """mean |x_(i+1,j) - x_(i,j)| + mean |x_(i,j+1) - x_(i,j)|, anisotropic (Geiping et al. 2020, section 4)."""

    @property
    def citation(self) -> str:
        """Geiping et al. 2020."""
        return citations.INVERTING

    def penalty(self, seen: Observation) -> Penalty:
        """Total variation of (B, ..., H, W)."""
        del seen
        return total_variation


@final
@dataclass(frozen=True)
class Range(AbstractPrior):
    """The mean squared distance to the domain's legal interval; zero inside it."""

    def penalty(self, seen: Observation) -> Penalty:
        """The penalty by the domain's own bounds."""
        domain = seen.target.domain

        def outside(inputs: Tensor) -> Tensor:
            # In the model's units: black and white of a channel after normalization.
            low, high = domain.bounds(inputs)
            # max(low - x, 0)^2 + max(x - high, 0)^2: its slope is zero inside and has no jump at the edge.
            return ((low - inputs).clamp_min(0).square() + (inputs - high).clamp_min(0).square()).mean()

        return outside


@final
@dataclass(frozen=True)
class Energy(AbstractPrior):
    """The mean squared value, the l2 term of GradInversion (Yin et al. 2021, arXiv:2104.07586, equation 7)."""

    def penalty(self, seen: Observation) -> Penalty:
        """The mean square of the candidate."""
        del seen
        return lambda inputs: inputs.square().mean()
