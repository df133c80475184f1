"""What every plan file has in common: where something stands in it, and keys by their types."""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

from leakscope.cli.plan_keys import Field
from leakscope.core import file_limits
from leakscope.core.arguments import LARGEST, is_number
from leakscope.core.errors import BadInput, BadPlan, UnknownName

Built = TypeVar("Built")
NESTED = 50
"""Deeper brackets are nobody's plan, and are refused before anything reads them."""
HEAD = re.compile(r"\s*\[+\s*(\w+)\s*\]+\s*(?:#.*)?$")
INSIDE = re.compile(r"(\w+)\[(\d+)\]")
"""The head of a table, such as `[[scene]]`, and a place in it, such as `scene[0].name`."""
Rows = list[tuple[int, str]]
"""Lines with their numbers."""
REPEATED = frozenset({"scene", "attack"})
"""Sections of which there can be several."""


@final
@dataclass(frozen=True)
class Sheet:
    """A plan file that can say where something stands in it. name: what messages call it."""

    name: str
    text: str

    def tried(self, place: str, make: Callable[..., Built], *given: Any) -> Built:
        """What `make` makes, or its complaint with the place in the file. Raises `BadPlan`."""
        try:
            return make(*given)
        except BadInput as error:
            text = given[0] if given and isinstance(given[0], str) else None
            raise self.bad(place, str(error), text) from None

    def bad(self, place: str, why: str, text: str | None = None) -> BadPlan:
        """What is wrong at a place such as `scene[0].target`, with the line of its key, or of `text` in it."""
        key = place.rpartition(".")[2].partition("[")[0]
        return BadPlan(f"{self.name}{self.line(key, text, place)}: {place}: {why}")

    def line(self, key: str, text: str | None = None, place: str = "") -> str:
        """The line of a value or of a key, where it is the only such line; tomllib does not keep positions.

        Of a place such as `scene[1].name` it is looked for under that scene, as names and models stand in several.
        """
        pattern = re.compile(rf"\s*(\[+\s*)?[\"']?{re.escape(key)}[\"']?\s*(=|\])")
        rows = list(enumerate(self.text.splitlines(), 1))
        # What one of several tables does not say is on no line of the others.
        for own in [_under(place, rows), *([] if INSIDE.match(place) else [rows])]:
            lines = [i for i, line in own if text and text in line] or [i for i, line in own if pattern.match(line)]
            if len(lines) == 1:
                return f", line {lines[0]}"
        return ""


@final
@dataclass(frozen=True)
class Said:
    """Texts under one key, each of which will become an object. place: of the key in the file."""

    place: str
    texts: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)


@final
@dataclass(frozen=True)
class Keys:
    """Reads the keys of a sheet by their types. fields: of its kind of plan. Everything raises `BadPlan`."""

    sheet: Sheet
    fields: tuple[Field, ...]

    def texts(self, said: dict[str, Any], key: str, place: str) -> Said:
        """A list of texts under a key; empty where it is not there."""
        value = said.get(key, [])
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self.sheet.bad(place, f'expected a list of texts such as {key} = ["..."], got {value!r}')
        return Said(place, tuple(value))

    def text(self, said: dict[str, Any], key: str, place: str) -> str:
        """A text that has to be there."""
        value = said.get(key)
        if value is None:
            raise self.sheet.bad(place, "is required and missing")
        if not isinstance(value, str):
            raise self.sheet.bad(place, f"expected a text in quotes, got {value!r}")
        return value

    def whole(
        self, said: dict[str, Any], key: str, default: int | None, *, section: str = "", low: int | None = None
    ) -> Any:
        """A whole number of at least `low`, or the default."""
        value, place = said.get(key, default), f"{section}.{key}" if section else key
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise self.sheet.bad(place, f"expected a whole number, got {value!r}")
        if value is not None and abs(value) > LARGEST:
            raise self.sheet.bad(place, f"expected a whole number of at most 64 bits, got {len(str(value))} digits")
        if low is not None and value is not None and value < low:
            raise self.sheet.bad(place, f"expected {key} >= {low}, got {value}")
        return value

    def number(self, said: dict[str, Any], key: str, place: str, default: float | None) -> Any:
        """A number, or the default."""
        value = said.get(key, default)
        if value is not None and not is_number(value):
            raise self.sheet.bad(place, f"expected a number, got {file_limits.shortened(repr(value))}")
        return value

    def table(self, said: dict[str, Any], key: str) -> dict[str, Any]:
        """A table; an empty one where it is not there."""
        value = said.get(key, {})
        if not isinstance(value, dict):
            raise self.sheet.bad(key, f"expected a table under [{key}], got {value!r}")
        return value

    def known(self, section: str, said: Mapping[str, object]) -> None:
        """Raises `BadPlan` on a key that the section does not have."""
        known = [one.key for one in self.fields if one.section == section]
        for key in said:
            if key not in known:
                where = f"[[{section}]]" if section in REPEATED else f"[{section}]"
                kind = f"key in {where}" if section else "key"
                raise BadPlan(f"{self.sheet.name}{self.sheet.line(key)}: {UnknownName(kind, key, known)}")

    def switch(self, said: dict[str, Any], key: str, *, usual: bool = False) -> bool:
        """True or false; `usual` where it is not there."""
        value = said.get(key, usual)
        if not isinstance(value, bool):
            raise self.sheet.bad(key, f"expected true or false, got {file_limits.shortened(repr(value))}")
        return value


def sheet_of(path: Path, kind: str) -> Sheet:
    """The file, whatever is in it. kind: for messages, what it should be. Raises `BadInput` when there is none."""
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.toml")) if path.parent.is_dir() else []
        hint = f"; there is {', '.join(near)} in {path.parent}" if near else ""
        raise BadInput(f"{path} is not a file; give {kind}{hint}")
    return Sheet(str(path), file_limits.text_of(path, kind))


def parsed(sheet: Sheet) -> dict[str, Any]:
    """What it says as TOML. Raises `BadPlan`."""
    if _nested(sheet.text) > NESTED:
        raise BadPlan(f"{sheet.name}: not TOML: brackets are nested more than {NESTED} deep; a plan needs two")
    try:
        return tomllib.loads(sheet.text)
    except (ValueError, RecursionError) as error:  # a ValueError also of numbers that Python does not read
        raise BadPlan(f"{sheet.name}: not TOML: {file_limits.shortened(error, 200)}") from None


def _under(place: str, rows: Rows) -> Rows:
    """The lines of the table that a place such as `scene[1].name` is in; of a key by itself those above all tables."""
    heads = [(i, found[1]) for i, line in rows if (found := HEAD.match(line))]
    ends = [*(i for i, _ in heads), len(rows) + 1]
    said = INSIDE.match(place)
    if said is None:
        return rows[: ends[0] - 1]
    own = [at for at, (_, name) in enumerate(heads) if name == said[1]]
    at = int(said[2])
    # inline tables have no head
    return rows[ends[own[at]] - 1 : ends[own[at] + 1] - 1] if at < len(own) else rows


def _nested(text: str) -> int:
    """How deep the brackets of a text are nested at most, those in strings counted too.

    Looked at first: at the depth where reading stops, whatever is freed just then fails as well, and says so beside us.

    >>> _nested("a = [[1], [2, [3]]]")
    3
    """
    steps = ((mark in "[{") - (mark in "]}") for mark in text if mark in "[]{}")
    return max(itertools.accumulate(steps), default=0)
