"""Mechanisms of one's own: what they are without their noise, and that none is cleared of which nobody knows it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import final

import pytest
import torch
from tests.audit_toys import toy_plan

import leakscope as ls
from leakscope.audit.engines.inline import Inline
from leakscope.audit.plan import Scene
from leakscope.audit.run import run
from leakscope.core.asking import noiseless_of
from leakscope.core.errors import UnusableMechanism
from leakscope.core.mechanism import AbstractMechanism, Adjacency
from leakscope.ledger.record import Word
from leakscope.mechanisms.compose import AbstractProtocol, AbstractUpdateDefense, Sensitivity
from leakscope.mechanisms.protocols.batch_clipped import BatchClipped
from leakscope.mechanisms.protocols.training import PrivateHeadTraining
from leakscope.mechanisms.silencing import unsilenced
from leakscope.numerics.rng import normal


@dataclass(frozen=True)
class Turned(AbstractUpdateDefense):
    """Seven of ten entries left out, half of the others turned around: no attack finds anything. And noise."""

    std: float = 1e-9

    def apply(self, update, *, key):
        def left(name, value):
            draws = torch.rand(value.shape, generator=key.child("which", name).generator())
            return value * ((draws < 0.15).float() - (draws > 0.85).float())

        return {name: left(name, v) + self.std * normal(v, key.child(name)) for name, v in update.items()}

    def replay(self, update):
        return dict(update)

    def sensitivity(self, before):
        return Sensitivity()

    def event(self, before):
        return None

    def noise(self, sent):
        return self.std


@dataclass(frozen=True)
class OnlyNoise(Turned):
    """Says that it is nothing but noise."""

    @property
    def only_noise(self):
        return True

    def apply(self, update, *, key):
        return {name: v + self.std * normal(v, key.child(name)) for name, v in update.items()}


class Clips(ls.GaussianNoise):
    """Inherits that it is nothing but noise, and clips."""

    def apply(self, update, *, key):
        return super().apply(ls.Clip(1e-3).apply(update, key=key), key=key)


@final
@dataclass(frozen=True)
class Own(AbstractProtocol):
    """A protocol with clip and noise inside; `left` is what it says of itself without the noise."""

    left: object = None

    def release(self, target, batch, *, key):
        return (ls.FedSGD() >> ls.Clip(1.0) >> ls.GaussianNoise(0.1)).release(target, batch, key=key)

    def replay(self, target, batch):
        return ls.FedSGD().replay(target, batch)

    def as_gradient(self, release):
        return release

    def noise(self, examples):
        return 0.1

    @property
    def undefended(self):
        return ls.FedSGD()

    @property
    def noiseless(self):
        return self.left


class Closed(AbstractMechanism):
    """Neither protocol nor chain: whom it hides is all that it declares."""

    def release(self, target, batch, *, key):
        raise NotImplementedError

    def event(self, *, rounds=1):
        raise ImportError("no accountant")

    @property
    def adjacency(self):
        return Adjacency.EXAMPLE

    @property
    def undefended(self):
        return ls.FedSGD()


@dataclass(frozen=True)
class Open(Closed):
    """Says what it is without its noise."""

    @property
    def noiseless(self):
        return ls.FedSGD() >> ls.Clip(1.0)


def test_noise_that_cannot_be_taken_away_is_not_cleared(tmp_path) -> None:
    """At a billionth of the clip: who drops and adds noise in one class was cleared by what it drops."""
    scene = Scene("own", ls.Digits(size=8), ls.MLP((32,)))
    plan = toy_plan(mechanisms=(ls.FedSGD() >> Turned(),), scenes=(scene,), trials=24, told=(ls.BatchSize,))
    (group,) = run(plan, tmp_path, Inline()).groups
    assert group.word is Word.INCONCLUSIVE
    assert "Turned(std=1e-09) declares noise, and nobody knows what it does without it" in group.sentence


@pytest.mark.parametrize(
    "mechanism",
    [
        ls.FedSGD() >> Turned(),
        ls.FedSGD() >> ls.Clip(1.0) >> Clips(0.1),
        Own(),
        Own() >> ls.GaussianNoise(0.1),
        Closed(),
    ],
)
def test_what_declares_noise_has_to_say_what_is_left_without_it(mechanism: AbstractMechanism) -> None:
    assert "declares noise, and nobody knows what it" in unsilenced(mechanism)


@pytest.mark.parametrize(
    "mechanism",
    [
        ls.FedSGD(),
        ls.FedAvg(2, 0.1) >> ls.Clip(1.0) >> ls.GaussianNoise(0.1) >> ls.Prune(0.5),
        ls.FedSGD() >> ls.Clip(1.0, order=1) >> ls.LaplaceNoise(0.1),
        ls.FedSGD() >> ls.InputNoise(0.1) >> ls.Quantize(4) >> ls.Sign(),
        ls.DPSGD(1.0, 1.0) >> ls.RandomDrop(0.5),
        PrivateHeadTraining(ls.HeadTraining(2, 0.1), ls.DPSGD(1.0, 1.0, expected=2, rate=0.5)),
        BatchClipped(ls.FedAvg(1, 0.1)),
        ls.FedSGD() >> OnlyNoise(),
        ls.FedSGD() >> Turned(0.0),
        Own(ls.FedSGD() >> ls.Clip(1.0)) >> ls.Prune(0.5),
        Open(),
    ],
)
def test_of_ours_and_of_what_says_so_it_is_known(mechanism: AbstractMechanism) -> None:
    assert unsilenced(mechanism) == ""


def test_a_protocol_that_is_a_chain_without_its_noise_is_one_in_a_chain_too() -> None:
    """Its noise was kept in the control that says it has none; inputs are changed before, updates after."""
    own, clipped = Own(ls.FedSGD() >> ls.Clip(1.0)), ls.FedSGD() >> ls.Clip(1.0)
    assert noiseless_of(own) == clipped == noiseless_of(own >> ls.GaussianNoise(0.1))
    assert noiseless_of(own >> ls.Prune(0.5) >> ls.LaplaceNoise(0.1)) == clipped >> ls.Prune(0.5)
    assert noiseless_of(Own(ls.DPSGD(1.0, 0.0)) >> ls.Prune(0.5)) == ls.DPSGD(1.0, 0.0) >> ls.Prune(0.5)
    assert noiseless_of(ls.FedSGD() >> Clips(0.1) >> ls.GaussianNoise(0.1)) == ls.FedSGD() >> Clips(0.1)
    with pytest.raises(UnusableMechanism, match="without its noise is 3, expected a protocol"):
        noiseless_of(dataclasses.replace(own, left=3) >> ls.Prune(0.5))
