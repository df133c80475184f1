"""What is said about a mechanism: groups are joined, judged together, and stand beside what theory says."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from dp_accounting import GaussianDpEvent
from hypothesis import given
from hypothesis import strategies as st
from tests.audit_toys import Guesses, Refuses, toy_plan

from leakscope.attacks.inputs.dense.linear import LinearLayer
from leakscope.attacks.labels.signs import LabelSigns
from leakscope.audit.engines.inline import Inline
from leakscope.audit.findings import findings, holm
from leakscope.audit.promises import Promises
from leakscope.audit.run import run
from leakscope.audit.theory import contradiction, guesses_needed
from leakscope.core.facts import BatchNormStatistics, BatchSize, Suspects, TrueLabels
from leakscope.core.mechanism import Adjacency
from leakscope.core.release import Gradient
from leakscope.ledger.record import GainRecord, GroupVerdict, ScoreRecord, Word
from leakscope.mechanisms.compose import AbstractProtocol
from leakscope.mechanisms.defenses.clip import Clip
from leakscope.mechanisms.defenses.noise import GaussianNoise
from leakscope.mechanisms.protocols.dpsgd import DPSGD
from leakscope.mechanisms.protocols.fedsgd import FedSGD


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closure_of_bonferroni(lucks):
    """Its definition by closed testing: the largest Bonferroni p-value of any set of tests that holds this one."""
    places = range(len(lucks))
    for place, corrected in zip(places, holm(lucks), strict=True):
        sets = (s for size in range(1, len(lucks) + 1) for s in itertools.combinations(places, size) if place in s)
        assert corrected == pytest.approx(max(min(1.0, len(s) * min(lucks[i] for i in s)) for s in sets))


def test_any_of_ten_attacks_on_nothing_is_found_at_most_one_time_in_a_hundred():
    lucks = np.random.default_rng().random((4000, 10))
    lucks[:, 5:] = lucks[:, :5]  # attacks that say the same
    found = sum(min(holm(row.tolist())) <= 0.01 for row in lucks)
    assert found <= 40 + 3 * math.sqrt(40)
    alone = sum(min(row) <= 0.01 for row in lucks)
    assert alone > 100, "uncorrected, five different attacks find something five times as often"


# --- groups by hand ---------------------------------------------------------------------------------------------------


def gain(metric="label-accuracy", *, luck=0.5, proven=False, cleared=False, value=0.0):
    return GainRecord(
        metric=metric, unit="of 1", gain=value, low=-0.1, high=0.1, smallest=0.2, luck=luck, proven=proven,
        cleared=cleared, needed=9,
    )  # fmt: skip


def verdict(attack, word, *gains, scores=()):
    return GroupVerdict(
        title=attack, target="T", dataset="D", mechanism="M", attack=attack, word=word, sentence=f"said of {attack}",
        members=(), undefended=(), blind=(), planned=300, finished=300, scores=scores, undefended_scores=(),
        blind_scores=(), gains=gains,
    )  # fmt: skip


def joined(*verdicts, mechanism=None, told=()):
    attacks = tuple(Guesses(pause=float(place)) for place in range(len(verdicts)))
    plan = toy_plan(mechanisms=(mechanism or FedSGD() >> Clip(1.0),), attacks=attacks, told=told)
    (found,) = findings(plan, verdicts, Promises(1e-5))
    return found


def test_one_attack_that_proves_is_enough():
    found = joined(
        verdict("A()", Word.NO_LEAK_FOUND, gain(cleared=True)),
        verdict("B()", Word.LEAKS, gain("psnr", luck=0.0, proven=True, value=90.0)),
    )
    assert (found.word, found.attack, found.luck) == (Word.LEAKS, "B()", 0.0)
    assert found.sentence == "B: said of B()"


def test_a_lone_lucky_group_among_many_is_not_a_leak():
    lucky = verdict("A()", Word.LEAKS, gain(luck=0.004, value=0.3))
    assert joined(lucky).word is Word.LEAKS, "judged alone it is beyond luck"
    found = joined(lucky, *(verdict(f"B{i}()", Word.NO_LEAK_FOUND, gain(cleared=True)) for i in range(4)))
    assert found.word is Word.INCONCLUSIVE
    assert "not beyond it among 5 tests judged together (Holm)" in found.sentence
    clear = verdict("A()", Word.LEAKS, gain(luck=0.001, value=0.3))
    found = joined(clear, *(verdict(f"B{i}()", Word.NO_LEAK_FOUND, gain(cleared=True)) for i in range(4)))
    assert found.word is Word.LEAKS
    assert "beyond luck at 1% among 5 tests judged together (Holm)" in found.sentence
    assert found.luck == pytest.approx(0.005)


def test_each_kind_of_thing_needs_a_conclusive_attack():
    inputs = verdict("A()", Word.NO_LEAK_FOUND, gain("psnr", cleared=True), gain("label-accuracy"))
    found = joined(inputs)
    assert found.word is Word.INCONCLUSIVE
    assert "no attack was conclusive about labels" in found.sentence
    labels = verdict("B()", Word.NO_LEAK_FOUND, gain("label-accuracy", cleared=True))
    found = joined(inputs, labels)
    assert found.word is Word.NO_LEAK_FOUND
    assert "inputs: gain at most 0.1" in found.sentence
    assert "labels: gain at most 0.1" in found.sentence


def test_an_attack_that_refuses_clears_nobody_and_spoils_nothing():
    refused = verdict("A()", Word.INCONCLUSIVE)
    assert joined(refused).word is Word.INCONCLUSIVE
    assert joined(refused, verdict("B()", Word.NO_LEAK_FOUND, gain(cleared=True))).word is Word.NO_LEAK_FOUND


def controlled(attack, *metrics):
    """An attack that claims nothing here, and undefended something of these metrics, the one that decides first."""
    scores = tuple(right(9, 10).model_copy(update={"metric": metric}) for metric in metrics)
    return verdict(attack, Word.INCONCLUSIVE).model_copy(update={"undefended_scores": scores})


def test_what_a_silent_attack_would_have_claimed_is_open():
    """It crashes or refuses under the defense; that another one clears labels says nothing of inputs."""
    labels = verdict("B()", Word.NO_LEAK_FOUND, gain(cleared=True))
    found = joined(controlled("A()", "psnr", "label-accuracy"), labels)
    assert found.word is Word.INCONCLUSIVE
    assert "no attack was conclusive about inputs; A: said of A()" in found.sentence
    inputs = verdict("C()", Word.NO_LEAK_FOUND, gain("psnr", cleared=True))
    assert joined(controlled("A()", "psnr"), labels, inputs).word is Word.NO_LEAK_FOUND, "somebody else cleared them"
    assert joined(controlled("A()", "label-accuracy"), inputs).word is Word.INCONCLUSIVE
    assert joined(controlled("A()", "label-accuracy"), inputs, told=(TrueLabels,)).word is Word.NO_LEAK_FOUND


def test_an_attack_that_claims_less_here_is_silent_about_the_rest():
    """Pictures with their labels undefended, and labels alone here: that these are not found says nothing of those."""
    less = controlled("A()", "psnr", "label-accuracy").model_copy(
        update={"word": Word.NO_LEAK_FOUND, "gains": (gain(cleared=True),)}
    )
    found = joined(less)
    assert found.word is Word.INCONCLUSIVE
    assert found.sentence == (
        "no attack was conclusive about inputs; undefended an attack claims that, and here it does not: it excludes "
        "nothing of it"
    )
    inputs = verdict("C()", Word.NO_LEAK_FOUND, gain("psnr", cleared=True))
    assert joined(less, inputs).word is Word.NO_LEAK_FOUND, "somebody else cleared them"
    # The pictures alone: of the labels nothing is said any more.
    pictures = less.model_copy(update={"gains": (gain("psnr", cleared=True),)})
    assert "no attack was conclusive about labels" in joined(pictures).sentence


def test_what_a_layer_was_fed_is_no_input():
    features = verdict("A()", Word.NO_LEAK_FOUND, gain("feature-error", cleared=True))
    assert joined(features).word is Word.NO_LEAK_FOUND
    found = joined(features, verdict("B()", Word.INCONCLUSIVE, gain("psnr")))
    assert found.word is Word.INCONCLUSIVE
    assert "no attack was conclusive about inputs; B: said of B()" in found.sentence


def test_a_conclusive_attack_does_not_clear_what_a_stronger_one_gains():
    weak = verdict("A()", Word.NO_LEAK_FOUND, gain(cleared=True))
    found = joined(weak, verdict("B()", Word.INCONCLUSIVE, gain(luck=0.05, value=0.3)))
    assert found.word is Word.INCONCLUSIVE
    assert "B gains 0.3" in found.sentence
    assert "as much as the smallest leak of interest, 0.2" in found.sentence
    assert joined(weak, verdict("B()", Word.INCONCLUSIVE, gain(luck=0.3, value=0.1))).word is Word.NO_LEAK_FOUND
    hidden = gain(luck=0.3, value=0.1).model_copy(update={"best": 0.3})
    assert joined(weak, verdict("B()", Word.INCONCLUSIVE, hidden)).word is Word.INCONCLUSIVE


# --- beside theory ----------------------------------------------------------------------------------------------------


def right(hits, count, chance=0.1):
    items = tuple([1.0] * hits + [0.0] * (count - hits))
    return ScoreRecord(
        metric="label-accuracy", value=hits / count, unit="of 1", higher_is_better=True, low=0.0, high=1.0,
        chance=chance, perfect=1.0, items=items,
    )  # fmt: skip


def test_theory_stands_beside_what_was_not_found():
    nothing = verdict("A()", Word.NO_LEAK_FOUND, gain(cleared=True), scores=(right(30, 300),))
    assert "nothing bounds what other attacks may find" in joined(nothing).theory
    said = joined(nothing, mechanism=FedSGD() >> Clip(1.0) >> GaussianNoise(1.0)).theory
    assert "epsilon 4.38 at delta 1e-05 for one release, which hides one client's whole update" in said
    assert "theory allows more than was found: 39% of labels right, found were 10%" in said


def test_beside_an_attack_on_a_step_stands_what_the_step_promises():
    """The case of 137 right labels of 300 under a rate of 1e-4: the sampled epsilon is of another game."""
    found = joined(
        verdict("A()", Word.LEAKS, gain(luck=1e-9, value=0.3), scores=(right(137, 300),)),
        mechanism=DPSGD(1.0, 1.0, rate=1e-4),
    )
    assert found.word is Word.LEAKS
    assert not found.broken
    assert "epsilon 4.38" in found.theory
    assert "(0.00022 for a round of training where nobody knows who takes part)" in found.theory


@dataclass(frozen=True)
class Boasts(AbstractProtocol):
    """Declares normal noise that it does not add."""

    multiplier: float = 100.0

    @property
    def adjacency(self):
        return Adjacency.EXAMPLE

    def event(self, *, rounds=1):
        return GaussianDpEvent(self.multiplier)

    def release(self, target, batch, *, key):
        return FedSGD().release(target, batch, key=key)

    def replay(self, target, batch):
        return FedSGD().replay(target, batch)

    def as_gradient(self, release):
        assert isinstance(release, Gradient)
        return release


def test_more_than_is_allowed_breaks_the_promise_loudly():
    found = joined(verdict("A()", Word.LEAKS, gain(luck=1e-9), scores=(right(137, 300),)), mechanism=Boasts())
    assert found.word is Word.LEAKS
    assert "137 of 300 guesses are right" in found.broken
    assert found.sentence.startswith("the mechanism breaks its promise")
    told = joined(
        verdict("A()", Word.LEAKS, gain(luck=1e-9), scores=(right(137, 300),)), mechanism=Boasts(), told=(TrueLabels,)
    )
    assert not told.broken, "what was told is nothing that the release let out"
    told_apart = verdict("A()", Word.LEAKS, gain(luck=1e-9)).model_copy(update={"broken": "an attack tells them apart"})
    for facts in ((TrueLabels, BatchSize), (BatchNormStatistics,)):
        same_on_both_sides = joined(told_apart, mechanism=Boasts(), told=facts)
        assert same_on_both_sides.broken == "an attack tells them apart"
    other_on_each_side = joined(told_apart, mechanism=Boasts(), told=(Suspects,))
    assert not other_on_each_side.broken, "one of the suspects is in what is sent"
    batches = verdict("A()", Word.LEAKS, gain(luck=1e-9), scores=(right(137, 300),)).model_copy(
        update={"finished": 100}
    )
    assert not joined(batches, mechanism=Boasts()).broken, "three labels for each release: another game"


def test_a_bound_on_one_example_stands_beside_no_guesses_of_another_game():
    """Of four examples each is in the release, and what an event allows of one is no limit for the labels of all."""
    guesses = verdict("A()", Word.INCONCLUSIVE, gain(), scores=(right(30, 300),))
    for size, compared in ((1, True), (4, False)):
        plan = toy_plan(mechanisms=(DPSGD(1.0, 1.0),), attacks=(Guesses(),), told=(BatchSize,), batch_sizes=(size,))
        (found,) = findings(plan, [guesses], Promises(1e-5))
        assert ("theory allows more than was found" in found.theory) is compared
        assert ("true at 1 % false positives" in found.theory) is not compared


@dataclass(frozen=True)
class Accuses(Guesses):
    """Names one of two suspects."""

    needs = frozenset({Suspects})


def test_only_who_asks_for_suspects_answers_which_of_them_it_is():
    """Who names the sex of whoever owns four examples, while suspects are told to another attack, breaks no promise of
    one example: all four show it."""
    named = right(299, 300, chance=0.5).model_copy(update={"metric": "top-1"})
    for attack, broken in ((Guesses(), False), (Accuses(), True)):
        plan = toy_plan(mechanisms=(Boasts(),), attacks=(attack,), told=(Suspects,), batch_sizes=(4,))
        (found,) = findings(plan, [verdict("A()", Word.LEAKS, gain(luck=1e-9), scores=(named,))], Promises(1e-5))
        assert bool(found.broken) is broken
        assert ("told Suspects" in found.theory) is not broken


def test_who_claims_only_what_is_sure_breaks_no_true_promise():
    """Ten classes at the corners of the ball of radius 1 under noise of 1, which DPSGD(1.0, 1.0) promises."""
    draws = np.random.default_rng(0)
    true, sent = draws.integers(0, 10, 20000), draws.normal(size=(20000, 10))
    sent[np.arange(20000), true] += 1
    best = np.sort(sent, 1)
    sure = best[:, -1] - best[:, -2] > 2
    hits = int((sent.argmax(1) == true)[sure].sum())
    assert contradiction(DPSGD(1.0, 1.0), right=hits, guesses=int(sure.sum()), chance=0.1), "more than of all"
    chosen = verdict("A()", Word.LEAKS, gain(luck=1e-9), scores=(right(hits, int(sure.sum())),))
    found = joined(chosen.model_copy(update={"finished": 20000}), mechanism=DPSGD(1.0, 1.0))
    assert not found.broken
    assert f"{sure.sum()} guesses of labels are too few of 20000 trials" in found.theory


def test_two_labels_in_every_other_trial_are_another_game():
    plan = toy_plan(mechanisms=(Boasts(),), attacks=(Guesses(),), batch_sizes=(2,))
    halves = verdict("A()", Word.LEAKS, gain(luck=1e-9), scores=(right(137, 300),))
    (found,) = findings(plan, [halves], Promises(1e-5))
    assert not found.broken
    assert "batches of several examples are another game" in found.theory


def test_a_promise_that_nothing_could_break_was_not_tested():
    """Silence would look as if it had been kept."""
    hits = verdict("A()", Word.NO_LEAK_FOUND, gain(cleared=True), scores=(right(30, 300),))
    promising = DPSGD(1.0, 1.0)
    assert "not tested" not in joined(hits, mechanism=promising).theory
    few = verdict("A()", Word.NO_LEAK_FOUND, gain(cleared=True), scores=(right(1, 7),))
    assert "7 guesses of labels are too few, it takes about 8" in joined(few, mechanism=promising).theory
    assert "1000000 would not do" in joined(few, mechanism=DPSGD(1.0, 0.1)).theory
    assert "adversary was told TrueLabels" in joined(hits, mechanism=promising, told=(TrueLabels,)).theory
    batches = hits.model_copy(update={"finished": 100})
    assert "labels of batches of several examples are another game" in joined(batches, mechanism=promising).theory
    assert "replaced = true" in joined(few, mechanism=promising).theory
    assert "not tested" not in joined(few, hits, mechanism=promising).theory, "one that could have is enough"
    assert "not tested" not in joined(few).theory, "nothing is promised"


@pytest.mark.parametrize("multiplier", [1.0, 0.3])
def test_the_number_of_guesses_that_it_takes_is_the_number_that_it_takes(multiplier):
    mechanism, needed = DPSGD(1.0, multiplier), guesses_needed(DPSGD(1.0, multiplier), chance=0.1)
    assert contradiction(mechanism, right=needed, guesses=needed, chance=0.1)
    assert contradiction(mechanism, right=needed - 1, guesses=needed - 1, chance=0.1) is None


# --- through the whole audit ------------------------------------------------------------------------------------------


def test_the_findings_of_a_real_audit(tmp_path):
    plan = toy_plan(
        mechanisms=(FedSGD(), Boasts(), FedSGD() >> Clip(1.0) >> GaussianNoise(10.0)),
        attacks=(LinearLayer(), LabelSigns(), Refuses()),
        told=(BatchSize,),
        trials=12,
    )
    torch.manual_seed(0)
    summary = run(plan, tmp_path, Inline())
    bare, boasts, noisy = summary.findings
    assert bare.word is Word.LEAKS
    assert bare.attack == repr(LinearLayer())
    assert not bare.broken
    assert boasts.broken, "12 of 12 labels"
    assert noisy.word is not Word.LEAKS
    assert "epsilon" in noisy.theory
    assert [one.groups for one in summary.findings] == [(0, 1, 2), (3, 4, 5), (6, 7, 8)]
    assert summary.word is Word.LEAKS
    assert "of 3 mechanisms" in summary.sentence
