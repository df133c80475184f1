"""`leakscope federation`: a plan of federations becomes a folder of records and a page."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import final

from leakscope.audit.federations import fit
from leakscope.audit.federations.plan import FederationPlan
from leakscope.audit.federations.run import RECORDS, Finished, run
from leakscope.cli import console, ending
from leakscope.cli.ending import Exit
from leakscope.cli.federated import built
from leakscope.cli.options.federation import PLAN_OF
from leakscope.cli.text.federation import WrittenFederations, read
from leakscope.core.effort import Progress
from leakscope.core.errors import LeakscopeError
from leakscope.ledger.files import write_atomically
from leakscope.ledger.folders import private_folder
from leakscope.ledger.played import Part, PlayedRow, PlayedSummary
from leakscope.report.page_federation import write_federation_page

PAUSE = 20.0
"""Seconds between two such lines."""


def federation(written: WrittenFederations, folder: Path, *, as_json: bool) -> Exit:
    """Run the plan, write the page, say what was found."""
    summary, whole = conduct(written, folder, as_json=as_json, again="--resume")
    return ending.code(summary.word) if whole else Exit.INCOMPLETE


def conduct(written: WrittenFederations, folder: Path, *, as_json: bool, again: str = "") -> tuple[PlayedSummary, bool]:
    """The summary, and whether all is done. again: the option with which the command goes on, where it needs one."""
    plan = built(written)
    # before anything is written: a folder of another plan stays what it is
    fit.check(plan, written.sheet.bad)
    fit.of_this_plan(plan, folder / RECORDS, begun=_begun(folder / PLAN_OF))
    private_folder(folder)
    write_atomically(folder / PLAN_OF, written.sheet.text.encode())
    found = run(plan, folder, tell=console.say, watch=_Spoken())
    page = write_federation_page(folder, found.summary)
    if as_json:
        said = {"run": str(folder), "report": str(page), "summary": json.loads(found.summary.model_dump_json())}
        print(json.dumps(said, indent=2))
    else:
        _show(found, page)
    if not found.whole:
        words = ["leakscope", *sys.argv[1:], *([again] if again and again not in sys.argv else [])]
        left = found.summary.planned - found.summary.finished
        console.say(f"stopped; {left} of {found.summary.planned} cells are left. Go on with: {shlex.join(words)}")
    return found.summary, found.whole


def _begun(file: Path) -> FederationPlan | None:
    """The plan that the folder was begun with; None where there is none, or none that can still be read."""
    try:
        return built(read(file)) if file.is_file() else None
    except LeakscopeError:
        return None


@final
class _Spoken:
    """A line now and then of what takes long: minutes of Adam, or a network that learns."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() - self.last > PAUSE and progress.note:
            self.last = time.monotonic()
            console.say(f"    {progress.note}")


def _show(found: Finished, page: Path) -> None:
    print(f"\n{found.summary.title}\n")
    for row in found.summary.rows:
        if row.part is Part.AUDITED:
            print(f"{row.word.value}: {named(row)}\n    {row.sentence}")
    print(f"\n{found.summary.sentence}\nreport: {page.resolve()}")


def named(row: PlayedRow) -> str:
    """A row in words: what tells it from the others."""
    return " · ".join((row.scene, row.target, row.federation, row.attack, row.attribute))
