"""The law of proofs, crossed with every attack that certifies: where a certificate holds, the claim is right.

Each case is a way in which several examples, another example or another text look like what an attack would prove.
The referee here is the secret: a claimed input must lie within one percent of a private one, claimed labels must be
those of the batch, and claimed texts the private ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import leakscope as ls
from leakscope.attacks.parts.reading.explained import explained
from leakscope.attacks.parts.reading.proof import MEAN
from leakscope.domains.text import padded
from leakscope.scoring.proved import least_psnr

IMAGES = ls.Images(1, 8, 8)
TEXT = ls.Text(30, 4)
EXACT = 1e-2
WHOLE = ls.FedSGD()
DENSE = (ls.LinearLayer(), ls.LowRank(), ls.Recursive(), ls.LabelSigns())


def unchanged(given: Tensor) -> Tensor:
    return given


@dataclass(frozen=True)
class Case:
    """What the client does: `net` of some classes, `batch` of a seed, and what is released and told of it."""

    name: str
    net: Callable[[], nn.Module]
    classes: int = 4
    count: int = 3
    alike: bool = True
    inputs: Callable[[Tensor], Tensor] = unchanged
    mechanism: Any = WHOLE
    told: bool = False
    training: bool = False
    sent: Callable[[Tensor], Tensor] = unchanged

    def observed(self, seed: int) -> tuple[ls.Observation, ls.Batch]:
        """Of a batch whose labels are all the same where they are `alike`."""
        with ls.Key(seed).isolated():
            net = self.net()
            inputs = self.inputs(torch.rand(self.count, 1, 8, 8))
            # Bright ones are legal in a domain of their own: from 0 to 10.
            domain = IMAGES if float(inputs.max()) <= 1 else ls.Images(1, 8, 8, mean=(0.0,), std=(0.1,))
            target = ls.Target(net, domain, self.classes, training=self.training)
            labels = torch.randint(1, self.classes, (self.count,))
        batch = ls.Batch(inputs, labels[:1].repeat(self.count) if self.alike else labels)
        tell = [ls.BatchSize(self.count)] if self.told else []
        seen = ls.observe(target, batch, self.mechanism, key=ls.Key(seed), tell=tell)
        sent = {name: self.sent(value) for name, value in reversed(seen.release.by_name.items())}
        return ls.Observation(target, type(seen.release)(sent), self.mechanism, seen.facts), batch


def plain(width: int = 32, classes: int = 4, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), act(), nn.Linear(width, classes))


def headed(net: nn.Sequential, *, scale: float = 1.0, bias: float = 0.0) -> nn.Sequential:
    """With the output layer's weights scaled, and its first logit raised."""
    with torch.no_grad():
        net[-1].weight.mul_(scale)
        net[-1].bias[0] += bias
    return net


def split() -> nn.Sequential:
    """Half of the units always at rest, the others always awake: a linear model that looks like one with ReLU."""
    net = plain(64, 4)
    with torch.no_grad():
        net[1].bias += torch.tensor([100.0, -100.0]).repeat(32)
    return net


class Twice(nn.Module):
    """A dense layer that is called twice, or whose weight is another's too."""

    def __init__(self, *, tied: bool) -> None:
        nn.Module.__init__(self)
        self.first, self.second, self.out = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 4)
        self.second = self.second if tied else self.first
        self.second.weight = self.first.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.out(torch.relu(self.second(torch.relu(self.first(inputs.flatten(1))))))


