"""What names a model, after --model and in plans: an expression, an import path, a name of a library. One place."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from leakscope.audit.files import fingerprint
from leakscope.audit.plan import Plan
from leakscope.cli import console
from leakscope.cli.expressions import build
from leakscope.cli.rows import Family
from leakscope.cli.text.asked import Model
from leakscope.cli.text.models import expression, library, otherwise, split
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
"""What may stand before the colon besides a module (`cli.text.models.EXTRAS`); they take the classes at `build`."""

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
    prefix, name = split(text)
    if not prefix:
        return _expression(text)
    if prefix not in LIBRARIES:
        return Imported(text.strip())
    library(prefix, name)
    return LIBRARIES[prefix].build(name, classes)


def architecture(text: str, classes: int) -> AbstractArchitecture:
    """The recipe that `text` names, to be built now.

    Raises `BadInput` on a text that names nothing, `MissingExtra` when the library is not installed.
    """
    made = recipe(text, classes)
    prefix, _ = split(text)
    if prefix in LIBRARIES:
        declare_operators()
        optional(LIBRARIES[prefix].package, extra=LIBRARIES[prefix].extra, purpose=f"--model {text}")
    return made


def _expression(text: str) -> AbstractArchitecture:
    expression(text)  # with the list of targets where the name is misspelled
    try:
        built: AbstractArchitecture = build(text, Family.TARGETS)
    except UnknownName:
        raise
    except BadInput as error:
        raise BadInput(f"{error}; or {otherwise()}") from None
    return built


def tried_out(plan: Plan) -> Plan:
    """The plan itself, after every model that is not leakscope's own was built once for the data of its scene.

    A name that nothing has, an absent package or a model for other inputs would otherwise end every cell of it alike.
    Raises `BadInput` or `MissingExtra` with the scene.
    """
    for scene in plan.scenes:
        if not isinstance(scene.architecture, BROUGHT):
            continue
        said_by = f"{scene.source!r} has them: change the scene's dataset for others"
        try:
            made_for(scene.architecture, scene.source.domain, scene.source.classes, key=Key(0), said_by=said_by)
        except BadInput as error:
            raise BadInput(f"{scene.name}: {error}") from None
        except MissingExtra as error:
            raise MissingExtra(f"{scene.name}: {error}") from None
    return plan


OTHERS = "give --domain and --classes for others"


def made_for(recipe: AbstractArchitecture, domain: AbstractDomain, classes: int, *, key: Key, said_by: str) -> Target:
    """The target. said_by: the data that domain or classes were taken from, and what to do for others; or nothing.

    Raises `BadInput` where the model takes or tells apart something else, and says where that can be told.
    """
    try:
        return recipe.build(domain, classes, key=key)
    except BadInput as error:
        takes = f"inputs of {' x '.join(map(str, domain.shape))} and {classes} classes"
        raise BadInput(f"{error}{f'; it was made for {takes}, as {said_by}' if said_by else ''}") from None


def brought(asked: Model, domain: AbstractDomain, classes: int, *, said_by: str = "") -> tuple[Target, tuple[str, ...]]:
    """The target that was asked for, and what was done to the names of its weights. said_by: as in `made_for`.

    Raises `BadInput` when they do not fit.
    """
    weights = Key(asked.seed).child("weights")
    made = made_for(architecture(asked.model, classes), domain, classes, key=weights, said_by=said_by)
    if asked.allow_pickle:
        console.say("warning: --allow-pickle runs whatever code is in the files that it reads; use files you trust")
    if asked.state is None:
        return made, ()
    values = for_model(read_foreign(asked.state, allow_pickle=asked.allow_pickle), made.module)
    load_tensors(made.module, values, asked.state)
    return made, tuple(f"{asked.state}: {note}" for note in values.notes)


def check_weights(asked: Model, target: Target, wanted: str) -> None:
    """Raises `BadInput` when the weights are not those of the fingerprint `wanted`; an empty one says nothing."""
    if wanted and fingerprint(target) != wanted:
        given = f"the weights of {asked.state}" if asked.state is not None else f"weights drawn from seed {asked.seed}"
        raise BadInput(
            f"{asked.model} with {given} is not the model that this update was computed at: the fingerprints of "
            "the weights differ; give the file of those weights with --state"
        )
