"""Layers of other people's models that readers of one layer meet, each by a client in plain PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import leakscope as ls
from leakscope.core.attempt import Outcome
from leakscope.core.errors import BadInput

K = ls.Key
DIGITS = ls.Digits(size=8)


def gradient(net, batch):
    """By torch's own backward."""
    net.zero_grad()
    F.cross_entropy(net(batch.inputs), batch.labels).backward()
    return ls.Gradient({name: value.grad.clone() for name, value in net.named_parameters()})


def observed(make, count, seed):
    with K(seed).isolated():
        net = make()
    secret = DIGITS.draw(count, key=K(seed + 100)).reveal()
    seen = ls.Observation(ls.Target(net, DIGITS.domain, 10), gradient(net, secret), ls.FedSGD(), (ls.BatchSize(count),))
    return secret, seen


def front():
    return nn.Conv2d(1, 12, 3, 2, 1), nn.ELU(), nn.Flatten()


class Logarithms(nn.Module):
    """As in torch's own example for digits: log probabilities, and their negative log likelihood."""

    def __init__(self):
        nn.Module.__init__(self)
        self.body, self.exit = nn.Sequential(*front()), nn.Linear(192, 10)

    def forward(self, images):
        return F.log_softmax(self.exit(self.body(images)), dim=1)


HEADS = {
    "weight norm": lambda: nn.Sequential(*front(), nn.utils.parametrizations.weight_norm(nn.Linear(192, 10))),
    "spectral norm": lambda: nn.Sequential(
        *front(), nn.utils.parametrizations.spectral_norm(nn.Linear(192, 10))
    ).eval(),
    "log softmax": Logarithms,
    "a log softmax layer": lambda: nn.Sequential(*front(), nn.Linear(192, 10), nn.LogSoftmax(1)),
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("count", [1, 4])
def test_labels_are_read_from_heads_that_are_no_plain_layer(head, count):
    for seed in range(2):
        secret, seen = observed(HEADS[head], count, seed)
        counted = ls.LabelCounts().run(seen, key=K(0))
        assert counted.outcome is Outcome.CLAIMED, counted.sentence
        assert sorted(counted.claim.values.tolist()) == sorted(secret.labels.tolist()), counted.sentence
        present = ls.LabelSigns().run(seen, key=K(0))
        assert set(present.claim.values.tolist()) <= set(secret.labels.tolist())
    assert ls.inverting_gradients(steps=3).run(seen, key=K(0)).outcome in (Outcome.CLAIMED, Outcome.DIVERGED)


def test_a_softmax_is_no_log_softmax():
    _, seen = observed(lambda: nn.Sequential(*front(), nn.Linear(192, 10), nn.Softmax(1)), 1, 0)
    assert "does not end in a dense layer" in ls.LabelSigns().run(seen, key=K(0)).sentence


class Checkpointed(nn.Module):
    """Its middle is run again on the way back."""

    def __init__(self, reentrant):
        nn.Module.__init__(self)
        self.one, self.two, self.exit = nn.Linear(64, 32), nn.Linear(32, 16), nn.Linear(16, 10)
        self.reentrant = reentrant

    def forward(self, images):
        def middle(x):
            return torch.tanh(self.two(x))

        return self.exit(checkpoint(middle, self.one(images.flatten(1)), use_reentrant=self.reentrant))


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.filterwarnings("ignore:None of the inputs")
def test_activation_checkpoints_are_a_finding_and_no_crash(reentrant):
    secret, seen = observed(lambda: Checkpointed(reentrant), 2, 0)
    found = [one for one in ls.vet(seen.target) if "turn activation checkpoints off" in one.remedy]
    assert [one.level.value for one in found] == ["error"]
    assert "\n" not in found[0].sentence
    # What only runs the model forward still works.
    counted = ls.LabelCounts().run(seen, key=K(0))
    assert sorted(counted.claim.values.tolist()) == sorted(secret.labels.tolist())


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("attack", [ls.LabelSigns(), ls.LabelCounts()], ids=repr)
def test_more_classes_that_fall_than_examples_are_no_labels(count, attack):
    for seed in range(3):
        secret, seen = observed(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), count, seed)
        turned = ls.Gradient({name: -value for name, value in seen.release.by_name.items()})
        wrong = attack.run(ls.Observation(seen.target, turned, ls.FedSGD(), seen.facts), key=K(0))
        right = attack.run(seen, key=K(0))
        assert set(right.claim.values.tolist()) <= set(secret.labels.tolist())
        if wrong.claim is None:
            assert "the sign is reversed" in wrong.sentence
        else:  # of several examples the equations do not hold
            assert count > 1
            assert "this is a guess" in wrong.sentence
            assert float(wrong.claim.confidence.max()) == 0.0


def test_numbers_to_be_predicted_are_told_how_to_be_given():
    with pytest.raises(BadInput, match=r"as \(B, outputs\), with .unsqueeze\(1\)"):
        ls.Batch(torch.zeros(2, 1, 2, 2), torch.tensor([0.5, 0.7]))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(("count", "times"), [(4, 2), (8, 2), (8, 8), (32, 4), (8, 1)])
def test_of_few_classes_a_factor_that_is_not_determined_is_a_guess(classes, count, times):
    """Of two classes one number is seen: a sum with other counts gives the same, and the sentence has to say so."""
    wrong = sure = 0
    for seed in range(8):
        with K(600 + seed).isolated():
            net = nn.Sequential(*front(), nn.Linear(192, classes))
        drawn = DIGITS.draw(count, key=K(700 + seed)).reveal()
        secret = ls.Batch(drawn.inputs, drawn.labels % classes)
        mean = gradient(net, secret).by_name
        sent = ls.Gradient({name: value * times for name, value in mean.items()})
        seen = ls.Observation(ls.Target(net, DIGITS.domain, classes), sent, ls.FedSGD(), (ls.BatchSize(count),))
        attempt = ls.LabelCounts().run(seen, key=K(0))
        right = sorted(attempt.claim.values.tolist()) == sorted(secret.labels.tolist())
        guess = "guess" in attempt.sentence
        assert guess is (float(attempt.claim.confidence.max()) == 0.0)
        wrong += not right and not guess
        sure += right and not guess
    # Three classes have two equations, which another factor fits by luck; rarely, but it does.
    assert wrong <= (0 if classes == 2 else 1)
    assert sure > 0 or times > 1 or classes == 2
