"""Whether an installed package can give a model: one that neither needs, imports nor mentions torch gives none.

Nothing is imported. A wrong refusal is worse than a wait: nothing is said of a package that was installed from a
folder, of one that no distribution names, and where a file cannot be read or there is too much to read.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import PathFinder
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path

MENTIONS = re.compile(rb"torch|[\"'](?:timm|transformers|diffusers|keras|lpips|opacus)")
"""What is in the text of whoever makes a model, also where it is imported by its name as a text."""

IMPORTS = re.compile(rb"^[ \t]*(?:from|import)[ \t]+([A-Za-z_]\w*)", re.MULTILINE)
REQUIRED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
TORCH = "torch"

MOST = 16 * 2**20
"""Bytes that are read: a tenth of a second."""

CODE = (".py", ".so", ".pyd")


def modelless(package: str) -> bool:
    """Whether nothing in an installed package, called without arguments, can be a `torch.nn.Module`.

    >>> modelless("no_such_package"), modelless("torch")
    (False, False)
    """
    found = PathFinder.find_spec(package)
    if found is None or found.origin is None or PathFinder.find_spec(package, [os.getcwd()]) is not None:
        return False
    every = _needed(package)
    if every is None or TORCH in every or every[package].read_text("direct_url.json") is not None:
        return False
    own = Path(found.origin).resolve()
    if own not in {Path(str(every[package].locate_file(one))).resolve() for one in every[package].files or ()}:
        return False  # what is found is not what was installed under this name
    imported: set[str] = set()
    left = MOST
    for one in _code(every.values()):
        left -= 0 if one is None else one.stat().st_size
        if one is None or left < 0:
            return False
        text = one.read_bytes()
        if MENTIONS.search(text):
            return False
        imported |= {name.decode() for name in IMPORTS.findall(text)} if one.suffix == ".py" else set()
    return all(_torchless(name) for name in imported - every.keys() - set(sys.stdlib_module_names))


def _torchless(name: str) -> bool:
    """Whether an import that no distribution declares fails, or surely brings no torch."""
    if PathFinder.find_spec(name) is None:
        return True
    every = _needed(name)
    return every is not None and TORCH not in every


def _needed(package: str) -> dict[str, Distribution] | None:
    """A distribution with all that it declares to need, by their names as modules; None where it is not found.

    Whatever is needed and not there cannot be imported.
    """
    found: dict[str, Distribution] = {}
    asked = [package]
    while asked:
        name = asked.pop()
        if name in found:
            continue
        one = _distribution(name)
        if one is None:
            if name == package:
                return None
            continue
        found[name] = one
        for line in one.requires or ():
            said, needs = REQUIRED.match(line), "extra ==" not in line
            asked += [re.sub(r"[-.]+", "_", said[0]).lower()] if said and needs else []
    return found


def _distribution(name: str) -> Distribution | None:
    """The distribution of this name, or the one that brings a package of this name, as far as it says so."""
    try:
        return importlib.metadata.distribution(name)
    except PackageNotFoundError:
        return _by_package().get(name)


@functools.cache
def _by_package() -> dict[str, Distribution]:
    found = ((one, (one.read_text("top_level.txt") or "").split()) for one in importlib.metadata.distributions())
    return {name: one for one, names in found for name in names}


def _code(distributions: Iterable[Distribution]) -> Iterator[Path | None]:
    """The files of distributions that can be run; None where that is not known."""
    for one in distributions:
        if one.files is None:
            yield None
            return
        for file in one.files:
            if file.suffix in CODE:
                path = Path(str(one.locate_file(file)))
                yield path if path.is_file() else None
