"""Labels from the output layer alone: the rows of a batch, what signs prove, what the row space excludes."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor, nn

import leakscope as ls
from leakscope.attacks.labels.rows.behind_noise import fallen
from leakscope.attacks.labels.rows.excluded import excluded
from leakscope.attacks.labels.rows.known_rows import KnownRows
from leakscope.attacks.labels.rows.row_space import row_space
from leakscope.attacks.labels.rows.taken_apart import CROWD, Peeling, take_apart
from leakscope.attacks.parts.reading.output_gradient import read_output
from leakscope.targets.looking.nonnegative import fed_nonnegative


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    """The benchmark's own clients, which know nothing of the attack."""
    path = Path(__file__).parents[1] / "benchmarks" / "revealed_labels.py"
    spec = importlib.util.spec_from_file_location("revealed_labels", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["revealed_labels"] = module
    spec.loader.exec_module(module)
    return module


def test_nothing_false_is_proved_of_random_clients(benchmark: ModuleType) -> None:
    found = [benchmark.trial(7_700_000 + turn) for turn in range(360)]
    assert not [wrong for *_, wrong in found if wrong]
    # Else the law would be kept by an attack that proves nothing.
    assert sum(proved for _, proved, _ in found) > 40


def test_smoothing_that_is_not_declared_makes_no_class_absent(benchmark: ModuleType) -> None:
    """A client of the benchmark of which 196 classes have a negative entry and three examples are told."""
    lie, _, wrong = benchmark.trial(2026121900676)
    assert lie == "smoothing"
    assert not wrong


@pytest.mark.parametrize("confident", [False, True])
@pytest.mark.parametrize("count", [1, 6, 40])
def test_every_sample_comes_apart(benchmark: ModuleType, count: int, confident: bool) -> None:
    drawn = benchmark.head(np.random.default_rng([5, count]), 300, 128, count, confident=confident)
    attempt = ls.RevealedLabels().run(benchmark.seen(drawn, drawn.sent, ls.FedSGD(), told=False), key=ls.Key(0))
    assert Counter(attempt.claim.values.tolist()) == Counter(drawn.labels.tolist()), attempt.sentence
    assert attempt.certified


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_rows_and_features_are_those_of_the_samples(smoothing: float) -> None:
    random = np.random.default_rng(3)
    features, weight = np.abs(random.standard_normal((7, 40))), random.standard_normal((90, 40)) / 6
    offset, labels = random.standard_normal(90) / 10, random.integers(90, size=7)
    logits = features @ weight.T + offset
    errors = np.exp(logits - logits.max(1, keepdims=True))
    errors = errors / errors.sum(1, keepdims=True) - smoothing / 90
    errors[np.arange(7), labels] -= 1 - smoothing
    space = row_space(features.T @ errors / 7, np.random.default_rng(0))
    assert not isinstance(space, str)
    found = take_apart(KnownRows(space, weight, offset, smoothing), None, np.random.default_rng(0))
    assert Counter(one.label for one in found.rows) == Counter(labels.tolist())
    assert round(found.samples) == 7
    for one in found.rows:
        away = np.linalg.norm(features - space.left @ one.features, axis=1) / np.linalg.norm(features, axis=1)
        assert away.min() < 1e-6


@pytest.mark.parametrize("seed", [10, 11])
def test_unlikely_labels_beside_likely_classes_come_apart(seed: int) -> None:
    """Logits to 50, labels at random: softmax is rounded as all logits are, and the unlikely label's own is small."""
    random = np.random.default_rng([8, seed])
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 200))
    with torch.no_grad():
        net[1].weight.copy_(torch.from_numpy(random.standard_normal((200, 64)) * 5))
        net[1].bias.zero_()
    inputs = 0.3 * torch.from_numpy(random.standard_normal((12, 64))).float().reshape(12, 1, 1, 64)
    labels = torch.from_numpy(random.integers(200, size=12))
    slopes = torch.autograd.grad(F.cross_entropy(net(inputs), labels), list(net.parameters()))
    target = ls.Target(net, ls.Images(1, 1, 64, mean=(0.5,), std=(0.05,)), 200)
    seen = ls.Observation(target, ls.Gradient({"1.weight": slopes[0], "1.bias": slopes[1]}), ls.FedSGD())
    attempt = ls.RevealedLabels().run(seen, key=ls.Key(0))
    assert Counter(attempt.claim.values.tolist()) == Counter(labels.tolist()), attempt.sentence
    assert attempt.certified


