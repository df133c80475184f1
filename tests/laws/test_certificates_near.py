"""The law of proofs of inputs that are nearly alike, if nobody told how many there are: their mean looks like one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import leakscope as ls
from leakscope.attacks.parts.reading.proof import ALIKE, HIDDEN, MEAN

ATTACKS: tuple[Any, ...] = (ls.LinearLayer(), ls.LowRank())


def trained(net: nn.Module, inputs: Tensor, labels: Tensor, rate: float) -> dict[str, Tensor]:
    """The change of weights after one step of torch's SGD; of rate 0 the gradient itself."""
    own = copy.deepcopy(net).requires_grad_(True)
    F.cross_entropy(own(inputs), labels).backward()
    if rate == 0:
        return {name: value.grad.clone() for name, value in own.named_parameters()}
    torch.optim.SGD(own.parameters(), lr=rate).step()
    before = dict(net.named_parameters())
    return {name: (value - before[name]).detach() for name, value in own.named_parameters()}


def pair(seed: int, away: float, rate: float, *, dtype: torch.dtype = torch.float32) -> tuple[ls.Observation, Tensor]:
    """What a client of two pictures sends, `away` apart in each pixel, and the pictures."""
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 12))
    base = 0.2 + 0.6 * torch.rand(1, 1, 8, 8, generator=draw)
    inputs = base + away * (2 * torch.rand(2, 1, 8, 8, generator=draw) - 1)
    labels = torch.randint(12, (1,), generator=draw).repeat(2)
    sent = {name: value.to(dtype) for name, value in trained(net, inputs, labels, rate).items()}
    target = ls.Target(net.eval(), ls.Images(1, 8, 8), 12)
    if rate == 0:
        return ls.Observation(target, ls.Gradient(sent), ls.FedSGD()), inputs
    return ls.Observation(target, ls.Delta(sent), ls.FedAvg(steps=1, lr=rate)), inputs


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
@pytest.mark.parametrize("rate", [0.0, 0.001, 0.01, 0.1])
def test_a_claim_is_as_near_to_a_private_input_as_its_certificate_says(attack: Any, rate: float) -> None:
    proved = 0
    for seed in range(8):
        away = (0.001, 0.004, 0.015, 0.03)[seed % 4]
        seen, inputs = pair(seed, away, rate)
        attempt = attack.run(seen, key=ls.Key(seed))
        if attempt.certified and len(attempt.claim) < 2:
            proved += 1
            assert attempt.certificate.statement.startswith(HIDDEN)
            assert MEAN in attempt.certificate.statement
            true, found = inputs.flatten(1).double(), attempt.claim.values.flatten(1).double()
            apart = float((torch.cdist(found, true) / true.norm(dim=1)).min())
            assert apart <= attempt.certificate.residual <= ALIKE
    # Near duplicates of a difference of weights look like one example: else this would test nothing.
    assert proved or rate in (0.0, 0.001)


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_of_one_example_the_distance_that_is_left_open_is_small(attack: Any, rate: float) -> None:
    seen, inputs = pair(3, 0.0, rate)
    attempt = attack.run(seen, key=ls.Key(0))
    assert attempt.certified, attempt.sentence
    assert attempt.certificate.residual < (0.01 if rate == 0 else ALIKE)
    assert float((attempt.claim.values - inputs[:1]).abs().max()) < 1e-3


def test_coarse_numbers_hide_too_much_unless_the_count_is_told() -> None:
    seen, _ = pair(0, 0.0, 0.0, dtype=torch.bfloat16)
    assert not ls.LowRank().run(seen, key=ls.Key(0)).certified
