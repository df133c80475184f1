"""The layers of anybody's model, watched while a float64 copy of it runs."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from leakscope.core.target import Target
from leakscope.numerics.rng import Key

WATCHED = nn.Linear | nn.Conv2d | nn.LayerNorm | nn.MultiheadAttention | nn.Embedding


@final
@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer: its place in the model, what it was given and what it returned, in the graph."""

    name: str
    module: nn.Module
    given: Tensor
    returned: Tensor

    @property
    def weights(self) -> tuple[str, ...]:
        """The parameters that multiply what is given."""
        prefix = f"{self.name}." if self.name else ""
        if isinstance(self.module, nn.MultiheadAttention):
            return (f"{prefix}in_proj_weight",)
        return (f"{prefix}weight",)

    @property
    def matrix(self) -> Tensor:
        """The weight of a Conv2d or Linear, (outputs, inputs)."""
        assert isinstance(self.module, nn.Conv2d | nn.Linear)
        return self.module.weight.detach().flatten(1)

    @property
    def dense(self) -> bool:
        """Whether it multiplies each of (B, N, features) by a matrix."""
        return isinstance(self.module, nn.Linear | nn.MultiheadAttention) and self.given.dim() == 3


@final
class _ReachedError(Exception):
    """The layer that a run was for has been called."""


@contextmanager
def running(target: Target) -> Iterator[tuple[nn.Module, list[Call]]]:
    """A float64 copy of the model whose parameters are in the graph, and the calls of its layers as they come.

    In the graph also because torch's encoder layers take a shortcut past their parts otherwise.
    """
    module = doubled(target)
    calls: list[Call] = []

    def watch(name: str, layer: nn.Module) -> None:
        def hook(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any], returned: Any) -> None:
            first = _given(layer, given, named)
            if first is not None:
                calls.append(Call(name, layer, first, returned[0] if isinstance(returned, tuple) else returned))

        layer.register_forward_hook(hook, with_kwargs=True)

    for name, layer in module.named_modules():
        if isinstance(layer, WATCHED):
            watch(name, layer)
    with Key(0).child("running").isolated(), torch.enable_grad():
        yield module, calls


def doubled(target: Target) -> nn.Module:
    """A float64 copy of the model whose parameters are in the graph."""
    return copy.deepcopy(target.module).double().requires_grad_(True)


def given_to(module: nn.Module, name: str, inputs: Tensor, *, turn: int = 0) -> Tensor:
    """What the layer `name` is given in its call number `turn`, from 0; the rest of the model is not run."""
    layer, seen = module.get_submodule(name), list[Tensor]()

    def hook(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        first = _given(layer, given, named)
        assert first is not None
        seen.append(first.detach())
        if len(seen) > turn:
            raise _ReachedError

    handle = layer.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        with Key(0).child("running").isolated(), torch.enable_grad(), contextlib.suppress(_ReachedError):
            module(inputs)
    finally:
        handle.remove()
    return seen[turn]


def _given(layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Tensor | None:
    """The input; of an attention only where it looks at itself, with the examples first."""
    inputs = [*given, *named.values()]
    first: Tensor = inputs[0]
    if not isinstance(layer, nn.MultiheadAttention):
        return first
    if not (inputs[0] is inputs[1] is inputs[2]) or layer.in_proj_weight is None:
        return None
    return first if layer.batch_first else first.transpose(0, 1)
