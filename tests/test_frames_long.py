"""Speech that is too long for the first layer, found through the second: the true frames are the oracle."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import leakscope as ls
from leakscope.attacks.inputs.frames.long.growing import Piece, joined_parts
from leakscope.attacks.inputs.frames.long.hidden_span import HiddenSpan
from leakscope.attacks.inputs.frames.window.window_span import Span
from leakscope.cli.config import read
from leakscope.targets.looking.dense_stack import Dense

FEATURES, CONTEXT = 8, 3
LIMIT = (2 * CONTEXT + 1) * FEATURES + 1 - FEATURES


def model(hidden: int = 320, *, dropout: float = 0.0, clip: float = 20.0) -> ls.Target:
    sizes = ls.DeepSpeech(hidden, context=CONTEXT, coefficients=FEATURES, relu_clip=clip)
    family = dataclasses.replace(sizes, dropout=dropout, training=dropout > 0)
    return family.build(ls.Frames(FEATURES), 29, key=ls.Key(0))


@functools.cache
def speech() -> ls.Spoken:
    return ls.Spoken(speakers=2, each=4, shortest=1.6, longest=2.4)


def utterances(*seeds: int) -> ls.Batch:
    """The first coefficients of synthetic speech, 80 to 120 frames each."""
    rows = [speech().draw(1, key=ls.Key(seed)).reveal() for seed in seeds]
    frames, letters = (max(row.inputs.shape[1] for row in rows), max(row.labels.shape[1] for row in rows))
    pad = torch.nn.functional.pad
    return ls.Batch(
        torch.cat([pad(row.inputs[..., :FEATURES], (0, 0, 0, frames - row.inputs.shape[1])) for row in rows]),
        torch.cat([pad(row.labels, (0, letters - row.labels.shape[1])) for row in rows]),
        torch.tensor([row.inputs.shape[1] for row in rows]),
        torch.tensor([row.labels.shape[1] for row in rows]),
    )


def attacked(
    batch: ls.Batch, target: ls.Target, mechanism: ls.AbstractMechanism | None = None
) -> ls.Attempt[ls.Inputs]:
    seen = ls.observe(target, batch, mechanism or ls.FedSGD(), key=ls.Key(1))  # nothing is told
    return ls.LongFrames().run(seen, key=ls.Key(2))


def worst(claim: ls.Inputs, batch: ls.Batch) -> float:
    """The largest error of any coefficient, each private utterance against the nearest claimed one of its length."""
    assert batch.lengths is not None
    errors = []
    for frames, length in zip(batch.inputs, batch.lengths.tolist(), strict=True):
        fitting = [v[:length] for v, n in zip(claim.values, claim.lengths.tolist(), strict=True) if n == length]
        assert fitting, f"no utterance of {length} frames among {claim.lengths.tolist()}"
        errors.append(min(float((found - frames[:length]).abs().max()) for found in fitting))
    return max(errors)


@pytest.mark.parametrize(("seed", "clip"), [(0, 20.0), (1, 1.0), (2, 20.0)])
def test_every_frame_of_a_long_utterance_is_exact(seed: int, clip: float) -> None:
    batch = utterances(seed)
    assert batch.inputs.shape[1] > LIMIT
    seen = ls.observe(model(clip=clip), batch, ls.FedSGD(), key=ls.Key(1))
    easy = ls.WindowedFrames().run(seen, key=ls.Key(2))
    assert easy.outcome is ls.Outcome.REFUSED
    assert "LongFrames" in easy.sentence
    attempt = ls.LongFrames().run(seen, key=ls.Key(2))
    assert attempt.claim.lengths.tolist() == [batch.inputs.shape[1]]
    assert worst(attempt.claim, batch) < 1e-3
    assert attempt.certificate.holds


def test_two_utterances_that_are_too_long_together_come_apart() -> None:
    batch = utterances(0, 1)
    attempt = attacked(batch, model(480))
    assert sorted(attempt.claim.lengths.tolist()) == sorted(batch.lengths.tolist())
    assert worst(attempt.claim, batch) < 1e-3
    assert attempt.certificate.holds


def test_a_beginning_and_an_end_are_joined_where_they_overlap_or_meet() -> None:
    frames = np.arange(24.0).reshape(12, 2)
    begun, ended = Piece(frames[:8], True, False), Piece(frames[5:], False, True)
    np.testing.assert_array_equal(joined_parts([begun, ended], 12), frames)
    np.testing.assert_array_equal(joined_parts([begun, Piece(frames[8:], False, True)], 12), frames)
    assert joined_parts([begun, Piece(frames[9:], False, True)], 12) is None
    assert joined_parts([begun], 12) is None


def test_a_short_utterance_is_left_to_the_closed_form() -> None:
    whole = utterances(0)
    batch = ls.Batch(whole.inputs[:, 20:50], whole.labels[:, :4], torch.tensor([30]), torch.tensor([4]))
    attempt = attacked(batch, model())
    assert "closed form" in attempt.sentence
    assert attempt.attack == "LongFrames(window=None)"
    assert worst(attempt.claim, batch) < 1e-3


@pytest.mark.parametrize("frames", [5, 24])
def test_a_window_is_solved_for_by_either_basis_of_the_span(frames: int) -> None:
    """A span that holds one known window and random vectors: fewer or more of them than half of all dimensions."""
    random = np.random.default_rng(frames)
    layer = Dense(("w", "b"), 0.1 * random.standard_normal((10, 30)), 0.1 * random.standard_normal(30))
    scale = random.uniform(0.5, 2.0, 31)
    true = random.standard_normal(10)
    units = scale * np.append(np.maximum(true @ layer.weight + layer.bias, 0), 1.0)
    others = random.standard_normal((31, frames - 1))
    basis = np.linalg.qr(np.column_stack([units, others]), mode="complete")[0]
    problem = HiddenSpan(layer, np.inf, Span(scale, np.ones(30), basis, np.ones(30), frames, 1.0))
    start = true.copy()
    start[6:] += 0.1
    kept = start.copy()
    found = problem.descend(start, slice(6, 10))
    np.testing.assert_allclose(found.window, true, atol=1e-6)
    np.testing.assert_array_equal(start, kept)
    moved = scale * np.append(np.maximum(kept @ layer.weight + layer.bias, 0), 1.0)
    outside = basis[:, frames:].T @ moved
    expected = np.linalg.norm(outside) / np.linalg.norm(moved[:-1])
    np.testing.assert_allclose(problem.residuals(kept[None]), expected, rtol=1e-9)


@pytest.mark.parametrize(
    "defense", [ls.Sign(), ls.Quantize(8), ls.GaussianNoise(1e-3), ls.Prune(0.5)], ids=lambda one: type(one).__name__
)
def test_a_destroyed_span_is_never_certified(defense: ls.AbstractDefense) -> None:
    attempt = attacked(utterances(0), model(), ls.FedSGD() >> defense)
    assert attempt.certificate is None or not attempt.certificate.holds


def test_the_span_of_another_gradient_is_never_certified() -> None:
    """The gradient comes from other weights, or the second layer's is of random numbers."""
    batch, target, moved = utterances(0), model(), model()
    with torch.no_grad():
        weight = moved.module.get_parameter("layer_1.weight")
        weight += 0.01 * torch.randn(weight.shape, generator=ls.Key(0).generator()) * weight.std()
    seen = ls.observe(target, batch, ls.FedSGD(), key=ls.Key(1)).release.by_name
    elsewhere = ls.observe(moved, batch, ls.FedSGD(), key=ls.Key(1)).release.by_name
    first, second = (torch.randn(320, 110, generator=ls.Key(k).generator()) for k in (1, 2))
    for gradient in (elsewhere, dict(seen) | {"layer_2.weight": first @ second.T}):
        wrong = ls.Observation(target, ls.Gradient(dict(gradient)), ls.FedSGD())
        attempt = ls.LongFrames().run(wrong, key=ls.Key(2))
        assert attempt.certificate is None or not attempt.certificate.holds
        assert attempt.claim is None or attempt.claim.confidence.isnan().all()


