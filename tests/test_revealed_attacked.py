"""What a reviewer certified wrongly with `RevealedLabels`, each with a client in plain PyTorch."""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import leakscope as ls
from leakscope.core.target import Target
from leakscope.mechanisms.compose import AbstractModelDefense
from leakscope.mechanisms.effects import Answer, ModelEffect
from leakscope.targets.looking.dense_ends import alone_at_output
from leakscope.targets.looking.nonnegative import fed_nonnegative

DOMAIN = ls.Images(1, 4, 4, mean=(0.5,), std=(0.5,))


def sent(net: nn.Module, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The client."""
    slopes = torch.autograd.grad(F.cross_entropy(net(inputs), labels), list(net.parameters()))
    return {name: slope for (name, _), slope in zip(net.named_parameters(), slopes, strict=True)}


def proved(attempt: ls.Attempt[ls.Labels]) -> Counter[int]:
    """The labels that are certified."""
    if attempt.claim is None or attempt.certificate is None:
        return Counter()
    pairs = zip(attempt.claim.values.tolist(), attempt.certificate.proved, strict=True)
    return Counter(label for label, sure in pairs if sure)


@pytest.mark.parametrize(("seed", "weight"), [(1, 12), (3, 12), (0, 40)])
def test_rows_that_do_not_give_the_gradient_again_prove_nothing(seed: int, weight: float) -> None:
    """One sample confidently mistaken, no bias: rows were found in its space that are of no sample."""
    with ls.Key(seed).isolated():
        torch.manual_seed(seed)
        net, inputs = nn.Sequential(nn.Flatten(), nn.Linear(16, 100, bias=False)), torch.zeros(4, 1, 4, 4)
        with torch.no_grad():
            net[1].weight.mul_(0.3)
            net[1].weight[42, 0] = -weight
        inputs = torch.rand(4, 1, 4, 4)
    inputs[0, 0, 0, 0], inputs[1:, 0, 0, 0] = -1, 0.9
    labels = torch.tensor([5, 5, 5, 7])
    seen = ls.Observation(
        ls.Target(net, DOMAIN, 100), ls.Gradient(sent(net, inputs, labels)), ls.FedSGD(), (ls.BatchSize(4),)
    )
    attempt = ls.RevealedLabels().run(seen, key=ls.Key(0))
    assert not proved(attempt) - Counter(labels.tolist()), attempt.sentence


@pytest.mark.parametrize("margin", [15.0, 17.0, 19.0])
def test_a_sample_of_which_the_model_is_sure_is_not_absent(margin: float) -> None:
    """p - 1 rounds to zero: its label has no negative entry, and looked excluded."""
    for seed in range(4):
        with ls.Key(seed).isolated():
            torch.manual_seed(seed)
            net = nn.Sequential(nn.Flatten(), nn.Linear(16, 40, bias=False))
            inputs = torch.rand(2, 1, 4, 4) * 0.6 - 0.3
        with torch.no_grad():
            net[1].weight.mul_(6)
            net[1].weight[:, :2] = 0
            net[1].weight[2, 0], net[1].weight[0, 1] = 30.0, margin + 4
        inputs[0, 0, 0, 0], inputs[0, 0, 0, 1], inputs[1, 0, 0, 0], inputs[1, 0, 0, 1] = 1, 0, -0.2, 1
        update = sent(net, inputs, torch.tensor([1, 0]))
        seen = ls.Observation(ls.Target(net, DOMAIN, 40), ls.Gradient(update), ls.FedSGD(), (ls.BatchSize(2),))
        for weights in (True, False):
            claim = ls.RevealedLabels(weights=weights).run(seen, key=ls.Key(0)).claim
            assert claim is None or claim.absent is None or not {0, 1} & set(claim.absent.tolist())


class Tied(nn.Module):
    """A language model in small: the output layer's weight is the embedding's."""

    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.out, self.embedding, self.hidden = nn.Linear(24, 60, bias=bias), nn.Embedding(60, 24), nn.Linear(24, 24)
        self.embedding.weight = self.out.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.hidden(self.embedding(tokens).mean(1)).relu())


@pytest.mark.parametrize("bias", [False, True])
def test_a_weight_that_is_the_embeddings_too_says_nothing_of_labels(bias: bool) -> None:
    with ls.Key(0).isolated():
        torch.manual_seed(0)
        net = Tied(bias=bias)
    target = ls.Target(net, ls.Text(60, 1), 60)
    assert alone_at_output(target) == (False, bias)
    for token in range(1, 30):
        labels = torch.tensor([59, 59, 3])
        update = sent(net, torch.full((3, 1), token), labels)
        seen = ls.Observation(target, ls.Gradient(update), ls.FedSGD(), (ls.BatchSize(3),))
        attempt = ls.RevealedLabels().run(seen, key=ls.Key(0))
        assert bias or attempt.claim is None
        assert not proved(attempt) - Counter(labels.tolist()), attempt.sentence


@dataclass(frozen=True)
class Leaky(AbstractModelDefense):
    """The client replaces a rectifier by one that lets negative numbers through, and says that it is another model."""

    def apply(self, target: Target) -> Target:
        net = copy.deepcopy(target.module)
        net[2] = nn.LeakyReLU(0.9)
        return dataclasses.replace(target, module=net)

    def replay(self, target: Target) -> Target:
        return self.apply(target)

    @property
    def effect(self) -> ModelEffect:
        return ModelEffect(keeps_model=Answer.NO, drops_units=Answer.NO, unbiased=Answer.NO)


@pytest.mark.parametrize("protocol", [ls.FedSGD(), ls.FedAvg(2, 0.1)])
@pytest.mark.parametrize("weights", [True, False])
def test_another_model_proves_no_sign_of_the_weights(protocol: ls.FedSGD | ls.FedAvg, weights: bool) -> None:
    with ls.Key(0).isolated():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 100, bias=False))
        inputs = torch.rand(4, 1, 4, 4)
    with torch.no_grad():
        net[3].weight.mul_(0.3)
        net[3].weight[42, 0] = -12
        net[1].weight.copy_(torch.eye(16))
        net[1].bias.zero_()
    inputs[0, 0, 0, 0], inputs[1:, 0, 0, 0] = -1, 0.9
    labels, target = torch.tensor([5, 5, 5, 7]), ls.Target(net, DOMAIN, 100)
    mechanism = protocol >> Leaky()
    release = mechanism.release(target, ls.Batch(inputs, labels), key=ls.Key(3))
    seen = ls.Observation(target, release, mechanism, (ls.BatchSize(4),))
    attempt = ls.RevealedLabels(weights=weights).run(seen, key=ls.Key(0))
    assert not proved(attempt), attempt.sentence


class Through(nn.Module):
    """A last layer that is fed what a function makes."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(4, 6), nn.Linear(6, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x.flatten(1))))


NEGATIVE = {
    "eight bits": lambda x: (x * 127).round().to(torch.int8).float(),
    "signs": lambda x: torch.where(x > 0, 1, -1).float(),
    "whole": lambda x: (3 * x).long().float(),
    "whole sign times": lambda x: torch.where(x > 0, 1, -1) * x.relu(),
    "whole number added": lambda x: x.relu() + torch.tensor(-1),
    "wrapped": lambda x: (200 * x.sigmoid()).to(torch.int8).float(),
    "complex": lambda x: torch.complex(x, x).real.clone(),
    "complex square": lambda x: torch.view_as_real(torch.square(torch.complex(x, 2 + x)))[..., 0],
    "clamped from above": lambda x: x.clamp(0, -1),
    "clamped by a tensor": lambda x: torch.clamp(x, torch.tensor(0.0), torch.tensor(-1.0)),
    "softplus": lambda x: F.softplus(x, beta=-1),
    "softplus beyond": lambda x: F.softplus(x, beta=1, threshold=-50),
}
KEPT = {
    "relu": F.relu,
    "relu6": F.relu6,
    "softplus": F.softplus,
    "picked": lambda x: x.relu()[:, torch.tensor([0, 1, 2, 3, 4, 5])],
    "masked": lambda x: x.relu() * (x > 0.1),
    "narrow": lambda x: x.relu().to(torch.float64).to(torch.float32),
    "clamped": lambda x: x.clamp(0, 6),
}


@pytest.mark.parametrize("name", NEGATIVE)
def test_features_that_may_be_negative_are_not_taken_for_others(name: str) -> None:
    assert not fed_nonnegative(ls.Target(Through(NEGATIVE[name]), ls.Images(1, 2, 2), 3), "last")


@pytest.mark.parametrize("name", KEPT)
def test_features_that_are_never_negative_are_seen(name: str) -> None:
    assert fed_nonnegative(ls.Target(Through(KEPT[name]), ls.Images(1, 2, 2), 3), "last")


def test_data_that_are_exchanged_behind_the_recorder_show_in_the_numbers() -> None:
    def exchanged(x: Tensor) -> Tensor:
        y = x.relu()
        y.data = x.detach() - 5
        return y

    assert not fed_nonnegative(ls.Target(Through(exchanged), ls.Images(1, 2, 2), 3), "last")


def test_a_model_that_cannot_be_watched_is_not_fed_nonnegative() -> None:
    def swapped(x: Tensor) -> Tensor:
        one, other = x.relu(), x.relu() + 1
        torch.utils.swap_tensors(one, other)
        return one

    assert not fed_nonnegative(ls.Target(Through(swapped), ls.Images(1, 2, 2), 3), "last")


@pytest.mark.parametrize("penalty", [5e-4, 2e-3, 0.05])
def test_a_penalty_that_nobody_declared_proves_no_class_that_is_not_there(penalty: float) -> None:
    """Biases of classes that training never had are negative, and so is what a penalty adds to dL/db."""
    with ls.Key(0).isolated():
        torch.manual_seed(4)
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 60))
        nn.init.zeros_(net[3].bias)
        inputs, labels = torch.rand(12, 1, 4, 4), torch.arange(12) % 3
    with torch.no_grad():
        # As after training on classes 0 to 49; that a softmax does not see the sum keeps it at zero.
        net[3].bias[50:], net[3].bias[0] = -4.0, 3.0
        net[3].bias -= net[3].bias.mean()
    plain = sent(net, inputs, labels)
    starts = dict(net.named_parameters())
    update = {name: value + penalty * starts[name].detach() for name, value in plain.items()}
    target, told = ls.Target(net, DOMAIN, 60), (ls.BatchSize(12),)
    honest = ls.RevealedLabels(weights=False).run(
        ls.Observation(target, ls.Gradient(plain), ls.FedSGD(), told), key=ls.Key(0)
    )
    assert set(proved(honest)) == {0, 1, 2}, honest.sentence
    # Without the weights' gradient neither rank nor sums tell.
    for kept in (update, {name: value for name, value in update.items() if name == "3.bias"}):
        seen = ls.Observation(target, ls.Gradient(kept), ls.FedSGD(), told)
        if kept is not update and penalty > 0.01:
            continue
        attempt = ls.RevealedLabels().run(seen, key=ls.Key(0))
        assert set(proved(attempt)) <= {0, 1, 2}, attempt.sentence


