"""User-level privacy: what clients send is bounded and noisy as said, and epsilon is dp-accounting's own."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import dp_accounting as dp
import pytest
import torch
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm as normal
from tests.tolerance import close_trees

import leakscope as ls
from leakscope.bounds.user_level import models_epsilon, updates_epsilon
from leakscope.core.errors import BadInput, NoSuchLayer
from leakscope.domains.vectors import Vectors
from leakscope.numerics import trees

DELTA = 1e-3
SERVED = ls.Federation(
    ls.FedAvg(1, 0.1), rounds=60, fraction=0.1, sampling=ls.Sampling.POISSON, weighted=False,
    privacy=ls.UserLevel(0.5, 1.2, ls.NoiseBy.SERVER),
)  # fmt: skip
SHARED = dataclasses.replace(SERVED, sampling=ls.Sampling.FIXED, privacy=ls.UserLevel(0.5, 1.2))


def gaussian_epsilon(multiplier: float, delta: float) -> float:
    """Of one Gaussian mechanism, exactly (Balle & Wang 2018, arXiv:1805.06530, theorem 8)."""

    def lost(epsilon: float) -> float:
        half = 1 / (2 * multiplier)
        away = epsilon * multiplier
        return float(normal.cdf(half - away) - math.exp(epsilon) * normal.cdf(-half - away)) - delta

    return float(brentq(lost, 0.0, 500.0))


# --- accounting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rounds", "fraction", "multiplier"), [(60, 0.1, 1.2), (200, 0.1, 2.0), (5, 0.5, 0.8)])
def test_noise_by_the_server_is_the_sampled_gaussian_of_dp_accounting(
    rounds: int, fraction: float, multiplier: float
) -> None:
    private = ls.UserLevel(7.0, multiplier, ls.NoiseBy.SERVER)
    federation = dataclasses.replace(SERVED, rounds=rounds, fraction=fraction, privacy=private)
    event = dp.PoissonSampledDpEvent(fraction, dp.GaussianDpEvent(multiplier))
    pld = PLDAccountant().compose(event, rounds).get_epsilon(DELTA)
    rdp = RdpAccountant().compose(event, rounds).get_epsilon(DELTA)
    found = models_epsilon(federation, clients=90, delta=DELTA)
    # the same bound on another grid, which rounds up by less than a part in a thousand
    assert found == pytest.approx(pld, rel=2e-3)
    assert found <= rdp


def test_a_fixed_number_is_the_better_of_two_bounds_and_each_is_dp_accountings() -> None:
    for multiplier, rounds in ((1.0, 200), (8.0, 200), (0.6, 2)):
        federation = dataclasses.replace(SHARED, rounds=rounds, privacy=ls.UserLevel(1.0, multiplier))
        exchanged = RdpAccountant(neighboring_relation=dp.NeighboringRelation.REPLACE_ONE)
        exchanged.compose(dp.SampledWithoutReplacementDpEvent(90, 9, dp.GaussianDpEvent(multiplier / 2)), rounds)
        # of a client that is always there: T Gaussian mechanisms are one of z / sqrt(T)
        always = gaussian_epsilon(multiplier / math.sqrt(rounds), DELTA)
        wanted = min(exchanged.get_epsilon(DELTA), always)
        assert models_epsilon(federation, clients=90, delta=DELTA) == pytest.approx(wanted, rel=2e-3)


def test_who_sees_updates_sees_the_share_of_one_client_in_each() -> None:
    for rounds in (1, 6, 60):
        found = updates_epsilon(SHARED, clients=90, delta=DELTA, rounds=rounds)
        assert found == pytest.approx(gaussian_epsilon(1.2 / 3 / math.sqrt(rounds), DELTA), rel=2e-3)
    assert updates_epsilon(SHARED, clients=90, delta=DELTA) > models_epsilon(SHARED, clients=90, delta=DELTA)
    # the clip is in the units of the noise: it cancels
    wider = dataclasses.replace(SHARED, privacy=ls.UserLevel(50.0, 1.2))
    assert updates_epsilon(wider, clients=90, delta=DELTA) == pytest.approx(
        updates_epsilon(SHARED, clients=90, delta=DELTA)
    )


def test_what_promises_nothing_is_infinite() -> None:
    assert updates_epsilon(SERVED, clients=90, delta=DELTA) == math.inf
    for federation in (
        dataclasses.replace(SERVED, privacy=None),
        dataclasses.replace(SHARED, privacy=ls.UserLevel(1.0, 0.0)),
    ):
        assert models_epsilon(federation, clients=90, delta=DELTA) == math.inf
        assert updates_epsilon(federation, clients=90, delta=DELTA) == math.inf


def test_poisson_rounds_with_noise_by_the_clients_gain_nothing_by_sampling() -> None:
    """A round may have one client alone, whose own noise is then all that there is."""
    lonely = dataclasses.replace(SHARED, sampling=ls.Sampling.POISSON)
    assert models_epsilon(lonely, clients=90, delta=DELTA) == updates_epsilon(lonely, clients=90, delta=DELTA)


@pytest.mark.parametrize("by", list(ls.NoiseBy))
def test_an_epsilon_of_examples_is_none_of_clients(by: ls.NoiseBy) -> None:
    """Whatever clients do for their examples, what hides a client is its clip and its noise alone."""
    step = ls.DPSGD(1.0, 50.0, rate=0.01)
    for sampling in ls.Sampling:
        plain = dataclasses.replace(SHARED, sampling=sampling, privacy=ls.UserLevel(0.5, 1.2, by))
        noisy = dataclasses.replace(plain, step=step)
        for epsilon in (models_epsilon, updates_epsilon):
            assert epsilon(noisy, clients=90, delta=DELTA) == epsilon(plain, clients=90, delta=DELTA)


def test_more_noise_and_fewer_rounds_cost_less() -> None:
    def spent(multiplier: float, rounds: int) -> float:
        federation = dataclasses.replace(SHARED, rounds=rounds, privacy=ls.UserLevel(1.0, multiplier))
        return models_epsilon(federation, clients=40, delta=1e-2)

    found = [spent(*one) for one in ((4.0, 5), (2.0, 5), (2.0, 40), (0.7, 40))]
    assert found == sorted(found)


@pytest.mark.parametrize("delta", [0.5, 1 / 90, 0.0, 1.0, math.nan])
def test_a_delta_that_would_allow_to_reveal_somebody_is_refused(delta: float) -> None:
    for ask in (models_epsilon, updates_epsilon):
        with pytest.raises(BadInput, match=r"expected (delta < 1 / 90|0 < delta < 1)"):
            ask(SHARED, clients=90, delta=delta)


# --- what is really sent --------------------------------------------------------------------------------------------


def people(count: int, size: int = 3) -> ls.Population:
    draw = ls.Key(3).generator()
    made = [ls.Batch(torch.randn(size, 5, generator=draw), torch.arange(size) % 3) for _ in range(count)]
    return ls.Population(tuple(made))


def model() -> ls.Target:
    return ls.MLP((8,)).build(Vectors(5, -6, 6), 3, key=ls.Key(0))


@settings(max_examples=20, deadline=None)
@given(st.floats(1e-4, 10.0), st.floats(0.01, 100.0), st.integers(1, 5))
def test_no_client_moves_the_sum_by_more_than_the_clip(clip: float, lr: float, steps: int) -> None:
    federation = ls.Federation(
        ls.FedAvg(steps, lr), rounds=1, fraction=1.0, weighted=False, privacy=ls.UserLevel(clip, 0.0), server_lr=1e-6
    )
    store = ls.RoundsInMemory()
    federation.run(model(), people(4), key=ls.Key(0), into=store)
    for _, one in store.updates():
        assert float(trees.norm(one.release.by_name)) <= clip * (1 + 1e-5)


@pytest.mark.parametrize("by", list(ls.NoiseBy))
def test_the_sum_of_a_round_has_the_noise_that_was_promised(by: ls.NoiseBy) -> None:
    """z C in each entry of the sum, whoever adds it: against the same round without noise."""
    clip, multiplier, clients = 0.01, 3.0, 6
    quiet = ls.Federation(
        ls.FedAvg(1, 0.1), rounds=1, fraction=1.0, weighted=False, privacy=ls.UserLevel(clip, 0.0, by)
    )
    noisy = dataclasses.replace(quiet, privacy=ls.UserLevel(clip, multiplier, by))
    drawn = []
    for seed in range(30):
        without, within = (one.run(model(), people(clients), key=ls.Key(seed)).weights for one in (quiet, noisy))
        drawn.append(torch.cat([(within[n] - without[n]).flatten() for n in within]) * clients)
    found = torch.cat(drawn)
    assert len(found) == 30 * model().count()
    # the standard error of a standard deviation is its size / sqrt(2 n)
    assert float(found.std()) == pytest.approx(multiplier * clip, rel=5 / math.sqrt(2 * len(found)))
    assert abs(float(found.mean())) < 5 * multiplier * clip / math.sqrt(len(found))


def test_the_sum_is_divided_by_a_public_constant_and_not_by_who_came() -> None:
    federation = ls.Federation(
        ls.FedSGD(), rounds=8, fraction=0.3, sampling=ls.Sampling.POISSON, weighted=False, server_lr=0.1,
        privacy=ls.UserLevel(1.0, 0.0),
    )  # fmt: skip
    store, population = ls.RoundsInMemory(), people(10)
    federation.run(model(), population, key=ls.Key(0), into=store)
    counts = {len(store.senders(turn)) for turn in store.numbers()}
    assert len(counts) > 1
    for turn in range(7):
        sent, after = store.load(turn, store.senders(turn)), store.load(turn + 1, ()).weights
        for name, value in sent.weights.items():
            total = sum((one.by_name[name] for one in sent.releases.values()), torch.zeros_like(value))
            torch.testing.assert_close(after[name], value - 0.1 * total / 3)


def test_the_server_adds_its_noise_where_nobody_came() -> None:
    """Else a model that stays what it was says that nobody took part."""
    federation = ls.Federation(
        ls.FedAvg(1, 0.1), rounds=1, fraction=1e-9, sampling=ls.Sampling.POISSON, weighted=False,
        privacy=ls.UserLevel(1.0, 1.0, ls.NoiseBy.SERVER),
    )  # fmt: skip
    assert federation.chosen(3, 0, key=ls.Key(0)) == ()
    moved = federation.run(model(), people(3), key=ls.Key(0)).weights
    assert all(bool((moved[n] != v).all()) for n, v in model().parameters().items())


def test_a_part_of_the_model_under_noise_by_the_server_is_refused() -> None:
    federation = dataclasses.replace(SERVED, step=ls.FedAvg(1, 0.1) >> ls.FreezeLayers(("1",)), fraction=1.0, rounds=1)
    with pytest.raises(BadInput, match="let the clients add it"):
        federation.run(model(), people(3), key=ls.Key(0))


# --- layers that are not shared -------------------------------------------------------------------------------------


def test_a_layer_that_is_not_shared_stays_what_it_was() -> None:
    federation = ls.Federation(ls.FedSGD() >> ls.FreezeLayers(("1",)), rounds=3, fraction=1.0, server_lr=0.5)
    store = ls.RoundsInMemory()
    played = federation.run(model(), people(3), key=ls.Key(0), into=store)
    before = model().parameters()
    close_trees(trees.select(played.weights, ["1.weight", "1.bias"]), trees.select(before, ["1.weight", "1.bias"]))
    assert bool((played.weights["4.weight"] != before["4.weight"]).any())
    assert {name for _, one in store.updates() for name in one.release.by_name} == {"4.weight", "4.bias"}


def test_frozen_layers_are_whole_names() -> None:
    update = {"1.weight": torch.ones(1), "11.weight": torch.ones(1), "1.inner.bias": torch.ones(1)}
    for route in (ls.FreezeLayers(("1",)).replay, lambda one: ls.FreezeLayers(("1",)).apply(one, key=ls.Key(0))):
        assert list(route(update)) == ["11.weight"]
        with pytest.raises(NoSuchLayer, match="none of the layers"):
            route({"2.weight": torch.ones(1)})
        with pytest.raises(BadInput, match="nothing of the update is left"):
            route({"1.weight": torch.ones(1)})


@pytest.mark.parametrize("layers", [(), ("",), ("1", "1"), "1", (1,)])
def test_what_names_no_layers(layers: Any) -> None:
    with pytest.raises(BadInput):
        ls.FreezeLayers(layers)


# --- what was published ---------------------------------------------------------------------------------------------

ADAM = ls.ClientAdam(betas=(0.9, 0.98), eps=1e-9, weight_decay=1e-4)


@pytest.mark.parametrize("optimizer", [ls.ClientSGD(), ls.ClientSGD(momentum=0.9), ADAM])
@pytest.mark.parametrize("clip", [1e-3, 0.2, 10.0])
def test_the_published_mechanism_replays_what_it_releases(optimizer: Any, clip: float) -> None:
    local = ls.FedAvg(3, 0.05, batch_size=2, accumulate=2, optimizer=optimizer)
    # so much epsilon that its noise is below every rounding
    silent = ls.BatchClipped(local, clip=clip, epsilon=1e30)
    target = ls.Target(model().module.double(), Vectors(5, -6, 6), 3)
    own = people(1, 7).clients[0]
    batch = ls.Batch(own.inputs.double(), own.labels)
    expected = silent.replay(target, batch)
    close_trees(
        silent.release(target, batch, key=ls.Key(0)).by_name, expected.by_name, loosened=100.0, because="Adam divides"
    )
    if clip == 10.0:
        close_trees(expected.by_name, local.replay(target, batch).by_name)


def test_its_noise_is_of_the_published_size() -> None:
    noisy = ls.BatchClipped(ls.FedAvg(1, 1e-6), epsilon=10.0)
    own = people(1, 8).clients[0]
    found = torch.cat([
        torch.cat([v.flatten() for v in noisy.release(model(), own, key=ls.Key(seed)).by_name.values()])
        for seed in range(40)
    ])  # fmt: skip
    wanted = 2 * 0.25 / 8 * math.sqrt(2 * 0.1 * 200 * math.log(2)) / 10
    assert noisy.std(8) == pytest.approx(wanted)
    assert float(found.std()) == pytest.approx(wanted, rel=5 / math.sqrt(2 * len(found)))


def test_its_accounting_is_refused_with_the_reason() -> None:
    published = ls.Federation(ls.BatchClipped(ls.FedAvg(1, 5e-4, optimizer=ADAM)))
    for ask in (models_epsilon, updates_epsilon):
        with pytest.raises(BadInput, match="clips the gradient of each mini-batch and not the update"):
            ask(published, clients=90, delta=DELTA)
    assert ls.epsilon(published.step.event(rounds=200), delta=DELTA) == math.inf


def test_no_clip_of_its_mini_batches_bounds_the_update() -> None:
    """The reason itself: under Adam a clip a thousand times smaller leaves what the client changes as large."""
    own = people(1, 8).clients[0]
    local = ls.FedAvg(5, 0.05, batch_size=4, optimizer=ls.ClientAdam())
    moved = [
        float(trees.norm(ls.BatchClipped(local, clip=clip, epsilon=1e30).release(model(), own, key=ls.Key(0)).by_name))
        for clip in (1e-1, 1e-4)
    ]
    assert moved[1] > 0.9 * moved[0]
    # a clip of the update does
    bounded = (local >> ls.Clip(1e-4)).release(model(), own, key=ls.Key(0)).by_name
    assert float(trees.norm(bounded)) <= 1e-4 * (1 + 1e-5)


def test_what_is_proved_of_a_part_of_the_model_is_true() -> None:
    target = ls.MLP((24, 12)).build(Vectors(20, -6, 6), 4, key=ls.Key(0))
    own = ls.Batch(torch.randn(5, 20, generator=ls.Key(1).generator()), torch.tensor([0, 1, 2, 2, 3]))

    def attacked(attack: Any, layers: tuple[str, ...]) -> Any:
        mechanism = ls.FedSGD() >> ls.FreezeLayers(layers)
        seen = ls.observe(target, own, mechanism, key=ls.Key(0), tell=[ls.BatchSize(5)])
        return attack.run(seen, key=ls.Key(0))

    found = attacked(ls.LinearLayer(), ("4", "7"))
    assert found.certificate is not None
    assert found.certificate.proved == (True,)
    assert float(torch.cdist(found.claim.values, own.inputs).min()) < 1e-4
    for attack in (ls.LinearLayer(), ls.LowRank()):
        assert attacked(attack, ("1",)).sentence == "the release lacks 1.weight and 1.bias"
    counted = attacked(ls.LabelCounts(), ("1", "4"))
    assert sorted(counted.claim.values.tolist()) == [0, 1, 2, 2, 3]
    assert attacked(ls.LabelCounts(), ("7",)).claim is None
