"""Restarts that pull each other toward what they agree on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.attacks import citations
from leakscope.attacks.parts.search.first_order import AbstractSearch, Problem
from leakscope.attacks.parts.search.journal import Found, Point
from leakscope.core.effort import Clock, Watch
from leakscope.core.errors import BadInput

CONSENSUS = "consensus"
"""The variable that holds it; it is part of a candidate, and no gradient reaches it."""


@final
@dataclass(frozen=True)
class Together(AbstractSearch):
    """`of`, with `weight` * mean (x_r - m_r)^2 added for each restart r: group consistency of Yin et al. 2021.

    m_r is the mean of all restarts, each first moved along its last two dimensions to where it fits r best (the peak
    of the circular cross-correlation), because a convolutional net hardly knows where a thing is. The paper registers
    by RANSAC flow and regularizes toward the registered mean (section 3.4); translations are the part of that which
    needs no features. every: steps between two consensuses. One restart agrees with itself: then `of` runs alone.
    Raises `BadInput` for a search that runs its restarts one after the other.
    """

    of: AbstractSearch
    weight: float = 0.01
    every: int = 10

    def __post_init__(self) -> None:
        if not self.weight > 0 or self.every < 1:
            raise BadInput(f"expected weight > 0 and every >= 1, got {self.weight} and {self.every}")
        if not self.of.follows:
            raise BadInput(
                f"{self.of!r} runs its restarts one after the other, so there is none to agree with; use Adam"
            )

    @property
    def citation(self) -> str:
        """Yin et al. 2021."""
        return citations.GRAD_INVERSION

    def run(self, problem: Problem, starts: Point, *, clock: Clock, watch: Watch) -> Found:
        """The search inside, on the coupled problem."""
        name = problem.picture
        # The mean of one candidate is itself: the term would be 0 and cost a consensus every so often.
        if len(starts[name]) == 1:
            return self.of.run(problem, starts, clock=clock, watch=watch)

        def value(point: Point) -> Tensor:
            # m_r is held: each restart is drawn to where they met, and does not push the meeting place.
            apart = (point[name] - point[CONSENSUS].detach()).square().mean()
            return problem.value(_without(point)) + self.weight * apart

        def between(point: Point, step: int) -> Point:
            agreed = point[CONSENSUS]
            # What is inside may change the candidates first; the consensus is of what it leaves.
            rest = _without(point) if problem.between is None else problem.between(_without(point), step)
            return {**rest, CONSENSUS: consensus(rest[name]) if step % self.every == 0 else agreed}

        def project(point: Point) -> Point:
            # The mean of legal candidates is legal, and the inner problem does not know this name.
            return {**problem.project(_without(point)), CONSENSUS: point[CONSENSUS]}

        # No parts: the inner ones do not add up to the coupled loss.
        coupled = dataclasses.replace(
            problem, value=value, project=project, between=between, still=problem.still | {CONSENSUS}, parts=None
        )
        first = {**starts, CONSENSUS: consensus(starts[name])}
        return self.of.run(coupled, first, clock=clock, watch=watch)


def _without(point: Point) -> Point:
    return {name: value for name, value in point.items() if name != CONSENSUS}


def consensus(candidates: Tensor) -> Tensor:
    """(R, ..., H, W) to the same shape: for each candidate the mean of all, each moved to fit it best.

    >>> spot = torch.zeros(1, 5, 5)
    >>> spot[0, 1, 1] = 1.0
    >>> both = consensus(torch.stack([spot, spot.roll(2, dims=-1)]))
    >>> [tuple(one.nonzero()[0].tolist()) for one in both]
    [(0, 1, 1), (0, 1, 3)]
    """
    if candidates.dim() < 3:
        # No plane to move in.
        return candidates.mean(0, keepdim=True).expand_as(candidates).clone()
    height, width = candidates.shape[-2:]
    spectra = torch.fft.rfft2(candidates)
    moved = torch.empty_like(candidates)
    for place, spectrum in enumerate(spectra):
        inner = list(range(1, candidates.dim() - 2))
        # Correlation theorem: c_q(s) = sum_x r(x) q(x + s) = F^-1[conj(F r) F q](s), all shifts s at once. Summed over
        # examples and channels: one shift for a whole candidate.
        product = spectrum.conj() * spectra
        correlation = torch.fft.irfft2(product.sum(inner) if inner else product, s=(height, width))
        shifts = correlation.flatten(1).argmax(1)
        fitted = [
            # The largest c_q(s): r(x) looks like q(x + s), so q is moved back by s.
            one.roll((-(int(shift) // width), -(int(shift) % width)), dims=(-2, -1))
            for one, shift in zip(candidates, shifts, strict=True)
        ]
        moved[place] = torch.stack(fitted).mean(0)
    return moved
