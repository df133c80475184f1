"""Weights from files that cannot run code: safetensors, or torch's own format read with `weights_only`."""

from __future__ import annotations

import dataclasses
import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.core.target import Target
from leakscope.numerics.rng import Key
from leakscope.targets.looking.probe import first_line
from leakscope.targets.recipes.architecture import AbstractArchitecture

DAMAGE = (
    safetensors.SafetensorError, pickle.UnpicklingError, struct.error, RuntimeError, OSError, EOFError, ValueError,
    LookupError, TypeError, AttributeError, AssertionError, OverflowError,
)  # fmt: skip
"""What the two readers raise on bytes that are not theirs; torch's has no error of its own."""


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
    found, wanted = _read(Path(path)), module.state_dict()
    missing, odd = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or odd:
        raise BadInput(
            f"{path} does not fit the model: it lacks {_some(missing)} and has besides {_some(odd)}; "
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


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise BadInput(f"no file {path}; expected a state dict, saved by safetensors or torch.save")
    try:
        content = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except DAMAGE as error:
        raise BadInput(
            f"{path} cannot be read as plain tensors ({first_line(error)}); save the state dict itself: "
            "torch.save(model.state_dict(), path), or safetensors.torch.save_file"
        ) from error
    if not isinstance(content, Mapping):
        raise BadInput(f"{path} holds a {type(content).__name__}, expected a state dict; save model.state_dict()")
    others = sorted(str(name) for name, value in content.items() if not isinstance(value, Tensor))
    if others:
        raise BadInput(f"{path} holds entries that are not tensors, {_some(others)}; save the state dict by itself")
    return dict(content)


def _some(names: list[str]) -> str:
    if not names:
        return "nothing"
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _prefix(missing: list[str], odd: list[str]) -> str:
    """A wrapper (DistributedDataParallel, torch.compile) puts the same prefix before every name."""
    for name in odd[:1]:
        prefix = name.removesuffix(missing[0]) if missing else name
        if prefix != name and sorted(prefix + m for m in missing) == odd:
            return f" (all have the prefix {prefix!r}: save model{'.' + prefix.rstrip('.')}.state_dict() instead)"
    return ""
