"""Cells in several processes of this machine: one thread each, one file per cell, a death is noticed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import final

from leakscope.audit.engines.engine import AbstractEngine, Event, Finished, Listen, Moved, Noticed, Started, title
from leakscope.audit.outcome import crashed
from leakscope.audit.plan import Cell
from leakscope.audit.preparation import Shelf
from leakscope.audit.work import attempt
from leakscope.core import file_limits
from leakscope.core.effort import Progress, Watch
from leakscope.core.errors import BadInput, DamagedRecord, LostLease
from leakscope.ledger.lock import as_worker
from leakscope.ledger.run_folder import RunStore

PAUSE = 0.2
"""Seconds between two signs of progress of one worker."""

TRIES = 2
"""How often a cell is started whose worker dies; then it is recorded as crashed."""


@final
@dataclass(frozen=True)
class Ready:
    """A worker holds its lease and waits for a cell."""


@final
@dataclass(frozen=True)
class Unreadable:
    """A worker could not rebuild the cell that it was sent."""

    why: str


@final
@dataclass(frozen=True)
class Processes(AbstractEngine):
    """`workers` processes (default: as many as the processors can carry with each cell's threads), each with a pipe.

    A pipe per worker and no shared queue: a worker that is killed while it writes would leave a shared queue locked
    for all the others. Scripts that use this engine need the usual `if __name__ == "__main__":`.
    Raises `BadInput` when workers < 1.

    >>> Processes(2)
    Processes(workers=2)
    """

    workers: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise BadInput(f"expected at least 1 worker, got {self.workers}")

    def run(self, cells: Sequence[Cell], store: RunStore, listen: Listen) -> None:
        """Hand out the cells in their order, the next to whichever worker is free."""
        # Cells of one plan have the same resources; more threads than processors only wait for each other.
        threads = max((cell.resources.threads for cell in cells), default=1)
        count = min(self.workers or max(1, (os.cpu_count() or 1) // threads), len(cells))
        crew = _Crew(store, listen, deque(cells))
        try:
            crew.hire(count)
            while crew.busy():
                crew.listen_once()
            crew.dismiss()
        finally:
            crew.stop()


@final
@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    channel: Connection
    cell: Cell | None = None
    ready: bool = False


@final
@dataclass(eq=False)
class _Crew:
    """The workers of one run and what is still to do."""

    store: RunStore
    listen: Listen
    waiting: deque[Cell]
    workers: list[_Worker] = field(default_factory=list)
    tries: Counter[str] = field(default_factory=Counter)
    stillborn: int = 0

    def busy(self) -> bool:
        return bool(self.waiting) or any(worker.cell is not None for worker in self.workers)

    def hire(self, count: int) -> None:
        context = _context()
        for _ in range(count):
            ours, theirs = context.Pipe()
            given = (str(self.store.folder), self.store.part, theirs, file_limits.limit())
            process = context.Process(target=_work, args=given, daemon=True)  # type: ignore[attr-defined]
            process.start()
            theirs.close()  # else the end of the worker would not be the end of the pipe
            self.workers.append(_Worker(process, ours))

    def listen_once(self) -> None:
        channels = {id(worker.channel): worker for worker in self.workers}
        for channel in wait([worker.channel for worker in self.workers]):
            worker = channels[id(channel)]
            try:
                said = worker.channel.recv()
            except (EOFError, OSError):
                self._bury(worker)
            else:
                self._hear(worker, said)

    def _hear(self, worker: _Worker, said: Event | Ready | Unreadable | OSError) -> None:
        if isinstance(said, Ready):
            worker.ready = True
            self.stillborn = 0
            self._hand_out(worker)
            return
        if isinstance(said, OSError):
            raise said
        if isinstance(said, Unreadable):
            assert worker.cell is not None
            why = f"its parts cannot be imported in a worker process ({said.why}); use the inline engine"
            said = self._record_crash(worker.cell, why)
        self.listen(said)
        if isinstance(said, Finished):
            worker.cell = None
            self._hand_out(worker)

    def _hand_out(self, worker: _Worker) -> None:
        if not self.waiting:
            return
        cell = self.waiting.popleft()
        worker.cell = cell
        self.tries[cell.identity] += 1
        with suppress(OSError):  # a dead worker is buried when its pipe is read
            worker.channel.send(cell)

    def _bury(self, worker: _Worker) -> None:
        worker.process.join()
        worker.channel.close()
        self.workers.remove(worker)
        if not worker.ready:
            self.stillborn += 1
            if self.stillborn >= 3:
                raise BadInput(
                    f"worker processes end before they begin (exit {worker.process.exitcode}); "
                    "read their messages above, or use the inline engine"
                )
        if worker.cell is not None:
            self._settle(worker.cell, worker.process.exitcode)
        if self.busy():
            self.hire(1)

    def _settle(self, cell: Cell, code: int | None) -> None:
        """What becomes of the cell of a dead worker: its record if it was written, another try, or a crash."""
        try:
            self.listen(Finished(self.store.record(cell.identity)))
            return
        except DamagedRecord:
            pass  # died before the record was written, as the file is there whole or not at all
        how = _cause(code)
        if self.tries[cell.identity] < TRIES:
            self.listen(Noticed(f"a worker {how}; starting its cell again: {title(cell)}"))
            self.waiting.appendleft(cell)
            return
        why = f"the worker process {how} in {TRIES} attempts; perhaps the machine ran out of memory"
        self.listen(self._record_crash(cell, why))

    def _record_crash(self, cell: Cell, why: str) -> Finished:
        found = crashed(cell, why)
        self.store.write(found.record, found.arrays)
        return Finished(found.record)

    def dismiss(self) -> None:
        """Let idle workers end by themselves."""
        for worker in self.workers:
            with suppress(OSError):
                worker.channel.send(None)
        end = time.monotonic() + 5
        for worker in self.workers:
            worker.process.join(max(0.0, end - time.monotonic()))

    def stop(self) -> None:
        """End whoever is still there; what they had not finished is not recorded."""
        for worker in self.workers:
            if worker.process.is_alive():
                worker.process.kill()
        for worker in self.workers:
            worker.process.join()
            worker.channel.close()
        self.workers.clear()


def _cause(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was killed by signal {-code} ({signal.Signals(-code).name})"
    return f"ended with exit code {code}"


def _context() -> BaseContext:
    # Never fork: a forked child would inherit torch's threads in an unknown state.
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload(["leakscope.audit.engines.processes"])
    return context


def _work(folder: str, part: str, channel: Connection, limit: int) -> None:
    """The life of a worker. Ctrl-C is the runner's business."""
    file_limits.raise_limit(limit)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_runner, daemon=True).start()
    with as_worker(Path(folder), part) as lease:
        store = RunStore(Path(folder), part, lease)
        # No cell before the lease is held: a new runner waits until everyone who might still write is gone.
        _send(channel, Ready())
        while True:
            try:
                cell = channel.recv()
            except (EOFError, OSError):
                return
            except (ImportError, AttributeError) as error:
                _send(channel, Unreadable(str(error)))
                continue
            if cell is None:
                return
            _send(channel, Started(cell.identity, title(cell)))
            found = attempt(cell, watch=_throttled(cell.identity, channel), shelf=Shelf(store.prepared))
            try:
                store.write(found.record, found.arrays)
            except OSError as error:  # a full disk: every other cell would meet it too, so the runner is told
                _send(channel, error)
                return
            except LostLease:
                os._exit(1)  # another runner works here; ours finds out by itself
            _send(channel, Finished(found.record))


def _send(channel: Connection, message: Event | Ready | Unreadable | OSError) -> None:
    """Tell the runner, or end at once where it is gone.

    An exception would not do: raised while an attack reports its progress, it would be recorded as the attack's own.
    """
    try:
        channel.send(message)
    except OSError:
        os._exit(1)


def _throttled(name: str, channel: Connection) -> Watch:
    last = 0.0

    def watch(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PAUSE:
            last = now
            _send(channel, Moved(name, progress))

    return watch


def _end_with_the_runner() -> None:
    runner = multiprocessing.parent_process()
    if runner is not None:
        runner.join()
        os._exit(1)
