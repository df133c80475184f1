"""Images one by one from the features that the output layer's gradient gives."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

import leakscope as ls
from leakscope.attacks.inputs.matching import feature_inversion
from leakscope.attacks.parts.search.state_file import StateFile
from leakscope.core.effort import Progress


def client(net: nn.Module, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """In plain PyTorch."""
    slopes = torch.autograd.grad(F.cross_entropy(net(inputs), labels), list(net.parameters()))
    return {name: slope for (name, _), slope in zip(net.named_parameters(), slopes, strict=True)}


def net(classes: int, seed: int = 0) -> nn.Sequential:
    """A convolution that keeps all there is, and a dense layer on its map."""
    with ls.Key(seed).isolated():
        torch.manual_seed(seed)
        made = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, classes))
        nn.init.kaiming_normal_(made[3].weight)
        return made


def decibels(claim: ls.Inputs, inputs: Tensor) -> Tensor:
    """PSNR of each image beside the claimed one that is paired with it."""
    error = torch.stack([((claim.values - one) ** 2).flatten(1).mean(1) for one in inputs])
    rows, columns = linear_sum_assignment(error.numpy())
    return -10 * torch.log10(error[rows, columns])


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    """Eight digits with labels of forty classes, one of them twice."""
    images = ls.Digits(size=8).draw(8, key=ls.Key(21)).reveal().inputs
    return images, torch.tensor([3, 17, 17, 39, 0, 25, 8, 12])


def test_a_batch_comes_apart_into_its_images(digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits
    victim = net(40)
    target = ls.Target(victim, ls.Images(1, 8, 8), 40)
    # Nothing told: neither how many there are, nor of which classes.
    seen = ls.Observation(target, ls.Gradient(client(victim, images, labels)), ls.FedSGD())
    attempt = ls.FeatureInversion(steps=800).run(seen, key=ls.Key(0))
    assert attempt.claim is not None, attempt.sentence
    assert sorted(attempt.claim.labels.tolist()) == sorted(labels.tolist())
    assert float(decibels(attempt.claim, images).min()) > 30, decibels(attempt.claim, images)
    assert attempt.certificate is None


def test_equal_images_are_claimed_as_often_as_they_are_there(digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits[0][[0, 1, 1]], torch.tensor([3, 9, 9])
    victim = net(40)
    target = ls.Target(victim, ls.Images(1, 8, 8), 40)
    seen = ls.Observation(target, ls.Gradient(client(victim, images, labels)), ls.FedSGD(), (ls.BatchSize(3),))
    attempt = ls.FeatureInversion(steps=300).run(seen, key=ls.Key(0))
    assert attempt.claim.labels.tolist().count(9) == 2
    assert len(attempt.claim.values) == 3


def test_rows_that_say_a_hundredth_are_enough() -> None:
    """Behind torch's initialization rows fix features to a percent, and the space they lie in to rounding."""
    source = ls.Digits(size=16)
    target = ls.ConvNet(16).build(source.domain, 100, key=ls.Key(1))
    images = source.draw(32, key=ls.Key(11)).reveal().inputs
    # Five labels of two samples each, which hardly differ in their errors.
    labels = torch.cat([torch.arange(27), torch.arange(5)])
    seen = ls.observe(target, ls.Batch(images, labels), ls.FedSGD(), key=ls.Key(0))
    attempt = ls.FeatureInversion(steps=600).run(seen, key=ls.Key(0))
    assert attempt.claim is not None, attempt.sentence
    assert len(attempt.claim) >= 27
    # By each row as it stands: 39 dB.
    assert float(decibels(attempt.claim, images).mean()) > 50, decibels(attempt.claim, images)


@pytest.mark.parametrize(
    ("mechanism", "reason"),
    [
        (ls.FedAvg(steps=2, lr=0.1), "local steps"),
        (ls.FedSGD() >> ls.Sign(), "left no row"),
        (ls.FedSGD() >> ls.Prune(0.1), "ra"),
        (ls.FedSGD() >> ls.GaussianNoise(0.1), "no rank stands out"),
    ],
)
def test_it_refuses_where_no_sample_comes_apart(
    digits: tuple[Tensor, Tensor], mechanism: ls.FedSGD | ls.FedAvg, reason: str
) -> None:
    target = ls.Target(net(40), ls.Images(1, 8, 8), 40)
    seen = ls.observe(target, ls.Batch(*digits), mechanism, key=ls.Key(0), tell=[ls.BatchSize(8)])
    refusal = ls.FeatureInversion().refusal(seen)
    assert refusal is not None
    assert reason in refusal.sentence


