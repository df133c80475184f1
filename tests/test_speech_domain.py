"""MFCC against the formulas written out and scipy's transforms; sound files of every kind; the way back to sound."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft, signal
from tests.tolerance import close

from leakscope.core.errors import BadInput
from leakscope.domains import speech
from leakscope.domains.audio import duration, read_sound, resampled
from leakscope.domains.speech import ENGLISH, Alphabet, Frames, gap, log_mel, log_mel_of, mfcc, to_sound
from leakscope.numerics.rng import Key


def chirp(seconds: float = 1.0, rate: int = 16_000) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    tone = signal.chirp(time, 200.0, seconds, 1500.0) + 0.5 * signal.chirp(time, 400.0, seconds, 3000.0)
    return 0.3 * tone + 0.003 * Key(0).numpy().standard_normal(len(time))


def mel(hertz: float) -> float:
    return 1127.0 * math.log(1.0 + hertz / 700.0)


def triangles() -> np.ndarray:
    """The filters by their definition, one weight at a time: up to the center, down to the next one's."""
    edges = [mel(20.0) + k * (mel(8000.0) - mel(20.0)) / 41 for k in range(42)]
    bank = np.zeros((257, 40))
    for b in range(2, 257):
        for m in range(40):
            position, (low, center, high) = mel(b * 31.25), edges[m : m + 3]
            bank[b, m] = max(0.0, min((position - low) / (center - low), (high - position) / (high - center)))
    return bank


def by_scipy(samples: np.ndarray, coefficients: int = 26) -> np.ndarray:
    window = signal.get_window("hann", 512, fftbins=True)
    starts = range(0, len(samples) - 511, 320)
    spectra = np.abs(np.stack([fft.rfft(samples[s : s + 512] * window) for s in starts]))
    bands = np.log(np.maximum(spectra @ triangles(), 1e-12))
    # scipy's type II carries a factor 2
    return fft.dct(bands, type=2, axis=1)[:, :coefficients] / 2 * math.sqrt(2 / 40)


def test_mfcc_are_those_of_scipy_and_the_triangles_written_out() -> None:
    samples = chirp()
    got = mfcc(torch.from_numpy(samples))
    assert got.shape == (49, 26)
    close(got, torch.from_numpy(by_scipy(samples)))
    single = mfcc(torch.from_numpy(samples).float())
    assert single.dtype == torch.float32
    close(single, got.float(), loosened=10, because="the samples themselves were rounded to single precision")


def test_an_impulse_by_hand() -> None:
    """One sample of 1 at the middle of a frame has magnitude 1 (the window's top) in every bin."""
    samples = torch.zeros(512, dtype=torch.float64)
    samples[256] = 1.0
    sums = torch.from_numpy(triangles().sum(0))
    close(log_mel(samples)[0], sums.log(), loosened=10, because="256 unit magnitudes are summed after a transform")
    c0 = math.sqrt(1 / 20) * float(sums.log().sum())
    assert float(mfcc(samples)[0, 0]) == pytest.approx(c0, abs=1e-9)


def test_silence_by_hand() -> None:
    frame = mfcc(torch.zeros(512, dtype=torch.float64))[0]
    assert float(frame[0]) == pytest.approx(40 * math.sqrt(2 / 40) * math.log(1e-12))
    assert float(frame[1:].abs().max()) < 1e-10


def test_each_bin_is_divided_between_neighbors() -> None:
    bank = speech._filters()
    inner = bank[4:230]  # between the first and the last center
    close(inner.sum(1), torch.ones_like(inner[:, 0]))
    assert bool((bank[:2] == 0).all())
    assert bool((bank >= 0).all())
    assert int((inner > 0).sum(1).max()) == 2


@settings(deadline=None, max_examples=30)
@given(count=st.integers(0, 4000))
def test_frames_are_whole(count: int) -> None:
    expected = len(range(0, count - 511, 320))
    assert speech.frame_count(count) == expected
    if expected:
        assert len(log_mel(torch.zeros(count))) == expected
    else:
        with pytest.raises(BadInput, match="less than one frame"):
            log_mel(torch.zeros(count))


def test_leading_dimensions_and_louder_sound() -> None:
    samples = torch.from_numpy(chirp(0.3))
    both = torch.stack([samples, 2 * samples])
    frames = mfcc(both)
    close(frames[0], mfcc(samples))
    shift = torch.zeros(26, dtype=torch.float64)
    shift[0] = 40 * math.sqrt(2 / 40) * math.log(2)
    close(frames[1] - frames[0], shift.expand_as(frames[0]), loosened=100, because="a difference of close numbers")


def test_mfcc_are_differentiable_also_in_silence() -> None:
    samples = torch.zeros(832, dtype=torch.float64)
    samples[:600] = torch.from_numpy(chirp(0.1))[:600]
    samples.requires_grad_(True)
    (gradient,) = torch.autograd.grad(mfcc(samples).square().sum(), samples)
    assert bool(torch.isfinite(gradient).all())
    assert bool((gradient != 0).any())


