"""Pictures from revealed features: what a decoder of public ones shows, what it refuses, how its learning goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import pytest
import torch
from tests.audit_toys import toy_plan
from torch import Tensor, nn

import leakscope as ls
from leakscope.attacks.attack import Attack
from leakscope.attacks.inputs.heads import decoder
from leakscope.attacks.parts.search.staged import staged
from leakscope.attacks.parts.search.state_file import StateFile
from leakscope.attacks.preparing import Setting
from leakscope.audit.plan import Scene
from leakscope.audit.preparation import Shelf
from leakscope.audit.work import attempt
from leakscope.cli.expressions import build
from leakscope.cli.rows import Family
from leakscope.core.batch import Batch
from leakscope.core.effort import Budget
from leakscope.core.pool import Pool
from leakscope.ledger.record import Role
from leakscope.targets.recipes.architecture import AbstractArchitecture

DIGITS = ls.Digits(size=8)
CLASSES = 40


def net(classes: int = CLASSES) -> nn.Sequential:
    """Three dense layers behind a convolution, whose map has more numbers than a picture."""
    with ls.Key(3).isolated():
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(96, 64), nn.ReLU(),
            nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, classes),
        )  # fmt: skip


@final
@dataclasses.dataclass(frozen=True)
class Fixed(AbstractArchitecture):
    """The net above for every key, or one that is drawn anew: its first weights are scaled by the key's number."""

    drawn: bool = False

    def build(self, domain: Any, classes: int, *, key: ls.Key) -> ls.Target:
        module = net(classes)
        if self.drawn:
            with torch.no_grad():
                module[0].weight.mul_(1 + key.number() % 7 / 10)
        return ls.Target(module, domain, classes)


def secret(count: int, seed: int) -> Batch:
    inputs = DIGITS.draw(count, key=ls.Key(seed)).reveal().inputs
    return Batch(inputs, torch.randint(CLASSES, (count,), generator=ls.Key(seed).generator()))


def seen(batch: Batch, mechanism: Any = None, model: ls.Target | None = None) -> ls.Observation:
    target = model or ls.Target(net(), DIGITS.domain, CLASSES)
    return ls.observe(target, batch, mechanism or ls.FedSGD(), key=ls.Key(1))


def taught(learner: ls.FeatureImages, architecture: AbstractArchitecture | None = None) -> Attack[ls.Inputs]:
    setting = Setting(architecture or Fixed(), DIGITS.domain, CLASSES, ls.FedSGD())
    return learner.taught(learner.prepare(setting, key=ls.Key(5), clock=Budget().start()))


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "WIDTH", 64)


def error(claim: ls.Inputs, batch: Batch) -> float:
    """Mean squared error, each private picture to the claimed one nearest to it."""
    return float(torch.cdist(claim.values.flatten(1), batch.inputs.flatten(1)).square().min(0).values.mean())


def test_pictures_are_far_nearer_than_the_nearest_public_ones_and_the_mean() -> None:
    batch, pool = secret(8, 21), DIGITS.pool()
    attempt = taught(ls.FeatureImages(pool, steps=150, pictures=1)).run(seen(batch), key=ls.Key(2))
    beside = ls.FeatureNeighbors(pool).run(seen(batch), key=ls.Key(2))
    assert isinstance(attempt.claim, ls.Inputs), attempt.sentence
    assert isinstance(beside.claim, ls.Inputs), beside.sentence
    mean = float((batch.inputs - pool.batch.inputs.mean(0)).square().flatten(1).sum(1).mean())
    assert error(attempt.claim, batch) < 0.2 * min(error(beside.claim, batch), mean)
    assert attempt.claim.labels is not None
    assert sorted(attempt.claim.labels.tolist()) == sorted(batch.labels.tolist())
    for one in (attempt, beside):
        assert one.certificate is None
        assert one.sentence.startswith("prior-assisted: ")
    assert "beforehand" in attempt.sentence


def test_each_picture_stands_beside_the_label_of_its_own_features() -> None:
    batch = secret(6, 22)
    batch = Batch(batch.inputs, torch.arange(6))
    claim = taught(ls.FeatureImages(DIGITS.pool(), steps=1, pictures=1)).run(seen(batch), key=ls.Key(2)).claim
    assert isinstance(claim, ls.Inputs)
    assert claim.labels is not None
    away = torch.cdist(claim.values.flatten(1), batch.inputs.flatten(1)).argmin(1)
    assert away.tolist() == claim.labels.tolist()


def test_the_nearest_public_picture_is_one_of_the_pool_by_its_features() -> None:
    """A secret that is public too is its own neighbor, and of others it is the one that a loop finds."""
    pool = DIGITS.pool()
    inputs = torch.cat([pool.batch.inputs[17:18], secret(3, 23).inputs])
    batch = Batch(inputs, torch.tensor([3, 9, 11, 20]))
    claim = ls.FeatureNeighbors(pool).run(seen(batch), key=ls.Key(2)).claim
    assert isinstance(claim, ls.Inputs)
    assert claim.labels is not None
    with torch.no_grad():
        features = net()[:3]
        mine, public = features(inputs).double(), features(pool.batch.inputs).double()
    for row, label in zip(claim.values, claim.labels.tolist(), strict=True):
        own = mine[batch.labels.tolist().index(label)]
        places = [float((one - own).norm()) for one in public]
        assert torch.equal(row, pool.batch.inputs[places.index(min(places))])
    place = claim.labels.tolist().index(3)
    assert torch.equal(claim.values[place], pool.batch.inputs[17])


