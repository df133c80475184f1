"""Runs a small audit in a folder, to be killed by `test_audit_kill`: python -m tests.audit_kill FOLDER ENGINE."""

import sys
from pathlib import Path

from tests.audit_toys import Crashes, Diverges, Guesses, toy_plan

from leakscope.audit.engines.inline import Inline
from leakscope.audit.engines.processes import Processes
from leakscope.audit.run import Resumption, run
from leakscope.mechanisms.defenses.clip import Clip
from leakscope.mechanisms.protocols.fedsgd import FedSGD


def plan():
    """30 cells: 10 trials of an attack that takes a moment, defended and not, and the blind ones; and two failures."""
    return toy_plan(mechanisms=(FedSGD() >> Clip(0.1),), attacks=(Guesses(0.02), Crashes(), Diverges()), trials=5)


if __name__ == "__main__":
    engine = {"inline": Inline(), "processes": Processes(2)}[sys.argv[2]]
    summary = run(plan(), Path(sys.argv[1]), engine, resumption=Resumption(allowed=True))
    print(summary.finished, "of", summary.planned)
