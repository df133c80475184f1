"""Whether an expression such as `FedAvg(steps=4, lr=0.1) >> Clip(1.0)` is well written, before anything is imported.

Names, arguments, members and what may be combined with what are judged here, and values as far as the checks of their
constructors can be run without its module (`text.ranges`); the rest the object itself says (`cli.expressions`).
"""

from __future__ import annotations

import ast
import difflib
import inspect
import re
from collections.abc import Sequence

from leakscope.cli.plan_keys import FACTS
from leakscope.cli.rows import Family
from leakscope.cli.text import kinds, ranges
from leakscope.cli.text.index import row_named, rows
from leakscope.cli.text.signatures import members, objects_of, signature
from leakscope.core import file_limits
from leakscope.core.arguments import LARGEST
from leakscope.core.errors import BadInput, UnknownName
from leakscope.homes import Home

SINGULAR = {
    Family.ATTACKS: "attack",
    Family.DEFENSES: "defense",
    Family.PROTOCOLS: "mechanism",
    Family.METRICS: "metric",
    Family.TARGETS: "target",
    Family.DATASETS: "dataset",
    Family.PARTS: "part",
}

DOMAINS = {
    "Images": Home("leakscope.domains.vision", "Images"),
    "Frames": Home("leakscope.domains.speech", "Frames"),
    "Text": Home("leakscope.domains.text", "Text"),
    "Vectors": Home("leakscope.domains.vectors", "Vectors"),
}

NOUNS = {**{name: Home("leakscope.core.facts", name) for name in (*FACTS, "LayerStatistics")}, **DOMAINS}
"""What else has a name in an expression: domains and facts, which are in no list of `leakscope list`."""

OTHERS = {"domain": tuple(DOMAINS), "fact": FACTS}
"""What is known where no name of the table is meant."""

COMBINED = {Family.DEFENSES: SINGULAR[Family.PROTOCOLS]}
"""Families whose objects are written as part of another's: defenses after a protocol."""

OPTIMIZERS = {"SGD": "ClientSGD", "Adam": "ClientAdam", "AdamW": "ClientAdamW"}
"""What a client's optimizers may be called where one is meant: as in torch. `Adam` elsewhere is that of a search."""

OPERATORS = (ast.RShift, ast.Add, ast.Mult)

DEEPEST = 100
"""Calls inside of calls, and terms in a row: far more than anybody writes, far fewer than Python's stack holds."""

LONGEST = 20_000
"""Letters of an expression."""

UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
"""What Python's parser raises: a null byte is a `ValueError`, a thousand brackets are one of the last two."""


def expression(text: str, family: Family) -> ast.expr:
    """The syntax tree of `text`, if it can be an object of the family as far as that shows in the text.

    Raises `UnknownName` for a name, an argument or a member that does not exist, `BadInput` for anything else.

    >>> expression("FedSGD() >> Clip(nrom=1.0)", Family.PROTOCOLS)
    Traceback (most recent call last):
    leakscope.core.errors.UnknownName: unknown argument of Clip 'nrom'; did you mean 'norm'? known: norm, order
    """
    what = SINGULAR[family]
    tree = read(text, what, example(family))
    if isinstance(tree, ast.Name):
        row = row_named(tree.id)
        raise BadInput(f"{text} is a name, not yet {an(what)}; write {row.example if row else example(family)}")
    if _family(tree) is not family:
        raise BadInput(f"expected {an(what)}, got {file_limits.shortened(text)!r}; write for example {example(family)}")
    return tree


def domain(text: str) -> ast.expr:
    """The syntax tree of a domain: `Images(3, 32, 32)`, `Frames(26)`, or in short 3x32x32. Raises `BadInput`."""
    instead = "3x32x32, or Images(3, 32, 32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)), or Frames(26)"
    short = re.fullmatch(r"(\d+)[x,](\d+)[x,](\d+)", text.replace(" ", ""))
    tree = read(f"Images({','.join(short.groups())})" if short else text, "domain", instead)
    if not (isinstance(tree, ast.Call) and ast.unparse(tree.func) in DOMAINS):
        raise BadInput(f"expected a domain, got {text!r}; write for example {instead}")
    return tree


def fact(text: str) -> ast.expr:
    """The syntax tree of a fact with its value, `BatchSize(4)`, or of the name of a kind. Raises `BadInput`.

    >>> ast.unparse(fact("TrueLabels"))
    'TrueLabels'
    """
    if text.strip().isidentifier():
        kind(text.strip())
    tree = read(text, "fact", "BatchSize(4)")
    named = tree.func if isinstance(tree, ast.Call) else tree
    if ast.unparse(named) not in FACTS:
        raise BadInput(f"expected a fact, got {text!r}; write for example BatchSize(4)")
    return tree


