"""Laws of the audit: nothing is lost, nobody peeks, the same trial is the same for everyone, an audit can go on."""

import dataclasses
import json
import math
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from tests import audit_toys
from tests.audit_toys import (
    Crashes,
    Dies,
    Diverges,
    Guesses,
    Interrupts,
    Looks,
    Needy,
    Refuses,
    WritesToTheRelease,
    toy_plan,
)

from leakscope.attacks.inputs.dense.linear import LinearLayer
from leakscope.attacks.inputs.matching.inversion import GradientInversion
from leakscope.attacks.parts.labeling.labeling import Inferred
from leakscope.attacks.parts.starts import Claimed
from leakscope.attacks.portfolio.auto import Auto
from leakscope.attacks.wrapped.at_rest import AtRest
from leakscope.audit import cell as cell_module
from leakscope.audit import telling, work
from leakscope.audit.blind import BlindGuess
from leakscope.audit.engines.engine import Finished, Moved, Noticed, Started
from leakscope.audit.engines.inline import Inline
from leakscope.audit.engines.processes import Processes
from leakscope.audit.plan import Scene
from leakscope.audit.run import Interrupted, Resumption, run
from leakscope.audit.telling import MAKERS, kind_named, tell
from leakscope.audit.work import attempt
from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput, BadPlan, UnknownName
from leakscope.core.facts import BatchNormStatistics, BatchSize, TrueLabels
from leakscope.core.target import Target
from leakscope.datasets.sources.synthetic import Synthetic
from leakscope.domains.vision import Images
from leakscope.ledger.lock import sole_runner
from leakscope.ledger.record import Ending, Role, Word
from leakscope.ledger.run_folder import RunStore
from leakscope.mechanisms.defenses.clip import Clip
from leakscope.mechanisms.defenses.inputs import InputNoise
from leakscope.mechanisms.defenses.noise import GaussianNoise, LaplaceNoise
from leakscope.mechanisms.defenses.prune import Prune
from leakscope.mechanisms.protocols.batch_clipped import BatchClipped
from leakscope.mechanisms.protocols.dpsgd import DPSGD
from leakscope.mechanisms.protocols.fedavg import FedAvg
from leakscope.mechanisms.protocols.fedsgd import FedSGD
from leakscope.mechanisms.protocols.training import HeadTraining, PrivateHeadTraining
from leakscope.targets.zoo.mlp import MLP, Linear

ROOT = Path(__file__).parent.parent
GO_ON = Resumption(allowed=True)


def audited(plan):
    return [cell for cell in plan.cells() if cell.role is Role.AUDITED]


# --- the plan -------------------------------------------------------------------------------------------------------


def test_controls_are_shared_and_nothing_is_planned_twice():
    plan = toy_plan(
        mechanisms=(FedSGD(), FedSGD() >> Clip(1.0), FedSGD() >> Clip(2.0)), attacks=(LinearLayer(), Guesses())
    )
    cells = plan.cells()
    assert len({cell.identity for cell in cells}) == len(cells)
    # 3 trials x (2 attacks x 3 mechanisms, of which the bare one is the control of the others, + 1 blind guess)
    assert len(cells) == 3 * (2 * 3 + 1)
    assert [cell.role for cell in cells].count(Role.UNDEFENDED) == 0
    groups = plan.groups()
    assert [group.own_control for group in groups] == [True, True, False, False, False, False]
    for group in groups:
        names = {cell.identity for cell in cells}
        assert {c.identity for role in Role for c in group.cells(role)} <= names


def test_a_control_that_is_not_audited_is_planned_as_one():
    cells = toy_plan(mechanisms=(FedSGD() >> Clip(1.0),)).cells()
    assert {role: [c.role for c in cells].count(role) for role in Role} == {
        **dict.fromkeys(Role, 3),
        Role.REPLACED: 0,  # only where a plan asks for it
        Role.REMAINING: 0,  # only of attacks that go several ways
        Role.NOISELESS: 0,  # only of mechanisms that do more than to add noise
    }


