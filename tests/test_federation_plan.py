"""Plans of federations: read, run, gone on with and shown; on a folder of recordings whose features are made up."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import leakscope as ls
from leakscope.attacks.attributes.decide import Logistic
from leakscope.attacks.attributes.signals import ClassInputs
from leakscope.attacks.preparing import Setting
from leakscope.audit import federated
from leakscope.audit.federations import fit
from leakscope.audit.federations import plan as planned
from leakscope.audit.federations import run as running
from leakscope.audit.federations.asked import People, crossed, halves
from leakscope.audit.federations.findings import summarized, together
from leakscope.audit.federations.plan import (
    ALL,
    FederatedScene,
    FederationPlan,
    Recovered,
    Shadows,
    noiseless,
    undefended,
)
from leakscope.audit.federations.run import kept, run
from leakscope.cli import federation_keys
from leakscope.cli.ending import Exit
from leakscope.cli.federated import built
from leakscope.cli.main import app
from leakscope.cli.text import federation as text
from leakscope.cli.text.sheet import Sheet
from leakscope.core.annotation import Annotation
from leakscope.core.effort import Budget
from leakscope.core.errors import BadInput, BadPlan, UnknownName
from leakscope.ledger.played import ClaimRows, Part, PlayedRecord
from leakscope.ledger.record import Word
from leakscope.mechanisms.federated.stores import RoundsInMemory
from leakscope.numerics.rng import Key

SIZE, SPEAKERS, ROOT = 16, tuple(f"{one:02d}" for one in range(1, 25)), Path(__file__).parents[1]
PLAIN = ls.Federation(ls.FedSGD(), rounds=3, fraction=1.0, batch=8, server_lr=0.3, weighted=False, evaluate_every=1)
NOISY = dataclasses.replace(PLAIN, privacy=ls.UserLevel(0.5, 10.0))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """RAVDESS as published, of all actors, without sound: what features say is in files. Sex tilts each emotion."""
    folder = tmp_path_factory.mktemp("federated-actors")
    random = Key(0).generator()
    centers, tilt = 2 * torch.randn(8, SIZE, generator=random), 2 * torch.randn(8, SIZE, generator=random)
    own = 0.3 * torch.randn(len(SPEAKERS), 8, SIZE, generator=random)
    for place, actor in enumerate(SPEAKERS):
        (folder / "wav" / f"Actor_{actor}").mkdir(parents=True)
        for emotion in (1, 3, 4, 5):
            for sentence in (1, 2):
                for repetition in range(1, 5):
                    name = f"03-01-{emotion:02d}-01-{sentence:02d}-{repetition:02d}-{actor}"
                    (folder / "wav" / f"Actor_{actor}" / f"{name}.wav").touch()
                    sign = 2 * (place % 2) - 1
                    row = centers[emotion - 1] + sign * (1.0 + tilt[emotion - 1]) + own[place, emotion - 1]
                    np.save(folder / f"{name}.npy", (row + torch.randn(SIZE, generator=random)).numpy())
    # By a relative name: all draws depend on what a source says of itself, and a temporary folder has another name in
    # each run, which made what is found here a matter of luck.
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        yield Path(folder.name)


def source(folder, **changes):
    features = ls.FeatureFiles(str(folder), SIZE)
    return ls.EmotionFeatures(ls.Ravdess(str(folder / "wav")), features, ls.Normalization.CORPUS, **changes)


def plan(folder, **changes):
    made = {
        "title": "toys",
        "scenes": (FederatedScene("actors", source(folder)),),
        "targets": (ls.MLP((24, 16)),),
        "federations": (PLAIN, NOISY),
        "attacks": (Shadows("sums", (ClassInputs(1),), Logistic(), shadows=1, folds=0),),
        "shuffled": True,
        "delta": 0.05,
        "updates": (1,),
        "draws": 2,
        **changes,
    }
    return FederationPlan(**made)


def quiet(_):
    """Nobody is told."""


def test_each_row_stands_beside_its_controls(corpus):
    groups = plan(corpus).groups()
    parts = [Part.AUDITED, Part.SHUFFLED, Part.AUDITED, Part.NOISELESS, Part.SHUFFLED]
    assert [one.part for one in groups] == parts
    # The undefended one that the plan names is the control of the noisy one, and is run once.
    assert [cell.spec.identity for cell in groups[2].control] == [cell.spec.identity for cell in groups[0].cells]
    alone = plan(corpus, federations=(NOISY,), shuffled=False).groups()
    assert [one.part for one in alone] == [Part.AUDITED, Part.UNDEFENDED, Part.NOISELESS]
    assert alone[1].cells[0].federation == PLAIN == undefended(NOISY)
    assert NOISY.privacy is not None
    silent = dataclasses.replace(NOISY, privacy=dataclasses.replace(NOISY.privacy, noise_multiplier=0.0))
    assert alone[0].noiseless == alone[2].cells
    assert alone[2].cells[0].federation == silent == noiseless(NOISY)
    assert noiseless(PLAIN) is None is noiseless(silent)
    loud = dataclasses.replace(PLAIN, step=ls.FedSGD() >> ls.Clip(1.0) >> ls.GaussianNoise(0.1))
    assert noiseless(loud) == dataclasses.replace(PLAIN, step=ls.FedSGD() >> ls.Clip(1.0))
    hidden = dataclasses.replace(PLAIN, step=ls.FedSGD() >> ls.Clip(1.0), secure=2)
    assert undefended(hidden) == PLAIN
    assert len(plan(corpus).cells()) == 2 * 5


def test_both_halves_have_both_sexes_and_nobody_is_in_both(corpus):
    first, second = halves(source(corpus))
    assert sorted(first.speakers) == [f"{one:02d}" for one in range(1, 25) if one % 4 in (1, 2)]
    assert not set(first.speakers) & set(second.speakers)
    with pytest.raises(BadInput, match="no two halves"):
        halves(source(corpus, speakers=("01",)))
    with pytest.raises(BadInput, match="2 speakers, one of each sex"):
        halves(source(corpus, speakers=("01", "02")))


@pytest.mark.parametrize(
    ("attribute", "clients", "categories"), [("sex", 12, 2), ("emotion", 48, 4), ("speaker", 12, 12)]
)
def test_who_is_public_and_who_is_attacked_follows_from_the_question(corpus, attribute, clients, categories):
    public, private = halves(source(corpus))
    asked = People(public, private).asked(attribute, key=Key(0))
    told = asked.private.annotation(attribute)
    assert (len(asked.private), len(told.categories)) == (clients, categories)
    names = {asked.pool.annotation("speaker").categories[one] for one in asked.pool.annotation("speaker").values}
    assert names == set(private.speakers if attribute == "speaker" else public.speakers)
    # Who is recognized is known by three quarters, of which none is trained on.
    rows = {row.numpy().tobytes() for row in asked.pool.batch.inputs}
    assert not any(row.numpy().tobytes() in rows for client in asked.private.clients for row in client.inputs)
    if attribute == "speaker":
        assert len(asked.pool) == 12 * 24
    if attribute == "emotion":
        # All recordings of a client are in its emotion.
        for client, value in zip(asked.private.clients, told.values, strict=True):
            assert set(client.labels.tolist()) == {value}


def test_divided_speakers_are_as_many_clients_and_one_person(corpus):
    public, private = halves(source(corpus))
    asked = People(public, private, each=4).asked("sex", key=Key(0))
    assert len(asked.private) == 48
    assert len(set(asked.private.annotation("speaker").values)) == 12
    learner = Shadows("sums", (ClassInputs(1),), Logistic(), 1, 0).on(asked, PLAIN)
    assert len(learner.people()) == 48
    assert learner.owner == "speaker"


def test_shuffled_sexes_are_of_as_many_and_of_others(corpus):
    public, private = halves(source(corpus))
    plain, mixed = (People(public, private, shuffled=one).asked("sex", key=Key(1)) for one in (False, True))
    values = [one.private.annotation("sex").values for one in (plain, mixed)]
    assert sorted(values[0]) == sorted(values[1])
    assert values[0] != values[1]
    assert plain.pool.annotation("sex").values != mixed.pool.annotation("sex").values
    assert plain.private.names == mixed.private.names
    with pytest.raises(BadInput, match="shuffle another"):
        People(public, private, shuffled=True).asked("speaker", key=Key(0))
    with pytest.raises(UnknownName, match="age"):
        People(public, private).asked("age", key=Key(0))


def test_pairs_of_annotations_are_those_that_occur():
    first, second = Annotation("a", (0, 1, 1), ("x", "y")), Annotation("b", (1, 0, 0), ("p", "q"))
    assert crossed(first, second, "c").categories == ("x q", "y p")


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, run(plan(corpus), folder, tell=quiet)


def test_a_plan_finds_what_is_there_and_not_what_is_not(finished):
    """Sex tilts every emotion: it leaks; noise of ten clips hides it, and shuffled sexes tell nothing."""
    _, found = finished
    assert found.whole
    rows = {(row.part, row.epsilons is not None): row for row in found.summary.rows}
    open_row, noisy = rows[Part.AUDITED, False], rows[Part.AUDITED, True]
    assert open_row.word is Word.LEAKS
    assert noisy.word is not Word.LEAKS
    assert found.summary.word is Word.LEAKS
    assert not any(row.word is Word.LEAKS for row in found.summary.rows if row.part is Part.SHUFFLED)
    assert [one.updates for one in open_row.found] == [1, ALL]
    assert open_row.found[1].persons == open_row.found[0].persons == 24
    assert open_row.uar > 0.3
    one, whole = noisy.epsilons[1:]
    assert 0 < one < whole < 1


def test_of_many_rows_one_has_to_leak_beyond_what_luck_makes_of_many(finished):
    rows = [row for row in finished[1].summary.rows if row.part is Part.AUDITED]
    leaks = next(row for row in rows if row.word is Word.LEAKS)
    assert leaks.found[1].luck <= 0.01
    leaks = leaks.model_copy(update={"found": (leaks.found[0], leaks.found[1].model_copy(update={"luck": 0.002}))})
    clear = leaks.model_copy(update={"word": Word.NO_LEAK_FOUND})
    # one alone among two, and half of ten at most at twice their luck: P(k of n are at most t) <= n t / k
    for count, others, word in ((1, 1, Word.LEAKS), (1, 2, Word.INCONCLUSIVE), (5, 5, Word.LEAKS), (30, 0, Word.LEAKS)):
        assert together([leaks] * count + [clear] * others)[0] is word
    word, said = together([leaks] * 4 + [clear] * 6)
    assert word is Word.INCONCLUSIVE
    assert "those that leak do not among 10" in said
    assert together([clear] * 3) == (
        Word.NO_LEAK_FOUND,
        "3 rows: 0 leaks, 0 inconclusive, 3 no leak found at this power",
    )


def test_a_cell_says_what_the_federation_by_itself_says(corpus, finished):
    """The whole by hand, from first weights to the claim of each client by all that it sent, of the first direction."""
    folder, _ = finished
    cell = plan(corpus).groups()[0].cells[0]
    record, root = kept(folder, cell.spec.identity), Key(0).child("federations", repr(cell.people))
    asked = cell.people.asked("sex", key=root.child("people"))
    learner, private = cell.attack.on(asked, PLAIN), cell.people.private
    setting = Setting(cell.target, private.domain, 4, ls.FedSGD())
    attack = learner.taught(
        learner.prepare(setting, key=Key(0).child("prepare", repr(learner)), clock=Budget().start())
    )
    target = cell.target.build(private.domain, 4, key=root.child("weights", repr(cell.target)))
    store = RoundsInMemory()
    PLAIN.run(target, asked.private, key=root.child("private"), into=store)
    rows = next(one for one in record.claims if one.updates == ALL)
    for name, person, truth, scores in zip(asked.private.names, rows.persons, rows.truth, rows.scores, strict=True):
        seen = ls.Observation(target, store.rounds_of(name), ls.FedSGD())
        assert np.allclose(scores, attack.run(seen, key=Key(0)).claim.scores[0].numpy(), atol=1e-6)
        # Odd actors are male, the second of two names.
        assert (name.split()[0], int(person) % 2) == (person, truth)


def judged_as(cells, right, **changes):
    """By the cell: 200 persons of each, alternating, of whom the first `right` of ten are named right."""
    made = {}
    for side, cell in enumerate(cells):
        truth = np.arange(200) % 2
        named = np.where(np.arange(200) // 2 % 10 < right, truth, 1 - truth)
        rows = ClaimRows(
            updates=ALL,
            truth=tuple(truth.tolist()),
            scores=tuple(tuple(row) for row in np.log(0.8 * np.eye(2)[named] + 0.1).tolist()),
            persons=tuple(f"{side} {at}" for at in range(200)),
        )
        whole = {"categories": ("f", "m"), "claims": (rows,), "clients": 12, **changes}
        made[cell.spec.identity] = PlayedRecord(spec=cell.spec, **whole)
    return made


def test_what_is_missing_of_a_row_is_called_by_its_name(corpus):
    """A direction, or the federation without its noise, is no person of whom nothing was claimed."""
    some = plan(corpus, federations=(NOISY,), shuffled=False, updates=())
    group = next(one for one in some.groups() if one.part is Part.AUDITED)
    told = judged_as(group.cells, 5) | judged_as(group.control, 10)
    quiet_ones = judged_as(group.noiseless, 10)
    refused = judged_as(group.noiseless, 10, claims=(), sentence="too few of each")

    def row(done):
        found = summarized(some, done).rows[0]
        return found.word, found.sentence

    assert row(told | quiet_ones)[0] is Word.NO_LEAK_FOUND
    for done, said in (
        (told, "the federation without its noise was not attacked yet"),
        (told | refused, "the federation without its noise was attacked without a claim (too few of each)"),
        (dict([*told.items()][1:]) | quiet_ones, "a direction was not attacked yet"),
    ):
        word, sentence = row(done)
        assert word is Word.INCONCLUSIVE
        assert sentence.endswith(f"; but {said}")
        assert "more persons" not in sentence


def test_what_is_done_is_not_run_again(corpus, finished, tmp_path, monkeypatch):
    """Stopped in the third cell and gone on with: the same rows, and nothing is attacked twice."""
    whole, count = finished[1].summary, 0
    attacked = running._attacked

    def counting(*arguments):
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return attacked(*arguments)

    monkeypatch.setattr(running, "_attacked", counting)
    stopped = run(plan(corpus), tmp_path, tell=quiet)
    assert not stopped.whole
    assert (stopped.summary.finished, stopped.summary.planned) == (2, 10)
    assert any(row.word is Word.INCONCLUSIVE and "not run" in row.sentence for row in stopped.summary.rows)
    again = run(plan(corpus), tmp_path, tell=quiet)
    assert count == 3 + 8
    assert again.summary.model_copy(update={"seconds": 0.0}) == whole.model_copy(update={"seconds": 0.0})


def test_what_failed_is_tried_again_when_its_file_is_back(corpus, tmp_path):
    folder = tmp_path / "corpus"
    shutil.copytree(corpus, folder)
    asked = plan(folder, federations=(dataclasses.replace(PLAIN, rounds=1),), shuffled=False)
    gone = next(folder.rglob("*.npy"))
    content = gone.read_bytes()
    gone.unlink()
    first = run(asked, tmp_path / "run", tell=quiet)
    assert first.summary.word is Word.INCONCLUSIVE
    assert f"no file {gone.stem}.npy" in first.summary.rows[0].sentence
    gone.write_bytes(content)
    again = run(asked, tmp_path / "run", tell=quiet)
    assert all(row.found for row in again.summary.rows)
    assert "no file" not in again.summary.rows[0].sentence


def test_a_person_of_both_directions_spoils_their_row_alone(corpus, finished, tmp_path):
    """Each record is sound by itself; it was an error of the whole plan, without a page and without naming anybody."""
    alone = plan(corpus, federations=(PLAIN,), shuffled=False)
    names = [f"{cell.spec.identity}.json" for cell in alone.cells()]
    mine, theirs = (json.loads((finished[0] / "records" / name).read_text()) for name in names)
    other = theirs["claims"][-1]
    for rows in mine["claims"]:
        name = other["persons"][other["truth"].index(rows["truth"][0])]
        rows["persons"] = [name if one == rows["persons"][0] else one for one in rows["persons"]]
    (tmp_path / "records").mkdir()
    for name, said in zip(names, (mine, theirs), strict=True):
        (tmp_path / "records" / name).write_text(json.dumps(said))
    (row,) = run(alone, tmp_path, tell=quiet).summary.rows
    assert row.word is Word.INCONCLUSIVE
    assert "is attacked in both directions" in row.sentence


def test_a_record_that_is_not_what_was_written_is_made_anew(corpus, finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    paths = sorted((folder / "records").iterdir())
    paths[0].write_text("{}")
    paths[1].write_text(paths[2].read_text())
    assert kept(folder, paths[0].stem) is None
    assert kept(folder, paths[1].stem) is None
    assert kept(folder, paths[2].stem) is not None
    assert len(list((folder / "damaged").iterdir())) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"truth": lambda was: [99] * len(was)},
        {"truth": lambda was: [-1] * len(was)},
        {"scores": lambda was: [[math.nan, 0.0]] * len(was)},
        {"scores": lambda was: [[math.inf, 0.0]] * len(was)},
        {"scores": lambda was: was[:-1]},
        {"scores": lambda was: [[0.0]] * len(was)},
        {"scores": lambda was: [[0.0, 0.0, 0.0], *was[1:]]},
        {"scores": lambda was: [[0.0, 0.0, 0.0]] * len(was)},
        {"persons": lambda was: ["01"] * len(was)},
        dict.fromkeys(("truth", "scores", "persons"), lambda _: []),
        {"updates": lambda _: 0},
    ],
    ids=["beyond", "below", "nan", "inf", "short", "narrow", "ragged", "wide", "one person", "nobody", "twice"],
)
def test_claims_that_nobody_can_judge_are_damage(finished, tmp_path, changes):
    """Moved aside and made anew, as all that was not written so: before, the page of all other cells was lost."""
    folder, path = tmp_path, sorted((finished[0] / "records").iterdir())[0]
    said = json.loads(path.read_text())
    for claims in said["claims"]:
        claims.update({name: change(claims[name]) for name, change in changes.items()})
    (folder / "records").mkdir()
    (folder / "records" / path.name).write_text(json.dumps(said))
    assert kept(folder, path.stem) is None
    assert (folder / "damaged" / path.name).is_file()


def test_an_attack_whose_scores_are_no_numbers_fails_alone(corpus, tmp_path, monkeypatch):
    def shown(*given, **more):
        rows = federated.shown(*given, **more)
        return tuple(dataclasses.replace(own, scores=tuple(row * math.nan for row in own.scores)) for own in rows)

    monkeypatch.setattr(running, "shown", shown)
    found = run(plan(corpus, federations=(PLAIN,), shuffled=False), tmp_path, tell=quiet)
    assert found.summary.word is Word.INCONCLUSIVE
    assert "cannot be judged" in found.summary.rows[0].sentence
    assert "below infinity" in found.summary.rows[0].sentence


def test_what_a_cell_is_changes_its_name(corpus):
    cell = plan(corpus).cells()[0]
    for change in (
        {"attribute": "emotion"},
        {"federation": NOISY},
        {"seed": 1},
        {"updates": (ALL,)},
        {"draws": 3},
        {"target": ls.MLP((8,))},
        {"people": dataclasses.replace(cell.people, hold_out=0.5)},
        {"people": dataclasses.replace(cell.people, shuffled=True)},
        {"attack": dataclasses.replace(cell.attack, leaked=1)},
    ):
        assert dataclasses.replace(cell, **change).spec.identity != cell.spec.identity
    assert dataclasses.replace(cell, part=Part.UNDEFENDED).spec.identity == cell.spec.identity


def test_rounds_are_kept_or_not_and_vectors_are_recovered(corpus, tmp_path):
    few = FederatedScene("few", source(corpus, speakers=tuple(f"{one:02d}" for one in range(1, 9))))
    small = plan(
        corpus,
        scenes=(few,),
        federations=(dataclasses.replace(PLAIN, rounds=1, batch=4),),
        attacks=(Recovered("vectors", ls.LowRank(), rounds=1),),
        shuffled=False,
        keep_rounds=False,
        targets=(ls.MLP((96, 16)),),
    )
    found = run(small, tmp_path, tell=quiet)
    assert [one.updates for one in found.summary.rows[0].found] == [ALL]
    assert not any((tmp_path / "rounds").iterdir())


def test_a_cell_that_cannot_be_attacked_is_never_cleared(corpus, tmp_path):
    frozen = dataclasses.replace(PLAIN, step=ls.FedSGD() >> ls.FreezeLayers(("layer_0.*", "1.*", "0.*")), rounds=1)
    found = run(plan(corpus, federations=(frozen,), shuffled=False), tmp_path, tell=quiet)
    assert found.whole
    assert found.summary.word is Word.INCONCLUSIVE
    assert "is in the update" in found.summary.rows[0].sentence


@pytest.mark.parametrize(("attribute", "clients"), [("sex", 12), ("emotion", 48), ("speaker", 24)])
def test_a_delta_that_promises_nothing_is_said_before_anything_is_played(corpus, tmp_path, attribute, clients):
    """The noise comes behind the federation without it, which may take hours."""
    for delta, refused in ((1 / clients, True), (0.99 / clients, False)):
        some = plan(corpus, attributes=(attribute,), delta=delta)
        told = []
        if refused:
            with pytest.raises(BadPlan, match=f"delta < 1 / {clients}"):
                run(some, tmp_path, tell=told.append)
            assert not told
        else:
            fit.check(some)
    asked = {len(cell.people.asked(attribute, key=ls.Key(0)).private) for cell in some.cells()[:1]}
    assert asked == {clients}, "as many as are played"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"attributes": ("age",)}, "'age'; known: emotion, sex, speaker"),
        ({"targets": (ls.LeNet(),)}, "takes images"),
        ({"attacks": (Shadows("deep", (ClassInputs(9),), Logistic()),)}, "dense layer 9, the model has 3"),
        ({"federations": (dataclasses.replace(PLAIN, step=ls.FedAvg(10**6, 0.1)),)}, "1000000 passes"),
        ({"each": 33}, "expected each <= 32"),
    ],
)
def test_what_no_scene_can_tell_is_said_before_a_feature_is_made(corpus, tmp_path, monkeypatch, changes, said):
    monkeypatch.setattr(ls.EmotionFeatures, "load", lambda self: pytest.fail("features were made"))
    changes = dict(changes)
    asked = plan(corpus, **{name: value for name, value in changes.items() if name != "each"})
    if "each" in changes:
        asked = dataclasses.replace(asked, scenes=(dataclasses.replace(asked.scenes[0], each=changes["each"]),))
    with pytest.raises(BadPlan, match=said):
        run(asked, tmp_path / "run", tell=quiet)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_another_plan_stays_as_it_is(corpus, finished, tmp_path):
    """Going on with it would write a page that lacks what the folder holds."""
    folder, _ = finished
    shutil.copytree(folder, tmp_path / "run")
    before = (tmp_path / "run" / running.SUMMARY).read_bytes()
    with pytest.raises(BadPlan, match=r"is of another plan: \d+ of its \d+ cells are not in this one"):
        run(plan(corpus, seed=99), tmp_path / "run", tell=quiet)
    assert (tmp_path / "run" / running.SUMMARY).read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"title": " "}, "title"),
        ({"attacks": ()}, "at least one attack"),
        ({"targets": ()}, "no target"),
        ({"attributes": ("sex", "sex")}, "twice"),
        ({"delta": 0.0}, "delta"),
        ({"hold_out": 1.0}, "hold_out"),
        ({"draws": 0}, "draws"),
        ({"draws": 10**13}, "draws <= 10000"),
        ({"updates": (-1,)}, "updates"),
    ],
)
def test_bad_plans_say_what_is_wrong(corpus, changes, said):
    with pytest.raises(BadPlan, match=said):
        plan(corpus, **changes)


def written(folder, more=""):
    return f"""
