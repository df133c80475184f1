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

RIDGE, RIDGES = 1e-3, (1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Of the variance of a feature: what keeps features that are nearly the same apart in the linear part. Chosen among
several by pictures that are held out: with twice as many pictures as features the least one fits noise, with two
hundred times as many it is best."""
PART = 2000
"""Estimates whose products are summed at a time."""
HELD, TRIED = 10, 2000
"""One picture in so many is held out, and so many estimates of those are tried."""
EXACT = (1e-6, 1e-5, 1e-4, *RIDGES)
"""The same where estimates are exact: what hardly varies is then no noise, and tells as much."""
OWN, MOST = 4, 10**8
"""A class has a linear part of its own from so many pictures for each feature on, if all have so many numbers at most.

The classes differ in what their features say of a picture: on digits, parts of their own leave as much error as the
whole network does on a common one."""


Size = tuple[int, tuple[int, ...]]
"""How many classes, and the shape of a picture."""


@final
@dataclass(frozen=True, eq=False)
class Lessons:
    """What is learned from: estimates (n, d), classes (n,) int64 below `many`, pictures (n, *shape) in [low, high].

    different: pictures of the smallest class, each counted once however many estimates there are of it. which: (n,)
    int64, the number of the picture that each estimate is of, the same for its copies; None: `RIDGE` is taken unasked.
    ridges: the strengths that are tried on pictures that are held out.
    """

    estimates: Tensor
    classes: Tensor
    many: int
    pictures: Tensor
    low: float
    high: float
    different: int
    which: Tensor | None = None
    ridges: tuple[float, ...] = RIDGES


@final
class Decoder(nn.Module):
    """Estimates (B, d) and classes (B,) to pictures (B, *shape): linear in the estimate, and what a network adds.

    x = picture[c] + z slope[c] + layers(z, c), z = (estimate - center[c]) / deviation, cut off at [low, high]. The
    linear part is solved for (`fresh`), three dense layers learn the rest, from zero on.
    own: whether each class has a slope of its own; all have the same otherwise.
    """

    center: Tensor
    deviation: Tensor
    picture: Tensor
    slope: Tensor

    def __init__(
        self, features: int, classes: int, shape: tuple[int, ...], limits: tuple[float, float], *, own: bool
    ) -> None:
        nn.Module.__init__(self)
        self.classes, self.shape, self.limits = classes, shape, limits
        pixels = math.prod(shape)
        self.register_buffer("center", torch.zeros(classes, features))
        self.register_buffer("deviation", torch.ones(features))
        self.register_buffer("picture", torch.zeros(classes, pixels))
        self.register_buffer("slope", torch.zeros(classes if own else 1, features, pixels))
        self.layers = nn.Sequential(
            nn.Linear(features + classes, WIDTH),
            nn.ReLU(),
            nn.Linear(WIDTH, WIDTH),
            nn.ReLU(),
            nn.Linear(WIDTH, pixels),
        )
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, estimates: Tensor, classes: Tensor) -> Tensor:
        """The pictures."""
        low, high = self.limits
        scaled = (estimates - self.center[classes]) / self.deviation
        added = self.layers(torch.cat([scaled, F.one_hot(classes, self.classes).to(scaled.dtype)], 1))
        flat: Tensor = (self.picture[classes] + self._linear(scaled, classes) + added).clamp(low, high)
        return flat.reshape(-1, *self.shape)

    def _linear(self, scaled: Tensor, classes: Tensor) -> Tensor:
        if len(self.slope) == 1:
            return scaled @ self.slope[0]
        found = scaled.new_empty(len(scaled), self.slope.shape[2])
        # one product for each class: slopes gathered for each picture would be gigabytes
        for one in classes.unique().tolist():
            rows = classes == one
            found[rows] = scaled[rows] @ self.slope[one]
        return found


def decoded(state: State, limits: tuple[float, float], estimates: Tensor, classes: Tensor, size: Size) -> Tensor:
    """(n, *shape): the pictures that a decoder of this state makes of estimates (n, d) of (n,) classes.

    size: how many classes there are, and the shape of a picture.
    """
    many, shape = size
    # its layers draw first weights from the global stream, which is given back
    with Key(0).isolated():
        network = Decoder(estimates.shape[1], many, shape, limits, own=len(state["slope"]) > 1)
    network.load_state_dict(state)
    with torch.no_grad():
        pictures: Tensor = network(estimates, classes)
    return pictures


def fresh(lessons: Lessons, *, key: Key) -> Decoder:
    """A decoder that is linear so far, by ridge regression within classes; its layers are drawn from `key`.

    Where each class has a slope of its own, it is drawn to the common one: what that leaves is solved for.
    """
    features, pixels = lessons.estimates.shape[1], lessons.pictures.flatten(1)
    counts = torch.bincount(lessons.classes, minlength=lessons.many)
    own = lessons.different >= OWN * features and lessons.many * features * pixels.shape[1] <= MOST
    with key.isolated():
        limits = (lessons.low, lessons.high)
        decoder = Decoder(features, lessons.many, tuple(lessons.pictures.shape[1:]), limits, own=own)
    for buffer, values in ((decoder.center, lessons.estimates), (decoder.picture, pixels)):
        buffer.index_add_(0, lessons.classes, values).div_(counts.clamp_min(1).unsqueeze(1))
    scaled = lessons.estimates - decoder.center[lessons.classes]
    deviation = scaled.std(0)
    # a feature that no picture has is 0 in all of them
    decoder.deviation.copy_(torch.where(deviation > 0, deviation, 1.0))
    scaled, rest = scaled / decoder.deviation, pixels - decoder.picture[lessons.classes]
    strength = _strength(scaled, rest, lessons)
    common = _ridge(scaled, rest, strength)
    decoder.slope.copy_(common.expand_as(decoder.slope))
    for one in range(lessons.many if own else 0):
        rows = lessons.classes == one
        decoder.slope[one] += _ridge(scaled[rows], rest[rows] - scaled[rows] @ common, strength)
    return decoder


def _strength(scaled: Tensor, wanted: Tensor, lessons: Lessons) -> float:
    """That of `lessons.ridges` with the least squared error on pictures that were held out."""
    which = lessons.which
    held = torch.zeros(len(scaled), dtype=torch.bool) if which is None else which % HELD == 0
    if not bool(held.any()) or bool(held.all()):
        return RIDGE
    given, tried = scaled[~held], scaled[held][:TRIED]
    # once for all strengths: they share their axes
    values, axes = torch.linalg.eigh(_products(given, given) / len(given))
    slope, along = axes.T @ _products(given, wanted[~held]) / len(given), tried.to(axes) @ axes
    true = wanted[held][:TRIED]
    errors = [float((along / (values.clamp_min(0) + one) @ slope - true).square().sum()) for one in lessons.ridges]
    return lessons.ridges[errors.index(min(errors))]


def _ridge(scaled: Tensor, wanted: Tensor, strength: float) -> Tensor:
    kernel = _products(scaled, scaled)
    kernel.diagonal().add_(strength * len(scaled))
    found: Tensor = torch.linalg.solve(kernel, _products(scaled, wanted)).to(scaled)
    return found


def _products(one: Tensor, other: Tensor) -> Tensor:
    """one^T other, (n, d) and (n, k), in float64: the least eigenvalues are below float32's rounding of the sums."""
    total = one.new_zeros(one.shape[1], other.shape[1], dtype=torch.float64)
    # In parts, so that no float64 copy of all features is made.
    for mine, theirs in zip(one.split(PART), other.split(PART), strict=True):
        total += mine.double().T @ theirs.double()
    return total


def taught(lessons: Lessons, *, key: Key, clock: Clock, watch: Watch, steps: int) -> Decoder:
    """A decoder after `steps` of Adam on half the sum of squared and absolute error, in units of the pictures' range.

    The squared error alone gives the mean picture, which is what is scored; the absolute one keeps edges sharp.
    """
    decoder = fresh(lessons, key=key.child("weights"))
    optimizer = torch.optim.Adam(decoder.parameters(), lr=RATE)
    begun = _restore(decoder, optimizer, clock.saved())
    span = lessons.high - lessons.low
    for step in range(begun, steps):
        if clock.exhausted(0):
            # What was solved for and learned so far: an attempt's seconds end it, preparing has no end.
            break
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
