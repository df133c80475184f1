"""Whether an object acts as the class of which it is one: what derives from it, or was patched, may act otherwise."""

from __future__ import annotations

import inspect
from typing import TypeGuard, TypeVar

T = TypeVar("T")

HARMLESS = frozenset(
    {
        "__abstractmethods__", "__annotations__", "__dataclass_fields__", "__dataclass_params__", "__delattr__",
        "__dict__", "__doc__", "__eq__", "__final__", "__firstlineno__", "__hash__", "__init__", "__match_args__",
        "__module__", "__orig_bases__", "__parameters__", "__post_init__", "__replace__", "__repr__", "__setattr__",
        "__slots__", "__static_attributes__", "__weakref__", "_abc_impl",
    }
)  # fmt: skip
"""What a class statement or `dataclass` writes into every class, and what sets the values of an object or prints it."""


def overrides(one: object, base: type) -> bool:
    """Whether something that `base` has is written anew: in the class of `one`, in a parent before `base`, in itself.

    Whatever it is, a private helper too: what `base` says of itself is said of its own code as a whole. True as well
    where `base` is no ancestor, as of a class that was registered.

    >>> class Even(int):
    ...     def __add__(self, other):
    ...         return 2 * int(other)
    >>> overrides(Even(2), int), overrides(True, int), overrides(2, int)
    (True, True, False)
    """
    order = type(one).__mro__
    if base not in order or _exchanged(base):
        return True
    written = {name for kind in order[: order.index(base)] for name in vars(kind)} - HARMLESS
    # An attribute that hides a method is called in its place; a field hides its default only.
    patched = (name for name in getattr(one, "__dict__", {}) if inspect.isroutine(getattr(base, name, None)))
    return any(hasattr(base, name) for name in written) or any(patched)


def _exchanged(base: type) -> bool:
    """Whether a method of a class of ours was exchanged after it was written, by code of another module."""
    for kind in base.__mro__:
        if not kind.__module__.startswith("leakscope."):
            continue
        for name, part in vars(kind).items():
            written = part.fget if isinstance(part, property) else getattr(part, "__func__", part)
            # Functions alone know where they are from; of what is none, as a value in a method's place, only its kind.
            foreign = getattr(written, "__module__", kind.__module__) != kind.__module__
            if name not in HARMLESS and foreign and callable(written):
                return True
    return False


def acts_as(one: object, kind: type[T]) -> TypeGuard[T]:
    """Whether `one` is a `kind` that overrides nothing of it, so that what is known of `kind` holds of it.

    >>> acts_as(True, int), acts_as(2, int), acts_as("2", int)
    (False, True, False)
    """
    return isinstance(one, kind) and not overrides(one, kind)
