"""Leases: one holder, a dead one is replaced at once, a silent one after a while, and whoever lost it notices."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from tests.audit_toys import Guesses, toy_plan

from leakscope.audit.engines.inline import Inline
from leakscope.audit.run import Resumption, run
from leakscope.core.errors import BadInput, LostLease
from leakscope.ledger import lease as module
from leakscope.ledger.lease import FileLease, Held, Owner, Pace, clear, living
from leakscope.ledger.lock import as_worker, is_lock, one_at_a_time, sole_runner
from leakscope.ledger.run_folder import RunStore

ROOT = Path(__file__).parent.parent
QUICK = Pace(beat=0.05, missed=8)


def dead_pid():
    """Of a process that was here and is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


GONE = dead_pid()


def left(path, **changes):
    """The lease of somebody else, as it lies there."""
    owner = replace(Owner.me(Pace()), **changes)
    path.write_text(owner.text())
    return owner


def aged(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runner.lease"


def test_one_holder_and_a_release_leaves_nothing(path):
    lease = FileLease.take(path)
    for _ in range(3):
        held = FileLease.take(path)
        assert isinstance(held, Held)
        assert held.who.startswith(f"process {os.getpid()} on {os.uname().nodename}, since ")
    assert clear(path) == living(path) == held
    lease.check()
    lease.release()
    assert list(path.parent.iterdir()) == []
    assert living(path) is None


def test_a_dead_process_of_this_machine_is_replaced_at_once(path):
    left(path, pid=GONE)
    assert living(path) is None
    lease = FileLease.take(path)
    assert isinstance(lease, FileLease)
    lease.release()


def test_a_pid_that_was_given_out_again_is_another_process(path):
    left(path, pid=os.getpid(), born="1")
    assert isinstance(FileLease.take(path), FileLease)
    path.unlink()
    left(path, pid=os.getppid(), born=module._born(os.getppid()))
    assert isinstance(FileLease.take(path), Held)


def test_a_killed_process_that_nobody_asked_for_is_dead(path):
    """A zombie has its pid, and holds nothing."""
    program = f"""
        import time
        from pathlib import Path
        from leakscope.ledger.lease import FileLease
        FileLease.take(Path({str(path)!r}))
        print("held", flush=True)
        time.sleep(60)
    """
    process = start(program)
    assert process.stdout.readline() == "held\n"
    assert isinstance(FileLease.take(path), Held)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is over, and still a zombie
    assert isinstance(FileLease.take(path), FileLease)
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize(("age", "free"), [(-50.0, False), (0.0, False), (50.0, False), (70.0, True)])
def test_of_another_machine_only_the_age_of_the_sign_counts(path, age, free):
    """Its pid means nothing here: the one of this very process would be alive, the other one dead."""
    for pid in (os.getpid(), GONE):
        left(path, machine="elsewhere", pid=pid)
        aged(path, age)
        taken = FileLease.take(path)
        assert isinstance(taken, FileLease) == free
        if isinstance(taken, FileLease):
            taken.release()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"pid": 1}', "x" * 100000, "process 12 on host, since yesterday", "\u00ff\u00fe"]
)
def test_a_file_that_names_nobody_is_just_being_written_unless_it_is_old(path, text):
    path.write_text(text)
    assert FileLease.take(path) == Held("another process")
    aged(path, 61)
    assert isinstance(FileLease.take(path), FileLease)


@pytest.mark.parametrize("changes", [{"patience": 1e9}, {"patience": -1.0}, {"pid": -1}, {"pid": "1"}])
def test_what_a_lease_says_of_itself_is_bounded(path, changes):
    """A patience without end would lock a folder for ever; kill(-1, ...) would reach every process."""
    path.write_text(json.dumps({**asdict(Owner.me(Pace())), **changes, "machine": "elsewhere"}))
    aged(path, 61)
    assert isinstance(FileLease.take(path), FileLease)


