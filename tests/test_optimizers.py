"""Local steps by torch's optimizers: the release against a client in plain PyTorch, the replay against the release."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch
from tests.mechanisms_table import mlp, norm_net, secret
from torch import nn

import leakscope as ls
from leakscope.cli.expressions import build
from leakscope.cli.rows import Family
from leakscope.core.errors import BadInput
from leakscope.mechanisms import reading, running
from leakscope.mechanisms.effects import Answer
from leakscope.numerics import trees

OPTIMIZERS: dict[str, tuple[Any, type[torch.optim.Optimizer], dict[str, Any]]] = {
    "momentum": (ls.ClientSGD(momentum=0.8), torch.optim.SGD, {"momentum": 0.8}),
    "dampened": (ls.ClientSGD(momentum=0.8, dampening=0.3), torch.optim.SGD, {"momentum": 0.8, "dampening": 0.3}),
    "nesterov": (ls.ClientSGD(momentum=0.7, nesterov=True), torch.optim.SGD, {"momentum": 0.7, "nesterov": True}),
    "decay": (ls.ClientSGD(weight_decay=0.1), torch.optim.SGD, {"weight_decay": 0.1}),
    "all": (
        ls.ClientSGD(momentum=0.6, nesterov=True, weight_decay=0.05),
        torch.optim.SGD,
        {"momentum": 0.6, "nesterov": True, "weight_decay": 0.05},
    ),
    "adam": (ls.ClientAdam(), torch.optim.Adam, {}),
    "adam-l2": (
        ls.ClientAdam(betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1),
        torch.optim.Adam,
        {"betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1},
    ),
    "adamw": (ls.ClientAdamW(weight_decay=0.2), torch.optim.AdamW, {"weight_decay": 0.2}),
    "adamw-other": (ls.ClientAdamW(betas=(0.0, 0.5)), torch.optim.AdamW, {"betas": (0.0, 0.5), "weight_decay": 0.01}),
}

SCHEDULES = {
    "whole": ({"steps": 3}, 4, [[[0, 1, 2, 3]]] * 3),
    "minibatches": ({"steps": 4, "batch_size": 2}, 3, [[[0, 1]], [[2, 0]], [[1, 2]], [[0, 1]]]),
    "accumulated": ({"steps": 3, "batch_size": 1, "accumulate": 2}, 3, [[[0], [1]], [[2], [0]], [[1], [2]]]),
    "summed": ({"steps": 2, "batch_size": 2, "accumulate": 2, "summed": True}, 5, [[[0, 1], [2, 3]], [[4, 0], [1, 2]]]),
}


def client(target: ls.Target, batch: ls.Batch, optimizer: Any, rows: list[list[list[int]]], *, summed: bool):
    """A training loop as people write it: backward for each micro-batch, then one step."""
    module = copy.deepcopy(target.module).requires_grad_(True)
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    made = optimizer(module.parameters())
    for step in rows:
        made.zero_grad()
        for chosen in step:
            loss = nn.functional.cross_entropy(module(batch.inputs[chosen].clone()), batch.labels[chosen])
            (loss if summed else loss / len(step)).backward()
        made.step()
    return {name: value.detach() - before[name] for name, value in module.named_parameters()}


def worst(one: Any, other: Any) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("target", [mlp, norm_net])
def test_release_and_replay_are_those_of_a_client_in_plain_pytorch(name: str, schedule: str, target: Any):
    ours, theirs, settings = OPTIMIZERS[name]
    fields, examples, rows = SCHEDULES[schedule]
    # Without dropout, whose draws no other client shares; batch normalization stays in training mode.
    model, batch = target(), secret(examples)
    for layer in model.module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    if target is norm_net and fields.get("batch_size") == 1:
        model = norm_net(training=False)
    mechanism = ls.FedAvg(lr=0.05, optimizer=ours, **fields)
    expected = client(model, batch, lambda p: theirs(p, lr=0.05, **settings), rows, summed=fields.get("summed", False))
    assert worst(mechanism.release(model, batch, key=ls.Key(0)).by_name, expected) < 1e-12
    # A gradient that is zero but for rounding has any sign, and Adam makes a whole step of it: none is here.
    assert worst(mechanism.replay(model, batch).by_name, expected) < 1e-10


@pytest.mark.parametrize("name", ["momentum", "dampened", "nesterov", "decay", "all"])
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("summed", [False, True])
def test_of_a_gradient_that_stays_the_same_every_sgd_gives_it_back(name: str, steps: int, summed: bool):
    # A loss that is linear in the weights: outputs w x + b, minus their sum as the loss, so that the slope is constant.
    target = dataclasses.replace(mlp(), module=nn.Sequential(nn.Flatten(), nn.Linear(32, 3)).double(), loss=Steady())
    batch = secret(4)
    mechanism = ls.FedAvg(steps, 0.05, 2, optimizer=OPTIMIZERS[name][0], accumulate=2, summed=summed)
    gradient = ls.FedSGD().release(target, batch, key=ls.Key(0)).by_name
    sent = mechanism.release(target, batch, key=ls.Key(1))
    assert worst(mechanism.at_weights(sent, target.parameters()).by_name, gradient) < 1e-10
    assert worst(ls.Observation(target, sent, mechanism).gradient().by_name, gradient) < 1e-10


class Steady(ls.CrossEntropy.__base__):  # type: ignore[misc, name-defined]
    """Minus the mean of all outputs: the gradient is the same at all weights."""

    def __call__(self, outputs: torch.Tensor, batch: ls.Batch) -> torch.Tensor:
        return -(outputs * (1 + torch.arange(outputs.shape[1]))).sum(1).mean()

    def check(self, outputs: torch.Tensor, batch: ls.Batch) -> None:
        """All labels."""

    def labeled(self, inputs: torch.Tensor, classes: int) -> ls.Batch:
        return ls.Batch(inputs, torch.zeros(len(inputs), dtype=torch.int64))


@pytest.mark.parametrize("name", ["decay", "adam-l2", "adamw"])
def test_what_the_loss_does_not_reach_is_not_decayed(name: str):
    class Idle(nn.Module):
        def __init__(self):
            nn.Module.__init__(self)
            self.used, self.idle = nn.Linear(32, 3), nn.Linear(2, 2)

        def forward(self, inputs):
            return self.used(inputs.flatten(1))

    target = ls.Target(Idle().double(), mlp().domain, 3)
    mechanism = ls.FedAvg(2, 0.05, optimizer=OPTIMIZERS[name][0])
    sent = mechanism.release(target, secret(), key=ls.Key(0))
    assert not bool(sent.by_name["idle.weight"].any())
    assert worst(mechanism.replay(target, secret()).by_name, sent.by_name) < 1e-10
    assert not bool(mechanism.at_weights(sent, target.parameters()).by_name["idle.weight"].any())
    # and a layer that is reached, but whose gradient is zero, is
    dead = ls.Target(nn.Sequential(nn.Flatten(), nn.Linear(32, 4), nn.Threshold(1e9, 0.0), nn.Linear(4, 3)).double(),
                     mlp().domain, 3)  # fmt: skip
    sent = mechanism.release(dead, secret(), key=ls.Key(0))
    assert bool(sent.by_name["1.weight"].any())
    assert worst(mechanism.replay(dead, secret()).by_name, sent.by_name) < 1e-10


@pytest.mark.parametrize("name", ["momentum", "nesterov", "decay", "all"])
def test_sgd_with_momentum_and_decay_still_proves_an_image(name: str):
    digits = ls.Digits(size=8)
    target = ls.MLP((32,)).build(digits.domain, digits.classes, key=ls.Key(11))
    batch = digits.draw(1, key=ls.Key(12)).reveal()
    _, theirs, settings = OPTIMIZERS[name]
    sent = client(target, batch, lambda p: theirs(p, lr=0.05, **settings), [[[0]]] * 3, summed=False)
    declared = ls.FedAvg(3, 0.05, optimizer=OPTIMIZERS[name][0])
    found = ls.LinearLayer().run(ls.Observation(target, ls.Delta(sent), declared), key=ls.Key(13))
    assert found.certificate is not None
    assert found.certificate.holds
    assert ls.score(found.claim, batch, domain=digits.domain)["psnr"].value > 30
    # told as plain SGD, the decayed update is another one than the replay: nothing is proved
    plain = ls.LinearLayer().run(ls.Observation(target, ls.Delta(sent), ls.FedAvg(3, 0.05)), key=ls.Key(13))
    assert plain.certificate is None or not plain.certificate.holds


@pytest.mark.parametrize("name", ["adam", "adam-l2", "all"])
def test_a_search_follows_the_steps_of_every_optimizer(name: str):
    """Inside of the transforms of a search, and nearer to the image than what a blind guess gives."""
    digits = ls.Digits(size=8)
    target = ls.MLP((32,)).build(digits.domain, digits.classes, key=ls.Key(31))
    batch = digits.draw(1, key=ls.Key(32)).reveal()
    seen = ls.observe(target, batch, ls.FedAvg(2, 1e-3, optimizer=OPTIMIZERS[name][0]), key=ls.Key(33))
    seen = ls.Observation(
        target, seen.release, seen.mechanism, (ls.BatchSize(1), ls.TrueLabels(tuple(batch.labels.tolist())))
    )
    found = ls.inverting_gradients(steps=50, restarts=1).run(seen, key=ls.Key(34))
    score = ls.score(found.claim, batch, domain=digits.domain)["psnr"]
    assert score.value > score.chance


@pytest.mark.parametrize("name", ["adam", "adam-l2", "adamw"])
def test_what_adam_sent_is_no_multiple_of_a_gradient_and_nothing_is_proved(name: str):
    declared = ls.FedAvg(1, 0.01, optimizer=OPTIMIZERS[name][0])
    assert reading.keeps_ratios(declared) is Answer.NO
    assert reading.bends(declared) is Answer.YES
    digits = ls.Digits(size=8)
    target = ls.MLP((32,)).build(digits.domain, digits.classes, key=ls.Key(21))
    seen = ls.observe(target, digits.draw(1, key=ls.Key(22)).reveal(), declared, key=ls.Key(23))
    found = ls.LinearLayer().run(seen, key=ls.Key(24))
    assert found.certificate is None or not found.certificate.holds


def test_decay_is_taken_off_no_release_that_a_defense_scaled():
    declared = ls.FedAvg(1, 0.1, optimizer=ls.ClientSGD(weight_decay=0.1))
    target, batch = mlp(), secret()
    assert reading.keeps_ratios(declared) is Answer.YES
    assert reading.keeps_ratios(declared >> ls.Clip(1e-3)) is Answer.NO
    assert reading.keeps_ratios(ls.FedAvg(1, 0.1) >> ls.Clip(1e-3)) is Answer.YES
    sent = (declared >> ls.Clip(1e-3)).release(target, batch, key=ls.Key(0))
    read = (declared >> ls.Clip(1e-3)).at_weights(sent, target.parameters()).by_name
    assert worst(read, trees.scale(sent.by_name, -10.0)) < 1e-12


def test_zeros_stay_where_they_are_said_to_stay():
    # A first layer that is fed zeros in half of its inputs has no gradient there.
    batch = secret()
    batch = batch.with_inputs(torch.cat([torch.zeros_like(batch.inputs[:, :1]), batch.inputs[:, 1:]], 1))
    target = ls.Target(nn.Sequential(nn.Flatten(), nn.Linear(32, 3)).double(), mlp().domain, 3)
    for ours, _, _ in OPTIMIZERS.values():
        declared = ls.FedAvg(3, 0.05, optimizer=ours)
        sent = declared.release(target, batch, key=ls.Key(0)).by_name["1.weight"][:, :16]
        assert bool((sent == 0).all()) == (reading.keeps_zeros(declared) is Answer.YES), ours


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ls.ClientSGD(nesterov=True), "nesterov asks for momentum > 0"),
        (lambda: ls.ClientSGD(momentum=0.5, dampening=0.5, nesterov=True), "dampening 0, got 0.5 and 0.5"),
        (lambda: ls.ClientSGD(dampening=0.5), "changes nothing without momentum"),
        (lambda: ls.ClientSGD(momentum=1.0), "momentum < 1"),
        (lambda: ls.ClientSGD(weight_decay=-1), "weight_decay"),
        (lambda: ls.ClientAdam(betas=0.9), "expected two betas, got 0.9"),
        (lambda: ls.ClientAdam(betas=(0.9, 1.0)), "betas < 1"),
        (lambda: ls.ClientAdam(eps=0), "eps"),
        (lambda: ls.FedAvg(1, 0.1, momentum=0.5, optimizer=ls.ClientAdam()), "momentum=0.5 beside ClientAdam"),
        (lambda: ls.FedAvg(1, 0.1, accumulate=2), "needs batch_size"),
        (lambda: ls.FedAvg(1, 0.1, accumulate=0), "accumulate"),
        (lambda: ls.FedAvg(1, 0.1, optimizer=ls.Adam()), "give ClientSGD"),
        (lambda: ls.FedAvg(1, 10.0, optimizer=ls.ClientSGD(weight_decay=0.1)), r"lr \* weight_decay < 1"),
    ],
)
def test_values_out_of_range_are_refused_with_what_to_do(make: Any, said: str):
    with pytest.raises(BadInput, match=said):
        make()


def test_a_plan_names_optimizers_as_torch_does_and_earlier_records_keep_their_names():
    assert repr(ls.FedAvg(4, 0.1)) == "FedAvg(steps=4, lr=0.1, batch_size=None, momentum=0.0, shuffle=False)"
    for text, meant in {
        "FedAvg(steps=4, lr=0.01, optimizer=Adam())": ls.FedAvg(4, 0.01, optimizer=ls.ClientAdam()),
        "FedAvg(4, 0.01, optimizer=AdamW(weight_decay=0.1)) >> Clip(1.0)": ls.FedAvg(
            4, 0.01, optimizer=ls.ClientAdamW(weight_decay=0.1)
        )
        >> ls.Clip(1.0),
        "FedAvg(4, 0.01, 2, optimizer=SGD(momentum=0.9, nesterov=True), accumulate=2, summed=True)": ls.FedAvg(
            4, 0.01, 2, optimizer=ls.ClientSGD(momentum=0.9, nesterov=True), accumulate=2, summed=True
        ),
    }.items():
        assert build(text, Family.PROTOCOLS) == meant
        assert build(repr(meant), Family.PROTOCOLS) == meant


def alone(kind: type[torch.optim.Optimizer], options: dict[str, Any], weight: float, slope: float, steps: int) -> float:
    """Torch's own optimizer on one weight, whose gradient stays what it is."""
    one = nn.Parameter(torch.tensor(weight, dtype=torch.float64))
    optimizer = kind([one], lr=0.1, **options)
    for _ in range(steps):
        one.grad = torch.tensor(slope, dtype=torch.float64)
        optimizer.step()
    return float(one.detach())