def test_of_an_attack_that_solves_or_searches_the_search_alone_is_a_control_as_well():
    """Undefended a dense layer is solved; that says nothing of the search that is left behind noise."""
    plan = toy_plan(mechanisms=(FedSGD(), FedSGD() >> Clip(1.0)), attacks=(Auto(), AtRest(Auto()), LinearLayer()))
    alone = Auto(exact=False, smooth=False)
    for group in plan.groups():
        several = not isinstance(group.attack, LinearLayer)
        assert len(group.remaining) == (3 if several and not group.own_control else 0)
        for cell in group.remaining:
            assert (cell.mechanism, cell.role) == (FedSGD(), Role.REMAINING)
            # Noise hides which units were at rest, too: what is left of silencing is the attack inside.
            assert cell.attack == alone
    assert alone.remaining is None
    # Either way of its own would end the matter undefended: an exact attack, and L-BFGS on what noise makes rough.
    assert Auto(exact=False).remaining == Auto(smooth=False).remaining == alone
    assert AtRest(LinearLayer()).remaining == LinearLayer()
    # However deep: a start that another attack claims is closed as that attack is.
    begun = GradientInversion(start=Claimed(Auto()), labeling=Inferred(Auto()))
    assert begun.remaining == GradientInversion(start=Claimed(alone), labeling=Inferred(alone))
    assert {cell.identity for group in plan.groups() for cell in group.remaining} <= {c.identity for c in plan.cells()}


def test_what_samples_or_clips_besides_is_attacked_without_its_noise_as_well():
    """Undefended nothing is sampled: an attack that fails by the samples is not shown to work by that."""
    sampled = PrivateHeadTraining(HeadTraining(2, 0.4, 1e-8), DPSGD(5.0, 1.0, expected=5, rate=0.5))
    for mechanism, wanted in (
        (DPSGD(1.0, 2.0), DPSGD(1.0, 0.0)),
        (sampled, dataclasses.replace(sampled, step=DPSGD(5.0, 0.0, expected=5, rate=0.5))),
        (DPSGD(1.0, 2.0) >> GaussianNoise(0.1), DPSGD(1.0, 0.0)),
        (FedSGD() >> Clip(1.0) >> GaussianNoise(0.1), FedSGD() >> Clip(1.0)),
        (FedSGD() >> Clip(1.0) >> LaplaceNoise(0.1) >> Prune(0.5), FedSGD() >> Clip(1.0) >> Prune(0.5)),
        # Without their noise nothing is left: that is the undefended control.
        (FedSGD() >> GaussianNoise(0.1), None),
        (FedSGD() >> InputNoise(0.1), None),
        (FedSGD() >> Clip(1.0), None),
        (DPSGD(1.0, 0.0), None),
    ):
        plan = toy_plan(mechanisms=(mechanism,), attacks=(Auto(),))
        (group,) = plan.groups()
        assert len(group.noiseless) == (0 if wanted is None else 3)
        assert group.silent == (mechanism == DPSGD(1.0, 0.0))
        for cell in group.noiseless:
            # what noise closes of the attack has no say in it either
            assert (cell.mechanism, cell.role, cell.attack) == (wanted, Role.NOISELESS, Auto(exact=False, smooth=False))
        assert {cell.identity for cell in group.noiseless} <= {cell.identity for cell in plan.cells()}
    clipped = BatchClipped(FedAvg(1, 0.1))
    assert clipped.noiseless.std(20) < 1e-290
    assert clipped.noiseless.noiseless == clipped.noiseless


def test_scenes_override_what_the_plan_says():
    scene = dataclasses.replace(toy_plan().scenes[0], batch_sizes=(1, 2), attacks=(Guesses(),))
    groups = toy_plan(scenes=(scene,)).groups()
    assert [(g.batch_size, g.attack) for g in groups] == [(1, Guesses()), (2, Guesses())]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"title": " "}, "needs a title"),
        ({"scenes": ()}, "at least one scene"),
        ({"trials": 0}, "trials >= 1, got 0"),
        ({"seed": -1}, "seed >= 0, got -1"),
        ({"delta": 1.0}, "delta"),
        ({"mechanisms": ()}, "'toy' has no mechanism"),
        ({"attacks": ()}, "'toy' has no attack"),
        ({"attacks": (Guesses(), Guesses())}, "same attack twice"),
        ({"batch_sizes": (0,)}, "batch sizes >= 1, got 0"),
        ({"told": (str,)}, "cannot tell str"),
        ({"scenes": toy_plan().scenes * 2}, "toy was given more than once"),
    ],
)
def test_a_plan_that_cannot_run_is_refused(changes, message):
    with pytest.raises(BadPlan, match=message):
        toy_plan(**changes)


