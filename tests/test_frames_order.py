"""Frames in the wrong order and frames that no search confirms: blocks put back, and claims shrunk to the prior."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import leakscope as ls
from leakscope.attacks.inputs.frames.probable.agreement import agreed
from leakscope.attacks.inputs.frames.probable.climbing import Problem, climb
from leakscope.attacks.inputs.frames.probable.frame_likelihood import _doubted
from leakscope.attacks.inputs.frames.probable.reordering import exchanges, reordered
from leakscope.attacks.inputs.frames.probable.terms import Term
from leakscope.targets.looking.context_window import context_window
from leakscope.targets.looking.dense_stack import dense_stack

FEATURES, FRAMES = 6, 24
TARGET = ls.DeepSpeech(128, context=3, coefficients=FEATURES).build(ls.Frames(FEATURES), 12, key=ls.Key(0))


def walks(count: int, length: int = FRAMES, seed: int = 1) -> ls.Batch:
    """Stationary recursions y_t = 0.8 y_(t-1) + e_t of unit variance, mean 1."""
    noise = torch.randn(count, length, FEATURES, generator=ls.Key(seed).child("walk").generator())
    frames = noise.clone()
    for t in range(1, length):
        frames[:, t] = 0.8 * frames[:, t - 1] + 0.6 * noise[:, t]
    lengths, label_lengths = torch.tensor([length] * count), torch.tensor([4] * count)
    return ls.Batch(frames + 1, torch.tensor([[1, 2, 3, 4]] * count), lengths, label_lengths)


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> ls.SpeechPrior:
    public = walks(200, 30, seed=9)
    file = tmp_path_factory.mktemp("prior") / "walks.safetensors"
    return ls.SpeechPrior.learn(public.inputs, public.lengths, file=file)


def observed(level: float) -> ls.Observation:
    """Noise of `level` times the root mean square of the first layer's gradient."""
    exact = ls.observe(TARGET, walks(1), ls.FedSGD(), key=ls.Key(1))
    root = float(exact.gradient().by_name["layer_1.weight"].square().mean().sqrt())
    return ls.observe(
        TARGET, walks(1), ls.FedSGD() >> ls.GaussianNoise(level * root), key=ls.Key(1), tell=[ls.Lengths((FRAMES,))]
    )


@given(count=st.integers(3, 60), offset=st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_exchanges_keep_every_frame_and_move_some(count: int, offset: int) -> None:
    found = exchanges(count, offset)
    assert found
    for order in found:
        assert sorted(order) == list(range(count))
        assert (order != np.arange(count)).any()
        assert (np.diff(order) != 1).sum() <= 3


def test_blocks_in_the_wrong_order_are_put_back(prior: ls.SpeechPrior) -> None:
    """Steps alone stay where they are: the frames are right, but for their places."""
    seen, window = observed(0.1), context_window(TARGET)
    gradient = seen.gradient().by_name
    terms = {}
    for place, name in enumerate(("layer_1", "layer_2", "layer_3")):
        matrix = np.vstack([gradient[f"{name}.weight"].double().numpy().T, gradient[f"{name}.bias"].double().numpy()])
        noise = seen.mechanism.defenses[0].std
        terms[place] = Term(matrix @ matrix.T / (matrix.shape[1] * noise**2), matrix.shape[1])
    problem = Problem(terms, dense_stack(TARGET, window), window, prior.chain(FEATURES), (FRAMES,))
    truth = walks(1).inputs[0].double().numpy()
    wrong = climb(problem, np.concatenate([truth[15:], truth[:15]]), steps=15, inner=40, ended=lambda _: False)
    shown = []
    found = reordered(problem, wrong, inner=40, ended=lambda one: bool(shown.append(one.value)))
    assert np.abs(wrong.frames - truth).mean() > 0.5
    assert np.abs(found.frames - truth).mean() < 0.15
    assert shown == sorted(shown, reverse=True)  # an interrupted search has the best one, not the last
    stopped = reordered(problem, wrong, inner=40, ended=lambda _: True)
    assert wrong.value >= stopped.value > found.value


def test_what_is_claimed_is_what_searches_have_in_common(prior: ls.SpeechPrior) -> None:
    chain = prior.chain(FEATURES)
    one, other = (chain.drawn(400, np.random.default_rng(seed)) for seed in (1, 2))
    half = np.concatenate([one[:200], other[200:]])
    frames, shares = agreed(one, [half], chain, width=40)
    assert shares[:180] == pytest.approx(1.0)
    assert shares[220:].mean() < 0.25
    np.testing.assert_allclose(frames[:180], one[:180])
    # the truth is one more draw: shrunk frames are no worse than the mean, those of the search are
    truth = chain.drawn(400, np.random.default_rng(3))
    errors = [float(((guess - truth) ** 2).mean()) for guess in (agreed(one, [other], chain, width=40)[0], one)]
    chance = float(((chain.mean - truth) ** 2).mean())
    assert errors[0] < 1.1 * chance < 0.7 * errors[1]
    assert agreed(np.tile(chain.mean, (5, 1)), [one[:5]], chain, width=3)[1] == pytest.approx(0.0)


def test_what_explains_nothing_and_no_search_confirms_is_no_better_than_the_prior(prior: ls.SpeechPrior) -> None:
    attack, seen = ls.FrameLikelihood(speech=prior), observed(0.01)
    scene = attack._scene(seen, attack._read(seen))
    truth = walks(1).inputs[0].double().numpy()
    one, other = (scene.problem.at(scene.problem.chain.drawn(FRAMES, np.random.default_rng(seed))) for seed in (1, 3))
    frames, said = _doubted(scene, one, [other], math.nan)
    assert "no better than the prior" in said
    errors = [float(np.abs(guess - truth).mean()) for guess in (frames, one.frames)]
    chance = float(np.abs(scene.problem.chain.mean - truth).mean())
    assert errors[0] < 1.05 * chance < 0.9 * errors[1]
    assert "confirms 100%" in _doubted(scene, one, [one], math.nan)[1]
    assert "no second search" in _doubted(scene, one, [], math.nan)[1]
    right = scene.problem.at(truth)
    for kept, share in ((right, math.nan), (one, 0.001)):  # explained under noise, or in the cells
        assert _doubted(scene, kept, [other], share) == (kept.frames, "")
