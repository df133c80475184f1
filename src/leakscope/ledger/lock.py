"""One runner per folder. The kernel releases these locks when a process dies, so a stale one cannot exist."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from leakscope.core.errors import BadInput

RUNNER = "runner.lock"
WORKERS = "workers.lock"
LOCKS = frozenset({RUNNER, WORKERS})


@contextlib.contextmanager
def sole_runner(folder: Path, *, patience: float = 60.0) -> Iterator[None]:
    """Hold `folder` as its only runner until the block ends.

    Raises `BadInput`, naming the process, when a living one holds it. Workers of a runner that was killed get
    `patience` seconds to notice and end: they may still be writing the record of a cell that would else run twice.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / RUNNER, "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(
                f"{folder} is being written by {_holder(lock)}; wait for it or choose another folder"
            ) from None
        _sign(lock)
        with open(folder / WORKERS, "a+") as workers:
            _wait_exclusive(workers, folder, patience)
        try:
            yield
        finally:
            lock.truncate(0)


@contextlib.contextmanager
def as_worker(folder: Path) -> Iterator[None]:
    """Mark this process as a worker on `folder`; any number of workers may hold this at once."""
    with open(folder / WORKERS, "a+") as workers:
        fcntl.flock(workers, fcntl.LOCK_SH)
        yield


def _sign(lock: IO[str]) -> None:
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {os.uname().nodename}, since {time.strftime('%Y-%m-%d %H:%M:%S')}")
    lock.flush()


def _holder(lock: IO[str]) -> str:
    lock.seek(0)
    return lock.read().strip() or "another process"


def _wait_exclusive(workers: IO[str], folder: Path, patience: float) -> None:
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(workers, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise BadInput(f"workers of an earlier run still write to {folder}; end them first") from None
            time.sleep(0.02)
