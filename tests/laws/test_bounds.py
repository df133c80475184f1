"""Two laws that hold between attack and accountant: more protection never leaks more, and no attack beats the bound."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import leakscope as ls
from leakscope.mechanisms.compose import AbstractDefense
from leakscope.numerics import intervals, trees

DOMAIN = ls.Images(1, 6, 6)


def net() -> ls.Target:
    with ls.Key(0).isolated():
        return ls.Target(nn.Sequential(nn.Flatten(), nn.Linear(36, 24), nn.ReLU(), nn.Linear(24, 3)), DOMAIN, 3)


def secret(seed: int) -> ls.Batch:
    return ls.Synthetic(shape=(1, 6, 6), classes=3, count=60).draw(1, key=ls.Key(seed)).reveal()


LADDERS: list[tuple[str, list[AbstractDefense]]] = [
    ("noise", [ls.GaussianNoise(std) for std in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)]),
    ("laplace", [ls.LaplaceNoise(scale) for scale in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)]),
    ("bits", [ls.Quantize(bits) for bits in (12, 8, 5, 3)]),
    ("input noise", [ls.InputNoise(std) for std in (0.0, 0.02, 0.1, 0.5)]),
    ("drop", [ls.RandomDrop(rate) for rate in (0.0, 0.3, 0.6, 0.9)]),
]


@pytest.mark.parametrize(("name", "ladder"), LADDERS, ids=[name for name, _ in LADDERS])
def test_scores_do_not_rise_with_protection(name: str, ladder: list[AbstractDefense]) -> None:
    """The closed form at the first layer, its mean PSNR over ten draws: each step down the ladder leaks no more."""
    means, spread = [], []
    for defense in ladder:
        values = []
        for seed in range(10):
            truth = secret(seed)
            seen = ls.observe(net(), truth, ls.FedSGD() >> defense, key=ls.Key(seed), tell=[ls.BatchSize(1)])
            attempt = ls.LinearLayer().run(seen, key=ls.Key(1))
            # an attempt that claims nothing scores as a blind guess, in the denominator like all others
            claim = attempt.claim or ls.Inputs(truth.inputs[:0])
            values.append(ls.score(claim, truth, domain=DOMAIN)["psnr"].value)
        interval = intervals.mean(values)
        means.append(interval.value)
        spread.append(interval.high - interval.low)
    for weak, strong, width in zip(means[:-1], means[1:], spread[1:], strict=True):
        assert strong <= weak + width
    assert means[-1] < means[0] - 6  # the ladder is long enough to matter


@pytest.mark.parametrize("clip", [0.5, 1.0, 2.0])
def test_a_smaller_clip_and_more_noise_never_raise_the_bound(clip: float) -> None:
    def at(norm: float, std: float) -> float:
        return ls.epsilon((ls.FedSGD() >> ls.Clip(norm) >> ls.GaussianNoise(std)).event(), delta=1e-5)

    assert at(clip / 2, 1.0) <= at(clip, 1.0) <= at(clip, 0.5)


@pytest.mark.parametrize("noise", [0.5, 1.0, 3.0])
def test_the_upper_bound_is_above_the_observed_lower_one(noise: float) -> None:
    """Is the client there at all? The best test, a threshold along the clipped update, against its own epsilon.

    The lower bound is ln((TPR - delta) / FPR) with Clopper-Pearson limits at 99 %, 2 x 1500 real releases.
    """
    delta, runs = 1e-5, 1500
    mechanism = ls.FedSGD() >> ls.Clip(1.0) >> ls.GaussianNoise(noise)
    target, batch = net(), secret(0)
    direction = (ls.FedSGD() >> ls.Clip(1.0)).release(target, batch, key=ls.Key(0)).by_name
    length = trees.norm(direction)
    assert float(length) == pytest.approx(1.0, rel=1e-3)  # the clip is in force, so the bound is tight

    def statistic(update: Any) -> float:
        return float(trees.dot(update, direction) / length)

    silent = {name: torch.zeros_like(value) for name, value in direction.items()}
    there = [statistic(mechanism.release(target, batch, key=ls.Key(1).child(i)).by_name) for i in range(runs)]
    gone = [statistic(ls.GaussianNoise(noise).apply(silent, key=ls.Key(2).child(i))) for i in range(runs)]
    upper, lower = ls.epsilon(mechanism.event(), delta=delta), 0.0
    for threshold in (0.0, 0.5, 1.0, 1.0 + noise):
        right = intervals.clopper_pearson(sum(x > threshold for x in there), runs, level=0.99)
        wrong = intervals.clopper_pearson(sum(x > threshold for x in gone), runs, level=0.99)
        if right.low > delta:
            lower = max(lower, math.log((right.low - delta) / wrong.high))
    assert lower <= upper
    assert lower > 0.05 * upper  # the attack is a real one: a bound that nothing comes near would test nothing
