"""How a command ends: in one line where it is the user's turn, and never with the code of a leak by accident."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

import typer

from leakscope.cli.exits import Exit
from leakscope.core.errors import LeakscopeError


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
    except KeyboardInterrupt:
        print("leakscope: stopped", file=sys.stderr)
        raise typer.Exit(Exit.INCOMPLETE) from None
    except BrokenPipeError:
        # Whoever read our output is gone; the interpreter's last flush must not fail in turn.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(Exit.INCOMPLETE) from None
