"""The fuzz benchmark: a little of it, that it sees what it looks for, and what it found that has no other place."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import leakscope as ls
from leakscope.audit.affordable import check_model
from leakscope.cli.calling import permit
from leakscope.cli.ending import LONGEST, one_line
from leakscope.cli.expressions import build
from leakscope.cli.main import app
from leakscope.cli.rows import Family
from leakscope.core import file_limits
from leakscope.core.errors import BadInput, UnknownName
from leakscope.domains.vision import Images
from leakscope.integrations.timm import Timm
from leakscope.targets.recipes.imported import Imported
from leakscope.targets.vetting.size import LAYER, UNCOUNTED, counted, fitting

ROOT = Path(__file__).resolve().parents[1]
MODEL = ("--model", "MLP((8,))")
OWN = """
import functools, os, torch
from torch import nn
from os import mkdir
class Net(nn.Sequential):
    def __init__(self, width=3):
        super().__init__(nn.Flatten(), nn.Linear(16, width))
def make(width=3): return Net(width)
made = functools.partial(make, width=3)
held = Net()
writes = functools.partial(os.mkdir, "CANARY")
def wide(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 4_000_000_000))
def layers(): return nn.Sequential(nn.Flatten(), *(nn.Linear(64, 100_000) for _ in range(20_000)))
def fails(): raise ValueError("no such thing")
"""
PLAN = """\
title = "t"
trials = 1
attacks = ["LabelCounts()"]
mechanisms = ["FedSGD()"]
[[scene]]
name = "s"
dataset = "Synthetic((1, 4, 4), classes=3, count=24)"
target = "Linear()"
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A current directory with `own_nets.py` in it."""
    (tmp_path / "own_nets.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("own_nets", None)


# --- what a plan may call


@pytest.mark.parametrize("path", ["own_nets:Net", "own_nets:make", "own_nets:made", "own_nets:held", "torch.nn:Linear"])
def test_models_and_functions_of_this_folder_may_be_called(here: Path, path: str) -> None:
    permit(Imported(path))


@pytest.mark.parametrize(
    "path",
    [
        "os:mkdir", "subprocess:run", "posix:mkdir", "torch:os.mkdir", "torch:save", "torch.hub:load", "numpy:save",
        "own_nets:os.mkdir", "own_nets:mkdir", "own_nets:writes", "own_nets:functools.partial", "own_nets:torch.save",
        "torch.nn:Linear.__init__", "pip.__main__:main", "leakscope.ledger.files:write_atomically", "builtins:exec",
    ],
)  # fmt: skip
def test_other_functions_may_not_be_called(here: Path, path: str) -> None:
    with pytest.raises(BadInput, match="which a plan may not call"):
        permit(Imported(path))


@pytest.mark.parametrize(
    "target",
    [
        "Imported('os:mkdir', (('path', 'CANARY'),))",
        "Imported('torch:os.mkdir', (('path', 'CANARY'),))",
        "Fitted(Imported('own_nets:os.mkdir', (('path', 'CANARY'),)), Synthetic((1, 4, 4), classes=3, count=24))",
        "own_nets:writes",
    ],
)
def test_a_plan_runs_no_code_of_its_own(here: Path, target: str) -> None:
    (here / "p.toml").write_text(PLAN.replace("Linear()", target))
    line = ["audit", "p.toml", "--engine", "inline", "--out", "run"]
    ended = CliRunner().invoke(app, line)
    assert ended.exit_code == 2
    # a module of Python's own is refused for what it is, wherever it stands; the rest for what it names
    assert "which a plan may not call" in ended.stderr or "is part of Python, which has no models" in ended.stderr
    assert not (here / "CANARY").exists()
    # who gives the model has chosen it: this one is none, which shows once it was called
    if ":" in target.partition("(")[0]:
        ended = CliRunner().invoke(app, [*line, "--model", target])
        assert "returned a NoneType" in ended.stderr
        assert (here / "CANARY").exists()


def test_a_plan_names_models_of_this_folder(here: Path) -> None:
    (here / "p.toml").write_text(PLAN.replace("Linear()", "own_nets:make"))
    assert CliRunner().invoke(app, ["audit", "p.toml", "--engine", "inline", "--out", "run"]).exit_code in (0, 1, 3)


def test_libraries_read_no_pickle() -> None:
    with pytest.raises(BadInput, match="would be read by pickle"):
        Timm("resnet18", {"checkpoint_path": "w.pth"})
    pytest.importorskip("torchvision")
    with pytest.raises(UnknownName):
        ls.Torchvision("_api.get_model").build(Images(3, 32, 32), 10, key=ls.Key(0))


# --- how large a model is


def test_layers_are_counted_while_they_are_made() -> None:
    with counted() as found:
        nn.BatchNorm1d(10**5)
    assert found.numbers == 2 * 10**5  # what is trained
    assert 4 * 10**5 < found.cost < 4 * 10**5 + 10**5  # and both statistics, and a counter
    with counted() as small:
        nn.Linear(1, 1)
    assert small.cost == 2 * LAYER  # what Python keeps of a layer is more than its numbers
    with counted() as outer:
        pass
    nn.Linear(9, 9)
    assert outer.numbers == 0  # nothing is left behind


@pytest.mark.parametrize("name", ["wide", "layers"])
def test_a_factory_of_a_model_that_is_too_large_ends_in_a_sentence(here: Path, name: str) -> None:
    with pytest.raises(BadInput, match=rf"own_nets:{name} has more than .* numbers, .* this machine has .* smaller"):
        Imported(f"own_nets:{name}").build(Images(1, 8, 8), 10, key=ls.Key(0))


def test_a_factory_that_fails_says_where(here: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot be built: ValueError: no such thing \(at own_nets.py:\d+\)"):
        Imported("own_nets:fails").build(Images(1, 8, 8), 10, key=ls.Key(0))


def test_a_large_model_that_fits_is_the_same_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leakscope.targets.vetting.size.UNCOUNTED", 10)
    calls: list[torch.device] = []

    def build() -> nn.Module:
        made = nn.Linear(30, 30)
        calls.append(made.weight.device)
        return made

    assert fitting(build, "it").weight.device.type == "cpu"
    assert [one.type for one in calls] == ["meta", "cpu"]

    # one that cannot be built without numbers is built with them, and counted all the same
    def reads() -> nn.Module:
        made = nn.Linear(30, 30)
        made.weight.sum().item()
        return made

    assert fitting(reads, "it").weight.device.type == "cpu"
    monkeypatch.setattr(file_limits, "memory", lambda: 800)
    with pytest.raises(BadInput, match="it has more than"):
        fitting(reads, "it")
    assert UNCOUNTED < 2**30


def test_a_model_of_a_million_layers_is_too_large() -> None:
    for text in ("TextEncoder(depth=1000000)", "ViT(depth=100000000)"):
        with pytest.raises(BadInput, match="of at least"):
            check_model(build(text, Family.TARGETS), ls.Images(1, 8, 8), 10)


# --- sentences


def test_a_sentence_is_one_line_of_some_length() -> None:
    said = one_line("no file 'x\x1b[2J\nleakscope: all is well" + "y" * 10**5 + "'; give another")
    assert len(said) <= LONGEST
    assert said.isprintable()
    assert said.endswith("'; give another")
    assert one_line("as it is: caf\u00e9 \u2014 ok") == "as it is: caf\u00e9 \u2014 ok"


def test_long_names_are_not_repeated_at_length(tmp_path: Path) -> None:
    torch.save({"z\n" * 3000: torch.eye(2).to_sparse()}, tmp_path / "f.pt")
    rest = ("--kind", "gradient", "--domain", "1x8x8", "--classes", "10", "--out", str(tmp_path / "o.safetensors"))
    ended = CliRunner().invoke(app, ["capture", *MODEL, "--update", str(tmp_path / "f.pt"), *rest])
    assert ended.exit_code == 2
    assert len(ended.stderr.splitlines()) == 1
    assert len(ended.stderr) < 2000


# --- the benchmark, a little of it


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], Path]:
    place = tmp_path_factory.mktemp("honest")
    # by its name, by which its workers send what they found
    sys.path.insert(0, str(ROOT / "benchmarks"))
    given = vars(importlib.import_module("fuzz"))
    given["honest"](place)
    return given, place


def test_no_file_of_a_stranger_breaks_the_command_line(fuzz, request: pytest.FixtureRequest) -> None:
    given, place = fuzz
    seed = np.random.default_rng().integers(10**6)  # fresh, and in the name of a case that fails
    # the alarm of the wall is pytest's own
    alarms = given["ALARMS"][:1]
    found = [given["tried"](f"{kind}:{seed}:{i}", place, alarms) for i in range(14) for kind in given["strange"].KINDS]
    assert not [one for one in found if one.faults]
    assert {one.code for one in found} <= {0, 1, 2, 3}
    assert sum(one.code == 2 for one in found) > len(found) / 3


def test_the_benchmark_sees_what_it_looks_for(fuzz, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, place = fuzz
    strange, alarms = given["strange"], given["ALARMS"][:1]

    def trusted(world) -> tuple[str, ...]:
        path = world.place / "f.pkl"
        path.write_bytes(__import__("pickle").dumps(strange.Canary(world.canary)))
        rest = ("--kind", "gradient", "--domain", "1x8x8", "--classes", "10", "--allow-pickle")
        return ("capture", *MODEL, "--update", str(path), *rest, "--out", str(world.place / "out.safetensors"))

    monkeypatch.setitem(strange.KINDS, "foreign", trusted)
    assert "execution" in given["tried"]("foreign:0:0", place, alarms).faults
    # a check that is gone: without it the number reaches the arithmetic behind it
    monkeypatch.setitem(strange.KINDS, "update", lambda world: ("attack", str(place / "update.safetensors"), *MODEL))

    def broken(text: str) -> object:
        raise ZeroDivisionError(text[:3])

    monkeypatch.setattr(file_limits, "parsed", broken)
    assert given["tried"]("update:0:0", place, alarms).faults == ("traceback",)
    assert sys.modules["strange"] is strange


def test_a_limit_that_is_gone_is_noticed(fuzz) -> None:
    """In processes of their own, whose memory ends: 48 GB are asked for, and days."""
    given, place = fuzz
    names = [f"known:0:{name}" for name in ("batch", "repeated-batch", "plan-width", "plan-count", "honest")]
    closed = list(given["batches"](names, place, 1))
    assert not [one for one in closed if one.faults]
    opened = {one.name.split(":")[2]: one.faults for one in given["batches"](names, place, 1, unlimited=True)}
    assert not opened.pop("honest")
    assert all(opened.values())


@pytest.mark.skipif(not os.access("/proc/self", os.R_OK), reason="no Linux")
def test_disks_that_are_full_or_read_only(fuzz) -> None:
    given, place = fuzz
    known = given["deliberate"].CASES
    names = [f"known:0:{name}" for name in known if name.startswith(("full-", "read-only-"))]
    found = list(given["batches"](names, place, 1))
    assert len(found) > 15
    assert not [one for one in found if one.faults]
    assert {one.code for one in found} == {2, 3}


@pytest.mark.parametrize("places", [[], [999], [-1]])
def test_findings_of_groups_that_are_not_there(fuzz, tmp_path: Path, places: list[int]) -> None:
    said = json.loads((fuzz[1] / "run" / "summary.json").read_text())
    said["findings"][0]["groups"] = places
    (tmp_path / "summary.json").write_text(json.dumps(said))
    ended = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert ended.exit_code == 2
    assert "names groups that are not among its" in ended.stderr
