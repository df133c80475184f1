"""From features to pictures: a network that is trained on public pictures and the inversion's own estimates of them."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leakscope.core.effort import Clock, Progress, State, Watch
from leakscope.numerics.rng import Key

WIDTH, BATCH, RATE = 512, 256, 2e-3
"""Of the hidden layers, and of the training by Adam, whose rate rises for a tenth of the steps and falls to zero."""


@final
@dataclass(frozen=True, eq=False)
class Lessons:
    """What is learned from: estimates (n, d), classes (n,) int64 below `many`, pictures (n, *shape) in [low, high]."""

    estimates: Tensor
    classes: Tensor
    many: int
    pictures: Tensor
    low: float
    high: float


@final
class Decoder(nn.Module):
    """Estimates (B, d) and classes (B,) to pictures (B, *shape) in [low, high], by three dense layers."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: int, classes: int, shape: tuple[int, ...], limits: tuple[float, float]) -> None:
        nn.Module.__init__(self)
        self.classes, self.shape, self.limits = classes, shape, limits
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        self.layers = nn.Sequential(
            nn.Linear(features + classes, WIDTH),
            nn.ReLU(),
            nn.Linear(WIDTH, WIDTH),
            nn.ReLU(),
            nn.Linear(WIDTH, math.prod(shape)),
        )

    def forward(self, estimates: Tensor, classes: Tensor) -> Tensor:
        """The pictures."""
        low, high = self.limits
        scaled = (estimates - self.mean) / self.deviation
        pixels = self.layers(torch.cat([scaled, F.one_hot(classes, self.classes).to(scaled.dtype)], 1))
        return (low + (high - low) * torch.sigmoid(pixels)).reshape(-1, *self.shape)


def fresh(lessons: Lessons, *, key: Key) -> Decoder:
    """A decoder with weights drawn from `key`, which sees estimates at mean 0 and variance 1."""
    with key.isolated():
        decoder = Decoder(
            lessons.estimates.shape[1], lessons.many, tuple(lessons.pictures.shape[1:]), (lessons.low, lessons.high)
        )
    deviation = lessons.estimates.std(0)
    decoder.mean.copy_(lessons.estimates.mean(0))
    # a feature that no picture has is 0 in all of them
    decoder.deviation.copy_(torch.where(deviation > 0, deviation, 1.0))
    return decoder


def taught(lessons: Lessons, *, key: Key, clock: Clock, watch: Watch, steps: int) -> Decoder:
    """A decoder after `steps` of Adam on half the sum of squared and absolute error, in units of the pictures' range.

    The squared error alone gives the mean picture, which is what is scored; the absolute one keeps edges sharp.
    """
    decoder = fresh(lessons, key=key.child("weights"))
    optimizer = torch.optim.Adam(decoder.parameters(), lr=RATE)
    begun = _restore(decoder, optimizer, clock.saved())
    span = lessons.high - lessons.low
    for step in range(begun, steps):
        # of the step alone, so that a life that goes on draws what one life would have
        rows = torch.randint(len(lessons.estimates), (BATCH,), generator=key.child("step", step).generator())
        for group in optimizer.param_groups:
            group["lr"] = RATE * _schedule(step / steps)
        with torch.enable_grad():
            error = (decoder(lessons.estimates[rows], lessons.classes[rows]) - lessons.pictures[rows]) / span
            loss = 0.5 * (4 * error.square().mean() + 2 * error.abs().mean())
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        clock.keep(functools.partial(_kept, decoder, optimizer, step + 1))
        watch(Progress((step + 1) / steps, float(loss.detach()), "learns to decode features"))
    return decoder.requires_grad_(False)


def _schedule(share: float) -> float:
    """Linear up to 1 at a tenth, then a quarter of a cosine's wave down to 0."""
    return share / 0.1 + 1e-3 if share < 0.1 else 0.5 * (1 + math.cos(math.pi * (share - 0.1) / 0.9))


def _kept(decoder: Decoder, optimizer: torch.optim.Adam, step: int) -> State:
    return {"step": step, "decoder": decoder.state_dict(), "optimizer": optimizer.state_dict()["state"]}


def _restore(decoder: Decoder, optimizer: torch.optim.Adam, state: State | None) -> int:
    """Step to go on from; the optimizer names its tensors by number, which a file keeps as text."""
    if state is None:
        return 0
    moments = {int(place): value for place, value in state["optimizer"].items()}
    decoder.load_state_dict(state["decoder"])
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    return int(state["step"])
