"""Speech frames in closed form, on a small DeepSpeech with a real CTC loss: exact where the algebra says so."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.linalg import solve
from torch import nn

import leakscope as ls
from leakscope.attacks.inputs.frames.exact import recovery
from leakscope.attacks.inputs.frames.exact.unmixing import unmix
from leakscope.attacks.inputs.frames.window import null_space
from leakscope.numerics import banded
from leakscope.targets.looking.context_window import context_window

FEATURES, CONTEXT = 8, 4
WIDTH = (2 * CONTEXT + 1) * FEATURES
LIMIT = WIDTH + 1 - FEATURES
DOMAIN = ls.Frames(FEATURES)


def model(hidden: int = 160, *, dropout: float = 0.0, seed: int = 0) -> ls.Target:
    family = ls.DeepSpeech(hidden, context=CONTEXT, coefficients=FEATURES, dropout=dropout, training=dropout > 0)
    return family.build(DOMAIN, 29, key=ls.Key(seed))


def utterances(*lengths: int, seed: int = 0) -> ls.Batch:
    """Frames as a random walk, so that neighbors are alike; padded with zeros; a random transcript each."""
    generator = ls.Key(seed).child("walk").generator()
    frames = torch.zeros(len(lengths), max(lengths), FEATURES)
    for row, length in zip(frames, lengths, strict=True):
        row[:length] = 0.6 * torch.randn(length, FEATURES, generator=generator).cumsum(0) / length**0.25
    spoken = torch.tensor([max(1, length // 6) for length in lengths])
    labels = torch.zeros(len(lengths), int(spoken.max()), dtype=torch.int64)
    for row, count in zip(labels, spoken.tolist(), strict=True):
        row[:count] = torch.randint(28, (count,), generator=generator)
    return ls.Batch(frames, labels, torch.tensor(lengths), spoken)


def attacked(
    batch: ls.Batch, mechanism: ls.FedSGD | ls.FedAvg, target: ls.Target | None = None
) -> ls.Attempt[ls.Inputs]:
    seen = ls.observe(target or model(), batch, mechanism, key=ls.Key(1))  # nothing is told
    return ls.WindowedFrames().run(seen, key=ls.Key(2))


def worst(claim: ls.Inputs, batch: ls.Batch) -> float:
    """The largest mean absolute error of a private utterance to the nearest claimed one of its length."""
    errors = []
    for frames, length in zip(batch.inputs, batch.lengths.tolist(), strict=True):
        fitting = [v[:length] for v, n in zip(claim.values, claim.lengths.tolist(), strict=True) if n == length]
        assert fitting, f"no utterance of {length} frames among {claim.lengths.tolist()}"
        errors.append(min(float((found - frames[:length]).abs().mean()) for found in fitting))
    return max(errors)


@pytest.mark.parametrize("dropout", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("length", [12, 30, 50])
def test_frames_and_their_number_are_exact_through_dropout(length: int, dropout: float) -> None:
    batch = utterances(length, seed=length)
    attempt = attacked(batch, ls.FedSGD(), model(dropout=dropout))
    assert attempt.outcome is ls.Outcome.CLAIMED
    assert attempt.claim.lengths.tolist() == [length]
    assert worst(attempt.claim, batch) < 1e-4
    assert attempt.certificate.holds


def test_scale_and_sign_are_fixed_too() -> None:
    """The appended 1 makes the equations inhomogeneous: a louder or mirrored utterance is another solution."""
    batch = utterances(24)
    twice = ls.Batch(-2 * batch.inputs, batch.labels, batch.lengths, batch.label_lengths)
    assert worst(attacked(twice, ls.FedSGD()).claim, twice) < 1e-4


@pytest.mark.parametrize("lengths", [(20, 31), (9, 14, 18, 22)])
def test_a_batch_of_different_lengths_comes_apart(lengths: tuple[int, ...]) -> None:
    batch = utterances(*lengths)
    attempt = attacked(batch, ls.FedSGD(), model(hidden=320))
    assert sorted(attempt.claim.lengths.tolist()) == sorted(lengths)
    assert worst(attempt.claim, batch) < 1e-3


def test_two_of_the_same_length_are_unmixed_with_their_scale() -> None:
    batch = utterances(20, 20)
    attempt = attacked(batch, ls.FedSGD(), model(hidden=640))
    assert attempt.claim.lengths.tolist() == [20, 20]
    assert worst(attempt.claim, batch) < 1e-3


@pytest.mark.parametrize(("steps", "lr"), [(2, 1e-3), (8, 1e-4)])
def test_several_local_steps_from_rounded_weight_differences(steps: int, lr: float) -> None:
    """The update is a difference of float32 weights, and the weights move between the steps."""
    batch = utterances(20)
    assert worst(attacked(batch, ls.FedAvg(steps=steps, lr=lr)).claim, batch) < 5e-2


def test_beyond_the_limit_it_refuses_with_the_numbers() -> None:
    attempt = attacked(utterances(LIMIT + 6), ls.FedSGD(), model(hidden=320))
    assert attempt.outcome is ls.Outcome.REFUSED
    assert str(LIMIT) in attempt.sentence


@pytest.mark.parametrize("defense", [ls.Sign(), ls.Quantize(3), ls.GaussianNoise(1.0)], ids=repr)
def test_a_destroyed_span_is_never_certified(defense: ls.Sign) -> None:
    attempt = attacked(utterances(20), ls.FedSGD() >> defense)
    assert attempt.certificate is None or not attempt.certificate.holds


def test_units_that_were_never_active_do_not_look_like_a_rank() -> None:
    """Dead columns end the spectrum in a second drop; the first one is the number of frames."""
    target = model(hidden=WIDTH - 2)
    with torch.no_grad():
        target.module.get_parameter("layer_1.bias")[:9] = -1e3
    batch = utterances(30)
    attempt = attacked(batch, ls.FedSGD(), target)
    assert attempt.claim.lengths.tolist() == [30]
    assert worst(attempt.claim, batch) < 1e-3


@pytest.mark.parametrize("dead", [0, 1, 5])
@pytest.mark.parametrize("noise", [1e-6, 1e-5, 1e-4, 1e-3])
def test_noise_on_units_that_were_never_active_is_no_frame(noise: float, dead: int) -> None:
    """Brought to the size of the others, such a column was once counted as a frame: 0.8 MFCC at noise 1e-6."""
    target = model()
    with torch.no_grad():
        target.module.get_parameter("layer_1.bias")[:dead] = -1e3
    batch = utterances(30)
    exact = ls.observe(target, batch, ls.FedSGD(), key=ls.Key(1)).gradient().by_name["layer_1.weight"]
    attempt = attacked(batch, ls.FedSGD() >> ls.GaussianNoise(noise * float(exact.square().mean().sqrt())), target)
    assert attempt.claim.lengths.tolist() == [30]
    assert worst(attempt.claim, batch) < 20 * noise
    assert attempt.certificate.holds == (noise < 1e-4)
    assert ("an estimate" in attempt.sentence) == (noise >= 1e-4)


def test_where_the_wider_gap_is_wrong_the_other_one_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    spans = recovery.spans_of
    swapped = lambda matrix: spans(matrix)[::-1]  # noqa: E731
    target = model()
    with torch.no_grad():
        target.module.get_parameter("layer_1.bias")[:3] = -1e3
    batch = utterances(30)
    monkeypatch.setattr(recovery, "spans_of", swapped)
    attempt = attacked(batch, ls.FedSGD() >> ls.GaussianNoise(1e-7), target)
    assert attempt.certificate.holds
    assert worst(attempt.claim, batch) < 1e-3


def test_the_banded_system_against_a_dense_one() -> None:
    """A second route: the same normal equations, assembled without bands and solved by scipy."""
    batch = utterances(15)
    target = model()
    seen = ls.observe(target, batch, ls.FedSGD(), key=ls.Key(1))
    gradient = seen.gradient().by_name
    stacked = np.vstack(
        [gradient["layer_1.weight"].double().numpy().T, gradient["layer_1.bias"].double().numpy()[None]]
    )
    left, values, _ = np.linalg.svd(stacked)
    assert int((values > 1e-6 * values[0]).sum()) == 15
    span = left[:, :15]
    outside = np.eye(WIDTH + 1) - span @ span.T
    rows = []
    for t in range(15):
        window = np.zeros((WIDTH, 15 * FEATURES))
        for place in range(2 * CONTEXT + 1):
            frame = t + place - CONTEXT
            if 0 <= frame < 15:
                block = slice(place * FEATURES, (place + 1) * FEATURES)
                window[block, frame * FEATURES : (frame + 1) * FEATURES] = np.eye(FEATURES)
        rows.append((outside[:, :WIDTH] @ window, -outside[:, WIDTH]))
    matrix, right = np.vstack([a for a, _ in rows]), np.concatenate([b for _, b in rows])
    dense = solve(matrix.T @ matrix, matrix.T @ right, assume_a="pos").reshape(15, FEATURES)
    found = ls.WindowedFrames().run(seen, key=ls.Key(0)).claim.values[0].numpy()
    np.testing.assert_allclose(found, dense, atol=1e-3)
    np.testing.assert_allclose(dense, batch.inputs[0].numpy(), atol=1e-3)


def test_the_layer_is_found_by_running_the_model() -> None:
    window = context_window(model())
    assert (window.weight, window.features, window.left, window.right) == ("layer_1.weight", FEATURES, CONTEXT, CONTEXT)
    plain = ls.Target(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), ls.Images(1, 2, 2), 2)
    seen = ls.observe(plain, ls.Batch(torch.rand(1, 1, 2, 2), torch.tensor([0])), ls.FedSGD(), key=ls.Key(0))
    assert ls.WindowedFrames().refusal(seen) is not None


def test_a_span_that_is_singular_at_every_length_needs_no_matrix_of_the_whole_utterance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows rounded to zero: each length was once an eigenvalue problem of its own size, which took hours."""
    form = np.diag((np.arange(15) % 3 == 0).astype(float))
    whole, sizes = banded.dense, []
    monkeypatch.setattr(banded, "dense", lambda band: (sizes.append(band.shape[1]), whole(band))[1])
    found = null_space._smallest(form, 8, left=2, features=3)
    assert max(sizes) <= 2 * 2 * 3
    for count, values in enumerate(found, start=1):
        matrix = whole(banded.assemble(form, np.ones(count), left=2, features=3))
        np.testing.assert_allclose(values[:2], np.linalg.eigvalsh(matrix)[:2], atol=1e-8)


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.GELU()], ids=["tanh", "gelu"])
def test_mixtures_of_equal_lengths_are_not_proved_where_no_unit_is_at_rest(activation: nn.Module) -> None:
    """Mixtures with weights that sum to 1 leave the same residuals; only units at rest tell utterances from them."""
    made = model(640)
    module = copy.deepcopy(made.module).double()
    module.activation = activation
    batch = utterances(20, 20)
    wide = batch.with_inputs(batch.inputs.double())
    seen = ls.observe(ls.Target(module, DOMAIN, 29, loss=made.loss), wide, ls.FedSGD(), key=ls.Key(1))
    attempt = ls.WindowedFrames().run(seen, key=ls.Key(2))
    proved = attempt.certificate is not None and attempt.certificate.holds
    assert not proved or worst(attempt.claim, wide) < 1e-6
    if attempt.claim is not None and attempt.claim.lengths.tolist() == [20, 20]:
        assert "may be mixtures of each other" in attempt.sentence


def test_directions_that_repeat_by_chance_are_not_at_rest_and_strays_are_refused() -> None:
    """Dense random errors: no direction is an utterance. Sparse ones: each utterance is alone at a quarter of units."""
    dense = ls.Key(0).numpy().standard_normal((2, 40_000))
    found = unmix(dense)
    assert found is None or not found.at_rest
    assert unmix(ls.Key(1).numpy().standard_normal((3, 20_000))) is None
    sparse = dense * (ls.Key(2).numpy().random(dense.shape) < 0.5)
    apart = unmix(np.array([[1.0, 0.4], [0.3, 1.0]]) @ sparse)
    assert apart is not None
    assert apart.at_rest
