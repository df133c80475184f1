"""Whether a plan may call what it names by import path: it is a file, perhaps of somebody else, and runs no code.

A person who gives --model has chosen what is called. A plan may name classes of models of the libraries of models, and
what the modules in the current directory define: `os:mkdir`, or `mymodel:os.mkdir`, are import paths too. An installed
class is refused as well, since there are some that load code or weights from wherever their arguments say.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from torch import nn

import leakscope
from leakscope.audit.plan import Plan
from leakscope.core.errors import BadInput
from leakscope.targets.recipes.imported import Imported, current_first

LIBRARIES = ("torch.nn", "torchvision.models", "timm.models")
"""What a plan may name the models of, wherever they are installed: their classes compute, and load nothing."""
ROOTS = ("torch", "torchvision", "timm")
"""What may be imported for them."""


def permitted(plan: Plan, *, chosen: bool) -> Plan:
    """The plan itself. chosen: its targets are those of --model, and not of the file.

    Raises `BadInput` where the file names something to call that is no model and not of the current directory.
    """
    scenes = [(scene.source, scene.attacks, () if chosen else scene.architecture) for scene in plan.scenes]
    for one in _imports((scenes, plan.attacks, plan.mechanisms, plan.metrics)):
        permit(one)
    # Whoever chooses a model may take any package's, but nothing of torch is one that is no class: `torch:save` writes.
    for one in _imports([scene.architecture for scene in plan.scenes] if chosen else ()):
        if one.path.startswith(("torch.", "torch:")):
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
    """Raises `BadInput` unless the path names a class of models, or something of a module in the current directory.

    Asked twice: before the import, which runs what a module does then, and of what was found, since a module also has
    the names that it imported itself.

    >>> permit(Imported("torch.nn:Linear"))
    >>> permit(Imported("torch:hub.load"))
    Traceback (most recent call last):
    leakscope.core.errors.BadInput: torch:hub.load is no model but a function of torch.hub, which a plan may not call; \
name a class of torch.nn or a function of a module in the current directory, or choose it yourself: --model
    """
    module, _, name = one.path.partition(":")
    if any(part.startswith("__") for part in (*module.split("."), *name.split("."))):
        raise _refused(one, "an inner part of Python")
    if module not in ROOTS and not _of_models(module) and not all(map(_harmless, _found(module))):
        package = module.partition(".")[0]
        itself = package in sys.stdlib_module_names
        raise _refused(one, "a part of Python itself" if itself else f"of the installed package {package}")
    found = one.find()
    own = here(module)
    if own and any(isinstance(step, ModuleType) and not here(step.__name__) for step in _steps(module, name)):
        own = False
    if isinstance(found, nn.Module) and own:
        return  # it is not called, and the module that made it is the user's
    made = _unwrapped(type(found) if isinstance(found, nn.Module) else found)
    home = str(getattr(made, "__module__", None) or type(made).__module__)
    if here(home):
        return
    if isinstance(made, type) and issubclass(made, nn.Module):
        if not _of_models(home):
            raise _refused(one, f"a model of {home}")
    elif callable(made):
        raise _refused(one, f"no model but {'a class' if isinstance(made, type) else 'a function'} of {home}")


def _of_models(module: str) -> bool:
    return any(module == one or module.startswith(f"{one}.") for one in LIBRARIES)


def _unwrapped(found: object) -> object:
    """The function itself, whatever was put around it."""
    while isinstance(found, functools.partial):
        found = found.func
    return inspect.unwrap(found) if callable(found) else found


def _steps(module: str, name: str) -> Iterator[object]:
    """What the names after the colon lead through, the last one without."""
    found: object = sys.modules[module]
    for part in name.split(".")[:-1]:
        found = getattr(found, part)
        yield found


def here(module: str) -> bool:
    """Whether the import of this name gives, or gave, a file of the user below the current directory.

    A folder alone is no module of theirs: Python takes an installed package before a folder without `__init__.py`, so
    that beside a folder `test` with data the name `test` is Python's own.

    >>> here("os"), here("torch.nn")
    (False, False)
    """
    found = _found(module)
    return len(found) == module.count(".") + 1 and found[-1] is not None and _is_own(found[-1])


def _found(module: str) -> list[ModuleSpec | None]:
    """Where the import looks for the packages around a module, from the outermost, and for itself; None if nowhere.

    As far as they are harmless. None is imported, as `importlib.util.find_spec` would do with the packages around.
    """
    current_first()
    found: list[ModuleSpec | None] = []
    parts, where = module.split("."), None
    for place in range(len(parts)):
        one = _spec(".".join(parts[: place + 1]), where)
        found.append(one)
        if one is None or not _harmless(one):
            break
        where = list(one.submodule_search_locations or [])
    return found


def _harmless(spec: ModuleSpec | None) -> bool:
    """Whether its import runs a file of the user, or none: where nothing is, that is for the import to say."""
    return spec is None or (spec.origin is None and spec.submodule_search_locations is not None) or _is_own(spec)


def _spec(name: str, where: list[str] | None) -> ModuleSpec | None:
    if name in sys.modules:  # as it was found then, which is what an import gives
        loaded = sys.modules[name]
        spec = ModuleSpec(name, None, origin=getattr(loaded, "__file__", None), is_package=hasattr(loaded, "__path__"))
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations += list(loaded.__path__)
        if spec.origin is None and spec.submodule_search_locations is None:
            spec.origin = "built-in"
        return spec
    found = (finder.find_spec(name, where) for finder in sys.meta_path)
    return next((one for one in found if one is not None), None)


def _is_own(spec: ModuleSpec) -> bool:
    """Whether it is a file below the current directory that nobody installed there."""
    file, current = Path(spec.origin or "").resolve(), Path.cwd().resolve()
    if not spec.origin or not file.is_file() or not file.is_relative_to(current):
        return False
    installed = [sysconfig.get_path(one) for one in ("stdlib", "platstdlib", "purelib", "platlib")]
    if any(file.is_relative_to(Path(one).resolve()) for one in (*installed, *leakscope.__path__)):
        return False
    if {"site-packages", "dist-packages"} & set(file.parts):
        return False
    # of a virtual environment, or of a folder that `pip install --target` filled
    around = [one for one in file.parents if one.is_relative_to(current)]
    return not any((one / "pyvenv.cfg").exists() or any(one.glob("*.dist-info")) for one in around)


def _refused(one: Imported, what: str) -> BadInput:
    return BadInput(
        f"{one.path} is {what}, which a plan may not call; name a class of torch.nn or a function of a module in the "
        "current directory, or choose it yourself: --model"
    )
