"""What may stand after --model: an expression, an import path, or a name of a model library. One place for all."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from leakscope.audit.handover import fingerprint
from leakscope.cli import console
from leakscope.cli.expressions import build
from leakscope.cli.names import Family, rows
from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput, UnknownName, optional
from leakscope.core.target import Target
from leakscope.integrations.timm import Timm
from leakscope.integrations.torchvision import Torchvision, declare_operators
from leakscope.numerics.rng import Key
from leakscope.targets.architecture import AbstractArchitecture
from leakscope.targets.foreign import fitted, load_fitted, read_foreign
from leakscope.targets.load import Argument, Imported


@final
@dataclass(frozen=True)
class Library:
    """Models by their name in a package. package: what to import. build: from the name and the number of classes."""

    package: str
    extra: str
    build: Callable[[str, int], AbstractArchitecture]


LIBRARIES: dict[str, Library] = {
    "torchvision": Library("torchvision", "models", lambda name, classes: Torchvision(*_parts(name))),
    "timm": Library("timm", "models", lambda name, classes: Timm(*_parts(name))),
}
"""What may stand before the colon besides a module: a new library is a line. These take the classes at `build`."""


def _parts(text: str) -> tuple[str, tuple[tuple[str, Argument], ...]]:
    """The name, and the arguments after an @.

    >>> _parts("vit_tiny@img_size=32,global_pool=avg")
    ('vit_tiny', (('img_size', 32), ('global_pool', 'avg')))
    """
    name, _, said = text.partition("@")
    pairs = [part.partition("=") for part in said.split(",") if part]
    if any(not value for _, _, value in pairs):
        raise BadInput(f"expected NAME@ARGUMENT=VALUE,..., got {text!r}")
    return name, tuple((key, _value(value)) for key, _, value in pairs)


def _value(text: str) -> Argument:
    try:
        read = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text
    return read if isinstance(read, bool | int | float | str) else text


def architecture(text: str, classes: int) -> AbstractArchitecture:
    """The recipe that `text` names. classes: for libraries, whose models have another number by default.

    Raises `BadInput` on a text that names nothing, `MissingExtra` when the library is not installed.

    >>> architecture("MLP((8,))", 10)
    MLP(widths=(8,), dropout=0.0, activation=Activation.RELU, training=False)
    >>> architecture("mymodel:Net", 10)
    Imported(path='mymodel:Net', arguments=(), state=None, training=False)
    """
    prefix, colon, name = text.strip().partition(":")
    if not colon or "(" in prefix:
        return _expression(text)
    if prefix not in LIBRARIES:
        return Imported(text.strip())
    library = LIBRARIES[prefix]
    if not re.fullmatch(r"[\w.\-/]+(@[\w.\-/=,+]+)?", name):
        raise BadInput(f"expected {prefix}:NAME such as {prefix}:resnet18, got {text!r}")
    declare_operators()
    optional(library.package, extra=library.extra, purpose=f"--model {text}")
    return library.build(name, classes)


def _expression(text: str) -> AbstractArchitecture:
    try:
        built: AbstractArchitecture = build(text, Family.TARGETS)
    except UnknownName as error:
        raise UnknownName("target", error.got, [row.name for row in rows(Family.TARGETS)]) from None
    except BadInput as error:
        raise BadInput(
            f"--model {text}: {error}; or give PACKAGE.MODULE:FACTORY, or one of "
            f"{', '.join(f'{prefix}:NAME' for prefix in LIBRARIES)}"
        ) from None
    return built


@final
@dataclass(frozen=True)
class Brought:
    """A model as it was asked for. state: a file of weights, as in `read_foreign`; seed: else they are drawn."""

    model: str
    state: str | None = None
    seed: int = 0
    allow_pickle: bool = False

    def target(self, domain: AbstractDomain, classes: int) -> tuple[Target, tuple[str, ...]]:
        """The target, and what was done to the names of its weights. Raises `BadInput` when they do not fit."""
        made = architecture(self.model, classes).build(domain, classes, key=Key(self.seed).child("weights"))
        if self.allow_pickle:
            console.say("warning: --allow-pickle runs whatever code is in the files that it reads; use files you trust")
        if self.state is None:
            return made, ()
        values = fitted(read_foreign(self.state, allow_pickle=self.allow_pickle), made.module)
        load_fitted(made.module, values, self.state)
        return made, tuple(f"{self.state}: {note}" for note in values.notes)

    def check(self, target: Target, wanted: str) -> None:
        """Raises `BadInput` when the weights are not those of the fingerprint; an empty one says nothing."""
        if wanted and fingerprint(target) != wanted:
            given = "the weights of " + self.state if self.state is not None else f"weights drawn from seed {self.seed}"
            raise BadInput(
                f"{self.model} with {given} is not the model that this update was computed at: the fingerprints of "
                "the weights differ; give the file of those weights with --state"
            )
