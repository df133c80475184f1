"""SIGKILL at any moment and running again ends with exactly the planned records, none written twice."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.audit_kill import plan

from leakscope.ledger.record import Ending
from leakscope.ledger.run_folder import RunStore

ROOT = Path(__file__).parent.parent


def start(folder, engine):
    command = [sys.executable, "-m", "tests.audit_kill", str(folder), engine]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def stamps(store):
    """What a second write of a record would change: the file behind the name."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in store.cells.glob("*.safetensors")}


def kill_after(process, store, records, delay):
    """Wait until `records` more are there, then a moment, then kill; a process that ends by itself is fine too."""
    wanted = len(store.names()) + records
    while process.poll() is None and len(store.names()) < wanted:
        time.sleep(0.002)
    time.sleep(delay)
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize(("engine", "kills"), [("inline", 2), ("processes", 3)])
def test_killed_at_random_moments_and_resumed(tmp_path, engine, kills):
    store, chance = RunStore(tmp_path), random.Random(engine)
    planned = {cell.identity for cell in plan().cells()}
    before = {}
    for _ in range(kills):
        kill_after(start(tmp_path, engine), store, chance.randint(0, 5), chance.random() * 0.1)
        time.sleep(0.2)  # orphaned workers may still be ending; whatever they wrote counts
        now = stamps(store)
        assert before.items() <= now.items(), "a record was written twice"
        before = now
    last = start(tmp_path, engine)
    out, _ = last.communicate(timeout=120)
    assert last.returncode == 0
    assert out.split() == [str(len(planned)), "of", str(len(planned))]
    assert before.items() <= stamps(store).items(), "a record was written twice"
    records = {record.identity: record for record in store.records()}
    assert records.keys() == planned
    endings = [record.ending for record in records.values()]
    # 5 trials, each defended and undefended: nothing is lost, failures included
    assert endings.count(Ending.CRASHED) == endings.count(Ending.DIVERGED) == 10
    assert not list(store.cells.glob(".*")), "a killed writer's temporary file was left behind"
    assert len((tmp_path / "index.jsonl").read_text().splitlines()) == len(planned)
    assert store.summary().finished == len(planned)
