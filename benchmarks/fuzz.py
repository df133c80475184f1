"""Files of strangers at the command line: no traceback, no hang, no memory beyond 2 GB, no code of theirs that runs.

    python benchmarks/fuzz.py [--quick] [--seed 0] [--cases N] [--first N] [--workers 2] [--kind update] [--no-limit]

A line per kind of file: cases, how they ended, and faults: tracebacks, hangs (more than 10 s of the processor), cases
above 2 GB, executions, and endings that were not foreseen (a refusal without its one sentence, a deliberate case that
ends in another way than it says). Each is expected to be 0, and the exit code is 1 where one is not. `--quick` is 320
random cases, in less than a minute on two cores; without it 10 000. `--first` leaves out so many of each kind.

Every run holds the deliberate cases too, of kind `known` (`benchmarks/deliberate.py`): whatever was once too much, so
that a limit that is gone is noticed at once. `--no-limit` runs them without a bound; it has to fail.

A case is named KIND:SEED:NUMBER, or known:0:NAME, and runs alone with `--only NAME`.

Cases run inside of a few processes that are forked once everything is imported, since that takes longer than most
cases. What they take of memory is the high-water mark of the process, which is set back before each.
"""

from __future__ import annotations

import argparse
import importlib
import io
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).parent))

import deliberate
import lies
import places
import strange
import torch
from click.testing import CliRunner, Result
from typer.main import get_command

from leakscope.cli.main import app
from leakscope.core import file_limits

SLOWEST, LARGEST = 10.0, 2 * 2**30
"""Seconds of the processor, and bytes, of one case."""

CEILING = 3 * 2**30
"""Bytes of addresses of a worker beside those it begins with: the machine is to survive what the product does not."""

DEAF = 90.0
"""Seconds after which a worker is killed that hears no alarm."""

RENEWED = 250
"""Cases after which a worker is forked anew, so that what some leave behind is no matter to others."""

