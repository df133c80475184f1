"""Speech sources: files written here, the layout of LibriSpeech, and the corpus that is spoken on demand."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tolerance import close

from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.datasets.draw import AbstractSource
from leakscope.datasets.sources import speaking
from leakscope.datasets.sources.sentences import sentence
from leakscope.datasets.sources.speaking import ACCENTS, FEMALE, MALE, MOST, Spoken, Voice, speak, voice
from leakscope.datasets.sources.speech import DeepSpeechCsv, LibriSpeech, Sex, Utterance, stacked
from leakscope.domains.speech import ENGLISH, Frames, frame_count, mfcc
from leakscope.numerics.rng import Key
from leakscope.targets.losses import CTC
from leakscope.targets.zoo.deepspeech import DeepSpeech

FEW = Spoken(speakers=4, each=2, shortest=1.0, longest=2.0)
NAMES = {"Spoken": Spoken, "DeepSpeechCsv": DeepSpeechCsv, "LibriSpeech": LibriSpeech, "inf": math.inf}


def tone(seconds: float, hertz: float = 300.0, rate: int = 16_000) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return 0.3 * np.sin(2 * np.pi * hertz * time) + 0.01 * Key(0).numpy().standard_normal(len(time))


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A CSV of four files: plain, 8 kHz, stereo, 24-bit FLAC."""
    (tmp_path / "clips").mkdir()
    soundfile.write(tmp_path / "clips/a.wav", tone(1.0), 16_000)
    soundfile.write(tmp_path / "clips/b.wav", tone(0.5, rate=8_000), 8_000)
    soundfile.write(tmp_path / "c.wav", np.stack([tone(1.5), tone(1.5, 500.0)], 1), 16_000)
    soundfile.write(tmp_path / "d.flac", tone(2.0, 200.0), 16_000, subtype="PCM_24")
    path = tmp_path / "train.csv"
    path.write_text(
        "wav_filename,wav_filesize,transcript\n"
        "clips/a.wav,32044,the first\n"
        "clips/b.wav,8044,it's second\n"
        "c.wav,1,and third\n"
        f"{tmp_path / 'd.flac'},1,\n"
    )
    return path


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Two speakers in the layout of LibriSpeech."""
    for speaker, chapter in (("84", "121"), ("1988", "24")):
        folder = tmp_path / "LibriSpeech/dev-clean" / speaker / chapter
        folder.mkdir(parents=True)
        lines = []
        for number in range(2):
            name = f"{speaker}-{chapter}-{number:04d}"
            soundfile.write(folder / f"{name}.flac", tone(0.5 + number, 100.0 + int(speaker) / 10), 16_000)
            lines.append(f"{name} SPEAKER {'ONE' if speaker == '84' else 'TWO'} DIDN'T STOP")
        (folder / f"{speaker}-{chapter}.trans.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "LibriSpeech/SPEAKERS.TXT").write_text(
        ";ID  |SEX| SUBSET           |MINUTES| NAME\n84   | F | dev-clean | 8.02 | Somebody\n"
        "1988 | M | dev-clean | 8.1 | Another\n"
    )
    return tmp_path / "LibriSpeech/dev-clean"


def test_a_csv_becomes_padded_frames_with_labels(listed: Path) -> None:
    source = DeepSpeechCsv(str(listed))
    batch = source.load()
    counts = [frame_count(n) for n in (16_000, 8_000, 24_000, 32_000)]
    assert batch.lengths is not None
    assert batch.lengths.tolist() == counts
    assert batch.inputs.shape == (4, max(counts), 26)
    assert batch.label_lengths is not None
    assert batch.label_lengths.tolist() == [9, 11, 9, 0]
    assert ENGLISH.decode(batch.labels[1, :11].tolist()) == "it's second"
    for k, count in enumerate(counts):
        close(batch.inputs[k, :count], mfcc(source.sound(k)))
        assert bool((batch.inputs[k, count:] == 0).all())
    CTC().check(batch, source.classes)
    assert source.domain.fits(batch.inputs)
    assert source.load() is batch
    with pytest.raises(BadInput, match="does not tell its speakers"):
        source.speaker_names()


def test_limits_choose_by_duration(listed: Path) -> None:
    found = DeepSpeechCsv(str(listed), shortest=0.9, longest=1.6).utterances()
    assert [u.transcript for u in found] == ["the first", "and third"]
    with pytest.raises(BadInput, match=r"none of 4 utterances lasts 5.0 to inf s; widen the limits"):
        DeepSpeechCsv(str(listed), shortest=5.0).load()


def test_a_csv_may_tell_speakers(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(0.2), 16_000)
    path = tmp_path / "a.csv"
    path.write_text("wav_filename,wav_filesize,transcript,speaker,sex\na.wav,1,hi,ann,female\n")
    source = DeepSpeechCsv(str(path))
    assert source.utterances() == (Utterance(str(tmp_path / "a.wav"), "hi", "ann", Sex.FEMALE),)
    assert source.speaker_names() == ("ann",)


@pytest.mark.parametrize(
    ("lines", "sentence_"),
    [
        ("wav_filename,transcript\na.wav,hi\n", r"lacks the columns \['wav_filesize'\]; expected wav_filename"),
        ("wav_filename,wav_filesize,transcript\n", "lists no utterances"),
        ("wav_filename,wav_filesize,transcript\nb.wav,1,hi\n", r"line 2: no sound file .*b\.wav; correct the line"),
        ("wav_filename,wav_filesize,transcript\na.wav,1\n", r"line 2: expected wav_filename.*complete the line"),
        ("wav_filename,wav_filesize,transcript\na.wav,1,Hi\n", "line 2: 'Hi' holds 'H'.*write it in lower case"),
        ("wav_filename,wav_filesize,transcript\na.wav,1,room 9\n", "line 2: .*spell out numbers"),
        ("wav_filename,wav_filesize,transcript,sex\na.wav,1,hi,f\n", "expected sex female, male or unknown, got 'f'"),
        ("", "lacks the columns"),
        (b"wav_filename,wav_filesize,transcript\n\xff\xfe,1,hi\n", "is no CSV file in UTF-8"),
    ],
)
def test_csv_files_that_cannot_be_used(lines: str | bytes, sentence_: str, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(0.2), 16_000)
    path = tmp_path / "bad.csv"
    path.write_bytes(lines if isinstance(lines, bytes) else lines.encode())
    with pytest.raises(BadInput, match=sentence_) as caught:
        DeepSpeechCsv(str(path)).load()
    assert "bad.csv" in str(caught.value)


def test_damaged_sound_is_refused_by_name(listed: Path) -> None:
    flac = listed.parent / "d.flac"
    flac.write_bytes(flac.read_bytes()[:5000])
    with pytest.raises(BadInput, match=r"d\.flac .*truncated"):
        DeepSpeechCsv(str(listed)).load()
    soundfile.write(listed.parent / "d.flac", np.zeros(0), 16_000)
    with pytest.raises(BadInput, match=r"d\.flac"):
        DeepSpeechCsv(str(listed)).load()
    with pytest.raises(BadInput, match="no CSV file"):
        DeepSpeechCsv(str(listed.parent / "absent.csv")).load()


def test_librispeech_gives_transcripts_speakers_and_sex(published: Path) -> None:
    source = LibriSpeech(str(published))
    found = source.utterances()
    assert [(Path(u.name).stem, u.speaker, u.sex) for u in found] == [
        ("1988-24-0000", "1988", Sex.MALE),
        ("1988-24-0001", "1988", Sex.MALE),
        ("84-121-0000", "84", Sex.FEMALE),
        ("84-121-0001", "84", Sex.FEMALE),
    ]
    assert found[0].transcript == "speaker two didn't stop"
    assert source.speaker_names() == ("1988", "84")
    lengths = source.load().lengths
    assert lengths is not None
    assert lengths.tolist() == [frame_count(8000), frame_count(24_000)] * 2


def test_librispeech_without_its_files(published: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no \*\.trans\.txt below .*give the unpacked folder"):
        LibriSpeech(str(tmp_path / "nothing")).load()
    (published / "84/121/84-121-0001.flac").unlink()
    with pytest.raises(BadInput, match=r"trans\.txt, line 2: no sound file .*84-121-0001\.flac"):
        LibriSpeech(str(published)).load()
    (published.parent / "SPEAKERS.TXT").unlink()
    (published / "84/121/84-121.trans.txt").unlink()
    assert {u.sex for u in LibriSpeech(str(published)).utterances()} == {Sex.UNKNOWN}


def test_what_was_drawn_can_be_found_again(published: Path) -> None:
    source = LibriSpeech(str(published))
    drawn = source.draw(2, key=Key(0)).reveal()
    for k, place in enumerate(source.positions(drawn)):
        count = int(drawn.lengths[k])
        assert torch.equal(drawn.inputs[k, :count], mfcc(source.sound(place)))
        letters = drawn.labels[k, : int(drawn.label_lengths[k])].tolist()
        assert ENGLISH.decode(letters) == source.utterances()[place].transcript
    assert len(source.positions(source.public())) == 2
    assert not set(source.positions(source.public())) & set(source.positions(drawn))
    with pytest.raises(BadInput, match="is not from LibriSpeech"):
        source.positions(drawn.with_inputs(drawn.inputs + 1))
    with pytest.raises(BadInput, match="without lengths"):
        source.positions(Batch(drawn.inputs, torch.zeros(2, dtype=torch.int64)))


def test_a_drawn_batch_is_padded_to_its_own_longest() -> None:
    source = Spoken(speakers=4, each=3, shortest=0.9, longest=3.0)
    for seed in range(4):
        batch = source.draw(1, key=Key(seed)).reveal()
        assert batch.lengths is not None
        assert batch.label_lengths is not None
        assert batch.inputs.shape[1] == int(batch.lengths[0])
        assert batch.labels.shape[1] == int(batch.label_lengths[0])
        (place,) = source.positions(batch)
        assert frame_count(len(source.sound(place))) == int(batch.lengths[0])


@settings(deadline=None, max_examples=40)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), texts=st.data())
def test_stacking_loses_nothing(lengths: list[int], texts: st.DataObject) -> None:
    frames = [torch.randn(n, 3, generator=Key(n).generator()) for n in lengths]
    words = [texts.draw(st.text(ENGLISH.characters, max_size=5)) for _ in lengths]
    batch = stacked(frames, words)
    assert batch.lengths is not None
    assert batch.label_lengths is not None
    assert batch.inputs.shape[1] == max(lengths)
    for k, (one, text) in enumerate(zip(frames, words, strict=True)):
        assert torch.equal(batch.inputs[k, : int(batch.lengths[k])], one)
        assert bool((batch.inputs[k, len(one) :] == 0).all())
        assert ENGLISH.decode(batch.labels[k, : int(batch.label_lengths[k])].tolist()) == text
    trimmed = batch.rows(torch.tensor([0])).trimmed()
    assert torch.equal(trimmed.inputs[0], frames[0])
    with pytest.raises(BadInput, match="one transcript each"):
        stacked(frames, [*words, "more"])


def test_the_spoken_corpus_is_what_it_says() -> None:
    found, batch = FEW.utterances(), FEW.load()
    assert len(found) == len(batch) == 8
    assert len({u.transcript for u in found}) == 8
    assert len(FEW.speaker_names()) == 4
    assert [u.sex for u in found] == [Sex.FEMALE, Sex.FEMALE, Sex.MALE, Sex.MALE] * 2
    for k in range(8):
        samples = FEW.sound(k)
        assert samples.dtype == torch.float32
        assert 16_000 <= len(samples) <= 32_000
        assert 0.05 < float(samples.abs().max()) <= 1
        assert torch.equal((samples * 2**15).round() / 2**15, samples)
        assert float((samples == 0).float().mean()) < 0.2  # no digital silence
    # silence through the whole chain would lie near -247
    assert float(batch.inputs[:, :40, 0].min()) > -60
    CTC().check(batch, FEW.classes)
    assert FEW.domain == Frames(26)


def test_equal_limits_make_equal_lengths() -> None:
    batch = Spoken(speakers=3, each=1, shortest=3.0, longest=3.0).load()
    assert batch.lengths is not None
    assert batch.lengths.tolist() == [149] * 3


def test_speech_is_the_same_in_every_process_and_whatever_was_said_before() -> None:
    script = (
        "from leakscope.datasets.sources.speaking import Spoken\n"
        "print(Spoken(speakers=4, each=2, shortest=1.0, longest=2.0).load().fingerprint())"
    )
    speak("something else entirely", Voice("en", "m3"))
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == FEW.load().fingerprint()


def test_every_field_speaks() -> None:
    base = FEW.load().fingerprint()
    changed = [
        Spoken(speakers=3, each=2, shortest=1.0, longest=2.0),
        Spoken(speakers=4, each=1, shortest=1.0, longest=2.0),
        Spoken(speakers=4, each=2, shortest=1.5, longest=2.0),
        Spoken(speakers=4, each=2, shortest=1.0, longest=1.5),
        Spoken(speakers=4, each=2, shortest=1.0, longest=2.0, seed=1),
    ]
    assert len({base, *(source.load().fingerprint() for source in changed)}) == 6
    by = Voice("en-us", "f2")
    heard = [by, Voice("en", "f2"), Voice("en-us", "m2"), Voice("en-us", "f2", speed=220)]
    heard += [Voice("en-us", "f2", pitch=80), Voice("en-us", "f2", liveliness=99)]
    sounds = {speak("a distant bell", v).numpy().tobytes() for v in heard}
    assert len(sounds) == len(heard)


def test_the_speakers_are_many_different_and_speak() -> None:
    cast = [voice(number, key=Key(0)) for number in range(MOST)]
    assert len({v.name for v in cast}) == MOST == 224
    assert len(set(FEMALE + MALE)) == len(FEMALE) + len(MALE)
    for v in cast[: 2 * len(ACCENTS)]:
        assert len(speak("yes", v)) > 1600
    for habit in ("speed", "pitch", "liveliness"):
        assert len({getattr(v, habit) for v in cast}) > 20
    women, men = (np.median([_pitch(v) for v in cast[first:12:2]]) for first in (0, 1))
    assert women > 1.3 * men


def _pitch(by: Voice) -> float:
    """Median over voiced pieces of the lag with the highest autocorrelation, in Hz."""
    samples = speak("we are all away", by).double().numpy()
    found = []
    for start in range(0, len(samples) - 1024, 512):
        piece = samples[start : start + 1024]
        if np.sqrt(np.mean(piece**2)) < 0.05:
            continue
        similar = np.correlate(piece, piece, "full")[1023:]
        lag = 40 + int(np.argmax(similar[40:260]))
        found.append(16_000 / lag)
    return float(np.median(found))


@settings(deadline=None, max_examples=40)
@given(characters=st.integers(15, 300), seed=st.integers(0, 100))
def test_sentences_have_about_the_wanted_length(characters: int, seed: int) -> None:
    text = sentence(characters, random=np.random.default_rng(seed))
    ENGLISH.encode(text)
    assert "  " not in text
    assert text == text.strip()
    assert abs(len(text) - characters) <= 12


@pytest.mark.parametrize(
    ("wrong", "sentence_"),
    [
        (lambda: Spoken(speakers=0), "expected 1 to 224 speakers and each >= 1, got 0 and 5"),
        (lambda: Spoken(speakers=225), "expected 1 to 224 speakers"),
        (lambda: Spoken(each=0), "each >= 1"),
        (lambda: Spoken(shortest=0.1), "0.8 <= shortest <= longest <= 40"),
        (lambda: Spoken(shortest=3.0, longest=2.0), "shortest <= longest"),
        (lambda: Spoken(seed=-1), "seed >= 0"),
        (lambda: Voice("en-us", "f2", speed=10), "speed of 80 to 450"),
        (lambda: voice(224, key=Key(0)), "speaker from 0 to 223"),
        (lambda: speak("yes", Voice("en-us", "nobody9")), "no voice 'en-us\\+nobody9'"),
        (lambda: speak("yes", Voice("xx-yy", "f2")), "no voice 'xx-yy\\+f2'"),
        (lambda: speak("Yes", Voice("en-us", "f2")), "lower case"),
        (lambda: speak(" ", Voice("en-us", "f2")), "less than one frame; say more"),
        (lambda: DeepSpeechCsv("a.csv", shortest=2.0, longest=1.0), "0 <= shortest <= longest"),
        (lambda: LibriSpeech("a", shortest=-1.0), "0 <= shortest <= longest"),
    ],
)
def test_wrong_uses_are_refused(wrong, sentence_: str) -> None:
    with pytest.raises(BadInput, match=sentence_):
        wrong()


def test_a_synthesizer_that_remembers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    speaking._check_repeatable.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(speaking, "_unload", kept.append)
        with pytest.raises(BadInput, match="cannot be reset on this system"):
            speak("yes", Voice("en-us", "f2"))
    # Left loaded, the synthesizer would remember for all tests that this process runs later.
    for library in kept:
        speaking._unload(library)
    assert len(speak("yes", Voice("en-us", "f2")))


@pytest.mark.parametrize(
    "source", [FEW, DeepSpeechCsv("a.csv", 1.0, 2.0), LibriSpeech("folder"), LibriSpeech("f", 1.0)]
)
def test_repr_rebuilds(source: AbstractSource) -> None:
    assert eval(repr(source), NAMES) == source


def test_a_corpus_fits_the_target() -> None:
    target = DeepSpeech(hidden=8).build(FEW.domain, FEW.classes, key=Key(0))
    batch = FEW.draw(2, key=Key(1)).reveal()
    loss = target.loss_at(target.parameters(), batch)
    assert math.isfinite(float(loss))
    assert float(loss) > 0
