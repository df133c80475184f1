"""Attention blocks of the small transformers, in plain PyTorch; `transformer.py` puts them together."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn


@final
class Attention(nn.Module):
    """Multi-head self-attention: softmax(q k^T / sqrt(d / heads)) v per head, then the output projection.

    tokens: (B, N, d). hidden: (B, N) True for tokens that nobody may look at, or None. With `causal` a token looks at
    itself and at earlier ones only. Written out, because the fused kernels cannot be differentiated twice.
    """

    def __init__(self, dim: int, heads: int, *, causal: bool) -> None:
        nn.Module.__init__(self)
        self.heads, self.causal = heads, causal
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, hidden: Tensor | None = None) -> Tensor:
        """(B, N, d) to (B, N, d)."""
        count, dim = tokens.shape[-2:]
        query, key, value = (
            layer(tokens).unflatten(-1, (self.heads, dim // self.heads)).transpose(-2, -3)
            for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-1, -2) / math.sqrt(dim // self.heads)
        lowest = torch.finfo(scores.dtype).min  # not minus infinity: a row of nothing but padding stays finite
        if self.causal:
            # row: who looks; column: at whom; above the diagonal is what comes later
            later = torch.ones(count, count, dtype=torch.bool, device=tokens.device).triu(1)
            scores = scores.masked_fill(later, lowest)
        if hidden is not None:
            # by columns: nobody looks at padding; what padding looks at itself is never read
            scores = scores.masked_fill(hidden[:, None, None, :], lowest)
        mixed: Tensor = self.output((torch.softmax(scores, -1) @ value).transpose(-2, -3).flatten(-2))
        return mixed


@final
class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); without `norm` nothing is normalized.

    skip: whether the attention has its residual connection; without it the block begins with attention(norm(x)) alone.
    The dense part has 2 d units, GELU between.
    """

    def __init__(self, dim: int, heads: int, *, causal: bool = False, norm: bool = True, skip: bool = True) -> None:
        nn.Module.__init__(self)
        self.skip = skip
        self.norm_1 = nn.LayerNorm(dim) if norm else nn.Identity()
        self.attention = Attention(dim, heads, causal=causal)
        self.norm_2 = nn.LayerNorm(dim) if norm else nn.Identity()
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, tokens: Tensor, hidden: Tensor | None = None) -> Tensor:
        """(B, N, d) to (B, N, d)."""
        # normalized before and not after (pre-norm): the residual stream stays a sum
        attended = self.attention(self.norm_1(tokens), hidden)
        tokens = tokens + attended if self.skip else attended
        result: Tensor = tokens + self.mlp(self.norm_2(tokens))
        return result
