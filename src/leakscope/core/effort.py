"""What an attack may spend, how it shows that it is alive, and where it keeps what it needs to go on."""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

from leakscope.core.errors import BadInput


@final
@dataclass(frozen=True)
class Progress:
    """One sign of life of a long search; `fraction` in [0, 1] of whatever bounds it.

    evaluations: of the gradient, so far. scalars: what else moves, by name: the step, the radius, parts of the loss.
    """

    fraction: float
    loss: float
    note: str = ""
    evaluations: int = 0
    scalars: tuple[tuple[str, float], ...] = ()


Watch = Callable[[Progress], None]


def unwatched(progress: Progress) -> None:
    """The watcher that watches nothing."""
    del progress


def part_of(watch: Watch, low: float, high: float) -> Watch:
    """A watcher of what is from `low` to `high` of the whole that `watch` sees."""
    return lambda said: watch(dataclasses.replace(said, fraction=low + (high - low) * said.fraction))


State = dict[str, Any]
"""What a search needs to go on: tensors, numbers, texts and None, in dicts with text keys and in lists."""


class AbstractCheckpoint(ABC):
    """Where a search keeps its state, so that it can be killed at any moment and go on to the same answer.

    It is handed in beside the budget and is no field of an attack: it changes neither repr nor result.
    """

    @abstractmethod
    def open(self, owner: str) -> None:
        """Declare whose state this is. Raises `BadInput` when a state of another owner is there."""

    @abstractmethod
    def load(self) -> State | None:
        """The state that was saved last, None when there is none."""

    @abstractmethod
    def due(self) -> bool:
        """Whether it is time to save again."""

    @abstractmethod
    def save(self, state: State, *, seconds: float) -> None:
        """Keep `state`, all of it or nothing. seconds: what the search has spent in all its lives."""

    @abstractmethod
    def seconds(self) -> float:
        """What earlier lives had spent when they saved last."""

    @abstractmethod
    def close(self) -> None:
        """Forget the state: the search has ended by itself."""


@final
@dataclass(frozen=True)
class Budget:
    """What an attack may spend; `None` leaves that side open. The first bound that is reached ends the search.

    >>> Budget(evaluations=10).start().exhausted(10)
    True
    """

    seconds: float | None = None
    evaluations: int | None = None

    def __post_init__(self) -> None:
        if self.seconds is not None and not self.seconds > 0:
            raise BadInput(f"expected a budget of more than 0 seconds, got {self.seconds}")
        if self.evaluations is not None and self.evaluations < 1:
            raise BadInput(f"expected a budget of at least 1 evaluation, got {self.evaluations}")

    def start(self) -> Clock:
        """A running clock of this budget."""
        return Clock(self, time.perf_counter())


@final
@dataclass(frozen=True)
class Clock:
    """A budget that has started, and where a search under it keeps its state, if anywhere."""

    budget: Budget
    started: float
    checkpoint: AbstractCheckpoint | None = None

    def kept(self, checkpoint: AbstractCheckpoint) -> Clock:
        """This clock with a checkpoint; what earlier lives have spent is spent."""
        return dataclasses.replace(self, started=self.started - checkpoint.seconds(), checkpoint=checkpoint)

    def saved(self) -> State | None:
        """The state to go on from, None for a fresh start."""
        return None if self.checkpoint is None else self.checkpoint.load()

    def keep(self, state: Callable[[], State]) -> None:
        """Save `state()` if it is time; call it where the state is consistent."""
        if self.checkpoint is not None and self.checkpoint.due():
            self.checkpoint.save(state(), seconds=self.spent())

    def spent(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.started

    def remaining(self, evaluations: int = 0) -> Budget:
        """What is left after `evaluations`, never less than a token millisecond and one evaluation."""
        seconds, most = self.budget.seconds, self.budget.evaluations
        return Budget(
            None if seconds is None else max(seconds - self.spent(), 1e-3),
            None if most is None else max(most - evaluations, 1),
        )

    def exhausted(self, evaluations: int) -> bool:
        """Whether either bound is reached."""
        seconds, most = self.budget.seconds, self.budget.evaluations
        return (seconds is not None and self.spent() >= seconds) or (most is not None and evaluations >= most)

    def fraction(self, evaluations: int, planned: int) -> float:
        """How far the search is, by whichever bound is nearest, in [0, 1]."""
        seconds, most = self.budget.seconds, self.budget.evaluations
        shares = [evaluations / max(planned, 1)]
        if seconds is not None:
            shares.append(self.spent() / seconds)
        if most is not None:
            shares.append(evaluations / most)
        return min(max(shares), 1.0)
