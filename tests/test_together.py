"""Group consistency: what restarts agree on, and that agreeing brings them together."""

from __future__ import annotations

import pytest
import torch

import leakscope as ls
from leakscope.attacks.parts.search.first_order import Problem
from leakscope.attacks.parts.search.together import consensus
from leakscope.audit.telling import tell
from leakscope.core.effort import unwatched


def test_translated_copies_agree_with_each_of_them() -> None:
    """Copies that differ by a translation alone: the consensus is the copy itself."""
    generator = ls.Key(0).generator()
    image = torch.rand(1, 2, 3, 7, 8, generator=generator)  # a batch of two
    copies = torch.cat([image, image.roll((2, -3), dims=(-2, -1)), image.roll((-1, 1), dims=(-2, -1))])
    torch.testing.assert_close(consensus(copies), copies)


def test_the_mean_over_what_is_not_moved() -> None:
    bright = torch.zeros(1, 6, 6)
    bright[0, 2, 3] = 9.0
    candidates = torch.stack([bright + 0.1 * torch.rand(1, 6, 6, generator=ls.Key(k).generator()) for k in range(3)])
    torch.testing.assert_close(consensus(candidates)[0], candidates.mean(0))
    vectors = torch.rand(4, 3)
    torch.testing.assert_close(consensus(vectors), vectors.mean(0).expand(4, 3))


def test_restarts_end_nearer_to_each_other_and_the_loss_is_the_whole() -> None:
    """A flat loss leaves restarts where they are; pulled together they meet in their mean."""
    starts = {"inputs": torch.rand(3, 1, 1, 4, 4, generator=ls.Key(1).generator())}
    problem = Problem(lambda point: 0 * point["inputs"].sum(), lambda point: point)
    seen: list[torch.Tensor] = []

    def watched(point: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append(point["inputs"].detach().clone())
        return point

    search = ls.Together(ls.Adam(lr=0.02, steps=200), weight=1.0, every=1)
    flat = Problem(problem.value, watched)
    found = search.run(flat, starts, clock=ls.Budget().start(), watch=unwatched)
    assert float(seen[-1].std(0).max()) < 0.15 * float(starts["inputs"].std(0).max())
    assert found.loss < 1e-3
    assert found.point is not None


def test_one_restart_runs_as_the_search_inside() -> None:
    starts = {"inputs": torch.rand(1, 1, 1, 4, 4)}
    problem = Problem(lambda point: point["inputs"].square().sum(), lambda point: point)
    alone, inside = (
        search.run(problem, starts, clock=ls.Budget().start(), watch=unwatched)
        for search in (ls.Adam(steps=20), ls.Together(ls.Adam(steps=20)))
    )
    assert alone.loss == inside.loss


def test_restarts_that_run_one_after_the_other_are_refused() -> None:
    with pytest.raises(ls.BadInput, match="one after the other"):
        ls.Together(ls.LBFGS())
    with pytest.raises(ls.BadInput, match="weight > 0"):
        ls.Together(ls.Adam(), weight=0.0)


def test_public_statistics_are_those_of_the_public_half_and_the_prior_uses_them() -> None:
    data = ls.Synthetic(shape=(3, 32, 32), classes=4, count=40)
    target = ls.ResNet20().build(data.domain, data.classes, key=ls.Key(0))
    batch = data.draw(2, key=ls.Key(0)).reveal()
    (fact,) = tell((ls.PublicStatistics,), target, batch, source=data)
    name, first = fact.by_layer[0]
    inputs = torch.nn.functional.conv2d(data.public().inputs, target.parameters()["0.weight"], padding=1)
    assert name == "1"
    assert first.mean == pytest.approx(inputs.mean((0, 2, 3)).tolist(), abs=1e-5)
    prior = ls.BatchNorm()
    plain = ls.observe(target, batch, ls.FedSGD(), key=ls.Key(0))
    told = ls.observe(target, batch, ls.FedSGD(), key=ls.Key(0), tell=[fact])
    assert float(prior.penalty(told)(data.public().inputs)) == pytest.approx(0, abs=1e-2)
    assert float(prior.penalty(plain)(data.public().inputs)) > 1