SCRATCH = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where cases write: in memory, so that no disk is waited for."""

OPEN = 2**62
"""A limit that is none."""

LONGEST = 2000
"""Letters of a sentence."""

Alarms = tuple[tuple[signal.Signals, int, float], ...]
ALARMS: Alarms = ((signal.SIGPROF, signal.ITIMER_PROF, SLOWEST), (signal.SIGALRM, signal.ITIMER_REAL, 6 * SLOWEST))
"""Of the processor, which others do not use up, and of the wall, for whoever sleeps."""

FAULTS = ("traceback", "hang", "memory", "execution", "ending")
NO_MEMORY = ("allocate memory", "unable to allocate", "memoryerror", "memory of this machine", "out of memory")


@dataclass(frozen=True)
class Outcome:
    """What became of a case. code: the exit code. faults: those of `FAULTS` that it shows. said: for people."""

    name: str
    kind: str
    code: int
    faults: tuple[str, ...] = ()
    said: str = ""
    seconds: float = 0.0
    peak: int = 0


class Hang(BaseException):
    """A case took too long; no `Exception`, so that nothing on the way takes it for an error of an attack."""


def honest(folder: Path) -> None:
    """Files that the command line itself writes, for the cases to spoil."""
    capture = ("capture", *strange.LINEAR, "--data", "Digits(size=8)", "--tell", "BatchSize", "--tell", "TrueLabels")
    out = str(folder / "update.safetensors"), str(folder / "secret.safetensors")
    (folder / "plan.toml").write_text(lies.PLAN)
    average = ("--mechanism", "FedAvg(steps=2, lr=0.1) >> Clip(1.0)", "--count", "2")
    lines = (
        (*capture, "--out", out[0], "--secret", out[1]),
        (*capture, *average, "--out", str(folder / "average.safetensors")),
        ("attack", out[0], *strange.LINEAR, "--with", "LinearLayer()", "--out", str(folder / "claim.safetensors")),
        ("attack", out[0], *strange.LINEAR, "--with", "LabelCounts()", "--out", str(folder / "labels.safetensors")),
        ("audit", str(folder / "plan.toml"), "--engine", "inline", "--out", str(folder / "run")),
    )
    for line in lines:
        ended = invoked(line)
        if ended.exception is not None and not isinstance(ended.exception, SystemExit):
            raise ended.exception
        if ended.exit_code == 2:
            raise RuntimeError(f"{' '.join(line)}: {ended.output}")


_COMMAND = get_command(app)
"""Made once: typer makes all commands with all options anew for each call, which takes longer than most cases."""


def invoked(line: Sequence[str]) -> Result:
    """The command line, in this process."""
    return CliRunner().invoke(_COMMAND, list(line))


def tried(name: str, honest_files: Path, alarms: Alarms = ALARMS) -> Outcome:
    """Run one case and look at what it did. alarms: a process that has its own use for one of them gives others."""
    kind, seed, number = name.split(":")
    place = Path(tempfile.mkdtemp(prefix="case.", dir=SCRATCH))
    here = os.getcwd()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if kind == "known":
                case = deliberate.case(number, honest_files, place)
            else:
                case = strange.case(kind, int(seed), int(number), honest_files, place)
        os.chdir(place)
        _forget_peak()
        began = time.process_time()
        code, fault, said = _ended(case.line, alarms)
        seconds, peak = time.process_time() - began, _peak()
        faults = [fault] if fault else []
        faults += ["hang"] if seconds > SLOWEST and fault != "hang" else []
        faults += ["memory"] if peak > LARGEST or any(one in said.lower() for one in NO_MEMORY) else []
        faults += ["execution"] if case.canary.exists() else []
        unlike = "" if faults else unforeseen(case, code, said)
        faults += ["ending"] if unlike else []
        return Outcome(name, kind, code, tuple(faults), f"{unlike}{said[-600:]}" if faults else "", seconds, peak)
    finally:
        os.chdir(here)
        places.forget()
        shutil.rmtree(place, ignore_errors=True)


def unforeseen(case: strange.Case, code: int, said: str) -> str:
    """What is wrong with how a case ended, empty where nothing is."""
    if code not in case.codes:
        return f"ended with {code}, expected {' or '.join(map(str, case.codes))}: {' '.join(case.line)[:200]}: "
    if case.says not in said:
        return f"does not say {case.says!r}: "
    if code != 2:
        return ""
    lines = [line for line in said.splitlines() if line.strip()]
    sentences = [line for line in lines if line.startswith(("leakscope: ", "Error: "))]
    if len(sentences) != 1 or sentences != lines[-1:]:
        return f"{len(sentences)} sentences in {len(lines)} lines, expected the last line and no other: "
    return f"a sentence of {len(sentences[0])} letters: " if len(sentences[0]) > LONGEST else ""


def _ended(line: Sequence[str], alarms: Alarms) -> tuple[int, str, str]:
    """The exit code, a fault or none, and what was said."""
    for alarm, timer, seconds in alarms:
        signal.signal(alarm, _too_long)
        signal.setitimer(timer, seconds)
    try:
        ended = invoked(line)
    except Hang:
        return -1, "hang", " ".join(line)[:300]
    except BaseException as error:  # noqa: BLE001, a fault of the case and not of this program
        return -1, "traceback", f"{' '.join(line)[:200]}\n{_last(error)}"
    finally:
        for _, timer, _ in alarms:
            signal.setitimer(timer, 0)
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        fault = "hang" if isinstance(ended.exception, Hang) else "traceback"
        return -1, fault, f"{' '.join(line)[:200]}\n{_last(ended.exception)}"
    if "Traceback (most recent call last)" in ended.stderr or ended.exit_code not in (0, 1, 2, 3):
        return ended.exit_code, "traceback", ended.stderr
    return int(ended.exit_code), "", ended.stderr


def _last(error: BaseException) -> str:
    where = traceback.extract_tb(error.__traceback__)[-4:]
    places = " < ".join(f"{Path(one.filename).name}:{one.lineno} {one.name}" for one in reversed(where))
    return f"{type(error).__name__}: {str(error)[:200]} at {places}"


def _too_long(number: int, frame: FrameType | None) -> None:
    raise Hang


def _forget_peak() -> None:
    # Linux: 5 sets the high-water mark back to what is resident now
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    said = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(said.split()[1]) * 1024


def prepare() -> None:
    """What is done once, before the workers are forked: whatever would be imported in every one of them."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    # An alarm in the middle of an import would leave half a module for all cases after it.
    for command in ("attack", "audit", "capture", "merge", "report", "score"):
        importlib.import_module(f"leakscope.cli.commands.{command}")
    for module in ("matplotlib.figure", "soundfile", "sklearn.datasets", "scipy.signal", "skimage"):
        importlib.import_module(module)
    warnings.simplefilter("ignore")


def serve(asked: Connection, files: Path, *, unlimited: bool) -> None:
    """A worker: cases by name, until it is ended or its parent is gone."""
    held = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize"))
    most = int(held.split()[1]) * 1024 + CEILING
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    sys.stdout = sys.stderr = io.StringIO()  # the terminal is the parent's
    if unlimited:
        file_limits.raise_limit(OPEN)
    parent = os.getppid()
    while os.getppid() == parent:
        if not asked.poll(1):
            continue
        name = asked.recv()
        try:
            found = tried(name, files)
        except Exception as error:  # noqa: BLE001, a fault of this program, which is to be seen too
            found = Outcome(name, name.split(":")[0], -1, ("traceback",), f"of the benchmark itself: {_last(error)}")
        asked.send(found)