def test_weights_that_a_trial_draws_are_learned_in_the_attempt() -> None:
    drawn = Fixed(drawn=True)
    learner = ls.FeatureImages(DIGITS.pool(), steps=40, pictures=1)
    batch, model = secret(4, 24), drawn.build(DIGITS.domain, CLASSES, key=ls.Key(8))
    attempt = taught(learner, drawn).run(seen(batch, model=model), key=ls.Key(2))
    assert isinstance(attempt.claim, ls.Inputs)
    assert "for these weights" in attempt.sentence
    beside = ls.FeatureNeighbors(DIGITS.pool()).run(seen(batch, model=model), key=ls.Key(2)).claim
    assert isinstance(beside, ls.Inputs)
    assert error(attempt.claim, batch) < 0.3 * error(beside, batch)
    # A decoder of other weights is not used: its pictures would be wrong, and nothing would say so.
    tuned = net()
    with torch.no_grad():
        tuned[0].weight += 0.3
    other = ls.Target(tuned, DIGITS.domain, CLASSES)
    sentence = taught(learner).run(seen(batch, model=other), key=ls.Key(2)).sentence
    assert "for these weights" in sentence


def test_the_output_layers_own_weights_decide_no_feature() -> None:
    tuned = net()
    with torch.no_grad():
        tuned[-1].weight.mul_(2)
    attempt = taught(ls.FeatureImages(DIGITS.pool(), steps=1, pictures=1)).run(
        seen(secret(4, 25), model=ls.Target(tuned, DIGITS.domain, CLASSES)), key=ls.Key(2)
    )
    assert "beforehand" in attempt.sentence


def test_the_layer_that_is_asked_for_is_decoded() -> None:
    batch = secret(4, 26)
    learner = ls.FeatureImages(DIGITS.pool(), of=ls.RevealedFeatures(1), steps=1, pictures=1)
    shallow = taught(learner).run(seen(batch), key=ls.Key(2))
    deep = taught(ls.FeatureImages(DIGITS.pool(), steps=1, pictures=1)).run(seen(batch), key=ls.Key(2))
    assert isinstance(shallow.claim, ls.Inputs)
    assert isinstance(deep.claim, ls.Inputs)
    assert "what 7 was fed" in shallow.sentence
    assert "what 3 was fed" in deep.sentence
    assert error(deep.claim, batch) < error(shallow.claim, batch)


BOTH: list[Callable[[Pool], Attack[ls.Inputs]]] = [
    lambda pool: taught(ls.FeatureImages(pool, steps=1, pictures=1)), ls.FeatureNeighbors,
]  # fmt: skip


@pytest.mark.parametrize("made", BOTH, ids=["decoder", "neighbors"])
def test_refusals_say_what_is_missing(made: Callable[[Pool], Attack[ls.Inputs]]) -> None:
    whole, batch = DIGITS.pool(), secret(4, 27)

    def sentence(pool: Pool, observation: ls.Observation) -> str:
        attempt = made(pool).run(observation, key=ls.Key(2))
        assert attempt.outcome is ls.Outcome.REFUSED, attempt.sentence
        assert attempt.claim is None
        return attempt.sentence

    fine = seen(batch)
    assert "features are not revealed: the weights moved" in sentence(whole, seen(batch, ls.FedAvg(2, 0.1)))
    assert "features are not revealed" in sentence(whole, seen(batch, ls.FedSGD() >> ls.Sign()))
    ten = net(10)
    crowd = Batch(secret(5, 28).inputs, torch.arange(5))
    assert "too few for 5 samples" in sentence(whole, seen(crowd, model=ls.Target(ten, DIGITS.domain, 10)))
    few = whole.batch.rows(torch.arange(50))
    assert "50 public pictures" in sentence(Pool(few), fine)
    vectors = Batch(whole.batch.inputs.flatten(1), whole.batch.labels)
    assert "give a pool of public pictures" in sentence(Pool(vectors), fine)
    large = Batch(torch.rand(200, 1, 9, 9, generator=ls.Key(0).generator()), torch.zeros(200, dtype=torch.int64))
    assert "give public pictures of that size" in sentence(Pool(large), fine)
    with ls.Key(4).isolated():
        flat = nn.Sequential(nn.Conv2d(1, CLASSES, 8), nn.Flatten())
    convolved = ls.Target(flat, DIGITS.domain, CLASSES)
    assert "dense" in sentence(whole, seen(batch, model=convolved))


