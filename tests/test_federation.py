"""A federation against its own definition: one client after the other, one round after the other."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tolerance import close, close_trees
from torch import nn

import leakscope as ls
from leakscope.core.annotation import Annotation
from leakscope.core.errors import BadInput
from leakscope.domains.vectors import Vectors
from leakscope.mechanisms.federated import together
from leakscope.mechanisms.federated.dense import dense_layers
from leakscope.mechanisms.federated.together import Job, releases
from leakscope.mechanisms.federated.utility import utility

DOMAIN = Vectors(12, -6, 6)
ADAM = ls.ClientAdam(betas=(0.9, 0.98), eps=1e-9, weight_decay=1e-4)
SIZES = (7, 1, 5, 12, 3, 7)


def people(sizes: tuple[int, ...] = SIZES, *, dtype: torch.dtype = torch.float32, classes: int = 4) -> ls.Population:
    draw = ls.Key(5).generator()
    made = [
        ls.Batch(
            torch.randn(size, 12, generator=draw, dtype=torch.float64).to(dtype),
            torch.randint(0, classes, (size,), generator=draw),
        )
        for size in sizes
    ]
    return ls.Population(tuple(made))


def network(*, dtype: torch.dtype = torch.float32, training: bool = True, smoothing: float = 0.0) -> ls.Target:
    with ls.Key(1).isolated():
        module = nn.Sequential(
            nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), nn.Dropout(0.2), nn.Linear(9, 6), nn.ReLU(), nn.Dropout(0.4),
            nn.Linear(6, 4),
        )  # fmt: skip
    return ls.Target(module.to(dtype), DOMAIN, 4, training=training, loss=ls.CrossEntropy(smoothing))


LOCAL = {
    "gradient": ls.FedSGD(),
    "one step": ls.FedAvg(1, 0.1),
    "sgd": ls.FedAvg(5, 0.1, batch_size=3, shuffle=True),
    "long": ls.FedAvg(180, 0.01, batch_size=3),
    "momentum": ls.FedAvg(4, 0.1, batch_size=2, momentum=0.9),
    "decay": ls.FedAvg(3, 0.1, optimizer=ls.ClientSGD(momentum=0.5, nesterov=True, weight_decay=0.1)),
    "adam": ls.FedAvg(4, 5e-4, batch_size=3, shuffle=True, optimizer=ADAM),
    "adamw": ls.FedAvg(3, 1e-3, batch_size=4, optimizer=ls.ClientAdamW()),
    "micro": ls.FedAvg(2, 0.1, batch_size=2, accumulate=3),
    "summed": ls.FedAvg(2, 0.1, batch_size=2, accumulate=2, summed=True, optimizer=ADAM),
    "defended": ls.FedAvg(2, 0.1, batch_size=3) >> ls.Clip(0.05) >> ls.GaussianNoise(1e-3),
    "all kinds": ls.FedSGD() >> ls.InputNoise(0.1) >> ls.Dropout(0.5) >> ls.Prune(keep=0.3),
}


@pytest.mark.parametrize(("training", "smoothing"), [(True, 0.0), (False, 0.1)])
@pytest.mark.parametrize("step", LOCAL.values(), ids=LOCAL)
def test_side_by_side_is_one_by_one(step: Any, training: bool, smoothing: float) -> None:
    """In float64, where nothing hides: the same draws, the same steps, the same defenses."""
    target = network(dtype=torch.float64, training=training, smoothing=smoothing)
    jobs = [Job(step, own, ls.Key(3).child(place)) for place, own in enumerate(people(dtype=torch.float64).clients)]
    before = torch.default_generator.get_state()
    for job, made in zip(jobs, releases(target, jobs), strict=True):
        wanted = step.release(target, job.batch, key=job.key)
        assert type(made) is type(wanted)
        assert list(made.by_name) == list(wanted.by_name)
        # Adam divides by |g| + eps: what is zero but for rounding becomes a step, of the size of its rounding
        bent = "adam" in repr(step).lower()
        close_trees(
            made.by_name, wanted.by_name, **({"loosened": 100.0, "because": "rounding is divided by"} if bent else {})
        )
    assert torch.equal(before, torch.default_generator.get_state())


@pytest.mark.parametrize("step", LOCAL.values(), ids=LOCAL)
def test_side_by_side_is_one_by_one_in_single_precision(step: Any) -> None:
    target = network()
    jobs = [Job(step, own, ls.Key(3).child(place)) for place, own in enumerate(people().clients)]
    for job, made in zip(jobs, releases(target, jobs), strict=True):
        wanted = step.release(target, job.batch, key=job.key).by_name
        size = max(float(value.abs().max()) for value in wanted.values())
        for name, value in made.by_name.items():
            assert value.dtype == torch.float32
            assert float((value - wanted[name]).norm()) <= 1e-3 * float(wanted[name].norm()) + 1e-6 * max(size, 1e-2)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 6), max_size=3),
    st.lists(st.integers(1, 7), min_size=1, max_size=4),
    st.integers(1, 4),
    st.one_of(st.none(), st.integers(1, 8)),
    st.integers(1, 3),
    st.sampled_from([ls.ClientSGD(), ls.ClientSGD(momentum=0.9), ls.ClientSGD(weight_decay=0.01)]),
)
def test_side_by_side_is_one_by_one_for_any_sizes(
    widths: list[int], sizes: list[int], steps: int, batch: int | None, parts: int, optimizer: ls.ClientSGD
) -> None:
    """Any depth down to none, any width down to one unit, any local batch, above the number of examples too."""
    local = ls.FedAvg(steps, 0.2, batch_size=batch, accumulate=parts if batch else 1, optimizer=optimizer, shuffle=True)
    target = ls.MLP(tuple(widths), dropout=0.5, training=True).build(DOMAIN, 4, key=ls.Key(0))
    target = ls.Target(target.module.double(), DOMAIN, 4, training=True)
    for step in (ls.FedSGD(), local):
        jobs = [
            Job(step, own, ls.Key(place)) for place, own in enumerate(people(tuple(sizes), dtype=torch.float64).clients)
        ]
        for job, made in zip(jobs, releases(target, jobs), strict=True):
            close_trees(made.by_name, step.release(target, job.batch, key=job.key).by_name)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many clients were computed side by side, call by call."""
    found: list[int] = []
    inside = together.together

    def counting(run: Any, members: Any) -> Any:
        found.append(len(members))
        return inside(run, members)

    monkeypatch.setattr(together, "together", counting)
    return found


