"""Rows of a known output layer: what noise makes of the features, and each check that a row has to pass."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import leakscope as ls
from leakscope.attacks.labels.rows.row_space import RowSpace, row_space
from leakscope.attacks.labels.rows.taken_apart import KnownRows, Peeling, take_apart
from leakscope.attacks.labels.rows.together import Together

Array = NDArray[np.float64]


def errors_of(weight: Array, features: Array, labels: Array, smoothing: float) -> Array:
    """softmax(W h) - (1 - s) e_y - s / C of each sample, by its definition."""
    shares = np.exp(features @ weight.T)
    shares /= shares.sum(1, keepdims=True)
    shares -= smoothing / weight.shape[0]
    shares[np.arange(len(labels)), labels] -= 1 - smoothing
    return shares


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("classes", "count"), [(12, 5), (30, 4)])
def test_the_covariance_of_features_is_that_of_many_draws(classes: int, count: int, smoothing: float) -> None:
    """Independent noise on the C coordinates of a row's error: C - S equations and S unknowns leave C - 2 S degrees of
    freedom, so that |f|^2 / (C - 2 S) is the variance on average. By C - S the variance of 12 classes and 5 samples
    would be 3.5 times too small."""
    rng = np.random.default_rng(5)
    weight, features = rng.normal(size=(classes, count)), rng.normal(size=(count, count))
    errors = errors_of(weight, features, np.arange(count), smoothing)
    found, said = [], []
    for _ in range(300):
        # The first row is disturbed, the others are not: then its residual is the noise across the row space.
        noisy = errors + 1e-5 * np.eye(count)[0][:, None] * rng.normal(size=classes)
        right = np.linalg.qr(noisy.T)[0].T
        space = RowSpace(np.eye(count), np.ones(count), right, np.ones(classes), 0.0, 0.0, (count, classes))
        known = KnownRows(space, weight, np.zeros(classes), smoothing)
        point, misfit = known.solve(0, features[0], known.slopes, right)
        found.append(point - features[0])
        said.append(np.trace(known.covariance(point, 0, misfit)))
    variance = np.square(found).sum(1).mean()
    assert np.mean(said) == pytest.approx(variance, rel=0.3)


@pytest.mark.parametrize("seed", [3, 4])
def test_two_of_one_class_that_run_into_one_another_are_told_apart_by_the_whole_gradient(seed: int) -> None:
    """Features a hundredth apart: along their difference the error hardly leaves the row space, so that row by row what
    is found of a pair lies anywhere between the two; of these batches two and three rows of eight were found."""
    generator = torch.Generator().manual_seed(seed)
    layer = torch.nn.Linear(64, 60)
    with torch.no_grad():
        layer.weight.copy_((torch.rand(60, 64, generator=generator) - 0.5) / 4)
        layer.bias.copy_((torch.rand(60, generator=generator) - 0.5) / 4)
    common = torch.rand(64, generator=generator)
    fed = (common + 0.3 * torch.randn(8, 64, generator=generator)).clamp(0, 1)
    for one in (1, 3):
        fed[one] = (fed[one - 1] + 0.01 * torch.randn(64, generator=generator)).clamp(0, 1)
    labels = torch.tensor([3, 3, 17, 17, 25, 31, 40, 52])
    loss = torch.nn.functional.cross_entropy(layer(fed), labels)
    weight, bias = (one.double().numpy() for one in torch.autograd.grad(loss, [layer.weight, layer.bias]))
    space = row_space(weight.T, np.random.default_rng(0))
    assert isinstance(space, RowSpace)
    known = KnownRows(space, *(one.detach().double().numpy() for one in (layer.weight, layer.bias)))
    # As many as are told: untold, of each pair one row could stand for more of it than the other.
    apart = take_apart(known, bias, np.random.default_rng(1), told=8)
    assert sorted(one.label for one in apart.rows) == labels.tolist()
    assert apart.times == (1,) * 8
    found = np.stack([space.left @ one.features for one in apart.rows])
    true = fed.double().numpy()
    away = np.linalg.norm(true[:, None] - found[None], axis=2).min(1) / np.linalg.norm(true, axis=1)
    assert away[4:].max() < 1e-4
    # T6 of all pairs, to which no row by itself is held: N where s is t, 0 elsewhere.
    errors = np.stack([one.error * space.scale for one in apart.rows]) @ space.right.T
    products = errors / space.values @ np.stack([one.features for one in apart.rows]).T
    assert np.abs(products - 8 * np.eye(8)).max() < 1


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_steps_of_all_rows_together_are_those_of_the_gradient_by_differences(smoothing: float) -> None:
    rng = np.random.default_rng(6)
    weight, features, labels = rng.normal(size=(12, 3)), rng.normal(size=(3, 3)), np.array([0, 0, 4])
    errors = errors_of(weight, features, labels, smoothing)
    left, values, right = np.linalg.svd(features.T @ errors / 3, full_matrices=False)
    space = RowSpace(left, values, right, 1 + rng.random(12), 0.0, 0.0, (3, 12))
    together = Together(KnownRows(space, weight, np.zeros(12), smoothing), rng, lambda: False)
    points = features @ left + 0.1 * rng.normal(size=(3, 3))
    errors, rest = together._residual(points, labels, 3.0)
    slopes = np.stack([together._slope(one, label) for one, label in zip(points, labels.tolist(), strict=True)])
    normal, slope = together._normal(points, errors, slopes, rest, 3.0)
    columns = []
    for move in 1e-6 * np.eye(9).reshape(9, 3, 3):
        ahead, behind = (together._residual(points + sign * move, labels, 3.0)[1] for sign in (1, -1))
        columns.append((ahead - behind).ravel() / 2e-6)
    jacobian = np.stack(columns, 1)
    np.testing.assert_allclose(normal, jacobian.T @ jacobian, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(slope, jacobian.T @ rest.ravel(), rtol=1e-6, atol=1e-8)


# --- what keeps a row out ----------


class Peeled:
    """Four samples of twelve classes, exactly; what the solver says of a row is what a test wants it to say."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, noise: float = 0.0) -> None:
        rng = np.random.default_rng(2)
        weight, features = rng.normal(size=(12, 4)), rng.normal(size=(4, 4))
        errors = errors_of(weight, features, np.arange(4), 0.0)
        left, values, right = np.linalg.svd(features.T @ errors / 4, full_matrices=False)
        self.space = RowSpace(left, values, right, np.ones(12), noise, 0.0, (4, 12))
        self.known = KnownRows(self.space, weight, np.zeros(12))
        self.points = features @ left
        self.peeling = Peeling(self.known, None, rng, lambda: False)
        self.monkeypatch = monkeypatch

    def kept(self, label: int, point: Array, *, misfit: float = 0.0, off: float = 0.0) -> bool:
        """Whether a row is kept whose refinement ends at `point` with these figures."""
        self.monkeypatch.setattr(KnownRows, "refined", lambda *_: (point, misfit, off, 0.0))
        return self.peeling._kept(label, point, 0.0)

    def dual(self, label: int, point: Array) -> Array:
        """beta Sigma^-1, of which T6 says that its product with the row's own features is N."""
        return np.asarray(self.space.right @ self.known.error(point, label) / self.space.values)


