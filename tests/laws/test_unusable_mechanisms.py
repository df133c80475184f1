"""A mechanism whose own code fails, and facts without end: every attack answers, and nothing is proved by what failed.

Crossed with every attack of the one table. The update is always an honest one of `FedSGD`, and what is declared is so:
only one method of the mechanism that is handed in fails, in each of the ways in which somebody else's code does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

import pytest
import torch
from tests.laws.test_attacks import ATTACKS, built, observed, secret
from tests.laws.test_odd_observations import READERS, by, told
from torch import Tensor, nn

import leakscope as ls
from leakscope.core.asking import gradient_of, replay_of, undefended_of
from leakscope.core.errors import LeakscopeError, NoSuchLayer, UnusableMechanism
from leakscope.core.refusal import Refusal
from leakscope.core.release import Gradient
from leakscope.mechanisms import reading, running
from leakscope.mechanisms.compose import (
    AbstractModelDefense,
    AbstractProtocol,
    AbstractUpdateDefense,
    Cells,
    Sensitivity,
)
from leakscope.mechanisms.effects import Answer, ModelEffect, ProtocolEffect, UpdateEffect
from leakscope.numerics.trees import Named

PLAIN = ls.FedSGD()
Fault = Callable[[Any], Any]
"""What a method returns in place of what it should, or raises."""


class Own(Exception):
    """Of a kind that no list of errors holds."""


def raises(error: BaseException) -> Fault:
    def fault(honest: Any) -> Any:
        raise error

    return fault


def each(change: Callable[[Tensor], Tensor]) -> Fault:
    return lambda honest: of(honest, {name: change(value) for name, value in named(honest).items()})


def named(honest: Any) -> dict[str, Tensor]:
    return dict(honest.by_name if isinstance(honest, Gradient) else honest)


def of(honest: Any, by_name: dict[str, Tensor]) -> Any:
    return Gradient(by_name) if isinstance(honest, Gradient) else by_name


RAISED: dict[str, Fault] = {
    "KeyError": raises(KeyError("my.bias")),
    "own error": raises(Own("no idea")),
    "no memory": raises(MemoryError()),
    "misspelled": raises(NameError("name 'stpe' is not defined")),
    "on purpose": raises(ls.BadInput("expected another update; send one")),
    "None": lambda honest: None,
    "text": lambda honest: "ten",
}
"""What any method may do."""
TENSORS: dict[str, Fault] = {
    "fewer names": lambda honest: of(honest, dict(list(named(honest).items())[:1])),
    "other shapes": each(lambda value: value[None]),
    "scalars": each(lambda value: value.sum()),
    "NaN": each(lambda value: value * float("nan")),
    "huge numbers": each(lambda value: value * 1e38),
    "a huge tensor": each(lambda value: torch.zeros(1).expand(10**12)),
    "shapes alone": each(lambda value: value.to("meta")),
    "whole numbers": each(lambda value: value.long()),
}
"""What a method that returns tensors by name may do besides."""
NUMBERS: dict[str, Fault] = {"no number": lambda honest: float("nan"), "below zero": lambda honest: -1}


@dataclass(frozen=True)
class Failing:
    """What fails, how, and what was asked: the name of a method, and a fault by name."""

    method: str
    way: str
    fault: Fault = field(repr=False, compare=False)
    asked: list[str] = field(default_factory=list, repr=False, compare=False)

    def answer(self, method: str, honest: Callable[[], Any]) -> Any:
        if method != self.method:
            return honest()
        self.asked.append(method)
        return self.fault(honest())


@final
@dataclass(frozen=True)
class Protocol(Failing, AbstractProtocol):
    """The mean gradient, declared as it is, of which one method fails."""

    @property
    def effect(self) -> ProtocolEffect:
        return self.answer("effect", lambda: PLAIN.effect)  # type: ignore[no-any-return]

    @property
    def passes(self) -> int:
        return self.answer("passes", lambda: 1)  # type: ignore[no-any-return]

    @property
    def undefended(self) -> Any:
        return self.answer("undefended", lambda: self)

    def release(self, target: ls.Target, batch: ls.Batch, *, key: ls.Key) -> Gradient:
        return PLAIN.release(target, batch, key=key)

    def replay(self, target: ls.Target, batch: ls.Batch) -> Any:
        return self.answer("replay", lambda: PLAIN.replay(target, batch))

    def as_gradient(self, release: Any) -> Any:
        return self.answer("as_gradient", lambda: PLAIN.as_gradient(release))

    def noise(self, examples: int | None) -> float | None:
        return self.answer("noise", lambda: PLAIN.noise(examples))  # type: ignore[no-any-return]

    def evenly(self, examples: int) -> Answer:
        return self.answer("evenly", lambda: Answer.YES)  # type: ignore[no-any-return]

    def unfit(self, target: ls.Target) -> str | None:
        return self.answer("unfit", lambda: None)  # type: ignore[no-any-return]


@final
@dataclass(frozen=True)
class Update(Failing, AbstractUpdateDefense):
    """Leaves an update as it is, and says so; one method fails."""

    @property
    def effect(self) -> UpdateEffect:
        clip = dataclasses.replace(ls.Clip(1.0).effect, clips=Answer.YES)
        return self.answer("effect", lambda: clip)  # type: ignore[no-any-return]

    def apply(self, update: Named, *, key: ls.Key) -> dict[str, Tensor]:
        return dict(update)

    def replay(self, update: Named) -> Any:
        return self.answer("replay", lambda: dict(update))

    def sensitivity(self, before: Sensitivity) -> Any:
        return self.answer("sensitivity", lambda: Sensitivity(l2=1e9))

    def event(self, before: Sensitivity) -> None:
        return None

    def noise(self, sent: Tensor) -> float | None:
        return self.answer("noise", lambda: None)  # type: ignore[no-any-return]

    def cells(self, sent: Named) -> Cells | None:
        return self.answer("cells", lambda: None)  # type: ignore[no-any-return]


@final
@dataclass(frozen=True)
class Model(Failing, AbstractModelDefense):
    """Runs the model as it is, and says so; one method fails."""

    @property
    def effect(self) -> ModelEffect:
        return self.answer("effect", lambda: ModelEffect(Answer.YES, Answer.NO))  # type: ignore[no-any-return]

    def apply(self, target: ls.Target) -> Any:
        return self.answer("apply", lambda: target)

    def replay(self, target: ls.Target) -> Any:
        return self.answer("replay", lambda: target)


def broken(target: ls.Target) -> ls.Target:
    """A copy with the same parameters whose forward pass raises."""
    found = dataclasses.replace(target)
    found.module.register_forward_pre_hook(unable)
    return found


def unable(module: Any, given: Any) -> Any:
    raise KeyError("dropped")


def smaller(target: ls.Target) -> ls.Target:
    with ls.Key(0).isolated():
        return dataclasses.replace(target, module=nn.Sequential(nn.Flatten(), nn.Linear(64, 4)))


MODELS: dict[str, Fault] = {"another model": smaller, "a model that fails": broken}


def failing() -> list[tuple[Failing, Any]]:
    """Each method with each of its faults, and the mechanism that has it."""
    found: list[tuple[Failing, Any]] = []
    for method in ("effect", "passes", "undefended", "replay", "as_gradient", "noise", "evenly", "unfit"):
        more = TENSORS if method in ("replay", "as_gradient") else NUMBERS if method in ("passes", "noise") else {}
        for way, fault in (RAISED | more).items():
            protocol = Protocol(method, way, fault)
            found.append((protocol, protocol))
    for method in ("effect", "replay", "sensitivity", "noise", "cells"):
        more = TENSORS if method == "replay" else NUMBERS if method == "noise" else {}
        for way, fault in (RAISED | more).items():
            update = Update(method, way, fault)
            found.append((update, PLAIN >> update))
    for method in ("effect", "apply", "replay"):
        for way, fault in (RAISED | (MODELS if method != "effect" else {})).items():
            model = Model(method, way, fault)
            found.append((model, PLAIN >> model))
    return found


SILENT = {("unfit", "None"), ("noise", "None"), ("cells", "None"), ("undefended", "None")}
"""Of these nothing is no fault, or what is asked is no part of a proof."""
BELIEVED = {"sensitivity", "huge numbers"}
"""What a proof may be given beside: a clip without a bound counts as in force, and of numbers that are finite only the
size is wrong, while the update is held against the model itself (`explained`)."""
SEARCHED = {"KeyError", "None", "fewer names", "NaN"}
"""The faults of a replay that searches are run on too; of the others their refusal is the answer."""


def answered(row: Any, seen: ls.Observation, one: Failing, *, runs: bool) -> str | None:
    """What was raised that is none of the library's own, or was proved by what failed; None where nothing was."""
    attack = built(row)
    try:
        found = attack.refusal(seen)
    except Exception as error:  # noqa: BLE001, each of them is what the law looks for
        return f"the refusal raises {type(error).__name__}: {error}"
    assert found is None or isinstance(found, Refusal)
    if found is not None or not runs:
        return None
    try:
        attempt = attack.run(seen, key=ls.Key(1), budget=ls.Budget(evaluations=2))
    except LeakscopeError:
        return None
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}"
    holds = attempt.certificate is not None and attempt.certificate.holds
    excused = (one.method, one.way) in SILENT or not BELIEVED.isdisjoint({one.method, one.way})
    return "proved" if holds and one.asked and not excused else None


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize("row", ATTACKS, ids=lambda row: row.name)
def test_no_mechanism_that_fails_makes_an_attack_raise_or_prove(row: Any) -> None:
    plain, wrong, turn = observed(row, PLAIN), {}, ATTACKS.index(row)
    for place, (one, mechanism) in enumerate(failing()):
        # Asked of all, run with every third, others for the next attack: a run of all takes minutes.
        runs = place % 3 == turn % 3 and row.name in READERS
        runs |= one.method == "replay" and one.way in SEARCHED and isinstance(one, Protocol)
        said = answered(row, by(mechanism)(plain), one, runs=runs)
        if said is not None:
            wrong[type(one).__name__, one.method, one.way] = said
    assert wrong == {}