def test_clients_who_do_the_same_are_computed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    found = counted(monkeypatch)
    jobs = [Job(LOCAL["sgd"], own, ls.Key(3)) for own in people((7, 9, 20, 3, 3)).clients]
    releases(network(), jobs)
    # those of three examples take the whole batch in each step, the others three of theirs: as many either way
    assert found == [5]
    found.clear()
    releases(network(), [Job(ls.FedSGD(), own, ls.Key(3)) for own in people((4,) * 20 + (5,)).clients])
    assert found == [8, 8, 4, 1]


class Mirrored(ls.FedSGD):  # type: ignore[misc]
    def release(self, target: ls.Target, batch: ls.Batch, *, key: ls.Key) -> Any:
        return super().release(target, batch.with_inputs(-batch.inputs), key=key)


class Doubled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def hooked() -> nn.Module:
    layer = nn.Linear(12, 4)
    layer.register_forward_hook(lambda module, given, out: 2 * out)
    return nn.Sequential(layer)


class Convolved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.Conv1d(1, 3, 3), nn.Linear(30, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.layer(x.unsqueeze(1))).flatten(1))


def one_relu() -> nn.Module:
    relu = nn.ReLU()
    return nn.Sequential(nn.Linear(12, 5), relu, nn.Linear(5, 4), relu)


def tied() -> nn.Module:
    first, second = nn.Linear(12, 12), nn.Linear(12, 12)
    second.weight = first.weight
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(12, 4))


def twice() -> nn.Module:
    layer = nn.Linear(12, 12)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(12, 4))


