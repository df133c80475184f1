"""Asking a mechanism what it declares: somebody else's code, which may raise, or answer with something else.

Whatever goes wrong makes the declaration unknown, with a sentence that says what it was: a proof that needs it is
withheld with that sentence, and no attack fails for it.
"""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable
from typing import Protocol, TypeVar

from leakscope.core.errors import first_line
from leakscope.core.overriding import overrides
from leakscope.mechanisms.effects import InputEffect, ModelEffect, ProtocolEffect, UpdateEffect

T = TypeVar("T")
EffectT = TypeVar("EffectT", UpdateEffect, InputEffect, ModelEffect, ProtocolEffect)
EffectT_co = TypeVar("EffectT_co", covariant=True)


class Declares(Protocol[EffectT_co]):
    """A protocol or a defense, as far as it is asked here."""

    @property
    def effect(self) -> EffectT_co:
        """What attacks may rely on."""
        ...


class AsNoise(Protocol):
    """A defense, as far as it is asked here."""

    @property
    def only_noise(self) -> bool:
        """Whether it adds noise and does nothing else."""
        ...


def asked(ask: Callable[[], T]) -> tuple[T | None, str | None]:
    """What `ask` returns and no complaint; or None, and what it raised.

    >>> asked(lambda: 1 / 2), asked(lambda: 1 / 0)
    ((0.5, None), (None, 'raises ZeroDivisionError: division by zero'))
    """
    try:
        return ask(), None
    # All of it, as in `core.asking`: a stranger's code raises kinds of its own.
    except Exception as error:  # noqa: BLE001
        return None, f"raises {first_line(error)}"


def effect_of(one: Declares[EffectT], kind: type[EffectT]) -> EffectT:
    """Its effect; unknown throughout where asking for it raises, gives something else, or speaks of other code."""
    found, _ = asked(lambda: one.effect)
    return found if isinstance(found, kind) and not _outdated(one) else kind()


def promise_complaint(one: object) -> str | None:
    """Why its event is no promise, as of a class of one's own that adds less noise under an inherited event."""
    if _outdated(one, "event"):
        return "does something else than the class whose event it inherits, or holds a part that does"
    return None


def noise_alone(one: AsNoise) -> bool:
    """Whether a defense says that it is noise and nothing else, of its own code: what derives from one may clip too."""
    found, _ = asked(lambda: one.only_noise)
    return found is True and not _outdated(one, "only_noise")


def silenced(one: object) -> bool:
    """Whether a mechanism says what it is without its noise, of its own code."""
    found, raised = asked(lambda: getattr(one, "noiseless", None))
    return (found is not None or raised is not None) and not _outdated(one, "noiseless")


def _outdated(one: object, declaration: str = "effect") -> bool:
    """Whether it, or a part that it holds, does something else than the class whose declaration it inherits.

    Parts too: what a protocol says is made of what its optimizer says. Our abstract classes say only that nothing is
    promised or known, which whatever derives from them may inherit.
    """
    waiting, met = [one], set[int]()
    while waiting:
        part = waiting.pop()
        # A part may hold what holds it.
        if id(part) in met:
            continue
        met.add(id(part))
        said = next((kind for kind in type(part).__mro__ if declaration in vars(kind)), None)
        silent = said is not None and inspect.isabstract(said) and said.__module__.startswith("leakscope.")
        if said is not None and not silent and overrides(part, said):
            return True
        waiting += _held(part) if said is not None else []
    return False


def _held(one: object) -> list[object]:
    """The values of its attributes, and what is in those that are tuples or lists."""
    found = list(getattr(one, "__dict__", {}).values())
    return found + [part for several in found if isinstance(several, tuple | list) for part in several]


def effect_complaint(one: Declares[EffectT], kind: type[EffectT]) -> str | None:
    """Why its effect is unknown although it was asked for; None where nothing went wrong."""
    found, raised = asked(lambda: one.effect)
    if raised is not None:
        return f"{raised}, when it is asked for its effect"
    if found != kind() and _outdated(one):
        return "does something else than the class whose effect it inherits, or holds a part that does"
    return None if isinstance(found, kind) else f"declares an effect that is no {kind.__name__}"


def size_of(ask: Callable[[], float | None]) -> tuple[float | None, str | None]:
    """The size of noise that `ask` returns, None where it is not declared; and what is wrong with the answer.

    >>> size_of(lambda: 0.1), size_of(lambda: None), size_of(lambda: float("inf"))
    ((0.1, None), (None, None), (None, 'declares noise of the size inf'))
    """
    given: object
    given, raised = asked(ask)
    if raised is not None:
        return None, f"{raised}, when it is asked for the size of its noise"
    if given is None:
        return None, None
    # A truth value is a number to Python.
    if isinstance(given, bool) or not isinstance(given, numbers.Real):
        return None, f"declares noise of a size that is no number but of type {type(given).__name__}"
    size = float(given)
    return (size, None) if math.isfinite(size) and size >= 0 else (None, f"declares noise of the size {size}")
