"""Attacks that saw nothing and claim public examples, or means of a class: what they show is no leak of the inputs."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.audit_toys import Toy, toy_plan
from tests.test_audit_verdict import claimed, score
from torch import Tensor

import leakscope as ls
from leakscope.audit.engines.inline import Inline
from leakscope.audit.evidence import evidence
from leakscope.audit.one_claim import judged
from leakscope.audit.plan import Scene
from leakscope.audit.run import run
from leakscope.core.attempt import Attempt, Outcome
from leakscope.core.batch import Batch
from leakscope.core.claim import Inputs, Tokens, Transcripts
from leakscope.core.facts import BatchSize, TrueLabels
from leakscope.core.pool import Pool
from leakscope.core.target import Target
from leakscope.datasets.draw import AbstractSource
from leakscope.ledger.record import Record, Word
from leakscope.scoring.metrics.speech import FrameError
from leakscope.targets.recipes.architecture import AbstractArchitecture
from leakscope.targets.zoo.mlp import Linear

CLASSES = 40


@functools.cache
def examples(kind: str) -> Batch:
    """Pictures that are dark or bright whatever their label is, or of which the class decides all but some noise."""
    draw = ls.Key(77).child(kind).generator()
    labels = torch.randint(CLASSES, (600,), generator=draw)
    forms = (torch.rand(CLASSES, 1, 8, 8, generator=draw) < 0.5).float()
    modes = (torch.rand(600, 1, 1, 1, generator=draw) < 0.5).float().expand(-1, 1, 8, 8)
    noise = 0.1 * torch.rand(600, 1, 8, 8, generator=draw)
    return Batch(0.9 * (modes if kind == "modes" else forms[labels]) + noise, labels)


@dataclasses.dataclass(frozen=True)
class Drawn(AbstractSource):
    kind: str

    @property
    def domain(self) -> ls.Images:
        return ls.Images(1, 8, 8)

    @property
    def classes(self) -> int:
        return CLASSES

    def load(self) -> Batch:
        return examples(self.kind)


class Shuffled(torch.nn.Module):
    """A model whose features tell pictures apart and show nothing of them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mixing", 3e3 * torch.randn(64, 60))
        self.last = torch.nn.Linear(60, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.sin(x.flatten(1) @ self.mixing))


@dataclasses.dataclass(frozen=True)
class Blank(AbstractArchitecture):
    def build(self, domain: Any, classes: int, *, key: ls.Key) -> Target:
        with key.isolated():
            return Target(Shuffled(), domain, classes)


@dataclasses.dataclass(frozen=True)
class OfTheClass(Toy):
    """The mean of each label's public pictures; it does not look at the release."""

    pool: Pool
    needs = frozenset({TrueLabels})

    def _attempt(self, seen, read, *, key, clock, watch):
        labels, public = torch.tensor(seen.told(TrueLabels).values), self.pool.batch
        means = torch.stack([public.inputs[public.labels == one].mean(0) for one in labels])
        return Attempt(repr(self), Outcome.CLAIMED, "means", Inputs(means, labels))


@pytest.mark.parametrize("kind", ["modes", "forms"])
def test_a_public_picture_that_happens_to_be_near_is_not_recovered(kind: str, tmp_path: Path) -> None:
    """Features that show nothing: of two modes every other nearest public picture was far beyond the mean one."""
    source = Drawn(kind)
    attack = ls.FeatureNeighbors(source.pool(), of=ls.RevealedFeatures(1))
    scene = Scene(kind, source, Blank())
    plan = toy_plan(scenes=(scene,), attacks=(attack,), batch_sizes=(3,), trials=8, told=(BatchSize, TrueLabels))
    (group,) = run(plan, tmp_path, Inline()).groups
    assert group.word is Word.INCONCLUSIVE, group.sentence
    (psnr,) = (score for score in group.scores if score.metric == "psnr")
    if kind == "modes":
        assert max(psnr.items) > 20, "far beyond the mean picture, and public"


def test_the_replaced_control_takes_away_what_the_class_tells_in_batches_too(tmp_path: Path) -> None:
    source = Drawn("forms")
    scene, attack = Scene("forms", source, Linear()), OfTheClass(source.pool())
    said = {"scenes": (scene,), "attacks": (attack,), "batch_sizes": (3,), "trials": 6, "told": (BatchSize, TrueLabels)}
    (without,) = run(toy_plan(**said), tmp_path / "without", Inline()).groups
    assert without.gains[0].gain > 10
    (beside,) = run(toy_plan(**said, replaced=True), tmp_path / "beside", Inline()).groups
    assert beside.word is Word.INCONCLUSIVE, beside.sentence
    assert beside.gains[0].gain == pytest.approx(0, abs=1e-9)


def test_what_the_replaced_control_does_not_judge_is_not_cleared(tmp_path: Path) -> None:
    """Gains of the first examples accuse; of the others a leak stays unexcluded."""
    source = Drawn("forms")
    plan = toy_plan(
        scenes=(Scene("forms", source, Linear()),), attacks=(OfTheClass(source.pool()),), batch_sizes=(3,), trials=6,
        told=(BatchSize, TrueLabels), replaced=True,
    )  # fmt: skip
    (group,) = run(plan, tmp_path, Inline()).groups
    assert group.gains[0].high > group.gains[0].smallest


