"""The laws of mechanisms: every protocol, alone and with every defense, on small targets in float64."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
import torch
from tests.mechanisms_table import (
    DEFENSES,
    NAMES,
    OPTIMIZERS,
    PROTOCOL_CHANGES,
    PROTOCOLS,
    TARGETS,
    dropout_net,
    fits,
    mlp,
    norm_net,
    secret,
    separates,
)
from tests.tolerance import ABSOLUTE, RELATIVE, close, close_trees
from torch import Tensor

from leakscope.bounds.accounting import epsilon
from leakscope.core.batch import Batch
from leakscope.core.mechanism import AbstractMechanism
from leakscope.core.target import Target
from leakscope.mechanisms.compose import AbstractUpdateDefense, accounting
from leakscope.mechanisms.defenses.clip import Clip
from leakscope.mechanisms.defenses.noise import GaussianNoise, LaplaceNoise
from leakscope.mechanisms.defenses.prune import Prune
from leakscope.mechanisms.defenses.quantize import Quantize
from leakscope.mechanisms.protocols.fedavg import FedAvg
from leakscope.mechanisms.protocols.fedsgd import FedSGD
from leakscope.numerics import trees
from leakscope.numerics.rng import Key

SHUFFLED = FedAvg(steps=3, lr=0.2, batch_size=2, shuffle=True)

SILENT: list[tuple[str, str, AbstractMechanism]] = [
    (t, f"{p}-alone", PROTOCOLS[p]) for t in TARGETS if t != "norm_train" for p in PROTOCOLS
] + [
    (t, f"{p}-{d}", PROTOCOLS[p] >> DEFENSES[d].silent)
    for t in TARGETS
    for p in PROTOCOLS
    for d in DEFENSES
    # dropout is active in norm_train: only with the defense Dropout(0) is its client free of noise
    if fits(t, d, p) and (t != "norm_train" or d == "dropout")
]
REAL: dict[str, AbstractMechanism] = {
    **PROTOCOLS,
    **{f"{p}-{d}": PROTOCOLS[p] >> DEFENSES[d].defense for p in ("fedsgd", "fedavg_parts") for d in DEFENSES},
    "shuffled": SHUFFLED,
    "chain": FedAvg(2, 0.1) >> Clip(0.05) >> GaussianNoise(0.01) >> Prune(0.5),
}


def _state(target: Target) -> list[object]:
    """What a fingerprint does not see: the mode and the settings of each layer, and whether parameters are frozen."""
    modes = [(m.training, getattr(m, "p", None), getattr(m, "track_running_stats", None))
             for m in target.module.modules()]  # fmt: skip
    return [modes, [p.requires_grad for p in target.module.parameters()], target.fingerprint()]


def _randomness() -> str:
    return repr((torch.random.get_rng_state().tolist(), random.getstate(), np.random.get_state()))


# --- replay is release ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "name", "mechanism"), SILENT, ids=lambda value: value if isinstance(value, str) else ""
)
def test_replay_is_release_without_noise(target: str, name: str, mechanism: AbstractMechanism):
    model, batch = TARGETS[target](), secret()
    sent, expected = mechanism.release(model, batch, key=Key(0)), mechanism.replay(model, batch)
    assert type(sent) is type(expected)
    close_trees(expected.by_name, sent.by_name)


@pytest.mark.parametrize("name", [n for n in DEFENSES if n not in ("clip_idle", "dropout")])
def test_a_defense_changes_the_release_and_keeps_its_kind(name: str):
    """Without this the law above would hold for defenses that do nothing."""
    for protocol in (FedSGD(), FedAvg(2, 0.3)):
        bare = protocol.release(mlp(), secret(), key=Key(0))
        sent = (protocol >> DEFENSES[name].defense).release(mlp(), secret(), key=Key(0))
        assert type(sent) is type(bare)
        assert sent.fingerprint() != bare.fingerprint()


@pytest.mark.parametrize("protocol", ["fedsgd", "fedavg_parts"])
@pytest.mark.parametrize("name", [n for n, row in DEFENSES.items() if row.off and row.mean])
def test_replay_is_the_mean_release_of_a_noisy_mechanism(protocol: str, name: str):
    model, batch, draws = mlp(), secret(), 150
    mechanism = PROTOCOLS[protocol] >> DEFENSES[name].defense
    expected = mechanism.replay(model, batch).by_name
    sent = [mechanism.release(model, batch, key=Key(k)).by_name for k in range(draws)]
    for entry, wanted in expected.items():
        stack = torch.stack([update[entry] for update in sent])
        # six standard errors of the noisiest entry: about 1e-9 per entry for a false alarm
        assert (stack.mean(0) - wanted).abs().max() < 6 * stack.std(0).max() / draws**0.5
        assert stack.std(0).max() > 0


def test_shuffling_is_replayed_exactly_where_the_order_is_nothing():
    """With batches smaller than the data the order is unknown, so replay and release differ; with all of it, not."""
    whole = dataclasses.replace(SHUFFLED, batch_size=None)
    close_trees(whole.replay(mlp(), secret()).by_name, whole.release(mlp(), secret(), key=Key(0)).by_name)
    parts = [SHUFFLED.release(mlp(), secret(), key=Key(k)).fingerprint() for k in range(4)]
    assert len(set(parts)) > 1


def test_in_training_mode_replay_is_release_with_the_masks_off():
    """Dropout in the audited model itself: the client's masks are random, the adversary's replay has none."""
    noisy, calm = dropout_net(training=True), dropout_net(training=False)
    for protocol in PROTOCOLS.values():
        before = _randomness()
        close_trees(protocol.replay(noisy, secret()).by_name, protocol.replay(calm, secret()).by_name)
        assert _randomness() == before
        first, second = (protocol.release(noisy, secret(), key=Key(k)).fingerprint() for k in (0, 1))
        assert first != second


# --- the secret survives, keys rule --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REAL)
def test_the_secret_and_the_target_survive_and_keys_rule(name: str):
    mechanism, batch = REAL[name], secret()
    model = mlp() if "dropout" not in name else dropout_net()
    frozen, before, state = batch.fingerprint(), _state(model), _randomness()
    first = mechanism.release(model, batch, key=Key(0)).fingerprint()
    again = mechanism.release(model, batch, key=Key(0)).fingerprint()
    other = mechanism.release(model, batch, key=Key(1)).fingerprint()
    mechanism.replay(model, batch)
    assert batch.fingerprint() == frozen
    assert _state(model) == before
    assert _randomness() == state
    assert first == again
    noisy = name in ("chain", "shuffled") or ("-" in name and (DEFENSES[name.split("-")[1]].off is not None))
    assert (first != other) is noisy


@pytest.mark.parametrize("protocol", [p for p in PROTOCOLS if separates("norm_train", p)])
def test_a_model_in_training_mode_survives_too(protocol: str):
    model, batch = norm_net(), secret()
    before, frozen = _state(model), batch.fingerprint()
    PROTOCOLS[protocol].release(model, batch, key=Key(0))
    PROTOCOLS[protocol].replay(model, batch)
    assert _state(model) == before
    assert batch.fingerprint() == frozen


@pytest.mark.parametrize("name", [n for n, r in DEFENSES.items() if isinstance(r.defense, AbstractUpdateDefense)])
def test_an_update_defense_leaves_the_update_that_it_was_given(name: str):
    defense = DEFENSES[name].defense
    assert isinstance(defense, AbstractUpdateDefense)
    update = FedSGD().release(mlp(), secret(), key=Key(0)).by_name
    before = trees.fingerprint(update)
    for result in (defense.apply(update, key=Key(0)), defense.replay(update)):
        # a frozen layer is not sent at all; every other defense sends something of each tensor
        assert list(result) == [n for n in update if n in result]
        assert (len(result) < len(update)) is (name == "freeze")
        assert all(result[n].shape == update[n].shape and result[n].dtype == update[n].dtype for n in result)
    sent = defense.apply(update, key=Key(0))
    for value in sent.values():
        value.add_(1.0)
    assert trees.fingerprint(update) == before


# --- every field speaks, repr rebuilds -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", DEFENSES)
def test_every_field_of_a_defense_speaks(name: str):
    row = DEFENSES[name]
    named = {f.name for f in dataclasses.fields(row.defense)}
    assert set(row.changes) <= named
    model = dropout_net() if name == "dropout" else mlp()
    own = (FedSGD() >> row.defense).release(model, secret(), key=Key(0)).fingerprint()
    for other in row.changed():
        assert repr(other) != repr(row.defense)
        assert other != row.defense
        assert (FedSGD() >> other).release(model, secret(), key=Key(0)).fingerprint() != own


def test_the_table_changes_every_field_of_every_class():
    """A new field that no row changes fails here, so it cannot be ignored unseen."""
    changed: dict[type, set[str]] = {}
    for row in DEFENSES.values():
        changed.setdefault(type(row.defense), set()).update(row.changes)
    for name, changes in PROTOCOL_CHANGES.items():
        changed.setdefault(type(PROTOCOLS[name]), set()).update(changes)
    assert changed == {kind: {f.name for f in dataclasses.fields(kind)} for kind in NAMES.values()}


@pytest.mark.parametrize(
    ("name", "field"), [(n, f) for n, row in PROTOCOL_CHANGES.items() if "fedavg" in n for f in row]
)
def test_every_field_of_fedavg_speaks_in_release_and_replay(name: str, field: str):
    own = PROTOCOLS[name]
    other = dataclasses.replace(own, **{field: PROTOCOL_CHANGES[name][field]})  # type: ignore[type-var]
    assert repr(other) != repr(own)
    one, two = (m.release(mlp(), secret(), key=Key(0)).fingerprint() for m in (own, other))
    assert one != two
    one, two = (m.replay(mlp(), secret()).fingerprint() for m in (own, other))
    assert (one != two) is (field != "shuffle")  # the adversary does not know the order


@pytest.mark.parametrize("name", REAL)
def test_repr_rebuilds(name: str):
    mechanism = REAL[name]
    rebuilt = eval(repr(mechanism), {**NAMES, **OPTIMIZERS})
    assert rebuilt == mechanism
    assert repr(rebuilt) == repr(mechanism)
    assert hash(rebuilt) == hash(mechanism)


def test_numbers_are_stored_as_plain_ones_so_that_the_repr_rebuilds():
    assert repr(Clip(np.float64(1), order=np.int64(2))) == "Clip(norm=1.0, order=2)"
    assert repr(FedAvg(np.int32(2), np.float32(0.5))).startswith("FedAvg(steps=2, lr=0.5,")


# --- n-fold is the list, monotone ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mechanism",
    [
        FedSGD() >> Clip(1.0) >> GaussianNoise(2.0),
        FedSGD() >> Clip(1.0, order=1) >> LaplaceNoise(3.0),
        FedAvg(2, 0.1) >> Clip(1.0, order=1) >> GaussianNoise(2.0) >> Clip(0.5, order=1) >> LaplaceNoise(1.0),
    ],
    ids=repr,
)
def test_n_fold_is_the_list(mechanism: AbstractMechanism):
    listed = accounting().ComposedDpEvent([mechanism.event()] * 3)
    repeated, one = epsilon(mechanism.event(rounds=3), delta=1e-5), epsilon(mechanism.event(), delta=1e-5)
    assert repeated == pytest.approx(epsilon(listed, delta=1e-5), rel=1e-4)  # the grid of the privacy loss
    assert repeated > 1.2 * one


@pytest.mark.parametrize("name", [n for n in REAL if n != "chain"])
def test_nothing_that_is_not_clipped_and_noised_is_private(name: str):
    assert epsilon(REAL[name].event(rounds=2), delta=1e-5) == float("inf")


def test_more_noise_and_a_smaller_clip_never_raise_epsilon():
    def bound(clip: float, std: float) -> float:
        return epsilon((FedSGD() >> Clip(clip) >> GaussianNoise(std)).event(), delta=1e-5)

    noises, clips = [bound(1.0, s) for s in (0.01, 0.5, 1, 2, 8)], [bound(c, 1.0) for c in (8, 2, 1, 0.5, 0.1)]
    assert noises == sorted(noises, reverse=True)
    assert clips == sorted(clips, reverse=True)
    assert len({*noises}) == len({*clips}) == 5
    assert bound(1.0, 2.0) == pytest.approx(bound(3.0, 6.0), rel=1e-9)


def test_a_clip_after_the_noise_bounds_nothing():
    mechanism = FedSGD() >> GaussianNoise(1.0) >> Clip(1.0)
    assert epsilon(mechanism.event(), delta=1e-5) == float("inf")


def test_what_follows_the_noise_costs_nothing():
    mechanism = FedSGD() >> Clip(1.0) >> GaussianNoise(1.0)
    more = mechanism >> Prune(0.5) >> Quantize(4)
    assert more.event() == mechanism.event()


# --- the replay is differentiable ----------------------------------------------------------------------------------


def _reading(mechanism: AbstractMechanism, target: Target, labels: Tensor):
    """A fixed random linear reading of the replay, as a function of the candidate."""
    update = mechanism.replay(target, Batch(torch.zeros(len(labels), 2, 4, 4, dtype=torch.float64), labels)).by_name
    weights = {n: torch.randn(v.shape, generator=Key(5).child(n).generator(), dtype=v.dtype) for n, v in update.items()}

    def read(candidate: Tensor, given: Tensor = labels) -> Tensor:
        return trees.dot(weights, mechanism.replay(target, Batch(candidate, given)).by_name)

    return read


SMOOTH = [n for n, row in DEFENSES.items() if row.smooth and n not in ("dropout",)]


@pytest.mark.parametrize("target", ["mlp", "norm_train"])
@pytest.mark.parametrize("mechanism", [*PROTOCOLS, *SMOOTH])
def test_the_replay_is_differentiable(target: str, mechanism: str):
    if not separates(target, mechanism):
        return
    described = PROTOCOLS.get(mechanism) or PROTOCOLS["fedavg_parts"] >> DEFENSES[mechanism].defense
    model, batch = TARGETS[target](), secret()
    read = _reading(described, model, batch.labels)
    candidate = batch.inputs.clone().requires_grad_(True)
    value = read(candidate)
    (slope,) = torch.autograd.grad(value, candidate)
    assert slope.abs().max() > 0
    # finite differences along a few directions: central, so the error is of second order in the width
    for k in range(3):
        way, width = torch.randn(slope.shape, generator=Key(k).generator(), dtype=slope.dtype), 1e-5
        with torch.no_grad():
            rise = (read(batch.inputs + width * way) - read(batch.inputs - width * way)) / (2 * width)
        close(
            (slope * way).sum(), rise, loosened=1e4, because="a central difference of width 1e-5 keeps about ten digits"
        )
    functional = torch.func.grad(read)(batch.inputs)
    close(functional, slope)
    many = torch.stack([batch.inputs, batch.inputs.flip(0) * 0.5])
    close(torch.func.vmap(read)(many), torch.stack([read(one).detach() for one in many]))
    singly = torch.stack([torch.func.grad(read)(one) for one in many])
    close(torch.func.vmap(torch.func.grad(read))(many), singly)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_replay_is_differentiable_in_soft_labels(protocol: str):
    soft = torch.softmax(torch.randn(4, 3, generator=Key(2).generator(), dtype=torch.float64), 1)
    read, inputs = _reading(PROTOCOLS[protocol], mlp(), soft), secret().inputs
    assert torch.autograd.gradcheck(lambda given: read(inputs, given), soft.requires_grad_(True))


@pytest.mark.parametrize("name", ["quantize", "sign"])
def test_the_gradient_of_rounding_is_straight_through(name: str):
    """The released value forward, the gradient of the undefended update backward."""
    for protocol in (FedSGD(), FedAvg(2, 0.1)):
        read, bare = (_reading(m, mlp(), secret().labels) for m in (protocol >> DEFENSES[name].defense, protocol))
        for inputs in (secret().inputs, secret().inputs.flip(0)):
            close(torch.func.grad(read)(inputs), torch.func.grad(bare)(inputs))
            one, two = (r(inputs.clone().requires_grad_(True)) for r in (read, bare))
            assert one.requires_grad
            assert not torch.allclose(one, two)
        stack = torch.stack([secret().inputs, secret().inputs.flip(0)])
        close(torch.func.vmap(read)(stack), torch.stack([read(one) for one in stack]))


def test_the_tolerances_follow_the_dtype():
    assert RELATIVE[torch.float64] < RELATIVE[torch.float32] < RELATIVE[torch.bfloat16]
    with pytest.raises(AssertionError, match="carries a sentence"):
        close(torch.zeros(1), torch.zeros(1), loosened=2.0)
    with pytest.raises(AssertionError):
        close(torch.ones(1), torch.ones(1) * 1.01)
    assert ABSOLUTE[torch.float64] < ABSOLUTE[torch.float32]
