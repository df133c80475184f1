"""Which dense layers follow a layer on context windows, frame by frame, and how they are joined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leakscope.core.target import Target
from leakscope.numerics.rng import Key
from leakscope.targets.looking.context_window import ContextWindow
from leakscope.targets.looking.dense_ends import probe_inputs
from leakscope.targets.looking.tape import named, recorded

Array = NDArray[np.float64]

LOUDNESS = 1e4
"""A probe so loud that whatever clips, clips."""


@final
@dataclass(frozen=True, eq=False)
class Dense:
    """One layer z = x W + b. names: of weight and bias. weight: (n, H). bias: (H,), float64."""

    names: tuple[str, str]
    weight: Array
    bias: Array


@final
@dataclass(frozen=True, eq=False)
class DenseStack:
    """layers[0] is fed the window, each further one h = min(max(z, 0), clip) of the layer before it, frame by frame."""

    layers: tuple[Dense, ...]
    clip: float

    def inputs(self, windows: Array, depth: int) -> tuple[list[Array], list[NDArray[np.bool_]]]:
        """What enters the first `depth` layers, (T, n) each, and where the layers between them are linear, (T, H)."""
        entering: list[Array] = [windows]
        active: list[NDArray[np.bool_]] = []
        for layer in self.layers[: depth - 1]:
            z = entering[-1] @ layer.weight + layer.bias
            # strictly between: at a kink the slope is torch's choice, and no probability is lost by leaving it out
            active.append((z > 0) & (z < self.clip))
            entering.append(np.clip(z, 0.0, self.clip))
        return entering, active


def dense_stack(target: Target, window: ContextWindow) -> DenseStack:
    """The longest stack that begins with the layer of `window`; found by running the model as the client runs it.

    Only ReLU, clipped or not, between dense layers with bias is recognized: on two probes, one of them loud, the next
    layer's input must equal it. Where the client drops units at random it does not, so the stack ends there.
    """
    parameters = target.parameters()
    layers = [_Layer(window.weight, window.bias)]
    clip = np.inf
    # the quiet one shows the ReLU, the loud one drives units beyond any clip that is worth its name
    probes = [_dense_calls(target, loudness) for loudness in (1.0, LOUDNESS)]
    names = list(probes[0])
    while layers[-1].weight in names:
        place = names.index(layers[-1].weight)
        # only layers that run later can be fed by this one
        produced = [calls[names[place]].produced for calls in probes]
        joined = {
            name: _joined(produced, [calls[name].given for calls in probes])
            for name in names[place + 1 :]
            if probes[0][name].bias
        }
        found = [(name, level) for name, level in joined.items() if level is not None]
        # one clip for the whole stack: that is how `DenseStack.inputs` computes
        if not found or (len(layers) > 1 and found[0][1] != clip):
            break
        # the first: a layer further on that is fed the same would skip this one
        name, clip = found[0]
        layers.append(_Layer(name, probes[0][name].bias))
    first = Dense((window.weight, window.bias), *window.read(parameters))
    rest = (
        Dense((n.weight, n.bias), _numbers(parameters[n.weight]).T, parameters[n.bias].double().cpu().numpy())
        for n in layers[1:]
    )
    return DenseStack((first, *rest), float(clip))


@final
@dataclass(frozen=True)
class _Layer:
    """Names of parameters; the bias is empty where there is none."""

    weight: str
    bias: str


@final
@dataclass(frozen=True, eq=False)
class _Numbers:
    """What a dense layer was given and produced, a row per frame; the name of its bias or nothing."""

    bias: str
    given: Array
    produced: Array


def _dense_calls(target: Target, loudness: float) -> dict[str, _Numbers]:
    """Every dense layer by the name of its weight, in the order of the calls, on noise of that loudness."""
    key = Key(0).child("stack")
    inputs = loudness * probe_inputs(target, 1, key=key)
    with (
        recorded(target.module, named(target.module, nn.Linear)) as calls,
        key.child("model").isolated(),
        torch.no_grad(),
    ):
        target.outputs(target.parameters(), inputs)
    return {call.weights[0]: _Numbers(call.bias or "", _numbers(call.given), _numbers(call.returned)) for call in calls}


def _numbers(values: Tensor) -> Array:
    return np.asarray(values.detach().double().cpu().numpy().reshape(-1, values.shape[-1]))


def _joined(before: list[Array], given: list[Array]) -> float | None:
    """The level at which a ReLU between the two is clipped, infinity for none; None when there is no such ReLU."""
    if any(left.shape != right.shape for left, right in zip(before, given, strict=True)):
        return None
    # the loud probe tells: where the next layer's largest input is below what was produced, that is the clip
    highest = float(given[1].max())
    level = highest if highest < before[1].max() else np.inf
    # in the same arithmetic, so equal to the last bit; dropout, normalization or an LSTM in between is not
    same = (np.array_equal(np.clip(z, 0.0, level), h) for z, h in zip(before, given, strict=True))
    return level if all(same) else None
