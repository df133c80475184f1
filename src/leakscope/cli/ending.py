"""How a command ends: with which code, in one line where it is the user's turn, and never as a leak by accident."""

from __future__ import annotations

import contextlib
import enum
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, final

import typer

from leakscope.core.errors import LeakscopeError

if TYPE_CHECKING:
    from leakscope.ledger.record import Word


@final
class Exit(enum.IntEnum):
    """Exit codes, as in the help."""

    NO_LEAK_FOUND = 0
    LEAK = 1
    USAGE = 2
    INCOMPLETE = 3


LEGEND = "Exit codes: 0 no leak found, 1 leak, 2 usage, 3 inconclusive or incomplete."


def code(word: Word) -> Exit:
    """The code for an audit, or a comparison, that ran to its end."""
    from leakscope.ledger.record import Word  # here, since help and usage errors need no pydantic

    return {
        Word.NO_LEAK_FOUND: Exit.NO_LEAK_FOUND,
        Word.LEAKS: Exit.LEAK,
        Word.INCONCLUSIVE: Exit.INCOMPLETE,
    }[word]


@contextlib.contextmanager
def orderly() -> Iterator[None]:
    """What leakscope raises on purpose is one line without a traceback; no failure has the exit code of a leak.

    Inside the commands, since Typer would turn Ctrl-C and a closed pipe into codes of its own.
    """
    try:
        yield
    except LeakscopeError as error:
        print(f"leakscope: {error}", file=sys.stderr)
        raise typer.Exit(Exit.USAGE) from None
    except (PermissionError, IsADirectoryError, NotADirectoryError) as error:
        # Where to read and write is the user's choice. That a disk is full is not, and keeps its traceback.
        print(f"leakscope: {error.filename}: {error.strerror}; choose another place", file=sys.stderr)
        raise typer.Exit(Exit.USAGE) from None
    except KeyboardInterrupt:
        print("leakscope: stopped", file=sys.stderr)
        raise typer.Exit(Exit.INCOMPLETE) from None
    except BrokenPipeError:
        # Whoever read our output is gone; the interpreter's last flush must not fail in turn.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(Exit.INCOMPLETE) from None
