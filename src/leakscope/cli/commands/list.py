"""`leakscope list`: the rows of the table, which is not imported for it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from leakscope.cli.ending import Exit
from leakscope.cli.rows import Family, Row
from leakscope.cli.text import index

WIDE = 130
"""Letters of a window in which each row has four columns."""


def list_names(family: Family | None, *, as_json: bool) -> Exit:
    """Print the rows of one family, or of all."""
    rows = index.rows(family)
    if as_json:
        print(json.dumps([_said(row) for row in rows], indent=2))
        return Exit.NO_LEAK_FOUND
    console = Console()
    if console.width >= WIDE:
        console.print(_table(rows))
        return Exit.NO_LEAK_FOUND
    for place, one in enumerate(dict.fromkeys(row.family for row in rows)):
        console.print(f"{'' if place == 0 else chr(10)}{one.value}")
        console.print(_narrow([row for row in rows if row.family is one]))
    return Exit.NO_LEAK_FOUND


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("family", "name", "what it is", "for example"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "name")
    for row in rows:
        table.add_row(row.family.value, row.name, escape(row.summary), escape(row.example))
    return table


def _narrow(rows: Sequence[Row]) -> Table:
    """The example below what it is: in a column of its own it would break inside of its words."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(f"  {row.name}", f"{escape(row.summary)}\n{escape(row.example)}")
    return table


def _said(row: Row) -> dict[str, object]:
    return {
        "family": row.family.value,
        "name": row.name,
        "summary": row.summary,
        "example": row.example,
        "traits": sorted(trait.value for trait in row.traits),
        "card": row.card,
    }
