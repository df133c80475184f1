"""The linear equations that the patches of one image satisfy, and their common least-squares solution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.core.refusal import Refusal
from leakscope.targets.looking.patch_entry import PatchEntry

DEAD = 3e-7
"""Singular values below this share of the largest are rounding of float32 (its eps is 1.2e-7)."""
ROUNDING = 1.2e-7
"""One rounding of a float32 update."""


@final
@dataclass(frozen=True, eq=False)
class Slopes:
    """G^T P = B with G = dL/dz at the patches, (n, d), and B (d, P): both sides are gradients.

    source: what B comes from, in words.
    """

    slope: Tensor
    product: Tensor
    source: str


@final
@dataclass(frozen=True, eq=False)
class Spanned:
    """M p_i = r_i for each patch i: what the readers are fed lies in the row space of their gradients.

    matrix: (k, P). right: (n, k).
    """

    matrix: Tensor
    right: Tensor


@final
@dataclass(frozen=True, eq=False)
class Solution:
    """patches: (n, P). condition: the largest amplification of a rounding. words: what was solved."""

    patches: Tensor
    condition: float
    words: str


def condition(matrix: Tensor) -> float:
    """Largest over smallest singular value; infinite where the smaller side has not full rank.

    >>> condition(torch.eye(3, 2))
    1.0
    """
    values = torch.linalg.svdvals(matrix)
    if not len(values) or not float(values[-1]) > 0:
        return float("inf")
    return float(values[0] / values[-1])


def embedding_system(entry: PatchEntry, position: Tensor, embedding: Tensor) -> Slopes:
    """dL/dE = (dL/dz)^T P: the patch embedding is a dense layer whose errors the position embedding's gradient tells.

    Holds whatever comes after, normalization and residual connections included. position: (N, d). embedding: (d, P).
    """
    return Slopes(position[entry.rows], embedding, "the patch embedding's gradient")


def attention_system(entry: PatchEntry, position: Tensor, product: Tensor) -> Slopes:
    """sum W^T dL/dW = (dL/dz)^T z with z = P E^T + c (Lu et al. 2022, theorem 1), solved for E.

    product: (d, d), the left side. Holds where z reaches the loss through the readers alone; needs P <= d.
    """
    # G^T z = G_p^T P E^T + G^T c over all N tokens, G_p the rows of the patches; c is public (a token that is no patch
    # is all c) and goes to the left. E^T pinv(E)^T = I where the P columns of E are independent.
    rest = product - position.T @ entry.offsets
    return Slopes(position[entry.rows], rest @ torch.linalg.pinv(entry.matrix).T, "the first attention's gradient")


def span_rank(stacked: Tensor) -> int:
    """The rank of the readers' gradients (rows, d), each scaled to norm 1, up to float32 rounding."""
    values = torch.linalg.svdvals(stacked)
    return int((values > 10 * DEAD * values[0]).sum())


def span_system(entry: PatchEntry, stacked: Tensor, near: Tensor | None) -> Spanned | Refusal:
    """(I - Pi) u_i = 0 with Pi the row space of the readers' gradients and u_i = z_i or LayerNorm(z_i).

    With a LayerNorm, u_i = scale * (z_i - mean) / s_i + shift: linear in p_i where the shift is zero or s_i is known
    from `near`, (n, P), a first solution. Or the reason why the equations do not determine the patches.
    """
    rank, tokens = span_rank(stacked), entry.tokens
    if rank != tokens:
        return Refusal(f"the attention's gradient has rank {rank}, with {tokens} tokens")
    # (d - N, d), orthonormal to the row space: null u_i = 0 for every token, hence null E p_i = -null c_i.
    null = torch.linalg.svd(stacked, full_matrices=True).Vh[tokens:]
    values = entry.matrix.shape[1]
    if len(null) < values:
        return Refusal(
            f"{tokens} tokens and {values} values per patch need {tokens + values} dimensions, there are {entry.dim}"
        )
    offsets = entry.offsets[entry.rows]
    matrix, right = null @ entry.matrix, -(offsets @ null.T)
    if entry.scale is not None and entry.shift is not None:
        # u = scale * (z - mean z) / s + shift with z - mean z = C z. Then null u = 0, times s, is null (scale * C z) =
        # -s null shift: the size s of a token is needed only where there is a shift.
        centered = torch.eye(entry.dim, dtype=null.dtype, device=null.device) - 1 / entry.dim
        scaled = null @ (entry.scale[:, None] * centered)
        matrix, right = scaled @ entry.matrix, -(offsets @ scaled.T)
        if float(entry.shift.abs().max()) > 0:
            if near is None:
                return Refusal("the LayerNorm before the attention has a shift, and nothing tells the size of a token")
            # s of each patch by the first solution; the normalization's eps is neglected.
            size = (near @ entry.matrix.T + offsets).std(1, correction=0)
            right = right - size[:, None] * (null @ entry.shift)
    if not condition(matrix) < 1e5:
        return Refusal("the equations of the span do not determine a patch: several examples share it")
    return Spanned(matrix, right)


def solve(slopes: Slopes | None, spanned: Spanned | None, entry: PatchEntry) -> Solution:
    """The least-squares solution of one system, or of both, each weighted by its own rounding.

    min |S P - B'|^2 / a^2 + |P M^T - R|^2 / b^2 has the normal equations (G G^T) P / a^2 + P (M^T M) / b^2 = ...,
    diagonal in the eigenvectors of both.
    """
    if slopes is None:
        assert spanned is not None
        # M p_i = r_i: one system with a right side for each patch.
        patches = torch.linalg.lstsq(spanned.matrix, spanned.right.T).solution.T
        return Solution(patches, condition(spanned.matrix), "the span of the first attention's gradient")
    if spanned is None:
        # G^T P = B: one system with a right side for each of the P values.
        patches = torch.linalg.lstsq(slopes.slope.T, slopes.product).solution
        return Solution(patches, condition(slopes.slope), slopes.source)
    # Each set in units of its own rounding, here that of the largest entry of B; 1e-300 for a B of zeros.
    a = ROUNDING * max(float(slopes.product.abs().max()), 1e-300)
    b = 32 * ROUNDING * float(entry.offsets.square().mean().sqrt())
    # With G = U S V^T and M^T M = Q w Q^T the left side is (s_i^2 / a^2 + w_j / b^2) (U^T P Q)_ij, number by number: no
    # system of n P unknowns is formed.
    left, values, _ = torch.linalg.svd(slopes.slope, full_matrices=False)
    weights, right = torch.linalg.eigh(spanned.matrix.T @ spanned.matrix)
    goal = slopes.slope @ slopes.product / a**2 + spanned.right @ spanned.matrix / b**2
    solved = (left.T @ goal @ right) / ((values**2)[:, None] / a**2 + weights[None] / b**2)
    better = min(condition(slopes.slope), condition(spanned.matrix))
    return Solution(left @ solved @ right.T, better, f"{slopes.source} and the span of the attention's")
