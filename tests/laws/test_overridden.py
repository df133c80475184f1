"""What derives from a class of ours and acts otherwise is not what that class says of itself: nothing is proved by it.

For every mechanism, optimizer and loss of the table, and everything of it that a subclass or a patch can write anew.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.laws.test_attacks import ATTACKS, PUBLIC, built, facts, net, observed, private
from tests.laws.test_unknown import EXACT
from torch import nn

import leakscope as ls
from leakscope.audit.theory import theory
from leakscope.cli.names import Family, rows
from leakscope.core.feed import Arguments, InputsOnly
from leakscope.core.overriding import acts_as
from leakscope.mechanisms import reading
from leakscope.mechanisms.compose import AbstractProtocol, Defended
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.protocols.optimizers import AbstractOptimizer, ClientAdam, ClientAdamW, ClientSGD

PROVERS = [row for row in ATTACKS if row.name in EXACT]
DEFENSES: list[Any] = [eval(row.example, PUBLIC) for row in rows(Family.DEFENSES)]
PROTOCOLS: list[Any] = [eval(row.example, PUBLIC) for row in rows(Family.PROTOCOLS)]
OPTIMIZERS: list[AbstractOptimizer] = [ClientSGD(), ClientAdam(), ClientAdamW()]
LOSSES: list[Any] = [ls.CrossEntropy(), ls.NextToken(), ls.CTC(blank=5)]


def written(one: Any) -> list[str]:
    """All that it can be asked or told to do, but for its effect: methods and properties, private ones too."""
    kind = type(one)
    named = [name for name in dir(kind) if not name.startswith("__") or name in ("__call__", "__rshift__")]
    parts = {name: inspect.getattr_static(kind, name) for name in named if name not in ("effect", "_abc_impl")}
    return [name for name, part in parts.items() if isinstance(part, property) or callable(part)]


def derived(one: Any, name: str) -> Any:
    """The same object as of a subclass that writes `name` anew, here as it was: nobody can see that by its name."""
    kind = type("Derived", (type(one),), {name: inspect.getattr_static(type(one), name)})
    found = object.__new__(kind)
    for field, value in vars(one).items():
        object.__setattr__(found, field, value)
    return found


def mechanisms() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in PROTOCOLS:
        if isinstance(one, AbstractProtocol):
            found |= {f"{type(one).__name__}.{name}": derived(one, name) for name in written(one)}
    for one in DEFENSES:
        found |= {f"{type(one).__name__}.{name}": ls.FedSGD() >> derived(one, name) for name in written(one)}
    for one in OPTIMIZERS:
        found |= {f"{type(one).__name__}.{n}": ls.FedAvg(1, 0.1, optimizer=derived(one, n)) for n in written(one)}
    chain = ls.FedSGD() >> ls.Clip(1e9)
    return found | {f"Defended.{name}": derived(chain, name) for name in written(chain)}


DERIVED = mechanisms()


@pytest.mark.parametrize("name", DERIVED)
def test_nothing_is_known_of_what_writes_a_part_anew(name: str) -> None:
    mechanism = DERIVED[name]
    assert "so nothing is proved" in str(reading.doubt(mechanism))
    traits = (reading.keeps_ratios, reading.keeps_inputs, reading.keeps_model)
    assert not all(trait(mechanism) is Answer.YES for trait in traits)


def test_the_classes_themselves_are_not_taken_for_what_derives_from_them() -> None:
    """Else the law above would be held by doubting everything."""
    chain = ls.FedSGD() >> ls.Clip(1.0)
    plain = type("Named", (ls.FedSGD,), {"__doc__": "Writes nothing anew."})()
    for mechanism in (ls.FedSGD(), plain, ls.FedAvg(1, 0.1), ls.FedAvg(2, 0.1, momentum=0.5), chain):
        assert reading.doubt(mechanism) is None


class Clipping(torch.optim.SGD):
    """Clips each entry before it steps: an honest and common client."""

    def step(self, closure: Any = None) -> Any:
        torch.nn.utils.clip_grad_value_([p for group in self.param_groups for p in group["params"]], 1e-3)
        return super().step(closure)


class ValueClipped(ClientSGD):  # type: ignore[misc]
    """Build and step agree with each other, and not with what is inherited."""

    def build(self, parameters: Any, *, lr: float) -> torch.optim.Optimizer:
        return Clipping(parameters, lr=lr)

    def step(self, slope: Any, weights: Any, moments: Any, *, lr: float) -> Any:
        clipped = {name: value.clamp(-1e-3, 1e-3) for name, value in slope.items()}
        return super().step(clipped, weights, moments, lr=lr)


class OneOnly(ls.FedAvg):  # type: ignore[misc]
    """Trains on the first example alone, by a helper of the release."""

    def schedule(self, examples: int, order: Any) -> Any:
        return [[torch.tensor([0])] for _ in range(self.steps)]


class MovedBehind(Defended):  # type: ignore[misc]
    """Mirrors the inputs and moves the labels before anything else."""

    def release(self, target: ls.Target, batch: ls.Batch, *, key: ls.Key) -> Any:
        return super().release(target, moved(target, batch), key=key)


def moved(target: ls.Target, batch: ls.Batch) -> ls.Batch:
    if batch.labels.dim() == 1:
        batch = dataclasses.replace(batch, labels=(batch.labels + 1) % target.classes)
    return batch if batch.holds_tokens else batch.with_inputs(batch.inputs.flip(-1))


def patched() -> Any:
    """An instance whose release was exchanged."""
    one = ls.FedSGD()

    def release(target: ls.Target, batch: ls.Batch, *, key: ls.Key) -> Any:
        return ls.FedSGD().release(target, moved(target, batch), key=key)

    object.__setattr__(one, "release", release)
    return one


ACTING = {
    "optimizer": ls.FedAvg(1, 0.1, optimizer=ValueClipped()),
    "helper": OneOnly(1, 0.1),
    "chain": MovedBehind(ls.FedSGD(), (ls.Clip(1e9),)),
    "patched": patched(),
    "patched in a chain": patched() >> ls.Clip(1e9),
}


@pytest.mark.parametrize("name", ACTING)
@pytest.mark.parametrize("row", PROVERS, ids=lambda row: row.name)
def test_what_acts_otherwise_gets_no_certificate(row: Any, name: str) -> None:
    attempt = built(row).run(observed(row, ACTING[name]), key=ls.Key(1), budget=ls.Budget(evaluations=8))
    assert attempt.certificate is None or not any(attempt.certificate.proved)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_a_loss_that_writes_a_part_anew_is_another_loss(loss: Any) -> None:
    assert acts_as(loss, type(loss))
    for name in written(loss):
        assert not acts_as(derived(loss, name), type(loss)), name


class Shifted(ls.CrossEntropy):  # type: ignore[misc]
    """The cross entropy of the next class."""

    def __call__(self, outputs: torch.Tensor, batch: ls.Batch) -> torch.Tensor:
        return super().__call__(outputs, dataclasses.replace(batch, labels=(batch.labels + 1) % outputs.shape[1]))


@pytest.mark.parametrize("row", PROVERS, ids=lambda row: row.name)
def test_a_loss_that_derives_from_ours_proves_no_labels(row: Any) -> None:
    target = net(row)
    if not isinstance(target.loss, ls.CrossEntropy):
        return
    target = dataclasses.replace(target, loss=Shifted())
    seen = ls.observe(target, private(row), ls.FedSGD(), key=ls.Key(0), tell=facts(row))
    attempt = built(row).run(seen, key=ls.Key(1), budget=ls.Budget(evaluations=8))
    if attempt.certificate is not None and any(attempt.certificate.proved):
        assert isinstance(attempt.claim, ls.Inputs)
        assert attempt.claim.labels is None
        assert torch.allclose(attempt.claim.values, private(row).inputs, atol=1e-3)


class Reversed(InputsOnly):  # type: ignore[misc]
    """Gives the model its inputs mirrored; public, as all of a feed is."""

    def arguments(self, inputs: torch.Tensor, rest: Any) -> Arguments:
        return Arguments((inputs.flip(-1),))


class ReversedInBatches(InputsOnly):  # type: ignore[misc]
    """Does so where a batch is around them alone, so that no look at the model shows it."""

    def arguments(self, inputs: torch.Tensor, rest: Any) -> Arguments:
        return Arguments((inputs if rest is None else inputs.flip(-1),))


@pytest.mark.parametrize("feed", [Reversed(), ReversedInBatches()])
@pytest.mark.parametrize("count", [1, 3])
def test_what_is_proved_behind_a_feed_that_derives_from_ours_is_right(feed: Any, count: int) -> None:
    """A feed is a part of the model, which is run and not believed."""
    with ls.Key(0).isolated():
        target = ls.Target(nn.Sequential(nn.Flatten(), nn.Linear(64, 6)), ls.Images(1, 8, 8), 6, feed=feed)
    batch = ls.Batch(torch.rand(count, 1, 8, 8, generator=ls.Key(1).generator()), torch.arange(count))
    seen = ls.observe(target, batch, ls.FedSGD(), key=ls.Key(0), tell=[ls.BatchSize(count)])
    for attack in (ls.LinearLayer(), ls.LowRank(), ls.Recursive()):
        attempt = attack.run(seen, key=ls.Key(1))
        if attempt.certificate is not None and any(attempt.certificate.proved):
            apart = torch.cdist(attempt.claim.values.flatten(1), batch.inputs.flatten(1))  # type: ignore[union-attr]
            assert float(apart.min(1).values.max()) < 1e-3


def wrapped(part: Any) -> Any:
    """As monitors and retries wrap a method: the names of the old one are copied."""
    old = part.fget if isinstance(part, property) else part

    @functools.wraps(old)
    def new(self: Any, *given: Any, **more: Any) -> Any:
        return old(self, *given, **more)

    return property(new) if isinstance(part, property) else new


WAYS: dict[str, Callable[[Any], Any]] = {
    "a function": lambda part: property(lambda self: None) if isinstance(part, property) else lambda self, *given: None,
    "one that takes the names of the old": wrapped,
    "one with some arguments given": lambda part: functools.partialmethod(lambda *given: None),
    "a cached property": lambda part: functools.cached_property(lambda self: None),
    "a class method": lambda part: classmethod(lambda *given: None),
    "a value": lambda part: 3,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("kind", "name", "made"),
    [
        (ls.FedSGD, "release", ls.FedSGD),
        # Its fields are values of other classes of ours.
        (ls.FedAvg, "release", lambda: ls.FedAvg(1, 0.1)),
        (ls.FedAvg, "effect", lambda: ls.FedAvg(1, 0.1)),
        (ls.GaussianNoise, "apply", lambda: ls.FedSGD() >> ls.GaussianNoise(1.0)),
        (ClientSGD, "build", lambda: ls.FedAvg(1, 0.1, optimizer=ClientSGD())),
        (ls.CrossEntropy, "__call__", None),
    ],
)
def test_whatever_is_put_in_the_place_of_a_method_is_seen(
    kind: Any, name: str, made: Any, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = kind() if made is None else made()
    monkeypatch.setattr(kind, name, WAYS[way](inspect.getattr_static(kind, name)))
    assert not acts_as(before, kind) if made is None else reading.doubt(before) is not None


PATCHED = {
    "a release": (ls.FedSGD, "release", ls.FedSGD),
    "a noise": (ls.GaussianNoise, "apply", lambda: ls.FedSGD() >> ls.Clip(1.0) >> ls.GaussianNoise(1.0)),
    "a clip": (ls.Clip, "apply", lambda: ls.FedSGD() >> ls.Clip(1.0) >> ls.GaussianNoise(1.0)),
    "an optimizer": (ClientSGD, "build", lambda: ls.FedAvg(1, 0.1, optimizer=ClientSGD())),
    "a chain": (Defended, "release", lambda: ls.FedSGD() >> ls.Clip(1.0)),
}


@pytest.mark.parametrize("name", PATCHED)
def test_of_a_class_that_was_patched_nothing_is_known(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No subclass and no instance shows it: the class itself was changed, after it was imported."""
    kind, method, made = PATCHED[name]
    before = made()
    assert reading.doubt(before) is None
    monkeypatch.setattr(kind, method, lambda self, *given, **more: given[0])
    assert reading.doubt(made()) is not None
    promised = theory(made(), delta=1e-5)
    assert promised is None or promised.epsilon == float("inf")


def test_a_loss_whose_class_was_patched_is_another_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    assert acts_as(ls.CrossEntropy(), ls.CrossEntropy)
    monkeypatch.setattr(ls.CrossEntropy, "__call__", lambda self, outputs, batch: outputs.sum())
    assert not acts_as(ls.CrossEntropy(), ls.CrossEntropy)
