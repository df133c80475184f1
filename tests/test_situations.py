"""Situations of other people: their models, their training and their mistakes, each by a client in plain PyTorch."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from tests.tolerance import close
from torch import nn
from typer.testing import CliRunner

import leakscope as ls
from leakscope.attacks.inputs.matching.objective import objective
from leakscope.attacks.parts.distance.distances import Squared
from leakscope.attacks.parts.priors.prior import Flat
from leakscope.attacks.parts.spaces import Pixels
from leakscope.audit.files import read_claim
from leakscope.cli.ending import Exit
from leakscope.cli.looks import said
from leakscope.cli.main import app
from leakscope.core.attempt import Outcome
from leakscope.core.errors import BadInput
from leakscope.core.labels import are_classes
from leakscope.core.refusal import Refusal
from leakscope.core.release import half_in_disguise
from leakscope.core.target import AbstractLoss
from leakscope.targets.looking.batch_statistics import with_batch_statistics
from leakscope.targets.losses import BinaryCrossEntropy, SquaredError

K = ls.Key
DIGITS = ls.Digits(size=8)
TEXTS = ls.Sentences()


def gradient(net, batch, loss=F.cross_entropy, times=1.0):
    """By torch's own backward, times what a client forgot to divide by."""
    net.zero_grad()
    (loss(net(batch.inputs), batch.labels) * times).backward()
    return ls.Gradient(
        {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in net.named_parameters()}
    )


def seeded(seed, make):
    with K(seed).isolated():
        return make()


def dense(width=64, classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, classes))


def conv(*, normalized=False, act=nn.Sigmoid, width=16):
    norm = (lambda: [nn.BatchNorm2d(width)]) if normalized else list
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), *norm(), act(), nn.Conv2d(width, width, 3, padding=1), *norm(), act(),
        nn.Flatten(), nn.Linear(64 * width, 10),
    )  # fmt: skip


def psnr(attempt, secret, domain=DIGITS.domain):
    return ls.score(attempt.claim, secret, domain=domain)["psnr"].value


# --- texts ----------------------------------------------------------------------------------------------------------


class Reader(nn.Module):
    """Classifies texts; the body turns (B, T, d) into (B, d)."""

    def __init__(self, body):
        nn.Module.__init__(self)
        self.words, self.body, self.exit = (
            nn.Embedding(TEXTS.domain.vocabulary, 16, padding_idx=0),
            body,
            nn.Linear(16, 2),
        )

    def forward(self, ids):
        found = self.body(self.words(ids))
        found = found[0][:, -1] if isinstance(found, tuple) else found.mean(1)
        return self.exit(found)


class Sparse(nn.Module):
    """The gradient of its table holds the rows that were looked up, and no others."""

    def __init__(self):
        nn.Module.__init__(self)
        self.words, self.exit = nn.Embedding(TEXTS.domain.vocabulary, 16, sparse=True), nn.Linear(16, 2)

    def forward(self, ids):
        return self.exit(self.words(ids).mean(1))


class Offsets(nn.Module):
    """All texts in one row, with the places where they begin."""

    def __init__(self):
        nn.Module.__init__(self)
        self.words, self.exit = nn.EmbeddingBag(TEXTS.domain.vocabulary, 16, mode="mean"), nn.Linear(16, 2)

    def forward(self, ids):
        return self.exit(self.words(ids.flatten(), torch.arange(0, ids.numel(), ids.shape[1])))


class Both(nn.Module):
    """Places have a table too, and the LSTM goes both ways over packed texts."""

    def __init__(self):
        nn.Module.__init__(self)
        self.words, self.places = nn.Embedding(TEXTS.domain.vocabulary, 16), nn.Embedding(TEXTS.domain.length, 16)
        self.body, self.exit = nn.LSTM(16, 8, bidirectional=True, batch_first=True), nn.Linear(16, 2)

    def forward(self, ids):
        lengths = (ids != 0).sum(1).clamp_min(1).cpu()
        found = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        rows = nn.utils.rnn.pack_padded_sequence(found, lengths, batch_first=True, enforce_sorted=False)
        return self.exit(self.body(rows)[1][0].transpose(0, 1).flatten(1))


class Bag(nn.Module):
    """The table is read by an EmbeddingBag, or by an index in the forward."""

    def __init__(self, mode):
        nn.Module.__init__(self)
        rows = TEXTS.domain.vocabulary
        self.words = nn.Parameter(torch.randn(rows, 16)) if mode == "index" else nn.EmbeddingBag(rows, 16, mode=mode)
        self.mode, self.exit = mode, nn.Linear(16, 2)

    def forward(self, ids):
        return self.exit(self.words[ids].mean(1) if self.mode == "index" else self.words(ids))


