"""Expressions of plan files, such as `FedAvg(steps=4, lr=0.1) >> Clip(1.0)`, become objects without `eval`.

How they are written was judged before (`cli.text.spelling`); here the objects are made, and say what they do not take.
"""

from __future__ import annotations

import ast
import importlib
import operator
from collections.abc import Callable
from typing import Any

from leakscope.audit.telling import kind_named
from leakscope.cli.names import KINDS
from leakscope.cli.rows import Family
from leakscope.cli.text import spelling
from leakscope.core import file_limits
from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.core.facts import Fact

WRONG = (
    TypeError, AttributeError, ValueError, ArithmeticError, LookupError, MemoryError, RecursionError, AssertionError,
)  # fmt: skip
"""What a constructor raises that does not look at an argument before it uses it."""

OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.RShift: operator.rshift,
    ast.Add: operator.add,
    ast.Mult: operator.mul,
}


def build(text: str, family: Family) -> Any:
    """The object that `text` describes: names of the table, calls, numbers, strings, tuples, `>>`, `+`, `*`; no more.

    Raises `UnknownName` for a name that is not in the table, `BadInput` for anything else that is not an object of
    the family.

    >>> build("FedSGD() >> Clip(1.0)", Family.PROTOCOLS)
    FedSGD() >> Clip(norm=1.0, order=2)
    >>> build("FedSGD() >> Clip(nrom=1.0)", Family.PROTOCOLS)
    Traceback (most recent call last):
    leakscope.core.errors.UnknownName: unknown argument of Clip 'nrom'; did you mean 'norm'? known: norm, order
    """
    built = _value(spelling.expression(text, family))
    if not isinstance(built, KINDS[family]):
        raise BadInput(
            f"expected {spelling.an(spelling.SINGULAR[family])}, got {file_limits.shortened(text)!r}; "
            f"write for example {spelling.example(family)}"
        )
    return built


def domain(text: str) -> AbstractDomain:
    """What one input is: `Images(3, 32, 32)`, `Frames(26)`, or in short 3x32x32. Raises `BadInput`.

    >>> domain("3x32x32")
    Images(channels=3, height=32, width=32, mean=(), std=())
    """
    built: AbstractDomain = _value(spelling.domain(text))
    return built


def fact(text: str) -> Fact | type[Fact]:
    """A fact with its value, `BatchSize(4)`, or the kind of one whose value is taken from the batch. Raises `BadInput`.

    >>> fact("BatchSize(4)"), fact("TrueLabels").__name__
    (BatchSize(count=4), 'TrueLabels')
    """
    tree = spelling.fact(text)
    if isinstance(tree, ast.Name):
        return kind_named(tree.id)
    built: Fact = _value(tree)
    return built


# Ours and not `eval`, however restricted: a plan is a file from somebody else, and whatever reaches an attribute or an
# index of a Python object can run code. Each form that is allowed has its line here; everything else is refused.
def _value(node: ast.expr) -> Any:
    """The object of a tree that `spelling` let pass."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return _named(node.id)
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_value(item) for item in node.elts)
    if isinstance(node, ast.UnaryOp):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp):
        return _combined(node)
    if isinstance(node, ast.Attribute):
        return _value(node.value)[node.attr]
    assert isinstance(node, ast.Call)
    return _called(node)


def _named(name: str) -> Any:
    home = spelling.home(name, "name")
    return getattr(importlib.import_module(home.module), home.name)


def _combined(node: ast.BinOp) -> Any:
    left, right = _value(node.left), _value(node.right)
    try:
        return OPERATORS[type(node.op)](left, right)
    # The last two: a text or a list of numbers, a million million times.
    except (TypeError, MemoryError, OverflowError):
        raise BadInput(
            f"{file_limits.shortened(ast.unparse(node))!r} does not combine: "
            f"{type(left).__name__} with {type(right).__name__}"
        ) from None


def _called(node: ast.Call) -> Any:
    function = _value(node.func)
    assert isinstance(node.func, ast.Name)
    spelling.only_objects(node, spelling.home(node.func.id, "name"))
    arguments = [_value(item) for item in node.args]
    keywords = {str(one.arg): _value(one.value) for one in node.keywords}
    try:
        return function(*arguments, **keywords)
    except BadInput as error:
        raise BadInput(f"{file_limits.shortened(ast.unparse(node))}: {error}") from None
    except WRONG as error:
        raise spelling.misfit(node, error) from None
