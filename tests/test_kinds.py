"""Kinds of claims: blind levels with a public prior, sets and bags, scales, and that the referee asks the kind."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import leakscope as ls
from leakscope.audit.blind import BlindGuess
from leakscope.audit.files import read_secret, write_secret
from leakscope.audit.plan import Plan, Scene
from leakscope.audit.work import run_cell
from leakscope.core.effort import Clock, Watch
from leakscope.datasets.draw import AbstractSource
from leakscope.ledger.record import AnswerRecord, CellSpec, Ending, Record, Role
from leakscope.report.redact import Veil
from leakscope.report.sections import answers
from leakscope.scoring.kinds.attributes import told_apart
from leakscope.scoring.kinds.labels import LabelTruth, UniformLabel
from leakscope.scoring.kinds.table import KINDS, kind_named, kind_of
from leakscope.scoring.metrics.guesses import LabelCounts, LabelPresence
from leakscope.scoring.referee import applies

SEXES = ("f", "m")


def people(*who: int, per: ls.Per = ls.Per.EXAMPLE, size: int = 3) -> ls.Secret:
    """A private batch of nothing: one example per value, or `size` examples of one owner."""
    count = len(who) if per is ls.Per.EXAMPLE else size
    batch = ls.Batch(torch.zeros(count, 1), torch.zeros(count, dtype=torch.int64))
    return ls.Secret(batch, (ls.Annotation("sex", who, SEXES, per),))


def prior(*counts: int) -> tuple[ls.Annotation, ...]:
    """A public pool with so many of each."""
    return (ls.Annotation("sex", tuple(place for place, n in enumerate(counts) for _ in range(n)), SEXES),)


def ranked(*rows: tuple[float, ...]) -> ls.Attribute:
    scores = torch.tensor(rows, dtype=torch.float64)
    return ls.Attribute("sex", scores.argmax(1), scores=scores)


# --- attributes: what most people share is no leak ------------------------------------------------------------------


@pytest.mark.parametrize("scored", [True, False])
def test_a_constant_guess_of_what_most_people_share_scores_no_more_than_chance(scored: bool) -> None:
    secret = people(*[1] * 8, *[0] * 2)
    guess = ranked(*[(0.0, 1.0)] * 10) if scored else ls.Attribute("sex", torch.ones(10, dtype=torch.int64))
    found = ls.score(guess, secret, public_annotations=prior(20, 80))
    # Of several items chance is above it: random persons by the prior, paired to their advantage, are right more often.
    assert found["top-1"].value == 0.8 < found["top-1"].chance < 1
    assert not any(score.beats_chance for score in found)
    # Without the prior nobody knows of the majority, and the same claim would be above chance.
    assert ls.score(guess, secret)["top-1"].chance < 0.8
    # Everybody right is one, with the prior as well.
    right = ranked(*[(0.0, 1.0)] * 8, *[(1.0, 0.0)] * 2)
    found = ls.score(right, secret, public_annotations=prior(20, 80))["top-1"]
    assert found.value == 1.0 > found.chance


@pytest.mark.parametrize("example", range(10))
def test_of_one_example_the_constant_guess_is_exactly_chance_or_below(example: int) -> None:
    majority = example >= 2
    found = ls.score(ranked((0.0, 1.0)), people(int(majority)), public_annotations=prior(20, 80))
    assert [score.value for score in found] == ([1.0] * 3 if majority else [0.0, 1.0, 0.5])
    assert found["top-1"].chance == (1.0 if majority else 0.5)
    assert not any(score.beats_chance for score in found)


@pytest.mark.parametrize(("who", "chance"), [(1, 1.0), (0, 0.5)])
def test_the_owner_of_a_batch_is_one_item_and_a_guess_of_the_majority_is_no_leak(who: int, chance: float) -> None:
    secret = people(who, per=ls.Per.OWNER)
    found = ls.score(ranked((0.0, 1.0)), secret, public_annotations=prior(20, 80))["top-1"]
    assert len(found.items) == 1
    assert (found.value, found.chance) == (float(who == 1), chance)
    assert not found.beats_chance
    # Over many owners the guess is right as often as the majority is, and never above chance.
    several = ls.score(ranked((0.0, 1.0), (1.0, 0.0)), secret, public_annotations=prior(20, 80))
    assert several.pairing.extra == 1


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 1), min_size=1, max_size=5),
    st.tuples(st.integers(0, 40), st.integers(0, 40)).filter(any),
)
def test_chance_is_below_none_of_uniform_the_mode_and_a_random_public_one(
    who: list[int], counts: tuple[int, int]
) -> None:
    """By hand, without the referee's guesses: for two categories and one guess for everybody."""
    level = ls.score(ranked(*[(0.0, 0.0)] * len(who)), people(*who), public_annotations=prior(*counts))["top-1"].chance
    shares = [who.count(place) / len(who) for place in (0, 1)]
    assert level >= 0.5 * shares[0] + 0.5 * shares[1]
    known = told_apart(torch.tensor([float(n) for n in counts]))
    if known[0] != known[1]:
        assert level >= shares[int(known.argmax())]
    if len(who) == 1:
        assert level >= float(known[who[0]] / known.sum()) - 1e-12


