"""Models of timm by name (extra "models")."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import final

from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput, UnknownName, optional
from leakscope.core.target import Target
from leakscope.domains.vision import Images
from leakscope.integrations.torchvision import declare_operators, local_only, near
from leakscope.numerics.rng import Key
from leakscope.targets.recipes.architecture import AbstractArchitecture
from leakscope.targets.recipes.imported import Argument, Imported


@final
@dataclass(frozen=True)
class Timm(AbstractArchitecture):
    """`timm.create_model(NAME, num_classes=classes, in_chans=channels, ...)`, weights from the key or the file `state`.

    arguments: (name, value) pairs, or a mapping, for the model, such as img_size=32 for vision transformers. Nothing is
    downloaded: published weights come in by `state`, a state dict with as many classes.
    Raises `BadInput` for what is no name, and, when it is built, `MissingExtra` without the package, `UnknownName` for
    another name, and `BadInput` as `Imported` does.

    >>> Timm("vit_tiny_patch16_224", {"img_size": 32}).arguments
    (('img_size', 32),)
    """

    name: str
    arguments: tuple[tuple[str, Argument], ...] = ()
    state: str | None = None
    training: bool = False

    def __post_init__(self) -> None:
        # those with a prefix, as hf_hub:NAME and local-dir:NAME, are read from elsewhere
        if not re.fullmatch(r"\w+(\.\w+)?", self.name):
            raise BadInput(f"expected the name of a model of timm such as 'resnet18', got {self.name!r}")
        object.__setattr__(self, "arguments", local_only(self.arguments))

    def build(self, domain: AbstractDomain, classes: int, *, key: Key) -> Target:
        """The target. Raises `BadInput` when name, arguments, weights or domain do not fit."""
        declare_operators()  # timm imports torchvision
        timm = optional("timm", extra="models", purpose=f"the model {self.name!r}")
        if self.name not in (known := timm.list_models()):
            raise UnknownName("timm model", self.name, near(self.name, known))
        channels = (("in_chans", domain.channels),) if isinstance(domain, Images) else ()
        arguments = (("model_name", self.name), ("num_classes", classes), *channels, *self.arguments)
        recipe = Imported("timm:create_model", arguments, self.state, self.training)
        return dataclasses.replace(recipe.build(domain, classes, key=key), name=repr(self))
