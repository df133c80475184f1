"""Features from released heads: the algebra by dense matrices, the recovery on features whose law is known."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import leakscope as ls
from leakscope.attacks.inputs.heads import inversion
from leakscope.attacks.inputs.heads.inversion import explained, fitted, floored, held, invert
from leakscope.attacks.inputs.heads.prior import FeaturePrior
from leakscope.mechanisms.heads.together import coefficients, first, train

CLASSES, WIDE, MANY = 5, 40, 30
TRAINING = ls.HeadTraining(24, 0.02, 0.002, optimizer=ls.ClientSGD(weight_decay=1e-3))
LABELS = torch.arange(CLASSES)


def drawn(count, seed=0, classes=CLASSES, wide=WIDE):
    """`count` features of each class (count, C, d): correlated normal numbers around a class mean, floored at zero."""
    shape = ls.Key(7).child("shape").generator()
    means, mix = torch.randn(classes, wide, generator=shape), torch.randn(wide, wide, generator=shape) / wide**0.5
    return (means + torch.randn(count, classes, wide, generator=ls.Key(seed).generator()) @ mix).relu()


def prior(count=400):
    return FeaturePrior.of(drawn(count, 1).flatten(0, 1), LABELS.repeat(count), CLASSES)


def released(features, training=TRAINING):
    start = first(training, (WIDE, CLASSES), len(features), key=ls.Key(3))
    return train(training, features, LABELS.expand(len(features), -1), start).weights[0]


def share(found, true, prior):
    """Of the variance within classes, how much is explained."""
    return float(1 - (found - true).square().sum() / (true - prior.means).square().sum())


def test_the_prior_is_that_of_counting_by_hand():
    features, labels = drawn(20).flatten(0, 1), LABELS.repeat(20)
    got = FeaturePrior.of(features, labels, CLASSES)
    own = [features[labels == c] for c in range(CLASSES)]
    assert torch.allclose(got.means, torch.stack([one.mean(0) for one in own]), atol=1e-6)
    covariance = sum(19 * torch.cov(one.T) for one in own) / (100 - CLASSES)
    assert torch.allclose(got.axes @ torch.diag(got.variances) @ got.axes.T, covariance, atol=1e-5)
    assert torch.allclose(got.zeros, torch.stack([(one == 0).float().mean(0) for one in own]), atol=1e-6)
    assert torch.equal(got.mean_of(4).variances, got.variances / 4)
    assert torch.equal(got.mean_of(2).zeros, got.zeros.square())


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, 0, 1, 1, 1, 1], "examples of each"),
        ([0, 1, 2, 3, 0, 1], "no others"),
        ([0, 1, 2, 0], "4 examples, expected at least 5"),
    ],
)
def test_a_pool_that_lacks_a_class_has_others_or_is_tiny_is_no_prior(labels, said):
    with pytest.raises(ls.BadInput, match=said):
        FeaturePrior.of(torch.rand(len(labels), 4), torch.tensor(labels), 3)


def test_features_that_do_not_differ_are_no_prior():
    with pytest.raises(ls.BadInput, match="the same"):
        FeaturePrior.of(torch.ones(9, 4), torch.arange(3).repeat(3), 3)


@given(st.integers(2, 5), st.integers(2, 6), st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_posterior_and_likelihood_are_those_of_one_large_normal_vector(classes, wide, seed):
    """vec W is linear in vec X plus noise: both by the dense covariance of all C d numbers, in float64."""
    stream = ls.Key(seed).generator()
    pool = torch.randn(40, wide, generator=stream, dtype=torch.float64)
    at = FeaturePrior.of(pool, torch.arange(40) % classes, classes)
    features = torch.randn(1, classes, wide, generator=stream, dtype=torch.float64)
    weights = torch.randn(1, classes, wide, generator=stream, dtype=torch.float64) * 0.1
    first_weights = torch.randn(classes, wide, generator=stream, dtype=torch.float64) * 0.1
    bias = torch.randn(classes, generator=stream, dtype=torch.float64)
    training, zeros = ls.HeadTraining(3, 0.3, 0.05), torch.zeros(1, classes, dtype=torch.float64)
    fit = explained(weights, features, zeros, at, training, (first_weights, bias))
    hot = torch.eye(classes, dtype=torch.float64)[None]
    kernel = features @ features.transpose(1, 2) + 1
    kept, pulled = coefficients(training, kernel, features @ first_weights.T + bias, hot)
    covariance = (at.axes * at.variances) @ at.axes.T
    inside = torch.kron(torch.eye(classes, dtype=torch.float64), covariance)
    turn = torch.kron(pulled[0].T.contiguous(), torch.eye(wide, dtype=torch.float64))
    whole = turn @ inside @ turn.T + fit.noise**2 * torch.eye(classes * wide, dtype=torch.float64)
    middle = (kept * first_weights).flatten() + turn @ at.means.flatten()
    wanted = torch.distributions.MultivariateNormal(middle, whole).log_prob(weights.flatten())
    constant = -0.5 * classes * wide * torch.tensor(2 * torch.pi, dtype=torch.float64).log()
    assert torch.allclose(fit.likelihood()[0] + constant, wanted, rtol=1e-6)
    gain = inside @ turn.T @ torch.linalg.inv(whole)
    mean, spread = fit.features(at)
    assert torch.allclose(mean.flatten(), at.means.flatten() + gain @ (weights.flatten() - middle), atol=1e-6)
    left_over = torch.diagonal(inside - gain @ turn @ inside).reshape(classes, wide).sum(1)
    assert torch.allclose(spread[0], left_over, atol=1e-6)


@pytest.mark.parametrize("optimizer", [ls.ClientSGD(), ls.ClientSGD(momentum=0.8, nesterov=True, weight_decay=0.01)])
def test_coefficients_and_examples_make_the_weights_that_are_released(optimizer):
    """Against the mechanism's own release, which trains a module with torch's optimizer."""
    training = ls.HeadTraining(7, 0.05, last_lr=0.01, optimizer=optimizer)
    target = ls.Linear().build(ls.Images(1, 4, 5), 3, key=ls.Key(0))
    inputs = torch.rand(3, 1, 4, 5, generator=ls.Key(1).generator())
    sent = ls.observe(target, ls.Batch(inputs, torch.arange(3)), training, key=ls.Key(2)).release.by_name
    weight, bias = target.parameters().values()
    x = inputs.flatten(1)
    kept, pulled = coefficients(training, (x @ x.T + 1)[None], (x @ weight.T + bias)[None], torch.eye(3)[None])
    got = (kept * weight + pulled[0].T @ x, kept * bias + pulled[0].sum(0))
    for one, wanted in zip(got, sent.values(), strict=True):
        assert torch.allclose(one, wanted, atol=1e-6)


def test_only_sgd_has_coefficients():
    training = ls.HeadTraining(2, 0.1, optimizer=ls.ClientAdam())
    with pytest.raises(ls.BadInput, match="ClientSGD"):
        coefficients(training, torch.ones(1, 2, 2), torch.zeros(1, 2, 2), torch.eye(2)[None])


def test_features_are_recovered_from_heads():
    true, at = drawn(MANY, 2), prior()
    weights = released(true)
    assert share(invert(weights, at, TRAINING), true, at) > 0.93
    # one line: each row over the slope that the class means explain
    centered = at.means - at.means.mean(0)
    slope = (weights * centered).sum() / centered.square().sum() / MANY
    simple = share(at.means + (weights / slope - centered), true, at)
    assert simple < 0.8


def test_the_floor_finds_the_direction_that_no_weight_holds():
    true, at = drawn(MANY, 2), prior()
    weights = released(true)
    without, within = (invert(weights, at, TRAINING, floor=one) for one in (False, True))
    assert float(within.min()) >= 0 > float(without.min())
    middle = (true - within).mean(1).square().sum() / (true - without).mean(1).square().sum()
    assert float(middle) < 0.3


def test_known_first_weights_leave_hardly_any_error():
    """Beside the floor's: along the other directions there is no noise."""
    training = dataclasses.replace(TRAINING, init_std=None)
    true, at = drawn(MANY, 2), prior()
    start = first(TRAINING, (WIDE, CLASSES), 1, key=ls.Key(3))
    both = dataclasses.replace(
        start, weights=(start.weights[0].expand(MANY, -1, -1),), biases=(start.biases[0].expand(MANY, -1),)
    )
    weights = train(training, true, LABELS.expand(MANY, -1), both).weights[0]
    known = share(invert(weights, at, training, start=(start.weights[0][0], start.biases[0][0])), true, at)
    assert known > max(0.95, share(invert(weights, at, TRAINING), true, at))


