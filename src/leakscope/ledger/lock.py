"""One runner per folder, or one per part of it, and its workers: who may write to a run, by leases (`ledger.lease`)."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from leakscope.core.errors import BadInput
from leakscope.ledger.folders import private_folder
from leakscope.ledger.lease import AbstractLease, FileLease, Held, clear, living

RUNNER, WORKERS, SHARED = "runner", "workers", "shared"
SUFFIX = ".lease"
OLD_SUFFIX = ".lock"
"""Of the files that versions up to 0.1.0 locked in the kernel and left lying."""

POLL = 0.02
"""Seconds between two looks at a lease that is waited for, at first."""
SELDOM = 1.0
"""The same after a while."""


def is_lock(name: str) -> bool:
    """Whether a file of this name says who may write to a run.

    >>> is_lock("runner.lease"), is_lock("workers-2-of-3.0af1.lease"), is_lock("runner.lock"), is_lock("plan.json")
    (True, True, True, False)
    """
    kind = name.partition(".")[0].partition("-")[0]
    return name.endswith((SUFFIX, OLD_SUFFIX)) and kind in (RUNNER, WORKERS, SHARED)


@contextlib.contextmanager
def sole_runner(folder: Path, part: str = "", *, patience: float = 60.0) -> Iterator[AbstractLease]:
    """Hold `folder`, or this part of it, as its only runner until the block ends; check the lease before each write.

    The runner of a whole folder excludes all others; runners of different parts may work beside each other.
    Raises `BadInput`, naming the process, when a living one holds it. Workers of a runner that was killed get
    `patience` seconds to notice and end: they may still be writing the record of a cell that would else run twice.
    """
    private_folder(folder)
    own = folder / _file(RUNNER, part)
    _refuse(folder, part, [own, *_others(folder, part)])
    # Before taking over: a runner that is merely stopped loses nothing as long as its workers still work.
    _wait_for_workers(folder, part, patience)
    lease = FileLease.take(own)
    if isinstance(lease, Held):
        raise _busy(folder, lease)
    try:
        # Again: of two that hold different files and began at once, at least one sees the other here and gives way.
        _refuse(folder, part, _others(folder, part))
        for path in _others(folder, part):
            clear(path)  # of runners that are gone; one that is only stopped will find that it has lost
        _wait_for_workers(folder, part, patience)
        yield lease
    finally:
        lease.release()


@contextlib.contextmanager
def as_worker(folder: Path, part: str = "") -> Iterator[AbstractLease]:
    """Mark this process as a worker on `folder` or this part of it; any number of workers may do so at once."""
    lease = FileLease.take(folder / _file(WORKERS, part, secrets.token_hex(8)))
    assert not isinstance(lease, Held)  # the name is new
    try:
        yield lease
    finally:
        lease.release()


@contextlib.contextmanager
def one_at_a_time(folder: Path, name: str = SHARED) -> Iterator[AbstractLease]:
    """Wait until nobody else is in a block of this name: what runners or workers share is written by one of them."""
    private_folder(folder)
    lease, pause = FileLease.take(folder / _file(name)), POLL
    while isinstance(lease, Held):
        time.sleep(pause)
        pause = min(1.5 * pause, SELDOM)  # it may take hours: each look is a file that is made and removed
        lease = FileLease.take(folder / _file(name))
    try:
        yield lease
    finally:
        lease.release()


def _file(kind: str, part: str = "", token: str = "") -> str:
    return f"{kind}{part and f'-{part}'}{token and f'.{token}'}{SUFFIX}"


def _others(folder: Path, part: str) -> list[Path]:
    """The leases of runners whose cells would overlap: of a part the whole and other cuts, of the whole every part.

    A part is named PLACE-of-COUNT; parts of one count do not overlap.
    """
    parts = sorted(folder.glob(_file(RUNNER, "*")))
    if not part:
        return parts
    count = part.rpartition("-")[2]
    return [folder / _file(RUNNER), *(path for path in parts if path.stem.rpartition("-")[2] != count)]


def _refuse(folder: Path, part: str, paths: list[Path]) -> None:
    for path in paths:
        held = living(path)
        if held is None:
            continue
        cut = path.stem.partition("-")[2]
        if part and cut and cut != part:
            raise BadInput(f"{folder} is being written in other shards ({cut}); cut all of them alike")
        raise _busy(folder, held)


def _busy(folder: Path, held: Held) -> BadInput:
    return BadInput(f"{folder} is being written by {held.who}; wait for it or choose another folder")


def _wait_for_workers(folder: Path, part: str, patience: float) -> None:
    """The runner of the whole waits for the workers of every part."""
    pattern = _file(WORKERS, part, "*") if part else f"{WORKERS}*{SUFFIX}"
    end = time.monotonic() + patience
    while any(clear(path) is not None for path in folder.glob(pattern)):
        if time.monotonic() > end:
            raise BadInput(f"workers of an earlier run still write to {folder}; end them first")
        time.sleep(POLL)
