"""How defenses compose for the accountant: against events derived by hand, and sampled where none is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pytest
import torch
from dp_accounting import GaussianDpEvent, LaplaceDpEvent, NonPrivateDpEvent, SelfComposedDpEvent
from torch import Tensor

from leakscope.bounds.lower import lower_from_scores
from leakscope.bounds.upper import largest_power
from leakscope.core.mechanism import AbstractStep, Adjacency
from leakscope.mechanisms.compose import AbstractUpdateDefense, Defended, Sensitivity
from leakscope.mechanisms.defenses.clip import Clip
from leakscope.mechanisms.defenses.noise import GaussianNoise, LaplaceNoise
from leakscope.mechanisms.defenses.prune import Prune, RandomDrop
from leakscope.mechanisms.defenses.quantize import Quantize, Sign
from leakscope.mechanisms.effects import Answer, UpdateEffect
from leakscope.mechanisms.protocols.fedavg import FedAvg
from leakscope.mechanisms.protocols.fedsgd import FedSGD
from leakscope.numerics.rng import Key
from leakscope.numerics.trees import Named

N, L, C = GaussianNoise, LaplaceNoise, Clip
NOT = NonPrivateDpEvent()


def normal(multiplier: float) -> GaussianDpEvent:
    return GaussianDpEvent(pytest.approx(multiplier, rel=1e-12))


def chain(*defenses: Any) -> Defended:
    return Defended(FedSGD(), defenses)


DERIVED: list[tuple[Defended, Any]] = [
    # a run of normal noise is one draw of the sum of the variances, on the bound where it begins
    (chain(C(2.0), N(3.0), N(4.0)), normal(2.5)),
    (chain(C(2.0), N(2.0), N(3.0), N(6.0)), normal(3.5)),
    # no noise is no step
    (chain(C(1.0), N(2.0), N(0.0)), normal(2.0)),
    (chain(C(1.0), N(0.0), N(2.0)), normal(2.0)),
    (chain(C(1.0), N(0.0), C(0.5), L(0.0), N(2.0)), normal(4.0)),
    (chain(C(1.0), N(0.0)), NOT),
    # the smaller of two clips, in either order
    (chain(C(1.0), C(0.25), N(1.0)), normal(4.0)),
    (chain(C(0.25), C(1.0), N(1.0)), normal(4.0)),
    # noise before the clip: both inputs of the last step lie in the ball of its bound, at most its diameter apart
    (chain(N(1.0), C(1.0), N(3.0)), normal(1.5)),
    (chain(N(1.0), C(1.0), N(3.0), N(4.0)), normal(2.5)),
    (chain(L(1.0), C(1.0, order=1), L(3.0)), LaplaceDpEvent(1.5)),
    # two bounds, each true by itself: the better one, never their sum
    (chain(C(1.0), N(2.0), C(1.0), N(3.0)), normal(2.0)),
    (chain(C(1.0), N(2.0), C(1.0), N(8.0)), normal(4.0)),
    # without noise before it zero is still zero, through whatever rounds, prunes or masks
    (chain(C(1.0), Quantize(4), N(3.0)), normal(1.5)),
    (chain(Quantize(4, stochastic=True), C(1.0), N(3.0)), normal(3.0)),
    (chain(Sign(), Prune(0.5), C(1.0), RandomDrop(0.5), N(3.0)), normal(3.0)),
    # other orders of noise commute, but do not become normal: the better of the two
    (chain(C(1.0, order=1), N(2.0), L(3.0)), LaplaceDpEvent(3.0)),
    (chain(C(1.0, order=1), L(2.0), N(3.0)), normal(3.0)),
    (chain(C(1.0), L(2.0), N(3.0)), normal(3.0)),
    # nothing bounds it
    (chain(N(1.0), N(2.0)), NOT),
    (chain(N(1.0), C(1.0)), NOT),
    (chain(C(1.0), Quantize(4, stochastic=True), N(3.0)), NOT),
]


@pytest.mark.parametrize(("mechanism", "event"), DERIVED, ids=lambda x: repr(x) if isinstance(x, Defended) else "")
def test_a_chain_has_the_event_that_was_derived_by_hand(mechanism: Defended, event: Any) -> None:
    assert type(mechanism.event()) is type(event)
    assert mechanism.event() == event
    assert mechanism.event() == mechanism.training_event()
    assert mechanism.adjacency is Adjacency.CLIENT
    if event != NOT:
        assert mechanism.event(rounds=3) == SelfComposedDpEvent(mechanism.event(), 3)


def test_the_same_holds_of_a_change_of_weights() -> None:
    assert (FedAvg(3, 0.1) >> C(1.0) >> N(3.0) >> N(4.0)).event() == normal(5.0)


@pytest.mark.parametrize(("first", "last"), [(1e-3, 1.0), (0.3, 0.7), (2.0, 0.5)])
def test_noise_before_a_clip_stays_below_the_bound_of_the_diameter(first: float, last: float) -> None:
    """On one line, an update far outside: with the client C, without it clipped noise, anything in [-C, C]."""
    mechanism = chain(N(first), C(1.0), N(last))
    rng = np.random.default_rng(5)
    there, gone = ({"w": torch.full((1,), value)} for value in (100.0, 0.0))

    def sent(update: Named, trials: int, seed: int) -> list[float]:
        values = []
        for place in range(trials):
            key, value = Key(seed).child(place), dict(update)
            for at, defense in enumerate(mechanism.defenses):
                assert isinstance(defense, AbstractUpdateDefense)
                value = defense.apply(value, key=key.child(at))
            values.append(float(value["w"]))
        return values

    # the same by numpy, many more
    both = [np.clip(x + first * rng.normal(size=400_000), -1, 1) + last * rng.normal(size=400_000) for x in (100.0, 0)]
    for threshold in np.quantile(both[1], [0.3, 0.7, 0.9, 0.99]):
        rates = [float((x > threshold).mean()) for x in both]
        assert rates[0] <= largest_power(mechanism.event(), fpr=rates[1]) + 0.004
    assert lower_from_scores(sent(there, 800, 1), sent(gone, 800, 2), delta=1e-5) <= 2 / last**2 + 10 / last


def test_one_clip_bound_would_be_too_little_where_noise_stands_before_it() -> None:
    """Why it is 2 C: with the client the clip gives +1; without it the sign of large noise, half of the time -1."""
    rng, noise = np.random.default_rng(0), 0.5
    there = 1.0 + noise * rng.normal(size=400_000)
    gone = np.clip(50 * rng.normal(size=400_000), -1, 1) + noise * rng.normal(size=400_000)
    wrong, right = float((there < -0.5).mean()), float((gone < -0.5).mean())
    assert right > 2 * largest_power(GaussianDpEvent(noise), fpr=wrong)
    assert right <= largest_power(GaussianDpEvent(noise / 2), fpr=wrong)


@final
@dataclass(frozen=True)
class Shifted(AbstractUpdateDefense):
    """Adds a constant to every entry: what is zero is zero no longer. declared: what it says of that."""

    declared: Answer

    def apply(self, update: Named, *, key: Key) -> dict[str, Tensor]:
        del key
        return {name: value + 1 for name, value in update.items()}

    def replay(self, update: Named) -> dict[str, Tensor]:
        return {name: value + 1 for name, value in update.items()}

    @property
    def effect(self) -> UpdateEffect:
        return UpdateEffect(keeps_zeros=self.declared)

    def sensitivity(self, before: Sensitivity) -> Sensitivity:
        del before
        return Sensitivity()

    def event(self, before: Sensitivity) -> None:
        del before


@pytest.mark.parametrize("declared", [Answer.NO, Answer.UNKNOWN])
def test_what_may_send_something_without_the_client_costs_the_diameter(declared: Answer) -> None:
    assert chain(Shifted(declared), C(1.0), N(3.0)).event() == normal(1.5)
    assert chain(C(1.0), N(3.0), Shifted(declared)).event() == normal(3.0)


@final
@dataclass(frozen=True)
class Undeclared(AbstractUpdateDefense):
    """A noisy step of another build: whether its noise can be moved past other noise is not known."""

    std: float

    def apply(self, update: Named, *, key: Key) -> dict[str, Tensor]:
        return GaussianNoise(self.std).apply(update, key=key)

    def replay(self, update: Named) -> dict[str, Tensor]:
        return dict(update)

    def sensitivity(self, before: Sensitivity) -> Sensitivity:
        del before
        return Sensitivity()

    def event(self, before: Sensitivity) -> Any:
        return GaussianNoise(self.std).event(before)


def test_undeclared_noise_is_never_added_to_other_noise() -> None:
    assert chain(C(1.0), N(3.0), Undeclared(4.0)).event() == normal(3.0)
    assert chain(C(1.0), Undeclared(4.0), N(3.0)).event() == normal(4.0)
    assert chain(C(1.0), Undeclared(4.0), C(1.0), N(3.0)).event() == normal(4.0)


def test_a_protocol_that_hides_nobody_says_so() -> None:
    assert FedSGD().adjacency is None
    assert isinstance(FedSGD(), AbstractStep)
    assert FedSGD().training_event() == FedSGD().event() == NOT
    assert math.isinf(Sensitivity().l2)
