"""Files from strangers: what they may ask for, how refusals end, who may read results, what redaction leaves."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import re
import stat
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

import leakscope as ls
from leakscope.audit.affordable import check_facts, check_model, check_step
from leakscope.cli.expressions import build, domain, fact
from leakscope.cli.main import app
from leakscope.cli.rows import Family
from leakscope.core import file_limits
from leakscope.core.errors import BadInput, DamagedRecord
from leakscope.core.facts import BatchSize, Lengths, TrueLabels, TrueTranscripts
from leakscope.domains.audio import read_sound, resampled
from leakscope.domains.speech import Frames
from leakscope.domains.vision import Images
from leakscope.ledger.container import Content, read_content, write_content
from leakscope.ledger.run_folder import RunStore
from leakscope.report.page_run import write_page
from leakscope.report.withheld import FEWEST
from leakscope.targets.files.foreign import for_model, read_foreign
from leakscope.targets.vetting.size import numbers

MODEL = ("--model", "MLP((8,))")
PLAN = """\
title = "t"
trials = 2
attacks = ["LinearLayer()"]
mechanisms = ["FedSGD()"]
[[scene]]
name = "few"
dataset = "Digits(size=8)"
target = "MLP((16,))"
batch_size = 1
[[scene]]
name = "many"
dataset = "Digits(size=8)"
target = "MLP((16,))"
batch_size = 3
"""


def call(*line: object) -> Result:
    return CliRunner().invoke(app, [str(part) for part in line])


def refused(*line: object, code: int = 2) -> str:
    """The one sentence of a command that does not end well; a traceback fails the test."""
    ended = call(*line)
    assert isinstance(ended.exception, SystemExit), ended.exception
    assert ended.exit_code == code, ended.output
    assert ended.stderr.startswith("leakscope: ")
    assert "Traceback" not in ended.stderr
    return ended.stderr


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An update and its secret, as the command line writes them."""
    place = tmp_path_factory.mktemp("files")
    out = ("--out", place / "update.safetensors", "--secret", place / "secret.safetensors")
    assert call("capture", *MODEL, "--data", "Digits(size=8)", "--tell", "BatchSize", *out).exit_code == 0
    return place


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two groups: of two and of six private examples."""
    place = tmp_path_factory.mktemp("audited")
    (place / "plan.toml").write_text(PLAN)
    assert call("audit", place / "plan.toml", "--engine", "inline", "--out", place / "run").exit_code in (0, 1, 3)
    return place / "run"


def lied(source: Path, place: Path, **changes: object) -> Path:
    """The same file with other fields in its description, and a checksum that is right."""
    found = read_content(source)
    assert isinstance(found, Content)
    write_content(place, found.kind, json.dumps({**json.loads(found.text), **changes}), found.arrays)
    return place


# --- the limit


def test_what_is_held_may_be_read_and_what_is_promised_may_not() -> None:
    file_limits.afford("it", file_limits.DEFAULT)
    file_limits.afford("it", 2**40, held=2**39)
    with pytest.raises(BadInput, match=r"it would take 1 TiB, more than the 1 GiB .* --limit-memory 1025GB"):
        file_limits.afford("it", 2**40, held=2**39 - 1)
    with file_limits.limited(file_limits.bytes_of("2TB")):
        file_limits.afford("it", 2**40)
    assert file_limits.limit() == file_limits.DEFAULT
    for wrong in ("", "x", "-1GB", "1e9", "0GB", "GB", "9" * 400):
        with pytest.raises(BadInput, match="expected a size such as 8GB"):
            file_limits.bytes_of(wrong)


def test_an_archive_is_read_with_a_budget_whatever_it_declares(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.npy", bytes(3 * 2**20))
    with file_limits.limited(2**20), pytest.raises(BadInput, match=r"a\.npz, unpacked, would take 3 MiB"):
        read_foreign(tmp_path / "a.npz")
    # the same with a list that declares 100 bytes
    content = bytearray((tmp_path / "a.npz").read_bytes())
    at = content.find(b"PK\x01\x02") + 24
    content[at : at + 4] = (100).to_bytes(4, "little")
    (tmp_path / "b.npz").write_bytes(content)
    with file_limits.limited(2**20), pytest.raises(BadInput):
        read_foreign(tmp_path / "b.npz")
    np.savez_compressed(tmp_path / "c.npz", w=np.arange(6.0).reshape(2, 3))
    assert read_foreign(tmp_path / "c.npz").by_name["w"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("shape", ["(1000000000000,)", "(3,)", "(-4,)", "(2, 3)"])
def test_an_array_is_as_long_as_it_says(tmp_path: Path, shape: str) -> None:
    said = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    content = b"\x93NUMPY\x01\x00" + len(said).to_bytes(2, "little") + said.encode() + bytes(16)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("w.npy", content)
    with pytest.raises(BadInput, match="holds 16 bytes, its shape"):
        read_foreign(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("odd", "says"),
    [
        (torch.zeros(1).expand(10**9), "would take 3.73 GiB"),
        (torch.empty(2, device="meta"), "a Tensor that is without numbers"),
        (torch.eye(2).to_sparse(), "a Tensor that is sparse_coo"),
        (torch.zeros(8, 64).to(torch.float8_e4m3fn), "which holds 8 bits"),
        (torch.ones(8, 64, dtype=torch.bool), "torch.bool, expected floating point"),
        (torch.zeros(0), "has shape (0,)"),
        ("text", "is a str, expected a plain array"),
    ],
)
def test_tensors_that_are_no_weights(tmp_path: Path, odd: object, says: str) -> None:
    torch.save({"w": odd}, tmp_path / "a.pt")
    layer = torch.nn.Module()
    layer.w = torch.nn.Parameter(torch.zeros(8, 64))
    with pytest.raises(BadInput) as error:
        for_model(read_foreign(tmp_path / "a.pt"), layer)
    assert says in str(error.value)


def test_names_are_texts(tmp_path: Path) -> None:
    torch.save({3: torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(BadInput, match="has 3 among its names, expected texts"):
        read_foreign(tmp_path / "a.pt")


# --- numbers of a header


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mechanism": "FedAvg(steps=300000000, lr=0.1)"}, "replaying 300000000 local steps would take"),
        (
            {"told": ["BatchSize(100000000)"]},
            "a batch of 100000000 inputs Images(channels=1, height=8, width=8, mean=(), std=()) would take 143 GiB",
        ),
        ({"classes": 10**9}, "1000000000 classes in a file of"),
        ({"domain": "Images(1, 100000, 100000)"}, "--limit-memory"),
        ({"domain": "Images(1, 8.5, 8)"}, "expected height to be a whole number, got 8.5"),
        ({"told": ["TrueLabels((1.5,))"]}, "which this leakscope does not know"),
        ({"told": ["TrueLabels((999,))"]}, "TrueLabels names the class 999, the model has 10"),
        ({"told": ["BatchSize(2)", "TrueLabels((1,))"]}, "BatchSize of 2, TrueLabels of 1"),
        ({"weights_seed": -1}, "greater than or equal to 0"),
        ({"classes": "9" * 400}, "describes itself wrongly: classes"),
        ({"classes": int("9" * 400)}, "a whole number of 400 digits"),
        ({"mechanism": "FedSGD()" + " >> Clip(1.0)" * 3000}, "letters, expected at most"),
        ({"mechanism": "MLP(('a' * 1000000000,))"}, "does not combine: str with int"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value)),
)
def test_a_header_costs_no_more_than_its_file(
    files: Path, tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    path = lied(files / "update.safetensors", tmp_path / "lie.safetensors", **changes)
    assert says in refused("attack", path, *MODEL, "--out", tmp_path / "claim.safetensors")


def test_who_trusts_a_file_can_raise_the_limit(files: Path, tmp_path: Path) -> None:
    path = lied(files / "update.safetensors", tmp_path / "lie.safetensors", told=["BatchSize(50000)"])
    with file_limits.limited(2**20):
        assert "--limit-memory" in refused("attack", path, *MODEL, "--with", "LabelCounts()", "--out", tmp_path / "c")
        line = ("attack", path, *MODEL, "--with", "LabelCounts()", "--out", tmp_path / "c.safetensors")
        assert call("--limit-memory", "1GB", *line).exit_code in (1, 3)
        assert "expected a size" in refused("--limit-memory", "much", *line)


def test_the_size_of_a_model_is_that_of_the_model() -> None:
    digits = Images(1, 8, 8)
    for text in ("MLP((8, 5))", "LeNet()", "ConvNet()", "Linear()", "ResNet20()", "ViT(patch=4)"):
        made = build(text, Family.TARGETS)
        built = made.build(digits, 10, key=ls.Key(0)).module
        assert numbers(made, digits, 10) == sum(value.numel() for value in built.parameters())
    speech = ls.DeepSpeech(hidden=16)
    built = speech.build(Frames(26), 29, key=ls.Key(0)).module
    # all but the biases, and the gates of both matrices
    assert numbers(speech, Frames(26), 29) == pytest.approx(sum(v.numel() for v in built.parameters()), rel=0.2)
    for text in ("MLP((1000000, 1000000))", "DeepSpeech(hidden=100000)", "Trained(MLP((9000000,)), 'w.pt')"):
        takes = Frames(26) if "Speech" in text else digits
        with pytest.raises(BadInput, match=r"more than the 1 GiB"):
            check_model(build(text, Family.TARGETS), takes, 10)


def test_steps_and_facts_are_bounded_and_usual_ones_pass() -> None:
    photographs = Images(3, 224, 224)
    check_step(ls.FedAvg(steps=600, lr=0.1, batch_size=10), Images(1, 28, 28), 60, 10**5)
    check_step(ls.FedSGD() >> ls.Clip(1.0), photographs, 64, 10**7)
    with pytest.raises(BadInput, match="local steps"):
        check_step(ls.FedAvg(steps=10**5, lr=0.1) >> ls.Sign(), Images(1, 8, 8), 1, 100)
    assert check_facts([BatchSize(3), TrueLabels((0, 1, 9))], photographs, 10) == 3
    with pytest.raises(BadInput, match="utterances of"):
        check_facts([Lengths((10**9,))], Frames(26), 29)
    with pytest.raises(BadInput, match="TrueTranscripts names the class 29"):
        check_facts([TrueTranscripts(((1, 29),))], Frames(26), 29)


@pytest.mark.parametrize(
    "text",
    [
        "TrueLabels('ab')", "TrueLabels((-1,))", "TrueLabels((1.5,))", "TrueLabels(3)", "TrueLabels(())",
        "BatchSize(0)",
        "BatchSize('a')", "BatchSize(True)", "Lengths((0,))", "Lengths(())", "Lengths('a')", "TrueTranscripts('ab')",
        "TrueTranscripts((1,))", "TrueTranscripts(((-1,),))", "BatchNormStatistics(3)", "BatchNormStatistics((1,))",
        "BatchNormStatistics((('a', 1),))", "PublicStatistics((('a', LayerStatistics((0.0,), (-1.0,))),))",
        "PublicStatistics((('a', LayerStatistics((0.0,), ())),))", "BatchSize(1j)", "BatchSize(...)", "BatchSize(b'a')",
        "BatchSize(99999999999999999999)", "BatchSize(" + "1" * 400 + ")", "BatchSize(-" + "1" * 400 + ")",
    ],
)  # fmt: skip
def test_told_facts_of_other_types_end_in_a_sentence(text: str) -> None:
    with pytest.raises(BadInput):
        fact(text)


def test_numbers_of_hundreds_of_digits(tmp_path: Path) -> None:
    for text in ("FedAvg(steps=1, lr=" + "1" * 400 + ")", "FedAvg(steps=" + "1" * 400 + ", lr=0.1)"):
        with pytest.raises(BadInput, match="400 digits"):
            build(text, Family.PROTOCOLS)
    with pytest.raises(BadInput, match="400 digits"):
        ls.Clip(10**399)
    for key in ("seed", "trials", "delta", "batch_size", "input_range"):
        value = f"[0, {'1' * 400}]" if key == "input_range" else "1" * 400
        kept = "\n".join(line for line in PLAN.splitlines() if not line.startswith(f"{key} ="))
        (tmp_path / "p.toml").write_text(f"{key} = {value}\n{kept}")
        refused("audit", tmp_path / "p.toml", "--out", tmp_path / "run")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("trials = 2", "trials = 1000000000"),
        ("batch_size = 1", "batch_size = 1000000000"),
        ("Digits(size=8)", "Digits(size=20000)"),
        ("Digits(size=8)", "Synthetic((1, 8, 8), count=1000000000)"),
        ("Digits(size=8)", "Synthetic((1, 8, 8), seed=-1)"),
        ("MLP((16,))", "MLP((1000000, 1000000))"),
        ("MLP((16,))", "MLP(('a' * 1000000000,))"),
        ("FedSGD()", "FedAvg(steps=300000000, lr=0.1)"),
        ("FedSGD()", "FedSGD()" + " >> Clip(1.0)" * 1000),
    ],
)
def test_a_plan_costs_no_more_than_it_says(tmp_path: Path, old: str, new: str) -> None:
    (tmp_path / "p.toml").write_text(PLAN.replace(old, new))
    refused("audit", tmp_path / "p.toml", "--engine", "inline", "--out", tmp_path / "run")
    assert not (tmp_path / "run" / "summary.json").exists()


def test_domains_and_rates_that_cannot_be(tmp_path: Path) -> None:
    for text in ("Images(1, 8.5, 8)", "Images('1', 8, 8)", "Images(1, 8, 8, mean='a', std='b')", "Images(True, 8, 8)"):
        with pytest.raises(BadInput):
            domain(text)
    for rate in (2**31 - 1, 767_999, 10**6):
        with pytest.raises(BadInput):
            resampled(np.zeros(8000), rate)
    for rate in (8000, 11025, 22050, 44100, 48000, 96000, 192000, 384000, 768000):
        assert len(resampled(np.zeros(rate), rate)) == 16000
    soundfile = pytest.importorskip("soundfile")
    for value in (np.nan, np.inf, 1e39):
        soundfile.write(tmp_path / "a.wav", np.array([value] + [0.0] * 9000), 16000, subtype="DOUBLE")
        with pytest.raises(BadInput, match=r"a\.wav"):
            read_sound(tmp_path / "a.wav")
    soundfile.write(tmp_path / "b.wav", np.zeros(16000), 16000)
    with file_limits.limited(1000), pytest.raises(BadInput, match=r"the 16000 samples of .*b\.wav would take"):
        read_sound(tmp_path / "b.wav")


# --- folders of runs


@pytest.mark.parametrize(
    "text", ["[]", "null", "{}", '{"cells": []}', '{"cells": {"a": 1}, "leakscope": "0"}', "[" * 9999]
)
def test_a_plan_of_a_run_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "plan.json").write_text(text)
    (tmp_path / "p.toml").write_text(PLAN)
    refused("audit", tmp_path / "p.toml", "--engine", "inline", "--out", tmp_path / "run", "--resume")
    refused("merge", tmp_path / "p.toml", tmp_path / "run", "--out", tmp_path / "whole")


def test_arrays_that_no_page_can_draw_are_damage(audited: Path, tmp_path: Path) -> None:
    cell = next(one for one in sorted((audited / "cells").iterdir()) if "claim" in read_content(one).arrays)  # type: ignore[union-attr]
    found = read_content(cell)
    assert isinstance(found, Content)
    store = RunStore(tmp_path)
    name = cell.name.removesuffix(".safetensors")
    for change in (
        {"original": found.arrays["original"][:0]},
        {"claim": np.zeros(())},
        {"unclaimed": np.zeros(7, bool)},
        {"audio_original": np.zeros(3)},
        {"audio_rate": np.array([-1])},
        {"pictures": np.zeros(3)},
    ):
        write_content(store.path(name), found.kind, found.text, {**found.arrays, **change})
        with pytest.raises(DamagedRecord, match="holds no valid record"):
            store.read(name)


def test_results_are_for_their_owner_only(audited: Path, files: Path) -> None:
    old = os.umask(0)
    try:
        assert call("audit", audited.parent / "plan.toml", "--engine", "inline", "--out", audited, "--resume").exception
        assert call("report", files / "none").exit_code == 2
    finally:
        os.umask(old)
    for one in (audited, *audited.rglob("*"), *files.iterdir()):
        mode = stat.S_IMODE(one.stat().st_mode)
        assert mode == (0o700 if one.is_dir() else 0o600), one


# --- disks


@pytest.mark.parametrize(
    ("number", "code", "says"),
    [
        (errno.ENOSPC, 3, "make room"),
        (errno.EDQUOT, 3, "make room"),
        (errno.EROFS, 2, "choose another place"),
        (errno.EACCES, 2, "choose another place"),
        (errno.EIO, 3, "try again"),
    ],
)
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_refuses_ends_in_a_sentence(
    files: Path,
    audited: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    code: int,
    says: str,
    step: str,
) -> None:
    def fails(*given: object) -> None:
        raise OSError(number, os.strerror(number), str(given[-1]))

    monkeypatch.setattr(f"leakscope.ledger.files.os.{step}", fails)
    out = ("--out", tmp_path / "out.safetensors")
    for line in (
        ("capture", *MODEL, "--data", "Digits(size=8)", *out),
        ("attack", files / "update.safetensors", *MODEL, "--with", "LabelCounts()", *out),
        ("report", audited),
    ):
        assert says in refused(*line, code=code)
    assert list(tmp_path.iterdir()) == []  # no half of a file


def test_workers_tell_of_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p.toml").write_text(PLAN.replace("trials = 2", "trials = 1"))
    run, old = tmp_path / "run", RunStore.write

    def full(self: RunStore, record: object, arrays: object = None) -> Path:
        if os.getpid() != here:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))
        return old(self, record, arrays)  # type: ignore[arg-type]

    here = os.getpid()
    monkeypatch.setattr(RunStore, "write", full)
    monkeypatch.setattr("leakscope.audit.engines.processes._context", lambda: multiprocessing.get_context("fork"))
    said = refused("audit", tmp_path / "p.toml", "--workers", "1", "--out", run, code=3)
    assert "make room" in said


def test_folders_and_long_names_in_the_place_of_files(files: Path, tmp_path: Path) -> None:
    (tmp_path / "d.safetensors").mkdir()
    for place in (tmp_path / "d.safetensors", tmp_path / ("n" * 400)):
        refused("attack", place, *MODEL)
        refused("score", place, files / "secret.safetensors")
        refused("audit", place)
        refused("report", place)
        refused("capture", *MODEL, "--data", "Digits(size=8)", "--out", place)


# --- redaction


def pictures(page: str) -> list[str]:
    return re.findall(r"data:image/png[^\"]*", page)


def test_a_redacted_page_has_no_picture_and_no_score_of_few(audited: Path) -> None:
    summary = RunStore(audited).summary()
    few = next(one for one in summary.groups if len(one.scores[0].items) < FEWEST)
    many = next(one for one in summary.groups if len(one.scores[0].items) >= FEWEST)
    said = write_page(audited).read_text(encoding="utf-8")
    closed = write_page(audited, redact=True).read_text(encoding="utf-8")
    coarse = write_page(audited, redact=True, coarse=True).read_text(encoding="utf-8")
    assert pictures(said)
    assert pictures(coarse)
    assert not pictures(closed)
    assert "holds no picture and no recording" in closed
    assert few.sentence not in closed
    figure = re.search(r"\d+\.\d+", few.sentence)
    assert figure
    assert figure.group() in said
    assert many.sentence.split(",")[0] in closed
    # nor the best of many, which is the score of one
    best = re.search(r"\(best [^()]+\)", many.sentence)
    assert best
    assert best.group() in said
    assert best.group() not in closed
    assert not re.search(r"\(best [^()]*\d", closed)
    for word in ("What remains", "give away the file alone", f"at least {FEWEST} examples together"):
        assert word in closed


def test_the_command_says_what_belongs_together(audited: Path) -> None:
    assert "--coarse-pictures says what --redact leaves" in refused("report", audited, "--coarse-pictures")
    ended = call("report", audited, "--redact", "--coarse-pictures")
    assert ended.exit_code == 0
    assert "give away report.html alone" in ended.stderr
    assert "alone" not in call("report", audited).stderr


class Holding(nn.Module):
    """A model that keeps something besides its layers."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.flat, self.out, self.held = nn.Flatten(), nn.Linear(16, 5), held

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.out(self.flat(inputs))


@pytest.mark.parametrize("kind", ["a traced function", "a generator", "a lock", "a tensor with a graph"])
def test_a_model_that_cannot_be_copied_is_refused_with_a_sentence(kind: str) -> None:
    held = {
        "a traced function": lambda: torch.jit.trace(torch.relu, torch.rand(2, 8)),
        "a generator": lambda: (one for one in range(3)),
        "a lock": threading.Lock,
        "a tensor with a graph": lambda: 2 * torch.ones(2, requires_grad=True),
    }[kind]()
    with pytest.raises(ls.BadInput, match=r"the model cannot be copied \(.+\)"):
        ls.Target(Holding(held), ls.Images(1, 4, 4), 5)
    assert ls.Target(Holding(torch.relu), ls.Images(1, 4, 4), 5).classes == 5
