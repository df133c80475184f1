"""Beliefs about sequences (B, T, F): neighboring frames are alike, coefficients have a small mean over time.

Each utterance is judged on its own frames: as many as `Lengths` says, all where it was not told. The frames that are
claimed are those that count, so a search adds the lengths that it found to what the prior sees.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.attacks.parts.priors.prior import AbstractPrior, Penalty
from leakscope.core.facts import Lengths
from leakscope.core.observation import Observation

LEAST = 1e-8
"""Keeps quotients finite where an utterance is constant."""


def _each(seen: Observation, measure: Callable[[Tensor], Tensor]) -> Penalty:
    """The mean over utterances of `measure` of their real frames (T_b, F)."""
    told = seen.told(Lengths).values if seen.knows(Lengths) else None

    def penalty(inputs: Tensor) -> Tensor:
        # Whole numbers, known beforehand: shapes may not depend on data under vmap.
        lengths = told or (inputs.shape[1],) * inputs.shape[0]
        # Cut before it is measured: padding is zeros, whose steps and means are those of no speech.
        each = [measure(utterance[:length]) for utterance, length in zip(inputs.unbind(), lengths, strict=True)]
        # Of utterances and not of frames: a long one does not outvote a short one.
        return torch.stack(each).mean()

    return penalty


def _variation(frames: Tensor) -> Tensor:
    # one frame has no neighbor
    return (frames[1:] - frames[:-1]).abs().mean() if len(frames) > 1 else frames.sum() * 0


@final
@dataclass(frozen=True)
class Variation(AbstractPrior):
    """mean over t >= 2 and f of |x_tf - x_(t-1)f|."""

    def penalty(self, seen: Observation) -> Penalty:
        """The mean step from frame to frame."""
        return _each(seen, _variation)


@final
@dataclass(frozen=True)
class NormalizedVariation(AbstractPrior):
    """mean |x_tf - x_(t-1)f| / mean |x_tf - mean_t x_tf|: smoothness that does not pull toward small values."""

    def penalty(self, seen: Observation) -> Penalty:
        """The variation by the mean distance from the mean frame."""

        def measure(frames: Tensor) -> Tensor:
            # Both grow with x, so the quotient does not: (c x) has the penalty of x.
            return _variation(frames) / ((frames - frames.mean(0)).abs().mean() + LEAST)

        return _each(seen, measure)


@final
@dataclass(frozen=True)
class Variance(AbstractPrior):
    """mean over f of the (biased) variance of x_tf over t."""

    def penalty(self, seen: Observation) -> Penalty:
        """The mean variance over time."""
        return _each(seen, lambda frames: frames.var(0, correction=0).mean())


@final
class Order(enum.Enum):
    """Of a norm: the root of the sum of squares, or the largest entry; `Order("two")` names the first."""

    TWO = "two"
    MAX = "max"

    def __repr__(self) -> str:
        return f"Order.{self.name}"


@final
@dataclass(frozen=True)
class TimeMean(AbstractPrior):
    """|mean_t x_t| in the given order: cepstra other than the first have a mean near zero."""

    order: Order = Order.TWO

    def __post_init__(self) -> None:
        object.__setattr__(self, "order", Order(self.order))

    def penalty(self, seen: Observation) -> Penalty:
        """The norm of the mean frame."""

        def measure(frames: Tensor) -> Tensor:
            mean = frames.mean(0)
            if self.order is Order.MAX:
                return mean.abs().amax()
            # The floor keeps the slope of the root finite at a mean of zero, where the prior wants to be.
            return (mean.square().sum() + torch.finfo(mean.dtype).tiny).sqrt()

        return _each(seen, measure)
