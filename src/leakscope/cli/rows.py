"""What a row of the one table is: a name with its family, its home, its traits. No torch here."""

from __future__ import annotations

import enum
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

from leakscope.core.errors import UnknownName


@final
class Family(enum.Enum):
    """What a row is; the value is what one types after `leakscope list`."""

    ATTACKS = "attacks"
    DEFENSES = "defenses"
    PROTOCOLS = "protocols"
    METRICS = "metrics"
    TARGETS = "targets"
    DATASETS = "datasets"
    PARTS = "parts"


WITH_CARDS = frozenset({Family.ATTACKS, Family.DEFENSES, Family.PROTOCOLS, Family.METRICS})
"""What a reader has to know the failures of before trusting it."""


@final
class Trait(enum.Enum):
    """What a test or a reader has to know about a row before it is run."""

    CLAIMS_INPUTS = "claims inputs"
    CLAIMS_LABELS = "claims labels"
    CLAIMS_TRANSCRIPTS = "claims transcripts"
    CLAIMS_ATTRIBUTES = "claims attributes"
    EXACT = "exact, with a certificate"
    SEARCH = "a search"
    NEEDS_BATCH_SIZE = "needs BatchSize"
    NEEDS_TRANSCRIPTS = "needs TrueTranscripts"
    NEEDS_GALLERY = "needs Gallery"
    NEEDS_BATCH_NORM = "needs batch normalization"
    RANDOM = "random"
    PRIVATE = "a privacy event"
    LOCAL_STEPS = "releases a Delta"
    NEEDS_FILES = "needs files on disk"
    NEEDS_EXTRA = "needs an extra"
    NEEDS_COLOR = "needs 3 channels"
    SMALL = "small enough for a quick audit"
    SPEECH = "for speech"
    DECODER = "for recognizers with a decoder"
    PATCHES = "for transformers on images"
    TEXT = "for text"
    IMAGES = "for images"
    FIXED = "for inputs of one size, with classes"
    CLAIMS_TOKENS = "claims tokens"
    CLAIMS_FEATURES = "claims what a layer was fed"
    READS_WEIGHTS = "reads released weights"
    NEEDS_PERSONS = "needs a pool of persons"
    LEARNS = "needs a pool of pictures"


@final
@dataclass(frozen=True)
class Row:
    """One name.

    home: the module of the class or function. example: an expression that evaluates to an object with reasonable
    settings, given the public names of `leakscope`. traits: facts that tests rely on.
    """

    name: str
    family: Family
    home: str
    summary: str
    example: str
    traits: frozenset[Trait] = frozenset()

    @property
    def build(self) -> Callable[..., Any]:
        """The class or function, imported when it is asked for: a list of rows must not wait for torch."""
        made: Callable[..., Any] = getattr(importlib.import_module(self.home), self.name)
        return made

    @property
    def card(self) -> str:
        """The path of its card, from the root of the repository; empty for families that have none."""
        return f"docs/cards/{self.name}.md" if self.family in WITH_CARDS else ""


def row(family: Family, build: Callable[..., Any], summary: str, example: str = "", *traits: Trait) -> Row:
    """The row of a class or function, under its own name.

    >>> row(Family.PARTS, Row, "a row").home
    'leakscope.cli.rows'
    """
    name = build.__name__
    return Row(name, family, build.__module__, summary, example or f"{name}()", frozenset(traits))


def family(name: str) -> Family:
    """The family with this name. Raises `UnknownName`.

    >>> family("attacks")
    <Family.ATTACKS: 'attacks'>
    """
    known = {one.value: one for one in Family}
    if name not in known:
        raise UnknownName("family", name, known)
    return known[name]
