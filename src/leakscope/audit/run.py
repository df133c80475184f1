"""A plan becomes records: as many as were planned, whatever crashed, diverged or was refused."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from leakscope.audit.engines.engine import AbstractEngine, Event, Finished, Listen, Noticed, silent
from leakscope.audit.plan import Cell, Plan
from leakscope.audit.shard import Shard
from leakscope.audit.summary import summarize
from leakscope.core.errors import BadInput, BadPlan, DamagedRecord
from leakscope.ledger.lock import is_lock, one_at_a_time, sole_runner
from leakscope.ledger.record import CellSpec, Ending, Record, Summary
from leakscope.ledger.run_folder import RunStore
from leakscope.version import VERSION

PLAN = "plan.json"
HUGE = 1e100
"""No score is as large, in any metric; sums of as many as there may be, and of their squares, are numbers yet."""


@final
class Interrupted(KeyboardInterrupt):
    """The audit was stopped by a person. `summary` tells what there is; the rest can be run by resuming."""

    def __init__(self, summary: Summary) -> None:
        self.summary = summary
        super().__init__(f"stopped with {summary.finished} of {summary.planned} cells; run again with --resume")


@final
@dataclass(frozen=True)
class Resumption:
    """Whether an earlier run in the same folder may be continued, how this one was called, and which part it is of.

    Runs of different shards may be in the same folder at the same time; each goes on with what it finds of its own.
    """

    allowed: bool = False
    command: str = ""
    shard: Shard | None = None


def run(
    plan: Plan, folder: Path, engine: AbstractEngine, *, listen: Listen = silent, resumption: Resumption | None = None
) -> Summary:
    """Run what is missing in `folder`, write the index and the summary, and return the summary.

    Of a shard, its own cells only; index and summary tell what all shards have written to the folder so far.

    Raises `BadInput` when another runner holds the folder or when it holds records and resuming was not allowed,
    `BadPlan` when it holds records of a plan that this one does not contain, `Interrupted` after Ctrl-C,
    `LostLease` when this process was stopped for so long that another runner took over; it has then written nothing.
    """
    plan.resources.check()  # on every machine anew: a cell of an absent device would else be recorded as a crash
    resumption = resumption or Resumption()
    shard, cells = resumption.shard, plan.cells()
    store = RunStore(Path(folder), shard.name if shard else "")
    mine = shard.of(cells) if shard else cells
    _check_place(store.folder)
    if shard is None:
        _check_folder(store, cells, resumption)  # before a lease leaves a file in a folder that is somebody else's
    with sole_runner(store.folder, store.part) as lease:
        store = RunStore(store.folder, store.part, lease)
        with one_at_a_time(store.folder):
            _check_folder(store, cells, resumption)  # another runner may have come and gone in between
            store.sweep([cell.identity for cell in mine] if shard else None)
            audit = _Audit(plan, store, mine, _write_plan(store, plan, cells), resumption.command)
            done = _records(store, mine, listen)
            if shard is None:
                store.write_index(list(done.values()))
        try:
            engine.run([cell for cell in mine if cell.identity not in done], store, _indexed(store, listen))
        except KeyboardInterrupt:
            raise Interrupted(audit.close(_records(store, mine, silent))) from None
        records = _records(store, mine, silent)
        lost = [cell.identity for cell in mine if cell.identity not in records]
        if lost:
            raise RuntimeError(f"{len(lost)} of {len(mine)} cells left no record, first {lost[0]}; this is a bug")
        return audit.close(records)


def conclude(plan: Plan, folder: Path, *, command: str = "") -> Summary:
    """Judge what records of the plan are in `folder`, and write plan, index and summary; nothing is run.

    Raises as `run` does.
    """
    store, cells = RunStore(Path(folder)), plan.cells()
    with sole_runner(store.folder) as lease:
        store = RunStore(store.folder, lease=lease)
        if store.plan() is not None:
            _check_folder(store, cells, Resumption(allowed=True))
        audit = _Audit(plan, store, cells, _write_plan(store, plan, cells), command)
        return audit.close(_records(store, cells, silent))


@final
@dataclass(frozen=True)
class _Audit:
    plan: Plan
    store: RunStore
    mine: tuple[Cell, ...]
    started: str
    command: str

    def close(self, records: Mapping[str, Record]) -> Summary:
        """Judge what there is, write the whole index and the summary.

        Shards do this one after the other, so that the last one sees all records.
        """
        with one_at_a_time(self.store.folder):
            return self._judged({**records, **self._others()})

    def _others(self) -> dict[str, Record]:
        """What other shards have written; a damaged one is theirs to mend."""
        own = {cell.identity for cell in self.mine}
        others = tuple(cell for cell in self.plan.cells() if cell.identity not in own)
        return _records(self.store, others, silent, mend=False)

    def _judged(self, records: Mapping[str, Record]) -> Summary:
        self.store.write_index(list(records.values()))
        judged = summarize(self.plan, records)
        summary = judged.model_copy(
            update={
                "versions": versions(),
                "machine": machine(),
                "command": self.command,
                "started": self.started,
            }
        )
        self.store.write_summary(summary)
        return summary


def versions() -> dict[str, str]:
    """What the numbers depend on besides the plan."""
    return {
        "leakscope": VERSION,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }


def machine() -> str:
    """The kind of machine, without its name."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors"