def test_a_holder_that_works_for_longer_than_the_patience_keeps_it(path):
    lease = FileLease.take(path, QUICK)
    end = time.monotonic() + 3 * QUICK.patience
    while time.monotonic() < end:
        assert isinstance(FileLease.take(path, QUICK), Held)
        time.sleep(QUICK.beat)
    lease.check()
    lease.release()


def silenced(path):
    """A lease whose holder shows no sign of life any more: stopped, without a process of its own."""
    lease = FileLease.take(path, QUICK)
    lease._ended.set()
    lease._heart.join()
    return lease


def test_who_was_silent_for_too_long_notices_and_takes_nothing_with_it(path):
    first = silenced(path)
    time.sleep(1.5 * QUICK.patience)
    second = FileLease.take(path, QUICK)
    assert isinstance(second, FileLease)
    with pytest.raises(LostLease, match=rf"was taken over by process {os.getpid()} on .* more than 0.4 s"):
        first.check()
    first.release()  # must not remove what is now the second's
    second.check()
    second.release()


def test_who_wakes_before_anybody_came_goes_on(path):
    first = silenced(path)
    time.sleep(1.5 * QUICK.patience)
    first.check()
    assert isinstance(FileLease.take(path, QUICK), Held)
    first.release()


def test_of_many_that_find_a_dead_lease_one_gets_it(path):
    """The race that a plain "remove it and make a new one" loses: the second removes what the first has made."""
    for _ in range(40):
        left(path, pid=GONE)
        start, found = threading.Barrier(6), []

        def race(start=start, found=found):
            start.wait()
            found.append(FileLease.take(path))

        racers = [threading.Thread(target=race) for _ in range(6)]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join()
        winners = [one for one in found if isinstance(one, FileLease)]
        assert len(winners) == 1
        winners[0].check()
        winners[0].release()
    assert list(path.parent.iterdir()) == []


def test_the_slow_one_of_two_removes_nothing_but_what_it_saw(path, monkeypatch):
    """The same race, made to happen: between looking and removing, another takes over and is alive."""
    left(path, pid=GONE)
    taken, real = [], module._gate

    def late(where):
        monkeypatch.setattr(module, "_gate", real)
        taken.append(FileLease.take(path))
        return real(where)

    monkeypatch.setattr(module, "_gate", late)
    assert isinstance(FileLease.take(path), Held)
    taken[0].check()
    taken[0].release()


def test_a_gate_whose_holder_died_is_opened(path):
    left(path, pid=GONE)
    left(path.with_name(f".{path.name}.gate"), pid=GONE)
    lease = FileLease.take(path)
    assert isinstance(lease, FileLease)
    lease.release()
    assert list(path.parent.iterdir()) == []


def test_many_processes_one_at_a_time(tmp_path):
    """Each adds one to a number in a file by reading and writing it, with a pause in between, and one of them is killed
    inside.
    """
    program = f"""
        import os, sys, time
        from pathlib import Path
        from leakscope.ledger.lock import one_at_a_time
        folder = Path({str(tmp_path)!r})
        for turn in range(5):
            with one_at_a_time(folder / "run"):
                if sys.argv[1] == "0" and turn == 2:
                    os.kill(os.getpid(), 9)
                number = int((folder / "number").read_text())
                time.sleep(0.005)
                (folder / "number").write_text(str(number + 1))
    """
    (tmp_path / "number").write_text("0")
    everyone = [start(program, str(place)) for place in range(3)]
    for process in everyone:
        process.wait(timeout=60)
        process.stdout.close()
    assert (tmp_path / "number").read_text() == str(2 + 5 + 5)


