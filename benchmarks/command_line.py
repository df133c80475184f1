"""How long the command line takes to answer where nothing is run: help, lists, and every kind of mistake.

    python benchmarks/command_line.py [--limit 0.7] [--command leakscope]

A line per command: processor seconds of the whole process (user and system, start of Python included), the exit code,
the end of what it said. Ends with 1 where a command takes longer than the limit, ends with another code, or does not
say what it should. `--command` is what is measured: the installed entry point, else this Python with `-m`.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from leakscope.version import VERSION

PLAN = """\
title = "Faces behind one gradient"
trials = 4
told = ["BatchSize"]
attacks = ["idlg(evaluations=300)"]
mechanisms = ["FedSGD() >> Clip(1.0)"]

[budget]
seconds = 60

[[scene]]
dataset = "Faces()"
target = "LeNet()"
"""

CHANGES = {
    "key": ("trials = 4", "trails = 4"),
    "nested": ("seconds = 60", "second = 60"),
    "attack": ("idlg(", "idgl("),
    "argument": ("evaluations=300", "evaluation=300"),
    "defense": ("Clip(1.0)", "Clib(1.0)"),
    "missing": ("Clip(1.0)", "Clip()"),
    "protocol": ("FedSGD()", "FedSDG()"),
    "order": ("FedSGD() >> Clip(1.0)", "Clip(1.0) >> FedSGD()"),
    "dataset": ("Faces()", "Faecs()"),
    "target": ("LeNet()", "LeNte()"),
    "fact": ("BatchSize", "BatchSise"),
    "metric": ("trials = 4", 'trials = 4\nmetrics = ["PNSR()"]'),
    "trials": ("trials = 4", "trials = 0"),
    "seed": ("trials = 4", "seed = -1"),
    "delta": ("trials = 4", "delta = 2"),
    "range": ("trials = 4", "input_range = [1, -1]"),
    "size": ("trials = 4", "batch_size = [0]"),
    "budget": ("seconds = 60", "seconds = -1"),
    "no attack": ('attacks = ["idlg(evaluations=300)"]\n', ""),
    "no scene": ("[[scene]]", "[[scenes]]"),
    "toml": ("trials = 4", "trials ="),
    "model": ("LeNet()", "no_such_module:Net"),
    "norm": ("Clip(1.0)", "Clip(-1.0)"),
    "type": ("Clip(1.0)", "GaussianNoise('a')"),
    "bits": ("Clip(1.0)", "Quantize(40)"),
    "steps": ("FedSGD()", "FedAvg(0, 0.1)"),
    "pixels": ("Faces()", "Faces(size=-1)"),
    "search": ("idlg(evaluations=300)", "GradientInversion(search=Adam(steps=-1))"),
    "recipe": ("idlg(evaluations=300)", "idlg(evaluations=-1)"),
    "device": ("[budget]", "[resources]\ndevice = 'cdua'\n\n[budget]"),
    "imported": ("LeNet()", 'Imported(\\"constant:Net\\")'),
    "trained": ("LeNet()", "Trained(LeNet(), 'none.safetensors')"),
    "object": ("Clip(1.0)", "Clip(LeNet())"),
    "other object": ("FedSGD()", "FedAvg(1, 0.1, optimizer=LeNet())"),
    "number": ("LeNet()", "Trained(LeNet(), 5)"),
    "none": ("LeNet()", "Trained(LeNet(), None)"),
    "other data": ("LeNet()", "Fitted(LeNet(), LeNet())"),
    "enumeration": ("LeNet()", "MLP((8,), activation='rleu')"),
    "wrapped": ("idlg(evaluations=300)", "AtRest(Clip(1.0))"),
    "part": ("idlg(evaluations=300)", "GradientInversion(search=Flat())"),
    "torch": ("LeNet()", "Imported('torch.nn:Linear')"),
    "twice": ('"BatchSize"', '"BatchSize", "BatchSize"'),
    "for text": ("LeNet()", "TextEncoder()"),
    "for speech": ("LeNet()", "DeepSpeech()"),
    "of text": ("Faces()", "Sentences()"),
    "of frames": ('told = ["BatchSize"]', 'told = ["Lengths"]'),
    "of speech": ('told = ["BatchSize"]', 'told = ["TrueTranscripts"]'),
    "endless": ("Faces()", "Digits(size=100000)"),
    "many": ("trials = 4", "batch_size = [1, 101]"),
    "halves": ("trials = 4", "batch_size = [1, 51]"),
    "other classes": ("LeNet()", "Fitted(LeNet(), Digits())"),
    "fraction": ("evaluations=300", "evaluations=2.5"),
    "whole": ("idlg(evaluations=300)", "idlg(evaluations=-3e3)"),
}
"""What is wrong in each plan: the text that is exchanged, and for what."""

SUMMARY = {
    "title": "", "word": "inconclusive", "sentence": "", "groups": [], "planned": 0, "finished": 0, "seconds": 0.0,
    "seed": 0, "versions": {"leakscope": "9.9.9"}, "machine": "", "command": "", "started": "",
}  # fmt: skip
"""Of an audit of no cells."""

OWN = {
    "broken.py": "def (\n",
    "constant.py": "Net = 5\n",
    "mine.py": """\
