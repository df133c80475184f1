"""How a candidate is improved: first-order searches over many restarts at once, and L-BFGS with a line search."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from leakscope.attacks.parts.search.execution import Slope, prepared
from leakscope.attacks.parts.search.journal import Found, Journal, Point, Stop
from leakscope.core.effort import Clock, State, Watch, unwatched
from leakscope.core.errors import BadInput
from leakscope.numerics.rng import Key


@final
@dataclass(frozen=True, eq=False)
class Problem:
    """What a search is given. `value` and `project` take one candidate, without a restart dimension.

    picture: the name of the variable that is shown while the search runs. key: for searches that draw.
    free: which rows of the picture's variable (its shape but for the last dimension) are searched; None for all.
    alone: `alone(point, i)` is the loss as a function of row i of the picture's variable, all others held; None where
    the loss is not a mean over rows. between: called before each step with the candidates of all restarts and the
    number of the step; what it returns takes their place. still: names of variables that only `between` changes.
    parts: the terms of the loss by name, for watchers. chunk: candidates that fit into memory at once.
    """

    value: Callable[[Point], Tensor]
    project: Callable[[Point], Point]
    picture: str = "inputs"
    key: Key = Key(0)  # noqa: RUF009 - frozen
    free: Tensor | None = None
    alone: Callable[[Point, int], Callable[[Tensor], Tensor]] | None = None
    between: Callable[[Point, int], Point] | None = None
    still: frozenset[str] = frozenset()
    parts: Callable[[Point], dict[str, float]] | None = None
    chunk: int = 256

    def journal(self, clock: Clock, watch: Watch, planned: int) -> Journal:
        """An empty journal; the terms of the loss are computed only where somebody watches."""
        return Journal(clock, watch, planned, self.picture, parts=None if watch is unwatched else self.parts)


class AbstractSearch(ABC):
    """Minimizes a problem from `starts`, whose tensors carry restarts along the first dimension.

    follows: whether it goes on when `between` changes the loss under it. apart: whether it needs `alone`.
    """

    follows: ClassVar[bool] = True

    @property
    def citation(self) -> str:
        """BibTeX of the source, where it is another than the attack's own."""
        return ""

    @property
    def apart(self) -> bool:
        """False, unless the search moves one row of a batch at a time."""
        return False

    @abstractmethod
    def run(self, problem: Problem, starts: Point, *, clock: Clock, watch: Watch) -> Found:
        """The best candidate found until the steps, the budget or the patience end. Ctrl-C returns the best so far."""


def _one(point: Point, index: int) -> Point:
    return {name: value[index] for name, value in point.items()}


def _one_row(point: Point) -> Point:
    return {name: value[None] for name, value in point.items()}


def gradients(problem: Problem, restarts: int) -> Slope:
    """Gradient and loss of each restart: point (R, ...) to (gradients (R, ...), losses (R,)).

    Several restarts run as one vectorized double backward; a single one runs without that overhead.
    """
    single = grad_and_value(problem.value)
    if restarts > 1:
        return vmap(single)

    def alone(point: Point) -> tuple[Point, Tensor]:
        gradient, loss = single(_one(point, 0))
        # The shapes that `vmap` gives, so that no search has to tell one restart from several.
        return {name: value[None] for name, value in gradient.items()}, loss[None]

    return alone


def _executed(problem: Problem, point: Point, clock: Clock, evaluations: int) -> Slope:
    """`gradients` on the course that pays for that many evaluations of the restarts in `point`, within the budget."""
    # An evaluation is that of one restart; a step of all pays R of them. Of the budget the whole, not what is left of
    # it: a search that was resumed has to take the course of its first life, to get the same bits.
    restarts = len(next(iter(point.values())))
    left = clock.budget.evaluations
    steps = (evaluations if left is None else min(evaluations, left)) // restarts
    held = {name: value.detach() for name, value in point.items()}
    return prepared(gradients(problem, restarts), held, steps=steps, seconds=clock.budget.seconds)


@final
@dataclass(frozen=True)
class Patience:
    """Stop when `steps` steps have not lowered the best loss by the share `improvement`."""

    steps: int
    improvement: float = 0.01

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.improvement < 1:
            raise BadInput(f"expected steps >= 1 and 0 <= improvement < 1, got {self.steps} and {self.improvement}")


