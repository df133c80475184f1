"""All inputs of a batch from a matrix of low rank: exact where it claims, and certain where it certifies."""

from __future__ import annotations

import dataclasses
import itertools
import math
import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import leakscope as ls
from leakscope.attacks.inputs.dense import lowrank
from leakscope.attacks.inputs.dense.mixtures import twins
from leakscope.attacks.inputs.dense.silent_errors import Judged, Resting
from leakscope.numerics.lowrank import factor
from leakscope.numerics.sparse import balanced, sparse_directions, whitened
from leakscope.targets.looking.dense_ends import input_layer


def standardized(*shape: int) -> ls.Images:
    """A domain whose range is [-5, 5], so that normal inputs lie in it: what lies outside is not proved."""
    return ls.Images(*shape, mean=(0.5,) * shape[0], std=(0.1,) * shape[0])


SMALL = standardized(1, 8, 8)


def normal(count: int, domain: ls.Images, classes: int, seed: int = 0) -> ls.Batch:
    generator = ls.Key(seed).child("batch").generator()
    inputs = torch.randn(count, *domain.shape, generator=generator)
    return ls.Batch(inputs, torch.randint(classes, (count,), generator=generator))


def attacked(target: ls.Target, batch: ls.Batch, mechanism: ls.FedSGD | None = None) -> ls.Attempt[ls.Inputs]:
    seen = ls.observe(target, batch, mechanism or ls.FedSGD(), key=ls.Key(1))
    return ls.LowRank().run(seen, key=ls.Key(2))


def worst(attempt: ls.Attempt[ls.Inputs], batch: ls.Batch) -> float:
    """The largest relative distance of a true input from the nearest claimed one."""
    assert attempt.claim is not None, attempt.sentence
    true, claimed = batch.inputs.flatten(1).double(), attempt.claim.values.flatten(1).double()
    away = torch.linalg.vector_norm(true[:, None] - claimed[None], dim=2).min(1).values
    return float((away / torch.linalg.vector_norm(true, dim=1)).max())


def farthest(attempt: ls.Attempt[ls.Inputs], batch: ls.Batch) -> float:
    """The largest relative distance of a claimed input from the nearest true one."""
    assert attempt.claim is not None
    true, claimed = batch.inputs.flatten(1).double(), attempt.claim.values.flatten(1).double()
    away = torch.linalg.vector_norm(true[:, None] - claimed[None], dim=2).min(0).values
    return float((away / torch.linalg.vector_norm(claimed, dim=1)).max())


# --- the reference cases --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "width", "count"),
    [
        (standardized(1, 28, 28), 200, 4),
        (standardized(1, 28, 28), 200, 8),
        (standardized(1, 28, 28), 200, 12),
        (standardized(3, 32, 32), 400, 12),
    ],
    ids=str,
)
def test_every_image_of_a_batch_is_above_100_decibel(domain: ls.Images, width: int, count: int) -> None:
    target, batch = ls.MLP((width,)).build(domain, 10, key=ls.Key(0)), normal(count, domain, 10)
    attempt = attacked(target, batch)
    assert attempt.claim is not None
    assert len(attempt.claim) == count
    squares = (batch.inputs[:, None] - attempt.claim.values[None]).flatten(2).square().mean(2)
    nearest = squares.min(1)
    assert -10 * math.log10(float(nearest.values.max())) > 100
    assert attempt.certificate is not None
    assert attempt.certificate.holds
    assert attempt.claim.labels is not None
    assert torch.equal(attempt.claim.labels[nearest.indices], batch.labels)


@pytest.mark.parametrize(("rate", "count"), [(0.2, 16), (0.6, 20)])
def test_every_feature_vector_of_an_emotion_model_with_dropout_and_every_label(rate: float, count: int) -> None:
    domain = standardized(1, 1, 988)
    target = ls.MLP((256, 128), dropout=rate, training=True).build(domain, 4, key=ls.Key(0))
    batch = normal(count, domain, 4)
    attempt = attacked(target, batch)
    assert worst(attempt, batch) < 1e-5
    assert attempt.certificate is not None
    assert attempt.certificate.holds
    assert attempt.claim is not None
    # Dropout turns the errors away from what the model says of any label; which units dropped is in the errors.
    assert attempt.claim.labels is not None
    assert torch.equal(attempt.claim.labels[paired(attempt, batch)], batch.labels)


