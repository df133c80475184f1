"""Heads of one logit and of two layers: released, trained together, inverted where a direction is held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.test_heads_attacks import DIGITS, TRAINING

import leakscope as ls
from leakscope.attacks.inputs.heads.inversion import explained, invert
from leakscope.attacks.inputs.heads.prior import FeaturePrior
from leakscope.attacks.inputs.heads.reading import features_of
from leakscope.audit.telling import lineup
from leakscope.core.errors import BadInput
from leakscope.core.pool import Pool
from leakscope.datasets.draw import AbstractSource
from leakscope.mechanisms.heads.together import CHUNK, Heads, first, together, train
from leakscope.targets.looking.dense_ends import output_layer
from leakscope.targets.losses import OneLogit

WEIGHT = 4.0
BINARY = ls.LinearProbe(ls.MLP((48,)), 26, scale=3.0, positive_weight=WEIGHT)
LAYERS = ls.LinearProbe(ls.MLP((48,)), 26, scale=3.0, hidden=4, positive_weight=WEIGHT)


def odd(batch: ls.Batch) -> ls.Batch:
    return ls.Batch(batch.inputs, batch.labels % 2)


@dataclass(frozen=True)
class Odd(AbstractSource):
    """Digits, by whether they are odd."""

    @property
    def domain(self) -> ls.Images:
        return DIGITS.domain

    @property
    def classes(self) -> int:
        return 2

    def load(self) -> ls.Batch:
        return odd(DIGITS.load())


POOL = Pool(odd(DIGITS.public()))


def target(recipe: ls.LinearProbe = BINARY) -> ls.Target:
    return recipe.build(DIGITS.domain, 2, key=ls.Key(0))


def private(seed: int = 0, each: int = 1) -> ls.Batch:
    batch = odd(DIGITS.draw(60, key=ls.Key(seed)).reveal())
    return batch.rows(torch.cat([(batch.labels == one).nonzero().flatten()[:each] for one in (0, 1)]))


def seen(mechanism: Any = TRAINING, recipe: ls.LinearProbe = BINARY, seed: int = 0, each: int = 1) -> ls.Observation:
    batch = private(seed, each)
    return ls.observe(target(recipe), batch, mechanism, key=ls.Key(seed), tell=[ls.BatchSize(2 * each)])


@pytest.mark.parametrize("optimizer", [ls.ClientSGD(weight_decay=0.01), ls.ClientSGD(momentum=0.9), ls.ClientAdam()])
@pytest.mark.parametrize("recipe", [BINARY, LAYERS], ids=["one layer", "two layers"])
def test_the_release_is_the_head_that_mass_training_makes(recipe: ls.LinearProbe, optimizer: Any) -> None:
    """By torch's module and optimizer on the whole model, and by closed gradients on features."""
    model = target(recipe)
    mechanism = ls.HeadTraining(12, 0.05, optimizer=optimizer)  # from the target's own weights
    batch = private(each=3)
    sent = mechanism.release(model, batch, key=ls.Key(0)).by_name
    own = model.parameters()
    names = ["head"] if recipe.hidden is None else ["head.0", "head.2"]
    start = Heads(
        tuple(own[f"{n}.weight"].unsqueeze(0) for n in names), tuple(own[f"{n}.bias"].unsqueeze(0) for n in names)
    )
    bare = ls.LinearProbe(ls.MLP((48,)), 26, scale=3.0).build(DIGITS.domain, 2, key=ls.Key(0))
    fed = features_of(bare, output_layer(bare), batch.inputs).unsqueeze(0)
    heads = train(mechanism, fed, batch.labels.unsqueeze(0), start, positive_weight=WEIGHT)
    for place, name in enumerate(names):
        assert torch.allclose(heads.weights[place][0], sent[f"{name}.weight"], atol=1e-5)
        assert torch.allclose(heads.biases[place][0], sent[f"{name}.bias"], atol=1e-5)


def test_the_loss_is_that_of_two_classes_with_weights() -> None:
    logits = torch.tensor([[0.3], [-1.2], [2.0]])
    labels = torch.tensor([1, 0, 1])
    both = torch.cat([torch.zeros_like(logits), logits], 1)
    wanted = (F.cross_entropy(both, labels, reduction="none") * torch.tensor([5.0, 1.0, 5.0])).mean()
    assert float(OneLogit(5.0)(logits, ls.Batch(torch.zeros(3, 1), labels))) == pytest.approx(float(wanted), rel=1e-6)


