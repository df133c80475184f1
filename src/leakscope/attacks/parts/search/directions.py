"""Random unit vectors for a direct search: along a frame, a coefficient, one entry, or everything."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.numerics.rng import Key


@final
class By(enum.Enum):
    """Where a direction is not zero; `By("frame")` names the first.

    FRAME: on the coefficients of one frame (or of some). COEFFICIENT: on one coefficient of all frames of an utterance.
    ENTRY: on one entry. ALL: everywhere. A frame is a row along the last dimension, so images have frames as well.
    """

    FRAME = "frame"
    COEFFICIENT = "coefficient"
    ENTRY = "entry"
    ALL = "all"

    def __repr__(self) -> str:
        return f"By.{self.name}"


@final
@dataclass(frozen=True, eq=False)
class Steps:
    """unit: (R, K, *shape), of length 1. coefficient: (R, K), 0 where a direction has none. item: the only row."""

    unit: Tensor
    coefficient: Tensor
    item: int | None


def steps_along(
    point: Tensor, by: By, count: int, *, free: Tensor | None, item: int | None, frames: int, key: Key
) -> Steps:
    """`count` random directions of length 1 for each restart of `point` (R, B, ..., F).

    free: (B, ...) which frames may move. item: the only row of the batch that moves.
    """
    restarts, features = point.shape[0], point.shape[-1]
    rows = torch.ones(point.shape[1:-1], dtype=torch.bool, device=point.device) if free is None else free
    # (B,) to (B, 1, ...): all frames of one row, as far as they are free.
    if item is not None:
        rows = rows & (torch.arange(len(rows), device=point.device) == item).reshape(-1, *[1] * (rows.dim() - 1))
    draw = _Draw(rows, features, (restarts, count), key)
    # 0 for those that have none; their scales are 1 throughout, so any index reads the same.
    coefficient = torch.zeros(restarts, count, dtype=torch.int64, device=point.device)
    if by is By.FRAME:
        directions = draw.by_frame(frames, point)
    elif by is By.COEFFICIENT:
        directions, coefficient = draw.by_coefficient(point)
    elif by is By.ENTRY:
        directions, coefficient = draw.by_entry(point)
    else:
        directions = draw.normal("all", (restarts, count, rows.numel(), features), point) * rows.flatten().unsqueeze(1)
    # Normalized over everything at once: r is the length of the whole step, whatever it is along. The floor keeps a
    # direction that was drawn as zero at zero: 0 / 0 would spoil the sum of steps, even with the weight 0.
    length = torch.linalg.vector_norm(directions.flatten(2), dim=2)
    unit = directions / length.clamp_min(torch.finfo(length.dtype).tiny)[..., None, None]
    return Steps(unit.reshape(restarts, count, *point.shape[1:]), coefficient, item)


@final
@dataclass(frozen=True, eq=False)
class _Draw:
    """rows: (B, ...) which frames may move. shape: restarts and directions."""

    rows: Tensor
    features: int
    shape: tuple[int, int]
    key: Key

    def normal(self, purpose: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        generator = self.key.child(purpose).generator(like.device)
        return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)

    def choice(self, purpose: str, most: int, shape: tuple[int, ...]) -> Tensor:
        device = self.rows.device
        return torch.randint(most, shape, generator=self.key.child(purpose).generator(device), device=device)

    def by_frame(self, frames: int, like: Tensor) -> Tensor:
        # Drawn among the free ones only: a direction along padding would be an evaluation for nothing.
        places = torch.nonzero(self.rows.flatten()).flatten()
        chosen = places[self.choice("frame", len(places), (*self.shape, frames))]
        values = self.normal("values", (*self.shape, frames, self.features), like)
        empty = like.new_zeros(*self.shape, self.rows.numel(), self.features)
        # Added: with several frames one may be drawn twice.
        return empty.scatter_add(2, chosen.unsqueeze(3).expand_as(values), values)

    def by_coefficient(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Of one utterance each, among those that have frames to move."""
        # (B, frames); inputs without a time have one frame each.
        moving = self.rows.flatten(1) if self.rows.dim() > 1 else self.rows.unsqueeze(1)
        items = torch.nonzero(moving.any(1)).flatten()
        item = items[self.choice("item", len(items), self.shape)]
        coefficient = self.choice("coefficient", self.features, self.shape)
        # Each direction has chosen its own utterance, so values are drawn for all of them and masked.
        values = self.normal("values", (*self.shape, *moving.shape), like) * moving
        mine = torch.arange(len(moving), device=item.device) == item.unsqueeze(2)
        values = (values * mine.unsqueeze(3)).flatten(2)
        return values.unsqueeze(3) * self._one(coefficient).to(like).unsqueeze(2), coefficient

    def by_entry(self, like: Tensor) -> tuple[Tensor, Tensor]:
        places = torch.nonzero(self.rows.flatten()).flatten()
        place = places[self.choice("frame", len(places), self.shape)]
        coefficient = self.choice("coefficient", self.features, self.shape)
        # A unit vector along one entry has only two directions.
        sign = 2.0 * self.choice("sign", 2, self.shape) - 1
        empty = like.new_zeros(*self.shape, self.rows.numel())
        values = empty.scatter(2, place.unsqueeze(2), sign.to(like).unsqueeze(2))
        return values.unsqueeze(3) * self._one(coefficient).to(like).unsqueeze(2), coefficient

    def _one(self, coefficient: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(coefficient, self.features)
