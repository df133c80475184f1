"""One cell in, one record out, whatever happens. Engines decide where and when; what a cell does is here."""

from __future__ import annotations

import traceback
from typing import final

from leakscope.audit.cell import attack_key, set_up
from leakscope.audit.outcome import Found, crashed, recorded
from leakscope.audit.plan import Cell
from leakscope.audit.preparation import Shelf, prepared
from leakscope.core.attempt import Outcome
from leakscope.core.effort import Watch, unwatched

NOWHERE = Shelf()
"""Of cells that are run by themselves: what they learn is not kept."""


@final
class TamperedError(RuntimeError):
    """A secret or an observation changed while an attack ran: the cell says nothing about leakage."""


def attempt(cell: Cell, *, watch: Watch = unwatched, shelf: Shelf = NOWHERE) -> Found:
    """Run a cell to a record, whatever it raises; an exception becomes `Ending.CRASHED` with its traceback.

    shelf: where what the attack learns from public data is kept, for the other trials.
    This is the one place in leakscope that catches everything: a failure that left no record would silently leave
    the denominator. Raises `KeyboardInterrupt` only.
    """
    try:
        return run_cell(cell, watch=watch, shelf=shelf)
    except Exception as error:  # noqa: BLE001, see the docstring
        text = str(error).strip().splitlines()
        return crashed(cell, f"{type(error).__name__}: {text[0] if text else 'no message'}", traceback.format_exc())


def run_cell(cell: Cell, *, watch: Watch = unwatched, shelf: Shelf = NOWHERE) -> Found:
    """Run one cell with its threads, so that its record depends neither on the machine's load nor on the engine.

    A refused or diverged attempt is a record with its sentence and without scores. Raises `KeyboardInterrupt` when
    the attempt was interrupted: that cell is not finished and will be run again. Raises `TamperedError` when secret
    or observation are not what they were before the attack, `BadInput` where the cell's device is absent; whatever
    else the parts raise passes through.
    """
    with cell.resources.held():
        ready = prepared(cell, shelf, watch)  # before anything private is drawn
        stage = set_up(cell)
        before = stage.fingerprints()
        tried = ready.attack.run(stage.seen, key=attack_key(cell), budget=cell.budget, watch=watch)
        if tried.outcome is Outcome.INTERRUPTED:
            raise KeyboardInterrupt
        found = recorded(cell, stage, tried, ready)
        # After scoring, which sees both: a score against a secret that was written to would be of something else.
        _same(before, stage.fingerprints())
        return found


def _same(before: tuple[str, str], after: tuple[str, str]) -> None:
    for what, one, other in zip(("secret", "observation"), before, after, strict=True):
        if one != other:
            raise TamperedError(f"the {what} changed while the attack ran or was scored; it writes to its inputs")
