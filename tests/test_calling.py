"""What a plan may call: names that a folder beside the plan has too, what own modules import, and models by name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from leakscope.cli.calling import here, permit
from leakscope.cli.main import app
from leakscope.core.errors import BadInput
from leakscope.integrations.timm import Timm
from leakscope.integrations.torchvision import Torchvision
from leakscope.targets.recipes.imported import Imported

PLAN = """\
title = "t"
trials = 1
attacks = ["LabelCounts()"]
mechanisms = ["FedSGD()"]
[[scene]]
name = "s"
dataset = "Synthetic((1, 4, 4), classes=3, count=24)"
target = '''TARGET'''
"""
OWN = """
import functools, os, pathlib, shutil, torch
from torch import nn
from os import mkdir, system
from shutil import rmtree
from installed_thing import Loads, make as theirs, held as lent
from parts.inner import Small, small
class Net(nn.Sequential):
    def __init__(self): super().__init__(nn.Flatten(), nn.Linear(16, 3))
class Child(Loads): pass
def make(): return Net()
held = Net()
mixed = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
twice = functools.partial(functools.partial(mkdir, "CANARY"))
bound = pathlib.Path("CANARY").mkdir
@functools.wraps(mkdir)
def dressed(): return Net()
"""
INSTALLED = """
from torch import nn
class Loads(nn.Linear):
    def __init__(self, path="CANARY"):
        open(path, "w").close()
        super().__init__(1, 1)
    @classmethod
    def load(cls, path="CANARY"): open(path, "w").close()
def make(path="CANARY"): return Loads(path)
held = nn.Linear(1, 1)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A current directory with modules of the user, and folders that have the names of installed packages."""
    current, libraries = tmp_path / "current", tmp_path / "libraries"
    (current / "parts").mkdir(parents=True)
    (current / "parts" / "inner.py").write_text("from torch import nn\nclass Small(nn.Linear): pass\ndef small(): pass")
    (current / "called_nets.py").write_text(OWN)
    libraries.mkdir()
    (libraries / "installed_thing.py").write_text(INSTALLED)
    (libraries / "installed_writes.py").write_text("open('CANARY', 'w')\nheld = 1")
    for name in ("test", "profile", "installed_thing", "installed_writes", "torchvision", "victim"):
        (current / name).mkdir()
        (current / name / "data.txt").write_text("data")
    before = set(sys.modules)
    monkeypatch.chdir(current)
    monkeypatch.setattr(sys, "path", [*sys.path, str(libraries)])
    yield current
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("called_nets", "parts", "vendored", "env_net", "leak") or "installed_" in name:
            del sys.modules[name]


def refused_plan(folder: Path, target: str) -> str:
    """What an audit says of a plan with this target; nothing was called."""
    (folder / "p.toml").write_text(PLAN.replace("TARGET", target))
    ended = CliRunner().invoke(app, ["audit", "p.toml", "--engine", "inline", "--out", "run"])
    assert ended.exit_code == 2, ended.output
    assert not (folder / "CANARY").exists()
    assert (folder / "victim" / "data.txt").exists()
    return ended.stderr


@pytest.mark.parametrize(
    "target",
    [
        'Imported("test.support.os_helper:rmtree", (("path", "victim"),))',
        'Imported("profile:run", (("statement", "open(\'CANARY\', \'w\')"),))',
        'Imported("installed_thing:make", (("path", "CANARY"),))',
        'Imported("installed_thing:Loads", (("path", "CANARY"),))',
        'Imported("installed_writes:held")',
        'Imported("called_nets:rmtree", (("path", "victim"),))',
        'Imported("called_nets:system", (("command", "touch CANARY"),))',
        'Imported("called_nets:Loads", (("path", "CANARY"),))',
        "called_nets:bound",
        "called_nets:Child.load",
    ],
)
def test_a_folder_of_that_name_gives_a_plan_no_leave(folder: Path, target: str) -> None:
    assert "which a plan may not call" in refused_plan(folder, target)


@pytest.mark.parametrize(
    "path",
    [
        "test:support", "test.support:run_unittest", "called_nets:mkdir", "called_nets:twice", "called_nets:theirs",
        "called_nets:shutil.rmtree", "called_nets:torch.hub.load", "called_nets:torch.save",
        "called_nets:Net.load_state_dict",
        "called_nets:dressed", "torch.utils.data:DataLoader", "torch.fx:GraphModule", "torch.jit:ScriptModule",
        "torch.nn:init.warnings.warn", "leakscope.ledger.files:write_atomically", "numpy:save",
    ],
)  # fmt: skip
def test_what_a_plan_may_not_call(folder: Path, path: str) -> None:
    with pytest.raises(BadInput, match="which a plan may not call"):
        permit(Imported(path))


@pytest.mark.parametrize(
    "path",
    [
        "called_nets:Net", "called_nets:Child", "called_nets:make", "called_nets:held", "called_nets:mixed",
        "called_nets:lent", "called_nets:Small", "called_nets:small", "parts.inner:Small", "parts.inner:small",
        "called_nets:nn.Linear", "torch.nn:Bilinear",
    ],
)  # fmt: skip
def test_what_a_plan_may_call(folder: Path, path: str) -> None:
    permit(Imported(path))


def test_installed_below_the_current_directory_is_installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {"env/lib": "pyvenv.cfg", "target": "thing-1.0.dist-info", "deep/site-packages": ""}
    for at, (place, mark) in enumerate(places.items()):
        (folder / place).mkdir(parents=True)
        (folder / place / f"vendored{at}.py").write_text("def make(): pass")
        if mark.endswith("info"):
            (folder / place / mark).mkdir()
        elif mark:
            (folder / place).parent.joinpath(mark).write_text("")
        monkeypatch.syspath_prepend(folder / place)
        assert not here(f"vendored{at}")
    (folder / "leads.py").symlink_to(folder.parent / "libraries" / "installed_thing.py")
    assert not here("leads")
    assert not here("parts")
    assert here("parts.inner")
    assert not here("parts.inner.more")


def test_models_of_libraries_are_named_and_no_path_in_them(folder: Path) -> None:
    target = 'Torchvision("resnet.torch.hub.load", (("repo_or_dir", "victim"), ("model", "x"), ("source", "local")))'
    assert "expected the name of a model" in refused_plan(folder, target)
    for name in ("resnet.torch.hub.load", "_api.sys.exit", "resnet18.__globals__", "", "segmentation.fcn_resnet50"):
        with pytest.raises(BadInput, match="expected the name of a model"):
            Torchvision(name)
    for name in ("hf_hub:somebody/net", "hf-hub:somebody/net", "local-dir:victim", "models.resnet.torch.hub.load"):
        with pytest.raises(BadInput, match="expected the name of a model"):
            Timm(name)