def test_what_was_learned_by_heart_comes_back_with_what_was_not() -> None:
    """Half of the batch leaves errors a thousandth of the others', as where a client has trained along for long."""
    domain = standardized(1, 1, 200)
    target, batch = ls.MLP((256, 128)).build(domain, 4, key=ls.Key(0)), normal(20, domain, 4)
    moved = ls.FedAvg(60, 0.1).release(target, batch.rows(torch.arange(10)), key=ls.Key(1)).by_name
    target = target.at({name: value + moved[name] for name, value in target.parameters().items()})
    attempt = attacked(target, batch)
    assert worst(attempt, batch) < 1e-4
    assert attempt.certificate is not None
    assert attempt.certificate.holds


def test_what_hardly_leaves_an_error_is_not_proved() -> None:
    """The model is sure of one example, and right: of that it sends a millionth, and the equation holds without it."""
    domain = standardized(1, 1, 200)
    target, batch = ls.MLP((256, 128)).build(domain, 4, key=ls.Key(0)), normal(8, domain, 4)
    last = list(target.parameters())[-2]
    target = target.at({name: value * (155 if name == last else 1) for name, value in target.parameters().items()})
    order = target.outputs(target.parameters(), batch.inputs).argsort(1)
    batch = dataclasses.replace(batch, labels=torch.cat([order[:1, -1], order[1:, 0]]))
    for facts, count in (([ls.BatchSize(8)], 7), ([], 0)):
        attempt = ls.LowRank().run(ls.observe(target, batch, ls.FedSGD(), key=ls.Key(1), tell=facts), key=ls.Key(2))
        assert attempt.claim is not None
        proved = [False] * 8 if attempt.certificate is None else attempt.certificate.proved
        place = int(torch.cdist(batch.inputs[:1].flatten(1), attempt.claim.values.flatten(1)).argmin())
        assert worst(attempt, batch) > 1e-4
        assert sum(proved) == count
        assert not proved[place]


def paired(attempt: ls.Attempt[ls.Inputs], batch: ls.Batch) -> torch.Tensor:
    """The place of the claim nearest to each true input."""
    assert attempt.claim is not None
    return torch.cdist(batch.inputs.flatten(1), attempt.claim.values.flatten(1).float()).argmin(1)


def test_labels_of_data_that_are_normalized_together() -> None:
    """The rows have mean zero, so that one follows from the others: only with the one of the bias they are apart."""
    domain = standardized(1, 1, 64)
    target = ls.MLP((200, 100), dropout=0.3, training=True).build(domain, 4, key=ls.Key(3))
    batch = normal(8, domain, 4)
    batch = dataclasses.replace(batch, inputs=batch.inputs - batch.inputs.mean(0))
    attempt = attacked(target, batch)
    assert attempt.claim is not None
    assert attempt.claim.labels is not None
    assert torch.equal(attempt.claim.labels[paired(attempt, batch)], batch.labels)


@pytest.mark.parametrize("why", ["steps", "repeated", "another loss", "a function"])
def test_labels_behind_dropout_are_not_said_where_the_layers_do_not_explain_each_other(why: str) -> None:
    domain = standardized(1, 1, 64)
    target = ls.MLP((200, 100), dropout=0.3, training=True).build(domain, 4, key=ls.Key(3))
    batch, mechanism = normal(6, domain, 4), ls.FedSGD()
    if why == "steps":
        mechanism = ls.FedAvg(steps=3, lr=0.05)
    if why == "repeated":
        # Each draws its own units: what the sum of both errors shows is nobody's mask.
        batch = ls.Batch(batch.inputs[[0, 1, 2, 3, 4, 4]], batch.labels[[0, 1, 2, 3, 4, 4]])
    sent = target
    if why == "another loss":
        # The client divides its logits by three, and does not say so.
        sent = dataclasses.replace(target, module=nn.Sequential(target.module, Shrunk()))
    if why == "a function":
        sent = target = dataclasses.replace(target, module=nn.Sequential(target.module, Curved()))
    seen = ls.observe(sent, batch, mechanism, key=ls.Key(1))
    if why == "another loss":
        named = {name.removeprefix("0."): value for name, value in seen.release.by_name.items()}
        seen = ls.Observation(target, ls.Gradient(named), mechanism)
    attempt = ls.LowRank().run(seen, key=ls.Key(2))
    assert attempt.claim is not None, attempt.sentence
    assert worst(attempt, batch) < 1e-4
    assert attempt.claim.labels is None


class Shrunk(nn.Module):
    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits / 3


class Curved(nn.Module):
    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits + 0.1 * logits.square()


