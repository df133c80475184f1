"""Released heads: the mechanism against torch's own training, and thousands at once against one at a time."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.mechanisms_table import TARGETS, mlp, secret
from tests.tolerance import close, close_trees
from torch import Tensor, nn

import leakscope as ls
from leakscope.core.errors import BadInput
from leakscope.mechanisms.heads import together
from leakscope.mechanisms.heads.private import train_private
from leakscope.mechanisms.heads.together import Heads, first, sets, streamed, train

ADAM, DECAYED = ls.ClientAdam(weight_decay=0.1), ls.ClientSGD(weight_decay=0.3)
HEAVY = ls.ClientSGD(momentum=0.9, weight_decay=0.1)
TRAININGS = [
    ls.HeadTraining(5, 0.3),
    ls.HeadTraining(5, 0.3, last_lr=0.05, optimizer=DECAYED),
    ls.HeadTraining(5, 0.1, last_lr=0.3, optimizer=HEAVY),
    ls.HeadTraining(5, 0.1, optimizer=ls.ClientSGD(momentum=0.5, dampening=0.3, weight_decay=0.1)),
    ls.HeadTraining(5, 0.1, last_lr=0.02, optimizer=ls.ClientSGD(momentum=0.9, nesterov=True, weight_decay=0.1)),
    ls.HeadTraining(5, 0.1, last_lr=0.2, optimizer=ADAM),
    ls.HeadTraining(3, 0.1, optimizer=ls.ClientAdamW(weight_decay=0.5)),
]


def linear(classes: int = 3) -> ls.Target:
    with ls.Key(1).isolated():
        module = nn.Sequential(nn.Flatten(), nn.Linear(32, classes)).double()
    return ls.Target(module, ls.Images(2, 4, 4), classes=classes)


# --- the mechanism -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in TARGETS if n != "norm_train"])
@pytest.mark.parametrize("training", TRAININGS, ids=repr)
def test_replay_is_release_where_the_first_weights_are_known(training: ls.HeadTraining, name: str) -> None:
    model, batch = TARGETS[name](), secret()
    before = (model.fingerprint(), batch.fingerprint())
    sent = training.release(model, batch, key=ls.Key(0))
    assert isinstance(sent, ls.Weights)
    close_trees(training.replay(model, batch).by_name, sent.by_name)
    assert (model.fingerprint(), batch.fingerprint()) == before


def test_a_scheduler_of_torch_gives_the_same_rates() -> None:
    training, model, batch = ls.HeadTraining(6, 0.3, last_lr=0.03), linear(), secret()
    module = nn.Sequential(nn.Flatten(), nn.Linear(32, 3)).double()
    module.load_state_dict(model.module.state_dict())
    optimizer = torch.optim.SGD(module.parameters(), lr=0.3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=5)
    for _ in range(6):
        optimizer.zero_grad()
        F.cross_entropy(module(batch.inputs), batch.labels).backward()
        optimizer.step()
        schedule.step()
    close_trees(
        training.release(model, batch, key=ls.Key(0)).by_name, {n: p.detach() for n, p in module.named_parameters()}
    )


@pytest.mark.parametrize(
    "changes", [{"steps": 4}, {"lr": 0.1}, {"init_std": 0.1}, {"last_lr": 0.1}, {"optimizer": DECAYED}], ids=repr
)
def test_every_field_speaks(changes: dict[str, Any]) -> None:
    own = ls.HeadTraining(5, 0.3)
    other = dataclasses.replace(own, **changes)
    assert eval(repr(other), vars(ls)) == other
    assert len({m.release(linear(), secret(), key=ls.Key(0)).fingerprint() for m in (own, other)}) == 2
    assert len({m.replay(linear(), secret()).fingerprint() for m in (own, other)}) == 2


def test_secret_first_weights_are_drawn_by_the_key_and_replayed_by_their_mean() -> None:
    training, batch = ls.HeadTraining(8, 0.2, init_std=0.01, optimizer=DECAYED), secret()
    sent = [training.release(linear(), batch, key=ls.Key(k)).by_name["1.weight"] for k in range(60)]
    assert torch.equal(sent[0], training.release(linear(), batch, key=ls.Key(0)).by_name["1.weight"])
    stack = torch.stack(sent)
    # what is left of a first weight after eight decays, and little is added by eight gradients of weights this small
    kept = 0.01 * (1 - 0.2 * 0.3) ** 8
    assert stack.std(0).square().mean().sqrt() == pytest.approx(kept, rel=0.1)
    # each entry six of its standard errors
    assert (stack.mean(0) - training.replay(linear(), batch).by_name["1.weight"]).abs().max() < 6 * kept / math.sqrt(60)
    still = dataclasses.replace(training, init_std=0.0)
    close_trees(still.replay(linear(), batch).by_name, still.release(linear(), batch, key=ls.Key(0)).by_name)
    with pytest.raises(BadInput, match=r"secret and of several layers.*init_std=None"):
        training.replay(mlp(), batch)


def test_a_released_head_is_observed_and_no_gradient() -> None:
    seen = ls.observe(linear(), secret(), ls.HeadTraining(4, 0.1), key=ls.Key(0))
    assert isinstance(seen.release, ls.Weights)
    assert ls.LinearLayer().run(seen, key=ls.Key(1)).outcome is ls.Outcome.REFUSED
    assert math.isinf(ls.epsilon(seen.mechanism.event(), delta=1e-5))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ls.HeadTraining(0, 0.1), "expected steps >= 1"),
        (lambda: ls.HeadTraining(2, 0.0), "0 < lr"),
        (lambda: ls.HeadTraining(2, 0.1, init_std=-1.0), "0 <= init_std"),
        (lambda: ls.HeadTraining(1, 0.1, last_lr=0.1), "changes nothing in a single step"),
        (lambda: ls.HeadTraining(2, 0.1, optimizer=ls.FedSGD()), "give ClientSGD"),
        (lambda: ls.HeadTraining(2, 0.1, last_lr=5.0, optimizer=DECAYED), "lr"),
        (lambda: ls.PrivateHeadTraining(ls.FedSGD(), ls.DPSGD(1.0, 1.0, 2)), "give HeadTraining"),
        (lambda: ls.PrivateHeadTraining(ls.HeadTraining(2, 0.1), ls.DPSGD(1.0, 1.0)), r"expected=n, rate=q"),
    ],
)
def test_what_makes_no_training_is_refused(make: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        make()


# --- with noise ----------------------------------------------------------------------------------------------------


def test_without_noise_and_sampling_it_is_the_clipped_training_by_hand() -> None:
    training = ls.HeadTraining(4, 0.3, optimizer=DECAYED)
    mechanism, batch = ls.PrivateHeadTraining(training, ls.DPSGD(0.4, 0.0, expected=3)), secret()
    weight, bias = (value.clone() for value in linear().parameters().values())
    flat = batch.inputs.flatten(1)
    for _ in range(4):
        pushed = torch.zeros_like(weight), torch.zeros_like(bias)
        for x, y in zip(flat, batch.labels, strict=True):
            w, b = weight.clone().requires_grad_(True), bias.clone().requires_grad_(True)
            slopes = torch.autograd.grad(F.cross_entropy((w @ x + b).unsqueeze(0), y.unsqueeze(0)), (w, b))
            size = math.sqrt(sum(float(s.square().sum()) for s in slopes))
            for total, one in zip(pushed, slopes, strict=True):
                total += one * min(1.0, 0.4 / size) / 3
        weight, bias = (v - 0.3 * (g + 0.3 * v) for v, g in zip((weight, bias), pushed, strict=True))
    sent = mechanism.release(linear(), batch, key=ls.Key(0)).by_name
    close(sent["1.weight"], weight)
    close(sent["1.bias"], bias)
    start = Heads(*((value.unsqueeze(0),) for value in linear().parameters().values()))
    made = train_private(mechanism, flat.unsqueeze(0), batch.labels.unsqueeze(0), start, key=ls.Key(0))
    close(made.weights[0][0], weight)
    close(made.biases[0][0], bias)


def test_the_event_is_that_of_the_steps_that_were_taken() -> None:
    step = ls.DPSGD(1.0, 2.0, expected=2, rate=0.5)
    mechanism = ls.PrivateHeadTraining(ls.HeadTraining(7, 0.1), step)
    for rounds in (1, 3):
        assert mechanism.event(rounds=rounds) == step.training_event(rounds=7 * rounds)
    assert math.isinf(
        ls.epsilon(ls.PrivateHeadTraining(ls.HeadTraining(7, 0.1), ls.DPSGD(1.0, 0.0, 2)).event(), delta=1e-5)
    )
    assert mechanism.undefended == ls.HeadTraining(7, 0.1)


def test_each_example_is_drawn_at_the_rate_and_apart_from_the_others() -> None:
    """One step from zero, on features of which each is an example's own: its column says whether it was drawn."""
    training = ls.HeadTraining(1, 0.1, init_std=0.0)
    mechanism = ls.PrivateHeadTraining(training, ls.DPSGD(100.0, 0.0, expected=1, rate=0.3))
    own, labels = torch.eye(4, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    with ls.Key(0).isolated():
        target = ls.Target(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double(), ls.Images(1, 1, 4), 3)
    batch = ls.Batch(own.reshape(4, 1, 1, 4), labels)
    ones = [mechanism.release(target, batch, key=ls.Key(k)).by_name["1.weight"] for k in range(600)]
    start = Heads((torch.zeros(20_000, 3, 4, dtype=torch.float64),), (torch.zeros(20_000, 3, dtype=torch.float64),))
    many = train_private(mechanism, own.expand(20_000, 4, 4), labels.expand(20_000, 4), start, key=ls.Key(1))
    for weights in (torch.stack(ones), many.weights[0]):
        drawn = (weights.abs().amax(1) > 1e-9).double()
        pairs = torch.einsum("ma,mb->ab", drawn, drawn) / len(drawn)
        wanted = torch.full((4, 4), 0.09, dtype=torch.float64).fill_diagonal_(0.3)
        # five standard errors of a share
        assert ((pairs - wanted).abs() < 5 * (wanted * (1 - wanted) / len(drawn)).sqrt()).all()


def moments(heads: Tensor) -> tuple[Tensor, Tensor]:
    return heads.mean(0), heads.var(0)


@pytest.mark.parametrize("twice", [False, True], ids=["four examples", "one of them twice"])
def test_many_at_once_have_the_law_of_one_at_a_time(twice: bool) -> None:
    """Means, variances and random projections of 300 releases and of 40 000 heads in closed form."""
    training = ls.HeadTraining(4, 0.5, init_std=0.3, last_lr=0.2, optimizer=ls.ClientSGD(weight_decay=0.4))
    mechanism = ls.PrivateHeadTraining(training, ls.DPSGD(1.0, 0.7, expected=2, rate=0.5))
    inputs = 2 * torch.rand(4, 1, 1, 5, generator=ls.Key(5).generator(), dtype=torch.float64)
    if twice:
        inputs[3] = inputs[2]
    batch = ls.Batch(inputs, torch.tensor([0, 1, 2, 2]))
    with ls.Key(2).isolated():
        module = nn.Sequential(nn.Flatten(), nn.Linear(5, 3)).double()
    target, many, alone = ls.Target(module, ls.Images(1, 1, 5), 3), 40_000, 300
    ones = [mechanism.release(target, batch, key=ls.Key(k)).by_name for k in range(alone)]
    wanted = torch.stack([torch.cat([one["1.weight"].flatten(), one["1.bias"]]) for one in ones])
    features = inputs.flatten(1).expand(many, 4, 5)
    start = first(training, (5, 3), many, key=ls.Key(1))
    start = Heads((start.weights[0].double(),), (start.biases[0].double(),))
    got = train_private(mechanism, features, batch.labels.expand(many, 4), start, key=ls.Key(3)).flat()
    mixed = torch.randn(18, 40, generator=ls.Key(4).generator(), dtype=torch.float64)
    for one, other in ((wanted, got), (wanted @ mixed, got @ mixed)):
        (mean, spread), (mean_, spread_) = moments(one), moments(other)
        # five standard errors of each of at most 40 numbers; normal draws, whose variance has the relative error
        # sqrt(2 / n), a little more for the mixture over samples
        assert ((mean - mean_).abs() / (spread_ / alone).sqrt()).max() < 5
        assert (spread / spread_ - 1).abs().max() < 5 * math.sqrt(2 / alone)
        # and their average, in which a factor in the noise or the rate would show: entries share the examples
        assert abs(float((spread / spread_).mean()) - 1) < 0.1


def test_what_is_not_trained_together_is_refused_with_what_to_do() -> None:
    private = ls.DPSGD(1.0, 1.0, expected=2, rate=0.5)
    features, labels = torch.rand(2, 4, 5), torch.tensor([[0, 1, 1, 0]] * 2)
    for optimizer in (HEAVY, ADAM):
        training = ls.HeadTraining(2, 0.1, 0.1, optimizer=optimizer)
        with pytest.raises(BadInput, match=r"SGD without momentum.*use release"):
            train_private(
                ls.PrivateHeadTraining(training, private), features, labels, first(training, (5, 2), 2, key=ls.Key(0)),
                key=ls.Key(0),
            )  # fmt: skip
    training = ls.HeadTraining(2, 0.1, 0.1)
    for sizes in ((5, 3, 2), (5, 1)):
        with pytest.raises(BadInput, match="one layer of two or more outputs"):
            train_private(
                ls.PrivateHeadTraining(training, private), features, labels, first(training, sizes, 2, key=ls.Key(0)),
                key=ls.Key(0),
            )  # fmt: skip


# --- many at once --------------------------------------------------------------------------------------------------


def by_torch(training: ls.HeadTraining, x: Tensor, y: Tensor, start: Heads, at: int, positive: float) -> Tensor:
    """One head, trained as a person would write it: modules, autograd, `torch.optim`."""
    layers: list[nn.Module] = []
    for weight, bias in zip(start.weights, start.biases, strict=True):
        layer = nn.Linear(weight.shape[2], weight.shape[1]).to(x.dtype)
        with torch.no_grad():
            layer.weight.copy_(weight[at])
            layer.bias.copy_(bias[at])
        layers += [layer, nn.ReLU()]
    module = nn.Sequential(*layers[:-1])
    optimizer = training.optimizer.build(module.parameters(), lr=training.lr)
    for rate in training.rates:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        out = module(x)
        if out.shape[1] > 1:
            F.cross_entropy(out, y).backward()
        else:
            weight = torch.tensor(positive, dtype=x.dtype)
            F.binary_cross_entropy_with_logits(out[:, 0], y.to(x.dtype), pos_weight=weight).backward()
        optimizer.step()
    return torch.cat([value.detach().flatten() for value in module.parameters()])


@pytest.mark.parametrize("sizes", [(6, 3), (6, 1), (6, 4, 3), (6, 4, 1)], ids=repr)
@pytest.mark.parametrize("training", TRAININGS, ids=repr)
def test_many_at_once_are_those_of_autograd(training: ls.HeadTraining, sizes: tuple[int, ...]) -> None:
    many, size = 3, 8
    drawn = ls.Key(11).generator()
    features = torch.randn(many, size, 6, generator=drawn, dtype=torch.float64).relu()
    labels = torch.randint(0, max(sizes[-1], 2), (many, size), generator=drawn)
    start = Heads(
        tuple(torch.randn(many, b, a, generator=drawn, dtype=torch.float64) for a, b in itertools.pairwise(sizes)),
        tuple(torch.randn(many, b, generator=drawn, dtype=torch.float64) for b in sizes[1:]),
    )
    positive = 1.0 if sizes[-1] > 1 else 10.0
    got = train(training, features, labels, start, positive_weight=positive).flat()
    wanted = torch.stack([by_torch(training, features[i], labels[i], start, i, positive) for i in range(many)])
    close(got, wanted)


def test_in_single_precision_they_agree_to_a_millionth() -> None:
    """The original's setting: 256 nonnegative features, ten examples, 32 steps of lr 0.01 with decay 1e-5."""
    training = ls.HeadTraining(32, 0.01, 0.002, optimizer=ls.ClientSGD(weight_decay=1e-5))
    features = torch.randn(4, 10, 256, generator=ls.Key(0).generator()).relu_()
    labels, start = torch.arange(10).expand(4, 10), first(training, (256, 10), 4, key=ls.Key(1))
    wanted = torch.stack([by_torch(training, features[i], labels[i], start, i, 1.0) for i in range(4)])
    assert (train(training, features, labels, start).flat() - wanted).abs().max() <= 1e-6


def test_sets_take_every_example_at_most_once_in_a_pass() -> None:
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 1, 2])
    drawn = sets(labels, 2, key=ls.Key(0))
    # the smallest classes have four: two groups to a pass
    passes = [[next(drawn) for _ in range(2)] for _ in range(30)]
    for one in passes:
        for rows in one:
            assert labels[rows].tolist() == [0, 0, 1, 1, 2, 2]
        assert len(set(torch.cat(one).tolist())) == 12
    assert len({tuple(one[0].tolist()) for one in passes}) > 20
    with pytest.raises(BadInput, match="at least 5 examples"):
        next(sets(labels, 5, key=ls.Key(0)))


