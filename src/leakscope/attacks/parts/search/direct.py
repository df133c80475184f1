"""Direct search: random steps that lower the loss are taken, no derivative with respect to the input is needed."""

from __future__ import annotations

import dataclasses
import enum
import functools
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor
from torch.func import vmap

from leakscope.attacks import citations
from leakscope.attacks.parts.search.directions import By, Steps, steps_along
from leakscope.attacks.parts.search.first_order import AbstractSearch, Problem
from leakscope.attacks.parts.search.journal import Found, Journal, Point, Stop
from leakscope.core.effort import Clock, State, Watch
from leakscope.core.errors import BadInput
from leakscope.numerics.rng import Key, normal

SHARES = (1.0, 0.5, 0.25, 0.125)
"""Parts of the summed step that a line search tries, besides the best single step."""


@final
class Take(enum.Enum):
    """Which improving steps are taken; `Take("all")` names the first.

    ALL: their sum, unchecked, as in the original. BEST: the one with the lowest loss. LINE: the lowest of the sum, its
    half, quarter and eighth, and the best one; none of them if none improves.
    """

    ALL = "all"
    BEST = "best"
    LINE = "line"

    def __repr__(self) -> str:
        return f"Take.{self.name}"


@final
@dataclass(frozen=True)
class Shrink:
    """Every `steps` steps: if the loss is not below (1 - improvement) of what it was, radius <- max(factor * radius,
    smallest); where that changes nothing the search ends.

    Raises `BadInput` unless steps >= 1, 0 <= improvement < 1, 0 < factor < 1 and smallest > 0.
    """

    steps: int = 2500
    improvement: float = 0.05
    factor: float = 0.5
    smallest: float = 0.25

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.improvement < 1 or not 0 < self.factor < 1 or not self.smallest > 0:
            raise BadInput(
                "expected steps >= 1, 0 <= improvement < 1, 0 < factor < 1 and smallest > 0, "
                f"got {self.steps}, {self.improvement}, {self.factor} and {self.smallest}"
            )


@final
@dataclass(frozen=True)
class Scales:
    """A radius for each coefficient, in multiples of the common one: `first` to begin with, 1 for all later ones.

    Each is halved after `patience` uses in a row that did not improve, but not below 1. For `By.COEFFICIENT`.
    Raises `BadInput` on factors below 1 or patience < 1.
    """

    first: tuple[float, ...] = (32.0, 16.0, 8.0, 4.0, 2.0)
    patience: int = 25

    def __post_init__(self) -> None:
        object.__setattr__(self, "first", tuple(float(factor) for factor in self.first))
        if any(not factor >= 1 for factor in self.first) or self.patience < 1:
            raise BadInput(f"expected factors >= 1 and patience >= 1, got {self.first} and {self.patience}")


