"""The replaced control: what an attack scores on a release that never saw the example, but another of its class."""

import dataclasses

import pytest
import torch
from tests.audit_toys import Toy, toy_plan

from leakscope.attacks.inputs.dense.linear import LinearLayer
from leakscope.audit.cell import replaced, set_up
from leakscope.audit.engines.inline import Inline
from leakscope.audit.plan import Scene
from leakscope.audit.run import run
from leakscope.audit.theory import broken_by_scores
from leakscope.core.attempt import Attempt, Outcome
from leakscope.core.claim import Inputs
from leakscope.core.errors import BadInput
from leakscope.core.facts import BatchSize, TrueLabels
from leakscope.datasets.sources.digits import Digits
from leakscope.datasets.sources.synthetic import Synthetic
from leakscope.ledger.record import Role, Word
from leakscope.mechanisms.protocols.dpsgd import DPSGD
from leakscope.mechanisms.protocols.fedsgd import FedSGD
from leakscope.numerics.rng import Key
from leakscope.report.page_run import write_page
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
    apart = {"present": [40.0] * 200, "absent": [10.0] * 200, "delta": 1e-5}
    assert "tell releases with and without it apart" in broken_by_scores(DPSGD(1.0, 20.0), **apart)
    assert broken_by_scores(DPSGD(1.0, 0.5), **apart) is None, "that much noise does not promise more"
    noise = torch.randn(400, generator=Key(3).generator()).tolist()
    assert broken_by_scores(DPSGD(1.0, 20.0), present=noise[:200], absent=noise[200:], delta=1e-5) is None


def test_without_another_of_the_class_it_is_refused_with_advice():
    alone = Scene("alone", Synthetic((1, 4, 4), classes=24, count=24), Linear())
    (cell, *_) = cells(toy_plan(scenes=(alone,), replaced=True), Role.REPLACED)
    with pytest.raises(BadInput, match=r"no other private example of class .* leave the control out"):
        set_up(cell)


def test_the_control_of_undefended_cells_is_shared():
    plan = toy_plan(mechanisms=(FedSGD(),), replaced=True)
    assert {cell.role for cell in plan.cells()} == {Role.AUDITED, Role.BLIND, Role.REPLACED}
