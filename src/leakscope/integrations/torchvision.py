"""Models of torchvision by name (extra "models")."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.util
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput, UnknownName, optional
from leakscope.core.target import Target
from leakscope.numerics.rng import Key
from leakscope.targets.recipes.architecture import AbstractArchitecture
from leakscope.targets.recipes.imported import Argument, Imported

OPERATORS = ("nms", "qnms")
"""What torchvision's Python part registers for its compiled part at import, whether that was loaded or not."""

_declared: list[torch.library.Library] = []
"""A declaration lives as long as its library object."""


def declare_operators() -> None:
    """Make `import torchvision` possible where its compiled part does not fit this torch (one for CUDA, one without).

    The import then fails with "operator torchvision::nms does not exist", although no classifier needs that operator.
    Where the compiled part loads, where torchvision is absent, or where it is imported already, nothing is done.
    An operator that is only declared raises `NotImplementedError` when it is called; other errors stay as they are.
    """
    if "torchvision" in sys.modules:
        return
    found = importlib.util.find_spec("torchvision")
    if found is None or _loads([Path(place) for place in found.submodule_search_locations or ()]):
        return
    for name in OPERATORS:
        if getattr(torch.ops.torchvision, name, None) is None:
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _declared.append(library)


def _loads(places: list[Path]) -> bool:
    """Whether the compiled part can be loaded, which torchvision tries in the same way."""
    for compiled in (path for place in places for pattern in ("_C*.so", "_C*.pyd") for path in place.glob(pattern)):
        try:
            torch.ops.load_library(str(compiled))
        except OSError:
            continue
        return True
    return False


@final
@dataclass(frozen=True)
class Torchvision(AbstractArchitecture):
    """`torchvision.models.NAME(num_classes=classes, ...)` with weights drawn from the key, or from the file `state`.

    name: one of `torchvision.models.list_models(torchvision.models)`, such as "resnet18". arguments: (name, value)
    pairs, or a mapping, for the function. Nothing is downloaded: published weights come in by `state`, a state
    dict with as many classes. The models take three channels.
    Raises `BadInput` for what is no name, and, when it is built, `MissingExtra` without the package, `UnknownName` for
    another name, and `BadInput` as `Imported` does.

    >>> Torchvision("resnet18")
    Torchvision(name='resnet18', arguments=(), state=None, training=False)
    """

    name: str
    arguments: tuple[tuple[str, Argument], ...] = ()
    state: str | None = None
    training: bool = False

    def __post_init__(self) -> None:
        # resnet.torch.hub.load is a path inside of torchvision.models as well; whether the package is there or not
        if not self.name.isidentifier():
            raise BadInput(f"expected the name of a model of torchvision.models such as 'resnet18', got {self.name!r}")
        object.__setattr__(self, "arguments", local_only(self.arguments))

    def build(self, domain: AbstractDomain, classes: int, *, key: Key) -> Target:
        """The target. Raises `BadInput` when name, arguments, weights or domain do not fit."""
        declare_operators()
        optional("torchvision", extra="models", purpose=f"the model {self.name!r}")
        models = importlib.import_module("torchvision.models")
        # By the names that it registers alone: what else is in it are other modules, and through them anything.
        if self.name not in (known := models.list_models(module=models)):
            raise UnknownName("torchvision model", self.name, near(self.name, known))
        arguments = (("num_classes", classes), *self.arguments)
        recipe = Imported(f"torchvision.models:{self.name}", arguments, self.state, self.training)
        return dataclasses.replace(recipe.build(domain, classes, key=key), name=repr(self))


def near(name: str, known: Iterable[str]) -> list[str]:
    """The names, of many, that are most like this one; the first ones where none is.

    >>> near("resnet81", ["alexnet", "resnet18", "vgg11"])
    ['resnet18']
    """
    every = sorted(known)
    return difflib.get_close_matches(name, every, n=8, cutoff=0.6) or every[:20]


def local_only(arguments: object) -> tuple[tuple[str, Argument], ...]:
    """The pairs in the order of their names.

    Raises `BadInput` on what would download weights, read them by pickle, or set the classes.
    """
    pairs = dict(arguments)  # type: ignore[call-overload]
    for name in ("pretrained", "weights", "weights_backbone"):
        if pairs.get(name):
            raise BadInput(
                f"{name}={pairs[name]!r} would download weights, and leakscope loads nothing from elsewhere; give a "
                "file of weights with --state, or state=... in a plan"
            )
    if pairs.get("checkpoint_path"):
        raise BadInput(
            "checkpoint_path=... would be read by pickle, which runs whatever code is in the file; give a state dict "
            "with --state, or state=... in a plan"
        )
    for name in ("classes", "num_classes"):
        if name in pairs:
            raise BadInput(f"{name} follows from the data, or from --classes; take it out of the model's arguments")
    return tuple(sorted(pairs.items()))
