"""Protocols: the sign and scale of what they release, the order of the examples, and what a round of clients sends."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import final

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.mechanisms_table import TARGETS, dropout_net, mlp, norm_net, secret
from tests.tolerance import close, close_trees
from torch import Tensor, nn

from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.core.facts import BatchSize, TrueLabels
from leakscope.core.observation import Observation
from leakscope.core.release import Delta, Gradient, Weights
from leakscope.core.target import AbstractLoss, Target
from leakscope.domains.vision import Images
from leakscope.mechanisms.compose import Defended
from leakscope.mechanisms.defenses.clip import Clip
from leakscope.mechanisms.defenses.dropout import Dropout
from leakscope.mechanisms.defenses.inputs import InputNoise
from leakscope.mechanisms.defenses.noise import GaussianNoise
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.federation import mean_update
from leakscope.mechanisms.observe import observe
from leakscope.mechanisms.protocols.fedavg import FedAvg
from leakscope.mechanisms.protocols.fedsgd import FedSGD
from leakscope.mechanisms.protocols.optimizers import ClientAdam, ClientAdamW, ClientSGD
from leakscope.mechanisms.reading import evenly, known_weights
from leakscope.numerics import trees
from leakscope.numerics.rng import Key
from leakscope.targets.losses import CTC


@final
@dataclass(frozen=True)
class Mean(AbstractLoss):
    """The mean output: with a linear model, the gradient does not depend on the weights."""

    def __call__(self, outputs: Tensor, batch: Batch) -> Tensor:
        return outputs.mean()

    def check(self, batch: Batch, classes: int) -> None:
        """Labels are not read."""

    def labeled(self, inputs: Tensor, classes: int) -> Batch:
        return Batch(inputs, torch.zeros(len(inputs), dtype=torch.int64))


def linear() -> Target:
    module = nn.Sequential(nn.Flatten(), nn.Linear(32, 3)).double()
    return Target(module, Images(2, 4, 4), classes=3, loss=Mean())


def by_hand(target: Target, batch: Batch, rows: list[list[int]], lr: float, momentum: float) -> dict[str, Tensor]:
    """Heavy-ball steps written out with `autograd.grad` on a module of one's own: a third route."""
    module = copy.deepcopy(target.module).requires_grad_(True)
    names, values = zip(*module.named_parameters(), strict=True)
    start, velocity = [v.detach().clone() for v in values], [torch.zeros_like(v) for v in values]
    for chosen in rows:
        part = batch.rows(torch.tensor(chosen))
        slopes = torch.autograd.grad(target.loss(module(part.inputs), part), values)
        with torch.no_grad():
            for place, (value, slope) in enumerate(zip(values, slopes, strict=True)):
                velocity[place] = momentum * velocity[place] + slope
                value -= lr * velocity[place]
    return {n: v.detach() - s for n, v, s in zip(names, values, start, strict=True)}


# --- sign and scale ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["mlp", "dropout_eval", "norm_eval"])
def test_one_step_moves_against_the_gradient(target: str):
    model, batch = TARGETS[target](), secret()
    gradient = FedSGD().release(model, batch, key=Key(0)).by_name
    mechanism = FedAvg(steps=1, lr=0.3, momentum=0.9)
    for delta in (mechanism.release(model, batch, key=Key(0)), mechanism.replay(model, batch)):
        close_trees(delta.by_name, trees.scale(gradient, -0.3))
        close_trees(mechanism.as_gradient(delta).by_name, gradient)


@pytest.mark.parametrize(
    ("mechanism", "known"),
    [
        (FedAvg(steps=1, lr=0.3), Answer.YES),
        (FedAvg(steps=1, lr=0.3, batch_size=2), Answer.YES),
        (FedAvg(steps=1, lr=0.3, batch_size=2, accumulate=2, summed=True), Answer.YES),
        (FedAvg(steps=1, lr=0.3) >> Clip(1.0), Answer.YES),
        (FedAvg(steps=2, lr=0.3), Answer.NO),
        (FedAvg(steps=1, lr=0.3, momentum=0.9), Answer.NO),
        (FedAvg(steps=1, lr=0.3, optimizer=ClientSGD(weight_decay=0.1)), Answer.NO),
        (FedAvg(steps=1, lr=0.3, optimizer=ClientSGD(momentum=0.9, nesterov=True)), Answer.NO),
        (FedAvg(steps=1, lr=0.3, optimizer=ClientAdam()), Answer.NO),
        (FedAvg(steps=1, lr=0.3, optimizer=ClientAdamW()), Answer.NO),
    ],
    ids=repr,
)
def test_one_plain_step_and_nothing_else_is_a_gradient_at_known_weights(mechanism: FedAvg, known: Answer):
    assert known_weights(mechanism) is known
    if known is Answer.YES and not isinstance(mechanism, Defended):
        # the gradient of the examples that were taken, by autograd at the weights that were given
        model, batch = TARGETS["mlp"](), secret()
        taken = batch.rows(torch.arange(len(batch))[: mechanism.accumulate * (mechanism.batch_size or len(batch))])
        sent = mechanism.as_gradient(mechanism.release(model, batch, key=Key(0))).by_name
        close_trees(sent, FedSGD().release(model, taken, key=Key(0)).by_name)


