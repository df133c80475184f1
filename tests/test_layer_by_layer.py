"""What every dense layer was fed, from the output layer down; and features as a kind of claim."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import leakscope as ls
from leakscope.attacks.inputs.layer_by_layer.descent import Down, Ends, Sample
from leakscope.attacks.inputs.layer_by_layer.one_layer import awake, fed, remasked
from leakscope.audit.engines.inline import Inline
from leakscope.audit.one_claim import judged
from leakscope.audit.plan import Plan, Scene
from leakscope.audit.proofs import Proof, wrong
from leakscope.audit.run import run
from leakscope.core.attempt import Certificate
from leakscope.ledger.record import Word
from leakscope.scoring.case import Case, Client
from leakscope.scoring.referee import right
from leakscope.targets.looking.dense_tail import TailLayer, dense_tail


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    """The benchmark's own clients, which know nothing of the attack."""
    path = Path(__file__).parents[1] / "benchmarks" / "layer_by_layer.py"
    spec = importlib.util.spec_from_file_location("layer_by_layer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["layer_by_layer"] = module
    spec.loader.exec_module(module)
    return module


# --- the attack -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drop", [0.0, 0.5])
@pytest.mark.parametrize("count", [1, 8, 32])
def test_every_dense_layer_comes_apart(benchmark: ModuleType, count: int, drop: float) -> None:
    sent = benchmark.honest(32, count, 100, drop, "he")
    seen = benchmark.observed(sent, ls.FedSGD(), told=False, domain=ls.Images(3, 32, 32))
    for depth, name in ((1, "11"), (2, "8"), (None, "5")):
        attempt = ls.RevealedFeatures(depth).run(seen, key=ls.Key(0))
        assert isinstance(attempt.claim, ls.Features)
        assert attempt.claim.layer == name
        own, true = benchmark.errors(attempt.claim, sent.fed[name])
        assert max(own.max(), true.max()) < 1e-5
        assert sorted(attempt.claim.labels.tolist()) == sorted(sent.labels.tolist())
        assert attempt.certificate is not None
        assert np.mean(attempt.certificate.proved) >= 0.95


def test_nothing_false_is_certified_of_random_clients(benchmark: ModuleType) -> None:
    found = [benchmark.trial(5_300_000 + turn) for turn in range(220)]
    assert not [said for *_, said in found if said]
    # Else the law would be kept by an attack that proves nothing; and lies are what it is about.
    assert sum(count > 0 for lie, count, _ in found if lie == "none") > 6
    assert len({lie for lie, *_ in found}) > 15


@pytest.mark.parametrize("lie", ["dropout", "scaled by tensor", "two batches", "other activation", "top-k"])
def test_a_client_that_does_something_else_gets_no_certificate_below_the_output(
    benchmark: ModuleType, lie: str
) -> None:
    with ls.Key(4).isolated():
        torch.manual_seed(4)
        net = benchmark._small(100, 0.2 if lie != "dropout" else 0.0)
        benchmark.he(net)
        net = net if lie == "dropout" else net.eval()
        inputs, labels = torch.rand(6, 1, 10, 10), torch.randint(100, (6,))
        layers, update = benchmark._sent(net, inputs, labels, lie, np.random.default_rng(0))
    sent = benchmark.Sent(net, layers, update, labels)
    seen = benchmark.observed(sent, ls.FedSGD(), told=False, domain=ls.Images(1, 10, 10), training=lie == "dropout")
    attempt = ls.RevealedFeatures().run(seen, key=ls.Key(0))
    if attempt.certificate is not None and any(attempt.certificate.proved):
        # What the output layer was fed is no less true of another activation, and all that can be said.
        assert attempt.claim.layer == "9"
        assert lie in ("dropout", "other activation")
        assert benchmark.errors(attempt.claim, sent.fed["9"])[0].max() < 1e-4


def test_inputs_solve_the_layers_own_equation() -> None:
    random = np.random.default_rng(0)
    inputs, errors = np.abs(random.standard_normal((7, 50))), random.standard_normal((7, 30))
    found = fed(errors.T @ inputs / 7, errors, 7.0, np.full(7, 1e-12))
    assert np.allclose(found.values, inputs, atol=1e-10)
    assert (found.off < 1e-6).all()
    # N stands in it: of a sum that is told as a mean everything is as many times as large.
    assert np.allclose(fed(errors.T @ inputs / 7, errors, 14.0, np.full(7, 1e-12)).values, 2 * inputs, atol=1e-9)


def test_the_estimated_error_is_that_of_noise() -> None:
    random = np.random.default_rng(1)
    inputs, errors = np.abs(random.standard_normal((9, 400))), random.standard_normal((9, 60))
    errors[3] = errors[2] + 1e-3 * random.standard_normal(60)
    gradient = errors.T @ inputs / 9
    noisy = gradient + 1e-6 * random.standard_normal(gradient.shape)
    found = fed(noisy, errors, 9.0, np.full(9, 1e-12))
    really = np.linalg.norm(found.values - inputs, axis=1) / np.linalg.norm(inputs, axis=1)
    assert (really < 1.5 * found.off).all()
    assert (found.off < 3 * really).all()
    assert really[2] > 100 * really[0], "two errors nearly alike tell their samples apart badly"


def test_masks_are_read_off_the_gradient_where_features_are_blurred() -> None:
    random = np.random.default_rng(2)
    features = np.maximum(random.standard_normal((12, 80)), 0)
    inputs, full = random.standard_normal((12, 100)), random.standard_normal((12, 80))
    truth = features > 0
    gradient = (full * truth).T @ inputs / 12
    blurred = truth ^ (random.random(truth.shape) < 0.02)
    assert (remasked(gradient, full, blurred, 12.0) == truth).all()
    assert (awake(features) == truth).all()
    # A sample's own error shows in its negative features.
    assert not awake(np.array([[1.0, 0.02, -0.01]]))[0, 1]


def test_what_was_dropped_is_zero_and_the_rest_twice_as_large() -> None:
    target = _target(drop=0.5, training=True)
    batch = _batch(5)
    key = ls.Key(3)
    seen = ls.observe(target, batch, ls.FedSGD(), key=key)
    attempt = ls.RevealedFeatures(1).run(seen, key=ls.Key(0))
    assert attempt.certified
    score = ls.score(attempt.claim, batch, client=Client(target, ls.FedSGD(), key))["feature-error"]
    assert score.value < 1e-5
    # Without the client's draws nobody can say what was dropped.
    assert ls.score(attempt.claim, batch, client=Client(target))["feature-error"].value > 0.1


def test_dropout_that_is_a_defense_is_dropped_in_the_truth_too() -> None:
    target, batch, key = _target(drop=0.1), _batch(4), ls.Key(8)
    mechanism = ls.FedSGD() >> ls.Dropout(0.4)
    attempt = ls.RevealedFeatures().run(ls.observe(target, batch, mechanism, key=key), key=ls.Key(0))
    assert attempt.claim is not None
    assert ls.score(attempt.claim, batch, client=Client(target, mechanism, key))["features-found"].value == 1.0
    case = Case(batch, client=Client(target, mechanism, key))
    assert attempt.certificate is not None
    assert all(right(attempt.claim, case, attempt.certificate.tolerances))


@pytest.mark.parametrize(
    ("mechanism", "says"),
    [
        (ls.FedAvg(steps=2, lr=0.1), "the weights moved during local steps"),
        (ls.FedSGD() >> ls.Sign(), "a defense changed entries one by one"),
        (ls.FedSGD() >> ls.GaussianNoise(1e-3), "a defense changed entries one by one"),
        (ls.FedSGD() >> ls.Prune(0.5), "a defense changed entries one by one"),
    ],
)
def test_refused_with_the_reason(mechanism: ls.AbstractMechanism, says: str) -> None:
    refusal = ls.RevealedFeatures().refusal(ls.observe(_target(), _batch(2), mechanism, key=ls.Key(0)))
    assert refusal is not None
    assert says in refusal.sentence


def test_too_few_classes_are_refused_and_a_clip_costs_the_proof() -> None:
    refusal = ls.RevealedFeatures().refusal(ls.observe(_target(10), _batch(5, 10), ls.FedSGD(), key=ls.Key(0)))
    assert refusal is not None
    assert "10 classes are too few for 5 samples" in refusal.sentence
    clipped = ls.FedSGD() >> ls.Clip(1e-3)
    attempt = ls.RevealedFeatures().run(ls.observe(_target(), _batch(3), clipped, key=ls.Key(0)), key=ls.Key(0))
    assert attempt.claim is not None
    assert attempt.certificate is None
    noised = ls.FedSGD() >> ls.InputNoise(0.1)
    attempt = ls.RevealedFeatures().run(ls.observe(_target(), _batch(3), noised, key=ls.Key(0)), key=ls.Key(0))
    assert attempt.certificate is None


def test_a_told_number_of_samples_that_is_another_costs_the_proof() -> None:
    seen = ls.observe(_target(), _batch(3), ls.FedSGD(), key=ls.Key(0))
    told = ls.Observation(seen.target, seen.release, seen.mechanism, (ls.BatchSize(4),))
    attempt = ls.RevealedFeatures().run(told, key=ls.Key(0))
    assert attempt.certificate is None
    assert "3 samples were found, and 4 told" in attempt.sentence


def test_an_update_of_another_size_proves_nothing() -> None:
    seen = ls.observe(_target(), _batch(4), ls.FedSGD(), key=ls.Key(0))
    larger = ls.Gradient({name: 1.5 * value for name, value in seen.release.by_name.items()})
    found = ls.RevealedFeatures().run(ls.Observation(seen.target, larger, seen.mechanism), key=ls.Key(0))
    assert found.certificate is None
    assert "1.5 times the mean" in found.sentence


def test_a_mask_that_its_inputs_contradict_is_noticed() -> None:
    seen = ls.observe(_target(), _batch(3), ls.FedSGD(), key=ls.Key(0))
    ready = ls.RevealedFeatures()._read(seen)
    assert isinstance(ready, Ends)
    down = Down(seen, ready, Sample(np.zeros(3, np.int64), 3.0, np.ones(3), np.full(3, 1e-7)), np.zeros((3, 60)))
    inputs = seen.target.module[:4](_batch(3).inputs).detach().double().numpy()
    z = seen.target.module[4](torch.from_numpy(inputs).float()).detach().numpy()
    mask = z > 0
    assert not down._forward(ready.tail[1], inputs, mask)[1].any()
    mask[1, int(z[1].argmax())] = False
    mask[2, int(z[2].argmin())] = True
    assert down._forward(ready.tail[1], inputs, mask)[1].tolist() == [False, True, True]
    # A unit that may have been dropped contradicts nothing; one that is awake below zero does.
    dropping = dataclasses.replace(ready.tail[1], keep=0.5)
    assert down._forward(dropping, inputs, mask)[1].tolist() == [False, False, True]


def test_equal_samples_are_claimed_as_often_as_they_occur() -> None:
    batch = _batch(4)
    twice = ls.Batch(batch.inputs[[0, 1, 2, 2]], batch.labels[[0, 1, 2, 2]])
    target = _target()
    seen = ls.observe(target, twice, ls.FedSGD(), key=ls.Key(0))
    attempt = ls.RevealedFeatures().run(seen, key=ls.Key(0))
    assert ls.score(attempt.claim, twice, client=Client(target))["features-found"].value == 1.0
    assert attempt.certificate is not None
    # What two of one error were fed is known as their mean alone.
    assert sorted(attempt.certificate.proved) == [False, False, True, True]


def test_classes_that_are_never_likely_do_not_tell_features_apart() -> None:
    """Five entries of three features move only logits of classes whose p rounds to zero."""
    with ls.Key(0).isolated():
        layer = nn.Linear(16, 40)
        inputs = torch.rand(3, 1, 4, 4)
    with torch.no_grad():
        layer.weight[:25, 8:] = 0
        layer.bias[25:] = -110
    inputs[1, 0, :2] = inputs[0, 0, :2]
    target = ls.Target(nn.Sequential(nn.Flatten(), layer), ls.Images(1, 4, 4), 40)
    batch = ls.Batch(inputs, torch.tensor([3, 3, 7]))
    attempt = ls.RevealedFeatures(1).run(ls.observe(target, batch, ls.FedSGD(), key=ls.Key(0)), key=ls.Key(1))
    assert attempt.claim is not None
    assert attempt.certificate is not None
    away = torch.cdist(attempt.claim.values.double(), inputs.flatten(1).double()).min(1).values
    assert attempt.certificate.proved == tuple((away < 1e-3).tolist())


# --- the end of a model ---------------------------------------------------------------------------------------------


class _Called(nn.Module):
    """Dense, something that the forward calls, dense."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(4, 6), nn.Linear(6, 3), function

    def forward(self, inputs: Tensor) -> Tensor:
        """The logits."""
        return self.last(self.function(self.first(inputs.flatten(1))))


@pytest.mark.parametrize(
    ("function", "depth"),
    [(F.relu, 2), (lambda x: x, 2), (F.gelu, 1), (lambda x: 2 * F.relu(x), 1), (lambda x: F.relu(x) + x, 1)],
)
def test_what_stands_between_two_dense_layers_is_told_by_its_values(
    function: Callable[[Tensor], Tensor], depth: int
) -> None:
    assert len(dense_tail(ls.Target(_Called(function), ls.Images(1, 2, 2), 3))) == depth


def test_a_layer_that_is_called_twice_ends_it() -> None:
    shared = nn.Linear(6, 6)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(6, 3))
    assert dense_tail(ls.Target(net, ls.Images(1, 2, 2), 3)) == (TailLayer("7", "7.weight", "7.bias"),)


# --- the kind of claim ----------------------------------------------------------------------------------------------


def test_features_are_held_to_what_the_layer_was_fed() -> None:
    target, batch = _target(), _batch(3)
    truth = target.module[:-1](batch.inputs).detach()
    name = str(len(target.module) - 1)
    case = Case(batch, client=Client(target))
    claim = ls.Features(name, truth.flip(0), batch.labels.flip(0))
    found = ls.score(claim, batch, client=Client(target))
    assert found["feature-error"].value < 1e-6
    assert found["label-accuracy"].value == 1.0
    assert found.pairing.partners == (2, 1, 0)
    assert right(claim, case, (1e-4,) * 3) == (True, True, True)
    mean = ls.Features(name, truth.mean(0, keepdim=True))
    assert right(mean, case, (1e-4,)) == (False,)
    certificate = Certificate.alike(0.0, 1e-4, "s")
    scores = tuple(ls.score(mean, batch, client=Client(target)))
    assert wrong(Proof.of(certificate, (False,)), next(one for one in scores if one.metric == "feature-error"))
    assert "a defect of the attack" in judged(scores, certificate, (False,))[1]
    scores = tuple(ls.score(dataclasses.replace(claim, labels=None), batch, client=Client(target)))
    assert judged(scores, Certificate.alike(0.0, 1e-4, "s", items=3), (True,) * 3)[0] is Word.LEAKS


def test_no_blind_guess_of_features_beats_chance() -> None:
    target, batch = _target(), _batch(6)
    public = _batch(40, seed=9)
    client, name = Client(target), str(len(target.module) - 1)
    pool = target.module[:-1](public.inputs).detach()
    for guess in (pool.mean(0, keepdim=True).expand(6, -1), torch.zeros(6, pool.shape[1])):
        found = ls.score(ls.Features(name, guess), batch, public=public, client=client)
        assert not any(score.beats_chance for score in found)
    missing = ls.score(ls.Features(name, pool[:2]), batch, public=public, client=client)["feature-error"]
    assert missing.items[missing.claimed :] or missing.claimed == 2
    assert len(missing.items) == 6


def test_features_without_their_model_and_of_no_layer_are_refused_in_words() -> None:
    target, batch = _target(), _batch(2)
    with pytest.raises(ls.BadInput, match="by running the model"):
        ls.score(ls.Features("5", torch.zeros(2, 4)), batch)
    with pytest.raises(ls.BadInput, match="no layer 'fc'"):
        ls.score(ls.Features("fc", torch.zeros(2, 4)), batch, client=Client(target))
    with pytest.raises(ls.BadInput, match="claimed features of 4 numbers"):
        ls.score(ls.Features("5", torch.zeros(2, 4)), batch, client=Client(target))
    with pytest.raises(ls.BadInput, match=r"floating \(N, d\)"):
        ls.Features("5", torch.zeros(2, 4, 4))
    with pytest.raises(ls.BadInput, match="finite"):
        ls.Features("5", torch.full((2, 4), float("nan")))


def test_an_audit_scores_features_beside_their_blind_control(tmp_path: Path) -> None:
    source = ls.Synthetic(shape=(1, 10, 10), classes=40, count=400)
    plan = Plan(
        title="features",
        scenes=(Scene("dense", source, ls.MLP((64, 48))),),
        mechanisms=(ls.FedSGD(), ls.FedSGD() >> ls.Sign()),
        attacks=(ls.RevealedFeatures(),),
        trials=3,
        batch_sizes=(6,),
        metrics=(ls.FeatureError(),),
    )
    summary = run(plan, tmp_path, engine=Inline())
    words = {group.mechanism: (group.word, group.sentence) for group in summary.groups}
    assert words["FedSGD()"][0] is Word.LEAKS
    assert "proved by its own equations in 3 of 3 trials" in words["FedSGD()"][1]
    assert words["FedSGD() >> Sign()"][0] is Word.INCONCLUSIVE


def _target(classes: int = 60, *, drop: float = 0.0, training: bool = False) -> ls.Target:
    with ls.Key(1).isolated():
        net = nn.Sequential(
            nn.Flatten(), nn.Linear(100, 48), nn.ReLU(), nn.Dropout(drop), nn.Linear(48, 40), nn.ReLU(),
            nn.Dropout(drop), nn.Linear(40, classes),
        )  # fmt: skip
        for layer in net:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
    return ls.Target(net, ls.Images(1, 10, 10), classes, training=training)


def _batch(count: int, classes: int = 60, *, seed: int = 2) -> ls.Batch:
    generator = ls.Key(seed).generator()
    inputs = torch.rand(count, 1, 10, 10, generator=generator)
    return ls.Batch(inputs, torch.randint(classes, (count,), generator=generator))


WRAPPED = [ls.FedAvg(steps=1, lr=1.0, batch_size=2, accumulate=2), ls.FedAvg(steps=1, lr=1.0, batch_size=2)]


@pytest.mark.parametrize("mechanism", WRAPPED, ids=["three as four", "two of three"])
@pytest.mark.parametrize("attack", [ls.RevealedLabels(), ls.RevealedFeatures()], ids=repr)
def test_a_pass_that_goes_round_or_ends_early_proves_no_counts(mechanism: ls.FedAvg, attack: Any) -> None:
    """Of three examples the micro-batches (0, 1), (2, 0) take one twice: four samples that are no four examples."""
    with ls.Key(0).isolated():
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 40))
    batch = ls.Batch(torch.rand(3, 1, 8, 8, generator=ls.Key(1).generator()), torch.tensor([10, 4, 34]))
    target = ls.Target(net, ls.Images(1, 8, 8), 40)
    attempt = attack.run(ls.observe(target, batch, mechanism, key=ls.Key(0)), key=ls.Key(1))
    assert attempt.claim is not None
    assert not attempt.certified, attempt.sentence
    whole = attack.run(ls.observe(target, batch, ls.FedAvg(steps=1, lr=1.0), key=ls.Key(0)), key=ls.Key(1))
    assert whole.certified, whole.sentence


@pytest.mark.parametrize("told", [True, False])
def test_of_two_that_the_layer_does_not_tell_apart_the_mean_is_no_proof(told: bool) -> None:
    """Two of one class that differ in pixels of weight zero: the update is that of their mean, twice.

    Where nobody told how many there are, each of the others may be a mean of two as well.
    """
    with ls.Key(0).isolated():
        net = nn.Sequential(
            *(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 30))
        )
        inputs = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        net[1].weight[:, :16] = 0
    inputs[1] = inputs[0]
    inputs[1, 0, :2] = inputs[0, 0, :2].flip(0)
    target, batch = ls.Target(net, ls.Images(1, 8, 8), 30), ls.Batch(inputs, torch.tensor([3, 3, 7, 11]))
    seen = ls.observe(target, batch, ls.FedSGD(), key=ls.Key(0), tell=[ls.BatchSize(4)] if told else [])
    attempt = ls.RevealedFeatures().run(seen, key=ls.Key(1))
    assert attempt.claim is not None
    assert attempt.certificate is not None
    away = torch.cdist(attempt.claim.values.double(), inputs.flatten(1).double()).min(1).values
    assert len(away) == 4
    assert attempt.certificate.proved == tuple((told & (away < 1e-3)).tolist())
    # An infinite residual is no equation that fails.
    assert ("would be proved if BatchSize was told" in attempt.sentence) is not told


def test_layers_that_share_a_bias_end_it() -> None:
    with ls.Key(0).isolated():
        one, two, last = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 30)
    two.bias = one.bias
    net = nn.Sequential(nn.Flatten(), one, nn.ReLU(), two, nn.ReLU(), last)
    batch = ls.Batch(torch.rand(3, 1, 8, 8, generator=ls.Key(1).generator()), torch.tensor([1, 2, 3]))
    seen = ls.observe(ls.Target(net, ls.Images(1, 8, 8), 30), batch, ls.FedSGD(), key=ls.Key(0))
    assert "shares its bias" in ls.RevealedFeatures().run(seen, key=ls.Key(1)).sentence


# --- language models ------------------------------------------------------------------------------------------------


def spoken_of(ids: Tensor, *, tied: bool = False) -> tuple[ls.Observation, Tensor, ls.Target]:
    """A decoder in plain PyTorch calls, and what its head was fed at the places with a next token."""
    target = ls.TextDecoder(dim=64, heads=4).build(ls.Text(300, 16), 2, key=ls.Key(3))
    module = target.module
    assert isinstance(module.head, nn.Linear)
    if tied:
        module.head.weight = module.token_embedding.weight  # type: ignore[union-attr]
        target = ls.Target(module, target.domain, 300, loss=ls.NextToken())
    kept: list[Tensor] = []
    handle = module.head.register_forward_hook(lambda layer, given, returned: kept.append(given[0].detach()))
    logits = module.requires_grad_(True)(ids)
    handle.remove()
    rows = [F.cross_entropy(row[: len(one) - 1], one[1:]) for row, one in zip(logits, map(_real, ids), strict=True)]
    slopes = torch.autograd.grad(torch.stack(rows).mean(), list(module.parameters()))
    update = {name: value for (name, _), value in zip(module.named_parameters(), slopes, strict=True)}
    fed_ = torch.cat([state[: len(_real(one)) - 1] for state, one in zip(kept[0], ids, strict=True)])
    return ls.Observation(target, ls.Gradient(update), ls.FedSGD(), (ls.BatchSize(len(ids)),)), fed_.double(), target


def _real(ids: Tensor) -> Tensor:
    return ids[: int((ids != 0).sum())]


def texts(*lengths: int) -> Tensor:
    ids = torch.randint(1, 300, (len(lengths), max(lengths)), generator=ls.Key(8).generator())
    return ids * (torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None])


@pytest.mark.parametrize("lengths", [(9,), (16,), (12, 12)], ids=str)
def test_every_hidden_state_and_next_token_of_a_language_model_comes_back(
    benchmark: ModuleType, lengths: tuple[int, ...]
) -> None:
    ids = texts(*lengths)
    seen, states, target = spoken_of(ids)
    attempt = ls.RevealedFeatures().run(seen, key=ls.Key(0))
    assert attempt.certified, attempt.sentence
    own, true = benchmark.errors(attempt.claim, states)
    assert max(own.max(), true.max()) < 1e-5
    following = sorted(token for one in ids for token in _real(one)[1:].tolist())
    assert sorted(attempt.claim.labels.tolist()) == following
    batch = ls.Batch(ids, torch.zeros(len(ids), dtype=torch.int64))
    found = ls.score(attempt.claim, batch, domain=target.domain, client=ls.Client(target, ls.FedSGD(), ls.Key(0)))
    assert found["features-found"].exact == len(following)
    # Next tokens are all but the first of each text, and judged as tokens, not as the labels of examples.
    assert found["token-error"].value < 0.1
    assert "label-accuracy" not in [one.metric for one in found]


def test_texts_of_unlike_length_weigh_differently_and_prove_nothing(benchmark: ModuleType) -> None:
    seen, states, _ = spoken_of(texts(12, 11))
    attempt = ls.RevealedFeatures().run(seen, key=ls.Key(0))
    assert not attempt.certified
    own, _ = benchmark.errors(attempt.claim, states)
    assert own.max() < 1e-4
    seen, states, _ = spoken_of(texts(16, 6))
    attempt = ls.RevealedFeatures().run(seen, key=ls.Key(0))
    assert not attempt.certified


def test_a_tied_head_is_refused() -> None:
    seen, *_ = spoken_of(texts(9), tied=True)
    attempt = ls.RevealedFeatures().run(seen, key=ls.Key(0))
    assert attempt.claim is None
    assert "lacks head.weight" in attempt.sentence  # the model lists the shared weight as the embedding's


def test_an_audit_of_a_language_model_reads_its_features() -> None:
    source = ls.Sentences(length=12, count=64)
    plan = Plan(
        title="places", scenes=(Scene("decoder", source, ls.TextDecoder(dim=64, heads=4)),),
        mechanisms=(ls.FedSGD(),), attacks=(ls.RevealedFeatures(),), metrics=(ls.FeatureError(),), trials=3,
    )  # fmt: skip
    cell = next(one for one in plan.cells() if one.role.value == "audited")
    names = {metric.name for metric in cell.metrics}
    assert {"feature-error", "token-error"} <= names
