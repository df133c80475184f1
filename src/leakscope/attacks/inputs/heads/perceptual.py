"""How different two pictures look to a network that has seen many: a distance between its maps, not between pixels."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.core.target import Target
from leakscope.domains.vision import Images
from leakscope.numerics.rng import Key
from leakscope.targets.looking.tape import itself, named, recorded
from leakscope.targets.recipes.architecture import AbstractArchitecture

SIDE = 32
"""Pixels on a side that pictures are enlarged to, if they have fewer: networks halve them five times."""
TINY = 1e-10
"""Added to squared lengths: where a map is zero its direction has no slope."""


@final
@dataclass(frozen=True, eq=False)
class Perceptual:
    """sum_l mean_hw |f_l(x) - f_l(y)|^2, f_l the network's map l, of length 1 over its channels at each place; >= 0.

    LPIPS (Zhang et al. 2018, arXiv:1801.03924, section 3) with all channels of the same weight, for which no file of
    judgements is needed: the published ones are of AlexNet's and VGG's channels alone. The maps are what the last
    convolution of each size returns, from the second size on where there are several, since the first is nearly pixels.
    network: takes pictures in [0, 1] of `SIDE` or more on a side. layers: the convolutions. limits: of the pictures.
    """

    network: Target
    layers: tuple[str, ...]
    limits: tuple[float, float]

    @staticmethod
    def of(backbone: AbstractArchitecture, domain: AbstractDomain, limits: tuple[float, float]) -> Perceptual:
        """On the features of this backbone, as it is built for pictures of this domain, of three channels where it
        takes no others.

        Raises `BadInput` where it takes neither, or has no convolution; `MissingExtra` where its packages are not
        installed.
        """
        channels, height, width = domain.shape
        size = (max(SIDE, height), max(SIDE, width))
        try:
            network = backbone.build(Images(channels, *size), 2, key=Key(0))
        except BadInput:
            # networks of photographs: a gray picture is one of three equal channels
            network = backbone.build(Images(3, *size), 2, key=Key(0))
        # as the attack's own, of nobody who trains it
        network.module.requires_grad_(False)
        with recorded(network.module, named(network.module, nn.Conv2d)) as calls, torch.no_grad():
            network.outputs(network.parameters(), torch.zeros(1, *network.domain.shape))
        # the last one of each size; sizes come one after another
        groups = itertools.groupby(calls, key=lambda call: tuple(call.returned.shape[2:]))
        last = [list(group)[-1].name for _, group in groups]
        if not last:
            raise BadInput(f"{backbone!r} has no convolution whose maps could be compared; give another backbone")
        return Perceptual(network, tuple(last[1:] or last), limits)

    def __call__(self, made: Tensor, candidates: Tensor) -> Tensor:
        """(B, k) of pictures (B, *shape) and of candidates (B, k, *shape), which stay constants."""
        with torch.no_grad():
            known = self._maps(candidates.flatten(0, 1))
        total = made.new_zeros(candidates.shape[:2])
        for ours, theirs in zip(self._maps(made), known, strict=True):
            apart = ours.unsqueeze(1) - theirs.unflatten(0, candidates.shape[:2])
            total = total + apart.square().sum(2).mean((2, 3))
        return total

    def _maps(self, pictures: Tensor) -> list[Tensor]:
        low, high = self.limits
        channels, height, width = self.network.domain.shape
        x = ((pictures - low) / (high - low)).expand(-1, channels, -1, -1)
        if x.shape[2:] != (height, width):
            x = F.interpolate(x, (height, width), mode="bilinear", align_corners=False)
        with recorded(self.network.module, self.layers, keep=itself) as calls:
            self.network.outputs(self.network.parameters(), x)
        # of a layer that is run several times the last one
        found = {call.name: call.returned for call in calls}
        return [found[name] / (found[name].square().sum(1, keepdim=True) + TINY).sqrt() for name in self.layers]
