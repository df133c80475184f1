"""What a person sees while an audit runs and when it has ended. Progress goes to stderr, results to stdout."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from leakscope.audit.engines.engine import Event, Finished, Listen, Moved, Noticed, Started
from leakscope.audit.measures import DECIDING
from leakscope.core.effort import Progress as Said
from leakscope.core.effort import Watch
from leakscope.ledger.record import Ending, GroupVerdict, Record, Summary, Word
from leakscope.numerics.decimals import upward

STYLES = {Word.LEAKS: "bold red", Word.INCONCLUSIVE: "yellow", Word.NO_LEAK_FOUND: "green"}


def say(text: str) -> None:
    """One line for a person, to stderr; never wrapped, so that paths stay whole."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def following(total: int, *, done: int = 0) -> Iterator[Listen]:
    """A listener that shows progress: bars with time to go and the current loss, or plain lines without a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain(total, done)
        return
    columns = (
        # The names give way, so that bar, time to go and loss stay readable in a narrow window.
        TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        BarColumn(bar_width=16),
        TextColumn("{task.fields[state]}", table_column=Column(min_width=10, no_wrap=True)),
        TimeRemainingColumn(compact=True, table_column=Column(min_width=5, no_wrap=True)),
    )
    with Progress(*columns, console=console, expand=True) as progress:
        yield _bars(progress, total, done)


def _bars(progress: Progress, total: int, done: int) -> Listen:
    whole = progress.add_task("cells", total=total, completed=done, state=f"{done}/{total}")
    running: dict[str, TaskID] = {}
    count = done

    def listen(event: Event) -> None:
        nonlocal count
        if isinstance(event, Started):
            running[event.identity] = progress.add_task(f"  {escape(event.title)}", total=100, state="")
        elif isinstance(event, Moved) and event.identity in running:
            said = event.progress
            progress.update(running[event.identity], completed=int(100 * said.fraction), state=_loss(said.loss))
        elif isinstance(event, Finished):
            count += 1
            if event.record.identity in running:
                progress.remove_task(running.pop(event.record.identity))
            progress.update(whole, completed=count, state=f"{count}/{total}")
        elif isinstance(event, Noticed):
            # A record that was there and is damaged counted as done.
            count -= event.undone
            progress.update(whole, completed=count, state=f"{count}/{total}")
            progress.console.print(f"note: {escape(event.sentence)}", soft_wrap=True)

    return listen


def _plain(total: int, done: int) -> Listen:
    count, titles = done, dict[str, str]()

    def listen(event: Event) -> None:
        nonlocal count
        if isinstance(event, Started):
            titles[event.identity] = event.title
        elif isinstance(event, Finished):
            count += 1
            title = titles.pop(event.record.identity, event.record.spec.attack)
            say(f"[{count}/{total}] {title}: {_result(event.record)}")
        elif isinstance(event, Noticed):
            count -= event.undone
            say(f"note: {event.sentence}")

    return listen


@contextmanager
def watching(title: str, *, pause: float = 10.0) -> Iterator[Watch]:
    """A watcher that shows one attack: a bar with time to go and the loss, or a line every `pause` seconds."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _spoken(title, pause)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[state]}", table_column=Column(min_width=10, no_wrap=True)),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(escape(title), total=1.0, state="")
        yield lambda said: progress.update(task, completed=said.fraction, state=_loss(said.loss))


def _spoken(title: str, pause: float) -> Watch:
    started = last = time.monotonic()

    def watch(said: Said) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= pause:
            last = now
            parts = [f"{100 * said.fraction:.0f} %", _loss(said.loss)]
            # Before a hundredth is done what is extrapolated is mostly the start: days for minutes.
            if said.fraction >= 0.01:
                parts.append(f"{(now - started) * (1 - said.fraction) / said.fraction:.0f} s to go")
            say(f"{title}: {', '.join(filter(None, parts))}")

    return watch


def _loss(loss: float) -> str:
    return f"loss {loss:.3g}" if math.isfinite(loss) else ""


def _result(record: Record) -> str:
    if record.ending is not Ending.CLAIMED:
        return f"{record.ending.value} ({record.sentence})"
    shown = [
        f"{score.metric} {score.value:.3g} {score.unit}".rstrip() for score in record.scores if score.metric in DECIDING
    ]
    return f"{', '.join(shown) or 'no score'} in {record.seconds:.1f} s"


def show(summary: Summary) -> None:
    """The verdicts, the worst first, and the whole in one line; unwrapped, so that they can be searched and copied."""
    out = Console(soft_wrap=True, highlight=False)
    out.print(f"\n[bold]{escape(summary.title)}[/]\n")
    for one in sorted(summary.findings, key=lambda one: list(STYLES).index(one.word)):
        out.print(f"[{STYLES[one.word]}]{one.word.value}[/]: {escape(one.scene)} · {escape(one.mechanism)}")
        out.print(f"    {escape(one.sentence)}{escape(_beside(one.theory))}")
        if one.broken:
            out.print("    [bold red]more was found than the declared event allows; the bound must not be relied on[/]")
    if summary.findings:
        out.print("\n[bold]The evidence, attack by attack[/]\n")
    for group in sorted(summary.groups, key=lambda one: list(STYLES).index(one.word)):
        out.print(f"[{STYLES[group.word]}]{group.word.value}[/]: {escape(group.title)}{escape(_epsilon(group))}")
        out.print(f"    {escape(group.sentence)}")
    out.print(f"\n[{STYLES[summary.word]}]{escape(summary.sentence)}[/]")


def _beside(theory: str) -> str:
    return f"; {theory}" if theory else ""


def _epsilon(group: GroupVerdict) -> str:
    if group.epsilon is None or math.isinf(group.epsilon):
        return ""
    return f" [epsilon {upward(group.epsilon, 3)} at delta {group.delta:g}]"
