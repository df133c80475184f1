"""Files of strangers at the command line: no traceback, no hang, no memory beyond 2 GB, no code of theirs that runs.

    python benchmarks/fuzz.py [--quick] [--seed 0] [--cases N] [--workers 2] [--kind update]

A line per kind of file: cases, how they ended, tracebacks, hangs (more than 10 s of the processor), cases above 2 GB,
executions; each of the last four is expected to be 0, and the exit code is 1 where one is not. `--quick` is 320 cases,
in less than a minute on two cores; without it 10 000. A case is named KIND:SEED:NUMBER and runs alone with
`--only KIND:SEED:NUMBER`.

Cases run inside of a few processes, since starting one takes longer than most cases. What they take of memory is the
high-water mark of the process, which is set back before each.
"""

from __future__ import annotations

import argparse
import importlib
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
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).parent))

import lies
import strange
import torch
from typer.testing import CliRunner

from leakscope.cli.main import app

SLOWEST, LARGEST = 10.0, 2 * 2**30
"""Seconds of the processor, and bytes, of one case."""

CEILING = 10 * 2**30
"""Bytes of addresses of a worker: the machine is to survive what the product does not."""

Alarms = tuple[tuple[signal.Signals, int, float], ...]
ALARMS: Alarms = ((signal.SIGPROF, signal.ITIMER_PROF, SLOWEST), (signal.SIGALRM, signal.ITIMER_REAL, 3 * SLOWEST))
"""Of the processor, which others do not use up, and of the wall, for whoever sleeps."""

FAULTS = ("traceback", "hang", "memory", "execution")
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
        ended = CliRunner().invoke(app, line)
        if ended.exception is not None and not isinstance(ended.exception, SystemExit):
            raise ended.exception
        if ended.exit_code == 2:
            raise RuntimeError(f"{' '.join(line)}: {ended.output}")


def tried(name: str, honest_files: Path, alarms: Alarms = ALARMS) -> Outcome:
    """Run one case and look at what it did. alarms: a process that has its own use for one of them gives others."""
    kind, seed, number = name.split(":")
    place = Path(tempfile.mkdtemp(prefix="case."))
    here = os.getcwd()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
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
        return Outcome(name, kind, code, tuple(faults), said[-600:] if faults else "", seconds, peak)
    finally:
        os.chdir(here)
        shutil.rmtree(place, ignore_errors=True)


def _ended(line: Sequence[str], alarms: Alarms) -> tuple[int, str, str]:
    """The exit code, a fault or none, and what was said."""
    for alarm, timer, seconds in alarms:
        signal.signal(alarm, _too_long)
        signal.setitimer(timer, seconds)
    try:
        ended = CliRunner().invoke(app, list(line))
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
    return ended.exit_code, "", ended.stderr


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
    """What every worker does first."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    resource.setrlimit(resource.RLIMIT_AS, (CEILING, CEILING))
    # An alarm in the middle of an import would leave half a module for all cases after it.
    for command in ("attack", "audit", "capture", "merge", "report", "score"):
        importlib.import_module(f"leakscope.cli.commands.{command}")
    for module in ("matplotlib.figure", "soundfile", "sklearn.datasets", "scipy.signal", "skimage"):
        importlib.import_module(module)
    warnings.simplefilter("ignore")


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


def batches(names: Sequence[str], files: Path, workers: int) -> Iterator[Outcome]:
    """All cases. A worker that dies, or is killed since it hears no alarm, ends one case and not the others."""
    left = list(names)
    context = multiprocessing.get_context("spawn")
    while left:
        with ProcessPoolExecutor(workers, mp_context=context, initializer=prepare) as pool:
            futures = {name: pool.submit(tried, name, files) for name in left}
            try:
                for name, future in futures.items():
                    yield future.result(timeout=60)
                    left.remove(name)
            except (BrokenProcessPool, TimeoutError):
                yield Outcome(name, name.split(":")[0], -1, ("hang",), "its process died or heard no alarm")
                left.remove(name)
                for process in list(pool._processes.values()):
                    process.kill()


def main() -> None:
    """Run the cases that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kind", choices=strange.KINDS, action="append")
    parser.add_argument("--only", metavar="KIND:SEED:NUMBER")
    given = parser.parse_args()
    kinds = given.kind or list(strange.KINDS)
    each = -(-(given.cases or (320 if given.quick else 10_000)) // len(kinds))
    names = [f"{kind}:{given.seed}:{number}" for number in range(each) for kind in kinds]
    table, began = Table(), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="fuzz.") as folder:
        honest(Path(folder))
        for one in batches([given.only] if given.only else names, Path(folder), given.workers):
            table.add(one)
    fine = table.show()
    print(f"{time.perf_counter() - began:.0f} s, seed {given.seed}")
    raise SystemExit(0 if fine else 1)


if __name__ == "__main__":
    main()