def test_equal_samples_are_one_row_of_half_the_share() -> None:
    random = np.random.default_rng(4)
    features, weight = np.abs(random.standard_normal((4, 40))), random.standard_normal((90, 40)) / 6
    features[3], labels = features[2], np.array([5, 80, 33, 33])
    logits = features @ weight.T
    errors = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    errors[np.arange(4), labels] -= 1
    space = row_space(features.T @ errors / 4, np.random.default_rng(0))
    assert not isinstance(space, str)
    found = take_apart(KnownRows(space, weight, np.zeros(90)), None, np.random.default_rng(0))
    assert {one.label: times for one, times in zip(found.rows, found.times, strict=True)} == {5: 1, 80: 1, 33: 2}
    assert found.count == 4


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(20, 60))
def test_what_is_excluded_is_what_a_linear_program_excludes(seed: int, count: int, classes: int) -> None:
    random = np.random.default_rng(seed)
    shares = np.exp(random.standard_normal((count, classes)))
    errors = shares / shares.sum(1, keepdims=True)
    labels = random.integers(classes, size=count)
    errors[np.arange(count), labels] -= 1
    space = row_space(random.random((30, count)).T.T @ errors, np.random.default_rng(0))
    if isinstance(space, str) or space.rank < count:
        return
    found = excluded(space, lambda: False)
    assert not found.absent[labels].any()
    for label in random.choice(classes, size=4, replace=False):
        others = np.delete(np.arange(classes), label)
        # min q_i x over q_j x >= 0, q_i x >= -1: 0 where no row of the space can have this label, else -1.
        best = linprog(
            space.right[:, label],
            A_ub=np.vstack([-space.right[:, others].T, -space.right[:, [label]].T]),
            b_ub=np.append(np.zeros(len(others)), 1.0),
            bounds=(None, None),
        )
        assert found.absent[label] == (best.fun > -0.5)


NETS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "relu": (F.relu, True),
    "in place": (F.relu_, True),
    "sigmoid": (torch.sigmoid, True),
    "square": (lambda x: x**2, True),
    "clamp": (lambda x: x.clamp(min=0), True),
    "pooled": (lambda x: F.relu(x).mean(-1, keepdim=True).expand(-1, 8), True),
    "dropout": (lambda x: F.dropout(F.relu(x), 0.5), True),
    "gelu": (F.gelu, False),
    "negative": (lambda x: -F.relu(x), False),
    "shifted": (lambda x: F.relu(x) + -1, False),
    "times a negative integer": (lambda x: F.relu(x) * -2, False),
    "difference by alpha": (lambda x: torch.add(F.relu(x), F.relu(-x), alpha=-1), False),
    "changed in place": (lambda x: F.relu(x).sub_(0.5), False),
    "hardtanh": (F.hardtanh, False),
    "normalized": (lambda x: F.layer_norm(F.relu(x), (8,)), False),
}


