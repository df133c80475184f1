"""One runner per folder, or one per part of it. The kernel releases these locks when a process dies: none is stale."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from leakscope.core.errors import BadInput

RUNNER, WORKERS, SHARED = "runner", "workers", "shared"
SUFFIX = ".lock"


def is_lock(name: str) -> bool:
    """Whether a file of this name is one of the locks of a run.

    >>> is_lock("runner.lock"), is_lock("workers-2-of-3.lock"), is_lock("plan.json")
    (True, True, False)
    """
    return name.endswith(SUFFIX) and name.removesuffix(SUFFIX).partition("-")[0] in (RUNNER, WORKERS, SHARED)


@contextlib.contextmanager
def sole_runner(folder: Path, part: str = "", *, patience: float = 60.0) -> Iterator[None]:
    """Hold `folder`, or this part of it, as its only runner until the block ends.

    The runner of a whole folder excludes all others; runners of different parts may work beside each other.
    Raises `BadInput`, naming the process, when a living one holds it. Workers of a runner that was killed get
    `patience` seconds to notice and end: they may still be writing the record of a cell that would else run twice.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        whole = held.enter_context(open(folder / _file(RUNNER), "a+"))
        _take(whole, fcntl.LOCK_SH if part else fcntl.LOCK_EX, folder)
        mine = whole if not part else held.enter_context(open(folder / _file(RUNNER, part), "a+"))
        if part:
            _take(mine, fcntl.LOCK_EX, folder)
            _alone_in_cutting(folder, part)
        _sign(mine)
        held.callback(mine.truncate, 0)
        # the runner of the whole waits for the workers of every part
        waiting = [folder / _file(WORKERS, part)] if part else [folder / _file(WORKERS), *_all(folder, WORKERS)]
        for path in waiting:
            with open(path, "a+") as workers:
                _wait_exclusive(workers, folder, patience)
        yield


@contextlib.contextmanager
def as_worker(folder: Path, part: str = "") -> Iterator[None]:
    """Mark this process as a worker on `folder` or this part of it; any number of workers may hold this at once."""
    with open(folder / _file(WORKERS, part), "a+") as workers:
        fcntl.flock(workers, fcntl.LOCK_SH)
        yield


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Wait until no other runner is writing what runners of different parts share: the plan, the index, the summary."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / _file(SHARED), "a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _file(kind: str, part: str = "") -> str:
    return f"{kind}-{part}{SUFFIX}" if part else f"{kind}{SUFFIX}"


def _all(folder: Path, kind: str) -> list[Path]:
    return sorted(folder.glob(f"{kind}-*{SUFFIX}"))


def _take(lock: IO[str], how: int, folder: Path) -> None:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BadInput(
            f"{folder} is being written by {_holder(lock, folder)}; wait for it or choose another folder"
        ) from None


def _alone_in_cutting(folder: Path, part: str) -> None:
    """Refuse to work beside parts of another number: their cells would overlap. A part is named PLACE-of-COUNT."""
    number = part.rpartition("-")[2]
    for path in _all(folder, RUNNER):
        if path.name.removesuffix(SUFFIX).rpartition("-")[2] == number:
            continue
        with open(path, "a+") as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                cut = path.name.removesuffix(SUFFIX).removeprefix(f"{RUNNER}-")
                raise BadInput(f"{folder} is being written in other shards ({cut}); cut all of them alike") from None


def _sign(lock: IO[str]) -> None:
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {os.uname().nodename}, since {time.strftime('%Y-%m-%d %H:%M:%S')}")
    lock.flush()


def _holder(lock: IO[str], folder: Path) -> str:
    lock.seek(0)
    signed = [lock.read().strip(), *(path.read_text().strip() for path in _all(folder, RUNNER))]
    return next((who for who in signed if who), "another process")


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