@pytest.mark.parametrize("seed", range(3))
def test_rates_and_first_weights_are_read_off_a_head(seed):
    at = prior()
    (weights,) = released(drawn(1, 20 + seed))
    wrong = dataclasses.replace(TRAINING, lr=0.3, init_std=0.1)
    got = fitted(weights, at, wrong)
    assert 0.7 < got.lr / TRAINING.lr < 1.4
    assert 0.7 < got.init_std / TRAINING.init_std < 1.4
    assert (got.steps, got.optimizer) == (wrong.steps, wrong.optimizer)


@pytest.mark.parametrize(("std", "near"), [(0.002, 0.08), (0.1, 0.08), (2.0, 0.03)])
def test_the_share_that_is_held_is_about_what_is_found(std, near):
    true, at, training = drawn(MANY, 5), prior(), dataclasses.replace(TRAINING, init_std=std)
    weights = released(true, training)
    said = [held(one, at, training) for one in weights]
    assert sum(said) / MANY == pytest.approx(share(invert(weights, at, training, floor=False), true, at), abs=near)
    assert held(torch.zeros_like(weights[0]), at, dataclasses.replace(training, lr=1e-9)) == pytest.approx(0, abs=1e-3)


def test_a_direction_of_either_sign_is_the_same_floor():
    features, at = torch.randn(3, CLASSES, WIDE, generator=ls.Key(4).generator()), prior(20)
    along = torch.rand(3, CLASSES, generator=ls.Key(5).generator()) + 0.1
    assert torch.equal(floored(features, along, at), floored(features, -along, at))


def test_where_training_saturates_the_last_round_that_explains_the_head_is_kept(monkeypatch):
    """Errors of features and coefficients feed each other there: without an end, what comes out is worse than means."""
    long = dataclasses.replace(TRAINING, steps=1500)
    true, known = drawn(MANY, 5), prior()
    weights = released(true, long)
    assert share(invert(weights, known, long), true, known) > 0.2
    monkeypatch.setattr(inversion, "FALL", 1e9)
    assert share(invert(weights, known, long), true, known) < -1
