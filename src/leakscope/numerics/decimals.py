"""Bounds as text: rounded to the side on which they stay bounds."""

from __future__ import annotations

import decimal
import math


def upward(value: float, digits: int) -> str:
    """An upper bound to so many digits, never below it: to the nearest, 0.99996 of 1 would be promised away.

    >>> upward(1.2341, 4), upward(0.5, 4), upward(1.001e16, 3), upward(float("inf"), 3)
    ('1.235', '0.5', '1.01e+16', 'inf')
    """
    return _directed(value, digits, decimal.ROUND_CEILING)


def downward(value: float, digits: int) -> str:
    """A lower bound to so many digits, never above it.

    >>> downward(1.2349, 4), downward(-0.12341, 4)
    ('1.234', '-0.1235')
    """
    return _directed(value, digits, decimal.ROUND_FLOOR)


def upward_share(value: float, places: int = 0) -> str:
    """An upper bound of a share as a percentage with so many decimal places, never below it.

    >>> upward_share(0.1241), upward_share(0.5), upward_share(0.99991, 1)
    ('13%', '50%', '100.0%')
    """
    return _percent(value, places, decimal.ROUND_CEILING)


def downward_share(value: float, places: int = 0) -> str:
    """A lower bound of one, never above it.

    >>> downward_share(0.1291), downward_share(0.99991, 1)
    ('12%', '99.9%')
    """
    return _percent(value, places, decimal.ROUND_FLOOR)


def _percent(value: float, places: int, rounding: str) -> str:
    shown = decimal.Decimal(repr(float(value))).scaleb(2).quantize(decimal.Decimal(1).scaleb(-places), rounding)
    return f"{shown}%"


def _directed(value: float, digits: int, rounding: str) -> str:
    if not math.isfinite(value):
        return f"{value:.{digits}g}"
    # From the shortest decimal of this float: 0.1 is not to become 0.1001 for its last bit, as it was written 0.1.
    found = decimal.Context(prec=digits, rounding=rounding).create_decimal(repr(float(value)))
    # the nearest float of what has so few digits prints them again
    return f"{float(found):.{digits}g}"