@final
@dataclass(frozen=True)
class Adam(AbstractSearch):
    """Adam (Kingma & Ba 2015), optionally on the sign of the gradient, with step decay.

    signed: use sign(gradient), as Geiping et al. 2020 do. decay: the share of the way at which the step size falls
    to a tenth, each time. The way is the larger of steps done and budget spent, so a short budget decays too.
    halving: shares of the way at which the worse half of the restarts is given up (successive halving; Jamieson &
    Talwalkar 2016, arXiv:1502.07943). The steps that they save go to the others: `steps` is the mean over all.
    """

    lr: float = 0.1
    steps: int = 1000
    signed: bool = False
    decay: tuple[float, ...] = (3 / 8, 5 / 8, 7 / 8)
    patience: Patience | None = None
    halving: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise BadInput(f"expected lr > 0, got {self.lr}")
        if self.steps < 1:
            raise BadInput(f"expected steps >= 1, got {self.steps}")
        for name, shares in (("decay", self.decay), ("halving", self.halving)):
            if any(not 0 < share < 1 for share in shares):
                raise BadInput(f"expected {name} points between 0 and 1, got {shares}")

    def run(self, problem: Problem, starts: Point, *, clock: Clock, watch: Watch) -> Found:
        """All restarts together, until the steps or the budget end."""
        saved = clock.saved()
        first = starts if saved is None else saved["leaves"]  # fewer, when some had been given up
        # The number of restarts that began, for the halving below.
        like = next(iter(starts.values()))
        leaves = {name: value.detach().clone().to(like.device).requires_grad_(True) for name, value in first.items()}
        optimizer = torch.optim.Adam(leaves.values(), lr=self.lr)
        journal = problem.journal(clock, watch, self.steps * len(like))
        done = _resumed(saved, leaves, optimizer, journal)
        slope = _executed(problem, leaves, clock, journal.planned)
        stop = Stop.DONE
        try:
            while journal.evaluations < journal.planned:
                # The one place where leaves, moments and journal are all of the same step.
                clock.keep(functools.partial(_state, done, leaves, optimizer, journal))
                self._between(problem, leaves, done)
                # Detached: `torch.func` differentiates by itself, a second graph by autograd would only cost memory.
                gradient, losses = slope({name: value.detach() for name, value in leaves.items()})
                way = clock.fraction(journal.evaluations + len(losses), journal.planned)
                # Noted before the step: `losses` are those of the leaves as they are now.
                journal.note(leaves, losses, moving=self._rate(way))
                stop = self._stop(journal)
                if stop is not Stop.DONE:
                    break
                self._step(optimizer, leaves, gradient, way)
                self._project(problem, leaves)
                done += 1
                # len(like) / 2^(shares passed), counted from all that began: the same whether a life has passed
                # between, or two shares were passed in one step.
                left = max(1, len(like) >> sum(way >= share for share in self.halving))
                if left < len(losses):
                    leaves, optimizer = _narrowed(leaves, optimizer, journal.narrow(left))
                    # Another number of restarts is another graph.
                    slope = _executed(problem, leaves, clock, journal.planned - journal.evaluations)
        except KeyboardInterrupt:
            stop = Stop.INTERRUPTED
        return journal.found(stop)

    def _rate(self, way: float) -> float:
        # lr / 10^(shares passed); 3/8, 5/8 and 7/8 are the milestones of Geiping et al. 2020.
        return self.lr * 0.1 ** sum(way >= share for share in self.decay)

    def _between(self, problem: Problem, leaves: Point, done: int) -> None:
        if problem.between is not None:
            with torch.no_grad():
                changed = problem.between({name: leaf.detach() for name, leaf in leaves.items()}, done)
                for name, leaf in leaves.items():
                    # In place: the optimizer finds its moments by the tensor object.
                    leaf.copy_(changed[name])

    def _step(self, optimizer: torch.optim.Adam, leaves: Point, gradient: Point, way: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = self._rate(way)
        for name, leaf in leaves.items():
            # The sign is taken before the moments, as in Geiping et al. 2020: what Adam averages are signs, not slopes.
            leaf.grad = gradient[name].sign() if self.signed else gradient[name]
        optimizer.step()

    def _project(self, problem: Problem, leaves: Point) -> None:
        with torch.no_grad():
            legal = problem.project(dict(leaves))
            for name, leaf in leaves.items():
                # A space without bounds gives the leaf back, and there is nothing to copy.
                if legal[name] is not leaf:
                    leaf.copy_(legal[name])

    def _stop(self, journal: Journal) -> Stop:
        if journal.spent:
            return Stop.BUDGET
        # To read a loss makes the host wait for the device, so that these look at every twentieth step only.
        if journal.flushed:
            # One restart that is lost ends nothing: its best candidate is from before.
            if not bool(torch.isfinite(journal.last).any()):
                return Stop.NOT_FINITE
            if self.patience is not None and journal.plateau(self.patience.steps, self.patience.improvement):
                return Stop.PLATEAU
        return Stop.DONE


def _state(done: int, leaves: Point, optimizer: torch.optim.Optimizer, journal: Journal) -> State:
    """What an optimizer of torch needs to go on: its leaves, its own memory, the journal."""
    memory = [dict(optimizer.state[leaf]) for leaf in leaves.values() if leaf in optimizer.state]
    return {"done": done, "leaves": dict(leaves), "memory": memory, "journal": journal.state()}


def _narrowed(leaves: Point, optimizer: torch.optim.Optimizer, index: Tensor) -> tuple[Point, torch.optim.Adam]:
    """Some of the restarts, with the optimizer's memory of them."""
    kept = {name: leaf.detach()[index].clone().requires_grad_(True) for name, leaf in leaves.items()}
    following = torch.optim.Adam(kept.values(), lr=optimizer.param_groups[0]["lr"])
    for name, leaf in leaves.items():
        memory = optimizer.state[leaf]
        following.state[kept[name]] = {
            # Moments have the restarts in front, as the leaf; the count of steps is one number for all.
            what: value[index].clone() if isinstance(value, Tensor) and value.dim() else value
            for what, value in memory.items()
        }
    return kept, following


def _resumed(state: State | None, leaves: Point, optimizer: torch.optim.Optimizer, journal: Journal) -> int:
    """Put a state back in place and say how many steps were done; 0 without a state."""
    if state is None:
        return 0
    with torch.no_grad():
        for name, leaf in leaves.items():
            leaf.copy_(state["leaves"][name])
    for leaf, memory in zip(leaves.values(), state["memory"], strict=False):  # L-BFGS has one memory for all
        # step counts stay on the CPU, as torch keeps them
        optimizer.state[leaf] = {name: _placed(value, leaf) for name, value in memory.items()}
    journal.restore(state["journal"], next(iter(leaves.values())))
    done: int = state["done"]
    return done


def _placed(value: object, like: Tensor) -> object:
    if isinstance(value, list):
        return [_placed(item, like) for item in value]
    return value.to(like.device) if isinstance(value, Tensor) and value.dim() else value


def signed_adam(*, lr: float = 0.1, steps: int = 1000, patience: Patience | None = None) -> Adam:
    """Adam on the sign of the gradient: the search of Geiping et al. 2020."""
    return Adam(lr=lr, steps=steps, signed=True, patience=patience)


@final
@dataclass(frozen=True)
class LBFGS(AbstractSearch):
    """Limited-memory BFGS (Liu & Nocedal 1989), one restart after the other.

    evaluations: gradient evaluations for each restart. line_search: strong Wolfe conditions; without it, as in the
    original DLG code, a quarter of all seeds diverge. lr: the first trial step. good_enough: a loss, relative to the
    start, at which later restarts are saved.
    """

    lr: float = 1.0
    evaluations: int = 1000
    history: int = 100
    line_search: bool = True
    good_enough: float = 1e-8
    follows: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise BadInput(f"expected lr > 0, got {self.lr}")
        if self.evaluations < 1 or self.history < 1:
            raise BadInput(f"expected evaluations >= 1 and history >= 1, got {self.evaluations} and {self.history}")

    def run(self, problem: Problem, starts: Point, *, clock: Clock, watch: Watch) -> Found:
        """Restart by restart, all within one budget; the best of all is returned."""
        restarts = len(next(iter(starts.values())))
        state = clock.saved()
        results = [] if state is None else [Found.restored(one) for one in state["results"]]
        for index in range(len(results), restarts):
            # The first restart always runs, so that there is something to return.
            if index and clock.exhausted(sum(result.evaluations for result in results)):
                break
            results.append(self._restart(problem, _one(starts, index), (clock, watch), results, state))
            # The saved state is that of the restart that was cut off; the ones after it begin anew.
            state = None
            last = results[-1]
            if last.stop is Stop.INTERRUPTED or last.loss <= self.good_enough * last.start_loss:
                break
        best = min(results, key=lambda result: result.loss)
        total = sum(result.evaluations for result in results)
        # Why it ended is that of the last restart, whichever was the best: it is the search that stopped there.
        return Found(best.point, best.loss, best.start_loss, best.last_loss, results[-1].stop, total, best.trace)

    def _restart(
        self, problem: Problem, start: Point, around: tuple[Clock, Watch], earlier: list[Found], state: State | None
    ) -> Found:
        clock, watch = around
        leaves = {name: value.detach().clone().requires_grad_(True) for name, value in start.items()}
        slope = _executed(problem, _one_row(start), clock, self.evaluations)
        # A clock without a checkpoint: there is one file, and `kept` below writes it with all earlier restarts.
        remaining = clock.remaining(sum(result.evaluations for result in earlier)).start()
        journal = problem.journal(remaining, watch, self.evaluations)
        optimizer = self._optimizer(leaves)
        _resumed(state, leaves, optimizer, journal)

        def closure() -> Tensor:
            gradient, losses = slope({name: leaf.detach()[None] for name, leaf in leaves.items()})
            for name, leaf in leaves.items():
                # A 1 x 1 convolution's backward pass on CPU lays channels last, and LBFGS flattens gradients by `view`.
                leaf.grad = gradient[name][0].contiguous()
            # Every trial of the line search is a candidate as well; the lowest is claimed, accepted or not.
            journal.note({name: leaf[None] for name, leaf in leaves.items()}, losses)
            return losses[0]

        def kept() -> State:
            # at the end of a chunk the optimizer's memory is whole
            return {"results": [one.state() for one in earlier], **_state(0, leaves, optimizer, journal)}

        stop = Stop.DONE
        try:
            while journal.evaluations < self.evaluations and stop is Stop.DONE:
                clock.keep(kept)
                done = journal.evaluations
                most = self.evaluations - done
                if remaining.budget.evaluations is not None:
                    most = min(most, remaining.budget.evaluations - done)
                group = optimizer.param_groups[0]
                # torch keeps the pairs (s, y) of the curvature from call to call, so that chunks join to one search.
                group["max_eval"] = min(most, CHUNK)
                # An iteration takes one evaluation at least, hence evaluations are what binds.
                group["max_iter"] = group["max_eval"]
                optimizer.step(closure)
                stop = self._stop(journal, done)
        except KeyboardInterrupt:
            stop = Stop.INTERRUPTED
        return journal.found(stop)

    def _optimizer(self, leaves: Point) -> torch.optim.LBFGS:
        wolfe = "strong_wolfe" if self.line_search else None
        return torch.optim.LBFGS(
            leaves.values(),
            lr=self.lr,
            history_size=self.history,
            line_search_fn=wolfe,
            # torch's are absolute, and a matching loss has the unit of the gradient squared.
            tolerance_grad=0.0,
            tolerance_change=0.0,
        )

    def _stop(self, journal: Journal, before: int) -> Stop:
        if journal.spent:
            return Stop.BUDGET
        # Of the only restart that runs here: there is no other to go on with.
        if not bool(torch.isfinite(journal.last).all()):
            return Stop.NOT_FINITE
        # A chunk that ends at once did not find a step: the line search is at the floor of the arithmetic.
        return Stop.PLATEAU if journal.evaluations - before <= 1 else Stop.DONE


CHUNK = 50
"""Gradient evaluations between two looks at the clock."""
