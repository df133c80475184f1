"""Transcribed speech: the contract of its sources, DeepSpeech's CSV files and the layout of LibriSpeech."""

from __future__ import annotations

import csv
import enum
import functools
import hashlib
import math
import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from leakscope.core.annotation import Annotation
from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.datasets.draw import AbstractSource
from leakscope.domains.audio import duration, read_sound
from leakscope.domains.speech import ENGLISH, Frames, mfcc

COLUMNS = ("wav_filename", "wav_filesize", "transcript")


@final
class Sex(enum.Enum):
    """As the corpus says it; many say nothing."""

    FEMALE = "female"
    MALE = "male"
    UNKNOWN = "unknown"


@final
@dataclass(frozen=True)
class Utterance:
    """What is known about one recording besides its sound; `speaker` is empty where the corpus does not tell."""

    name: str
    transcript: str
    speaker: str = ""
    sex: Sex = Sex.UNKNOWN


class AbstractSpeech(AbstractSource):
    """Utterances with transcripts: inputs (N, T, 26) MFCC padded with zeros, labels (N, L) in the English alphabet."""

    @abstractmethod
    def utterances(self) -> tuple[Utterance, ...]:
        """Every utterance, in the order of `load`. Raises `BadInput` when the corpus is absent or not as described."""

    @abstractmethod
    def sound(self, position: int) -> Tensor:
        """The samples (N,) float32 at 16 kHz of the utterance at `position`. Raises `BadInput` on a damaged file."""

    @property
    @final
    def domain(self) -> Frames:
        """26 coefficients per frame."""
        return Frames(26)

    @property
    @final
    def classes(self) -> int:
        """28 characters and the blank."""
        return ENGLISH.classes

    @final
    def load(self) -> Batch:
        """All utterances."""
        return _batch(self)

    @final
    def annotations(self) -> tuple[Annotation, ...]:
        """`speaker` and `sex` of every utterance, each where the corpus tells it."""
        return _annotations(self)

    @final
    def positions(self, batch: Batch) -> tuple[int, ...]:
        """Where the utterances of `batch`, drawn from this source, are in `utterances()`: for their sound and speaker.

        Raises `BadInput` on one that is not from this source. Of utterances with equal frames the first is named.
        """
        places = _places(self)
        try:
            return tuple(places[digest] for digest in _digests(batch))
        except KeyError:
            raise BadInput(f"an utterance of {batch!r} is not from {self!r}; pass what was drawn from it") from None

    @final
    def speaker_names(self) -> tuple[str, ...]:
        """The different speakers, sorted. Raises `BadInput` when the corpus does not tell them."""
        names = sorted({utterance.speaker for utterance in self.utterances()})
        if names[0] == "":
            raise BadInput(f"{self!r} does not tell its speakers; add a column speaker, or use LibriSpeech or Spoken")
        return tuple(names)


def stacked(frames: Sequence[Tensor], transcripts: Sequence[str]) -> Batch:
    """Utterances of any lengths as one batch, padded with zeros. frames: (T_i, F) each; transcripts in `ENGLISH`.

    Raises `BadInput` on none, or on a character outside the alphabet.

    >>> stacked([torch.ones(3, 26), torch.ones(5, 26)], ["hi", "you"]).lengths
    tensor([3, 5])
    """
    if not frames or len(frames) != len(transcripts):
        raise BadInput(f"expected utterances with one transcript each, got {len(frames)} and {len(transcripts)}")
    labels = [torch.tensor(ENGLISH.encode(text), dtype=torch.int64) for text in transcripts]
    return Batch(
        pad_sequence(list(frames), batch_first=True),
        pad_sequence(labels, batch_first=True),
        torch.tensor([len(f) for f in frames]),
        torch.tensor([len(label) for label in labels]),
    )


@functools.lru_cache(maxsize=8)
def _batch(source: AbstractSpeech) -> Batch:
    known = source.utterances()
    frames = [mfcc(source.sound(position)) for position in range(len(known))]
    return stacked(frames, [utterance.transcript for utterance in known])