@pytest.mark.parametrize(
    "module",
    [
        hooked,
        one_relu,
        tied,
        twice,
        Convolved,
        lambda: nn.Sequential(Doubled(12, 4)),
        lambda: nn.Sequential(nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 4)),
        lambda: nn.Sequential(nn.Linear(12, 5), nn.Linear(5, 4)),
        lambda: nn.Sequential(nn.Linear(12, 5, bias=False), nn.ReLU(), nn.Linear(5, 4)),
        lambda: nn.Sequential(nn.Linear(12, 4), nn.ReLU()),
        lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(12, 4)),
        lambda: nn.Sequential(nn.ReLU(), nn.Linear(12, 4)),
    ],
)
def test_any_other_model_is_played_one_by_one(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = counted(monkeypatch)
    with ls.Key(2).isolated():
        target = ls.Target(module(), DOMAIN, 4, training=True)
    assert dense_layers(target) is None
    jobs = [Job(ls.FedSGD(), own, ls.Key(3).child(place)) for place, own in enumerate(people().clients)]
    for job, made in zip(jobs, releases(target, jobs), strict=True):
        wanted = job.mechanism.release(target, job.batch, key=job.key)
        assert made.fingerprint() == wanted.fingerprint()
    assert found == []


def test_a_client_of_ones_own_is_played_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    found = counted(monkeypatch)
    jobs = [Job(step, people().clients[0], ls.Key(3)) for step in (Mirrored(), ls.FedSGD(), Mirrored() >> ls.Clip(0.1))]
    made = releases(network(), jobs)
    assert found == [1]
    for job, one in zip(jobs, made, strict=True):
        close_trees(one.by_name, job.mechanism.release(network(), job.batch, key=job.key).by_name)


# --- the course -----------------------------------------------------------------------------------------------------

COURSES = {
    "first batch": ls.Federation(ls.FedSGD(), rounds=3, fraction=0.5, batch=4, server_lr=0.1),
    "always the same": ls.Federation(ls.FedSGD(), rounds=2, fraction=1.0, batch=4, shuffle=False),
    "averaging": ls.Federation(ls.FedAvg(1, 0.1, batch_size=3), rounds=3, fraction=0.7, epochs=2),
    "adam": ls.Federation(ls.FedAvg(1, 5e-4, batch_size=3, optimizer=ADAM, shuffle=True), rounds=2, epochs=1),
    "alike": ls.Federation(ls.FedAvg(2, 0.1), rounds=2, fraction=0.5, weighted=False, server_lr=0.5),
    "poisson": ls.Federation(ls.FedSGD(), rounds=4, fraction=0.3, sampling=ls.Sampling.POISSON),
    "noisy": ls.Federation(ls.FedAvg(2, 0.1), rounds=2, fraction=0.5, weighted=False, privacy=ls.UserLevel(0.1, 0.5)),
}


def by_hand(federation: ls.Federation, target: ls.Target, population: ls.Population, key: ls.Key) -> Any:
    """The definition: every client by `release` at the weights of its round, the mean by a sum over all of them."""
    weights = {name: value.clone() for name, value in target.parameters().items()}
    sent: list[tuple[int, str, dict[str, torch.Tensor]]] = []
    for turn in range(federation.rounds):
        at, moves, counts = target.at(weights), [], []
        for place in federation.chosen(len(population), turn, key=key):
            own, name = population.clients[place], population.names[place]
            mine = key.child("round", turn).child("client", name)
            if federation.batch is not None and len(own) > federation.batch:
                order = torch.randperm(len(own), generator=mine.child("batch").generator())
                own = own.rows(order[: federation.batch] if federation.shuffle else torch.arange(federation.batch))
            does = federation.sends(len(population.clients[place]), len(population))
            release = does.release(at, own, key=mine.child("release"))
            sent.append((turn, name, dict(release.by_name)))
            sign = -1.0 if isinstance(release, ls.Gradient) else 1.0
            counts.append(float(len(own)) if federation.weighted else 1.0)
            moves.append({n: sign * v for n, v in release.by_name.items()})
        if not moves:
            continue
        total = sum(counts)
        for name in weights:
            mean = sum(share * move[name] for share, move in zip(counts, moves, strict=True)) / total
            weights[name] = weights[name] + federation.server_lr * mean
    return weights, sent


@pytest.mark.parametrize("federation", COURSES.values(), ids=COURSES)
def test_a_federation_is_its_definition(federation: ls.Federation) -> None:
    target, population, key = network(dtype=torch.float64), people(dtype=torch.float64), ls.Key(11)
    store = ls.RoundsInMemory()
    played = federation.run(target, population, key=key, into=store)
    weights, sent = by_hand(federation, target, population, key)
    because = {"loosened": 100.0, "because": "Adam divides by the rounding of zeros"}
    more: Any = because if "Adam" in repr(federation) else {}
    close_trees(played.weights, weights, **more)
    found = [(one.number, name, dict(one.release.by_name)) for name, one in store.updates()]
    assert [one[:2] for one in found] == [one[:2] for one in sent]
    for (*_, one), (*_, other) in zip(found, sent, strict=True):
        close_trees(one, other, **more)


def test_one_round_of_everybody_on_everything_is_one_step_on_all_examples() -> None:
    """An oracle that knows no clients: the gradient of the mean loss over all examples at once."""
    target, population = network(dtype=torch.float64, training=False), people(dtype=torch.float64)
    played = ls.Federation(ls.FedSGD(), rounds=1, fraction=1.0, server_lr=0.3).run(target, population, key=ls.Key(0))
    everything = ls.Batch(
        torch.cat([one.inputs for one in population.clients]), torch.cat([one.labels for one in population.clients])
    )
    slope = torch.func.grad(lambda at: target.loss_at(at, everything))(target.parameters())
    close_trees(played.weights, {n: v - 0.3 * slope[n] for n, v in target.parameters().items()})


def test_the_same_key_gives_the_same_bytes_and_another_key_others() -> None:
    federation = dataclasses.replace(COURSES["adam"], fraction=0.5)

    def bytes_of(seed: int) -> list[str]:
        store = ls.RoundsInMemory()
        federation.run(network(), people(), key=ls.Key(seed), into=store)
        return [f"{name} {one.number} {one.release.fingerprint()}" for name, one in store.updates()]

    assert bytes_of(1) == bytes_of(1) != bytes_of(2)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=7),
    st.sampled_from(list(COURSES.values())),
    st.floats(0.01, 1.0),
    st.integers(1, 4),
)
def test_populations_of_any_size(sizes: list[int], federation: ls.Federation, fraction: float, classes: int) -> None:
    """One client, one example, classes of which nobody has any."""
    federation = dataclasses.replace(federation, fraction=fraction, rounds=2)
    store = ls.RoundsInMemory()
    federation.run(network(), people(tuple(sizes), classes=classes), key=ls.Key(0), into=store)
    for name, one in store.updates():
        assert int(name) < len(sizes)
        assert all(bool(torch.isfinite(value).all()) for value in one.release.by_name.values())
    if federation.sampling is ls.Sampling.FIXED:
        assert [len(store.senders(turn)) for turn in store.numbers()] == [max(1, round(fraction * len(sizes)))] * 2