@pytest.mark.parametrize("size", [16, 200, 5000])
def test_a_mode_by_accident_does_not_raise_chance(size: int) -> None:
    """Over trials, chance of a balanced attribute stays 1/2: a mode that is set by the draw would make it 3/4."""
    generator, levels = ls.Key(size).numpy(), []
    for trial in range(40):
        ones = int(generator.binomial(size, 0.5))
        public = prior(size - ones, ones)
        levels.append(ls.score(ranked((0.0, 0.0)), people(trial % 2), public_annotations=public)["top-1"].chance)
    # Two standard deviations are exceeded by accident, one time of twenty, and then half of the secrets have chance 1.
    assert 0.5 <= np.mean(levels) <= 0.55


def test_public_categories_are_matched_by_name_and_what_is_ruled_out_is_no_guess() -> None:
    turned = (ls.Annotation("sex", (0,) * 80 + (1,) * 20, SEXES[::-1]),)
    secret = people(1)
    assert ls.score(ranked((0.0, 1.0)), secret, public_annotations=turned)["top-1"].chance == 1.0
    other = (ls.Annotation("accent", (0,) * 80, SEXES),)
    assert ls.score(ranked((0.0, 1.0)), secret, public_annotations=other)["top-1"].chance == 0.5
    gone = ls.score(ranked((0.0, -math.inf)), secret, public_annotations=prior(20, 80))["top-1"]
    assert (gone.value, gone.chance) == (0.0, 0.0)


def test_random_persons_are_guessed_in_exact_expectation() -> None:
    names = ("a", "b", "c", "d", "e", "f")
    batch = ls.Batch(torch.zeros(1, 1), torch.tensor([0]))
    secret = ls.Secret(batch, (ls.Annotation("who", (1,), names),))
    public = (ls.Annotation("who", (0,) * 500 + (1,) * 300 + (2,) * 200, names),)
    claim = ls.Attribute("who", torch.tensor([1]))
    assert ls.score(claim, secret, public_annotations=public)["top-1"].chance == pytest.approx(0.3)


def test_a_constant_claim_of_the_mode_is_chance_among_many_categories() -> None:
    """Nobody is behind the mode in the order of frequencies: that guess is worse for whoever is rare, and no other."""
    names = tuple("abcdefghij")
    who = (0,) * 8 + (9,) * 2
    secret = ls.Secret(labeled(*[0] * 10), (ls.Annotation("who", who, names),))
    public = (ls.Annotation("who", tuple(p for p, n in enumerate([300, *[30] * 8, 0]) for _ in range(n)), names),)
    claim = ls.Attribute("who", torch.zeros(10, dtype=torch.int64))
    found = ls.score(claim, secret, public_annotations=public)["reciprocal-rank"]
    behind = sum(1 / rank for rank in range(2, 11)) / 9
    assert found.value == pytest.approx((8 + 2 * behind) / 10)
    assert found.chance == pytest.approx(found.value)


