"""The right to write somewhere: one process has it, shows that it is alive, and notices when it has lost it.

A lease is a file. Whoever creates it holds it; creating is exclusive (O_EXCL) on local and on network file systems,
where locks of the kernel (`flock`) are kept by each machine for itself, or silently by nobody. In return nothing but
its age tells that a holder on another machine is dead. So a holder touches its file at every beat, and a lease without
a sign of life for a number of beats may be taken over; on the same machine a dead process is recognized at once.

Ages are differences of two times of the same file system, never of the clocks of two machines.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import secrets
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

from leakscope.core.errors import LostLease

POLL = 0.01
"""Seconds between two looks at a gate; it is held for as long as it takes to read and remove one small file."""

LONGEST = 3600.0
"""Seconds: the most patience that a lease may ask for itself. It is read from a file, which may hold anything."""


@final
@dataclass(frozen=True)
class Pace:
    """beat: seconds between two signs of life. missed: after how many that did not come the holder is given up.

    A minute in all: long against what keeps a thread of Python from running, short against an audit.
    """

    beat: float = 5.0
    missed: int = 12

    @property
    def patience(self) -> float:
        """Seconds without a sign of life after which a lease may be taken over."""
        return self.beat * self.missed


PACE = Pace()


@final
@dataclass(frozen=True)
class Owner:
    """Who holds a lease. machine: where its pid means anything; born: tells it from a later process of this pid.

    token: differs for each lease that was ever taken. patience: see `Pace`.
    """

    host: str
    machine: str
    pid: int
    born: str
    since: str
    token: str
    patience: float

    @staticmethod
    def me(pace: Pace) -> Owner:
        """This process, with a new token."""
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        return Owner(_host(), _machine(), os.getpid(), _born(os.getpid()), since, secrets.token_hex(8), pace.patience)

    @staticmethod
    def read(text: str) -> Owner | None:
        """The owner that `text` names, None where it names none: it is still being written, or something else."""
        try:
            owner = Owner(**json.loads(text))
        except (ValueError, TypeError, RecursionError):
            return None
        numbers = isinstance(owner.pid, int) and isinstance(owner.patience, int | float)
        # 0 and negative pids mean groups of processes, and no patience means that nobody ever holds it
        return owner if numbers and owner.pid > 0 and 0 < owner.patience <= LONGEST else None

    def text(self) -> str:
        """What its file holds."""
        return json.dumps(asdict(self))

    def dead(self) -> bool:
        """Whether it certainly is; False where this machine cannot tell."""
        if self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)  # sends nothing
        except ProcessLookupError:
            return True
        except (PermissionError, OverflowError):
            return False
        # A killed process whose parent has not asked for its end (a zombie) still has its pid, but no birth.
        born = _born(self.pid)
        return bool(self.born) and born != self.born

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


@final
@dataclass(frozen=True)
class Held:
    """A lease that somebody else has and uses. who: for messages."""

    who: str


class AbstractLease(ABC):
    """A right that can be lost: by a process that was stopped for longer than others wait for a sign of life."""

    @abstractmethod
    def check(self) -> None:
        """Call it before each write. Raises `LostLease` when somebody else has taken over."""

    @abstractmethod
    def release(self) -> None:
        """Give it back, if it is still there."""


@final
class FileLease(AbstractLease):
    """The lease whose file is `path`; made by `take` alone."""

    def __init__(self, path: Path, owner: Owner, handle: int, beat: float) -> None:
        self.path, self.owner = path, owner
        self._text, self._handle = owner.text(), handle
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._live, args=(beat,), daemon=True)
        self._heart.start()

    def __repr__(self) -> str:
        return f"FileLease({str(self.path)!r})"

    @staticmethod
    def take(path: Path, pace: Pace | None = None) -> FileLease | Held:
        """The lease, if nobody has it or whoever had it is gone; never waits for a living holder.

        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "runner.lease"
        >>> lease = FileLease.take(path)
        >>> FileLease.take(path).who.startswith("process ")
        True
        >>> lease.release()
        >>> path.exists()
        False
        """
        pace = pace or PACE
        while True:
            owner = Owner.me(pace)
            handle = _create(path, owner.text())
            if handle is not None:
                return FileLease(path, owner, handle, pace.beat)
            held = clear(path)
            if held is not None:
                return held

    def check(self) -> None:
        """Show a sign of life, then see whether the file is still this lease's."""
        # In this order: one who is about to take over looks again before it acts, and then sees the sign.
        with contextlib.suppress(OSError):
            os.utime(self._handle)
        there = _text(self.path)
        if there != self._text:
            raise LostLease(
                f"{self.path.parent} was taken over by {_named(there)} while this process had stopped for more "
                f"than {self.owner.patience:g} s; it writes nothing more"
            )

    def release(self) -> None:
        """Remove the file, if it is still this lease's."""
        self._ended.set()
        self._heart.join()
        # A folder that is gone or full is no reason to fail at the end: the process will be recognized as dead.
        with contextlib.suppress(OSError), _gate(self.path):
            if _text(self.path) == self._text:
                self.path.unlink()
        os.close(self._handle)

    def _live(self, beat: float) -> None:
        while not self._ended.wait(beat):
            try:
                # By its handle, not by its name: the name may be another's by now, and would be kept alive.
                os.utime(self._handle)
            except OSError:
                return  # the file is gone, as `check` will find


