"""Whether a value can be what a constructor declares for it: a number where a text is asked for, or another object."""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Iterator
from typing import final

from leakscope.cli.text.signatures import base_names, defined, members, ours
from leakscope.cli.text.sources import source
from leakscope.core import file_limits
from leakscope.core.arguments import LARGEST
from leakscope.core.errors import BadInput
from leakscope.homes import Home, homes

PLAIN = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,), "Path": (str,), "None": (type(None),)}
"""What is written for a type. A whole number is a float, too."""


Named = Callable[[str], Home]


@final
class _Unsure(Exception):
    """An annotation holds more than is understood here, so that anything may be meant."""


def judge(node: ast.Call, home: Home, given: dict[str, ast.expr], named: Named) -> None:
    """Raises `BadInput` where an argument of a call is surely of another kind than the class at `home` declares.

    given: the arguments by name. named: where a name of an expression is from. Only values with one type are judged: a
    number, a text, True, None, the call of a class. What a constructor takes beside what it declares does not show in
    an annotation, so that one that is no union of plain types, enumerations and leakscope's classes says nothing here.
    """
    declared = _declared(home)
    for name, value in given.items():
        if name not in declared:
            continue
        place, annotation = declared[name]
        try:
            kinds = list(_kinds(place.module, annotation))
        except _Unsure:
            continue
        if not _fits(value, kinds, named):
            raise BadInput(
                f"{file_limits.shortened(ast.unparse(node))}: {name} takes {ast.unparse(annotation)}, "
                f"got {file_limits.shortened(ast.unparse(value))}"
            )


def spell_whole(home: Home, given: dict[str, ast.expr]) -> None:
    """Write whole floats as whole numbers into the tree where the class at `home` declares these and no float.

    As `range` and `count` take no 3e3, and a plan that says so means 3000. 2.5 stays what it is.
    """
    declared = _declared(home)
    for name in given.keys() & declared.keys():
        value = given[name]
        inner = value.operand if isinstance(value, ast.UnaryOp) else value
        if not (isinstance(inner, ast.Constant) and isinstance(inner.value, float) and inner.value.is_integer()):
            continue
        place, annotation = declared[name]
        try:
            kinds = list(_kinds(place.module, annotation))
        except _Unsure:
            continue
        if "int" in kinds and "float" not in kinds and abs(inner.value) <= LARGEST:
            inner.value = int(inner.value)


def _fits(value: ast.expr, kinds: list[str | Home], named: Named) -> bool:
    """Whether a value may be one of the kinds; also where that does not show."""
    if isinstance(value, ast.UnaryOp):
        value = value.operand
    if isinstance(value, ast.Constant):
        # An enumeration may be given by its value, which its own check knows; other classes by no constant.
        if any(isinstance(one, Home) and value.value in (members(one) or {}).values() for one in kinds):
            return True
        wanted = [kind for one in kinds if isinstance(one, str) for kind in PLAIN[one]]
        return type(value.value) in wanted
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        return _may_be(named(value.func.id), kinds)
    return True


def may_be(home: Home, kind: Home) -> bool:
    """Whether what is called by the name at `home` may be of the class at `kind`, as far as the source says.

    >>> signals = "leakscope.attacks.attributes.signals"
    >>> may_be(Home(signals, "ClassInputs"), Home(signals, "AbstractSignal"))
    True
    >>> may_be(Home("leakscope.mechanisms.protocols.fedsgd", "FedSGD"), Home(signals, "AbstractSignal"))
    False
    """
    return _may_be(home, [kind])


def _may_be(home: Home, kinds: list[str | Home]) -> bool:
    """Whether what the class at `home` makes may be of one of the kinds. Functions may return anything."""
    place, made = defined(home)
    if not isinstance(made, ast.ClassDef):
        return True
    own = _above(place)
    return any(isinstance(one, Home) and (one in own or _offers(own, one)) for one in kinds)


def _offers(own: frozenset[Home], kind: Home) -> bool:
    """Whether a class with all that it derives from has every name of a `Protocol`, which asks for no more."""
    protocols = [one for one in _above(kind) if "Protocol" in _bases(one)]
    wanted = {name for one in protocols for name in _members_of(one)}
    return bool(protocols) and wanted <= {name for one in own for name in _members_of(one)}


def _bases(home: Home) -> list[str]:
    node = defined(home)[1]
    return base_names(node) if isinstance(node, ast.ClassDef) else []


def _members_of(home: Home) -> set[str]:
    """The names of methods, properties and fields in the body of a class."""
    node = defined(home)[1]
    lines = node.body if isinstance(node, ast.ClassDef) else []
    named = {one.name for one in lines if isinstance(one, ast.FunctionDef)}
    return named | {ast.unparse(one.target) for one in lines if isinstance(one, ast.AnnAssign)}


@functools.cache
def _above(home: Home) -> frozenset[Home]:
    """A class of leakscope with all that it derives from."""
    place, node = defined(home)
    if not isinstance(node, ast.ClassDef):
        return frozenset({place})
    above = [_above(Home(place.module, one)) for one in base_names(node) if _known(place.module, one)]
    return frozenset({place}).union(*above)


def _known(module: str, name: str) -> bool:
    """Whether a base is a class of leakscope; `ABC` is none."""
    return isinstance(defined(Home(module, name))[1], ast.ClassDef)


@functools.cache
def _declared(home: Home) -> dict[str, tuple[Home, ast.expr]]:
    """Where each field of a class is declared, and as what; of a function, each argument."""
    place, node = defined(home)
    if isinstance(node, ast.FunctionDef):
        every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        return {one.arg: (place, one.annotation) for one in every if one.annotation is not None}
    found: dict[str, tuple[Home, ast.expr]] = {}
    if isinstance(node, ast.ClassDef) and members(place) is None:
        for base in reversed(base_names(node)):
            found |= _declared(Home(place.module, base)) if _known(place.module, base) else {}
        fields = (line for line in node.body if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name))
        found |= {ast.unparse(line.target): (place, line.annotation) for line in fields}
    return found


def _kinds(module: str, annotation: ast.expr) -> Iterator[str | Home]:
    """The members of a union: the names of plain types, and leakscope's classes."""
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        yield from _kinds(module, annotation.left)
        yield from _kinds(module, annotation.right)
        return
    if isinstance(annotation, ast.Constant) and annotation.value is None:
        yield "None"
        return
    named = annotation.value if isinstance(annotation, ast.Subscript) else annotation
    if isinstance(named, ast.Name) and named.id in PLAIN and named is annotation:
        yield named.id
    elif isinstance(named, ast.Name) and isinstance(defined(Home(module, named.id))[1], ast.ClassDef):
        yield defined(Home(module, named.id))[0]
    else:
        alias = _alias(module, named.id) if isinstance(named, ast.Name) else None
        if alias is None:
            raise _Unsure
        yield from _kinds(*alias)


def _alias(module: str, name: str) -> tuple[str, ast.expr] | None:
    """What another name of a type stands for: `Attack = AbstractAttack[Any, ClaimT]`."""
    body = source(module).body
    for line in body:
        if isinstance(line, ast.Assign) and [ast.unparse(one) for one in line.targets] == [name]:
            return module, line.value
    further = homes(body).get(name)
    return _alias(further.module, further.name) if further is not None and ours(further) else None