def test_an_input_that_no_public_one_is_near_to_is_recovered_all_the_same(tmp_path: Path) -> None:
    source = Drawn("forms")
    scene = Scene("forms", source, Linear())
    plan = toy_plan(scenes=(scene,), attacks=(ls.LinearLayer(),), trials=3, told=(BatchSize, TrueLabels))
    (group,) = run(plan, tmp_path, Inline()).groups
    assert "3 of 3 inputs recovered" in group.sentence


def test_the_nearest_public_picture_is_the_one_that_a_loop_finds() -> None:
    source = Drawn("forms")
    public, batch = source.public(), source.draw(4, key=ls.Key(3)).reveal()
    claim = Inputs(torch.zeros_like(batch.inputs))
    found = ls.score(claim, batch, domain=source.domain, public=public)
    for mine, said in zip(batch.inputs, found["psnr"].nearest, strict=True):
        errors = [float((mine - other).double().square().mean()) for other in public.inputs]
        assert said == pytest.approx(float(-10 * torch.tensor(min(errors)).log10()), abs=1e-4)
    assert not found["ssim"].nearest
    assert not ls.score(claim, batch, domain=source.domain)["psnr"].nearest


def test_one_claim_by_itself_is_held_against_public_ones_too() -> None:
    """Of eight public pictures one is of the class of a private one."""
    source = Drawn("forms")
    public, batch = source.public(), source.draw(8, key=ls.Key(5)).reveal()
    alike = public.inputs[public.labels == batch.labels[0]][:1]
    others = public.inputs[~torch.isin(public.labels, batch.labels)][:7]
    found = ls.score(Inputs(torch.cat([alike, others])), batch, domain=source.domain, public=public)["psnr"]
    assert judged([found], None)[0] is Word.INCONCLUSIVE
    assert judged([dataclasses.replace(found, nearest=())], None)[0] is Word.LEAKS
    right = ls.score(Inputs(batch.inputs), batch, domain=source.domain, public=public)["psnr"]
    assert judged([right], None)[0] is Word.LEAKS


def test_a_sentence_that_is_public_is_no_recovered_one() -> None:
    """A closed vocabulary: whoever says a public sentence says a private one now and then."""

    def said(*rows: list[int]) -> Batch:
        count = len(rows)
        whole = torch.full((count,), 4)
        return Batch(torch.zeros(count, 4, 2), torch.tensor(rows), whole, whole)

    private = said([1, 2, 3, 4], [5, 6, 7, 8])
    public = said([9, 9, 9, 9], [9, 9, 9, 10], [9, 9, 10, 9], [9, 10, 9, 9], [1, 2, 3, 4])
    claim = Transcripts(((1, 2, 3, 4), (5, 6, 7, 8)))
    found = ls.score(claim, private, public=public, key=ls.Key(1))["character-error-rate"]
    assert found.nearest == (0.0, 1.0)
    word, sentence = judged([found], None)
    assert word is Word.LEAKS
    assert "1 of 2 recovered" in sentence
    assert "2 of 2 recovered" in judged([dataclasses.replace(found, nearest=())], None)[1]


def test_a_text_that_is_public_is_no_recovered_one() -> None:
    private, public = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]]), torch.tensor([[1, 2, 3, 4], [9, 10, 11, 12]])
    labels = torch.zeros(2, dtype=torch.int64)
    claim = Tokens(((1, 2, 3, 4), (5, 6, 7, 8)))
    found = ls.score(claim, Batch(private, labels), public=Batch(public, labels))["token-error"]
    assert found.nearest[0] == 0.0
    assert found.nearest[1] > 0.5
    bag = ls.score(Tokens(((1, 2, 3, 4, 5, 6, 7, 8),), bag=True), Batch(private, labels), public=Batch(public, labels))
    assert not bag["token-error"].nearest


def test_a_sequence_is_held_against_the_nearest_public_one() -> None:
    draw = ls.Key(9).generator()
    rows = torch.rand(3, 5, 2, generator=draw)
    said = torch.ones(3, 2, dtype=torch.int64)
    every = Batch(rows, said, torch.tensor([5, 4, 5]), torch.tensor([2, 2, 2]))
    private, public = every.rows(torch.tensor([0])), every.rows(torch.tensor([1, 2]))
    found = ls.score(Inputs(rows[:1], lengths=torch.tensor([5])), private, public=public)["frame-error"]
    mean = torch.cat([rows[1, :4], rows[2]]).mean(0).double()
    others = [torch.cat([rows[1, :4].double(), mean[None]]), rows[2].double()]
    errors = [FrameError().items([one], [rows[0].double()])[0] for one in others]
    assert found.nearest == pytest.approx((min(errors),), rel=1e-5)


def test_records_that_do_not_know_the_nearest_are_judged_as_before() -> None:
    known = score("psnr", [40.0]).model_copy(update={"nearest": (39.0,)})
    for record, count in ((claimed(score("psnr", [40.0])), 1), (claimed(known), 0)):
        blind: list[Record | None] = [claimed(score("psnr", [12.0]))]
        found = evidence("psnr", [record], blind)
        assert found is not None
        assert found.recovered == count
