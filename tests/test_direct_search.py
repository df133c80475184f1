"""Direct search: its schedule and its modes by closed forms, its batched losses one at a time, its resumption."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import leakscope as ls
from leakscope.attacks.parts.search.direct import DirectSearch, Scales, Shrink, Take, all_losses
from leakscope.attacks.parts.search.directions import By, steps_along
from leakscope.attacks.parts.search.first_order import Problem
from leakscope.attacks.parts.search.journal import Found, Stop
from leakscope.attacks.parts.search.state_file import StateFile
from leakscope.core.effort import Budget, Progress, unwatched

CENTER = torch.tensor([[[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]]])
SMALL = DirectSearch(iterations=200, directions=31, shrink=Shrink(steps=20, smallest=0.01))


def bowl(**changed: Any) -> Problem:
    problem = Problem(lambda p: (p["inputs"] - CENTER).square().sum(), lambda p: p, key=ls.Key(0))
    return dataclasses.replace(problem, **changed)


def found(search: DirectSearch, problem: Problem | None = None, *, restarts: int = 1, watch: Any = unwatched) -> Found:
    starts = {"inputs": torch.zeros(restarts, 1, 2, 3)}
    return search.run(problem or bowl(), starts, clock=Budget().start(), watch=watch)


MODES: list[dict[str, Any]] = [
    {"by": By.FRAME},
    {"by": By.FRAME, "frames": 2},
    {"by": By.COEFFICIENT},
    {"by": By.ENTRY},
    {"by": By.ALL},
    {"take": Take.BEST},
    {"take": Take.LINE},
    {"radii": 3},
    {"by": By.COEFFICIENT, "scales": Scales((4.0, 2.0), 5)},
]


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_every_mode_comes_to_the_bottom_of_a_bowl(mode: dict[str, Any]) -> None:
    """All ways of drawing directions and of taking steps; in the original system only one of them ran."""
    result = found(dataclasses.replace(SMALL, **mode))
    assert result.loss < 0.01 * result.start_loss
    assert result.point is not None
    torch.testing.assert_close(result.point["inputs"], CENTER, atol=0.3, rtol=0)


@pytest.mark.parametrize("mode", MODES[1:], ids=str)
def test_every_setting_speaks(mode: dict[str, Any]) -> None:
    one, two = found(SMALL), found(dataclasses.replace(SMALL, **mode))
    assert one.trace.losses != two.trace.losses


@pytest.mark.parametrize(("field", "value"), [("steps", 10), ("improvement", 0.9), ("factor", 0.25), ("smallest", 0.5)])
def test_every_setting_of_the_schedule_speaks(field: str, value: float) -> None:
    changed = dataclasses.replace(SMALL, shrink=dataclasses.replace(SMALL.shrink, **{field: value}))
    assert found(SMALL).trace.losses != found(changed).trace.losses


def test_directions_are_what_they_are_called() -> None:
    point = torch.zeros(2, 3, 4, 5)
    free = torch.tensor([[True] * 4, [True, True, False, False], [False] * 4])

    def drawn(by: By, frames: int = 1) -> np.ndarray:
        steps = steps_along(point, by, 64, free=free, item=None, frames=frames, key=ls.Key(0))
        assert steps.unit.shape == (2, 64, 3, 4, 5)
        norms = np.linalg.norm(steps.unit.numpy().reshape(2, 64, -1), axis=2)
        np.testing.assert_allclose(norms, 1, rtol=1e-5)
        moved: np.ndarray = steps.unit.numpy() != 0
        assert not (moved & ~free.numpy()[None, None, ..., None]).any(), "what is not free stays"
        return moved

    frames = drawn(By.FRAME).any(-1)
    assert (frames.reshape(2, 64, -1).sum(-1) == 1).all()
    assert frames.any((0, 1)).tolist() == free.tolist(), "every free frame is drawn at some time"
    assert (drawn(By.FRAME, 3).any(-1).reshape(2, 64, -1).sum(-1) <= 3).all()
    assert (drawn(By.ENTRY).reshape(2, 64, -1).sum(-1) == 1).all()
    assert (drawn(By.ALL).reshape(2, 64, -1).sum(-1) == 30).all()
    lines = drawn(By.COEFFICIENT)
    assert (lines.any((2, 3)).sum(-1) == 1).all(), "one coefficient"
    assert (lines.any((3, 4)).sum(-1) == 1).all(), "of one utterance"
    one = steps_along(point, By.FRAME, 64, free=free, item=1, frames=1, key=ls.Key(0)).unit
    assert not one[:, :, [0, 2]].any()


def test_the_schedule_is_that_of_the_original() -> None:
    """A loss that never falls: the radius is halved at each check down to the smallest, then the search ends."""
    seen: list[float] = []

    def watch(progress: Progress) -> None:
        seen.append(dict(progress.scalars)["step size"])

    flat = Problem(lambda p: p["inputs"].sum() * 0 + 1.0, lambda p: p, key=ls.Key(0))
    result = found(DirectSearch(iterations=1000, directions=3, shrink=Shrink(steps=20)), flat, watch=watch)
    assert seen == [1.0, 1.0, 0.5, 0.25]  # noted at steps 0, 20, 40 and 60, each check after the note
    assert result.stop is Stop.PLATEAU
    assert result.evaluations == 4 * 61


def test_the_sum_of_improving_steps_is_taken_and_nothing_else() -> None:
    """One step against the rule written out: x + sum over f(x + r v) < f(x) of r v."""
    search = DirectSearch(radius=0.7, iterations=2, directions=9)
    start = torch.zeros(1, 1, 2, 3)
    key = ls.Key(0).child("step", 0)
    unit = steps_along(start, By.FRAME, 9, free=None, item=None, frames=1, key=key).unit[0]
    value = bowl().value
    expected = start[0].clone()
    for v in unit:
        if float(value({"inputs": start[0] + 0.7 * v})) < float(value({"inputs": start[0]})):
            expected = expected + 0.7 * v
    result = found(search)
    assert result.trace.losses[1] == pytest.approx(float(value({"inputs": expected})), rel=1e-5)


def test_scales_fall_where_they_do_not_help() -> None:
    search = DirectSearch(iterations=40, directions=3, by=By.COEFFICIENT, scales=Scales((8.0,), 2))
    way = search._way({"inputs": torch.zeros(1, 1, 2, 3)}, bowl())
    assert way.scale.tolist() == [[8.0, 1.0, 1.0]]
    flat = Problem(lambda p: p["inputs"].sum() * 0 + 1.0, lambda p: p, key=ls.Key(0))
    journal = flat.journal(Budget().start(), unwatched, 1)
    for _ in range(30):
        search._step(flat, way, journal)
    assert way.scale.tolist() == [[1.0, 1.0, 1.0]], "halved in vain, never below 1"


def test_restarts_run_together_as_they_run_alone() -> None:
    changes = {"inputs": torch.randn(3, 5, 1, 2, 3, generator=ls.Key(0).generator())}
    points = {"inputs": torch.randn(3, 1, 2, 3, generator=ls.Key(1).generator())}
    together = all_losses(dataclasses.replace(bowl(), chunk=4), points, changes)
    for r in range(3):
        here = points["inputs"][r]
        alone = [bowl().value({"inputs": x}) for x in (here, *(here + change for change in changes["inputs"][r]))]
        torch.testing.assert_close(together[r], torch.stack(alone))
    assert found(SMALL, restarts=3).loss < 0.01


@pytest.mark.parametrize(
    "search",
    [
        dataclasses.replace(SMALL, iterations=30),
        DirectSearch(iterations=30, directions=5, by=By.COEFFICIENT, scales=Scales((4.0,), 2)),
        ls.Adam(lr=0.1, steps=30),
        ls.LBFGS(lr=0.01, evaluations=150, line_search=False),
    ],
    ids=lambda search: type(search).__name__,
)
def test_a_killed_search_goes_on_to_the_same_bits(search: Any, tmp_path: Path) -> None:
    """Killed where no cleanup runs, and resumed from the file: point, losses, pictures and counts are the same."""
    powers = torch.tensor([1.0, 5.0, 0.1])
    calls, killed_after = 0, 3 if isinstance(search, ls.LBFGS) else 9

    def value(p: dict[str, torch.Tensor]) -> torch.Tensor:
        return ((p["inputs"] - CENTER).abs() ** 3 * powers).sum()

    class Dying(StateFile):
        def save(self, state: Any, *, seconds: float) -> None:
            nonlocal calls
            super().save(state, seconds=seconds)
            calls += 1
            if calls > killed_after:
                raise MemoryError("killed")

    starts = {"inputs": 0.1 * torch.randn(2, 1, 2, 3, generator=ls.Key(3).generator())}
    problem = Problem(value, lambda p: p, key=ls.Key(0))
    whole = search.run(problem, starts, clock=Budget().start(), watch=unwatched)
    file = Dying(tmp_path / "state", every=0)
    file.open("me")
    with pytest.raises(MemoryError):
        search.run(problem, starts, clock=Budget().start().kept(file), watch=unwatched)
    again = StateFile(tmp_path / "state", every=1e9)
    again.open("me")
    resumed = search.run(problem, starts, clock=Budget().start().kept(again), watch=unwatched)
    assert resumed.trace.losses == whole.trace.losses
    assert resumed.evaluations == whole.evaluations
    assert (resumed.loss, resumed.start_loss, resumed.last_loss) == (whole.loss, whole.start_loss, whole.last_loss)
    assert torch.equal(resumed.point["inputs"], whole.point["inputs"])
    assert all(torch.equal(a[1], b[1]) for a, b in zip(resumed.trace.pictures, whole.trace.pictures, strict=True))


def test_a_state_is_bound_to_what_it_is_the_state_of(tmp_path: Path) -> None:
    """The same attack goes on, another one does not; a search that ended leaves nothing behind."""
    image = ls.Images(1, 4, 4)
    target = ls.MLP((8,)).build(image, 3, key=ls.Key(0))
    batch = ls.Batch(torch.rand(1, 1, 4, 4, generator=ls.Key(0).generator()), torch.tensor([1]))
    seen = ls.observe(target, batch, ls.FedSGD(), key=ls.Key(0), tell=[ls.BatchSize(1), ls.TrueLabels((1,))])
    attack = ls.GradientInversion(search=DirectSearch(iterations=60, directions=7), labeling=ls.Told())
    path = tmp_path / "state"

    def impatient(progress: Progress) -> None:
        if progress.fraction > 0.3:
            raise KeyboardInterrupt

    whole = attack.run(seen, key=ls.Key(1))
    stopped = attack.run(seen, key=ls.Key(1), watch=impatient, checkpoint=StateFile(path, every=0))
    assert stopped.outcome is ls.Outcome.INTERRUPTED
    with pytest.raises(ls.BadInput, match="another attack, observation or key"):
        attack.run(seen, key=ls.Key(2), checkpoint=StateFile(path))
    with pytest.raises(ls.BadInput, match="another attack, observation or key"):
        dataclasses.replace(attack, restarts=2).run(seen, key=ls.Key(1), checkpoint=StateFile(path))
    resumed = attack.run(seen, key=ls.Key(1), checkpoint=StateFile(path))
    assert torch.equal(resumed.claim.values, whole.claim.values)
    assert resumed.trace.losses == whole.trace.losses
    assert not path.exists()
    path.write_bytes(b"no state")
    with pytest.raises(ls.BadInput, match="cannot be read"):
        attack.run(seen, key=ls.Key(1), checkpoint=StateFile(path))


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ls.BadInput, match="radius > 0, got 0"):
        DirectSearch(radius=0)
    with pytest.raises(ls.BadInput, match="directions, frames and radii >= 1"):
        DirectSearch(directions=0)
    with pytest.raises(ls.BadInput, match=r"use By\.COEFFICIENT"):
        DirectSearch(scales=Scales())
    with pytest.raises(ls.BadInput, match="frames counts"):
        DirectSearch(frames=2, by=By.ALL)
    with pytest.raises(ls.BadInput, match="smallest > 0"):
        Shrink(smallest=0)
    with pytest.raises(ls.BadInput, match="factors >= 1"):
        Scales((0.5,))