def test_specs_rebuild_and_pickles_are_equal():
    for cell in toy_plan(told=(TrueLabels, BatchSize)).cells():
        assert pickle.loads(pickle.dumps(cell)) == cell  # noqa: S301, our own bytes
        assert cell.spec.told == ("BatchSize", "TrueLabels")
        assert eval(cell.spec.attack) == cell.attack
        assert eval(cell.spec.dataset) == cell.scene.source


# --- one cell -------------------------------------------------------------------------------------------------------


def test_everyone_meets_the_same_secret_and_the_same_weights_in_a_trial():
    plan = toy_plan(mechanisms=(FedSGD() >> Clip(0.1), FedSGD() >> Clip(0.2)), attacks=(LinearLayer(), Guesses()))
    prints = {}
    for cell in plan.cells():
        stage = cell_module.set_up(cell)
        prints.setdefault(cell.trial, set()).add((stage.secret.fingerprint(), stage.target.fingerprint()))
    assert [len(found) for found in prints.values()] == [1, 1, 1]
    assert len(set.union(*prints.values())) == 3, "trials differ from one another"
    other = cell_module.set_up(dataclasses.replace(plan.cells()[0], seed=1))
    assert (other.secret.fingerprint(), other.target.fingerprint()) not in set.union(*prints.values())


def test_the_same_cell_gives_the_same_record_and_leaves_the_global_stream_alone():
    cell = audited(toy_plan())[0]
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, other = attempt(cell), attempt(cell)
    assert torch.equal(torch.rand(1), expected)
    still = {"seconds": 0.0}
    assert one.record.model_copy(update=still) == other.record.model_copy(update=still)
    assert one.arrays.keys() == other.arrays.keys()
    assert all(np.array_equal(one.arrays[name], other.arrays[name]) for name in one.arrays)


def test_an_exact_attack_leaves_an_exact_record():
    found = attempt(audited(toy_plan())[0])
    record = found.record
    assert record.ending is Ending.CLAIMED
    assert record.certificate is not None
    assert record.certificate.holds
    scores = {score.metric: score for score in record.scores}
    # float32 gradients: far above anything that a guess reaches
    assert scores["psnr"].value > 100
    np.testing.assert_allclose(found.arrays["claim"], found.arrays["original"], atol=1e-5)
    secret = cell_module.set_up(audited(toy_plan())[0]).secret.reveal()
    np.testing.assert_array_equal(found.arrays["original"], secret.inputs.numpy())
    assert record.labels_true == tuple(secret.labels.tolist())


@pytest.mark.parametrize(
    ("attack", "ending", "sentence"),
    [
        (Refuses(), Ending.REFUSED, "on principle"),
        (Needy(), Ending.REFUSED, "needs to be told BatchSize; told: nothing"),
        (Diverges(), Ending.DIVERGED, "beyond every bound"),
        (Crashes(), Ending.CRASHED, "ZeroDivisionError: a bug of the attack"),
        (WritesToTheRelease(), Ending.CRASHED, "the observation changed while the attack ran"),
    ],
)
def test_a_failure_is_a_record_with_a_sentence_and_never_a_score(attack, ending, sentence):
    found = attempt(audited(toy_plan(attacks=(attack,)))[0])
    assert found.record.ending is ending
    assert sentence in found.record.sentence
    assert found.record.scores == ()
    assert found.record.labels_claimed == ()
    assert found.arrays == {}
    assert bool(found.record.traceback) == (ending is Ending.CRASHED)


