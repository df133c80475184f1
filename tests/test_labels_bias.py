"""Labels where the output bias is all that is left of the output layer; clients in plain PyTorch."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

import leakscope as ls
from leakscope.attacks.labels.signs import ALONE
from leakscope.numerics.rng import Key

WEIGHT, BIAS = "3.weight", "3.bias"


@functools.cache
def model(classes: int, seed: int, *, steps: int = 0) -> nn.Sequential:
    """A dense net, trained for some steps on noise, so that its p is far from uniform."""
    with Key(seed).isolated():
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, classes))
        inputs, labels = torch.rand(50, 1, 8, 8), torch.randint(classes, (50,))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(inputs), labels).backward()
            optimizer.step()
    return net


def batch(size: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = Key(seed).child("batch").generator()
    return torch.rand(size, 1, 8, 8, generator=generator), torch.randint(classes, (size,), generator=generator)


def client(net: nn.Module, inputs: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> dict[str, Tensor]:
    net.zero_grad()
    nn.functional.cross_entropy(net(inputs), labels, label_smoothing=smoothing).backward()
    return {name: parameter.grad.clone() for name, parameter in net.named_parameters() if parameter.grad is not None}


def seen(net: nn.Module, update: dict[str, Tensor], classes: int, size: int | None = None, **target) -> ls.Observation:
    facts = [] if size is None else [ls.BatchSize(size)]
    told = ls.Target(net, ls.Images(1, 8, 8), classes, **target)
    return ls.Observation(told, ls.Gradient(update), ls.FedSGD(), facts)


def overlap(claimed: Tensor, true: Tensor, classes: int) -> float:
    pairs = torch.minimum(torch.bincount(claimed, minlength=classes), torch.bincount(true, minlength=classes))
    return float(pairs.sum()) / len(true)


KEPT = {
    "the bias alone": lambda update: {BIAS: update[BIAS]},
    "a filtered update": lambda update: {"1.bias": update["1.bias"], BIAS: update[BIAS]},
    "a pruned weight": lambda update: update | {WEIGHT: torch.zeros_like(update[WEIGHT])},
}


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("classes", [2, 3, 10, 100, 1000])
def test_labels_are_read_from_the_bias_alone(classes: int, kept: str) -> None:
    """Counts within one of a hundred on young nets, from 1 to 64 examples; and no absent class by its sign."""
    shares = []
    for seed, size in enumerate((1, 2, 5, 16, 64)):
        net = model(classes, seed)
        inputs, labels = batch(size, classes, 100 * classes + seed)
        found = seen(net, KEPT[kept](client(net, inputs, labels)), classes, size)
        counted, signs = (attack.run(found, key=Key(0)) for attack in (ls.LabelCounts(), ls.LabelSigns()))
        assert len(counted.claim.values) == size
        shares.append(overlap(counted.claim.values, labels, classes))
        assert set(signs.claim.values.tolist()) <= set(labels.tolist())
        if size == 1:
            assert counted.claim.values.tolist() == signs.claim.values.tolist() == labels.tolist()
        else:
            assert "read from the bias gradient alone" in counted.sentence
    assert sum(shares) / len(shares) >= 0.96


@pytest.mark.parametrize("size", [1, 8])
def test_nothing_changes_where_the_weight_is_there(size: int) -> None:
    net = model(10, 4)
    inputs, labels = batch(size, 10, 9)
    whole = seen(net, client(net, inputs, labels), 10, size)
    counted, signs = (attack.run(whole, key=Key(0)) for attack in (ls.LabelCounts(), ls.LabelSigns()))
    assert sorted(counted.claim.values.tolist()) == sorted(labels.tolist())
    assert "alone" not in counted.sentence + signs.sentence
    assert (signs.certificate is not None) is (size == 1)
    assert size > 1 or ALONE not in signs.certificate.statement


def test_declared_smoothing_is_taken_out() -> None:
    net = model(10, 1)
    inputs, labels = batch(24, 10, 2)
    update = KEPT["the bias alone"](client(net, inputs, labels, smoothing=0.2))
    found = seen(net, update, 10, 24, loss=ls.CrossEntropy(smoothing=0.2))
    assert overlap(ls.LabelCounts().run(found, key=Key(0)).claim.values, labels, 10) >= 23 / 24


def test_a_clip_leaves_the_counts() -> None:
    net = model(10, 2)
    inputs, labels = batch(12, 10, 3)
    update = {name: 0.2 * value for name, value in KEPT["the bias alone"](client(net, inputs, labels)).items()}
    target = ls.Target(net, ls.Images(1, 8, 8), 10)
    found = ls.Observation(target, ls.Gradient(update), ls.FedSGD() >> ls.Clip(0.01), [ls.BatchSize(12)])
    assert overlap(ls.LabelCounts().run(found, key=Key(0)).claim.values, labels, 10) >= 0.9


def test_a_sum_is_called_a_guess() -> None:
    net = model(10, 3)
    inputs, labels = batch(8, 10, 4)
    update = {name: 8 * value for name, value in KEPT["the bias alone"](client(net, inputs, labels)).items()}
    attempt = ls.LabelCounts().run(seen(net, update, 10, 8), key=Key(0))
    assert "this is a guess" in attempt.sentence
    assert float(attempt.claim.confidence.max()) == 0.0


def test_neither_weight_nor_bias_is_refused() -> None:
    net = model(10, 0)
    update = client(net, *batch(1, 10, 0))
    for attack in (ls.LabelSigns(), ls.LabelCounts()):
        gone = attack.run(seen(net, {"1.bias": update["1.bias"]}, 10, 1), key=Key(0))
        still = update | {name: torch.zeros_like(update[name]) for name in (WEIGHT, BIAS)}
        idle = attack.run(seen(net, still, 10, 1), key=Key(0))
        assert gone.outcome is idle.outcome is ls.Outcome.REFUSED
        assert "the release lacks 3.weight" in gone.sentence
        assert "zero throughout" in idle.sentence


def test_a_certificate_says_that_the_bias_stood_alone_and_two_classes_have_none() -> None:
    for classes in (2, 10):
        net = model(classes, 5)
        inputs, labels = batch(1, classes, 6)
        attempt = ls.LabelSigns().run(seen(net, {BIAS: client(net, inputs, labels)[BIAS]}, classes, 1), key=Key(0))
        assert attempt.claim.values.tolist() == labels.tolist()
        if classes == 2:
            # (a, -a) read with the other sign is the other class
            assert attempt.certificate is None
            assert "opposite sign" in attempt.sentence
        else:
            assert attempt.certificate.holds
            assert attempt.certificate.statement == ALONE
    untold = ls.LabelSigns().run(seen(net, {BIAS: client(net, inputs, labels)[BIAS]}, 10), key=Key(0))
    assert untold.certificate is None
    assert untold.claim.values.tolist() == labels.tolist()


def strange(update: Tensor, kind: str, weights: Tensor, generator: torch.Generator) -> Tensor:
    """What a client sends that did something else than it declares."""
    noise = torch.randn(update.shape, generator=generator)
    return {
        "as declared": update,
        "a change of weights": -0.05 * update,
        "the other sign": -update,
        "weight decay": update + 0.05 * weights,
        "much weight decay": update + weights,
        "signs": update.sign(),
        "noise": update + 0.1 * noise,
        "a sum": 3 * update,
        "half of it": update * (update.abs() >= update.abs().median()),
        "dropped": update * (noise > -0.3),
        "rounded": (update / update.abs().max() * 7).round() * update.abs().max() / 7,
    }[kind]


KINDS = """as declared, a change of weights, the other sign, weight decay, much weight decay, signs, noise, a sum,
half of it, dropped, rounded, two told as one, undeclared smoothing"""


@pytest.mark.parametrize("kind", KINDS.replace("\n", " ").split(", "))
def test_no_certificate_from_the_bias_alone_is_wrong(kind: str) -> None:
    """Young and trained nets of 2 to 100 classes, most trained until they are sure of their examples."""
    certified = 0
    for trial in range(36):
        classes, steps = (2, 3, 4, 5, 10, 100)[trial % 6], (0, 30, 200)[trial // 6 % 3]
        net = model(classes, 50 + trial, steps=steps)
        inputs, labels = batch(2 if kind == "two told as one" else 1, classes, 70 + trial)
        if trial % 2:
            labels = net(inputs).argmax(1)  # of which the net is sure: p - y nearly vanishes
        update = client(net, inputs, labels, smoothing=0.1 if kind == "undeclared smoothing" else 0.0)[BIAS]
        if kind not in ("two told as one", "undeclared smoothing"):
            update = strange(update, kind, net[3].bias.detach(), Key(trial).generator())
        attempt = ls.LabelSigns().run(seen(net, {BIAS: update}, classes, 1), key=Key(0))
        if attempt.certificate is not None and attempt.certificate.holds:
            certified += 1
            assert attempt.claim.values[0] in labels
    assert kind != "as declared" or certified > 12
    assert kind not in ("the other sign", "a change of weights") or certified == 0


def test_no_proof_where_the_opposite_sign_reads_as_well() -> None:
    """Three classes, of which one is impossible: p - y = (-a, a, 0), which names the second with the other sign."""
    net = model(3, 8)
    with torch.no_grad():
        net[3].bias[2] = -80.0
    inputs, _ = batch(1, 3, 8)
    update = client(net, inputs, torch.tensor([0]))[BIAS]
    assert float(update[2]) == pytest.approx(0.0, abs=1e-9)
    for sign, claimed in ((1, 0), (-1, 1)):
        attempt = ls.LabelSigns().run(seen(net, {BIAS: sign * update}, 3, 1), key=Key(0))
        assert attempt.claim.values.tolist() == [claimed]
        assert attempt.certificate is None
        assert "opposite sign" in attempt.sentence
    model.cache_clear()  # it was changed
