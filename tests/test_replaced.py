"""The replaced control: what an attack scores on a release that never saw the example, but another of its class."""

import dataclasses
import hashlib
import json
import math

import numpy as np
import pytest
import torch
from scipy import stats
from tests.audit_toys import Toy, toy_plan
from tests.test_audit_verdict import claimed, failed, score
from torch import nn

from leakscope.attacks.inputs.dense.linear import LinearLayer
from leakscope.audit.cell import replaced, set_up
from leakscope.audit.engines.inline import Inline
from leakscope.audit.plan import Scene
from leakscope.audit.replaced import firsts
from leakscope.audit.run import run
from leakscope.audit.theory import _limits, broken_by_scores, scores_needed
from leakscope.core.attempt import Attempt, Outcome
from leakscope.core.claim import Inputs
from leakscope.core.errors import BadInput
from leakscope.core.facts import BatchNormStatistics, BatchSize, TrueLabels
from leakscope.core.target import Target
from leakscope.datasets.sources.digits import Digits
from leakscope.datasets.sources.synthetic import Synthetic
from leakscope.ledger.identity import VERSION, identity
from leakscope.ledger.record import Role, Word
from leakscope.mechanisms.defenses.clip import Clip
from leakscope.mechanisms.defenses.noise import GaussianNoise
from leakscope.mechanisms.protocols.dpsgd import DPSGD
from leakscope.mechanisms.protocols.fedsgd import FedSGD
from leakscope.numerics.rng import Key
from leakscope.report.page_run import write_page
from leakscope.targets.recipes.architecture import AbstractArchitecture
from leakscope.targets.zoo.mlp import Linear


@dataclasses.dataclass(frozen=True)
class Remembers(Toy):
    """Claims what it knows of the class: the mean of its digits. It looks at the label and at nothing else."""

    needs = frozenset({TrueLabels})

    def _attempt(self, seen, read, *, key, clock, watch):
        labels = torch.tensor(seen.told(TrueLabels).values)
        whole = Digits(size=8).load()
        known = torch.cat([whole.inputs[whole.labels == one].mean(0, keepdim=True) for one in labels])
        return Attempt(repr(self), Outcome.CLAIMED, "remembered", Inputs(known, labels))


@dataclasses.dataclass(frozen=True)
class Normalized(AbstractArchitecture):
    """Batch normalization of the picture itself, whose mean over a batch of one is that picture."""

    def build(self, domain, classes, *, key):
        with key.isolated():
            net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, classes))
        return Target(net, domain, classes, name=repr(self))


@dataclasses.dataclass(frozen=True)
class Repeats(Toy):
    """Claims the statistics that it was told, and does not look at the release."""

    needs = frozenset({BatchNormStatistics})

    def _attempt(self, seen, read, *, key, clock, watch):
        ((_, told),) = seen.told(BatchNormStatistics).by_layer
        return Attempt(repr(self), Outcome.CLAIMED, "told", Inputs(torch.tensor(told.mean).reshape(1, 1, 8, 8)))


DIGITS = Scene("digits", Digits(size=8), Linear())


def cells(plan, role):
    return [cell for cell in plan.cells() if cell.role is role]


def places(rows, inputs):
    """Where each of these examples is among `inputs`, none of which is there twice."""
    found = (rows.flatten(1)[:, None] == inputs.flatten(1)[None]).all(2).nonzero()
    return dict(found.tolist())


@pytest.mark.parametrize("seed", range(5))
def test_the_first_example_is_exchanged_for_a_private_one_of_its_class(seed):
    source = Digits(size=8)
    everything, public = source.load(), source.public()
    batch = source.draw(4, key=Key(seed)).reveal()
    other = replaced(batch, source, key=Key(seed).child("other"))
    assert torch.equal(other.labels, batch.labels)
    assert torch.equal(other.inputs[1:], batch.inputs[1:])
    assert not places(other.inputs[:1], batch.inputs), "none that is in the batch"
    assert not places(other.inputs[:1], public.inputs), "a private one"
    place = places(other.inputs[:1], everything.inputs)[0]
    assert everything.labels[place] == batch.labels[0]
    assert torch.equal(replaced(batch, source, key=Key(seed).child("other")).inputs, other.inputs), "keys rule"


