"""What may stand after --model and as the target of a scene, as far as that shows in the text."""

from __future__ import annotations

import ast
import contextlib
import difflib
import os
import re
import sys
from importlib.machinery import ModuleSpec, PathFinder

from leakscope.cli.rows import Family
from leakscope.cli.text import contents, files, ranges, spelling
from leakscope.cli.text.index import row_named, rows
from leakscope.cli.text.installed import modelless
from leakscope.cli.text.own_factories import bound
from leakscope.cli.text.own_modules import finds, own_module
from leakscope.cli.text.signatures import signature
from leakscope.cli.text.sources import source
from leakscope.core.errors import BadInput, MissingExtra, UnknownName

SUFFIX = ".py"
IMPORTED = "Imported"
"""The target that names a module of anybody's."""
OWN = "leakscope"
PARTS = ("torch", "numpy", "scipy")
"""Libraries in which nothing that is called without arguments is a model: `torch.nn:Linear` asks for its sizes."""
EXTRAS = {"torchvision": "models", "timm": "models"}
"""What may stand before the colon besides a module: a package, and the extra that installs it."""


def model(text: str) -> None:
    """Raises `BadInput` on a text that names nothing: an expression, PACKAGE.MODULE:FACTORY, or LIBRARY:NAME.

    >>> model("LeNte()")
    Traceback (most recent call last):
    ...
    leakscope.core.errors.UnknownName: unknown target 'LeNte'; did you mean 'LeNet'? known: ConvNet, ...
    """
    prefix, name = split(text)
    file, named = (prefix or text.strip(), name if prefix else "NAME")
    if file.endswith(SUFFIX) and "(" not in file:
        raise BadInput(f"{text.strip()} is a file, expected a module; write {_module(file)}:{named}{_where(file)}")
    if not prefix:
        expression(text)
    elif prefix in EXTRAS:
        library(prefix, name)
    elif not all(part.isidentifier() for part in (*prefix.split("."), *name.split("."))):
        raise BadInput(
            f"expected package.module:factory, got {text.strip()!r}; for example mymodel:Net for ./mymodel.py"
        )


def split(text: str) -> tuple[str, str]:
    """What stands before and after the colon of a model that is not leakscope's own; of an expression, nothing before.

    >>> split("torchvision:resnet18"), split("Trained(LeNet(), 'c:/weights.pt')")
    (('torchvision', 'resnet18'), ('', "Trained(LeNet(), 'c:/weights.pt')"))
    """
    prefix, colon, name = text.strip().partition(":")
    return ("", text.strip()) if not colon or "(" in prefix else (prefix, name)


def expression(text: str) -> ast.expr:
    """The syntax tree of a target of the table. Raises `BadInput`, for an unknown name with the targets alone."""
    try:
        return spelling.expression(text, Family.TARGETS)
    except UnknownName as error:
        # A misspelled argument is another unknown name, and has its own list.
        own = error.kind == spelling.SINGULAR[Family.TARGETS]
        raise (UnknownName("target", error.got, [row.name for row in rows(Family.TARGETS)]) if own else error) from None
    except BadInput as error:
        raise BadInput(f"{error}; or {otherwise()}") from None


def is_own(text: str) -> bool:
    """Whether a model is leakscope's own, whose loss is known.

    >>> is_own("LeNet()"), is_own("mymodel:Net"), is_own("Imported('mymodel:Net')")
    (True, False, False)
    """
    prefix, name = split(text)
    return not prefix and not {IMPORTED, "Torchvision", "Timm"} & {
        one.id for one in ast.walk(ast.parse(name, mode="eval")) if isinstance(one, ast.Name)
    }


def otherwise() -> str:
    """What else a model can be than an expression."""
    return f"give PACKAGE.MODULE:FACTORY, or one of {', '.join(f'{prefix}:NAME' for prefix in EXTRAS)}"


def library(prefix: str, name: str) -> None:
    """Raises `BadInput` unless `name` can be a model of the library, with arguments after an @."""
    if not re.fullmatch(r"[\w.\-/]+(@[\w.\-/=,+]+)?", name):
        raise BadInput(f"expected {prefix}:NAME such as {prefix}:resnet18, got {f'{prefix}:{name}'!r}")


def _module(file: str) -> str:
    return file.removesuffix(SUFFIX).rpartition("/")[2]


def _where(file: str) -> str:
    return f", and start leakscope in the folder that holds {_module(file)}.py" if "/" in file else ""


