"""IEMOCAP: five sessions of two actors each, in dialogues that were improvised or read."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

from leakscope.core import file_limits
from leakscope.core.arguments import flag
from leakscope.core.errors import BadInput
from leakscope.datasets.emotion.corpus import AbstractRecordedCorpus, Emotion, Recording, files_below, skipped
from leakscope.datasets.sources.speech import Sex

EMOTIONS = {
    "neu": Emotion.NEUTRAL,
    "hap": Emotion.HAPPY,
    "exc": Emotion.HAPPY,
    "sad": Emotion.SAD,
    "ang": Emotion.ANGRY,
    "fru": Emotion.FRUSTRATED,
    "fea": Emotion.FEARFUL,
    "sur": Emotion.SURPRISED,
    "dis": Emotion.DISGUSTED,
    "oth": Emotion.OTHER,
    "xxx": Emotion.OTHER,
}
"""Excitement counts as happiness, as usual in the field; xxx is no agreement."""
SESSIONS = 5
NAME = re.compile(r"Ses0(\d)([FM])_(impro|script)\w*_([FM])\d{3}")
LINE = re.compile(r"\[[\d.]+ - [\d.]+\]\t(\S+)\t(\w+)\t.*")


@final
@dataclass(frozen=True)
class Iemocap(AbstractRecordedCorpus):
    """`folder`/SessionN/sentences/wav/DIALOGUE/TURN.wav with SessionN/dialog/EmoEvaluation/DIALOGUE.txt, as published.

    A TURN such as Ses01F_impro01_M003 is of session 1, an improvised dialogue, and spoken by its man, who is the
    speaker `1M` (Busso et al. 2008, doi:10.1007/s10579-008-9076-6). improvised: only turns of improvised dialogues, as
    read ones tell the emotion by their words. skip: names without suffix, of recordings that are left out.
    Raises `BadInput`, naming the file, on a turn without an evaluation, an evaluation without a recording, an unknown
    emotion or session, a name of another form.

    >>> Iemocap("IEMOCAP_full_release").improvised
    True
    """

    folder: str
    improvised: bool = True
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", os.fspath(self.folder))
        flag("improvised", self.improvised)
        object.__setattr__(self, "skip", skipped(self.skip))

    def recordings(self) -> tuple[Recording, ...]:
        """Session after session, turn after turn."""
        return _found(Path(self.folder).resolve(), self.improvised, self.skip)


@functools.lru_cache(maxsize=8)
def _found(folder: Path, improvised: bool, skip: tuple[str, ...]) -> tuple[Recording, ...]:
    # Beside the turns lie whole dialogues, which are nobody's.
    files = {path.stem: path for path in files_below(folder, skip, "IEMOCAP") if path.parents[1].name == "wav"}
    if not files:
        raise BadInput(f"no turns in {folder}/Session*/sentences/wav/*; give the unpacked folder of IEMOCAP")
    evaluated = dict(_evaluations(folder))
    wanted = [name for name in files if not improvised or "_impro" in name]
    if not wanted:
        raise BadInput(f"{folder} holds no improvised turns; write improvised=False to take those that were read")
    _agree(folder, set(files), evaluated, skip)
    return tuple(_recording(files[name], evaluated[name]) for name in sorted(wanted))


def _evaluations(folder: Path) -> Iterator[tuple[str, Emotion]]:
    for path in sorted(folder.glob("Session*/dialog/EmoEvaluation/*.txt")):
        if path.name.startswith("."):
            continue
        for number, line in enumerate(file_limits.text_of(path, "an evaluation").splitlines(), 1):
            match = LINE.fullmatch(line.strip())
            if match is None:
                continue  # what single listeners said
            if match[2] not in EMOTIONS:
                raise BadInput(
                    f"{path}, line {number}: {match[2]} is no emotion of IEMOCAP, expected {', '.join(EMOTIONS)}"
                )
            yield match[1], EMOTIONS[match[2]]


def _agree(folder: Path, files: set[str], evaluated: dict[str, Emotion], skip: tuple[str, ...]) -> None:
    unknown = sorted(files - evaluated.keys())
    if unknown:
        raise BadInput(
            f"{folder}: no evaluation of {unknown[0]} in Session*/dialog/EmoEvaluation; get the corpus again, or name "
            "it in skip"
        )
    missing = sorted(evaluated.keys() - files - set(skip))
    if missing:
        raise BadInput(
            f"{folder} lacks {len(missing)} recordings that were evaluated, the first is {missing[0]}.wav; get them "
            "again, or name them in skip"
        )


def _recording(path: Path, emotion: Emotion) -> Recording:
    match = NAME.fullmatch(path.stem)
    if match is None:
        raise BadInput(f"{path}: expected a name such as Ses01F_impro01_F000{path.suffix}; take the file away")
    if not 1 <= int(match[1]) <= SESSIONS:
        raise BadInput(f"{path}: IEMOCAP has sessions 1 to {SESSIONS}, not {match[1]}; take the file away")
    sex = Sex.FEMALE if match[4] == "F" else Sex.MALE
    return Recording(path.stem, emotion, f"{match[1]}{match[4]}", sex, "IEMOCAP", str(path))
