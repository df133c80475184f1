"""Whether what a user's module calls a model can be none, by the text of the module alone.

A wrong refusal is worse than a wait for torch. So a name is judged only where the module binds it once, at the top, and
a function or class only where it is used for nothing but calls; of classes a plain `torch.nn.Module`, and one that has
no base. Of anything else nothing is said.
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

DISPLAYS = {
    ast.List: "list", ast.ListComp: "list", ast.Tuple: "tuple", ast.Set: "set", ast.SetComp: "set", ast.Dict: "dict",
    ast.DictComp: "dict", ast.JoinedStr: "str", ast.GeneratorExp: "generator",
}  # fmt: skip
"""What an expression gives whatever is in it."""

Function = ast.FunctionDef | ast.AsyncFunctionDef

INNER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
"""What has a body of its own: a `return` in there is not of the function around."""


def judge(tree: ast.Module, name: str, path: str, file: str) -> None:
    """Raises `BadInput` where `name`, called without arguments, surely gives no model with parameters.

    path: what messages call it. file: the name of the module's file.

    >>> judge(ast.parse("Net = 5"), "Net", "mymodel:Net", "mymodel.py")
    Traceback (most recent call last):
    leakscope.core.errors.BadInput: mymodel:Net is a int, expected a module, its class or a function
    """
    if _times_bound(tree, name) != 1:
        return
    value, called = _value(tree, name), _only_called(tree, name)
    kind = None if value is None else _kind(value)
    if kind is not None:
        raise BadInput(f"{path} is a {kind}, expected a module, its class or a function")
    for line in tree.body:
        if isinstance(line, Function) and line.name == name and not line.decorator_list and called:
            _judge_call(line, path, file, bound=0)
            _judge_returned(line, path)
        elif isinstance(line, ast.ClassDef) and line.name == name and _is_plain(line) and called:
            is_module = len(line.bases) == 1 and _from_torch(tree, ast.unparse(line.bases[0]))
            if not is_module and not _is_bare(line, tree):
                continue
            own = [one for one in line.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
            for constructor in own:
                _judge_call(constructor, path, file, bound=1)
            if not is_module:
                raise BadInput(f"{path} returned a {name}, expected a torch.nn.Module")
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


def _value(tree: ast.Module, name: str) -> ast.expr | None:
    """The expression that an assignment at the top gives the name, also as one of several; None where there is none."""
    for line in tree.body:
        if isinstance(line, ast.Assign):
            pairs = [(target, line.value) for target in line.targets]
        elif isinstance(line, ast.AnnAssign) and line.value is not None:
            pairs = [(line.target, line.value)]
        else:
            continue
        while pairs:
            target, value = pairs.pop()
            if isinstance(target, ast.Name) and target.id == name:
                return value
            if isinstance(target, ast.Tuple | ast.List) and isinstance(value, ast.Tuple | ast.List):
                starred = any(isinstance(one, ast.Starred) for one in (*target.elts, *value.elts))
                # of different lengths the import fails
                pairs += [] if starred else zip(target.elts, value.elts, strict=False)
    return None


def _kind(value: ast.expr) -> str | None:
    """The type of what an expression gives, if that shows in it.

    >>> [_kind(ast.parse(text, mode="eval").body) for text in ("-1", "[a, b]", "f'{a}'", "a + b", "a()")]
    ['int', 'list', 'str', None, None]
    """
    if isinstance(value, ast.Constant):
        return type(value.value).__name__
    if isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.USub):
        # of a bool it is an int, and of anything else that is no number nothing
        kinds = {"int": "int", "bool": "int", "float": "float", "complex": "complex"}
        return kinds.get(_kind(value.operand) or "")
    return DISPLAYS.get(type(value))


def _only_called(tree: ast.Module, name: str) -> bool:
    """Whether the module neither hands on nor changes what the name stands for."""
    called = {one.func for one in ast.walk(tree) if isinstance(one, ast.Call)}
    used = [one for one in ast.walk(tree) if isinstance(one, ast.Name) and one.id == name]
    return not any(isinstance(one.ctx, ast.Load) and one not in called for one in used)


def _times_bound(tree: ast.Module, name: str) -> int:
    """How often a name is bound in the module, at the top or anywhere else."""
    return sum(name in bound(node) for node in ast.walk(tree))


def bound(node: ast.AST) -> Sequence[str | None]:
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


def _is_plain(node: ast.ClassDef) -> bool:
    """Whether nothing of a class is made by other means than its base, `__init__` and methods."""
    if node.decorator_list or node.keywords:
        return False
    names = []
    for line in node.body:
        if isinstance(line, ast.FunctionDef):
            names.append(line.name)
            if line.name == "__init__" and line.decorator_list:
                return False
        elif not (isinstance(line, ast.Pass) or _is_docstring(line)):
            return False
    return names.count("__init__") <= 1 and not any(one.startswith("__") for one in names if one != "__init__")


def _is_bare(node: ast.ClassDef, tree: ast.Module) -> bool:
    """Whether a class has no base but `object`."""
    bases = [ast.unparse(one) for one in node.bases]
    return not bases or (bases == ["object"] and _times_bound(tree, "object") == 0)


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


def _judge_call(node: Function, path: str, file: str, *, bound: int) -> None:
    """Raises `BadInput` where it needs an argument, or raises before it can return. bound: arguments that it has."""
    try:
        signature_of(node, bound).bind()
    except TypeError as error:
        raise BadInput(f"{path} does not take the arguments {{}}: {error}") from None
    for line in node.body:
        if isinstance(line, ast.Raise) and _runs(node):
            raise BadInput(f"{path} cannot be built: {raised(line)} (at {file}:{line.lineno})")
        if any(isinstance(one, ast.Return) for one in _own(line)):
            return


def _judge_returned(node: Function, path: str) -> None:
    """Raises `BadInput` where a function returns what is no object of a class, whichever way it ends."""
    values = [one.value for line in node.body for one in _own(line) if isinstance(one, ast.Return)]
    nothing, kinds = type(None).__name__, {_delayed(node)}
    if _runs(node):
        kinds = {nothing if one is None else _kind(one) for one in values} or {nothing}
    known = sorted(one for one in kinds if one is not None)
    if len(known) == len(kinds):
        raise BadInput(f"{path} returned a {' or '.join(known)}, expected a torch.nn.Module")


def _judge_parameters(node: ast.ClassDef, constructors: Sequence[ast.FunctionDef], path: str) -> None:
    """Raises `BadInput` where a class has nothing but `forward` and a constructor that does nothing."""
    methods = {one.name for one in node.body if isinstance(one, ast.FunctionDef)}
    done = {ast.unparse(line) for one in constructors for line in one.body if not _is_docstring(line)}
    if methods <= {"__init__", "forward"} and done <= SUPER:
        raise BadInput(f"{path} has no parameters, so it has no gradient; expected a model")


def _is_docstring(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)


def _yields(node: Function) -> bool:
    """Whether it is a generator, whose body does not run when it is called."""
    return any(isinstance(one, ast.Yield | ast.YieldFrom) for line in node.body for one in _own(line))


def _runs(node: Function) -> bool:
    """Whether its body runs when it is called."""
    return isinstance(node, ast.FunctionDef) and not _yields(node)


def _delayed(node: Function) -> str | None:
    """What a call gives of a function whose body does not run then."""
    if isinstance(node, ast.FunctionDef):
        return "generator"
    return "async_generator" if _yields(node) else "coroutine"


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """The node and what is in it, without the bodies of functions and classes."""
    if isinstance(node, INNER):
        return
    yield node
    for one in ast.iter_child_nodes(node):
        yield from _own(one)