@dataclass
class Table:
    """Outcomes by kind."""

    kinds: dict[str, list[Outcome]] = field(default_factory=dict)

    def add(self, one: Outcome) -> None:
        """Count it, and show what it did wrong."""
        self.kinds.setdefault(one.kind, []).append(one)
        if one.faults:
            print(
                f"  {one.name}: {', '.join(one.faults)} ({one.seconds:.1f} s, {one.peak / 2**20:.0f} MB): {one.said}",
                flush=True,
            )

    def show(self) -> bool:
        """Print a line per kind; whether nothing is wrong."""
        print(f"{'kind':<8} {'cases':>6} {'ends 0/1/2/3':>20} {'slowest':>8} {'peak MB':>8}  " + "  ".join(FAULTS))
        for kind, found in sorted(self.kinds.items()):
            ends = Counter(one.code for one in found)
            codes = "/".join(str(ends[code]) for code in (0, 1, 2, 3))
            counts = [sum(fault in one.faults for one in found) for fault in FAULTS]
            slow, large = max(one.seconds for one in found), max(one.peak for one in found) / 2**20
            said = "  ".join(f"{count:>{len(fault)}}" for count, fault in zip(counts, FAULTS, strict=True))
            print(f"{kind:<8} {len(found):>6} {codes:>20} {slow:>8.1f} {large:>8.0f}  {said}")
        wrong = sum(bool(one.faults) for found in self.kinds.values() for one in found)
        total = sum(len(found) for found in self.kinds.values())
        print(f"{total} cases, {wrong} with a fault; expected 0")
        return wrong == 0


@dataclass
class Worker:
    """A process with a case in hand. since: when that was given to it."""

    process: BaseProcess
    asked: Connection
    name: str = ""
    since: float = 0.0
    served: int = 0

    @classmethod
    def forked(cls, files: Path, *, unlimited: bool) -> Worker:
        """A new one."""
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, files), kwargs={"unlimited": unlimited}, daemon=True)
        process.start()
        theirs.close()
        return cls(process, ours)

    def give(self, name: str) -> None:
        """The next case."""
        self.name, self.since, self.served = name, time.monotonic(), self.served + 1
        self.asked.send(name)

    def taken(self) -> Outcome | None:
        """What became of its case; None where it is still at it. Ends a worker that is deaf."""
        try:
            if self.asked.poll():
                return self.asked.recv()
        except (EOFError, OSError):
            return self._lost("its process died")
        deaf = time.monotonic() - self.since > DEAF
        return self._lost(f"heard no alarm for {DEAF:.0f} s") if deaf else None

    def _lost(self, why: str) -> Outcome:
        self.end()
        return Outcome(self.name, self.name.split(":")[0], -1, ("hang",), why, DEAF)

    def end(self) -> None:
        """No more cases."""
        self.process.kill()
        self.process.join()
        self.asked.close()


def batches(names: Sequence[str], files: Path, workers: int, *, unlimited: bool = False) -> Iterator[Outcome]:
    """All cases. A worker that dies, or is killed since it hears no alarm, ends one case and not the others."""
    left = list(reversed(names))
    new: Callable[[], Worker] = lambda: Worker.forked(files, unlimited=unlimited)  # noqa: E731
    busy: list[Worker] = []
    try:
        while left or busy:
            while left and len(busy) < workers:
                busy.append(new())
                busy[-1].give(left.pop())
            wait([one.asked for one in busy], timeout=1)
            for one in list(busy):
                found = one.taken()
                if found is None:
                    continue
                yield found
                # What was too large for a case is no matter to the next.
                if left and one.served < RENEWED and not found.faults:
                    one.give(left.pop())
                else:
                    busy.remove(one)
                    one.end()
    finally:
        for one in busy:
            one.end()


def main() -> None:
    """Run the cases that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kind", choices=(*strange.KINDS, "known"), action="append")
    parser.add_argument("--only", metavar="KIND:SEED:NUMBER")
    parser.add_argument("--no-limit", action="store_true")
    given = parser.parse_args()
    prepare()
    table, began = Table(), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="fuzz.", dir=SCRATCH) as folder:
        honest(Path(folder))
        starved = list[str]()
        for one in batches(asked(given), Path(folder), given.workers, unlimited=given.no_limit):
            if one.faults == ("hang",) and one.seconds < SLOWEST:
                starved.append(one.name)
            else:
                table.add(one)
        # The wall's alarm ends who sleeps, and who got no processor among others: the first does so again.
        for one in batches(starved, Path(folder), 1, unlimited=given.no_limit):
            table.add(one)
    fine = table.show()
    said = f"; {places.said()}" if "known" in table.kinds else ""
    print(f"{time.perf_counter() - began:.0f} s, {_processor():.0f} s of the processor, seed {given.seed}{said}")
    raise SystemExit(0 if fine else 1)


def asked(given: argparse.Namespace) -> list[str]:
    """The names of the cases: the deliberate ones first, so that a limit that is gone is seen at once."""
    if given.only:
        return [given.only]
    known = [f"known:0:{name}" for name in deliberate.CASES]
    if given.no_limit:
        return known
    kinds = [kind for kind in strange.KINDS if not given.kind or kind in given.kind]
    each = -(-(given.cases or (320 if given.quick else 10_000)) // max(len(kinds), 1))
    drawn = [f"{kind}:{given.seed}:{given.first + number}" for number in range(each) for kind in kinds]
    return [*(known if not given.kind or "known" in given.kind else ()), *drawn]


def _processor() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    main()
