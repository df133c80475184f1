"""Which units of the input layer the model leaves at rest at given inputs, and what that says about a claim."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leakscope.core.batch import Batch
from leakscope.core.errors import NoSuchLayer, first_line
from leakscope.core.overriding import acts_as
from leakscope.core.target import CrossEntropy, Target
from leakscope.mechanisms.protocols.passes import quiet
from leakscope.numerics.rng import Key, normal
from leakscope.targets.looking.dense_ends import DenseLayer
from leakscope.targets.looking.probe import FORWARD_ERRORS
from leakscope.targets.looking.tape import rewritten

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

WITNESSES = 10
"""Units at rest that must agree with the claim for each example, beyond the r - 1 that any direction can be fitted to.
Each agrees by chance with probability of about one half."""
STATEMENT = (
    "[dL/dW, dL/db] = delta^T [X, 1] with delta zero wherever the model itself, run on the claimed inputs, is at rest"
)
# Inputs times labels that are run through the model for their labels; beyond, the claim goes without.
MOST_PAIRS = 4096


@final
class Resting:
    """The model in float64, asked for the outputs of one dense layer that matter to the model's output."""

    def __init__(self, target: Target, layer: DenseLayer) -> None:
        # float64: rounding shall not decide what is at rest. A copy, since double() changes a module in place.
        self._target = dataclasses.replace(target, module=copy.deepcopy(target.module).double())
        self._layer = layer

    def slopes(self, inputs: Array, *, labels: Tensor | None = None, shift: Array | None = None) -> Array:
        """(N, H): the derivative of the loss with these labels, or of random sums of the outputs, by each unit.

        inputs: (N, D). shift: (N, H), added to the layer's outputs. A unit at rest has derivative exactly zero.
        Raises `NoSuchLayer` of a model that casts what it is given to a shorter type, and cannot be run in float64.
        """
        try:
            return self._slopes(inputs, labels, shift)
        except FORWARD_ERRORS as error:
            raise NoSuchLayer(f"the model fails in double precision: {first_line(error)}") from error

    def _slopes(self, inputs: Array, labels: Tensor | None, shift: Array | None) -> Array:
        given = torch.from_numpy(inputs).reshape(-1, *self._target.domain.shape).to(self._target.device())
        outputs: list[Tensor] = []

        def start(fed: Tensor, returned: Tensor) -> Tensor:
            del fed
            # A new leaf in place of the layer's output z: backward ends here and gives dL/dz, the errors.
            moved = returned.detach() if shift is None else returned.detach() + torch.from_numpy(shift).to(returned)
            outputs.append(moved.requires_grad_(True))
            return outputs[-1]

        key = Key(0).child("resting")
        with (
            rewritten(self._target.module, {self._layer.name: start}),
            key.isolated(),
            quiet(self._target),
            torch.enable_grad(),
        ):
            logits = self._target.outputs(self._target.parameters(), given)
            if labels is None:
                # With random weights a unit that matters to an output has derivative zero with probability zero.
                scalar = (logits * normal(logits, key)).sum()
            else:
                # A mean over the batch, times N: row s of the slope is the error of example s as if it were alone.
                scalar = len(given) * self._target.loss(logits, Batch(given, labels.to(given.device)))
            (slope,) = torch.autograd.grad(scalar, outputs[0])
        return np.asarray(slope.detach().cpu().numpy(), dtype=np.float64)

    def awake(self, inputs: Array, margin: Array | None = None) -> Flags:
        """(N, H): the units that matter at the inputs (N, D), or would within `margin` (N, H) of their value."""
        flags = self.slopes(inputs) != 0
        if margin is not None:
            # Near its threshold a unit counts as awake: one whose delta is wrongly held at zero spoils the residual.
            flags |= (self.slopes(inputs, shift=margin) != 0) | (self.slopes(inputs, shift=-margin) != 0)
        return np.asarray(flags)


@final
@dataclass(frozen=True, eq=False)
class Judged:
    """gradient: (H, D + 1) = [dL/dW, dL/db]. inputs: (r, D). awake: (r, H). live: (H,) rows that are not zero."""

    gradient: Array
    inputs: Array
    awake: Flags
    live: Flags

    def residual(self) -> float:
        """|G - delta^T [X, 1]| / |G| with the best delta that is zero wherever a unit is at rest."""
        extended = np.hstack([self.inputs, np.ones((len(self.inputs), 1))])
        # Row i of G is sum_s delta_si [x_s, 1]. What lies outside of the span of all [x_s, 1] no delta explains; within
        # it, [X, 1]^T = Q R leaves r equations for each unit, with the columns of R of the examples that wake it.
        basis, triangle = np.linalg.qr(extended.T)
        inside = self.gradient @ basis
        missed = float(np.sum((self.gradient - inside @ basis.T) ** 2))
        for row, awake in zip(inside, self.awake.T, strict=True):
            fitted = triangle[:, awake] @ np.linalg.lstsq(triangle[:, awake], row, rcond=None)[0] if awake.any() else 0
            # Both parts are orthogonal, so their squares add up.
            missed += float(np.sum((row - fitted) ** 2))
        return float(np.sqrt(missed / np.sum(self.gradient**2)))

    def witnesses(self) -> int:
        """The smallest number, over the examples, of live units at rest beyond the r - 1 that prove nothing."""
        rank = len(self.inputs)
        alive = int(self.live.sum()) - rank
        if rank == 1:
            return alive
        # For each example the zeros, less the r - 1 at which any direction in r dimensions can be made to vanish.
        return min(alive, int((~self.awake & self.live).sum(1).min()) - (rank - 1))


def labels_of(target: Target, resting: Resting, inputs: Array, errors: Array) -> Tensor | None:
    """The label (N,) at which the model's own error at the layer points along `errors` (N, H); None when none does.

    Exact for one undisturbed step; after dropout or several steps the directions differ, and nothing is said.
    """
    count = len(inputs)
    if not acts_as(target.loss, CrossEntropy) or count * target.classes > MOST_PAIRS:
        return None
    labels = torch.arange(target.classes).repeat(count)
    slopes = resting.slopes(np.repeat(inputs, target.classes, axis=0), labels=labels)
    slopes = slopes.reshape(count, target.classes, -1)
    # The found errors are a positive part of the model's own (1 / B, a clip), so the cosine is 1 and never -1.
    sizes = np.linalg.norm(slopes, axis=2) * np.linalg.norm(errors, axis=1)[:, None]
    # 1e-300: errors of zero have no direction, and their cosine is 0.
    alike = (slopes * errors[:, None]).sum(2) / np.maximum(sizes, 1e-300)
    # One example that fits no label shows that the update is no undisturbed step: then the others mean nothing either.
    if bool((alike.max(1) < 0.999).any()):
        return None
    return torch.from_numpy(alike.argmax(1))
