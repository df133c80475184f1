"""Models for `certificates.py` that change some inputs in front of their first layer, by code that draws nothing."""

from __future__ import annotations

import dataclasses

import torch
from plain_blind import declared
from plain_clients import Situation
from plain_models import World, chance, whole
from torch import Tensor, nn

KINDS = 5


class Front(nn.Module):
    """A limit of brightness or of the norm, a raise of dark pictures, a gate of faint pixels, or the negative.

    Each maps its own results to themselves, and is the identity on most noise where its `bound` is far out.
    """

    def __init__(self, kind: int, bound: float) -> None:
        nn.Module.__init__(self)
        self.kind, self.bound = kind, bound

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, size, size), changed or not."""
        mean = images.mean((1, 2, 3), keepdim=True).clamp_min(1e-9)
        if self.kind == 0:
            return images * ((0.55 + 0.4 * self.bound) / mean).clamp(max=1)
        if self.kind == 1:
            norm = images.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-9)
            return images * ((0.6 + 0.35 * self.bound) / norm).clamp(max=1)
        if self.kind == 2:
            return images * (0.4 * self.bound / mean).clamp(min=1)
        if self.kind == 3:
            return torch.where(
                images.amax((1, 2, 3), keepdim=True) > 0.5 * self.bound, images, torch.zeros_like(images)
            )
        return torch.where(mean > 0.6 + 0.3 * self.bound, 1 - images, images)


def fronted(world: World) -> World:
    """The model behind such a front, and pictures that are bright, or dark, more often than noise is."""
    if not world.inputs.is_floating_point():
        return world
    front = Front(whole(0, KINDS - 1, world.draw), 0.05 + 0.9 * chance(world.draw))
    parts = list(world.net) if isinstance(world.net, nn.Sequential) else [world.net]
    inputs, shown = world.inputs, whole(0, 2, world.draw)
    if shown:
        left = chance(world.draw)
        inputs = left * inputs if shown == 1 else 1 - left * (1 - inputs)
    net = nn.Sequential(front, *parts).eval()
    return declared(dataclasses.replace(world, net=net, inputs=inputs))


FRONTS: dict[str, Situation] = {"inputs changed in the model": Situation(batch=fronted)}