@functools.lru_cache(maxsize=8)
def _annotations(source: AbstractSpeech) -> tuple[Annotation, ...]:
    known = source.utterances()
    found = []
    if all(utterance.speaker for utterance in known):
        names = source.speaker_names()
        place = {name: at for at, name in enumerate(names)}
        found.append(Annotation("speaker", tuple(place[utterance.speaker] for utterance in known), names))
    if any(utterance.sex is not Sex.UNKNOWN for utterance in known):
        sexes = tuple(Sex)
        values = tuple(sexes.index(utterance.sex) for utterance in known)
        found.append(Annotation("sex", values, tuple(sex.value for sex in sexes)))
    return tuple(found)


@functools.lru_cache(maxsize=8)
def _places(source: AbstractSpeech) -> dict[bytes, int]:
    places: dict[bytes, int] = {}
    for position, digest in enumerate(_digests(source.load())):
        places.setdefault(digest, position)
    return places


def _digests(batch: Batch) -> Iterator[bytes]:
    if batch.lengths is None:
        raise BadInput("expected a batch of utterances, got one without lengths")
    for frames, length in zip(batch.inputs, batch.lengths.tolist(), strict=True):
        yield hashlib.blake2b(frames[:length].contiguous().cpu().numpy().tobytes(), digest_size=16).digest()


@final
@dataclass(frozen=True)
class DeepSpeechCsv(AbstractSpeech):
    """Utterances listed in a CSV file with the columns wav_filename, wav_filesize, transcript, as DeepSpeech takes it.

    Relative file names start at the CSV's folder. Transcripts must be in the alphabet (lower case, no digits). The
    columns speaker and sex (female, male) are read where they exist; wav_filesize is not needed. Only utterances of
    `shortest` to `longest` seconds are used. Raises `BadInput`, naming file and line, on a missing sound file, another
    header, an empty list, or as `read_sound` does.
    """

    path: str
    shortest: float = 0.0
    longest: float = math.inf

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", os.fspath(self.path))
        checked_range(self.shortest, self.longest)

    def utterances(self) -> tuple[Utterance, ...]:
        """Every utterance; its name is the path of its sound file."""
        return _listed(Path(self.path).resolve(), self.shortest, self.longest)

    def sound(self, position: int) -> Tensor:
        """The samples, read anew."""
        return read_sound(self.utterances()[position].name)


@final
@dataclass(frozen=True)
class LibriSpeech(AbstractSpeech):
    """Utterances of `folder`/**/SPEAKER-CHAPTER.trans.txt, each beside its SPEAKER-CHAPTER-NUMBER.flac.

    As published (Panayotov et al. 2015, doi:10.1109/ICASSP.2015.7178964): a line is a number, a space and the
    transcript in capitals. The speaker is the first part of the number; the sex is read from SPEAKERS.TXT, in `folder`
    or up to two levels above, or unknown. Only utterances of `shortest` to `longest` seconds are used, in the order of
    their numbers; all are kept in memory padded to the longest, so give limits. Raises `BadInput` when nothing is
    found, a file is missing, or as `read_sound` does.
    """

    folder: str
    shortest: float = 0.0
    longest: float = math.inf

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", os.fspath(self.folder))
        checked_range(self.shortest, self.longest)

    def utterances(self) -> tuple[Utterance, ...]:
        """Every utterance; its name is the path of its sound file."""
        return _published(Path(self.folder).resolve(), self.shortest, self.longest)

    def sound(self, position: int) -> Tensor:
        """The samples, read anew."""
        return read_sound(self.utterances()[position].name)


def checked_range(shortest: float, longest: float) -> None:
    """Raises `BadInput` on limits that are no limits."""
    if not 0 <= shortest <= longest:
        raise BadInput(f"expected 0 <= shortest <= longest in seconds, got {shortest} and {longest}")


