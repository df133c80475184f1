"""One self-contained HTML page of a run: the verdict first, the failures in sight, nothing loaded from elsewhere."""

from __future__ import annotations

import datetime
import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from pydantic import ValidationError

from leakscope.core.errors import BadInput
from leakscope.ledger.files import write_atomically
from leakscope.ledger.record import CellSpec, Finding, Summary
from leakscope.ledger.run_folder import RunStore
from leakscope.report import beside_bound, sections, sweep, tables, withheld
from leakscope.report.cells import Shelf
from leakscope.report.redact import Veil
from leakscope.report.sections import Section
from leakscope.report.strips import PAGE_BYTES, Item
from leakscope.report.tables import Cells, Row
from leakscope.report.templating import rendered

PAGE = "report.html"


@final
@dataclass(frozen=True)
class Unfinished:
    """A run without a summary: still running, or killed. planned: identity -> what the cell is."""

    title: str = ""
    planned: Mapping[str, CellSpec] = field(default_factory=dict)


def render(
    summary: Summary | Unfinished,
    records: Cells,
    *,
    redact: bool = False,
    coarse: bool = False,
    damaged: Mapping[str, str] | None = None,
) -> str:
    """The page of a run as HTML.

    summary: what the runner concluded; `Unfinished` gives a page without a verdict.
    records: identity -> (record, arrays by name). damaged: identity -> why its file cannot be read.
    redact: whether pictures, labels, seeds and texts of the secret are left out of the page, and scores of fewer than
    `withheld.FEWEST` examples. coarse: a redacted page has averages of the pictures all the same.
    """
    veil, broken = Veil(redact, coarse), dict(damaged or {})
    if redact:
        records = withheld.Withheld(records, coarse=coarse)
        summary = summary if isinstance(summary, Unfinished) else withheld.summary(summary)
    if isinstance(summary, Unfinished):
        lines = sections.loose_lines(records, broken, summary.planned, veil)
        missing = sum(identity not in records for identity in summary.planned)
        return rendered(
            "incomplete.html", veil, {"lines": lines, "title": summary.title, "found": len(records), "missing": missing}
        )
    return rendered("page.html", veil, _view(summary, records, broken, veil))


def _view(summary: Summary, records: Cells, damaged: Mapping[str, str], veil: Veil) -> dict[str, object]:
    """What the template shows, by name."""
    overview = tables.overview(summary)
    # Every group gets as much room: the last ones on the page must not be without pictures.
    share = PAGE_BYTES // max(len(summary.groups), 1)
    built = {
        row.anchor: sections.section(row, sections.Desk(records, damaged, veil, share))
        for _, rows in overview
        for row in rows
    }
    endings = Counter(records[identity][0].ending for identity in records)
    counts = tables.tally(endings.elements(), summary.planned)
    return {
        "summary": summary,
        "overview": overview,
        "beside_bound": beside_bound.figures(summary.groups),
        "sweep": sweep.figures(_in_order(summary, overview)),
        "sections": built,
        "tally": counts,
        # What the runner counted and the folder does not hold any more: deleted since, or damaged.
        "lost": max(summary.finished - counts.finished, 0),
        "words": tables.words(summary),
        "findings": _findings(summary, built),
        "exhibit": _exhibit(built),
        "evaluations": sum(records[identity][0].evaluations for identity in records),
        "started": _moment(summary.started),
    }


@final
@dataclass(frozen=True)
class Found:
    """A finding as the page shows it, its sentence at the page's length; anchor: of the group that says most of it."""

    record: Finding
    sentence: str
    anchor: str


def _findings(summary: Summary, built: Mapping[str, Section]) -> tuple[tuple[str, tuple[Found, ...]], ...]:
    """(scene, findings) in the order of the plan, in which the mechanisms of a scene stand together."""
    shown = {id(section.row.group): section for section in built.values()}
    found = []
    for one in summary.findings:
        groups = [summary.groups[place] for place in one.groups]
        said = one.sentence
        # It quotes the sentence of a group, which may quote those of cells: as much as the page shows there, no more.
        for group in groups:
            said = said.replace(group.sentence, shown[id(group)].sentence)
        # The group of the attack that is named; where none leaks, the first.
        best = next((group for group in groups if group.attack == one.attack), groups[0])
        found.append(Found(one, said, shown[id(best)].row.anchor))
    return tuple((scene, tuple(rows)) for scene, rows in itertools.groupby(found, key=lambda one: one.record.scene))


def _in_order(summary: Summary, overview: tuple[tuple[tuple[str, str], tuple[Row, ...]], ...]) -> list[Row]:
    """The rows as the plan has its groups; the overview puts scenes of the same target and data together."""
    place = {id(group): at for at, group in enumerate(summary.groups)}
    return sorted((row for _, rows in overview for row in rows), key=lambda row: place[id(row.group)])


@final
@dataclass(frozen=True)
class Exhibit:
    """The example that shows the verdict at a glance."""

    section: Section
    item: Item


def _exhibit(built: Mapping[str, Section]) -> Exhibit | None:
    """The most leaked example of the group that leaks most on its gauge; None where no pictures leak (labels may)."""
    leaking = [
        (s.row.gauge.value, Exhibit(s, s.strip.items[0]))
        for s in built.values()
        if s.leaks and s.strip is not None and s.strip.items[0].tiles[1].source
        if s.row.gauge is not None and s.row.gauge.beats_chance
    ]
    return max(leaking, key=lambda pair: pair[0])[1] if leaking else None


def _moment(text: str) -> str:
    """An ISO time for people; anything else as it is."""
    try:
        return f"{datetime.datetime.fromisoformat(text):%Y-%m-%d %H:%M %Z}".rstrip()
    except ValueError:
        return text


def write_page(run_folder: Path, *, redact: bool = False, coarse: bool = False) -> Path:
    """Write `run_folder/report.html`, whole or not at all, and return its path.

    A run without a summary (still running, or killed) gives a page that says so and lists what there is.
    Raises `BadInput` where there is neither a summary nor a cell, `DamagedRecord` for a damaged summary.
    """
    store = RunStore(run_folder)
    shelf = Shelf(store)
    ended = (store.folder / "summary.json").exists()
    plan = store.read_json("plan.json")
    if not ended and plan is None and not shelf and not shelf.damaged:
        raise BadInput(f"{run_folder} holds no run: found neither summary.json nor cells; give the folder of an audit")
    summary = store.summary() if ended else _unfinished(plan)
    html = render(summary, shelf, redact=redact, coarse=coarse, damaged=shelf.damaged)
    write_atomically(store.folder / PAGE, html.encode())
    return store.folder / PAGE


def _unfinished(plan: Any) -> Unfinished:
    """What `plan.json` tells of a run that has no summary; nothing where there is none or it is of another form."""
    try:
        cells = {str(name): CellSpec.model_validate(spec, strict=False) for name, spec in plan["cells"].items()}
        return Unfinished(str(plan["title"]), cells)
    except (KeyError, TypeError, AttributeError, ValidationError):
        return Unfinished()
