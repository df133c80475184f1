"""Whether the values of a call are in range, by its constructor's own checks, run without what its module imports.

No second list of ranges could fall behind: what is run are the statements of `__post_init__` as they stand in the
source, one after another, on the values in the text; only leakscope's own source is run, never the text itself. A
statement that needs more than those values, plain Python and what is light (`LIGHT`) says nothing here; the object
itself will. So a complaint is always one that the constructor has, and none is no promise. Of a function, such as the
recipe of an attack, the calls that it makes are asked.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any, NoReturn, final

from leakscope.cli.text.signatures import base_names, defined, members, ours, signature
from leakscope.cli.text.sources import source
from leakscope.core.errors import BadInput
from leakscope.homes import Home, homes

LIGHT = frozenset({"math", "os", "leakscope.core.arguments", "leakscope.core.errors", "leakscope.core.file_limits"})
"""Modules that are imported for a check: they load nothing heavy."""

MISFITS = (TypeError, ValueError, ArithmeticError)
"""What a check raises that did not expect a value of this type."""


class _Unknown(Exception):
    """A statement asks for what the text does not say."""


@final
class _Sure(Exception):
    """A call inside of a function complained, whatever else the function was given."""


@final
class _Opaque:
    """An object that is not made here: the value of a nested call, or a default that is more than a number or a text.

    It may stand in sums and products, as priors do; whatever else is asked of it is unknown.
    """

    def _same(self, other: object) -> _Opaque:
        return self

    __add__ = __radd__ = __mul__ = __rmul__ = __rshift__ = _same

    def _ask(self, *others: object) -> NoReturn:
        raise _Unknown

    __bool__ = __len__ = __iter__ = __getitem__ = __call__ = __index__ = __float__ = __int__ = _ask
    __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __eq__ = __ne__ = _ask
    __hash__ = None  # type: ignore[assignment]


OPAQUE = _Opaque()
"""Any of them: nothing is known that could tell them apart."""


@final
@dataclass(frozen=True)
class _Maker:
    """Stands for a class of leakscope in a check: called, it judges what it is given and makes nothing."""

    home: Home

    @property
    def __name__(self) -> str:
        return self.home.name

    def __call__(self, *given: object, **named: object) -> _Opaque:
        try:
            check(self.home, given, named)
        except MISFITS as error:
            raise _Sure(error) from None
        return OPAQUE

    def __instancecheck__(self, value: object) -> bool:
        return _isinstance(value, self)

    def __or__(self, other: object) -> NoReturn:
        raise _Unknown


@final
class _Fields:
    """What `self` is in a check: the fields of the object, and nothing that it computes from them."""

    __slots__ = ("__dict__", "_said")

    def __init__(self, said: str) -> None:
        self._said = said

    def __repr__(self) -> str:
        return self._said


@final
@dataclass(frozen=True, eq=False)
class _Checks:
    """Statements in their order, with what they name that is not theirs."""

    lines: tuple[_Line, ...]
    around: dict[str, Any]


@final
@dataclass(frozen=True, eq=False)
class _Line:
    """A statement. said: every field and variable that it may read or set; sets: those that it may set.

    whole: it hands the object itself to a function.
    """

    code: CodeType
    said: frozenset[str]
    sets: frozenset[str]
    whole: bool


def value(node: ast.expr) -> Any:
    """The value of an argument as it is written; `OPAQUE` of one that is no number, text or tuple of them."""
    try:
        found = ast.literal_eval(node)
    except ValueError:
        return OPAQUE
    return tuple(found) if isinstance(found, list) else found  # as an expression makes it


def check(home: Home, given: Sequence[object], named: Mapping[str, object]) -> None:
    """Raises `BadInput` where the class or function at `home` does not take these values, as far as the source tells.

    One of `MISFITS` instead where a check of its stumbles over the type of a value.

    >>> check(Home("leakscope.mechanisms.defenses.clip", "Clip"), (-1.0,), {})
    Traceback (most recent call last):
    leakscope.core.errors.BadInput: expected 0 < norm, got -1.0
    """
    taken, found, known = signature(home), _checks(home), members(home)
    if known is not None and given and not isinstance(given[0], _Opaque) and given[0] not in known.values():
        raise ValueError(f"{given[0]!r} is not a valid {home.name}")
    if taken is None or found is None:
        return
    try:
        bound = taken.bind(*given, **named).arguments
    except TypeError:  # said by who asked, if it is not a call that a recipe makes
        return
    fields = {one: bound[one] if one in bound else _shown(made.default) for one, made in taken.parameters.items()}
    made = _object(fields)
    is_function = isinstance(defined(home)[1], ast.FunctionDef)
    try:
        _run(found, {**found.around, **(fields if is_function else {"self": made})}, vars(made))
    except _Sure as error:
        raise error.args[0] from None


def attribute(call: ast.Call, home: Home, name: str, instead: Mapping[str, object]) -> Any:
    """A field or a property of the object that a call makes; `OPAQUE` where that does not follow from the source.

    instead: what stands for names that the property uses.

    >>> digits = Home("leakscope.datasets.sources.digits", "Digits")
    >>> attribute(ast.parse("Digits()", mode="eval").body, digits, "classes", {})
    10
    """
    taken, (place, node) = signature(home), defined(home)
    if taken is None or not isinstance(node, ast.ClassDef):
        return OPAQUE
    bound = taken.bind(*map(value, call.args), **{str(one.arg): value(one.value) for one in call.keywords}).arguments
    fields = {one: bound[one] if one in bound else _shown(made.default) for one, made in taken.parameters.items()}
    if name in fields:
        return fields[name]
    place, made = method(home, name)
    # A docstring, and what is returned: of more, the object itself has to be asked.
    if made is None or len(made.body) != 2 or not isinstance(made.body[1], ast.Return) or made.body[1].value is None:
        return OPAQUE
    said = made.body[1].value
    names = {**_around(Home(place.module, ""), [said], frozenset()), **instead, "self": _object(fields)}
    try:
        return eval(compile(ast.Expression(said), place.module, "eval"), names)  # noqa: S307, leakscope's own source
    except (_Unknown, _Sure, BadInput, NameError, AttributeError, LookupError, *MISFITS):
        return OPAQUE


def method(home: Home, name: str) -> tuple[Home, ast.FunctionDef | None]:
    """The method or property of a class, its own or the first one above it, with the class that has it."""
    place, node = defined(home)
    if not isinstance(node, ast.ClassDef):
        return place, None
    for line in node.body:
        if isinstance(line, ast.FunctionDef) and line.name == name:
            return place, line
    above = (method(Home(place.module, base), name) for base in base_names(node) if ours(Home(place.module, base)))
    return next((one for one in above if one[1] is not None), (place, None))


def build(call: ast.Call, home: Home, domain: object) -> None:
    """Raises `BadInput` where `build` of the target at `home` surely refuses a domain, by its own statements.

    domain: an object with the attributes of the domain that are known. Weights are not drawn, and no class is counted.

    >>> vgg = Home("leakscope.targets.zoo.vgg", "VGGTiny")
    >>> build(ast.parse("VGGTiny()", mode="eval").body, vgg, type("Small", (), {"shape": (1, 4, 4)}))
    Traceback (most recent call last):
    leakscope.core.errors.BadInput: VGGTiny() halves pictures 3 times and takes at least 8 x 8, got 4 x 4
    """
    taken, (place, made) = signature(home), method(home, "build")
    if taken is None or made is None:
        return
    bound = taken.bind(*map(value, call.args), **{str(one.arg): value(one.value) for one in call.keywords}).arguments
    fields = {one: bound[one] if one in bound else _shown(given.default) for one, given in taken.parameters.items()}
    found, self = _compiled(place.module, made.body), _object(fields, ast.unparse(call))
    # `optional` imports what a model is made of, and classes judge more of the domain than is there.
    around = {name: one for name, one in found.around.items() if name != "optional" and not isinstance(one, _Maker)}
    try:
        _run(found, {**around, "self": self, "domain": domain, "classes": OPAQUE, "key": OPAQUE}, vars(self))
    except BadInput:  # a `ValueError` too
        raise
    except (_Sure, *MISFITS):
        return


def _object(fields: Mapping[str, object], said: str = "") -> _Fields:
    """said: what it is called in messages."""
    made = _Fields(said)
    vars(made).update(fields)
    return made


def _run(found: _Checks, names: dict[str, Any], fields: dict[str, Any]) -> None:
    """Statement by statement; what one does not know it leaves out, and what it would have set is unknown then."""
    for line in found.lines:
        there = list(fields.values()) if line.whole else []
        there += [one for name in line.said for one in (fields.get(name), names.get(name))]
        try:
            exec(line.code, names)
            continue
        except BadInput:
            # Sure only if all values are there: else it may be that a stand-in was refused.
            if not any(isinstance(one, _Opaque) for one in there):
                raise
        except MISFITS:
            if not any(isinstance(one, _Opaque | _Maker) for one in there):
                raise
        except (_Unknown, NameError, AttributeError):
            pass
        for name in line.sets:
            (fields if name in fields else names)[name] = OPAQUE


@functools.cache
def _checks(home: Home) -> _Checks | None:
    """What the constructor, or the function, does with its arguments; None where it does nothing."""
    place, node = defined(home)
    if isinstance(node, ast.ClassDef):
        own = [one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__post_init__"]
        if own:
            return _compiled(place.module, own[0].body)
        above = (_checks(Home(place.module, name)) for name in base_names(node))
        return next((one for one in above if one is not None), None)
    return _compiled(place.module, node.body) if isinstance(node, ast.FunctionDef) else None


def _compiled(module: str, body: list[ast.stmt]) -> _Checks:
    lines = []
    for statement in body:
        # A function ends with what it returns: making it is what is asked of.
        ends = isinstance(statement, ast.Return) and statement.value is not None
        line = ast.copy_location(ast.Expr(statement.value), statement) if ends else statement  # type: ignore[attr-defined]
        texts = {one.value for one in ast.walk(line) if isinstance(one, ast.Constant) and isinstance(one.value, str)}
        attributes = {one.attr for one in ast.walk(line) if isinstance(one, ast.Attribute)}
        sets = {one.id for one in ast.walk(line) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
        sets |= texts if "__setattr__" in attributes else set()
        said = frozenset(texts | attributes | _named(line))
        try:
            code = compile(ast.Module([line], []), module, "exec")
            lines.append(_Line(code, said, frozenset(sets), _whole(line)))
        except SyntaxError:  # a `return` inside of an `if`: what follows may not be meant
            break
    return _Checks(tuple(lines), _around(Home(module, ""), body, frozenset()))


def _named(tree: ast.AST) -> set[str]:
    return {one.id for one in ast.walk(tree) if isinstance(one, ast.Name)}


def _whole(line: ast.stmt) -> bool:
    """Whether the object itself is given to a function that may look at any of its fields."""
    calls = (one for one in ast.walk(line) if isinstance(one, ast.Call))
    return any(
        isinstance(given, ast.Name)
        and given.id == "self"
        and ast.unparse(one.func) not in ("object.__setattr__", "getattr")
        for one in calls
        for given in one.args
    )


def _around(home: Home, body: Iterable[ast.AST], within: frozenset[Home]) -> dict[str, Any]:
    """What the statements name that is not theirs, without importing anything heavy."""
    named = {name for line in body for name in _named(line)} - set(dir(builtins)) - {home.name}
    found = ((name, _resolved(Home(home.module, name), within)) for name in named)
    return {"isinstance": _isinstance, **{name: one for name, one in found if one is not None}}


def constant(home: Home) -> Any:
    """The number, text or tuple that a module of leakscope gives a name; None where its source does not tell.

    >>> constant(Home("leakscope.datasets.draw", "PUBLIC_SHARE"))
    0.5
    """
    found = _resolved(home)
    return found if isinstance(found, bool | int | float | str | tuple | frozenset) else None


@functools.cache
def _resolved(home: Home, within: frozenset[Home] = frozenset()) -> Any:
    """A name of a module: a light import, a constant, one of its functions, or who stands for a class; else None."""
    if f"{home.module}.{home.name}" in LIGHT:
        return importlib.import_module(f"{home.module}.{home.name}")
    if home.module in LIGHT:
        return getattr(importlib.import_module(home.module), home.name)
    if not ours(home) or home in within:
        return None
    body = source(home.module).body
    for line in body:
        if isinstance(line, ast.Import) and home.name in LIGHT and home.name in [one.name for one in line.names]:
            return importlib.import_module(home.name)
        if isinstance(line, ast.ClassDef) and line.name == home.name:
            return _Maker(home)
        if isinstance(line, ast.FunctionDef) and line.name == home.name:
            return _function(home, line, within | {home})
        if isinstance(line, ast.Assign | ast.AnnAssign) and line.value is not None:
            for target in line.targets if isinstance(line, ast.Assign) else [line.target]:
                if home.name in _named(target):
                    return _constant(home, line, within | {home})
    further = homes(body).get(home.name)
    return None if further is None else _resolved(further, within)


def _function(home: Home, line: ast.FunctionDef, within: frozenset[Home]) -> Callable[..., Any] | None:
    """A function of leakscope with the names that it uses: it runs, as far as these are known."""
    if line.decorator_list:
        return None
    names = _around(home, [line], within)
    try:
        exec(compile(ast.Module([line], []), home.module, "exec"), names)
    except NameError:  # of a default
        return None
    made: Callable[..., Any] = names[line.name]
    return made


def _constant(home: Home, line: ast.Assign | ast.AnnAssign, within: frozenset[Home]) -> Any:
    """What a name of a module stands for, where it is a number, a text or a tuple that can be computed; else None."""
    names = _around(home, [] if line.value is None else [line.value], within)
    try:
        exec(compile(ast.Module([line], []), home.module, "exec"), names)
    except (_Unknown, _Sure, NameError, AttributeError, LookupError, *MISFITS):  # whatever it needs is not there
        return None
    found = names[home.name]
    return found if isinstance(found, bool | int | float | str | tuple | frozenset) else None


def _isinstance(value: object, kinds: Any) -> bool:
    """As Python's; no number and no text is of a class of leakscope."""
    if isinstance(value, _Opaque):
        raise _Unknown
    several = kinds if isinstance(kinds, tuple) else (kinds,)
    return isinstance(value, tuple(one for one in several if not isinstance(one, _Maker)))


def _shown(default: object) -> Any:
    """The value of a default as a signature shows it."""
    try:
        return value(ast.parse(repr(default), mode="eval").body)
    except SyntaxError:
        return OPAQUE
