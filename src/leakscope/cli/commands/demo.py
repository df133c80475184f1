"""`leakscope demo`: a packaged plan, from nothing to a page in a few minutes."""

from __future__ import annotations

from importlib import resources

from leakscope.audit.plan import Plan
from leakscope.cli.commands.audit import Order, conduct
from leakscope.cli.config import parse
from leakscope.cli.ending import Exit
from leakscope.cli.options.demo import Subject


def plan(subject: Subject = Subject.IMAGES) -> Plan:
    """The packaged plan."""
    file = resources.files("leakscope.cli") / "plans" / subject.plan
    return parse(file.read_text(encoding="utf-8"), subject.plan)


def demo(subject: Subject, order: Order) -> Exit:
    """Run it. The exit code says whether it ran: that the demo leaks is no news."""
    _, whole = conduct(plan(subject), order)
    return Exit.NO_LEAK_FOUND if whole else Exit.INCOMPLETE