class _Through(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(4, 8), nn.Linear(8, 3), function

    def forward(self, inputs: Tensor) -> Tensor:
        """Dense, function, dense."""
        return self.last(self.function(self.first(inputs.flatten(1))))


@pytest.mark.parametrize("name", NETS)
def test_features_are_never_negative_by_what_made_them(name: str) -> None:
    function, never = NETS[name]
    assert fed_nonnegative(ls.Target(_Through(function), ls.Images(1, 2, 2), 3), "last") is never


def test_a_view_that_is_written_to_is_noticed() -> None:
    def written(x: Tensor) -> Tensor:
        y = F.relu(x)
        y[0].sub_(3.0)
        return y

    assert not fed_nonnegative(ls.Target(_Through(written), ls.Images(1, 2, 2), 3), "last")


def test_signs_survive_the_defenses_that_keep_them(benchmark: ModuleType) -> None:
    for defense in (ls.Sign(), ls.RandomDrop(0.9), ls.Prune(0.1), ls.Quantize(8)):
        drawn = benchmark.head(np.random.default_rng(8), 400, 128, 10, confident=False)
        sent = defense.apply(drawn.sent, key=ls.Key(1))
        attempt = ls.RevealedLabels().run(benchmark.seen(drawn, sent, ls.FedSGD() >> defense, told=True), key=ls.Key(0))
        assert attempt.claim.distinct
        assert set(attempt.claim.values.tolist()) == set(drawn.labels.tolist()), defense


def test_reversed_signs_prove_nothing(benchmark: ModuleType) -> None:
    drawn = benchmark.head(np.random.default_rng(9), 60, 64, 4, confident=False)
    sent = {name: -value for name, value in drawn.sent.items()}
    attempt = ls.RevealedLabels().run(benchmark.seen(drawn, sent, ls.FedSGD(), told=True), key=ls.Key(0))
    assert not attempt.certified


def test_weights_that_are_not_known_leave_what_is_not_excluded(benchmark: ModuleType) -> None:
    drawn = benchmark.head(np.random.default_rng(10), 200, 64, 5, confident=False)
    weight_only = {"2.weight": drawn.sent["2.weight"]}
    attack = ls.RevealedLabels(weights=False)
    attempt = attack.run(benchmark.seen(drawn, weight_only, ls.FedSGD(), told=True), key=ls.Key(0))
    present = set(drawn.labels.tolist())
    assert set(attempt.claim.values.tolist()) == present
    assert set(attempt.claim.absent.tolist()) == set(range(200)) - present


def test_too_many_samples_are_refused(benchmark: ModuleType) -> None:
    drawn = benchmark.head(np.random.default_rng(11), 12, 64, 30, confident=False)
    weight_only = {"2.weight": drawn.sent["2.weight"]}
    net = nn.Sequential(nn.Flatten(), nn.GELU(), *list(drawn.target.module)[2:])
    target = ls.Target(net, drawn.target.domain, 12)
    attempt = ls.RevealedLabels().run(ls.Observation(target, ls.Gradient(weight_only), ls.FedSGD()), key=ls.Key(0))
    assert attempt.outcome is ls.Outcome.REFUSED
    assert "as many samples as it can hold" in attempt.sentence


def test_a_class_cannot_be_there_and_absent() -> None:
    with pytest.raises(ls.BadInput, match="claimed and said to be absent"):
        ls.Labels(torch.tensor([1, 2]), distinct=True, absent=torch.tensor([2, 3]))
    with pytest.raises(ls.BadInput, match="rising order"):
        ls.Labels(torch.tensor([1]), absent=torch.tensor([3, 2]))


def test_what_is_said_to_be_absent_is_held_to_the_truth() -> None:
    secret = ls.Secret(ls.Batch(torch.rand(2, 1, 2, 2), torch.tensor([1, 4])))
    right = ls.score(ls.Labels(torch.tensor([1, 4]), absent=torch.tensor([0, 2])), secret)
    assert any("2 classes were said not to occur, and none does" in note for note in right.notes)
    wrong = ls.score(ls.Labels(torch.tensor([1]), distinct=True, absent=torch.tensor([0, 4])), secret)
    assert any("WRONGLY of [4]: a defect" in note for note in wrong.notes)


@pytest.mark.parametrize("size", [0.01, 0.3])
def test_behind_noise_a_test_names_the_classes_and_proves_none(benchmark: ModuleType, size: float) -> None:
    drawn = benchmark.head(np.random.default_rng(31), 200, 128, 12, confident=False)
    noise = ls.GaussianNoise(size * float(drawn.sent["2.weight"].square().mean().sqrt()))
    sent = noise.apply(drawn.sent, key=ls.Key(3))
    attempt = ls.RevealedLabels().run(benchmark.seen(drawn, sent, ls.FedSGD() >> noise, told=False), key=ls.Key(0))
    assert set(attempt.claim.values.tolist()) == set(drawn.labels.tolist()), attempt.sentence
    assert attempt.claim.distinct
    assert attempt.certificate is None
    assert "a statistic, no proof" in attempt.sentence


@pytest.mark.parametrize("noise", [ls.GaussianNoise(1.0), ls.LaplaceNoise(1.0)])
def test_the_level_of_the_test_is_kept_where_nothing_is_there(noise: ls.GaussianNoise | ls.LaplaceNoise) -> None:
    """An update of noise alone: a class is named in one of a hundred, 95 % binomial bound of 400 trials."""
    net = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(32, 50))
    target, mechanism = ls.Target(net, ls.Images(1, 1, 32), 50), ls.FedSGD() >> noise
    nothing = {name: torch.zeros_like(value) for name, value in target.parameters().items()}
    named = 0
    for turn in range(400):
        seen = ls.Observation(target, ls.Gradient(noise.apply(nothing, key=ls.Key(turn))), mechanism, ())
        tests = fallen(seen, read_output(seen))
        assert tests is not None
        named += bool(tests.present.any())
    assert named <= 8


