"""Where an image enters a transformer: patches, position embedding, first attention; found by running the model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leakscope.core.errors import NoSuchLayer, first_line
from leakscope.core.target import Target
from leakscope.numerics.rng import Key, normal
from leakscope.targets.looking.probe import FORWARD_ERRORS
from leakscope.targets.looking.tape import Call, running

SAME = 1e-9
"""Relative difference of two float64 tensors that counts as rounding."""


@final
@dataclass(frozen=True, eq=False)
class PatchEntry:
    """z_i = E p_i + c_i for patch i, and what the first dense maps of the tokens (the attention's) are fed.

    embedding: the name of E's parameter; `matrix` is E, (d, P). places: (n, P), number k of patch i is value
    places[i, k] of the flattened input. rows: (n,) where the patches stand among the N tokens. offsets: (N, d), c_i,
    and the whole token where it is no patch. weights: the parameters (., d) that are fed the tokens,
    the readers.
    scale, shift: (d,) of the LayerNorm before the readers, or None where they are fed z itself.
    position: the parameter whose gradient is dL/dz, with N rows first, or None. attention_only: whether z reaches the
    loss through the readers alone, so that sum W^T dL/dW = (dL/dz)^T z. All tensors are float64.
    """

    embedding: str
    matrix: Tensor
    places: Tensor
    rows: Tensor
    offsets: Tensor
    weights: dict[str, Tensor]
    scale: Tensor | None
    shift: Tensor | None
    position: str | None
    attention_only: bool

    @property
    def readers(self) -> tuple[str, ...]:
        """The names of the parameters that are fed the tokens."""
        return tuple(self.weights)

    @property
    def tokens(self) -> int:
        """N, with what is no patch (a class token)."""
        return len(self.offsets)

    @property
    def dim(self) -> int:
        """d."""
        return int(self.matrix.shape[0])

    def image(self, patches: Tensor, shape: tuple[int, ...]) -> Tensor:
        """(n, P) patches to one input (1, *shape); values that several patches hold are averaged."""
        flat = patches.new_zeros(math.prod(shape))
        # how many patches hold each pixel: more than one where they overlap
        seen = torch.bincount(self.places.flatten(), minlength=len(flat))
        return (flat.index_add(0, self.places.flatten(), patches.flatten()) / seen).reshape(1, *shape)


def patch_entry(target: Target) -> PatchEntry:
    """How images enter `target`. Raises `NoSuchLayer`, with the reason, where it is not as in `PatchEntry`."""
    if len(target.domain.shape) != 3:
        raise NoSuchLayer(f"{target.name} takes inputs of shape {target.domain.shape}, not images")
    images = distinct(target, 3)
    with running(target) as (model, calls):
        try:
            outputs = model(images)
        except FORWARD_ERRORS as error:
            raise NoSuchLayer(f"the model fails in double precision: {first_line(error)}") from error
        # everything below compares tensors of this one run, so equality is exact and needs no tolerance
        first, places, embedded = _patches(target, calls, images)
        entry = [
            call
            for call in calls[calls.index(first) + 1 :]
            if call.dense and call.given.shape[-1] == first.matrix.shape[0]
        ]
        if not entry:
            raise NoSuchLayer(f"no dense layer of {target.name} is fed the tokens of {first.name or 'its patches'}")
        fed = entry[0].given
        # query, key and value are fed the same tokens; their gradients add up to more equations
        readers = [call for call in entry if call.given.shape == fed.shape and torch.equal(call.given, fed)]
        tokens, scale, shift = _normalized(calls, fed)
        rows, offsets = _offsets(target, tokens.detach(), embedded)
        names = tuple(name for call in readers for name in call.weights)
        position, alone = _gradients(model.module, (tokens, outputs), names, normed=scale is not None)
    weights = {name: dict(model.module.named_parameters())[name].detach() for name in names}
    return PatchEntry(first.weights[0], first.matrix, places, rows, offsets, weights, scale, shift, position, alone)


def distinct(target: Target, count: int) -> Tensor:
    """(count, *shape) float64 inputs within the domain whose values can be told apart."""
    size = math.prod(target.domain.shape)
    generator = Key(0).child("patches").generator()
    # a permutation of ranks: no two values of an image are equal, which random draws could not promise
    ranks = torch.stack([torch.randperm(size, generator=generator) for _ in range(count)]).double()
    shares = ((ranks + 0.5) / size).reshape(count, *target.domain.shape).to(target.device())
    low, high = target.domain.bounds(shares)
    return low + (high - low) * shares


def _patches(target: Target, calls: list[Call], images: Tensor) -> tuple[Call, Tensor, Tensor]:
    """The layer that is fed the patches, their places (n, P), and E p without its bias (B, n, d)."""
    for call in calls:
        places = None
        if isinstance(call.module, nn.Conv2d) and torch.equal(call.given, images):
            places = _of_convolution(call.module, images)
        elif isinstance(call.module, nn.Linear) and call.given.dim() == 3:
            places = _of_rearrangement(call.given.detach(), images)
        # every pixel in some patch, else the image is not determined
        if places is not None and bool((torch.bincount(places.flatten(), minlength=images[0].numel()) > 0).all()):
            return call, places, images.flatten(1)[:, places] @ call.matrix.T
    raise NoSuchLayer(
        f"{target.name} has no layer that embeds patches of the image (a Conv2d without padding whose patches cover "
        "the image, or a Linear that is fed rearranged pixels)"
    )


def _of_convolution(layer: nn.Conv2d, images: Tensor) -> Tensor | None:
    if layer.groups != 1 or set(layer.dilation) != {1} or layer.padding not in ((0, 0), "valid"):
        return None
    # the same unfolding, of the pixels' own numbers: float64 holds them exactly
    index = torch.arange(images[0].numel(), dtype=torch.float64, device=images.device).reshape(1, *images.shape[1:])
    return F.unfold(index, layer.kernel_size, stride=layer.stride)[0].T.round().long()


def _of_rearrangement(given: Tensor, images: Tensor) -> Tensor | None:
    if given[0].numel() != images[0].numel():
        return None
    # values are distinct, so each is found at one place; the other images must confirm it
    known, order = images[0].flatten().sort()
    found = torch.searchsorted(known, given[0].flatten()).clamp(max=len(known) - 1)
    places = order[found].reshape(given[0].shape)
    return places if torch.equal(images.flatten(1)[:, places], given) else None


def _normalized(calls: list[Call], fed: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The tokens before the LayerNorm that makes `fed`, with its scale and shift; `fed` itself where there is none."""
    for call in calls:
        layer = call.module
        if isinstance(layer, nn.LayerNorm) and call.returned.shape == fed.shape and torch.equal(call.returned, fed):
            ones = torch.ones(fed.shape[-1], dtype=fed.dtype, device=fed.device)
            scale = ones if layer.weight is None else layer.weight.detach()
            return call.given, scale, torch.zeros_like(ones) if layer.bias is None else layer.bias.detach()
    return fed, None, None


def _offsets(target: Target, tokens: Tensor, embedded: Tensor) -> tuple[Tensor, Tensor]:
    """Where the patches stand among the tokens, and what is added to them."""
    patches = embedded.shape[1]
    size = float(tokens.abs().max())
    # z_i - E p_i = c_i must be the same for all images; a class token may stand before or after the patches
    for start in range(tokens.shape[1] - patches + 1):
        rest = tokens.clone()
        rest[:, start : start + patches] -= embedded
        # a difference of nearly equal sums: relative to the tokens, not to what is left of them
        if float((rest - rest[:1]).abs().max()) <= SAME * size:
            return torch.arange(start, start + patches), rest[0]
    raise NoSuchLayer(
        f"the first tokens of {target.name} are not its embedded patches plus constants (a normalization, a "
        "nonlinearity or dropout stands between)"
    )


def _gradients(
    module: nn.Module, run: tuple[Tensor, Tensor], readers: tuple[str, ...], *, normed: bool
) -> tuple[str | None, bool]:
    """The position embedding, and whether the tokens reach the loss through the readers alone: by their gradients."""
    tokens, outputs = run
    named = dict(module.named_parameters())
    # random weights: a plain sum has gradient zero behind a softmax or a normalization
    loss = (outputs * normal(outputs.detach(), Key(0).child("position"))).sum()
    slopes = torch.autograd.grad(loss, [tokens, *named.values()], allow_unused=True)
    slope: Tensor | None = slopes[0]
    by_name: dict[str, Tensor | None] = dict(zip(named, slopes[1:], strict=True))
    if slope is None:
        return None, False
    # c_i = b + position_i, so dL/dposition_i = sum_b dL/dz_bi
    position = next((n for n, found in by_name.items() if _positions(found, slope.sum(0))), None)
    # behind a LayerNorm the readers' gradients say W^T dL/dW of normalized tokens: the identity below is another
    if normed:
        return position, False
    total = torch.zeros(slope.shape[-1], slope.shape[-1], dtype=slope.dtype, device=slope.device)
    # per reader y = W z: dL/dz += W^T dL/dy and dL/dW = sum dL/dy z^T, hence sum W^T dL/dW = sum dL/dz z^T
    for name in readers:
        found = by_name[name]
        if found is not None:
            total = total + named[name].detach().T @ found
    through = torch.einsum("bnd,bne->de", slope, tokens.detach())
    # 1e3: sums over batch and tokens in another order than autograd's
    return position, float((total - through).abs().max()) <= 1e3 * SAME * float(total.abs().max())


def _positions(found: Tensor | None, slope: Tensor) -> bool:
    if found is None or found.dim() < 2 or found.shape[-1] != slope.shape[-1]:
        return False
    rows = found.reshape(-1, slope.shape[-1])
    count = len(slope)
    # a table may be longer than the image: rows that were not used have gradient zero
    if len(rows) < count or bool(rows[count:].any()):
        return False
    return float((rows[:count] - slope).abs().max()) <= SAME * float(slope.abs().max())
