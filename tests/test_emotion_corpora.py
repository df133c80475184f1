"""Corpora of emotional speech in the layouts in which they are published, in folders that are written here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

import leakscope as ls
from leakscope.core.errors import BadInput
from leakscope.datasets.emotion.corpus import AbstractCorpus
from leakscope.datasets.sources.speech import Sex

CODES = ("01", "03", "04", "05")


def tone(path: Path, hertz: float = 200.0, seconds: float = 0.1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * 16_000)) / 16_000
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * hertz * time), 16_000)


def ravdess(folder: Path, actors: tuple[int, ...] = (1, 2, 24)) -> ls.Ravdess:
    for actor in actors:
        for code in CODES:
            tone(folder / f"Actor_{actor:02d}" / f"03-01-{code}-01-02-01-{actor:02d}.wav", 100 + actor)
    return ls.Ravdess(str(folder))


def emodb(folder: Path) -> ls.EmoDB:
    for name in ("03a01Fa", "03a01Nc", "08b03Wb", "16a07Td", "16b10La"):
        tone(folder / "wav" / f"{name}.wav")
    return ls.EmoDB(str(folder))


def crema(folder: Path) -> ls.CremaD:
    votes = {"1001_DFA_ANG_XX": "A", "1001_IEO_SAD_HI": "N", "1002_TAI_HAP_XX": "H", "1091_WSI_NEU_XX": "N:S"}
    for name in (*votes, "1076_MTI_SAD_XX"):
        tone(folder / "AudioWAV" / f"{name}.wav")
    sexes = "1001,51,Male,x,y\n1002,21,Female,x,y\n1076,25,Female,x,y\n1091,29,Female,x,y\n"
    (folder / "VideoDemographics.csv").write_text("ActorID,Age,Sex,Race,Ethnicity\n" + sexes)
    (folder / "processedResults").mkdir()
    rows = "".join(f'"{at}","{name}","N",50,"N",50,"{vote}",60\n' for at, (name, vote) in enumerate(votes.items(), 1))
    head = '"","FileName","VoiceVote","VoiceLevel","FaceVote","FaceLevel","MultiModalVote","MultiModalLevel"\n'
    (folder / "processedResults/summaryTable.csv").write_text(head + rows)
    return ls.CremaD(str(folder))


def iemocap(folder: Path) -> ls.Iemocap:
    said = {
        "Ses01F_impro01": {"F000": "neu", "M000": "exc", "M001": "xxx"},
        "Ses01F_script01_1": {"F000": "sad"},
        "Ses05M_impro02": {"M003": "ang"},
    }
    for dialogue, turns in said.items():
        session = folder / f"Session{dialogue[4]}"
        tone(session / "dialog/wav" / f"{dialogue}.wav")
        lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
        for turn, emotion in turns.items():
            tone(session / "sentences/wav" / dialogue / f"{dialogue}_{turn}.wav")
            lines += [f"[6.2901 - 8.2357]\t{dialogue}_{turn}\t{emotion}\t[2.5000, 2.5000, 2.5000]"]
            lines += ["C-E2:\tNeutral;\t()", "A-E3:\tval 3; act 2; dom  2;\t()", ""]
        (session / "dialog/EmoEvaluation").mkdir(parents=True, exist_ok=True)
        (session / f"dialog/EmoEvaluation/{dialogue}.txt").write_text("\n".join(lines))
    return ls.Iemocap(str(folder))


def msp(folder: Path) -> ls.MspImprov:
    said = {"S01A-F01-S-FM01": "A", "S01A-M01-T-MF03": "X", "S02N-F06-T-FM02": "H", "S01A-M01-P-MF01": "N"}
    lines = []
    for name, vote in said.items():
        session = f"session{name[7]}"
        tone(folder / "Audio" / session / name[:4] / name[9] / f"MSP-IMPROV-{name}.wav")
        lines += [f"UTD-IMPROV-{name}.avi; {vote}; A:2.571429; V:2.428571; D:2.714286 ; N:2.857143;"]
        lines += ["WORKER00000001; Angry; Angry,; A:2.000000; V:2.000000; D:3.000000; N:2.000000;", ""]
    # A sentence of which nothing was unpacked.
    lines += ["UTD-IMPROV-S09H-F02-S-FM01.avi; H; A:2.5; V:2.4; D:NaN ; N:2.8;"]
    (folder / "Evalution.txt").write_text("\n".join(lines))
    return ls.MspImprov(str(folder))


Writer = Callable[[Path], AbstractCorpus]
CORPORA: tuple[Writer, ...] = (ravdess, emodb, crema, iemocap, msp)
F, M = Sex.FEMALE, Sex.MALE


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (
            ravdess,
            [(f"{actor:02d}", sex, emotion) for actor, sex in ((1, M), (2, F), (24, F))
             for emotion in ("neutral", "happy", "sad", "angry")],
        ),
        (
            emodb,
            [("03", M, "happy"), ("03", M, "neutral"), ("08", F, "angry"), ("16", F, "sad"), ("16", F, "bored")],
        ),
        (crema, [("1001", M, "angry"), ("1001", M, "neutral"), ("1002", F, "happy"), ("1091", F, "other")]),
        (iemocap, [("1F", F, "neutral"), ("1M", M, "happy"), ("1M", M, "other"), ("5M", M, "angry")]),
        (msp, [("F01", F, "angry"), ("M01", M, "other"), ("F06", F, "happy")]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_a_published_layout_tells_speaker_sex_and_emotion(
    tmp_path: Path, write: Writer, expected: list[tuple[str, Sex, str]]
) -> None:
    """Expected: read off the publications by hand."""
    corpus = write(tmp_path)
    assert [(one.speaker, one.sex, one.emotion.value) for one in corpus.recordings()] == expected
    assert len(corpus.sound(0)) == 1600
    assert eval(repr(corpus), vars(ls) | {type(corpus).__name__: type(corpus)}) == corpus


@pytest.mark.parametrize("write", CORPORA, ids=lambda one: one.__name__)
def test_what_is_wrong_with_a_file_is_said_with_its_name(tmp_path: Path, write: Writer) -> None:
    corpus = write(tmp_path / "here")
    first = corpus.recordings()[0]
    Path(first.path).write_bytes(b"RIFF no sound")
    with pytest.raises(BadInput, match=rf"{first.name}\.wav cannot be decoded"):
        corpus.sound(0)
    with pytest.raises(BadInput, match=r"no folder .*away; give that of"):
        type(corpus)(str(tmp_path / "away")).recordings()  # type: ignore[call-arg]
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"no \.wav or \.flac files below .*empty; give the unpacked folder of"):
        type(corpus)(str(tmp_path / "empty")).recordings()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("write", "stray", "said"),
    [
        (ravdess, "Actor_25/03-01-01-01-02-01-25.wav", "25 is no actor of RAVDESS, expected 01 to 24"),
        (ravdess, "Actor_02/03-01-01-01-01-01-04.wav", "is of actor 04 and in the folder Actor_02"),
        (ravdess, "Actor_02/03-01-09-01-01-01-02.wav", "09 is no emotion of RAVDESS, expected 01 to 08"),
        (ravdess, "Actor_02/notes.wav", "expected a name such as 03-01-05-02-01-01-12.wav"),
        (ravdess, "copy/03-01-01-01-02-01-02.wav", "03-01-01-01-02-01-02 is there twice"),
        (emodb, "wav/07a01Fa.wav", "07 is no speaker of EmoDB, expected 03, 08"),
        (emodb, "wav/03a01Xa.wav", "X is no emotion of EmoDB"),
        (emodb, "wav/03a01F.wav", "expected a name such as 03a01Fa.wav"),
        (crema, "AudioWAV/1003_DFA_ANG_XX.wav", "1003 is no speaker whose sex .* tells"),
        (crema, "AudioWAV/1002_DFA_ANG_XX.wav", "summaryTable.csv has no vote for it"),
        (crema, "AudioWAV/1002_DFA_JOY_XX.wav", "expected a name such as 1001_DFA_ANG_XX.wav"),
        (
            iemocap,
            "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F007.wav",
            "no evaluation of Ses01F_impro01_F007",
        ),
        (msp, "Audio/session1/S01A/S/MSP-IMPROV-S01A-M01-S-FM09.wav", "has no line for MSP-IMPROV-S01A-M01-S-FM09"),
        (msp, "Audio/session7/S01A/S/MSP-IMPROV-S01A-M07-S-FM01.wav", "M07 is no speaker of MSP-Improv"),
        (msp, "Audio/a.wav", "expected a name such as MSP-IMPROV-S01A-F01-S-FM01.wav"),
    ],
)
def test_a_file_that_does_not_belong_is_refused(tmp_path: Path, write: Writer, stray: str, said: str) -> None:
    corpus = write(tmp_path)
    tone(tmp_path / stray)
    with pytest.raises(BadInput, match=said):
        corpus.recordings()


@pytest.mark.parametrize(
    ("write", "gone", "said"),
    [
        (ravdess, "Actor_02/03-01-05-01-02-01-02.wav", "lacks 1 recordings .* Actor_02/03-01-05-01-02-01-02; get them"),
        (crema, "VideoDemographics.csv", "no table .*VideoDemographics.csv"),
        (crema, "processedResults/summaryTable.csv", "no table .*summaryTable.csv"),
        (
            iemocap,
            "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_M000.wav",
            "lacks 1 recordings that were evaluated, the first is Ses01F_impro01_M000.wav",
        ),
        (iemocap, "Session5/dialog/EmoEvaluation/Ses05M_impro02.txt", "no evaluation of Ses05M_impro02_M003"),
        (
            msp,
            "Audio/session1/S01A/S/MSP-IMPROV-S01A-F01-S-FM01.wav",
            "lacks 1 recordings that were evaluated, the first is MSP-IMPROV-S01A-F01-S-FM01.wav",
        ),
        (msp, "Evalution.txt", "no Evalution.txt in"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, write: Writer, gone: str, said: str) -> None:
    corpus = write(tmp_path)
    (tmp_path / gone).unlink()
    with pytest.raises(BadInput, match=said):
        corpus.recordings()


@pytest.mark.parametrize("write", CORPORA)
def test_a_link_to_nothing_is_missed_when_it_is_read(tmp_path: Path, write: Writer) -> None:
    """Left out unsaid, it would make the corpus another one."""
    corpus = write(tmp_path / "here")
    known = corpus.recordings()
    path = Path(known[-1].path)
    path.unlink()
    path.symlink_to(tmp_path / "not fetched")
    # Under another name: what was listed is not listed again.
    (tmp_path / "here").rename(tmp_path / "there")
    again = type(corpus)(str(tmp_path / "there"))  # type: ignore[call-arg]
    assert [one.name for one in again.recordings()] == [one.name for one in known]
    with pytest.raises(BadInput, match=rf"no sound file .*{known[-1].name}"):
        again.sound(len(known) - 1)


def test_a_table_that_is_none_is_named(tmp_path: Path) -> None:
    corpus = crema(tmp_path)
    table = tmp_path / "VideoDemographics.csv"
    table.write_text(f"{table.read_text()}{'1' * 200_000},30,Male\n")
    with pytest.raises(BadInput, match=r"VideoDemographics.csv is no table"):
        corpus.recordings()


def test_what_is_skipped_is_neither_read_nor_missed(tmp_path: Path) -> None:
    ravdess(tmp_path)
    lost = tmp_path / "Actor_02/03-01-05-01-02-01-02.wav"
    lost.unlink()
    corpus = ls.Ravdess(str(tmp_path), skip=lost.stem)
    assert len(corpus.recordings()) == 3 * len(CODES) - 1
    assert corpus.skip == (lost.stem,)
    with pytest.raises(BadInput, match="expected names of recordings to skip"):
        ls.Ravdess(str(tmp_path), skip=(3,))  # type: ignore[arg-type]


def test_song_is_left_out_and_song_alone_is_refused(tmp_path: Path) -> None:
    tone(tmp_path / "Actor_01/03-02-01-01-01-01-01.wav")
    with pytest.raises(BadInput, match="holds song alone"):
        ls.Ravdess(str(tmp_path)).recordings()
    assert {one.name[3:5] for one in ravdess(tmp_path / "both").recordings()} == {"01"}


def test_options_of_a_corpus_choose_its_labels_and_turns(tmp_path: Path) -> None:
    crema(tmp_path / "crema")
    asked = ls.CremaD(str(tmp_path / "crema"), votes=False).recordings()
    assert [one.emotion.value for one in asked] == ["angry", "sad", "happy", "neutral"]
    iemocap(tmp_path / "iemocap")
    both = ls.Iemocap(str(tmp_path / "iemocap"), improvised=False).recordings()
    assert [one.emotion.value for one in both] == ["neutral", "happy", "other", "sad", "angry"]
    msp(tmp_path / "msp")
    assert len(ls.MspImprov(str(tmp_path / "msp"), kinds=("P",)).recordings()) == 1
    with pytest.raises(BadInput, match="expected kinds of turns among S, T, R, P"):
        ls.MspImprov(str(tmp_path / "msp"), kinds=("Q",))
    (tmp_path / "iemocap/Session5/dialog/EmoEvaluation/Ses05M_impro02.txt").write_text(
        "[1.0 - 2.0]\tSes05M_impro02_M003\tjoy\t[2.5, 2.5, 2.5]"
    )
    with pytest.raises(BadInput, match="line 1: joy is no emotion of IEMOCAP"):
        ls.Iemocap(str(tmp_path / "iemocap"), skip=("nothing",)).recordings()


def test_corpora_are_combined_one_after_the_other(tmp_path: Path) -> None:
    first, second = ravdess(tmp_path / "r"), emodb(tmp_path / "e")
    both = ls.Combined((first, second))
    known = both.recordings()
    assert [one.corpus for one in known] == ["RAVDESS"] * 12 + ["EmoDB"] * 5
    assert known[12].speaker == "EmoDB 03"
    assert both.sound(13).equal(second.sound(1))
    with pytest.raises(BadInput, match="RAVDESS is combined with itself"):
        ls.Combined((first, first)).recordings()
    with pytest.raises(BadInput, match="expected a recording from 0 to 16, got 17"):
        both.sound(17)
