"""MSP-Improv: six sessions of two actors each, who improvise until a given sentence falls."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

from leakscope.core import file_limits
from leakscope.core.errors import BadInput
from leakscope.datasets.emotion.corpus import AbstractRecordedCorpus, Emotion, Recording, files_below, skipped
from leakscope.datasets.sources.speech import Sex

EMOTIONS = {
    "N": Emotion.NEUTRAL,
    "H": Emotion.HAPPY,
    "S": Emotion.SAD,
    "A": Emotion.ANGRY,
    "O": Emotion.OTHER,
    "X": Emotion.OTHER,
}
"""X is no agreement."""
KINDS = {"S": "the sentence improvised", "T": "other turns improvised", "R": "the sentence read", "P": "between takes"}
SESSIONS = 6
NAME = re.compile(r"MSP-IMPROV-(S\d\d[AHSN])-([FM]\d\d)-([A-Z])-([A-Z]{2}\d\d)")
LINE = re.compile(r"UTD-(IMPROV-[A-Z0-9-]+)\.avi; (\w); .*")
TABLES = ("Evalution.txt", "Evaluation.txt")
"""The first is how the published file is spelled."""


@final
@dataclass(frozen=True)
class MspImprov(AbstractRecordedCorpus):
    """`folder`/**/MSP-IMPROV-S01A-F01-S-FM01.wav with Evalution.txt in `folder` or above it, as published.

    After the sentence and its emotion come the speaker, the kind of turn, and who spoke to whom (Busso et al. 2017,
    doi:10.1109/TAFFC.2016.2515617). kinds: of turns that are taken: S and T are improvised, R is read, P is what was
    said between takes. skip: names without suffix, of recordings that are left out.
    Raises `BadInput`, naming the file, on a turn without an evaluation, an evaluation without a recording (of the
    sentences there are), an unknown emotion or speaker, a name of another form, on a kind that is none.

    >>> MspImprov("MSP-IMPROV").kinds
    ('S', 'T')
    """

    folder: str
    kinds: tuple[str, ...] = ("S", "T")
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", os.fspath(self.folder))
        object.__setattr__(self, "kinds", tuple(self.kinds))
        strange = [one for one in self.kinds if one not in KINDS]
        if strange or not self.kinds:
            raise BadInput(f"expected kinds of turns among {', '.join(KINDS)}, got {self.kinds}")
        object.__setattr__(self, "skip", skipped(self.skip))

    def recordings(self) -> tuple[Recording, ...]:
        """In the order of their names; the speaker is a letter and the session, as in `F01`."""
        return _found(Path(self.folder).resolve(), self.kinds, self.skip)


@functools.lru_cache(maxsize=8)
def _found(folder: Path, kinds: tuple[str, ...], skip: tuple[str, ...]) -> tuple[Recording, ...]:
    files = {path.stem: path for path in files_below(folder, skip, "MSP-Improv")}
    parts = {name: _parts(path) for name, path in files.items()}
    evaluated = dict(_evaluations(folder))
    unknown = sorted(name for name in files if parts[name][2] in kinds and name not in evaluated)
    if unknown:
        raise BadInput(f"{folder}: {TABLES[0]} has no line for {unknown[0]}; get it again, or name it in skip")
    # Each sentence is an archive of its own, so one of which nothing is there was not asked for.
    sentences = {one[0] for one in parts.values()}
    missing = sorted(
        name
        for name in evaluated.keys() - files.keys() - set(skip)
        if name.split("-")[2] in sentences and name.split("-")[4] in kinds
    )
    if missing:
        raise BadInput(
            f"{folder} lacks {len(missing)} recordings that were evaluated, the first is {missing[0]}.wav; get them "
            "again, or name them in skip"
        )
    wanted = [name for name in sorted(files) if parts[name][2] in kinds]
    if not wanted:
        raise BadInput(f"{folder} holds no turns of the kinds {', '.join(kinds)}; give other kinds")
    return tuple(_recording(files[name], parts[name], evaluated[name]) for name in wanted)


def _parts(path: Path) -> tuple[str, ...]:
    match = NAME.fullmatch(path.stem)
    if match is None:
        raise BadInput(f"{path}: expected a name such as MSP-IMPROV-S01A-F01-S-FM01{path.suffix}; take the file away")
    if not 1 <= int(match[2][1:]) <= SESSIONS:
        raise BadInput(
            f"{path}: {match[2]} is no speaker of MSP-Improv, expected F01 to M0{SESSIONS}; take the file away"
        )
    return match.groups()


def _evaluations(folder: Path) -> Iterator[tuple[str, Emotion]]:
    places = [above / table for above in (folder, *folder.parents[:2]) for table in TABLES]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise BadInput(f"no {TABLES[0]} in {folder} or above it; it is in the published corpus")
    for number, line in enumerate(file_limits.text_of(path, "the evaluation").splitlines(), 1):
        match = LINE.fullmatch(line.strip())
        if match is None:
            continue  # what single listeners said
        if match[2] not in EMOTIONS:
            raise BadInput(
                f"{path}, line {number}: {match[2]} is no emotion of MSP-Improv, expected N, H, S, A, O or X"
            )
        yield f"MSP-{match[1]}", EMOTIONS[match[2]]


def _recording(path: Path, parts: tuple[str, ...], emotion: Emotion) -> Recording:
    sex = Sex.FEMALE if parts[1][0] == "F" else Sex.MALE
    return Recording(path.stem, emotion, parts[1], sex, "MSP-Improv", str(path))