def test_a_secret_that_is_written_to_is_noticed(monkeypatch):
    cell = audited(toy_plan(attacks=(Guesses(),)))[0]
    real = cell_module.set_up
    stages = []

    def keep(cell):
        stages.append(real(cell))
        return stages[-1]

    def write(self, seen, read, *, key, clock, watch):
        stages[-1].secret.reveal().inputs.add_(0.01)
        return real_attempt(self, seen, read, key=key, clock=clock, watch=watch)

    real_attempt = Guesses._attempt
    monkeypatch.setattr(work, "set_up", keep)
    monkeypatch.setattr(Guesses, "_attempt", write)
    record = attempt(cell).record
    assert record.ending is Ending.CRASHED
    assert "the secret changed" in record.sentence


def test_an_interrupted_attempt_is_not_a_record():
    with pytest.raises(KeyboardInterrupt):
        attempt(audited(toy_plan(attacks=(Interrupts(),)))[0])


# --- blindness ------------------------------------------------------------------------------------------------------


def leaked(seen, stage, told):
    """What the adversary holds but should not: facts that were not told, or the secret itself, by its bytes."""
    found = [type(fact).__name__ for fact in seen.facts if type(fact) not in told]
    text = pickle.dumps((seen.release, seen.facts, repr(seen.mechanism)))
    batch = stage.secret.reveal()
    found += [name for name, part in (("inputs", batch.inputs), ("labels", batch.labels)) if _bytes(part) in text]
    if TrueLabels not in told and batch.labels.tolist() in [list(getattr(fact, "values", ())) for fact in seen.facts]:
        found.append("labels as a tuple")
    return found


def _bytes(tensor):
    return tensor.contiguous().numpy().tobytes()


@pytest.mark.parametrize("told", [(), (BatchSize,), (TrueLabels,), (BatchSize, TrueLabels)])
def test_the_observation_holds_what_was_told_and_nothing_else(told):
    audit_toys.SEEN.clear()
    plan = toy_plan(attacks=(Looks(),), told=told, batch_sizes=(3,))
    for cell in audited(plan):
        attempt(cell)
        seen = audit_toys.SEEN[-1]
        assert leaked(seen, cell_module.set_up(cell), told) == []
        assert {type(fact) for fact in seen.facts} == set(told)


def test_labels_told_although_withheld_are_caught(monkeypatch):
    """The planted fault: the law above must be able to fail."""
    generous = telling.tell

    def slip(kinds, target, batch, *, source=None):
        return generous((*kinds, TrueLabels), target, batch, source=source)

    monkeypatch.setattr(cell_module, "tell", slip)
    audit_toys.SEEN.clear()
    cell = audited(toy_plan(attacks=(Looks(),), batch_sizes=(3,)))[0]
    attempt(cell)
    assert "TrueLabels" in leaked(audit_toys.SEEN[-1], cell_module.set_up(cell), ())


def test_the_blind_guess_does_not_look():
    plan = toy_plan(batch_sizes=(4,))
    cell = next(cell for cell in plan.cells() if cell.role is Role.BLIND)
    stage = cell_module.set_up(cell)
    other = cell_module.set_up(dataclasses.replace(cell, trial=1))
    key = cell_module.Key(3)
    one, two = (cell.attack.run(s.seen, key=key).claim for s in (stage, other))
    assert torch.equal(one.values, two.values)
    assert torch.equal(one.labels, two.labels)
    public = cell.scene.source.public()
    torch.testing.assert_close(one.values[2], public.inputs.mean(0))
    assert set(one.labels.tolist()) <= set(public.labels.tolist())
    assert attempt(cell).record.scores[0].value < 30
    with pytest.raises(BadInput, match="at least 1, got 0"):
        BlindGuess(cell.scene.source, 0)


