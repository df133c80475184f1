"""What an update shows beside its model, of clients in plain PyTorch: a reversed sign, normalization over the batch."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import leakscope as ls
from leakscope.targets.vetting.beside_model import beside


def gradient(net: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    names, values = zip(*net.named_parameters(), strict=True)
    loss = nn.functional.cross_entropy(net(inputs), labels)
    return dict(zip(names, torch.autograd.grad(loss, values), strict=True))


def changed(net: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, steps: int) -> dict[str, torch.Tensor]:
    """After minus before, divided by minus lr and steps: how local steps are read."""
    own, lr = copy.deepcopy(net), 0.05
    optimizer = torch.optim.SGD(own.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(own(inputs), labels).backward()
        optimizer.step()
    before = dict(net.named_parameters())
    return {n: -(p.detach() - before[n].detach()) / (lr * steps) for n, p in own.named_parameters()}


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_reversed_sign_is_seen_where_it_is_one_and_nowhere_else(steps: int):
    for trial in range(40):
        with ls.Key(trial).child("looks").isolated():
            classes, count = int(torch.randint(5, 30, ())), int(torch.randint(1, 4, ()))
            net = nn.Sequential(nn.Flatten(), nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, classes))
            inputs, labels = torch.rand(count, 1, 4, 4), torch.randint(classes, (count,))
        target = ls.Target(net, ls.Images(1, 4, 4), classes)
        update = changed(net, inputs, labels, steps) if steps else gradient(net, inputs, labels)
        turned = {name: -0.01 * value for name, value in update.items()}
        assert beside(target, update, count) == ()
        # at least classes - count of the turned entries are negative, beyond what `count` examples can do
        if classes - count > count:
            (look,) = beside(target, turned, count)
            assert "the sign is reversed" in look.sentence
            assert "declare the other one of gradient and delta" in look.remedy
        if count == 1:
            assert beside(target, update, None) == ()
        if count == 1 and classes >= 8:
            assert "as the reverse of one example's gradient does" in beside(target, turned, None)[0].sentence


def test_of_large_batches_one_positive_class_is_rare():
    seen = 0
    for trial in range(60):
        with ls.Key(trial).child("large").isolated():
            net = nn.Sequential(nn.Flatten(), nn.Linear(16, 10))
            update = gradient(net, torch.rand(64, 1, 4, 4), torch.randint(10, (64,)))
        seen += len(beside(ls.Target(net, ls.Images(1, 4, 4), 10), update, None))
    # ten coins of which one shows a head: about 1 %, so more than 4 of 60 is a chance below 1e-3
    assert seen <= 4


@pytest.mark.parametrize("training", [False, True])
def test_a_client_that_normalized_over_its_batch_is_seen(training: bool):
    for trial in range(3):
        with ls.Key(trial).child("norm").isolated():
            net = nn.Sequential(
                nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),
                nn.Flatten(), nn.Linear(256, 5),
            )  # fmt: skip
            # running statistics of some training, and of nothing that the private batch shows
            net.train()
            net(torch.rand(32, 1, 8, 8))
            target = ls.Target(copy.deepcopy(net).eval(), ls.Images(1, 8, 8), 5)
            update = gradient(net.train(training), torch.rand(4, 1, 8, 8), torch.arange(4))
        found = beside(target, update, 4)
        assert [
            ("normalized over its own batch" in look.sentence, "training=True" in look.remedy) for look in found
        ] == ([(True, True)] if training else [])
