"""The three words, by the rule in `leakscope.audit.verdict`; records are made by hand, so that each clause is alone."""

import dataclasses
import itertools
import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tests.audit_toys import Crashes, Guesses, Toy, toy_plan

from leakscope.attacks.inputs.dense.linear import LinearLayer
from leakscope.audit.engines.inline import Inline
from leakscope.audit.evidence import evidence, pooled
from leakscope.audit.measures import ITEM_BAR, ITEM_GAIN, LUCK, luck, recovered
from leakscope.audit.plan import Scene
from leakscope.audit.renamed import renamed, renaming
from leakscope.audit.reordered import reordered, reordering
from leakscope.audit.run import run
from leakscope.audit.verdict import Trials, judge
from leakscope.core.attempt import Attempt, Outcome
from leakscope.core.claim import Features, Labels
from leakscope.core.facts import BatchSize, TrueLabels
from leakscope.datasets.sources.digits import Digits
from leakscope.datasets.sources.faces import Faces
from leakscope.datasets.sources.photographs import Photographs
from leakscope.ledger.identity import identity
from leakscope.ledger.record import CellSpec, CertificateRecord, Ending, RankingRecord, Record, Role, ScoreRecord, Word
from leakscope.mechanisms.defenses.clip import Clip
from leakscope.mechanisms.defenses.noise import GaussianNoise
from leakscope.mechanisms.protocols.fedsgd import FedSGD
from leakscope.numerics.rng import Key
from leakscope.report.withheld import together
from leakscope.scoring.kinds.features import public_features
from leakscope.scoring.metrics.features import FeatureError
from leakscope.targets.zoo.mlp import MLP

SPEC = CellSpec(
    role=Role.AUDITED, target="T", dataset="D", mechanism="M", attack="A", batch_size=1, told=(), metrics=(), trial=0,
    seed=0,
)  # fmt: skip


def score(metric, items, chance=12.0):
    perfect = 120.0 if metric == "psnr" else 1.0
    mean = math.fsum(items) / len(items)
    return ScoreRecord(
        metric=metric, value=mean, unit="dB" if metric == "psnr" else "of 1", higher_is_better=True, low=mean,
        high=mean, chance=chance, perfect=perfect, items=tuple(items), exact=sum(item == perfect for item in items),
        claimed=len(items),
    )  # fmt: skip


def claimed(*scores, certificate=None):
    return Record(
        identity=identity(SPEC),
        spec=SPEC,
        ending=Ending.CLAIMED,
        sentence="done",
        scores=scores,
        certificate=certificate,
    )


def failed(ending=Ending.DIVERGED, sentence="the loss exploded"):
    return Record(identity=identity(SPEC), spec=SPEC, ending=ending, sentence=sentence)


def images(*values):
    """One trial of one image for each PSNR."""
    return [claimed(score("psnr", [value])) for value in values]


def labels(*trials, chance=0.1):
    return [claimed(score("label-accuracy", items, chance)) for items in trials]


BLIND = images(12.0, 13.0, 14.0, 12.5)
EXACT = images(90.0, 95.0, 92.0, 91.0)
NOISE = images(8.0, 9.0, 7.5, 8.5)


def word(audited, undefended=None, blind=BLIND, **more):
    judged = judge(Trials(audited, audited if undefended is None else undefended, blind, **more))
    return judged.word, judged.sentence


def test_what_a_defense_leaves_of_an_attack_has_to_work_undefended_too():
    """An exact attack that noise closes is no control of the search behind it."""
    assert word(NOISE, EXACT)[0] is Word.NO_LEAK_FOUND
    found, sentence = word(NOISE, EXACT, remaining=NOISE)
    assert found is Word.INCONCLUSIVE
    assert "undefended the part of the attack that defenses leave does not reliably beat it either" in sentence
    found, sentence = word(NOISE, EXACT, remaining=images(40.0, 41.0, 39.0, 42.0))
    assert found is Word.NO_LEAK_FOUND
    assert "gains 79.1 dB, and 27.6 by the part of it that defenses leave" in sentence
    refused = [failed(Ending.REFUSED), *EXACT[1:]]
    found, sentence = word(NOISE, EXACT, remaining=refused)
    assert found is Word.INCONCLUSIVE
    assert "control, the part that defenses leave: 1 of 4 trials without a claim" in sentence
    assert word(EXACT, EXACT, remaining=NOISE)[0] is Word.LEAKS, "what is found is found"


def test_an_attack_has_to_work_without_the_noise_that_it_clears():
    """One that fails by samples or clips finds nothing at any noise, and undefended nothing is sampled."""
    found, sentence = word(NOISE, EXACT, remaining=EXACT, noiseless=NOISE)
    assert found is Word.INCONCLUSIVE
    assert "without the noise, sampled and clipped as it is, the attack does not reliably beat it either" in sentence
    found, sentence = word(NOISE, EXACT, noiseless=images(40.0, 41.0, 39.0, 42.0))
    assert found is Word.NO_LEAK_FOUND
    assert "without the noise, sampled and clipped as it is, 27.6" in sentence
    found, sentence = word(NOISE, EXACT, noiseless=[failed(Ending.REFUSED), *EXACT[1:]])
    assert found is Word.INCONCLUSIVE
    assert "control, without the noise: 1 of 4 trials without a claim" in sentence
    # with a noise of size 0 the audited trials are that control
    found, sentence = word(NOISE, EXACT, silent=True)
    assert found is Word.INCONCLUSIVE
    assert "without any noise this attack does not reliably beat a blind guess here" in sentence
    assert word(EXACT, EXACT, noiseless=NOISE, silent=True)[0] is Word.LEAKS, "what is found is found"


