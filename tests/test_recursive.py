"""The recursion from the last layer to the image: exact where the rank test lets it through, and nowhere else."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.tolerance import close
from torch import Tensor, nn

import leakscope as ls
from leakscope.attacks.inputs.layered.activations import inverted
from leakscope.attacks.inputs.layered.recursive import _short
from leakscope.numerics.convolution import System, Unfolded
from leakscope.targets.looking.layer_chain import Link, layer_chain

DOMAIN = ls.Images(2, 8, 8)
Plan = tuple[tuple[int, int, int], ...]
"""Channels, kernel size and stride of each convolution."""
GOOD: Plan = ((10, 3, 2), (24, 3, 1))


def net(plan: Plan = GOOD, act: nn.Module | None = None, *, bias: bool = True, seed: int = 0) -> ls.Target:
    layers: list[nn.Module] = []
    channels, size = 2, 8
    with ls.Key(seed).isolated():
        for outputs, kernel, stride in plan:
            layers += [nn.Conv2d(channels, outputs, kernel, stride, kernel // 2, bias=bias), act or nn.LeakyReLU(0.2)]
            channels, size = outputs, (size + 2 * (kernel // 2) - kernel) // stride + 1
        layers += [nn.Flatten(), nn.Linear(channels * size * size, 5, bias=bias)]
        return ls.Target(nn.Sequential(*layers), DOMAIN, 5)


def one(seed: int = 0) -> ls.Batch:
    generator = ls.Key(seed).child("batch").generator()
    return ls.Batch(torch.rand(1, 2, 8, 8, generator=generator), torch.randint(5, (1,), generator=generator))


def attacked(target: ls.Target, batch: ls.Batch, mechanism: ls.FedSGD | None = None) -> ls.Attempt[ls.Inputs]:
    told = [ls.BatchSize(len(batch))]
    return ls.Recursive().run(
        ls.observe(target, batch, mechanism or ls.FedSGD(), key=ls.Key(1), tell=told), key=ls.Key(2)
    )


def decibel(attempt: ls.Attempt[ls.Inputs], batch: ls.Batch) -> float:
    assert attempt.claim is not None, attempt.sentence
    return -10 * math.log10(max(float((attempt.claim.values - batch.inputs).square().mean()), 1e-15))


@pytest.mark.parametrize(
    "act", [nn.LeakyReLU(0.2), nn.Tanh(), nn.Sigmoid(), nn.ELU(), nn.Softplus()], ids=lambda act: type(act).__name__
)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_the_image_is_exact_and_certified(act: nn.Module, bias: bool) -> None:
    batch = one()
    attempt = attacked(net(act=act, bias=bias), batch)
    assert decibel(attempt, batch) > 60
    assert attempt.claim is not None
    assert attempt.claim.labels is not None
    assert torch.equal(attempt.claim.labels, batch.labels)
    assert attempt.certificate is not None
    assert attempt.certificate.holds
    assert len(attempt.steps) == 3


def test_a_relu_network_with_enough_channels_is_undone_and_one_with_few_is_refused() -> None:
    batch = one()
    wide = attacked(net(((40, 3, 2), (40, 3, 1)), nn.ReLU()), batch)
    assert decibel(wide, batch) > 60
    narrow = attacked(net(((4, 3, 2), (40, 3, 1)), nn.ReLU()), batch)
    assert narrow.outcome is ls.Outcome.REFUSED
    assert "leave some of its 128 unknowns open" in narrow.sentence


def test_the_lenet_of_the_zoo_passes_its_rank_test() -> None:
    images = ls.Images(1, 12, 12)
    for seed in range(2):
        target = ls.LeNet(init_range=None).build(images, 10, key=ls.Key(seed))
        batch = ls.Batch(torch.rand(1, 1, 12, 12, generator=ls.Key(seed).generator()), torch.tensor([seed]))
        attempt = attacked(target, batch)
        assert decibel(attempt, batch) > 50
        assert attempt.certificate is not None
        assert attempt.certificate.holds


@pytest.mark.parametrize("mechanism", [ls.FedAvg(steps=1, lr=0.5), ls.FedSGD() >> ls.Clip(0.1)], ids=repr)
def test_one_local_step_and_clipping_do_not_matter(mechanism: ls.FedSGD) -> None:
    batch = one()
    attempt = attacked(net(), batch, mechanism)
    assert decibel(attempt, batch) > 50
    assert attempt.certificate is not None
    assert attempt.certificate.holds


@pytest.mark.parametrize(
    "mechanism",
    [
        ls.FedAvg(steps=4, lr=0.3),
        ls.FedSGD() >> ls.GaussianNoise(1e-2),
        ls.FedSGD() >> ls.Sign(),
        ls.FedSGD() >> ls.Prune(0.5),
    ],
    ids=repr,
)
def test_what_is_not_exact_is_not_certified(mechanism: ls.FedSGD) -> None:
    for seed in range(3):
        batch = one(seed)
        attempt = attacked(net(seed=seed), batch, mechanism)
        if attempt.claim is not None and decibel(attempt, batch) < 40:
            assert attempt.certificate is None or not attempt.certificate.holds
            assert bool(attempt.claim.confidence.isnan().all())


def test_the_certified_bound_is_above_the_error() -> None:
    """A step of averaging is sent in the last places of the weights: the smaller the step, the coarser the update."""
    held = 0
    for seed, lr in enumerate((0.5, 0.1, 1e-2, 1e-3, 1e-4, 1e-5)):
        target, batch = net(act=nn.Tanh(), seed=seed), one(seed)
        attempt = attacked(target, batch, ls.FedAvg(steps=1, lr=lr))
        if attempt.certificate is None or attempt.claim is None:
            continue
        error = float((attempt.claim.values - batch.inputs).norm() / batch.inputs.norm())
        held += attempt.certificate.holds
        assert error < attempt.certificate.residual
    assert 2 <= held <= 5


def test_nothing_is_proved_of_one_example_that_was_not_told() -> None:
    """The mean of a class has nearly the gradient of its mean image where the outputs hardly depend on the image."""
    seen = ls.observe(net(), one(), ls.FedSGD(), key=ls.Key(1))
    assert ls.Recursive().run(seen, key=ls.Key(2)).certificate is None
    labeled = ls.Observation(seen.target, seen.release, seen.mechanism, (ls.TrueLabels((int(one().labels[0]),)),))
    certificate = ls.Recursive().run(labeled, key=ls.Key(2)).certificate
    assert certificate is not None
    assert certificate.holds


def test_a_clip_hides_the_scale_where_there_is_no_bias() -> None:
    batch = one()
    for bias in (True, False):
        attempt = attacked(net(bias=bias), batch, ls.FedSGD() >> ls.Clip(0.01))
        assert (attempt.certificate is not None) is bias


def test_an_empty_image_and_a_constant_model_end_in_words() -> None:
    empty = ls.Batch(torch.zeros(1, 2, 8, 8), torch.tensor([1]))
    constant = net(act=nn.Sigmoid())
    with torch.no_grad():
        constant.module[-1].weight.zero_()  # type: ignore[union-attr, operator]
    for target, batch in ((net(act=nn.Sigmoid()), empty), (constant, one())):
        attempt = attacked(target, batch)
        if attempt.certificate is not None and attempt.certificate.holds:
            assert attempt.claim is not None
            assert float((attempt.claim.values - batch.inputs).abs().max()) < 1e-3


def test_a_batch_of_two_is_refused_told_or_not() -> None:
    two = ls.Batch(torch.cat([one(0).inputs, one(1).inputs]), torch.tensor([0, 1]))
    seen = ls.observe(net(), two, ls.FedSGD(), key=ls.Key(1))
    told = ls.observe(net(), two, ls.FedSGD(), key=ls.Key(1), tell=[ls.BatchSize(2)])
    sentences = [ls.Recursive().run(each, key=ls.Key(2)).sentence for each in (seen, told)]
    assert "not that of one example" in sentences[0]
    assert "told BatchSize(2)" in sentences[1]


# --- what is a chain ------------------------------------------------------------------------------------------------


class Functional(nn.Module):
    """A forward that calls its activation as a function, and adds the input where it is asked to."""

    def __init__(self, *, residual: bool) -> None:
        nn.Module.__init__(self)
        self.first, self.second = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.head, self.residual = nn.Linear(128, 5), residual

    def forward(self, inputs: Tensor) -> Tensor:
        x = torch.tanh(self.first(inputs))
        x = torch.tanh(self.second(x) + (x if self.residual else 0))
        return self.head(x.flatten(1))


def test_a_forward_with_functions_is_understood() -> None:
    with ls.Key(0).isolated():
        target = ls.Target(Functional(residual=False), DOMAIN, 5)
    assert [link.name for link in layer_chain(target)] == ["first", "second", "head"]
    assert [type(link.activation) for link in layer_chain(target)] == [nn.Tanh, nn.Tanh, type(None)]


def broken(*layers: nn.Module, training: bool = False) -> ls.Target:
    with ls.Key(0).isolated():
        return ls.Target(nn.Sequential(*layers), DOMAIN, 5, training=training)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (ls.Target(Functional(residual=True), DOMAIN, 5), "residual connection"),
        (broken(nn.Conv2d(2, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5)), "MaxPool2d '1'"),
        (broken(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5)), "BatchNorm2d '1'"),
        (broken(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(144, 5)), "groups"),
        (broken(nn.Conv2d(2, 4, 3, padding="same"), nn.Flatten(), nn.Linear(256, 5)), "'same'"),
        (broken(nn.Flatten(), nn.Linear(128, 5), nn.Tanh()), "does not end in a dense layer"),
        (broken(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 5), training=True),
         "Dropout '2' is active"),
        (broken(nn.Conv2d(2, 2, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(18, 5)),
         "18 weight and 36 gradient constraints for 128 unknowns"),
        (ls.ResNet20().build(ls.Images(2, 8, 8), 5, key=ls.Key(0)), "BatchNorm2d"),
    ],
    ids=["residual", "pool", "norm", "groups", "same", "end", "dropout", "count", "resnet"],
)  # fmt: skip
def test_other_models_are_refused_by_name(target: ls.Target, words: str) -> None:
    refusal = ls.Recursive().refusal(ls.observe(target, one(), ls.FedSGD(), key=ls.Key(1)))
    assert refusal is not None
    assert words in refusal.sentence


def test_a_partial_or_coarse_release_is_refused() -> None:
    whole = ls.observe(net(), one(), ls.FedSGD(), key=ls.Key(1))
    part = ls.Gradient({n: v for n, v in whole.release.by_name.items() if n != "2.weight"})
    half = ls.Gradient({n: v.half() for n, v in whole.release.by_name.items()})
    for release, words in ((part, "lacks 2.weight"), (half, "float16")):
        refusal = ls.Recursive().refusal(ls.Observation(whole.target, release, whole.mechanism))
        assert refusal is not None
        assert words in refusal.sentence


# --- the rank test --------------------------------------------------------------------------------------------------


def spectrum(target: ls.Target, links: tuple[Link, ...], batch: ls.Batch) -> float:
    """The smallest relative singular value of any layer's equations at the truth: by autograd, in float64, densely."""
    x, least = batch.inputs.double(), 1.0
    parameters = {name: value.double() for name, value in target.parameters().items()}
    given, values = [], []
    for link in links:
        x = x.reshape(1, *link.given).detach().requires_grad_(True)
        weight, bias = parameters[link.weight], parameters[link.bias] if link.bias else None
        given.append(x)
        z = (
            F.linear(x, weight, bias)
            if isinstance(link.layer, nn.Linear)
            else link.layer._conv_forward(x, weight, bias)
        )
        values.append(z)
        x = z if link.activation is None else link.activation(z)
    slope = torch.softmax(x, 1) - F.one_hot(batch.labels, 5)
    for link, at, z in reversed(list(zip(links, given, values, strict=True))):
        y = z if link.activation is None else link.activation(z)
        (sure,) = torch.autograd.grad(y.sum(), z, retain_graph=True)
        errors = slope.reshape(z.shape) * sure
        if isinstance(link.layer, nn.Conv2d):
            least = min(least, smallest(link, at.detach(), sure, errors, parameters[link.weight]))
        (slope,) = torch.autograd.grad(z, at, errors, retain_graph=True)
    return least


