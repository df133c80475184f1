"""Small text transformers: an encoder that classifies, a decoder that predicts the next token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.core.target import Target
from leakscope.domains.text import PAD, Text
from leakscope.numerics.rng import Key
from leakscope.targets.losses import NextToken
from leakscope.targets.recipes.architecture import AbstractArchitecture
from leakscope.targets.zoo.attention import Block
from leakscope.targets.zoo.fit import checked_classes
from leakscope.targets.zoo.transformer import SPREAD, checked_sizes


@final
@dataclass(frozen=True)
class TextEncoder(AbstractArchitecture):
    """Token and position embeddings, blocks in which every token looks at every other, the mean token, a head.

    dim: numbers per token, a multiple of heads. norm: LayerNorm before attention, dense part and head.
    The filling (id 0) is looked at by nobody. Raises `BadInput` on other sizes.

    >>> TextEncoder(dim=8, heads=2).build(Text(20, 6), 3, key=Key(0)).parameters()["token_embedding.weight"].shape
    torch.Size([20, 8])
    """

    dim: int = 64
    depth: int = 2
    heads: int = 4
    norm: bool = True

    def __post_init__(self) -> None:
        checked_sizes(self.dim, self.depth, self.heads)

    def build(self, domain: AbstractDomain, classes: int, *, key: Key) -> Target:
        """The target with weights drawn from `key`. Raises `BadInput` when the inputs are no text."""
        checked_classes(classes)
        with key.isolated():
            blocks = _blocks(self.dim, self.depth, self.heads, causal=False, norm=self.norm)
            module = _Text(_text(domain, self), self.dim, blocks, classes, norm=self.norm, mean=True)
        return Target(module, domain, classes, name=repr(self))


@final
@dataclass(frozen=True)
class TextDecoder(AbstractArchitecture):
    """A causal language model: at each token the logits of the next one, (B, T, vocabulary), trained by `NextToken`.

    Its classes are the vocabulary, whatever the source's are. Fields and errors as `TextEncoder`.

    >>> target = TextDecoder(dim=8, heads=2).build(Text(20, 6), 2, key=Key(0))
    >>> target.classes, target.outputs(target.parameters(), torch.ones(1, 5, dtype=torch.int64)).shape
    (20, torch.Size([1, 5, 20]))
    """

    dim: int = 64
    depth: int = 2
    heads: int = 4
    norm: bool = True

    def __post_init__(self) -> None:
        checked_sizes(self.dim, self.depth, self.heads)

    def build(self, domain: AbstractDomain, classes: int, *, key: Key) -> Target:
        """The target with weights drawn from `key`. Raises `BadInput` when the inputs are no text."""
        checked_classes(classes)
        text = _text(domain, self)
        with key.isolated():
            blocks = _blocks(self.dim, self.depth, self.heads, causal=True, norm=self.norm)
            module = _Text(text, self.dim, blocks, text.vocabulary, norm=self.norm, mean=False)
        # every token is a class, whatever the source calls its classes
        return Target(module, domain, text.vocabulary, name=repr(self), loss=NextToken())


def _text(domain: AbstractDomain, family: object) -> Text:
    if not isinstance(domain, Text):
        raise BadInput(f"{family!r} takes text (token ids), got inputs of {domain}")
    return domain


def _blocks(dim: int, depth: int, heads: int, *, causal: bool, norm: bool) -> nn.ModuleList:
    return nn.ModuleList(Block(dim, heads, causal=causal, norm=norm) for _ in range(depth))


@final
class _Text(nn.Module):
    def __init__(self, domain: Text, dim: int, blocks: nn.ModuleList, outputs: int, *, norm: bool, mean: bool) -> None:
        nn.Module.__init__(self)
        self.mean = mean
        self.token_embedding = nn.Embedding(domain.vocabulary, dim)
        self.position_embedding = nn.Embedding(domain.length, dim)
        # torch draws N(0, 1) for both tables; positions of half that size do not drown out the tokens
        self.position_embedding.weight.data.mul_(SPREAD)
        self.blocks = blocks
        self.norm = nn.LayerNorm(dim) if norm else nn.Identity()
        self.head = nn.Linear(dim, outputs)

    def forward(self, ids: Tensor) -> Tensor:
        # in the model and not as an argument: nobody can forget to hand it over
        hidden = ids == PAD
        places = torch.arange(ids.shape[1], device=ids.device)
        tokens = self.token_embedding(ids) + self.position_embedding(places)
        for block in self.blocks:
            tokens = block(tokens, hidden)
        tokens = self.norm(tokens)
        if self.mean:
            # the mean of the real tokens; a text of padding alone divides by one instead of by zero
            real = (~hidden).unsqueeze(-1).to(tokens.dtype)
            tokens = (tokens * real).sum(1) / real.sum(1).clamp(min=1)
        logits: Tensor = self.head(tokens)
        return logits
