"""The courses of a step give the same numbers, and what cannot be recorded runs as it is written."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import grad_and_value, vmap

import leakscope as ls
from leakscope.attacks.parts.search.execution import Course, Named, Slope, Work, executed, laid_out, measured, prepared

DOMAIN = ls.Images(3, 16, 16)
START = {"inputs": torch.rand(2, 1, 3, 16, 16, generator=ls.Key(0).generator())}


def slope_of(target: ls.Target, mechanism: ls.AbstractMechanism | None = None) -> Slope:
    """The gradient of a matching loss at two candidates at once."""
    protocol = mechanism or ls.FedSGD()
    label = torch.tensor([1])
    image = torch.rand(1, 3, 16, 16, generator=ls.Key(1).generator())
    seen = ls.observe(target, ls.Batch(image, label), protocol, key=ls.Key(0))

    def value(point: Named) -> torch.Tensor:
        replayed = protocol.as_gradient(protocol.replay(target, ls.Batch(point["inputs"], label)))
        return ls.Squared()(replayed.by_name, seen.gradient().by_name)

    return vmap(grad_and_value(value))


class Branching(nn.Module):
    """Asks for a value on its way."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 16 * 16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.layer(x.flatten(1))
        return torch.tanh(z) if float(z.detach().sum()) < 1e9 else z


@pytest.mark.parametrize("mechanism", [ls.FedSGD(), ls.FedAvg(steps=2, lr=0.1), ls.FedSGD() >> ls.Clip(0.01)], ids=repr)
def test_a_recorded_step_gives_the_same_numbers_at_other_points(mechanism: ls.AbstractMechanism) -> None:
    slope = slope_of(ls.LeNet().build(DOMAIN, 4, key=ls.Key(0)), mechanism)
    recorded = executed(slope, START, Course.RECORDED)
    assert recorded is not slope
    for key in range(3):
        point = {"inputs": torch.rand(2, 1, 3, 16, 16, generator=ls.Key(key + 5).generator())}
        gradient, losses = slope(point)
        gradient_too, losses_too = recorded(point)
        torch.testing.assert_close(gradient_too["inputs"], gradient["inputs"], rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(losses_too, losses, rtol=1e-4, atol=1e-7)


def test_a_model_that_branches_on_values_runs_as_written() -> None:
    target = ls.Target(Branching(), DOMAIN, 4)
    point = {"inputs": START["inputs"][0]}
    label = torch.tensor([1])
    seen = ls.observe(target, ls.Batch(point["inputs"], label), ls.FedSGD(), key=ls.Key(0))

    def value(at: Named) -> torch.Tensor:
        return ls.L1()(ls.FedSGD().replay(target, ls.Batch(at["inputs"], label)).by_name, seen.release.by_name)

    slope = grad_and_value(value)
    assert executed(slope, point, Course.RECORDED) is slope


def test_a_graph_that_does_not_agree_is_not_used() -> None:
    """A step that is different at every call cannot be replaced by a recording of one."""
    drift = {"by": 0.0}

    def slope(point: Named) -> tuple[Named, torch.Tensor]:
        drift["by"] += 1.0
        return {"inputs": point["inputs"] * drift["by"]}, point["inputs"].flatten(1).sum(1)

    assert executed(slope, START, Course.RECORDED) is slope


def test_few_steps_run_as_written_and_the_choice_needs_no_stopwatch() -> None:
    slope = slope_of(ls.LeNet().build(DOMAIN, 4, key=ls.Key(0)))
    assert prepared(slope, START, steps=10, seconds=None) is slope
    assert prepared(slope, START, steps=1000, seconds=None) is not slope
    one, again = (measured(slope, START, steps=1000, seconds=None) for _ in range(2))
    assert one == again
    assert one.kernels > 100
    assert one.flops > 1e5
    assert Work(10, 10**12, 1000).course(compiler=True) is Course.COMPILED
    assert Work(10, 10**12, 1000).course(compiler=False) is Course.RECORDED
    assert Work(10, 10**10, 1000, seconds=20.0).course(compiler=True) is Course.WRITTEN
    assert Work(10**5, 10**12, 1000).course(compiler=True) is Course.WRITTEN


def test_another_layout_is_the_same_model() -> None:
    narrow = ls.LeNet().build(DOMAIN, 4, key=ls.Key(0))
    assert laid_out(narrow) is narrow
    wide = ls.ConvNet(width=32).build(DOMAIN, 4, key=ls.Key(0))
    other = laid_out(wide)
    assert other.fingerprint() == wide.fingerprint()
    weights = next(p for p in other.module.parameters() if p.dim() == 4 and p.shape[1] > 3)
    assert weights.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        slope_of(other)(START)[0]["inputs"], slope_of(wide)(START)[0]["inputs"], rtol=1e-3, atol=1e-6
    )
