"""The law of proofs where a model changes inputs in front of its first layer, by code that draws nothing.

What such code makes of an input, it often leaves as it is: then a replay from what the first layer was fed agrees to
the last digit, although the private input was another.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

import leakscope as ls
from leakscope.attacks.parts.reading.proof import ALTERED, UNDRAWN
from leakscope.targets.looking.altered_inputs import alters_inputs
from leakscope.targets.looking.random_entry import runs_known_code

IMAGES = ls.Images(1, 8, 8)


class Front(nn.Module):
    """A function in front of the model."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        nn.Module.__init__(self)
        self.change = change

    def forward(self, images: Tensor) -> Tensor:
        return self.change(images)


def mean(images: Tensor) -> Tensor:
    return images.mean((1, 2, 3), keepdim=True).clamp_min(1e-9)


def size(images: Tensor) -> Tensor:
    return images.square().sum((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-9)


CHANGES: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "brightness": (lambda x: x * (0.6 / mean(x)).clamp(max=1), 0.8),
    "norm": (lambda x: x * (7.0 / size(x)).clamp(max=1), 0.9),
    "dark raised": (lambda x: x * (0.3 / mean(x)).clamp(min=1), 0.0),
    "negative": (lambda x: torch.where(mean(x) > 0.7, 1 - x, x), 0.8),
    "gate": (lambda x: torch.where(x.amax((1, 2, 3), keepdim=True) < 0.3, x / 2, x), 0.0),
    "highest pixel": (lambda x: x.clamp(max=0.999), 0.9),
}
"""What is done to the inputs, and the least value of private pixels, which lie within a fifth of it."""


def observed(front: nn.Module, inputs: Tensor, *, told: bool = True) -> ls.Observation:
    """The gradient of plain PyTorch on these inputs and label 3."""
    net = nn.Sequential(front, nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10)).eval()
    names, values = zip(*net.named_parameters(), strict=True)
    slopes = torch.autograd.grad(F.cross_entropy(net(inputs), torch.tensor([3])), values)
    release = ls.Gradient(dict(zip(names, slopes, strict=True)))
    facts = (ls.BatchSize(1),) if told else ()
    return ls.Observation(ls.Target(net, IMAGES, 10), release, ls.FedSGD(), facts)


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("attack", [ls.LinearLayer(), ls.LowRank()], ids=repr)
@pytest.mark.parametrize("change", CHANGES)
def test_no_input_is_proved_that_the_model_may_have_made_of_another(
    change: str, attack: ls.LinearLayer | ls.LowRank, told: bool
) -> None:
    front, least = CHANGES[change]
    with ls.Key(0).isolated():
        inputs = least + 0.2 * torch.rand(1, 1, 8, 8) if least < 0.9 else 1 - 0.1 * torch.rand(1, 1, 8, 8)
        seen = observed(Front(front), inputs, told=told)
    attempt = attack.run(seen, key=ls.Key(1))
    assert not attempt.certified
    # What the layer was fed is claimed all the same, where the look for a layer finds one at all.
    assert attempt.claim is None or ALTERED in attempt.sentence


@pytest.mark.parametrize("attack", [ls.LinearLayer(), ls.LowRank()], ids=repr)
@pytest.mark.parametrize("low", [0.0, 0.4, 0.9])
def test_code_of_its_own_that_changes_nothing_keeps_the_proof_and_says_what_is_assumed(
    low: float, attack: ls.LinearLayer | ls.LowRank
) -> None:
    with ls.Key(0).isolated():
        inputs = low + 0.1 * torch.rand(1, 1, 8, 8)
        seen = observed(Front(lambda x: x.clamp(0, 1).contiguous()), inputs)
    attempt = attack.run(seen, key=ls.Key(1))
    assert attempt.certified, attempt.sentence
    assert attempt.certificate is not None
    assert attempt.claim is not None
    assert attempt.certificate.statement.endswith(UNDRAWN)
    torch.testing.assert_close(attempt.claim.values, inputs, atol=1e-4, rtol=0)


KEPT = (nn.Identity(), nn.ReLU(), nn.Hardtanh(0, 1), nn.ReLU6(), nn.LeakyReLU(), nn.MaxPool2d(1), nn.PixelShuffle(1))
LOST = (nn.Hardtanh(0, 0.999), nn.Threshold(0.002, 0), nn.Hardshrink(0.01), nn.MaxPool2d(3, 1, 1), nn.Softshrink(0.01),
        nn.LayerNorm([1, 8, 8], elementwise_affine=False), nn.InstanceNorm2d(1), nn.GroupNorm(1, 1, affine=False),
        nn.RMSNorm([1, 8, 8], elementwise_affine=False), nn.LocalResponseNorm(2))  # fmt: skip


@pytest.mark.parametrize("front", [*KEPT, *LOST], ids=str)
@pytest.mark.parametrize("low", [0.0, 0.5])
def test_layers_of_torch_that_lose_something_in_the_range_are_seen_at_any_claim(front: nn.Module, low: float) -> None:
    net = nn.Sequential(front, nn.Flatten(), nn.Linear(64, 4))
    with ls.Key(2).isolated():
        claim = low + 0.3 * torch.rand(2, 1, 8, 8)
    assert alters_inputs(ls.Target(net, IMAGES, 4), claim) is any(front is one for one in LOST)