def test_annotations_are_per_example_or_per_owner(tmp_path: Path) -> None:
    with pytest.raises(ls.BadInput, match="one value for the owner of the batch, got 2"):
        ls.Annotation("sex", (0, 1), SEXES, ls.Per.OWNER)
    owned = people(1, per=ls.Per.OWNER, size=4)
    batch = ls.Batch(torch.zeros(2, 1, 2, 2), torch.tensor([0, 1]))
    target = ls.Linear().build(ls.Images(1, 2, 2), 3, key=ls.Key(0))
    seen = ls.Observation(target, ls.Gradient(target.parameters()), ls.FedSGD())
    write_secret(tmp_path / "s", ls.Secret(batch, (*owned.annotations, ls.Annotation("who", (1, 0), SEXES))), seen)
    kept = read_secret(tmp_path / "s").secret.annotations
    assert kept == (owned.annotations[0], ls.Annotation("who", (1, 0), SEXES))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ls.Attribute("sex", torch.tensor([0]), scale=ls.Scale.LOG_PROBABILITY), r"needs scores \(N, G\)"),
        (
            lambda: ls.Attribute(
                "sex", torch.tensor([0]), scores=torch.tensor([[0.0, -1.0]]), scale=ls.Scale.LOG_PROBABILITY
            ),
            "of a row sum to 1.368, expected 1",
        ),
        (lambda: ls.Labels(torch.tensor([2, 1]), distinct=True), "in rising order"),
        (lambda: ls.Labels(torch.tensor([1, 1]), distinct=True), "in rising order"),
    ],
)
def test_claims_say_what_they_are(make: object, says: str) -> None:
    with pytest.raises(ls.BadInput, match=says):
        make()  # type: ignore[operator]


def test_log_probabilities_are_ranked_as_any_scores() -> None:
    scores = torch.randn(3, 5000, generator=ls.Key(0).generator())
    scores[0, 7] = -math.inf
    rows = torch.log_softmax(scores, 1)
    claim = ls.Attribute("who", rows.argmax(1), scores=rows, scale=ls.Scale.LOG_PROBABILITY)
    assert claim.scores is not None
    assert claim.scores[0, 7] == -math.inf


# --- labels ---------------------------------------------------------------------------------------------------------


def labeled(*labels: int) -> ls.Batch:
    return ls.Batch(torch.zeros(len(labels), 1), torch.tensor(labels))


@settings(max_examples=40, deadline=None)
@given(st.sets(st.integers(0, 5), max_size=6), st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_a_set_of_labels_is_scored_by_precision_and_recall(claimed: set[int], true: list[int]) -> None:
    claim = ls.Labels(torch.tensor(sorted(claimed), dtype=torch.int64), distinct=True)
    found = ls.score(claim, labeled(*true))
    kept = sorted(claimed)[: len(true)]  # more labels than items cannot all be there
    hits = [label for label in kept if label in true]
    for item, label in zip(found["label-set"].items, true, strict=True):
        precision, recall = len(hits) / max(len(kept), 1), float(label in kept)
        wanted = 2 * precision * recall / (precision + recall) if precision and recall else 0.0
        assert item == pytest.approx(wanted)
    assert (found["label-set"].value == 1) is (set(kept) == set(true))
    assert "label-counts" not in [score.metric for score in found]
    assert "counts each claimed label once" in found.notes[0]


def test_metrics_of_counts_and_of_sets_each_refuse_the_other_claim() -> None:
    distinct, counted = (ls.Labels(torch.tensor([1, 4]), distinct=one) for one in (True, False))
    assert not applies(LabelCounts(), distinct)
    assert not applies(ls.LabelSet(), counted)
    assert applies(ls.LabelSet(), distinct)
    assert applies(LabelPresence(), distinct)
    with pytest.raises(ls.BadInput, match="compares counts, but the claim is a set of labels"):
        ls.score(distinct, labeled(1, 4), metrics=[LabelCounts()])


def test_a_set_of_every_class_is_no_leak_where_every_batch_holds_every_class() -> None:
    public = labeled(*range(4), *range(4))
    batch = labeled(*[label for label in range(4) for _ in range(8)])
    found = ls.score(ls.Labels(torch.arange(4), distinct=True), batch, public=public)["label-set"]
    assert (found.value, found.chance) == (1.0, 1.0)
    few = ls.score(ls.Labels(torch.tensor([3]), distinct=True), labeled(3), public=labeled(*range(40)))["label-set"]
    assert few.value == 1.0
    assert 1 > few.chance >= 1 / 40


def test_a_label_that_the_public_part_lacks_has_the_uniform_chance_at_least() -> None:
    """Faces: the persons of the public half need not be those of the private one; a guess at random is no leak."""
    public, count = labeled(*[0] * 30, *[1] * 10), 5000  # so many that draws would miss it
    soft = torch.nn.functional.one_hot(torch.tensor([7]), count).float()
    found = ls.score(ls.Labels(torch.tensor([7])), ls.Batch(torch.zeros(1, 1), soft), public=public)["label-accuracy"]
    assert found.chance >= 1 / count
    many = torch.nn.functional.one_hot(torch.tensor([7, 9, 7]), count).float()
    three = ls.score(ls.Labels(torch.tensor([7, 9, 7])), ls.Batch(torch.zeros(3, 1), many), public=public)
    assert three["label-accuracy"].chance >= 1 / count


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.sampled_from([ls.LabelAccuracy(), LabelCounts()]))
def test_one_absent_class_stands_for_all_of_them(true: list[int], metric: ls.LabelAccuracy | LabelCounts) -> None:
    truth = LabelTruth(torch.tensor(true), 7)
    drawn = UniformLabel(truth).claims(key=ls.Key(0))
    short = sum(weight * np.mean(metric.items(claim.values, truth.labels)) for weight, claim in drawn)
    whole = np.mean([np.mean(metric.items(torch.full((len(true),), c), truth.labels)) for c in range(7)])
    assert short == pytest.approx(whole)