def test_forty_coefficients_lose_nothing_and_fewer_smooth() -> None:
    samples = torch.from_numpy(chirp(0.5))
    close(log_mel_of(mfcc(samples, coefficients=40)), log_mel(samples), loosened=10, because="two transforms")
    few = mfcc(samples, coefficients=26)
    transform = speech._dct()[:26]
    close(log_mel_of(few) @ transform.T, few, loosened=10, because="two transforms")


def test_bounds_hold_for_loud_noise_and_are_reached_by_silence() -> None:
    noise = torch.rand(8000, generator=Key(1).generator(), dtype=torch.float64) * 2 - 1
    low, high = Frames(40).bounds(noise)
    for samples in (noise, noise.sign(), torch.zeros_like(noise), torch.from_numpy(chirp(0.2))):
        frames = mfcc(samples, coefficients=40)
        assert bool(((frames >= low - 1e-9) & (frames <= high + 1e-9)).all())
    close(mfcc(torch.zeros_like(noise))[0, :1], low[:1])


def test_bounds_are_the_corners_of_the_box_of_log_mel() -> None:
    low, high = Frames(26).bounds(torch.zeros(1, dtype=torch.float64))
    quiet = torch.full((40,), math.log(1e-12), dtype=torch.float64)
    loud = torch.from_numpy(np.log(triangles().sum(0) * signal.get_window("hann", 512).sum()))
    for k in range(26):
        row = torch.from_numpy(math.sqrt(2 / 40) * np.cos(np.pi * k * (np.arange(40) + 0.5) / 40))
        close(torch.where(row > 0, loud, quiet) @ row, high[k])
        close(torch.where(row > 0, quiet, loud) @ row, low[k])


def test_magnitudes_have_the_asked_bands_and_are_not_negative() -> None:
    wanted = log_mel(torch.from_numpy(chirp(0.3)))
    magnitudes = speech.magnitudes_of(wanted, updates=3000)
    assert bool((magnitudes >= 0).all())
    assert float(((magnitudes @ speech._filters()).log() - wanted).abs().mean()) < 0.02
    before = (speech.magnitudes_of(wanted, updates=0) @ speech._filters()).log() - wanted
    after = (speech.magnitudes_of(wanted) @ speech._filters()).log() - wanted
    assert float(after.abs().mean()) < 0.5 * float(before.abs().mean())


def test_sound_made_from_frames_has_those_frames() -> None:
    frames = mfcc(torch.from_numpy(chirp()).float())
    sound = to_sound(frames, key=Key(0))
    assert sound.dtype == torch.float32
    assert len(sound) == 512 + 320 * (len(frames) - 1)
    assert gap(sound, frames) < 0.35 < gap(to_sound(frames, key=Key(0), iterations=0), frames)
    # what unrelated sound of the same loudness would give
    noise = torch.randn(len(sound), generator=Key(2).generator()) * sound.std()
    assert gap(noise, frames) > 1.0


def test_griffin_lim_leaves_consistent_magnitudes_alone() -> None:
    samples = torch.from_numpy(chirp(0.5))[: 512 + 320 * 20]
    rebuilt = speech._overlapped(speech._short_time(samples))
    close(rebuilt[100:-100], samples[100:-100], loosened=100, because="divided by weights down to 0.2")


def test_keys_rule_the_phase() -> None:
    frames = mfcc(torch.from_numpy(chirp(0.2)))
    state = torch.random.get_rng_state()
    first = to_sound(frames, key=Key(0))
    assert torch.equal(first, to_sound(frames, key=Key(0)))
    assert not torch.equal(first, to_sound(frames, key=Key(1)))
    assert torch.equal(state, torch.random.get_rng_state())


