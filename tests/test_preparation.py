"""Learning once per audit: shared by trials and workers, resumed after a kill, told apart from the attempts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.preparing_toys import Averages, Pool, plan
from tests.test_cli import call

from leakscope.audit.cell import set_up
from leakscope.audit.engines.inline import Inline
from leakscope.audit.engines.processes import Processes
from leakscope.audit.preparation import Shelf, prepared
from leakscope.audit.run import Resumption, run
from leakscope.audit.work import attempt
from leakscope.cli.commands import attack as command
from leakscope.cli.ending import Exit
from leakscope.cli.text.asked import Effort, Model, Recovery
from leakscope.core.attempt import Outcome
from leakscope.core.effort import unwatched
from leakscope.ledger.record import Ending, Role
from leakscope.ledger.run_folder import RunStore
from leakscope.mechanisms.defenses.clip import Clip
from leakscope.mechanisms.protocols.fedsgd import FedSGD
from leakscope.numerics.rng import Key

ROOT = Path(__file__).parent.parent


def learners_cells(a_plan):
    return [cell for cell in a_plan.cells() if cell.role is not Role.BLIND]


def steps(log):
    return [int(line) for line in Path(log).read_text().split()]


@pytest.mark.parametrize("engine", [Inline(), Processes(3)])
def test_it_is_learned_once_for_each_setting(tmp_path, monkeypatch, engine):
    monkeypatch.syspath_prepend(str(ROOT))
    log = str(tmp_path / "log")
    a_plan = plan(Averages(log=log, pause=0.05), mechanisms=(FedSGD(), FedSGD() >> Clip(1.0)))
    summary = run(a_plan, tmp_path / "run", engine)
    assert sorted(steps(log)) == sorted([0, 1, 2, 3] * 2)
    records = [one for one in RunStore(tmp_path / "run").records() if one.prepared]
    assert len(records) == 6
    files = sorted((tmp_path / "run" / "prepared").iterdir())
    assert sorted({f"{one.prepared}.safetensors" for one in records}) == [path.name for path in files]
    taken = {one.prepared: one.preparing_seconds for one in records}
    assert len(taken) == 2
    assert all(one.preparing_seconds == taken[one.prepared] >= 4 * 0.05 for one in records)
    assert summary.preparing_seconds == pytest.approx(sum(taken.values()))


def test_trials_share_it_and_seeds_do_not(tmp_path):
    shelf, learner = Shelf(tmp_path), Averages()
    found = [prepared(cell, shelf, unwatched).fingerprint for cell in learners_cells(plan(learner))]
    assert len(found) == 3
    assert len(set(found)) == 1
    other = {prepared(cell, shelf, unwatched).fingerprint for cell in learners_cells(plan(learner, seed=1))}
    assert not other & set(found)
    assert prepared(plan(learner).cells()[-1], shelf, unwatched).fingerprint == ""


def test_from_memory_and_from_a_file_it_is_the_same(tmp_path):
    cell = learners_cells(plan(Averages()))[0]
    kept = Shelf(tmp_path)
    three = [attempt(cell), attempt(cell, shelf=kept), attempt(cell, shelf=kept)]
    still = {"seconds": 0.0, "preparing_seconds": 0.0}
    one, *others = (found.record.model_copy(update=still) for found in three)
    assert one.ending is Ending.CLAIMED
    assert others == [one, one]
    assert len(list(tmp_path.iterdir())) == 1
    ready = [prepared(cell, shelf, unwatched).attack for shelf in (Shelf(), kept)]
    assert torch.equal(ready[0].mean, ready[1].mean)
    assert ready[0].noise == ready[1].noise
    assert type(ready[0].noise) is type(ready[1].noise) is list


PROGRAM = """
import sys
from pathlib import Path
from tests.preparing_toys import Averages, plan
from leakscope.audit import preparation
from leakscope.audit.engines.inline import Inline
from leakscope.audit.engines.processes import Processes
from leakscope.audit.run import Resumption, run

preparation.Shelf.__init__.__defaults__ = (None, 0.0)  # a state after every step

if __name__ == "__main__":
    engine = Processes(2) if sys.argv[3] == "processes" else Inline()
    learner = Averages(log=sys.argv[2], dies=2)
    run(plan(learner), Path(sys.argv[1]), engine, resumption=Resumption(True))