@pytest.fixture
def peeled(monkeypatch: pytest.MonkeyPatch) -> Peeled:
    return Peeled(monkeypatch)


@pytest.mark.parametrize(("size", "told"), [(1e-6, False), (1e-4, False), (1e-4, True)])
def test_a_uniform_softmax_does_not_say_how_many_samples_a_row_stands_for(size: float, told: bool) -> None:
    """One sample gives what two give with half of the features each, unless the softmax sees how large these are; taken
    for the rank, the number of samples was proved to be three of six."""
    torch.manual_seed(88101)
    net = torch.nn.Sequential(torch.nn.Linear(40, 51), torch.nn.ReLU(), torch.nn.Linear(51, 22, bias=False))
    with torch.no_grad():
        net[2].weight.mul_(size)
    attempt = revealed(net, torch.rand(6, 40), torch.tensor([1, 1, 1, 2, 2, 5]), told=told)
    assert attempt.certified is told or "replay" not in attempt.sentence
    if told:
        assert attempt.claim is not None
        assert sorted(attempt.claim.values.tolist()) == [1, 1, 1, 2, 2, 5]


@pytest.mark.parametrize(("seed", "depth", "shrink"), [(88800, 2, 0.1), (88801, 3, 0.1), (88800, 1, 0.03)])
def test_two_of_a_class_that_weigh_two_to_one_are_not_proved_to_be_two(seed: int, depth: int, shrink: float) -> None:
    """Where the softmax is linear in the features, two others that weigh the same have their mean and second moment."""
    torch.manual_seed(seed)
    hidden = [torch.nn.Linear(64, 64), torch.nn.ReLU()]
    for _ in range(depth - 1):
        hidden += [torch.nn.Linear(64, 64), torch.nn.ReLU()]
    pictures = shrink * torch.rand(3, 64)
    pictures[2] = pictures[0]
    attempt = revealed(
        torch.nn.Sequential(*hidden, torch.nn.Linear(64, 30)), pictures, torch.zeros(3, dtype=torch.long)
    )
    if attempt.certified and "replay" in attempt.sentence:
        assert attempt.claim is not None
        assert len(attempt.claim.values) == 3


