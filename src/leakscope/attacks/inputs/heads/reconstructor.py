"""From whole heads to pictures: the generator that published attacks train on the weights of shadow heads."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leakscope.core.effort import Clock, Progress, State, Watch
from leakscope.mechanisms.heads.together import CHUNK

BATCH, SHARP = 32, 100.0
"""Heads a step, and how sharply the best of several candidates is chosen; as published."""
STEPS = CHUNK // BATCH
"""For which a chunk of heads, as they are trained together, is enough."""
SMALLEST = 4
"""Pixels on a side of what the first layer makes; each block doubles them."""


@final
@dataclass(frozen=True, eq=False)
class Statistics:
    """z = (w - center) / deviation of each weight over many heads. varies: (P,) bool; weights that never vary are left
    out, as those of features that are always 0."""

    center: Tensor
    deviation: Tensor
    varies: Tensor

    @staticmethod
    def of(heads: Tensor) -> Statistics:
        """From heads (m, P), in float64: thousands of small numbers are summed."""
        wide = heads.double()
        deviation = wide.std(0, correction=0)
        varies = deviation > 0
        return Statistics(wide.mean(0)[varies].float(), deviation[varies].float(), varies)

    def normalized(self, heads: Tensor) -> Tensor:
        """(m, P) to (m, how many vary)."""
        return (heads[:, self.varies] - self.center) / self.deviation


def doubled(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3 x 3 convolution, padded by one, of x (B, before, h, w) enlarged to 2 h x 2 w by copying pixels.

    Never enlarged: of three neighbors on the large grid two are the same small pixel, so that each of the four places
    in a small pixel is a 2 x 2 convolution on the small grid, by sums of the weights. The four are one transposed
    convolution of stride 2, with 16 products for each small pixel instead of 36. Exact but for rounding, borders too.
    weight: (after, before, 3, 3). bias: (after,). Returns (B, after, 2 h, 2 w).

    >>> x, weight = torch.arange(4.0).reshape(1, 1, 2, 2), torch.ones(1, 1, 3, 3)
    >>> doubled(x, weight, None)[0, 0, :2].tolist()
    [[0.0, 2.0, 4.0, 4.0], [4.0, 9.0, 12.0, 10.0]]
    """
    # a transposed convolution hands each pixel out by the kernel turned around; each is handed out as 2 x 2 of itself
    turned = F.pad(weight.flip(2, 3).transpose(0, 1), (1, 1, 1, 1))
    kernel = turned[:, :, 1:, 1:] + turned[:, :, 1:, :-1] + turned[:, :, :-1, 1:] + turned[:, :, :-1, :-1]
    return F.conv_transpose2d(x, kernel, bias, stride=2, padding=1)


