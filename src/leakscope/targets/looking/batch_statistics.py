"""Whether an update was computed with the batch's own statistics: batch normalization in training mode."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from leakscope.core.target import Target
from leakscope.numerics.rng import Key
from leakscope.numerics.trees import Named
from leakscope.targets.looking.dense_ends import probe_inputs
from leakscope.targets.looking.tape import named, recorded

MARK = 0.1
"""Cosines by chance are about 1 in these units. With eight independent ones, below 0.1 in the mean is a chance of 1e-7;
batch statistics leave eps / variance, about 1e-4, and rounding."""
FEWEST = 8
"""Rows of weights that are looked at, at least."""


def with_batch_statistics(target: Target, gradient: Named) -> bool:
    """Whether `gradient` bears the mark of normalization over the batch, though the target normalizes by its own means.

    z_c = W_c * x, then (z_c - mean) / std over the batch: the loss does not change when W_c is scaled, so the gradient
    of each row is orthogonal to the row, <W_c, dL/dW_c> = 0, up to eps / variance (Euler's theorem at degree 0). With
    running statistics it is not. False where nothing can be told: no such layer, too few rows, or another change.
    """
    found = [_cosines(target, gradient, name) for name in _normalized(target) if name in gradient]
    cosines = torch.cat(found) if found else torch.zeros(0)
    # NaN for rows without a gradient, as of channels that no input activates
    cosines = cosines[cosines.isfinite()]
    return len(cosines) >= FEWEST and float(cosines.square().mean().sqrt()) < MARK


def _cosines(target: Target, gradient: Named, name: str) -> Tensor:
    """(C,) cosines of rows and their gradients, times sqrt(d), which for unrelated directions is about 1."""
    rows, slopes = target.parameters()[name].flatten(1).double(), gradient[name].flatten(1).double()
    sizes = torch.linalg.vector_norm(rows, dim=1) * torch.linalg.vector_norm(slopes, dim=1)
    cosines: Tensor = (rows * slopes).sum(1) / sizes * math.sqrt(rows.shape[1])
    return cosines.cpu()


def _normalized(target: Target) -> list[str]:
    """The weights whose product goes into a batch normalization that is not in training mode, and nowhere else."""
    layers = [n for n in named(target.module, _BatchNorm) if not target.module.get_submodule(n).training]
    if not layers:
        return []
    key = Key(0).child("batch statistics")
    inputs = probe_inputs(target, 2, key=key)
    watched = (*named(target.module, nn.Linear, _ConvNd), *layers)
    with recorded(target.module, watched) as calls, key.child("model").isolated(), torch.no_grad():
        target.outputs(target.parameters(), inputs)
    fed = [call.given for call in calls if isinstance(call.module, _BatchNorm)]
    products = [call for call in calls if not isinstance(call.module, _BatchNorm)]
    once = [call for call in products if sum(other.name == call.name for other in products) == 1]
    return [
        f"{call.prefix}weight"
        for call in once
        if any(call.returned.shape == given.shape and torch.equal(call.returned, given) for given in fed)
    ]