def start(program, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


# --- runners and workers ---------------------------------------------------------------------------------------------


def test_files_of_the_kernels_locks_are_no_obstacle(tmp_path):
    for name in ("runner.lock", "shared.lock", "workers-1-of-2.lock"):
        (tmp_path / name).write_text("process 1 on elsewhere, since yesterday")
        assert is_lock(name)
    with sole_runner(tmp_path), as_worker(tmp_path), one_at_a_time(tmp_path):
        assert all(is_lock(one.name) for one in tmp_path.iterdir())
    with sole_runner(tmp_path, "1-of-2"):
        pass
    assert not list(tmp_path.glob("*.lease"))


def test_a_runner_whose_workers_live_is_not_robbed(tmp_path, monkeypatch):
    """It may merely be stopped, and would find its folder taken over although nobody can work there."""
    with sole_runner(tmp_path) as lease, as_worker(tmp_path):
        aged(tmp_path / "runner.lease", 61)
        with pytest.raises(BadInput, match="workers of an earlier run"):  # noqa: SIM117
            with sole_runner(tmp_path, patience=0.1):
                pass
        lease.check()


def test_a_stopped_part_is_taken_over_by_the_whole_and_notices(tmp_path):
    with sole_runner(tmp_path, "1-of-2") as part:
        aged(tmp_path / "runner-1-of-2.lease", 61)
        with sole_runner(tmp_path):
            with pytest.raises(LostLease):
                part.check()
            with pytest.raises(LostLease):
                RunStore(tmp_path, "1-of-2", part).write_json("plan.json", {})
            assert not (tmp_path / "plan.json").exists()


def test_every_write_of_a_store_asks_the_lease(tmp_path):
    """Whatever a lost runner tries to write, move or remove, it does not."""
    run(toy_plan(attacks=(Guesses(),), trials=1), tmp_path, Inline())
    lease = FileLease.take(tmp_path / "runner.lease")
    store = RunStore(tmp_path, lease=lease)
    record = next(store.records())
    (tmp_path / ".stray.tmp").touch()
    summary = store.summary()
    left(tmp_path / "runner.lease", pid=os.getppid(), born=module._born(os.getppid()))
    before = {one: one.read_bytes() for one in tmp_path.rglob("*") if one.is_file()}
    for attempt in (
        lambda: store.write(record),
        lambda: store.set_aside(record.identity),
        store.sweep,
        lambda: store.write_index([]),
        lambda: store.append_index(record),
        lambda: store.write_json("plan.json", {}),
        lambda: store.write_summary(summary),
    ):
        with pytest.raises(LostLease, match="it writes nothing more"):
            attempt()
    assert {one: one.read_bytes() for one in tmp_path.rglob("*") if one.is_file()} == before


PROGRAM = """
import sys
from pathlib import Path
from tests.audit_toys import Guesses, toy_plan
from leakscope.audit.engines.inline import Inline
from leakscope.audit.engines.processes import Processes
from leakscope.audit.run import Resumption, run
from leakscope.core.errors import LostLease
from leakscope.ledger import lease

lease.PACE = lease.Pace(beat=0.05, missed=20)

if __name__ == "__main__":
    engine = Processes(1) if sys.argv[2] == "processes" else Inline()
    try:
        run(toy_plan(attacks=(Guesses(0.1),), trials=8), Path(sys.argv[1]), engine, resumption=Resumption(True))
    except LostLease as error:
        print("LOST", error, flush=True)
"""


@pytest.mark.parametrize("engine", ["inline", "processes"])
def test_a_stopped_run_that_another_took_over_stops_for_good(tmp_path, engine, monkeypatch):
    """SIGSTOP to the runner and its workers, another run to the end, SIGCONT: not one byte changes after that."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    victim = subprocess.Popen(
        [sys.executable, str(program), str(tmp_path / "run"), engine],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    store = RunStore(tmp_path / "run")
    while victim.poll() is None and len(store.names()) < 2:
        time.sleep(0.005)
    os.killpg(victim.pid, signal.SIGSTOP)
    time.sleep(1.5)
    plan = toy_plan(attacks=(Guesses(0.1),), trials=8)
    summary = run(plan, store.folder, Inline(), resumption=Resumption(allowed=True))
    assert summary.finished == summary.planned == 16
    before = {one: (one.read_bytes(), one.stat().st_mtime_ns) for one in store.folder.rglob("*") if one.is_file()}
    os.killpg(victim.pid, signal.SIGCONT)
    said, _ = victim.communicate(timeout=60)
    assert "LOST" in said
    after = {one: (one.read_bytes(), one.stat().st_mtime_ns) for one in store.folder.rglob("*") if one.is_file()}
    assert after == before
