"""Per-example clipping: against gradients of single examples, and its epsilon against closed forms."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from tests.mechanisms_table import mlp, norm_net, secret
from tests.tolerance import close, close_trees

from leakscope.attacks.inputs.matching.objective import splits
from leakscope.attacks.parts.distance.distances import Cosine
from leakscope.bounds.accounting import epsilon
from leakscope.core.errors import BadInput
from leakscope.core.mechanism import Adjacency
from leakscope.core.release import Delta
from leakscope.mechanisms.compose import accounting
from leakscope.mechanisms.defenses.clip import Clip
from leakscope.mechanisms.defenses.noise import GaussianNoise
from leakscope.mechanisms.defenses.prune import Prune
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.protocols.dpsgd import DPSGD
from leakscope.mechanisms.protocols.fedsgd import FedSGD
from leakscope.mechanisms.reading import keeps_ratios, keeps_zeros
from leakscope.numerics import trees
from leakscope.numerics.rng import Key

CLIP = 1.4
"""Between the norms of the four examples' gradients, 1.2 to 1.7: two are clipped, two are not."""


def singles():
    """The gradient of each example, by the mechanism that knows nothing of clipping."""
    batch = secret()
    return [FedSGD().release(mlp(), batch.rows(torch.tensor([i])), key=Key(0)).by_name for i in range(len(batch))]


def by_hand(clip, divisor):
    sizes = [math.sqrt(sum(float(v.square().sum()) for v in one.values())) for one in singles()]
    assert min(sizes) < CLIP < max(sizes)
    shares = [trees.scale(one, min(1.0, clip / size) / divisor) for one, size in zip(singles(), sizes, strict=True)]
    return {name: sum(share[name] for share in shares) for name in shares[0]}


@pytest.mark.parametrize(("clip", "expected"), [(CLIP, None), (CLIP, 7), (0.01, None), (100.0, None)])
def test_each_example_is_clipped_by_itself(clip, expected):
    mechanism = DPSGD(clip, 0.0, expected)
    close_trees(mechanism.release(mlp(), secret(), key=Key(0)).by_name, by_hand(clip, expected or 4))
    close_trees(mechanism.replay(mlp(), secret()).by_name, by_hand(clip, expected or 4))


def test_a_clip_that_nothing_reaches_leaves_the_mean_gradient():
    close_trees(
        DPSGD(100.0, 0.0).release(mlp(), secret(), key=Key(0)).by_name,
        FedSGD().release(mlp(), secret(), key=Key(0)).by_name,
    )


def test_one_example_never_moves_the_sum_by_more_than_the_clip():
    whole = DPSGD(0.3, 0.0, expected=1)
    everything = whole.release(mlp(), secret(), key=Key(0)).by_name
    for left_out in range(4):
        rest = torch.tensor([i for i in range(4) if i != left_out])
        without = whole.release(mlp(), secret().rows(rest), key=Key(0)).by_name
        assert trees.norm(trees.subtract(everything, without)) == pytest.approx(0.3)


def test_the_noise_has_the_stated_size_and_comes_from_the_key():
    calm, noisy = DPSGD(0.5, 0.0, expected=2), DPSGD(0.5, 3.0, expected=2)
    bare = calm.release(mlp(), secret(), key=Key(0)).by_name
    drawn = [noisy.release(mlp(), secret(), key=Key(k)).by_name for k in range(30)]
    added = torch.cat([trees.flatten(trees.subtract(one, bare)) for one in drawn])
    assert float(added.std()) == pytest.approx(3.0 * 0.5 / 2, rel=5 / math.sqrt(2 * len(added)))
    assert abs(float(added.mean())) < 5 * 0.75 / math.sqrt(len(added))
    close_trees(noisy.replay(mlp(), secret()).by_name, bare)
    close_trees(noisy.release(mlp(), secret(), key=Key(3)).by_name, drawn[3])


@pytest.mark.parametrize("change", [{"clip": 1.3}, {"noise_multiplier": 0.1}, {"expected": 5}])
def test_every_field_but_the_rate_speaks_in_the_release(change):
    own = DPSGD(CLIP, 0.2, 4)
    other = dataclasses.replace(own, **change)
    one, two = (m.release(mlp(), secret(), key=Key(0)).fingerprint() for m in (own, other))
    assert one != two
    assert repr(one) != repr(two)


def test_the_rate_speaks_in_the_event_of_the_training_alone():
    own, other = DPSGD(CLIP, 1.0, 4), DPSGD(CLIP, 1.0, 4, rate=0.01)
    one, two = (m.release(mlp(), secret(), key=Key(0)).fingerprint() for m in (own, other))
    assert one == two
    assert other.event(rounds=3) == own.event(rounds=3) == own.training_event(rounds=3)
    assert epsilon(other.training_event(), delta=1e-5) < 0.5 * epsilon(own.event(), delta=1e-5)


