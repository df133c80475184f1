"""How much noise a promise needs: the least multiplier whose bound is met, by false position with bisection."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from leakscope.bounds import accounting
from leakscope.bounds.upper import largest_advantage, largest_power
from leakscope.core.arguments import number
from leakscope.core.errors import BadInput

if TYPE_CHECKING:
    from dp_accounting import DpEvent

LEAST, MOST = 1e-2, 1e6
"""Multipliers of noise between which is searched: below, nothing is hidden; above, nothing is left."""
WIDTH = 1e-4
"""The search ends where its ends are so near to each other, relative to them."""
DIGITS = 4
"""Significant digits of an answer, rounded up."""

EventOf = Callable[[float], "DpEvent"]
"""A noise multiplier to the event of the whole training with it."""


def noise_for_power(event_of: EventOf, *, tpr: float, fpr: float) -> float:
    """The least s for which no test finds more than a share `tpr` at the false positive rate `fpr` (`largest_power`).

    As the others here: rounded up to four digits, at most two thousandths above the least, and not below 0.01.
    event_of: more noise has to mean less risk. tpr: in (fpr, 1), since at tpr = fpr no noise is enough. fpr: in [0, 1).
    Raises `BadInput` on others, and where 10^6 is not enough.
    Directly to what is feared, instead of an epsilon that stands for it (Kulynych et al. 2024, arXiv:2407.02191).

    >>> from dp_accounting import GaussianDpEvent
    >>> noise_for_power(GaussianDpEvent, tpr=0.0919, fpr=0.01)
    1.003
    """
    false = number("fpr", fpr, low=0, high=1, high_open=True)
    most = number("tpr", tpr, low=false, high=1, low_open=True, high_open=True)
    return _least(lambda s: largest_power(event_of(s), fpr=false), most)


def noise_for_advantage(event_of: EventOf, *, advantage: float) -> float:
    """The least s for which TPR - FPR is at most `advantage`, in (0, 1), for every test (`largest_advantage`).

    It says little of few false alarms: at the same advantage one mechanism can allow a far larger TPR there than
    another. Raises as `noise_for_power`.

    >>> from dp_accounting import GaussianDpEvent
    >>> noise_for_advantage(GaussianDpEvent, advantage=0.1)
    3.98
    """
    most = number("advantage", advantage, low=0, high=1, low_open=True, high_open=True)
    return _least(lambda s: largest_advantage(event_of(s)), most)


def noise_for_epsilon(event_of: EventOf, *, epsilon: float, delta: float) -> float:
    """The least s for which the event is (epsilon, delta)-private, epsilon > 0 (`accounting.epsilon`).

    Raises as `noise_for_power`.

    >>> from dp_accounting import GaussianDpEvent
    >>> noise_for_epsilon(GaussianDpEvent, epsilon=1.0, delta=1e-5)
    3.731
    """
    most = number("epsilon", epsilon, low=0, low_open=True)
    return _least(lambda s: accounting.epsilon(event_of(s), delta=delta), most)


def _least(risk: Callable[[float], float], most: float) -> float:
    """The least multiplier with risk <= most, on the safe side: `high` was seen to be enough, and more noise is too."""
    low, high, above, below = LEAST, 1.0, math.inf, risk(1.0)
    while below > most:
        low, high, above = high, 4 * high, below
        if high > MOST:
            raise BadInput(f"no noise multiplier up to {MOST:g} lets the risk be as small as {most:g}; allow more")
        below = risk(high)
    turn = 0
    while high > low * (1 + WIDTH):
        middle, turn = math.sqrt(low * high), turn + 1
        # every third time halved, whatever the curve: an accountant takes half a second, but has to be asked to the end
        if turn % 3 and below > 0 and above < math.inf:
            middle = _interpolated((low, above), (high, below), most)
        found = risk(middle)
        if found <= most:
            high, below = middle, found
        else:
            low, above = middle, found
    return _rounded_up(high)


def _interpolated(low: tuple[float, float], high: tuple[float, float], most: float) -> float:
    """Between two multipliers, each with its risk, where a power of the noise through both reaches `most`.

    A little beyond it, seen from the nearer end: where that is right, the next one closes in from the other side.
    """
    (left, above), (right, below) = low, high
    share = math.log(above / most) / math.log(above / below)
    aim: float = left * (right / left) ** min(1.0, share)
    aim *= 1 + WIDTH / 3 if share < 0.5 else 1 - WIDTH / 3
    return min(max(aim, left * (1 + WIDTH / 3)), right * (1 - WIDTH / 3))


def _rounded_up(value: float) -> float:
    """To `DIGITS` digits, never down."""
    scale = 10.0 ** (DIGITS - 1 - math.floor(math.log10(value)))
    return math.ceil(value * scale) / scale
