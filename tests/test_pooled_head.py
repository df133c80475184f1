"""A 1 x 1 convolution over one place, attacked as the dense layer that it is; refused where it is another thing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import leakscope as ls

CLASSES, SHAPE = 60, (1, 8, 8)


def body() -> list[nn.Module]:
    return [nn.Conv2d(1, 24, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]


def seeded(*layers: nn.Module) -> ls.Target:
    """Weights large enough that pictures of noise differ behind the pooling."""
    net = nn.Sequential(*layers)
    with torch.no_grad():
        for place, value in enumerate(net.parameters()):
            value.copy_(
                torch.randn(value.shape, generator=ls.Key(1).child(place).generator())
                * (0.5 if value.dim() > 1 else 0.1)
            )
    return ls.Target(net, ls.Images(*SHAPE), CLASSES)


def convolved(bias: bool = True) -> ls.Target:
    return seeded(*body(), nn.Conv2d(24, CLASSES, 1, bias=bias), nn.Flatten())


def batch(*labels: int) -> ls.Batch:
    pictures = torch.rand(len(labels), *SHAPE, generator=ls.Key(2).generator())
    return ls.Batch(pictures * torch.linspace(0.3, 1, len(labels))[:, None, None, None], torch.tensor(labels))


LABELS = (3, 17, 17, 40, 59)


@pytest.mark.parametrize("bias", [True, False])
def test_it_says_what_the_attack_says_of_the_dense_model(bias: bool) -> None:
    """The oracle is a model that is dense from the start, with the same numbers."""
    model = convolved(bias)
    dense = seeded(*body(), nn.Flatten(), nn.Linear(24, CLASSES, bias=bias))
    attack = ls.RevealedLabels()
    one, other = (ls.observe(at, batch(*LABELS), ls.FedSGD(), key=ls.Key(0)) for at in (model, dense))
    wanted = attack.run(other, key=ls.Key(3))
    assert attack.run(one, key=ls.Key(3)).outcome is ls.Outcome.REFUSED
    found = ls.PooledHead(attack).run(one, key=ls.Key(3))
    assert found.claim.values.tolist() == wanted.claim.values.tolist() == sorted(LABELS)
    assert found.certified is wanted.certified is True
    same = ls.PooledHead(attack).run(other, key=ls.Key(3))
    assert same.claim.values.tolist() == sorted(LABELS)


@pytest.mark.parametrize(
    "mechanism", [ls.FedAvg(steps=2, lr=0.1), ls.FedSGD() >> ls.Sign(), ls.FedSGD() >> ls.Clip(0.1)], ids=repr
)
def test_all_kinds_of_updates_are_reshaped(mechanism: Any) -> None:
    seen = ls.observe(convolved(), batch(7), mechanism, key=ls.Key(0), tell=[ls.BatchSize(1)])
    assert ls.PooledHead(ls.LabelSigns()).run(seen, key=ls.Key(3)).claim.values.tolist() == [7]


class Shared(nn.Module):
    """The classifier's weight is added to its own input as well."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.again = nn.Sequential(*body()), nn.Conv2d(24, CLASSES, 1), nn.Conv2d(24, CLASSES, 1)
        self.again.weight = self.head.weight

    def forward(self, x: Tensor) -> Tensor:
        seen = self.body(x)
        return self.head(seen + self.again(seen).mean(1, keepdim=True)).flatten(1)


class Functional(nn.Module):
    """The same by a function, which no name shows."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(*body()), nn.Conv2d(24, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.body(x)
        return self.head(seen + nn.functional.conv2d(seen, self.head.weight).mean(1, keepdim=True)).flatten(1)


class Flat(Functional):
    """And in a way that a dense layer's weight would allow as well."""

    def forward(self, x: Tensor) -> Tensor:
        seen = self.body(x)
        more = nn.functional.linear(seen.flatten(1), self.head.weight.flatten(1)).mean(1)
        return self.head(seen + more[:, None, None, None]).flatten(1)


def ended(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*body(), *layers)


REFUSED = {
    "squeezed": (lambda: nn.Sequential(nn.Conv2d(1, CLASSES, 1), nn.ReLU(), *body()[2:], nn.Flatten()), "8 x 8 places"),
    "none": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES), nn.ReLU()), "nor in a convolution"),
    "activated": (lambda: ended(nn.Conv2d(24, CLASSES, 1), nn.Flatten(), nn.ReLU()), "not what the model returns"),
    "grouped": (lambda: ended(nn.Conv2d(24, CLASSES, 1, groups=12), nn.Flatten()), "plain one"),
    "shared": (Shared, "shares its parameters"),
    "functional": (Functional, "as a map"),
    "flat": (Flat, "used elsewhere"),
}
"""Models, and what the refusal says."""


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_dense_layer_is_refused(case: str) -> None:
    made, why = REFUSED[case]
    model = ls.Target(made(), ls.Images(*SHAPE), CLASSES)
    seen = ls.observe(model, batch(*LABELS), ls.FedSGD(), key=ls.Key(0))
    weight = [name for name in seen.release.by_name if name.endswith("weight")][-1]
    alone = ls.Gradient({weight: seen.release.by_name[weight]})
    attempt = ls.PooledHead(ls.RevealedLabels()).run(ls.Observation(model, alone, seen.mechanism), key=ls.Key(3))
    assert attempt.outcome is ls.Outcome.REFUSED
    assert why in attempt.sentence


def test_the_clients_model_is_left_as_it_is() -> None:
    model = convolved()
    before = copy.deepcopy(model.module)
    seen = ls.observe(model, batch(7), ls.FedSGD(), key=ls.Key(0))
    ls.PooledHead(ls.LabelSigns()).run(seen, key=ls.Key(3))
    assert repr(model.module) == repr(before)
    assert all(
        torch.equal(one, other) for one, other in zip(model.module.parameters(), before.parameters(), strict=True)
    )