READERS = {
    "LSTM": lambda: Reader(nn.LSTM(16, 16, batch_first=True)),
    "two layers of GRU": lambda: Reader(nn.GRU(16, 16, 2, batch_first=True)),
    "RNN": lambda: Reader(nn.RNN(16, 16, batch_first=True)),
    "attention": lambda: Reader(nn.TransformerEncoderLayer(16, 2, 16, dropout=0.0, batch_first=True)),
    "mean of a bag": lambda: Bag("mean"),
    "sum of a bag": lambda: Bag("sum"),
    "most of a bag": lambda: Bag("max"),
    "an index": lambda: Bag("index"),
    "a sparse table": Sparse,
    "offsets": Offsets,
    "both ways, packed": Both,
}


@pytest.mark.parametrize("name", READERS)
def test_a_text_model_of_any_kind_shows_its_tokens_and_labels(name):
    net = seeded(3, READERS[name])
    target = ls.Target(net, TEXTS.domain, 2)
    for count in (1, 3):
        secret = TEXTS.draw(count, key=K(11 + count)).reveal()
        seen = ls.Observation(target, gradient(net, secret), ls.FedSGD(), (ls.BatchSize(count),))
        attempt = ls.EmbeddingRows().run(seen, key=K(0))
        assert attempt.outcome is Outcome.CLAIMED, attempt.sentence
        claimed, true = set(attempt.claim.sequences[0]), set(secret.inputs.flatten().tolist()) - {0}
        # Of a bag's largest entries some tokens give none, and the loss does not depend on them.
        assert claimed <= true if name == "most of a bag" else claimed == true
        for attack in (ls.LabelCounts(), ls.LabelSigns()):
            assert attack.run(seen, key=K(0)).outcome in (Outcome.CLAIMED, Outcome.REFUSED)
        counted = ls.LabelCounts().run(seen, key=K(0))
        assert sorted(counted.claim.values.tolist()) == sorted(secret.labels.tolist()), counted.sentence


def test_a_table_that_was_not_trained_shows_no_tokens():
    net = seeded(3, READERS["LSTM"])
    net.words.weight.requires_grad_(False)
    seen = ls.Observation(ls.Target(net, TEXTS.domain, 2), gradient(net, TEXTS.draw(2, key=K(1)).reveal()), ls.FedSGD())
    attempt = ls.EmbeddingRows().run(seen, key=K(0))
    assert attempt.outcome is Outcome.REFUSED
    assert "not trained" in attempt.sentence


@pytest.mark.parametrize("count", [2, 4])
def test_labels_of_several_texts_of_the_librarys_own_encoder(count):
    target = ls.TextEncoder().build(TEXTS.domain, TEXTS.classes, key=K(0))
    secret = TEXTS.draw(count, key=K(5)).reveal()
    seen = ls.observe(target, secret, ls.FedSGD(), key=K(2), tell=[ls.BatchSize(count)])
    counted = ls.LabelCounts().run(seen, key=K(3))
    assert counted.outcome is Outcome.CLAIMED, counted.sentence
    # An untrained encoder hardly tells texts apart, so that of four the features' error is up to one label.
    assert ls.score(counted.claim, secret)["label-accuracy"].value >= 1 - 1 / count


# --- one attack that raises ------------------------------------------------------------------------------------------


def broken(self, seen, read, *, key, clock, watch):
    raise RuntimeError("a kernel is not implemented\nwith a long explanation")


def test_what_one_attack_raises_does_not_take_along_the_claims_of_the_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = ("--model", "MLP((40,))")
    run = CliRunner().invoke
    assert run(app, ["capture", *model, "--data", "Digits(size=8)", "--out", "u.safetensors"]).exit_code == 0
    monkeypatch.setattr(ls.LabelSigns, "_attempt", broken)
    monkeypatch.setattr(ls.LabelCounts, "_read", lambda self, seen: [][0])
    done = run(app, ["attack", "u.safetensors", *model, "--evaluations", "10", "--out", "claim.safetensors"])
    assert done.exit_code == Exit.LEAK, done.output
    assert "LabelSigns(): failed with RuntimeError: a kernel is not implemented; nothing is known" in done.output
    made = read_claim(tmp_path / "claim.safetensors")
    assert made.attempt is not None
    assert isinstance(made.attempt.claim, ls.Inputs)
    said = {one.attack.partition("(")[0]: one.outcome for one in made.header.tried}
    assert said["LabelSigns"] == "diverged"
    assert said["LinearLayer"] == "claimed"


def test_a_part_of_a_portfolio_that_raises_is_a_step_of_it(monkeypatch):
    target = ls.MLP((40,)).build(DIGITS.domain, 10, key=K(0))
    secret = DIGITS.draw(1, key=K(1)).reveal()
    seen = ls.observe(target, secret, ls.FedSGD(), key=K(2), tell=[ls.BatchSize(1)])
    monkeypatch.setattr(ls.LinearLayer, "_attempt", broken)
    attempt = ls.Auto(evaluations=60).run(seen, key=K(3))
    assert attempt.outcome is Outcome.CLAIMED
    assert any("LinearLayer: diverged, failed with RuntimeError" in step for step in attempt.steps)
    monkeypatch.setattr(ls.LinearLayer, "_read", lambda self, seen: {}["absent"])
    assert ls.Auto(evaluations=60).run(seen, key=K(3)).outcome is Outcome.CLAIMED


