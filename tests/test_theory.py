"""What stands beside an attack: the promise of the release that it was made on, and whether it was kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, UnsupportedDpEvent
from scipy import stats
from torch import Tensor

import leakscope as ls
from leakscope.audit.theory import Theory, contradiction, largest_power, largest_share, theory
from leakscope.core.errors import BadInput, MissingExtra
from leakscope.core.mechanism import AbstractMechanism, Adjacency
from leakscope.numerics.trees import Named

DELTA = 1e-5


@final
@dataclass(frozen=True)
class Promising(AbstractMechanism):
    """Promises whatever event it is given, and sends a gradient."""

    promise: Any

    def release(self, target: ls.Target, batch: ls.Batch, *, key: ls.Key) -> Any:
        return ls.FedSGD().release(target, batch, key=key)

    def event(self, *, rounds: int = 1) -> Any:
        del rounds
        return self.promise

    @property
    def undefended(self) -> AbstractMechanism:
        return ls.FedSGD()


def test_a_label_attack_on_a_step_is_read_against_the_step() -> None:
    """The case of the issue: 137 of 300 labels, ten classes, a rate at which hardly anybody takes part."""
    mechanism = ls.DPSGD(1.0, 0.5, rate=1e-4)
    found = theory(mechanism, delta=DELTA)
    assert found is not None
    assert found.adjacency is Adjacency.EXAMPLE
    assert found.epsilon == pytest.approx(10.0, abs=0.01)
    assert found.training_epsilon == pytest.approx(0.0044, abs=1e-4)
    assert found.delta == DELTA
    assert contradiction(mechanism, right=137, guesses=300, chance=0.1) is None


def test_a_promise_that_the_attack_broke_is_said_loudly() -> None:
    """The event of the training, promised of the step: what was printed before."""
    said = contradiction(
        Promising(PoissonSampledDpEvent(1e-4, GaussianDpEvent(0.5))), right=137, guesses=300, chance=0.1
    )
    assert said is not None
    assert said.startswith("137 of 300 guesses are right, where chance is 10.0%")
    assert "no attack is right in more than 10.01%" in said
    assert "sends more than it declares" in said


def test_the_best_guess_breaks_no_true_promise_and_boasting_is_noticed() -> None:
    """Ten classes at the corners of a simplex in the ball of radius 1, the guess of largest posterior, 300 guesses."""
    rng, noise, trials = np.random.default_rng(8), 0.5, 300
    corners = np.eye(10) - 0.1
    corners /= np.linalg.norm(corners, axis=1, keepdims=True)
    alarms = 0
    for _ in range(4):
        truth = rng.integers(10, size=trials)
        sent = corners[truth] + noise * rng.normal(size=(trials, 10))
        right = int(((sent @ corners.T).argmax(1) == truth).sum())
        honest, boast = (ls.FedSGD() >> ls.Clip(1.0) >> ls.GaussianNoise(factor * noise) for factor in (1, 3))
        alarms += contradiction(honest, right=right, guesses=trials, chance=0.1) is not None
        assert contradiction(boast, right=right, guesses=trials, chance=0.1) is not None
    assert alarms == 0


def test_at_the_bound_itself_a_true_promise_is_seldom_called_broken() -> None:
    """Two candidates at the ends of the ball reach the bound Phi(1 / s): at most one comparison in a thousand is a
    false alarm, by the binomial law itself, and not much less, or weak lies would pass."""
    mechanism, guesses = ls.FedSGD() >> ls.Clip(1.0) >> ls.GaussianNoise(1.0), 200
    low, high = 100, guesses
    while high - low > 1:
        middle = (low + high) // 2
        broken = contradiction(mechanism, right=middle, guesses=guesses, chance=0.5) is not None
        low, high = (low, middle) if broken else (middle, high)
    alarm = stats.binom.sf(high - 1, guesses, stats.norm.cdf(1.0))
    assert 1e-4 < alarm <= 1e-3


def test_curves_of_a_mechanism() -> None:
    mechanism = ls.FedSGD() >> ls.Clip(1.0) >> ls.GaussianNoise(1.0)
    assert largest_power(mechanism, fpr=0.01) == pytest.approx(0.0924, abs=1e-3)
    assert largest_power(ls.FedSGD(), fpr=0.01) == largest_share(ls.FedSGD(), chance=0.1) == 1.0
    with pytest.raises(BadInput, match="chance"):
        largest_share(mechanism, chance=1.5)
    with pytest.raises(BadInput, match="right"):
        contradiction(mechanism, right=4, guesses=3, chance=0.5)


def test_what_promises_nothing_is_broken_by_nothing() -> None:
    assert theory(ls.FedSGD(), delta=DELTA) == Theory(None, math.inf, math.inf, DELTA)
    assert contradiction(ls.FedSGD(), right=300, guesses=300, chance=0.001) is None


def test_what_cannot_be_computed_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = Promising(UnsupportedDpEvent())
    assert theory(unknown, delta=DELTA) is None
    assert largest_share(unknown, chance=0.1) is None
    assert contradiction(unknown, right=300, guesses=300, chance=0.1) is None

    def missing(*args: Any, **kwargs: Any) -> Any:
        raise MissingExtra("dp")

    monkeypatch.setattr(Promising, "event", missing)
    assert theory(unknown, delta=DELTA) is None
    assert largest_power(unknown, fpr=0.1) is None


class Quieter(ls.GaussianNoise):
    """Half the noise under the event of all of it."""

    def apply(self, update: Named, *, key: ls.Key) -> dict[str, Tensor]:
        return {
            name: (value + super(Quieter, self).apply({name: value}, key=key)[name]) / 2
            for name, value in update.items()
        }


class Unclipped(ls.DPSGD):
    """Its steps clip nothing."""

    def release(self, target: ls.Target, batch: ls.Batch, *, key: ls.Key) -> Any:
        return ls.FedSGD().release(target, batch, key=key)


@pytest.mark.parametrize(
    "own", [Unclipped(1.0, 2.0), ls.FedSGD() >> ls.Clip(1.0) >> Quieter(2.0)], ids=["step", "noise"]
)
def test_an_inherited_event_of_other_code_promises_nothing(own: Any) -> None:
    assert theory(own, delta=1e-5) is None
    assert largest_power(own, fpr=0.01) is None
    honest = (ls.DPSGD(1.0, 2.0), ls.FedSGD() >> ls.Clip(1.0) >> ls.GaussianNoise(2.0), ls.FedSGD(), ls.FedAvg(2, 0.1))
    assert all(theory(one, delta=1e-5) is not None for one in honest)
