"""The portfolio proves before it searches, starts searches from what was found, and says what each part did."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import leakscope as ls
from leakscope.attacks.inputs.dense import lowrank
from leakscope.attacks.parts.search.state_file import StateFile
from leakscope.attacks.portfolio.auto import SOLVING
from leakscope.core.effort import State

DOMAIN = ls.Images(1, 8, 8)
DATA = ls.Synthetic(shape=(1, 8, 8), classes=4, count=64)


def seen(target: ls.Target, mechanism: ls.AbstractMechanism, size: int = 1) -> tuple[ls.Observation, ls.Batch]:
    batch = DATA.draw(size, key=ls.Key(0)).reveal()
    return ls.observe(target, batch, mechanism, key=ls.Key(0), tell=[ls.BatchSize(size)]), batch


def pooled() -> ls.Target:
    """A smooth net that no exact attack undoes: pooling forgets."""
    with ls.Key(0).isolated():
        layers = [nn.Conv2d(1, 12, 3, padding=1), nn.Sigmoid(), nn.AvgPool2d(2), nn.Conv2d(12, 12, 3, padding=1)]
        return ls.Target(nn.Sequential(*layers, nn.Sigmoid(), nn.Flatten(), nn.Linear(192, 4)), DOMAIN, 4)


def psnr(attempt: ls.Attempt, batch: ls.Batch) -> float:
    return ls.score(attempt.claim, batch, domain=DOMAIN)["psnr"].value


def test_what_is_proved_is_handed_on_with_certificate_and_labels() -> None:
    """Four digits, two local steps: the low rank takes them apart, and labels are dealt to inputs."""
    digits = ls.Digits(size=16)
    target = ls.MLP((256,)).build(digits.domain, digits.classes, key=ls.Key(0))
    batch = digits.draw(4, key=ls.Key(0)).reveal()
    mechanism = ls.FedAvg(steps=2, lr=0.01)
    observed = ls.observe(target, batch, mechanism, key=ls.Key(0), tell=[ls.BatchSize(4)])
    attempt = ls.Auto().run(observed, key=ls.Key(1))
    assert attempt.certificate is not None
    assert attempt.certificate.holds
    assert attempt.cost.evaluations == 0
    assert ls.score(attempt.claim, batch, domain=digits.domain)["psnr"].value > 80
    paired = [int(((attempt.claim.values - one).abs().flatten(1).mean(1)).argmin()) for one in batch.inputs]
    assert attempt.claim.labels[paired].tolist() == batch.labels.tolist()
    assert any("handed on: LowRank" in step for step in attempt.steps)


def test_searches_go_on_from_each_other_and_each_part_is_told() -> None:
    observed, batch = seen(pooled(), ls.FedSGD())
    attempt = ls.Auto(evaluations=2500).run(observed, key=ls.Key(1))
    single = ls.idlg(evaluations=300).run(observed, key=ls.Key(1))
    # Beyond 50 dB both have solved it, and the rest is a race of roundings, which differ from processor to processor.
    assert psnr(attempt, batch) > min(psnr(single, batch) - 1, 50)
    assert psnr(attempt, batch) > 50
    said = " | ".join(attempt.steps)
    for part in ("LinearLayer: refused", "FirstAttention: refused", "L-BFGS on the squared distance: claimed"):
        assert part in said
    assert "signed Adam on the cosine: claimed" not in said  # solved already, and it would leave the valley


def test_under_noise_it_is_the_most_probable_image_and_not_the_best_fit() -> None:
    target = ls.ConvNet(4).build(ls.Images(1, 16, 16), 10, key=ls.Key(0))
    digits = ls.Digits(size=16)
    batch = digits.draw(1, key=ls.Key(3)).reveal()
    mechanism = ls.FedSGD() >> ls.Clip(1.0) >> ls.GaussianNoise(1e-3)
    observed = ls.observe(target, batch, mechanism, key=ls.Key(0), tell=[ls.BatchSize(1)])
    attempt = ls.Auto(evaluations=240).run(observed, key=ls.Key(1))
    plain = ls.idlg(evaluations=100).run(observed, key=ls.Key(1))
    blind = ls.score(plain.claim, batch, domain=digits.domain)["psnr"]
    found = ls.score(attempt.claim, batch, domain=digits.domain)["psnr"]
    assert found.value > blind.value + 2
    assert sum("most probable images" in step and "claimed" in step for step in attempt.steps) > 0


@pytest.mark.parametrize("seed", [4, 5])
def test_signs_that_agree_are_explained_and_more_is_noise(seed: int) -> None:
    """Of signs from a sigmoid net many images explain all, and the smooth one among them is the better."""
    faces = ls.Faces(size=16)
    with ls.Key(seed).isolated():
        layers = [nn.Conv2d(1, 12, 5, padding=2, stride=2), nn.Sigmoid(), nn.Conv2d(12, 12, 5, padding=2), nn.Sigmoid()]
        target = ls.Target(
            nn.Sequential(*layers, nn.Flatten(), nn.Linear(768, faces.classes)), faces.domain, faces.classes
        )
    batch = faces.draw(1, key=ls.Key(seed + 60)).reveal()
    observed = ls.observe(target, batch, ls.FedSGD() >> ls.Sign(), key=ls.Key(0), tell=[ls.BatchSize(1)])
    attempt = ls.Auto(evaluations=500).run(observed, key=ls.Key(1))
    said = " | ".join(attempt.steps)
    assert "steps from 0.1 down: claimed" in said
    assert "explained already" in said
    assert "L-BFGS" not in said
    assert attempt.cost.evaluations <= 520
    found = ls.score(attempt.claim, batch, domain=faces.domain)["psnr"].value
    single = ls.inverting_gradients(steps=attempt.cost.evaluations, tv=1e-3).run(observed, key=ls.Key(1))
    alone = -1.0 if single.claim is None else ls.score(single.claim, batch, domain=faces.domain)["psnr"].value
    assert found > max(alone - 1, 15)


def test_where_a_first_leg_finds_nothing_the_next_begins_by_itself() -> None:
    observed, _ = seen(ls.ConvNet(4).build(DOMAIN, 4, key=ls.Key(0)), ls.FedSGD() >> ls.Sign())
    attempt = ls.Auto(evaluations=120).run(observed, key=ls.Key(1))
    legs = [step for step in attempt.steps if "total variation" in step]
    assert "diverged" in legs[0]
    assert attempt.claim is not None
    assert not any("nothing to go on from" in step for step in legs)


def test_one_budget_for_all() -> None:
    target = ls.ConvNet(4).build(DOMAIN, 4, key=ls.Key(0))
    observed, _ = seen(target, ls.FedSGD(), 2)
    attempt = ls.Auto().run(observed, key=ls.Key(1), budget=ls.Budget(evaluations=60))
    assert 30 <= attempt.cost.evaluations <= 80
    assert ls.Auto(evaluations=100).run(observed, key=ls.Key(1)).cost.evaluations <= 130


def test_nothing_applies_without_facts_and_it_says_why() -> None:
    batch = DATA.draw(1, key=ls.Key(0)).reveal()
    untold = ls.observe(pooled(), batch, ls.FedSGD(), key=ls.Key(0))
    attempt = ls.Auto().run(untold, key=ls.Key(1))
    assert attempt.outcome is ls.Outcome.REFUSED
    assert "LinearLayer:" in attempt.sentence
    assert "BatchSize" in attempt.sentence
    with pytest.raises(ls.BadInput, match="evaluations >= 10"):
        ls.Auto(evaluations=1)


def test_the_choice_never_looks_at_the_secret() -> None:
    """Another secret behind the same observation: the same claim."""
    observed, _ = seen(pooled(), ls.FedSGD())
    one, again = (ls.Auto(evaluations=60).run(observed, key=ls.Key(1)) for _ in range(2))
    assert torch.equal(one.claim.values, again.claim.values)
    assert 0 < SOLVING < 1


def test_what_is_proved_of_a_batch_is_kept_beside_what_is_searched_for() -> None:
    """Sixteen photographs are too many for one hidden layer to be taken apart, but some have units to themselves."""
    photographs = ls.Photographs(size=16)
    target = ls.MLP((256, 128)).build(photographs.domain, photographs.classes, key=ls.Key(0))
    batch = photographs.draw(16, key=ls.Key(1)).reveal()
    observed = ls.observe(target, batch, ls.FedSGD(), key=ls.Key(2), tell=[ls.BatchSize(16)])
    proved = ls.LinearLayer().run(observed, key=ls.Key(3))
    assert proved.certificate is not None
    assert proved.certificate.holds
    assert 0 < len(proved.claim) < 16
    attempt = ls.Auto().run(observed, key=ls.Key(3), budget=ls.Budget(evaluations=40))
    distances = torch.cdist(batch.inputs.flatten(1), attempt.claim.values.flatten(1)).min(dim=1).values
    assert len(attempt.claim) == 16
    assert int((distances < 1e-3).sum()) >= len(proved.claim)
    assert any(f"the {len(proved.claim)} inputs that it proved are kept" in step for step in attempt.steps)


class Killed(Exception):
    """A kill while the state is being saved."""


@pytest.mark.parametrize("saves", [1, 7, 40, 90])
def test_a_killed_portfolio_goes_on_in_the_part_that_was_cut_off(
    saves: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = ls.ConvNet(4).build(DOMAIN, 4, key=ls.Key(0))
    observed, _ = seen(target, ls.FedSGD(), 2)
    run = {"key": ls.Key(1), "budget": ls.Budget(evaluations=110)}
    whole = ls.Auto().run(observed, **run)
    count = 0
    save = StateFile.save

    def counted(self: StateFile, state: State, *, seconds: float) -> None:
        nonlocal count
        save(self, state, seconds=seconds)
        count += 1
        if count == saves:
            raise Killed

    monkeypatch.setattr(StateFile, "save", counted)
    with pytest.raises(Killed):
        ls.Auto().run(observed, checkpoint=StateFile(tmp_path / "state", every=0), **run)
    fresh = len(whole.steps)
    ran: list[str] = []
    attempted = ls.GradientInversion._attempt
    monkeypatch.setattr(
        ls.GradientInversion,
        "_attempt",
        lambda self, seen, read, **rest: ran.append(repr(self)) or attempted(self, seen, read, **rest),
    )
    resumed = ls.Auto().run(observed, checkpoint=StateFile(tmp_path / "state", every=0), **run)
    assert torch.equal(resumed.claim.values, whole.claim.values)
    assert resumed.cost.evaluations == whole.cost.evaluations
    assert resumed.steps == whole.steps
    assert len(resumed.steps) == fresh
    assert not (tmp_path / "state").exists()
    if saves > 40:
        assert 0 < len(ran) < sum("total variation" in step or "L-BFGS" in step for step in whole.steps)


def test_several_images_are_searched_one_by_one_and_few_are_not() -> None:
    """Without it, matching is what is handed on for four digits."""
    digits = ls.Digits(size=16)
    target = ls.ConvNet(width=16).build(digits.domain, 100, key=ls.Key(7))
    inputs = digits.draw(4, key=ls.Key(7)).reveal().inputs
    batch = ls.Batch(inputs, torch.tensor([3, 41, 77, 90]))
    observed = ls.observe(target, batch, ls.FedSGD(), key=ls.Key(0), tell=[ls.BatchSize(4)])
    attempt = ls.Auto(evaluations=600).run(observed, key=ls.Key(1))
    assert attempt.steps[-1] == "handed on: FeatureInversion"
    assert attempt.certificate is None
    assert ls.score(attempt.claim, batch, domain=digits.domain)["psnr"].value > 30
    assert attempt.cost.evaluations <= 620, "what it took is not there for the searches"
    few = ls.Batch(inputs[:3], batch.labels[:3])
    observed = ls.observe(target, few, ls.FedSGD(), key=ls.Key(0), tell=[ls.BatchSize(3)])
    short = ls.Auto(evaluations=10).run(observed, key=ls.Key(1))
    assert not any(step.startswith("FeatureInversion") for step in short.steps)


def test_behind_dropout_the_deepest_dense_layer_says_what_matching_cannot() -> None:
    """The output layer is fed 48 numbers for 64 pixels, half of them dropped; no dropout is below."""
    digits = ls.Digits(size=8)
    with ls.Key(0).isolated():
        torch.manual_seed(3)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(),
            nn.Linear(512, 48), nn.ReLU(), nn.Dropout(0.5), nn.Linear(48, 40),
        )  # fmt: skip
    target = ls.Target(net.train(), digits.domain, 40, training=True)
    batch = ls.Batch(digits.draw(4, key=ls.Key(7)).reveal().inputs, torch.tensor([3, 17, 29, 39]))
    seen = ls.observe(target, batch, ls.FedSGD(), key=ls.Key(0), tell=[ls.BatchSize(4)])
    attempt = ls.Auto(evaluations=600).run(seen, key=ls.Key(1))
    assert attempt.steps[-1] == "handed on: FeatureInversion"
    assert ls.score(attempt.claim, batch, domain=digits.domain)["psnr"].value > 25


def test_an_exact_attack_that_tries_in_vain_leaves_time_for_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of six digits at 48 units and two classes LowRank looked for the last two for a minute."""

    def vainly(_problem: Any, _rng: Any, *, stop: Callable[[int, int], bool]) -> list[Any]:
        while not stop(1, 1):
            pass
        return []

    monkeypatch.setattr(lowrank, "sparse_directions", vainly)
    # A clock that goes on by a hundredth of a second whenever it is read: how busy the machine is does not matter.
    reads = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: 0.01 * next(reads))
    with ls.Key(0).isolated():
        torch.manual_seed(92543)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 2))
    victim = ls.Digits(size=8).draw(6, key=ls.Key(92543)).reveal()
    victim = ls.Batch(victim.inputs, victim.labels % 2)
    tell = [ls.BatchSize(6)]
    looked = ls.observe(ls.Target(net, ls.Images(1, 8, 8), 2), victim, ls.FedSGD(), key=ls.Key(0), tell=tell)
    attempt = ls.Auto().run(looked, key=ls.Key(92543), budget=ls.Budget(seconds=5))
    assert any("LowRank: diverged" in step for step in attempt.steps), attempt.steps
    assert attempt.claim is not None
    assert len(attempt.claim) == 6, attempt.steps


