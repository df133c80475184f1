"""What of a claimed input its layer does not see: there a claim may be the mean of several that look like one."""

from __future__ import annotations

import torch
from torch import Tensor

SEEN = 1e-4
"""Least change of a layer's outputs, relative to them, that one value makes and the rest of an update shows: less is
rounding, once the mean of two has made it smaller by their distance."""
PER_RESIDUAL = 100.0
"""The same in units of a certificate's residual, which hides as much."""
PARALLEL = 1e-6
"""Sine between two columns of weights below which a layer sees the sum of two values only."""
OPEN = 1e-2
"""Distance of the nearest input from the mean, relative to it, up to which that counts as the input."""


def unseen(
    weight: Tensor, bias: Tensor | None, values: Tensor, bounds: tuple[Tensor, Tensor], *, residual: float = 0.0
) -> Tensor:
    """(N,) whether each of the values may be a mean of several inputs that differ where the layer does not see them.

    weight: (H, D), bias: (H,). values: (N, D). bounds: the least and the largest that each value can be, (N, D).
    Inputs that differ only where W has a column of zeros give the same W x + b, and so the same error, and the gradient
    sum_s delta_s x_s^T is that of their mean. A value v in [low, high] that is a mean has a variance of at most
    (v - low) (high - v) (Bhatia and Davis 2000), so what is at an end of its range is known although it is not seen,
    and of all others the nearest input may be as far away as the root of the sum.

    >>> weight = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, -1.0]])
    >>> values = torch.tensor([[0.5, 0.1, 0.7], [1.0, 0.1, 0.7]])
    >>> unseen(weight, None, values, (torch.zeros(2, 3), torch.ones(2, 3)))
    tensor([ True, False])
    """
    weight, values = weight.detach().double(), values.detach().double()
    low, high = (bound.double() for bound in bounds)
    room = ((values - low).clamp_min(0) * (high - values).clamp_min(0)).sqrt()
    outputs = values @ weight.T
    if bias is not None:
        outputs = outputs + bias.detach().double()
    heard = SEEN + PER_RESIDUAL * residual
    moved = room * torch.linalg.vector_norm(weight, dim=0)
    hidden = moved <= heard * torch.linalg.vector_norm(outputs, dim=1, keepdim=True)
    hidden |= _parallel(weight)
    far = torch.linalg.vector_norm(room * hidden, dim=1)
    found: Tensor = far > OPEN * torch.linalg.vector_norm(values, dim=1)
    return found


def _parallel(weight: Tensor) -> Tensor:
    """(D,) the columns that are a multiple of another: one value may rise by as much as another falls."""
    sizes = torch.linalg.vector_norm(weight, dim=0)
    largest = weight.gather(0, weight.abs().argmax(0, keepdim=True))[0]
    # One sign for both, and columns of zeros, which are hidden anyway, are like no other.
    unit = weight / torch.where(sizes > 0, sizes * largest.sign(), torch.inf)
    # Columns that are alike are next to each other along any direction; compared with all it would be D^2 products.
    along = torch.arange(1, len(weight) + 1, dtype=weight.dtype, device=weight.device).sqrt().sin() @ unit
    order = along.argsort()
    near = torch.linalg.vector_norm(unit[:, order[1:]] - unit[:, order[:-1]], dim=0) <= PARALLEL
    near &= sizes[order[1:]] > 0
    found = torch.zeros_like(sizes, dtype=torch.bool)
    found[order[1:]] |= near
    found[order[:-1]] |= near
    return found