def test_a_test_speaks_for_nothing_where_features_may_be_negative(benchmark: ModuleType) -> None:
    drawn = benchmark.head(np.random.default_rng(32), 60, 32, 6, confident=False)
    open_ = benchmark.unsigned(drawn)
    noise = ls.GaussianNoise(0.01)
    weight_only = {"2.weight": drawn.sent["2.weight"]}
    seen = benchmark.seen(drawn, weight_only, ls.FedSGD() >> noise, told=False)
    assert fallen(seen, read_output(seen)) is not None
    seen = benchmark.seen(open_, weight_only, ls.FedSGD() >> noise, told=False)
    assert fallen(seen, read_output(seen)) is None


def test_rows_stand_for_no_more_samples_than_can_be(benchmark: ModuleType) -> None:
    """Found by a benchmark: of an update in eight bits a row had a share of 1e-9, and its copies took all memory."""
    for turn in range(6):
        drawn = benchmark.head(np.random.default_rng([3, 6, turn]), 1000, 512, 10, confident=False)
        sent = ls.Quantize(16).apply(drawn.sent, key=ls.Key(0))
        attempt = ls.RevealedLabels().run(
            benchmark.seen(drawn, sent, ls.FedSGD() >> ls.Quantize(16), told=turn < 3), key=ls.Key(0)
        )
        assert attempt.claim is not None
        assert len(attempt.claim) <= (10 if turn < 3 else 10 + CROWD)


@pytest.mark.parametrize("attack", [ls.RevealedLabels(), ls.RevealedFeatures()])
@pytest.mark.parametrize("told", [True, False])
def test_a_share_below_rounding_is_no_crowd(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, attack: Any, told: bool
) -> None:
    """A row whose share came out as 1e-9 stood for billions of samples, each of which was claimed."""
    drawn = benchmark.head(np.random.default_rng(33), 60, 32, 4, confident=False)
    honest = Peeling._times
    monkeypatch.setattr(
        Peeling, "_times", staticmethod(lambda samples, parts, vague: honest(samples, 1e-9 * parts, 0 * vague))
    )
    attempt = attack.run(benchmark.seen(drawn, drawn.sent, ls.FedSGD(), told=told), key=ls.Key(0))
    assert attempt.claim is not None
    assert len(attempt.claim.values) <= 4


def test_the_published_programs_find_the_classes(benchmark: ModuleType) -> None:
    drawn = benchmark.head(np.random.default_rng(34), 100, 64, 5, confident=False)
    for one in (drawn, benchmark.unsigned(drawn)):
        seen = benchmark.seen(one, {"2.weight": one.sent["2.weight"]}, ls.FedSGD(), told=True)
        attempt = ls.RLG().run(seen, key=ls.Key(0))
        assert set(attempt.claim.values.tolist()) == set(drawn.labels.tolist()), attempt.sentence
        assert attempt.certificate is None


ROUNDS: dict[str, tuple[Any, Any]] = {
    "condition 1": (ls.Perceptrons(50, share=1.0), ls.LinearPrograms(5000, 1e-8, depth=0.0)),
    "condition 2": (ls.Perceptrons(50, share=1.0), ls.LinearPrograms(5000, 1e-8, depth=0.5)),
    "perceptrons": (ls.Perceptrons(50, share=1.0), ls.Perceptrons(5000, share=1.0, epochs=5000, tolerance=None)),
}
"""The published ones for speech, with fewer columns in the first round."""


