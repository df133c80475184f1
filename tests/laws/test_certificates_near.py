"""The law of proofs of inputs that are nearly alike, if nobody told how many there are: their mean looks like one."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import leakscope as ls
from leakscope.attacks.inputs.dense import near_duplicates
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
    base = 0.2 + 0.6 * torch.rand(1, 1, 8, 8, generator=draw)
    return several(seed, base + away * (2 * torch.rand(2, 1, 8, 8, generator=draw) - 1), rate, dtype=dtype)


def several(
    seed: int, inputs: Tensor, rate: float, *, dtype: torch.dtype = torch.float32
) -> tuple[ls.Observation, Tensor]:
    """What a client of these pictures (N, 1, 8, 8) of one label sends, and the pictures."""
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 12))
    labels = torch.randint(12, (1,), generator=draw).repeat(len(inputs))
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


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_other_in_one_pixel_or_many_at_once_they_are_no_further_than_it_says(attack: Any, rate: float) -> None:
    """One pixel may matter least of all, and of many examples each direction holds a small part of what is left."""
    proved = 0
    for seed in range(2):
        draw = torch.Generator().manual_seed(seed)
        base = 0.25 + 0.5 * torch.rand(1, 1, 8, 8, generator=draw)
        for away in (0.002, 0.01):
            size = away * float(base.norm())
            noise = torch.randn(60, 1, 8, 8, generator=draw)
            many = base + 0.5 * size * F.normalize(noise.flatten(1)).reshape(60, 1, 8, 8)
            for inputs in (many, *(base + size * single(place) for place in (5, 40))):
                seen, inputs = several(seed, inputs, rate)
                attempt = attack.run(seen, key=ls.Key(seed))
                if attempt.certified and len(attempt.claim) < 2:
                    proved += 1
                    true, found = inputs.flatten(1).double(), attempt.claim.values.flatten(1).double()
                    apart = float((torch.cdist(found, true) / found.norm(dim=1)).min())
                    assert apart <= attempt.certificate.residual <= ALIKE
    assert proved


def single(place: int) -> Tensor:
    """Two pictures (2, 1, 8, 8), black but for half a pixel more and less of full brightness."""
    found = torch.zeros(2, 64)
    found[:, place] = torch.tensor([0.5, -0.5])
    return found.reshape(2, 1, 8, 8)


def test_what_pairs_and_many_at_once_leave_is_what_a_decomposition_finds() -> None:
    rng = np.random.default_rng(0)
    middle, half = rng.standard_normal((4, 3, 7)), 1e-6 * rng.standard_normal((4, 3, 7))
    inputs, away = rng.random((3, 5)), 1e-4 * rng.standard_normal((4, 3, 5))
    first, second = near_duplicates._singular(middle, half, inputs, away)
    cloud = near_duplicates._cloud(middle[0], half, inputs, away)
    for n in range(3):
        x, added = np.append(inputs[n], 1), np.pad(away[:, n], ((0, 0), (0, 1)))
        for k in range(4):
            found = np.linalg.svd(np.outer(middle[k, n], x) + np.outer(half[k, n], added[k]), compute_uv=False)
            np.testing.assert_allclose((first[k, n], second[k, n]), found[:2], rtol=1e-5)
        e = middle[0, n] / np.linalg.norm(middle[0, n])
        outside = (np.eye(7) - np.outer(e, e)) @ (half[:, n].T @ added / 4) @ (np.eye(6) - np.outer(x, x) / (x @ x))
        np.testing.assert_allclose(cloud[n], np.linalg.norm(outside), rtol=1e-9)
