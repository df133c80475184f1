"""A search whose matrix products and convolutions are rounded to bfloat16; what it found is judged in float32."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.attacks.parts.search.first_order import AbstractSearch, Adam, Problem
from leakscope.attacks.parts.search.journal import Found, Point
from leakscope.attacks.parts.search.together import Together
from leakscope.core.effort import Clock, Watch
from leakscope.core.errors import BadInput


@final
@dataclass(frozen=True)
class Bfloat16(AbstractSearch):
    """`of`, on a loss whose products are computed in bfloat16 (8 bits of mantissa), both derivatives included.

    Weights, inputs, sums and the search's own state stay float32 (`torch.autocast`). The losses of the start and of the
    candidate that is claimed are computed anew in float32, by which an attempt is judged and compared with others;
    which candidate is the best is decided by the losses that the search saw.

    Nothing uses it unless it is asked for. `benchmarks/matching_step.py --part precision` on one core with AMX, 3 x
    32 x 32, time of a float32 step over that of a rounded one: LeNet 0.85, ConvNet 0.79, ResNet-20 1.08 and a ConvNet
    of width 140 1.02 with one image; ResNet-20 1.23 and the wide ConvNet 2.31 with eight. After as many steps the
    claim is worse: 25.2 dB instead of 27.8 (ConvNet, 1000 steps), 12.3 instead of 13.3 (LeNet). So it is for wide
    nets and batches, and for what comes before the last decibels. Not measured on a GPU.
    Raises `BadInput` for a search other than `Adam` and `Together`: a line search needs more than three digits.

    >>> Bfloat16(Adam(lr=0.1, steps=100, signed=True)).of.steps
    100
    """

    of: AbstractSearch

    def __post_init__(self) -> None:
        # 8 bits of mantissa are two to three digits, and near its end a line search compares losses that share these.
        if not isinstance(self.of, Adam | Together):
            raise BadInput(
                f"{self.of!r} reads differences of losses that bfloat16 rounds away; expected Adam or Together"
            )

    @property
    def citation(self) -> str:
        """That of the search inside."""
        return self.of.citation

    def run(self, problem: Problem, starts: Point, *, clock: Clock, watch: Watch) -> Found:
        """The search inside on the rounded loss; then its start and its result in float32."""
        found = self.of.run(rounded(problem), starts, clock=clock, watch=watch)
        if found.point is None:
            return found
        count = len(starts[problem.picture])
        # `start_loss` is the best of all starts, and the one that the search found was rounded.
        first = [_loss(problem, {name: value[place] for name, value in starts.items()}) for place in range(count)]
        # NaN sorts last, so that one bad start does not become the loss to get below.
        return dataclasses.replace(
            found, loss=_loss(problem, found.point), start_loss=min(first, key=lambda one: (math.isnan(one), one))
        )


def rounded(problem: Problem) -> Problem:
    """The same problem with the products of its loss in bfloat16."""

    def value(point: Point) -> Tensor:
        # Cached casts of one level of differentiation would be read in another one.
        with torch.autocast(point[problem.picture].device.type, torch.bfloat16, cache_enabled=False):
            return problem.value(point).float()

    return dataclasses.replace(problem, value=value)


def _loss(problem: Problem, point: Point) -> float:
    with torch.no_grad():
        return float(problem.value({name: value.detach() for name, value in point.items()}))