"""


@pytest.mark.parametrize("engine", ["inline", "processes"])
def test_a_killed_learner_goes_on_to_the_same_bits(tmp_path, engine):
    """Killed before step 2, by itself, where no cleanup runs: steps 0 and 1 are not done again."""
    program, log = tmp_path / "program.py", tmp_path / "log"
    program.write_text(PROGRAM)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, str(program), str(tmp_path / "run"), str(log), engine]
    first = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if engine == "inline":
        assert first.returncode == -9
        assert steps(log) == [0, 1, 2]
        again = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        assert again.returncode == 0, again.stderr
    else:
        assert first.returncode == 0, first.stderr  # the worker is replaced, or another one goes on
    assert steps(log) == [0, 1, 2, 2, 3]
    records = [one for one in RunStore(tmp_path / "run").records() if one.prepared]
    assert [one.ending for one in records] == [Ending.CLAIMED] * 3
    (tmp_path / "other").mkdir()
    cell = learners_cells(plan(Averages(log=str(log), dies=2)))[0]
    ready = [prepared(cell, Shelf(folder), unwatched) for folder in (tmp_path / "run" / "prepared", None)]
    assert ready[0].fingerprint == ready[1].fingerprint == records[0].prepared
    assert torch.equal(ready[0].attack.mean, ready[1].attack.mean)
    assert ready[0].attack.noise == ready[1].attack.noise
    assert [path.suffix for path in (tmp_path / "run" / "prepared").iterdir()] == [".safetensors"]


def test_what_is_damaged_on_the_shelf_is_learned_again(tmp_path):
    log = tmp_path / "log"
    cell, shelf = learners_cells(plan(Averages(log=str(log))))[0], Shelf(tmp_path / "shelf")
    whole = prepared(cell, shelf, unwatched)
    path = tmp_path / "shelf" / f"{whole.fingerprint}.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    path.with_suffix(".half").write_bytes(b"half a state")
    again = prepared(cell, shelf, unwatched)
    assert torch.equal(again.attack.mean, whole.attack.mean)
    assert steps(log) == [0, 1, 2, 3] * 2
    names = sorted(one.name.removeprefix(whole.fingerprint) for one in path.parent.iterdir())
    assert names == [".half.damaged", ".safetensors", ".safetensors.damaged"]


def test_what_cannot_be_learned_is_a_record_of_every_trial(tmp_path):
    summary = run(plan(Averages(wrong=True)), tmp_path, Inline())
    assert summary.finished == summary.planned == 6
    failed = [one for one in RunStore(tmp_path).records() if one.ending is Ending.CRASHED]
    assert len(failed) == 3
    assert all("nothing can be learned from this pool" in one.sentence for one in failed)


def test_a_run_that_is_resumed_learns_nothing_again(tmp_path):
    log = str(tmp_path / "log")
    run(plan(Averages(log=log)), tmp_path / "run", Inline())
    store = RunStore(tmp_path / "run")
    victim = next(one.identity for one in store.records() if one.prepared)
    before = store.record(victim)
    store.path(victim).unlink()
    run(plan(Averages(log=log)), tmp_path / "run", Inline(), resumption=Resumption(allowed=True))
    assert steps(log) == [0, 1, 2, 3]
    assert store.record(victim).model_copy(update={"seconds": 0.0}) == before.model_copy(update={"seconds": 0.0})


def test_a_learner_by_itself_refuses():
    seen = set_up(learners_cells(plan(Averages(Pool())))[0]).seen
    tried = Averages(Pool()).run(seen, key=Key(0))
    assert tried.outcome is Outcome.REFUSED
    assert "has learned nothing yet" in tried.sentence


# --- leakscope attack ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [False, True])
def test_the_command_line_prepares_a_learner(tmp_path, monkeypatch, capsys, kept):
    """In memory, or beside the checkpoint, where a second call finds it."""
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "log"
    real = command.build
    monkeypatch.setattr(command, "build", lambda text, family: learner if text == "Toy()" else real(text, family))
    learner = Averages(log=str(log))
    data = ("--model", "Linear()", "--data", "Synthetic((1, 4, 4), classes=3, count=24)")
    assert call("capture", *data, "--out", "u.safetensors").exit_code == 0
    # Past the judging of texts, which knows the names of the table and no toy.
    effort = Effort(attacks=("Toy()",), checkpoint=tmp_path / "state" if kept else None)
    for turn in range(2):
        order = Recovery(tmp_path / "u.safetensors", Model("Linear()"), effort, tmp_path / f"c{turn}.safetensors")
        assert command.attack(order) is Exit.INCOMPLETE
        assert "as learned" in capsys.readouterr().out
    assert steps(log) == [0, 1, 2, 3] * (1 if kept else 2)
    assert len(list(tmp_path.glob("state.prepared/*.safetensors"))) == kept
