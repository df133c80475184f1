"""The one recorder of hooks: what the layers of anybody's model are given and return while it runs.

Every forward hook of the package is registered here and is gone when its block ends, however it ends: a hook that
stayed would make the next audit of the same target another one.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from leakscope.core.batch import Batch
from leakscope.core.target import Target
from leakscope.numerics.rng import Key
from leakscope.numerics.trees import Named

WATCHED = (nn.Linear, nn.Conv2d, nn.LayerNorm, nn.MultiheadAttention, nn.Embedding)
"""The layers that `running` records: where an image or a text enters a transformer, these are the ones to read."""


@final
@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer: its name in the model, what it was given and what it returned.

    Where several tensors go in or come out, the first: the input and the hidden states of a recurrent layer.
    """

    name: str
    module: nn.Module
    given: Tensor
    returned: Tensor

    @property
    def prefix(self) -> str:
        """What its parameters' names begin with; empty where the layer is the model itself."""
        return f"{self.name}." if self.name else ""

    @property
    def weights(self) -> tuple[str, ...]:
        """The parameters that multiply what is given."""
        if isinstance(self.module, nn.MultiheadAttention):
            return (f"{self.prefix}in_proj_weight",)
        return (f"{self.prefix}weight",)

    @property
    def bias(self) -> str | None:
        """The parameter that is added to the product, or None where there is none."""
        return None if self.module.bias is None else f"{self.prefix}bias"

    @property
    def matrix(self) -> Tensor:
        """The weight of a Conv2d or Linear, (outputs, inputs)."""
        assert isinstance(self.module, nn.Conv2d | nn.Linear)
        return self.module.weight.detach().flatten(1)

    @property
    def dense(self) -> bool:
        """Whether it multiplies each of (B, N, features) by a matrix."""
        return isinstance(self.module, nn.Linear | nn.MultiheadAttention) and self.given.dim() == 3


def named(module: nn.Module, *kinds: type[nn.Module]) -> tuple[str, ...]:
    """The names of the layers of these kinds, in the order of `named_modules`; a shared layer once.

    >>> named(nn.Sequential(nn.Linear(1, 1), nn.ReLU()), nn.Linear)
    ('0',)
    """
    return tuple(name for name, layer in module.named_modules() if isinstance(layer, kinds))


def innermost(module: nn.Module) -> tuple[str, ...]:
    """The names of the layers without layers inside.

    >>> innermost(nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.ReLU())))
    ('0', '1.0')
    """
    return tuple(name for name, layer in module.named_modules() if not any(layer.children()))


def copied(value: Tensor) -> Tensor:
    """Out of the graph and in memory of its own: a later layer in place overwrites what an earlier one returned."""
    return value.detach().clone()


def itself(value: Tensor) -> Tensor:
    """The very tensor, in the graph; who compares by identity or differentiates wants this one."""
    return value


@contextmanager
def recorded(
    module: nn.Module, names: Iterable[str], *, keep: Callable[[Tensor], Tensor] = copied
) -> Iterator[list[Call]]:
    """The calls of these layers inside the block, in the order in which they return.

    keep: what is kept of a tensor, asked when the layer is given it and when it has returned it. Calls are left out
    that are given or return no tensor, and those of an attention that looks at something else than itself.

    >>> net = nn.Sequential(nn.Identity(), nn.Flatten())
    >>> with recorded(net, ["1"]) as calls:
    ...     _ = net(torch.zeros(2, 3, 4))
    >>> [(call.name, tuple(call.given.shape), tuple(call.returned.shape)) for call in calls]
    [('1', (2, 3, 4), (2, 12))]
    """
    calls: list[Call] = []
    # the stack undoes what was registered, also where a later name is wrong or the model fails
    with contextlib.ExitStack() as handles:
        for name in names:
            _record(handles, name, module.get_submodule(name), calls, keep)
        yield calls


def _record(
    handles: contextlib.ExitStack,
    name: str,
    layer: nn.Module,
    calls: list[Call],
    keep: Callable[[Tensor], Tensor],
) -> None:
    # a stack, and not one place: a layer may be called again inside its own call
    open_calls: list[Tensor | None] = []

    def before(_: nn.Module, given: tuple[Any, ...], by_name: dict[str, Any]) -> None:
        # kept on the way in: a layer in place writes its output into what it was given
        first = _first(layer, given, by_name)
        open_calls.append(None if first is None else keep(first))

    def after(_: nn.Module, __: tuple[Any, ...], returned: Any) -> None:
        given, out = open_calls.pop(), returned[0] if isinstance(returned, tuple) and returned else returned
        # nothing to read of a call without tensors; its neighbors are recorded all the same
        if given is not None and isinstance(out, Tensor):
            calls.append(Call(name, layer, given, keep(out)))

    handles.callback(layer.register_forward_pre_hook(before, with_kwargs=True).remove)
    handles.callback(layer.register_forward_hook(after).remove)


@contextmanager
def listening(module: nn.Module, listeners: Mapping[str, Callable[[Tensor], None]]) -> Iterator[None]:
    """Inside the block, each listener is told what the layer of its name is given, before that layer runs.

    For what must be computed on the way (statistics of a tensor that is overwritten later) or end the run.
    """
    with contextlib.ExitStack() as handles:
        for name, listener in listeners.items():
            _hear(handles, module.get_submodule(name), listener)
        yield


