"""Whether an object acts as the class of which it is one: what derives from it, or was patched, may act otherwise."""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import types
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

ORDER = frozenset({"__lt__", "__le__", "__gt__", "__ge__", "__getstate__", "__setstate__"})
"""What `dataclass` may compile from a string of its own."""


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
    """Whether something in a class of ours is not what its class statement wrote, but was put there afterwards."""
    return any(
        _put(kind, name, part)
        for kind in base.__mro__
        if kind.__module__.startswith("leakscope.")
        for name, part in vars(kind).items()
        if name not in HARMLESS
    )


def _put(kind: type, name: str, part: object) -> bool:
    """Whether a part of a class was put there by other code: by what compiled it, since names can be copied."""
    if isinstance(part, property):
        return any(_put(kind, name, one) for one in (part.fget, part.fset, part.fdel) if one is not None)
    if isinstance(part, (classmethod, staticmethod)):
        return _put(kind, name, part.__func__)
    if isinstance(part, types.FunctionType):
        # `functools.wraps` copies the name of the module and the qualified name, and code keeps its own.
        generated = part.__code__.co_filename == "<string>" and name in ORDER
        return not generated and (
            part.__globals__ is not vars(sys.modules[kind.__module__])
            or not part.__code__.co_qualname.startswith(f"{kind.__qualname__}.")
        )
    # Slots know whose they are.
    if isinstance(part, (types.MemberDescriptorType, types.GetSetDescriptorType)):
        return part.__objclass__ is not kind
    functions, values = _written(kind.__module__)
    own = f"{kind.__qualname__}.{name}"
    if own in values and own not in functions:
        return isinstance(part, (types.MethodType, functools.partialmethod, functools.partial))
    # A value or another descriptor in the place of a method, its own or one that it has from a parent.
    above = (vars(one).get(name) for one in kind.__mro__[1:])
    return own in functions or any(callable(one) or _descriptor(one) for one in (part, *above))


def _descriptor(part: object) -> bool:
    return hasattr(type(part), "__get__")


@functools.cache
def _written(module: str) -> tuple[frozenset[str], frozenset[str]]:
    """The qualified names of the functions in the classes of a module, and of the values, as its source has them."""
    functions, values = set[str](), set[str]()

    def walk(node: ast.AST, inside: str) -> None:
        for one in ast.iter_child_nodes(node):
            if isinstance(one, ast.FunctionDef):
                functions.add(inside + one.name)
            elif isinstance(one, ast.ClassDef):
                walk(one, f"{inside}{one.name}.")
            elif isinstance(one, (ast.Assign, ast.AnnAssign)):
                targets = one.targets if isinstance(one, ast.Assign) else [one.target]
                values.update(inside + target.id for target in targets if isinstance(target, ast.Name))

    walk(ast.parse(inspect.getsource(sys.modules[module])), "")
    return frozenset(functions), frozenset(values)


def acts_as(one: object, kind: type[T]) -> TypeGuard[T]:
    """Whether `one` is a `kind` that overrides nothing of it, so that what is known of `kind` holds of it.

    >>> acts_as(True, int), acts_as(2, int), acts_as("2", int)
    (False, True, False)
    """
    return isinstance(one, kind) and not overrides(one, kind)
