"""Who spoke: ranks against counting by hand, encoders against another library, training against itself, and a page."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from typer.testing import CliRunner

import leakscope as ls
from leakscope.attacks.attributes.learning import Course, Recipe, learn, triplet
from leakscope.attacks.attributes.rescnn import STAGES, ResCNNNetwork, Shape, fresh, prepared, save
from leakscope.attacks.attributes.resemblyzer import mel_spectrogram, slaney_filters
from leakscope.audit.engines.inline import Inline
from leakscope.audit.plan import Plan, Scene
from leakscope.audit.run import run
from leakscope.audit.telling import tell
from leakscope.cli.main import app
from leakscope.core.claim import Attribute
from leakscope.core.effort import Progress
from leakscope.ledger.record import Word
from leakscope.ledger.run_folder import RunStore
from leakscope.report.page_run import write_page
from leakscope.scoring.case import Case
from leakscope.scoring.kinds.attributes import PrivateAttributes, standings, table

METRICS = [ls.TopOne(), ls.TopFive(), ls.ReciprocalRank()]
PERSONS = tuple("abcdefghij")
VOICES = ls.Spoken(speakers=2, each=6, shortest=1.2, longest=1.6)
PACKAGED = importlib.util.find_spec("resemblyzer") is not None
needs_package = pytest.mark.skipif(not PACKAGED, reason="pip install --no-deps Resemblyzer==0.1.4")


def secret_of(*who: int, categories: tuple[str, ...] = PERSONS) -> ls.Secret:
    """Utterances of nothing, each of a person."""
    count = torch.full((len(who),), 2)
    batch = ls.Batch(torch.zeros(len(who), 2, 3), torch.ones(len(who), 2).long(), count, count)
    return ls.Secret(batch, (ls.Annotation("speaker", who, categories),))


def ranking(*rows: Sequence[float]) -> Attribute:
    scores = torch.tensor(rows, dtype=torch.float64)
    return Attribute("speaker", scores.argmax(1), scores=scores)


# --- ranks ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3), min_size=1, max_size=5), st.integers(0, 4))
def test_a_standing_is_the_mean_over_all_orders_that_the_scores_allow(scores: list[int], place: int) -> None:
    """Ties broken in every possible way, one after another, and counted."""
    truth = place % len(scores)
    orders = [
        order
        for order in itertools.permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    ranks = [order.index(truth) + 1 for order in orders]
    ((found,),) = table(torch.tensor([scores], dtype=torch.float64), [truth])
    assert found is not None
    assert found.rank == pytest.approx(np.mean(ranks))
    assert found.within(1) == pytest.approx(np.mean([rank <= 1 for rank in ranks]))
    assert found.within(3) == pytest.approx(np.mean([rank <= 3 for rank in ranks]))
    assert found.reciprocal() == pytest.approx(np.mean([1 / rank for rank in ranks]))


@pytest.mark.parametrize("count", [3, 7, 40])
def test_chance_is_one_over_n_five_over_n_and_the_harmonic_number_over_n(count: int) -> None:
    names = tuple(f"s{n}" for n in range(count))
    nobody = ranking([0.0] * count)
    found = ls.score(nobody, secret_of(2, categories=names), metrics=METRICS)
    harmonic = math.fsum(1 / rank for rank in range(1, count + 1))
    wanted = {"top-1": 1 / count, "top-5": min(1, 5 / count), "reciprocal-rank": harmonic / count}
    assert {score.metric: score.chance for score in found} == pytest.approx(wanted)
    assert {score.metric: score.value for score in found} == pytest.approx(wanted)  # who prefers nobody has chance


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 99))
def test_scores_of_random_rankings_are_shares_with_their_intervals_in_any_order(who: list[int], seed: int) -> None:
    drawn = torch.rand(len(who), 10, generator=ls.Key(seed).generator(), dtype=torch.float64)
    shuffled = torch.randperm(len(who), generator=ls.Key(seed).child("order").generator())
    one = ls.score(ranking(*drawn.tolist()), secret_of(*who), metrics=METRICS)
    other = ls.score(ranking(*drawn[shuffled].tolist()), secret_of(*who), metrics=METRICS)
    for score in one:
        assert score.low <= score.value <= score.high
        # of few items an interval may hold every score, and then it is none
        assert score.high <= 1 or math.isinf(score.high)
        assert (score.value, score.chance) == pytest.approx((other[score.metric].value, other[score.metric].chance))


def test_blind_rankings_of_a_batch_score_its_chance_level_which_is_above_that_of_one_item() -> None:
    """Claims are paired with items to their advantage; chance has to have the same advantage."""
    case, kind, metric, values = Case(secret_of(1, 4, 7)), PrivateAttributes(), ls.ReciprocalRank(), []
    for seed in range(200):
        claim = ranking(*torch.rand(3, 10, generator=ls.Key(seed).child("blind").generator()).double().tolist())
        values.append(np.mean(metric.items(standings(kind.compared(claim, case)))))
    alone = math.fsum(1 / rank for rank in range(1, 11)) / 10
    nobody = kind.compared(ranking(*[[0.0] * 10] * 3), case)
    level = kind.levels([metric], nobody, case, key=ls.Key(0))[metric].value
    assert np.mean(values) == pytest.approx(level, abs=4 * np.std(values) * math.sqrt(1 / 200 + 1 / 128))
    assert level > alone + 0.05


def test_a_person_who_is_ruled_out_is_not_found_and_a_note_says_so() -> None:
    gone = -math.inf
    found = ls.score(ranking([gone, 1.0, 0.5, *[gone] * 7]), secret_of(0), metrics=METRICS)
    assert {score.value for score in found} == {0.0}
    assert "ruled out" in found.notes[0]
    there = ls.score(ranking([gone, 1.0, 0.5, *[gone] * 7]), secret_of(2), metrics=METRICS)
    assert (there["top-1"].value, there["top-1"].chance, there["reciprocal-rank"].value) == (0.0, 0.5, 0.5)


@pytest.mark.parametrize(
    ("run_it", "text"),
    [
        (lambda: ls.score(ranking([0.0] * 10), secret_of(1).reveal()), "a batch does not tell the speaker"),
        (lambda: ls.score(Attribute("sex", torch.tensor([0])), secret_of(1)), "unknown annotation of the secret 'sex'"),
        (lambda: ls.score(ranking([0.0] * 4), secret_of(1)), "scores 4 categories, 'speaker' has 10"),
        (lambda: ls.score(Attribute("speaker", torch.tensor([10])), secret_of(1)), r"must lie in 0\.\.9"),
        (lambda: ranking([0.0, math.nan]), "must be numbers below infinity"),
        (
            lambda: Attribute("speaker", torch.tensor([0]), scores=torch.zeros(2, 3)),
            r"expected floating scores \(1, G\)",
        ),
        (lambda: ls.Annotation("speaker", (3,), ("a", "b")), "expected places in 2 categories"),
        (lambda: ls.Secret(secret_of(1).reveal(), (ls.Annotation("speaker", (0, 0), ("a",)),)), "known of 2 examples"),
        (lambda: ls.SpeakerIdentity(encoder=ls.CepstralMoments(), enrollments=0), "enrollments >= 1"),
        (lambda: ls.SpeakerIdentity(of=ls.CepstralMoments()), "expected an attack and a speaker encoder"),  # type: ignore[arg-type]
        (lambda: ls.CepstralMoments().of_frames([torch.zeros(0, 5)]), "leave out what is empty"),
        (lambda: ls.CepstralMoments().of_frames([]), "at least one utterance"),
        (lambda: ls.ResCNN("no/such.safetensors").of_frames([torch.zeros(3, 26)]), "leakscope train speaker --out"),
    ],
)
def test_mistakes_are_said(run_it: object, text: str) -> None:
    with pytest.raises(ls.BadInput, match=text):
        run_it()  # type: ignore[operator]


# --- identification, with an encoder whose geometry is known --------------------------------------------------------


@final
@dataclass(frozen=True)
class Compass(ls.AbstractSpeakerEncoder):
    """The direction of (first, second) coefficient of the first frame: what an embedding is can be drawn on paper."""

    citation: ClassVar[str] = ""

    def version(self) -> str:
        return repr(self)

    def of_frames(self, utterances: Sequence[Tensor]) -> Tensor:
        return torch.nn.functional.normalize(torch.stack([one[0, :2].double() for one in utterances]), dim=1)

    def of_sound(self, recordings: Sequence[Tensor]) -> Tensor:
        raise NotImplementedError


def pointing(degrees: float) -> Tensor:
    """One frame in this direction."""
    return torch.tensor([[math.cos(math.radians(degrees)), math.sin(math.radians(degrees)), 0.0]])


def lineup(*degrees: tuple[float, ...]) -> ls.Gallery:
    """One recording for each number of each person."""
    frames = torch.stack([pointing(one) for person in degrees for one in person])
    one = torch.ones(len(frames)).long()
    batch = ls.Batch(frames, one[:, None], one, one)
    members = tuple(person for person, own in enumerate(degrees) for _ in own)
    return ls.Gallery("speaker", PERSONS[: len(degrees)], members, batch)


def test_the_nearest_direction_is_named_and_all_others_are_ranked_by_their_angle() -> None:
    attack = ls.SpeakerIdentity(encoder=Compass())
    claim, sentence = attack.named([pointing(50), pointing(170)], lineup((0.0,), (90.0,), (180.0,), (105.0,)))
    assert claim.values.tolist() == [1, 2]
    angles = [[50.0, 40.0, 130.0, 55.0], [170.0, 80.0, 10.0, 65.0]]
    np.testing.assert_allclose(claim.scores, np.cos(np.radians(angles)), atol=1e-6)
    assert "nearest of 4 speakers, by 1 recordings each: 'b', 'c'" in sentence
    found = ls.score(claim, secret_of(3, 2, categories=PERSONS[:4]), metrics=[ls.ReciprocalRank()])
    assert found["reciprocal-rank"].items == pytest.approx((1 / 3, 1.0))  # b and a are nearer than d


def test_enrollments_are_averaged_and_folds_look_at_other_recordings() -> None:
    people = lineup((0.0, 60.0, 20.0), (90.0, 90.0, 200.0))
    heard = [pointing(50)]

    def cosines(enrollments: int, fold: int) -> list[float]:
        claim, _ = ls.SpeakerIdentity(encoder=Compass(), enrollments=enrollments, fold=fold).named(heard, people)
        assert claim.scores is not None
        return np.degrees(np.arccos(claim.scores[0])).tolist()

    assert cosines(1, 0) == pytest.approx([50, 40], abs=1e-3)
    assert cosines(1, 1) == pytest.approx([10, 40], abs=1e-3)
    assert cosines(1, 3) == pytest.approx([50, 40], abs=1e-3)  # beginning again
    assert cosines(2, 0) == pytest.approx([20, 40], abs=1e-3)  # the mean of 0 and 60 degrees points to 30
    assert cosines(2, 1) == pytest.approx([40, 95], abs=1e-3)  # the third and the first


def test_who_has_no_recording_is_ruled_out_and_counted() -> None:
    claim, sentence = ls.SpeakerIdentity(encoder=Compass(), enrollments=2).named([pointing(1)], lineup((0.0, 5.0), ()))
    assert claim.scores is not None
    assert claim.scores[0, 1] == -math.inf
    assert "nearest of 1 speakers" in sentence
    assert "1 of them by fewer recordings or none" in sentence


def test_the_lineup_is_public_and_tells_no_private_recording() -> None:
    (people,) = tell([ls.Gallery], None, None, source=VOICES)  # type: ignore[arg-type, list-item]
    assert isinstance(people, ls.Gallery)
    everything = VOICES.load()
    private = VOICES.draw(len(everything) - len(people.examples), key=ls.Key(0))
    assert people.contradiction(private.reveal()) is None
    assert people.contradiction(people.examples.rows(torch.tensor([0])).trimmed()) is not None
    for place, position in enumerate(VOICES.positions(people.examples)):
        assert people.categories[people.members[place]] == VOICES.utterances()[position].speaker
    told = [private.annotation("speaker").categories[v] for v in private.annotation("speaker").values]
    assert told == [VOICES.utterances()[p].speaker for p in VOICES.positions(private.reveal())]
    again = ls.Gallery(people.attribute, people.categories, people.members, people.examples)
    assert repr(again) == repr(people)


# --- encoders -------------------------------------------------------------------------------------------------------


def test_each_mel_filter_has_unit_area_and_peaks_where_it_should() -> None:
    """Areas by the sum over bins of 40 Hz; the first 15 mel are linear, one per 200/3 Hz."""
    filters = slaney_filters()
    np.testing.assert_allclose(filters[:, 5:].sum(0) * 40, 1, atol=0.05)
    assert (filters[:, 0] > 0).sum() <= 4
    tone = torch.sin(2 * math.pi * 1000 * torch.arange(16_000, dtype=torch.float64) / 16_000)
    middle = mel_spectrogram(tone)[50]
    peak = int(filters[1000 // 40].argmax())
    assert int(middle.argmax()) == peak


@needs_package
def test_our_encoder_is_the_package_s(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("librosa")
    monkeypatch.setitem(sys.modules, "webrtcvad", types.ModuleType("webrtcvad"))  # it would need pkg_resources
    theirs = pytest.importorskip("resemblyzer").VoiceEncoder("cpu", verbose=False)
    loud = [VOICES.sound(0), 0.5 * VOICES.sound(7), torch.cat([VOICES.sound(1), VOICES.sound(2), VOICES.sound(3)])]
    for samples in loud:
        level = float(samples.square().mean().sqrt())
        assert level > 10 ** (-30 / 20)
        np.testing.assert_allclose(
            ls.Resemblyzer().of_sound([samples])[0], theirs.embed_utterance(samples.numpy()), atol=1e-5
        )


@needs_package
def test_resemblyzer_knows_two_voices_apart_from_sound_and_from_frames() -> None:
    batch, encoder = VOICES.load(), ls.Resemblyzer(turns=4)
    assert batch.lengths is not None
    chosen = [0, 1, 6, 7]  # two of each
    frames = [batch.inputs[place, : batch.lengths[place]] for place in chosen]
    state = torch.get_rng_state()
    made = encoder.of_frames(frames)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(made, encoder.of_frames(frames))
    assert not torch.equal(made, ls.Resemblyzer(turns=5).of_frames(frames))
    for embeddings in (made, encoder.of_sound([VOICES.sound(place) for place in chosen])):
        np.testing.assert_allclose(embeddings.norm(dim=1), 1, atol=1e-6)
        cosines = embeddings @ embeddings.T
        same, others = min(cosines[0, 1], cosines[2, 3]), cosines[:2, 2:].max()
        assert same > others + 0.02
    quiet = encoder.of_sound([1e-3 * VOICES.sound(0)])
    np.testing.assert_allclose(quiet, encoder.of_sound([2e-3 * VOICES.sound(0)]), atol=1e-5)


def test_without_the_package_the_line_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ls.MissingExtra, match=r"pip install --no-deps 'Resemblyzer==0\.1\.4'"):
        ls.Resemblyzer().of_frames([torch.zeros(10, 26)])


def test_moments_by_hand() -> None:
    frames = torch.tensor([[-20.0, 1.0, 3.0], [-22.0, 3.0, 3.0]])
    expected = np.array([2.0, 3.0, 1.0, 1.0, 0.0])
    np.testing.assert_allclose(
        ls.CepstralMoments().of_frames([frames])[0], expected / np.linalg.norm(expected), rtol=1e-6
    )


def speech_like(speaker: int, said: int, frames: int = 40) -> Tensor:
    """Frames of 6 coefficients around a point of the speaker."""
    own = 2 * torch.randn(6, generator=ls.Key(speaker).child("voice").generator())
    return own + torch.randn(frames, 6, generator=ls.Key(said).child("said", speaker).generator())


def course(**changes: int) -> Course:
    who = tuple(speaker for speaker in range(3) for _ in range(5))
    utterances = tuple(speech_like(speaker, said) for speaker in range(3) for said in range(5))
    recipe = Recipe(**{"softmax": 20, "triplet": 10, "batch": 8, **changes})
    return Course(utterances, who, Shape(width=4, blocks=1, dimensions=16, coefficients=6), recipe)


def test_three_speakers_are_learned_and_a_new_utterance_of_each_is_nearest_to_its_own(tmp_path: Path) -> None:
    asked = course()
    losses: list[Progress] = []
    learned = learn(asked, watch=losses.append)
    assert learned.accuracy == 1.0
    assert losses[19].loss < 0.5 * losses[0].loss
    assert losses[-1].fraction == 1.0
    path = str(tmp_path / "voices.safetensors")
    save(learned.network, asked.shape, path)
    encoder = ls.ResCNN(path)
    old = encoder.of_frames(asked.utterances)
    new = encoder.of_frames([speech_like(speaker, 77) for speaker in range(3)])
    np.testing.assert_allclose(new.norm(dim=1), 1, atol=1e-6)
    assert [asked.speakers[int(one.argmax())] for one in new @ old.T] == [0, 1, 2]
    before = encoder.version()
    save(fresh(asked.shape, key=ls.Key(9)), asked.shape, path)
    assert encoder.version() != before
    assert not torch.equal(encoder.of_frames(asked.utterances), old)
    with pytest.raises(ls.BadInput, match=r"is for 6 coefficients, got \[26\]"):
        encoder.of_frames([torch.zeros(3, 26)])
    Path(path).write_bytes(Path(path).read_bytes()[:1000])
    with pytest.raises(ls.BadInput, match="holds no speaker encoder"):
        encoder.of_frames(asked.utterances)


def test_a_training_that_was_stopped_ends_with_the_same_bytes(tmp_path: Path) -> None:
    asked, place = course(softmax=26, triplet=4), str(tmp_path / "half")

    def stop(said: Progress) -> None:
        if said.fraction >= 28 / 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(asked, checkpoint=place, watch=stop)
    steps: list[Progress] = []
    resumed = learn(asked, checkpoint=place, watch=steps.append)
    assert len(steps) == 5  # saved after 25 of 30
    whole = learn(asked).network.state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in resumed.network.state_dict().items())
    with pytest.raises(ls.BadInput, match="the state of another training"):
        learn(course(softmax=27, triplet=4), checkpoint=place)
    Path(place).write_bytes(b"no checkpoint")
    with pytest.raises(ls.BadInput, match="cannot be read"):
        learn(asked, checkpoint=place)


def test_26_coefficients_keep_their_time_steps_apart() -> None:
    """160 frames become 10 steps of 8 x width channels in 2 bands; each step is one vector."""
    shape = Shape(width=2, blocks=1, dimensions=4)
    network: ResCNNNetwork = fresh(shape, key=ls.Key(0)).eval()
    frames = torch.randn(1, 160, 26, generator=ls.Key(1).generator())
    maps = network.body(frames.unsqueeze(1))
    assert maps.shape == (1, 2 * 2 ** (STAGES - 1), 10, shape.bands)
    assert network.dense.in_features == maps.shape[1] * maps.shape[3]
    order = torch.stack([maps[0, :, step].flatten() for step in range(10)]).mean(0)
    expected = torch.nn.functional.normalize(network.dense(order), dim=0)
    torch.testing.assert_close(network(frames)[0], expected)


def test_each_frame_is_scaled_by_itself_and_the_rest_is_silence() -> None:
    got = prepared(torch.randn(200, 26, generator=ls.Key(0).generator()) * 7 + 3, start=150)
    np.testing.assert_allclose(got[:50].mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(got[:50].std(1, correction=0), 1, atol=1e-4)
    assert got.shape == (160, 26)
    assert not got[50:].any()


def test_the_triplet_loss_by_hand() -> None:
    angles = torch.tensor([0.0, 60.0, 90.0]).deg2rad()
    points = torch.stack([angles.cos(), angles.sin()], 1)
    # pairs (0, 1) and (1, 0) at cosine 1/2; the nearest other of 0 is at cosine 0, of 1 at cos 30
    wanted = (max(0, 0 - 0.5 + 0.1) + max(0, math.cos(math.radians(30)) - 0.5 + 0.1)) / 2
    assert float(triplet(points, torch.tensor([0, 0, 1]))) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    ("run_it", "text"),
    [
        (lambda: Recipe(batch=3), "a batch >= 4"),
        (lambda: Recipe(softmax=0, triplet=0), "at least one step"),
        (lambda: Shape(width=0), "sizes of at least 1"),
        (lambda: Course((torch.zeros(3, 26),) * 2, (0, 1)), "2 speakers with 2 utterances"),
        (lambda: Course((torch.zeros(3, 5),) * 4, (0, 0, 1, 1)), "frames of 26 coefficients"),
        (lambda: ls.Resemblyzer(turns=-1), "turns >= 0"),
    ],
)
def test_impossible_trainings_are_refused(run_it: object, text: str) -> None:
    with pytest.raises(ls.BadInput, match=text):
        run_it()  # type: ignore[operator]


# --- from the command line to the page ------------------------------------------------------------------------------


def test_an_encoder_is_trained_by_command_and_nothing_is_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "voices.safetensors"
    line = ["train", "speaker", "--data", repr(VOICES), "--out", str(out), "--width", "2", "--dimensions", "8"]
    line += ["--softmax", "3", "--triplet", "1", "--batch", "4", "--json"]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["speakers"], said["utterances"], said["encoder"]) == (2, 6, repr(ls.ResCNN(str(out))))
    assert ls.ResCNN(str(out)).of_sound([VOICES.sound(0)]).shape == (1, 8)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    again = CliRunner().invoke(app, line)
    assert again.exit_code == 2
    assert "is there already" in again.stderr
    other = [*line[:3], "Synthetic()", "--out", str(tmp_path / "x.safetensors")]
    assert "does not tell its speakers" in CliRunner().invoke(app, other).stderr


def test_persons_from_plan_to_page(tmp_path: Path) -> None:
    source = ls.Spoken(speakers=4, each=8, shortest=1.0, longest=1.2)
    scene = Scene("four voices", source, ls.DeepSpeech(hidden=128))
    attack = ls.SpeakerIdentity(encoder=ls.CepstralMoments(), enrollments=4)
    plan = Plan("who", (scene,), (ls.FedSGD(), ls.FedSGD() >> ls.Sign()), (attack,), trials=8, told=(ls.Gallery,))
    summary = run(plan, tmp_path / "run", Inline())
    plain, signs = summary.groups
    assert [score.metric for score in plain.scores] == ["top-1", "top-5", "reciprocal-rank"]
    assert plain.scores[0].chance == 0.25
    assert plain.word is Word.LEAKS
    assert "named right, chance 2" in plain.sentence
    assert signs.word is Word.INCONCLUSIVE
    blind = next(score for score in plain.blind_scores if score.metric == "top-1")
    assert (blind.value, blind.chance) == (0.25, 0.25)
    store = RunStore(tmp_path / "run")
    members = [store.record(name) for name in plain.members]
    for record in members:
        (one,) = record.rankings
        assert (one.true in source.speaker_names(), one.candidates) == (True, 4)
        assert (one.best[0] == one.true) == (record.scores[0].value == 1.0) == (one.rank == 1)
        assert "closed form" in record.steps[0]
    page = write_page(tmp_path / "run").read_text(encoding="utf-8")
    closed = write_page(tmp_path / "run", redact=True).read_text(encoding="utf-8")
    assert "Who it was" in page
    assert all(record.rankings[0].true in page for record in members)
    assert not any(name in closed for name in source.speaker_names())
