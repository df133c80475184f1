"""Folders of pictures and recordings: what is read is what is there, and what cannot be read is refused by name."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.tolerance import close

from leakscope.cli.data import source
from leakscope.core.errors import BadInput
from leakscope.datasets.sources.folder import ImageFolder, read_picture
from leakscope.datasets.sources.speech import LibriSpeech
from leakscope.datasets.sources.transcribed import SoundFolder
from leakscope.domains.vision import Images
from leakscope.numerics.rng import Key

RAMP = np.linspace(0, 255, 48).astype(np.uint8).reshape(4, 4, 3)


def picture(path, array, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array) if mode is None else None
    (Image.fromarray(array) if mode is None else Image.frombytes(mode, array.shape[1::-1], array.tobytes())).save(path)
    return path


def test_each_subfolder_is_a_class_and_pixels_are_bytes_over_255(tmp_path):
    for name, flip in (("dogs/a.png", 1), ("cats/deep/b.PNG", -1), ("cats/.hidden.png", 1), ("cats/notes.txt", 0)):
        if flip:
            picture(tmp_path / name, np.ascontiguousarray(RAMP[::flip]))
        else:
            (tmp_path / name).write_text("no picture")
    folder = ImageFolder(str(tmp_path), (3, 4, 4))
    batch = folder.load()
    assert (folder.classes, batch.labels.tolist()) == (2, [0, 1])
    close(batch.inputs[1], torch.from_numpy(RAMP.astype(np.float32) / 255).permute(2, 0, 1))
    close(batch.inputs[0], batch.inputs[1].flip(1))
    assert len(folder.draw(1, key=Key(0)).reveal()) == len(folder.public()) == 1


def test_channels_depth_and_transparency(tmp_path):
    gray = np.array([[0, 128], [255, 64]], np.uint8)
    deep = np.array([[0, 32768], [65535, 16384]], np.uint16)
    clear = np.zeros((2, 2, 4), np.uint8)
    clear[0, :, 3] = 255  # black above, nothing below
    palette = Image.fromarray(gray).convert("P")
    palette.save(tmp_path / "palette.png")
    files = {
        "gray": picture(tmp_path / "gray.png", gray),
        "deep": picture(tmp_path / "deep.png", deep),
        "clear": picture(tmp_path / "clear.png", clear),
        "palette": tmp_path / "palette.png",
    }
    read = {name: read_picture(path, (3, 2, 2)) for name, path in files.items()}
    close(read["gray"][0], torch.tensor([[0, 128], [255, 64]]) / 255)
    close(read["deep"][0], torch.tensor([[0, 32768], [65535, 16384]]) / 65535)
    close(read["palette"], read["gray"])
    close(read["clear"][2], torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    assert all(torch.equal(one[0], one[1]) for one in read.values())
    red = picture(tmp_path / "red.png", np.array([[[255, 0, 0]]], np.uint8))
    assert read_picture(red, (1, 1, 1)).item() == pytest.approx(0.299, abs=0.003)  # luma of ITU-R 601-2, 8 bits


def test_other_sizes_are_cut_around_the_center_and_averaged(tmp_path):
    wide = np.zeros((2, 6), np.uint8)
    wide[:, 2:4] = 255
    path = picture(tmp_path / "wide.png", wide)
    close(read_picture(path, (1, 2, 2)), torch.ones(1, 2, 2))
    tall = np.random.default_rng(0).integers(0, 256, (12, 30), dtype=np.uint8)
    path = picture(tmp_path / "tall.png", tall)
    # another implementation of the same filter; the ratio 5 to 4 leaves the 15 columns in the middle
    wanted = Image.fromarray(tall[:, 7:22].astype(np.float32)).resize((5, 4), Image.Resampling.BILINEAR)
    close(read_picture(path, (1, 4, 5))[0], torch.from_numpy(np.array(wanted) / 255))
    assert read_picture(path, (3, 50, 50)).shape == (3, 50, 50)
    upright = picture(tmp_path / "upright.png", np.ascontiguousarray(tall.T))
    close(read_picture(upright, (1, 5, 4))[0], read_picture(path, (1, 4, 5))[0].T)


def test_the_cameras_note_on_rotation_is_obeyed(tmp_path):
    notes = Image.Exif()
    notes[0x0112] = 6  # the first row of the file is the right side
    Image.fromarray(RAMP).save(tmp_path / "turned.png", exif=notes)
    plain = read_picture(picture(tmp_path / "plain.png", RAMP), (3, 4, 4))
    close(read_picture(tmp_path / "turned.png", (3, 4, 4)), plain.rot90(-1, (1, 2)))


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "empty.png").touch()
    picture(tmp_path / "whole.jpg", np.repeat(RAMP, 8, 0))
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:400])
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "floats.tiff")
    for name, why in (("empty.png", "it is empty"), ("half.jpg", "[Tt]runcated"), ("floats.tiff", "unknown range")):
        with pytest.raises(BadInput, match=f"{name}.*{why}"):
            read_picture(tmp_path / name, (3, 2, 2))
    (tmp_path / "sub").mkdir()
    with pytest.raises(BadInput, match=r"no pictures in .*sub"):
        ImageFolder(str(tmp_path / "sub"), (3, 2, 2)).load()
    picture(tmp_path / "sub" / "a.png", RAMP)
    with pytest.raises(BadInput, match="beside subfolders"):
        ImageFolder(str(tmp_path), (3, 2, 2)).load()
    with pytest.raises(BadInput, match=r"expected a shape \(1 or 3, height, width\), got \(2, 4, 4\)"):
        ImageFolder("x", (2, 4, 4))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(["png", "gif", "bmp", "tiff", "jpg", "webp"]), data=st.data())
def test_no_bytes_break_the_reader(tmp_path, kind, data):
    whole = picture(tmp_path / f"whole.{kind}", np.repeat(RAMP, 2, 0)).read_bytes()
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for _ in range(data.draw(st.integers(0, 3)) if damaged else 0):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / f"damaged.{kind}"
    path.write_bytes(bytes(damaged))
    with contextlib.suppress(BadInput):
        read = read_picture(path, (3, 4, 4))
        assert read.shape == (3, 4, 4)
        assert bool(torch.isfinite(read).all())


def sound(path, seconds=0.5, pitch=220.0):
    soundfile = pytest.importorskip("soundfile")
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(16_000 * seconds)) / 16_000
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * pitch * time), 16_000)
    return path


def test_recordings_lie_beside_their_words_and_below_their_speaker(tmp_path):
    for place, (name, said) in enumerate(
        {"ann/1.wav": "One\n two", "bob/2.flac": "three", "bob/3.wav": "four"}.items()
    ):
        sound(tmp_path / name, pitch=200.0 + 40 * place).with_suffix(".txt").write_text(said)
    folder = source(str(tmp_path))
    assert folder == SoundFolder(str(tmp_path))
    assert [(one.transcript, one.speaker) for one in folder.utterances()] == [
        ("one two", "ann"), ("three", "bob"), ("four", "bob"),
    ]  # fmt: skip
    assert folder.load().lengths.tolist() == [24, 24, 24]
    assert len(SoundFolder(str(tmp_path), longest=0.6).utterances()) == 3
    (tmp_path / "bob" / "3.txt").write_text("4")
    with pytest.raises(BadInput, match=r"3\.txt: '4' holds '4'"):
        SoundFolder(str(tmp_path), shortest=0.1).load()
    (tmp_path / "bob" / "3.txt").unlink()
    with pytest.raises(BadInput, match=r"3\.wav has no transcript"):
        SoundFolder(str(tmp_path), shortest=0.2).load()


def test_a_folder_is_known_by_what_is_in_it(tmp_path):
    with pytest.raises(BadInput, match="neither pictures"):
        source(str(tmp_path))
    picture(tmp_path / "a.png", RAMP)
    with pytest.raises(BadInput, match="with --domain"):
        source(str(tmp_path))
    assert source(str(tmp_path), Images(3, 2, 2)) == ImageFolder(str(tmp_path), (3, 2, 2))
    (tmp_path / "1-2.trans.txt").touch()
    assert source(str(tmp_path)) == LibriSpeech(str(tmp_path))
    with pytest.raises(BadInput, match="no folder no/such"):
        source("no/such")