@pytest.mark.parametrize("steps", [1, 2, 3, 40])
@pytest.mark.parametrize("name", [name for name, (_, kind, _) in OPTIMIZERS.items() if kind is torch.optim.SGD])
def test_the_course_in_closed_form_is_that_of_all_its_steps(name: str, steps: int) -> None:
    """w_K = kept w_0 - lr travel s, of torch's own steps; a matrix power and a geometric sum know none of them."""
    ours, kind, options = OPTIMIZERS[name]
    course = ours.course(steps=steps, lr=0.1)
    assert course.kept == pytest.approx(alone(kind, options, 1.0, 0.0, steps), rel=1e-12)
    assert 0.1 * course.travel == pytest.approx(-alone(kind, options, 0.0, 1.0, steps), rel=1e-12)


@pytest.mark.parametrize("decay", [0.0, 1e-9, 0.2])
def test_the_course_of_decoupled_decay_is_a_geometric_sum(decay: float) -> None:
    course = ls.ClientAdamW(weight_decay=decay).course(steps=40, lr=0.1)
    left = 1 - 0.1 * decay
    assert course.kept == pytest.approx(left**40, rel=1e-12)
    assert course.travel == pytest.approx(math.fsum(left**done for done in range(40)), rel=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_course_of_very_many_steps_is_said_at_once(name: str) -> None:
    """A header may hold any number; a loop over these would not end."""
    course = OPTIMIZERS[name][0].course(steps=10**15, lr=0.1)
    assert math.isfinite(course.kept)
    assert course.travel > 1


def test_more_passes_than_anybody_replays_are_refused_at_once() -> None:
    target = mlp()
    named = {name: torch.zeros_like(value) for name, value in target.parameters().items()}
    for steps, accumulate in ((10**9, 1), (2, 10**9)):
        many = ls.FedAvg(steps, 0.1, batch_size=1, accumulate=accumulate)
        refusal = ls.LabelCounts().refusal(ls.Observation(target, ls.Delta(named), many, (ls.BatchSize(1),)))
        assert refusal is not None
        assert f"takes {steps * accumulate} passes over the model" in refusal.sentence
    assert running.passes(ls.FedAvg(7, 0.1, batch_size=1, accumulate=3) >> ls.Clip(1.0)) == 21
    assert running.passes(ls.FedSGD()) == 1


def test_buffers_beside_an_update_are_not_decayed() -> None:
    """Running statistics are in the difference of two state dicts, and no weights to take a decay off."""
    target = norm_net()
    protocol = ls.FedAvg(2, 0.1, optimizer=ls.ClientSGD(weight_decay=0.1))
    sent = protocol.release(target, secret(), key=ls.Key(0))
    more = ls.Delta({"running": torch.ones(3).double(), **sent.by_name})
    plain = protocol.at_weights(sent, target.parameters()).by_name
    read = protocol.at_weights(more, target.parameters()).by_name
    assert all(torch.equal(read[name], value) for name, value in plain.items())
    assert torch.equal(read["running"], protocol.as_gradient(more).by_name["running"])