# --- layers that have no second derivative, or hand out gradients in another order ----------------------------------


class Attending(nn.Module):
    """Patches through torch's own attention, fused where it can be."""

    def __init__(self, kind):
        nn.Module.__init__(self)
        self.kind, self.patches, self.exit = kind, nn.Conv2d(1, 16, 4, 4), nn.Linear(16, 10)
        self.block = (
            nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
            if kind == "layer"
            else nn.MultiheadAttention(16, 2, batch_first=True)
        )

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        if self.kind == "layer":
            tokens = self.block(tokens)
        elif self.kind == "heads":
            tokens = self.block(tokens, tokens, tokens, need_weights=False)[0]
        else:
            tokens = F.scaled_dot_product_attention(*(tokens[:, None] for _ in range(3)))[:, 0]
        return self.exit(tokens.mean(1))


@pytest.mark.parametrize("kind", ["layer", "heads", "function"])
def test_fused_attention_is_searched_through(kind):
    net = seeded(0, lambda: Attending(kind)).eval()
    secret = DIGITS.draw(2, key=K(1)).reveal()
    target = ls.Target(net, DIGITS.domain, 10)
    seen = ls.Observation(target, gradient(net, secret), ls.FedSGD(), (ls.BatchSize(2),))
    assert not [found for found in ls.vet(target) if found.level.value == "error"]
    for attack in (ls.inverting_gradients(steps=3), ls.idlg(evaluations=5), ls.dlg(evaluations=5)):
        assert attack.run(seen, key=K(3)).outcome in (Outcome.CLAIMED, Outcome.DIVERGED)
    expected = ls.FedSGD().replay(target, secret).by_name
    for name, value in seen.release.by_name.items():
        close(expected[name].detach(), value)


class Skip(nn.Module):
    """A residual block with a 1 x 1 convolution in its skip, whose backward pass lays channels last on CPU."""

    def __init__(self, width):
        nn.Module.__init__(self)
        self.one, self.skip = nn.Conv2d(64, width, 3, 2, 1, bias=False), nn.Conv2d(64, width, 1, 2, bias=False)

    def forward(self, x):
        return torch.relu(self.one(x) + self.skip(x))


@pytest.mark.parametrize("width", [128, 256])
def test_a_wide_skip_is_searched_by_lbfgs(width):
    net = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1),
        nn.ReLU(),
        Skip(width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 5),
    )
    secret = ls.Batch(torch.rand(1, 3, 16, 16, generator=K(4).generator()), torch.tensor([3]))
    seen = ls.Observation(
        ls.Target(net, ls.Images(3, 16, 16), 5), gradient(net, secret), ls.FedSGD(), (ls.BatchSize(1),)
    )
    assert ls.idlg(evaluations=6).run(seen, key=K(1)).outcome is not Outcome.REFUSED


# --- training that is not what was declared --------------------------------------------------------------------------


def stepped(net, secret, lr=0.1):
    """The change of a whole state dict by one step of SGD on what requires a gradient."""
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=lr)
    F.cross_entropy(net(secret.inputs), secret.labels).backward()
    optimizer.step()
    after = {name: value.clone() for name, value in net.state_dict().items()}
    net.load_state_dict(before)
    return ls.Delta.between(before, after)


@pytest.mark.parametrize("mechanism", [ls.FedAvg(steps=1, lr=0.1), ls.FedAvg(steps=1, lr=0.1) >> ls.Clip(0.01)])
def test_frozen_layers_in_a_whole_state_dict_are_no_evidence(mechanism):
    net, secret = seeded(2, conv), DIGITS.draw(1, key=K(21)).reveal()
    net[0].requires_grad_(False)
    target, delta = ls.Target(net, DIGITS.domain, 10), stepped(net, secret)
    if isinstance(mechanism, ls.FedAvg):
        release = delta
    else:  # the client clips what it trained
        size = torch.cat([value.flatten() for value in delta.by_name.values()]).norm()
        release = ls.Delta({name: value * min(1.0, 0.01 / float(size)) for name, value in delta.by_name.items()})
    seen = ls.Observation(target, release, mechanism, (ls.BatchSize(1),))
    attempt = ls.idlg(evaluations=150).run(seen, key=K(3))
    assert psnr(attempt, secret) > 30, attempt.sentence