def smallest(link: Link, at: Tensor, sure: Tensor, errors: Tensor, weight: Tensor) -> float:
    layer = link.layer
    assert isinstance(layer, nn.Conv2d)

    def equations(x: Tensor) -> tuple[Tensor, Tensor]:
        y = F.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation)
        grown = torch.nn.grad.conv2d_weight(x, weight.shape, errors, layer.stride, layer.padding, layer.dilation)
        return sure * y, grown

    blocks = torch.autograd.functional.jacobian(equations, at)
    matrix = torch.cat([block.reshape(-1, at.numel()) / block.norm().clamp_min(1e-300) for block in blocks])
    values = torch.linalg.svdvals(matrix / matrix.norm(dim=0).clamp_min(1e-300))
    return float(values[-1] / values[0]) if len(values) == at.numel() else 0.0


@settings(max_examples=25, deadline=None)
@given(
    first=st.tuples(st.integers(2, 14), st.sampled_from((1, 3, 5)), st.integers(1, 2)),
    second=st.none() | st.tuples(st.integers(2, 24), st.sampled_from((1, 3)), st.integers(1, 2)),
    act=st.sampled_from((nn.LeakyReLU(0.3), nn.Tanh(), nn.ReLU())),
    seed=st.integers(0, 999),
)
def test_the_rank_test_agrees_with_the_truth(
    first: tuple[int, int, int], second: tuple[int, int, int] | None, act: nn.Module, seed: int
) -> None:
    target = net((first,) if second is None else (first, second), act, seed=seed)
    batch = one(seed)
    sent = ls.observe(target, batch, ls.FedSGD(), key=ls.Key(0)).release.by_name
    # A layer of which no unit is awake sends nothing, and has no equations that could have a rank.
    assume(all(bool(value.any()) for value in sent.values()))
    least, attempt = spectrum(target, layer_chain(target), batch), attacked(target, batch)
    if least < 1e-9:
        assert attempt.outcome is ls.Outcome.REFUSED
    elif least > 1e-3:
        assert decibel(attempt, batch) > 40
    if attempt.certificate is not None and attempt.certificate.holds:
        assert decibel(attempt, batch) > 35