def test_the_release_is_of_the_other_example_and_the_score_of_the_original():
    plan = toy_plan(scenes=(DIGITS,), replaced=True, trials=3, told=(BatchSize,))
    for true, other in zip(cells(plan, Role.AUDITED), cells(plan, Role.REPLACED), strict=True):
        one, two = set_up(true), set_up(other)
        assert one.secret.fingerprint() == two.secret.fingerprint()
        assert not torch.equal(*(next(iter(side.seen.release.by_name.values())) for side in (one, two)))
        found = LinearLayer().run(two.seen, key=Key(0)).claim.values
        assert (found - one.secret.reveal().inputs).abs().max() > 1e-2


def test_it_is_another_run_and_all_others_keep_their_names():
    plain, with_it = toy_plan(), toy_plan(replaced=True)
    names = {cell.identity for cell in plain.cells()}
    assert names < {cell.identity for cell in with_it.cells()}
    assert len(with_it.cells()) == len(names) + with_it.trials


def test_records_of_before_facts_were_told_of_the_private_batch_are_of_other_cells():
    """A run that is resumed would take them for its own, and mix two questions in one interval."""
    (cell, *_) = cells(toy_plan(scenes=(DIGITS,), replaced=True, told=(BatchSize,)), Role.REPLACED)

    def before(spec):
        said = {**spec.model_dump(mode="json", exclude={"role"}), "replaced": True, "metrics": sorted(spec.metrics)}
        return hashlib.blake2b(json.dumps([VERSION, said], sort_keys=True).encode(), digest_size=10).hexdigest()

    untold = cell.spec.model_copy(update={"told": ()})
    assert cell.identity != before(cell.spec)
    assert identity(untold) == before(untold), "of nothing told there is nothing to mix"


def test_what_the_class_tells_is_no_leak_of_the_example(tmp_path):
    """Judged against the mean of all digits the class means gain; beside the control they gain nothing."""
    said = {"scenes": (DIGITS,), "attacks": (Remembers(),), "trials": 12, "told": (BatchSize, TrueLabels)}
    (without,) = run(toy_plan(**said), tmp_path / "without", Inline()).groups
    (beside,) = run(toy_plan(**said, replaced=True), tmp_path / "beside", Inline()).groups
    assert without.gains[0].gain > 0.5
    assert beside.gains[0].gain <= 1e-9
    assert beside.word is not Word.LEAKS
    assert beside.observed_epsilon == 0.0


def test_an_attack_on_the_release_leaks_beside_it(tmp_path):
    plan = toy_plan(scenes=(DIGITS,), attacks=(LinearLayer(),), trials=12, told=(BatchSize,), replaced=True)
    summary = run(plan, tmp_path / "run", Inline())
    (group,) = summary.groups
    assert group.word is Word.LEAKS
    assert len(group.replaced) == 12
    assert group.replaced_scores[0].value < 60 < group.scores[0].value
    assert group.observed_epsilon > 0.1, "twelve trials apart"
    assert not group.broken
    page = write_page(tmp_path / "run").read_text()
    assert "on releases that hold another example in place of the first" in page


def test_scores_break_a_promise_and_luck_does_not():
    apart = {"present": [40.0] * 200, "absent": [10.0] * 200}
    said = broken_by_scores(DPSGD(1.0, 20.0), **apart)
    assert "200 of 200 at a threshold with 0 false alarms in 200" in said
    assert "sends more than it declares" in said
    assert broken_by_scores(DPSGD(1.0, 0.5), **apart) is None, "that much noise does not promise more"
    noise = torch.randn(400, generator=Key(3).generator()).tolist()
    assert broken_by_scores(DPSGD(1.0, 20.0), present=noise[:200], absent=noise[200:]) is None
    assert broken_by_scores(FedSGD(), **apart) is None, "nothing is promised"
    assert broken_by_scores(DPSGD(1.0, 20.0), present=[], absent=[]) is None


def test_a_side_without_a_claim_scores_less_than_any():
    """An attack that claims only what is surely there or surely not: N(0, 1) and N(2, 1), as DPSGD(1.0, 1.0) allows."""
    draws = np.random.default_rng(1)
    sent = {"there": draws.normal(2, 1, 6000), "gone": draws.normal(0, 1, 6000)}

    def records(side):
        for value in sent[side]:
            heard = score("psnr", [40.0 if value > 1 else 10.0])
            yield claimed(heard) if abs(value - 1) > 1.5 else failed()

    there, gone = firsts(list(records("there")), list(records("gone")))
    assert len(there) == len(gone) == 6000
    assert min(there) == min(gone) == 9.0
    assert broken_by_scores(DPSGD(1.0, 1.0), present=there, absent=gone) is None
    pairs = [(one, other) for one, other in zip(there, gone, strict=True) if min(one, other) > 9]
    chosen = {"present": [one for one, _ in pairs], "absent": [other for _, other in pairs]}
    assert broken_by_scores(DPSGD(1.0, 1.0), **chosen), "of those with both claims more than is allowed"
    assert firsts([None, *records("there")], [None, *records("gone")])[0] == there, "what did not run is no trial"


