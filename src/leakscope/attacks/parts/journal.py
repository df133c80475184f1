"""The memory of a search: best candidate, losses, pictures on the way, and why it stopped."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from leakscope.core.attempt import Clock, Progress, Trace, Watch

Point = dict[str, Tensor]
"""The searched variables by name."""

PICTURES = 6
TRACE_POINTS = 400


@final
class Stop(enum.Enum):
    """Why a search ended."""

    DONE = "did all its steps"
    PLATEAU = "stopped where the loss no longer fell"
    BUDGET = "spent its budget"
    NOT_FINITE = "met a loss that is not finite"
    INTERRUPTED = "was interrupted"


@final
@dataclass(frozen=True, eq=False)
class Found:
    """The result of a search over one or many restarts.

    point: the best candidate of all restarts, or None when no loss was ever finite. loss: its loss.
    start_loss: the best loss among the first candidates. last_loss: the median loss of the best restart's last tenth.
    """

    point: Point | None
    loss: float
    start_loss: float
    last_loss: float
    stop: Stop
    evaluations: int
    trace: Trace

    @property
    def diverged(self) -> bool:
        """Whether the search ended above where it began, or never got below its start."""
        return self.point is None or not self.loss < self.start_loss or self.last_loss > self.start_loss


@final
@dataclass(eq=False)
class Journal:
    """Written by a search at every evaluation. Restarts lie along the first dimension of every tensor.

    Losses and best candidates stay on their device; the host reads them every `flush` notes only.
    """

    clock: Clock
    watch: Watch
    planned: int
    picture: str
    flush: int = 20
    evaluations: int = 0
    _best: Point = field(default_factory=dict)
    _best_loss: Tensor | None = None
    _losses: list[Tensor] = field(default_factory=list)
    _at: list[int] = field(default_factory=list)
    _pictures: list[tuple[int, Tensor]] = field(default_factory=list)

    def note(self, point: Point, losses: Tensor) -> None:
        """Remember the candidates `point` (R, ...) with their `losses` (R,)."""
        losses = losses.detach()
        self.evaluations += len(losses)
        if self._best_loss is None:
            self._best = {name: value.detach().clone() for name, value in point.items()}
            self._best_loss = torch.where(torch.isfinite(losses), losses, torch.inf)
        else:
            better = losses < self._best_loss  # False for NaN
            for name, value in point.items():
                keep = better.reshape(-1, *[1] * (value.dim() - 1))
                self._best[name] = torch.where(keep, value.detach(), self._best[name])
            self._best_loss = torch.where(better, losses, self._best_loss)
        self._losses.append(losses)
        self._at.append(self.evaluations)
        self._photograph()
        if len(self._losses) % self.flush == 1:
            share = self.clock.fraction(self.evaluations, self.planned)
            self.watch(Progress(share, float(self._best_loss.min())))

    def _photograph(self) -> None:
        share = self.clock.fraction(self.evaluations, self.planned)
        if self.picture in self._best and share >= len(self._pictures) / (PICTURES - 1):
            assert self._best_loss is not None
            self._pictures.append((self.evaluations, self._best[self.picture][self._best_loss.argmin()].clone()))

    @property
    def spent(self) -> bool:
        """Whether the budget is used up."""
        return self.clock.exhausted(self.evaluations)

    @property
    def flushed(self) -> bool:
        """Whether it is time for the host to look at the device."""
        return len(self._losses) % self.flush == 0

    @property
    def last(self) -> Tensor:
        """The latest loss of each restart (R,)."""
        return self._losses[-1]

    def plateau(self, patience: int, improvement: float) -> bool:
        """Whether the best loss of the last `patience` notes is not below `1 - improvement` times the best before."""
        if len(self._losses) <= patience:
            return False
        before = torch.stack(self._losses[:-patience]).nan_to_num(math.inf).min()
        after = torch.stack(self._losses[-patience:]).nan_to_num(math.inf).min()
        return bool(after > (1 - improvement) * before)

    def found(self, stop: Stop) -> Found:
        """What the search has to show."""
        if self._best_loss is None:
            return Found(None, math.inf, math.inf, math.inf, stop, 0, Trace())
        winner = int(self._best_loss.argmin())
        losses = torch.stack([row[min(winner, len(row) - 1)] for row in self._losses]).double().cpu()
        loss = float(self._best_loss[winner])
        tail = losses[-max(len(losses) // 10, 1) :].nan_to_num(math.inf)
        point = {n: v[winner].clone() for n, v in self._best.items()} if math.isfinite(loss) else None
        keep = _spread(len(losses))
        trace = Trace(
            tuple(self._at[k] for k in keep),
            tuple(float(losses[k]) for k in keep),
            tuple(self._pictures[: PICTURES + 1]),
        )
        return Found(point, loss, float(self._losses[0].min()), float(tail.median()), stop, self.evaluations, trace)


def _spread(count: int) -> list[int]:
    """At most `TRACE_POINTS` indices from 0 to count - 1, both ends included."""
    if count <= TRACE_POINTS:
        return list(range(count))
    return [round(k * (count - 1) / (TRACE_POINTS - 1)) for k in range(TRACE_POINTS)]
