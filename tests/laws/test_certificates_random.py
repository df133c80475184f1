"""The law of proofs where the model itself draws in front of its first layer: nothing is proved of the private input.

Each client is plain PyTorch in training mode, whose augmentation did something to its inputs; one in which it did
nothing sends the same kind of update, so that no attack can know.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.laws.test_certificates import TEXT, Placeless
from tests.laws.test_speech_certificates import CLASSES, FEATURES, Recognizer, walk
from torch import Tensor, nn

import leakscope as ls
from leakscope.attacks.parts.reading.proof import WHOLE
from leakscope.domains.text import padded
from leakscope.targets.looking.random_entry import draws_first

RARE = 0.02
"""How often it does something: a look or two at the model shows nothing of it."""


OF_THE_FILE = random.Random(5)
"""A generator that no module holds."""


class Sometimes(nn.Module):
    """Changes its input now and then, in training mode, by a draw from one of the generators that there are."""

    def __init__(self, change: Any, source: str = "torch", *, often: float = RARE) -> None:
        super().__init__()
        self.change, self.source, self.often, self.forced = change, source, often, False
        self.torch, self.numpy, self.python = torch.Generator(), np.random.default_rng(0), random.Random(0)
        self.several = [random.Random(1)]

    def forward(self, given: Tensor) -> Tensor:
        if not self.training:
            return given
        draw = {
            "torch": lambda: float(torch.rand(())), "numpy": np.random.random, "python": random.random,
            "own torch": lambda: float(torch.rand((), generator=self.torch)), "own numpy": self.numpy.random,
            "own python": self.python.random, "of the file": OF_THE_FILE.random, "in a list": self.several[0].random,
        }[self.source]()  # fmt: skip
        return self.change(given) if self.forced or draw < self.often else given


def flipped(given: Tensor) -> Tensor:
    return given.flip(-1)


def erased(given: Tensor) -> Tensor:
    return given * (torch.arange(given.shape[-1]) > 2)


def noised(given: Tensor) -> Tensor:
    return (given + 0.2 * torch.rand_like(given)).clamp(0, 1)


def image(entry: nn.Module, seed: int = 0, *, training: bool = True, after: nn.Module | None = None) -> ls.Observation:
    """What a client sends whose model changed its one input, as it does now and then."""
    with ls.Key(seed).isolated():
        net = nn.Sequential(entry, nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), after or nn.Identity(), nn.Linear(32, 4))
        inputs, label = torch.rand(1, 1, 8, 8), torch.randint(0, 4, (1,))
        target = ls.Target(net, ls.Images(1, 8, 8), 4, training=training)
        entry.forced = True
        F.cross_entropy(net.train()(inputs), label).backward()
    update = {name: value.grad.clone() for name, value in net.named_parameters()}
    return ls.Observation(target, ls.Gradient(update), ls.FedSGD(), (ls.BatchSize(1),))


SOURCES = ("torch", "numpy", "python", "own torch", "own numpy", "own python", "of the file", "in a list")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("change", [flipped, erased, noised])
def test_an_image_that_the_model_changes_now_and_then_is_not_proved(change: Any, source: str, training: bool) -> None:
    seen = image(Sometimes(change, source), training=training)
    for attack in (ls.LinearLayer(), ls.LowRank(), ls.Recursive()):
        attempt = attack.run(seen, key=ls.Key(1))
        assert attempt.certificate is None, attack
        # Which of the two is noticed first depends on what was drawn.
        said = ("draws at random in front of its first layer", "is fed another input than alone")
        assert attempt.claim is None or any(one in attempt.sentence for one in said)


def test_what_is_drawn_behind_the_first_layer_leaves_the_proof() -> None:
    """The power of the law: the same client without an augmentation, and with a dropout further on."""
    plain = ls.LinearLayer().run(image(nn.Identity()), key=ls.Key(1))
    assert plain.certificate is not None
    assert plain.certificate.statement.endswith(WHOLE)
    later = image(nn.Identity(), after=Sometimes(flipped))
    assert ls.LinearLayer().run(later, key=ls.Key(1)).certificate is not None
    assert not draws_first(later.target)


def test_a_second_entry_counts_too() -> None:
    """A model that reads its input twice, the second time behind a draw: which of the two is read is not known here."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flat, self.one, self.other = nn.Flatten(), nn.Linear(64, 8), nn.Linear(64, 8)
            self.entry, self.out = Sometimes(flipped), nn.Linear(16, 4)

        def forward(self, given: Tensor) -> Tensor:
            flat = self.flat(given)
            return self.out(torch.cat([self.one(flat), self.other(self.entry(flat))], 1).relu())

    assert draws_first(ls.Target(Twice(), ls.Images(1, 8, 8), 4, training=True))
    assert draws_first(ls.Target(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(0.1), nn.Linear(64, 4)),
                                 ls.Images(1, 8, 8), 4))  # fmt: skip


