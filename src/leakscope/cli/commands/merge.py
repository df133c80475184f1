"""`leakscope merge`: the folders of several shards become one run with one page."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import final

from leakscope.audit.merge import merge as gather
from leakscope.cli import console, ending
from leakscope.cli.commands.audit import finish
from leakscope.cli.config import built
from leakscope.cli.ending import Exit
from leakscope.cli.text.plan import WrittenPlan


@final
@dataclass(frozen=True)
class Order:
    """Which runs of which plan become one in `out`."""

    plan: WrittenPlan
    runs: tuple[Path, ...]
    out: Path
    as_json: bool


def merge(order: Order) -> Exit:
    """Copy the records, judge them, write the page."""
    command = shlex.join(["leakscope", *sys.argv[1:]])
    summary = gather(built(order.plan), order.runs, order.out, command=command)
    finish(summary, order.out, as_json=order.as_json)
    left = summary.planned - summary.finished
    if left:
        console.say(f"{left} of {summary.planned} cells are in none of these folders; run their shards first")
    return Exit.INCOMPLETE if left else ending.code(summary.word)
