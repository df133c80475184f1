"""Defenses one by one, against what their docstrings promise."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tests.mechanisms_table import dropout_net, mlp, norm_net, secret
from tests.tolerance import close, close_trees
from torch import Tensor, nn

from leakscope.core.errors import BadInput, NoSuchLayer
from leakscope.mechanisms.compose import AbstractUpdateDefense, Sensitivity
from leakscope.mechanisms.defenses.clip import Clip
from leakscope.mechanisms.defenses.dropout import Dropout
from leakscope.mechanisms.defenses.inputs import InputNoise
from leakscope.mechanisms.defenses.noise import GaussianNoise, LaplaceNoise
from leakscope.mechanisms.defenses.prune import Prune, RandomDrop
from leakscope.mechanisms.defenses.quantize import Quantize, Sign
from leakscope.mechanisms.protocols.fedsgd import FedSGD
from leakscope.numerics import trees
from leakscope.numerics.rng import Key

values = st.floats(-1e3, 1e3, allow_subnormal=False).filter(lambda v: v == 0 or abs(v) > 1e-6)
updates = st.lists(values, min_size=2, max_size=30).map(
    lambda v: {"w": torch.tensor(v[:-1], dtype=torch.float64), "b": torch.tensor(v[-1:], dtype=torch.float64)}
)
NOISE_FREE = [Clip(0.7), Clip(0.7, order=1), Prune(0.4), Prune(0.4, whole=True), Quantize(2), Quantize(5), Sign()]


# --- two routes ----------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(updates, st.sampled_from(NOISE_FREE))
def test_apply_and_replay_agree_on_any_update(update: dict[str, Tensor], defense: AbstractUpdateDefense):
    """Also on the zeros and ties that a real gradient seldom has and a quantized one always has."""
    close_trees(defense.replay(update), defense.apply(update, key=Key(0)))


@pytest.mark.parametrize("defense", [*NOISE_FREE, RandomDrop(0.5), GaussianNoise(1.0), Quantize(3, stochastic=True)])
def test_zeros_empty_tensors_and_scalars_pass(defense: AbstractUpdateDefense):
    update = {"zero": torch.zeros(3), "empty": torch.zeros(0), "scalar": torch.tensor(2.0)}
    for result in (defense.apply(update, key=Key(0)), defense.replay(update)):
        assert {n: v.shape for n, v in result.items()} == {n: v.shape for n, v in update.items()}
        assert trees.finite(result)


def test_the_gradient_of_a_replay_at_zero_is_finite():
    for defense in NOISE_FREE:
        zero = torch.zeros(4, requires_grad=True)
        trees.flatten(defense.replay({"w": zero})).sum().backward()
        assert zero.grad is not None
        assert bool(torch.isfinite(zero.grad).all())


# --- norm bounds ---------------------------------------------------------------------------------------------------

STEPS = [*NOISE_FREE, Quantize(3, stochastic=True), RandomDrop(0.5), Clip(0.2), Clip(3.0, order=1)]


@settings(max_examples=200, deadline=None)
@given(updates, st.lists(st.sampled_from(STEPS), min_size=1, max_size=4), st.integers(0, 99))
def test_the_stated_sensitivity_bounds_what_is_sent(update, chain: list[AbstractUpdateDefense], seed: int):
    bound = Sensitivity()
    for place, step in enumerate(chain):
        update, bound = step.apply(update, key=Key(seed).child(place)), step.sensitivity(bound)
        assert trees.norm(update, 1) <= bound.l1 * (1 + 1e-9)
        assert trees.norm(update, 2) <= bound.l2 * (1 + 1e-9)


def test_sensitivity_follows_the_clip():
    assert Clip(2.0).sensitivity(Sensitivity()) == Sensitivity(l1=math.inf, l2=2.0)
    assert Clip(2.0, order=1).sensitivity(Sensitivity()) == Sensitivity(l1=2.0, l2=2.0)
    assert Clip(2.0).sensitivity(Sensitivity(l1=3.0, l2=1.0)) == Sensitivity(l1=3.0, l2=1.0)
    given_bound = Sensitivity(l1=3.0, l2=1.0)
    for keeps in (Prune(0.1), RandomDrop(0.9), GaussianNoise(0.0), LaplaceNoise(0.0)):
        assert keeps.sensitivity(given_bound) == given_bound
    for loses in (Sign(), Quantize(4, stochastic=True), GaussianNoise(0.1), LaplaceNoise(0.1)):
        assert loses.sensitivity(given_bound) == Sensitivity()
    assert Quantize(4).sensitivity(given_bound) == Sensitivity(l1=6.0, l2=2.0)


def test_rounding_to_the_nearest_can_really_double_a_norm():
    """So the factor 2 of its sensitivity is needed: entries just above half a step."""
    update = {"w": torch.cat([torch.ones(1), torch.full((10_000,), 0.5001)])}
    grown = trees.norm(Quantize(2).apply(update, key=Key(0))) / trees.norm(update)
    assert 1.99 < grown < 2


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("size", [1e-30, 1e-20, 1.0, 1e30])
def test_no_size_of_numbers_passes_a_clip(size: float, order: int):
    """Squares of 1e-30 are zero in float32, and those of 1e30 infinite."""
    update = {"a": torch.full((3, 4), size), "b": torch.full((10,), -size)}
    sent = Clip(size, order).apply(update, key=Key(0))
    whole = torch.cat([value.flatten().double() for value in sent.values()])
    assert float(torch.linalg.vector_norm(whole, ord=order)) == pytest.approx(size, rel=1e-6, abs=0)


def test_the_whole_update_is_clipped_together():
    update = {"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}
    close_trees(Clip(1.0).apply(update, key=Key(0)), {"a": torch.tensor([0.6]), "b": torch.tensor([0.8])})
    close_trees(Clip(1.0, order=1).apply(update, key=Key(0)), trees.scale(update, 1 / 7))
    close_trees(Clip(6.0).apply(update, key=Key(0)), update)
    close_trees(Clip(6.0, order=1).apply(update, key=Key(0)), trees.scale(update, 6 / 7))


# --- noise ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("defense", "law"), [(GaussianNoise(0.3), stats.norm(scale=0.3)), (LaplaceNoise(0.3), stats.laplace(scale=0.3))]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_noise_has_the_stated_distribution(defense: AbstractUpdateDefense, law, dtype: torch.dtype):
    update = {"w": torch.full((4000,), 5.0, dtype=dtype), "b": torch.zeros(4000, dtype=dtype)}
    sent = defense.apply(update, key=Key(0))
    drawn = trees.subtract(sent, update)
    for value in drawn.values():
        assert stats.kstest(value.double().numpy(), law.cdf).pvalue > 1e-3
    # tensors of the same shape must not share their draws
    assert abs(stats.pearsonr(drawn["w"].numpy(), drawn["b"].numpy()).statistic) < 0.08


def test_noise_without_a_bound_is_not_private_and_with_one_is_in_its_units():
    assert type(GaussianNoise(1.0).event(Sensitivity(l1=1.0))).__name__ == "NonPrivateDpEvent"
    assert type(LaplaceNoise(1.0).event(Sensitivity(l2=1.0))).__name__ == "NonPrivateDpEvent"
    # no noise is no noisy step: what stands before it still counts
    assert GaussianNoise(0.0).event(Sensitivity(1.0, 1.0)) is LaplaceNoise(0.0).event(Sensitivity(1.0, 1.0)) is None
    assert type(GaussianNoise(1.0).event(Sensitivity(0.0, 0.0))).__name__ == "NoOpDpEvent"
    # a ratio that underflows to 0 is not private, one that overflows is rounded down
    assert type(GaussianNoise(1e-300).event(Sensitivity(1e300, 1e300))).__name__ == "NonPrivateDpEvent"
    assert GaussianNoise(1e300).event(Sensitivity(1e-300, 1e-300)).noise_multiplier == 1e12
    assert GaussianNoise(3.0).event(Sensitivity(l1=9.0, l2=2.0)).noise_multiplier == 1.5
    assert LaplaceNoise(3.0).event(Sensitivity(l1=2.0, l2=9.0)).noise_multiplier == 1.5


def test_input_noise_is_on_a_copy_and_has_the_stated_size():
    batch = secret(50)
    before = batch.fingerprint()
    noisy = InputNoise(0.2).apply(mlp(), batch, key=Key(0))
    assert batch.fingerprint() == before
    assert noisy.labels is batch.labels
    drawn = (noisy.inputs - batch.inputs).flatten().numpy()
    assert stats.kstest(drawn, stats.norm(scale=0.2).cdf).pvalue > 1e-3
    assert InputNoise(0.2).replay(mlp(), batch) is batch


# --- sparsity ------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(updates, st.floats(0.01, 1.0), st.booleans())
def test_pruning_keeps_the_largest(update: dict[str, Tensor], keep: float, whole: bool):
    sent = Prune(keep, whole=whole).apply(update, key=Key(0))
    groups = [(trees.flatten(sent), trees.flatten(update))] if whole else [(sent[n], update[n]) for n in update]
    for pruned, full in groups:
        kept = math.ceil(keep * full.numel() - 1e-9)
        assert int((pruned != 0).sum()) == min(kept, int((full != 0).sum()))
        assert bool(((pruned == full) | (pruned == 0)).all())
        close(pruned.abs().sum(), full.abs().sort(descending=True).values[:kept].sum())


def test_a_fraction_of_exactly_some_entries_keeps_that_many():
    """0.1 * 30 is a little above 3 in floating point."""
    update = {"w": torch.arange(1.0, 31.0)}
    assert int((Prune(0.1).apply(update, key=Key(0))["w"] != 0).sum()) == 3


def test_dropping_has_the_stated_rate_and_does_not_rescale():
    update = {"w": torch.full((10_000,), 2.0), "b": torch.full((10_000,), 2.0)}
    sent = RandomDrop(0.3).apply(update, key=Key(0))
    for value in sent.values():
        assert set(value.tolist()) == {0.0, 2.0}
        assert stats.binomtest(int((value == 0).sum()), 10_000, 0.3).pvalue > 1e-3
    assert not torch.equal(sent["w"], sent["b"])


# --- few bits ------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(updates, st.integers(2, 8), st.booleans())
def test_quantizing_sends_uniform_levels_with_zero_and_the_largest(update, bits: int, stochastic: bool):
    sent = Quantize(bits, stochastic=stochastic).apply(update, key=Key(0))
    for name, value in update.items():
        top, side = value.abs().max(), 2 ** (bits - 1) - 1
        if top == 0:
            assert bool((sent[name] == 0).all())
            continue
        level = sent[name] / (top / side)
        close(level, level.round(), loosened=1e3, because="a level is a quotient of two rounded numbers")
        assert level.abs().max() <= side + 1e-6
        assert bool(((sent[name] - value).abs() <= top / side * (1.0 if stochastic else 0.5) * (1 + 1e-9)).all())
        assert bool((sent[name][value == 0] == 0).all())


def test_stochastic_rounding_is_unbiased_entry_by_entry():
    update = {"w": torch.linspace(-1, 1, 41, dtype=torch.float64)}
    draws = torch.stack([Quantize(3, stochastic=True).apply(update, key=Key(k))["w"] for k in range(2000)])
    error = (draws.mean(0) - update["w"]).abs()
    assert bool((error <= 5 * draws.std(0) / 2000**0.5 + 1e-12).all())


def test_signs_are_units_and_zero_stays_zero():
    sent = Sign().apply({"w": torch.tensor([-0.1, 0.0, 7.0])}, key=Key(0))["w"]
    assert sent.tolist() == [-1.0, 0.0, 1.0]


# --- dropout -------------------------------------------------------------------------------------------------------


def test_dropout_sets_the_rate_of_every_dropout_layer_of_a_copy():
    model = dropout_net()
    changed = Dropout(0.7).apply(model)
    layers = [m for m in changed.module.modules() if isinstance(m, nn.Dropout | nn.Dropout2d)]
    assert [(m.p, m.training) for m in layers] == [(0.7, True)] * 2
    own = [m for m in model.module.modules() if isinstance(m, nn.Dropout | nn.Dropout2d)]
    assert [(m.p, m.training) for m in own] == [(0.3, False)] * 2
    assert Dropout(0.7).replay(model) is model


@pytest.mark.parametrize("training", [False, True])
def test_dropout_leaves_batch_normalization_in_the_targets_mode(training: bool):
    model = norm_net(training=training)
    modes = [m.training for m in Dropout(0.5).apply(model).module.modules() if isinstance(m, nn.BatchNorm2d)]
    assert modes == [training]
    if not training:
        bare, calm = (m.release(model, secret(), key=Key(0)).by_name for m in (FedSGD(), FedSGD() >> Dropout(0.0)))
        close_trees(calm, bare)


def test_dropout_needs_a_dropout_layer():
    mechanism = FedSGD() >> Dropout(0.5)
    with pytest.raises(NoSuchLayer, match=r"the model 'custom' has no dropout layer; build it with one"):
        mechanism.release(mlp(), secret(), key=Key(0))
    with pytest.raises(NoSuchLayer, match="no dropout layer"):
        mechanism.replay(mlp(), secret())


def test_more_dropout_drops_more():
    def dead(rate: float) -> int:
        sent = (FedSGD() >> Dropout(rate)).release(dropout_net(), secret(1), key=Key(0)).by_name["5.weight"]
        return int((sent == 0).all(0).sum())

    assert dead(0.0) == 0
    assert dead(0.99) == 12


# --- arguments -----------------------------------------------------------------------------------------------------

broken = [float("nan"), float("inf"), float("-inf"), True, None, "1", 1j]
CONSTRUCTORS = [
    (Clip, "norm", "expected 0 < norm, got", st.floats(max_value=0)),
    (lambda v: Clip(1.0, order=v), "order", "expected 1 <= order <= 2, got", st.integers(3) | st.integers(max_value=0)),
    (GaussianNoise, "std", "expected 0 <= std, got", st.floats(max_value=-1e-9)),
    (LaplaceNoise, "scale", "expected 0 <= scale, got", st.floats(max_value=-1e-9)),
    (Prune, "keep", "expected 0 < keep <= 1, got", st.floats(max_value=0) | st.floats(min_value=1.0001)),
    (RandomDrop, "rate", "expected 0 <= rate < 1, got", st.floats(max_value=-1e-9) | st.floats(min_value=1)),
    (Quantize, "bits", "expected 2 <= bits <= 16, got", st.integers(max_value=1) | st.integers(17) | st.floats()),
    (Dropout, "rate", "expected 0 <= rate < 1, got", st.floats(max_value=-1e-9) | st.floats(min_value=1)),
    (InputNoise, "std", "expected 0 <= std, got", st.floats(max_value=-1e-9)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "name", "sentence", "bad"), CONSTRUCTORS, ids=[f"{i}-{c[1]}" for i, c in enumerate(CONSTRUCTORS)]
)
def test_bad_arguments_are_refused_with_what_was_wanted(make, name: str, sentence: str, bad):
    @settings(max_examples=40, deadline=None)
    @given(bad | st.sampled_from(broken))
    def refused(value):
        with pytest.raises(BadInput, match=sentence):
            make(value)

    refused()


@pytest.mark.parametrize("make", [lambda v: Prune(0.5, whole=v), lambda v: Quantize(4, stochastic=v)])
@pytest.mark.parametrize("value", [1, 0, "yes", None])
def test_switches_are_true_or_false(make, value):
    with pytest.raises(BadInput, match=r"to be True or False, got"):
        make(value)