@pytest.mark.parametrize(
    ("target", "mechanism", "reason"),
    [
        (model(dropout=0.2), ls.FedSGD(), "dropout"),
        (model(), ls.FedSGD() >> ls.Dropout(0.2), "drops units"),
        (model(), ls.FedAvg(steps=2, lr=1e-3), "moves the weights"),
        (model(64), ls.FedSGD(), "no clear gap"),
        (model(140), ls.FedSGD(), "not more than"),
    ],
    ids=["dropout", "Dropout", "FedAvg", "as many frames as units", "too few equations"],
)
def test_what_it_cannot_do_is_refused_with_the_reason(
    target: ls.Target, mechanism: ls.AbstractMechanism, reason: str
) -> None:
    attempt = attacked(utterances(0), target, mechanism)
    assert attempt.outcome is ls.Outcome.REFUSED
    assert reason in attempt.sentence


def test_a_release_without_the_second_layer_is_refused() -> None:
    seen = ls.observe(model(), utterances(0), ls.FedSGD(), key=ls.Key(1))
    part = {name: value for name, value in seen.release.by_name.items() if not name.startswith("layer_2")}
    short = ls.Observation(seen.target, ls.Gradient(part), seen.mechanism)
    assert "layer_2.weight" in ls.LongFrames().refusal(short).sentence
    images = ls.Target(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), ls.Images(1, 2, 2), 2)
    other = ls.observe(images, ls.Batch(torch.rand(1, 1, 2, 2), torch.tensor([0])), ls.FedSGD(), key=ls.Key(0))
    assert ls.LongFrames().refusal(other) is not None


def test_a_spent_budget_ends_it_without_a_claim() -> None:
    seen = ls.observe(model(), utterances(0), ls.FedSGD(), key=ls.Key(1))
    attempt = ls.LongFrames().run(seen, key=ls.Key(2), budget=ls.Budget(evaluations=30))
    assert attempt.outcome is ls.Outcome.DIVERGED
    assert attempt.cost.evaluations < 100


def test_a_budget_that_ends_after_one_of_two_utterances_leaves_the_claim_uncertified() -> None:
    batch, target = utterances(0, 1), model(480)
    seen = ls.observe(target, batch, ls.FedSGD(), key=ls.Key(1))
    whole = ls.LongFrames().run(seen, key=ls.Key(2)).cost.evaluations
    attempt = ls.LongFrames().run(seen, key=ls.Key(2), budget=ls.Budget(evaluations=whole * 3 // 4))
    assert len(attempt.claim.lengths) == 1
    assert attempt.claim.lengths[0] in batch.lengths
    assert not attempt.certificate.holds
    assert attempt.claim.confidence.isnan().all()


def test_the_plan_of_long_utterances_tries_it_where_the_first_layer_is_too_small() -> None:
    plan = read(Path(__file__).parents[1] / "plans" / "speech" / "long.toml")
    tried = {(repr(group.attack), group.scene.source.longest) for group in plan.groups()}
    assert {length for attack, length in tried if attack == repr(ls.LongFrames())} == {9.0, 15.0}
    assert not any("DirectSearch" in attack for attack, length in tried if length == 15.0)