def test_facts_are_true_and_named():
    batch = Batch(torch.randn(6, 2, 4, 4), torch.arange(6) % 3)
    module = torch.nn.Sequential(torch.nn.BatchNorm2d(2), torch.nn.Flatten(), torch.nn.Linear(32, 3))
    target = Target(module, Images(2, 4, 4), 3)
    facts = {type(fact): fact for fact in tell((BatchSize, TrueLabels, BatchNormStatistics), target, batch)}
    assert facts.keys() == {BatchSize, TrueLabels, BatchNormStatistics}
    for kind in MAKERS.keys() - facts.keys():  # facts about speech, and about public data that nobody named
        with pytest.raises(
            BadInput, match=r"there are no|is made of|come from the public half|are drawn from where the batch is from"
        ):
            tell([kind], target, batch)
    assert all(fact.contradiction(batch) is None for fact in facts.values())
    ((name, statistics),) = facts[BatchNormStatistics].by_layer
    assert name == "0"
    np.testing.assert_allclose(statistics.mean, batch.inputs.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(statistics.variance, batch.inputs.var((0, 2, 3), correction=0), rtol=1e-5)
    with pytest.raises(UnknownName, match="did you mean 'TrueLabels'"):
        kind_named("TrueLabel")


# --- the whole audit ------------------------------------------------------------------------------------------------

FAILURES = (Crashes(), Refuses(), Diverges(), WritesToTheRelease(), Guesses())


def lost(plan, store):
    """The law "nothing is lost": planned cells without a record, and failures that are not in the denominator."""
    records = {record.identity: record for record in store.records()}
    missing = {cell.identity for cell in plan.cells()} - records.keys()
    summary = store.summary()
    forgotten = {
        group.title for group in summary.groups if group.planned != plan.trials or len(group.members) != plan.trials
    }
    return missing | forgotten


def test_as_many_records_as_cells_whatever_happens(tmp_path):
    plan = toy_plan(attacks=FAILURES, mechanisms=(FedSGD(), FedSGD() >> Clip(0.5)), trials=2)
    events = []
    summary = run(plan, tmp_path, Inline(), listen=events.append)
    store = RunStore(tmp_path)
    assert lost(plan, store) == set()
    assert store.summary() == summary
    assert summary.finished == summary.planned == len(plan.cells()) == 2 * (5 * 2 + 1)
    assert summary.word is Word.INCONCLUSIVE
    assert len((tmp_path / "index.jsonl").read_text().splitlines()) == summary.planned
    kinds = [type(event) for event in events]
    assert kinds.count(Started) == kinds.count(Finished) == summary.planned
    assert Moved in kinds
    assert "@misc{Guesses}" in summary.citations


def test_a_dropped_failed_cell_is_caught(tmp_path, monkeypatch):
    """The planted fault: an engine that forgets what failed."""

    def forgetful(store, record, arrays=None):
        if record.ending is Ending.CLAIMED:
            real(store, record, arrays)

    real = RunStore.write
    monkeypatch.setattr(RunStore, "write", forgetful)
    plan = toy_plan(attacks=(Crashes(), Guesses()), trials=1)
    with pytest.raises(RuntimeError, match="1 of 3 cells left no record"):
        run(plan, tmp_path, Inline())
    monkeypatch.undo()
    run(plan, tmp_path, Inline(), resumption=GO_ON)
    store = RunStore(tmp_path)
    failed = next(record for record in store.records() if record.ending is Ending.CRASHED)
    store.path(failed.identity).unlink()
    assert lost(plan, store) == {failed.identity}


def test_resuming_runs_only_what_is_missing(tmp_path):
    plan = toy_plan(attacks=(Guesses(),))
    run(plan, tmp_path, Inline())
    store = RunStore(tmp_path)
    first, second, *rest = store.names()
    store.path(first).unlink()
    store.path(second).write_bytes(b"broken by a full disk")
    before = {name: store.path(name).stat().st_mtime_ns for name in rest}
    events = []
    summary = run(plan, tmp_path, Inline(), listen=events.append, resumption=GO_ON)
    assert {event.record.identity for event in events if isinstance(event, Finished)} == {first, second}
    (notice,) = [event.sentence for event in events if isinstance(event, Noticed)]
    assert "cannot be read" in notice
    assert f"damaged/{second}.safetensors" in notice
    assert {name: store.path(name).stat().st_mtime_ns for name in rest} == before
    assert (tmp_path / "damaged" / f"{second}.safetensors").exists()
    assert summary.finished == summary.planned == 6


def test_a_folder_with_records_is_not_touched_without_being_asked(tmp_path):
    plan = toy_plan(attacks=(Guesses(),))
    run(plan, tmp_path, Inline())
    with pytest.raises(BadInput, match="already holds 6 of 6 records; go on with --resume"):
        run(plan, tmp_path, Inline())
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "thesis.tex").write_text("mine")
    with pytest.raises(BadInput, match=r"holds no audit \(thesis.tex"):
        run(plan, strange, Inline(), resumption=GO_ON)
    assert [path.name for path in strange.iterdir()] == ["thesis.tex"]
    with pytest.raises(BadInput, match="is a file"):
        run(plan, strange / "thesis.tex", Inline())


