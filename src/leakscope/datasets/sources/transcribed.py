"""Anybody's recordings: a folder of sound files, each beside a text file with its transcript."""

from __future__ import annotations

import functools
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import final

from torch import Tensor

from leakscope.core.errors import BadInput
from leakscope.datasets.sources.speech import AbstractSpeech, Utterance, checked_range, checked_transcript, within
from leakscope.domains.audio import read_sound

SUFFIXES = frozenset({".wav", ".flac", ".ogg"})


@final
@dataclass(frozen=True)
class SoundFolder(AbstractSpeech):
    """The recordings of `folder`, in the order of their paths: NAME.wav (.flac, .ogg) beside NAME.txt.

    The text is made lower case, and its line breaks spaces; else it must be in the alphabet. The speaker is the
    subfolder, where there are subfolders. Only utterances of `shortest` to `longest` seconds are used. Hidden files and
    files of other suffixes are not looked at. Raises `BadInput`, naming the file, on a missing, empty or unusable
    transcript, when there is no recording, or as `read_sound` does.
    """

    folder: str
    shortest: float = 0.0
    longest: float = math.inf

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", os.fspath(self.folder))
        checked_range(self.shortest, self.longest)

    def utterances(self) -> tuple[Utterance, ...]:
        """Every utterance; its name is the path of its sound file."""
        return _found(Path(self.folder).resolve(), self.shortest, self.longest)

    def sound(self, position: int) -> Tensor:
        """The samples, read anew."""
        return read_sound(self.utterances()[position].name)


@functools.lru_cache(maxsize=8)
def _found(folder: Path, shortest: float, longest: float) -> tuple[Utterance, ...]:
    if not folder.is_dir():
        raise BadInput(f"no folder {folder}; check the path")
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
    if not files:
        raise BadInput(f"no sound files in {folder}; expected {', '.join(sorted(SUFFIXES))}")
    return within([_utterance(path, folder) for path in files], shortest, longest, folder)


def _utterance(path: Path, folder: Path) -> Utterance:
    beside = path.with_suffix(".txt")
    if not beside.is_file():
        raise BadInput(f"{path} has no transcript; write it into {beside.name} beside it")
    try:
        text = " ".join(beside.read_text(encoding="utf-8-sig").lower().split())
    except UnicodeDecodeError as error:
        raise BadInput(f"{beside} is no text in UTF-8 ({error}); write it again") from None
    if not text:
        raise BadInput(f"{beside} is empty; write what is said in {path.name}")
    speaker = path.relative_to(folder).parts[0] if path.parent != folder else ""
    return Utterance(str(path), checked_transcript(text, str(beside)), speaker)