CHANGED = {
    "step": ls.FedAvg(2, 0.1, batch_size=3) >> ls.Clip(1e-3),
    "rounds": 3,
    "fraction": 1.0,
    "sampling": ls.Sampling.POISSON,
    "batch": 2,
    "shuffle": False,
    "epochs": 2,
    "server_lr": 0.5,
    "weighted": False,
    "privacy": ls.UserLevel(1e-3, 0.0),
    "secure": 2,
    "evaluate_every": 1,
}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(ls.Federation)])
def test_every_field_speaks(name: str) -> None:
    """What is seen, what is trained, or what is told of it changes with each of them; and so does who it is of."""
    plain = ls.Federation(ls.FedAvg(2, 0.1, batch_size=3), rounds=2, fraction=0.5, batch=5, weighted=name != "privacy")
    population = people((7, 9, 5, 12, 3, 7)).held_out(0.3, key=ls.Key(0))

    def said(federation: ls.Federation) -> tuple[str, str]:
        store = ls.RoundsInMemory()
        played = federation.run(network(), population, key=ls.Key(0), into=store)
        seen = [(who, one.number, one.release.fingerprint()) for who, one in store.updates()]
        return repr((seen, ls.Weights(played.weights).fingerprint(), played.history)), store.cast.owner

    before, after = said(plain), said(dataclasses.replace(plain, **{name: CHANGED[name]}))
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_epochs_follow_from_how_many_examples_a_client_has() -> None:
    federation = ls.Federation(ls.FedAvg(1, 0.1, batch_size=20) >> ls.Clip(1.0), epochs=2)
    assert [federation.sends(n, 90).protocol.steps for n in (1, 20, 21, 60)] == [2, 2, 4, 6]
    assert dataclasses.replace(federation, batch=20).sends(60, 90).protocol.steps == 2


def test_poisson_rounds_have_everybody_with_the_same_probability() -> None:
    federation = ls.Federation(ls.FedSGD(), fraction=0.25, sampling=ls.Sampling.POISSON)
    drawn = [federation.chosen(8, turn, key=ls.Key(0)) for turn in range(2000)]
    counts = torch.tensor([sum(place in one for one in drawn) for place in range(8)])
    # five standard deviations of a binomial draw
    assert bool(((counts - 500).abs() < 5 * math.sqrt(2000 * 0.25 * 0.75)).all())
    assert len({len(one) for one in drawn}) > 3


