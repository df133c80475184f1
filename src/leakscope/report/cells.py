"""The cells of a run folder: all records in memory, their arrays only while they are looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import final

from leakscope.core.errors import DamagedRecord
from leakscope.ledger.record import Record
from leakscope.ledger.run_folder import RunStore
from leakscope.report.media import Array
from leakscope.report.tables import Cell

HELD_BYTES = 256_000_000
"""Arrays of the cells that were read last are kept up to this size."""


@final
class Shelf(Mapping[str, Cell]):
    """identity -> (record, arrays by name) of every whole cell; `damaged` says why the others cannot be read.

    Every file is read once when the shelf is made, so that a damaged one is known before anything is drawn.
    """

    def __init__(self, store: RunStore, held_bytes: int = HELD_BYTES) -> None:
        self.damaged: dict[str, str] = {}
        self._store, self._held_bytes = store, held_bytes
        self._records: dict[str, tuple[Record, tuple[str, ...]]] = {}
        self._held: dict[str, Mapping[str, Array]] = {}
        for name in store.names():
            try:
                record, arrays = store.read(name)
            except DamagedRecord as error:
                self.damaged[name] = str(error)
            else:
                self._records[name] = record, tuple(arrays)
                self._hold(name, arrays)

    def __getitem__(self, name: str) -> Cell:
        record, names = self._records[name]
        return record, Drawer(self, name, names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def arrays(self, name: str) -> Mapping[str, Array]:
        """The arrays of one cell, from memory or from its file."""
        if name not in self._held:
            self._hold(name, self._store.read(name)[1])
        return self._held[name]

    def _hold(self, name: str, arrays: Mapping[str, Array]) -> None:
        """Keep these; let go of the oldest ones when it becomes too much, never of the newest."""
        # A dict keeps the order of insertion, so its first key was read longest ago.
        self._held[name] = arrays
        while len(self._held) > 1 and sum(map(_size, self._held.values())) > self._held_bytes:
            del self._held[next(iter(self._held))]


def _size(arrays: Mapping[str, Array]) -> int:
    return sum(array.nbytes for array in arrays.values())


@final
class Drawer(Mapping[str, Array]):
    """The arrays of one cell by name, read when asked for."""

    def __init__(self, shelf: Shelf, name: str, names: tuple[str, ...]) -> None:
        self._shelf, self._name, self._names = shelf, name, names

    def __getitem__(self, array: str) -> Array:
        if array not in self._names:
            raise KeyError(array)
        # Asked for at each access and not kept: a drawer that is held on to must not hold the arrays of its cell.
        return self._shelf.arrays(self._name)[array]

    def __contains__(self, array: object) -> bool:
        return array in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