class Spare(nn.Module):
    """With a parameter that nothing uses."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.spare, self.net = nn.Linear(64, 64), plain()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)


def narrow() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1), nn.Tanh(), nn.Linear(1, 4))


def convolutions(act: type[nn.Module] = nn.Sigmoid) -> nn.Sequential:
    layers = (nn.Conv2d(1, 10, 3, 2, 1), act(), nn.Conv2d(10, 24, 3, 1, 1), act())
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(384, 4))


def normalized() -> nn.Sequential:
    middle = nn.BatchNorm1d(32)
    middle.running_var.uniform_(0.2, 2.0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), middle, nn.ReLU(), nn.Linear(32, 4))


CASES = (
    Case("one class", plain),
    Case("one class through a linear model", lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 4))),
    Case("two classes", lambda: plain(32, 2), classes=2, alike=False),
    Case("two classes, bright, ELU", lambda: headed(plain(128, 2, nn.ELU), bias=5), classes=2, inputs=lambda x: 9 * x),
    Case("two classes, sigmoid", lambda: plain(128, 2, nn.Sigmoid), classes=2, count=2, told=True),
    Case("one unit in the middle", narrow, count=2, alike=False),
    Case("one unit in the middle, told", narrow, count=2, alike=False, told=True),
    Case("constant", lambda: headed(plain(), scale=0.0)),
    Case("nearly constant", lambda: headed(plain(64), scale=1e-5)),
    Case("sure and wrong", lambda: headed(plain(64, act=nn.Tanh), bias=25)),
    Case("sure and wrong, affine, told", lambda: headed(plain(64, act=nn.Identity), bias=25), told=True),
    Case("effectively linear", split),
    Case("called twice", lambda: Twice(tied=False), count=1),
    Case("tied weights", lambda: Twice(tied=True), count=1),
    Case("unused parameter", Spare, alike=False),
    Case("duplicates", plain, inputs=lambda x: x[[0, 0, 1]], alike=False, told=True),
    Case("a mean among them", plain, inputs=lambda x: torch.stack([x[0], x[1], (x[0] + x[1]) / 2])),
    Case("an empty image", plain, inputs=lambda x: x * torch.tensor([0.0, 1, 1])[:, None, None, None]),
    Case("dark images", plain, inputs=lambda x: 0.01 * x),
    Case("batch norm in eval", normalized, alike=False),
    Case("dropout", lambda: nn.Sequential(plain()[:3], nn.Dropout(0.3), nn.Linear(32, 4)), training=True),
    Case("convolutions, one class", convolutions),
    Case("convolutions, nearly constant", lambda: headed(convolutions(), scale=1e-5)),
    Case("half precision", plain, count=2, sent=lambda g: g.half()),
    Case("pruned", plain, mechanism=ls.FedSGD() >> ls.Prune(0.5)),
    Case("quantized", plain, mechanism=ls.FedSGD() >> ls.Quantize(2)),
    Case("signs", plain, mechanism=ls.FedSGD() >> ls.Sign()),
    Case("a little noise", plain, mechanism=ls.FedSGD() >> ls.GaussianNoise(1e-7)),
    Case("clipped one by one", split, mechanism=ls.DPSGD(clip=0.1, noise_multiplier=0.0)),
    Case("many steps with momentum", plain, mechanism=ls.FedAvg(steps=4, lr=1e-3, momentum=0.9)),
    Case("one example at a time", plain, mechanism=ls.FedAvg(steps=3, lr=1e-3, batch_size=1)),
    Case("coarse steps, alone", convolutions, count=1, told=True, mechanism=ls.FedAvg(steps=1, lr=1e-4)),
    Case("coarse steps, dense", lambda: headed(plain(), scale=1e-4), count=1, told=True,
         mechanism=ls.FedAvg(steps=3, lr=1e-3)),
)  # fmt: skip


def false(attack: Any, seen: ls.Observation, batch: ls.Batch) -> str:
    """What is wrong with a claim that is certified; empty where nothing is."""
    attempt = attack.run(seen, key=ls.Key(1))
    if attempt.certificate is None or not attempt.certificate.holds:
        return ""
    claim = attempt.claim
    if isinstance(claim, ls.Labels):
        return "" if sorted(claim.values.tolist()) == sorted(batch.labels.tolist()) else f"labels {claim.values}"
    true, claimed = batch.inputs.flatten(1).double(), claim.values.flatten(1).double()
    away = (torch.cdist(claimed, true) / torch.linalg.vector_norm(true, dim=1).clamp_min(1e-3)).min(1).values
    return "" if float(away.max()) <= EXACT else f"{float(away.max()):.1e} away: {attempt.sentence}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_certified_of_a_dense_or_convolutional_net_is_right(case: Case) -> None:
    for seed in range(3):
        seen, batch = case.observed(seed)
        wrong = {repr(attack): false(attack, seen, batch) for attack in DENSE}
        assert not any(wrong.values()), (seed, wrong)


def test_the_law_is_not_empty() -> None:
    """Alone and told, each of them proves its claim; and what needs no facts proves it untold."""
    seen, batch = Case("alone", plain, count=1, told=True).observed(0)
    untold, _ = Case("alone", plain, count=1).observed(0)
    for attack in DENSE:
        assert attack.run(seen, key=ls.Key(1)).certificate.holds
        assert not false(attack, seen, batch)
    for attack in (ls.LinearLayer(), ls.LowRank()):
        assert attack.run(untold, key=ls.Key(1)).certificate.holds


@pytest.mark.parametrize(
    ("scale", "count", "mechanism"),
    [(1.0, 2, ls.FedSGD()), (0.01, 2, ls.FedSGD()), (0.01, 6, ls.DPSGD(clip=0.2, noise_multiplier=0.0)),
     (1.0, 1, ls.FedAvg(steps=3, lr=1e-3)), (1.0, 1, ls.FedSGD() >> ls.GaussianNoise(1e-6))],
    ids=["two", "two dark ones", "six, clipped one by one", "steps", "noise"],
)  # fmt: skip
def test_what_is_certified_of_a_transformer_of_patches_is_right(scale: float, count: int, mechanism: Any) -> None:
    for seed in range(4):
        target = ls.ViT(patch=4, dim=32, depth=1, heads=2).build(IMAGES, 4, key=ls.Key(seed))
        images = scale * torch.rand(count, 1, 8, 8, generator=ls.Key(seed).generator())
        batch = ls.Batch(images, torch.full((count,), 2))
        seen = ls.observe(target, batch, mechanism, key=ls.Key(seed))
        assert not false(ls.FirstAttention(), seen, batch)


class Placeless(nn.Module):
    """A classifier of texts that does not see the order; with places it does."""

    def __init__(self, *, places: bool) -> None:
        nn.Module.__init__(self)
        self.words, self.places = nn.Embedding(30, 32), nn.Embedding(4, 32)
        layer = nn.TransformerEncoderLayer(32, 2, 48, dropout=0.0, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(32, 2)
        self.seen = places

    def forward(self, ids: Tensor) -> Tensor:
        tokens = self.words(ids) + (self.places(torch.arange(ids.shape[1])) if self.seen else 0)
        return self.head(self.encoder(tokens).mean(1))


def twins(module: nn.Module) -> nn.Module:
    """With a vocabulary of which every second word has the vector of the one before."""
    with torch.no_grad():
        module.words.weight[1::2] = module.words.weight[::2].clone()
    return module


@pytest.mark.parametrize(
    ("places", "same", "mechanism", "kept"),
    [
        (False, False, ls.FedSGD(), "words"),
        (True, True, ls.FedSGD(), ""),
        (True, False, ls.FedSGD() >> ls.Quantize(8), "words"),
        (True, False, ls.DPSGD(clip=0.05, noise_multiplier=0.0), "words"),
        (True, False, ls.FedAvg(steps=3, lr=1e-2), "words"),
    ],
    ids=["no places", "words alike", "quantized", "clipped one by one", "steps"],
)
def test_what_is_certified_of_texts_is_right(places: bool, same: bool, mechanism: Any, kept: str) -> None:
    for seed in range(3):
        with ls.Key(seed).isolated():
            module = Placeless(places=places).eval()
            target = ls.Target(twins(module) if same else module, TEXT, 2)
        rows = [(3, 17, 5, 12), (3, 17, 5, 12), (9, 8, 21, 2 + seed)]
        batch = ls.Batch(padded(rows, 4), torch.tensor([0, 1, 1]))
        whole = ls.observe(target, batch, mechanism, key=ls.Key(seed), tell=[ls.BatchSize(3)])
        part = {n: v for n, v in whole.release.by_name.items() if kept or not n.startswith(("words", "places"))}
        seen = ls.Observation(target, type(whole.release)(part), mechanism, whole.facts)
        attempt = ls.EmbeddingSpan().run(seen, key=ls.Key(1))
        if attempt.certificate is None or not attempt.certificate.holds:
            continue
        if attempt.claim.bag:
            assert set(attempt.claim.sequences[0]) == {token for row in rows for token in row}
        else:
            assert sorted(attempt.claim.sequences) == sorted(rows)


def test_a_share_whose_labels_cancel_is_no_part_of_the_update() -> None:
    """Labels in the proportions of the softmax give any text the gradient zero: sum_y p_y (p - y) = 0."""
    target = ls.TextEncoder(dim=32, heads=2, depth=1).build(TEXT, 2, key=ls.Key(0))
    ids = padded([(3, 17, 5, 12), (9, 8, 21, 2)], 4)
    shares = torch.softmax(target.outputs(target.parameters(), ids[1:]), 1)[0].detach()
    soft = ls.Batch(ids, torch.stack([torch.tensor([0.0, 1.0]), shares]))
    found = explained(ls.observe(target, soft, ls.FedSGD(), key=ls.Key(0)), ids)
    assert found is not None
    assert found.residual < 1e-5
    assert float(found.parts[0]) == pytest.approx(1.0, abs=1e-4)
    assert float(found.parts[1]) < 1e-4


def blinded(net: nn.Sequential, kind: str) -> nn.Sequential:
    """With a first layer that does not see a quarter of the pixels, or sees them only in pairs, or sees nothing."""
    with torch.no_grad():
        if kind == "pruned":
            net[1].weight[:, :16] = 0
        if kind == "faint":
            net[1].weight[:, :16] *= 1e-7
        if kind == "tied":
            net[1].weight[:, :16:2] = net[1].weight[:, 1:16:2]
        if kind == "no weights":
            net[1].weight.zero_()
    return net


def swapped(images: Tensor) -> Tensor:
    """The second picture is the first, with each two of its first 16 pixels exchanged."""
    images[1] = images[0]
    images[1, 0, :2] = images[0, 0, :2].reshape(-1, 2).flip(1).reshape(2, 8)
    return images


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("kind", ["pruned", "faint", "tied", "no weights"])
def test_of_inputs_that_the_first_layer_does_not_tell_apart_the_mean_is_not_proved(
    kind: str, alike: bool, told: bool
) -> None:
    """Two of one class, with a third of the same or of another: the gradient is that of their mean, twice."""
    for count in (2, 3):
        case = Case(kind, lambda: blinded(plain(96, 12), kind), 12, count, inputs=swapped, told=told)
        seen, batch = case.observed(0)
        if not alike:
            labels = torch.cat([batch.labels[:2], (batch.labels[2:] + 1) % 12])
            batch = ls.Batch(batch.inputs, labels)
            seen = ls.observe(seen.target, batch, seen.mechanism, key=ls.Key(0), tell=seen.facts)
        for attack in (ls.LinearLayer(), ls.LowRank(), ls.RevealedFeatures()):
            attempt = attack.run(seen, key=ls.Key(0), budget=ls.Budget(seconds=5))
            if attempt.claim is not None and attempt.certificate is not None:
                proved = attempt.claim.values.flatten(1).double()[list(attempt.certificate.proved)]
                true = batch.inputs.flatten(1).double()
                assert not len(proved) or float(torch.cdist(proved, true).min(1).values.max()) < EXACT, attack


def test_pixels_that_the_first_layer_does_not_see_leave_the_proof_where_nothing_can_be_a_mean() -> None:
    """The power of the law: told of one, or black where it is blind, which no mean of other pixels is."""
    for told, black in ((True, False), (False, True), (False, False)):
        case = Case("pruned", lambda: blinded(plain(160), "pruned"), count=1, told=told)
        seen, batch = case.observed(0)
        if black:
            inputs = batch.inputs * (torch.arange(8)[:, None] > 1)
            seen = ls.observe(seen.target, ls.Batch(inputs, batch.labels), seen.mechanism, key=ls.Key(0))
        for attack in (ls.LinearLayer(), ls.LowRank()):
            attempt = attack.run(seen, key=ls.Key(1))
            assert attempt.certified is (told or black), attempt.sentence


@pytest.mark.parametrize("act", [nn.ReLU(), nn.Tanh(), nn.GELU()], ids=repr)
@pytest.mark.parametrize("apart", [1e-3, 3e-3, 1e-2, 3e-2])
def test_the_mean_of_near_duplicates_is_proved_only_where_it_is_as_near_as_a_proved_input(
    apart: float, act: nn.Module
) -> None:
    """Two files of one picture: their errors differ by about d, and what their mean leaves by d^2."""
    for seed in range(4):
        with ls.Key(seed).isolated():
            net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), act, nn.Linear(32, 10))
            one = 0.1 + 0.8 * torch.rand(1, 1, 8, 8)
            two = torch.cat([one, (one + apart * torch.randn(1, 1, 8, 8)).clamp(0, 1)])
        batch = ls.Batch(two, torch.tensor([3, 3]))
        seen = ls.observe(ls.Target(net, IMAGES, 10), batch, ls.FedSGD(), key=ls.Key(0))
        for attack in (ls.LinearLayer(), ls.LowRank()):
            attempt = attack.run(seen, key=ls.Key(0))
            if attempt.certified:
                error = (attempt.claim.values - two).flatten(1).square().mean(1).min()
                assert error <= 10 ** -(least_psnr(attempt.certificate.tolerance) / 10), (attempt.sentence, error)


def test_a_proof_says_that_it_may_be_of_a_mean_unless_the_count_is_told() -> None:
    """Of fewer units than pixels, all of them see the same in two pictures whose difference none of them sees."""
    with ls.Key(3).isolated():
        net = plain(16)
        one = 0.4 + 0.2 * torch.rand(1, 64)
        blind = torch.linalg.svd(net[1].weight.detach())[2][16:].sum(0)
    two = torch.cat([one, one + 0.3 * blind / blind.abs().max()]).reshape(2, 1, 8, 8)
    seen = ls.observe(ls.Target(net, IMAGES, 4), ls.Batch(two, torch.tensor([1, 1])), ls.FedSGD(), key=ls.Key(0))
    attempt = ls.LinearLayer().run(seen, key=ls.Key(1))
    assert attempt.certificate is None or attempt.certificate.statement.endswith(MEAN)
    assert torch.allclose(attempt.claim.values, two.mean(0, keepdim=True), atol=1e-4)
    for told in (True, False):
        alone, _ = Case("alone", plain, count=1, told=told).observed(0)
        assert ls.LinearLayer().run(alone, key=ls.Key(1)).certificate.statement.endswith(MEAN) is not told
