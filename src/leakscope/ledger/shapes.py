"""Whether the arrays of a record are what a page can draw: their ranks, types and lengths, before it is made.

A checksum says that a file is what was written, not by whom.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

FASTEST = 768_000
"""Samples per second: more than any sound card takes."""

_DRAWN, _HEARD = ("original", "claim", "pictures"), ("audio_original", "audio_claim")


def misfit(arrays: Mapping[str, NDArray[Any]]) -> str | None:
    """What is wrong with the arrays of a record, None where nothing is.

    >>> misfit({"original": np.zeros((2, 1, 4, 4)), "unclaimed": np.zeros(2, bool)})
    'unclaimed is there without a claim'
    """
    for name in (*_DRAWN, *_HEARD):
        if name in arrays:
            wrong = _undrawable(name, arrays[name])
            if wrong:
                return wrong
    return _unclaimed(arrays) or _rate(arrays)


def _undrawable(name: str, value: NDArray[Any]) -> str | None:
    ranks = {"pictures": "2", "audio_original": "2", "audio_claim": "2"}.get(name, "1")
    # a scalar or a picture without pixels has no place in a row of pictures
    if value.ndim < int(ranks) or (name in _HEARD and value.ndim != 2) or 0 in value.shape:
        return f"{name} has shape {value.shape}, expected at least {ranks} axes, none of them empty"
    if value.dtype.kind not in "fiub":
        return f"{name} is of type {value.dtype}, expected numbers"
    return None


def _unclaimed(arrays: Mapping[str, NDArray[Any]]) -> str | None:
    if "unclaimed" not in arrays:
        return None
    if "claim" not in arrays:
        return "unclaimed is there without a claim"
    given, wanted = arrays["unclaimed"], arrays["claim"].shape[:1]
    if given.dtype != np.bool_ or given.shape != wanted:
        return f"unclaimed is {given.dtype} {given.shape}, expected bool {wanted}"
    return None


def _rate(arrays: Mapping[str, NDArray[Any]]) -> str | None:
    rate = arrays.get("audio_rate")
    if rate is None:
        return None
    known = rate.size == 1 and rate.dtype.kind in "fiu" and math.isfinite(float(rate.ravel()[0]))
    if not known or not 1 <= float(rate.ravel()[0]) <= FASTEST:
        return f"audio_rate is not one number from 1 to {FASTEST}"
    return None
