"""Two laws that hold between attack and accountant: more protection never leaks more, and no attack beats the bound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import pytest
import torch
from torch import Tensor, nn

import leakscope as ls
from leakscope.bounds.lower import lower_from_rates
from leakscope.bounds.upper import largest_power
from leakscope.cli import names
from leakscope.cli.names import Family, Trait
from leakscope.mechanisms.compose import AbstractDefense, AbstractUpdateDefense, Sensitivity
from leakscope.numerics import intervals, trees
from leakscope.numerics.trees import Named

DOMAIN = ls.Images(1, 6, 6)


def net() -> ls.Target:
    with ls.Key(0).isolated():
        return ls.Target(nn.Sequential(nn.Flatten(), nn.Linear(36, 24), nn.ReLU(), nn.Linear(24, 3)), DOMAIN, 3)


def corner() -> ls.Target:
    """As small as it gets: thousands of releases."""
    with ls.Key(0).isolated():
        return ls.Target(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), DOMAIN, 3)


CORNER = corner()


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


C, N, L = ls.Clip, ls.GaussianNoise, ls.LaplaceNoise
PRIVATE = [row for row in names.rows(Family.DEFENSES) if Trait.PRIVATE in row.traits]
NOISY: list[Any] = [
    *[ls.FedSGD() >> C(1.0, order=1) >> row.build(noise) for row in PRIVATE for noise in (0.5, 3.0)],
    ls.FedSGD() >> C(1.0) >> N(1.0),
    ls.FedSGD() >> C(1.0) >> N(0.6) >> N(0.8) >> ls.Prune(0.5),
    ls.FedSGD() >> C(1.0) >> N(2.0) >> C(1.0) >> N(0.5),
    ls.FedSGD() >> N(0.01) >> C(1.0) >> N(1.0),
    ls.FedSGD() >> C(1.0, order=1) >> N(1.0) >> L(0.5),
    ls.DPSGD(1.0, 0.7, rate=0.01),
]


def shown_by(mechanism: Any, runs: int) -> tuple[float, float, float]:
    """What the likelihood ratio shows of `runs` real releases with the contribution and as many without it: a lower
    bound of epsilon, the least power and the most false alarms, at 99.9 %."""
    batch = secret(0)
    target = CORNER
    # one clip of the bound in force: what the noise is added to, and the direction in which it can be seen
    clip = ls.DPSGD(1.0, 0.0) if isinstance(mechanism, ls.DPSGD) else ls.FedSGD() >> clip_of(mechanism)
    shown = clip.release(target, batch, key=ls.Key(0)).by_name
    laplace = "Laplace" in type(mechanism.event()).__name__

    def flagged(update: Any) -> bool:
        if laplace:
            return bool(trees.norm(update, 1) > trees.norm(trees.subtract(update, shown), 1))
        return bool(trees.dot(update, shown) > trees.dot(shown, shown) / 2)

    def without(key: ls.Key) -> Any:
        """The contribution is zero, and everything else as it is."""
        if isinstance(mechanism, ls.DPSGD):
            return trees.subtract(mechanism.release(target, batch, key=key).by_name, shown)  # the noise alone
        update = {name: torch.zeros_like(value) for name, value in shown.items()}
        for place, defense in enumerate(mechanism.defenses):
            update = defense.apply(update, key=key.child(place))
        return update

    there = [flagged(mechanism.release(target, batch, key=ls.Key(1).child(i)).by_name) for i in range(runs)]
    gone = [flagged(without(ls.Key(2).child(i))) for i in range(runs)]
    found, alarms = (sum(there), runs), (sum(gone), runs)
    # the threshold is fixed beforehand, so nothing was chosen
    lower = lower_from_rates(found, alarms, delta=1e-5, level=0.999)
    least = intervals.clopper_pearson(*found, level=0.999).low
    return lower, least, intervals.clopper_pearson(*alarms, level=0.999).high


def clip_of(mechanism: Any) -> ls.Clip:
    return next(one for one in mechanism.defenses if isinstance(one, ls.Clip))


@pytest.mark.parametrize("mechanism", NOISY, ids=repr)
def test_the_upper_bound_is_above_the_observed_lower_one(mechanism: Any) -> None:
    """Is it there at all? The likelihood ratio on real releases, against what the event promises: in epsilon, and in
    power at the false alarms that it raised, where little escapes."""
    lower, power, alarms = shown_by(mechanism, 300)
    assert lower <= ls.epsilon(mechanism.event(), delta=1e-5) < math.inf
    assert power <= largest_power(mechanism.event(), fpr=alarms)


@pytest.mark.parametrize("mechanism", [ls.FedSGD() >> C(1.0) >> N(0.5), ls.DPSGD(1.0, 0.7, rate=0.05)], ids=repr)
def test_the_attack_of_this_law_is_a_real_one(mechanism: Any) -> None:
    """A bound that nothing comes near would test nothing; of DPSGD the training's would be broken by it."""
    lower, power, alarms = shown_by(mechanism, 500)
    assert lower > 0.1 * ls.epsilon(mechanism.event(), delta=1e-5)
    assert power > 0.75 * largest_power(mechanism.event(), fpr=alarms)
    assert isinstance(mechanism, ls.DPSGD) is (power > largest_power(mechanism.training_event(), fpr=alarms))


@final
@dataclass(frozen=True)
class Boastful(AbstractUpdateDefense):
    """Adds a third of the noise that its event promises."""

    std: float

    def apply(self, update: Named, *, key: ls.Key) -> dict[str, Tensor]:
        return ls.GaussianNoise(self.std / 3).apply(update, key=key)

    def replay(self, update: Named) -> dict[str, Tensor]:
        return dict(update)

    def sensitivity(self, before: Sensitivity) -> Sensitivity:
        return ls.GaussianNoise(self.std).sensitivity(before)

    def event(self, before: Sensitivity) -> Any:
        return ls.GaussianNoise(self.std).event(before)


def test_a_mechanism_that_promises_more_noise_than_it_adds_breaks_the_law() -> None:
    mechanism = ls.FedSGD() >> C(1.0) >> Boastful(1.0)
    _, power, alarms = shown_by(mechanism, 300)
    assert power > largest_power(mechanism.event(), fpr=alarms)


EVERY: list[Any] = [
    *[eval(row.example or f"{row.name}()", names.vocabulary()) for row in names.rows(Family.PROTOCOLS)],
    *[
        ls.FedSGD() >> C(1.0, order=1) >> eval(row.example or f"{row.name}()", {row.name: row.build})
        for row in names.rows(Family.DEFENSES)
    ],
    ls.DPSGD(1.0, 1.0, rate=1e-4),
    ls.DPSGD(1.0, 1.0, rate=0.3) >> ls.Prune(0.1) >> N(0.1),
]


@pytest.mark.parametrize("mechanism", EVERY, ids=repr)
def test_participation_costs_at_least_what_training_does(mechanism: Any) -> None:
    """Whoever is known to take part is hidden by nothing that hides who takes part; and whom an event hides is said."""
    for rounds in (1, 5):
        part, whole = (
            ls.epsilon(event(rounds=rounds), delta=1e-5) for event in (mechanism.event, mechanism.training_event)
        )
        assert whole <= part
        assert math.isinf(part) or mechanism.adjacency is not None
