"""The search in bfloat16: rounded inside, judged in float32, used only when it is asked for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import leakscope as ls
from leakscope.attacks.parts.search.execution import Course, executed
from leakscope.attacks.parts.search.first_order import Problem, gradients
from leakscope.core.effort import Clock, unwatched

GENERATOR = ls.Key(3).generator()
MATRIX, GOAL = torch.randn(12, 12, generator=GENERATOR), torch.randn(12, generator=GENERATOR)


def misfit(point: dict[str, Tensor]) -> Tensor:
    return (MATRIX @ point["inputs"] - GOAL).square().sum()


def clock() -> Clock:
    return Clock(ls.Budget(), 0.0)


def rounded(point: dict[str, Tensor]) -> float:
    with torch.autocast("cpu", torch.bfloat16):
        return float(misfit(point))


@pytest.mark.parametrize("search", [ls.Adam(lr=0.05, steps=40), ls.Together(ls.Adam(lr=0.05, steps=40))])
def test_the_search_is_rounded_and_its_start_and_its_result_are_not(search: ls.Adam | ls.Together) -> None:
    levels = []

    def value(point: dict[str, Tensor]) -> Tensor:
        levels.append(torch.is_autocast_enabled("cpu"))
        return misfit(point)

    starts = {"inputs": torch.randn(3, 12, generator=ls.Key(4).generator())}
    found = ls.Bfloat16(search).run(Problem(value, dict), starts, clock=clock(), watch=unwatched)
    assert len(levels) > 4
    assert all(levels[:-4])
    assert levels[-4:] == [False] * 4, "three starts and the result"
    assert found.point is not None
    assert found.loss == float(misfit(found.point)) != rounded(found.point)
    assert found.start_loss == min(float(misfit({"inputs": one})) for one in starts["inputs"])
    assert found.loss < 0.5 * found.start_loss
    assert min(found.trace.losses) != found.loss, "what the search saw is the rounded loss"


def test_a_search_that_only_rounding_calls_good_is_known_to_have_risen() -> None:
    """A loss that falls where it is rounded and rises where it is not."""

    def value(point: dict[str, Tensor]) -> Tensor:
        lowered = point["inputs"].square().sum()
        return lowered if torch.is_autocast_enabled("cpu") else 100 - lowered

    starts = {"inputs": torch.ones(1, 4)}
    found = ls.Bfloat16(ls.Adam(steps=20)).run(Problem(value, dict), starts, clock=clock(), watch=unwatched)
    assert found.start_loss == 96
    assert found.loss > found.start_loss


def test_searches_by_lines_are_refused() -> None:
    for search in (ls.LBFGS(), ls.DirectSearch(), ls.Bfloat16(ls.Adam())):
        with pytest.raises(ls.BadInput, match="expected Adam or Together"):
            ls.Bfloat16(search)


def test_convolutions_are_matched_and_the_sentence_tells_the_float32_loss() -> None:
    domain = ls.Images(1, 8, 8)
    target = ls.ConvNet(width=4).build(domain, 4, key=ls.Key(0))
    batch = ls.Batch(torch.rand(2, 1, 8, 8, generator=ls.Key(1).generator()), torch.tensor([1, 2]))
    seen = ls.observe(target, batch, ls.FedSGD(), key=ls.Key(2), tell=[ls.BatchSize(2), ls.TrueLabels((1, 2))])
    search, space = ls.Bfloat16(ls.Adam(steps=60, signed=True)), ls.Pixels(boxed=True)
    attack = ls.GradientInversion(space=space, search=search, labeling=ls.Told(), restarts=2)
    attempt = attack.run(seen, key=ls.Key(3))
    problem, _ = attack._problem(seen, batch.labels, ls.Key(3).child("attack"))
    assert attempt.claim is not None
    assert f"to {float(problem.value({'inputs': attempt.claim.values})):.3g}" in attempt.sentence


def test_the_rounded_step_can_be_recorded() -> None:
    def value(point: dict[str, Tensor]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            return misfit(point).float()

    slope = gradients(Problem(value, dict), 2)
    starts = {"inputs": torch.randn(2, 12, generator=ls.Key(5).generator())}
    recorded = executed(slope, starts, Course.RECORDED)
    assert recorded is not slope
    other = {"inputs": torch.randn(2, 12, generator=ls.Key(6).generator())}
    assert torch.equal(recorded(other)[1], slope(other)[1])
    exact = gradients(Problem(misfit, dict), 2)(other)[1]
    assert not torch.equal(recorded(other)[1], exact)