def test_what_was_frozen_does_not_move_in_replayed_local_steps():
    net, secret = seeded(2, conv), DIGITS.draw(1, key=K(21)).reveal()
    net[-1].requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=2.0)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(net(secret.inputs), secret.labels).backward()
        optimizer.step()
    delta = ls.Delta.between(before, net.state_dict())
    net.load_state_dict(before)
    told = (ls.BatchSize(1), ls.TrueLabels(tuple(secret.labels.tolist())))
    seen = ls.Observation(ls.Target(net, DIGITS.domain, 10), delta, ls.FedAvg(steps=3, lr=2.0), told)
    found = objective(seen, Squared(), Flat().penalty(seen), Pixels(), secret.labels)
    # The private input explains the update to within rounding, which it does not where a frozen layer is replayed.
    assert float(found({"inputs": secret.inputs})) < 1e-9


def test_a_frozen_head_shows_no_labels():
    net, secret = seeded(2, conv), DIGITS.draw(1, key=K(21)).reveal()
    net[-1].requires_grad_(False)
    seen = ls.Observation(
        ls.Target(net, DIGITS.domain, 10), stepped(net, secret), ls.FedAvg(steps=1, lr=0.1), (ls.BatchSize(1),)
    )
    for attack in (ls.LabelCounts(), ls.LabelSigns()):
        attempt = attack.run(seen, key=K(0))
        assert attempt.outcome is Outcome.REFUSED
        assert "not trained" in attempt.sentence
    first = seeded(2, dense)
    first[1].weight.requires_grad_(False)
    seen = ls.Observation(ls.Target(first, DIGITS.domain, 10), gradient(first, secret), ls.FedSGD(), (ls.BatchSize(1),))
    attempt = ls.LinearLayer().run(seen, key=K(0))
    assert attempt.outcome is Outcome.REFUSED
    assert "nan" not in attempt.sentence


def test_an_input_of_zeros_among_others_has_a_residual_that_is_a_number():
    net = seeded(5, lambda: dense(200))
    inputs = DIGITS.draw(2, key=K(6)).reveal().inputs
    inputs[0] = 0.0
    secret = ls.Batch(inputs, torch.tensor([1, 2]))
    seen = ls.Observation(ls.Target(net, DIGITS.domain, 10), gradient(net, secret), ls.FedSGD(), (ls.BatchSize(2),))
    assert "nan" not in ls.LinearLayer().run(seen, key=K(0)).sentence


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", ["images", "images without a bias", "dense"])
def test_batch_statistics_are_seen_in_the_update(kind, seed, training):
    def made():
        if kind == "dense":
            return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Tanh(), nn.Linear(32, 10))
        net = conv(normalized=True, act=nn.ReLU)
        if kind == "images without a bias":
            net[0].bias = net[3].bias = None
        return net

    net, secret = seeded(seed, made), DIGITS.draw(4, key=K(30 + seed)).reveal()
    with torch.no_grad():  # statistics of a net that is in use
        for _ in range(20):
            net(DIGITS.public().inputs[:64])
    sent = gradient(net.train(training), secret)
    assert with_batch_statistics(ls.Target(net, DIGITS.domain, 10), sent.by_name) is training
    assert not with_batch_statistics(ls.Target(net, DIGITS.domain, 10, training=True), sent.by_name)


def test_a_search_runs_the_model_as_the_update_says():
    net, secret = seeded(1, lambda: conv(normalized=True)), DIGITS.draw(2, key=K(33)).reveal()
    sent = gradient(net.train(), secret)
    declared = [ls.Target(net, DIGITS.domain, 10, training=mode) for mode in (False, True)]
    told = (ls.BatchSize(2), ls.TrueLabels(tuple(secret.labels.tolist())))
    found = [
        ls.inverting_gradients(steps=12).run(ls.Observation(one, sent, ls.FedSGD(), told), key=K(0)) for one in declared
    ]
    assert "declare training=True" in found[0].sentence
    assert "declare" not in found[1].sentence
    assert torch.equal(found[0].claim.values, found[1].claim.values)


@pytest.mark.parametrize("steps", [0, 20], ids=["young", "trained a little"])
@pytest.mark.parametrize(("count", "times"), [(4, 4), (8, 8), (8, 2), (16, 4), (16, 1), (6, 3)])
def test_losses_that_were_summed_are_divided_and_said(count, times, steps):
    for seed in range(3):
        net = seeded(40 + seed, dense)
        optimizer, public = torch.optim.SGD(net.parameters(), lr=0.3), DIGITS.public()
        for turn in range(steps):
            optimizer.zero_grad()
            rows = slice(32 * turn, 32 * turn + 32)
            F.cross_entropy(net(public.inputs[rows]), public.labels[rows]).backward()
            optimizer.step()
        secret = DIGITS.draw(count, key=K(50 + seed)).reveal()
        seen = ls.Observation(
            ls.Target(net, DIGITS.domain, 10), gradient(net, secret, times=times), ls.FedSGD(), (ls.BatchSize(count),)
        )
        attempt = ls.LabelCounts().run(seen, key=K(0))
        assert sorted(attempt.claim.values.tolist()) == sorted(secret.labels.tolist()), attempt.sentence
        assert (f"{times} times the mean gradient" in attempt.sentence) is (times > 1)