def test_real_images_come_back() -> None:
    for source in (ls.Digits(size=8), ls.Faces(size=16)):
        target = ls.MLP((256, 64)).build(source.domain, source.classes, key=ls.Key(0))
        batch = source.draw(4, key=ls.Key(3)).reveal()
        attempt = attacked(target, batch)
        assert worst(attempt, batch) < 1e-5
        assert attempt.certificate is not None
        assert attempt.certificate.holds


# --- what mechanisms do ---------------------------------------------------------------------------------------------

NET = ls.MLP((200, 100)).build(SMALL, 10, key=ls.Key(4))


@pytest.mark.parametrize(
    "mechanism",
    [
        ls.FedSGD() >> ls.Clip(0.1),
        ls.FedAvg(steps=1, lr=0.1),
        ls.FedAvg(steps=5, lr=0.05),
        ls.FedAvg(steps=3, lr=0.05, batch_size=2),
    ],
    ids=repr,
)
def test_clipping_and_local_steps_do_not_matter(mechanism: ls.FedSGD) -> None:
    batch = normal(6, SMALL, 10)
    attempt = attacked(NET, batch, mechanism)
    assert worst(attempt, batch) < 1e-4
    assert attempt.certificate is not None
    assert attempt.certificate.holds


def test_noise_is_no_proof_and_much_noise_no_claim() -> None:
    batch = normal(6, SMALL, 10)
    little, much = (attacked(NET, batch, ls.FedSGD() >> ls.GaussianNoise(std)) for std in (1e-6, 1e-2))
    assert little.certificate is None
    assert worst(little, batch) < 1e-2
    assert much.claim is None


@pytest.mark.parametrize("defense", [ls.Sign(), ls.Quantize(4), ls.Prune(0.3), ls.RandomDrop(0.5)], ids=repr)
def test_what_changes_entries_destroys_the_rank(defense: ls.Sign) -> None:
    for count in (1, 4):
        attempt = attacked(NET, normal(count, SMALL, 10), ls.FedSGD() >> defense)
        assert attempt.certificate is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_enough(dtype: torch.dtype) -> None:
    batch = normal(6, SMALL, 10)
    whole = ls.observe(NET, batch, ls.FedSGD(), key=ls.Key(1))
    half = ls.Gradient({name: value.to(dtype) for name, value in whole.release.by_name.items()})
    told = ls.Observation(whole.target, half, whole.mechanism, (ls.BatchSize(6),))
    attempt = ls.LowRank().run(told, key=ls.Key(2))
    assert worst(attempt, batch) < 10 * torch.finfo(dtype).eps
    assert attempt.certificate is not None
    assert attempt.certificate.holds
    # Of more examples than six, some that are nearly alike would be lost in so coarse a rounding.
    assert not ls.LowRank().run(dataclasses.replace(told, facts=()), key=ls.Key(2)).certified


def test_one_example_and_repeated_examples() -> None:
    one = normal(1, SMALL, 10)
    attempt = attacked(NET, one)
    assert worst(attempt, one) < 1e-6
    batch = normal(4, SMALL, 10)
    again = ls.Batch(batch.inputs.repeat(2, 1, 1, 1), torch.cat([batch.labels, (batch.labels + 1) % 10]))
    seen = ls.observe(NET, again, ls.FedSGD(), key=ls.Key(1), tell=[ls.BatchSize(8)])
    attempt = ls.LowRank().run(seen, key=ls.Key(2))
    assert attempt.claim is not None
    assert len(attempt.claim) == 4
    assert worst(attempt, again) < 1e-5
    assert "4 of the batch are repetitions" in attempt.sentence


# --- the rank test --------------------------------------------------------------------------------------------------


def sequential(*layers: nn.Module, seed: int = 0) -> ls.Target:
    with ls.Key(seed).isolated():
        return ls.Target(nn.Sequential(nn.Flatten(), *layers), SMALL, 5)


