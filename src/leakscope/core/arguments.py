"""What a constructor of this room accepts: numbers, checked once and stored as plain Python numbers.

Plain because a description must rebuild from its repr, which `numpy.float64(0.1)` does not without numpy.
"""

from __future__ import annotations

import enum
import math
import numbers
from collections.abc import Iterable
from typing import TypeVar

from leakscope.core.errors import BadInput

MemberT = TypeVar("MemberT", bound=enum.Enum)

LARGEST = 2**63 - 1
"""The largest whole number of 64 bits: what tensors, files and clocks count with."""


def number(
    name: str, got: object, *, low: float, high: float = math.inf, low_open: bool = False, high_open: bool = False
) -> float:
    """`got` as a float if it is finite and lies between `low` and `high`. Raises `BadInput` otherwise.

    >>> number("std", 1, low=0)
    1.0
    >>> number("rate", 1.0, low=0, high=1, high_open=True)
    Traceback (most recent call last):
    leakscope.core.errors.BadInput: expected 0 <= rate < 1, got 1.0
    """
    left = f"{low:g} {'<' if low_open else '<='} {name}"
    wanted = left if math.isinf(high) else f"{left} {'<' if high_open else '<='} {high:g}"
    if isinstance(got, bool) or not isinstance(got, numbers.Real):
        raise BadInput(f"expected {wanted}, got {got!r}")
    try:
        value = float(got)
    except OverflowError:  # a whole number of hundreds of digits
        raise BadInput(f"expected {wanted}, got a number of {len(str(got))} digits") from None
    above = value > low if low_open else value >= low
    below = value < high if high_open else value <= high
    if not (math.isfinite(value) and above and below):
        raise BadInput(f"expected {wanted}, got {got!r}")
    return value


def count(name: str, got: object, *, low: int = 1, high: int | None = None) -> int:
    """`got` as an int if it is a whole number from `low` to `high`. Raises `BadInput` otherwise.

    >>> count("steps", 0)
    Traceback (most recent call last):
    leakscope.core.errors.BadInput: expected steps >= 1, got 0
    """
    wanted = f"{name} >= {low}" if high is None else f"{low} <= {name} <= {high}"
    if isinstance(got, bool) or not isinstance(got, numbers.Integral):
        raise BadInput(f"expected {wanted}, got {got!r}")
    value = int(got)
    if value < low or (high is not None and value > high):
        raise BadInput(f"expected {wanted}, got {got!r}")
    if abs(value) > LARGEST:
        raise BadInput(f"expected {wanted}, got a number of more than 64 bits")
    return value


def places(name: str, got: object, *, low: int = 0) -> tuple[int, ...]:
    """`got` as a tuple of whole numbers, each at least `low`. Raises `BadInput` on anything else, a text included.

    >>> places("labels", [3, 0])
    (3, 0)
    >>> places("labels", "30")
    Traceback (most recent call last):
    leakscope.core.errors.BadInput: expected labels to be a sequence of whole numbers, got '30' of type str; \
write (0, 1)
    """
    if isinstance(got, str | bytes) or not isinstance(got, Iterable):
        raise BadInput(f"expected {name} to be a sequence of whole numbers, got {_shown(got)}; write (0, 1)")
    return tuple(count(f"each of {name}", one, low=low) for one in got)


def is_number(got: object) -> bool:
    """Whether `got` is one of Python's own numbers; True and False are none, nor is one of hundreds of digits.

    >>> is_number(1), is_number(True), is_number("1"), is_number(10**400)
    (True, False, False, False)
    """
    # A whole number of hundreds of digits is none that can be computed with.
    return isinstance(got, float) or (isinstance(got, int) and not isinstance(got, bool) and abs(got) <= LARGEST)


def flag(name: str, got: object) -> bool:
    """`got` if it is True or False. Raises `BadInput` otherwise: a truthy text is a misread setting.

    >>> flag("shuffle", "no")
    Traceback (most recent call last):
    leakscope.core.errors.BadInput: expected shuffle to be True or False, got 'no'
    """
    if not isinstance(got, bool):
        raise BadInput(f"expected {name} to be True or False, got {got!r}")
    return got


def member(name: str, got: object, kind: type[MemberT]) -> MemberT:
    """`got` if it is one of this enumeration, or the one that has this value. Raises `BadInput` with all values.

    >>> import enum
    >>> member("by", "one", enum.Enum("By", {"ONE": "one"})).name
    'ONE'
    """
    for one in kind:
        if got is one or (type(got) is type(one.value) and got == one.value):
            return one
    raise BadInput(f"expected {name} to be one of {', '.join(str(one.value) for one in kind)}, got {_shown(got)}")


def instance(name: str, got: object, kind: type, advice: str) -> None:
    """Raises `BadInput`, with what to give, unless `got` is of this kind.

    >>> instance("steps", "3", int, "write 3")
    Traceback (most recent call last):
    leakscope.core.errors.BadInput: expected steps to be of type int, got '3' of type str; write 3
    """
    if not isinstance(got, kind):
        raise BadInput(f"expected {name} to be of type {kind.__name__}, got {_shown(got)}; {advice}")


def _shown(got: object) -> str:
    """A value as far as it fits into a sentence: a module or a tensor prints pages."""
    if isinstance(got, type):
        return f"the class {got.__name__} itself"
    text = repr(got)
    kind = f"type {type(got).__name__}"
    return f"{text} of {kind}" if len(text) <= 40 and "\n" not in text else f"an object of {kind}"