def test_labels_are_read_once_for_all_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taking a batch apart costs more than a leg of a search, and the answer is the same each time."""
    digits = ls.Digits(size=8)
    target = ls.LeNet().build(digits.domain, digits.classes, key=ls.Key(0))
    batch = digits.draw(2, key=ls.Key(1)).reveal()
    seen = ls.observe(target, batch, ls.FedSGD(), key=ls.Key(2), tell=[ls.BatchSize(2)])
    reads, attempted = [], ls.LabelCounts._attempt

    def counted(self: ls.LabelCounts, *given: Any, **named: Any) -> Any:
        reads.append(self)
        return attempted(self, *given, **named)

    monkeypatch.setattr(ls.LabelCounts, "_attempt", counted)
    attempt = ls.Auto(evaluations=60).run(seen, key=ls.Key(3))
    assert sum("cosine" in step for step in attempt.steps) > 1
    assert len(reads) == 1
    assert attempt.claim is not None
    assert attempt.claim.labels is not None
    assert sorted(attempt.claim.labels.tolist()) == sorted(batch.labels.tolist())


def test_why_no_labels_can_be_read_is_told_of_each_search() -> None:
    """Of an update with the wrong sign more classes fall than there are examples: no search begins, none crashes."""
    target = pooled()
    batch = DATA.draw(1, key=ls.Key(0)).reveal()
    sent = {name: -value for name, value in ls.FedSGD().replay(target, batch).by_name.items()}
    turned = ls.Observation(target, ls.Gradient(sent), ls.FedSGD(), (ls.BatchSize(1),))
    attempt = ls.Auto(evaluations=60).run(turned, key=ls.Key(3))
    assert attempt.outcome is ls.Outcome.REFUSED
    assert sum("no labels to start from: the output bias falls at 3 of 4 classes" in step for step in attempt.steps) > 1
