"""Why something cannot be done, as a value: the one type for "cannot" in attacks and in what they are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class Refusal:
    """Why an attack, or a part of one, does not apply; the sentence names the missing fact, layer or mechanism.

    >>> Refusal("needs to be told BatchSize; told: nothing")
    Refusal(sentence='needs to be told BatchSize; told: nothing')
    """

    sentence: str
