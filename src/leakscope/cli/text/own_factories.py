"""Whether what a user's module calls a model can be none, by the text of the module alone.

A wrong refusal is worse than a wait for torch. So a name is judged only where the module binds it once, at the top, and
uses it for nothing but calls; of a class only if it is a plain `torch.nn.Module`. Of anything else nothing is said.
`targets.recipes.imported` finds the same out by running it; a test compares the sentences.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from leakscope.cli.text.signatures import signature_of
from leakscope.core.errors import BadInput

MODULE = "torch.nn.Module"
"""The only base of a class that is judged."""

SUPER = {"super().__init__()", "pass"}
"""What a constructor may do that registers no parameter, besides its docstring."""

INNER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
"""What has a body of its own: a `return` in there is not of the function around."""


def judge(tree: ast.Module, name: str, path: str, file: str) -> None:
    """Raises `BadInput` where `name`, called without arguments, surely gives no model with parameters.

    path: what messages call it. file: the name of the module's file.

    >>> judge(ast.parse("Net = 5"), "Net", "mymodel:Net", "mymodel.py")
    Traceback (most recent call last):
    leakscope.core.errors.BadInput: mymodel:Net is a int, expected a module, its class or a function
    """
    if not _only_called(tree, name):
        return
    for line in tree.body:
        if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant):
            if [ast.unparse(one) for one in line.targets] == [name]:
                kind = type(line.value.value).__name__
                raise BadInput(f"{path} is a {kind}, expected a module, its class or a function")
        elif isinstance(line, ast.FunctionDef) and line.name == name and not line.decorator_list:
            _judge_call(line, path, file, bound=0)
            _judge_returned(line, path)
        elif isinstance(line, ast.ClassDef) and line.name == name and _is_plain(line, tree):
            own = [one for one in line.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
            for constructor in own:
                _judge_call(constructor, path, file, bound=1)
            _judge_parameters(line, own, path)


def raised(line: ast.Raise) -> str:
    """The error as a traceback ends with it, as far as that stands in the text.

    >>> raised(ast.parse("raise ValueError('too small')").body[0])
    'ValueError: too small'
    """
    error = line.exc
    if isinstance(error, ast.Call) and len(error.args) == 1 and isinstance(error.args[0], ast.Constant):
        return f"{ast.unparse(error.func)}: " + str(error.args[0].value)
    return ast.unparse(line) if error is None else ast.unparse(error)


def _only_called(tree: ast.Module, name: str) -> bool:
    """Whether the module binds the name once, and neither hands on nor changes what it stands for."""
    called = {one.func for one in ast.walk(tree) if isinstance(one, ast.Call)}
    used = [one for one in ast.walk(tree) if isinstance(one, ast.Name) and one.id == name]
    handed_on = any(isinstance(one.ctx, ast.Load) and one not in called for one in used)
    return _times_bound(tree, name) == 1 and not handed_on


def _times_bound(tree: ast.Module, name: str) -> int:
    """How often a name is bound in the module, at the top or anywhere else."""
    return sum(name in _bound(node) for node in ast.walk(tree))


def _bound(node: ast.AST) -> Sequence[str | None]:
    """The names that a node binds, whatever their scope; also as an attribute of something, such as the module."""
    match node:
        case ast.Name(id=name, ctx=ast.Store() | ast.Del()) | ast.Attribute(attr=name, ctx=ast.Store() | ast.Del()):
            return [name]
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.ExceptHandler(name=name) | ast.MatchAs(name=name) | ast.MatchStar(name=name):
            return [name]
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return [one.asname or one.name.partition(".")[0] for one in names]
        case ast.Global(names=names) | ast.Nonlocal(names=names):
            return names
        case ast.MatchMapping(rest=rest):
            return [rest]
    return []


def _is_plain(node: ast.ClassDef, tree: ast.Module) -> bool:
    """Whether it is a `torch.nn.Module` of which nothing is made by other means than `__init__` and methods."""
    if node.decorator_list or node.keywords or len(node.bases) != 1:
        return False
    if not _from_torch(tree, ast.unparse(node.bases[0])):
        return False
    names = []
    for line in node.body:
        if isinstance(line, ast.FunctionDef):
            names.append(line.name)
            if line.name == "__init__" and line.decorator_list:
                return False
        elif not (isinstance(line, ast.Pass) or (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))):
            return False
    return names.count("__init__") <= 1 and not any(one.startswith("__") for one in names if one != "__init__")


def _from_torch(tree: ast.Module, base: str) -> bool:
    """Whether a base is `torch.nn.Module`, by the one import of what it is named by."""
    first = base.partition(".")[0]
    if _times_bound(tree, first) != 1:
        return False
    for line in tree.body:
        if not isinstance(line, ast.Import | ast.ImportFrom):
            continue
        for one in line.names:
            whole = f"{line.module}.{one.name}" if isinstance(line, ast.ImportFrom) else one.name
            if (one.asname or one.name.partition(".")[0]) == first:
                # Without `as`, `import torch.nn` binds `torch`.
                stands = first if isinstance(line, ast.Import) and one.asname is None else whole
                return stands + base.removeprefix(first) == MODULE
    return False


def _judge_call(node: ast.FunctionDef, path: str, file: str, *, bound: int) -> None:
    """Raises `BadInput` where it needs an argument, or raises before it can return. bound: arguments that it has."""
    try:
        signature_of(node, bound).bind()
    except TypeError as error:
        raise BadInput(f"{path} does not take the arguments {{}}: {error}") from None
    for line in node.body:
        if isinstance(line, ast.Raise) and not _yields(node):
            raise BadInput(f"{path} cannot be built: {raised(line)} (at {file}:{line.lineno})")
        if any(isinstance(one, ast.Return) for one in _own(line)):
            return


def _judge_returned(node: ast.FunctionDef, path: str) -> None:
    """Raises `BadInput` where a function returns a number, a text or nothing, whichever way it ends."""
    values = [one.value for line in node.body for one in _own(line) if isinstance(one, ast.Return)]
    if _yields(node) or not all(one is None or isinstance(one, ast.Constant) for one in values):
        return
    kinds = {type(one.value).__name__ if isinstance(one, ast.Constant) else "NoneType" for one in values}
    kind = " or ".join(sorted(kinds)) or type(None).__name__
    raise BadInput(f"{path} returned a {kind}, expected a torch.nn.Module")


def _judge_parameters(node: ast.ClassDef, constructors: Sequence[ast.FunctionDef], path: str) -> None:
    """Raises `BadInput` where a class has nothing but `forward` and a constructor that does nothing."""
    methods = {one.name for one in node.body if isinstance(one, ast.FunctionDef)}
    done = {ast.unparse(line) for one in constructors for line in one.body if not _is_docstring(line)}
    if methods <= {"__init__", "forward"} and done <= SUPER:
        raise BadInput(f"{path} has no parameters, so it has no gradient; expected a model")


def _is_docstring(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)


def _yields(node: ast.FunctionDef) -> bool:
    """Whether it is a generator, whose body does not run when it is called."""
    return any(isinstance(one, ast.Yield | ast.YieldFrom) for line in node.body for one in _own(line))


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """The node and what is in it, without the bodies of functions and classes."""
    if isinstance(node, INNER):
        return
    yield node
    for one in ast.iter_child_nodes(node):
        yield from _own(one)
