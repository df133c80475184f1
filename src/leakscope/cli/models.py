"""What names a model, after --model and in plans: an expression, an import path, a name of a library. One place."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from leakscope.audit.files import fingerprint
from leakscope.audit.plan import Plan
from leakscope.cli import console
from leakscope.cli.expressions import SINGULAR, build
from leakscope.cli.names import Family, rows
from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput, MissingExtra, UnknownName, optional
from leakscope.core.target import Target
from leakscope.integrations.timm import Timm
from leakscope.integrations.torchvision import Torchvision, declare_operators
from leakscope.numerics.rng import Key
from leakscope.targets.files.foreign import for_model, load_tensors, read_foreign
from leakscope.targets.recipes.architecture import AbstractArchitecture
from leakscope.targets.recipes.imported import Argument, Imported


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

BROUGHT = (Imported, Torchvision, Timm)
"""Models that leakscope does not bring itself: whether they can be built shows when they are."""


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


def recipe(text: str, classes: int) -> AbstractArchitecture:
    """The recipe that `text` names; nothing is imported. classes: for libraries, whose models have others by default.

    Raises `BadInput` on a text that names nothing.

    >>> recipe("MLP((8,))", 10)
    MLP(widths=(8,), dropout=0.0, activation=Activation.RELU, training=False)
    >>> recipe("mymodel:Net", 10)
    Imported(path='mymodel:Net', arguments=(), state=None, training=False)
    >>> recipe("torchvision:resnet18", 10)
    Torchvision(name='resnet18', arguments=(), state=None, training=False)
    """
    prefix, colon, name = text.strip().partition(":")
    if not colon or "(" in prefix:
        return _expression(text)
    if prefix not in LIBRARIES:
        return Imported(text.strip())
    if not re.fullmatch(r"[\w.\-/]+(@[\w.\-/=,+]+)?", name):
        raise BadInput(f"expected {prefix}:NAME such as {prefix}:resnet18, got {text!r}")
    return LIBRARIES[prefix].build(name, classes)


def architecture(text: str, classes: int) -> AbstractArchitecture:
    """The recipe that `text` names, to be built now.

    Raises `BadInput` on a text that names nothing, `MissingExtra` when the library is not installed.
    """
    made = recipe(text, classes)
    prefix, colon, _ = text.strip().partition(":")
    if colon and prefix in LIBRARIES:
        declare_operators()
        optional(LIBRARIES[prefix].package, extra=LIBRARIES[prefix].extra, purpose=f"--model {text}")
    return made


def _expression(text: str) -> AbstractArchitecture:
    try:
        built: AbstractArchitecture = build(text, Family.TARGETS)
    except UnknownName as error:
        # A misspelled argument is another unknown name, and has its own list.
        targets = [row.name for row in rows(Family.TARGETS)]
        raise (UnknownName("target", error.got, targets) if error.kind == SINGULAR[Family.TARGETS] else error) from None
    except BadInput as error:
        raise BadInput(
            f"{error}; or give PACKAGE.MODULE:FACTORY, or one of {', '.join(f'{prefix}:NAME' for prefix in LIBRARIES)}"
        ) from None
    return built


def tried_out(plan: Plan) -> Plan:
    """The plan itself, after every model that is not leakscope's own was built once for the data of its scene.

    A name that nothing has, an absent package or a model for other inputs would otherwise end every cell of it alike.
    Raises `BadInput` or `MissingExtra` with the scene.
    """
    for scene in plan.scenes:
        if not isinstance(scene.architecture, BROUGHT):
            continue
        try:
            scene.architecture.build(scene.source.domain, scene.source.classes, key=Key(0))
        except BadInput as error:
            raise BadInput(f"{scene.name}: {error}") from None
        except MissingExtra as error:
            raise MissingExtra(f"{scene.name}: {error}") from None
    return plan


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
        values = for_model(read_foreign(self.state, allow_pickle=self.allow_pickle), made.module)
        load_tensors(made.module, values, self.state)
        return made, tuple(f"{self.state}: {note}" for note in values.notes)

    def check(self, target: Target, wanted: str) -> None:
        """Raises `BadInput` when the weights are not those of the fingerprint; an empty one says nothing."""
        if wanted and fingerprint(target) != wanted:
            given = "the weights of " + self.state if self.state is not None else f"weights drawn from seed {self.seed}"
            raise BadInput(
                f"{self.model} with {given} is not the model that this update was computed at: the fingerprints of "
                "the weights differ; give the file of those weights with --state"
            )