def test_a_control_is_held_against_what_the_class_tells_undefended():
    """Behind noise the class tells less: held against that, a control that finds the class alone would seem to work."""
    behind, open_class = images(8.0, 9.0, 7.5, 8.5), images(23.0, 24.0, 22.5, 24.5)
    control = images(24.0, 25.0, 23.5, 25.5)
    found, sentence = word(NOISE, control, replaced=behind, undefended_replaced=open_class)
    assert found is Word.INCONCLUSIVE
    assert "undefended the attack does not reliably beat it either" in sentence
    assert word(NOISE, control, replaced=behind, undefended_replaced=behind)[0] is Word.NO_LEAK_FOUND


def test_a_clear_recovery_leaks_and_the_sentence_gives_the_numbers():
    found, sentence = word(EXACT)
    assert found is Word.LEAKS
    assert "psnr 92 dB" in sentence
    assert "79.1" in sentence
    assert "4 of 4 inputs recovered more than 6 dB beyond any blind guess (best 95 dB, blind at most 14 dB)" in sentence


def test_a_leak_that_public_examples_fill_in_says_so():
    said = [record.model_copy(update={"sentence": "prior-assisted: 1 picture, decoded"}) for record in EXACT]
    found, sentence = word(said)
    assert found is Word.LEAKS
    assert "prior-assisted: read it beside the nearest public example" in sentence
    assert "prior-assisted" not in word(EXACT)[1]
    assert "beside the nearest" not in word([*EXACT[:3], failed(sentence="prior-assisted: nothing was decoded")])[1]


def test_nothing_found_beside_a_control_that_works():
    found, sentence = word(NOISE, EXACT)
    assert found is Word.NO_LEAK_FOUND
    assert "over 4 trials: a gain of 3 dB is excluded" in sentence
    assert "undefended, the same attack gains 79.1 dB" in sentence


@pytest.mark.parametrize(
    ("audited", "undefended", "blind", "says"),
    [
        (NOISE, NOISE, BLIND, "it cannot tell"),
        ([*NOISE[:3], failed()], EXACT, BLIND, "1 of 4 trials without a claim: 1 diverged (the loss exploded)"),
        ([*NOISE[:3], failed(Ending.CRASHED, "bug")], EXACT, BLIND, "1 crashed (bug)"),
        (
            [failed(Ending.REFUSED, "needs BatchSize")] * 4,
            EXACT,
            BLIND,
            "4 of 4 trials without a claim: 4 refused (needs",
        ),
        ([*NOISE[:3], None], EXACT, BLIND, "1 not run"),
        (NOISE, [*EXACT[:3], failed()], BLIND, "control: 1 of 4 trials"),
        (NOISE, EXACT, [*BLIND[:3], None], "blind control: 1 of 4 trials"),
        (NOISE[:2], EXACT[:2], BLIND[:2], "too few trials for an interval: 2, needed are 3"),
        (images(13.0, 16.5, 16.6, 13.0), EXACT, BLIND, "a gain of 3 dB is not excluded; about"),
        (images(9.0, 18.0, 8.0, 9.0), EXACT, images(10.0, 15.0, 14.0, 10.0), "a gain of 3 dB is not excluded; about"),
    ],
)
def test_whatever_fails_is_inconclusive_and_says_so(audited, undefended, blind, says):
    found, sentence = word(audited, undefended, blind)
    assert found is Word.INCONCLUSIVE
    assert says in sentence


def test_an_undefended_mechanism_is_its_own_control_and_never_cleared():
    found, sentence = word(NOISE, own_control=True)
    assert found is Word.INCONCLUSIVE
    assert "without any defense" in sentence


def test_a_leak_stays_a_leak_beside_failures():
    found, sentence = word([*EXACT[:2], failed(), None])
    assert found is Word.LEAKS
    assert "2 of 4 trials without a claim: 1 diverged (the loss exploded), 1 not run" in sentence


def test_one_recovered_image_does_not_drown_in_a_mean():
    """One of eight, while the mean gain is negative: the rule for single items has to catch it."""
    blind = images(*[12.0] * 8)
    audited = images(*[5.0] * 7, 35.0)
    assert evidence("psnr", audited, blind).gain < 0
    found, sentence = word(audited, images(*[90.0] * 8), blind)
    assert found is Word.LEAKS
    assert "1 of 8 inputs recovered" in sentence


def test_one_recovered_image_within_a_batch():
    blind = [claimed(score("psnr", [12.0] * 8))] * 3
    audited = [claimed(score("psnr", [5.0] * 7 + [value])) for value in (5.0, 35.0, 6.0)]
    assert word(audited, audited, blind)[0] is Word.LEAKS