@final
@dataclass(frozen=True)
class DirectSearch(AbstractSearch):
    """x <- x + sum over k with f(x + r v_k) < f(x) of r v_k, with `directions` random unit vectors v_k in each step.

    by: where v_k is not zero. frames: how many frames, for `By.FRAME`. radii: each direction is tried at r, r/2, ...,
    so many; the best of them counts. take: which steps are taken. shrink: how the radius falls and when the search
    ends. scales: radii by coefficient. one_at_a_time: each step moves one row of the batch (one utterance), drawn by
    key; the gradients of the others are computed once for all candidates.
    Needs losses only, which one batched pass gives for all candidates. Evaluations count candidates.
    Raises `BadInput` on a radius that is not positive, counts below 1, or scales without `By.COEFFICIENT`.
    Hessian-free gradient matching, Dang et al. 2022 (arXiv:2104.07815), section 3.
    """

    radius: float = 1.0
    iterations: int = 50_000
    directions: int = 127
    by: By = By.FRAME
    frames: int = 1
    radii: int = 1
    take: Take = Take.ALL
    shrink: Shrink = field(default_factory=Shrink)
    scales: Scales | None = None
    one_at_a_time: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "by", By(self.by))
        object.__setattr__(self, "take", Take(self.take))
        if not self.radius > 0:
            raise BadInput(f"expected radius > 0, got {self.radius}")
        if min(self.iterations, self.directions, self.frames, self.radii) < 1:
            raise BadInput(
                "expected iterations, directions, frames and radii >= 1, "
                f"got {self.iterations}, {self.directions}, {self.frames} and {self.radii}"
            )
        if self.scales is not None and self.by is not By.COEFFICIENT:
            raise BadInput(f"scales are radii by coefficient, but steps are by {self.by!r}; use By.COEFFICIENT")
        if self.frames > 1 and self.by is not By.FRAME:
            raise BadInput(f"frames counts those of one step by By.FRAME, but steps are by {self.by!r}")

    @property
    def citation(self) -> str:
        """Dang et al. 2022."""
        return citations.SPEECH_RECONSTRUCTION

    @property
    def apart(self) -> bool:
        """Whether it moves one row at a time."""
        return self.one_at_a_time

    @property
    def cost(self) -> int:
        """Loss evaluations of one step and restart."""
        # The parts of the sum, and the best single step.
        checks = len(SHARES) + 1 if self.take is Take.LINE else 0
        # 1 for the point itself, whose loss is what the others have to be below.
        return 1 + self.directions * self.radii + checks

    def run(self, problem: Problem, starts: Point, *, clock: Clock, watch: Watch) -> Found:
        """All restarts together, until the iterations, the budget or the smallest radius end."""
        like = starts[problem.picture]
        journal = problem.journal(clock, watch, self.iterations * len(like) * self.cost)
        way = self._way(starts, problem)
        saved = clock.saved()
        if saved is not None:
            journal.restore(saved["journal"], like)
            way = _Way.restored(saved["way"], like)
        stop = Stop.DONE
        try:
            while stop is Stop.DONE and way.done < self.iterations:
                clock.keep(functools.partial(_state, way, journal))
                stop = self._step(problem, way, journal)
        except KeyboardInterrupt:
            stop = Stop.INTERRUPTED
        return journal.found(stop)

    def _way(self, starts: Point, problem: Problem) -> _Way:
        like = starts[problem.picture]
        scale = like.new_ones(len(like), like.shape[-1])
        if self.scales is not None:
            first = like.new_tensor(self.scales.first)[: like.shape[-1]]
            # Of MFCC the first are the largest, and begin with the widest steps.
            scale[:, : len(first)] = first
        return _Way(
            point={name: value.detach().clone() for name, value in starts.items()},
            radius=like.new_full((len(like),), self.radius),
            scale=scale,
            failed=torch.zeros_like(scale),
            before=None,
            done=0,
        )

    def _step(self, problem: Problem, way: _Way, journal: Journal) -> Stop:
        # By the number of the step and no running stream: a resumed search draws what it would have drawn.
        key = problem.key.child("step", way.done)
        with torch.no_grad():
            if problem.between is not None:
                way.point = problem.between(way.point, way.done)
            steps = self._steps(problem, way, key)
            changes = self._changes(problem, way, steps, key)
            losses = self._losses(problem, way.point, steps, changes)
            # Column 0 is f(x). So a sum of steps, taken unchecked, is judged at the beginning of the next step, and
            # only points where the search has been are claimed, never a trial.
            journal.note(way.point, losses[:, 0], each=self.cost, moving=float(way.radius.mean()))
            if journal.spent:
                return Stop.BUDGET
            if journal.flushed and not bool(torch.isfinite(losses).any()):
                return Stop.NOT_FINITE
            # Before x moves: the loss that is compared belongs to x.
            stalled = self._shrink(way, losses[:, 0])
            if stalled:
                return Stop.PLATEAU
            self._take(problem, way, (steps, changes), losses)
        way.done += 1
        return Stop.DONE

    def _steps(self, problem: Problem, way: _Way, key: Key) -> Steps:
        point = way.point[problem.picture]
        item = None
        if self.one_at_a_time:
            item = int(torch.randint(point.shape[1], (1,), generator=key.child("row").generator()))
        return steps_along(point, self.by, self.directions, free=problem.free, item=item, frames=self.frames, key=key)

    def _changes(self, problem: Problem, way: _Way, steps: Steps, key: Key) -> Point:
        """What is tried, by variable: each direction at each radius (R, K * radii, ...); soft labels move along."""
        # r times the scale of the direction's coefficient (1 where it has none).
        length = way.radius.unsqueeze(1) * way.scale.gather(1, steps.coefficient)
        changes = {problem.picture: _wide(length, steps.unit) * steps.unit}
        for name, value in way.point.items():
            # Soft labels have their own unit vector: one over both would be nearly all inputs, which have more entries.
            if name != problem.picture and name not in problem.still:
                unit = _unit(value, self.directions, key.child(name))
                changes[name] = _wide(way.radius.unsqueeze(1), unit) * unit
        return {name: self._tried(change) for name, change in changes.items()}

    def _tried(self, change: Tensor) -> Tensor:
        """(R, K, ...) to (R, K * radii, ...): each step at its whole length, half of it, and so on."""
        if self.radii == 1:
            return change
        # Index k * radii + j is direction k at r / 2^j, as `_summed` reads it.
        shares = 0.5 ** torch.arange(self.radii, device=change.device, dtype=change.dtype)
        return (change.unsqueeze(2) * shares.reshape(1, 1, -1, *[1] * (change.dim() - 2))).flatten(1, 2)

    def _losses(self, problem: Problem, point: Point, steps: Steps, changes: Point) -> Tensor:
        """f at the point itself and at each change (R, K, ...): (R, 1 + K)."""
        if steps.item is None:
            return all_losses(problem, point, changes)
        restarts = range(len(steps.coefficient))
        # One after the other: what the others contribute is computed outside of vmap, and differs by restart.
        return torch.stack([_row_losses(problem, point, steps.item, changes, restart) for restart in restarts])

    def _take(self, problem: Problem, way: _Way, tried: tuple[Steps, Point], losses: Tensor) -> None:
        """Move every restart, and count which coefficients improved."""
        steps, changes = tried
        # A candidate whose loss is NaN or infinite improves nothing; by default +inf would become a number.
        each = losses[:, 1:].reshape(len(losses), self.directions, self.radii).nan_to_num(torch.inf, torch.inf)
        # Of each direction the best radius: r v and r v / 2 are no two steps that could be added.
        lowest = each.min(2)
        # v_k with f(x + r v_k) < f(x), each judged alone; whether their sum improves as well, only Take.LINE asks.
        improves = lowest.values < losses[:, :1]
        # The lowest of all, unless it does not improve.
        best = improves & torch.zeros_like(improves).scatter(1, lowest.values.argmin(1, keepdim=True), value=True)
        moves = _summed(changes, lowest.indices, best if self.take is Take.BEST else improves, self.radii)
        if self.take is Take.LINE:
            moves = self._line(problem, way.point, steps, moves, _summed(changes, lowest.indices, best, self.radii))
        moved = {n: value + moves[n] if n in moves else value for n, value in way.point.items()}
        # By restart, since `project` takes one candidate.
        legal = [problem.project({n: v[restart] for n, v in moved.items()}) for restart in range(len(losses))]
        way.point = {n: torch.stack([one[n] for one in legal]) for n in moved}
        self._count(way, steps, improves)

    def _line(self, problem: Problem, point: Point, steps: Steps, total: Point, single: Point) -> Point:
        """The lowest of some parts of the summed step and the best single step; zero where none improves."""
        tried = {n: torch.stack([*(share * v for share in SHARES), single[n]], 1) for n, v in total.items()}
        losses = self._losses(problem, point, steps, tried)
        # Column 0 is x: where it is the lowest, and by argmin also where all are equal, nothing moves.
        best = losses.nan_to_num(torch.inf, torch.inf).argmin(1)
        rows = torch.arange(len(best), device=best.device)
        return {
            n: torch.where((best > 0).reshape(-1, *[1] * (v.dim() - 2)), v[rows, (best - 1).clamp(min=0)], 0.0)
            for n, v in tried.items()
        }

    def _count(self, way: _Way, steps: Steps, improves: Tensor) -> None:
        if self.scales is None:
            return
        used = torch.zeros_like(way.scale).scatter_add(
            1, steps.coefficient, torch.ones_like(improves, dtype=way.scale.dtype)
        )
        good = torch.zeros_like(way.scale).scatter_add(1, steps.coefficient, improves.to(way.scale))
        # Uses in a row: one that improves, of those in this step, begins the count anew.
        way.failed = torch.where(good > 0, torch.zeros_like(used), way.failed + used)
        # Coefficients that were wide come down to the common radius by halves, each by its own failures.
        tired = way.failed >= self.scales.patience
        way.scale = torch.where(tired, (way.scale / 2).clamp(min=1.0), way.scale)
        way.failed = torch.where(tired, torch.zeros_like(used), way.failed)

    def _shrink(self, way: _Way, now: Tensor) -> bool:
        """Every so many steps a smaller radius where the loss did not fall; True when no radius can shrink any more."""
        if way.before is None:
            way.before = now.clone()
            return False
        # The first loss to compare with was kept above.
        if way.done == 0 or way.done % self.shrink.steps:
            return False
        # "not <": a loss that is NaN has stalled.
        stalled = ~(now < (1 - self.shrink.improvement) * way.before)
        # Not above the present one: a radius that began below `smallest` must not grow to it.
        smaller = (self.shrink.factor * way.radius).clamp(min=self.shrink.smallest).minimum(way.radius)
        ended = stalled & (smaller == way.radius)
        way.radius = torch.where(stalled, smaller, way.radius)
        way.before = now.clone()
        # Restarts share their steps, so the search ends with the last of them.
        return bool(ended.all())


