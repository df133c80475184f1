"""Numbers and rows: what the page says in figures, and how the cells that were planned ended."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

from markupsafe import Markup, escape

from leakscope.ledger.record import Ending, GroupVerdict, Record, ScoreRecord, Summary, Word
from leakscope.numerics.decimals import downward, upward
from leakscope.report.media import Array

Cell = tuple[Record, Mapping[str, Array]]
Cells = Mapping[str, Cell]

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power_of_ten(exponent: int) -> str:
    """10 to this power, as it is printed.

    >>> power_of_ten(-3)
    '10⁻³'
    """
    return f"10{str(exponent).translate(_SUPERSCRIPT)}"


def number(value: float | int | None) -> str:
    """Four significant digits, with a true minus and powers of ten; a dash for what was not measured.

    >>> [number(x) for x in (23.14159, -0.5, 1e-9, float("inf"), float("nan"), None, 12)]
    ['23.14', '−0.5', '1×10⁻⁹', '∞', 'not a number', '–', '12']
    """
    if value is None:
        return "–"
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if isinstance(value, int) and abs(value) < 10**7:
        return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}").replace("-", "−")
    # %g goes over to powers at 1e-5 only; 0.0001234 is harder to read than 1.234 x 10^-4.
    digits, _, power = f"{value:.4g}".partition("e")
    if not power and abs(value) < 1e-3 and value:
        digits, _, power = f"{value:.3e}".partition("e")
    trimmed = digits.rstrip("0").rstrip(".") if "." in digits else digits
    exponent = f"×{power_of_ten(int(power))}" if power else ""
    return trimmed.replace("-", "−") + exponent


def at_most(value: float | None) -> str:
    """`number` of an upper bound: rounded up, since to the nearest it may be none.

    >>> at_most(23.14159), at_most(0.99996), at_most(float("inf")), at_most(None)
    ('23.15', '1', '∞', '–')
    """
    return number(None if value is None else float(upward(value, 4)))


def at_least(value: float | None) -> str:
    """`number` of a lower bound: rounded down.

    >>> at_least(2.71869), at_least(0.0)
    ('2.718', '0')
    """
    return number(None if value is None else float(downward(value, 4)))


def duration(seconds: float) -> str:
    """Seconds in the two largest units.

    >>> [duration(x) for x in (0.034, 59.7, 75, 7325, float("nan"))]
    ['0.03 s', '59.7 s', '1 min 15 s', '2 h 2 min', 'not a number']
    """
    if not math.isfinite(seconds):
        return number(seconds)
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


_METRICS = MappingProxyType({"psnr": "PSNR", "mse": "MSE", "ssim": "SSIM", "lpips": "LPIPS"})
_UNITS = MappingProxyType({"range^2": "", "of 1": ""})


def metric_name(metric: str) -> str:
    """What the field writes; names that have no other form stay as they are.

    >>> metric_name("psnr"), metric_name("label-accuracy")
    ('PSNR', 'label accuracy')
    """
    return _METRICS.get(metric, metric.replace("-", " "))


def unit_name(unit: str) -> str:
    """The unit as it is printed; a share of 1, or of the squared range [0, 1], has none."""
    return _UNITS.get(unit, unit)


def breakable(text: str) -> Markup:
    """A long repr as HTML that a browser may break after an opening bracket rather than inside a word.

    >>> str(breakable("A(b=<1>, c=C())"))
    'A(<wbr>b=&lt;1&gt;, c=C())'
    """
    return Markup("<wbr>").join(escape(piece) for piece in re.split(r"(?<=\()(?!\))", text))


def matching(scores: Sequence[ScoreRecord], metric: str) -> ScoreRecord | None:
    """The score of that metric, if there is one."""
    return next((score for score in scores if score.metric == metric), None)


def span(score: ScoreRecord) -> str:
    """The interval in words."""
    return f"interval {number(score.low)} to {number(score.high)}" if score.spans else "no interval"


@final
@dataclass(frozen=True)
class Gauge:
    """Where a score lies on the common axis of its metric, in percent; further right leaks more."""

    low: float
    value: float
    high: float
    chance: float | None
    undefended: float | None
    blind: float | None

    @property
    def beats_chance(self) -> bool:
        """Whether the score lies on the attacker's side of chance."""
        return self.chance is None or self.value > self.chance


def _axis(rows: Iterable[tuple[ScoreRecord | None, ...]]) -> tuple[float, float] | None:
    """Exact recoveries are left out where anything else is there: they would press the rest into a corner."""
    scores = [s for row in rows for s in row if s is not None]
    values = [
        v
        for s in [s for s in scores if s.exact < max(len(s.items), 1)] or scores
        for v in (s.low, s.high, s.value, s.chance)
    ]
    finite = [v for v in values if math.isfinite(v)]
    return (min(finite), max(finite)) if finite and max(finite) > min(finite) else None