@pytest.mark.parametrize("kind", ["mean", "sum", "accumulated"])
@pytest.mark.parametrize(("classes", "sure"), [(2, 0), (3, 1), (10, 8)])
def test_counts_that_another_scale_explains_as_well_are_called_a_guess(classes, sure, kind):
    """Few classes are few equations: what is claimed without a doubt has to be right, whoever divided or did not."""
    right = 0
    for seed in range(12):
        net = seeded(4_000 + seed, lambda: dense(classes=classes))
        optimizer, public = torch.optim.SGD(net.parameters(), lr=0.1), DIGITS.public()
        for turn in range(20):
            optimizer.zero_grad()
            rows = slice(32 * turn, 32 * turn + 32)
            F.cross_entropy(net(public.inputs[rows]), public.labels[rows] % classes).backward()
            optimizer.step()
        count = (4, 8, 12, 16)[seed % 4]
        drawn = DIGITS.draw(count, key=K(4_100 + seed)).reveal()
        secret = ls.Batch(drawn.inputs, drawn.labels % classes)
        times = {"mean": 1, "sum": count, "accumulated": 2}[kind]
        attempt = ls.LabelCounts().run(
            ls.Observation(
                ls.Target(net, DIGITS.domain, classes), gradient(net, secret, times=times), ls.FedSGD(),
                (ls.BatchSize(count),),
            ),
            key=K(0),
        )  # fmt: skip
        assert attempt.certificate is None
        if "so this is a guess" in attempt.sentence:
            assert float(attempt.claim.confidence.max()) == 0.0
            continue
        assert sorted(attempt.claim.values.tolist()) == sorted(secret.labels.tolist()), attempt.sentence
        right += 1
    assert right >= sure


def test_counts_of_examples_that_were_not_all_taken_are_called_a_guess():
    net, secret = seeded(3, dense), DIGITS.draw(4, key=K(61)).reveal()
    mechanism = ls.FedAvg(steps=1, lr=0.1, batch_size=2)
    seen = ls.observe(ls.Target(net, DIGITS.domain, 10), secret, mechanism, key=K(0), tell=[ls.BatchSize(4)])
    attempt = ls.LabelCounts().run(seen, key=K(0))
    assert "not all examples are in the update equally often, so this is a guess" in attempt.sentence


def test_a_squared_distance_is_measured_from_the_mean():
    net, secret = seeded(2, conv), DIGITS.draw(2, key=K(60)).reveal()
    target = ls.Target(net, DIGITS.domain, 10)
    once, twice = (
        ls.idlg(evaluations=30).run(
            ls.Observation(target, gradient(net, secret, times=times), ls.FedSGD(), (ls.BatchSize(2),)), key=K(0)
        )
        for times in (1, 2)
    )
    assert "divided" in twice.sentence
    assert "divided" not in once.sentence
    assert torch.equal(once.claim.values, twice.claim.values)


# --- targets that are no classes --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Own(AbstractLoss):
    """Somebody's own regression."""

    def __call__(self, outputs, batch):
        return (outputs - batch.labels).abs().mean()

    def check(self, batch, classes):
        return None

    def labeled(self, inputs, classes):
        return ls.Batch(inputs, torch.zeros(len(inputs), classes))


@dataclasses.dataclass(frozen=True)
class Hinge(AbstractLoss):
    """Somebody's own loss of classes, which reads no probabilities."""

    def __call__(self, outputs, batch):
        return F.multi_margin_loss(outputs, batch.labels)

    def check(self, batch, classes):
        return None

    def labeled(self, inputs, classes):
        return ls.Batch(inputs, torch.arange(len(inputs)) % classes)


def regression(seed, count, outputs, loss):
    net = seeded(seed, lambda: nn.Sequential(nn.Flatten(), nn.Linear(14, 32), nn.Tanh(), nn.Linear(32, outputs)))
    with K(seed).isolated():
        labels = torch.randn(count, outputs)
        labels = (labels > 0).float() if isinstance(loss, BinaryCrossEntropy) else labels
        secret = ls.Batch(torch.rand(count, 1, 1, 14), labels)
    target = ls.Target(net, ls.Images(1, 1, 14), outputs, loss=loss)
    plain = F.binary_cross_entropy_with_logits if isinstance(loss, BinaryCrossEntropy) else F.mse_loss
    return secret, ls.Observation(target, gradient(net, secret, plain), ls.FedSGD(), (ls.BatchSize(count),))


@pytest.mark.parametrize(
    ("loss", "outputs"),
    [(SquaredError(), 1), (SquaredError(), 3), (BinaryCrossEntropy(), 3), (BinaryCrossEntropy(), 1)],
)
def test_numbers_are_searched_where_labels_are_numbers(loss, outputs):
    for seed in range(2):
        secret, seen = regression(seed, 1, outputs, loss)
        attempt = ls.dlg(evaluations=300).run(seen, key=K(2))
        assert attempt.outcome is Outcome.CLAIMED, attempt.sentence
        assert attempt.claim.labels is None
        scores = ls.score(attempt.claim, secret, domain=seen.target.domain)
        assert scores["psnr"].value > 30, attempt.sentence
        assert not [one for one in scores if one.metric.startswith("label")]
        told = attempt.sentence.rpartition("numbers: ")[2].split(", ")
        assert [float(one) for one in told] == pytest.approx(secret.labels[0].tolist(), abs=0.05)


