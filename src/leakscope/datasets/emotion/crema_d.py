"""CREMA-D: ninety-one actors, six emotions, twelve sentences, labeled by those who heard and saw them."""

from __future__ import annotations

import csv
import functools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import final

from leakscope.core import file_limits
from leakscope.core.arguments import flag
from leakscope.core.errors import BadInput
from leakscope.datasets.emotion.corpus import AbstractRecordedCorpus, Emotion, Recording, files_below, skipped
from leakscope.datasets.sources.speech import Sex

EMOTIONS = {
    "NEU": Emotion.NEUTRAL,
    "HAP": Emotion.HAPPY,
    "SAD": Emotion.SAD,
    "ANG": Emotion.ANGRY,
    "FEA": Emotion.FEARFUL,
    "DIS": Emotion.DISGUSTED,
}
VOTES = {code[0]: emotion for code, emotion in EMOTIONS.items()}
NAME = re.compile(r"(\d{4})_([A-Z]{3})_([A-Z]{3})_(LO|MD|HI|XX|X)")
SEXES = {"Female": Sex.FEMALE, "Male": Sex.MALE}
SILENT = "1076_MTI_SAD_XX"
"""The one file of the published corpus without a sound."""


@final
@dataclass(frozen=True)
class CremaD(AbstractRecordedCorpus):
    """`folder`/AudioWAV/AAAA_SSS_EEE_LL.wav, beside the published tables (doi:10.1109/TAFFC.2014.2336244).

    AAAA is the actor, SSS the sentence, EEE the emotion that was asked for, LL its level. votes: the label is the one
    that most who heard and saw it voted for (column MultiModalVote of processedResults/summaryTable.csv; a tie such as
    `A:N` is OTHER), else the one that was asked for. The sex is from VideoDemographics.csv. skip: names without suffix,
    of recordings that are left out: at first the one that is silent.
    Raises `BadInput`, with file and line, on a missing table or column, a recording that a table does not know, a name
    of another form.

    >>> CremaD("CREMA-D")
    CremaD(folder='CREMA-D', votes=True, skip=('1076_MTI_SAD_XX',))
    """

    folder: str
    votes: bool = True
    skip: tuple[str, ...] = (SILENT,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", os.fspath(self.folder))
        flag("votes", self.votes)
        object.__setattr__(self, "skip", skipped(self.skip))

    def recordings(self) -> tuple[Recording, ...]:
        """Actor after actor; the speaker is the actor's number, as in `1001`."""
        return _found(Path(self.folder).resolve(), self.votes, self.skip)


@functools.lru_cache(maxsize=8)
def _found(folder: Path, votes: bool, skip: tuple[str, ...]) -> tuple[Recording, ...]:
    files = files_below(folder, skip, "CREMA-D")
    sexes = _column(folder / "VideoDemographics.csv", "ActorID", "Sex")
    voted = _column(folder / "processedResults" / "summaryTable.csv", "FileName", "MultiModalVote") if votes else {}
    made = []
    for path in files:
        match = NAME.fullmatch(path.stem)
        if match is None or match[3] not in EMOTIONS:
            raise BadInput(f"{path}: expected a name such as 1001_DFA_ANG_XX{path.suffix}; take the file away")
        if SEXES.get(sexes.get(match[1], "")) is None:
            raise BadInput(
                f"{path}: {match[1]} is no speaker whose sex {folder / 'VideoDemographics.csv'} tells; complete the "
                "table or take the file away"
            )
        if votes and path.stem not in voted:
            raise BadInput(
                f"{path}: summaryTable.csv has no vote for it; get the table again, or write votes=False to take "
                "the emotion that was asked for"
            )
        emotion = VOTES.get(voted[path.stem], Emotion.OTHER) if votes else EMOTIONS[match[3]]
        made.append(Recording(path.stem, emotion, match[1], SEXES[sexes[match[1]]], "CREMA-D", str(path)))
    return tuple(sorted(made, key=lambda one: one.name))


def _column(path: Path, key: str, value: str) -> dict[str, str]:
    """One column of a table by another. Raises `BadInput` where either is missing."""
    if not path.is_file():
        raise BadInput(f"no table {path}; it is in the published corpus beside AudioWAV")
    rows = csv.DictReader(file_limits.text_of(path, "a table").splitlines())
    try:
        lacking = [name for name in (key, value) if name not in (rows.fieldnames or ())]
        if lacking:
            raise BadInput(f"{path} lacks the column {lacking[0]}; expected {key} and {value} in its first line")
        return {(row[key] or "").strip(): (row[value] or "").strip() for row in rows}
    except csv.Error as error:
        raise BadInput(f"{path} is no table ({error}); get it again") from None
