"""Gradient matching: it works on its positive control, and says so when it does not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import leakscope as ls
from leakscope.attacks.parts.search.first_order import Problem, gradients
from leakscope.attacks.parts.search.journal import Stop, _least
from leakscope.core.effort import Budget, Clock, Progress, unwatched

SMALL = ls.Images(1, 8, 8)


def smooth_net(seed: int = 0, classes: int = 4) -> ls.Target:
    with ls.Key(seed).isolated():
        module = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.Sigmoid(), nn.Conv2d(6, 6, 3, padding=1), nn.Sigmoid(), nn.Flatten(),
            nn.Linear(384, classes),
        )  # fmt: skip
        for parameter in module.parameters():
            nn.init.uniform_(parameter, -0.5, 0.5)
    return ls.Target(module, SMALL, classes)


def image(seed: int = 0) -> torch.Tensor:
    return ls.Synthetic(shape=(1, 8, 8), classes=4, count=40).draw(1, key=ls.Key(seed)).reveal().inputs


def observed(mechanism: ls.FedSGD | ls.FedAvg, *, seed: int = 0, count: int = 1) -> tuple[ls.Observation, ls.Batch]:
    secret = ls.Synthetic(shape=(1, 8, 8), classes=4, count=40).draw(count, key=ls.Key(seed)).reveal()
    seen = ls.observe(smooth_net(seed), secret, mechanism, key=ls.Key(seed), tell=[ls.BatchSize(count)])
    return seen, secret


def mse(attempt: ls.Attempt[ls.Inputs], secret: ls.Batch) -> float:
    return float((attempt.claim.values - secret.inputs).square().mean())


@pytest.mark.parametrize("recipe", [ls.dlg(evaluations=400), ls.idlg(evaluations=400)], ids=["dlg", "idlg"])
def test_deep_leakage_finds_image_and_label(recipe: ls.GradientInversion) -> None:
    seen, secret = observed(ls.FedSGD())
    attempt = recipe.run(seen, key=ls.Key(3))
    assert attempt.outcome is ls.Outcome.CLAIMED
    assert attempt.claim.labels.tolist() == secret.labels.tolist()
    assert mse(attempt, secret) < 1e-3
    assert 0 < attempt.cost.evaluations <= 401


def test_the_label_that_is_returned_is_the_one_that_was_found() -> None:
    """A peer returns a random label although its optimizer found the right one."""
    for seed in range(3):
        seen, secret = observed(ls.FedSGD(), seed=seed)
        assert ls.dlg(evaluations=150).run(seen, key=ls.Key(3)).claim.labels.tolist() == secret.labels.tolist()


@pytest.mark.parametrize(
    "mechanism", [ls.FedAvg(steps=3, lr=0.05), ls.FedSGD() >> ls.Clip(0.5), ls.FedSGD() >> ls.Prune(0.8)], ids=repr
)
def test_the_adversary_replays_the_mechanism(mechanism: ls.FedAvg) -> None:
    """Adaptive attacks come free: local steps, clipping and pruning are replayed, not ignored."""
    seen, secret = observed(mechanism)
    start = float((ls.Gray(0.0).draw(secret.inputs, SMALL, key=ls.Key(0)) - secret.inputs).square().mean())
    attempt = ls.idlg(evaluations=400).run(seen, key=ls.Key(3))
    assert mse(attempt, secret) < 0.1 * start


def test_inverting_gradients_beats_a_gray_image() -> None:
    seen, secret = observed(ls.FedSGD())
    gray = float((torch.full_like(secret.inputs, 0.5) - secret.inputs).square().mean())
    attempt = ls.inverting_gradients(steps=300, tv=1e-3).run(seen, key=ls.Key(3))
    assert mse(attempt, secret) < 0.2 * gray
    low, high = attempt.claim.values.min(), attempt.claim.values.max()
    assert low >= 0
    assert high <= 1


def test_batch_statistics_help_where_there_are_any() -> None:
    with ls.Key(0).isolated():
        module = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 4)
        )
    target = ls.Target(module, SMALL, 4)
    secret = ls.Batch(image(), torch.tensor([1]))
    seen = ls.observe(target, secret, ls.FedSGD(), key=ls.Key(0), tell=[ls.BatchSize(1)])
    attempt = ls.grad_inversion(steps=100).run(seen, key=ls.Key(3))
    assert attempt.outcome is ls.Outcome.CLAIMED
    refusal = ls.grad_inversion(steps=100).refusal(observed(ls.FedSGD())[0])
    assert refusal is not None
    assert "no batch-norm layer" in refusal.sentence


@pytest.mark.parametrize(
    "search",
    [ls.Adam(lr=1e9, steps=60), ls.Adam(lr=1e30, steps=60), ls.LBFGS(lr=1e12, evaluations=60, line_search=False)],
    ids=repr,
)
def test_a_huge_step_is_divergence_and_not_a_picture(search: ls.Adam) -> None:
    seen, _ = observed(ls.FedSGD())
    attempt = ls.GradientInversion(ls.Squared(), search=search).run(seen, key=ls.Key(3))
    assert attempt.outcome is ls.Outcome.DIVERGED
    assert attempt.claim is None
    assert attempt.sentence


def test_restarts_run_together_as_they_run_alone() -> None:
    """The vectorized double backward against one restart at a time."""
    seen, _ = observed(ls.FedSGD())
    attack = ls.inverting_gradients(steps=5, restarts=3)
    labels = torch.tensor([1])
    problem, _ = attack._problem(seen, labels, ls.Key(0))
    starts = attack._starts(seen, labels, ls.Key(0))
    together, losses = gradients(problem, 3)(starts)
    for index in range(3):
        alone, loss = gradients(problem, 1)({name: value[index : index + 1] for name, value in starts.items()})
        torch.testing.assert_close(together["inputs"][index], alone["inputs"][0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(losses[index], loss[0], rtol=1e-4, atol=1e-6)


def test_the_objective_has_the_gradient_that_finite_differences_have() -> None:
    seen, secret = observed(ls.FedAvg(steps=2, lr=0.1))
    double = ls.Target(seen.target.module.double(), SMALL, 4)
    release = ls.Delta({n: v.double() for n, v in seen.release.by_name.items()})
    seen = ls.Observation(double, release, seen.mechanism, seen.facts)
    attack = ls.GradientInversion(ls.Cosine(), 0.1 * ls.TotalVariation())
    _, value = attack._problem(seen, secret.labels, ls.Key(0))
    point = secret.inputs.double() * 0.5 + 0.2
    slope = torch.func.grad(lambda x: value({"inputs": x}))(point)
    direction = torch.randn(point.shape, generator=ls.Key(1).generator(), dtype=torch.float64)
    step = 1e-6
    ahead, behind = value({"inputs": point + step * direction}), value({"inputs": point - step * direction})
    torch.testing.assert_close((slope * direction).sum(), (ahead - behind) / (2 * step), rtol=1e-4, atol=1e-8)


def test_budgets_end_a_search() -> None:
    seen, _ = observed(ls.FedSGD())
    attempt = ls.inverting_gradients(steps=10_000).run(seen, key=ls.Key(3), budget=Budget(evaluations=30))
    assert attempt.cost.evaluations == 30
    assert Stop.BUDGET.value in attempt.sentence
    attempt = ls.dlg(evaluations=10_000).run(seen, key=ls.Key(3), budget=Budget(evaluations=70))
    assert attempt.cost.evaluations <= 71


def test_control_c_returns_the_best_so_far() -> None:
    seen, _ = observed(ls.FedSGD())
    calls = []

    def impatient(progress: Progress) -> None:
        calls.append(progress)
        if len(calls) == 3:
            raise KeyboardInterrupt

    attempt = ls.inverting_gradients(steps=10_000).run(seen, key=ls.Key(3), watch=impatient)
    assert attempt.outcome is ls.Outcome.INTERRUPTED
    assert attempt.claim is not None
    assert 0 <= calls[0].fraction <= calls[-1].fraction <= 1


def test_patience_stops_where_nothing_falls() -> None:
    value = ls.Adam(lr=1e-9, steps=5000, decay=(), patience=ls.Patience(40, 0.01))
    flat = Problem(lambda point: (point["inputs"] ** 2).sum(), lambda point: point)
    found = value.run(flat, {"inputs": torch.ones(1, 4)}, clock=Clock(Budget(), 0.0), watch=unwatched)
    assert found.stop is Stop.PLATEAU
    assert found.evaluations < 200


@pytest.mark.parametrize("search", [ls.Adam(lr=0.05, steps=600), ls.LBFGS(evaluations=60)], ids=repr)
def test_searches_find_a_known_minimum(search: ls.Adam) -> None:
    """A quadratic with its minimum at (1, -2): the closed form is the oracle."""
    center = torch.tensor([1.0, -2.0])
    bowl = Problem(lambda p: ((p["inputs"] - center) ** 2 * torch.tensor([1.0, 5.0])).sum(), lambda p: p)
    starts = {"inputs": torch.tensor([[0.0, 0.0], [3.0, 3.0]])}
    found = search.run(bowl, starts, clock=Budget().start(), watch=unwatched)
    torch.testing.assert_close(found.point["inputs"], center, atol=2e-3, rtol=0)
    assert found.loss < found.start_loss
    assert not math.isnan(found.last_loss)


def test_the_observation_is_untouched() -> None:
    seen, _ = observed(ls.FedSGD() >> ls.GaussianNoise(1e-3))
    before = seen.fingerprint()
    ls.dlg(evaluations=20).run(seen, key=ls.Key(3))
    ls.inverting_gradients(steps=5, restarts=2).run(seen, key=ls.Key(3))
    assert seen.fingerprint() == before


def test_labels_can_be_told() -> None:
    seen, secret = observed(ls.FedSGD(), count=2)
    blind = ls.GradientInversion(labeling=ls.Told())
    assert blind.refusal(seen).sentence == "needs to be told TrueLabels"
    told = ls.Observation(
        seen.target, seen.release, seen.mechanism, (*seen.facts, ls.TrueLabels(tuple(secret.labels.tolist())))
    )
    attempt = ls.GradientInversion(labeling=ls.Told(), search=ls.Adam(steps=40)).run(told, key=ls.Key(0))
    assert attempt.claim.labels.tolist() == secret.labels.tolist()


def test_halving_gives_the_steps_of_the_worse_restarts_to_the_better() -> None:
    """As many evaluations as without, spent on the restarts that led; the winner is one of all."""
    target = ls.LeNet().build(ls.Images(1, 8, 8), 4, key=ls.Key(0))
    batch = ls.Synthetic(shape=(1, 8, 8), classes=4, count=24).draw(1, key=ls.Key(0)).reveal()
    seen = ls.observe(target, batch, ls.FedSGD(), key=ls.Key(0), tell=[ls.BatchSize(1)])
    labeled = ls.Inferred(ls.LabelSigns())
    plain = ls.GradientInversion(ls.Squared(), search=ls.Adam(steps=40), labeling=labeled, restarts=8)
    halved = ls.GradientInversion(
        ls.Squared(), search=ls.Adam(steps=40, halving=(0.05, 0.15, 0.4)), labeling=labeled, restarts=8
    )
    one, other = plain.run(seen, key=ls.Key(1)), halved.run(seen, key=ls.Key(1))
    assert one.cost.evaluations == other.cost.evaluations == 320
    # 8 for 5 %, 4 up to 15 %, 2 up to 40 %, 1 from there on
    assert len(other.trace.losses) > 3 * len(one.trace.losses)
    assert min(other.trace.losses) < min(one.trace.losses)


def test_a_restart_that_begins_with_no_number_does_not_speak_for_the_others() -> None:
    assert _least(torch.tensor([math.nan, 3.0, 1.0])) == 1.0
    assert math.isnan(_least(torch.tensor([math.nan])))


def test_the_order_in_which_a_file_holds_its_tensors_changes_no_search() -> None:
    """Layers are weighted by their depth in the model, not by their place in the release."""
    digits = ls.Digits(size=16)
    target = ls.LeNet().build(digits.domain, digits.classes, key=ls.Key(0))
    seen = ls.observe(
        target, digits.draw(1, key=ls.Key(1)).reveal(), ls.FedSGD(), key=ls.Key(2), tell=[ls.BatchSize(1)]
    )
    shuffled = ls.Gradient(dict(sorted(seen.release.by_name.items(), reverse=True)))
    other = ls.Observation(target, shuffled, seen.mechanism, seen.facts)
    one, two = (ls.inverting_gradients(steps=20).run(it, key=ls.Key(3)).claim.values for it in (seen, other))
    assert torch.equal(one, two)