@pytest.mark.parametrize("loss", [SquaredError(), BinaryCrossEntropy(), Own()])
def test_labels_that_are_numbers_are_no_classes(loss):
    outputs = 3 if isinstance(loss, BinaryCrossEntropy) else 1
    secret, seen = regression(0, 1, outputs, loss)
    assert ls.dlg(evaluations=5).refusal(seen) is None
    assert not are_classes(secret)
    scores = ls.score(ls.Inputs(secret.inputs, torch.tensor([0])), secret, domain=seen.target.domain)
    assert scores["psnr"].exact == 1
    assert not [one for one in scores if one.metric.startswith("label")]
    with pytest.raises(BadInput, match="numbers, not classes"):
        ls.score(ls.Labels(torch.tensor([0])), secret)


def test_soft_labels_are_not_searched_where_the_loss_reads_none():
    net, secret = seeded(1, dense), DIGITS.draw(1, key=K(3)).reveal()
    seen = ls.Observation(
        ls.Target(net, DIGITS.domain, 10, loss=Hinge()), gradient(net, secret, F.multi_margin_loss), ls.FedSGD(),
        (ls.BatchSize(1),),
    )  # fmt: skip
    attempt = ls.dlg(evaluations=5).run(seen, key=K(2))
    assert attempt.outcome is Outcome.REFUSED
    assert "Hinge()" in attempt.sentence


def test_probabilities_are_still_classes():
    batch = ls.Batch(torch.zeros(2, 4), torch.tensor([[0.2, 0.8], [1.0, 0.0]]))
    assert are_classes(batch)
    assert ls.score(ls.Labels(torch.tensor([1, 0])), batch)["label-accuracy"].exact == 2


# --- units and precision ----------------------------------------------------------------------------------------------


def test_inputs_in_other_units_than_the_domains_are_said():
    net, secret = seeded(2, conv), DIGITS.draw(1, key=K(21)).reveal()
    moved = secret.with_inputs((secret.inputs - 0.3) / 0.3)
    fitting, forgotten = ls.Images(1, 8, 8, (0.3,), (0.3,)), ls.Images(1, 8, 8)
    with pytest.raises(BadInput, match=r"inputs from -1 to .* lie outside .* mean and std"):
        ls.observe(ls.Target(net, forgotten, 10), moved, ls.FedSGD(), key=K(0))
    ls.observe(ls.Target(net, fitting, 10), moved, ls.FedSGD(), key=K(0))
    found = [
        ls.idlg(evaluations=150).run(
            ls.Observation(ls.Target(net, one, 10), gradient(net, moved), ls.FedSGD(), (ls.BatchSize(1),)), key=K(0)
        )
        for one in (forgotten, fitting)
    ]
    assert "mean and std" in found[0].sentence
    assert "mean and std" not in found[1].sentence


