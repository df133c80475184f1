"""Shards: together the plan, apart from each other, about equal; killed, resumed and merged they give the same run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.audit_toys import Crashes, Diverges, Guesses, toy_plan
from tests.test_cli import call, plan_file

from leakscope.audit.engines.inline import Inline
from leakscope.audit.merge import merge
from leakscope.audit.run import Resumption, run
from leakscope.audit.shard import Shard
from leakscope.cli.ending import Exit
from leakscope.core.errors import BadInput, BadPlan
from leakscope.ledger.lock import sole_runner
from leakscope.ledger.record import Ending
from leakscope.ledger.run_folder import RunStore
from leakscope.report.page_run import write_page

ROOT = Path(__file__).parent.parent


def plan(**changes):
    return toy_plan(**{"attacks": (Guesses(), Diverges()), "trials": 4, **changes})


CELLS = plan(trials=20).cells()


def sharded(folder, place, count, **more):
    return run(plan(), folder, Inline(), resumption=Resumption(shard=Shard(place, count)), **more)


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 80), size=st.integers(0, len(CELLS)))
def test_shards_are_the_plan_disjoint_and_balanced(count, size):
    cells = CELLS[:size]
    parts = [Shard(place, count).of(cells) for place in range(1, count + 1)]
    names = [cell.identity for part in parts for cell in part]
    assert len(names) == len(set(names)) == size
    assert set(names) == {cell.identity for cell in cells}
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    order = {cell.identity: place for place, cell in enumerate(cells)}
    assert all(
        [order[cell.identity] for cell in part] == sorted(order[cell.identity] for cell in part) for part in parts
    )


def test_no_shard_has_all_cells_of_one_attack():
    for place in (1, 2, 3):  # three cells make a trial: dealt out in their order, each shard would get one kind
        assert len({repr(cell.attack) for cell in Shard(place, 3).of(CELLS)}) == 3


@pytest.mark.parametrize("text", ["0/3", "4/3", "2", "a/b", "1/0", "-1/3", "1/3/5", ""])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(BadInput, match="expected a shard"):
        Shard.read(text)
    assert Shard.read(" 2 / 3 ") == Shard(2, 3)


def records(folder):
    """All but the times, which differ."""
    found = RunStore(folder).records()
    return {one.identity: one.model_copy(update={"seconds": 0.0}) for one in found}


def test_one_after_the_other_in_one_folder_is_the_run_in_one_piece(tmp_path):
    whole = run(plan(), tmp_path / "whole", Inline())
    first = sharded(tmp_path / "parts", 1, 2)
    assert 0 < first.finished < first.planned == whole.planned
    last = sharded(tmp_path / "parts", 2, 2)
    assert records(tmp_path / "parts") == records(tmp_path / "whole")
    assert (last.finished, last.word, last.groups) == (whole.finished, whole.word, whole.groups)
    index = [json.loads(line)["identity"] for line in (tmp_path / "parts" / "index.jsonl").read_text().splitlines()]
    assert sorted(index) == sorted(records(tmp_path / "whole"))
    assert "incomplete" not in write_page(tmp_path / "parts").read_text().lower()


def test_shards_in_folders_of_their_own_are_merged(tmp_path):
    whole = run(plan(), tmp_path / "whole", Inline())
    for place in (1, 2, 3):
        sharded(tmp_path / str(place), place, 3)
    runs = [tmp_path / "1", tmp_path / "3"]
    partly = merge(plan(), runs, tmp_path / "out")
    assert partly.finished == sum(len(records(one)) for one in runs) < partly.planned
    victim = next(iter(records(tmp_path / "1")))
    RunStore(tmp_path / "out").path(victim).unlink()
    RunStore(tmp_path / "1").path(victim).write_bytes(b"damaged")
    assert merge(plan(), [*runs, tmp_path / "2"], tmp_path / "out").finished == whole.planned - 1
    run(plan(), tmp_path / "1", Inline(), resumption=Resumption(shard=Shard(1, 3)))
    merged = merge(plan(), [tmp_path / "1"], tmp_path / "out")
    assert records(tmp_path / "out") == records(tmp_path / "whole")
    assert (merged.word, merged.groups, merged.finished) == (whole.word, whole.groups, whole.finished)
    with pytest.raises(BadPlan, match=r"is of another plan: \d+ of its cells"):
        merge(plan(trials=3), [tmp_path / "whole"], tmp_path / "other")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="holds no audit; give the folders"):
        merge(plan(), [tmp_path / "empty"], tmp_path / "other")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    with pytest.raises(BadInput, match="not empty and holds no audit"):
        merge(plan(), [tmp_path / "whole"], tmp_path / "mine")


def test_a_part_excludes_the_same_part_the_whole_and_other_cuts(tmp_path):
    with sole_runner(tmp_path, "1-of-3"), sole_runner(tmp_path, "2-of-3"):
        for part, says in (
            ("1-of-3", f"process {os.getpid()} on"),
            ("", "process"),
            ("1-of-2", r"other shards \(\d-of-3\)"),
        ):
            with pytest.raises(BadInput, match=says), sole_runner(tmp_path, part):
                pass
    with sole_runner(tmp_path), pytest.raises(BadInput, match="is being written by process"):  # noqa: SIM117
        with sole_runner(tmp_path, "1-of-3"):
            pass
    with sole_runner(tmp_path, "1-of-2"):
        pass


def test_a_shard_leaves_what_others_are_writing_and_mends_its_own(tmp_path):
    mine, theirs = (Shard(place, 2).of(plan().cells())[0].identity for place in (1, 2))
    sharded(tmp_path, 2, 2)
    store = RunStore(tmp_path)
    half = [store.cells / f".{name}.safetensors.abc.tmp" for name in (mine, theirs)]
    for path in half:
        path.write_bytes(b"half")
    store.path(theirs).write_bytes(b"half, too")
    noticed = []
    summary = sharded(tmp_path, 1, 2, listen=noticed.append)
    assert [path.exists() for path in half] == [False, True]
    assert store.path(theirs).read_bytes() == b"half, too"
    assert summary.finished == summary.planned - 1
    assert sharded(tmp_path, 2, 2).finished == summary.planned
    assert (tmp_path / "damaged" / f"{theirs}.safetensors").exists()


PROGRAM = """
import sys
from pathlib import Path
from tests.audit_toys import Crashes, Diverges, Guesses, toy_plan
from leakscope.audit.engines.processes import Processes
from leakscope.audit.engines.inline import Inline
from leakscope.audit.run import Resumption, run
from leakscope.audit.shard import Shard

