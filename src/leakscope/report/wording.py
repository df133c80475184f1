"""What was said or written beside what was claimed of it: which characters or tokens are right, wrong and missing."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from leakscope.ledger.record import Record
from leakscope.report.redact import Veil

Piece = tuple[str, bool]
"""A text, and whether both sides agree on it; an empty one stands for a token that the claim lacks."""


@final
@dataclass(frozen=True)
class Said:
    """One private transcript or text and the claimed one; both withheld where the page is redacted.

    true, claimed: pieces that make up the whole, with `Wordings.glue` between them. exact: None where nothing was
    claimed, or where it is withheld. bag: whether the claim is one set of tokens for all texts: then `claimed` is empty
    here, and `true` marks what is not in the set.
    """

    name: str
    true: tuple[Piece, ...]
    claimed: tuple[Piece, ...]
    exact: bool | None
    bag: bool = False


@final
@dataclass(frozen=True)
class Wordings:
    """Those of a group that are shown, of `total`. glue: what stands between two pieces."""

    shown: tuple[Said, ...]
    total: int
    glue: str = ""


def transcripts(records: Sequence[Record], veil: Veil, *, most: int) -> Wordings:
    """Every private transcript beside the claimed one, character by character."""
    found = []
    for record in records:
        for item, true in enumerate(record.transcripts_true):
            claims = record.transcripts_claimed
            claimed = claims[item] if item < len(claims) else None
            found.append(_said(_name(record, item), true, claimed, veil))
    return Wordings(tuple(found[:most]), len(found))


def texts(records: Sequence[Record], veil: Veil, *, most: int) -> Wordings:
    """Every private text beside the claimed one, token by token; a bag after the texts that it is for.

    None where no text was claimed at all.
    """
    found: list[Said] = []
    total = 0
    for record in records if any(record.tokens_claimed for record in records) else ():
        total += len(record.tokens_true)
        room = max(most - sum(bool(one.true) for one in found), 0)  # the set itself is no text
        found += _bagged(record, veil, room) if record.tokens_bag else _ordered(record, veil, room)
    return Wordings(tuple(found), total, " ")


def _ordered(record: Record, veil: Veil, most: int) -> list[Said]:
    claims = record.tokens_claimed
    return [
        _said(_name(record, item), true, claims[item] if item < len(claims) else None, veil)
        for item, true in enumerate(record.tokens_true[:most])
    ]


def _bagged(record: Record, veil: Veil, most: int) -> list[Said]:
    bag = record.tokens_claimed[0] or ()
    real = {token for text in record.tokens_true for token in text}
    found = [
        Said(_name(record, item), _marked(true, bag, veil), (), None, bag=True)
        for item, true in enumerate(record.tokens_true[:most])
    ]
    exact = None if veil.on else real == set(bag)
    whole = Said(f"trial {record.spec.trial}, all examples", (), _marked(bag, real, veil), exact)
    return [*found, whole] if found else []


def _marked(tokens: Sequence[str], among: Sequence[str] | set[str], veil: Veil) -> tuple[Piece, ...]:
    """The tokens, each right where it is among others."""
    if veil.on:
        return _hidden(veil)
    return tuple((token, token in among) for token in tokens)


def _name(record: Record, item: int) -> str:
    return f"trial {record.spec.trial}, example {item + 1}"


def _hidden(veil: Veil) -> tuple[Piece, ...]:
    return ((veil.token(""), True),)


def _said(name: str, true: Sequence[str], claimed: Sequence[str] | None, veil: Veil) -> Said:
    """Of characters, runs of them are one piece; of tokens each is one, and those that are missing leave a gap."""
    if veil.on:
        return Said(name, _hidden(veil), () if claimed is None else _hidden(veil), None)
    if claimed is None:
        # Speech may be claimed as sound alone, which is not the same as a text that was not found.
        return Said(name, _pieces(true, agreed=isinstance(true, str)), (), None)
    left: list[Piece] = []
    right: list[Piece] = []
    # autojunk would take the commonest letters of a long text for noise and call them wrong. Not the edit distance: a
    # # reader wants long runs that agree, the score counts edits.
    for kind, i, j, k, m in difflib.SequenceMatcher(None, true, claimed, autojunk=False).get_opcodes():
        left += _pieces(true[i:j], agreed=kind == "equal")
        right += _pieces(claimed[k:m], agreed=kind == "equal")
        right += [("", False)] * (0 if isinstance(true, str) else max(j - i - (m - k), 0))
    return Said(name, tuple(left), tuple(right), true == claimed)


def _pieces(part: Sequence[str], *, agreed: bool) -> tuple[Piece, ...]:
    if isinstance(part, str):
        return ((part, agreed),) if part else ()
    return tuple((token, agreed) for token in part)