@pytest.mark.parametrize("source", [DIGITS, ls.Photographs(size=8)], ids=["digits", "photographs"])
def test_a_search_within_the_range_says_where_it_is_pressed_against_its_ends(source):
    channels, side, _ = source.domain.shape
    mean, std = 0.45, 0.25

    def made():
        front = (nn.Conv2d(channels, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 16, 3, 2, 1), nn.ReLU())
        return nn.Sequential(*front, nn.Flatten(), nn.Linear(16 * (side // 2) ** 2, 10))

    net, secret = seeded(71, made), source.draw(1, key=K(72)).reveal()
    secret = ls.Batch(secret.inputs, secret.labels % 10)
    moved = secret.with_inputs((secret.inputs - mean) / std)
    declared = ls.Images(channels, side, side, (mean,) * channels, (std,) * channels)
    for domain, batch, says in ((source.domain, moved, True), (declared, moved, False), (source.domain, secret, False)):
        seen = ls.Observation(ls.Target(net, domain, 10), gradient(net, batch), ls.FedSGD(), (ls.BatchSize(1),))
        # What fits is found soon, what does not is pressed against the range little by little.
        attempt = ls.inverting_gradients(steps=200 if says else 40).run(seen, key=K(0))
        assert ("mean and std" in attempt.sentence) is says, attempt.sentence


@pytest.mark.parametrize("stored", ["as half", "as float32"])
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_not_taken_for_float32(kind, stored):
    net, secret = seeded(7, dense), DIGITS.draw(1, key=K(8)).reveal()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    exact = stepped(net, secret)
    after = {name: (before[name] + change).to(kind) for name, change in exact.by_name.items()}
    if stored == "as float32":
        after = {name: value.float() for name, value in after.items()}
    delta = ls.Delta.between(before, after)
    assert {value.dtype for value in delta.by_name.values()} == {kind}
    seen = ls.Observation(ls.Target(net, DIGITS.domain, 10), delta, ls.FedAvg(steps=1, lr=0.1), (ls.BatchSize(1),))
    found = ls.LinearLayer().refusal(seen)
    assert isinstance(found, Refusal)
    assert "too coarse" in found.sentence
    assert {value.dtype for value in exact.by_name.values()} == {torch.float32}
    assert half_in_disguise({"w": torch.ones(5000)}) is None, "a constant says nothing"


# --- arguments of another type -------------------------------------------------------------------------------------

NET = dense()
TARGET = ls.Target(NET, DIGITS.domain, 10)
BATCH = DIGITS.draw(2, key=K(1)).reveal()
SEEN = ls.observe(TARGET, BATCH, ls.FedSGD(), key=K(2), tell=[ls.BatchSize(2)])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: ls.observe(TARGET, BATCH, ls.FedSGD(), key=5), r"key to be of type Key, got 5 .*Key\(0\)"),
        (lambda: ls.observe(TARGET, BATCH, "FedSGD()", key=K(0)), r"got 'FedSGD\(\)' of type str; give an object"),
        (lambda: ls.observe(TARGET, BATCH, ls.FedSGD, key=K(0)), "got the class FedSGD itself"),
        (lambda: ls.observe(NET, BATCH, ls.FedSGD(), key=K(0)), r"type Sequential; wrap a module: Target\("),
        (lambda: ls.observe(TARGET, DIGITS.draw(1, key=K(0)), ls.FedSGD(), key=K(0)), r"reveal\(\)"),
        (lambda: ls.observe(TARGET, BATCH.inputs, ls.FedSGD(), key=K(0)), r"Batch\(inputs, labels\)"),
        (lambda: ls.observe(TARGET, BATCH, ls.FedSGD(), key=K(0), tell=ls.BatchSize(2)), "write a list"),
        (lambda: ls.observe(TARGET, BATCH, ls.FedSGD(), key=K(0), tell=[ls.BatchSize]), "facts with their values"),
        (lambda: ls.LinearLayer().run(BATCH, key=K(0)), "attacks see an observation"),
        (lambda: ls.LinearLayer().refusal(BATCH), "attacks see an observation"),
        (lambda: ls.LinearLayer().run(SEEN, key=3), "key to be of type Key"),
        (lambda: ls.LinearLayer().run(SEEN, key=K(0), budget=5), r"write Budget\("),
        (lambda: ls.Observation(NET, SEEN.release, ls.FedSGD()), "wrap a module"),
        (lambda: ls.Observation(TARGET, SEEN.release, "FedSGD()"), "give an object"),
        (lambda: ls.Observation(TARGET, SEEN.release, ls.FedSGD(), ("BatchSize",)), "each fact"),
        (lambda: ls.Observation(TARGET, dict(SEEN.release.by_name), ls.FedSGD()), r"Gradient\(\.\.\.\), Delta"),
        (lambda: ls.Target(NET, (1, 8, 8), 10), r"Images\(3, 32, 32\)"),
        (lambda: ls.Target(NET, DIGITS.domain, "10"), "expected classes >= 1, got '10'"),
        (lambda: ls.Target(TARGET, DIGITS.domain, 10), "the torch module itself"),
        (lambda: ls.Target(NET, DIGITS.domain, 10, loss=nn.CrossEntropyLoss()), r"such as CrossEntropy\(\)"),
        (lambda: ls.observe(ls.Target(NET, DIGITS.domain, 100), BATCH, ls.FedSGD(), key=K(0)), "gives 10 outputs"),
        (lambda: ls.Gradient({"w": None}), "leave out what has no gradient"),
        (lambda: ls.Gradient({"w": BATCH.inputs.numpy()}), "torch.as_tensor"),
        (lambda: ls.Gradient([BATCH.inputs]), "by parameter name"),
        (lambda: ls.Batch(BATCH.inputs.numpy(), BATCH.labels), "torch.as_tensor"),
        (lambda: ls.BatchSize("2"), "a batch size >= 1, got '2'"),
        (lambda: DIGITS.draw(1, key=3), "key to be of type Key"),
        (lambda: DIGITS.draw("1", key=K(0)), "expected count >= 1"),
        (lambda: ls.vet(NET), "wrap a module"),
        (lambda: ls.score(ls.LinearLayer().run(SEEN, key=K(0)), BATCH), r"attempt\.claim"),
        (lambda: ls.score(ls.Inputs(BATCH.inputs), "secret"), "a Secret or a Batch"),
    ],
)  # fmt: skip
def test_an_argument_of_another_type_is_one_sentence_with_advice(wrong, says):
    with pytest.raises(BadInput, match=says) as caught:
        wrong()
    assert "\n" not in str(caught.value)


