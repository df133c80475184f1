"""What the shell is told."""

from __future__ import annotations

import enum
from typing import final

from leakscope.ledger.record import Summary, Word


@final
class Exit(enum.IntEnum):
    """Exit codes, as in the help."""

    NO_LEAK_FOUND = 0
    LEAK = 1
    USAGE = 2
    INCOMPLETE = 3


WORDS = {
    Word.NO_LEAK_FOUND: Exit.NO_LEAK_FOUND,
    Word.LEAKS: Exit.LEAK,
    Word.INCONCLUSIVE: Exit.INCOMPLETE,
}

LEGEND = "Exit codes: 0 no leak found, 1 leak, 2 usage, 3 inconclusive or incomplete."


def code(summary: Summary) -> Exit:
    """The code for an audit that ran to its end."""
    return WORDS[summary.word]