@pytest.mark.parametrize("weight", [1.0, WEIGHT])
def test_the_direction_that_one_logit_holds_is_found_and_the_other_is_the_priors(weight: float) -> None:
    """Of normal features: the explained variance is near a half, all of it along A, and of two rows it is more."""
    stream = ls.Key(5).generator()
    means = torch.randn(2, 30, generator=stream)
    x = means + torch.randn(40, 2, 30, generator=stream)
    public = means[torch.arange(600) % 2] + torch.randn(600, 30, generator=stream)
    prior = FeaturePrior.of(public, torch.arange(600) % 2, 2)
    training = ls.HeadTraining(20, 0.02, 1e-4)
    start = first(training, (30, 1), 40, key=ls.Key(1))
    heads = train(training, x, torch.tensor([0, 1]).expand(40, -1), start, positive_weight=weight)
    found = invert(heads.weights[0], prior, training, floor=False, positive_weight=weight)
    nothing = (torch.zeros(1, 30), torch.zeros(1))
    beside = prior.variances.sum().expand(40, 2)
    along = explained(heads.weights[0], x, beside, prior, training, nothing, weight).left[:, :, :1]
    held, error = along.transpose(1, 2) @ (x - prior.means), along.transpose(1, 2) @ (found - x)
    assert float(error.square().sum() / held.square().sum()) < 0.1, "what the weights hold is found"
    share = 1 - float((found - x).square().sum() / (x - prior.means).square().sum())
    assert 0.35 < share < 0.65, "and it is one of two directions"


def test_the_inversion_says_what_it_can_and_is_better_than_the_class_mean() -> None:
    model, gained = target(), []
    layer = output_layer(model)
    for seed in range(4):
        attempt = ls.HeadFeatures(POOL).run(seen(seed=seed), key=ls.Key(1))
        assert isinstance(attempt.claim, ls.Features), attempt.sentence
        assert "holds the difference, and not their sum" in attempt.sentence
        true = features_of(model, layer, private(seed).inputs)
        shown = features_of(model, layer, POOL.batch.inputs)
        means = torch.stack([shown[POOL.batch.labels == one].mean(0) for one in (0, 1)])
        gained.append(float((attempt.claim.values - true).square().sum() / (means - true).square().sum()))
    assert max(gained) < 0.75


def test_which_of_two_suspects_is_in_a_head_of_one_logit_is_named() -> None:
    right = 0
    for seed in range(10):
        batch = private(seed, 2)
        fact, which = lineup(batch, Odd())
        told = seen(seed=seed, each=2)
        told = ls.Observation(told.target, told.release, told.mechanism, (*told.facts, fact))
        attempt = ls.HeadMembership(POOL, heads=64).run(told, key=ls.Key(seed))
        assert isinstance(attempt.claim, ls.Attribute), attempt.sentence
        right += int(attempt.claim.values[0]) == which.values[0]
    assert right >= 9


@pytest.mark.parametrize(
    "attack", [ls.HeadFeatures(POOL), ls.HeadMembership(POOL, heads=64)], ids=["features", "member"]
)
def test_two_layers_are_refused_with_the_reason(attack: Any) -> None:
    fine = seen(recipe=LAYERS)
    told = ls.Observation(fine.target, fine.release, fine.mechanism, (*fine.facts, lineup(private(), Odd())[0]))
    attempt = attack.run(told, key=ls.Key(1))
    assert attempt.outcome is ls.Outcome.REFUSED
    assert "each of their 4 rows is a sum of the examples whose unit was open" in attempt.sentence


def test_rates_of_one_logit_are_not_fitted_and_pictures_are_refused() -> None:
    assert "are not fitted" in ls.HeadFeatures(POOL, fit=True).run(seen(), key=ls.Key(1)).sentence


@pytest.mark.parametrize("change", [{"hidden": 0}, {"positive_weight": 0.0}, {"positive_weight": float("nan")}])
def test_impossible_heads_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(BadInput):
        ls.LinearProbe(ls.MLP((48,)), 26, **change)
    with pytest.raises(BadInput, match="2 classes apart, not 10"):
        BINARY.build(DIGITS.domain, 10, key=ls.Key(0))
    with pytest.raises(BadInput, match="give a head of one output"):
        OneLogit()(torch.zeros(2, 2), private())


def test_with_more_examples_than_features_it_is_the_release_too() -> None:
    """There the dual form would need a kernel of all examples with each other."""
    training = ls.HeadTraining(5, 0.1, optimizer=ls.ClientSGD(momentum=0.5, weight_decay=0.01))
    x = torch.randn(1, 2000, 6, generator=ls.Key(0).generator())
    labels = (torch.arange(2000) % 3).unsqueeze(0)
    with ls.Key(1).isolated():
        head = torch.nn.Linear(6, 3)
    start = Heads((head.weight.detach().unsqueeze(0).clone(),), (head.bias.detach().unsqueeze(0).clone(),))
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.5, weight_decay=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(head(x[0]), labels[0]).backward()
        optimizer.step()
    found = train(training, x, labels, start)
    assert torch.allclose(found.weights[0][0], head.weight.detach(), atol=1e-5)
    assert torch.allclose(found.biases[0][0], head.bias.detach(), atol=1e-5)


def test_so_many_examples_leave_few_heads_at_a_time() -> None:
    assert together(10, 256) == together(40, 1280) == CHUNK
    assert together(10_000, 256) * 10_000 * 256 <= 2**25
    assert together(10**9, 10**9) == 1