def test_what_has_learned_nothing_says_so_and_bad_settings_are_errors() -> None:
    pool = DIGITS.pool()
    assert "learned nothing" in ls.FeatureImages(pool).run(seen(secret(2, 29)), key=ls.Key(0)).sentence
    with pytest.raises(ls.BadInput, match="steps"):
        ls.FeatureImages(pool, steps=0)
    with pytest.raises(ls.BadInput, match="pictures"):
        ls.FeatureImages(pool, pictures=0)
    for kind in (ls.FeatureImages, ls.FeatureNeighbors):
        with pytest.raises(ls.BadInput, match="reveals features"):
            kind(pool, of=3)  # type: ignore[arg-type]
        with pytest.raises(ls.BadInput, match="pool"):
            kind(DIGITS)  # type: ignore[arg-type]
        # Said when it is written, and not after a decoder was learned.
        with pytest.raises(ls.BadInput, match=r"LabelCounts\(.*, which claims Labels"):
            kind(pool, of=ls.LabelCounts())  # type: ignore[arg-type]


@pytest.mark.parametrize("mechanism", [ls.FedAvg(2, 0.1), ls.FedSGD() >> ls.Sign()])
def test_nothing_is_learned_where_no_features_are_revealed(mechanism: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ls.FeatureImages, "learn", lambda *_, **__: pytest.fail("a decoder was learned"))
    learner = ls.FeatureImages(DIGITS.pool(), steps=1, pictures=1)
    setting = Setting(Fixed(), DIGITS.domain, CLASSES, mechanism)
    attempt = learner.taught(learner.prepare(setting, key=ls.Key(5), clock=Budget().start())).run(
        seen(secret(4, 30), mechanism), key=ls.Key(2)
    )
    assert attempt.outcome is ls.Outcome.REFUSED


def test_learning_that_was_killed_goes_on_to_the_same_decoders(tmp_path: Path) -> None:
    learner = ls.FeatureImages(DIGITS.pool(), steps=6, pictures=1)
    setting = Setting(Fixed(), DIGITS.domain, CLASSES, ls.FedSGD())
    whole = learner.prepare(setting, key=ls.Key(5), clock=Budget().start()).state

    class KilledError(Exception):
        pass

    turns = 0

    def watch(said: Any) -> None:
        nonlocal turns
        turns += 1
        # In the second of three decoders, after its third step.
        if turns == 9:
            raise KilledError

    def clock() -> Any:
        file = StateFile(tmp_path / "half", every=0.0)
        file.open("mine")
        return Budget().start().kept(file)

    with pytest.raises(KilledError):
        learner.prepare(setting, key=ls.Key(5), clock=clock(), watch=watch)
    state = StateFile(tmp_path / "half")
    state.open("mine")
    kept = state.load()
    assert kept is not None
    assert list(kept["done"]) == ["7"]
    assert kept["stage"] == "5"
    again = 0

    def count(said: Any) -> None:
        nonlocal again
        again += 1

    resumed = learner.prepare(setting, key=ls.Key(5), clock=clock(), watch=count).state
    assert again < 18 - 6
    for layer, one in whole["decoders"].items():
        for name, value in one["decoder"].items():
            assert torch.equal(value, resumed["decoders"][layer]["decoder"][name])


def test_a_stage_without_a_checkpoint_is_the_clock_itself() -> None:
    clock = Budget().start()
    assert staged(clock, "one", {}) == (clock, None)


def test_exact_estimates_are_decoded_by_what_hardly_varies() -> None:
    """A picture hidden at a hundredth of the size of what else varies is found where estimates are exact."""
    draw = ls.Key(6).generator()
    pictures, noise = torch.rand(400, 1, 2, 2, generator=draw), torch.randn(400, 4, generator=draw)
    mixed = torch.cat([noise + 3e-2 * pictures.flatten(1), noise], 1)

    def worst(ridges: tuple[float, ...]) -> Tensor:
        which = torch.arange(400)
        lessons = decoder.Lessons(mixed, torch.zeros(400, dtype=torch.int64), 1, pictures, 0.0, 1.0, 0, which, ridges)
        found = decoder.fresh(lessons, key=ls.Key(0))
        return (found(mixed, lessons.classes) - pictures).abs().max()

    assert worst(decoder.EXACT) < 0.1 < worst(decoder.RIDGES)


def test_an_audit_learns_once_and_hands_it_to_its_trials(tmp_path: Path) -> None:
    """A source of ten classes, two at a time: what is learned is kept, and named in each trial's record."""
    attacks = (ls.FeatureImages(DIGITS.pool(), steps=2, pictures=1),)
    plan = toy_plan(scenes=(Scene("digits", DIGITS, Fixed(), batch_sizes=(2,)),), attacks=attacks, trials=2)
    cells = [cell for cell in plan.cells() if cell.role is Role.AUDITED]
    records = [attempt(cell, shelf=Shelf(tmp_path)).record for cell in cells]
    assert len({record.prepared for record in records}) == 1
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    for record in records:
        assert record.sentence.startswith("prior-assisted: ")
        assert "beforehand" in record.sentence
        assert record.scores


def test_the_command_line_writes_it() -> None:
    learner = build("FeatureImages(pool(Digits(size=8)), of=RevealedFeatures(1), steps=5)", Family.ATTACKS)
    names = {name: getattr(ls, name) for name in ls.__all__} | {"pool": lambda source: source.pool()}
    assert eval(repr(learner), names) == learner
