"""Which dense layer is fed a context window of the input's frames; found by running the model, or declared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leakscope.core.errors import BadInput, NoSuchLayer
from leakscope.core.target import Target
from leakscope.numerics.rng import Key
from leakscope.numerics.trees import Named
from leakscope.targets.looking.dense_ends import probe_inputs
from leakscope.targets.looking.tape import Call, named, recorded


@final
@dataclass(frozen=True)
class ContextWindow:
    """A dense layer that at frame t is fed frames t - left .. t + right, zeros outside the utterance.

    weight, bias: parameter names; the weight is (H, D) or (D, H) with D = (left + 1 + right) * features.
    order: the layer's input d is entry order[d] of the window that is flattened oldest frame first, coefficients
    inside; empty when it is that window itself. Raises `BadInput` on sizes that describe no window.

    >>> ContextWindow("layer_1.weight", "layer_1.bias", features=26, left=9, right=9).dimension
    494
    """

    weight: str
    bias: str
    features: int
    left: int
    right: int
    order: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.features < 1 or self.left < 0 or self.right < 0:
            raise BadInput(
                "a context window needs features >= 1, left >= 0 and right >= 0, "
                f"got {self.features}, {self.left}, {self.right}"
            )
        object.__setattr__(self, "order", tuple(int(place) for place in self.order))
        if self.order and sorted(self.order) != list(range(self.dimension)):
            raise BadInput(f"order must hold each of 0 to {self.dimension - 1} once, or be empty")

    @property
    def width(self) -> int:
        """Frames in a window."""
        return self.left + 1 + self.right

    @property
    def dimension(self) -> int:
        """Numbers in a window, D."""
        return self.width * self.features

    @property
    def most_frames(self) -> int:
        """D + 1 - features: with more frames there are fewer equations, T (D + 1 - T), than unknowns, T * features."""
        return self.dimension + 1 - self.features

    def read(self, gradient: Named) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The layer's gradients as weight (D, H), rows in the window's own order, and bias (H,), both float64.

        Raises `NoSuchLayer` when one is not in `gradient`, `BadInput` when their shapes are not this window's.
        """
        missing = [name for name in (self.weight, self.bias) if name not in gradient]
        if missing:
            raise NoSuchLayer(f"the release lacks {' and '.join(missing)}")
        weight = gradient[self.weight].detach().double().cpu().numpy()
        bias = gradient[self.bias].detach().double().cpu().numpy()
        # torch keeps (outputs, inputs); a layer that is written x @ W keeps the transpose
        if weight.shape == (len(bias), self.dimension):
            weight = weight.T
        if weight.shape != (self.dimension, len(bias)):
            raise BadInput(
                f"{self.weight} {weight.shape} with {len(bias)} biases is no layer on {self.width} frames of "
                f"{self.features} coefficients; declare another window"
            )
        if not self.order:
            return weight, bias
        ordered = np.empty_like(weight)
        # the layer's input d is entry order[d] of the window, so row d of its weight belongs to row order[d]
        ordered[list(self.order)] = weight
        return ordered, bias


def context_window(target: Target) -> ContextWindow:
    """The first dense layer with a bias whose input, frame by frame, holds a window of the model's input frames.

    The model is run on noise, in which every number is different, so that each input of a layer can be traced to the
    frame and coefficient that it is. Raises `NoSuchLayer` when there is none.
    """
    inputs, calls = _calls(target)
    frames = inputs[0].cpu().double().numpy()
    for call in calls:
        given = call.given
        # one window per frame: a layer that is fed fewer or more numbers than T * D sees something else
        if call.bias is None or given.numel() != len(frames) * given.shape[-1]:
            continue
        # the first in the order of the calls: a later layer sees the window only through an earlier one
        window = _traced(given.reshape(len(frames), -1).cpu().double().numpy(), frames, call.prefix)
        if window is not None:
            return window
    raise NoSuchLayer(
        f"{target.name} has no dense layer (torch.nn.Linear with bias) that is fed a window of the input's frames; "
        "declare it as a ContextWindow if it is there in another form"
    )


def _calls(target: Target) -> tuple[Tensor, list[Call]]:
    """A probing utterance (1, T, F) and every call of a dense layer on it, in their order."""
    if len(target.domain.shape) != 2:
        raise NoSuchLayer(f"{target.name} takes inputs of shape {target.domain.shape}, not frames (T, F)")
    key = Key(0).child("windows")
    inputs = probe_inputs(target, 1, key=key)
    with (
        recorded(target.module, named(target.module, nn.Linear)) as calls,
        key.child("model").isolated(),
        torch.no_grad(),
    ):
        target.outputs(target.parameters(), inputs)
    return inputs, calls


def _traced(given: NDArray[np.float64], frames: NDArray[np.float64], prefix: str) -> ContextWindow | None:
    """The window of which `given` (T, D) consists, or None when it is not one."""
    count, features = frames.shape
    middle = count // 2
    # noise hardly repeats a value, so each names its frame and coefficient; one that does fails the comparison below
    place = {float(value): (t, f) for t, row in enumerate(frames) for f, value in enumerate(row)}
    # the middle frame: its window meets no zeros beyond the ends, unless it is wider than the utterance
    found = [place.get(float(value)) for value in given[middle]]
    if None in found:
        return None
    # frame relative to its own, and coefficient
    shifts = [(entry[0] - middle, entry[1]) for entry in found if entry is not None]
    # never below 0: a window wholly in the past spans its own frame too, and is refused for lacking it
    left, right = max(0, -min(s for s, _ in shifts)), max(0, *(s for s, _ in shifts))
    order = tuple((s + left) * features + f for s, f in shifts)
    # each entry of the window once; a gap (a dilated window) or a repetition is another layer
    if sorted(order) != list(range((left + 1 + right) * features)):
        return None
    # one frame could fit by chance: at every frame the window must be this one, with zeros outside
    padded = np.pad(frames, ((left, right), (0, 0)))
    for t in range(count):
        if not np.array_equal(padded[t : t + left + 1 + right].ravel()[list(order)], given[t]):
            return None
    natural = order == tuple(range(len(order)))
    return ContextWindow(f"{prefix}weight", f"{prefix}bias", features, left, right, () if natural else order)