@pytest.mark.parametrize(
    ("mechanism", "examples", "even"),
    [
        (FedAvg(steps=3, lr=0.1), 5, Answer.YES),
        (FedAvg(steps=1, lr=0.1, batch_size=2), 4, Answer.NO),
        (FedAvg(steps=1, lr=0.1, batch_size=2), 2, Answer.YES),
        (FedAvg(steps=1, lr=0.1, batch_size=2, accumulate=2), 4, Answer.YES),
        (FedAvg(steps=1, lr=0.1, batch_size=2, accumulate=2), 3, Answer.NO),
        (FedAvg(steps=4, lr=0.1, batch_size=2), 4, Answer.YES),
        (FedAvg(steps=1, lr=0.1, batch_size=8), 4, Answer.YES),
        (FedSGD(), 4, Answer.YES),
    ],
    ids=repr,
)
def test_whether_all_examples_count_alike(mechanism: FedAvg, examples: int, even: Answer):
    assert mechanism.evenly(examples) is even
    told = Observation(mlp(), Delta({"w": torch.ones(1)}), mechanism >> Clip(1.0), (BatchSize(examples),))
    assert evenly(told) is even
    assert evenly(Observation(mlp(), told.release, mechanism, ())) is Answer.UNKNOWN


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_constant_gradient_is_recovered_whatever_the_steps_and_the_momentum(steps: int, momentum: float):
    mechanism = FedAvg(steps=steps, lr=0.05, momentum=momentum)
    constant = FedSGD().release(linear(), secret(), key=Key(0)).by_name
    for delta in (mechanism.release(linear(), secret(), key=Key(0)), mechanism.replay(linear(), secret())):
        close_trees(mechanism.as_gradient(delta).by_name, constant)
        # the closed form of the docstring; without momentum it is the number of steps
        series = sum((1 - momentum**k) / (1 - momentum) for k in range(1, steps + 1))
        close_trees(delta.by_name, trees.scale(constant, -0.05 * series))


def test_the_first_order_reading_points_like_the_gradient():
    gradient = FedSGD().release(mlp(), secret(), key=Key(0)).by_name
    mechanism = FedAvg(steps=5, lr=0.01, batch_size=2, momentum=0.5)
    seen = mechanism.as_gradient(mechanism.release(mlp(), secret(), key=Key(0))).by_name
    assert trees.dot(seen, gradient) > 0.9 * trees.norm(seen) * trees.norm(gradient)


def test_a_release_of_another_kind_is_refused_with_what_to_do():
    some = {"w": torch.ones(1)}
    with pytest.raises(BadInput, match=r"FedAvg releases a Delta .* got Gradient\(1 tensors.*wrap the change"):
        FedAvg(1, 0.1).as_gradient(Gradient(some))
    with pytest.raises(BadInput, match=r"FedAvg releases a Delta"):
        (FedAvg(1, 0.1) >> Clip(1.0)).as_gradient(Weights(some))
    with pytest.raises(BadInput, match=r"FedSGD releases a Gradient, got Delta\(.*declare the mechanism"):
        FedSGD().as_gradient(Delta(some))
    assert FedSGD().as_gradient(Gradient(some)).by_name["w"] == 1


# --- the steps -----------------------------------------------------------------------------------------------------

ROWS = [
    (4, 2, [[0, 1], [2, 3], [0, 1], [2, 3], [0, 1]]),
    (3, 2, [[0, 1], [2, 0], [1, 2], [0, 1]]),
    (5, 3, [[0, 1, 2], [3, 4, 0]]),
    (3, 1, [[0], [1], [2], [0]]),
    (3, None, [[0, 1, 2]] * 3),
    (3, 3, [[0, 1, 2]] * 2),
    (3, 8, [[0, 1, 2]] * 2),
]