def living(path: Path) -> Held | None:
    """Who has the lease `path`, None where nobody has, or whoever had it is gone."""
    seen = _look(path)
    return None if seen is None or seen.stale else Held(_named(seen.text))


def clear(path: Path) -> Held | None:
    """Remove the lease `path` if whoever had it is gone; who has it, if somebody lives."""
    seen = _look(path)
    if seen is None:
        return None
    if not seen.stale:
        return Held(_named(seen.text))
    with _gate(path):
        again = _look(path)
        if again is not None and again.stale and again.text == seen.text:
            path.unlink()
    return None


@final
@dataclass(frozen=True)
class _Seen:
    """A lease at one moment. age: seconds since its last sign of life."""

    text: str
    age: float

    @property
    def stale(self) -> bool:
        """Whether it may be taken over. One that names nobody is as a rule just being written."""
        owner = Owner.read(self.text)
        if owner is None:
            return self.age > PACE.patience
        return owner.dead() or self.age > owner.patience


def _look(path: Path) -> _Seen | None:
    try:
        # Both of one open file: the name may be another's a moment later, and a network file system asks the server
        # for the time when a file is opened, and answers from its memory when it is not.
        with path.open(encoding="utf-8", errors="replace") as file:
            text, touched = file.read(), os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None
    return _Seen(text, _now(path.parent) - touched)


def _now(folder: Path) -> float:
    """What the clock of the file system says: the time of a file that was made just now."""
    handle, name = tempfile.mkstemp(dir=folder, prefix=".clock.", suffix=".tmp")
    try:
        return os.fstat(handle).st_mtime
    finally:
        os.close(handle)
        with contextlib.suppress(FileNotFoundError):  # a runner may have swept it away
            os.unlink(name)


def _create(path: Path, text: str) -> int | None:
    """The open file, None where there is one already."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    except FileExistsError:
        return None
    try:
        os.write(handle, text.encode())
        os.fsync(handle)  # the file stays open, and others are to read now who has it
    except OSError:
        os.close(handle)
        path.unlink(missing_ok=True)
        raise
    return handle


@contextlib.contextmanager
def _gate(path: Path) -> Iterator[None]:
    """Be alone in removing the lease `path`: whoever looks and then removes must not remove what came in between.

    Without it, of two who find the same dead lease the second would remove the living one that the first has made.
    The gate is itself a file that is created exclusively. One whose holder died within these few instructions is
    moved away under a name of its own and put back if it turns out to be another: only if a process dies here, and
    two others come at the same instant, can both pass. Then one of them still notices by `check` at its next write.
    """
    gate = path.with_name(f".{path.name}.gate")
    text = Owner.me(PACE).text()
    while True:
        handle = _create(gate, text)
        if handle is not None:
            break
        seen = _look(gate)
        if seen is not None and seen.stale:
            _break(gate, seen.text)
        time.sleep(POLL)
    try:
        yield
    finally:
        os.close(handle)
        if _text(gate) == text:
            gate.unlink()


def _break(gate: Path, text: str) -> None:
    aside = gate.with_name(f"{gate.name}.{secrets.token_hex(8)}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(gate, aside)
        if _text(aside) != text:
            with contextlib.suppress(FileExistsError):
                os.link(aside, gate)
        aside.unlink()


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _named(text: str | None) -> str:
    owner = Owner.read(text or "")
    return "another process" if owner is None else str(owner)


def _host() -> str:
    return os.uname().nodename


@functools.cache
def _machine() -> str:
    """Equal for processes that can see each other's pids: of one machine, since it was started, in one container.

    Containers may share a name and count their processes apart: a pid that is not there would not mean a dead process.
    """
    parts = [_host()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.blake2b("|".join(parts).encode(), digest_size=8).hexdigest()


def _born(pid: int) -> str:
    """When a process began, in the machine's own ticks; empty where it is dead or the system does not say."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The name stands in parentheses and may hold any of them; after it come the 3rd field, the state, and so on.
    state, *rest = text.rpartition(")")[2].split()
    return "" if state in ("Z", "X") else rest[18]
