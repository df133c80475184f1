"""The contract of corpora of emotional speech: who says something, in which emotion, and how it sounds."""

from __future__ import annotations

import enum
import functools
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from torch import Tensor

from leakscope.core.errors import BadInput
from leakscope.datasets.sources.speech import Sex
from leakscope.domains.audio import read_sound

SUFFIXES = (".wav", ".flac")
"""Of recordings: the published corpora are WAV; FLAC holds the same samples."""


@final
class Emotion(enum.Enum):
    """What a recording is labeled as; OTHER stands for every label that is none of the rest, and for no agreement.

    >>> Emotion("happy")
    Emotion.HAPPY
    """

    NEUTRAL = "neutral"
    HAPPY = "happy"
    SAD = "sad"
    ANGRY = "angry"
    CALM = "calm"
    FEARFUL = "fearful"
    DISGUSTED = "disgusted"
    SURPRISED = "surprised"
    BORED = "bored"
    FRUSTRATED = "frustrated"
    OTHER = "other"

    def __repr__(self) -> str:
        return f"Emotion.{self.name}"


@final
@dataclass(frozen=True)
class Recording:
    """What is known of one recording besides its sound.

    name: tells it apart inside of its corpus; the stem of its file where there is one. path: the file, or empty.
    """

    name: str
    emotion: Emotion
    speaker: str
    sex: Sex
    corpus: str
    path: str = ""


class AbstractCorpus(ABC):
    """Recordings of acted or natural emotions. Concrete corpora are frozen dataclasses; loading is cached."""

    @abstractmethod
    def recordings(self) -> tuple[Recording, ...]:
        """All of them, in an order of their own that never changes. Raises `BadInput` when they are not there."""

    @abstractmethod
    def sound(self, position: int) -> Tensor:
        """The samples (N,) float32 at 16 kHz of the recording at `position`. Raises `BadInput` on a damaged file."""


class AbstractRecordedCorpus(AbstractCorpus):
    """A corpus whose recordings are files."""

    @final
    def sound(self, position: int) -> Tensor:
        """The samples, read anew."""
        return read_sound(self.recordings()[position].path)


@dataclass(frozen=True)
class AbstractFolderCorpus(AbstractRecordedCorpus):
    """A corpus that is a folder whose names say everything. skip: names without suffix, of what is left out."""

    folder: str
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", os.fspath(self.folder))
        object.__setattr__(self, "skip", skipped(self.skip))

    @final
    def recordings(self) -> tuple[Recording, ...]:
        """Speaker after speaker, in the order of names."""
        return _listed(self, Path(self.folder).resolve())

    @abstractmethod
    def found(self, folder: Path) -> Iterable[Recording]:
        """What is below the folder, in any order. Raises `BadInput`, naming the file, on what does not belong there."""


@functools.lru_cache(maxsize=8)
def _listed(corpus: AbstractFolderCorpus, folder: Path) -> tuple[Recording, ...]:
    # by the place that the folder was at: a relative one is another from another directory
    return tuple(sorted(corpus.found(folder), key=lambda one: (one.speaker, one.name)))


@final
@dataclass(frozen=True)
class Combined(AbstractCorpus):
    """Several corpora as one, one after the other; a speaker is named after the corpus too, as in `EmoDB 03`.

    Raises `BadInput` on none, and on two of one name: their speakers could not be told apart.

    >>> Combined(())
    Traceback (most recent call last):
    leakscope.core.errors.BadInput: expected corpora such as (Ravdess("RAVDESS"), EmoDB("EmoDB")), got none
    """

    corpora: tuple[AbstractCorpus, ...]

    def __post_init__(self) -> None:
        if not self.corpora:
            raise BadInput('expected corpora such as (Ravdess("RAVDESS"), EmoDB("EmoDB")), got none')
        object.__setattr__(self, "corpora", tuple(self.corpora))
        for one in self.corpora:
            if not isinstance(one, AbstractCorpus):
                raise BadInput(f"expected corpora, got {one!r}; write for example Ravdess('RAVDESS')")

    def recordings(self) -> tuple[Recording, ...]:
        """Those of the first corpus, then those of the second, and so on."""
        found: list[Recording] = []
        names: set[str] = set()
        for corpus in self.corpora:
            own = [replace(one, speaker=f"{one.corpus} {one.speaker}") for one in corpus.recordings()]
            twice = names & {one.corpus for one in own}
            if twice:
                raise BadInput(f"{min(twice)} is combined with itself; give each corpus once")
            names |= {one.corpus for one in own}
            found += own
        return tuple(found)

    def sound(self, position: int) -> Tensor:
        """Of the corpus that the recording is of. Raises `BadInput` beyond the last."""
        before = 0
        for corpus in self.corpora:
            own = len(corpus.recordings())
            if 0 <= position - before < own:
                return corpus.sound(position - before)
            before += own
        raise BadInput(f"expected a recording from 0 to {before - 1}, got {position}")


def files_below(folder: Path, skip: Iterable[str], what: str) -> list[Path]:
    """The recordings below `folder` in the order of their paths, without those whose stem is in `skip`.

    Hidden files are not looked at. A link to nothing is a recording, which is missed when it is read: so tools for
    large data leave what they have not fetched. Raises `BadInput` where there is no folder, no recording in it, or one
    is there twice.
    """
    if not folder.is_dir():
        raise BadInput(f"no folder {folder}; give that of {what}")
    left_out = set(skip)
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.is_dir()
    )
    if not found:
        raise BadInput(f"no {' or '.join(SUFFIXES)} files below {folder}; give the unpacked folder of {what}")
    kept = [path for path in found if path.stem not in left_out]
    seen: dict[str, Path] = {}
    for path in kept:
        first = seen.setdefault(path.stem, path)
        if first is not path:
            raise BadInput(f"{path.stem} is there twice, as {first} and as {path}; take one of them away")
    return kept


def skipped(names: object) -> tuple[str, ...]:
    """`names` of recordings as a tuple. Raises `BadInput` on anything else; a single text is taken for one name."""
    if isinstance(names, str):
        return (names,)
    if not isinstance(names, tuple | list) or not all(isinstance(one, str) for one in names):
        raise BadInput(f'expected names of recordings to skip, such as ("1076_MTI_SAD_XX",), got {names!r}')
    return tuple(names)
