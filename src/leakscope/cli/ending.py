"""How a command ends: with which code, in one line where it is the user's turn, and never as a leak by accident."""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, final

import typer

from leakscope.core import file_limits
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


NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
"""What torch says where memory ends."""

SMALLER = "give fewer examples at once, a smaller model, or a larger machine"

LEGEND = "Exit codes: 0 no leak found, 1 leak, 2 usage, 3 inconclusive or incomplete."


LONGEST = 1500
"""Letters of a sentence: lists of names that are known fit, names of thousands of letters do not."""

CUT = " ... "


def one_line(text: str) -> str:
    """A sentence that quotes what strangers wrote: on one line, without what moves a terminal, and of some length.

    >>> one_line("no 'a\\x1b[2J\\nb'")
    "no 'a\\\\x1b[2J b'"
    >>> len(one_line("x" * 10**6)) <= LONGEST
    True
    """
    line = " ".join(text.splitlines())
    if not line.isprintable():
        line = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in line)
    if len(line) <= LONGEST:
        return line
    # what to do stands at the end
    half = (LONGEST - len(CUT)) // 2
    return f"{line[:half]}{CUT}{line[-half:]}"


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
        print(f"leakscope: {one_line(str(error))}", file=sys.stderr)
        raise typer.Exit(Exit.USAGE) from None
    except KeyboardInterrupt:
        print("leakscope: stopped", file=sys.stderr)
        raise typer.Exit(Exit.INCOMPLETE) from None
    except BrokenPipeError:
        # Whoever read our output is gone; the interpreter's last flush must not fail in turn.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(Exit.INCOMPLETE) from None
    except OSError as error:
        said, ended = _of_system(error)
        print(f"leakscope: {one_line(said)}", file=sys.stderr)
        raise typer.Exit(ended) from None
    except (MemoryError, RuntimeError) as error:
        # torch has no error of its own for memory; every other RuntimeError is a bug and keeps its traceback
        if not (isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY)):
            raise
        print(f"leakscope: the memory of this machine does not suffice; {SMALLER}", file=sys.stderr)
        raise typer.Exit(Exit.INCOMPLETE) from None


def _of_system(error: OSError) -> tuple[str, Exit]:
    """What the operating system refused, in a sentence, and the code to end with."""
    place = f"{file_limits.shortened(error.filename)}: " if error.filename is not None else ""
    why = error.strerror or str(error) or type(error).__name__
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{place}{why}; what is written is whole: make room, then go on", Exit.INCOMPLETE
    if error.errno in (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        return f"{place}{why}; what is written is whole: try again", Exit.INCOMPLETE
    # Where to read and write is the user's choice: a read-only place, a name that is too long, a file for a folder.
    return f"{place}{why}; choose another place", Exit.USAGE
