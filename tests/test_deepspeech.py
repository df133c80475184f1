"""DeepSpeech against its formulas, torch's LSTM and finite differences, and through a federated update."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from tests.tolerance import close, close_trees
from torch import Tensor, nn

from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.core.release import Gradient
from leakscope.core.target import Target
from leakscope.domains.speech import Frames
from leakscope.domains.vision import Images
from leakscope.mechanisms.observe import observe
from leakscope.mechanisms.protocols.fedavg import FedAvg
from leakscope.mechanisms.protocols.fedsgd import FedSGD
from leakscope.numerics import trees
from leakscope.numerics.rng import Key
from leakscope.targets.losses import CTC, Reduction
from leakscope.targets.zoo.deepspeech import LSTM, DeepSpeech, _Recurrence, windows

SMALL = DeepSpeech(hidden=12, context=2, coefficients=4)


def small(recipe: DeepSpeech = SMALL, *, classes: int = 6) -> Target:
    target = recipe.build(Frames(recipe.coefficients), classes, key=Key(0))
    with torch.no_grad():
        for name, parameter in target.module.named_parameters():
            if parameter.dim() == 1:  # biases of zero would hide mistakes in them
                draws = torch.randn(parameter.shape, generator=Key(1).child(name).generator())
                parameter.copy_(0.1 * draws)
    target.module.double()
    return target


def utterances(lengths: tuple[int, ...] = (11, 7), *, features: int = 4) -> Batch:
    frames = max(lengths)
    draws = torch.randn(len(lengths), frames, features, generator=Key(2).generator(), dtype=torch.float64)
    real = torch.arange(frames) < torch.tensor(lengths).unsqueeze(1)
    labels = torch.tensor([[1, 1, 3], [4, 2, 0]][: len(lengths)])
    letters = torch.tensor([3, 2][: len(lengths)])
    return Batch(draws * real.unsqueeze(2), labels, torch.tensor(lengths), letters)


def test_the_full_size_is_the_original() -> None:
    target = DeepSpeech().build(Frames(), 29, key=Key(0))
    assert target.count() == 47_224_861
    shapes = {name: tuple(value.shape) for name, value in target.parameters().items()}
    assert shapes["layer_1.weight"] == (2048, 19 * 26)
    assert shapes["lstm.weight_hh"] == (8192, 2048)
    assert shapes["lstm.bias"] == (8192,)
    assert shapes["layer_6.weight"] == (29, 2048)
    assert target.loss == CTC(Reduction.SUM, blank=28)
    batch = Batch(torch.randn(1, 4, 26), torch.tensor([[7, 8]]), torch.tensor([4]), torch.tensor([2]))
    assert target.outputs(target.parameters(), batch.inputs).shape == (1, 4, 29)
    assert math.isfinite(float(target.loss_at(target.parameters(), batch)))


def test_weights_are_glorot_uniform_and_biases_zero() -> None:
    target = DeepSpeech(hidden=64).build(Frames(), 29, key=Key(3))
    for name, value in target.parameters().items():
        if value.dim() == 1:
            assert bool((value == 0).all())
            continue
        outputs, inputs = value.shape
        # the LSTM's two matrices are one, of 64 + 64 inputs, in TensorFlow
        reach = math.sqrt(6 / (128 + 256)) if name.startswith("lstm") else math.sqrt(6 / (inputs + outputs))
        assert 0.98 * reach < float(value.abs().max()) <= reach
        assert float(value.double().square().mean()) == pytest.approx(reach**2 / 3, rel=0.1)


def test_keys_rule_the_weights() -> None:
    state = torch.random.get_rng_state()
    first, again, other = (SMALL.build(Frames(4), 6, key=Key(seed)) for seed in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    assert first.fingerprint() == again.fingerprint()
    assert first.fingerprint() != other.fingerprint()
    values = list(first.parameters().values())
    assert not torch.equal(values[2].flatten()[:5], values[4].flatten()[:5])


def test_windows_are_oldest_first_with_zeros_outside() -> None:
    frames = torch.arange(1.0, 7.0).reshape(1, 3, 2)
    got = windows(frames, 2)
    wanted = [[0, 0, 0, 0, 1, 2, 3, 4, 5, 6], [0, 0, 1, 2, 3, 4, 5, 6, 0, 0], [1, 2, 3, 4, 5, 6, 0, 0, 0, 0]]
    assert got[0].tolist() == wanted
    assert torch.equal(windows(frames, 0), frames)


def by_hand(target: Target, frames: Tensor) -> Tensor:
    """One utterance (T, F), frame by frame, from the formulas."""
    p = target.parameters()
    context = SMALL.context
    h = c = torch.zeros(12, dtype=torch.float64)
    logits = []
    for t in range(len(frames)):
        near = [frames[s] if 0 <= s < len(frames) else 0 * frames[0] for s in range(t - context, t + context + 1)]
        x = torch.cat(near)
        for layer in ("layer_1", "layer_2", "layer_3"):
            x = (p[f"{layer}.weight"] @ x + p[f"{layer}.bias"]).clamp(0, 20)
        gates = p["lstm.weight_ih"] @ x + p["lstm.weight_hh"] @ h + p["lstm.bias"]
        i, f, g, o = gates[:12], gates[12:24], gates[24:36], gates[36:]
        c = c / (1 + torch.exp(-f)) + torch.tanh(g) / (1 + torch.exp(-i))
        h = torch.tanh(c) / (1 + torch.exp(-o))
        x = (p["layer_5.weight"] @ h + p["layer_5.bias"]).clamp(0, 20)
        logits.append(p["layer_6.weight"] @ x + p["layer_6.bias"])
    return torch.stack(logits)


def test_logits_by_hand() -> None:
    target, batch = small(), utterances()
    loud = batch.with_inputs(60 * batch.inputs)  # so that the clip is reached
    for given in (batch, loud):
        close(target.outputs(target.parameters(), given.inputs)[0], by_hand(target, given.inputs[0]))
    first = windows(loud.inputs, 2) @ target.parameters()["layer_1.weight"].T
    assert bool((first > 20).any())


def test_an_utterance_in_a_batch_is_the_same_as_alone() -> None:
    target, batch = small(), utterances((11, 7))
    together = target.outputs(target.parameters(), batch.inputs)
    alone = target.outputs(target.parameters(), batch.inputs[1:, :7])
    close(together[1:, :7], alone)
    each = [target.loss_at(target.parameters(), batch.rows(torch.tensor([k])).trimmed()) for k in (0, 1)]
    close(target.loss_at(target.parameters(), batch), torch.stack(each).mean())


def test_padding_has_no_gradient() -> None:
    target, batch = small(), utterances((11, 7))
    longer = Batch(nn.functional.pad(batch.inputs, (0, 0, 0, 9)), batch.labels, batch.lengths, batch.label_lengths)
    gradients = [torch.func.grad(target.loss_at)(target.parameters(), given) for given in (batch, longer)]
    close_trees(gradients[1], gradients[0])


def test_the_recurrence_is_torchs_lstm() -> None:
    mine, other = LSTM(5, 3).double(), nn.LSTM(5, 3, batch_first=True).double()
    with torch.no_grad():
        mine.weight_ih.copy_(other.weight_ih_l0)
        mine.weight_hh.copy_(other.weight_hh_l0)
        mine.bias.copy_(other.bias_ih_l0 + other.bias_hh_l0)
    x = torch.randn(2, 7, 5, generator=Key(4).generator(), dtype=torch.float64)
    close(mine(x), other(x)[0])
    mine(x).square().sum().backward()
    other(x)[0].square().sum().backward()
    close(mine.weight_hh.grad, other.weight_hh_l0.grad)
    close(mine.weight_ih.grad, other.weight_ih_l0.grad)
    close(mine.bias.grad, other.bias_hh_l0.grad)


def test_the_recurrence_has_its_first_and_second_derivatives() -> None:
    key = Key(5)
    given = torch.randn(4, 2, 8, generator=key.child(0).generator(), dtype=torch.float64, requires_grad=True)
    weight = torch.randn(8, 2, generator=key.child(1).generator(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(_Recurrence.apply, (given, weight))
    assert torch.autograd.gradgradcheck(_Recurrence.apply, (given, weight))


def test_per_utterance_gradients_and_second_order_under_vmap() -> None:
    target, batch = small(), utterances((9, 9))
    parameters = target.parameters()

    def loss(at: dict[str, Tensor], frames: Tensor, labels: Tensor, letters: Tensor) -> Tensor:
        one = Batch(frames[None], labels[None], batch.lengths[:1], letters[None])
        return target.loss_at(at, one)

    data = (batch.inputs, batch.labels, batch.label_lengths)
    together = torch.func.vmap(torch.func.grad(loss), (None, 0, 0, 0))(parameters, *data)
    for k in (0, 1):
        alone = torch.func.grad(loss)(parameters, *(part[k] for part in data))
        close_trees({n: v[k] for n, v in together.items()}, alone)

    def matched(frames: Tensor) -> Tensor:
        return trees.norm(torch.func.grad(loss)(parameters, frames, batch.labels[0], batch.label_lengths[0]))

    frames = batch.inputs[0].clone().requires_grad_(True)
    assert torch.autograd.gradcheck(matched, (frames,))
    both = torch.func.vmap(torch.func.grad(matched))(batch.inputs)
    close(both[1], torch.func.grad(matched)(batch.inputs[1]), loosened=100, because="second derivatives add many terms")


def test_the_client_and_the_adversary_agree() -> None:
    target, batch = small(), utterances()
    release = FedSGD().release(target, batch, key=Key(0))
    assert isinstance(release, Gradient)
    close_trees(release.by_name, FedSGD().replay(target, batch).by_name)
    average = FedAvg(steps=2, lr=0.01)
    close_trees(average.release(target, batch, key=Key(0)).by_name, average.replay(target, batch).by_name)


def test_the_rank_of_the_first_update_is_the_number_of_frames() -> None:
    """What the exact attack stands on: each frame adds one rank-one term to the gradient of layer 1."""
    target = small(DeepSpeech(hidden=64, context=4, coefficients=6))
    given = utterances((13,), features=6)
    by_name = observe(target, given, FedSGD(), key=Key(0)).gradient().by_name
    rows = torch.cat([by_name["layer_1.weight"], by_name["layer_1.bias"].unsqueeze(1)], 1)
    assert int(torch.linalg.matrix_rank(rows, rtol=1e-9)) == 13


def test_dropout_drops_in_training_only_and_follows_the_key() -> None:
    recipe = dataclasses.replace(SMALL, hidden=200, dropout=0.5, training=True)
    target, batch = recipe.build(Frames(4), 6, key=Key(0)), utterances()
    batch = batch.with_inputs(batch.inputs.float())
    first, again, other = (FedSGD().release(target, batch, key=Key(seed)).by_name for seed in (0, 0, 1))
    close_trees(first, again)
    assert not torch.allclose(first["layer_6.weight"], other["layer_6.weight"])
    dead = (first["layer_6.weight"] == 0).all(0)
    assert 0 < int(dead.sum()) < 200
    quiet = FedSGD().replay(target, batch).by_name
    still = dataclasses.replace(recipe, training=False).build(Frames(4), 6, key=Key(0))
    close_trees(quiet, FedSGD().release(still, batch, key=Key(0)).by_name)


def test_the_reduction_is_part_of_the_recipe() -> None:
    recipe = dataclasses.replace(SMALL, reduction=Reduction.MEAN)
    target, batch = small(recipe), utterances((11,))
    close(3 * target.loss_at(target.parameters(), batch), small().loss_at(small().parameters(), batch))


def test_observe_checks_utterances_before_the_client_runs() -> None:
    target, batch = small(), utterances()
    observe(target, batch, FedSGD(), key=Key(0))
    short = dataclasses.replace(batch, lengths=torch.tensor([11, 1]), inputs=batch.inputs * 1.0)
    short.inputs[1, 1:] = 0
    with pytest.raises(BadInput, match="utterance 1 has 1 frames, its transcript needs 2"):
        observe(target, short, FedSGD(), key=Key(0))
    with pytest.raises(BadInput, match="do not fit the target's domain"):
        observe(target, utterances(features=5), FedSGD(), key=Key(0))
    with pytest.raises(BadInput, match="must be zero"):
        observe(target, batch.with_inputs(batch.inputs + 1), FedSGD(), key=Key(0))


@pytest.mark.parametrize("recipe", [SMALL, DeepSpeech(dropout=0.2, training=True, reduction=Reduction.MEAN)])
def test_repr_rebuilds(recipe: DeepSpeech) -> None:
    assert eval(repr(recipe), {"DeepSpeech": DeepSpeech, "Reduction": Reduction}) == recipe


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: DeepSpeech(hidden=0), "hidden >= 1"),
        (lambda: DeepSpeech(context=-1), "context >= 0"),
        (lambda: DeepSpeech(dropout=1.0), "0 <= dropout < 1"),
        (lambda: DeepSpeech(relu_clip=0.0), "relu_clip > 0"),
        (lambda: SMALL.build(Frames(5), 6, key=Key(0)), r"takes Frames\(4\), got Frames\(coefficients=5\)"),
        (lambda: SMALL.build(Images(1, 2, 4), 6, key=Key(0)), "takes Frames"),
        (lambda: SMALL.build(Frames(4), 1, key=Key(0)), "one character and the blank"),
    ],
)
def test_wrong_uses_are_refused(wrong, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        wrong()