def revealed(net: torch.nn.Module, inputs: torch.Tensor, labels: torch.Tensor, *, told: bool = False) -> ls.Attempt:
    """`RevealedLabels` on the gradient of a client in plain PyTorch."""
    loss = torch.nn.functional.cross_entropy(net(inputs), labels)
    slopes = torch.autograd.grad(loss, list(net.parameters()))
    sent = {name: slope for (name, _), slope in zip(net.named_parameters(), slopes, strict=True)}
    facts = (ls.BatchSize(len(labels)),) if told else ()
    domain = ls.Vectors(inputs.shape[1], 0.0, 1.0)
    target = ls.Target(net, domain, net[-1].out_features)
    return ls.RevealedLabels().run(ls.Observation(target, ls.Gradient(sent), ls.FedSGD(), facts), key=ls.Key(0))


def test_true_rows_are_kept_with_their_share(peeled: Peeled) -> None:
    """Else what follows would be kept out by something else."""
    assert all(peeled.kept(label, peeled.points[label]) for label in range(4))
    assert [one.parts for one in peeled.peeling.rows] == pytest.approx([4.0] * 4)


@pytest.mark.parametrize("size", [1e308, float("nan")])
def test_a_search_that_ran_away_is_no_row_and_no_warning(peeled: Peeled, size: float) -> None:
    assert not peeled.kept(0, np.full(4, size))


def test_what_was_not_solved_is_no_row_however_noisy_the_update_is(monkeypatch: pytest.MonkeyPatch) -> None:
    loud = Peeled(monkeypatch, noise=1.0)
    assert loud.kept(0, loud.points[0], misfit=0.09)
    assert not Peeled(monkeypatch, noise=1.0).kept(0, loud.points[0], misfit=0.11)


def test_a_residual_beyond_its_own_rounding_is_no_row(peeled: Peeled) -> None:
    assert not peeled.kept(0, peeled.points[0], misfit=1e-3)


def test_a_share_that_is_not_positive_is_no_row(peeled: Peeled) -> None:
    draws = np.random.default_rng(0).normal(size=(50, 4))
    negative = next(one for one in draws if peeled.dual(0, one) @ one < 0)
    assert not peeled.kept(0, negative)


def test_an_error_at_the_label_beyond_rounding_is_no_row(peeled: Peeled) -> None:
    assert not peeled.kept(0, peeled.points[0], off=1e-3)


def test_a_share_that_is_no_part_of_the_others_is_no_row(peeled: Peeled) -> None:
    """4 beside 6 is no number of equal samples; beside 8 it may be two of them."""
    peeled.peeling.samples = 6.0
    assert not peeled.kept(0, peeled.points[0])
    peeled.peeling.samples = 8.0
    assert peeled.kept(0, peeled.points[0])


def test_the_same_row_again_is_none(peeled: Peeled) -> None:
    """Also from a point where rounding left more of it open than `near` allows: T6 tells."""
    assert peeled.kept(0, peeled.points[0])
    assert not peeled.kept(0, 1.01 * peeled.points[0])


def test_within_rounding_it_is_the_same_row_whatever_its_share_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step along the dual takes all of T6 away from a row that is the same to within what rounding leaves open."""
    found = Peeled(monkeypatch, noise=4e-5)
    assert found.kept(0, found.points[0])
    (row,) = found.peeling.rows
    dual = found.dual(0, row.features)
    step = dual * row.parts / (dual @ dual)
    assert np.linalg.norm(step) < 2 * row.expected * np.linalg.norm(row.features)
    found.peeling.rows[:] = [dataclasses.replace(row, features=row.features - step)]
    assert not found.kept(0, row.features)
