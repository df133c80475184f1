"""What a look at a model or an update says: how much it matters, what was seen, what to do."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final


@final
class Severity(enum.Enum):
    """How much a finding matters."""

    ERROR = "error"
    """It cannot be audited as it is."""
    WARNING = "warning"
    """The audit runs, but some attacks do not apply, take long, or mean something else."""
    NOTE = "note"
    """Good to know."""


@final
@dataclass(frozen=True)
class Finding:
    """One thing about a target: what was seen (`sentence`), and what to do (`remedy`)."""

    level: Severity
    about: str
    sentence: str
    remedy: str


def some(names: Sequence[str]) -> str:
    """The first three names, quoted, and how many more there are.

    >>> some(["a", "b", "c", "d"])
    "'a', 'b', 'c' and 1 more"
    """
    shown = ", ".join(repr(name) for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
