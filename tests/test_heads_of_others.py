"""Heads as others keep them: in halves, beside a backbone of 16 bits, of another training than was learned."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.test_heads_attacks import DIGITS, KEY, PROBE, SAMPLED, TRAINING, _few, prepared, seen

import leakscope as ls
from leakscope.attacks.attack import Attack
from leakscope.attacks.preparing import Setting
from leakscope.core.effort import Budget
from leakscope.core.mechanism import AbstractMechanism
from leakscope.targets.files.foreign import Foreign
from leakscope.targets.files.released_head import released_head

assert _few  # a fixture: few heads, no copies, a narrow decoder

POOL = DIGITS.pool()
MEMORY = dataclasses.replace(
    SAMPLED, training=dataclasses.replace(SAMPLED.training, optimizer=ls.ClientSGD(momentum=0.9))
)


def kept(honest: ls.Observation, dtype: torch.dtype) -> ls.Observation:
    release = ls.Weights({name: value.to(dtype) for name, value in honest.release.by_name.items()})
    return ls.Observation(honest.target, release, honest.mechanism, honest.facts)


def attacks(mechanism: AbstractMechanism) -> list[Attack]:
    learned = ls.HeadImages(POOL, steps=3), ls.HeadReconstructor(POOL, steps=2, width=4)
    closed = () if mechanism == SAMPLED else (ls.HeadFeatures(POOL),)
    return [*(prepared(one, mechanism) for one in learned), ls.HeadMembership(POOL, heads=64), *closed]


@pytest.mark.parametrize("mechanism", [TRAINING, SAMPLED], ids=["closed", "sampled"])
def test_a_head_in_halves_or_doubles_is_the_same_head(mechanism: AbstractMechanism) -> None:
    """It ended in "expected m1 and m2 to have the same dtype"."""
    honest = seen(mechanism)
    for attack in attacks(mechanism):
        plain = attack.run(honest, key=KEY)
        for dtype, near in ((torch.float64, 1e-6), (torch.float16, 0.1)):
            found = attack.run(kept(honest, dtype), key=KEY)
            assert found.claim is not None, found.sentence
            values = [one.claim.values.float() for one in (found, plain)]
            assert float((values[0] - values[1]).abs().mean()) <= near * float(values[1].abs().mean().clamp_min(1.0))


def test_what_was_learned_of_one_training_reads_no_heads_of_another() -> None:
    """Its pictures are anybody's, and it said "the example of each class" of them."""
    other = seen(dataclasses.replace(TRAINING, steps=8))
    for attack in attacks(TRAINING)[:2]:
        attempt = attack.run(other, key=KEY)
        assert attempt.outcome is ls.Outcome.REFUSED
        assert "has learned heads of HeadTraining(steps=32" in attempt.sentence
        assert attack.run(seen(), key=KEY).claim is not None


def test_steps_with_a_memory_and_noise_are_refused_by_all_who_learn() -> None:
    """One raised while it learned, and one was said to have diverged."""
    setting = Setting(PROBE, DIGITS.domain, DIGITS.classes, MEMORY)
    release = seen(MEMORY)
    for learner in (ls.HeadImages(POOL, steps=3), ls.HeadReconstructor(POOL, steps=2, width=4)):
        attack = learner.taught(learner.prepare(setting, key=KEY, clock=Budget().start()))
        assert "without momentum" in attack.run(release, key=KEY).sentence
    attempt = ls.HeadMembership(POOL, heads=64).run(release, key=KEY)
    assert attempt.outcome is ls.Outcome.REFUSED
    bare = ls.Weights({"head.weight": release.release.by_name["head.weight"]})
    lacking = ls.Observation(release.target, bare, SAMPLED, release.facts)
    assert ls.HeadMembership(POOL, heads=64).run(lacking, key=KEY).outcome is ls.Outcome.REFUSED


@pytest.mark.parametrize(
    ("changed", "tuned"),
    [
        (lambda value: value.half(), False),
        (lambda value: value.bfloat16(), False),
        (lambda value: value.double(), False),
        (lambda value: value.bfloat16() * 1.02, True),
        (lambda value: value + 1e-4, True),
        (lambda value: torch.where(value == value.max(), torch.nan, value), True),
        (lambda value: torch.full_like(value, torch.nan), True),
        (lambda value: torch.where(value == value.max(), torch.inf, value).half(), True),
        (lambda value: value.mul(100).long(), True),
    ],
    ids=["half", "bfloat16", "double", "scaled", "moved", "one no number", "no numbers", "infinite", "whole"],
)
def test_a_backbone_of_sixteen_bits_is_no_other_one_and_one_of_no_numbers_is(changed, tuned) -> None:
    """Rounded to half, it "was fine-tuned with the head"; no number was within every difference."""
    stream = ls.Key(1).generator()
    body = {"body.weight": torch.randn(8, 8, generator=stream), "body.small": 1e-6 * torch.randn(8, generator=stream)}
    head = {"fc.weight": torch.randn(3, 8, generator=stream), "fc.bias": torch.randn(3, generator=stream)}
    found = released_head(Foreign("f", {**body, **head, "body.weight": changed(body["body.weight"])}), body)
    assert (found.beside, found.tuned) == (2, ("body.weight",) if tuned else ())
    assert released_head(Foreign("f", {**head, **{n: v.half() for n, v in body.items()}}), body).tuned == ()