@pytest.mark.parametrize("multiplier", [1.0, 0.45])
def test_the_number_of_trials_that_it_takes_is_the_number_that_it_takes(multiplier):
    """By the comparison itself, and above an epsilon of 11.5 too, where nothing was compared before."""
    mechanism, needed = DPSGD(1.0, multiplier), scores_needed(DPSGD(1.0, multiplier))
    enough, less = ({"present": [2.0] * count, "absent": [1.0] * count} for count in (needed, needed - 1))
    assert broken_by_scores(mechanism, **enough)
    assert broken_by_scores(mechanism, **less) is None


@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_a_true_promise_at_its_bound_is_seldom_called_broken(shared):
    """The likelihood ratio of N(0, s^2) and N(2, s^2), which is all that replacing allows, in 400 audits of 60
    trials, for which `DOUBT` allows 0.4 false alarms, whatever two scores of one trial have in common.
    Sent with half of the noise, the same is called broken at 60 trials."""
    rng, curve, trials = np.random.default_rng(11), _normal, 60
    alarms = caught = 0
    for _ in range(400):
        common, own = rng.normal(size=trials), rng.normal(size=(2, trials))
        noise = math.sqrt(shared) * common + math.sqrt(1 - shared) * own
        for spread in (1.0, 0.5):
            limits = _limits(spread * noise[0] + 2, spread * noise[1])
            broken = any(low > curve(high, 2.0) for _, _, low, high in limits)
            alarms += broken and spread == 1.0
            caught += broken and spread == 0.5
    assert alarms <= 2
    assert caught > 40


def _normal(rate, distance):
    """Phi(Phi^-1(a) + mu): the closed form of what `upper.power_curve` computes."""
    return stats.norm.cdf(stats.norm.ppf(rate) + distance)


def test_what_could_not_be_compared_is_said(tmp_path):
    quiet = FedSGD() >> Clip(1.0) >> GaussianNoise(1.0)
    said = {"scenes": (DIGITS,), "attacks": (LinearLayer(),), "mechanisms": (quiet,), "told": (BatchSize,), "trials": 3}
    (without,) = run(toy_plan(**said), tmp_path / "without", Inline()).findings
    assert "not tested: no result could have broken this promise: the replaced control was not run" in without.theory
    summary = run(toy_plan(**said, replaced=True), tmp_path / "beside", Inline())
    (beside,), (group,) = summary.findings, summary.groups
    assert group.uncompared.startswith("3 trials of the replaced control are too few, it takes about ")
    assert group.uncompared in beside.theory
    assert "not tested" in write_page(tmp_path / "beside").read_text()


def test_without_another_of_the_class_it_is_refused_with_advice():
    alone = Scene("alone", Synthetic((1, 4, 4), classes=24, count=24), Linear())
    (cell, *_) = cells(toy_plan(scenes=(alone,), replaced=True), Role.REPLACED)
    with pytest.raises(BadInput, match=r"no other private example of class .* leave the control out"):
        set_up(cell)


def test_the_control_of_undefended_cells_is_shared():
    plan = toy_plan(mechanisms=(FedSGD(),), replaced=True)
    assert {cell.role for cell in plan.cells()} == {Role.AUDITED, Role.BLIND, Role.REPLACED}


def test_what_was_told_is_known_without_the_release(tmp_path):
    """Statistics of the private batch show it whatever is sent, so that the mechanism neither leaks nor lies."""
    plan = toy_plan(
        scenes=(Scene("digits", Digits(size=8), Normalized()),),
        mechanisms=(FedSGD() >> Clip(1.0) >> GaussianNoise(10.0),),
        attacks=(Repeats(),),
        told=(BatchSize, BatchNormStatistics),
        trials=24,
        replaced=True,
    )
    summary = run(plan, tmp_path, Inline())
    (found,) = summary.findings
    assert found.word is Word.INCONCLUSIVE
    assert not found.broken
    # Told the same on both sides, so that the promise is tested, and kept.
    assert "told apart as by an epsilon of at least 0 (95 % confidence" in found.theory
    assert [score.value for score in summary.groups[0].scores if score.metric == "psnr"] == [120.0]
