"""Speech frames as the most probable ones under noise: slopes, prior and counts by second routes, and what it gains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

import leakscope as ls
from leakscope.attacks.inputs.frames.probable.climbing import Problem, _System
from leakscope.attacks.inputs.frames.probable.frame_count import counted, remaining_noise
from leakscope.attacks.inputs.frames.probable.rehearsal import rehearsed
from leakscope.attacks.inputs.frames.probable.terms import Term
from leakscope.targets.looking.context_window import context_window
from leakscope.targets.looking.dense_stack import dense_stack

FEATURES, CONTEXT, FRAMES = 6, 3, 20
RANDOM = np.random.default_rng(3)


def model(hidden: int = 96, *, dropout: float = 0.0) -> ls.Target:
    family = ls.DeepSpeech(hidden, context=CONTEXT, coefficients=FEATURES, dropout=dropout, training=dropout > 0)
    return family.build(ls.Frames(FEATURES), 12, key=ls.Key(0))


def walks(count: int, length: int = FRAMES, seed: int = 0) -> ls.Batch:
    """Stationary recursions y_t = 0.8 y_(t-1) + e_t of unit variance, each coefficient for itself, mean 1."""
    noise = torch.randn(count, length, FEATURES, generator=ls.Key(seed).child("walk").generator())
    frames = noise.clone()
    for t in range(1, length):
        frames[:, t] = 0.8 * frames[:, t - 1] + 0.6 * noise[:, t]
    labels = torch.tensor([[1, 2, 3, 4]] * count)
    return ls.Batch(frames + 1, labels, torch.tensor([length] * count), torch.tensor([4] * count))


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> ls.SpeechPrior:
    public = walks(200, 30, seed=9)
    file = tmp_path_factory.mktemp("prior") / "walks.safetensors"
    return ls.SpeechPrior.learn(public.inputs, public.lengths, file=file)


def observed(
    mechanism: ls.FedSGD, *, told: bool = True, seed: int = 0, target: ls.Target | None = None
) -> ls.Observation:
    facts = [ls.Lengths((FRAMES,))] if told else []
    return ls.observe(target or model(), walks(1, seed=seed), mechanism, key=ls.Key(1), tell=facts)


def error(attempt: ls.Attempt[ls.Inputs], seed: int = 0) -> float:
    return float((attempt.claim.values - walks(1, seed=seed).inputs).abs().mean())


def likelihood(term: Term, inputs: np.ndarray, root: np.ndarray) -> float:
    """H / 2 (log det C + tr C^-1 S) with everything dense, less its value without signal."""
    covariance = np.eye(len(term.gram)) + inputs.T @ root @ root.T @ inputs
    inside = np.trace(np.linalg.solve(covariance, term.gram)) - np.trace(term.gram)
    return 0.5 * term.columns * float(np.linalg.slogdet(covariance)[1] + inside)


def some_term(root: np.ndarray | None = None) -> tuple[Term, np.ndarray]:
    inputs = RANDOM.standard_normal((5, 12))
    matrix = inputs.T @ RANDOM.standard_normal((5, 40)) + RANDOM.standard_normal((12, 40))
    return Term(matrix @ matrix.T / 40, 40, root), inputs


def test_the_likelihood_is_that_of_the_dense_covariance() -> None:
    root = RANDOM.standard_normal((5, 5))
    term, inputs = some_term(root)
    assert term.at(inputs).value == pytest.approx(likelihood(term, inputs, root))


def test_the_most_probable_covariance_is_beaten_by_none() -> None:
    term, inputs = some_term()
    fit = term.at(inputs)
    # G X = root sqrt(signal) axes^T gives G back, because X has full rank
    inverse = np.linalg.pinv(inputs)
    best = (fit.root * np.sqrt(fit.signal)) @ fit.axes.T @ inverse
    values, axes = np.linalg.eigh((best + best.T) / 2)
    root = axes * np.sqrt(np.maximum(values, 0))
    assert fit.value == pytest.approx(likelihood(term, inputs, root))
    for size in (1e-3, 0.1, 1.0):
        other = root + size * RANDOM.standard_normal(root.shape)
        assert likelihood(term, inputs, other) > fit.value


@pytest.mark.parametrize("fixed", [False, True])
def test_slopes_are_those_of_the_value_through_all_layers(fixed: bool, prior: ls.SpeechPrior) -> None:
    target = model(40)
    window = context_window(target)
    stack = dense_stack(target, window)
    roots = rehearsed(target, stack, prior.chain(FEATURES), (7, 5), key=ls.Key(0), times=1)
    terms = {}
    for place, size in enumerate((window.dimension, 40, 40)):
        matrix = RANDOM.standard_normal((size + 1, 30)) * 3
        terms[place] = Term(matrix @ matrix.T / 30, 30, 1e3 * roots[place] if fixed else None)
    problem = Problem(terms, stack, window, prior.chain(FEATURES), (7, 5))
    frames = 1 + RANDOM.standard_normal((12, FEATURES))
    slope = _System(problem, problem.at(frames), 0.0).slope
    for _ in range(3):
        way = RANDOM.standard_normal(frames.shape)
        ahead, behind = (problem.at(frames + sign * 1e-5 * way).value for sign in (1, -1))
        assert float((slope * way).sum()) == pytest.approx((ahead - behind) / 2e-5, rel=1e-3, abs=1e-3)


def test_the_prior_is_the_stationary_normal_density(prior: ls.SpeechPrior) -> None:
    """Differences of penalties are differences of -log p under the covariance that many draws have."""
    chain = prior.chain(FEATURES)
    bands = chain.precision(4)
    dense = np.zeros((4 * FEATURES, 4 * FEATURES))
    for lag, band in enumerate(bands):
        for t, weights in enumerate(band):
            block = (chain.axes * weights) @ chain.axes.T
            dense[(t + lag) * FEATURES : (t + lag + 1) * FEATURES, t * FEATURES : (t + 1) * FEATURES] = block
            dense[t * FEATURES : (t + 1) * FEATURES, (t + lag) * FEATURES : (t + lag + 1) * FEATURES] = block.T
    law = multivariate_normal(np.tile(chain.mean, 4), np.linalg.inv(dense))
    penalty = prior.penalty(observed(ls.FedSGD()))
    first, second = (torch.randn(1, 4, FEATURES, generator=ls.Key(k).generator()).double() for k in (0, 1))
    expected = law.logpdf(second.numpy().ravel()) - law.logpdf(first.numpy().ravel())
    assert float(penalty(first) - penalty(second)) == pytest.approx(expected)
    drawn = np.stack([chain.drawn(4, np.random.default_rng(k)).ravel() for k in range(3000)])
    np.testing.assert_allclose(np.cov(drawn.T), np.linalg.inv(dense), atol=0.12)
    assert prior.chain(FEATURES).rest[0].sum() == pytest.approx(FEATURES, rel=0.1)  # unit variances
    looser = ls.SpeechPrior(prior.file, spread=2.0).penalty(observed(ls.FedSGD()))
    assert float(looser(first)) == pytest.approx(float(penalty(first)) / 4)


def test_the_prior_of_the_package_is_that_of_speech_and_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    chain = ls.SpeechPrior().chain(26)
    assert -15 < chain.mean[0] < 0
    assert (chain.rest[2] < chain.rest[0]).all()  # frames say something of the next
    with pytest.raises(ls.BadInput, match="26 coefficients, asked for 27"):
        ls.SpeechPrior().chain(27)
    with pytest.raises(ls.BadInput, match="learn"):
        ls.SpeechPrior(str(tmp_path / "none")).chain(26)
    with pytest.raises(ls.BadInput, match="spread"):
        ls.SpeechPrior(spread=0.0)


def test_the_stack_is_what_the_client_runs() -> None:
    target = model()
    stack = dense_stack(target, context_window(target))
    assert [layer.names[0] for layer in stack.layers] == ["layer_1.weight", "layer_2.weight", "layer_3.weight"]
    assert stack.clip == 20.0
    dropping = model(dropout=0.3)
    assert len(dense_stack(dropping, context_window(dropping)).layers) == 1  # which units are dropped is not known


def test_frames_are_counted_above_the_edge_of_noise() -> None:
    noise = RANDOM.standard_normal((60, 200))
    signal = RANDOM.standard_normal((60, 7)) @ RANDOM.standard_normal((7, 200))
    assert counted(0.3 * noise, 0.3).frames == 0
    assert (counted(signal + 0.3 * noise, 0.3).frames, counted(signal + 0.3 * noise, 0.3).surely) == (7, True)
    assert remaining_noise(signal + 0.3 * noise, 7) == pytest.approx(0.3, rel=0.02)
    falling = np.diag(0.7 ** np.arange(60)) @ RANDOM.standard_normal((60, 200))
    hidden = counted(falling + 0.01 * noise, 0.01)
    assert 5 < hidden.frames < 60
    assert not hidden.surely


@pytest.mark.parametrize("seed", [0, 1])
def test_under_noise_it_is_far_better_than_the_closed_form(seed: int, prior: ls.SpeechPrior) -> None:
    root = float(observed(ls.FedSGD(), seed=seed).gradient().by_name["layer_1.weight"].square().mean().sqrt())
    seen = observed(ls.FedSGD() >> ls.GaussianNoise(0.01 * root), seed=seed)
    found = ls.FrameLikelihood(speech=prior).run(seen, key=ls.Key(0))
    assert found.certificate is None
    assert bool(torch.isnan(found.claim.confidence).all())
    assert "which is noise" in found.sentence
    assert error(found, seed) < 0.05
    alone = ls.FrameLikelihood(speech=prior, depth=1).run(seen, key=ls.Key(0))
    closed = ls.WindowedFrames().run(seen, key=ls.Key(0))
    assert error(found, seed) < 0.7 * error(alone, seed)
    same = closed.claim is not None and closed.claim.lengths.tolist() == [FRAMES]
    assert not same or error(alone, seed) < 0.5 * error(closed, seed)


def test_from_coarse_to_fine_finds_what_the_linear_start_does_not(prior: ls.SpeechPrior) -> None:
    root = float(observed(ls.FedSGD()).gradient().by_name["layer_1.weight"].square().mean().sqrt())
    seen = observed(ls.FedSGD() >> ls.GaussianNoise(0.3 * root), target=model(192))
    found = ls.FrameLikelihood(speech=prior, steps=15).run(seen, key=ls.Key(0))
    chance = float((walks(1).inputs - 1).abs().mean())
    assert error(found) < 0.6 * chance


def test_without_noise_it_is_exact_and_counts_the_frames_itself() -> None:
    found = ls.FrameLikelihood().run(observed(ls.FedSGD(), told=False), key=ls.Key(0))
    assert found.claim.lengths.tolist() == [FRAMES]
    assert error(found) < 1e-4


def test_what_cannot_be_counted_is_refused_and_what_is_told_is_used(prior: ls.SpeechPrior) -> None:
    attack = ls.FrameLikelihood(speech=prior, steps=2)
    attempt = attack.run(observed(ls.FedSGD() >> ls.Sign(), told=False), key=ls.Key(0))
    assert attempt.outcome is ls.Outcome.REFUSED
    assert "Lengths" in attempt.sentence
    told = attack.run(observed(ls.FedSGD() >> ls.Prune(0.3)), key=ls.Key(0), budget=ls.Budget(evaluations=3))
    assert told.cost.evaluations <= 4
    assert "as told" in told.sentence


def test_two_utterances_of_told_lengths(prior: ls.SpeechPrior) -> None:
    batch = walks(2, 12)
    seen = ls.observe(model(), batch, ls.FedSGD(), key=ls.Key(1), tell=[ls.Lengths((12, 12))])
    found = ls.FrameLikelihood(speech=prior, depth=2).run(seen, key=ls.Key(0))
    assert found.claim.values.shape == batch.inputs.shape


@pytest.mark.parametrize("field", ["depth", "steps"])
def test_settings_are_checked(field: str) -> None:
    with pytest.raises(ls.BadInput, match=field):
        ls.FrameLikelihood(**{field: 0})


def test_a_prior_that_is_learned_anew_in_the_same_file_is_the_new_one(tmp_path: Path) -> None:
    file = tmp_path / "walks.safetensors"
    frames = torch.randn(4, 30, 3, generator=ls.Key(0).generator())
    lengths = torch.tensor([30, 28, 26, 30])
    first = ls.SpeechPrior.learn(frames, lengths, file=file).chain(3)
    again = ls.SpeechPrior.learn(frames + 5, lengths, file=file).chain(3)
    np.testing.assert_allclose(again.mean, first.mean + 5, atol=1e-5)
