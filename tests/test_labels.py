"""Labels from the output layer: exact for one example, counted for batches."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import leakscope as ls
from leakscope.attacks.labels.counts import round_to_sum
from leakscope.attacks.parts.reading.output_gradient import only_row_pattern
from leakscope.core.attempt import Outcome


def dense(seed: int, *, bias: bool = True, classes: int = 10) -> ls.Target:
    with ls.Key(seed).isolated():
        layers = [nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, classes, bias=bias)]
        return ls.Target(nn.Sequential(nn.Flatten(), *layers), ls.Images(1, 8, 8), classes)


def digits(count: int, seed: int) -> ls.Batch:
    data = load_digits()
    index = torch.randperm(len(data.target), generator=ls.Key(seed).child("digits").generator())[:count]
    inputs = torch.tensor(data.data / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    return ls.Batch(inputs[index], torch.tensor(data.target)[index])


def overlap(claimed: torch.Tensor, true: torch.Tensor, classes: int = 10) -> float:
    pairs = torch.minimum(torch.bincount(claimed, minlength=classes), torch.bincount(true, minlength=classes))
    return float(pairs.sum()) / len(true)


@pytest.mark.parametrize("mechanism", [ls.FedSGD(), ls.FedAvg(steps=1, lr=0.05)], ids=repr)
@pytest.mark.parametrize("size", [24, 256])
def test_counts_are_right_beyond_the_number_of_classes(mechanism: ls.FedSGD, size: int) -> None:
    """The acceptance case; peers reach .65 and .62 here."""
    found = []
    for seed in range(10):
        secret = digits(size, seed)
        seen = ls.observe(dense(seed), secret, mechanism, key=ls.Key(seed), tell=[ls.BatchSize(size)])
        attempt = ls.LabelCounts().run(seen, key=ls.Key(0))
        assert len(attempt.claim) == size
        found.append(overlap(attempt.claim.values, secret.labels))
    assert sum(found) / len(found) >= 0.99


def test_label_smoothing_is_public_and_taken_out() -> None:
    secret = digits(24, 1)
    plain = dense(1)
    target = ls.Target(plain.module, plain.domain, 10, loss=ls.CrossEntropy(smoothing=0.2))
    seen = ls.observe(target, secret, ls.FedSGD(), key=ls.Key(0), tell=[ls.BatchSize(24)])
    assert overlap(ls.LabelCounts().run(seen, key=ls.Key(0)).claim.values, secret.labels) == 1.0
    one = digits(1, 1)
    seen = ls.observe(target, one, ls.FedSGD(), key=ls.Key(0), tell=[ls.BatchSize(1)])
    assert ls.LabelSigns().run(seen, key=ls.Key(0)).claim.values.tolist() == one.labels.tolist()


def test_counts_need_the_batch_size() -> None:
    seen = ls.observe(dense(0), digits(8, 0), ls.FedSGD(), key=ls.Key(0))
    attempt = ls.LabelCounts().run(seen, key=ls.Key(0))
    assert attempt.outcome is ls.Outcome.REFUSED
    assert attempt.sentence == "needs to be told BatchSize; told: nothing"


@pytest.mark.parametrize("bias", [True, False])
def test_one_label_is_exact_with_and_without_bias(bias: bool) -> None:
    for seed in range(20):
        secret = digits(1, seed)
        seen = ls.observe(dense(seed, bias=bias), secret, ls.FedSGD(), key=ls.Key(0), tell=[ls.BatchSize(1)])
        attempt = ls.LabelSigns().run(seen, key=ls.Key(0))
        assert attempt.claim.values.tolist() == secret.labels.tolist()
        assert attempt.certificate.holds


def test_a_thousand_fresh_lenets_tell_their_label() -> None:
    """The reference case: iDLG on fresh LeNets, 1000 of 1000."""
    right = 0
    source = ls.Faces(size=32, channels=3)
    for trial in range(1000):
        target = ls.LeNet().build(source.domain, 100, key=ls.Key(trial))
        image = source.draw(1, key=ls.Key(trial)).reveal().inputs
        label = torch.randint(100, (1,), generator=ls.Key(trial).child("label").generator())
        seen = ls.observe(target, ls.Batch(image, label), ls.FedSGD(), key=ls.Key(0))
        right += int(ls.LabelSigns().run(seen, key=ls.Key(0)).claim.values.item() == int(label))
    assert right == 1000


def test_signs_of_a_batch_claim_only_present_classes() -> None:
    for seed in range(20):
        secret = digits(6, seed)
        seen = ls.observe(dense(seed), secret, ls.FedSGD(), key=ls.Key(0), tell=[ls.BatchSize(6)])
        claimed = set(ls.LabelSigns().run(seen, key=ls.Key(0)).claim.values.tolist())
        assert claimed <= set(secret.labels.tolist())
        assert 2 * len(claimed) >= len(set(secret.labels.tolist()))


def test_no_bias_and_a_batch_is_refused() -> None:
    seen = ls.observe(dense(0, bias=False), digits(4, 0), ls.FedSGD(), key=ls.Key(0), tell=[ls.BatchSize(4)])
    assert "no bias gradient" in ls.LabelSigns().run(seen, key=ls.Key(0)).sentence
    assert "no bias gradient" in ls.LabelCounts().run(seen, key=ls.Key(0)).sentence


def test_a_delta_read_with_the_wrong_sign_would_find_the_absent_classes() -> None:
    """The defect of a well-known framework: why the sign is in the type."""
    secret = digits(4, 2)
    seen = ls.observe(dense(2), secret, ls.FedAvg(steps=1, lr=0.05), key=ls.Key(0), tell=[ls.BatchSize(4)])
    wrong = ls.Observation(seen.target, ls.Gradient(dict(seen.release.by_name)), ls.FedSGD(), seen.facts)
    right = set(ls.LabelSigns().run(seen, key=ls.Key(0)).claim.values.tolist())
    assert right <= set(secret.labels.tolist())
    # Eight classes fall, which of four examples cannot be, so nothing is claimed; who does not know their number is led
    # to the absent classes.
    told = ls.LabelSigns().run(wrong, key=ls.Key(0))
    assert told.outcome is Outcome.DIVERGED
    assert "only the classes of 4 examples can: the sign is reversed" in told.sentence
    alone = ls.Observation(seen.target, wrong.release, ls.FedSGD())
    inverted = set(ls.LabelSigns().run(alone, key=ls.Key(0)).claim.values.tolist())
    assert inverted
    assert not inverted & set(secret.labels.tolist())


def test_rounding_keeps_the_sum() -> None:
    assert round_to_sum(torch.tensor([0.5, 0.5, 1.0]), 2).sum() == 2
    assert round_to_sum(torch.tensor([0.2, 2.9]), 3).tolist() == [0, 3]


def test_row_pattern_tells_one_example_from_two() -> None:
    h = torch.tensor([1.0, 2.0, -1.0]).double()
    p = torch.tensor([0.2, 0.3, 0.5]).double()
    one = torch.outer(p - torch.tensor([0.0, 1.0, 0.0]).double(), h)
    assert only_row_pattern(one)[0] == 1
    assert only_row_pattern(one)[1] < 1e-12
    two = one + torch.outer(p - torch.tensor([1.0, 0.0, 0.0]).double(), torch.tensor([0.5, -1.0, 2.0]).double())
    assert only_row_pattern(two)[1] > 0.1


@pytest.mark.parametrize("size", [1, 4, 24])
def test_clipping_does_not_hide_the_counts(size: int) -> None:
    """Clipping multiplies the release by an unknown number; taken at face value it turns classes into others."""
    found = []
    for seed in range(6):
        secret = digits(size, seed)
        seen = ls.observe(dense(seed), secret, ls.FedSGD() >> ls.Clip(0.1), key=ls.Key(seed), tell=[ls.BatchSize(size)])
        found.append(overlap(ls.LabelCounts().run(seen, key=ls.Key(0)).claim.values, secret.labels))
    assert sum(found) / len(found) >= 0.95


def test_a_destroyed_release_is_divergence_and_no_exception() -> None:
    source = ls.Digits(size=32)
    for seed in range(4):
        target = ls.LeNet().build(source.domain, 10, key=ls.Key(seed))
        secret = source.draw(4, key=ls.Key(seed)).reveal()
        seen = ls.observe(target, secret, ls.FedSGD() >> ls.RandomDrop(0.9), key=ls.Key(seed), tell=[ls.BatchSize(4)])
        attempt = ls.LabelCounts().run(seen, key=ls.Key(0))
        # a bias of which nothing is left cannot be told from one that was not trained
        assert attempt.outcome in (ls.Outcome.CLAIMED, ls.Outcome.DIVERGED, ls.Outcome.REFUSED)


def test_two_classes_are_no_one_example_unless_told() -> None:
    """The two rows of the output layer mirror each other for any batch: only the present sign can be claimed."""
    for count in (1, 4):
        data = ls.Synthetic(shape=(1, 8, 8), classes=2, count=40).draw(count, key=ls.Key(3)).reveal()
        target = ls.MLP((16,)).build(ls.Images(1, 8, 8), 2, key=ls.Key(0))
        untold = ls.LabelSigns().run(ls.observe(target, data, ls.FedSGD(), key=ls.Key(0)), key=ls.Key(0))
        assert untold.certificate is None
        assert "classes have a negative bias gradient" in untold.sentence
    told = ls.observe(target, data.rows(torch.tensor([0])), ls.FedSGD(), key=ls.Key(0), tell=[ls.BatchSize(1)])
    assert ls.LabelSigns().run(told, key=ls.Key(0)).certificate.holds


def test_smoothed_labels_under_a_clip_are_refused_rather_than_misread() -> None:
    """The shift by the smoothing is public, the factor by which a clip shrank it is not."""
    digits = ls.Digits(size=8)
    made = ls.MLP((16,)).build(digits.domain, digits.classes, key=ls.Key(0))
    target = ls.Target(made.module, digits.domain, digits.classes, loss=ls.CrossEntropy(smoothing=0.1))
    batch = digits.draw(4, key=ls.Key(1)).reveal()
    for attack in (ls.LabelSigns(), ls.LabelCounts()):
        plain = ls.observe(target, batch, ls.FedSGD(), key=ls.Key(2), tell=[ls.BatchSize(4)])
        assert attack.refusal(plain) is None
        clipped = ls.observe(target, batch, ls.FedSGD() >> ls.Clip(0.05), key=ls.Key(2), tell=[ls.BatchSize(4)])
        assert "smoothed" in attack.refusal(clipped).sentence


def sure_of_itself(seed: int) -> tuple[ls.Target, ls.Batch]:
    """A net with margins of a hundred nats at its output, and sixteen samples of twelve of its sixty classes."""
    target = dense(seed, classes=60)
    with torch.no_grad():
        target.parameters()["5.weight"].mul_(120)
    labels = torch.randint(12, (16,), generator=torch.Generator().manual_seed(seed))
    return target, ls.Batch(digits(16, seed).inputs, labels)


def test_counts_of_a_sure_net_are_those_of_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its features are not alike, so that the equations in the counts are no more than an estimate."""
    estimated = []
    for seed in range(3):
        target, secret = sure_of_itself(seed)
        seen = ls.observe(target, secret, ls.FedSGD(), key=ls.Key(seed), tell=[ls.BatchSize(16)])
        attempt = ls.LabelCounts().run(seen, key=ls.Key(0))
        assert attempt.claim.values.tolist() == sorted(secret.labels.tolist())
        assert attempt.attack == repr(ls.LabelCounts())
        assert attempt.certified
        proof = ls.RevealedLabels().run(seen, key=ls.Key(0)).certificate
        assert attempt.certificate.statement == proof.statement
        with monkeypatch.context() as patch:
            patch.setattr("leakscope.attacks.labels.counts._by_rows", lambda *_: None)
            estimated.append(overlap(ls.LabelCounts().run(seen, key=ls.Key(0)).claim.values, secret.labels, 60))
    assert min(estimated) < 0.9


@pytest.mark.parametrize("told", [15, 17, 32])
def test_rows_of_another_number_of_samples_prove_nothing(told: int) -> None:
    target, secret = sure_of_itself(0)
    sent = ls.FedSGD().release(target, secret, key=ls.Key(0))
    seen = ls.Observation(target, sent, ls.FedSGD(), (ls.BatchSize(told),))
    attempt = ls.LabelCounts().run(seen, key=ls.Key(0))
    assert attempt.certificate is None
    assert len(attempt.claim) == told


def test_a_summed_loss_is_not_certified_by_its_rows() -> None:
    target, secret = sure_of_itself(0)
    sent = ls.FedSGD().release(target, secret, key=ls.Key(0)).by_name
    seen = ls.Observation(target, ls.Gradient({n: 16 * v for n, v in sent.items()}), ls.FedSGD(), (ls.BatchSize(16),))
    assert ls.LabelCounts().run(seen, key=ls.Key(0)).certificate is None