@pytest.mark.parametrize(
    ("target", "count", "words"),
    [
        (
            ls.MLP((100,)).build(standardized(1, 16, 16), 10, key=ls.Key(0)),
            64,
            "rank 64 is too much for 100 live units",
        ),
        (
            ls.MLP((400,)).build(standardized(3, 32, 32), 10, key=ls.Key(0)),
            64,
            "others with nearly proportional",
        ),
        (ls.MLP((100,)).build(SMALL, 10, key=ls.Key(0)), 128, "no rank stands out"),
        (ls.MLP((64,), activation=ls.Activation("sigmoid")).build(SMALL, 5, key=ls.Key(0)), 4, "no ReLU after it"),
        (ls.MLP((64,), activation=ls.Activation("gelu")).build(SMALL, 5, key=ls.Key(0)), 4, "no ReLU after it"),
        (ls.Linear().build(SMALL, 5, key=ls.Key(0)), 4, "no ReLU after it"),
        (ls.LeNet().build(SMALL, 5, key=ls.Key(0)), 2, "no dense layer"),
    ],
    ids=["64 of 100", "64 of 400", "128 of 64", "sigmoid", "gelu", "linear", "convolution"],
)
def test_where_it_cannot_it_says_so_beforehand(target: ls.Target, count: int, words: str) -> None:
    batch = normal(count, ls.Images(*target.domain.shape), target.classes)
    refusal = ls.LowRank().refusal(ls.observe(target, batch, ls.FedSGD(), key=ls.Key(1)))
    assert refusal is not None
    assert words in refusal.sentence


@pytest.mark.parametrize(
    ("widths", "classes", "count"), [((400,), 10, 24), ((200,), 10, 20), ((200, 100), 10, 32), ((400,), 2, 8)], ids=str
)
def test_batches_that_can_be_taken_apart_are_not_refused(widths: tuple[int, ...], classes: int, count: int) -> None:
    """As large as were solved with each net; neighbors with proportional errors count only where the model has them."""
    domain = standardized(1, 16, 16)
    target = ls.MLP(widths).build(domain, classes, key=ls.Key(0))
    seen = ls.observe(target, normal(count, domain, classes), ls.FedSGD(), key=ls.Key(1))
    assert ls.LowRank().refusal(seen) is None