# --- the pieces -----------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(
    kernel=st.integers(1, 4), stride=st.integers(1, 3), padding=st.integers(0, 2), dilation=st.integers(1, 2),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_the_unfolded_convolution_is_torchs(kernel: int, stride: int, padding: int, dilation: int, seed: int) -> None:
    with ls.Key(seed).isolated():
        layer = nn.Conv2d(3, 4, kernel, stride, padding, dilation).double()
        x = torch.randn(3, 9, 8, dtype=torch.float64, requires_grad=True)
    unfolded = Unfolded.of(layer, (3, 9, 8))
    y = layer(x[None])[0]
    flat = x.detach().flatten(1).numpy()
    close(torch.from_numpy(unfolded.weight @ unfolded.gathered(flat) + unfolded.bias[:, None]), y.detach().flatten(1))
    errors = torch.randn(y.shape, dtype=torch.float64, generator=ls.Key(seed).generator())
    slope, grown = torch.autograd.grad(y, (x, layer.weight), errors)
    flat_errors = errors.flatten(1).numpy()
    close(torch.from_numpy(unfolded.back(flat_errors)), slope.flatten(1))
    close(torch.from_numpy(flat_errors @ unfolded.gathered(flat).T), grown.flatten(1))
    sure = np.abs(np.random.default_rng(seed).standard_normal(flat_errors.shape))
    system = System(unfolded, y.detach().flatten(1).numpy(), sure, flat_errors, grown.flatten(1).numpy())
    direction = np.random.default_rng(seed + 1).standard_normal(flat.shape)
    formed = system.normal(system.shared()) @ direction.reshape(-1)
    close(torch.from_numpy(formed), torch.from_numpy(system.times(direction).reshape(-1)))
    assert system.remainder(flat)[1] < 1e-12