@given(st.lists(st.floats(5, 20), min_size=3, max_size=9), st.floats(-5, 40))
@settings(deadline=None)
def test_a_mean_gain_leaks_exactly_above_the_margin(blind, gain):
    """With the same gain in every trial the interval is a point: 3 dB is the border, whatever the images are."""
    audited = images(*[value + gain for value in blind])
    found, _ = word(audited, images(*[100.0] * len(blind)), images(*blind))
    if abs(gain - 3.0) < 1e-5:
        return
    # a mean of at most the stated chance level (12 dB here) is no leak, even if the blind control guessed worse
    above = math.fsum(v + gain for v in blind) / len(blind) > 12.0
    many = recovered([value + gain for value in blind], blind) > 0
    # below the margin it is excluded: the smallest leak of interest is the margin, and nothing varies here
    leak = (gain > 3.0 and above) or many
    expected = Word.LEAKS if leak else Word.INCONCLUSIVE if gain > 3.0 else Word.NO_LEAK_FOUND
    assert found is expected


def certificate(holds):
    return CertificateRecord(residual=0.0, tolerance=1e-4, holds=holds, statement="s")


def test_a_certificate_counts_where_the_score_confirms_it():
    one = [claimed(score("psnr", [61.0]), certificate=certificate(True))]
    found, sentence = word(one, blind=images(57.0))
    assert found is Word.LEAKS
    assert "proved by its own equations in 1 of 1 trials" in sentence
    assert word(one, blind=images(60.0))[0] is Word.INCONCLUSIVE, "not confirmed: 1 dB above blind"
    unheld = [claimed(score("psnr", [61.0]), certificate=certificate(False))]
    assert word(unheld, blind=images(57.0))[0] is Word.INCONCLUSIVE
    right = [claimed(score("label-accuracy", [1.0, 1.0, 1.0], 0.1), certificate=certificate(True))]
    assert word(right, blind=labels([0.0, 0.0, 0.0]))[0] is Word.LEAKS
    lucky = [claimed(score("label-accuracy", [1.0], 0.1), certificate=certificate(True))]
    assert word(lucky, blind=labels([0.0]))[0] is Word.INCONCLUSIVE, "a guess of one in ten is no proof"


def test_a_certified_label_of_a_client_with_one_class_is_one_piece_of_luck():
    """Eight examples of one class, of two: whoever guesses the class is right eight times."""

    def side(*truths):
        return [
            claimed(score("label-accuracy", [1.0] * 8, 0.5), certificate=certificate(True)).model_copy(
                update={"labels_true": tuple(one), "labels_claimed": tuple(one)}
            )
            for one in truths
        ]

    blind = labels([0.0] * 8)
    assert evidence("label-accuracy", side([1] * 8), blind).certified == 0
    assert evidence("label-accuracy", side(range(8)), blind).certified == 1
    many = side(*[[trial % 2] * 8 for trial in range(8)])
    assert evidence("label-accuracy", many, blind * 8).certified == 8, "eight times one piece"


def test_a_certified_claim_that_is_wrong_voids_the_others_and_is_reported():
    right = claimed(score("label-accuracy", [1.0, 1.0, 1.0], 0.1), certificate=certificate(True))
    wrong = claimed(score("label-accuracy", [0.0, 0.0, 0.0], 0.1), certificate=certificate(True))
    blind = labels(*[[0.0] * 3] * 4)
    found, sentence = word([right, wrong, wrong, wrong], [right] * 4, blind)
    assert found is Word.INCONCLUSIVE
    assert "a defect of the attack: in 3 of 4 trials" in sentence
    found, sentence = word([wrong] * 4, [right] * 4, blind)
    assert found is Word.INCONCLUSIVE, "an attack with wrong proofs clears nothing"
    assert "a defect of the attack: in 4 of 4 trials" in sentence
    image = claimed(score("psnr", [12.0]), certificate=certificate(True))
    assert "a defect" in word([image, *EXACT[1:]], blind=BLIND)[1]


def test_a_certificate_of_one_item_of_a_batch_is_not_refuted_by_the_others():
    one = CertificateRecord(residual=0.0, tolerance=1.0, holds=True, statement="s", residuals=(0.0,), tolerances=(1.0,))
    partly = [claimed(score("label-accuracy", [1.0, 0.0], 0.1), certificate=one)]
    assert "defect" not in word(partly, blind=labels([0.0, 0.0]))[1]
    inputs = [claimed(score("psnr", [60.0, *[12.0] * 31]), certificate=one)]
    assert "defect" not in word(inputs, blind=images(12.0))[1]


@pytest.mark.parametrize("trials", [3, 8])
def test_labels_of_other_data_with_certificates_are_no_leak(trials):
    """An update of other data: its labels are certified, and right by luck alone, of two classes half of the time."""
    flips = np.random.default_rng().integers(0, 2, size=(2000, trials))
    words = []
    for row in flips:
        side = [claimed(score("label-accuracy", [float(hit)], 0.5), certificate=certificate(True)) for hit in row]
        words.append(evidence("label-accuracy", side, labels(*[[0.0]] * trials)).certified > 0)
    # Eight of eight come up once in 256, 7.8 expected of 2000; 30 would come up less than once in 10^8.
    assert sum(words) <= (0 if trials == 3 else 30)


