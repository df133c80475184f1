"""One self-contained page of a plan of federations: verdicts over persons, what defenses cost, and every row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from leakscope.ledger.files import write_atomically
from leakscope.ledger.folders import private_folder
from leakscope.ledger.played import Found, Part, PlayedRow, PlayedSummary
from leakscope.report.figures import Drawing
from leakscope.report.page_claim import PAGE
from leakscope.report.privacy_figure import Point, against_epsilon, forest
from leakscope.report.redact import Veil
from leakscope.report.tables import at_most
from leakscope.report.templating import rendered

FIGURE_ROWS = 60
"""Rows of one figure of intervals."""
SHOWN = (Part.AUDITED, Part.UNDEFENDED)
"""What stands against epsilon; shuffled people and federations without their noise are controls."""


@final
@dataclass(frozen=True)
class Block:
    """All rows of one scene and attribute, with what is drawn of them."""

    title: str
    rows: tuple[PlayedRow, ...]
    drawing: Drawing | None
    by_epsilon: tuple[Drawing, ...]


def write_federation_page(folder: Path, summary: PlayedSummary) -> Path:
    """Write `folder/report.html`: no person is on it, all numbers are over persons together."""
    private_folder(folder)
    keys = dict.fromkeys((row.scene, row.attribute) for row in summary.rows)
    blocks = []
    for scene, attribute in keys:
        rows = tuple(row for row in summary.rows if (row.scene, row.attribute) == (scene, attribute))
        drawn = [(label(row, rows), row.part is Part.AUDITED, one) for row in rows for one in _whole(row)]
        drawing = forest(drawn[:FIGURE_ROWS]) if drawn else None
        blocks.append(Block(f"{scene}: {attribute}", rows, drawing, tuple(_by_epsilon(rows))))
    view = {
        "said": summary,
        "blocks": blocks,
        "label": label,
        "epsilons": epsilons,
        "share": share,
        "finite": math.isfinite,
    }
    write_atomically(folder / PAGE, rendered("federation.html", Veil(False), view).encode())
    return folder / PAGE


def label(row: PlayedRow, among: tuple[PlayedRow, ...]) -> str:
    """What tells the row from the others of its block: target, federation, attack, where they differ; and its part."""
    parts = [
        shortened(getattr(row, name), [getattr(one, name) for one in among])
        for name in ("target", "federation", "attack")
        if len({getattr(one, name) for one in among}) > 1
    ]
    return " · ".join([*parts, *([] if row.part is Part.AUDITED else [row.part.value])]) or row.attack


def shortened(text: str, among: Sequence[str]) -> str:
    """An expression by its first argument and those that not all of its kind have; whole where it is of another kind.

    >>> shortened("F(A(1, 2), rounds=3, noise=B(1))", ["F(A(1, 2), rounds=3, noise=B(1))", "F(A(1, 2), rounds=3)"])
    'A(1, 2), noise=B(1)'
    """
    split = [_arguments(one) for one in among]
    common = set.intersection(*(set(one[1:]) for one in split))
    made = {
        one: ", ".join([own[0], *(part for part in own[1:] if part not in common)])
        for one, own in zip(among, split, strict=True)
    }
    # two that would be called alike stay whole
    return made[text] if len(set(made.values())) == len(set(among)) else text


def _arguments(text: str) -> list[str]:
    """Of the outermost call; the text alone where it is none."""
    head, _, rest = text.partition("(")
    if not head.isidentifier() or not rest.endswith(")") or rest == ")":
        return [text]
    parts, depth = [""], 0
    for letter in rest[:-1]:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def epsilons(row: PlayedRow) -> str:
    """Of the models, one update and all of them."""
    if row.epsilons is None:
        return "none"
    return " / ".join("infinite" if math.isinf(one) else at_most(one) for one in row.epsilons)


def share(value: float) -> str:
    """Two digits, or a word where there is no number."""
    return f"{value:.2f}" if math.isfinite(value) else "unknown"


def _whole(row: PlayedRow) -> list[Found]:
    return [one for one in row.found if one.updates == 0]


def _by_epsilon(rows: tuple[PlayedRow, ...]) -> list[Drawing]:
    """A figure for each target, attack and family of federations with two levels of noise and more."""
    found: dict[tuple[str, str], list[PlayedRow]] = {}
    for row in rows:
        if row.part in SHOWN and row.epsilons is not None and row.found:
            found.setdefault((row.target, row.attack), []).append(row)
    drawings = []
    for (target, attack), own in found.items():
        plain = [
            row
            for row in rows
            if (row.target, row.attack) == (target, attack) and row.epsilons is None and row.part in SHOWN
        ]
        if len({row.noise for row in own}) < 2:
            continue
        points = [
            Point(row.epsilons[2] if row.epsilons else math.inf, row.found, row.uar) for row in (*own, *plain[:1])
        ]
        drawings.append(against_epsilon(points, f"{attack}, {target}"))
    return drawings