def test_frames_that_no_sound_has_still_give_one() -> None:
    wild = 500 * torch.randn(5, 26, generator=Key(3).generator())
    assert bool(torch.isfinite(to_sound(wild, key=Key(0))).all())


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: Frames(0), "expected 1 to 40 coefficients, got 0"),
        (lambda: Frames(41), "expected 1 to 40 coefficients, got 41"),
        (lambda: mfcc(torch.zeros(600), coefficients=41), "expected 1 to 40 coefficients"),
        (lambda: mfcc(torch.zeros(600, dtype=torch.int64)), "floating samples"),
        (lambda: to_sound(torch.zeros(2, 3, 26), key=Key(0)), r"finite frames \(T, coefficients\)"),
        (lambda: to_sound(torch.full((3, 26), math.nan), key=Key(0)), "finite frames"),
        (lambda: to_sound(torch.zeros(3, 26), key=Key(0), iterations=-1), "iterations >= 0"),
        (lambda: gap(torch.zeros(512), torch.zeros(2, 26)), "the sound has 1 frames, expected 2"),
        (lambda: Alphabet(""), "different characters"),
        (lambda: Alphabet("aa"), "different characters"),
        (lambda: ENGLISH.encode("Hello"), "'H', outside .*; write it in lower case"),
        (lambda: ENGLISH.encode("room 9!"), "'!', '9', outside .*; spell out numbers"),
        (lambda: ENGLISH.decode((1, 28)), r"expected indices from 0 to 27, got \[28\]; remove the blanks"),
    ],
)
def test_wrong_uses_are_refused_with_a_sentence(wrong, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        wrong()


def test_the_domain() -> None:
    domain = Frames(13)
    assert eval(repr(domain), {"Frames": Frames}) == domain
    assert domain.fits(torch.zeros(2, 7, 13))
    assert domain.fits(torch.zeros(1, *domain.shape))
    for shape in ((2, 7, 12), (7, 13), (2, 0, 13), (1, 2, 7, 13)):
        assert not domain.fits(torch.zeros(shape))
    frames = torch.randn(2, 3, 13)
    assert torch.equal(domain.to_display(frames), frames)


@given(text=st.text(ENGLISH.characters))
def test_text_survives_the_alphabet(text: str) -> None:
    assert ENGLISH.decode(ENGLISH.encode(text)) == text


def test_the_alphabet_is_that_of_the_original() -> None:
    assert ENGLISH.encode(" az'") == (0, 1, 26, 27)
    assert (ENGLISH.blank, ENGLISH.classes) == (28, 29)


def written(path: Path, samples: np.ndarray, rate: int = 16_000, subtype: str = "PCM_16") -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def test_files_of_every_kind_give_the_same_sound(tmp_path: Path) -> None:
    samples = chirp(0.5)
    plain = read_sound(written(tmp_path / "a.wav", samples))
    assert plain.dtype == torch.float32
    assert float((plain - torch.from_numpy(samples)).abs().max()) <= 2**-15 + 1e-6  # the file format rounds down
    wide = read_sound(written(tmp_path / "b.wav", samples, subtype="PCM_24"))
    assert float((wide - torch.from_numpy(samples)).abs().max()) <= 2**-23 + 1e-6
    assert torch.equal(read_sound(written(tmp_path / "c.flac", plain.numpy())), plain)
    stereo = np.stack([samples + 0.1, samples - 0.1], 1)
    mixed = read_sound(written(tmp_path / "d.wav", stereo))
    assert float((mixed - plain).abs().max()) <= 2**-15


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_other_rates_are_resampled(rate: int, tmp_path: Path) -> None:
    time = np.arange(rate) / rate
    got = read_sound(written(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * time), rate, "PCM_24"))
    assert len(got) == 16_000
    wanted = 0.5 * torch.sin(2 * math.pi * 440 * torch.arange(16_000) / 16_000)
    assert float((got - wanted)[800:-800].abs().max()) < 5e-3
    assert duration(tmp_path / "a.wav") == pytest.approx(1.0)


def test_resampling_removes_what_would_fold(tmp_path: Path) -> None:
    time = np.arange(48_000) / 48_000
    folded = resampled(np.sin(2 * np.pi * 15_000 * time), 48_000)
    assert float(folded[800:-800].abs().max()) < 0.01


def test_files_that_cannot_be_used_are_refused_by_name(tmp_path: Path) -> None:
    samples = chirp(1.0)
    empty = written(tmp_path / "empty.wav", np.zeros(0))
    nothing = tmp_path / "nothing.wav"
    nothing.write_bytes(b"")
    flac = written(tmp_path / "cut.flac", samples)
    flac.write_bytes(flac.read_bytes()[: flac.stat().st_size // 2])
    wav = written(tmp_path / "cut.wav", samples)
    wav.write_bytes(wav.read_bytes()[:10_000])
    text = tmp_path / "text.wav"
    text.write_text("this is no sound at all")
    loose = written(tmp_path / "nan.wav", np.full(2000, np.nan), subtype="FLOAT")
    slow = written(tmp_path / "slow.wav", samples, 2000)
    for path, sentence in (
        (empty, "0 samples at 16 kHz, less than one frame"),
        (nothing, "cannot be decoded"),
        (flac, "truncated"),
        (wav, "truncated: 10000 of"),
        (text, "cannot be decoded"),
        (loose, "not finite"),
        (slow, "at least 4000 samples per second, got 2000"),
        (tmp_path / "absent.wav", "no sound file"),
    ):
        with pytest.raises(BadInput, match=sentence) as caught:
            read_sound(path)
        assert path is slow or path.name in str(caught.value)
    with pytest.raises(BadInput, match=r"text\.wav is no sound file"):
        duration(text)


def test_a_pipe_that_could_not_know_its_length_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "pipe.wav", chirp(0.2))
    content = bytearray(path.read_bytes())
    content[4:8] = b"\xff\xff\xff\xff"
    path.write_bytes(bytes(content))
    assert len(read_sound(path)) == 3200
