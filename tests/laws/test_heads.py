"""The laws of attacks on updates, for the attacks of the table that read a released model instead."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import numpy as np
import pytest
import torch
from tests.laws.test_attacks import PUBLIC, forced, numbers
from tests.test_heads_attacks import PROBE, TRAINING, private, seen, target

import leakscope as ls
from leakscope.attacks.attack import Attack
from leakscope.attacks.inputs.heads import decoder, head_images, head_reconstructor
from leakscope.attacks.preparing import AbstractLearner, Setting
from leakscope.cli.names import Family, Row, Trait, rows
from leakscope.core.effort import Budget
from leakscope.core.rounds import Round

HEADS = [row for row in rows(Family.ATTACKS) if Trait.READS_WEIGHTS in row.traits]
DOMAIN = ls.Images(1, 8, 8)


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_images, "HEADS", 30)
    monkeypatch.setattr(head_images, "PICTURES", 1)
    monkeypatch.setattr(head_reconstructor, "COUNTED", 64)
    monkeypatch.setattr(decoder, "WIDTH", 32)


def built(row: Row, **changes: Any) -> Attack[Any]:
    """The row's example on a small pool; of a learner the attack that it teaches, after a few steps."""
    attack = eval(row.example.replace("Digits()", "Digits(size=8)"), PUBLIC)
    if not isinstance(attack, AbstractLearner):
        return dataclasses.replace(attack, **changes)
    small = {"width": 2} if isinstance(attack, ls.HeadReconstructor) else {}
    learner = dataclasses.replace(attack, **{"steps": 5, **small, **changes})
    setting = Setting(PROBE, DOMAIN, 10, TRAINING)
    return learner.taught(learner.prepare(setting, key=ls.Key(3), clock=Budget().start()))


@pytest.mark.parametrize("row", HEADS, ids=lambda row: row.name)
def test_it_runs_where_it_applies_and_refuses_by_name_what_it_was_not_told(row: Row) -> None:
    attack, fine = built(row), seen()
    assert attack.refusal(fine) is None
    assert attack.run(fine, key=ls.Key(1)).outcome is ls.Outcome.CLAIMED
    untold = seen(tell=False)
    assert "BatchSize" in attack.run(untold, key=ls.Key(1)).sentence
    assert not forced(attack, untold)


@pytest.mark.parametrize("row", HEADS, ids=lambda row: row.name)
def test_updates_and_several_rounds_are_refused(row: Row) -> None:
    attack, model = built(row), target()
    for mechanism in (ls.FedSGD(), ls.FedAvg(2, 0.1), ls.FedSGD() >> ls.Clip(1.0)):
        update = ls.observe(model, private(), mechanism, key=ls.Key(0), tell=seen().facts)
        refusal = attack.refusal(update)
        assert refusal is not None
        assert "reads a Weights" in refusal.sentence
        weights = ls.Observation(model, ls.Weights(model.parameters()), mechanism, update.facts)
        refusal = attack.refusal(weights)
        assert refusal is not None
        assert "HeadTraining" in refusal.sentence
    one = seen()
    several = ls.Observation(one.target, (Round(0, one.release), Round(1, one.release)), one.mechanism, one.facts)
    assert "each" in attack.run(several, key=ls.Key(1)).sentence


@pytest.mark.parametrize("change", [torch.Tensor.t, lambda value: value[:-1], lambda value: value * torch.nan])
@pytest.mark.parametrize("row", HEADS, ids=lambda row: row.name)
def test_a_head_that_nobody_trained_is_refused_and_nothing_raises(row: Row, change: Any) -> None:
    fine = seen()
    sent = ls.Weights({name: change(value) for name, value in fine.release.by_name.items()})
    attempt = built(row).run(ls.Observation(fine.target, sent, fine.mechanism, fine.facts), key=ls.Key(1))
    assert attempt.outcome is ls.Outcome.REFUSED


@pytest.mark.parametrize("row", HEADS, ids=lambda row: row.name)
def test_the_claim_is_a_function_of_the_observation_and_nothing_is_touched(row: Row) -> None:
    attack, one, other = built(row), seen(), seen(seed=5)
    before = one.fingerprint()
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first = numbers(attack.run(one, key=ls.Key(1)))
    assert first == numbers(attack.run(seen(), key=ls.Key(1))) != numbers(attack.run(other, key=ls.Key(1)))
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == np.random.get_state()[1].tolist()
    assert states[2] == random.getstate()
    assert one.fingerprint() == before


@pytest.mark.parametrize("row", HEADS, ids=lambda row: row.name)
def test_every_field_speaks(row: Row) -> None:
    one, others = (
        seen(),
        {
            "pool": ls.pool(ls.Digits(size=8)),
            "fit": True,
            "each": 2,
            "steps": 9,
            "heads": 64,
            "width": 3,
            "conditional": False,
            "rate": 0.01,
            "look": ls.VGGTiny(),
            "bfloat16": True,
            "pictures": 4000,
            "closed": False,
            "local": True,
        },
    )
    half = others["pool"].batch
    others["pool"] = dataclasses.replace(others["pool"], batch=half.rows(torch.arange(400)), origin="")
    first = built(row).run(one, key=ls.Key(1))
    kind = type(eval(row.example, PUBLIC))
    for field in dataclasses.fields(kind):
        changed = built(row, **{field.name: others[field.name]})
        assert repr(changed) != repr(built(row))
        second = changed.run(one, key=ls.Key(1))
        assert (numbers(first), first.sentence) != (numbers(second), second.sentence), f"{field.name} does nothing"


def test_what_is_learned_is_the_same_for_every_key_of_a_head_and_another_for_another_backbone() -> None:
    """The backbone is public: a trial's key draws the head alone."""
    learner = ls.HeadImages(ls.pool(ls.Digits(size=8)), steps=5)
    one = learner.prepare(Setting(PROBE, DOMAIN, 10, TRAINING), key=ls.Key(3), clock=Budget().start())
    same = learner.prepare(Setting(PROBE, DOMAIN, 10, TRAINING), key=ls.Key(3), clock=Budget().start())
    assert one.fingerprint == same.fingerprint
    pairs = [(one.state["decoder"][name], same.state["decoder"][name]) for name in one.state["decoder"]]
    assert all(torch.equal(value, again) for value, again in pairs)
    wider = dataclasses.replace(PROBE, backbone=ls.MLP((50,)))
    other = learner.prepare(Setting(wider, DOMAIN, 10, TRAINING), key=ls.Key(3), clock=Budget().start())
    assert other.fingerprint != one.fingerprint
    assert other.state["backbone"] != one.state["backbone"]