def test_frames_are_no_proof_behind_a_raise_of_quiet_ones() -> None:
    class Recognizer(nn.Module):
        def __init__(self, quiet: float) -> None:
            nn.Module.__init__(self)
            self.quiet = quiet
            self.first, self.out = nn.Linear(9, 8), nn.Linear(8, 4)

        def forward(self, frames: Tensor) -> Tensor:
            loudest = frames[..., :1].amax((1, 2), keepdim=True)
            frames = torch.where(loudest < self.quiet, frames * 0.5, frames)
            windows = F.pad(frames, (0, 0, 1, 1)).unfold(1, 3, 1).transpose(2, 3).flatten(2)
            outputs: Tensor = self.out(torch.relu(self.first(windows)))
            return outputs

    claim = torch.rand(1, 12, 3)
    for quiet, altered in ((-3.0, True), (-1e9, False)):
        target = ls.Target(Recognizer(quiet), ls.Frames(3), 4, loss=ls.CTC(blank=0))
        assert alters_inputs(target, claim, readers=("first",)) is altered


def test_what_torch_makes_of_somebody_elses_class_is_no_known_code() -> None:
    class Dense(nn.Linear):
        pass

    class Half(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight / 2

    theirs, ours = Dense(64, 4), nn.Linear(64, 4)
    parametrize.register_parametrization(theirs, "weight", Half())
    vars(ours)["forward"] = lambda given: F.linear(given, ours.weight)
    for layer, known in (
        (nn.Linear(64, 4), True),
        (Dense(64, 4), False),
        (theirs, False),
        (ours, False),
    ):
        assert runs_known_code(ls.Target(nn.Sequential(nn.Flatten(), layer), IMAGES, 4)) is known


class Replacing(nn.Module):
    """A classifier of four tokens that replaces some before it looks them up, by `change` of the ids (B, T)."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        nn.Module.__init__(self)
        self.change = change
        self.words, self.places = nn.Embedding(30, 32), nn.Embedding(4, 32)
        layer = nn.TransformerEncoderLayer(32, 2, 48, dropout=0.0, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(32, 5)

    def forward(self, ids: Tensor) -> Tensor:
        found = self.looked_up(ids) + self.places(torch.arange(ids.shape[1]))
        return self.head(self.encoder(found).mean(1))

    def looked_up(self, ids: Tensor) -> Tensor:
        """(B, T, 32)."""
        return self.words(self.change(ids))


class ReplacingVectors(Replacing):
    """The same for what was looked up."""

    def looked_up(self, ids: Tensor) -> Tensor:
        kept = (self.change(ids) == ids)[..., None]
        return torch.where(kept, self.words(ids), self.words.weight[self.change(ids)])


class ReplacingRows(Replacing):
    """The same by a function, which nothing can listen to."""

    def looked_up(self, ids: Tensor) -> Tensor:
        """(B, T, 32)."""
        return F.embedding(self.change(ids), self.words.weight)


def beside(ids: Tensor, before: int, token: int, other: int) -> Tensor:
    """The token becomes the other where it follows `before`."""
    found = ids.clone()
    found[:, 1:] = torch.where((ids[:, :-1] == before) & (ids[:, 1:] == token), other, ids[:, 1:])
    return found


def pushed(ids: Tensor) -> Tensor:
    """A 7 before a 9 becomes a 3."""
    found = ids.clone()
    found[:, :-1] = torch.where((ids[:, :-1] == 7) & (ids[:, 1:] == 9), 3, ids[:, :-1])
    return found


REPLACED: dict[str, Callable[[Tensor], Tensor]] = {
    "a token": lambda ids: torch.where(ids == 9, 13, ids),
    "a token beside another": lambda ids: beside(ids, 7, 9, 3),
    "two tokens that stand together": lambda ids: torch.where(beside(ids, 7, 9, 0) == 0, 4, pushed(ids)),
    "capitals": lambda ids: torch.where(ids >= 20, ids - 12, ids),
}


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(
    ("kind", "change"),
    [(Replacing, one) for one in (*REPLACED, "none")]
    + [(ReplacingVectors, "a token"), (ReplacingVectors, "a token beside another")]
    + [(ReplacingRows, "a token"), (ReplacingRows, "a token beside another"), (ReplacingRows, "none")],
)
def test_no_text_is_proved_of_which_the_model_replaces_tokens(kind: type[Replacing], change: str, told: bool) -> None:
    with ls.Key(2).isolated():
        net = kind(REPLACED.get(change, lambda ids: ids)).eval()
    ids = torch.tensor([[7, 9, 25, 14]])
    names, values = zip(*net.named_parameters(), strict=True)
    slopes = torch.autograd.grad(F.cross_entropy(net(ids), torch.tensor([3])), values)
    release = ls.Gradient(dict(zip(names, slopes, strict=True)))
    facts = (ls.BatchSize(1),) if told else ()
    attempt = ls.EmbeddingSpan().run(
        ls.Observation(ls.Target(net, ls.Text(30, 4), 5), release, ls.FedSGD(), facts), key=ls.Key(1)
    )
    # What acts on no text is proved as before.
    assert attempt.certified is (change == "none"), attempt.sentence
    if change == "none":
        assert attempt.claim is not None
        assert attempt.claim.sequences == ((7, 9, 25, 14),)
