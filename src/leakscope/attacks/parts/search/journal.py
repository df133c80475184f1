"""The memory of a search: best candidate, losses, pictures on the way, and why it stopped."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from leakscope.core.attempt import Trace
from leakscope.core.effort import Clock, Progress, State, Watch

Point = dict[str, Tensor]
"""The searched variables by name."""

# At shares 0, 1/5, ..., 1 of the way.
PICTURES = 6
# Points of a curve; all of a long search would swell every record.
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
    def fruitless(self) -> bool:
        """Whether the search never got below its start."""
        # "not <" and not ">=": a start whose loss is NaN has not been improved on.
        return self.point is None or not self.loss < self.start_loss

    @property
    def ended_above(self) -> bool:
        """Whether the search ended above where it began, wherever it was between."""
        return self.last_loss > self.start_loss

    def state(self) -> State:
        """All of it, for a checkpoint."""
        return {
            "point": self.point,
            # As numbers and not as a tensor: JSON with `repr` brings back every bit, infinities included.
            "numbers": [self.loss, self.start_loss, self.last_loss],
            "stop": self.stop.name,
            "evaluations": self.evaluations,
            "trace": [list(self.trace.evaluations), list(self.trace.losses), [list(p) for p in self.trace.pictures]],
        }

    @staticmethod
    def restored(state: State) -> Found:
        """The inverse of `state`."""
        at, losses, pictures = state["trace"]
        trace = Trace(tuple(at), tuple(losses), tuple((int(when), shown) for when, shown in pictures))
        loss, start_loss, last_loss = state["numbers"]
        stop, evaluations = Stop[state["stop"]], state["evaluations"]
        return Found(state["point"], loss, start_loss, last_loss, stop, evaluations, trace)


@final
@dataclass(eq=False)
class Journal:
    """Written by a search at every evaluation. Restarts lie along the first dimension of every tensor.

    Losses and best candidates stay on their device; the host reads them every `flush` notes only. parts: names the
    terms of a candidate's loss for the watcher; called at these times only.
    """

    clock: Clock
    watch: Watch
    planned: int
    picture: str
    flush: int = 20
    evaluations: int = 0
    parts: Callable[[Point], dict[str, float]] | None = None
    _best: Point = field(default_factory=dict)
    _best_loss: Tensor | None = None
    _losses: list[Tensor] = field(default_factory=list)
    _at: list[int] = field(default_factory=list)
    _pictures: list[tuple[int, Tensor]] = field(default_factory=list)

    def note(self, point: Point, losses: Tensor, *, each: int = 1, moving: float | None = None) -> None:
        """Remember the candidates `point` (R, ...) with their `losses` (R,).

        each: gradient evaluations spent on one restart. moving: the search's present step size, for the watcher.
        """
        losses = losses.detach()
        self.evaluations += each * len(losses)
        if self._best_loss is None:
            self._best = {name: value.detach().clone() for name, value in point.items()}
            # Infinite and not NaN, which no later loss would be below.
            self._best_loss = torch.where(torch.isfinite(losses), losses, torch.inf)
        else:
            better = losses < self._best_loss  # False for NaN
            for name, value in point.items():
                # (R,) against (R, ...): each restart keeps its own best, without asking the host which.
                keep = better.reshape(-1, *[1] * (value.dim() - 1))
                self._best[name] = torch.where(keep, value.detach(), self._best[name])
            self._best_loss = torch.where(better, losses, self._best_loss)
        self._losses.append(losses)
        self._at.append(self.evaluations)
        self._photograph()
        # 1 and not 0: the first note is a sign of life at once.
        if len(self._losses) % self.flush == 1:
            self.watch(self._progress(moving))

    def _progress(self, moving: float | None) -> Progress:
        assert self._best_loss is not None
        scalars: dict[str, float] = {"step": len(self._losses)}
        if moving is not None:
            scalars["step size"] = moving
        if self.parts is not None:
            winner = int(self._best_loss.argmin())
            # Of the best candidate, once in `flush` notes: the terms cost a pass of their own.
            scalars |= self.parts({name: value[winner] for name, value in self._best.items()})
        share = self.clock.fraction(self.evaluations, self.planned)
        loss = float(self._best_loss.min())
        return Progress(share, loss, evaluations=self.evaluations, scalars=tuple(scalars.items()))

    def _photograph(self) -> None:
        share = self.clock.fraction(self.evaluations, self.planned)
        # Picture k at the share k / 5 of the way; the last one at the end, if the end is reached.
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

    def narrow(self, count: int) -> Tensor:
        """Forget all restarts but the `count` best; where these were (count,), ascending."""
        assert self._best_loss is not None
        # Judged by the best so far, not by the last loss, which jumps. Stable, and put back into order: which ones stay
        # and where they stand must not depend on how a device sorts equals.
        index = self._best_loss.argsort(stable=True)[:count].sort().values
        self._best = {name: value[index] for name, value in self._best.items()}
        self._best_loss = self._best_loss[index]
        self._losses = [row[index] for row in self._losses]
        return index

    def plateau(self, patience: int, improvement: float) -> bool:
        """Whether the best loss of the last `patience` notes is not below `1 - improvement` times the best before."""
        # Nothing before the window to compare with.
        if len(self._losses) <= patience:
            return False
        before = torch.stack(self._losses[:-patience]).nan_to_num(math.inf).min()
        after = torch.stack(self._losses[-patience:]).nan_to_num(math.inf).min()
        # Losses are >= 0, so a share of `before` is less.
        return bool(after > (1 - improvement) * before)

    def state(self) -> State:
        """All that was written, for a checkpoint."""
        return {
            "evaluations": self.evaluations,
            "best": dict(self._best),
            "best_loss": self._best_loss,
            "losses": torch.stack(self._losses) if self._losses else None,
            "at": torch.tensor(self._at),
            "pictures": [[at, shown] for at, shown in self._pictures],
        }

    def restore(self, state: State, like: Tensor) -> None:
        """Go on from a state, on the device of `like`."""
        device = like.device
        self.evaluations = state["evaluations"]
        self._best = {name: value.to(device) for name, value in state["best"].items()}
        self._best_loss = None if state["best_loss"] is None else state["best_loss"].to(device)
        self._losses = [] if state["losses"] is None else list(state["losses"].to(device))
        self._at = state["at"].tolist()
        self._pictures = [(int(at), shown.to(device)) for at, shown in state["pictures"]]

    def found(self, stop: Stop) -> Found:
        """What the search has to show."""
        if self._best_loss is None:
            return Found(None, math.inf, math.inf, math.inf, stop, 0, Trace())
        winner = int(self._best_loss.argmin())
        # One stack and one copy to the host, not a transfer for each note.
        losses = torch.stack([row[min(winner, len(row) - 1)] for row in self._losses]).double().cpu()
        loss = float(self._best_loss[winner])
        # The median of a tenth: a single last loss of a search that jumps says nothing of where it ended.
        tail = losses[-max(len(losses) // 10, 1) :].nan_to_num(math.inf)
        # A clone of one row: a view would keep all restarts alive.
        point = {n: v[winner].clone() for n, v in self._best.items()} if math.isfinite(loss) else None
        keep = _spread(len(losses))
        trace = Trace(
            tuple(self._at[k] for k in keep),
            tuple(float(losses[k]) for k in keep),
            tuple(self._pictures[: PICTURES + 1]),
        )
        return Found(point, loss, _least(self._losses[0]), float(tail.median()), stop, self.evaluations, trace)


def _least(losses: Tensor) -> float:
    """The smallest number; NaN only where there is none: one bad restart must not speak for the others."""
    finite = losses[~losses.isnan()]
    return float(finite.min()) if len(finite) else float("nan")


def _spread(count: int) -> list[int]:
    """At most `TRACE_POINTS` indices from 0 to count - 1, both ends included."""
    if count <= TRACE_POINTS:
        return list(range(count))
    return [round(k * (count - 1) / (TRACE_POINTS - 1)) for k in range(TRACE_POINTS)]
