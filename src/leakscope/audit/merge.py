"""Folders of shards that were run apart become one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leakscope.audit.plan import Plan
from leakscope.audit.run import conclude
from leakscope.core.errors import BadInput, BadPlan, DamagedRecord
from leakscope.ledger.record import Summary
from leakscope.ledger.run_folder import RunStore
from leakscope.version import VERSION


def merge(plan: Plan, runs: Sequence[Path], folder: Path, *, command: str = "") -> Summary:
    """Copy each record of `plan` that is whole in one of `runs` to `folder`, and judge them there as if run there.

    Raises `BadInput` when one of them holds no audit or `folder` holds something else, `BadPlan` when they are of
    another plan or were written by another version.
    """
    into = RunStore(Path(folder))
    wanted = [cell.identity for cell in plan.cells()]
    sources = [RunStore(Path(run)) for run in runs]
    for store in sources:
        _check(store, set(wanted))
    if into.folder.exists() and into.plan() is None and any(into.folder.iterdir()):
        raise BadInput(f"{into.folder} is not empty and holds no audit; choose another folder")
    have = set(into.names())
    for name in wanted:
        if name not in have:
            _copy(name, sources, into)
    return conclude(plan, into.folder, command=command)


def _check(store: RunStore, wanted: set[str]) -> None:
    old = store.plan()
    if old is None:
        raise BadInput(f"{store.folder} holds no audit; give the folders that `leakscope audit --shard` wrote")
    if old["leakscope"] != VERSION:
        raise BadPlan(f"{store.folder} was written by leakscope {old['leakscope']}, this is {VERSION}")
    if not old["cells"].keys() <= wanted:
        strange = len(old["cells"].keys() - wanted)
        raise BadPlan(f"{store.folder} is of another plan: {strange} of its cells are not in this one")


def _copy(name: str, sources: Sequence[RunStore], into: RunStore) -> None:
    """From the first run in which the record is whole; a damaged one is as good as none."""
    for store in sources:
        try:
            # Read and written, not copied as a file: what is not what was written does not get any further.
            into.write(*store.read(name))
        except DamagedRecord:
            continue
        return