@final
@dataclass(frozen=True)
class Row:
    """One line of the overview: a group, its main score and that of its controls."""

    anchor: str
    group: GroupVerdict
    main: ScoreRecord | None
    undefended: ScoreRecord | None
    blind: ScoreRecord | None
    gauge: Gauge | None = None


def _gauge(row: Row, axis: tuple[float, float] | None) -> Gauge | None:
    if row.main is None or axis is None or not math.isfinite(row.main.value):
        return None
    # A single item has no interval: the stroke of its value stands alone.
    ends = (row.main.low, row.main.high) if row.main.spans else (row.main.value, row.main.value)
    start, span, rises = axis[0], axis[1] - axis[0], row.main.higher_is_better

    def place(value: float | None) -> float | None:
        if value is None or not math.isfinite(value):
            return None
        share = (value - start) / span
        # 3 % to 97 %: a mark at the very edge would be cut in half. Turned around where less is more leak.
        return round(3 + 94 * min(max(share if rises else 1 - share, 0.0), 1.0), 2)

    low, value, high = (place(v) or 0.0 for v in (ends[0], row.main.value, ends[1]))
    undefended = None if row.undefended is None else place(row.undefended.value)
    blind = None if row.blind is None else place(row.blind.value)
    return Gauge(min(low, high), value, max(low, high), place(row.main.chance), undefended, blind)


def overview(summary: Summary) -> tuple[tuple[tuple[str, str], tuple[Row, ...]], ...]:
    """((target, dataset), rows) in the order of the summary; gauges of one metric share an axis over the whole page."""
    bare = []
    for index, group in enumerate(summary.groups):
        main = group.scores[0] if group.scores else None
        controls = (group.undefended_scores, group.blind_scores)
        undefended, blind = (None if main is None else matching(scores, main.metric) for scores in controls)
        bare.append(Row(f"group-{index + 1}", group, main, undefended, blind))
    metrics = {row.main.metric for row in bare if row.main is not None}
    axes = {
        metric: _axis((r.main, r.undefended, r.blind) for r in bare if r.main is not None and r.main.metric == metric)
        for metric in metrics
    }
    scenes: dict[tuple[str, str], list[Row]] = {}
    for row in bare:
        gauge = None if row.main is None else _gauge(row, axes[row.main.metric])
        full = Row(row.anchor, row.group, row.main, row.undefended, row.blind, gauge)
        scenes.setdefault((row.group.target, row.group.dataset), []).append(full)
    return tuple((scene, tuple(rows)) for scene, rows in scenes.items())


@final
@dataclass(frozen=True)
class Tally:
    """How the cells ended: as planned = claimed + refused + diverged + crashed + missing, if nothing was lost."""

    planned: int
    claimed: int
    refused: int
    diverged: int
    crashed: int
    missing: int

    @property
    def finished(self) -> int:
        """Cells with a record, however they ended."""
        return self.claimed + self.refused + self.diverged + self.crashed

    @property
    def failed(self) -> int:
        """Cells that should have claimed and did not: diverged, crashed or missing. A refusal is an answer."""
        return self.diverged + self.crashed + self.missing


def tally(endings: Iterable[Ending], planned: int) -> Tally:
    """Counts of what was found against what was planned.

    >>> tally([Ending.CLAIMED, Ending.CRASHED], 3).missing
    1
    """
    counts = Counter(endings)
    # Not below zero: shards that were merged from another plan may hold more than this one asked for.
    missing = max(planned - counts.total(), 0)
    return Tally(
        planned,
        counts[Ending.CLAIMED],
        counts[Ending.REFUSED],
        counts[Ending.DIVERGED],
        counts[Ending.CRASHED],
        missing,
    )


WORST_FIRST = (Word.LEAKS, Word.INCONCLUSIVE, Word.NO_LEAK_FOUND)


def words(summary: Summary) -> tuple[tuple[Word, int], ...]:
    """How many findings (of runs of version 0.1: groups) got each word, worst first; words of none are left out."""
    counts = Counter(one.word for one in summary.findings or summary.groups)
    return tuple((word, counts[word]) for word in WORST_FIRST if counts[word])


def agreement(true: Sequence[int], claimed: Sequence[int]) -> int:
    """How many labels two multisets share.

    >>> agreement([3, 3, 7], [7, 3, 9])
    2
    """
    return (Counter(true) & Counter(claimed)).total()
