"""Private batches with equally many of each class: which they are, and that nobody gets credit for knowing so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import leakscope as ls
from leakscope.audit.blind import BlindGuess
from leakscope.audit.engines.inline import Inline
from leakscope.audit.plan import Plan, Scene
from leakscope.audit.run import run
from leakscope.cli.config import read
from leakscope.cli.text import plan as text
from leakscope.core.errors import BadInput, BadPlan
from leakscope.datasets.sources.scaled import Scaled
from leakscope.ledger.record import Word

ROOT = Path(__file__).parent.parent

SOURCE = ls.Balanced(ls.Digits(size=8))


def test_each_class_is_there_equally_often_and_nothing_is_public():
    public = {row.numpy().tobytes() for row in ls.Digits(size=8).public().inputs}
    orders = set()
    for seed in range(3):
        batch = SOURCE.draw(30, key=ls.Key(seed)).reveal()
        assert torch.bincount(batch.labels).tolist() == [3] * 10
        assert not public & {row.numpy().tobytes() for row in batch.inputs}
        assert len({row.numpy().tobytes() for row in batch.inputs}) == 30
        orders.add(tuple(batch.labels.tolist()))
    # the first example, which the replaced control exchanges, is not always a zero
    assert len({order[0] for order in orders}) > 1


def test_within_a_class_every_private_example_is_as_likely():
    """Against the uniform law: of 88 or so private zeros, each is drawn by 400 keys about 400 / 88 times."""
    drawn = [SOURCE.draw(10, key=ls.Key(seed)).reveal() for seed in range(400)]
    zeros = [batch.inputs[batch.labels == 0].numpy().tobytes() for batch in drawn]
    counts = torch.tensor([zeros.count(one) for one in set(zeros)], dtype=torch.float64)
    assert len(counts) > 80
    assert float(counts.max()) < 16


@pytest.mark.parametrize("count", [7, 15, 10_000])
def test_other_sizes_are_refused(count):
    with pytest.raises(BadInput, match=f"multiple of 10|cannot draw {count}"):
        SOURCE.draw(count, key=ls.Key(0))


def test_a_class_with_too_few_is_named():
    with pytest.raises(BadInput, match="too few private examples of class"):
        SOURCE.draw(880, key=ls.Key(0))


def test_the_blind_control_knows_the_classes():
    """Whoever claims class means has recovered nothing: the guess is they, and not the mean of all."""
    target = ls.MLP((8,)).build(SOURCE.domain, 10, key=ls.Key(0))
    seen = ls.observe(target, SOURCE.draw(10, key=ls.Key(1)).reveal(), ls.FedSGD(), key=ls.Key(2))
    inputs, features, *_ = BlindGuess(SOURCE, 10).claims(seen, key=ls.Key(3))
    public = ls.Digits(size=8).public()
    assert inputs.labels.tolist() == features.labels.tolist() == list(range(10))
    for one in range(10):
        assert torch.allclose(inputs.values[one], public.inputs[public.labels == one].mean(0))
    assert len({tuple(row.tolist()) for row in features.values}) == 10
    assert SOURCE.fixed(20).tolist() == Scaled(SOURCE, -1.0, 1.0).fixed(20).tolist() == list(range(10)) * 2
    assert ls.Digits().fixed(7) is None


def test_a_plan_has_to_tell_what_is_public():
    def plan(*told):
        scene = Scene("one", SOURCE, ls.MLP((8,)))
        return Plan("t", (scene,), (ls.FedSGD(),), (ls.LabelCounts(),), batch_sizes=(10,), told=told)

    with pytest.raises(BadPlan, match="makes the labels public"):
        plan(ls.BatchSize)
    assert plan(ls.BatchSize, ls.TrueLabels).groups()


@pytest.mark.parametrize("path", sorted((ROOT / "plans" / "heads").glob("*.toml")), ids=lambda path: path.stem)
def test_every_plan_of_heads_can_be_planned(path):
    pytest.importorskip("mlxtend")
    assert text.read(path).scenes
    plan = read(path)
    for group in plan.groups():
        # one size is asked of the draw, of the decoder and of the batch
        classes = group.scene.source.classes
        assert group.batch_size == classes * getattr(group.attack, "each", group.batch_size // classes)
        assert group.scene.source.fixed(group.batch_size) is not None
        assert group.replaced
        assert all(cell.identity for cell in group.audited)


def test_an_audit_of_a_head_knows_what_the_class_tells(tmp_path):
    """The plan of the repository in small: what a head gives away is more than the class, and is said to leak."""
    (tmp_path / "p.toml").write_text(
        'title = "t"\ntrials = 3\ntold = ["BatchSize", "TrueLabels"]\nmetrics = ["FeatureError()"]\nreplaced = true\n'
        'mechanisms = ["HeadTraining(32, 0.01, init_std=0.0002)", "HeadTraining(32, 0.01, init_std=2.0)"]\n'
        'attacks = ["HeadFeatures(pool(Digits(size=8)))"]\n'
        '[[scene]]\ndataset = "Balanced(Digits(size=8))"\ntarget = "LinearProbe(MLP((48,)), 26, scale=3.0)"\n'
        "batch_size = 10\n",
        encoding="utf-8",
    )
    summary = run(read(tmp_path / "p.toml"), tmp_path / "run", Inline())
    leaks, drowned = summary.groups
    assert leaks.word is Word.LEAKS
    assert "feature-error" in leaks.sentence
    # large secret first weights: the estimate is the class mean, which the blind guess is too
    assert drowned.word is not Word.LEAKS