def test_labels_leak_above_chance_only_beyond_luck():
    wrong = labels(*[[0.0]] * 4)
    assert word(labels(*[[1.0]] * 4), blind=wrong)[0] is Word.LEAKS
    coin = [labels(*[[1.0]] * 4, chance=0.5), labels(*[[0.0]] * 4, chance=0.5)]
    found, sentence = word(coin[0], coin[0], coin[1])
    assert found is Word.INCONCLUSIVE, "four coin flips are right one time in sixteen"
    assert "label-accuracy 1 of 1" in sentence
    found, sentence = word(wrong, labels(*[[1.0]] * 4), wrong)
    assert found is Word.INCONCLUSIVE, "four wrong labels do not exclude that three in ten are found"
    assert "a gain of 0.2 of 1 is not excluded; about 11 trials like these would exclude it" in sentence
    many = labels(*[[0.0]] * 12)
    assert word(many, labels(*[[1.0]] * 12), many)[0] is Word.NO_LEAK_FOUND
    assert "4 of 4 labels right, chance 0.4" in word(labels(*[[1.0]] * 4), blind=wrong)[1]


def test_labels_that_come_with_worthless_images_leak_unless_they_were_told():
    both = [claimed(score("psnr", [8.0]), score("label-accuracy", [1.0], 0.1))] * 4
    exact = [claimed(score("psnr", [90.0]), score("label-accuracy", [1.0], 0.1))] * 4
    blind = [claimed(score("psnr", [12.0]), score("label-accuracy", [0.0], 0.1))] * 4
    found, sentence = word(both, exact, blind)
    assert found is Word.LEAKS
    assert sentence.startswith("the labels leak, the inputs were not found: 4 of 4 labels right")
    assert word(both, exact, blind, labels_told=True)[0] is Word.NO_LEAK_FOUND


def test_a_claim_without_a_known_score_is_inconclusive():
    found, sentence = word([claimed()] * 4)
    assert found is Word.INCONCLUSIVE
    assert "no score" in sentence


def test_not_a_number_is_never_an_all_clear():
    odd = [claimed(score("label-accuracy", [1.0], 0.1)) for _ in range(4)]
    found, _ = word(odd, odd, labels(*[[0.0]] * 4), own_control=True)
    assert found is Word.LEAKS


# --- the numbers ----------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=30), st.floats(0.01, 0.99))
def test_luck_is_the_binomial_tail(values, chance):
    expected = stats.binomtest(int(sum(values)), len(values), chance, alternative="greater").pvalue
    assert luck(sum(values) / len(values), len(values), chance) == pytest.approx(expected, rel=1e-9)


def test_labels_that_go_together_count_less():
    """Eight batches of one class each: a guess is right for all of a batch or for none, and luck knows."""
    alike = [
        claimed(score("label-accuracy", [float(hit)] * 16, 0.1)).model_copy(update={"labels_true": (place,) * 16})
        for place, hit in enumerate((1, 0, 0, 1, 0, 0, 0, 0))
    ]
    apart = [
        claimed(score("label-accuracy", [1.0] * 4 + [0.0] * 12, 0.1)).model_copy(
            update={"labels_true": tuple(range(16))}
        )
        for _ in range(8)
    ]
    blind = labels(*[[0.0] * 16] * 8)
    together, single = (evidence("label-accuracy", side, blind) for side in (alike, apart))
    assert together.value == single.value == 0.25
    assert single.luck < 1e-3, "32 of 128 with chance 0.1"
    assert together.luck == pytest.approx(stats.binom.sf(1, 8, 0.1)), "2 of 8 with chance 0.1"
    assert single.luck == pytest.approx(stats.binom.sf(31, 128, 0.1)), "32 of 128"
    assert together.interval.high > single.interval.high + 0.1


@pytest.mark.parametrize("accuracy", [0.1, 0.3])
def test_the_words_of_label_groups_at_their_boundaries(accuracy):
    """At chance at most 1 % leak; at three times chance, the smallest leak of interest, few are cleared."""
    chance, trials, groups = np.random.default_rng(), 12, 600
    right = labels(*[[1.0]] * trials)
    words = [
        word(labels(*[[float(hit)] for hit in row]), right, labels(*[[0.0]] * trials))[0]
        for row in chance.random((groups, trials)) < accuracy
    ]
    # three standard errors above the stated rates
    if accuracy == 0.1:
        assert words.count(Word.LEAKS) <= groups * 0.01 + 3 * math.sqrt(groups * 0.01)
    else:
        assert words.count(Word.NO_LEAK_FOUND) <= groups * 0.025 + 3 * math.sqrt(groups * 0.025)


def test_the_words_of_image_groups_at_their_boundary():
    """A mean gain of exactly 3 dB is neither a leak nor excluded, but for the stated rates."""
    chance, groups = np.random.default_rng(), 600
    blind, exact = images(*[12.0] * 8), images(*[90.0] * 8)
    words = [word(images(*(15.0 + row)), exact, blind)[0] for row in chance.normal(0, 1.0, (groups, 8))]
    assert words.count(Word.LEAKS) <= groups * 0.01 + 3 * math.sqrt(groups * 0.01)
    assert words.count(Word.NO_LEAK_FOUND) <= groups * 0.025 + 3 * math.sqrt(groups * 0.025)


