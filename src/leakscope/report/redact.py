"""How one picture, text or number is made unrecognizable on a redacted page; what it may know at all: `withheld`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from leakscope.report.media import Array

GRID = 4
"""At most this many averages along each side of a picture ..."""
SPAN = 8
"""... each over at least this many pixels along each side (a smaller picture becomes one average) ..."""
LEVELS = 8
"""... rounded to this many levels."""

MASK = "\N{BLACK VERTICAL RECTANGLE}\N{BLACK VERTICAL RECTANGLE}"
WITHHELD = "withheld"

# Numbers and quoted words in a sentence may be labels or texts of the secret; a mask cannot tell, so it takes them all.
# A quote opens after a non-letter, so that an apostrophe inside a word opens none.
_TELLING = re.compile(
    r"\d+(?:[.,]\d+)*(?:[eE][+-]?\d+)?|(?<!\w)'[^']*'?|\"[^\"]*\"?|`[^`]*`?"
    r"|\N{LEFT SINGLE QUOTATION MARK}[^\N{RIGHT SINGLE QUOTATION MARK}]*"
    r"|\N{LEFT DOUBLE QUOTATION MARK}[^\N{RIGHT DOUBLE QUOTATION MARK}]*"
)


def coarse(picture: Array) -> Array:
    """(C, H, W) in [0, 1] to (C, h, w), h = clamp(H // 8, 1, 4), w likewise: block means in steps of 1/7.

    Any two pictures with equal block means become equal, so nothing finer can be computed back.

    >>> coarse(np.eye(8)[None]).shape
    (1, 1, 1)
    """
    # NaN is as telling as a number, so it becomes gray here and is not painted.
    values = np.nan_to_num(np.clip(np.asarray(picture, np.float64), 0.0, 1.0), nan=0.5)
    for axis in (1, 2):
        parts = np.array_split(values, int(np.clip(picture.shape[axis] // SPAN, 1, GRID)), axis=axis)
        values = np.concatenate([part.mean(axis=axis, keepdims=True) for part in parts], axis=axis)
    return np.asarray(np.rint(values * (LEVELS - 1)) / (LEVELS - 1))


def masked(text: str, *, spared: re.Pattern[str] | None = None) -> str:
    r"""The text without its numbers and quoted words. spared: what stays as it is, for it tells nothing of an example.

    >>> masked("the label is 7, the word 'secret'")
    'the label is ▮▮, the word ▮▮'
    >>> masked("in batches of 4: 3 right", spared=re.compile(r"batches of \d+"))
    'in batches of 4: ▮▮ right'
    """
    if spared is None:
        return _TELLING.sub(MASK, text)
    kept, done, start = spared.finditer(text), [], 0
    for one in kept:
        done += [_TELLING.sub(MASK, text[start : one.start()]), one[0]]
        start = one.end()
    return "".join([*done, _TELLING.sub(MASK, text[start:])])


@final
@dataclass(frozen=True)
class Veil:
    """Whether, and how, secrets are kept out of the page. Everything that comes from a cell passes through it.

    coarse: averages of pictures are shown; without it a veiled page has none (`report.withheld`), since even sixteen
    averages tell one example of a pool from all others.
    """

    on: bool = False
    coarse: bool = False

    def picture(self, picture: Array) -> Array:
        """(C, H, W) in [0, 1]: itself, or its coarse remains."""
        return coarse(picture) if self.on else picture

    def text(self, text: str) -> str:
        """A sentence of a cell: itself, or without numbers and quotes."""
        return masked(text) if self.on else text

    def token(self, text: str) -> str:
        """What would let a reader draw the same secret again or quotes it at length: itself, or withheld."""
        return WITHHELD if self.on else text

    def labels(self, labels: Sequence[int]) -> tuple[str, ...]:
        """One entry per label."""
        return tuple(MASK if self.on else str(label) for label in labels)