def kind(name: str) -> None:
    """Raises `UnknownName` unless `name` is a kind of fact that can be told."""
    if name not in FACTS:
        raise UnknownName("fact", name, FACTS)


def once(kinds: Sequence[str]) -> None:
    """Raises `BadInput` where a fact is told twice, as the observation does."""
    for one in kinds:
        if kinds.count(one) > 1:
            raise BadInput(f"{one} was told {kinds.count(one)} times; tell each fact once")


def read(text: str, what: str, instead: str) -> ast.expr:
    """The syntax tree of `text`, which is to be a `what` such as `instead`. Raises `BadInput`, `UnknownName`."""
    if len(text) > LONGEST:
        raise BadInput(
            f"the {what} {file_limits.shortened(text, 60)!r} has {len(text)} letters, expected at most {LONGEST}"
        )
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        if _depth(tree) > DEEPEST:
            raise BadInput(f"the {what} {text[:60]!r}... is nested more than {DEEPEST} deep; write it shorter")
        _spell_out(tree)
        _judge(tree, what)
    except BadInput:
        raise
    except UNREADABLE as error:
        why = error.msg if isinstance(error, SyntaxError) else str(error) or "too deeply nested"
        said = file_limits.shortened(text)
        raise BadInput(f"cannot read the {what} {said!r}: {why}; write for example {instead}") from None
    return tree


def an(what: str) -> str:
    """With its article.

    >>> an("attack"), an("part")
    ('an attack', 'a part')
    """
    return f"{'an' if what[0] in 'aeiou' else 'a'} {what}"


def example(family: Family) -> str:
    """How one may be written: the first of the table."""
    return rows(family)[0].example


def home(name: str, what: str) -> Home:
    """Where a name of an expression is from. Raises `UnknownName` for one that is neither in the table nor a noun."""
    if name in NOUNS:
        return NOUNS[name]
    row = row_named(name)
    if row is None:
        raise UnknownName(what, name, OTHERS.get(what) or _listed(name, what))
    return Home(row.home, row.name)


def _listed(name: str, what: str) -> list[str]:
    """What is listed beside an unknown name: the family's names, and the one of another family that looks like it.

    Parts stand inside of attacks, and are misspelled there; the whole table would bury what was meant.
    """
    own = [one.name for one in rows() if what in (SINGULAR[one.family], COMBINED.get(one.family))]
    if difflib.get_close_matches(name, own, n=1):
        return own
    return own + difflib.get_close_matches(name, [one.name for one in rows()], n=1)


def _depth(node: ast.AST) -> int:
    return 1 + max(map(_depth, ast.iter_child_nodes(node)), default=0)