def within(found: list[Utterance], shortest: float, longest: float, where: Path) -> tuple[Utterance, ...]:
    """Those that last `shortest` to `longest` seconds. Raises `BadInput` when there is none."""
    chosen = found
    if shortest > 0 or longest < math.inf:
        chosen = [utterance for utterance in found if shortest <= duration(utterance.name) <= longest]
    if not chosen:
        raise BadInput(f"{where}: none of {len(found)} utterances lasts {shortest} to {longest} s; widen the limits")
    return tuple(chosen)


def checked_transcript(text: str, where: str) -> str:
    """The text, if it is in the alphabet. Raises `BadInput`, with the place, when it is not."""
    try:
        ENGLISH.encode(text)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from error
    return text


@functools.lru_cache(maxsize=8)
def _listed(path: Path, shortest: float, longest: float) -> tuple[Utterance, ...]:
    if not path.is_file():
        raise BadInput(f"no CSV file {path}; check the path")
    found: list[Utterance] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            missing = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
            if missing:
                raise BadInput(f"{path} lacks the columns {missing}; expected {', '.join(COLUMNS)} in the first line")
            found.extend(_row(row, path, f"{path}, line {rows.line_num}") for row in rows)
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is no CSV file in UTF-8 ({error}); write it again") from error
    if not found:
        raise BadInput(f"{path} lists no utterances; expected one per line after the header")
    return within(found, shortest, longest, path)


def _row(row: dict[str, str | None], path: Path, where: str) -> Utterance:
    name, text = row["wav_filename"], row["transcript"]
    if not name or text is None:
        raise BadInput(f"{where}: expected {', '.join(COLUMNS)}, got {list(row.values())}; complete the line")
    sound = path.parent / name
    if not sound.is_file():
        raise BadInput(f"{where}: no sound file {sound}; correct the line or remove it")
    try:
        sex = Sex(row.get("sex") or Sex.UNKNOWN.value)
    except ValueError:
        raise BadInput(f"{where}: expected sex female, male or unknown, got {row.get('sex')!r}") from None
    return Utterance(str(sound), checked_transcript(text, where), row.get("speaker") or "", sex)


@functools.lru_cache(maxsize=8)
def _published(folder: Path, shortest: float, longest: float) -> tuple[Utterance, ...]:
    lists = sorted(folder.rglob("*.trans.txt"))
    if not lists:
        raise BadInput(f"no *.trans.txt below {folder}; give the unpacked folder, for example LibriSpeech/dev-clean")
    sexes = _sexes(folder)
    found = [utterance for path in lists for utterance in _chapter(path, sexes)]
    return within(found, shortest, longest, folder)


def _chapter(path: Path, sexes: dict[str, Sex]) -> Iterator[Utterance]:
    for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not text.strip():
            continue
        number, _, words = text.partition(" ")
        where = f"{path}, line {line}"
        sound = path.with_name(f"{number}.flac")
        if not sound.is_file():
            raise BadInput(f"{where}: no sound file {sound}; unpack the archive again")
        speaker = number.split("-")[0]
        transcript = checked_transcript(words.strip().lower(), where)
        yield Utterance(str(sound), transcript, speaker, sexes.get(speaker, Sex.UNKNOWN))


def _sexes(folder: Path) -> dict[str, Sex]:
    """Speaker to sex from SPEAKERS.TXT (lines `ID | SEX | ...`, comments begin with a semicolon)."""
    letters = {"F": Sex.FEMALE, "M": Sex.MALE}
    for place in (folder, *folder.parents[:2]):
        file = place / "SPEAKERS.TXT"
        if file.is_file():
            lines = file.read_text(encoding="utf-8").splitlines()
            rows = [[cell.strip() for cell in line.split("|")] for line in lines if not line.startswith(";")]
            return {row[0]: letters[row[1]] for row in rows if len(row) > 1 and row[1] in letters}
    return {}
