"""Whether a plan may call what it names by import path: it is a file, perhaps of somebody else, and runs no code.

A person who gives --model has chosen what is called. A plan may name a class of models wherever it is from, since
building one runs what its author wrote for that; of functions, those of modules in the current directory alone:
`os:mkdir`, or `mymodel:os.mkdir`, are import paths too.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import sys
from collections.abc import Iterator, Mapping
from importlib.machinery import PathFinder
from pathlib import Path

from torch import nn

from leakscope.audit.plan import Plan
from leakscope.core.errors import BadInput
from leakscope.targets.recipes.imported import Imported


def permitted(plan: Plan, *, chosen: bool) -> Plan:
    """The plan itself. chosen: its targets are those of --model, and not of the file.

    Raises `BadInput` where the file names something to call that is no model and not of the current directory.
    """
    scenes = [(scene.source, scene.attacks, () if chosen else scene.architecture) for scene in plan.scenes]
    for one in _imports((scenes, plan.attacks, plan.mechanisms, plan.metrics)):
        permit(one)
    return plan


def _imports(value: object) -> Iterator[Imported]:
    """Every import path inside of a value, however deep."""
    if isinstance(value, Imported):
        yield value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = [getattr(value, one.name) for one in dataclasses.fields(value)]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        for one in value:
            yield from _imports(one)


def permit(one: Imported) -> None:
    """Raises `BadInput` unless the path names a model, its class, or a function of a module in the current directory.

    >>> permit(Imported("torch.nn:Linear"))
    >>> permit(Imported("torch:hub.load"))
    Traceback (most recent call last):
    leakscope.core.errors.BadInput: torch:hub.load is no model but a function of torch, which a plan may not call; \
name a class of models or a function of a module in the current directory, or choose it yourself: --model
    """
    module, _, name = one.path.partition(":")
    package = module.partition(".")[0]
    if any(part.startswith("__") for part in (*module.split("."), *name.split("."))):
        raise _refused(one, "an inner part of Python")
    # before it is imported, since some of these do things then
    if package in sys.stdlib_module_names and not _here(package):
        raise _refused(one, "a part of Python itself")
    found = one.find()
    if isinstance(found, nn.Module) or (isinstance(found, type) and issubclass(found, nn.Module)):
        return
    home = _home(found)
    if callable(found) and not _here(home):
        raise _refused(one, f"no model but {'a class' if isinstance(found, type) else 'a function'} of {home}")


def _home(found: object) -> str:
    """The package that the code of a function is in, whatever module it was named by."""
    while isinstance(found, functools.partial):
        found = found.func
    unwrapped = inspect.unwrap(found) if callable(found) else found
    module = getattr(unwrapped, "__module__", None) or type(unwrapped).__module__
    return str(module).partition(".")[0]


def _here(package: str) -> bool:
    """Whether it is a file or folder of the current directory, and not only of that name."""
    spec = PathFinder.find_spec(package, [os.getcwd()])
    if spec is None:
        return False
    loaded = getattr(sys.modules.get(package), "__file__", None)
    return loaded is None or spec.origin is None or Path(loaded).resolve() == Path(spec.origin).resolve()


def _refused(one: Imported, what: str) -> BadInput:
    return BadInput(
        f"{one.path} is {what}, which a plan may not call; name a class of models or a function of a module in the "
        "current directory, or choose it yourself: --model"
    )
