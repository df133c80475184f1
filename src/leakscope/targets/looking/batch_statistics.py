"""Batch normalization in training mode: whether an update is of it, and what its running statistics say of a batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from leakscope.core.facts import LayerStatistics
from leakscope.core.target import Target
from leakscope.numerics.rng import Key
from leakscope.numerics.trees import Named
from leakscope.targets.looking.dense_ends import probe_inputs
from leakscope.targets.looking.tape import named, recorded

MARK = 0.1
"""Cosines by chance are about 1 in these units. With eight independent ones, below 0.1 in the mean is a chance of 1e-7;
batch statistics leave eps / variance, about 1e-4, and rounding."""
LARGEST = 0.9
"""Of momentum. Two steps leave 1 - a of the first batch, and what is divided by a then betrays it by variances below
zero; at 1 any numbers are those of one batch."""
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
    return [weight for weight, layer in _pairs(target) if not target.module.get_submodule(layer).training]


def _pairs(target: Target) -> list[tuple[str, str]]:
    """Weights whose product goes into a batch normalization, and nowhere else, each with the name of that layer."""
    layers = named(target.module, _BatchNorm)
    if not layers:
        return []
    key = Key(0).child("batch statistics")
    inputs = probe_inputs(target, 2, key=key)
    watched = (*named(target.module, nn.Linear, _ConvNd), *layers)
    with recorded(target.module, watched) as calls, key.child("model").isolated(), torch.no_grad():
        target.outputs(target.parameters(), inputs)
    fed = [call for call in calls if isinstance(call.module, _BatchNorm)]
    products = [call for call in calls if not isinstance(call.module, _BatchNorm)]
    once = [call for call in products if sum(other.name == call.name for other in products) == 1]
    return [
        (f"{call.prefix}weight", other.name)
        for call in once
        for other in fed
        if call.returned.shape == other.given.shape and torch.equal(call.returned, other.given)
    ]


def variance_traces(target: Target, gradient: Named) -> tuple[str, Tensor, Tensor] | None:
    """What `gradient` says of the variances v (C,) in the first normalization over the batch: its name, q (C,), t (C,).

    z_c = W_c * x goes to y_c = (z_c - mean) / sqrt(v_c + eps), which would not change when W_c is scaled but for eps:
    dy_c / ds at s W_c, s = 1, is y_c eps / (v_c + eps). What is learned behind it, gamma_c y_c + beta_c, has
    dL/dgamma_c = sum dL/dout_c y_c, so with q_c = <W_c, dL/dW_c> and t_c = eps gamma_c dL/dgamma_c (Euler's theorem)

        q_c (v_c + eps) = t_c.

    In float32 v came out to 0.1 to 1 %. None where the first such layer learns no scale, or its gradient is missing.
    """
    for weight, name in _pairs(target):
        layer = target.module.get_submodule(name)
        assert isinstance(layer, _BatchNorm)
        scale = f"{name}.weight" if name else "weight"
        parameters = target.parameters()
        if not layer.training or any(one not in gradient or one not in parameters for one in (weight, scale)):
            return None
        rows, slopes = parameters[weight].detach().flatten(1).double(), gradient[weight].detach().flatten(1).double()
        learned = parameters[scale].detach().double() * gradient[scale].detach().double()
        return name, (rows * slopes).sum(1), layer.eps * learned
    return None


def moved_statistics(
    target: Target, before: Named, after: Named, examples: int
) -> tuple[tuple[str, LayerStatistics], ...]:
    """Mean and biased variance of the one batch that moved the running statistics from `before` to `after`, by layer.

    new = (1 - a) old + a m with a the layer's momentum (1 / (n + 1) after n batches where it is None), so m = old +
    (new - old) / a; torch keeps the unbiased variance, that of a batch is (N - 1) / N times as large for N values per
    channel. before, after: buffers by name.
    Empty where nothing moved, where a counter is missing or did not count one batch, where a is so large that the
    numbers of several batches look like those of one (`LARGEST`), or where they say that it was no such step (a
    variance below zero). What they cannot say is assumed: that the client has the layers' momentum, and that the
    buffers are not a mean over clients, whose counters agree.
    """
    if not any(name in after and bool((after[name] != value).any()) for name, value in before.items()):
        return ()
    sizes, found = _values_per_channel(target), []
    for name in sizes:
        layer, prefix = target.module.get_submodule(name), f"{name}." if name else ""
        assert isinstance(layer, _BatchNorm)
        counter = f"{prefix}num_batches_tracked"
        pair = [f"{prefix}running_mean", f"{prefix}running_var"]
        if layer.momentum == 0 or any(one not in before or one not in after for one in pair):
            continue
        if counter not in before or counter not in after or float(after[counter]) - float(before[counter]) != 1:
            return ()
        share = layer.momentum if layer.momentum is not None else 1 / (1 + int(before[counter]))
        if not 0 < share < LARGEST:
            return ()
        if any(after[one].element_size() < 4 for one in pair):
            return ()  # of half precision, divided by the momentum
        mean, unbiased = (before[n].double() + (after[n].double() - before[n].double()) / share for n in pair)
        # what rounding leaves of a variance of zero may lie below it
        slack = 8 * torch.finfo(torch.float32).eps * float(before[pair[1]].abs().max()) / share
        if float(unbiased.min()) < -slack:
            return ()
        count = examples * sizes[name]
        variance = unbiased.clamp_min(0) * (count - 1) / count
        found.append((name, LayerStatistics(tuple(mean.tolist()), tuple(variance.tolist()))))
    return tuple(found)


def _values_per_channel(target: Target) -> dict[str, int]:
    """How many numbers of one example each batch normalization averages: height times width, 1 of a dense layer."""
    key = Key(0).child("batch statistics")
    inputs = probe_inputs(target, 2, key=key)
    layers = named(target.module, _BatchNorm)
    with recorded(target.module, layers) as calls, key.child("model").isolated(), torch.no_grad():
        target.outputs(target.parameters(), inputs)
    sizes = {call.name: call.given.numel() // (2 * call.given.shape[1]) for call in calls}
    # called twice, it moved twice
    return {name: size for name, size in sizes.items() if sum(call.name == name for call in calls) == 1}
