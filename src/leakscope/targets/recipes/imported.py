"""Anybody's model, by import path."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from torch import nn

from leakscope.core import file_limits
from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput, first_line
from leakscope.core.feed import AbstractFeed, InputsOnly
from leakscope.core.refusal import Refusal
from leakscope.core.target import AbstractLoss, CrossEntropy, Target, differentiable
from leakscope.numerics.rng import Key
from leakscope.targets.looking.dense_ends import probe_inputs
from leakscope.targets.looking.probe import FORWARD_ERRORS, probed
from leakscope.targets.recipes.architecture import AbstractArchitecture
from leakscope.targets.recipes.trained import load_state
from leakscope.targets.vetting.before_running import bare
from leakscope.targets.vetting.size import fitting

Argument = bool | int | float | str | None

_ABSENT = object()

RAISED = (*FORWARD_ERRORS, ArithmeticError, OSError, MemoryError, ImportError, NameError, RecursionError, BufferError)
"""What other people's constructors raise on arguments that they were not written for, and their modules at import."""


def failure(error: BaseException) -> str:
    """An error in one line, with the place in the code that raised it."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    return file_limits.shortened(f"{first_line(error)}", 300) + f" (at {Path(at.filename).name}:{at.lineno})"


def current_first() -> None:
    """Modules of the current directory can be imported, as under `python -m`, and come before installed ones."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


@final
@dataclass(frozen=True, repr=False)
class Imported(AbstractArchitecture):
    """The `torch.nn.Module` at `package.module:name`: a module class, a function that returns one, or an instance.

    arguments: (name, value) pairs, or a mapping, for the class or function. state: a file of weights, as in
    `load_state`. training: audit the model in training mode. loss: what it is trained with. feed: how it is called, and
    where it returns its logits. Importing runs the module's code, and the current directory is put first on
    `sys.path` as `python -m` does, so that `mymodel:Net` finds `./mymodel.py`.

    A class or function draws its weights from `build`'s key (through torch's stream); an instance has the weights
    that it was imported with.

    >>> from leakscope.domains.vision import Images
    >>> net = Imported("torch.nn:Sequential")
    >>> net.build(Images(1, 2, 2), 3, key=Key(0))
    Traceback (most recent call last):
    leakscope.core.errors.BadInput: torch.nn:Sequential has no parameters, so it has no gradient; expected a model
    """

    path: str
    arguments: tuple[tuple[str, Argument], ...] = ()
    state: str | None = None
    training: bool = False
    loss: AbstractLoss = field(default_factory=CrossEntropy)
    feed: AbstractFeed = field(default_factory=InputsOnly)

    def __post_init__(self) -> None:
        module, colon, name = self.path.partition(":")
        if not colon or not module or not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
            raise BadInput(
                f"expected package.module:factory, got {self.path!r}; for example mymodel:Net for ./mymodel.py"
            )
        object.__setattr__(self, "arguments", tuple(sorted(dict(self.arguments).items())))
        if not isinstance(self.loss, AbstractLoss) or not isinstance(self.feed, AbstractFeed):
            raise BadInput(
                f"expected a loss and a feed, such as CTC() and WithLengths(), got {self.loss!r} and {self.feed!r}"
            )

    def __repr__(self) -> str:
        # The usual loss and feed are not named: a cell's identity is made of this text, and cells that were recorded
        # before there was a choice stay what they were.
        said = [f"{name}={getattr(self, name)!r}" for name in ("path", "arguments", "state", "training")]
        said += [f"loss={self.loss!r}"] if self.loss != CrossEntropy() else []
        said += [f"feed={self.feed!r}"] if self.feed != InputsOnly() else []
        return f"Imported({', '.join(said)})"

    def build(self, domain: AbstractDomain, classes: int, *, key: Key) -> Target:
        """The target. Raises `BadInput` when the path, the arguments, the weights or the domain do not fit."""
        module = self.module(key)
        parameters = list(module.parameters())
        if not parameters:
            raise BadInput(f"{self.path} has no parameters, so it has no gradient; expected a model")
        if not all(p.is_floating_point() for p in parameters):
            raise BadInput(f"{self.path} has parameters that are not floating point; register them as buffers")
        target = Target(module, domain, classes, repr(self), self.training, self.loss, self.feed)
        if self.state is not None:
            load_state(target.module, self.state)
        self._probe(target)
        return target

    def module(self, key: Key) -> nn.Module:
        """The module itself, out of its wrappers. Raises `BadInput` as `build` does, but for weights and domain."""
        found = self.find()
        if not isinstance(found, nn.Module):
            module = self._call(found, key)
        elif self.arguments:
            raise BadInput(f"{self.path} is a module already and takes no arguments, got {dict(self.arguments)}")
        else:
            module = found
        module = bare(module)
        differentiable(module)
        return module

    def find(self) -> object:
        """The imported object; its import draws from a fixed stream, the same in every process. Raises `BadInput`."""
        module_name, _, name = self.path.partition(":")
        current_first()
        try:
            with Key(0).child("import").isolated():
                found: object = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise BadInput(
                    f"importing {module_name} needs {error.name}, which is not installed; install it"
                ) from error
            raise BadInput(
                f"no module {error.name!r} in the current directory or among the installed packages; "
                f"start leakscope in the folder that holds {error.name.split('.')[0]}.py, or install the package"
            ) from error
        except SyntaxError as error:
            raise BadInput(f"{module_name} is no Python: {error}; mend the file") from error
        except RAISED as error:
            raise BadInput(f"importing {module_name} fails: {failure(error)}") from error
        for part in name.split("."):
            inner = getattr(found, part, _ABSENT)
            if inner is _ABSENT:
                near = difflib.get_close_matches(part, dir(found), n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else "check the name after the colon"
                raise BadInput(f"{module_name} has no {part!r}; {hint}")
            found = inner
        return found

    def _call(self, factory: object, key: Key) -> nn.Module:
        if not callable(factory):
            raise BadInput(f"{self.path} is a {type(factory).__name__}, expected a module, its class or a function")
        arguments = dict(self.arguments)
        try:
            inspect.signature(factory).bind(**arguments)
        except (TypeError, ValueError) as error:
            raise BadInput(f"{self.path} does not take the arguments {arguments}: {error}") from error

        def build() -> object:
            # anew for each try, so that the weights do not depend on whether the model was counted first
            with key.isolated():
                return factory(**arguments)

        said = f"{self.path} with the arguments {arguments}" if arguments else self.path
        try:
            module = fitting(build, said)
        except BadInput:
            raise
        except RAISED as error:
            raise BadInput(f"{said} cannot be built: {failure(error)}") from error
        if not isinstance(module, nn.Module):
            raise BadInput(f"{self.path} returned a {type(module).__name__}, expected a torch.nn.Module")
        return module

    def _probe(self, target: Target) -> None:
        inputs = probe_inputs(target, 2, key=Key(0).child("probe"))
        outputs = probed(target, inputs, key=Key(0).child("probe"))
        if isinstance(outputs, Refusal):
            raise BadInput(
                f"{self.path}: {outputs.sentence}; change the domain, the number of classes or the arguments"
            )
