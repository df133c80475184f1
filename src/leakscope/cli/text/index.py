"""The rows of the one table, read off the sources of `cli/names.py` and `cli/parts.py` without importing what they do.

There is no second list that could fall behind: a row that is added there is found here, and a test compares the two.
"""

from __future__ import annotations

import ast
import functools

from leakscope.cli.rows import Family, Row, Trait
from leakscope.cli.text.sources import source
from leakscope.homes import Home, homes

TABLES = (("leakscope.cli.names", "ROWS"), ("leakscope.cli.parts", "PARTS"))
"""Where the rows are, in their order: those of parts are the last."""


def rows(family: Family | None = None) -> tuple[Row, ...]:
    """The rows of a family, or all, in the table's order: those of `names.rows`.

    >>> [row.name for row in rows(Family.PROTOCOLS)]
    ['FedSGD', 'FedAvg', 'BatchClipped', 'DPSGD', 'HeadTraining', 'PrivateHeadTraining']
    """
    return tuple(row for row in _table() if family is None or row.family is family)


def row_named(name: str) -> Row | None:
    """The row with this name; None where there is none.

    >>> row_named("Clip").summary, row_named("Clib")
    ('scales the update down to a largest norm', None)
    """
    return next((row for row in _table() if row.name == name), None)


@functools.cache
def _table() -> tuple[Row, ...]:
    return tuple(one for module, name in TABLES for one in _rows(source(module).body, name))


def _rows(body: list[ast.stmt], name: str) -> list[Row]:
    """Those that are written out; `*PARTS` in the table of names is read where it is from."""
    known, short = homes(body), _short(body)
    (table,) = (node for node in body if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name)
    assert isinstance(table.value, ast.Tuple)
    return [_row(line, known, short) for line in table.value.elts if not isinstance(line, ast.Starred)]


def _short(body: list[ast.stmt]) -> dict[str, Family]:
    """What `_A, _D, ... = Family` calls the families, in the order of its members, or `_X = Family.PARTS` one."""
    (line,) = (one for one in body if isinstance(one, ast.Assign) and Family.__name__ in ast.unparse(one.value))
    if isinstance(line.value, ast.Attribute):
        return {ast.unparse(line.targets[0]): Family[line.value.attr]}
    assert isinstance(line.targets[0], ast.Tuple)
    return {ast.unparse(name): one for name, one in zip(line.targets[0].elts, Family, strict=True)}


def _row(node: ast.expr, known: dict[str, Home], short: dict[str, Family]) -> Row:
    """`row(FAMILY, BUILD, summary, example, *traits)`, as `rows.row` understands it."""
    assert isinstance(node, ast.Call)
    family, build, *texts = node.args[:4]
    summary, example = (*(ast.literal_eval(text) for text in texts), "")[:2]
    home = known[ast.unparse(build)]
    traits = frozenset(Trait[trait.attr] for trait in node.args[4:] if isinstance(trait, ast.Attribute))
    return Row(home.name, short[ast.unparse(family)], home.module, summary, example or f"{home.name}()", traits)