def test_what_is_found_of_some_does_not_drown_in_what_is_lost_of_others():
    """9 dB in every other picture, too little for one alone to be a leak, and 20 dB lost in the others."""
    blind = images(*[12.0] * 40)
    audited = images(*[21.0, -8.0] * 20)
    assert evidence("psnr", audited, blind).interval.high < 3.0, "the mean alone excludes it"
    found, sentence = word(audited, images(*[90.0] * 40), blind)
    assert found is Word.INCONCLUSIVE
    assert "-5.5 [" in sentence
    assert "and 4.5 [" in sentence
    assert "where what is worse than a guess counts as a guess" in sentence
    within = [claimed(score("psnr", [21.0, -8.0] * 4)) for _ in range(8)]
    many = [claimed(score("psnr", [value] * 8)) for value in [12.0] * 8]
    assert word(within, images(*[90.0] * 8), many)[0] is Word.INCONCLUSIVE, "nor within a batch"
    # Whoever loses everywhere, now more and now less, is still conclusive.
    noise = images(*[10.0, -8.0] * 20)
    assert word(noise, images(*[90.0] * 40), blind)[0] is Word.NO_LEAK_FOUND
    gained = judge(Trials(audited, images(*[90.0] * 40), blind)).gains[0]
    assert (gained.gain, gained.best) == (-5.5, 4.5)
    assert gained.needed is None


def test_labels_that_are_not_claimed_are_no_wrong_ones():
    """Of ten labels of two classes six are claimed, and five of them right: as many as a guess finds of all ten."""
    items = [1.0] * 5 + [0.0] * 5
    sure = [claimed(score("label-accuracy", items, 0.5).model_copy(update={"claimed": 6}))] * 90
    every, blind = labels(*[[1.0] * 10] * 90, chance=0.5), labels(*[[0.0] * 10] * 90)
    found, sentence = word(sure, every, blind)
    assert found is Word.INCONCLUSIVE
    assert "label-accuracy 0.5 of 1, 0 [" in sentence
    assert "and 0.2 [" in sentence
    assert "where what is not claimed counts as a guess" in sentence
    assert word(labels(*[items] * 90, chance=0.5), every, blind)[0] is Word.NO_LEAK_FOUND, "where all are claimed"


def named(claims, truths, chance):
    """One label claimed in each trial, and the true one."""
    return [
        claimed(score("label-accuracy", [float(one == true)], chance)).model_copy(
            update={"labels_claimed": (one,), "labels_true": (true,)}
        )
        for one, true in zip(claims, truths, strict=True)
    ]


@pytest.mark.parametrize(("classes", "trials"), [(2, 12), (2, 40), (10, 16), (10, 40)])
def test_an_attack_that_always_names_another_label_clears_nothing(classes, trials):
    """Behind a defense that negates, or exchanges rows, every claim is wrong, and tells the label."""
    truths = np.random.default_rng(trials).integers(0, classes, trials)
    right, blind = named(truths, truths, 1 / classes), named(truths, truths, 1 / classes)
    found, sentence = word(named((truths + 1) % classes, truths, 1 / classes), right, blind)
    assert found is Word.INCONCLUSIVE
    assert "with another name for each that is claimed 100% would be right" in sentence
    persons = [
        claimed(score("top-1", [0.0], 1 / classes)).model_copy(
            update={
                "rankings": (
                    RankingRecord(
                        attribute="sex", true=str(one), best=(str((one + 1) % classes),), rank=2, candidates=classes
                    ),
                )
            }
        )
        for one in truths
    ]
    assert renaming(persons, evidence("top-1", persons, persons), 0.2), "persons, and what is told of them"


def spoken(claims, truths, errors):
    """Records of transcripts, one a trial."""
    return [
        claimed(score("character-error-rate", [error], 0.8)).model_copy(
            update={"transcripts_claimed": (one,), "transcripts_true": (true,)}
        )
        for one, true, error in zip(claims, truths, errors, strict=True)
    ]


def sentences(count, seed):
    """Of eight made-up words of three letters each."""
    drawn = np.random.default_rng(seed).integers(0, 26, (count, 8, 3))
    return [" ".join("".join(chr(97 + letter) for letter in word) for word in one) for one in drawn]


@pytest.mark.parametrize("trials", [3, 8, 40])
def test_all_words_in_a_wrong_order_clear_nothing(trials):
    """The character error counts the order, and is that of a guess where every word is right and misplaced."""
    truths, others = sentences(trials, 1), sentences(trials, 2)
    right, blind = spoken(truths, truths, [0.0] * trials), spoken(others, truths, [0.8] * trials)
    errors = np.random.default_rng(trials).uniform(0.78, 0.82, trials)
    found, sentence = word(spoken(others, truths, errors), right, blind)
    assert found is Word.NO_LEAK_FOUND, sentence
    reversed_words = [" ".join(reversed(one.split())) for one in truths]
    found, sentence = word(spoken(reversed_words, truths, errors), right, blind)
    assert found is Word.INCONCLUSIVE
    assert "in another order what is claimed is" in sentence