@final
@dataclass(eq=False)
class _Way:
    """Where a search is.

    point: (R, ...). radius: (R,). scale, failed: (R, F), of the coefficients. before: (R,) losses at the last check.
    done: steps.
    """

    point: Point
    radius: Tensor
    scale: Tensor
    failed: Tensor
    before: Tensor | None
    done: int

    def state(self) -> State:
        return {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}

    @staticmethod
    def restored(state: State, like: Tensor) -> _Way:
        placed = {name: value.to(like.device) if isinstance(value, Tensor) else value for name, value in state.items()}
        point = {name: value.to(like.device) for name, value in state["point"].items()}
        return _Way(point, placed["radius"], placed["scale"], placed["failed"], placed["before"], int(placed["done"]))


def _state(way: _Way, journal: Journal) -> State:
    return {"way": way.state(), "journal": journal.state()}


def _wide(factor: Tensor, like: Tensor) -> Tensor:
    """(R, K) or (R, 1) with as many dimensions as `like` (R, K, ...)."""
    return factor.reshape(*factor.shape, *[1] * (like.dim() - 2))


def _unit(value: Tensor, count: int, key: Key) -> Tensor:
    """(R, count, ...) directions of length 1 in a whole variable (R, ...)."""
    drawn = normal(value.unsqueeze(1).expand(-1, count, *value.shape[1:]), key)
    length: Tensor = torch.linalg.vector_norm(drawn.flatten(2), dim=2)
    return drawn / _wide(length, drawn)


