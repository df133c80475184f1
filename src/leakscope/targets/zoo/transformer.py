"""Small vision transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.core.target import Target
from leakscope.numerics.rng import Key
from leakscope.targets.recipes.architecture import AbstractArchitecture
from leakscope.targets.zoo.attention import Block
from leakscope.targets.zoo.fit import checked_classes, image_shape

SPREAD = 0.5
"""Standard deviation of fresh position embeddings and class tokens: about the size of what they are added to."""


@final
@dataclass(frozen=True)
class ViT(AbstractArchitecture):
    """A vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929): patches, learnable positions, blocks, a head.

    patch: side of the square patches in pixels; dim: numbers per token, a multiple of heads; depth: blocks.
    norm: LayerNorm before attention, dense part and head. skip: the residual connection around the *first* attention
    (later ones always have it); without norm and skip the first block is the one of APRIL (arXiv:2112.14087).
    class_token: the head reads an extra token instead of the mean of all.
    Raises `BadInput` on other sizes and where patches do not tile the image.

    >>> from leakscope.domains.vision import Images
    >>> ViT(dim=8, heads=2).build(Images(3, 8, 8), 10, key=Key(0)).parameters()["position_embedding"].shape
    torch.Size([1, 4, 8])
    """

    patch: int = 4
    dim: int = 128
    depth: int = 2
    heads: int = 4
    norm: bool = True
    skip: bool = True
    class_token: bool = False

    def __post_init__(self) -> None:
        checked_sizes(self.dim, self.depth, self.heads)
        if self.patch < 1:
            raise BadInput(f"expected patch >= 1, got {self.patch}")

    def build(self, domain: AbstractDomain, classes: int, *, key: Key) -> Target:
        """The target with weights drawn from `key`. Raises `BadInput` unless whole patches tile the images."""
        channels, height, width = image_shape(domain, self)
        checked_classes(classes)
        if height % self.patch or width % self.patch:
            raise BadInput(f"patches of {self.patch} x {self.patch} do not tile an image of {height} x {width}")
        tokens = (height // self.patch) * (width // self.patch)
        with key.isolated():
            module = _ViT(self, channels, tokens, classes)
        return Target(module, domain, classes, name=repr(self))


def checked_sizes(dim: int, depth: int, heads: int) -> None:
    """Raises `BadInput` unless all are at least 1 and the heads divide the dimension."""
    if min(dim, depth, heads) < 1 or dim % heads:
        raise BadInput(f"expected dim, depth, heads >= 1 and dim a multiple of heads, got {dim}, {depth}, {heads}")


@final
class _ViT(nn.Module):
    def __init__(self, sizes: ViT, channels: int, tokens: int, classes: int) -> None:
        nn.Module.__init__(self)
        dim, extra = sizes.dim, int(sizes.class_token)
        # kernel = stride: each patch by itself, which is a dense layer on its pixels
        self.patch_embedding = nn.Conv2d(channels, dim, sizes.patch, stride=sizes.patch)
        self.class_token = nn.Parameter(SPREAD * torch.randn(1, 1, dim)) if extra else None
        # learnable: its gradient is dL/dz, which APRIL reads; fixed positions would not give it away
        self.position_embedding = nn.Parameter(SPREAD * torch.randn(1, tokens + extra, dim))
        self.blocks = nn.ModuleList(
            # APRIL's model differs from the usual one in its first block alone
            Block(dim, sizes.heads, norm=sizes.norm, skip=sizes.skip or place > 0)
            for place in range(sizes.depth)
        )
        self.norm = nn.LayerNorm(dim) if sizes.norm else nn.Identity()
        self.head = nn.Linear(dim, classes)

    def forward(self, images: Tensor) -> Tensor:
        # (B, d, rows, columns) to (B, N, d), row by row
        tokens = self.patch_embedding(images).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], 1)
        tokens = tokens + self.position_embedding
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        logits: Tensor = self.head(tokens.mean(1) if self.class_token is None else tokens[:, 0])
        return logits
