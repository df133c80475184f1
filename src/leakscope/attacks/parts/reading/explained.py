"""Whether claimed inputs explain the whole observed gradient: the last word of an exact attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from scipy.optimize import nnls
from torch import Tensor

from leakscope.core.batch import Batch
from leakscope.core.effort import Clock
from leakscope.core.errors import NoSuchLayer
from leakscope.core.observation import Observation
from leakscope.core.overriding import acts_as
from leakscope.core.target import CrossEntropy
from leakscope.mechanisms.protocols.passes import quiet
from leakscope.targets.looking.dense_ends import output_layer
from leakscope.targets.losses import NextToken

MOST = 512
"""Gradients that are computed at most."""
WORK = 5e9
"""Largest product of entries and squared columns, some seconds, beyond which only the likely labels are tried too."""
LIKELY = 4
"""Labels that are tried where all are too many, or as many as inputs: those with the most negative bias gradient."""


@final
@dataclass(frozen=True, eq=False)
class Explained:
    """observed = sum_sy weights[s, y] * gradient(input s, label y) up to `residual`, relative to |observed|.

    weights: (S, C) >= 0: how often each input occurs with each label, as a share of the batch (times the factor of a
    clip); one column where the loss reads no label.
    parts: (S,) |sum_y weights[s, y] * gradient(input s, label y)|, relative to |observed|. It may be zero where weights
    are not: labels in the proportions of the softmax cancel each other, for any input.
    apart: what is left of each tensor, by name, in the gradient's own units.
    """

    weights: Tensor
    residual: float
    parts: Tensor
    apart: dict[str, float]


def explained(seen: Observation, inputs: Tensor, *, clock: Clock | None = None) -> Explained | None:
    """The best explanation of the observed gradient by a mixture of `inputs` (S, *shape) with any labels.

    The gradient of a mean loss is linear in the shares of inputs and labels, soft ones too, so this is a least-squares
    problem with weights >= 0. None where more than `MOST` gradients would be needed, or the time of `clock` is up.
    """
    target, observed = seen.target, seen.gradient().by_name
    names = [name for name in target.parameters() if name in observed]
    labels = _labels(seen, len(inputs))
    if labels is None or not names:
        return None
    parameters = target.parameters()
    columns = []
    # One column for each input and label; soft labels are sums of hard ones with weights >= 0.
    with quiet(target):
        for one in inputs:
            for label in labels:
                if clock is not None and clock.exhausted(0):
                    return None
                batch = Batch(one[None], torch.tensor([label], device=one.device))
                slope = torch.func.grad(target.loss_at)(parameters, batch)
                columns.append(torch.cat([slope[name].reshape(-1).double() for name in names]))
    goal = torch.cat([observed[name].reshape(-1).double() for name in names])
    matrix = torch.stack(columns, 1)
    # Columns of size one: a confident example has a tiny gradient, and nnls stops at absolute tolerances.
    sizes = torch.linalg.vector_norm(matrix, dim=0).clamp_min(1e-300)
    # A = Q R: |A w - g|^2 = |R w - Q^T g|^2 + what no w can reach, so nnls works on as many rows as columns.
    basis, triangle = torch.linalg.qr(matrix / sizes)
    scale = float(torch.linalg.vector_norm(goal))
    # Nothing explains a gradient of zeros, or anything does.
    if not scale > 0:
        return None
    found, _ = nnls(triangle.cpu().numpy(), (basis.T @ goal / scale).cpu().numpy())
    shares = torch.from_numpy(found).to(matrix)
    # On all entries: what lies outside of the columns' span is not in the residual that nnls gives.
    left = matrix / sizes @ shares - goal / scale
    residual = float(torch.linalg.vector_norm(left))
    pieces = left.split([observed[name].numel() for name in names])
    apart = {name: scale * float(piece.norm()) for name, piece in zip(names, pieces, strict=True)}
    weights = torch.zeros(len(inputs), max(labels) + 1, dtype=torch.float64)
    # Back from columns of size one and a goal of size one.
    weights[:, labels] = (shares * scale / sizes).reshape(len(inputs), len(labels)).cpu()
    shown = (matrix / sizes).reshape(len(goal), len(inputs), len(labels))
    # Labels are added up before the norm is taken, so that what cancels counts as nothing.
    parts = torch.linalg.vector_norm((shown * shares.reshape(len(inputs), len(labels))).sum(2), dim=0).cpu()
    return Explained(weights, residual, parts, apart)


def _labels(seen: Observation, count: int) -> list[int] | None:
    # It reads the next tokens off the input: one column for each.
    if acts_as(seen.target.loss, NextToken):
        return [0] if count <= MOST else None
    if not acts_as(seen.target.loss, CrossEntropy):
        return None
    columns = count * seen.target.classes
    entries = sum(value.numel() for value in seen.release.by_name.values())
    if columns <= MOST and entries * columns**2 <= WORK:
        return list(range(seen.target.classes))
    try:
        bias = output_layer(seen.target).bias
    except NoSuchLayer:
        return None
    found = seen.gradient().by_name.get(bias or "")
    if found is None or count * LIKELY > MOST:
        return None
    # mean(p - y): the more negative, the more examples of the class. Never fewer labels than inputs where they fit.
    return sorted(found.argsort()[: max(LIKELY, min(count, MOST // count))].tolist())
