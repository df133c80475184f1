"""The published network that looks at the update of one layer as at a picture."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leakscope.attacks.attributes.decide import AbstractDecision, Lessons, spread
from leakscope.core.arguments import count, number
from leakscope.core.effort import Clock, Progress, State, Watch
from leakscope.core.errors import BadInput
from leakscope.numerics.rng import Key

CHANNELS = (16, 32, 64)
NARROW = 32
"""Rows of a layer, or columns, below which it is pooled along its longer side alone, as the output layer is."""
# Of Feng et al. 2021: Adam's other settings, and when its rate falls.
DECAY, BETAS, FALL, CALM, LEAST_RATE = 1e-4, (0.9, 0.98), 0.2, 3, 1e-6
OUTSIDE = 0.2
"""Share of the shadow updates that the best epoch is chosen by."""
SETTLED, PATIENCE = 30, 6
"""Epochs before which none is the best, and after the best how many more are looked at."""


@final
@dataclass(frozen=True)
class UpdateNetwork(AbstractDecision):
    """Feng et al. 2021 (arXiv:2112.13416), section 3.3: three convolutions on dL/dW, dense layers with dL/dc beside.

    Of 5 x 5, with 16, 32 and 64 filters, ReLU and pooling behind each, batch normalization on the third, dropout of
    whole filters; then 256 and 128 units. For `RawUpdate()` alone. epochs: at most; the one is kept whose UAR on a
    fifth of the shadow updates is best, after the 30th. lr: Adam's, a fifth of it where the loss rests for 3 epochs.
    dropout: in [0, 1). batch: updates per step. On two CPU cores an update of 256 x 988 takes 0.3 s in each epoch.
    Raises `BadInput` on other values, and for signals of another size than a layer's update.
    """

    epochs: int = 50
    lr: float = 1e-4
    dropout: float = 0.2
    batch: int = 20

    def __post_init__(self) -> None:
        object.__setattr__(self, "epochs", count("epochs", self.epochs))
        object.__setattr__(self, "lr", number("lr", self.lr, low=0, low_open=True))
        object.__setattr__(self, "dropout", number("dropout", self.dropout, low=0, high=1, high_open=True))
        object.__setattr__(self, "batch", count("batch", self.batch, low=2))

    def learn(self, lessons: Lessons, shape: tuple[int, int], *, key: Key, clock: Clock, watch: Watch) -> State:
        """The weights of the best epoch. Draws the first weights, the order of updates and the dropout from `key`."""
        del clock  # minutes, and the shadows are kept: a later life trains again
        return self._trained(lessons, shape, None, key=key, watch=watch)

    def tuned(
        self, state: State, lessons: Lessons, shape: tuple[int, int], *, key: Key, clock: Clock, watch: Watch
    ) -> State:
        """The same training, from the state's weights on."""
        del clock
        if list(state["present"]) != lessons.present:
            raise BadInput(f"has learned categories {state['present']}, and is to go on with {lessons.present}")
        return self._trained(lessons, shape, state["network"], key=key, watch=watch)

    def _trained(
        self, lessons: Lessons, shape: tuple[int, int], start: dict[str, Tensor] | None, *, key: Key, watch: Watch
    ) -> State:
        checked(lessons.vectors, shape)
        order = torch.randperm(len(lessons.vectors), generator=key.child("split").generator())
        # Of updates and not of persons, as published: it chooses an epoch, and nothing is claimed of how right it is.
        cut = max(1, round(OUTSIDE * len(order)))
        training = _Training(self, lessons, shape, order[cut:], order[:cut], key)
        if start is not None:
            training.network.load_state_dict(start)
        for epoch in range(self.epochs):
            loss = training.epoch(epoch)
            watch(Progress((epoch + 1) / self.epochs, loss, "learns to read updates"))
            if training.over(epoch):
                break
        return {
            "network": training.best,
            "shape": list(shape),
            "present": lessons.present,
            "categories": lessons.categories,
        }

    def probabilities(self, state: State, vectors: Tensor) -> Tensor:
        """The network's, without dropout."""
        rows, columns = (int(size) for size in state["shape"])
        checked(vectors, (rows, columns))
        with Key(0).isolated():  # first weights are drawn, and replaced
            network = Network((rows, columns), len(state["present"]), self.dropout)
        network.load_state_dict(state["network"])
        network.eval()
        with torch.no_grad():
            scores = torch.cat([network(part.float()) for part in vectors.split(self.batch)])
        return spread(scores, state)


def checked(vectors: Tensor, shape: tuple[int, int]) -> None:
    """Raises `BadInput` unless each is the update of a layer of this shape, with or without a bias."""
    rows, columns = shape
    if vectors.shape[1] not in (rows * columns, rows * (columns + 1)):
        raise BadInput(
            f"UpdateNetwork looks at the whole update of a layer {rows} x {columns}, the signal has {vectors.shape[1]} "
            "numbers; use it with RawUpdate()"
        )