def test_neighbors_that_hide_half_of_what_they_might_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty recordings at the weights of a federation after 40 rounds were refused so; all came back when tried."""
    seen = ls.observe(NET, normal(4, SMALL, 10), ls.FedSGD(), key=ls.Key(1))
    ready = ls.LowRank().ready(seen).read
    twenty = types.SimpleNamespace(rank=20)
    monkeypatch.setattr(lowrank, "twins", lambda *_: 4.5 / 19)
    assert lowrank._crowded(seen, twenty, 20 * 5.9, ready.resting) == ""
    assert "about 4.8 units at rest for each" in lowrank._crowded(seen, twenty, 20 * 4.7, ready.resting)


def test_neighbors_are_examples_of_one_class_and_only_behind_a_single_layer() -> None:
    """With one layer delta_s = mask_s W^T (p_s - y_s): proportional for equal labels; for two classes always."""
    for widths, classes, share in (((200,), 10, 0.1), ((200,), 2, 1.0), ((200, 100), 10, 0.0)):
        target = ls.MLP(widths).build(SMALL, classes, key=ls.Key(0))
        assert twins(target, Resting(target, input_layer(target))) == pytest.approx(share, abs=0.02)


def test_a_missing_bias_a_missing_tensor_and_too_small_a_batch_are_refused_by_name() -> None:
    bare = sequential(nn.Linear(64, 40, bias=False), nn.ReLU(), nn.Linear(40, 5))
    assert "no bias" in attacked(bare, normal(2, SMALL, 5)).sentence
    whole = ls.observe(NET, normal(4, SMALL, 10), ls.FedSGD(), key=ls.Key(1), tell=[ls.BatchSize(4)])
    part = ls.Gradient({n: v for n, v in whole.release.by_name.items() if n != "1.bias"})
    refusal = ls.LowRank().refusal(ls.Observation(NET, part, whole.mechanism))
    assert refusal is not None
    assert "1.bias" in refusal.sentence
    refusal = ls.LowRank().refusal(ls.Observation(NET, whole.release, whole.mechanism, (ls.BatchSize(3),)))
    assert refusal is not None
    assert "rank 4, more than its 3 examples" in refusal.sentence


@settings(max_examples=25, deadline=None)
@given(
    width=st.integers(10, 120),
    hidden=st.sampled_from(((), (30,))),
    classes=st.sampled_from((2, 3, 10)),
    count=st.integers(1, 14),
    seed=st.integers(0, 999),
)
def test_what_is_certified_is_true_and_what_passes_with_room_is_found(
    width: int, hidden: tuple[int, ...], classes: int, count: int, seed: int
) -> None:
    target = ls.MLP((width, *hidden)).build(SMALL, classes, key=ls.Key(seed))
    batch = normal(count, SMALL, classes, seed)
    attempt = attacked(target, batch)
    if attempt.certificate is not None and attempt.certificate.holds:
        assert farthest(attempt, batch) < 1e-3
    elif attempt.claim is not None:
        assert bool(attempt.claim.confidence.isnan().all())
    if hidden and classes > 2 and width > 16 * count:  # about eight units at rest for each example
        assert worst(attempt, batch) < 1e-3


# --- the certificate ------------------------------------------------------------------------------------------------


def judged(inputs: np.ndarray, batch: ls.Batch, seed: int = 4) -> Judged:
    seen = ls.observe(NET, batch, ls.FedSGD(), key=ls.Key(1))
    layer = input_layer(NET)
    gradient = seen.gradient().by_name
    matrix = torch.cat([gradient[layer.weight], gradient["1.bias"][:, None]], 1).double().numpy()
    return Judged(matrix, inputs, Resting(NET, layer).awake(inputs), matrix.any(1))


def test_mixtures_solve_the_equation_but_the_model_contradicts_them() -> None:
    """Any invertible mixture whose rows sum to one reproduces the update; only the true inputs agree with the model."""
    batch = normal(4, SMALL, 10)
    true = batch.inputs.flatten(1).double().numpy()
    assert judged(true, batch).residual() < 1e-6
    for seed in range(5):
        mixing = np.eye(4) + 0.1 * np.random.default_rng(seed).standard_normal((4, 4))
        mixed = (mixing / mixing.sum(1, keepdims=True)) @ true
        assert judged(mixed, batch).residual() > 1e-2
    swapped = true.copy()
    swapped[0] = (true[0] + true[1]) / 2
    assert judged(swapped, batch).residual() > 0.1


def test_units_at_rest_are_those_below_zero() -> None:
    """The black box against the definition: w x + b <= 0 in a plain network."""
    target = sequential(nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 5))
    inputs = normal(9, SMALL, 5).inputs.flatten(1).double()
    parameters = target.parameters()
    values = inputs @ parameters["1.weight"].double().T + parameters["1.bias"].double()
    awake = Resting(target, input_layer(target)).awake(inputs.numpy())
    assert np.array_equal(awake, (values > 0).numpy())


def test_two_classes_fool_the_search_but_not_the_certificate() -> None:
    """With one hidden layer delta_b = s_b mask_b w, so differences of two examples are as sparse as an example."""
    target = ls.MLP((200,)).build(standardized(1, 28, 28), 2, key=ls.Key(7))
    for count in (8, 12):
        batch = normal(count, standardized(1, 28, 28), 2, count)
        attempt = attacked(target, batch)
        assert attempt.claim is None or worst(attempt, batch) < 1e-4


# --- the mathematics ------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(6, 150),
    columns=st.integers(6, 150),
    rank=st.integers(1, 5),
    noise=st.sampled_from((0.0, 1e-10, 1e-6, 1e-3)),
    dead=st.integers(0, 20),
    seed=st.integers(0, 999),
)
def test_the_rank_is_found_below_noise_and_dead_rows(
    rows: int, columns: int, rank: int, noise: float, dead: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    left, right = rng.standard_normal((rows, rank)), rng.standard_normal((rank, columns))
    matrix = np.vstack([left @ right + noise * rng.standard_normal((rows, columns)), np.zeros((dead, columns))])
    found = factor(matrix, rng)
    assert not isinstance(found, str), found
    assert found.rank == rank
    assert np.linalg.norm(found.left @ found.right - matrix) <= 2 * noise * math.sqrt(rows * columns) + 1e-10


def test_a_large_matrix_is_sketched_to_the_same_rank() -> None:
    rng = np.random.default_rng(0)
    for rank in (3, 100):
        matrix = rng.standard_normal((500, rank)) @ rng.standard_normal((rank, 700)) + 1e-6 * rng.standard_normal(
            (500, 700)
        )
        found = factor(matrix, rng)
        assert not isinstance(found, str)
        assert found.rank == rank
        assert np.abs(found.left @ found.right - matrix).max() < 1e-4


def test_noise_and_full_matrices_have_no_rank() -> None:
    rng = np.random.default_rng(0)
    for shape in ((20, 30), (200, 100), (450, 600)):
        assert isinstance(factor(rng.standard_normal(shape), rng), str)
    assert isinstance(factor(np.zeros((5, 5)), rng), str)
    assert isinstance(factor(np.hstack([rng.standard_normal((30, 8)), np.zeros((30, 1))]), rng), str)


@pytest.mark.parametrize("seed", range(4))
def test_sparse_directions_are_those_of_brute_force(seed: int) -> None:
    """Every direction that vanishes on r - 1 rows is tried; those with most zeros are the columns of the truth."""
    rng = np.random.default_rng(seed)
    rows, rank = 40, 3
    truth = rng.standard_normal((rows, rank)) * (rng.random((rows, rank)) < 0.5)
    matrix = truth @ rng.standard_normal((rank, rank))
    counts: dict[tuple[int, ...], int] = {}
    for pair in itertools.combinations(range(rows), rank - 1):
        if np.linalg.matrix_rank(matrix[list(pair)]) < rank - 1:
            continue
        kernel = np.linalg.svd(matrix[list(pair)])[2][-1]
        zeros = np.flatnonzero(np.abs(matrix @ kernel) < 1e-9)
        counts[tuple(zeros.tolist())] = len(zeros)
    best = sorted(counts, key=lambda zeros: -counts[zeros])[:rank]
    problem = whitened(matrix, np.full(rows, 1e-14))
    assert problem is not None
    found = sparse_directions(problem, rng, stop=lambda turn, count: turn > 20)
    dead = set(np.flatnonzero(~problem.live).tolist())
    assert {frozenset(np.flatnonzero(one.zeros).tolist()) | dead for one in found} == {
        frozenset(b) | dead for b in best
    }


def test_even_rows_do_not_depend_on_the_sizes_of_errors() -> None:
    """Up to a rotation, which no search sees: with errors from 1 down to 1e-4 as with errors of one size."""
    rng = np.random.default_rng(7)
    rank, rows = 6, 80
    errors = rng.standard_normal((rows, rank)) * (rng.random((rows, rank)) < 0.5)
    errors = errors[errors.any(1)]
    rotation = np.linalg.qr(rng.standard_normal((rank, rank)))[0]
    seen = []
    for sizes in (np.ones(rank), np.geomspace(1, 1e-4, rank)):
        matrix = errors * sizes @ rotation
        plain = whitened(matrix, 1e-13 * np.linalg.norm(matrix, axis=1))
        assert plain is not None
        even = balanced(plain)
        assert even is not None
        assert np.allclose(even.rows.T @ even.rows, len(matrix) * np.eye(rank))
        assert np.ptp(np.linalg.norm(even.rows, axis=1)) < 0.05 * rank**0.5
        # they are the rows of the matrix, each multiplied by a number
        same = matrix @ even.turn
        assert np.allclose(
            np.linalg.norm(same, axis=1)[:, None] * even.rows, np.linalg.norm(even.rows, axis=1)[:, None] * same
        )
        seen.append(even.rows @ even.rows.T)
    assert np.allclose(np.abs(seen[0]), np.abs(seen[1]), atol=0.05 * rank)


def test_where_many_rows_are_one_direction_nothing_is_balanced() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((60, 6))
    matrix[:30, 1:] = 0  # half of the units wake for one example alone
    problem = whitened(matrix, np.full(60, 1e-14))
    assert problem is not None
    assert balanced(problem) is None


def test_a_dense_basis_has_no_sparse_directions() -> None:
    rng = np.random.default_rng(0)
    problem = whitened(rng.standard_normal((60, 6)), np.full(60, 1e-14))
    assert problem is not None
    assert sparse_directions(problem, rng, stop=lambda turn, count: turn > 4) == []


@pytest.mark.parametrize(("decay", "noise"), [(1.0, 0.03), (1e6, 1e-9)], ids=["little-room", "six-decades"])
def test_a_sketch_finds_the_signal_of_the_whole_decomposition(decay: float, noise: float) -> None:
    """Noise right below the signal takes the passes, a signal of very different sizes that they are orthonormal."""
    random = np.random.default_rng(3)
    left, right = random.standard_normal((300, 12)) * np.geomspace(1, 1 / decay, 12), random.standard_normal((12, 500))
    matrix = left @ right + noise * random.standard_normal((300, 500))
    found = factor(matrix, np.random.default_rng(0))
    assert not isinstance(found, str), found
    assert found.rank == 12
    _, values, whole = np.linalg.svd(matrix, full_matrices=False)
    assert found.gap == pytest.approx(values[11] / values[12], rel=0.1)  # the noise is that of a sketch
    signal = matrix @ whole[:12].T @ whole[:12]
    np.testing.assert_allclose(found.left @ found.right, signal, atol=1e-3 * noise)