def test_another_plan_is_refused_with_what_changed_but_may_gain_cells(tmp_path):
    plan = toy_plan(attacks=(Guesses(),))
    run(plan, tmp_path, Inline())
    with pytest.raises(BadPlan, match="seed: was 0, is now 1"):
        run(toy_plan(attacks=(Guesses(),), seed=1), tmp_path, Inline(), resumption=GO_ON)
    with pytest.raises(BadPlan, match="trial: was 2, is now without it"):
        run(toy_plan(attacks=(Guesses(),), trials=2), tmp_path, Inline(), resumption=GO_ON)
    with pytest.raises(BadPlan, match=r"told: was nothing, is now BatchSize"):
        run(toy_plan(attacks=(Guesses(),), told=(BatchSize,)), tmp_path, Inline(), resumption=GO_ON)
    events = []
    more = toy_plan(attacks=(Guesses(),), mechanisms=(FedSGD(), FedSGD() >> Clip(0.5)))
    summary = run(more, tmp_path, Inline(), listen=events.append, resumption=GO_ON)
    assert sum(isinstance(event, Finished) for event in events) == 3
    assert summary.finished == summary.planned == 9


def test_records_of_another_version_are_not_mixed(tmp_path):
    plan = toy_plan(attacks=(Guesses(),))
    run(plan, tmp_path, Inline())
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "leakscope": "0.0.1"}))
    with pytest.raises(BadPlan, match=r"written by leakscope 0\.0\.1"):
        run(plan, tmp_path, Inline(), resumption=GO_ON)


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(tmp_path):
    plan = toy_plan(attacks=(Guesses(), Interrupts()), trials=1)
    with pytest.raises(Interrupted, match="1 of 3 cells; run again with --resume") as stopped:
        run(plan, tmp_path, Inline())
    summary = stopped.value.summary
    assert (summary.finished, summary.planned, summary.word) == (1, 3, Word.INCONCLUSIVE)
    assert RunStore(tmp_path).summary() == summary
    assert "not run" in summary.groups[1].sentence


def test_two_runners_on_one_folder(tmp_path):
    with sole_runner(tmp_path), pytest.raises(BadInput, match="is being written by process"):
        run(toy_plan(), tmp_path, Inline())


# --- processes ------------------------------------------------------------------------------------------------------


def test_processes_give_the_records_of_the_inline_engine(tmp_path, monkeypatch):
    """Two workers, one of which dies once, another cell whose worker always dies."""
    monkeypatch.syspath_prepend(str(ROOT))  # workers import the toys by name
    marker = str(tmp_path / "marker")
    plan = toy_plan(attacks=(LinearLayer(), Crashes(), Guesses()), trials=1)
    deadly = toy_plan(attacks=(LinearLayer(), Crashes(), Guesses(), Dies(), Dies(marker)), trials=1)
    run(plan, tmp_path / "inline", Inline())
    events = []
    summary = run(deadly, tmp_path / "processes", Processes(2), listen=events.append)
    assert summary.finished == summary.planned == 6
    one, other = RunStore(tmp_path / "inline"), RunStore(tmp_path / "processes")
    still = {"seconds": 0.0, "traceback": ""}
    for name in one.names():
        (record, arrays), (twin, their) = one.read(name), other.read(name)
        assert record.model_copy(update=still) == twin.model_copy(update=still)
        assert all(np.array_equal(arrays[key], their[key]) for key in arrays)
        assert arrays.keys() == their.keys()
    dead = [record for record in other.records() if record.spec.attack == repr(Dies())]
    assert [record.ending for record in dead] == [Ending.CRASHED]
    assert "SIGKILL" in dead[0].sentence
    notices = [event.sentence for event in events if isinstance(event, Noticed)]
    assert len(notices) == 2
    assert all("starting its cell again" in notice for notice in notices)
    revived = [record for record in other.records() if record.spec.attack == repr(Dies(marker))]
    assert [record.ending for record in revived] == [Ending.CLAIMED]