LINEAR = next(row for row in ATTACKS if row.name == "LinearLayer")


def attempted(mechanism: Any) -> ls.Attempt[Any]:
    return built(LINEAR).run(by(mechanism)(observed(LINEAR, PLAIN)), key=ls.Key(1))


def test_where_nothing_fails_the_same_mechanisms_are_proved_with() -> None:
    """Else the law above would be held by doubting everything."""
    nothing = ("nothing", "at all", lambda honest: honest)
    for mechanism in (Protocol(*nothing), PLAIN >> Update(*nothing), PLAIN >> Model(*nothing)):
        assert attempted(mechanism).certified, mechanism


def test_a_replay_that_fails_withholds_the_proof_and_keeps_the_claim() -> None:
    """In a sentence that names the mechanism and what was wrong."""
    for way, said in {
        "KeyError": "Protocol(method='replay', way='KeyError') cannot replay a batch: KeyError: 'my.bias'",
        "own error": "cannot replay a batch: Own: no idea",
        "None": "cannot replay a batch: it returns NoneType, expected a release",
        "fewer names": "cannot replay a batch: it returns nothing under",
        "other shapes": "cannot replay a batch: it returns (1, 32, 64) under '1.weight', expected (32, 64)",
        "on purpose": "expected another update; send one",
        # No difference from NaN is larger than any bound, nor within it.
        "NaN": "cannot replay a batch: it returns values that are not finite",
    }.items():
        attempt = attempted(Protocol("replay", way, (RAISED | TENSORS)[way]))
        assert attempt.claim is not None, way
        assert attempt.certificate is None, way
        assert f"no proof: {said}" in attempt.sentence or said in attempt.sentence, (way, attempt.sentence)


