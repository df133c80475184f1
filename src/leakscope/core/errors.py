"""Everything that leakscope raises on purpose.

    LeakscopeError
    ├── BadInput            a value, file or shape that cannot be used
    │   ├── UnknownName     a name that is in no table; carries the nearest known one
    │   ├── BadPlan         a plan file that cannot be run as written
    │   ├── BadState        a checkpoint that does not hold what a search needs to go on
    │   └── UnusableMechanism  a mechanism whose own code fails, or returns what is no release
    ├── NotTold             the adversary asked for a fact that it was not told
    ├── NoSuchLayer         the model lacks the layer that an attack or defense reads
    ├── MissingExtra        an optional package is absent; carries the line that installs it
    ├── DamagedRecord       a file in the ledger that is not what was written
    └── LostLease           this process was stopped for so long that another one writes in its place

Each message says what it got, what it wanted and what to do. Numerical failure of an attack is not an
exception but an `Outcome` of its `Attempt`: it belongs to the result.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterable
from types import ModuleType
from typing import final


class LeakscopeError(Exception):
    """The root: `except LeakscopeError` catches whatever leakscope raises on purpose."""


class BadInput(LeakscopeError, ValueError):
    """A value, file or shape that cannot be used."""


@final
class UnknownName(BadInput):
    """A name that is in no table.

    >>> str(UnknownName("attack", "idgl", ["dlg", "idlg"]))
    "unknown attack 'idgl'; did you mean 'idlg'? known: dlg, idlg"
    """

    def __init__(self, kind: str, got: str, known: Iterable[str]) -> None:
        self.kind, self.got, self.known = kind, got, sorted(known)
        near = difflib.get_close_matches(got, self.known, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ";"
        super().__init__(f"unknown {kind} {got!r}{hint} known: {', '.join(self.known) or 'none, as there are none'}")

    def __reduce__(self) -> tuple[type[UnknownName], tuple[str, str, list[str]]]:
        return UnknownName, (self.kind, self.got, self.known)


@final
class BadPlan(BadInput):
    """A plan file that cannot be run as written."""


@final
class BadState(BadInput):
    """A checkpoint that does not hold what a search needs to go on; the file is to be deleted, or another one given."""


@final
class UnusableMechanism(BadInput):
    """A mechanism whose own code raises, or returns something else than it should: no attack can go on with it."""


@final
class NotTold(LeakscopeError):
    """The adversary asked for a fact that it was not told.

    >>> str(NotTold("Labels", ["BatchSize"]))
    'the adversary was not told Labels; told: BatchSize'
    """

    def __init__(self, wanted: str, told: Iterable[str]) -> None:
        self.wanted, self.told = wanted, sorted(told)
        super().__init__(f"the adversary was not told {wanted}; told: {', '.join(self.told) or 'nothing'}")

    def __reduce__(self) -> tuple[type[NotTold], tuple[str, list[str]]]:
        return NotTold, (self.wanted, self.told)


@final
class NoSuchLayer(LeakscopeError):
    """The model lacks the layer that an attack or a defense reads."""


@final
class MissingExtra(LeakscopeError, ImportError):
    """An optional package is absent; the message carries the line that installs it."""


@final
class DamagedRecord(LeakscopeError):
    """A file in the ledger that is not what was written."""


@final
class LostLease(LeakscopeError):
    """This process was stopped for so long that another one writes in its place; it must not write any more."""


_COLORS = re.compile(r"\x1b\[[0-9;]*m")


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of its text, without the colors that some libraries put in.

    >>> first_line(ValueError("one\\ntwo"))
    'ValueError: one'
    """
    return f"{type(error).__name__}: {_COLORS.sub('', (str(error).splitlines() or [''])[0])}"


def optional(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional module or say how to install it.

    Raises `MissingExtra` when the module is absent. The name is a constant of the calling code, never user input.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        raise MissingExtra(
            f"{purpose} needs the package {module.split('.')[0]}, which is not installed: "
            f"pip install 'leakscope[{extra}]'"
        ) from error