@pytest.mark.parametrize("rounds", ROUNDS.values(), ids=ROUNDS)
def test_each_published_kind_of_second_round_names_the_classes(benchmark: ModuleType, rounds: tuple[Any, Any]) -> None:
    """Programs those alone; perceptrons, which may shift their plane, more where there are few columns."""
    drawn = benchmark.unsigned(benchmark.head(np.random.default_rng(36), 60, 32, 4, confident=False))
    seen = benchmark.seen(drawn, {"2.weight": drawn.sent["2.weight"]}, ls.FedSGD(), told=True)
    attempt, relaxed = (ls.RLG(*one).run(seen, key=ls.Key(0)) for one in (rounds, (rounds[0], None)))
    found, truth = set(attempt.claim.values.tolist()), set(drawn.labels.tolist())
    assert truth == found if isinstance(rounds[1], ls.LinearPrograms) else truth <= found, attempt.sentence
    assert found <= set(relaxed.claim.values.tolist()), "a second round can only take away"


ON_A_LINE = np.array([[-2.0, -1.0, 1.0, 3.0], [0.0, 0.0, 0.0, 0.0]])
"""Four columns; column 0 can be told from 2 and 3, and from 1 only by an intercept, which programs do not have."""


@pytest.mark.parametrize(
    ("passing", "others", "passes"),
    [
        (ls.LinearPrograms(), [2, 3], True),
        (ls.LinearPrograms(), [1, 2, 3], False),
        (ls.LinearPrograms(depth=1.9), [2, 3], True),
        (ls.LinearPrograms(depth=2.0), [2, 3], False),
        (ls.LinearPrograms(epsilon=3.0), [2, 3], False),
        (ls.Perceptrons(share=1.0, tolerance=None), [1, 2, 3], True),
        (ls.Perceptrons(share=1.0), [2, 3], True),
        # One epoch without tolerance leaves it where it is, on the side of nearly all.
        (ls.Perceptrons(share=0.7), [1, 1, 1, 1, 1, 0], True),
        (ls.Perceptrons(share=1.0), [1, 1, 1, 1, 1, 0], False),
    ],
)
def test_each_condition_of_a_round_counts(passing: Any, others: list[int], passes: bool) -> None:
    """By hand: min q_0 x over the box is -2 at x = 1, and with 1 among the others both cannot be met."""
    assert passing.passes(ON_A_LINE, 0, np.array(others), ls.Key(0)) is passes


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: ls.RLG(None, None),
        lambda: ls.Perceptrons(columns=0),
        lambda: ls.Perceptrons(share=1.5),
        lambda: ls.Perceptrons(tolerance=0.0),
        lambda: ls.LinearPrograms(columns=0),
        lambda: ls.LinearPrograms(epsilon=0.0),
        lambda: ls.LinearPrograms(depth=-1.0),
    ],
)
def test_rounds_that_say_nothing_are_refused(wrong: Callable[[], Any]) -> None:
    with pytest.raises(ls.BadInput, match="expected"):
        wrong()


def test_the_published_programs_say_where_the_count_they_were_told_is_not_that_of_the_gradient(
    benchmark: ModuleType,
) -> None:
    drawn = benchmark.head(np.random.default_rng(34), 100, 64, 5, confident=False)
    seen = ls.Observation(drawn.target, ls.Gradient(drawn.sent), ls.FedSGD(), (ls.BatchSize(7),))
    attempt = ls.RLG(first=None).run(seen, key=ls.Key(0))
    assert "5 singular values are above 1e-05, and 7 examples were told" in attempt.sentence


def test_the_published_programs_refuse_a_full_row_space(benchmark: ModuleType) -> None:
    drawn = benchmark.head(np.random.default_rng(35), 6, 64, 8, confident=False)
    assert "fill the row space" in ls.RLG().refusal(benchmark.seen(drawn, drawn.sent, ls.FedSGD(), told=True)).sentence
    bias_only = {"2.bias": drawn.sent["2.bias"]}
    seen = benchmark.seen(drawn, bias_only, ls.FedSGD(), told=True)
    assert "was not sent" in ls.RLG().refusal(seen).sentence
