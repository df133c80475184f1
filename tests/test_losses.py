"""What each loss is, written out in loops; what labels it takes, and what it says of others."""

from __future__ import annotations

import math

import pytest
import torch
from tests.tolerance import close
from torch import nn

import leakscope as ls
from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.core.target import AbstractLoss, CrossEntropy, Target
from leakscope.domains.speech import Frames
from leakscope.domains.text import Text
from leakscope.domains.vision import Images
from leakscope.mechanisms.observe import observe
from leakscope.mechanisms.protocols.fedavg import FedAvg
from leakscope.mechanisms.protocols.fedsgd import FedSGD
from leakscope.numerics.rng import Key
from leakscope.targets.losses import CTC, BinaryCrossEntropy, NextToken, SquaredError
from leakscope.targets.vetting.model import vet

Z = torch.tensor([[0.3, -2.0, 1.0], [4.0, 0.0, -0.7]], dtype=torch.float64)
HAS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
NUMBERS = torch.tensor([[1.5, -2.0, 0.0], [3.0, 1e3, -1.0]], dtype=torch.float64)
X = torch.rand(2, 1, 2, 2, generator=Key(0).generator(), dtype=torch.float64)


def mean(each, outputs, labels):
    """Over examples and outputs, one at a time."""
    pairs = zip(outputs.flatten().tolist(), labels.flatten().tolist(), strict=True)
    entries = [each(z, y) for z, y in pairs]
    return torch.tensor(sum(entries) / len(entries), dtype=torch.float64)


def test_several_labels_at_once_are_as_many_logistic_regressions():
    def probability(z):
        return 1 / (1 + math.exp(-z))

    def each(z, has):
        return -math.log(probability(z) if has else 1 - probability(z))

    at = Z.clone().requires_grad_(True)
    loss = BinaryCrossEntropy()(at, Batch(X, HAS))
    close(loss.detach(), mean(each, Z, HAS))
    (slope,) = torch.autograd.grad(loss, at)
    close(slope, torch.tensor([[probability(z) for z in row] for row in Z.tolist()], dtype=torch.float64).sub(HAS) / 6)
    assert bool(((slope < 0) == (HAS == 1)).all()), "the sign that label attacks read"


def test_the_squared_error_is_a_mean_over_examples_and_outputs():
    close(SquaredError()(Z, Batch(X, NUMBERS)), mean(lambda z, y: (z - y) ** 2, Z, NUMBERS))


@pytest.mark.parametrize("loss", [BinaryCrossEntropy(), SquaredError()])
def test_shapes_are_never_broadcast(loss):
    with pytest.raises(BadInput, match=r"one by one, got \(2, 1\) and \(2, 3\)"):
        loss(Z[:, :1], Batch(X, HAS))
    with pytest.raises(BadInput, match=r"one by one, got \(2, 3\) and \(2,\)"):
        loss(Z, Batch(X, torch.tensor([0, 1])))
    assert eval(repr(loss)) == loss


