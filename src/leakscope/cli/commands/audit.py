"""`leakscope audit`: a plan file becomes a folder of records and a page."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import final

from leakscope.audit.engines.engine import AbstractEngine
from leakscope.audit.plan import Plan
from leakscope.audit.run import Interrupted, Resumption, run
from leakscope.audit.shard import Shard
from leakscope.cli import console, ending
from leakscope.cli.calling import permitted
from leakscope.cli.config import built
from leakscope.cli.ending import Exit
from leakscope.cli.models import tried_out
from leakscope.cli.text.plan import WrittenPlan
from leakscope.ledger.record import Summary
from leakscope.ledger.run_folder import RunStore
from leakscope.report.page_run import write_page


@final
@dataclass(frozen=True)
class Order:
    """How an audit is to be conducted. again: the command that goes on with it, for messages. shard: a part of it."""

    folder: Path
    engine: AbstractEngine
    resume: bool
    as_json: bool
    again: str
    shard: Shard | None = None


def audit(written: WrittenPlan, order: Order) -> Exit:
    """Run the plan, write the page, say what was found."""
    summary, whole = conduct(tried_out(permitted(built(written), chosen=written.instead is not None)), order)
    return ending.code(summary.word) if whole else Exit.INCOMPLETE


def conduct(plan: Plan, order: Order) -> tuple[Summary, bool]:
    """Run a plan or a shard of it; the summary, and whether all is done. After Ctrl-C the page shows what there is."""
    cells = plan.cells()
    planned = {cell.identity for cell in (order.shard.of(cells) if order.shard else cells)}
    done = len(planned & set(RunStore(order.folder).names()))
    command = shlex.join(["leakscope", *sys.argv[1:]])
    try:
        with console.following(len(planned), done=done) as listen:
            resumption = Resumption(order.resume, command, order.shard)
            summary = run(plan, order.folder, order.engine, listen=listen, resumption=resumption)
    except Interrupted as stopped:
        finish(stopped.summary, order.folder, as_json=order.as_json)
        left = stopped.summary.planned - stopped.summary.finished
        console.say(f"stopped; {left} of {stopped.summary.planned} cells are left. Go on with: {order.again}")
        return stopped.summary, False
    finish(summary, order.folder, as_json=order.as_json)
    left = summary.planned - summary.finished
    if left:
        console.say(f"this shard is done; {left} of {summary.planned} cells are left to others")
    return summary, not left


def finish(summary: Summary, folder: Path, *, as_json: bool) -> None:
    """Write the page and say what was found."""
    page = write_page(folder)
    if as_json:
        said = {
            "run": str(folder),
            "report": str(page),
            "summary": json.loads(summary.model_dump_json()),
        }
        print(json.dumps(said, indent=2))
        return
    console.show(summary)
    print(f"report: {page.resolve()}")