@pytest.mark.parametrize(
    "activation",
    [nn.LeakyReLU(0.1), nn.ELU(1.5), nn.Tanh(), nn.Sigmoid(), nn.Softplus(2.0), nn.ReLU()],
    ids=lambda act: type(act).__name__,
)
def test_activations_are_inverted_with_their_slopes(activation: nn.Module) -> None:
    z = torch.linspace(-4, 4, 40, dtype=torch.float64, requires_grad=True)
    y = activation(z)
    (slope,) = torch.autograd.grad(y.sum(), z)
    known = inverted(activation, y.detach().numpy(), np.ones(40))  # type: ignore[arg-type]
    close(torch.from_numpy(known.errors), slope, loosened=100, because="1 - tanh^2 cancels at the ends")
    told = known.sure > 0
    close(torch.from_numpy(known.values)[told], z.detach()[told], loosened=100, because="the ends are saturated")


def test_a_layer_whose_system_would_not_fit_in_memory_is_refused_by_its_numbers() -> None:
    """64 x 64 x 64 inputs are 262 144 unknowns: their normal equations would take 550 GB."""
    wide = Link("wide", nn.Conv2d(64, 128, 3, padding=1), "w", "b", (64, 64, 64), (128, 64, 64))
    assert "fit in memory" in _short(wide).sentence
