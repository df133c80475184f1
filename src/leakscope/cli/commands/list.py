"""`leakscope list`: the rows of the table, which is not imported for it."""

from __future__ import annotations

import json

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from leakscope.cli.ending import Exit
from leakscope.cli.rows import Family, Row
from leakscope.cli.text import index


def list_names(family: Family | None, *, as_json: bool) -> Exit:
    """Print the rows of one family, or of all."""
    rows = index.rows(family)
    if as_json:
        print(json.dumps([_said(row) for row in rows], indent=2))
        return Exit.NO_LEAK_FOUND
    table = Table(box=None, pad_edge=False)
    for heading in ("family", "name", "what it is", "for example"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "name")
    for row in rows:
        table.add_row(row.family.value, row.name, escape(row.summary), escape(row.example))
    Console().print(table)
    return Exit.NO_LEAK_FOUND


def _said(row: Row) -> dict[str, object]:
    return {
        "family": row.family.value,
        "name": row.name,
        "summary": row.summary,
        "example": row.example,
        "traits": sorted(trait.value for trait in row.traits),
        "card": row.card,
    }