def test_sentences_that_have_nothing_to_do_with_it_are_beyond_luck_as_seldom_as_stated():
    """200 audits without a leak, whose sentences share words with all others: at most 1 % beyond luck, but for chance
    (6 of 200 in one of a hundred); and no measured gain as large as the smallest leak of interest."""
    lucky, large = 0, 0
    for seed in range(200):
        pool = sentences(1, seed)[0].split() * 2
        drawn = np.random.default_rng(seed)
        some, others = ([" ".join(drawn.choice(pool, 6)) for _ in range(8)] for _ in range(2))
        bags = [tuple(Counter(itertools.pairwise(said)) for said in pair) for pair in zip(some, others, strict=True)]
        gain, by_luck = reordered(bags)
        lucky, large = lucky + (by_luck <= LUCK), large + (gain >= 3)
    assert lucky <= 6
    assert large <= 6


@pytest.mark.parametrize("trials", [3, 4, 12])
def test_all_letters_in_a_wrong_order_clear_nothing(trials):
    """Of a model that spells, a piece is a letter: no two neighbors stay together."""
    drawn = np.random.default_rng(83000 + trials)
    truths = sentences(trials, 3)
    scrambled = ["".join(drawn.permutation(list(one))) for one in truths]
    errors = drawn.uniform(0.78, 0.82, trials)
    right, blind = spoken(truths, truths, [0.0] * trials), spoken(sentences(trials, 4), truths, [0.8] * trials)
    found, sentence = word(spoken(scrambled, truths, errors), right, blind)
    assert found is Word.INCONCLUSIVE, sentence
    assert "in another order what is claimed is" in sentence


SAID = ["the", "a", "of", "to", "and", "in", "is", "was", "he", "for", "it", "with", "as", "his", "on", "be", "at"]


def test_lengths_that_are_told_are_no_words():
    """One sentence for all, cut to the true length: a long claim is nearer to every truth, and a long truth to every
    claim, which by itself was beyond luck in half of such audits."""
    held = 0
    for seed in range(30):
        drawn = np.random.default_rng(83100 + seed)
        truths = [" ".join(drawn.choice(SAID, int(drawn.choice([2, 4, 8, 16])))) for _ in range(32)]
        records = spoken([("and the " * 60)[: len(one)] for one in truths], truths, [0.8] * 32)
        held += bool(reordering(records, evidence("character-error-rate", records, records), 3.0))
    assert held <= 3, "one in a hundred, and four of thirty have a probability of 0.0003 by chance"


@pytest.mark.parametrize("trials", [3, 5])
def test_few_sentences_without_a_leak_are_seldom_alike_by_luck(trials):
    held = 0
    for seed in range(100):
        drawn = np.random.default_rng(83200 + seed)
        truths, claims = ([" ".join(drawn.choice(SAID, 5)) for _ in range(trials)] for _ in range(2))
        records = spoken(claims, truths, [0.8] * trials)
        held += bool(reordering(records, evidence("character-error-rate", records, records), 3.0))
    assert held <= 12


def test_of_labels_no_order_is_asked():
    truths = sentences(8, 1)
    records = spoken(truths, truths, [0.0] * 8)
    assert reordering(records, evidence("character-error-rate", records, records), 3.0)
    other = dataclasses.replace(evidence("character-error-rate", records, records), metric="label-accuracy")
    assert not reordering(records, other, 3.0)


def test_one_name_for_all_is_no_leak_where_private_people_are_not_as_public_ones():
    """Four of five private speakers are women and most public ones are men: "female" beats every blind guess."""
    truths = ["f", "f", "f", "f", "m"] * 8

    def persons(claims):
        return [
            claimed(score("top-1", [float(one == true)], 0.5)).model_copy(
                update={"rankings": (RankingRecord(attribute="sex", true=true, best=(one,), rank=1, candidates=2),)}
            )
            for one, true in zip(claims, truths, strict=True)
        ]

    assert luck(0.8, 40, 0.5) < 1e-3, "against chance alone it would be one"
    constant = persons(["f"] * 40)
    assert evidence("top-1", constant, constant).luck > 0.3
    assert word(constant, persons(truths), constant)[0] is Word.INCONCLUSIVE
    assert word(persons(truths), blind=constant)[0] is Word.LEAKS
    # Thirty of forty, and for some of them by what is seen.
    better = persons(["f", "f", "f", "m", "m"] * 8)
    assert word(better, persons(truths), constant)[0] is Word.LEAKS
    ones = named([3] * 12, [3] * 9 + [1, 2, 5], 0.1)
    assert evidence("label-accuracy", ones, ones).luck > 0.3, "of labels too"
    few = named([3, 3, 1], [3, 3, 1], 0.1)
    assert word(few, blind=few)[0] is Word.LEAKS, "who is right repeats as the truth does"


@pytest.mark.parametrize(("share", "named_share", "trials"), [(0.9, 0.85, 100), (0.8, 0.75, 48), (0.95, 0.9, 12)])
def test_who_mostly_names_what_most_private_ones_are_has_seen_nothing(share, named_share, trials):
    """Claims vary more than what is true, so that they repeat themselves less; and who is right is still a leak."""
    chance, groups, false, found = np.random.default_rng(11), 60, 0, 0
    for _ in range(groups):
        truths = (chance.random(trials) < share).astype(int)
        side = named((chance.random(trials) < named_share).astype(int), truths, 0.5)
        false += evidence("label-accuracy", side, side).luck <= LUCK
        fair = (chance.random(trials) < 0.5).astype(int)
        found += evidence("label-accuracy", named(fair, fair, 0.5), named(1 - fair, fair, 0.5)).luck <= LUCK
    assert false <= 3, "one in a hundred, and three of sixty have a probability of 0.02 by chance"
    assert found >= groups - 2