def pools(shape: tuple[int, int]) -> tuple[tuple[int, int, int], ...]:
    """(kernel, stride down, stride along) behind each convolution, as published for layers of 988, 768 and 512 inputs.

    >>> pools((256, 988))[2], pools((256, 512))[2], pools((128, 256))[2], len(pools((4, 128)))
    ((8, 8, 8), (6, 6, 6), (4, 4, 4), 2)
    """
    rows, columns = shape
    if min(rows, columns) < NARROW:
        # Two rows of a pool at a stride of one: the four rows of an output layer are one for each class.
        down, along = (1, 4) if rows <= columns else (4, 1)
        return tuple((2, down, along) for _ in range(2 if max(rows, columns) >= NARROW else 0))
    last = 8 if columns >= 768 else 6 if columns >= 512 else 4
    return tuple((size, size, size) for size in (2, 4, last))


@final
class Network(nn.Module):
    """Updates (B, H (D + 1)) or (B, H D) to logits (B, K)."""

    def __init__(self, shape: tuple[int, int], classes: int, dropout: float) -> None:
        nn.Module.__init__(self)
        self.shape = shape
        pooling, layers, before, left = pools(shape), list[nn.Module](), 1, shape
        for place, channels in enumerate(CHANNELS):
            layers.append(nn.Conv2d(before, channels, 5, padding=2))
            if place == len(CHANNELS) - 1:
                layers.append(nn.BatchNorm2d(channels))
            layers.append(nn.ReLU())
            if place < len(pooling):
                kernel, *strides = pooling[place]
                # Of what the pools before have left: of two rows one.
                sizes = min(kernel, left[0]), min(kernel, left[1])
                layers.append(nn.MaxPool2d(sizes, (strides[0], strides[1])))
                left = (left[0] - sizes[0]) // strides[0] + 1, (left[1] - sizes[1]) // strides[1] + 1
            before = channels
        self.picture = nn.Sequential(*layers, nn.Dropout2d(dropout), nn.Flatten())
        with torch.no_grad():
            found = self.picture.eval()(torch.zeros(1, 1, *shape)).shape[1]
        self.train()
        self.dense = nn.Sequential(
            nn.Linear(found + shape[0], 256), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(256, 128), nn.ReLU(), nn.Dropout(dropout), nn.Linear(128, classes),
        )  # fmt: skip

    def forward(self, updates: Tensor) -> Tensor:
        """A layer without bias has a bias of gradient zero."""
        rows, columns = self.shape
        whole = updates.reshape(len(updates), rows, -1)
        bias = whole[:, :, columns] if whole.shape[2] > columns else whole.new_zeros(len(updates), rows)
        seen = self.picture(whole[:, None, :, :columns])
        logits: Tensor = self.dense(torch.cat([seen, bias], 1))
        return logits


@final
class _Training:
    """One network on its way, and the state of its best epoch so far."""

    def __init__(
        self, how: UpdateNetwork, lessons: Lessons, shape: tuple[int, int], inside: Tensor, outside: Tensor, key: Key
    ) -> None:
        self.how, self.vectors, self.inside, self.outside, self.key = how, lessons.vectors, inside, outside, key
        place = {category: at for at, category in enumerate(lessons.present)}
        self.members = torch.tensor([place[int(one)] for one in lessons.members])
        self.weight = lessons.weight.float()
        with key.child("weights").isolated():
            self.network = Network(shape, len(place), how.dropout)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=how.lr, weight_decay=DECAY, betas=BETAS)
        self.rate = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer, factor=FALL, patience=CALM, min_lr=LEAST_RATE
        )
        self.best: dict[str, Tensor] = {}
        self.highest, self.best_epoch = -math.inf, 0

    def epoch(self, turn: int) -> float:
        """One pass; the loss on what is left out."""
        key = self.key.child("epoch", turn)
        order = self.inside[torch.randperm(len(self.inside), generator=key.generator())]
        self.network.train()
        with key.child("dropout").isolated(), torch.enable_grad():
            for rows in order.split(self.how.batch):
                # Batch normalization has no deviation of one update; the last one of an epoch comes again in the next.
                if len(rows) > 1:
                    self._step(rows)
        loss, right = self._outside()
        self.rate.step(loss)
        # Before the 30th none counts, unless there are no more than that.
        if right > self.highest and turn >= min(SETTLED, self.how.epochs - 1):
            self.highest, self.best_epoch, self.best = right, turn, copy.deepcopy(self.network.state_dict())
        return loss

    def over(self, turn: int) -> bool:
        """Whether the best is so many epochs ago."""
        return bool(self.best) and turn - self.best_epoch >= PATIENCE

    def _step(self, rows: Tensor) -> None:
        losses = F.cross_entropy(self.network(self.vectors[rows].float()), self.members[rows], reduction="none")
        loss = (losses * self.weight[rows]).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def _outside(self) -> tuple[float, float]:
        """Loss, and UAR over the categories that occur."""
        self.network.eval()
        with torch.no_grad():
            scores = torch.cat([self.network(self.vectors[r].float()) for r in self.outside.split(self.how.batch)])
        true = self.members[self.outside]
        hit = (scores.argmax(1) == true).double()
        recalls = [float(hit[true == category].mean()) for category in true.unique().tolist()]
        return float(F.cross_entropy(scores, true)), sum(recalls) / len(recalls)
