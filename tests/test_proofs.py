"""What certificates are worth beside the secret: each proved item is a private one, or the attack has a defect."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import pytest
import torch
from tests.audit_toys import Toy, toy_plan
from tests.test_audit_verdict import BLIND, EXACT, NOISE, claimed, images, labels, score, word

import leakscope as ls
from leakscope.audit.engines.inline import Inline
from leakscope.audit.evidence import evidence
from leakscope.audit.one_claim import judged
from leakscope.audit.proofs import certified, refuted
from leakscope.audit.run import run
from leakscope.core.attempt import Attempt, Certificate, Outcome
from leakscope.core.claim import AbstractClaim, Inputs, Labels, Tokens, Transcripts
from leakscope.ledger.record import CertificateRecord, Word
from leakscope.numerics.rng import Key
from leakscope.scoring.case import Case
from leakscope.scoring.proved import least_psnr
from leakscope.scoring.referee import right


def proof(*right: bool, tolerance: float = 1e-4, residuals: tuple[float, ...] = ()) -> CertificateRecord:
    """Of as many items, all proved unless there are residuals."""
    left = residuals or (0.0,) * len(right)
    return CertificateRecord(
        residual=max(left), tolerance=tolerance, holds=all(one <= tolerance for one in left), statement="s",
        residuals=left, tolerances=(tolerance,) * len(left), right=right,
    )  # fmt: skip


def counted(count: int, tolerance: float = 1e-4) -> CertificateRecord:
    """The same of so many items that nobody compared with the secret."""
    return proof(*[True] * count, tolerance=tolerance).model_copy(update={"right": ()})


@pytest.mark.parametrize(
    ("items", "certificate", "defect"),
    [
        ((120.0, 12.0), proof(True, True), False),
        ((120.0, 12.0), proof(True, False), True),
        ((120.0, 12.0), counted(2), True),
        ((120.0, 12.0), counted(1), False),
        ((16.0, 16.0), counted(2), True),
        ((120.0, 120.0), counted(3), True),
        ((77.0, 78.0), counted(2, tolerance=2e-3), False),
        ((64.0, 66.0), counted(2, tolerance=1e-2), False),
        ((25.0, 66.0), counted(2, tolerance=1e-2), True),
        ((120.0, 12.0), proof(True, False, residuals=(0.0, 1.0)), False),
        ((120.0, 12.0), proof(False, False, residuals=(0.0, 1.0)), True),
        # Without the items it proved: of so many private ones that something was claimed of.
        ((120.0, 12.0), CertificateRecord(residual=0, tolerance=1e-4, holds=True, statement="s"), True),
    ],
)
def test_one_proved_item_that_is_no_private_one_is_a_defect(items, certificate, defect):
    side = [claimed(score("psnr", items), certificate=certificate)] + [EXACT[0]] * 3
    blind = [claimed(score("psnr", [12.0] * len(items)))] + [BLIND[0]] * 3
    assert refuted("psnr", side, blind) == int(defect)
    assert ("a defect of the attack: in 1 of 4 trials" in word(side, blind=blind)[1]) is defect
    assert certified("psnr", side, blind) == int(certificate.holds and not defect)


def test_a_wrong_proof_voids_the_right_ones_of_its_group():
    """Nothing else speaks for a leak: 9 dB above the blind guess in two trials."""
    fine = claimed(score("psnr", [61.0]), certificate=proof(True))
    bad = claimed(score("psnr", [53.0]), certificate=proof(False))
    blind = images(52.0, 52.0)
    assert word([fine, fine], blind=blind)[0] is Word.LEAKS
    assert evidence("psnr", [fine, bad], blind).certified == 0
    found, sentence = word([fine, bad], blind=blind)
    assert found is Word.INCONCLUSIVE
    assert "a defect of the attack: in 1 of 2 trials" in sentence


@pytest.mark.parametrize(
    ("metric", "perfect", "near", "far"),
    [("frame-error", 0.0, 2e-5, 0.05), ("token-error", 0.0, 0.0, 0.05), ("character-error-rate", 0.0, 0.0, 0.05)],
)
def test_frames_texts_and_transcripts_are_held_to_it_likewise(metric, perfect, near, far):
    def trial(*items):
        one = score(metric, items, 1.0).model_copy(update={"perfect": perfect, "higher_is_better": False})
        return claimed(one, certificate=counted(len(items)))

    blind = [trial(0.9, 0.9)]
    assert not refuted(metric, [trial(near, near)], blind)
    assert certified(metric, [trial(near, near)], blind) == 1
    assert refuted(metric, [trial(near, far)], blind) == 1


def test_what_certificates_really_reach_is_allowed_for():
    assert least_psnr(1e-9) == least_psnr(1e-4) == 60
    assert all(least_psnr(one) < -20 * math.log10(one) for one in (1e-4, 2.1e-3, 1e-2)), "less than the tolerance has"
    assert 77 > least_psnr(2.1e-3) > 40, "77 dB were the least that short local steps left of a proved input"
    assert 64 > least_psnr(1e-2) > 16, "64 dB were that of half precision, 16 dB is a mixture"


# --- the referee: which of the claimed items are private ones -------------------------------------------------------

SPOKEN = torch.randn(2, 6, 3, generator=Key(0).generator())
SPEECH = ls.Batch(SPOKEN, torch.tensor([[3, 4], [5, 0]]), torch.tensor([6, 6]), torch.tensor([2, 1]))
TEXTS = ls.Batch(torch.tensor([[5, 6, 7], [8, 5, 0]]), torch.tensor([0, 1]))
IMAGES = ls.Batch(torch.rand(2, 1, 4, 4, generator=Key(1).generator()), torch.tensor([2, 2]))


@pytest.mark.parametrize(
    ("claim", "batch", "expected"),
    [
        (Inputs(IMAGES.inputs.flip(0)), IMAGES, (True, True)),
        (Inputs(IMAGES.inputs.mean(0, keepdim=True)), IMAGES, (False,)),
        # Twice the same, and more than there are: whichever private one it is, it is one.
        (Inputs(IMAGES.inputs[[0, 0, 1]]), IMAGES, (True, True, True)),
        (Inputs(IMAGES.inputs[:1] + 5e-4), IMAGES, (True,)),
        (Inputs(IMAGES.inputs[:1] + 2e-3), IMAGES, (False,)),
        (Inputs(IMAGES.inputs[:0]), IMAGES, ()),
        (Inputs(SPOKEN.flip(0), lengths=torch.tensor([6, 6])), SPEECH, (True, True)),
        (Inputs(SPOKEN, lengths=torch.tensor([6, 5])), SPEECH, (True, False)),
        (Inputs(SPOKEN[:1] + 0.02, lengths=torch.tensor([6])), SPEECH, (False,)),
        (Transcripts(((5,), (3, 5))), SPEECH, (True, False)),
        (Tokens(((8, 5), (5, 7, 6))), TEXTS, (True, False)),
        (Tokens(((5, 6, 7, 8),), bag=True), TEXTS, (True,)),
        (Tokens(((5, 6, 7, 8, 9),), bag=True), TEXTS, (False,)),
        (Labels(torch.tensor([2, 2, 2])), IMAGES, (True, True, False)),
        (Labels(torch.tensor([1, 2]), distinct=True), IMAGES, (False, True)),
    ],
)
def test_the_referee_knows_which_claimed_items_are_private_ones(
    claim: AbstractClaim, batch: ls.Batch, expected: tuple[bool, ...]
) -> None:
    assert right(claim, Case(batch), (1e-4,) * len(claim)) == expected


def test_one_claim_beside_its_secret_is_held_to_the_same():
    """A mixture beside an exact input, both proved: it is the attack that is wrong, whatever else was recovered."""
    mixed = Inputs(torch.stack([IMAGES.inputs[0], IMAGES.inputs.mean(0)]))
    certificate = Certificate.alike(0.0, 1e-4, "s", items=2)
    scores = tuple(ls.score(mixed, IMAGES))
    for compared in ((), right(mixed, Case(IMAGES), certificate.tolerances)):
        found, sentence = judged(scores, certificate, compared)
        assert "a defect of the attack" in sentence
        assert "equations hold" not in sentence
        assert found is Word.LEAKS, "the other input is exact, proved or not"
    plain = tuple(ls.score(Inputs(IMAGES.inputs.mean(0, keepdim=True)), IMAGES))
    assert judged(plain, Certificate.alike(0.0, 1e-4, "s"))[0] is Word.INCONCLUSIVE
    exact = tuple(ls.score(Inputs(IMAGES.inputs[:1]), IMAGES))
    assert "equations hold" in judged(exact, Certificate.alike(0.0, 1e-4, "s"), (True,))[1]


# --- claims of nothing ----------------------------------------------------------------------------------------------


def silent(*values, of=2, claims=0):
    """One trial for each PSNR, in which so many of the items were claimed."""
    one = [score("psnr", [value] * of).model_copy(update={"claimed": claims}) for value in values]
    return [claimed(each) for each in one]


PAIRS, FOUND = silent(12.0, 13.0, 14.0, 12.5, claims=2), silent(90.0, 95.0, 92.0, 91.0, claims=2)


@pytest.mark.parametrize(
    ("audited", "says"),
    [
        (silent(12.0, 13.0, 14.0, 12.5), "in 4 of 4 trials the attack claims no inputs"),
        ([*silent(8.0, 9.0, 7.5, claims=2), *silent(12.5)], "in 1 of 4 trials the attack claims no inputs"),
        (silent(8.0, 9.0, 7.5, 8.5, claims=1), "claims inputs for 50% of the private examples only"),
        # A record of an earlier version does not say; one that scores just what the blind control does was silent.
        (silent(12.0, 13.0, 14.0, 12.5, claims=None), "in 4 of 4 trials the attack claims no inputs"),
        (labels([0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0])[:1] + PAIRS[1:], "in 1 of 4 trials"),
    ],
)
def test_an_attack_that_abstains_clears_nothing(audited, says):
    found, sentence = word(audited, FOUND, PAIRS)
    assert found is Word.INCONCLUSIVE
    assert says in sentence


def test_an_attack_that_claims_what_is_wrong_does():
    assert word(silent(8.0, 9.0, 7.5, 8.5, claims=2), FOUND, PAIRS)[0] is Word.NO_LEAK_FOUND
    assert word(silent(8.0, 9.0, 7.5, 8.5, claims=None), FOUND, PAIRS)[0] is Word.NO_LEAK_FOUND
    assert word(NOISE, EXACT)[0] is Word.NO_LEAK_FOUND


def test_a_set_of_labels_clears_nothing():
    """Found by a plan: proved classes of batches of eight scored as a guess, since each counts once."""
    accuracy = score("label-accuracy", [0.0], 0.1)
    blind = [claimed(accuracy)] * 40
    exact = [claimed(score("label-accuracy", [1.0], 0.1))] * 40
    assert word([claimed(accuracy)] * 40, exact, blind)[0] is Word.NO_LEAK_FOUND
    sets = [claimed(accuracy, score("label-set", [0.9], 0.3))] * 40
    found, sentence = word(sets, exact, blind)
    assert found is Word.INCONCLUSIVE
    assert "which labels occur and not how often" in sentence


def test_labels_that_came_along_in_one_trial_clear_no_labels():
    """Trials without labels gain 0 in them, as those do that failed: they say nothing of labels."""
    both = claimed(score("psnr", [8.0]), score("label-accuracy", [0.0], 0.1))
    blind = [claimed(score("psnr", [12.0]), score("label-accuracy", [0.0], 0.1))] * 40
    exact = [claimed(score("psnr", [90.0]), score("label-accuracy", [1.0], 0.1))] * 40
    few, all_of_them = [both] * 20 + images(*[8.0] * 20), [both] * 40
    assert [one.cleared for one in judge_gains(all_of_them, exact, blind)] == [True, True]
    assert [one.cleared for one in judge_gains(few, exact, blind)] == [True, False]


def judge_gains(audited, undefended, blind):
    from leakscope.audit.verdict import Trials, judge

    return judge(Trials(audited, undefended, blind)).gains


@pytest.mark.parametrize(
    ("claim", "batch", "count"),
    [
        (Inputs(IMAGES.inputs[:0]), IMAGES, 0),
        (Inputs(IMAGES.inputs[:1]), IMAGES, 1),
        (Inputs(SPOKEN, lengths=torch.tensor([6, 0])), SPEECH, 1),
        (Transcripts(((), (5,))), SPEECH, 1),
        (Tokens(((), ())), TEXTS, 0),
        (Tokens(((5,),), bag=True), TEXTS, 2),
        (Labels(torch.tensor([2])), IMAGES, 1),
        (Labels(torch.tensor([2]), distinct=True), IMAGES, 2),
        (Labels(torch.tensor([], dtype=torch.int64), distinct=True), IMAGES, 0),
    ],
)
def test_scores_say_of_how_many_items_anything_was_claimed(claim: AbstractClaim, batch: ls.Batch, count: int) -> None:
    assert {one.claimed for one in ls.score(claim, batch, domain=ls.Frames(3) if batch is SPEECH else None)} == {count}


@final
@dataclass(frozen=True)
class Shy(Toy):
    """Claims gray, and where anything was done to the update nothing, in most trials or in all."""

    always: bool = True

    def _attempt(self, seen, read, *, key, clock, watch):
        plain = seen.mechanism == ls.FedSGD()
        if plain:
            return ls.LinearLayer().run(seen, key=key)
        gray = self.gray(seen)
        none = self.always or bool(torch.rand(1, generator=key.generator()) < 0.7)
        claim = Inputs(gray.values[:0]) if none else Inputs(gray.values)
        return Attempt(repr(self), Outcome.CLAIMED, "nothing to see", claim)


@pytest.mark.parametrize("always", [True, False])
def test_a_toy_that_claims_nothing_leaves_the_mechanism_open(tmp_path, always):
    plan = toy_plan(mechanisms=(ls.FedSGD() >> ls.Clip(1.0),), attacks=(Shy(always),), trials=6)
    summary = run(plan, tmp_path, Inline())
    (group,) = summary.groups
    assert summary.word is Word.INCONCLUSIVE
    assert "claims no inputs" in group.sentence
    assert "abstains clears nothing" in summary.findings[0].sentence
    assert not any(one.cleared for one in group.gains)
    assert group.scores[0].claimed == 0 if always else 0 < group.scores[0].claimed < 6


@final
@dataclass(frozen=True)
class Twice(Toy):
    """Claims what is exact twice, both proved: it is one of the private inputs each time."""

    def _attempt(self, seen, read, *, key, clock, watch):
        values = ls.LinearLayer().run(seen, key=key).claim.values[:1]
        certificate = Certificate.alike(0.0, 1e-4, "by hand", items=2)
        return Attempt(repr(self), Outcome.CLAIMED, "twice", Inputs(torch.cat([values, values])), certificate)


def test_a_record_says_which_proved_items_are_private_ones(tmp_path):
    summary = run(toy_plan(attacks=(Twice(),)), tmp_path, Inline())
    (group,) = summary.groups
    assert group.word is Word.LEAKS
    assert "proved by its own equations in 3 of 3 trials" in group.sentence
