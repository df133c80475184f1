"""Rows of pictures: what was private, what the attack made of it, and what the controls made of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from markupsafe import Markup

from leakscope.ledger.record import GroupVerdict, Record
from leakscope.report import media
from leakscope.report.media import Array
from leakscope.report.redact import Veil
from leakscope.report.tables import Cell, Cells, matching, metric_name, number, unit_name

MOST_PICTURES = 8
"""Items of one group, and stages of one search, that are shown; the page says how many there are in all."""
PAGE_BYTES = 2_500_000
"""What the pictures of a whole page may weigh, before compression."""
MOST_PLAYERS, MOST_SAMPLES = 3, 64_000
DEFAULT_RATE = 16_000


@final
@dataclass(frozen=True)
class Tile:
    """One picture with its scores; `source` is empty where there is nothing to show, `note` then says why."""

    kind: str
    source: str
    alt: str
    lines: tuple[str, ...]
    note: str = ""


@final
@dataclass(frozen=True)
class Item:
    """One private example: the original and what was made of it."""

    name: str
    tiles: tuple[Tile, ...]


@final
@dataclass(frozen=True)
class Strip:
    """The examples of a group that are shown, from the most to the least leaked, of `total`."""

    kinds: tuple[str, ...]
    items: tuple[Item, ...]
    total: int

    @property
    def whole(self) -> bool:
        """Whether every example is shown."""
        return len(self.items) == self.total


@final
@dataclass(frozen=True)
class Development:
    """The claim as one search went: (evaluations, picture)."""

    name: str
    stages: tuple[tuple[str, str], ...]
    total: int


@final
@dataclass(frozen=True)
class Sound:
    """A private recording and what was claimed of it; players are empty where the page is redacted."""

    name: str
    original: Markup
    claim: Markup


@final
@dataclass(frozen=True)
class Place:
    """Item `item` of the cell `identity`; `leak` rises with how much leaked."""

    identity: str
    trial: int
    item: int
    leak: float

    def __str__(self) -> str:
        return f"trial {self.trial}, example {self.item + 1}"


def _leak(record: Record, item: int, metric: str) -> float:
    score = matching(record.scores, metric)
    if score is None or item >= len(score.items) or math.isnan(score.items[item]):
        return -math.inf
    # Upwards is more leak for every metric, so an error counts with a minus.
    return score.items[item] if score.higher_is_better else -score.items[item]


def places(group: GroupVerdict, cells: Cells) -> tuple[Place, ...]:
    """Every example that has a picture, cells with a claim first, then from the most to the least leaked."""
    metric = group.scores[0].metric if group.scores else ""
    claimed: list[Place] = []
    unclaimed: list[Place] = []
    for identity in group.members:
        if identity not in cells:
            continue
        record, arrays = cells[identity]
        if "original" not in arrays or not arrays["original"].ndim:
            continue
        found = claimed if "claim" in arrays else unclaimed
        found += [
            Place(identity, record.spec.trial, item, _leak(record, item, metric))
            for item in range(len(arrays["original"]))
        ]
    # Examples of trials without a claim fill a strip only where there is nothing else: their tiles say "no claim".
    return tuple(sorted(claimed, key=lambda place: -place.leak) or unclaimed)


def spread(count: int, most: int) -> tuple[int, ...]:
    """At most `most` of the ranks 0 .. count - 1, evenly, both ends included.

    >>> spread(24, 4), spread(2, 8)
    ((0, 8, 15, 23), (0, 1))
    """
    return tuple(int(rank) for rank in np.unique(np.linspace(0, count - 1, min(count, most)).round())) if count else ()


@final
@dataclass(frozen=True)
class Easel:
    """Draws the pictures of one group."""

    group: GroupVerdict
    cells: Cells
    veil: Veil
    share: int = PAGE_BYTES

    def _controls(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        # Without a defense the group is its own control, and the same picture would stand there twice.
        undefended = () if set(self.group.undefended) <= set(self.group.members) else self.group.undefended
        named = (("blind guess", self.group.blind), ("undefended", undefended))
        return tuple((kind, members) for kind, members in named if members)

    def _tile(self, kind: str, arrays: Mapping[str, Array], name: str, where: tuple[Place, Record]) -> Tile:
        place, record = where
        alt = f"{kind}, {place}"
        if name not in arrays or place.item >= len(arrays[name]):
            return Tile(kind, "", alt, (), "no claim")
        if name == "claim" and "unclaimed" in arrays and bool(arrays["unclaimed"][place.item]):
            return Tile(kind, "", alt, (), "not claimed")
        # One scale for both: drawn each by its own, a claim that is off by a factor would look right.
        scale = _scale([arrays[n][place.item] for n in ("original", "claim") if n in arrays])
        picture = media.shrink(media.drawable(arrays[name][place.item], scale))
        source = media.image(self.veil.picture(picture))
        lines = _lines(record, place.item, self.group) if name == "claim" else ()
        return Tile(kind, source, f"{alt}: {', '.join(lines)}" if lines else alt, lines)

    def _control(self, kind: str, members: Sequence[str], place: Place, original: Array) -> Tile:
        """The control of the same trial; another secret's picture is never set beside this one."""
        found = next((self.cells[i] for i in members if i in self.cells and _trial(self.cells[i]) == place.trial), None)
        if found is None:
            return Tile(kind, "", f"{kind}, {place}", (), "no record")
        record, arrays = found
        if not _same(arrays.get("original"), original, place.item):
            return Tile(kind, "", f"{kind}, {place}", (), "another secret")
        return self._tile(kind, arrays, "claim", (place, record))

    def _item(self, place: Place) -> Item:
        record, arrays = self.cells[place.identity]
        own = (place, record)
        tiles = [self._tile("original", arrays, "original", own), self._tile("reconstruction", arrays, "claim", own)]
        tiles += [self._control(kind, ids, place, arrays["original"]) for kind, ids in self._controls()]
        return Item(str(place), tuple(tiles))

    def _room(self, one: Array) -> int:
        """How many items fit this group's share of the page; at least one."""
        picture = media.shrink(media.drawable(one, (0.0, 1.0)))
        columns = 2 + len(self._controls())
        # 4 // 3: base64. As if nothing were compressed, so that noise as a picture cannot burst the page.
        return int(np.clip(self.share // (picture.size * columns * 4 // 3 + 1), 1, MOST_PICTURES))

    def strip(self) -> Strip | None:
        """None where no cell of the group left a picture."""
        found = places(self.group, self.cells)
        if not found:
            return None
        first = self.cells[found[0].identity][1]["original"][found[0].item]
        chosen = [found[rank] for rank in spread(len(found), self._room(first))]
        kinds = ("original", "reconstruction", *(kind for kind, _ in self._controls()))
        return Strip(kinds, tuple(self._item(place) for place in chosen), len(found))

    def development(self) -> Development | None:
        """The search behind the most leaked example that left pictures on its way."""
        for place in places(self.group, self.cells):
            record, arrays = self.cells[place.identity]
            taken = arrays.get("pictures", np.empty(0))
            if taken.ndim < 2 or place.item >= taken.shape[1] or len(taken) < 2:
                continue
            scale = _scale([arrays["original"][place.item]])
            names = [number(e) for e in record.picture_evaluations] + ["?"] * len(taken)
            room = max(self._room(arrays["original"][place.item]), 2)
            stages = tuple(
                (names[k], media.image(self.veil.picture(media.shrink(media.drawable(taken[k, place.item], scale)))))
                for k in spread(len(taken), room)
            )
            return Development(str(place), stages, len(taken))
        return None

    def sounds(self) -> tuple[Sound, ...]:
        """Recordings (N, S), arrays `audio_original` and `audio_claim`, at `audio_rate` Hz (16 000 where absent)."""
        found: list[Sound] = []
        for identity in self.group.members:
            record, arrays = self.cells.get(identity, (None, {}))
            if record is None or "audio_original" not in arrays:
                continue
            rate = int(arrays["audio_rate"].ravel()[0]) if "audio_rate" in arrays else DEFAULT_RATE
            for item in range(min(len(arrays["audio_original"]), MOST_PLAYERS - len(found))):
                name = f"trial {record.spec.trial}, example {item + 1}"
                players = [self._player(arrays, kind, item, (rate, name)) for kind in ("audio_original", "audio_claim")]
                found.append(Sound(name, players[0], players[1]))
        return tuple(found)

    def _player(self, arrays: Mapping[str, Array], kind: str, item: int, named: tuple[int, str]) -> Markup:
        # No coarse remains of sound: a voice is known by seconds of anything that is left of it.
        if self.veil.on or kind not in arrays or item >= len(arrays[kind]):
            return Markup()
        label = f"{kind.removeprefix('audio_')}, {named[1]}"
        return media.audio_player(arrays[kind][item].ravel()[:MOST_SAMPLES], named[0], label=label)


def _scale(compared: Sequence[Array]) -> media.Scale:
    """Shared by all that are compared; of matrices of as many coefficients, for each coefficient its own."""
    if all(one.ndim == 2 and one.shape[1] == compared[0].shape[1] for one in compared):
        return media.scale_of_columns(*compared)
    return media.scale_of(*compared)


def _same(other: Array | None, original: Array, item: int) -> bool:
    """Whether the control attacked the same example; one without pictures shows none and is not asked."""
    if other is None:
        return True
    return item < len(other) and np.array_equal(other[item], original[item], equal_nan=True)


def _trial(cell: Cell) -> int:
    return cell[0].spec.trial


def _lines(record: Record, item: int, group: GroupVerdict) -> tuple[str, ...]:
    """At most two scores of one item, the group's main one first."""
    order = [score.metric for score in group.scores]
    scored = [score for score in record.scores if item < len(score.items)]
    scored.sort(key=lambda score: order.index(score.metric) if score.metric in order else len(order))
    return tuple(
        f"{metric_name(score.metric)} {number(score.items[item])} {unit_name(score.unit)}".rstrip()
        for score in scored[:2]
    )
