"""Expressions of plan files, such as `FedAvg(steps=4, lr=0.1) >> Clip(1.0)`, become objects without `eval`."""

from __future__ import annotations

import ast
import enum
import inspect
import operator
import re
from collections.abc import Callable
from typing import Any

from leakscope.audit.telling import MAKERS, kind_named
from leakscope.cli import names
from leakscope.cli.names import KINDS, Family
from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput, UnknownName
from leakscope.core.facts import Fact, LayerStatistics
from leakscope.domains.speech import Frames
from leakscope.domains.text import Text
from leakscope.domains.vision import Images

OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.RShift: operator.rshift,
    ast.Add: operator.add,
    ast.Mult: operator.mul,
}

DOMAINS = (Images, Frames, Text)

NOUNS: dict[str, Callable[..., Any]] = {kind.__name__: kind for kind in (*MAKERS, LayerStatistics, *DOMAINS)}
"""What else has a name in an expression: domains and facts, which are in no list of `leakscope list`."""

SINGULAR = {
    Family.ATTACKS: "attack",
    Family.DEFENSES: "defense",
    Family.PROTOCOLS: "mechanism",
    Family.METRICS: "metric",
    Family.TARGETS: "target",
    Family.DATASETS: "dataset",
    Family.PARTS: "part",
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
    what = SINGULAR[family]
    built = _read(text, what, _example(family))
    if inspect.isclass(built) or inspect.isfunction(built):
        raise BadInput(f"{text} is a name, not yet a {what}; write {_called(text, family)}")
    if not isinstance(built, KINDS[family]):
        raise BadInput(f"expected a {what}, got {text!r}; write for example {_example(family)}")
    return built


def domain(text: str) -> AbstractDomain:
    """What one input is: `Images(3, 32, 32)`, `Frames(26)`, or in short 3x32x32. Raises `BadInput`.

    >>> domain("3x32x32")
    Images(channels=3, height=32, width=32, mean=(), std=())
    """
    example = "3x32x32, or Images(3, 32, 32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)), or Frames(26)"
    short = re.fullmatch(r"(\d+)[x,](\d+)[x,](\d+)", text.replace(" ", ""))
    built = _read(f"Images({','.join(short.groups())})" if short else text, "domain", example)
    if not isinstance(built, AbstractDomain):
        raise BadInput(f"expected a domain, got {text!r}; write for example {example}")
    return built


def fact(text: str) -> Fact | type[Fact]:
    """A fact with its value, `BatchSize(4)`, or the kind of one whose value is taken from the batch. Raises `BadInput`.

    >>> fact("BatchSize(4)"), fact("TrueLabels").__name__
    (BatchSize(count=4), 'TrueLabels')
    """
    if text.strip().isidentifier():
        return kind_named(text.strip())
    built = _read(text, "fact", "BatchSize(4)")
    if not isinstance(built, Fact):
        raise BadInput(f"expected a fact, got {text!r}; write for example BatchSize(4)")
    return built


def _read(text: str, what: str, example: str) -> Any:
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError) as error:
        why = error.msg if isinstance(error, SyntaxError) else error
        raise BadInput(f"cannot read the {what} {text!r}: {why}; write for example {example}") from None
    return _value(tree.body, what)


# Ours and not `eval`, however restricted: a plan is a file from somebody else, and whatever reaches an attribute or an
# # index of a Python object can run code. Each form that is allowed has its line here; everything else is refused.
def _value(node: ast.expr, what: str) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return _named(node.id, what)
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_value(item, what) for item in node.elts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        return -_number(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return _combined(node, what)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return _member(_named(node.value.id, what), node)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _called_value(node, node.func.id, what)
    raise BadInput(
        f"{ast.unparse(node)!r} cannot stand in a plan; use names of `leakscope list`, calls, numbers and >>"
    )


def _named(name: str, what: str) -> Callable[..., Any]:
    known = names.vocabulary()
    if name in NOUNS:
        return NOUNS[name]
    if name not in known:
        raise UnknownName(what, name, known)
    return known[name]


def _number(node: ast.Constant) -> float:
    if isinstance(node.value, bool) or not isinstance(node.value, int | float):
        raise BadInput(f"expected a number after the minus sign, got {node.value!r}")
    return node.value


def _combined(node: ast.BinOp, what: str) -> Any:
    left, right = _value(node.left, what), _value(node.right, what)
    for side in (left, right):
        if inspect.isclass(side) or inspect.isfunction(side):
            raise BadInput(f"{ast.unparse(node)!r} names {side.__name__} only; add parentheses with its arguments")
    try:
        return OPERATORS[type(node.op)](left, right)
    except TypeError:
        raise BadInput(
            f"{ast.unparse(node)!r} does not combine: {type(left).__name__} with {type(right).__name__}"
        ) from None


def _member(owner: object, node: ast.Attribute) -> Any:
    if not (isinstance(owner, type) and issubclass(owner, enum.Enum)):
        raise BadInput(f"{ast.unparse(node)!r} cannot stand in a plan: only enumerations have members")
    if node.attr not in owner.__members__:
        raise UnknownName(owner.__name__, node.attr, owner.__members__)
    return owner[node.attr]


def _called_value(node: ast.Call, name: str, what: str) -> Any:
    function = _named(name, what)
    signature = inspect.signature(function)
    arguments = [_value(item, what) for item in node.args]
    keywords = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise BadInput(f"{ast.unparse(node)!r}: ** cannot stand in a plan; write the arguments out")
        if keyword.arg not in signature.parameters:
            raise UnknownName(f"argument of {name}", keyword.arg, signature.parameters)
        keywords[keyword.arg] = _value(keyword.value, what)
    try:
        signature.bind(*arguments, **keywords)
    except TypeError as error:
        raise BadInput(f"{ast.unparse(node)}: {error}; it takes {name}{_plain(signature)}") from None
    try:
        return function(*arguments, **keywords)
    except BadInput as error:
        raise BadInput(f"{ast.unparse(node)}: {error}") from None
    except (TypeError, AttributeError, ValueError) as error:
        raise BadInput(f"{ast.unparse(node)} has an argument of the wrong kind: {error}") from None


def _plain(signature: inspect.Signature) -> str:
    """The arguments with their defaults, without annotations."""
    shown = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    return str(inspect.Signature(shown))


def _example(family: Family) -> str:
    return names.rows(family)[0].example


def _called(text: str, family: Family) -> str:
    found = [row.example for row in names.rows() if row.name == text.strip()]
    return found[0] if found else _example(family)