def _hear(handles: contextlib.ExitStack, layer: nn.Module, listener: Callable[[Tensor], None]) -> None:
    def before(_: nn.Module, given: tuple[Any, ...], by_name: dict[str, Any]) -> None:
        first = _first(layer, given, by_name)
        if first is not None:
            listener(first)

    handles.callback(layer.register_forward_pre_hook(before, with_kwargs=True).remove)


@contextmanager
def rewritten(module: nn.Module, functions: Mapping[str, Callable[[Tensor, Tensor], Tensor]]) -> Iterator[None]:
    """Inside the block, the layer `name` returns functions[name](given, returned) instead of `returned`.

    A recorder that is opened inside this block sees what is returned instead.

    >>> net = nn.Sequential(nn.Identity())
    >>> with rewritten(net, {"0": lambda given, returned: 2 * returned}):
    ...     net(torch.ones(1))
    tensor([2.])
    """
    with contextlib.ExitStack() as handles:
        for name, function in functions.items():
            handles.callback(_rewrite(module.get_submodule(name), function).remove)
        yield


def _rewrite(layer: nn.Module, function: Callable[[Tensor, Tensor], Tensor]) -> torch.utils.hooks.RemovableHandle:
    def after(_: nn.Module, given: tuple[Tensor, ...], returned: Tensor) -> Tensor:
        return function(given[0], returned)

    return layer.register_forward_hook(after)


def multiplied(module: nn.Module, factors: Named) -> nn.Module:
    """A copy of the model whose layers return their output times their factor; parameters keep their names.

    The one case in which hooks stay, because they are part of the copy: a module of its own around the layer would
    rename its parameters, and the update would no longer fit.

    >>> net = multiplied(nn.Sequential(nn.Identity()), {"0": torch.tensor([0.0, 1.0])})
    >>> net(torch.ones(2))
    tensor([0., 1.])
    """
    # the caller's model goes on as it is
    changed = copy.deepcopy(module)
    for name, factor in factors.items():
        changed.get_submodule(name).register_forward_hook(_Times(factor))
    return changed


@final
@dataclass(frozen=True, eq=False)
class _Times:
    """A hook that is data, so that it is copied and sent to other processes with the module that it is on."""

    factor: Tensor

    def __call__(self, module: nn.Module, given: tuple[Tensor, ...], returned: Tensor) -> Tensor:
        return returned * self.factor


@final
class _ReachedError(Exception):
    """The layer that a run was for has been called."""


@final
@dataclass(frozen=True, eq=False)
class Doubled:
    """A float64 copy of a target's model, fed as the target is; its parameters are in the graph.

    In the graph also because torch's encoder layers take a shortcut past their parts otherwise.
    """

    target: Target
    module: nn.Module

    @classmethod
    def of(cls, target: Target) -> Doubled:
        """The copy of this target's model."""
        return cls(target, copy.deepcopy(target.module).double().requires_grad_(True))

    def __call__(self, inputs: Tensor | Batch) -> Tensor:
        """The logits of `inputs` (B, *shape), or of a batch in float64."""
        return self.target.through(self.module, inputs)


@contextmanager
def running(target: Target) -> Iterator[tuple[Doubled, list[Call]]]:
    """A float64 copy of the model, and the calls of its layers as they come, in the graph."""
    model = Doubled.of(target)
    with (
        recorded(model.module, named(model.module, *WATCHED), keep=itself) as calls,
        Key(0).child("running").isolated(),
        torch.enable_grad(),
    ):
        yield model, calls


def given_to(model: Doubled, name: str, inputs: Tensor | Batch, *, turn: int = 0) -> Tensor:
    """What the layer `name` is given in its call number `turn`, from 0; the rest of the model is not run."""
    seen: list[Tensor] = []

    def until(given: Tensor) -> None:
        # out of the graph: it is compared or solved for, never differentiated through
        seen.append(given.detach())
        if len(seen) > turn:
            # the rest of the model may be the larger part, and is not asked for
            raise _ReachedError

    with (
        listening(model.module, {name: until}),
        Key(0).child("running").isolated(),
        torch.enable_grad(),
        contextlib.suppress(_ReachedError),
    ):
        model(inputs)
    return seen[turn]


def _first(layer: nn.Module, given: tuple[Any, ...], by_name: dict[str, Any]) -> Tensor | None:
    """The input, by place or by name; None where it is no tensor.

    Of an attention only where it looks at itself (query, key and value are one), with the examples first.
    """
    inputs = [*given, *by_name.values()]
    if not inputs or not isinstance(inputs[0], Tensor):
        return None
    first = inputs[0]
    if not isinstance(layer, nn.MultiheadAttention):
        return first
    # attention to other tokens, or with three widths, multiplies several inputs by several matrices
    if not (inputs[0] is inputs[1] is inputs[2]) or layer.in_proj_weight is None:
        return None
    return first if layer.batch_first else first.transpose(0, 1)
