"""Whether what a layer is fed can never be negative, because of the functions that made it, whatever the weights."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from leakscope.core.target import Target
from leakscope.numerics.rng import Key
from leakscope.targets.looking.dense_ends import probe_inputs
from leakscope.targets.looking.probe import FORWARD_ERRORS
from leakscope.targets.looking.tape import itself, recorded

# Names of aten operators without their overload, in place or not.
POSITIVE = frozenset(
    ["relu", "sigmoid", "hardsigmoid", "softmax", "_softmax", "abs", "exp", "softplus", "square", "bernoulli"]
)
"""Never negative, whatever they are given."""
KEEPING = frozenset(
    [
        "view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "unflatten", "permute", "transpose", "t",
        "expand", "squeeze", "unsqueeze", "select", "slice", "narrow", "split", "chunk", "unbind", "cat", "stack",
        "clone", "contiguous", "copy", "to", "_to_copy", "alias", "detach", "index", "index_select", "gather",
        "mean", "sum", "amax", "max", "min", "cumsum", "sqrt", "avg_pool1d", "avg_pool2d", "avg_pool3d",
        "adaptive_avg_pool1d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "max_pool2d",
        "max_pool1d", "max_pool2d_with_indices", "adaptive_max_pool2d", "max_pool3d_with_indices",
        "native_dropout", "dropout", "lift_fresh",
    ]
)  # fmt: skip
"""Never negative where nothing that they are given is, numbers included."""
PICKING = frozenset(["index", "index_select", "gather"])
"""Of these by the first alone: the others say which entries are taken."""
CONVERTING = frozenset(["to", "_to_copy", "sum", "mean", "cumsum"])
"""They may change the type of numbers."""


ARITHMETIC = frozenset(["add", "mul", "div", "constant_pad_nd"])
"""The same, where any number among what they are given counts: a term, a factor, alpha."""


def fed_nonnegative(target: Target, name: str) -> bool:
    """Whether the layer `name` can only be fed numbers >= 0: its input is made by functions that give no others.

    By what the functions are, not by what came out: a hundred inputs without a negative feature are no proof. An
    unknown function is taken for one that can give negative numbers.

    >>> from torch import nn
    >>> from leakscope import Images
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3))
    >>> fed_nonnegative(Target(net, Images(1, 2, 2), 3), "4")
    True
    >>> fed_nonnegative(Target(net, Images(1, 2, 2), 3), "1")
    False
    """
    inputs = probe_inputs(target, 2, key=Key(0).child("sign"))
    try:
        # The recorder outside: what it is told must still be there when the functions have been watched.
        with (
            recorded(target.module, [name], keep=itself) as calls,
            Key(0).child("sign").isolated(),
            torch.no_grad(),
            _Watched() as watched,
        ):
            target.outputs(target.parameters(), inputs)
    # Somebody's model, which runs and cannot be watched: tensors that are swapped, graphs that were traced.
    except (*FORWARD_ERRORS, ArithmeticError, pickle.PickleError):
        return False
    # What no function shows (data that were exchanged, memory shared with numpy) may show in the numbers.
    return bool(calls) and all(call.given in watched.positive and not bool((call.given < 0).any()) for call in calls)


@final
class _Watched(TorchDispatchMode):
    """Remembers which tensors no function can have made negative."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.positive: Any = WeakTensorKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = {**(kwargs or {})}
        returned = func(*args, **given)
        name = str(func.overloadpacket.__name__).rstrip("_")
        known = self._known(name, args, given)
        for one in returned if isinstance(returned, tuple | list) else (returned,):
            if not isinstance(one, Tensor):
                continue
            # Of whole numbers even the absolute value may be negative: -128 of eight bits has none.
            if known and _wide(one.dtype):
                self.positive[one] = True
        # Written in place: whatever shares its memory may have changed, and a view does not say whose it is.
        if not known and func._schema.is_mutable:
            self.positive.clear()
        return returned

    def _known(self, name: str, args: tuple[Any, ...], given: Mapping[str, Any]) -> bool:
        # Squares of complex numbers are anything, and so is what is made of them; only their size is not.
        if any(_complex(one) for one in (*args, *given.values())):
            return name == "abs"
        # (1 / beta) log(1 + exp(beta x)), and x itself beyond the threshold.
        if name == "softplus":
            beta, most = (given.get(key, _at(args, place, 1)) for place, key in ((1, "beta"), (2, "threshold")))
            return _no_less(beta) and beta > 0 and _no_less(most)
        if name in POSITIVE:
            return True
        if name in ("clamp", "clamp_min", "hardtanh", "threshold"):
            least, most = given.get("min", _at(args, 1, None)), given.get("max", _at(args, 2, None))
            # The upper bound wins where it is below the lower one.
            return isinstance(least, int | float) and least >= 0 and not isinstance(most, Tensor) and _no_less(most)
        if name == "pow":
            return len(args) > 1 and args[1] in (2, 2.0, 4, 4.0)
        # Whole numbers of few bits wrap around: 200 is -56 of eight.
        if name in CONVERTING and not _wide(given.get("dtype", _at(args, 1, None))):
            return False
        if name in PICKING:
            return _all(args[:1], self._fine)
        if name in ARITHMETIC:
            # The padding's widths come before its value, and may be negative.
            numbers = args[:1] + args[2:] if name == "constant_pad_nd" else args
            return _all((*numbers, *given.values()), self._fine) and _all((*numbers, *given.values()), _no_less)
        return name in KEEPING and _all((*args, *given.values()), self._fine)

    def _fine(self, value: Any) -> bool:
        if isinstance(value, Tensor):
            return value.dtype in (torch.bool, torch.uint8) or value in self.positive
        # A dimension may be negative, and says nothing of values.
        return True


def _no_less(value: Any) -> bool:
    return not isinstance(value, int | float) or value >= 0


def _at(args: tuple[Any, ...], place: int, other: Any) -> Any:
    return args[place] if len(args) > place else other


def _complex(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_complex()


def _wide(kind: Any) -> bool:
    """Whether numbers >= 0 stay so in this type; what is no type changes none."""
    return not isinstance(kind, torch.dtype) or kind.is_floating_point or kind in (torch.bool, torch.uint8)


def _all(values: Sequence[Any], test: Callable[[Any], bool]) -> bool:
    return all(_all(one, test) if isinstance(one, tuple | list) else test(one) for one in values)
