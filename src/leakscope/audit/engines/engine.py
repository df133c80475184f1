"""The contract of every engine, and what it reports while it works."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from leakscope.audit.plan import Cell
from leakscope.core.effort import Progress
from leakscope.ledger.record import Record
from leakscope.ledger.run_folder import RunStore


@final
@dataclass(frozen=True)
class Started:
    """A worker began a cell."""

    identity: str
    title: str


@final
@dataclass(frozen=True)
class Moved:
    """A cell is getting on."""

    identity: str
    progress: Progress


@final
@dataclass(frozen=True)
class Finished:
    """A cell's record is on the disk."""

    record: Record


@final
@dataclass(frozen=True)
class Noticed:
    """Something that a person should know: a damaged record, a worker that died.

    undone: how many cells that counted as done are run again for it.
    """

    sentence: str
    undone: int = 0


Event = Started | Moved | Finished | Noticed
Listen = Callable[[Event], None]


def silent(event: Event) -> None:
    """The listener that ignores everything."""
    del event


class AbstractEngine(ABC):
    """Runs cells. Whatever happens to a cell, its record is in the store when `run` returns."""

    @abstractmethod
    def run(self, cells: Sequence[Cell], store: RunStore, listen: Listen) -> None:
        """Run every cell once and write its record, then say so with `Finished`.

        Raises `KeyboardInterrupt` when interrupted; cells that were not finished then have no record.
        """


def title(cell: Cell) -> str:
    """A cell in a few words.

    The attack is named as in the plan, where `dlg()` and `idlg()` are two; else by its class: its whole repr would
    fill the line.
    """
    attack = cell.called or type(cell.attack).__name__
    return f"{cell.scene.name} | {cell.mechanism!r} | {attack} | trial {cell.trial + 1} ({cell.role.value})"