def autocast(net, batch, kind, scale=1.0):
    """By torch's own mixed precision, with a loss scale that nobody undoes."""
    net.zero_grad()
    with torch.autocast("cpu", dtype=kind):
        loss = F.cross_entropy(net(batch.inputs), batch.labels)
    (loss * scale).backward()
    return {name: value.grad.clone() for name, value in net.named_parameters()}


def half_model(net, batch, kind):
    found = gradient(copy.deepcopy(net).to(kind), batch.with_inputs(batch.inputs.to(kind)))
    return {name: value.float() for name, value in found.by_name.items()}


MIXED = {
    "autocast": lambda net, batch: ls.Gradient(autocast(net, batch, torch.bfloat16)),
    "autocast, float16": lambda net, batch: ls.Gradient(autocast(net, batch, torch.float16)),
    "a half model": lambda net, batch: ls.Gradient(half_model(net, batch, torch.float16)),
    "a bfloat16 model": lambda net, batch: ls.Gradient(half_model(net, batch, torch.bfloat16)),
    "a step under autocast": lambda net, batch: ls.Delta.between(
        dict(net.named_parameters()),
        {n: v - 0.1 * autocast(net, batch, torch.bfloat16)[n] for n, v in net.named_parameters()},
    ),
    "a change sent as half": lambda net, batch: ls.Delta(
        {n: v.half().float() for n, v in stepped(net, batch).by_name.items()}
    ),
    "a loss scale left in": lambda net, batch: gradient(net, batch, times=2.0**16),
    "a loss scale left in, mixed": lambda net, batch: ls.Gradient(autocast(net, batch, torch.float16, 1024.0)),
    "a step with a loss scale": lambda net, batch: ls.Delta(
        {n: -0.1 * 2.0**16 * v for n, v in gradient(net, batch).by_name.items()}
    ),
}


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("name", MIXED)
def test_mixed_precision_is_seen_and_proves_nothing_wrong(name, count):
    net, secret = seeded(9, dense), DIGITS.draw(count, key=K(73)).reveal()
    with torch.enable_grad():
        release = MIXED[name](net, secret)
    release = type(release)({n: v.detach() for n, v in release.by_name.items()})
    mechanism = ls.FedSGD() if isinstance(release, ls.Gradient) else ls.FedAvg(steps=1, lr=0.1)
    seen = ls.Observation(ls.Target(net, DIGITS.domain, 10), release, mechanism, (ls.BatchSize(count),))
    words = "a loss scale was left in" if "scale" in name else "half precision"
    assert any(words in one for one in said(seen))
    for attack in (ls.LinearLayer(), ls.LowRank(), ls.LabelSigns()):
        attempt = attack.run(seen, key=K(0))
        if attempt.certificate is None or not any(attempt.certificate.proved):
            continue
        # Labels by their signs, which half precision leaves; inputs by ratios, which a scale leaves.
        if isinstance(attempt.claim, ls.Labels):
            assert attempt.claim.values.tolist() == secret.labels.tolist()
        else:
            assert "scale" in name
            assert max(float((one - secret.inputs).abs().amax((1, 2, 3)).min()) for one in attempt.claim.values) < 1e-2


@pytest.mark.parametrize("count", [1, 4])
def test_float32_looks_like_no_mixed_precision(count):
    for seed in range(4):
        net, secret = seeded(10 + seed, dense), DIGITS.draw(count, key=K(74 + seed)).reveal()
        for release, mechanism in (
            (stepped(net, secret), ls.FedAvg(steps=1, lr=0.1)),
            (gradient(net, secret), ls.FedSGD()),
        ):
            target = ls.Target(net, DIGITS.domain, 10)
            assert not said(ls.Observation(target, release, mechanism, (ls.BatchSize(count),)))


def test_one_layer_that_was_rounded_is_not_taken_for_float32():
    net, secret = seeded(7, dense), DIGITS.draw(1, key=K(8)).reveal()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    after = {name: before[name] + change for name, change in stepped(net, secret).by_name.items()}
    after["1.weight"] = after["1.weight"].half().float()
    delta = ls.Delta.between(before, after).by_name
    assert delta["1.weight"].dtype is torch.float16
    assert delta["3.weight"].dtype is torch.float32


@pytest.mark.parametrize("attack", [ls.LabelSigns(), ls.LabelCounts(), ls.RevealedLabels()], ids=repr)
def test_a_step_that_the_scaler_skipped_has_no_labels(attack):
    net = seeded(7, dense)
    nothing = ls.Gradient({name: torch.zeros_like(value) for name, value in net.named_parameters()})
    seen = ls.Observation(ls.Target(net, DIGITS.domain, 10), nothing, ls.FedSGD(), (ls.BatchSize(1),))
    attempt = attack.run(seen, key=K(0))
    assert attempt.outcome is Outcome.REFUSED
    assert "every number of the update is zero" in attempt.sentence