def _spell_out(tree: ast.expr) -> None:
    """Write the whole names of optimizers into the tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "optimizer" and isinstance(node.value, ast.Call):
            named = node.value.func
            if isinstance(named, ast.Name):
                named.id = OPTIMIZERS.get(named.id, named.id)


def _judge(node: ast.expr, what: str) -> None:
    """Raises for what cannot be, from the inside out, so that the first mistake of several is told."""
    # Ours and not `eval`, however restricted: a plan is a file from somebody else, and whatever reaches an attribute or
    # an index of a Python object can run code. Each form that is allowed has its line here; everything else is refused.
    if isinstance(node, ast.Constant):
        _judge_value(node.value)
    elif isinstance(node, ast.Name):
        home(node.id, what)
    elif isinstance(node, ast.Tuple | ast.List):
        for item in node.elts:
            _judge(item, what)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        _judge_number(node.operand)
        _judge_value(node.operand.value)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, OPERATORS):
        _judge_combined(node, what)
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        _judge_member(node, node.value, what)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        _judge_call(node, node.func.id, what)
    else:
        raise BadInput(
            f"{ast.unparse(node)!r} cannot stand in a plan; use names of `leakscope list`, calls, numbers and >>"
        )


def _judge_value(value: object) -> None:
    if value is not None and not isinstance(value, bool | int | float | str):
        raise BadInput(
            f"a value such as {file_limits.shortened(repr(value))} cannot stand in a plan; use numbers and texts"
        )
    if isinstance(value, int) and abs(value) > LARGEST:
        raise BadInput(f"a whole number of {len(str(value))} digits cannot stand in a plan; use at most 64 bits")


def _judge_number(node: ast.Constant) -> None:
    if isinstance(node.value, bool) or not isinstance(node.value, int | float):
        raise BadInput(f"expected a number after the minus sign, got {node.value!r}")


def _judge_combined(node: ast.BinOp, what: str) -> None:
    for side in (node.left, node.right):
        _judge(side, what)
    for side in (node.left, node.right):
        if isinstance(side, ast.Name):
            raise BadInput(f"{ast.unparse(node)!r} names {side.id} only; add parentheses with its arguments")
    left, right = _family(node.left), _family(node.right)
    if isinstance(node.op, ast.RShift):
        fits = left is Family.PROTOCOLS and right is Family.DEFENSES
    else:
        # one side at least is a prior: a text or a tuple times a number could fill any memory
        fits = {left, right} <= {Family.PARTS, None} and Family.PARTS in (left, right)
    if not fits:
        raise BadInput(
            f"{ast.unparse(node)!r} does not combine: {_kind(node.left)} with {_kind(node.right)}; "
            ">> puts a defense after a protocol, + and * combine priors"
        )


def _judge_member(node: ast.Attribute, owner: ast.Name, what: str) -> None:
    known = members(home(owner.id, what))
    if known is None:
        raise BadInput(f"{ast.unparse(node)!r} cannot stand in a plan: only enumerations have members")
    if node.attr not in known:
        raise UnknownName(owner.id, node.attr, known)


def _judge_call(node: ast.Call, name: str, what: str) -> None:
    place = home(name, what)
    takes = signature(place)
    for item in node.args:
        _judge(item, what)
    for keyword in node.keywords:
        if keyword.arg is None:
            raise BadInput(f"{ast.unparse(node)!r}: ** cannot stand in a plan; write the arguments out")
        if takes is not None and keyword.arg not in takes.parameters:
            raise UnknownName(f"argument of {name}", keyword.arg, takes.parameters)
        _judge(keyword.value, what)
    try:
        if takes is not None:
            takes.bind(*node.args, **{str(keyword.arg): keyword.value for keyword in node.keywords})
    except TypeError as error:
        raise BadInput(f"{ast.unparse(node)}: {error}; it takes {name}{takes}") from None
    if takes is not None:
        kinds.spell_whole(place, takes.bind(*node.args, **{str(one.arg): one.value for one in node.keywords}).arguments)
    only_objects(node, place)
    values, given = members(place), [*node.args, *(keyword.value for keyword in node.keywords)]
    if values is not None and isinstance(given[0], ast.Constant) and given[0].value not in values.values():
        raise UnknownName(name, str(given[0].value), map(str, values.values()))
    _judge_range(node, place)
    if takes is not None:
        # Last: a range says more, and the annotation of a class knows no value that its constructor accepts besides.
        bound = takes.bind(*node.args, **{str(keyword.arg): keyword.value for keyword in node.keywords}).arguments
        kinds.judge(node, place, bound, lambda one: home(one, what))


def only_objects(node: ast.Call, place: Home) -> None:
    """Raises `BadInput` where a number or a text stands for what has to be an object: most constructors take any."""
    takes, objects = signature(place), objects_of(place)
    if takes is None or not objects:
        return
    bound = takes.bind(*node.args, **{str(keyword.arg): keyword.value for keyword in node.keywords}).arguments
    for name in sorted(objects & bound.keys()):
        if isinstance(bound[name], ast.Constant | ast.Tuple | ast.List | ast.UnaryOp):
            shown = takes.parameters[name].default
            instead = "" if shown is inspect.Parameter.empty else f", such as {shown!r}"
            raise BadInput(
                f"{file_limits.shortened(ast.unparse(node))}: {name} takes an object{instead}, "
                f"got {ast.unparse(bound[name])}"
            )


def _judge_range(node: ast.Call, place: Home) -> None:
    """Raises as `expressions` does where the object complains."""
    named = {str(one.arg): ranges.value(one.value) for one in node.keywords}
    try:
        ranges.check(place, [ranges.value(one) for one in node.args], named)
    except BadInput as error:
        raise BadInput(f"{file_limits.shortened(ast.unparse(node))}: {error}") from None
    except ranges.MISFITS as error:
        raise misfit(node, error) from None


def misfit(node: ast.Call, error: Exception) -> BadInput:
    """What is said of a call whose constructor stumbles over an argument."""
    why = file_limits.shortened(str(error) or type(error).__name__, 200)
    return BadInput(f"{file_limits.shortened(ast.unparse(node))} has an argument of the wrong kind: {why}")


def _family(node: ast.expr) -> Family | None:
    """Whose object it will be; None of what is in no family: numbers, texts, domains, facts."""
    if isinstance(node, ast.BinOp):
        if isinstance(node.op, ast.RShift):
            return Family.PROTOCOLS
        return Family.PARTS if Family.PARTS in (_family(node.left), _family(node.right)) else None
    # A call is an object of the family of its name, and so is the member of an enumeration.
    named = node.func if isinstance(node, ast.Call) else node.value if isinstance(node, ast.Attribute) else None
    row = row_named(named.id) if isinstance(named, ast.Name) else None
    return None if row is None else row.family


def _kind(node: ast.expr) -> str:
    """What a person calls it: the name before the brackets, or the type of a value."""
    if isinstance(node, ast.Call):
        return ast.unparse(node.func)
    return type(node.value).__name__ if isinstance(node, ast.Constant) else ast.unparse(node)