@pytest.mark.parametrize(("examples", "size", "rows"), ROWS)
@pytest.mark.parametrize("target", ["mlp", "norm_eval"])
def test_the_examples_are_taken_in_turn(examples: int, size: int | None, rows: list[list[int]], target: str):
    model, batch = TARGETS[target](), secret(examples)
    mechanism = FedAvg(steps=len(rows), lr=0.2, batch_size=size, momentum=0.4)
    expected = by_hand(model, batch, rows, lr=0.2, momentum=0.4)
    close_trees(mechanism.release(model, batch, key=Key(0)).by_name, expected)
    close_trees(mechanism.replay(model, batch).by_name, expected)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_batch_normalization_in_training_mode_uses_each_steps_own_batch(size: int):
    """Running statistics are not read in this mode, so that only the client updates them changes nothing."""
    if size == 1:
        batch, model = secret(2), norm_net()  # 2x2 positions of one example are enough for a variance
    else:
        batch, model = secret(4), norm_net()
    mechanism = FedAvg(steps=3, lr=0.2, batch_size=size) >> Dropout(0.0)
    close_trees(mechanism.replay(model, batch).by_name, mechanism.release(model, batch, key=Key(0)).by_name)


def test_shuffling_visits_each_example_once_in_each_pass():
    """With a gradient that the weights do not change, one pass sums to the same whatever its order."""
    plain, batch = FedAvg(steps=6, lr=0.1, batch_size=1), secret(6)
    shuffled = dataclasses.replace(plain, shuffle=True)
    wanted = plain.release(linear(), batch, key=Key(0)).by_name
    for seed in range(5):
        close_trees(shuffled.release(linear(), batch, key=Key(seed)).by_name, wanted)
    half = dataclasses.replace(shuffled, steps=3)
    sums = {half.release(linear(), batch, key=Key(seed)).fingerprint() for seed in range(5)}
    assert len(sums) > 1


def test_shuffling_orders_each_pass_anew():
    """Two passes of the same order would be the same two halves; the difference shows in half of the second pass."""
    mechanism, batch = FedAvg(steps=9, lr=0.1, batch_size=1, shuffle=True), secret(6)
    repeated = 0
    for seed in range(20):
        first = dataclasses.replace(mechanism, steps=3).release(linear(), batch, key=Key(seed)).by_name
        both = mechanism.release(linear(), batch, key=Key(seed)).by_name
        one_pass = dataclasses.replace(mechanism, steps=6).release(linear(), batch, key=Key(seed)).by_name
        second = trees.subtract(both, one_pass)
        repeated += bool(torch.allclose(second["1.weight"], first["1.weight"], atol=1e-9))
    assert repeated < 8  # by chance once in 20: three of six examples


