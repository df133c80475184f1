"""What `leakscope bound` is asked for: numbers of a training with noise, and what the noise is to promise."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import final

from leakscope.cli.text import files
from leakscope.core.arguments import count, number
from leakscope.core.errors import BadInput, UnknownName

FIGURES = (".png", ".pdf", ".svg")
"""Suffixes of a figure."""

MOST_STEPS = 10**6
"""Of sampled examples: 15 seconds; ten times as many take minutes."""

WRITE = "write tpr=0.1@0.01 (a TPR at an FPR), advantage=0.2 or epsilon=8@1e-5 (at a delta)"


@final
class Goal(enum.StrEnum):
    """What is to be made small."""

    TPR = "tpr"
    ADVANTAGE = "advantage"
    EPSILON = "epsilon"


@final
@dataclass(frozen=True)
class Promise:
    """What the noise is to be enough for. at: the FPR of a TPR, the delta of an epsilon; None of an advantage.

    >>> Promise.read("tpr=0.1@0.01")
    Promise(goal=<Goal.TPR: 'tpr'>, most=0.1, at=0.01)
    """

    goal: Goal
    most: float
    at: float | None

    @staticmethod
    def read(text: str) -> Promise:
        """Raises `BadInput` for whatever no noise can promise."""
        name, equals, rest = text.partition("=")
        known = [goal.value for goal in Goal]
        if name not in known:
            raise UnknownName("promise", name, known)
        goal, (value, at, place) = Goal(name), rest.partition("@")
        if not equals or bool(at) is (goal is Goal.ADVANTAGE):
            raise BadInput(f"cannot read the promise {text!r}; {WRITE}")
        most = _read(text, value)
        if goal is Goal.ADVANTAGE:
            return Promise(goal, number(name, most, low=0, high=1, low_open=True, high_open=True), None)
        where = _read(text, place)
        if goal is Goal.TPR:
            number("fpr", where, low=0, high=1, high_open=True)
            # At TPR = FPR a test knows nothing, for which no noise is enough.
            return Promise(goal, number(name, most, low=where, high=1, low_open=True, high_open=True), where)
        number("delta", where, low=0, high=1, low_open=True, high_open=True)
        return Promise(goal, number(name, most, low=0, low_open=True), where)


def _read(text: str, part: str) -> float:
    try:
        return float(part)
    except ValueError:
        raise BadInput(f"cannot read the promise {text!r}; {WRITE}") from None


@final
@dataclass(frozen=True)
class Asked:
    """A training with noise: the multiplier, or the promise from which it follows; rate, steps, where it is looked at.

    sigma: None where `promise` is given. deltas, rates: of the epsilons and of the false alarms that are printed.
    """

    sigma: float | None
    rate: float
    steps: int
    deltas: tuple[float, ...]
    rates: tuple[float, ...]
    promise: Promise | None
    figure: Path | None
    as_json: bool

    def check(self) -> None:
        """Raises `BadInput` for numbers out of range, and unless there is one of multiplier and promise."""
        if (self.sigma is None) is (self.promise is None):
            raise BadInput("give --sigma, the noise multiplier, or --calibrate, what it is to promise; one of them")
        if self.sigma is not None:
            number("sigma", self.sigma, low=0, low_open=True)
        number("sampling-rate", self.rate, low=0, high=1, low_open=True)
        count("steps", self.steps)
        # Noise on everything adds up in closed form; of samples the losses are convolved, on a grid that grows.
        if self.rate < 1 and self.steps > MOST_STEPS:
            raise BadInput(
                f"expected --steps <= {MOST_STEPS} where examples are sampled, got {self.steps}: their losses are "
                "convolved on a grid that grows with the steps, for minutes and hours; give the steps of one training, "
                "or take leakscope.bounds.heuristics.limit_power, the limit of many small steps"
            )
        for delta in self.deltas:
            number("delta", delta, low=0, high=1, low_open=True, high_open=True)
        for rate in self.rates:
            number("fpr", rate, low=0, high=1)
        files.written(self.figure, "--figure", FIGURES)