@final
class _Block(nn.Module):
    """Twice as large: batch norm, ReLU, nearest, 3 x 3, batch norm, ReLU, 3 x 3, beside what is only enlarged."""

    def __init__(self, before: int, after: int) -> None:
        nn.Module.__init__(self)
        self.first, self.second = nn.BatchNorm2d(before), nn.BatchNorm2d(after)
        self.one, self.other = nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1)
        self.beside = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, h, w) to (B, after, 2 h, 2 w)."""
        large = doubled(self.first(x).relu(), self.one.weight, self.one.bias)
        # a 1 x 1 convolution and copying pixels commute: a quarter of the products
        beside = F.interpolate(self.beside(x), scale_factor=2, mode="nearest")
        result: Tensor = self.other(self.second(large).relu()) + beside
        return result


@final
class Generator(nn.Module):
    """z (B, P') to pictures (B, *shape) in `limits`: a dense layer to 4 width x 4 x 4, blocks that double it, a tanh.

    Channels are 4, 2, 1, 1, ... times `width`. Where the last block makes more pixels than there are, the middle is cut
    out. Published with three blocks, for 32 x 32, and a width of 256 or 512.
    """

    def __init__(self, numbers: int, shape: tuple[int, ...], limits: tuple[float, float], *, width: int) -> None:
        nn.Module.__init__(self)
        self.shape, self.limits = shape, limits
        blocks = max(1, math.ceil(math.log2(max(shape[1:]) / SMALLEST)))
        channels = [width * max(1, 4 >> place) for place in range(blocks + 1)]
        self.dense = nn.ConvTranspose2d(numbers, channels[0], SMALLEST)
        self.blocks = nn.Sequential(*(_Block(*pair) for pair in itertools.pairwise(channels)))
        self.last, self.norm = nn.Conv2d(channels[-1], shape[0], 3, padding=1), nn.BatchNorm2d(channels[-1])
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
        nn.init.xavier_uniform_(self.last.weight)

    def forward(self, z: Tensor) -> Tensor:
        """The pictures."""
        made = self.blocks(self.dense(z[:, :, None, None]))
        made = torch.tanh(self.last(self.norm(made).relu()))
        _, height, width = self.shape
        top, left = (made.shape[2] - height) // 2, (made.shape[3] - width) // 2
        low, high = self.limits
        cut: Tensor = made[:, :, top : top + height, left : left + width]
        return low + (high - low) * (cut + 1) / 2


Draw = Callable[[int], tuple[Tensor, Tensor]]
"""The number of a chunk to z (CHUNK, P') and candidates (CHUNK, k, *shape): a function of the number alone."""
Distance = Callable[[Tensor, Tensor], Tensor]
"""Pictures (B, *shape) and candidates (B, k, *shape) to distances (B, k), which can be differentiated by the first."""


@final
@dataclass(frozen=True)
class Course:
    """How a generator is trained: steps, Adam's rate, another distance besides, and whether products are of bfloat16.

    Weights and their steps stay float32: eight bits of a mantissa would swallow steps.
    """

    steps: int
    rate: float
    look: Distance | None = None
    bfloat16: bool = False


def error(made: Tensor, candidates: Tensor, span: float, look: Distance | None = None) -> Tensor:
    """(B,): of each picture half of MSE + MAE on the scale [-1, 1], to the nearest of k candidates, softly chosen.

    sum_j e_j softmax_j(-SHARP e_j), through which the choice is trained too. made: (B, *shape). candidates: (B, k,
    *shape). span: of the pictures' range. look: another distance (B, k), which is added to each e_j.
    """
    off = 2 * (made.unsqueeze(1) - candidates).flatten(2) / span
    each = 0.5 * (off.square().mean(2) + off.abs().mean(2))
    if look is not None:
        each = each + look(made, candidates)
    return (each * torch.softmax(-SHARP * each, 1)).sum(1)


def trained(generator: Generator, draw: Draw, course: Course, *, clock: Clock, watch: Watch) -> Generator:
    """`generator` after the steps of Adam, each on `BATCH` heads of a stream that never repeats."""
    optimizer = torch.optim.Adam(generator.parameters(), lr=course.rate)
    begun = _restore(generator, optimizer, clock.saved())
    span, held = generator.limits[1] - generator.limits[0], (torch.zeros(0), torch.zeros(0))
    generator.train()
    for step in range(begun, course.steps):
        # chunk and rows follow from the step alone, so that a life that goes on sees what one life would have
        chunk, place = divmod(step, STEPS)
        if place == 0 or step == begun:
            held = draw(chunk)
        rows = slice(place * BATCH, (place + 1) * BATCH)
        with torch.enable_grad():
            with torch.autocast("cpu", torch.bfloat16, enabled=course.bfloat16):
                made = generator(held[0][rows])
            loss = error(made.float(), held[1][rows], span, course.look).mean()
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        clock.keep(functools.partial(_kept, generator, optimizer, step + 1))
        watch(Progress((step + 1) / course.steps, float(loss.detach()), "learns to reconstruct from weights"))
    return generator.eval().requires_grad_(False)


def _kept(generator: Generator, optimizer: torch.optim.Adam, step: int) -> State:
    return {"step": step, "generator": generator.state_dict(), "optimizer": optimizer.state_dict()["state"]}


def _restore(generator: Generator, optimizer: torch.optim.Adam, state: State | None) -> int:
    """Step to go on from; the optimizer names its tensors by number, which a file keeps as text."""
    if state is None:
        return 0
    moments = {int(place): value for place, value in state["optimizer"].items()}
    generator.load_state_dict(state["generator"])
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    return int(state["step"])