# --- speech and texts -----------------------------------------------------------------------------------------------


def spoken(*said: str) -> ls.Batch:
    """Utterances with these transcripts, a is 1."""
    labels = [torch.tensor([ord(one) - 96 for one in text]) for text in said]
    frames = torch.rand(len(said), 4, 3, generator=ls.Key(len(said)).generator())
    lengths = torch.full((len(said),), 4)
    padded = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True)
    return ls.Batch(frames, padded, lengths, torch.tensor([len(text) for text in said]))


def test_transcripts_come_without_their_filling() -> None:
    assert spoken("abc", "d").transcripts() == ((1, 2, 3), (4,))
    with pytest.raises(ls.BadInput, match="no transcripts"):
        labeled(1).transcripts()


def test_random_public_speech_is_a_guess_and_where_it_repeats_the_secret_chance_knows() -> None:
    """A corpus of few sentences that all say: what any public utterance tells is no leak."""
    batch = spoken("abcde", "vwxyz")
    found = ls.score(ls.Transcripts(batch.transcripts()), batch, public=batch)
    assert found["character-error-rate"].chance == 0.0
    frames = ls.Inputs(batch.inputs, lengths=batch.lengths)
    assert ls.score(frames, batch, public=batch)["frame-error"].chance == pytest.approx(0.0, abs=1e-7)
    ids = ls.Batch(torch.tensor([[5, 3, 7], [8, 9, 4]]), torch.tensor([0, 1]))
    texts = ls.score(ls.Tokens(((8, 9, 4), (5, 3, 7))), ids, public=ids)
    assert {score.metric: score.chance for score in texts} == {
        "token-error": 0.0, "token-overlap": 1.0, "token-order": 1.0, "exact-text": 1.0,
    }  # fmt: skip


# --- the table ------------------------------------------------------------------------------------------------------

CLAIMS: tuple[ls.AbstractClaim, ...] = tuple(claim for kind in KINDS for claim in kind.examples)
"""Each kind brings its own, so that a new one is tested by its row in the table."""


def test_each_claim_is_of_one_kind_and_each_kind_has_metrics_that_judge_it() -> None:
    assert [sum(kind.holds(claim) for kind in KINDS) for claim in CLAIMS] == [1] * len(CLAIMS)
    for kind in KINDS:
        assert kind.examples
        for claim in kind.examples:
            assert kind_of(claim) is kind
            assert isinstance(claim, kind.claims)
            assert [metric for metric in kind.default if applies(metric, claim)]
        for metric in kind.default:
            assert kind.takes(metric)
            assert any(applies(metric, claim) for claim in kind.examples), f"no example of {kind} is for {metric}"
    names = Counter(metric.name for kind in KINDS for metric in kind.default)
    assert names.most_common(1)[0][1] == 1


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda one: type(one).__name__)
def test_a_claim_of_each_kind_comes_back_from_a_file_as_it_was(claim: ls.AbstractClaim) -> None:
    kind = kind_of(claim)
    tensors, text = kind.written(claim)
    back = kind_named(type(claim).__name__).read(tensors, json.loads(json.dumps(text)))
    assert kind_of(back) is kind
    again, said = kind.written(back)
    assert said == text
    torch.testing.assert_close(again, tensors, rtol=0, atol=0, equal_nan=True)


def test_what_no_kind_holds_is_said() -> None:
    class Hunch(ls.AbstractClaim):
        confidence = None

        def __len__(self) -> int:
            return 1

    with pytest.raises(ls.BadInput, match="no kind of claim holds Hunch"):
        ls.score(Hunch(), labeled(1))


HELD = {"Inputs", "Tokens", "Labels", "Transcripts", "Attribute"}
"""What a source can hold as it stands; of any source whatever a kind may claim more, such as a number of examples."""