import math

import torch
from torch import nn


class Wide(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(width, 10)


class Raises(nn.Module):
    def __init__(self):
        super().__init__()
        raise ValueError("too small")


class Bare(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        return x


def number():
    return 5


def several():
    return nn.Linear(4, 2), 5


def listed(flag=True):
    if flag:
        return [nn.Linear(4, 2)]


async def waits():
    return nn.Linear(4, 2)


def yields():
    yield nn.Linear(4, 2)


async def yields_later():
    yield nn.Linear(4, 2)


class Plain:
    pass


class Old(object):
    def __init__(self):
        self.width = 4


widths = [1, 2]
by_name = {}
negative = -1
told: int = 5
first, (second, third) = nn.ReLU, (f"{math.pi}", {1})
""",
    "lacks.py": "from torch import nn\nimport no_such_package\n\nNet = no_such_package.Net\n",
    "failing/__init__.py": "raise RuntimeError('not today')\n",
    "failing/inner.py": "Net = 5\n",
    "mymodel.py": "from torch import nn\n\n\nclass Net(nn.Module):\n    pass\n",
}
"""Modules of a user: those that give no model, and `mymodel`, whose names are misspelled."""


class Case(NamedTuple):
    """A command line with its exit code and a part of what it says. Run in the folder that `furnish` fills."""

    line: str
    code: int
    says: str


def furnish(folder: Path) -> None:
    """Write what the cases name: plans, a run, files that are something else."""
    (folder / "good.toml").write_text(PLAN)
    for name, (old, new) in CHANGES.items():
        (folder / f"{name.replace(' ', '-')}.toml").write_text(PLAN.replace(old, new))
    (folder / "begun" / "cells").mkdir(parents=True)
    (folder / "begun" / "plan.json").write_text(
        json.dumps({"leakscope": "0", "title": "", "started": "", "cells": {"a": {}, "b": {}}})
    )
    (folder / "begun" / "cells" / "a.safetensors").touch()
    (folder / "earlier" / "cells").mkdir(parents=True)
    (folder / "earlier" / "plan.json").write_text(
        json.dumps({"leakscope": "0.1.0", "title": "", "started": "", "cells": {"a": {}}})
    )
    (folder / "strange").mkdir()
    (folder / "strange" / "plan.json").write_text("[]")
    (folder / "full").mkdir()
    (folder / "full" / "novel.txt").touch()
    (folder / "empty").mkdir()
    for name in ("update", "secret", "claim"):
        header = json.dumps({"__metadata__": {"leakscope": json.dumps({"kind": name})}}).encode()
        (folder / f"{name}.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    said = json.dumps({"leakscope": VERSION, "format": 1, "domain": "Images(1, 32, 32)", "classes": 10})
    entry = json.dumps({"kind": "update", "checksum": "", "header": said})
    header = json.dumps({"__metadata__": {"leakscope": entry}}).encode()
    (folder / "images.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    none = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({"inputs": none, "labels": none}).encode()
    (folder / "batch.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    for name, changed in (("cut", {}), ("later", {"format": 99}), ("unknown", {"fresh": 1})):
        said = json.dumps({"leakscope": "9.9.9", "format": 1, **changed})
        entry = json.dumps({"kind": "update", "checksum": "", "header": said})
        array = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
        header = json.dumps({"__metadata__": {"leakscope": entry}, "a": array}).encode()
        numbers = bytes(7 if name == "cut" else 8)
        (folder / f"{name}.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + numbers)
    for name in ("numbers.npz", "numbers.pkl", "numbers.txt", "state"):
        (folder / name).touch()
    (folder / "garbage.safetensors").write_bytes(bytes(range(256)))
    # A safetensors file with nothing in it, as any program writes one.
    (folder / "bare.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (folder / "other.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (folder / "junk.npz").write_bytes(b"PK\3\4" + b"0" * 50)
    (folder / "words.csv").write_text("a,b\n1,2\n")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "one.png").touch()
    (folder / "garbage.pt").write_bytes(bytes(range(1, 256)))
    (folder / "failing").mkdir()
    for name, text in OWN.items():
        (folder / name).write_text(text)
    for name in ("damaged", "list", "fresh"):
        (folder / name / "cells").mkdir(parents=True)
    (folder / "damaged" / "summary.json").write_text("{")
    (folder / "list" / "summary.json").write_text("[]")
    (folder / "fresh" / "summary.json").write_text(json.dumps({**SUMMARY, "fresh": 1}))


COMMANDS = ("demo", "audit", "capture", "attack", "score", "merge", "bound", "train", "list", "report", "doctor")
FAMILIES = ("attacks", "defenses", "protocols", "metrics", "targets", "datasets", "parts")
CAPTURE = "capture --model LeNet() --data Faces() --out u.safetensors"
ATTACK = "attack update.safetensors --model LeNet()"
TRAIN = "train speaker --data Spoken() --out e.safetensors"
DIGITS = "capture --model LeNet() --data Digits() --out u.safetensors"
NO_MODELS = {
    "constant:Net": "constant:Net is a int, expected a module, its class or a function",
    "mine:Wide": "mine:Wide does not take the arguments {}: missing a required argument: 'width'",
    "mine:Raises": "mine:Raises cannot be built: ValueError: too small (at mine.py:16)",
    "mine:Bare": "mine:Bare has no parameters, so it has no gradient",
    "mine:number": "mine:number returned a int, expected a torch.nn.Module",
    "mine:several": "mine:several returned a tuple, expected a torch.nn.Module",
    "mine:waits": "mine:waits returned a coroutine, expected a torch.nn.Module",
    "mine:yields": "mine:yields returned a generator, expected a torch.nn.Module",
    "mine:yields_later": "mine:yields_later returned a async_generator, expected a torch.nn.Module",
    "mine:listed": "mine:listed returned a list, expected a torch.nn.Module",
    "mine:Plain": "mine:Plain returned a Plain, expected a torch.nn.Module",
    "mine:Old": "mine:Old returned a Old, expected a torch.nn.Module",
    "mine:widths": "mine:widths is a list, expected a module, its class or a function",
    "mine:by_name": "mine:by_name is a dict, expected a module, its class or a function",
    "mine:negative": "mine:negative is a int, expected a module, its class or a function",
    "mine:told": "mine:told is a int, expected a module, its class or a function",
    "mine:second": "mine:second is a str, expected a module, its class or a function",
    "mine:third": "mine:third is a set, expected a module, its class or a function",
    "lacks:Net": "importing lacks needs no_such_package, which is not installed; install it",
    "failing:Net": "importing failing fails: RuntimeError: not today (at __init__.py:1)",
    "failing.inner:Net": "importing failing.inner fails: RuntimeError: not today (at __init__.py:1)",
}
"""What is said of the user's own modules."""

CASES = (
    Case("--help", 0, "Exit codes"),
    Case("--version", 0, "."),
    *(Case(f"{command} --help", 0, "Exit codes") for command in COMMANDS),
    Case("train speaker --help", 0, "Exit codes"),
    Case("list", 0, "LinearLayer"),
    Case("list --json", 0, "LinearLayer"),
    *(Case(f"list {family}", 0, family) for family in FAMILIES),
    *(Case(f"list {family} --json", 0, family) for family in FAMILIES),
    Case("audti", 2, "Did you mean 'audit'"),
    Case("list atacks", 2, "did you mean 'attacks'"),
    Case("audit", 2, "Missing argument"),
    Case("audit good.toml --resum", 2, "--resume"),
    Case("audit good.toml --engine ray", 2, "'ray'"),
    Case("audit good.toml --workers 0", 2, "--workers"),
    Case("audit good.toml --workers 999999999999999999999", 2, "is not in the range"),
    Case("audit good.toml --out /proc/nothing", 2, "cannot be written for the run"),
    Case("audit good.toml --shard 3/2", 2, "expected a shard from 1/2 to the last"),
    Case("audit good.toml --shard a", 2, "expected a shard such as 2/3"),
    Case("audit good.toml --model LeNte()", 2, "did you mean 'LeNet'"),
    Case("audit good.toml --model no_such_module:Net", 2, "no module 'no_such_module'"),
    Case("audit good.toml --model mymodel:Nett", 2, "mymodel has no 'Nett'; did you mean 'Net'"),
    Case("audit good.toml --model mymodel.py:Net", 2, "write mymodel:Net"),
    Case("audit good.toml --model broken:Net", 2, "mend the file"),
    Case("audit good.toml --out earlier --resume", 2, "was written by leakscope 0.1.0"),
    Case("audit good.toml --out nothere --resume", 2, "nothing to resume in nothere"),
    Case("audit good.toml --out begun", 2, "already holds 1 of 2 records; go on with --resume"),
    Case("audit good.toml --out full", 2, "is not empty and holds no audit (novel.txt, ...)"),
    Case("audit good.toml --out good.toml", 2, "good.toml is a file; choose a folder"),
    Case("audit good.toml --out good.toml/run", 2, "good.toml is a file; choose a folder"),
    Case("audit good.toml --out strange --resume", 2, "is not the plan that an audit writes"),
    Case("audit goood.toml", 2, "goood.toml is not a file"),
    Case("audit key.toml", 2, "line 2: unknown key 'trails'; did you mean 'trials'"),
    Case("audit nested.toml", 2, "line 8: unknown key in [budget] 'second'"),
    Case("audit attack.toml", 2, "line 4: attacks: unknown attack 'idgl'; did you mean 'idlg'"),
    Case("audit argument.toml", 2, "unknown argument of idlg 'evaluation'; did you mean 'evaluations'"),
    Case("audit defense.toml", 2, "did you mean 'Clip'"),
    Case("audit missing.toml", 2, "missing a required argument: 'norm'; it takes Clip(norm, order=2)"),
    Case("audit protocol.toml", 2, "unknown mechanism 'FedSDG'; did you mean 'FedSGD'"),
    Case("audit order.toml", 2, "does not combine: Clip with FedSGD"),
    Case("audit dataset.toml", 2, "line 11: scene[0].dataset: unknown dataset 'Faecs'; did you mean 'Faces'"),
    Case("audit target.toml", 2, "line 12: scene[0].target: unknown target 'LeNte'; did you mean 'LeNet'"),
    Case("audit fact.toml", 2, "line 3: told: unknown fact 'BatchSise'; did you mean 'BatchSize'"),
    Case("audit metric.toml", 2, "metrics: unknown metric 'PNSR'; did you mean 'PSNR'"),
    Case("audit trials.toml", 2, "line 2: trials: expected trials >= 1, got 0"),
    Case("audit seed.toml", 2, "seed: expected seed >= 0, got -1"),
    Case("audit delta.toml", 2, "delta: expected 0 < delta < 1, got 2"),
    Case("audit range.toml", 2, "input_range: expected a finite range with low < high"),
    Case("audit size.toml", 2, "batch_size: expected batch sizes >= 1, got 0"),
    Case("audit budget.toml", 2, "line 8: budget.seconds: expected a budget of more than 0 seconds"),
    Case("audit no-scene.toml", 2, "unknown key 'scenes'; did you mean 'scene'"),
    Case("audit toml.toml", 2, "not TOML"),
    Case("audit model.toml", 2, "no module 'no_such_module' in the current directory"),
    Case("audit norm.toml", 2, "line 5: mechanisms: Clip(-1.0): expected 0 < norm, got -1.0"),
    Case("audit type.toml", 2, "GaussianNoise('a'): expected 0 <= std, got 'a'"),
    Case("audit bits.toml", 2, "Quantize(40): expected 2 <= bits <= 16, got 40"),
    Case("audit steps.toml", 2, "FedAvg(0, 0.1): expected steps >= 1, got 0"),
    Case("audit pixels.toml", 2, "Faces(size=-1): expected a positive number of pixels"),
    Case("audit search.toml", 2, "Adam(steps=-1): expected steps >= 1, got -1"),
    Case("audit recipe.toml", 2, "idlg(evaluations=-1): expected evaluations >= 1"),
    Case("audit device.toml", 2, "unknown device 'cdua'; did you mean 'cuda'"),
    Case("audit object.toml", 2, "Clip(LeNet()): norm takes float, got LeNet()"),
    Case("audit other-object.toml", 2, "optimizer takes AbstractOptimizer, got LeNet()"),
    Case("audit number.toml", 2, "Trained(LeNet(), 5): state takes str, got 5"),
    Case("audit none.toml", 2, "Trained(LeNet(), None): state takes str, got None"),
    Case("audit other-data.toml", 2, "data takes PublicData, got LeNet()"),
    Case("audit enumeration.toml", 2, "'rleu' is not a valid Activation"),
    Case("audit wrapped.toml", 2, "attack takes Attack[Inputs], got Clip(1.0)"),
    Case("audit part.toml", 2, "search takes AbstractSearch, got Flat()"),
    Case("audit torch.toml", 2, "torch has parts of models, and none that is one"),
    Case("doctor --model Imported(5)", 2, "path takes str, got 5"),
    Case("doctor --model torch.nn:Linear", 2, "torch has parts of models"),
    Case("doctor --model torch.nosuch:Net", 2, "torch has parts of models"),
    Case("doctor --model numpy.linalg:nosuch", 2, "numpy has parts of models"),
    Case("doctor --model leakscope:LeNet", 2, "is one of leakscope's own; write LeNet()"),
    Case("audit for-text.toml", 2, "line 12: scene[0].target: TextEncoder() takes text, and Faces() has images"),
    Case("audit for-speech.toml", 2, "DeepSpeech() takes frames of speech, and Faces() has images"),
    Case("audit of-text.toml", 2, "LeNet() takes images, and Sentences() has text"),
    Case("audit good.toml --model TextDecoder()", 2, "TextDecoder() takes text, and Faces() has images"),
    Case("audit of-frames.toml", 2, "line 3: told: Lengths is of recordings, and Faces() has images"),
    Case("audit of-speech.toml", 2, "line 3: told: TrueTranscripts is of recordings, and Faces() has images"),
    Case("audit endless.toml", 2, "a model for images of 1 x 100000 x 100000, as Digits(size=100000) has them, would"),
    Case("audit many.toml", 2, "Faces() has at most 100 examples, cannot draw 101"),
    Case("audit halves.toml", 2, "Faces() has 50 private examples, cannot draw 51"),
    Case("audit other-classes.toml", 2, "is fitted to 10 classes, and Faces() has 100"),
    Case("audit fraction.toml", 2, "idlg(evaluations=2.5): evaluations takes int, got 2.5"),
    Case("audit whole.toml", 2, "idlg(evaluations=-3000): expected evaluations >= 1"),
    Case("doctor --model leakscope:LeNte", 2, "leakscope has no 'LeNte'; did you mean 'LeNet()'"),
    Case("doctor --model leakscope:FedSGD", 2, "leakscope:FedSGD is no model; write one of leakscope's own"),
    Case("doctor --model leakscope.targets.zoo.lenet:LeNte", 2, "did you mean 'LeNet()'"),
    Case("doctor --model leakscope.targets.zoo.lenett:LeNet5", 2, "no module 'leakscope.targets.zoo.lenett'"),
    Case("doctor --model pydantic:BaseModel", 2, "pydantic neither needs nor mentions torch, so it has no models"),
    Case("doctor --model TextEncoder()", 2, "TextEncoder() takes text, and Photographs() has images"),
    Case("doctor --model LinearProbe(LeNet(),4) --dataset Sentences()", 2, "LeNet() takes images, and Sentences() has"),
    Case("doctor --model VGGTiny() --dataset Digits(size=4)", 2, "VGGTiny() halves pictures 3 times"),
    Case(
        "doctor --model LeNet() --domain Frames(26) --classes 4", 2, "LeNet() takes images, and --domain Frames(26) has"
    ),
    Case("doctor --model LeNet() --dataset Digits(size=100000)", 2, "a model for images of 1 x 100000 x 100000"),
    Case("audit twice.toml", 2, "BatchSize was told 2 times"),
    *(Case(f"audit good.toml --model {name}", 2, says) for name, says in NO_MODELS.items()),
    *(Case(f"doctor --model {name}", 2, says) for name, says in NO_MODELS.items()),
    Case("audit imported.toml", 2, "constant:Net is a int, expected a module"),
    Case("audit trained.toml", 2, "no file none.safetensors; expected a state dict"),
    Case("merge good.toml", 2, "Missing argument"),
    Case("merge good.toml empty --out whole", 2, "empty holds no audit"),
    Case("merge good.toml strange --out whole", 2, "is not the plan that an audit writes"),
    Case("merge goood.toml begun --out whole", 2, "goood.toml is not a file"),
    Case("demo faces", 2, "'faces'"),
    Case("demo --out full", 2, "is not empty and holds no audit"),
    Case("report none", 2, "none is not a folder"),
    Case("report empty", 2, "empty holds no run"),
    Case("report damaged", 2, "damaged/summary.json is no valid summary"),
    Case("report fresh", 2, "fresh: Extra inputs are not permitted; it says that leakscope 9.9.9 wrote it"),
    Case("report list", 2, "list/summary.json is no valid summary"),
    Case("bound", 2, "give --sigma, the noise multiplier, or --calibrate"),
    Case("bound --sigma 1 --calibrate epsilon=8@1e-5", 2, "one of them"),
    Case("bound --sigma 0", 2, "expected 0 < sigma, got 0.0"),
    Case("bound --sigma 1 --steps 0", 2, "expected steps >= 1, got 0"),
    Case("bound --sigma 1 --sampling-rate 2", 2, "expected 0 < sampling-rate <= 1, got 2.0"),
    Case("bound --sigma 1 --delta 0", 2, "expected 0 < delta < 1, got 0.0"),
    Case("bound --sigma 1 --fpr nan", 2, "expected 0 <= fpr <= 1, got nan"),
    Case("bound --sigma 1 --figure curve.txt", 2, "expected a file *.png, *.pdf, *.svg for --figure"),
    Case("bound --calibrate tpr=0.1", 2, "write tpr=0.1@0.01"),
    Case("bound --calibrate advantage=0.1@0.5", 2, "cannot read the promise"),
    Case("bound --calibrate tpr=0.01@0.01", 2, "expected 0.01 < tpr < 1, got 0.01"),
    Case("bound --calibrate epsilon=x@1e-5", 2, "cannot read the promise"),
    Case("bound --calibrate epslon=8@1e-5", 2, "did you mean 'epsilon'"),
    Case("doctor --model LeNte()", 2, "did you mean 'LeNet'"),
    Case("doctor --model mymodel.py", 2, "write mymodel:NAME"),
    Case("doctor --model json:loads", 2, "json is part of Python"),
    Case("doctor --model torchvision:", 2, "expected torchvision:NAME"),
    Case("doctor --dataset Faecs()", 2, "did you mean 'Faces'"),
    Case("doctor --dataset Faces(size=-1)", 2, "expected a positive number of pixels"),
    Case("doctor --classes 3", 2, "say what a model takes and tells apart; give --model too"),
    Case("doctor --domain 3x32x32", 2, "say what a model takes and tells apart; give --model too"),
    Case("capture", 2, "Missing option"),
    Case("capture --model LeNet() --out u.safetensors", 2, "say what the model takes"),
    Case("capture --model LeNet() --domain 3x32x32 --classes 10 --out u.safetensors", 2, "whose data? give --data"),
    Case(f"{CAPTURE} --mechanism FedSDG()", 2, "did you mean 'FedSGD'"),
    Case(f"{CAPTURE} --domain 3x32", 2, "cannot read the domain '3x32'"),
    Case(f"{CAPTURE} --domain Image(3,32,32)", 2, "did you mean 'Images'"),
    Case(f"{CAPTURE} --mechanism FedAvg(1,0.1,optimizer=torch.nosuch)", 2, "unknown mechanism 'torch'"),
    Case(f"{CAPTURE} --tell BatchSise", 2, "did you mean 'BatchSize'"),
    Case(f"{CAPTURE} --domain 0x32x32", 2, "expected positive sizes, got 0 x 32 x 32"),
    Case(f"{CAPTURE} --mechanism FedAvg(steps=0,lr=1)", 2, "expected steps >= 1, got 0"),
    Case(f"{CAPTURE} --tell TrueLabels --tell TrueLabels", 2, "TrueLabels was told 2 times"),
    Case(f"{CAPTURE} --count 0", 2, "--count"),
    Case(f"{CAPTURE} --count 99999999", 2, "--count"),
    Case(f"{CAPTURE} --batch junk.npz", 2, "junk.npz cannot be read: it is cut short, damaged"),
    Case(f"{CAPTURE} --batch bare.safetensors", 2, "holds arrays without names, expected inputs and labels"),
    Case(f"{CAPTURE} --state junk.npz", 2, "junk.npz cannot be read: it is cut short, damaged"),
    Case(f"{CAPTURE} --update garbage.safetensors --kind delta", 2, "garbage.safetensors cannot be read"),
    Case(f"{CAPTURE} --update garbage.pt --kind gradient", 2, "garbage.pt cannot be read"),
    Case(f"{CAPTURE} --state garbage.pt", 2, "garbage.pt cannot be read"),
    Case("doctor --model Trained(LeNet(),'none.safetensors')", 2, "no file none.safetensors; expected a state dict"),
    Case("doctor --model Trained(LeNet(),'garbage.safetensors')", 2, "garbage.safetensors cannot be read"),
    Case("doctor --model Trained(LeNet(),'garbage.pt')", 2, "garbage.pt cannot be read"),
    Case(f"{DIGITS} --domain 3x8x8", 2, "make --domain and the data agree"),
    Case(f"{DIGITS} --classes 1", 2, "as many classes as the data has"),
    Case(f"{DIGITS} --count 999999", 2, "cannot draw 999999"),
    Case(f"{DIGITS} --tell Lengths", 2, "Lengths is of recordings, and Digits() has images; leave it out"),
    Case(f"{DIGITS} --tell Lengths((3,))", 2, "Lengths((3,)) is of recordings, and Digits() has images"),
    Case(f"{DIGITS} --tell TrueTranscripts", 2, "TrueTranscripts is of recordings, and Digits() has images"),
    Case(f"{DIGITS} --tell Gallery", 2, "Gallery is of recordings, and Digits() has images"),
    Case(f"{DIGITS} --tell BatchSize(5)", 2, "told BatchSize(5), but the batch has 1"),
    Case(f"{DIGITS} --tell TrueLabels((1,2))", 2, "told TrueLabels((1,2)), but the batch has 1"),
    Case(f"{DIGITS} --model TextEncoder()", 2, "TextEncoder() takes text, and Digits() has images"),
    Case(f"{DIGITS} --model DeepSpeech()", 2, "DeepSpeech() takes frames of speech, and Digits() has images"),
    Case(f"{DIGITS} --model EfficientNetLite0()", 2, "takes 3 channels of at least 32 x 32, got (1, 32, 32)"),
    Case(
        f"{DIGITS} --model Fitted(LeNet(),Faces(size=8))", 2, "and Digits() has images of 1 x 32 x 32; use one source"
    ),
    Case(f"{DIGITS} --data Sentences()", 2, "LeNet() takes images, and Sentences() has text"),
    Case(
        f"{DIGITS} --data Sentences() --model MLP()",
        2,
        "MLP() takes feature vectors or images, and Sentences() has text",
    ),
    Case(f"{DIGITS} --data Sentences() --count 513", 2, "has at most 512 examples, cannot draw 513"),
    Case(f"{DIGITS} --data Spoken() --tell TrueLabels --model DeepSpeech()", 2, "Spoken() has transcripts"),
    Case(
        f"{DIGITS} --data Spoken() --model DeepSpeech(coefficients=13)", 2, "takes 13 coefficients, and Spoken() has 26"
    ),
    Case(f"{DIGITS} --count 900", 2, "Digits() has 899 private examples, cannot draw 900"),
    Case(f"{DIGITS} --data Digits(size=300)", 2, "1797 pictures of 300 x 300 would take 1.2 GiB"),
    Case(f"{DIGITS} --data Faces() --model Fitted(LeNet(),Digits())", 2, "fitted to 10 classes, and Faces() has 100"),
    Case(
        "capture --model LeNet() --batch batch.safetensors --domain 1x8x8 --classes 10 --tell PublicStatistics --out u",
        2,
        "PublicStatistics is of the public half of a data set, and this batch is of none",
    ),
    Case("attack images.safetensors --model DeepSpeech()", 2, "frames of speech, and images.safetensors has images"),
    Case("doctor --update images.safetensors --model TextEncoder()", 2, "text, and images.safetensors has images"),
    Case(f"{DIGITS} --data Digits(size=100000)", 2, "a model for images of 1 x 100000 x 100000"),
    Case(f"{CAPTURE} --out /proc/u.safetensors", 2, "cannot be written for --out"),
    Case(f"{CAPTURE} --state none.pt", 2, "no file none.pt"),
    Case(f"{CAPTURE} --state numbers.txt", 2, "has the suffix '.txt'; expected .safetensors, .npz or .pt"),
    Case(f"{CAPTURE} --batch none.npz", 2, "no file none.npz"),
    Case(f"{CAPTURE} --update numbers.npz", 2, "say what the numbers of --update are"),
    Case(f"{CAPTURE} --update numbers.npz --kind sum", 2, "'sum'"),
    Case(f"{CAPTURE} --update numbers.pkl --kind delta", 2, "give --allow-pickle if you trust"),
    Case(f"{CAPTURE} --before numbers.npz", 2, "--before and --after belong together"),
    Case(f"{CAPTURE} --secret u.safetensors", 2, "the secret is to be kept apart"),
    Case(f"{CAPTURE} --out empty", 2, "empty is a folder; give the name of a file for --out"),
    Case("capture --model LeNet() --data Faecs() --out u.safetensors", 2, "did you mean 'Faces'"),
    Case("capture --model LeNet() --data nofolder --out u.safetensors", 2, "no folder nofolder"),
    Case("capture --model LeNet() --data no/folder --out u.safetensors", 2, "no folder no/folder"),
    Case("capture --model LeNet() --data empty --out u.safetensors", 2, "holds neither pictures"),
    Case("capture --model LeNet() --data pictures --out u.safetensors", 2, "say what the model takes, with --domain"),
    Case("capture --model LeNet() --data words.csv --out u.safetensors", 2, "words.csv lacks the columns"),
    Case("capture --model LeNet() --data none.csv --out u.safetensors", 2, "no file none.csv"),
    Case("attack none.safetensors --model LeNet()", 2, "no file none.safetensors; expected an update"),
    Case("attack empty --model LeNet()", 2, "empty is a folder; expected an update"),
    Case("attack garbage.safetensors --model LeNet()", 2, "is not a safetensors file, or is damaged"),
    Case("attack update.safetensors --model mymodel:Nett", 2, "did you mean 'Net'"),
    Case("attack update.safetensors --model broken:Net", 2, "mend the file"),
    Case("attack secret.safetensors --model LeNet()", 2, "secret.safetensors is a secret, expected an update"),
    Case("attack update.safetensors --model LeNte()", 2, "did you mean 'LeNet'"),
    Case("attack cut.safetensors --model LeNet()", 2, "its header says 8 bytes of arrays, 7 are there"),
    Case(
        "attack later.safetensors --model LeNet()", 2, "has format 99, this leakscope reads 1; it says that leakscope"
    ),
    Case("attack unknown.safetensors --model LeNet()", 2, "fresh: Extra inputs are not permitted; it says that"),
    Case(f"{ATTACK} --with idlg(evaluations=0)", 2, "expected evaluations >= 1"),
    Case(f"{ATTACK} --with LinerLayer()", 2, "did you mean 'LinearLayer'"),
    Case(f"{ATTACK} --with GradientInversion(prior=TotalVariaton())", 2, "did you mean 'TotalVariation'"),
    Case("attack bare.safetensors --model LeNet()", 2, "bare.safetensors was not written by leakscope"),
    Case(f"{ATTACK} --with GradientInversion(search=1)", 2, "search takes an object, such as Adam(), got 1"),
    Case(f"{ATTACK} --seconds inf", 2, "leave --seconds out for none"),
    Case(f"{ATTACK} --seconds nan", 2, "more than 0 seconds"),
    Case(f"{ATTACK} --report /proc/page", 2, "cannot be written for --report"),
    Case(f"{ATTACK} --seconds -1", 2, "more than 0 seconds"),
    Case(f"{ATTACK} --evaluations 0", 2, "at least 1 evaluation"),
    Case(f"{ATTACK} --resume", 2, "--resume goes on with the state in --checkpoint"),
    Case(f"{ATTACK} --checkpoint state", 2, "state is there already"),
    Case(f"{ATTACK} --gallery no/folder", 2, "no folder no/folder"),
    Case("score none.safetensors secret.safetensors", 2, "no file none.safetensors; expected a claim"),
    Case("score claim.safetensors none.safetensors", 2, "no file none.safetensors; expected a secret"),
    Case("score bare.safetensors other.safetensors", 2, "bare.safetensors was not written by leakscope"),
    Case("score numbers.txt numbers.txt", 2, "is not a safetensors file, or is damaged"),
    Case("score secret.safetensors claim.safetensors", 2, "secret.safetensors is a secret, expected a claim"),
    Case("score claim.safetensors secret.safetensors --metric PNSR()", 2, "did you mean 'PSNR'"),
    Case(f"{TRAIN} --rate 0", 2, "expected a learning rate > 0"),
    Case(f"{TRAIN} --softmax 0 --triplet 0", 2, "expected at least one step"),
    Case("train speaker --data Digits() --out e.safetensors", 2, "Digits() does not tell its speakers; use Spoken"),
    Case("train speaker --data Spoekn() --out e.safetensors", 2, "did you mean 'Spoken'"),
    Case("train speaker --data Spoken() --out e.pt", 2, "expected a file *.safetensors for --out"),
)


def measured(command: list[str], folder: Path) -> tuple[float, int, str]:
    """Processor seconds of one process, its exit code, and what it said."""
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said)
        _, status, spent = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)  # else Popen would wait for it again
        said.seek(0)
        return spent.ru_utime + spent.ru_stime, process.returncode, " ".join(said.read().split())


def main() -> None:
    """All cases; the exit code says whether each is as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=float, default=0.7, help="processor seconds that a command may take")
    parser.add_argument("--command", default=shlex.join([sys.executable, "-m", "leakscope.cli.main"]))
    given = parser.parse_args()
    wrong, most, began = 0, 0.0, time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        furnish(folder)
        for case in CASES:
            seconds, code, said = measured([*shlex.split(given.command), *case.line.split()], folder)
            good = seconds <= given.limit and code == case.code and case.says in said
            wrong, most = wrong + (not good), max(most, seconds)
            mark = "" if good else f"  WRONG: expected code {case.code} and {case.says!r}"
            print(
                f"{seconds:5.2f} s  limit {given.limit:.2f}  code {code}  {case.line:<64} {said[-60:]}{mark}",
                flush=True,
            )
    print(f"{len(CASES)} commands, {wrong} wrong, at most {most:.2f} s; {time.perf_counter() - began:.0f} s in all")
    raise SystemExit(wrong > 0)


if __name__ == "__main__":
    main()
