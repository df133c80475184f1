"""One self-contained page of what a released head gives away: each picture beside what the public alone would show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from leakscope.ledger.exchange import ClaimHeader
from leakscope.ledger.files import write_atomically
from leakscope.ledger.folders import private_folder
from leakscope.report import media
from leakscope.report.media import Array
from leakscope.report.page_claim import MOST, PAGE
from leakscope.report.redact import Veil
from leakscope.report.templating import rendered

KINDS = ("claim", "neighbor", "mean")
"""Pictures of each row, as their files are called."""


@final
@dataclass(frozen=True, eq=False)
class HeadPage:
    """What is shown. notes: what was assumed of the head, and what speaks against it. names: of the classes.

    rows: for each class the claim, the nearest public picture and the class mean, (channels, height, width) in [0, 1].
    """

    said: ClaimHeader
    notes: tuple[str, ...]
    names: tuple[str, ...]
    rows: tuple[tuple[Array, Array, Array], ...]


def write_head_page(folder: Path, page: HeadPage) -> Path:
    """Write `folder/report.html`, and beside it each picture as PNG, `claim-1.png` being that of the first class.

    Pictures of an earlier page in the same folder are removed: the folder shows one head.
    """
    private_folder(folder)
    for kind in KINDS:
        for old in folder.glob(f"{kind}-*.png"):
            old.unlink()
    rows = []
    for place, (name, row) in enumerate(zip(page.names, page.rows[:MOST], strict=False), 1):
        drawn = [media.drawable(one, media.scale_of(*row)) for one in row]
        for kind, one in zip(KINDS, drawn, strict=True):
            write_atomically(folder / f"{kind}-{place}.png", media.picture_file(one))
        rows.append((name, [media.image(one) for one in drawn]))
    said = page.said
    view = {
        "said": said,
        "chosen": said.tried[said.chosen],
        "notes": page.notes,
        "rows": rows,
        "left": len(page.rows) - len(rows),
    }
    write_atomically(folder / PAGE, rendered("head.html", Veil(False), view).encode())
    return folder / PAGE