title = "toys"
delta = 0.05
attributes = ["sex"]
targets = ["MLP((24, 16))"]
federations = ["Federation(FedSGD(), rounds=2, fraction=1.0, batch=8, server_lr=0.3)"]
{more}
[[attack]]
name = "sums"
signals = ["ClassInputs(1)"]
shadows = 1
folds = 0

[[scene]]
name = "actors"
dataset = 'EmotionFeatures(Ravdess("{folder}/wav"), FeatureFiles("{folder}", {SIZE}), Normalization("corpus"))'
"""


def test_from_file_to_page_and_back(corpus, tmp_path):
    """The command, twice: what is there is refused, and with --resume comes out the same; the page loads nothing."""
    file, out, runner = tmp_path / "toys.toml", tmp_path / "out", CliRunner()
    file.write_text(written(corpus))
    first = runner.invoke(app, ["federation", str(file), "--out", str(out)])
    assert first.exit_code in (Exit.LEAK, Exit.INCOMPLETE), first.output
    page = (out / "report.html").read_text()
    assert "actors: sex" in page
    assert "UAR of persons with 95 % intervals" in page
    # Nobody is on it: no actor, and no name of a recording.
    assert "Actor_" not in page
    assert "03-01-" not in page
    assert runner.invoke(app, ["federation", str(file), "--out", str(out)]).exit_code == Exit.USAGE
    again = runner.invoke(app, ["federation", str(file), "--out", str(out), "--resume", "--json"])
    assert json.loads(again.stdout)["summary"]["finished"] == 2
    assert again.exit_code == first.exit_code
    assert (out / "report.html").read_text() == page
    lost = runner.invoke(app, ["federation", str(file), "--out", str(tmp_path / "nothing"), "--resume"])
    assert lost.exit_code == Exit.USAGE
    assert "nothing to resume" in lost.stderr


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("delta = 0.05", "dleta = 0.05", "did you mean 'delta'"),
        ("delta = 0.05", "delta = 2", "delta"),
        ("ClassInputs(1)", "ClasInputs(1)", "ClassInputs"),
        ('signals = ["ClassInputs(1)"]', 'signals = ["Logistic()"]', "expected a signal"),
        ('signals = ["ClassInputs(1)"]', 'recovers = "LowRank()"', "no meaning with recovers"),
        ("shadows = 1", "rounds = 1", "recovers alone"),
        ("shadows = 1", "shadows = 0", "shadows"),
        ("shadows = 1", "shadows = 1000000000000000000", "shadows <= 10000"),
        ("shadows = 1", "shadows = 1\nleaked = 1000000000", "leaked <= 1000000"),
        ("folds = 0", "folds = 1", "one fold"),
        ('name = "actors"', 'name = "actors"\neach = 1000000000', "each <= 1000"),
        ("rounds=2,", "rounds=1000000000000,", "rounds <= 1000000"),
        ("Federation(FedSGD(), rounds=2", "FedSGD(rounds=2", r"expected a federation.*Federation\(FedSGD"),
        ('signals = ["ClassInputs(1)"]', 'signals = ["Auto()"]', r"expected a signal.*ClassInputs\(1\)"),
        ('signals = ["ClassInputs(1)"]', 'decision = "EmotionNet()"', r"expected a decision.*Logistic\(\)"),
        (
            """signals = ["ClassInputs(1)"]\nshadows = 1\nfolds = 0""",
            'recovers = "RevealedLabels()"',
            "attack that claims inputs",
        ),
        ('attributes = ["sex"]', "updates = [1000000000000]", "at most 1000000"),
        ("Federation(FedSGD(), ", "Federation(FedSDG(), ", "FedSGD"),
        ('targets = ["MLP((24, 16))"]', "targets = []", "empty"),
        ("EmotionFeatures(Ravdess(", "EmotionFeatures(Ravdes(", "Ravdess"),
        ("[[scene]]", "[scene]", "tables"),
        ('attributes = ["sex"]', "updates = [0]", "above 0"),
        ('title = "toys"', "", "title"),
        ('title = "toys"', "mechanisms = []\ntrials = 3", "mechanisms"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_place(tmp_path, old, new, said):
    whole = written(tmp_path)
    assert old in whole
    with pytest.raises((BadPlan, UnknownName), match=said):
        built(text.parse(Sheet("toys.toml", whole.replace(old, new))))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('title = "toys"', 'title = " "', "line 2: title: is blank"),
        ('attributes = ["sex"]', "attributes = []", "line 4: attributes: .*empty"),
        ('attributes = ["sex"]', 'attributes = ["sex", "sex"]', "line 4: attributes: 'sex' is asked twice"),
        ('attributes = ["sex"]', 'attributes = ["sxe"]', "line 4: attributes: .*did you mean 'sex'"),
        ('title = "toys"', 'title = "toys"\ndraws = 10001', "line 3: draws: expected draws <= 10000"),
        ('name = "sums"', 'name = ""', r"line 9: attack\[0\].name: is blank"),
        ('name = "actors"', 'name = " "', r"line 15: scene\[0\].name: is blank"),
        ('name = "actors"', 'name = "actors"\neach = 33', r"line 16: scene\[0\].each: .*expected each <= 32"),
        ('name = "actors"', 'name = "actors"\ntargets = []', r"line 16: scene\[0\].targets: .*empty"),
        ('name = "sums"', 'name = "sums"\n[[attack]]\nname = "sums"', r"line 10: attack\[1\]: .* as attack\[0\] is"),
        ("MLP((24, 16))", "ConvNet()", "line 5: targets: .*takes images"),
        ("ClassInputs(1)", "ClassInputs(9)", r"line 10: attack\[0\].signals: .*the model has 3"),
        ("/wav", "/wov", r"line 16: scene\[0\].dataset: no folder"),
        (
            'Normalization("corpus"))',
            'Normalization("corpus"), speakers=("01",))',
            r"line 16: scene\[0\].dataset: .*halves",
        ),
    ],
)
def test_what_no_scene_takes_is_said_with_its_line_and_nothing_is_begun(corpus, tmp_path, old, new, said):
    file, out, whole = tmp_path / "toys.toml", tmp_path / "out", written(corpus)
    assert whole.count(old) == 1
    file.write_text(whole.replace(old, new))
    found = CliRunner().invoke(app, ["federation", str(file), "--out", str(out)])
    assert found.exit_code == Exit.USAGE, found.output
    assert re.search(said, " ".join(found.stderr.split())), found.stderr
    assert not out.exists()
    assert text.MOST_DRAWS == planned.MOST_DRAWS, "known without importing what is heavy"


def test_a_plan_of_another_kind_says_which_command_runs_it():
    from leakscope.cli.plan_keys import EXAMPLE

    with pytest.raises(BadPlan, match="leakscope audit"):
        text.parse(Sheet("faces.toml", EXAMPLE))


def test_the_page_of_the_keys_is_up_to_date_and_its_example_a_plan():
    page = (ROOT / "docs" / "federation-plan.md").read_text()
    assert page == federation_keys.PAGES.markdown(), "run: python -m leakscope.cli.federation_keys > that file"
    assert text.parse(Sheet("example.toml", federation_keys.EXAMPLE)).shuffled


@pytest.mark.parametrize("file", sorted((ROOT / "plans" / "emotion").glob("*.toml")), ids=lambda one: one.stem)
def test_every_plan_that_is_there_can_be_read(file):
    found = built(text.read(file))
    assert found.attacks
    assert "leakscope federation plans/emotion/" in file.read_text()


def test_records_survive_their_file():
    """Infinite scores too: who has no lessons is ruled out."""
    from leakscope.ledger.played import PlayedSpec

    spec = PlayedSpec(
        public="a", private="b", target="t", federation="f", attack="x", attribute="sex", each=1, hold_out=0.2,
        updates=(0,), draws=1, shuffled=False, seed=0,
    )  # fmt: skip
    rows = ClaimRows(updates=0, truth=(0,), scores=((0.0, -np.inf),), persons=("ada",))
    record = PlayedRecord(spec=spec, categories=("f", "m"), claims=(rows,))
    assert PlayedRecord.model_validate_json(record.model_dump_json()) == record
