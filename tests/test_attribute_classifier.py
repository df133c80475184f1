"""What a classifier of public examples says of recovered features: what it would say of the true ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import leakscope as ls
from leakscope.attacks.attributes.classifier import classified

DIGITS = ls.Digits(size=16)
NAMES = tuple("0123456789")


def gallery(count: int = 300) -> ls.Gallery:
    """Which digit it is: here an attribute, for the model is trained on something else."""
    public = DIGITS.public()
    few = public.rows(torch.arange(count))
    return ls.Gallery("digit", NAMES, tuple(few.labels.tolist()), few)


def update(net: nn.Module, classes: int, count: int, seed: int) -> tuple[ls.Observation, ls.Batch]:
    """Of digits whose labels are random: what is told of the digit are the features alone."""
    secret = DIGITS.draw(count, key=ls.Key(seed)).reveal()
    labels = torch.randint(classes, (count,), generator=ls.Key(seed).generator())
    target = ls.Target(net, DIGITS.domain, classes)
    seen = ls.observe(target, ls.Batch(secret.inputs, labels), ls.FedSGD(), key=ls.Key(seed), tell=[gallery()])
    return seen, secret


def conv(classes: int) -> nn.Sequential:
    with ls.Key(3).isolated():
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, classes)
        )


@pytest.mark.parametrize("seed", [1, 2])
def test_recovered_features_tell_the_attribute_as_often_as_the_true_ones(seed: int) -> None:
    net = conv(100)
    seen, secret = update(net, 100, 8, seed)
    attempt = ls.AttributeClassifier().run(seen, key=ls.Key(0))
    assert isinstance(attempt.claim, ls.Attribute), attempt.sentence
    with torch.no_grad():
        true = net[:5](secret.inputs)
    ceiling, _ = ls.AttributeClassifier().named(seen, ls.Features("5", true))
    # In any order: a batch has none.
    assert sorted(attempt.claim.values.tolist()) == sorted(ceiling.values.tolist())
    right = sum((np.array(ceiling.values) == secret.labels.numpy()).tolist())
    assert right >= 6, "eight digits by 128 features of a fresh net"
    assert "digit" in attempt.sentence
    assert "300 public examples of 10 categories" in attempt.sentence
    assert attempt.certificate is None


def test_inputs_that_an_exact_attack_recovers_are_read_too() -> None:
    with ls.Key(4).isolated():
        net = nn.Sequential(nn.Flatten(), nn.Linear(256, 200), nn.ReLU(), nn.Linear(200, 10))
    seen, secret = update(net, 10, 1, 5)
    attempt = ls.AttributeClassifier(of=ls.LinearLayer()).run(seen, key=ls.Key(0))
    assert isinstance(attempt.claim, ls.Attribute), attempt.sentence
    ceiling, _ = ls.AttributeClassifier().named(seen, ls.Inputs(secret.inputs))
    assert attempt.claim.scores is not None
    assert ceiling.scores is not None
    torch.testing.assert_close(attempt.claim.scores, ceiling.scores, atol=1e-3, rtol=1e-3)


def test_the_log_probabilities_are_those_of_two_normal_laws() -> None:
    """Of N(+m, 1) against N(-m, 1) the log-odds are 2 m.v (Fisher), to which many examples lead."""
    random = np.random.default_rng(0)
    mean = np.array([0.7, 0.0, -0.4])
    members = random.integers(2, size=20_000)
    rows = random.standard_normal((20_000, 3)) + np.where(members[:, None] == 1, mean, -mean)
    own = random.standard_normal((50, 3))
    categories, found, right = classified(rows, members, own, strength=100.0)
    assert list(categories) == [0, 1]
    np.testing.assert_allclose(found[:, 1] - found[:, 0], 2 * own @ mean, atol=0.15)
    assert right == pytest.approx(0.7897, abs=0.01), "Phi(|m|): what no rule can surpass"


def test_the_share_that_is_right_is_of_examples_that_were_left_out() -> None:
    """Random members of few examples in many dimensions: all of them are learned, and of new ones half are right."""
    random = np.random.default_rng(1)
    rows, members = random.standard_normal((100, 400)), random.integers(2, size=100)
    _, found, right = classified(rows, members, rows, strength=1.0)
    assert (found.argmax(1) == members).all()
    assert right is not None
    assert 0.3 < right < 0.7


def test_a_category_without_an_example_is_ruled_out_and_one_alone_is_refused() -> None:
    net = conv(100)
    seen, _ = update(net, 100, 2, 7)
    three = gallery().examples.rows(torch.tensor([place for place, one in enumerate(gallery().members) if one < 3]))
    few = ls.Gallery("digit", NAMES, tuple(three.labels.tolist()), three)
    attempt = ls.AttributeClassifier().run(told(seen, few), key=ls.Key(0))
    assert isinstance(attempt.claim, ls.Attribute)
    assert attempt.claim.scores is not None
    assert (attempt.claim.scores[:, 3:] == -torch.inf).all()
    assert torch.isfinite(attempt.claim.scores[:, :3]).all()
    alone = ls.Gallery("digit", NAMES, (4,), three.rows(torch.tensor([0])))
    refusal = ls.AttributeClassifier().refusal(told(seen, alone))
    assert refusal is not None
    assert "1 category" in refusal.sentence


def told(seen: ls.Observation, gallery: ls.Gallery) -> ls.Observation:
    return ls.Observation(seen.target, seen.release, seen.mechanism, (gallery,))


def test_one_example_of_each_category_is_enough_and_nothing_is_said_of_new_ones() -> None:
    rows, members = np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([0, 1])
    _, found, right = classified(rows, members, np.array([[0.1, 0.9]]), strength=1.0)
    assert right is None
    assert found.argmax(1).tolist() == [0]


@pytest.mark.parametrize("strength", [0.0, -1.0, float("nan")])
def test_a_strength_that_is_none_is_refused(strength: float) -> None:
    with pytest.raises(ls.BadInput, match="strength"):
        ls.AttributeClassifier(strength=strength)
