"""What an attack that raised becomes: a sentence in place of a claim, so that what others found is not lost."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any, final

from leakscope.core.attempt import Attempt, Outcome
from leakscope.core.effort import Clock, Progress, Watch
from leakscope.core.errors import first_line
from leakscope.targets.looking.probe import FORWARD_ERRORS

FAILURES = (*FORWARD_ERRORS, ArithmeticError, MemoryError)
"""What attacks raise on models and updates that nobody thought of. Of torch's own errors all are among them."""

OF_NUMBERS = (RuntimeError, ValueError, ArithmeticError, MemoryError)
"""What torch and numpy raise on shapes, types, sizes and values that do not go together."""


def failed(attack: object, error: BaseException) -> Attempt[Any]:
    """An attempt that claims nothing and says what was raised.

    >>> from leakscope import LabelCounts
    >>> failed(LabelCounts(), RuntimeError("shapes differ")).sentence
    'failed with RuntimeError: shapes differ; nothing is known of this attack here, the others are not affected'
    """
    # DIVERGED and not REFUSED: a refusal says that the attack does not apply, and nobody knows that here.
    said = f"failed with {first_line(error)}; nothing is known of this attack here, the others are not affected"
    return Attempt(repr(attack), Outcome.DIVERGED, said)


@final
@dataclass(frozen=True)
class Heard:
    """The caller's watch. What it raises is the caller's, and is told apart by this frame."""

    watch: Watch

    def __call__(self, progress: Progress) -> None:
        """As the watch."""
        self.watch(progress)


CALLERS = (Heard.__call__.__code__, Clock.keep.__code__, Clock.saved.__code__)
"""Where an attack calls back, its caller's watch and checkpoint: a full disk there is nothing of the observation."""


def is_theirs(error: BaseException, attack: str = "leakscope") -> bool:
    """Whether an error is of the observation, of somebody else's model, loss, domain or mechanism.

    attack: the module of the attack's class; what ends in an attack of somebody's own is a bug for its author to see.
    It is none of the caller's, whose watch and checkpoint an attack calls back, and no bug of ours. It is theirs where
    numbers and shapes do not go together, and where the innermost Python code is not of leakscope: that is a
    stranger's, or torch's that was called by it. What is left, such as a misspelled attribute in an attack, is ours.

    >>> is_theirs(RuntimeError("shapes differ")), is_theirs(OSError("no space left"))
    (True, False)
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if isinstance(error, OSError) or any(frame.f_code in CALLERS for frame in frames):
        return False
    # By the module's name: a file may lie anywhere, and a stranger's forward may have been compiled from a text.
    module, ours = str(frames[-1].f_globals.get("__name__", "")) if frames else "", __name__.partition(".")[0]
    if module == attack and attack.partition(".")[0] != ours and not isinstance(error, MemoryError):
        return False
    return isinstance(error, OF_NUMBERS) or module.partition(".")[0] != ours