def test_frames_that_the_model_masks_now_and_then_are_not_proved() -> None:
    """SpecAugment inside of the model: what the first layer was fed is not what was said."""

    class Masked(Recognizer):
        def __init__(self) -> None:
            super().__init__(96, nn.ReLU(), 0.0)
            self.entry: nn.Module = Sometimes(lambda x: x * (torch.arange(x.shape[-1]) > 1))

        def forward(self, frames: Tensor) -> Tensor:
            return super().forward(self.entry(frames))

    for masks in (True, False):
        with ls.Key(0).isolated():
            net, said = Masked(), walk(16, ls.Key(0).generator())
            net.entry = net.entry if masks else nn.Identity()
            target = ls.Target(net, ls.Frames(FEATURES), CLASSES, loss=ls.CTC(blank=0), training=True)
            net.entry.forced = True
            outputs = net.train()(said[None])[0].log_softmax(1)[:, None]
            F.ctc_loss(outputs, torch.tensor([[3, 4]]), [16], [2], blank=0, reduction="sum").backward()
        update = {name: value.grad.clone() for name, value in net.named_parameters()}
        seen = ls.Observation(target, ls.Gradient(update), ls.FedSGD(), (ls.BatchSize(1),))
        attempt = ls.WindowedFrames().run(seen, key=ls.Key(1))
        assert (attempt.certificate is None) is masks
        assert ("draws at random" in attempt.sentence) is masks


def test_tokens_that_the_model_replaces_now_and_then_are_not_proved() -> None:
    class Dropping(Placeless):
        def __init__(self) -> None:
            super().__init__(places=True)
            self.entry: nn.Module = Sometimes(lambda ids: torch.where(ids == 17, 2, ids))

        def forward(self, ids: Tensor) -> Tensor:
            return super().forward(self.entry(ids))

    for drops in (True, False):
        with ls.Key(0).isolated():
            net, ids = Dropping(), padded([(3, 17, 5, 12)], 4)
            net.entry = net.entry if drops else nn.Identity()
            target = ls.Target(net, TEXT, 2, training=True)
            net.entry.forced = True
            F.cross_entropy(net.train()(ids), torch.tensor([1])).backward()
        update = {n: v.grad.clone() for n, v in net.named_parameters() if v.grad is not None}
        seen = ls.Observation(target, ls.Gradient(update), ls.FedSGD(), (ls.BatchSize(1),))
        attempt = ls.EmbeddingSpan().run(seen, key=ls.Key(1))
        assert (attempt.certificate is None) is drops, attempt.sentence


class Anew(nn.Module):
    """Drops words by a generator that is made in each forward: no state shows it, what the first layer is fed does."""

    def forward(self, given: Tensor) -> Tensor:
        drop = torch.from_numpy(np.random.default_rng().random(tuple(given.shape)) < 0.1)
        return given.masked_fill(drop, 0) if self.training else given


@pytest.mark.parametrize("training", [True, False])
def test_a_generator_that_is_made_anew_is_seen_by_what_it_does(training: bool) -> None:
    net = nn.Sequential(Anew(), nn.Flatten(), nn.Linear(64, 4))
    assert draws_first(ls.Target(net, ls.Images(1, 8, 8), 4, training=training))
    assert not draws_first(ls.Target(net[1:], ls.Images(1, 8, 8), 4, training=training))
