"""What a class or function of leakscope takes, read off its source: a misspelled argument must not wait for torch.

A second reading of what `inspect.signature` says of the imported object; a test compares them for every name that can
stand in a plan.
"""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import Parameter
from typing import final

from leakscope.cli.text.sources import source
from leakscope.homes import Home, homes

ENUMERATIONS = frozenset({"Enum", "StrEnum", "IntEnum"})


@final
@dataclass(frozen=True)
class _Written:
    """A default as it stands in the source; its repr is what a signature shows."""

    text: str

    def __repr__(self) -> str:
        return self.text


@functools.cache
def signature(home: Home) -> inspect.Signature | None:
    """What the class or function at `home` takes; None where that does not show in the source.

    >>> signature(Home("leakscope.mechanisms.defenses.clip", "Clip"))
    <Signature (norm, order=2)>
    """
    place, node = defined(home)
    if isinstance(node, ast.FunctionDef):
        return signature_of(node)
    if members(home) is not None:
        return inspect.Signature([Parameter("value", Parameter.POSITIONAL_OR_KEYWORD)])
    if not isinstance(node, ast.ClassDef):
        return None
    fields = _fields(place, node)
    # As dataclasses do: what is given by keyword only comes last.
    return None if fields is None else inspect.Signature(sorted(fields.values(), key=lambda one: one.kind))


def signature_of(node: ast.FunctionDef | ast.AsyncFunctionDef, bound: int = 0) -> inspect.Signature:
    """What a function takes, without `*` and `**`. bound: how many of its first arguments it has already, as `self`.

    >>> (made,) = ast.parse("def build(self, width, depth=2): ...").body
    >>> signature_of(made, bound=1)
    <Signature (width, depth=2)>
    """
    return inspect.Signature(list(_of_function(node.args))[bound:])


@functools.cache
def members(home: Home) -> dict[str, object] | None:
    """The members of an enumeration with their values; None of what is none.

    >>> members(Home("leakscope.targets.losses", "Reduction"))
    {'SUM': 'sum', 'MEAN': 'mean'}
    """
    _, node = defined(home)
    if not isinstance(node, ast.ClassDef) or not {_name(base) for base in node.bases} & ENUMERATIONS:
        return None
    return {
        ast.unparse(line.targets[0]): ast.literal_eval(line.value) for line in node.body if isinstance(line, ast.Assign)
    }


@functools.cache
def objects_of(home: Home) -> frozenset[str]:
    """The arguments of a class that take an object of leakscope and nothing else.

    Not those that may be None or a plain value too, nor members of an enumeration, which a text can name.

    >>> sorted(objects_of(Home("leakscope.attacks.transcripts.matching.soft", "SoftTranscript")))
    ['distance', 'shrink']
    """
    place, node = defined(home)
    if not isinstance(node, ast.ClassDef):
        return frozenset()
    found: set[str] = set()
    for base in base_names(node):
        above = Home(place.module, base)
        found |= objects_of(above) if ours(defined(above)[0]) else set()
    for line in node.body:
        if isinstance(line, ast.AnnAssign):
            name = ast.unparse(line.target)
            found = found | {name} if _is_object(place.module, line.annotation) else found - {name}
    return frozenset(found)


def _is_object(module: str, annotation: ast.expr) -> bool:
    if not isinstance(annotation, ast.Name | ast.Subscript):
        return False
    kind = Home(module, _name(annotation))
    return isinstance(defined(kind)[1], ast.ClassDef) and members(kind) is None


def defined(home: Home) -> tuple[Home, ast.stmt | None]:
    """The class or function with where it is made; a name that is only handed on leads there. None of other things."""
    body = source(home.module).body
    for line in body:
        if isinstance(line, ast.ClassDef | ast.FunctionDef) and line.name == home.name:
            return home, line
    further = homes(body).get(home.name)
    return defined(further) if further is not None and ours(further) else (home, None)


def ours(home: Home) -> bool:
    """Whether it is of leakscope, and its source can be read."""
    return home.module.partition(".")[0] == __name__.partition(".")[0]


def base_names(node: ast.ClassDef) -> list[str]:
    """The last names of its bases."""
    return [_name(base) for base in node.bases]


def _name(base: ast.expr) -> str:
    """The last name of a base class: `Enum` of `enum.Enum`, `AbstractAttack` of `AbstractAttack[Inputs]`."""
    if isinstance(base, ast.Subscript):
        return _name(base.value)
    return base.attr if isinstance(base, ast.Attribute) else ast.unparse(base)


def _of_function(given: ast.arguments) -> Iterator[Parameter]:
    positional = [*given.posonlyargs, *given.args]
    without: list[ast.expr | None] = [None] * (len(positional) - len(given.defaults))
    for place, (one, default) in enumerate(zip(positional, [*without, *given.defaults], strict=True)):
        alone = place < len(given.posonlyargs)  # what stands before a slash has no name for the caller
        yield _parameter(one.arg, default, Parameter.POSITIONAL_ONLY if alone else Parameter.POSITIONAL_OR_KEYWORD)
    for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        yield _parameter(one.arg, default, Parameter.KEYWORD_ONLY)


def _parameter(name: str, default: ast.expr | None, kind: inspect._ParameterKind) -> Parameter:
    shown = Parameter.empty if default is None else _Written(ast.unparse(default))
    return Parameter(name, kind, default=shown)


def _fields(place: Home, node: ast.ClassDef) -> dict[str, Parameter] | None:
    """The fields of a dataclass, those of its bases first; a field that is declared again keeps its first place.

    None where the class is no dataclass, or writes its own `__init__`.
    """
    found: dict[str, Parameter] = {}
    for base in reversed(node.bases):
        above, parent = defined(Home(place.module, _name(base)))
        if isinstance(parent, ast.ClassDef):
            found |= _fields(above, parent) or {}
    marks = [mark for mark in node.decorator_list if "dataclass" in ast.unparse(mark).partition("(")[0]]
    own = [line for line in node.body if isinstance(line, ast.FunctionDef) and line.name == "__init__"]
    if own or not (marks or found):
        return None
    for line in node.body if marks else []:
        if isinstance(line, ast.AnnAssign) and not ast.unparse(line.annotation).startswith(("ClassVar", "Final")):
            one = _field(line)
            found |= {} if one is None else {one.name: one}
    return found


def _field(line: ast.AnnAssign) -> Parameter | None:
    """One declared field; None of one that is not given to the constructor."""
    default, name = line.value, ast.unparse(line.target)
    if not (isinstance(default, ast.Call) and ast.unparse(default.func) in ("field", "dataclasses.field")):
        return _parameter(name, default, Parameter.POSITIONAL_OR_KEYWORD)
    said = {one.arg: one.value for one in default.keywords}
    if "init" in said and not ast.literal_eval(said["init"]):
        return None
    kind = Parameter.KEYWORD_ONLY if "kw_only" in said else Parameter.POSITIONAL_OR_KEYWORD
    return _parameter(name, said.get("default") or _made(said.get("default_factory")), kind)


def _made(factory: ast.expr | None) -> ast.expr | None:
    """What a factory makes, as a person would write it: `Adam()` of `Adam`, `Shrink(9)` of `lambda: Shrink(9)`."""
    if factory is None:
        return None
    return factory.body if isinstance(factory, ast.Lambda) else ast.Call(factory, [], [])