def test_few_classes_are_refused_by_number(digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits
    target = ls.Target(net(10), ls.Images(1, 8, 8), 10)
    seen = ls.observe(target, ls.Batch(images[:5], labels[:5] % 10), ls.FedSGD(), key=ls.Key(0))
    assert "10 classes are too few to tell 5 samples apart" in ls.FeatureInversion().refusal(seen).sentence


def test_an_interruption_at_its_end_keeps_the_steps_before_it(digits: tuple[Tensor, Tensor]) -> None:
    victim = net(40)
    target = ls.Target(victim, ls.Images(1, 8, 8), 40)
    seen = ls.Observation(target, ls.Gradient(client(victim, digits[0][:3], digits[1][[0, 1, 3]])), ls.FedSGD())

    def stop(sign: Progress) -> None:
        if sign.note == "Gauss-Newton":
            raise KeyboardInterrupt

    attempt = ls.FeatureInversion(steps=100).run(seen, key=ls.Key(83020), watch=stop)
    assert attempt.outcome is ls.Outcome.INTERRUPTED
    assert isinstance(attempt.claim, ls.Inputs)
    # What the search by first order left: 33 dB at worst.
    assert float(decibels(attempt.claim, digits[0][:3]).min()) > 60
    assert attempt.cost.evaluations > 100


@pytest.mark.parametrize("layer", [0, 3])
def test_weights_that_are_not_finite_are_what_is_named(digits: tuple[Tensor, Tensor], layer: int) -> None:
    """Not the architecture, which ends in a dense layer as before: NaN equals nothing."""
    whole, broken = net(40), net(40)
    with torch.no_grad():
        broken[layer].bias[0] = torch.nan
    sent = ls.Gradient(client(whole, digits[0][:3], digits[1][[0, 1, 3]]))
    refusal = ls.FeatureInversion().refusal(
        ls.Observation(ls.Target(broken, ls.Images(1, 8, 8), 40), sent, ls.FedSGD())
    )
    assert refusal is not None
    assert "not finite; look for NaN and infinity in its weights" in refusal.sentence


class Killed(BaseException):
    """A process that ends at once."""


@pytest.mark.parametrize("part", ["", "Gauss-Newton"])
def test_a_killed_run_goes_on_to_the_same_claim(digits: tuple[Tensor, Tensor], part: str, tmp_path: Path) -> None:
    victim = net(40)
    target = ls.Target(victim, ls.Images(1, 8, 8), 40)
    seen = ls.Observation(target, ls.Gradient(client(victim, digits[0][:3], digits[1][[0, 1, 3]])), ls.FedSGD())
    attack, signs = ls.FeatureInversion(steps=30), list[Progress]()

    def kill(sign: Progress) -> None:
        signs.append(sign)
        if sign.note == "Gauss-Newton" if part else len(signs) == 3:
            raise Killed

    with pytest.raises(Killed):
        attack.run(seen, key=ls.Key(85001), watch=kill, checkpoint=StateFile(tmp_path / "state", every=0))
    assert (tmp_path / "state").exists()
    resumed = attack.run(seen, key=ls.Key(85001), checkpoint=StateFile(tmp_path / "state", every=0))
    plain = attack.run(seen, key=ls.Key(85001))
    assert torch.equal(resumed.claim.values, plain.claim.values)
    assert resumed.claim.labels.tolist() == plain.claim.labels.tolist()
    assert resumed.cost.evaluations == plain.cost.evaluations


def deep_net(drop: float) -> nn.Sequential:
    """A convolution, and dense layers with dropout on its map, narrower than the image."""
    with ls.Key(0).isolated():
        torch.manual_seed(3)
        made = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(),
            nn.Linear(512, 48), nn.ReLU(), nn.Dropout(drop), nn.Linear(48, 40),
        )  # fmt: skip
        for place in (0, 3, 6):
            nn.init.kaiming_normal_(made[place].weight)
        return made.train()


@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_images_are_searched_by_what_the_deepest_dense_layer_was_fed(
    digits: tuple[Tensor, Tensor], drop: float
) -> None:
    """48 numbers do not hold 64 pixels, and dropout leaves another part of them each time; the map holds all."""
    victim = deep_net(drop)
    target = ls.Target(victim, ls.Images(1, 8, 8), 40, training=True)
    torch.manual_seed(5)
    seen = ls.Observation(target, ls.Gradient(client(victim, *digits)), ls.FedSGD())
    above = ls.FeatureInversion(steps=400, layers=1).run(seen, key=ls.Key(0))
    below = ls.FeatureInversion(steps=400).run(seen, key=ls.Key(0))
    assert isinstance(below.claim, ls.Inputs), below.sentence
    assert "features at 3 to" in below.sentence
    assert sorted(below.claim.labels.tolist()) == sorted(digits[1].tolist())
    assert float(decibels(below.claim, digits[0]).min()) > 40, decibels(below.claim, digits[0])
    if drop:
        assert above.claim is None
        assert above.outcome is ls.Outcome.DIVERGED
    else:
        assert float(decibels(above.claim, digits[0]).mean()) < 30, decibels(above.claim, digits[0])


def test_samples_whose_inputs_below_are_not_known_are_searched_by_the_output_layer(
    digits: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = deep_net(0.0)
    target = ls.Target(victim, ls.Images(1, 8, 8), 40)
    seen = ls.Observation(target, ls.Gradient(client(victim, *digits)), ls.FedSGD())
    whole = feature_inversion.descend

    def spoiled(*given: Any) -> Any:
        """Three of the samples with the inputs of nobody, as the descent itself says."""
        found = whole(*given)
        values, residuals = found.values.copy(), found.residuals.copy()
        values[:3], residuals[:3] = 1.0, float("inf")
        return dataclasses.replace(found, values=values, residuals=residuals)

    monkeypatch.setattr(feature_inversion, "descend", spoiled)
    attempt = ls.FeatureInversion(steps=400).run(seen, key=ls.Key(0))
    assert "at 3 (of 5 of them)" in attempt.sentence
    sizes = decibels(attempt.claim, digits[0]).sort().values
    assert float(sizes[3:].min()) > 40, sizes
    # By 48 numbers: no picture of noise, and none that is exact.
    alone = decibels(ls.FeatureInversion(steps=400, layers=1).run(seen, key=ls.Key(0)).claim, digits[0])
    assert float(sizes[:3].min()) > float(alone.min()) - 3, (sizes, alone)


def test_layers_are_counted() -> None:
    with pytest.raises(ls.BadInput, match="layers"):
        ls.FeatureInversion(layers=0)