def test_a_step_that_the_example_is_known_to_be_in_is_not_amplified():
    """One Poisson step loses q delta(ln(1 + (exp(e) - 1) / q)) of what the step itself does (Balle et al. 2018), next
    to nothing at a rate of 1e-4; whoever attacks a step of the example has nothing to do with the rate."""
    own, q, delta = DPSGD(CLIP, 1.0, rate=1e-4), 1e-4, 1e-5
    # the epsilon of the step itself at delta / q, brought back by the same formula
    inner = epsilon(accounting().GaussianDpEvent(1.0), delta=delta / q)
    assert 0.99 * math.log1p(q * math.expm1(inner)) <= epsilon(own.training_event(), delta=delta) < 0.005
    assert epsilon(own.event(), delta=delta) == pytest.approx(4.38, abs=0.01)


def test_who_is_hidden_is_declared():
    assert DPSGD(CLIP, 1.0).adjacency is (DPSGD(CLIP, 1.0) >> Clip(1.0)).adjacency is Adjacency.EXAMPLE
    # without noise it is private for nobody, and what follows hides the client
    assert DPSGD(CLIP, 0.0).adjacency is None
    assert (DPSGD(CLIP, 0.0) >> Clip(1.0) >> GaussianNoise(1.0)).adjacency is Adjacency.CLIENT


def test_the_event_is_gaussian_with_the_multiplier_whatever_the_clip():
    events = [DPSGD(clip, 2.0, expected).event() for clip in (0.1, 9.0) for expected in (None, 3)]
    assert set(map(repr, events)) == {repr(accounting().GaussianDpEvent(2.0))}
    single, many = (epsilon(DPSGD(1.0, 2.0).event(rounds=n), delta=1e-5) for n in (1, 16))
    assert many == pytest.approx(epsilon(accounting().GaussianDpEvent(2.0 / 4), delta=1e-5), rel=1e-3)
    assert single < many
    assert epsilon(DPSGD(1.0, 0.0).event(), delta=1e-5) == math.inf


def test_what_follows_costs_nothing_and_cannot_undo_the_bound():
    own = DPSGD(1.0, 2.0, rate=0.1)
    for more in (own >> Prune(0.5), own >> GaussianNoise(0.1), own >> Clip(1.0) >> GaussianNoise(0.001)):
        assert more.event(rounds=3) == own.event(rounds=3)
        assert more.training_event(rounds=3) == own.training_event(rounds=3) != own.event(rounds=3)
    without = DPSGD(1.0, 0.0) >> Clip(1.0) >> GaussianNoise(2.0)
    assert without.event() == (FedSGD() >> Clip(1.0) >> GaussianNoise(2.0)).event()


def test_its_positive_control_is_the_gradient_without_clip():
    assert DPSGD(1.0, 1.0).undefended == FedSGD()
    assert (DPSGD(1.0, 1.0) >> Prune(0.5)).undefended == FedSGD()


def test_attacks_that_rely_on_the_plain_gradient_see_that_it_is_none():
    assert keeps_ratios(DPSGD(1.0, 0.0)) is Answer.YES
    assert keeps_ratios(DPSGD(1.0, 0.1)) is Answer.NO
    assert keeps_ratios(DPSGD(1.0, 0.1) >> Clip(1.0)) is Answer.NO
    for noisy in (DPSGD(1.0, 0.1), DPSGD(1.0, 0.1) >> Clip(1.0)):
        assert not splits(noisy, Cosine())
        assert keeps_zeros(noisy) is Answer.NO


def test_examples_that_are_mixed_have_no_gradient_of_their_own():
    for run in (lambda m: m.release(norm_net(), secret(), key=Key(0)), lambda m: m.replay(norm_net(), secret())):
        with pytest.raises(BadInput, match=r"batch normalization '1' of 'custom' mixes .* use group normalization"):
            run(DPSGD(1.0, 0.0))


def test_a_delta_is_refused():
    with pytest.raises(BadInput, match="DPSGD releases a Gradient, got Delta"):
        DPSGD(1.0, 0.0).as_gradient(Delta({"w": torch.ones(1)}))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((0.0, 1.0), "0 < clip, got 0.0"),
        ((1.0, -1.0), "0 <= noise_multiplier, got -1.0"),
        ((1.0, 1.0, 0), "expected >= 1, got 0"),
        ((1.0, 1.0, None, 0.0), "0 < rate <= 1, got 0.0"),
        ((1.0, 1.0, None, 1.1), "0 < rate <= 1, got 1.1"),
    ],
)
def test_impossible_settings_are_refused(arguments, says):
    with pytest.raises(BadInput, match=says):
        DPSGD(*arguments)


def test_an_example_without_gradient_is_no_division_by_zero():
    """Its norm is zero: the factor is one, forward and backward."""
    mechanism, batch, target = DPSGD(1.0, 0.0), secret(2), mlp()
    soft = dataclasses.replace(batch, labels=torch.softmax(target.outputs(target.parameters(), batch.inputs), 1))

    def size(inputs):
        return trees.norm(mechanism.replay(target, soft.with_inputs(inputs)).by_name) ** 2

    assert bool(torch.isfinite(torch.func.grad(size)(batch.inputs)).all())
    close(trees.norm(mechanism.release(target, soft, key=Key(0)).by_name), torch.zeros((), dtype=torch.float64))
