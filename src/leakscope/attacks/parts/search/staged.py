"""One checkpoint for several learners in a row: what was learned before is kept beside the state of the one at work."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from leakscope.core.effort import AbstractCheckpoint, Clock, State


def staged(clock: Clock, stage: str, done: Mapping[str, State]) -> tuple[Clock, State | None]:
    """The clock of one stage, whose state is its own, and what an earlier life has learned of that stage, or None.

    done: what earlier stages have learned, by name. Without a checkpoint the clock itself.

    >>> from leakscope.core.effort import Budget
    >>> staged(Budget().start(), "first", {})[1] is None
    True
    """
    if clock.checkpoint is None:
        return clock, None
    state = clock.checkpoint.load()
    found: State | None = None if state is None else state["done"].get(stage)
    return dataclasses.replace(clock, checkpoint=_Stage(clock.checkpoint, stage, dict(done))), found


@final
@dataclass(frozen=True, eq=False)
class _Stage(AbstractCheckpoint):
    """The place of one stage in the checkpoint `whole`; all but its state is the whole one's business."""

    whole: AbstractCheckpoint
    stage: str
    done: dict[str, State]

    def open(self, owner: str) -> None:
        self.whole.open(owner)

    def load(self) -> State | None:
        state = self.whole.load()
        now: State | None = None if state is None or state["stage"] != self.stage else state["now"]
        return now

    def due(self) -> bool:
        return self.whole.due()

    def save(self, state: State, *, seconds: float) -> None:
        self.whole.save({"stage": self.stage, "now": state, "done": self.done}, seconds=seconds)

    def seconds(self) -> float:
        return self.whole.seconds()

    def close(self) -> None:
        self.whole.close()