def test_local_training_reduces_the_loss():
    model, batch = mlp(), secret()
    delta = FedAvg(steps=20, lr=0.5).release(model, batch, key=Key(0)).by_name
    after = trees.over(torch.add, model.parameters(), delta)
    assert model.loss_at(after, batch) < model.loss_at(model.parameters(), batch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_replay_is_release_in_the_precision_of_real_clients(dtype: torch.dtype):
    """A client subtracts weights, so its delta carries their rounding; the tolerance of the dtype covers it."""
    model = Target(mlp().module.to(dtype), Images(2, 4, 4), classes=3)
    batch = secret().with_inputs(secret().inputs.to(dtype))
    for protocol in (FedSGD(), FedAvg(5, 0.1, batch_size=2, momentum=0.9)):
        sent = protocol.release(model, batch, key=Key(0)).by_name
        close_trees(protocol.replay(model, batch).by_name, sent)


def utterances() -> Batch:
    """Three sequences of 6, 4 and 5 frames, padded with zeros, with labels padded by class 0."""
    inputs = torch.rand(3, 6, 2, generator=Key(1).generator(), dtype=torch.float64)
    lengths, label_lengths = torch.tensor([6, 4, 5]), torch.tensor([2, 1, 2])
    inputs = inputs * (torch.arange(6) < lengths.unsqueeze(1)).unsqueeze(2)
    return Batch(inputs, torch.tensor([[0, 1], [1, 0], [1, 0]]), lengths, label_lengths)


def test_sequences_keep_their_lengths_on_both_routes():
    model = Target(nn.Linear(2, 3).double(), Images(1, 6, 2), classes=3, loss=CTC(blank=2))
    for protocol in (FedSGD(), FedAvg(4, 0.1, batch_size=2, momentum=0.5)):
        sent = protocol.release(model, utterances(), key=Key(0)).by_name
        close_trees(protocol.replay(model, utterances()).by_name, sent)
        noisy = (protocol >> InputNoise(0.5)).release(model, utterances(), key=Key(0))
        assert noisy.fingerprint() != protocol.release(model, utterances(), key=Key(0)).fingerprint()
    padding = InputNoise(0.5).apply(model, utterances(), key=Key(0)).inputs == 0
    assert padding.all(2).sum(1).tolist() == [0, 2, 1]
    assert int(padding.sum()) == 2 * 3


class Unused(nn.Module):
    """A parameter that the loss does not reach."""

    def __init__(self, reaches: bool) -> None:
        super().__init__()
        self.used, self.idle, self.reaches = nn.Linear(32, 3), nn.Parameter(torch.ones(2)), reaches

    def forward(self, inputs: Tensor) -> Tensor:
        return self.used(inputs.flatten(1)) if self.reaches else inputs.flatten(1)[:, :3]


@pytest.mark.parametrize("protocol", [FedSGD(), FedAvg(2, 0.1)], ids=repr)
def test_a_parameter_without_influence_is_sent_as_zero_and_a_model_without_any_is_refused(protocol):
    reached = Target(Unused(reaches=True).double(), Images(2, 4, 4), classes=3)
    sent = protocol.release(reached, secret(), key=Key(0)).by_name
    assert set(sent) == {"idle", "used.weight", "used.bias"}
    assert sent["idle"].abs().sum() == 0
    close_trees(protocol.replay(reached, secret()).by_name, sent)
    constant = Target(Unused(reaches=False).double(), Images(2, 4, 4), classes=3)
    with pytest.raises(BadInput, match="does not depend on any parameter; check the model's forward"):
        protocol.release(constant, secret(), key=Key(0))


class Recurrent(nn.Module):
    """Layers whose dropout is inside: a recurrent and an attention layer; and a normalization that keeps statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(2, affine=True, track_running_stats=True)
        self.lstm = nn.GRU(8, 4, num_layers=2, dropout=0.5, batch_first=True)
        self.attention = nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True)
        self.out = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden, _ = self.lstm(self.norm(inputs).transpose(1, 2).flatten(2))
        attended, _ = self.attention(hidden, hidden, hidden, need_weights=False)
        return self.out(attended.mean(1))


def test_dropout_inside_other_layers_is_silenced_and_set_too():
    noisy = Target(Recurrent().double(), Images(2, 4, 4), classes=3, training=True)
    for protocol in (FedSGD(), FedAvg(3, 0.1, batch_size=2)):
        calm = protocol >> Dropout(0.0)
        expected = protocol.replay(noisy, secret()).by_name
        close_trees(expected, calm.release(noisy, secret(), key=Key(0)).by_name)
        first, second = (protocol.release(noisy, secret(), key=Key(k)).fingerprint() for k in (0, 1))
        assert first != second
    norm = noisy.module.get_submodule("norm")
    assert isinstance(norm, nn.InstanceNorm2d)
    assert norm.track_running_stats
    assert norm.running_mean is not None
    assert norm.running_mean.abs().sum() == 0


def test_a_replay_that_fails_leaves_the_target_as_it_was():
    model = norm_net()
    with pytest.raises(RuntimeError):
        FedSGD().replay(model, Batch(torch.zeros(2, 5, 4, 4, dtype=torch.float64), torch.tensor([0, 1])))
    assert all(m.training for m in model.module.modules())
    norm = model.module[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.track_running_stats
    assert norm.running_mean is not None


def test_soft_labels_that_track_gradients_are_left_alone():
    soft = torch.full((4, 3), 1 / 3, dtype=torch.float64, requires_grad=True)
    FedSGD().release(mlp(), Batch(secret().inputs, soft), key=Key(0))
    FedAvg(2, 0.1).release(mlp(), Batch(secret().inputs, soft), key=Key(0))
    assert soft.grad is None


# --- arguments -----------------------------------------------------------------------------------------------------

not_positive = st.one_of(st.floats(max_value=0), st.sampled_from([float("nan"), float("inf"), True, "0.1", None]))
not_counts = st.one_of(st.integers(max_value=0), st.floats(), st.sampled_from([True, "2", None]))


@settings(max_examples=40, deadline=None)
@given(lr=not_positive, steps=not_counts, size=not_counts.filter(lambda s: s is not None))
def test_bad_arguments_of_fedavg_are_refused(lr, steps, size):
    with pytest.raises(BadInput, match=r"expected 0 < lr, got"):
        FedAvg(1, lr)
    with pytest.raises(BadInput, match=r"expected steps >= 1, got"):
        FedAvg(steps, 0.1)
    with pytest.raises(BadInput, match=r"expected batch_size >= 1, got"):
        FedAvg(1, 0.1, batch_size=size)


@pytest.mark.parametrize("momentum", [-0.1, 1.0, float("nan"), "0.5"])
def test_bad_momentum_is_refused(momentum):
    with pytest.raises(BadInput, match=r"expected 0 <= momentum < 1, got"):
        FedAvg(1, 0.1, momentum=momentum)
    with pytest.raises(BadInput, match=r"expected shuffle to be True or False, got 1"):
        FedAvg(1, 0.1, shuffle=1)  # type: ignore[arg-type]


# --- composition ---------------------------------------------------------------------------------------------------


def test_defenses_act_in_the_written_order():
    """Noise then a clip is bounded by the clip; a clip then noise is not."""

    def norm(mechanism) -> float:
        return float(trees.norm(mechanism.release(mlp(), secret(), key=Key(0)).by_name))

    assert norm(FedSGD() >> GaussianNoise(1.0) >> Clip(0.5)) == pytest.approx(0.5)
    assert norm(FedSGD() >> Clip(0.5) >> GaussianNoise(1.0)) > 1


def test_equal_defenses_in_two_places_draw_different_noise():
    once = (FedSGD() >> GaussianNoise(1.0)).release(mlp(), secret(), key=Key(0)).by_name
    twice = (FedSGD() >> GaussianNoise(1.0) >> GaussianNoise(1.0)).release(mlp(), secret(), key=Key(0)).by_name
    bare = FedSGD().release(mlp(), secret(), key=Key(0)).by_name
    first, both = trees.subtract(once, bare), trees.subtract(twice, bare)
    assert not torch.allclose(both["2.weight"], 2 * first["2.weight"])


def test_what_cannot_be_composed_is_refused():
    with pytest.raises(BadInput, match="expected a defense after >>, got 3"):
        FedSGD() >> 3  # type: ignore[operator]
    with pytest.raises(BadInput, match="expected at least one defense"):
        Defended(FedSGD(), ())
    with pytest.raises(BadInput, match=r"expected a protocol before >>, got Clip\(.*begin with FedSGD"):
        Defended(Clip(1.0), (Clip(1.0),))  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="expected rounds >= 1, got 0"):
        (FedSGD() >> Clip(1.0)).event(rounds=0)
    with pytest.raises(BadInput, match=r"expected rounds >= 1, got 1\.5"):
        FedSGD().event(rounds=1.5)  # type: ignore[arg-type]


def test_the_undefended_mechanism_is_the_protocol():
    protocol = FedAvg(2, 0.1)
    assert (protocol >> Clip(1.0) >> GaussianNoise(1.0)).undefended == protocol == protocol.undefended


# --- observe -------------------------------------------------------------------------------------------------------


def test_the_observation_holds_what_was_sent_and_told():
    seen = observe(mlp(), secret(), FedAvg(2, 0.1), key=Key(0), tell=[BatchSize(4)])
    assert isinstance(seen.release, Delta)
    assert seen.told(BatchSize).count == 4
    assert not seen.knows(TrueLabels)
    assert isinstance(seen.gradient(), Gradient)


@pytest.mark.parametrize(
    ("batch", "sentence"),
    [
        (Batch(torch.zeros(2, 2, 4, 5).double(), torch.tensor([0, 1])), "do not fit the target's domain"),
        (Batch(torch.zeros(2, 2, 4, 4).double(), torch.tensor([0, 3])), "expected labels from 0 to 2, got 0 to 3"),
        (Batch(torch.zeros(2, 2, 4, 4).double(), torch.tensor([-1, 1])), "expected labels from 0 to 2, got -1 to 1"),
        (Batch(torch.zeros(2, 2, 4, 4).double(), torch.ones(2, 4).double()), "expected 3 probabilities per example"),
        (Batch(torch.full((2, 2, 4, 4), torch.nan).double(), torch.tensor([0, 1])), "not finite"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(batch: Batch, sentence: str):
    with pytest.raises(BadInput, match=sentence):
        observe(mlp(), batch, FedSGD(), key=Key(0))


def test_a_lie_is_refused():
    with pytest.raises(BadInput, match=r"told BatchSize\(5\), but the batch has 4; tell what is true"):
        observe(mlp(), secret(), FedSGD(), key=Key(0), tell=[BatchSize(5)])


# --- many clients --------------------------------------------------------------------------------------------------


@given(st.integers(1, 7), st.lists(st.floats(0.01, 100), min_size=7, max_size=7))
@settings(max_examples=50, deadline=None)
def test_the_mean_of_identical_updates_is_the_update_to_the_last_bit(clients: int, weights: list[float]):
    update = FedAvg(1, 0.1).release(mlp(), secret(), key=Key(0))
    for shares in (None, weights[:clients]):
        mean = mean_update([update] * clients, shares)
        assert mean.fingerprint() == update.fingerprint()


def test_the_mean_of_clients_is_the_gradient_of_all_their_examples():
    """McMahan et al.: weighted by the number of examples, the mean gradient is the whole data's."""
    batch = secret(6)
    parts = [batch.rows(torch.arange(6)[a:b]) for a, b in ((0, 1), (1, 3), (3, 6))]
    releases = [FedSGD().release(mlp(), part, key=Key(0)) for part in parts]
    whole = FedSGD().release(mlp(), batch, key=Key(0))
    close_trees(mean_update(releases, [1, 2, 3]).by_name, whole.by_name)
    assert isinstance(mean_update(releases), Gradient)
    stacked = {n: torch.stack([r.by_name[n] for r in releases]).mean(0) for n in whole.by_name}
    close_trees(mean_update(releases).by_name, stacked)


def test_a_client_of_weight_zero_does_not_count_whatever_it_sent():
    broken = Delta({"w": torch.tensor([float("nan")])})
    sound = Delta({"w": torch.tensor([2.0])})
    for releases, weights in (([broken, sound], [0, 3]), ([sound, broken], [3, 0])):
        close(mean_update(releases, weights).by_name["w"], torch.tensor([2.0]))


def test_the_mean_does_not_change_the_updates():
    releases = [Delta({"w": torch.tensor([float(k)])}) for k in range(3)]
    before = [r.fingerprint() for r in releases]
    mean_update(releases).by_name["w"].add_(1)  # type: ignore[union-attr]
    mean_update(releases[:1]).by_name["w"].add_(1)  # type: ignore[union-attr]
    assert [r.fingerprint() for r in releases] == before


@pytest.mark.parametrize(
    ("releases", "weights", "sentence"),
    [
        ([], None, "expected at least one release"),
        ([Delta({"w": torch.ones(1)}), Gradient({"w": torch.ones(1)})], None, "release 1 is a Delta and release 2 a G"),
        ([Delta({"w": torch.ones(1)}), Delta({"v": torch.ones(1)})], None, r"names or shapes of \['v', 'w'\]"),
        ([Delta({"w": torch.ones(1)}), Delta({"w": torch.ones(2)})], None, r"names or shapes of \['w'\]"),
        ([Delta({"w": torch.ones(1)})], [1, 2], r"expected one weight per release \(1\), got 2"),
        ([Delta({"w": torch.ones(1)})], [0], "expected at least one positive weight"),
        ([Delta({"w": torch.ones(1)})], [-1], "expected 0 <= weight, got -1"),
        ([Delta({"w": torch.ones(1)})], [float("nan")], "expected 0 <= weight, got nan"),
    ],
)
def test_updates_that_cannot_be_averaged_are_refused(releases, weights, sentence):
    with pytest.raises(BadInput, match=sentence):
        mean_update(releases, weights)


def test_a_mean_is_differentiable_in_every_client():
    """Secure aggregation seen by the adversary: the replay of the mean is the mean of the replays."""
    batch = secret()
    candidate = batch.inputs.clone().requires_grad_(True)
    replays = [FedSGD().replay(dropout_net(), Batch(candidate[k : k + 2], batch.labels[k : k + 2])) for k in (0, 2)]
    (slope,) = torch.autograd.grad(trees.norm(mean_update(replays).by_name), candidate)
    assert bool((slope.flatten(1).abs().amax(1) > 0).all())