# --- what is seen ---------------------------------------------------------------------------------------------------


def test_secure_aggregation_leaves_means_and_nobody_alone() -> None:
    plain = ls.Federation(ls.FedSGD(), rounds=2, fraction=1.0, batch=4)
    secure = dataclasses.replace(plain, secure=3)
    target, population = network(dtype=torch.float64), people((4, 7, 1, 9, 5, 6, 6), dtype=torch.float64)
    single, summed = ls.RoundsInMemory(), ls.RoundsInMemory()
    alone = plain.run(target, population, key=ls.Key(0), into=single)
    together = secure.run(target, population, key=ls.Key(0), into=summed)
    close_trees(together.weights, alone.weights)
    sizes = dict(zip(population.names, [4, 4, 1, 4, 4, 4, 4], strict=True))
    for turn in (0, 1):
        assert [name.split(" + ") for name in summed.senders(turn)] == [["0", "1", "2", "3"], ["4", "5", "6"]]
        everybody = single.load(turn, single.senders(turn)).releases
        for group, mean in summed.load(turn, summed.senders(turn)).releases.items():
            names = group.split(" + ")
            for parameter, value in mean.by_name.items():
                wanted = sum(sizes[n] * everybody[n].by_name[parameter] for n in names) / sum(sizes[n] for n in names)
                close(value, wanted)


def test_what_is_seen_of_one_client_is_an_observation() -> None:
    """The exact attack on one round of a federation: the mechanism of the description is that of the update."""
    federation = ls.Federation(ls.FedSGD(), rounds=4, fraction=0.5, batch=2, server_lr=0.1)
    target = ls.EmotionNet().build(DOMAIN, 4, key=ls.Key(0))
    population, store = people((6, 6, 6)), ls.RoundsInMemory()
    federation.run(target, population, key=ls.Key(1), into=store)
    name = store.senders(0)[0]
    seen = ls.Observation(target, store.rounds_of(name), federation.sends(6, 3), [ls.BatchSize(2)])
    attempt = ls.LowRank().run(seen.each()[0], key=ls.Key(2))
    own = population.of(name).inputs.double()
    assert isinstance(attempt.claim, ls.Inputs)
    away = torch.cdist(attempt.claim.values.double(), own).min(1).values
    assert float(away.max()) < 1e-3


def test_utility_is_what_scikit_learn_says() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    target, population = network(), people((30, 40)).held_out(0.5, key=ls.Key(0))
    held = population.held
    assert held is not None
    held = ls.Batch(held.inputs, held.labels.clamp_max(2))
    federation = ls.Federation(ls.FedSGD(), rounds=5, fraction=1.0, server_lr=0.5, evaluate_every=2)
    played = federation.run(target, dataclasses.replace(population, held=held), key=ls.Key(0))
    assert [one.number for one in played.history] == [0, 2, 4]
    named = target.at(played.weights).module.eval()(held.inputs).argmax(1)
    found = utility(target, played.weights, held)
    assert found.accuracy == pytest.approx(sklearn.accuracy_score(held.labels, named))
    recalls = sklearn.recall_score(held.labels, named, average=None, labels=[0, 1, 2], zero_division=0)
    assert found.uar == pytest.approx(recalls.mean())