if __name__ == "__main__":
    plan = toy_plan(attacks=(Guesses(0.02), Crashes(), Diverges()), trials=6)
    engine = Processes(1) if sys.argv[3] == "processes" else Inline()
    run(plan, Path(sys.argv[1]), engine, resumption=Resumption(shard=Shard.read(sys.argv[2])))
"""


def start(folder, shard, engine):
    """A process of its own, whose program is a file: workers import it."""
    (folder.parent / "shard_program.py").write_text(PROGRAM)
    command = [sys.executable, str(folder.parent / "shard_program.py"), str(folder), shard, engine]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_at_once_in_one_folder_one_of_them_killed(tmp_path):
    """One shard is killed while both write; started again it runs only what is missing, and the other never notices."""
    whole = toy_plan(attacks=(Guesses(0.02), Crashes(), Diverges()), trials=6)
    folder, planned = tmp_path / "run", {cell.identity for cell in whole.cells()}
    mine = {cell.identity for cell in Shard(1, 2).of(whole.cells())}
    store = RunStore(folder)
    victim, other = start(folder, "1/2", "processes"), start(folder, "2/2", "inline")
    while victim.poll() is None and not mine & set(store.names()):
        time.sleep(0.005)
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate()
    _, said = other.communicate(timeout=120)
    assert other.returncode == 0, said
    time.sleep(0.2)  # an orphaned worker may still be ending; what it wrote counts
    stamps = {name: store.path(name).stat().st_mtime_ns for name in store.names()}
    again = start(folder, "1/2", "inline")
    _, said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    assert {one.identity for one in store.records()} == planned
    assert stamps.items() <= {name: store.path(name).stat().st_mtime_ns for name in store.names()}.items(), "run twice"
    endings = [one.ending for one in store.records()]
    assert endings.count(Ending.CRASHED) == endings.count(Ending.DIVERGED) == 6
    assert store.summary().finished == len(planned)
    assert len((folder / "index.jsonl").read_text().splitlines()) == len(planned)


def test_the_command_line_cuts_resumes_and_merges(tmp_path):
    file = plan_file(tmp_path)
    common = ("audit", file, "--engine", "inline")
    whole = call(*common, "--out", tmp_path / "whole", "--json")
    one = call(*common, "--shard", "1/2", "--out", tmp_path / "run")
    assert one.exit_code == Exit.INCOMPLETE
    assert "this shard is done; 4 of 8 cells are left to others" in one.stderr
    assert "[4/4]" in one.stderr
    again = call(*common, "--shard", "1/2", "--out", tmp_path / "run")
    assert (again.exit_code, "[" in again.stderr) == (Exit.INCOMPLETE, False)
    two = call(*common, "--shard", "2/2", "--out", tmp_path / "run")
    assert two.exit_code == whole.exit_code == Exit.LEAK
    call(*common, "--shard", "2/2", "--out", tmp_path / "apart")
    partly = call("merge", file, tmp_path / "apart", "--out", tmp_path / "merged")
    assert partly.exit_code == Exit.INCOMPLETE
    assert "4 of 8 cells are in none of these folders" in partly.stderr
    merged = call("merge", file, tmp_path / "apart", tmp_path / "run", "--out", tmp_path / "merged", "--json")
    assert merged.exit_code == Exit.LEAK
    assert json.loads(merged.stdout)["summary"]["word"] == json.loads(whole.stdout)["summary"]["word"] == "leaks"
    assert (tmp_path / "merged" / "report.html").is_file()
    assert call("report", tmp_path / "run").exit_code == 0
    wrong = call(*common, "--shard", "3/2", "--out", tmp_path / "run")
    assert (wrong.exit_code, "got 3/2" in wrong.stderr) == (Exit.USAGE, True)
    a_file = call(*common, "--shard", "1/2", "--out", file)
    assert (a_file.exit_code, "is a file; choose a folder" in a_file.stderr) == (Exit.USAGE, True)
