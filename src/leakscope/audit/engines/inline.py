"""Every cell in this process, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from leakscope.audit.engines.engine import AbstractEngine, Finished, Listen, Moved, Started, title
from leakscope.audit.plan import Cell
from leakscope.audit.preparation import Shelf
from leakscope.audit.work import attempt
from leakscope.core.effort import Watch
from leakscope.ledger.run_folder import RunStore


@final
@dataclass(frozen=True)
class Inline(AbstractEngine):
    """One process, one cell after the other: the easiest to debug, and the reference for all others.

    >>> Inline()
    Inline()
    """

    def run(self, cells: Sequence[Cell], store: RunStore, listen: Listen) -> None:
        """Run the cells in their order."""
        for cell in cells:
            name = cell.identity
            listen(Started(name, title(cell)))
            found = attempt(cell, watch=_told(name, listen), shelf=Shelf(store.prepared))
            store.write(found.record, found.arrays)
            listen(Finished(found.record))


def _told(name: str, listen: Listen) -> Watch:
    return lambda progress: listen(Moved(name, progress))