def findable(text: str) -> None:
    """Raises where a package, a module or a file that a model is from is not there: `MissingExtra` for a library, else
    `BadInput`; also where a module of the user surely gives no model.

    Nothing is imported, so that what the text leaves open remains to be seen. Only where the model is to be built: a
    plan can be read, and shards merged, without it.
    """
    prefix, name = split(text)
    package = prefix.partition(".")[0]
    if not prefix:
        _inner(expression(text))
    elif prefix not in EXTRAS:
        _found(prefix, name, called=True)
    elif not finds(package):
        raise MissingExtra(
            f"--model {text} needs the package {prefix}, which is not installed: "
            f"pip install 'leakscope[{EXTRAS[prefix]}]'"
        )


def _found(module: str, name: str, *, called: bool) -> None:
    """Raises `BadInput` where there is no such module, or what it is to give is surely none. called: as it stands."""
    package = module.partition(".")[0]
    if package in sys.stdlib_module_names and PathFinder.find_spec(package, [os.getcwd()]) is None:
        raise BadInput(
            f"{package} is part of Python, which has no models; give a module of yours, such as mymodel:Net for "
            "./mymodel.py"
        )
    row = row_named(name) if package == OWN else None
    if row is not None and row.family is Family.TARGETS:
        raise BadInput(f"{module}:{name} is one of leakscope's own; write {row.example}")
    if package == OWN:
        _ours(module, name, called=called)
        return
    if called and package in PARTS and PathFinder.find_spec(package, [os.getcwd()]) is None:
        raise BadInput(
            f"{package} has parts of models, and none that is one; give a module of yours that puts them together, "
            "such as mymodel:Net for ./mymodel.py"
        )
    if not finds(package):
        raise BadInput(
            f"no module {package!r} in the current directory or among the installed packages; "
            f"start leakscope in the folder that holds {package}.py, or install the package"
        )
    if called and modelless(package):
        raise BadInput(
            f"{package} neither needs nor mentions torch, so it has no models; give a module of yours, such as "
            "mymodel:Net for ./mymodel.py"
        )
    # What is nested too deeply to be followed may still be imported.
    with contextlib.suppress(RecursionError):
        own_module(module, name, called=called)


def _ours(module: str, name: str, *, called: bool) -> None:
    """Raises `BadInput` where a module of leakscope has no such name, or its root has one that is no model."""
    first = name.partition(".")[0]
    if module == OWN:
        known = {*sys.modules[OWN].__all__, *(row.name for row in rows())}
        if first in known and called:
            raise BadInput(
                f"{module}:{name} is no model; write one of leakscope's own as an expression, such as "
                f"{spelling.example(Family.TARGETS)}"
            )
        there = first in known or first in vars(sys.modules[OWN])
    else:
        if _spec(module) is None:
            raise BadInput(f"no module {module!r} in leakscope; write its own models as expressions: LeNet()")
        body = source(module)
        # Below its root leakscope has no name that its text does not bind.
        known = {name for node in ast.walk(body) for name in bound(node) if name is not None}
        there = first in known
    if not there and _spec(f"{module}.{first}") is None:
        near = difflib.get_close_matches(first, sorted(known), n=1)
        row = row_named(near[0]) if near else None
        write = row.example if row is not None and row.family is Family.TARGETS else near[0] if near else ""
        hint = f"did you mean {write!r}?" if near else "its own models are listed by `leakscope list targets`"
        raise BadInput(f"{module} has no {first!r}; {hint}")


def _spec(module: str) -> ModuleSpec | None:
    """Where a module of leakscope is; None where there is none. `importlib` would run those around it, with torch."""
    inner, found = list(sys.modules[OWN].__path__), None
    parts = module.split(".")
    for place in range(1, len(parts)):
        found = PathFinder.find_spec(".".join(parts[: place + 1]), inner)
        if found is None:
            return None
        inner = list(found.submodule_search_locations or [])
    return found


def _inner(tree: ast.expr) -> None:
    """Raises `BadInput` where a module or a file of weights that an expression names is missing or no good."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            continue
        takes = signature(spelling.home(node.func.id, "name"))
        if takes is None:
            continue
        given = takes.bind(*node.args, **{str(one.arg): one.value for one in node.keywords}).arguments
        state, path = (ranges.value(given[name]) if name in given else None for name in ("state", "path"))
        if isinstance(state, str):
            files.state(state)
            contents.tensors(state)
        if node.func.id == IMPORTED and isinstance(path, str):
            module, _, name = path.partition(":")
            _found(module, name, called="arguments" not in given)