def test_who_names_labels_at_random_or_one_for_all_still_clears():
    """At most one group in a hundred fails for that reason; with classes of nine in ten and one in ten, too."""
    chance, groups = np.random.default_rng(0), 50
    said = 0
    for _ in range(groups):
        truths, guesses = (chance.random(30) < 0.1).astype(int), (chance.random(30) < 0.3).astype(int)
        for claims in (guesses, np.ones(30, int), np.zeros(30, int)):
            side = named(claims, truths, 0.9)
            said += bool(renaming(side, evidence("label-accuracy", side, side), 0.2))
    assert said <= 3 * groups * 0.01 + 3 * math.sqrt(3 * groups * 0.01)
    many = np.random.default_rng(1).integers(0, 10, (2, 24))
    side = named(*many, 0.1)
    assert not renaming(side, evidence("label-accuracy", side, side), 0.2)


@pytest.mark.parametrize("seed", range(4))
def test_the_best_map_of_names_is_the_best_of_all_maps(seed):
    """Against trying every map of three names onto three, in batches of two."""
    draws = np.random.default_rng(seed).integers(0, 3, (2, 6, 2)).tolist()
    trials = list(zip(*draws, strict=True))

    def hits(mapped):
        return sum(len(list((Counter(mapped[c] for c in one) & Counter(true)).elements())) for one, true in trials)

    assert renamed(trials)[0] == pytest.approx(max(map(hits, itertools.permutations(range(3)))) / 12)


def test_a_plan_says_what_the_smallest_leak_of_interest_is():
    mild = images(13.0, 14.1, 15.2, 13.4)  # about 1 dB above the blind guess
    assert word(mild, EXACT)[0] is Word.NO_LEAK_FOUND
    assert word(mild, EXACT, smallest={"psnr": 0.5})[0] is Word.INCONCLUSIVE
    weak = images(15.2, 16.2, 17.2, 15.7)  # 3.2 dB: a leak, but not one of 5
    found, sentence = word(NOISE, weak, smallest={"psnr": 5.0})
    assert found is Word.INCONCLUSIVE
    assert "undefended the attack gains no more than 3.2 dB: it cannot tell a leak of 5 from none" in sentence
    assert "no number of trials" in word(mild, EXACT, smallest={"psnr": 0.5})[1]


def test_as_many_trials_as_are_said_to_be_needed_exclude_it():
    few = labels(*[[0.0]] * 5)
    count = judge(Trials(few, labels(*[[1.0]] * 5), few)).gains[0].needed
    more = labels(*[[0.0]] * count)
    assert word(more, labels(*[[1.0]] * count), more)[0] is Word.NO_LEAK_FOUND
    fewer = labels(*[[0.0]] * (count - 2))
    assert word(fewer, labels(*[[1.0]] * (count - 2)), fewer)[0] is Word.INCONCLUSIVE


def test_a_recovered_item_is_above_its_own_and_above_every_blind_guess():
    assert recovered([25.0, 12.0], [13.0, 14.0]) == 1
    assert recovered([25.0, 12.0], [13.0, 22.0]) == 0, "another blind guess comes within 6 dB"
    assert recovered([21.0], [13.0]) == 0, "8 dB above its own"


def test_failures_stay_in_the_denominator():
    found = evidence("psnr", [*images(22.0, 23.0), failed(), None], BLIND)
    assert found.gains == (10.0, 10.0, 0.0, 0.0)
    assert found.gain == 5.0


def test_trials_are_paired_with_their_own_blind_guess():
    """The gain is constant although the secrets differ wildly: only a paired difference has a width of zero."""
    found = evidence("psnr", images(24.0, 11.0, 17.0), images(20.0, 7.0, 13.0))
    assert (found.interval.low, found.interval.high) == (4.0, 4.0)


def test_pooling_keeps_every_item_and_puts_the_deciding_metric_first():
    records = [claimed(score("ssim", [0.1]), score("psnr", [10.0, 20.0])), claimed(score("psnr", [60.0])), failed()]
    first, second = pooled(records)
    assert (first.metric, first.items, first.value) == ("psnr", (10.0, 20.0, 60.0), 30.0)
    assert first.low <= first.value <= first.high
    assert second.metric == "ssim"


@pytest.mark.parametrize(
    ("source", "bound"),
    [(Digits(8), 0.004), (Faces(), 0.004), (Photographs(), 0.012)],
    ids=["digits", "faces", "photos"],
)
def test_the_false_positive_rate_of_single_items_is_the_stated_one(source, bound):
    """A random public image as the claim sees nothing and is lifelike; the rate is over groups of 1, 3, 8, 32 items."""
    public = source.public().inputs.flatten(1).double()
    private = source.draw(len(source.load()) - len(public), key=Key(0)).reveal().inputs.flatten(1).double()
    decibels = {
        "blind": -10 * torch.log10(((private - public.mean(0)) ** 2).mean(1)),
        "claim": -10 * torch.log10((torch.cdist(private, public) ** 2 / private.shape[1]).clamp_min(1e-12)),
    }
    chance, groups = np.random.default_rng(0), 20_000
    for size in (1, 3, 8, 32):
        mine = chance.integers(len(private), size=(groups, size))
        theirs = chance.integers(len(public), size=(groups, size))
        guess, claim = decibels["blind"].numpy()[mine], decibels["claim"].numpy()[mine, theirs]
        hit = (claim > guess + ITEM_GAIN) & (claim > guess.max(1, keepdims=True) + ITEM_BAR)
        rate, spread = hit.any(1).mean(), math.sqrt(bound / groups)
        assert rate <= bound + 3 * spread
        some = np.flatnonzero(hit.any(1))[:3]
        assert all(recovered(claim[row], guess[row]) > 0 for row in some)