def test_a_cell_that_workers_cannot_rebuild_is_a_record(tmp_path, monkeypatch):
    """As from a notebook: its class is in no module that another process can import."""
    monkeypatch.setattr(Guesses, "__module__", "no_such_module_anywhere")
    monkeypatch.setitem(sys.modules, "no_such_module_anywhere", audit_toys)
    summary = run(toy_plan(attacks=(Guesses(),), trials=1), tmp_path, Processes(1))
    assert summary.finished == 2
    assert "no_such_module_anywhere" in summary.groups[0].sentence
    assert "inline engine" in summary.groups[0].sentence


def test_a_worker_whose_runner_is_gone_ends_and_records_nothing(tmp_path):
    """A broken pipe while an attack reports its progress must not become a crash of that attack."""
    code = f"""
        import multiprocessing, signal
        from pathlib import Path
        from leakscope.audit.engines import processes
        from leakscope.audit.engines.engine import Started
        from tests.audit_toys import Guesses, toy_plan
        processes._end_with_the_runner = lambda: None  # the slower of the two ways out
        ours, theirs = multiprocessing.Pipe()
        def send(channel, message, real=processes._send):
            real(channel, message)
            if isinstance(message, Started):
                ours.close()
        processes._send = send
        ours.send(toy_plan(attacks=(Guesses(),)).cells()[0])
        processes._work({str(tmp_path)!r}, theirs)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1, result.stderr
    assert RunStore(tmp_path).names() == []


def test_workers_are_checked():
    with pytest.raises(BadInput, match="at least 1 worker, got 0"):
        Processes(0)


def test_the_audit_does_not_touch_the_terminal():
    code = "import sys, leakscope.audit.run; print({'rich', 'typer'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "set()"


def test_a_multi_layer_scene_and_a_batch(tmp_path):
    """Refused or found, a second scene with another model and a batch runs through the same door."""
    scenes = (
        *toy_plan().scenes,
        Scene("deep", Synthetic((1, 4, 4), classes=3, count=24), MLP((8,)), batch_sizes=(2,)),
    )
    summary = run(toy_plan(scenes=scenes), tmp_path, Inline())
    assert [group.title.split(" · ")[0] for group in summary.groups] == ["toy", "deep"]
    assert summary.groups[0].word is Word.LEAKS
    assert "batch of 2" in summary.groups[1].title
    assert math.isfinite(summary.seconds)
    assert isinstance(scenes[0].architecture, Linear)


@pytest.mark.parametrize(
    ("field", "given"),
    [
        *(("items", given) for given in ((float("inf"),), (float("nan"),), (), (1e308, 1e308))),
        *((field, (float("nan"),)) for field in ("blind", "nearest")),
        ("tolerances", (1.0,) * 9), ("residuals", ()),
    ],
)  # fmt: skip
def test_a_record_that_no_verdict_can_be_read_from_is_computed_again(tmp_path, field, given):
    """Found by fuzzing: an infinite score, or one of no example, in somebody's run ended a merge in a traceback."""
    first = run(toy_plan(), tmp_path, Inline())
    store = RunStore(tmp_path)
    proof = field in ("tolerances", "residuals")
    victim = next(
        name for name in store.names() if (store.record(name).certificate if proof else store.record(name).scores)
    )
    record, arrays = store.read(victim)
    scores = tuple(score.model_copy(update={} if proof else {field: given}) for score in record.scores)
    certificate = record.certificate.model_copy(update={field: given}) if proof else record.certificate
    store.write(record.model_copy(update={"scores": scores, "certificate": certificate}), arrays)
    said = []
    again = run(toy_plan(), tmp_path, Inline(), resumption=Resumption(allowed=True), listen=said.append)
    assert any(f"damaged/{victim}" in getattr(event, "sentence", "") for event in said)
    assert [group.sentence for group in again.groups] == [group.sentence for group in first.groups]