def test_a_fault_before_the_attack_is_a_refusal() -> None:
    for one, said in (
        (Protocol("as_gradient", "KeyError", RAISED["KeyError"]), "cannot read this release as a gradient: KeyError"),
        (Protocol("as_gradient", "fewer", TENSORS["fewer names"]), "it returns nothing under"),
        (Protocol("unfit", "KeyError", RAISED["KeyError"]), "when it is asked whether a client can run it"),
        (PLAIN >> Model("replay", "None", RAISED["None"]), "gives NoneType as the model that is run"),
        (PLAIN >> Model("replay", "smaller", smaller), "gives a model with other parameters"),
        (PLAIN >> Model("replay", "broken", broken), "KeyError: 'dropped'"),
    ):
        refusal = built(LINEAR).refusal(by(one)(observed(LINEAR, PLAIN)))
        assert refusal is not None, one
        assert said in refusal.sentence


def test_ctrl_c_and_a_missing_layer_are_no_faults_of_a_mechanism() -> None:
    seen = observed(LINEAR, PLAIN)
    with pytest.raises(KeyboardInterrupt):
        replay_of(Protocol("replay", "", raises(KeyboardInterrupt())), seen.target, secret(), {})
    missing = NoSuchLayer("no such layer")
    with pytest.raises(type(missing)):
        replay_of(Protocol("replay", "", raises(missing)), seen.target, secret(), {})


