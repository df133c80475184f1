"""RAVDESS: twenty-four actors, eight emotions, two sentences; the speech of its audio files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import final

from leakscope.core.errors import BadInput
from leakscope.datasets.emotion.corpus import AbstractFolderCorpus, Emotion, Recording, files_below
from leakscope.datasets.sources.speech import Sex

ACTORS = 24
EMOTIONS = {
    "01": Emotion.NEUTRAL,
    "02": Emotion.CALM,
    "03": Emotion.HAPPY,
    "04": Emotion.SAD,
    "05": Emotion.ANGRY,
    "06": Emotion.FEARFUL,
    "07": Emotion.DISGUSTED,
    "08": Emotion.SURPRISED,
}
NAME = re.compile(r"(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)")
SPEECH = "01"
"""The vocal channel; 02 is song."""


@final
@dataclass(frozen=True)
class Ravdess(AbstractFolderCorpus):
    """`folder`/Actor_NN/MM-VV-EE-II-SS-RR-NN.wav (or .flac) as published (doi:10.1371/journal.pone.0196391).

    EE is the emotion, II its intensity, SS the sentence, RR the repetition, NN the actor: odd are male, even female.
    Song (VV = 02) is left out. All actors said the same, so what one actor lacks and another has is missed. skip: names
    without suffix, of recordings that are left out and not missed.
    Raises `BadInput`, naming the file, on a missing recording, a name of another form, an actor who is none of 1 to 24
    or is in another actor's folder; on a damaged file when it is read.

    >>> Ravdess("RAVDESS", skip="03-01-05-02-01-01-12").skip
    ('03-01-05-02-01-01-12',)
    """

    def found(self, folder: Path) -> Iterable[Recording]:
        """The speaker is the actor's number, as in `07`."""
        found = [(path, _fields(path)) for path in files_below(folder, self.skip, "RAVDESS")]
        spoken = [(path, fields) for path, fields in found if fields[1] == SPEECH]
        if not spoken:
            raise BadInput(f"{folder} holds song alone; give the folder with the speech of RAVDESS")
        _complete(folder, {fields for _, fields in spoken}, self.skip)
        return [_recording(path, fields) for path, fields in spoken]


def _fields(path: Path) -> tuple[str, ...]:
    match = NAME.fullmatch(path.stem)
    if match is None:
        raise BadInput(f"{path}: expected a name such as 03-01-05-02-01-01-12{path.suffix}; take the file away")
    fields = match.groups()
    if fields[2] not in EMOTIONS:
        raise BadInput(f"{path}: {fields[2]} is no emotion of RAVDESS, expected 01 to 08; take the file away")
    if not 1 <= int(fields[6]) <= ACTORS:
        raise BadInput(f"{path}: {fields[6]} is no actor of RAVDESS, expected 01 to {ACTORS}; take the file away")
    if path.parent.name.startswith("Actor_") and path.parent.name != f"Actor_{fields[6]}":
        raise BadInput(f"{path} is of actor {fields[6]} and in the folder {path.parent.name}; put it into its own")
    return fields


def _complete(folder: Path, there: set[tuple[str, ...]], skip: Iterable[str]) -> None:
    left_out = set(skip)
    said, actors = {one[:6] for one in there}, {one[6] for one in there}
    lacking = ((*one, actor) for actor in sorted(actors) for one in sorted(said) if (*one, actor) not in there)
    missing = [name for name in map("-".join, lacking) if name not in left_out]
    if missing:
        actor = missing[0].rpartition("-")[2]
        raise BadInput(
            f"{folder} lacks {len(missing)} recordings that it has of other actors, the first is "
            f"Actor_{actor}/{missing[0]}; get them again, or name them in skip"
        )


def _recording(path: Path, fields: tuple[str, ...]) -> Recording:
    sex = Sex.MALE if int(fields[6]) % 2 else Sex.FEMALE
    return Recording(path.stem, EMOTIONS[fields[2]], fields[6], sex, "RAVDESS", str(path))