def _indexed(store: RunStore, listen: Listen) -> Listen:
    def both(event: Event) -> None:
        if isinstance(event, Finished):
            store.append_index(event.record)
        listen(event)

    return both


def _records(store: RunStore, cells: tuple[Cell, ...], listen: Listen, *, mend: bool = True) -> dict[str, Record]:
    """The valid records of the plan, in its order; damaged files are moved aside and said so.

    mend: without it they are left, since they may belong to another shard.
    """
    there, found = set(store.names()), {}
    for cell in cells:
        if cell.identity not in there:
            continue
        try:
            found[cell.identity] = _judgeable(store.record(cell.identity))
        except DamagedRecord as damage:
            if not mend:
                continue
            place = store.set_aside(cell.identity)
            listen(Noticed(f"{damage}; moved to {place.parent.name}/{place.name}, the cell is run again", undone=1))
    return found


def _judgeable(record: Record) -> Record:
    """The record, if a verdict can be read from it: it averages scores, and holds each proof against its own item.

    A page shows what is written, whatever it is; only to judge by it is too much.
    """
    for score in record.scores:
        # Of no metric, all of which end far below it, and what sums overflow with.
        if not all(abs(item) < HUGE for item in (*score.items, *score.blind, *score.nearest)):
            raise DamagedRecord(f"{record.identity} has a {score.metric} of an example that is not finite")
        if not score.items and record.ending is Ending.CLAIMED:
            raise DamagedRecord(f"{record.identity} has a {score.metric} of no example")
    proof = record.certificate
    # Of versions that kept one for all items there are none of either.
    if proof is not None and len(proof.residuals) != len(proof.tolerances):
        said = f"{len(proof.residuals)} residuals and {len(proof.tolerances)} tolerances"
        raise DamagedRecord(f"{record.identity} has a proof of {said}")
    return record


def _check_folder(store: RunStore, cells: tuple[Cell, ...], resumption: Resumption) -> None:
    old = store.plan()
    if old is None:
        _check_empty(store.folder)
        return
    if not resumption.allowed and resumption.shard is None:
        have, planned = len(store.names()), len(old["cells"])
        raise BadInput(
            f"{store.folder} already holds {have} of {planned} records; go on with --resume or choose another folder"
        )
    _check_same(store, old, {cell.identity: cell.spec for cell in cells})


def _check_place(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file; choose a folder")


def _check_empty(folder: Path) -> None:
    """A folder without a plan may hold only what a runner leaves that is killed before it writes the plan."""
    strange = [p.name for p in folder.glob("*") if not is_lock(p.name) and not p.name.startswith(".")]
    if strange:
        raise BadInput(f"{folder} is not empty and holds no audit ({min(strange)}, ...); choose another folder")


def _check_same(store: RunStore, old: dict[str, Any], now: dict[str, CellSpec]) -> None:
    if old["leakscope"] != VERSION:
        raise BadPlan(
            f"{store.folder} was written by leakscope {old['leakscope']}, this is {VERSION}; choose another folder"
        )
    gone = old["cells"].keys() - now.keys()
    if gone:
        raise BadPlan(
            f"the plan is not the one of {store.folder} ({_changes(old['cells'], now)}); "
            "a resumed plan may only gain cells: choose another folder"
        )


def _changes(old: Mapping[str, dict[str, Any]], now: Mapping[str, CellSpec]) -> str:
    """Field by field, the values that are gone and those that came."""
    new = [spec.model_dump(mode="json") for spec in now.values()]
    said = []
    for field in CellSpec.model_fields:
        before, after = ({_short(one.get(field)): None for one in side} for side in (list(old.values()), new))
        lost, came = [v for v in before if v not in after], [v for v in after if v not in before]
        if lost or came:
            said.append(f"{field}: was {', '.join(lost) or 'the same'}, is now {', '.join(came) or 'without it'}")
    return "; ".join(said) or "the same values are combined otherwise"


def _short(value: object) -> str:
    text = " + ".join(map(str, value)) or "nothing" if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _write_plan(store: RunStore, plan: Plan, cells: tuple[Cell, ...]) -> str:
    """Keep the plan and say when the audit first started."""
    old = store.plan()
    started = old["started"] if old else time.strftime("%Y-%m-%dT%H:%M:%S%z")
    said = {
        "schema": 1,
        "leakscope": VERSION,
        "title": plan.title,
        "started": started,
        "cells": {cell.identity: cell.spec.model_dump(mode="json") for cell in cells},
    }
    store.write_json(PLAN, said)
    return str(started)