def test_every_round_is_told() -> None:
    said = []
    ls.Federation(ls.FedSGD(), rounds=3).run(network(), people(), key=ls.Key(0), watch=said.append)
    assert [one.note for one in said] == ["round 1 of 3", "round 2 of 3", "round 3 of 3"]
    assert said[-1].fraction == 1.0


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: ls.Federation(ls.HeadTraining(2, 0.1)), "expected what a client does"),
        (lambda: ls.Federation(ls.FedSGD(), rounds=0), "expected 1 <= rounds"),
        (lambda: ls.Federation(ls.FedSGD(), fraction=0.0), "0 < fraction <= 1"),
        (lambda: ls.Federation(ls.FedSGD(), fraction=math.nan), "0 < fraction <= 1"),
        (lambda: ls.Federation(ls.FedSGD(), batch=0), "expected batch >= 1"),
        (lambda: ls.Federation(ls.FedSGD(), server_lr=0), "0 < server_lr"),
        (lambda: ls.Federation(ls.FedSGD(), epochs=1), "local passes of FedAvg"),
        (lambda: ls.Federation(ls.FedAvg(1, 0.1), epochs=1), "local passes of FedAvg"),
        (lambda: ls.Federation(ls.FedSGD(), weighted=1), "True or False"),
        (lambda: ls.Federation(ls.FedSGD(), sampling="often"), "fixed, poisson"),
        (lambda: ls.Federation(ls.FedSGD(), privacy=ls.UserLevel(1.0, 1.0)), "weighted=False"),
        (lambda: ls.Federation(ls.FedSGD(), weighted=False, privacy=1.0), "expected privacy to be of type UserLevel"),
        (lambda: ls.Federation(ls.FedSGD(), secure=2, sampling=ls.Sampling.POISSON), "sample FIXED"),
        (lambda: ls.UserLevel(0.0, 1.0), "0 < clip"),
        (lambda: ls.UserLevel(1.0, -1.0), "0 <= noise_multiplier"),
    ],
)  # fmt: skip
def test_what_no_federation_is(build: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        build()


def test_what_does_not_fit_together_is_said_before_anything_is_played() -> None:
    plain, store = ls.Federation(ls.FedSGD(), rounds=2), ls.RoundsInMemory()

    def refused(said: str, federation: ls.Federation = plain, population: ls.Population | None = None) -> None:
        with pytest.raises(BadInput, match=said):
            federation.run(network(), population or people(), key=ls.Key(0), into=store)

    refused(
        "do not fit the target's domain", population=ls.Population((ls.Batch(torch.zeros(2, 5), torch.tensor([0, 1])),))
    )
    bad = people((3,)).clients[0]
    refused("labels", population=ls.Population((ls.Batch(bad.inputs, torch.tensor([0, 1, 4])),)))
    refused("not finite", population=ls.Population((ls.Batch(bad.inputs * math.inf, bad.labels),)))
    refused("raise fraction", dataclasses.replace(plain, secure=2))
    secure, named = dataclasses.replace(plain, secure=2, fraction=1.0), people()
    # The means of the first two and of the next two would both be called "a + b + c".
    mixed = dataclasses.replace(named, names=("a", "b + c", "a + b", "c", "d", "e"))
    with pytest.raises(BadInput, match=r"'b \+ c'; rename it"):
        secure.run(network(), mixed, key=ls.Key(0))
    assert store.numbers() == ()


def test_a_training_that_diverges_says_so() -> None:
    with pytest.raises(BadInput, match="not finite after round"):
        ls.Federation(ls.FedSGD(), rounds=50, fraction=1.0, server_lr=1e30).run(network(), people(), key=ls.Key(0))


# --- the page -------------------------------------------------------------------------------------------------------


def examples() -> list[str]:
    page = (Path(__file__).parents[1] / "docs" / "emotion.md").read_text(encoding="utf-8")
    return [one for one in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if "ls.Federation(" in one]


def test_the_page_s_federation_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it stands but for the features, which take longer than a test may."""
    monkeypatch.chdir(tmp_path)
    made = people((12, 12, 12, 12))
    spoken = SimpleNamespace(
        load=lambda: ls.Batch(
            torch.cat([one.inputs for one in made.clients]), torch.cat([one.labels for one in made.clients])
        ),
        annotations=lambda: (
            Annotation("speaker", tuple(n for n in range(4) for _ in range(12)), ("ada", "ben", "cid", "dan")),
            Annotation("sex", tuple(n % 2 for n in range(4) for _ in range(12)), ("female", "male")),
        ),
        domain=DOMAIN,
        classes=4,
    )
    (line,) = re.findall(r"^source = .*$", examples()[0], flags=re.MULTILINE)
    exec(examples()[0].replace(line, ""), {"source": spoken})
    said = capsys.readouterr().out
    assert "('female', 'male') Gradient(6 tensors" in said
    assert len(list((tmp_path / "runs" / "speakers").glob("round-*.safetensors"))) == 20


def test_the_page_s_figures_of_privacy_are_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("dp_accounting")
    exec(examples()[1], {})
    found = [float(line) for line in capsys.readouterr().out.split()]
    said = [float(one) for one in re.findall(r"# who sees .*: ([\d.]+)$", examples()[1], flags=re.MULTILINE)]
    assert [float(f"{one:.2g}") for one in found] == said