ONE_HOT = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
CLASSES = torch.tensor([2, 0])
SHARES = torch.tensor([[0.2, 0.3, 0.5], [0.0, 0.0, 1.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("loss", "labels", "says"),
    [
        (CrossEntropy(), CLASSES, None),
        (CrossEntropy(), SHARES, None),
        (CrossEntropy(), ONE_HOT, None),
        (CrossEntropy(), SHARES.half(), None),
        (CrossEntropy(), CLASSES + 1, r"labels from 0 to 2, got 1 to 3; give the target as many classes"),
        (CrossEntropy(), CLASSES - 1, "got -1 to 1"),
        (CrossEntropy(), SHARES[:, :2], r"3 probabilities per example, got labels of shape \(2, 2\)"),
        (CrossEntropy(), HAS, r"from 0 to 1 with sums from 0 to 2; for several labels at once use loss=BinaryCross"),
        (CrossEntropy(), SHARES + torch.tensor([-0.3, 0.3, 0.0]), "got labels from -0.3 to 1 with sums from 1 to 1"),
        (CrossEntropy(), NUMBERS, "got labels from -2 to 1000"),
        (CrossEntropy(), SHARES * math.nan, "expected probabilities"),
        (BinaryCrossEntropy(), HAS, None),
        (BinaryCrossEntropy(), ONE_HOT, None),
        (BinaryCrossEntropy(), SHARES, "expected 0 or 1 for each label, got 0.2; for probabilities"),
        (BinaryCrossEntropy(), CLASSES, r"3 numbers 0.0 or 1.0, which labels it has, got .* \(2,\) torch.int64"),
        (BinaryCrossEntropy(), HAS[:, :2], r"got labels of shape \(2, 2\)"),
        (BinaryCrossEntropy(), HAS * math.nan, "expected 0 or 1"),
        (SquaredError(), NUMBERS, None),
        (SquaredError(), CLASSES, r"3 real numbers per example \(B, 3\), got labels of shape \(2,\)"),
        (SquaredError(), NUMBERS[:, :1], r"got labels of shape \(2, 1\)"),
        (SquaredError(), NUMBERS / 0, "labels hold values that are not finite"),
    ],
)
def test_each_loss_says_which_labels_it_takes(loss, labels, says):
    """By the challenger's door: labels that are read as something else make a release that means something else."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double()
    target, batch = Target(module, Images(1, 2, 2), 3, loss=loss), Batch(X, labels)
    if says is None:
        loss.check(batch, 3)
        return
    with pytest.raises(BadInput, match=says):
        observe(target, batch, FedSGD(), key=Key(0))


def test_the_next_token_needs_tokens():
    with pytest.raises(BadInput, match=r"NextToken needs token ids \(B, T\) int64, got inputs \(2, 1, 2, 2\)"):
        NextToken().check(Batch(X, CLASSES), 3)


@pytest.mark.parametrize(
    ("loss", "inputs", "classes"),
    [
        (CrossEntropy(), X, 3), (BinaryCrossEntropy(), X, 3), (SquaredError(), X, 1),
        (CTC(blank=2), torch.rand(2, 5, 4), 3),
        (CTC(blank=0), torch.rand(2, 5, 4), 2), (NextToken(), torch.tensor([[3, 1], [2, 0]]), 5),
    ],
)  # fmt: skip
def test_the_labels_for_a_look_pass_the_check(loss, inputs, classes):
    batch = loss.labeled(inputs, classes)
    loss.check(batch, classes)
    assert batch.inputs is inputs


@pytest.mark.parametrize(
    ("loss", "labels"), [(BinaryCrossEntropy(), HAS), (SquaredError(), NUMBERS)], ids=["several", "numbers"]
)
def test_both_routes_agree_and_an_exact_attack_reads_the_input(loss, labels):
    with Key(1).isolated():
        module = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    target, batch = Target(module, Images(1, 2, 2), 3, loss=loss), Batch(X, labels)
    assert vet(target) == ()
    for mechanism in (FedSGD(), FedAvg(steps=3, lr=1e-4)):
        sent = observe(target, batch, mechanism, key=Key(0)).release.by_name
        replayed = mechanism.replay(target, batch).by_name
        for name, value in sent.items():
            close(replayed[name], value)
    one = batch.rows(torch.tensor([0]))
    attempt = ls.LinearLayer().run(observe(target, one, FedSGD(), key=Key(0)), key=Key(1))
    close(attempt.claim.values, one.inputs, loosened=1e3, because="a quotient of two gradients")


@pytest.mark.parametrize("loss", [BinaryCrossEntropy(), SquaredError()])
@pytest.mark.parametrize("attack", [ls.LabelSigns(), ls.LabelCounts(), ls.Recursive(), ls.LowRank()], ids=repr)
def test_attacks_on_cross_entropy_refuse_other_losses_with_a_sentence(loss, attack):
    with Key(1).isolated():
        module = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    target = Target(module, Images(1, 2, 2), 3, loss=loss)
    batch = loss.labeled(X, 3)
    seen = observe(target, batch, FedSGD(), key=Key(0), tell=[ls.BatchSize(2)])
    attempt = attack.run(seen, key=Key(1))
    assert attempt.claim is None
    assert attempt.sentence


def test_speech_and_text_have_their_own_losses():
    assert ls.DeepSpeech(hidden=8).build(Frames(26), 29, key=Key(0)).loss == CTC(blank=28)
    assert ls.TextDecoder(dim=8, heads=2).build(Text(20, 6), 3, key=Key(0)).loss == NextToken()


class _OnlyCalled(AbstractLoss):
    """What a user writes who has read no more than the call."""

    def __init__(self, real: bool) -> None:
        self.real = real

    def __call__(self, outputs: torch.Tensor, batch: ls.Batch) -> torch.Tensor:
        loss = torch.nn.functional.mse_loss if self.real else torch.nn.functional.cross_entropy
        return loss(outputs, batch.labels)


@pytest.mark.parametrize("real", [True, False])
def test_a_loss_of_ones_own_needs_nothing_but_its_call(real: bool) -> None:
    loss = _OnlyCalled(real)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    target = ls.Target(net, ls.Images(1, 2, 2), 3, loss=loss)
    batch = loss.labeled(torch.rand(2, 1, 2, 2), 3)
    assert batch.labels.shape == ((2, 3) if real else (2,))
    attempt = ls.LinearLayer().run(ls.observe(target, batch, ls.FedSGD(), key=ls.Key(0)), key=ls.Key(1))
    assert attempt.outcome is ls.Outcome.CLAIMED