def test_a_stream_is_a_function_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "CHUNK", 4)
    training, labels = ls.HeadTraining(3, 0.1, 0.1), torch.arange(30) % 3
    features = torch.rand(30, 5, generator=ls.Key(0).generator())
    runs = [list(streamed(training, features, labels, 1, 10, key=ls.Key(k))) for k in (1, 1, 2)]
    assert [len(heads) for _, heads in runs[0]] == [4, 4, 2]
    made = [torch.cat([heads.flat() for _, heads in run]) for run in runs]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert len(made[0].unique(dim=0)) == 10
    # what is trained by nearly nothing is what it began with: no two chunks begin alike
    still = streamed(ls.HeadTraining(1, 1e-12, 0.1), features, labels, 1, 10, key=ls.Key(1))
    assert len(torch.cat([heads.flat()[:, :1] for _, heads in still]).mul(1e6).round().unique()) == 10
    for rows, heads in runs[0]:
        assert labels[rows].tolist() == [[0, 1, 2]] * len(heads)


@pytest.mark.parametrize(
    ("features", "labels", "said"),
    [
        (torch.rand(2, 4, 6), torch.zeros(2, 4, dtype=torch.int64), r"expected features \(2, N, 5\)"),
        (torch.rand(3, 4, 5), torch.zeros(3, 4, dtype=torch.int64), r"expected features \(2, N, 5\)"),
        (torch.rand(2, 4, 5), torch.zeros(4, dtype=torch.int64), r"expected labels \(2, 4\) int64"),
        (torch.rand(2, 4, 5), torch.full((2, 4), 3), r"from 0 to 2, got 3 to 3"),
    ],
)
def test_what_does_not_fit_is_refused(features: Tensor, labels: Tensor, said: str) -> None:
    training = ls.HeadTraining(2, 0.1, 0.1)
    with pytest.raises(BadInput, match=said):
        train(training, features, labels, first(training, (5, 3), 2, key=ls.Key(0)))
    with pytest.raises(BadInput, match="the target's own"):
        first(ls.HeadTraining(2, 0.1), (5, 3), 2, key=ls.Key(0))
