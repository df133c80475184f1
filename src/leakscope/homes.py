"""Where names are from that a source imports, read off the source without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import NamedTuple, final


@final
class Home(NamedTuple):
    """The module that makes a name, and what it is called there."""

    module: str
    name: str


def homes(body: Iterable[ast.stmt]) -> dict[str, Home]:
    """Name -> home of each `from MODULE import NAME` among the statements `body`; what is nested deeper is left out.

    >>> homes(ast.parse("from a.b import c, d as e").body)
    {'c': Home(module='a.b', name='c'), 'e': Home(module='a.b', name='d')}
    """
    return {
        one.asname or one.name: Home(line.module, one.name)
        for line in body
        if isinstance(line, ast.ImportFrom) and line.module is not None
        for one in line.names
    }