@pytest.mark.parametrize(
    ("source", "names"),
    [
        (ls.Digits(size=8), ["Inputs"]),
        (ls.Sentences(length=8, count=64), ["Tokens", "Labels"]),
        (ls.Spoken(speakers=2, each=4, shortest=1.0, longest=1.2), ["Inputs", "Transcripts", "Attribute"]),
    ],
    ids=lambda one: type(one).__name__,
)
def test_the_blind_control_claims_every_kind_that_a_source_holds(source: AbstractSource, names: list[str]) -> None:
    target = ls.MLP((4,)).build(ls.Images(1, 2, 2), 3, key=ls.Key(0))
    one = source.public_annotations()
    lineup = [ls.Gallery("speaker", one[0].categories, one[0].values, source.public())] if one else []
    seen = ls.Observation(target, ls.Gradient(target.parameters()), ls.FedSGD(), tuple(lineup))
    claims = BlindGuess(source, 2).claims(seen, key=ls.Key(0))
    assert [name for claim in claims if (name := type(claim).__name__) in HELD] == names
    secret = source.draw(2, key=ls.Key(1))
    known = source.public_annotations()
    for claim in claims:
        found = ls.score(claim, secret, domain=source.domain, public=source.public(), public_annotations=known)
        assert not any(score.beats_chance for score in found), type(claim)


def test_a_record_from_before_answers_is_read() -> None:
    """What earlier versions wrote has no answers, and what has none reads as nothing."""
    spec = CellSpec(
        role=Role.AUDITED, target="", dataset="", mechanism="", attack="", batch_size=1, told=(), metrics=(), trial=0,
        seed=0,
    )  # fmt: skip
    record = Record(identity="x", spec=spec, ending=Ending.CLAIMED, sentence="so")
    before = {name: value for name, value in record.model_dump(mode="json").items() if name != "answers"}
    assert Record.model_validate_json(json.dumps(before)) == record


def test_answers_are_on_the_page_and_withheld_where_it_is_redacted() -> None:
    said = AnswerRecord(asked="which characters were said", true="ab", claimed=None)
    spec = CellSpec(
        role=Role.AUDITED, target="", dataset="", mechanism="", attack="", batch_size=1, told=(), metrics=(), trial=2,
        seed=0,
    )  # fmt: skip
    record = Record(identity="x", spec=spec, ending=Ending.CLAIMED, sentence="so", answers=(said, said))
    shown = answers([record], Veil())
    assert [(one.name, one.true, one.claimed) for one in shown] == [
        ("trial 2, example 1", "ab", None), ("trial 2, example 2", "ab", None),
    ]  # fmt: skip
    assert "ab" not in {one.true for one in answers([record], Veil(on=True))}


# --- from a source to a record --------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Crowd(AbstractSource):
    """Pictures of 200 people, of whom 80 % have the second sex."""

    @property
    def domain(self) -> ls.Images:
        return ls.Images(1, 2, 2)

    @property
    def classes(self) -> int:
        return 2

    def load(self) -> ls.Batch:
        return ls.Batch(torch.rand(200, 1, 2, 2, generator=ls.Key(0).generator()), torch.arange(200) % 2)

    def annotations(self) -> tuple[ls.Annotation, ...]:
        return (ls.Annotation("sex", tuple(int(place % 5 > 0) for place in range(200)), SEXES),)


@final
@dataclass(frozen=True)
class Usual(ls.AbstractAttack[None, ls.Attribute]):
    """Names the majority, whatever it sees."""

    @property
    def citation(self) -> str:
        return ""

    def _read(self, seen: ls.Observation) -> None:
        return None

    def _attempt(
        self, seen: ls.Observation, read: None, *, key: ls.Key, clock: Clock, watch: Watch
    ) -> ls.Attempt[ls.Attribute]:
        return ls.Attempt(repr(self), ls.Outcome.CLAIMED, "the majority", ls.Attribute("sex", torch.tensor([1])))


def test_an_audit_knows_the_prior_of_its_source() -> None:
    scene = Scene("a crowd", Crowd(), ls.Linear())
    plan = Plan("who", (scene,), (ls.FedSGD(),), (Usual(),), metrics=(ls.TopOne(),), trials=12)
    records = [run_cell(cell).record for cell in plan.cells() if cell.role is Role.AUDITED]
    scores = [next(score for score in record.scores if score.metric == "top-1") for record in records]
    assert {(score.value, score.chance) for score in scores} == {(1.0, 1.0), (0.0, 0.5)}
    assert all(record.rankings[0].best[0] == "m" for record in records)
