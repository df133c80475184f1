"""Weights from files that cannot run code: safetensors, or torch's own format read with `weights_only`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import nn

from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.core.target import Target
from leakscope.numerics.rng import Key
from leakscope.targets.files.tensors import listed, state_dict
from leakscope.targets.recipes.architecture import AbstractArchitecture


@final
@dataclass(frozen=True)
class Trained(AbstractArchitecture):
    """`architecture` with the weights and buffers of the file `state`: a trained target instead of a random one.

    Every name and shape must agree. `build`'s key then decides nothing. Raises as `load_state` does.
    """

    architecture: AbstractArchitecture
    state: str

    def build(self, domain: AbstractDomain, classes: int, *, key: Key) -> Target:
        """The target with the weights of the file. Raises `BadInput` when they do not fit."""
        target = self.architecture.build(domain, classes, key=key)
        load_state(target.module, self.state)
        return dataclasses.replace(target, name=repr(self))


def load_state(module: nn.Module, path: str) -> None:
    """Copy the state dict in the file `path` into `module`.

    Raises `BadInput` when the file is missing or damaged, would need pickle, or disagrees in a name or a shape.
    """
    found, wanted = state_dict(Path(path)), module.state_dict()
    missing, odd = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or odd:
        raise BadInput(
            f"{path} does not fit the model: it lacks {listed(missing)} and has besides {listed(odd)}; "
            f"rename or remove entries until they agree{_prefix(missing, odd)}"
        )
    for name, value in wanted.items():
        if found[name].shape != value.shape:
            raise BadInput(
                f"{name} has shape {tuple(found[name].shape)} in {path}, the model has {tuple(value.shape)}; "
                "give the model the sizes and the number of classes that it was trained with"
            )
        if not bool(torch.isfinite(found[name]).all()):
            raise BadInput(f"{name} in {path} holds values that are not finite; the training diverged")
    module.load_state_dict(found)


def _prefix(missing: list[str], odd: list[str]) -> str:
    """A wrapper (DistributedDataParallel, torch.compile) puts the same prefix before every name."""
    for name in odd[:1]:
        prefix = name.removesuffix(missing[0]) if missing else name
        if prefix != name and sorted(prefix + m for m in missing) == odd:
            return f" (all have the prefix {prefix!r}: save model{'.' + prefix.rstrip('.')}.state_dict() instead)"
    return ""
