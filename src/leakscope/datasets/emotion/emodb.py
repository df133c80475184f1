"""EmoDB, the Berlin database of emotional speech: ten actors, seven emotions, ten German sentences."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import final

from leakscope.core.errors import BadInput
from leakscope.datasets.emotion.corpus import AbstractFolderCorpus, Emotion, Recording, files_below
from leakscope.datasets.sources.speech import Sex

EMOTIONS = {
    "N": Emotion.NEUTRAL,
    "F": Emotion.HAPPY,
    "T": Emotion.SAD,
    "W": Emotion.ANGRY,
    "A": Emotion.FEARFUL,
    "E": Emotion.DISGUSTED,
    "L": Emotion.BORED,
}
"""By the first letter of the German word: neutral, Freude, Trauer, Wut, Angst, Ekel, Langeweile."""
SPEAKERS = {
    "03": Sex.MALE,
    "08": Sex.FEMALE,
    "09": Sex.FEMALE,
    "10": Sex.MALE,
    "11": Sex.MALE,
    "12": Sex.MALE,
    "13": Sex.FEMALE,
    "14": Sex.FEMALE,
    "15": Sex.MALE,
    "16": Sex.FEMALE,
}
NAME = re.compile(r"(\d\d)([ab]\d\d)([A-Z])([a-z])")


@final
@dataclass(frozen=True)
class EmoDB(AbstractFolderCorpus):
    """`folder`/**/SSTTTEV.wav (or .flac) as published (Burkhardt et al. 2005, Interspeech).

    SS is the speaker, TTT the sentence, E the emotion, V the version. Not every speaker said everything, so nothing is
    missed. skip: names without suffix, of recordings that are left out.
    Raises `BadInput`, naming the file, on a name of another form, an unknown emotion or speaker.

    >>> EmoDB("EmoDB")
    EmoDB(folder='EmoDB', skip=())
    """

    def found(self, folder: Path) -> Iterable[Recording]:
        """The speaker is a number, as in `03`."""
        return [_recording(path) for path in files_below(folder, self.skip, "EmoDB")]


def _recording(path: Path) -> Recording:
    match = NAME.fullmatch(path.stem)
    if match is None:
        raise BadInput(f"{path}: expected a name such as 03a01Fa{path.suffix}; take the file away")
    speaker, _, emotion, _ = match.groups()
    if speaker not in SPEAKERS:
        raise BadInput(f"{path}: {speaker} is no speaker of EmoDB, expected {', '.join(SPEAKERS)}; take the file away")
    if emotion not in EMOTIONS:
        raise BadInput(f"{path}: {emotion} is no emotion of EmoDB, expected {', '.join(EMOTIONS)}; take the file away")
    return Recording(path.stem, EMOTIONS[emotion], speaker, SPEAKERS[speaker], "EmoDB", str(path))
