"""What a user's own module says of itself before it is run: that it is Python, and which names it has."""

from __future__ import annotations

import ast
import difflib
import os
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path

from leakscope.core.errors import BadInput

OPAQUE = {"globals", "locals", "exec", "eval", "vars", "setattr", "__getattr__", "__dict__"}
"""Names with which a module can have names that its text does not show."""


def own_module(module: str, name: str) -> None:
    """Raises `BadInput` where a module in the current directory is no Python, or has no `name` in its text.

    Nothing is imported. What cannot be told from the text is left to the import: packages, names that come by a star
    or are made by a program, modules from elsewhere.
    """
    found = _spec(module)
    if found is None or found.origin is None or not isinstance(found.loader, SourceFileLoader):
        return
    try:
        tree = ast.parse(Path(found.origin).read_bytes(), filename=Path(found.origin).name)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadInput(f"{module} is no Python: {error}; mend the file {found.origin}") from None
    known, first = _names(tree), name.partition(".")[0]
    if known is None or found.submodule_search_locations is not None or first in known:
        return
    near = difflib.get_close_matches(first, sorted(known), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "check the name after the colon"
    raise BadInput(f"{module} has no {first!r}; {hint}")


def _spec(module: str) -> ModuleSpec | None:
    """Where a module below the current directory is, as the import would look for it; parents are not imported."""
    where: list[str] | None = [os.getcwd()]
    found: ModuleSpec | None = None
    parts = module.split(".")
    for place in range(len(parts)):
        found = PathFinder.find_spec(".".join(parts[: place + 1]), where)
        if found is None:
            return None
        where = list(found.submodule_search_locations or [])
    return found


def _names(tree: ast.Module) -> set[str] | None:
    """All names that the module binds somewhere; None where its text does not show them all."""
    found: set[str] = set()
    # Anywhere, not at the top alone: a name too many costs an import, one too few would refuse a good model.
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            found |= {(one.asname or one.name).partition(".")[0] for one in node.names}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
    return None if found & OPAQUE or "*" in found else found
