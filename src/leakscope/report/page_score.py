"""One self-contained page of one claim beside the secret: what `leakscope score` found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from leakscope.ledger.exchange import Tried
from leakscope.ledger.files import write_atomically
from leakscope.ledger.folders import private_folder
from leakscope.ledger.record import GroupVerdict, Record, Word
from leakscope.report.media import Array
from leakscope.report.redact import Veil
from leakscope.report.sections import Desk, Section, section
from leakscope.report.strips import PAGE_BYTES
from leakscope.report.tables import Row
from leakscope.report.templating import rendered

PAGE = "score.html"
"""Not the name of the page of the claim: that one knows no secret, and both may lie in one folder."""


@final
@dataclass(frozen=True)
class Verdict:
    """What the referee said of it. notes: what a reader must know beside the numbers."""

    word: Word
    sentence: str
    notes: tuple[str, ...] = ()


@final
@dataclass(frozen=True)
class Compared:
    """A claim and its secret: a record as of a cell, and the arrays beside it."""

    record: Record
    arrays: Mapping[str, Array]


def write_score_page(folder: Path, said: Verdict, shown: Compared | None, tried: Sequence[Tried]) -> Path:
    """Write `folder/score.html`, whole or not at all, and return its path. shown: None where nothing was claimed.

    The page holds private examples, as the secret's file does.
    """
    private_folder(folder)
    found = None if shown is None else _section(said, shown)
    record = None if shown is None else shown.record
    view = {"verdict": said, "s": found, "record": record, "tried": tried, "title": "the claim"}
    write_atomically(folder / PAGE, rendered("score.html", Veil(False), view).encode())
    return folder / PAGE


def _section(said: Verdict, shown: Compared) -> Section:
    """The claim as a group of one cell without controls."""
    record = shown.record
    group = GroupVerdict(
        title="the claim",
        target="",
        dataset=record.spec.dataset,
        mechanism="",
        attack=record.spec.attack,
        word=said.word,
        sentence=said.sentence,
        members=(record.identity,),
        undefended=(),
        blind=(),
        planned=1,
        finished=1,
        scores=record.scores,
        undefended_scores=(),
        blind_scores=(),
    )
    main = record.scores[0] if record.scores else None
    cells = {record.identity: (record, shown.arrays)}
    return section(Row("claim", group, main, None, None), Desk(cells, {}, Veil(False), PAGE_BYTES))