@pytest.mark.parametrize("protocol", [ls.FedSGD(), ls.FedAvg(1, 0.1), ls.FedAvg(2, 0.1)], ids=repr)
@pytest.mark.parametrize("weights", [True, False])
def test_labels_of_earlier_rounds_are_not_those_of_this_one(protocol: ls.FedSGD | ls.FedAvg, weights: bool) -> None:
    """A client whose optimizer goes on from round to round sends what it owes to earlier batches once more."""
    wrong, steps = Counter[int](), getattr(protocol, "steps", 1)
    for seed in range(4):
        with ls.Key(seed).isolated():
            torch.manual_seed(seed)
            net = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 60))
            optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
            rounds = [(torch.rand(8, 1, 4, 4), torch.randint(0, 5, (8,))) for _ in range(4)]
        for place, (inputs, labels) in enumerate(rounds):
            before = copy.deepcopy(net.state_dict())
            for _ in range(steps if place == 3 else 1):
                optimizer.zero_grad()
                F.cross_entropy(net(inputs), labels).backward()
                optimizer.step()
        moved = {name: value.detach() - before[name] for name, value in net.named_parameters()}
        net.load_state_dict(before)
        by_hand = ls.Gradient({name: -10 * value for name, value in moved.items()})
        release = by_hand if isinstance(protocol, ls.FedSGD) else ls.Delta(moved)
        seen = ls.Observation(ls.Target(net, DOMAIN, 60), release, protocol, (ls.BatchSize(8),))
        wrong += proved(ls.RevealedLabels(weights=weights).run(seen, key=ls.Key(0))) - Counter(labels.tolist())
    assert not wrong


@pytest.mark.parametrize("attack", [ls.RevealedLabels(), ls.RevealedFeatures()], ids=repr)
def test_rows_that_no_budget_was_left_for_are_not_said_to_be_too_alike(attack: ls.Attack[ls.Claim]) -> None:
    with ls.Key(0).isolated():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 60, bias=False))
        update = sent(net, torch.rand(3, 1, 4, 4), torch.tensor([1, 5, 5]))
    seen = ls.Observation(ls.Target(net, DOMAIN, 60), ls.Gradient(update), ls.FedSGD(), (ls.BatchSize(3),))
    sentence = attack.run(seen, key=ls.Key(0), budget=ls.Budget(evaluations=1)).sentence
    assert "of 3" in sentence
    assert "the budget is spent" in sentence
    assert "nearly equal" not in sentence
