"""What a user's own module says of itself before it is run: that it is Python, can be imported, and has a name."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import os
import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from typing import final

from leakscope.cli.text import own_factories
from leakscope.core.errors import BadInput

OPAQUE = {
    "globals", "locals", "exec", "eval", "vars", "f_globals", "f_locals", "setattr", "__setattr__", "__getattr__",
    "__dict__",
}  # fmt: skip
"""Names with which a module can have names that its text does not show, or make something else of what it has."""

REPLACED = {"sys", "modules"}
"""Both of them: with `sys.modules` a module can put something else in its place."""

TRUSTED = {"torch", "torchvision", "timm", "numpy", *sys.stdlib_module_names}
"""Packages after whose import no others are found than before."""


@final
@dataclass(frozen=True)
class _Written:
    """A module of the user: its name, where it is, and what stands in it."""

    name: str
    spec: ModuleSpec
    tree: ast.Module

    @property
    def file(self) -> str:
        """The name of the file, as messages give it."""
        return Path(str(self.spec.origin)).name


def own_module(module: str, name: str, *, called: bool = True) -> None:
    """Raises `BadInput` where a module in the current directory is no Python, cannot be imported, or has no `name`.

    called: `name` will be called without arguments; then also where that gives no model, whatever else is so.
    Nothing is imported. What cannot be told from the text is left to the import: packages, names that come by a star
    or are made by a program, modules from elsewhere or loaded already.
    """
    found, sure = _found(module), True
    for one in found:
        sure = _importable(one, module, sure=sure)
    inner = next((one for one in found if one.name == module), None)
    if inner is None or inner.spec.submodule_search_locations is not None:
        return
    # A package around it is run before and after it, and may give it names.
    known, first = [_names(one.tree) for one in found], name.partition(".")[0]
    if any(names is None for names in known):
        return
    if not any(first in names for names in known if names is not None):
        bound = {one for node in ast.walk(inner.tree) for one in own_factories.bound(node) if one is not None}
        near = difflib.get_close_matches(first, sorted(bound), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else "check the name after the colon"
        raise BadInput(f"{module} has no {first!r}; {hint}")
    if called and first == name and not any(_reaches_out(one.tree) for one in found):
        own_factories.judge(inner.tree, name, f"{module}:{name}", inner.file)


def finds(package: str) -> bool:
    """Whether the import of a package will find it, the current directory first."""
    if package in sys.modules or package in sys.builtin_module_names:
        return True
    return PathFinder.find_spec(package, [os.getcwd()]) is not None or importlib.util.find_spec(package) is not None


def _found(module: str) -> list[_Written]:
    """The packages around a module below the current directory, from the outermost, and itself; parents are not run.

    As far as they are there and their source can be read. A folder without `__init__.py` runs nothing: it is left out.
    """
    current, parts = os.getcwd(), module.split(".")
    earlier = sys.path[: sys.path.index(current)] if current in sys.path else []
    if parts[0] in (*sys.modules, *sys.builtin_module_names) or PathFinder.find_spec(parts[0], earlier) is not None:
        return []  # the import gives something else
    found: list[_Written] = []
    where: list[str] | None = [current]
    for place in range(len(parts)):
        name = ".".join(parts[: place + 1])
        spec = PathFinder.find_spec(name, where)
        if spec is None:
            break
        if spec.origin is not None and isinstance(spec.loader, SourceFileLoader):
            found.append(_Written(name, spec, _parsed(name, spec.origin)))
        where = list(spec.submodule_search_locations or [])
    return found


def _parsed(module: str, file: str) -> ast.Module:
    try:
        return ast.parse(Path(file).read_bytes(), filename=Path(file).name)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadInput(f"{module} is no Python: {error}; mend the file {file}") from None


def _importable(one: _Written, module: str, *, sure: bool) -> bool:
    """Whether nothing is run in it that could change what later imports find. sure: nothing before it was.

    Raises `BadInput` where the import of `module` must fail: in what is always run, it raises, or a package is missing.
    """
    for line in one.tree.body:
        # A `raise` at the top ends the import in any case: if not here, then before it.
        if isinstance(line, ast.Raise):
            raise BadInput(f"importing {module} fails: {own_factories.raised(line)} (at {one.file}:{line.lineno})")
        sure = sure and _harmless(line, module)
    return sure


def _harmless(line: ast.stmt, module: str) -> bool:
    """Whether it is a docstring, or an import that changes nothing for others. Raises `BadInput` if it must fail."""
    if isinstance(line, ast.Expr):
        return isinstance(line.value, ast.Constant)
    if isinstance(line, ast.Import):
        named = [one.name for one in line.names]
    elif isinstance(line, ast.ImportFrom) and line.module is not None and not line.level:
        named = [line.module]
    else:
        return False
    for package in (one.partition(".")[0] for one in named):
        if not finds(package):
            raise BadInput(f"importing {module} needs {package}, which is not installed; install it")
        if not _trusted(package):
            return False
    return True


def _trusted(package: str) -> bool:
    """Whether it is one of those that change nothing for others; one of the user's own may be called so too."""
    return package in TRUSTED and PathFinder.find_spec(package, [os.getcwd()]) is None


def _names(tree: ast.Module) -> set[str] | None:
    """All names that stand anywhere in the text, also as a keyword or a string; None where it may have others."""
    found: set[str] = set()
    # Of every node, whatever it is for: a name too many costs an import, one too few would refuse a good model, and
    # Python has many ways to bind one (`case Net:`, `except Error as Net`, `add("Net")`, `update(Net=...)`).
    for node in ast.walk(tree):
        for _, value in ast.iter_fields(node):
            found |= {one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)}
        if isinstance(node, ast.Call):
            # Whoever is told what the module is called can reach into it.
            given = [*node.args, *(one.value for one in node.keywords)]
            if any(isinstance(one, ast.Name) and one.id == "__name__" for one in given):
                return None
    # `import a.b as c` and `from a.b import c`: one text with points
    found |= {part for one in found for part in one.split(".")}
    return None if found & OPAQUE or "*" in found or found >= REPLACED else found


def _reaches_out(tree: ast.Module) -> bool:
    """Whether it imports more than is trusted, or may change something that is not its own.

    Either may make of `torch.nn.Module`, or of a class of this module, what the text of the class does not show.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            return True
        if isinstance(node, ast.Import | ast.ImportFrom):
            named = [one.name for one in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            if not all(_trusted(one.partition(".")[0]) for one in named):
                return True
        elif isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            of_itself = isinstance(node.value, ast.Name) and node.value.id == "self"
            if not of_itself or node.attr.startswith("__"):
                return True
    return False
