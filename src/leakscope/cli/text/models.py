"""What may stand after --model and as the target of a scene, as far as that shows in the text."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import sys
from importlib.machinery import PathFinder

from leakscope.cli.rows import Family
from leakscope.cli.text import spelling
from leakscope.cli.text.index import rows
from leakscope.cli.text.own_modules import own_module
from leakscope.core.errors import BadInput, MissingExtra, UnknownName

SUFFIX = ".py"
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
    """Raises where the package that a model is from is not there: `MissingExtra` for a library, else `BadInput`.

    Nothing is imported, so that the names in the package remain to be seen. Only where the model is to be built: a
    plan can be read, and shards merged, without it.
    """
    prefix, name = split(text)
    package = prefix.partition(".")[0]
    if not prefix:
        return
    if package in sys.stdlib_module_names and PathFinder.find_spec(package, [os.getcwd()]) is None:
        raise BadInput(
            f"{package} is part of Python, which has no models; give a module of yours, such as mymodel:Net for "
            "./mymodel.py"
        )
    if package in sys.modules or package in sys.builtin_module_names or _finds(package):
        if prefix not in EXTRAS:
            own_module(prefix, name)
        return
    if prefix in EXTRAS:
        raise MissingExtra(
            f"--model {text} needs the package {prefix}, which is not installed: "
            f"pip install 'leakscope[{EXTRAS[prefix]}]'"
        )
    raise BadInput(
        f"no module {package!r} in the current directory or among the installed packages; "
        f"start leakscope in the folder that holds {package}.py, or install the package"
    )


def _finds(package: str) -> bool:
    """As the import will look: the current directory first."""
    return PathFinder.find_spec(package, [os.getcwd()]) is not None or importlib.util.find_spec(package) is not None
