"""What an attack was seen to do beside what the event allows: whether both can be true."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from leakscope.bounds.trade_off import Question
from leakscope.bounds.upper import largest_power
from leakscope.core.arguments import count, number
from leakscope.numerics.intervals import clopper_pearson

if TYPE_CHECKING:
    from dp_accounting import DpEvent


@final
@dataclass(frozen=True)
class Comparison:
    """A confidence limit of what was observed, and the bound at it.

    tpr: the least true positive rate that the counts allow. fpr: the largest false positive rate. allowed: the largest
    true positive rate of any test at `fpr`. All in [0, 1].
    """

    tpr: float
    fpr: float
    allowed: float

    @property
    def broken(self) -> bool:
        """More was found than any test finds: the release holds more than its event declares."""
        return self.tpr > self.allowed


def compared(
    event: DpEvent,
    found: tuple[int, int],
    alarms: tuple[int, int],
    *,
    replaced: bool = False,
    question: Question = Question.EITHER,
    thresholds: int = 1,
    level: float = 0.999,
) -> Comparison:
    """TPR <= 1 - f(FPR) at the limits of both rates (Clopper and Pearson).

    A true promise is called broken with at most the probability 1 - level.

    found: (true positives, trials with the contribution). alarms: (false positives, trials without it, or with another
    in its place if `replaced`), all trials independent. thresholds: among how many fixed ones this one was chosen after
    looking (Bonferroni); chosen on other trials it is 1. f falls, so that the largest FPR allows the most.
    Raises `BadInput` on impossible counts or levels, and as `largest_power`.

    >>> from dp_accounting import GaussianDpEvent
    >>> compared(GaussianDpEvent(1.0), (30, 1000), (10, 1000)).broken
    False
    >>> compared(GaussianDpEvent(1.0), (300, 1000), (10, 1000)).broken
    True
    """
    wrong = (1 - number("level", level, low=0.5, high=1, low_open=True, high_open=True)) / count(
        "thresholds", thresholds
    )
    # An interval of level 1 - a errs with a / 2 on either side, which is the half that each of the two limits gets.
    least = clopper_pearson(*_counted("found", found), level=1 - wrong).low
    most = clopper_pearson(*_counted("alarms", alarms), level=1 - wrong).high
    # At the upper limit of the FPR and not at the share that was seen: with more false alarms more power is allowed,
    # so a promise is called broken only where no FPR that fits the trials would excuse the TPR.
    return Comparison(least, most, largest_power(event, fpr=most, replaced=replaced, question=question))


def _counted(name: str, counted: tuple[int, int]) -> tuple[int, int]:
    part, whole = counted
    whole = count(f"{name}, of", whole)
    return count(name, part, low=0, high=whole), whole
