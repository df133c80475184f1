"""`leakscope demo`: a packaged plan, from nothing to a page in a few minutes."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from leakscope.audit.plan import Plan
from leakscope.cli.commands import federation
from leakscope.cli.commands.audit import Order, conduct
from leakscope.cli.config import parse
from leakscope.cli.ending import Exit
from leakscope.cli.options.demo import Subject
from leakscope.cli.text.federation import parse as parse_federations
from leakscope.cli.text.sheet import Sheet


def plan(subject: Subject = Subject.IMAGES) -> Plan:
    """The packaged plan."""
    return parse(_text(subject), subject.plan)


def demo(subject: Subject, order: Order) -> Exit:
    """Run it. The exit code says whether it ran: that the demo leaks is no news."""
    _, whole = conduct(plan(subject), order)
    return Exit.NO_LEAK_FOUND if whole else Exit.INCOMPLETE


def federated(folder: Path, *, as_json: bool) -> Exit:
    """The demo of a federation of speakers; goes on with what is in the folder. The exit code as of `demo`."""
    written = parse_federations(Sheet(Subject.EMOTION.plan, _text(Subject.EMOTION)))
    _, whole = federation.conduct(written, folder, as_json=as_json)
    return Exit.NO_LEAK_FOUND if whole else Exit.INCOMPLETE


def _text(subject: Subject) -> str:
    file = resources.files("leakscope.cli") / "plans" / subject.plan
    return file.read_text(encoding="utf-8")
