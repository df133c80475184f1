"""Entries known up to an interval: truncated normals by quadrature, edges that hold the truth, and what it gains."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm, truncnorm

import leakscope as ls
from leakscope.attacks.inputs.frames.probable.rounding import Cells, Imputed, cells, imputed
from leakscope.targets.looking.context_window import context_window
from leakscope.targets.looking.dense_stack import dense_stack

FEATURES, FRAMES = 6, 20
TARGET = ls.DeepSpeech(96, context=3, coefficients=FEATURES).build(ls.Frames(FEATURES), 12, key=ls.Key(0))


def walks(count: int, length: int = FRAMES, seed: int = 1) -> ls.Batch:
    """Stationary recursions y_t = 0.8 y_(t-1) + e_t of unit variance, mean 1."""
    noise = torch.randn(count, length, FEATURES, generator=ls.Key(seed).child("walk").generator())
    frames = noise.clone()
    for t in range(1, length):
        frames[:, t] = 0.8 * frames[:, t - 1] + 0.6 * noise[:, t]
    lengths, label_lengths = torch.tensor([length] * count), torch.tensor([4] * count)
    return ls.Batch(frames + 1, torch.tensor([[1, 2, 3, 4]] * count), lengths, label_lengths)


def observed(mechanism: ls.AbstractMechanism) -> ls.Observation:
    return ls.observe(TARGET, walks(1), mechanism, key=ls.Key(1), tell=[ls.Lengths((FRAMES,))])


def found(seen: ls.Observation) -> list[Cells] | None:
    window = context_window(TARGET)
    return cells(seen, window, dense_stack(TARGET, window))


def exact() -> list[np.ndarray]:
    gradient = observed(ls.FedSGD()).gradient().by_name
    names = ("layer_1", "layer_2", "layer_3")
    pairs = [
        (gradient[f"{name}.weight"].double().numpy().T, gradient[f"{name}.bias"].double().numpy()) for name in names
    ]
    return [np.vstack(pair) for pair in pairs]


@given(
    low=st.floats(-6, 6),
    width=st.floats(1e-4, 12),
    mean=st.floats(-3, 3),
    noise=st.floats(0.2, 4),
)
@settings(max_examples=80, deadline=None)
def test_conditional_moments_are_those_of_quadrature(low: float, width: float, mean: float, noise: float) -> None:
    high = low + width
    value, variance = Cells(np.array([[low]]), np.array([[high]])).conditional(np.array([[mean]]), noise)
    # the density is scaled by its largest value, so that nothing underflows
    top = norm.logpdf(np.clip(mean, low, high), mean, noise)
    moments = [
        quad(lambda x, n=n: (x - low) ** n * math.exp(norm.logpdf(x, mean, noise) - top), low, high, epsabs=0)[0]
        for n in (0, 1, 2)
    ]
    expected = moments[1] / moments[0]
    assert value[0, 0] == pytest.approx(low + expected, abs=1e-4 * width)
    assert variance[0, 0] == pytest.approx(moments[2] / moments[0] - expected**2, rel=1e-2, abs=1e-9)


def test_far_tails_and_known_entries() -> None:
    far = Cells(np.array([[50.0, -1e3, 2.0]]), np.array([[1e3, -40.0, 2.0]]))
    values, variances = far.conditional(np.zeros((1, 3)), 1.0)
    assert values[0] == pytest.approx([truncnorm.mean(50, np.inf), -truncnorm.mean(40, np.inf), 2.0], rel=1e-6)
    assert (variances >= 0).all()
    assert variances[0, 2] == 0


DEFENSES = [ls.Prune(0.2), ls.Prune(0.2, whole=True), ls.Quantize(4), ls.Quantize(2)]


@pytest.mark.parametrize("defense", DEFENSES)
@pytest.mark.parametrize("protocol", [ls.FedSGD(), ls.FedAvg(1, lr=0.5)])
def test_cells_hold_what_was_not_sent(defense: ls.AbstractUpdateDefense, protocol: ls.AbstractMechanism) -> None:
    """Also where the release is minus lr times the gradient."""
    where = found(observed(protocol >> defense))
    assert where is not None
    inside, known = [], []
    for cell, truth in zip(where, exact(), strict=False):
        slack = 1e-5 * np.abs(truth).max()
        inside.append((cell.low - slack <= truth) & (truth <= cell.high + slack))
        known.append(cell.high - cell.low < slack)
    assert all(one.all() for one in inside)
    share = float(np.mean(np.concatenate([one.ravel() for one in known])))
    assert share == 0 if isinstance(defense, ls.Quantize) else 0.05 < share < 0.35


def test_what_leaves_no_cells_is_told() -> None:
    assert found(observed(ls.FedSGD())) is None
    for defense in (ls.Sign(), ls.Quantize(4, stochastic=True), ls.RandomDrop(0.5)):
        assert found(observed(ls.FedSGD() >> defense)) is None
    assert found(observed(ls.FedSGD() >> ls.Prune(0.5) >> ls.Quantize(8))) is None
    assert found(observed(ls.FedSGD() >> ls.Prune(0.5) >> ls.GaussianNoise(0.1))) is None
    assert found(observed(ls.FedSGD() >> ls.GaussianNoise(0.1) >> ls.Prune(0.5))) is not None


def test_imputation_at_the_true_inputs_undoes_most_of_the_pruning() -> None:
    random = np.random.default_rng(0)
    inputs = random.standard_normal((5, 30))
    truth = inputs.T @ random.standard_normal((5, 200))
    edge = np.quantile(np.abs(truth), 0.7)
    kept = np.abs(truth) >= edge
    where = Cells(np.where(kept, truth, -edge), np.where(kept, truth, edge))
    sent = np.where(kept, truth, 0.0)
    now = Imputed(sent, np.zeros_like(sent), 0.3 * edge)
    for _ in range(5):
        now = imputed(where, now, inputs)
    assert np.linalg.norm(now.matrix - truth) < 0.3 * np.linalg.norm(sent - truth)
    assert (now.matrix[kept] == truth[kept]).all()


def test_a_pruned_update_is_recovered_where_noise_of_one_size_is_not_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = walks(200, 30, seed=9)
    attack = ls.FrameLikelihood(
        speech=ls.SpeechPrior.learn(public.inputs, public.lengths, file=tmp_path / "walks.safetensors"), steps=15
    )
    seen = observed(ls.FedSGD() >> ls.Prune(0.5))
    with_cells = attack.run(seen, key=ls.Key(0))
    assert "cells" in with_cells.steps[-1]
    monkeypatch.setattr("leakscope.attacks.inputs.frames.probable.frame_likelihood.cells", lambda *_: None)
    without = attack.run(seen, key=ls.Key(0))
    errors = [float((one.claim.values - walks(1).inputs).abs().mean()) for one in (with_cells, without)]
    assert errors[0] < 0.1 * errors[1] < 0.1