# --- through the whole audit ----------------------------------------------------------------------------------------


def test_the_three_words_come_out_of_a_real_audit(tmp_path):
    """The exact attack on a linear model: bare it leaks, under heavy noise it does not, and a crash clears nobody."""
    plan = toy_plan(
        mechanisms=(FedSGD(), FedSGD() >> Clip(1e-3), FedSGD() >> Clip(1.0) >> GaussianNoise(10.0)),
        attacks=(LinearLayer(), Crashes(), Guesses()),
        told=(BatchSize,),
        trials=4,
    )
    summary = run(plan, tmp_path, Inline())
    words = {(g.mechanism, g.attack): g.word for g in summary.groups}
    bare, clipped, noisy = (repr(m) for m in plan.mechanisms)
    linear = repr(LinearLayer())
    assert words[bare, linear] is words[clipped, linear] is Word.LEAKS
    assert words[noisy, linear] in (Word.NO_LEAK_FOUND, Word.INCONCLUSIVE)
    assert all(
        words[m, a] is Word.INCONCLUSIVE
        for m in (bare, clipped, noisy)
        for a in ("Crashes(on=-1)", "Guesses(pause=0.0)")
    )
    assert summary.word is Word.LEAKS
    epsilons = {g.mechanism: (g.epsilon, g.delta) for g in summary.groups}
    assert epsilons[bare] == (math.inf, 1e-5)
    # sensitivity 1 and standard deviation 10: the Gaussian mechanism of noise multiplier 10 (Balle and Wang 2018)
    assert 0.2 < epsilons[noisy][0] < 0.5


@dataclass(frozen=True)
class Echoes(Toy):
    """Claims what it was told, and looks at nothing."""

    needs = frozenset({TrueLabels})

    def _attempt(self, seen, read, *, key, clock, watch):
        return Attempt(repr(self), Outcome.CLAIMED, "told", Labels(torch.tensor(seen.told(TrueLabels).values)))


def test_what_was_told_is_no_leak_when_it_is_claimed(tmp_path):
    plan = toy_plan(attacks=(Echoes(),), told=(TrueLabels,), trials=9)
    summary = run(plan, tmp_path, Inline())
    assert summary.word is Word.INCONCLUSIVE
    assert "the labels were told" in summary.groups[0].sentence
    right = labels(*[[1.0]] * 9)
    assert word(right, blind=right)[0] is Word.LEAKS
    assert word(right, blind=right, labels_told=True)[0] is Word.INCONCLUSIVE
    spoken = [claimed(score("character-error-rate", [0.0])) for _ in range(9)]
    silent = [claimed(score("character-error-rate", [1.0])) for _ in range(9)]
    assert word(spoken, blind=silent)[0] is Word.LEAKS
    assert word(spoken, blind=silent, transcripts_told=True)[0] is Word.INCONCLUSIVE


@dataclass(frozen=True)
class MeanOf(Toy):
    """What a layer is fed for public examples, on average: the release is not looked at."""

    layer: str

    def _attempt(self, seen, read, *, key, clock, watch):
        pool = public_features(seen.target, self.layer, Digits(8).public())
        return Attempt(repr(self), Outcome.CLAIMED, "a mean", Features(self.layer, pool.mean(0, keepdim=True)))


def test_features_are_held_against_a_guess_of_the_same_layer(tmp_path):
    """The blind control guesses what the output layer is fed; what the first one is fed is harder, or easier."""
    scene = Scene("digits", Digits(8), MLP((32, 32)))
    attacks = (MeanOf("1"), MeanOf("6"))
    plan = toy_plan(scenes=(scene,), attacks=attacks, trials=4, metrics=(FeatureError(),))
    summary = run(plan, tmp_path, Inline())
    first, last = (group.gains[0] for group in summary.groups)
    assert abs(first.gain) < 1e-6
    assert abs(last.gain) < 1e-6
    assert first.best < 1e-6
    (chance,) = (score.chance for score in summary.groups[0].scores if score.metric == "feature-error")
    (control,) = (score.value for score in summary.groups[0].blind_scores if score.metric == "feature-error")
    assert abs(20 * math.log10(control / chance)) > 2, "else the two layers are as easy, and nothing is tested"
    (whole,) = together([score("feature-error", [0.5] * 8).model_copy(update={"blind": (0.6,) * 8})])
    assert not whole.blind, "a redacted page says nothing of one example, of its blind guess neither"


def test_told_labels_are_known_to_the_verdict(tmp_path):
    plan = toy_plan(attacks=(Guesses(),), told=(TrueLabels,), trials=1)
    assert run(plan, tmp_path, Inline()).word is Word.INCONCLUSIVE