def test_what_is_asked_of_a_mechanism_is_what_it_answers_or_one_kind_of_error() -> None:
    seen, fine = observed(LINEAR, PLAIN), Protocol("nothing", "", lambda honest: honest)
    assert gradient_of(fine, seen.release, seen.target.parameters()).by_name.keys() == seen.release.by_name.keys()
    assert undefended_of(fine) is fine
    assert running.passes(fine) == 1
    for way in ("KeyError", "None", "text"):
        with pytest.raises(UnusableMechanism):
            undefended_of(Protocol("undefended", way, RAISED[way]))
        with pytest.raises(UnusableMechanism):
            running.passes(Protocol("passes", way, RAISED[way]))
    for way in ("KeyError", "text"):
        for_all = Protocol("evenly", way, RAISED[way])
        assert "when it is asked how often it takes each" in str(reading.doubt(for_all))


@pytest.mark.parametrize("bound", [None, "ten", float("nan"), float("inf"), -1.0], ids=repr)
def test_a_clip_that_names_no_bound_may_have_been_in_force(bound: Any) -> None:
    """Not "no": the norm of the update is below infinity whatever was clipped, and the size would count as proved."""
    clip = Update("sensitivity", "odd", lambda honest: Sensitivity(l1=bound, l2=bound))
    assert reading.clipped(by(PLAIN >> clip)(observed(LINEAR, PLAIN))) is Answer.YES


ENDLESS: dict[str, tuple[Any, ...]] = {
    "examples": (ls.BatchSize(10**9),),
    "as many as 64 bits hold": (ls.BatchSize(2**62),),
    "frames": (ls.BatchSize(1), ls.Lengths((10**9,))),
    "frames of as many as 64 bits hold": (ls.BatchSize(1), ls.Lengths((2**62,))),
    "frames of several": (ls.BatchSize(3), ls.Lengths((1, 10**7, 1))),
    "a class": (ls.BatchSize(1), ls.TrueLabels((2**62,))),
    "a character": (ls.BatchSize(1), ls.TrueTranscripts(((1, 2**62),))),
}
"""Facts with numbers of which nothing may be made before they are refused."""


@pytest.mark.parametrize("row", ATTACKS, ids=lambda row: row.name)
def test_numbers_without_end_are_refused_at_once(row: Any) -> None:
    plain = observed(row, PLAIN)
    for name, facts in ENDLESS.items():
        seen, attack = told(*facts)(plain), built(row)
        refusal = attack.refusal(seen)
        assert refusal is not None, name
        assert "tell what is true" in refusal.sentence, (name, refusal.sentence)


def test_a_search_that_no_memory_holds_is_refused() -> None:
    row = next(row for row in ATTACKS if row.name == "inverting_gradients")
    refusal = ls.GradientInversion(restarts=10**9).refusal(observed(row, PLAIN))
    assert refusal is not None
    assert "search fewer examples or restarts" in refusal.sentence