def _summed(changes: Point, radius: Tensor, chosen: Tensor, radii: int) -> Point:
    """The sum over the `chosen` directions (R, K) of the change at the radius with this index (R, K): (R, ...)."""
    # sum_k [k chosen] r_k v_k as one product; (R, K, radii) picks of each direction its best radius.
    weights = torch.nn.functional.one_hot(radius, radii) * chosen.unsqueeze(2)
    return {n: torch.einsum("rk,rk...->r...", weights.flatten(1).to(change), change) for n, change in changes.items()}


def all_losses(problem: Problem, point: Point, changes: Point) -> Tensor:
    """f at point (R, ...) and at point + changes (R, K, ...): (R, 1 + K), in batches that fit into memory."""
    restarts, count = next(iter(changes.values())).shape[:2]
    tried = {}
    for name, value in point.items():
        # x is one of the batch (128 in all, by default), so f(x) is computed as those it is compared with.
        here = value.unsqueeze(1)
        around = here + changes[name] if name in changes else here.expand(-1, count, *value.shape[1:])
        tried[name] = torch.cat([here, around], 1).flatten(0, 1)
    # Restarts and directions are alike for vmap, so both are one dimension.
    losses: Tensor = vmap(problem.value, chunk_size=problem.chunk)(tried)
    return losses.reshape(restarts, 1 + count)


def _row_losses(problem: Problem, point: Point, item: int, changes: Point, restart: int) -> Tensor:
    """The same for one restart where only row `item` of the picture's variable moves: (1 + K,)."""
    assert problem.alone is not None
    value = problem.alone({name: tensor[restart] for name, tensor in point.items()}, item)
    here = point[problem.picture][restart, item].unsqueeze(0)
    around = here + changes[problem.picture][restart][:, item]
    losses: Tensor = vmap(value, chunk_size=problem.chunk)(torch.cat([here, around]))
    return losses
