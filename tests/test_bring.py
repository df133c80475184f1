"""Bring your own model and update: capture, attack, score; what an update file must not hold; damaged files."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from tests.tolerance import close
from torch import nn
from typer.testing import CliRunner

import leakscope as ls
from leakscope.audit import files as audit_files
from leakscope.audit.files import read_claim, read_secret, read_update
from leakscope.audit.one_claim import judged
from leakscope.cli import console
from leakscope.cli.commands import attack as attack_command
from leakscope.cli.ending import Exit
from leakscope.cli.expressions import build, domain
from leakscope.cli.main import app
from leakscope.cli.models import LIBRARIES, Library, architecture
from leakscope.cli.names import Family, Trait, rows
from leakscope.core.attempt import Attempt, Certificate, Cost, Outcome, Trace
from leakscope.core.errors import BadInput, MissingExtra
from leakscope.ledger.container import read
from leakscope.ledger.exchange import ClaimHeader, SecretHeader, UpdateHeader
from leakscope.ledger.record import Word
from leakscope.scoring.score import Direction, Score

ROOT = Path(__file__).parent.parent


def call(*arguments):
    """stdout, stderr and exit code of one command line, in this process."""
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


DIGITS = ("--model", "MLP((40,))", "--data", "Digits(size=8)")


def captured(*more, model=DIGITS):
    result = call("capture", *model, "--out", "u.safetensors", "--secret", "s.safetensors", *more)
    assert result.exit_code == 0, result.stderr
    return result


# --- from end to end ------------------------------------------------------------------------------------------------

NET = '''
import torch


class Net(torch.nn.Module):
    """Somebody's own: a normalization with running statistics, other names than the zoo's."""

    def __init__(self, width=256):
        super().__init__()
        self.entrance = torch.nn.Linear(64, width)
        self.norm = torch.nn.BatchNorm1d(width)
        self.exit = torch.nn.Linear(width, 10)

    def forward(self, x):
        return self.exit(torch.relu(self.norm(self.entrance(x.flatten(1)))))
'''

CLIENT = """
import numpy as np, torch
from own_net import Net
from sklearn.datasets import load_digits

images, labels = load_digits(return_X_y=True)
images, labels = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
torch.manual_seed(0)
net = Net()
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)


def step(rows):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(net(images[rows].reshape(-1, 1, 8, 8)), labels[rows]).backward()
    optimizer.step()


net.train()
for start in (0, 32):  # two rounds, with the running statistics that they leave
    step(slice(start, start + 32))
net.eval()
torch.save(net.state_dict(), "before.pt")
step(slice(1700, 1703))
torch.save({"state_dict": {f"module.{name}": value for name, value in net.state_dict().items()}}, "after.pt")
np.savez("mine.npz", inputs=images[1700:1703].reshape(-1, 1, 8, 8).numpy(), labels=labels[1700:1703].numpy())
"""


def test_somebodys_model_and_somebodys_update_from_end_to_end(here, monkeypatch):
    """Plain torch trains and writes two state dicts; another process attacks them."""
    (here / "own_net.py").write_text(NET)
    monkeypatch.syspath_prepend(here)
    with ls.Key(0).isolated():
        exec(compile(CLIENT, "client.py", "exec"), {})
    done = call(
        "capture", "--model", "own_net:Net", "--before", "before.pt", "--after", "after.pt", "--domain", "1x8x8",
        "--classes", 10, "--mechanism", "FedAvg(steps=1, lr=0.1)", "--batch", "mine.npz", "--tell", "BatchSize",
        "--out", "update.safetensors", "--secret", "secret.safetensors",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert "took 'module.' off 9 names" in done.stderr
    assert "3 running statistics are not part of the update" in done.stderr
    assert "Delta(6 tensors, 19722 numbers) of FedAvg(steps=1, lr=0.1" in done.stdout
    again = ["--model", "own_net:Net", "--state", "before.pt", "--out", "claim.safetensors", "--report", "page"]
    command = [sys.executable, "-m", "leakscope.cli.main", "attack", "update.safetensors", *again]
    other = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert other.returncode == Exit.LEAK, other.stderr
    assert re.search(r"claimed +LinearLayer\(\): 3 inputs in closed form", other.stdout)
    assert "proved by its own equations" in other.stdout
    assert "LabelCounts" in other.stdout
    assert "Auto(" not in other.stdout, "what is proved needs no search"
    done = call("score", "claim.safetensors", "secret.safetensors", "--public", "Digits(size=8)", "--json")
    assert done.exit_code == Exit.LEAK, done.stderr
    said = json.loads(done.stdout)
    psnr = next(one for one in said["scores"] if one["metric"] == "psnr")
    assert psnr["value"] > 60
    assert psnr["chance"] < 20
    assert said["word"] == "leaks"
    assert sorted(path.name for path in (here / "page").iterdir()) == [
        "claim-1.png", "claim-2.png", "claim-3.png", "report.html",
    ]  # fmt: skip
    with Image.open(here / "page" / "claim-1.png") as shown:
        assert shown.size == (8, 8)


def test_speech_from_end_to_end(here):
    pytest.importorskip("espeakng_loader")
    data = ("--data", "Spoken(speakers=2, each=4, shortest=0.8, longest=1.0)", "--count", 2)
    captured("--seed", 1, *data, model=("--model", "DeepSpeech(hidden=160)"))
    secret = read_secret(here / "s.safetensors").secret
    assert {"speaker", "sex"} == {one.name for one in secret.annotations}
    result = call("attack", "u.safetensors", "--model", "DeepSpeech(hidden=160)", "--report", "page")
    assert "WindowedFrames" in result.stdout
    scored = json.loads(call("score", "claim.safetensors", "s.safetensors", "--json").stdout)
    frames = next(one for one in scored["scores"] if one["metric"] == "frame-error")
    assert frames["value"] < 0.1 < 1 < frames["chance"]
    assert scored["word"] == "leaks"
    page = (here / "page" / "report.html").read_text()
    assert page.count("data:audio/wav") == 2
    who = ("--gallery", data[1], "--with", "SpeakerIdentity(encoder=CepstralMoments())", "--out", "who.safetensors")
    named = call("attack", "u.safetensors", "--model", "DeepSpeech(hidden=160)", *who)
    assert re.search(r"claimed +SpeakerIdentity", named.stdout), named.stdout
    ranked = call("score", "who.safetensors", "s.safetensors")
    assert "top-1" in ranked.stdout
    sound = (here / "page" / "claim-1.wav").read_bytes()
    assert sound[:4] == b"RIFF"
    assert len(sound) > 16_000


def test_texts_from_end_to_end(here):
    captured("--tell", "BatchSize", model=("--model", "TextEncoder()", "--data", "Sentences()"))
    result = call("attack", "u.safetensors", "--model", "TextEncoder()", "--report", "page")
    assert re.search(r"claimed +EmbeddingSpan.*proved", result.stdout)
    assert "Auto(" not in result.stdout, "tokens cannot be searched for"
    assert result.exit_code == Exit.LEAK
    scored = json.loads(call("score", "claim.safetensors", "s.safetensors", "--json").stdout)
    assert {one["metric"]: one["value"] for one in scored["scores"]}["exact-text"] == 1


# --- what an update file holds --------------------------------------------------------------------------------------


def test_the_update_file_holds_nothing_of_the_secret(here):
    captured("--count", 4, "--seed", 7, "--tell", "BatchSize")
    secret = read_secret(here / "s.safetensors").secret.reveal()
    content = (here / "u.safetensors").read_bytes()
    for row in secret.inputs:
        for line in row.reshape(-1, 8)[(row.reshape(-1, 8) != 0).sum(1) > 3]:
            assert line.numpy().tobytes() not in content, "a line of a private picture"
    assert secret.labels.numpy().tobytes() not in content
    with safe_open(here / "u.safetensors", "pt") as file:
        metadata = file.metadata()
        assert sorted(file.keys()) == sorted(ls.MLP((40,)).build(ls.Images(1, 8, 8), 10, key=ls.Key(0)).parameters())
    assert metadata.keys() == {"leakscope"}
    header = json.loads(json.loads(metadata["leakscope"])["header"])
    assert header.pop("weights")
    assert header == {
        "format": 1, "leakscope": ls.__version__, "bfloat16": [], "release": "gradient", "mechanism": "FedSGD()",
        "model": "MLP((40,))", "domain": repr(ls.Digits(size=8).domain), "classes": 10, "weights_seed": 0,
        "told": ["BatchSize(count=4)"], "notes": [],
    }  # fmt: skip
    assert (here / "u.safetensors").stat().st_mode & 0o077 == 0


def test_only_what_is_told_is_told_and_the_file_is_a_function_of_what_is_seen(here):
    captured("--count", 2)
    assert read_update(here / "u.safetensors").header.told == ()
    plain = (here / "u.safetensors").read_bytes()
    captured("--count", 2)
    assert (here / "u.safetensors").read_bytes() == plain, "same seed, same bytes"
    captured("--count", 2, "--seed", 1)
    assert (here / "u.safetensors").read_bytes() != plain
    captured("--count", 2, "--tell", "TrueLabels", "--tell", "BatchSize")
    labels = read_secret(here / "s.safetensors").secret.reveal().labels.tolist()
    assert read_update(here / "u.safetensors").header.told == (
        f"TrueLabels(values={tuple(labels)})",
        "BatchSize(count=2)",
    )
    wrong = call("capture", *DIGITS, "--tell", "BatchSize(3)", "--out", "x.safetensors")
    assert (wrong.exit_code, "but the batch has 1" in wrong.stderr) == (Exit.USAGE, True)
    assert not Path("x.safetensors").exists()


def test_a_brought_gradient_is_the_captured_one(here):
    """The same gradient twice: computed by capture, and by plain autograd, as a list of arrays without names."""
    captured("--count", 3, "--weights-seed", 5)
    kept = read_secret(here / "s.safetensors").secret.reveal()
    target = ls.MLP((40,)).build(ls.Images(1, 8, 8), 10, key=ls.Key(5).child("weights"))
    module = target.module.requires_grad_(True)
    torch.nn.functional.cross_entropy(module(kept.inputs), kept.labels).backward()
    np.savez("g.npz", *[one.grad.numpy() for one in module.parameters()])
    torch.save(module.state_dict(), "w.pt")
    result = call(
        "capture", "--model", "MLP((40,))", "--state", "w.pt", "--update", "g.npz", "--kind", "gradient", "--domain",
        "1x8x8", "--classes", 10, "--tell", "BatchSize(3)", "--out", "v.safetensors",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "4 arrays without names, taken in the model's order" in result.stderr
    ours, theirs = read_update(here / "u.safetensors"), read_update(here / "v.safetensors")
    for name, value in ours.release.by_name.items():
        close(theirs.release.by_name[name], value)
    assert ours.header.weights == theirs.header.weights
    assert (theirs.header.told, theirs.header.weights_seed) == (("BatchSize(count=3)",), None)
    half = torch.load("w.pt", weights_only=True)
    torch.save(dict(list(half.items())[:2]), "part.pt")
    arguments = (
        "--model",
        "MLP((40,))",
        "--kind",
        "gradient",
        "--domain",
        "1x8x8",
        "--classes",
        10,
        "--out",
        "p.safetensors",
    )
    result = call("capture", *arguments, "--update", "part.pt")
    assert "a partial update: it lacks" in result.stderr
    assert "the weights are those that --model comes with" in result.stderr


def test_two_state_dicts_are_the_delta_that_capture_computes(here):
    """Sign and scale: plain SGD on the same examples, from the same weights."""
    mechanism = ("--mechanism", "FedAvg(steps=3, lr=0.2)")
    captured("--count", 2, *mechanism)
    kept = read_secret(here / "s.safetensors").secret.reveal()
    module = ls.MLP((40,)).build(ls.Images(1, 8, 8), 10, key=ls.Key(0).child("weights")).module.requires_grad_(True)
    save_file(module.state_dict(), "before.safetensors")
    optimizer = torch.optim.SGD(module.parameters(), lr=0.2)
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(kept.inputs), kept.labels).backward()
        optimizer.step()
    np.savez("after.npz", *[value.detach().numpy() for value in module.state_dict().values()])
    takes = ("--domain", "1x8x8", "--classes", 10, "--out", "v.safetensors")
    pair = ("--before", "before.safetensors", "--after", "after.npz")
    assert call("capture", "--model", "MLP((40,))", *pair, *mechanism, *takes).exit_code == 0
    ours, theirs = read_update(here / "u.safetensors").release, read_update(here / "v.safetensors").release
    assert type(ours) is type(theirs) is ls.Delta
    for name, value in ours.by_name.items():
        close(theirs.by_name[name], value)


def test_pickle_is_asked_for_and_warned_of(here):
    target = ls.Linear().build(ls.Images(1, 2, 2), 3, key=ls.Key(0))
    Path("g.pkl").write_bytes(pickle.dumps([value.numpy() for value in target.parameters().values()]))
    arguments = ("capture", "--model", "Linear()", "--update", "g.pkl", "--kind", "gradient", "--domain", "1x2x2",
                 "--classes", 3, "--out", "u.safetensors")  # fmt: skip
    refused = call(*arguments)
    assert (refused.exit_code, "give --allow-pickle if you trust" in refused.stderr) == (Exit.USAGE, True)
    allowed = call(*arguments, "--allow-pickle")
    assert allowed.exit_code == 0
    assert "warning: --allow-pickle runs whatever code is in the files" in allowed.stderr


def test_the_data_are_handed_over_in_the_models_units(here):
    (here / "pictures").mkdir()
    for i in range(4):
        Image.fromarray(np.full((6, 6, 3), 60 * i, np.uint8)).save(here / "pictures" / f"{i}.png")
    takes = "Images(3, 4, 4, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))"
    model = ("--model", "MLP((8,))", "--data", "pictures", "--domain", takes, "--classes", 2, "--count", 2)
    captured(model=model)
    inputs = read_secret(here / "s.safetensors").secret.reveal().inputs
    found = sorted((255 * (0.25 * inputs[:, 0, 0, 0] + 0.5)).round().tolist())
    assert set(found) < {0, 60, 120, 180}
    assert len(found) == 2


# --- attacks and scores ---------------------------------------------------------------------------------------------


def test_why_nothing_leaked_is_said_by_every_attack(here):
    # six examples are too many for ten classes to come apart at the last layer
    captured("--count", 6, model=("--model", "LeNet()", "--data", "Digits(size=16)"))
    result = call("attack", "u.safetensors", "--model", "LeNet()", "--report", "page")
    assert result.exit_code == Exit.INCOMPLETE
    assert "refused  LinearLayer(): LeNet" in result.stdout
    assert "needs to be told BatchSize; told: nothing" in result.stdout
    made = read_claim(here / "claim.safetensors").attempt
    assert "classes have a negative entry in dL/db" in made.sentence
    assert not made.certified
    result = call(
        "attack", "u.safetensors", "--model", "LeNet()", "--with", "LinearLayer()", "--with", "idlg()", "--json"
    )
    said = json.loads(result.stdout)
    assert [one["outcome"] for one in said["tried"]] == ["refused", "refused"]
    assert (said["claim"], said["chosen"], result.exit_code) == ("", -1, Exit.INCOMPLETE)
    scored = call("score", "claim.safetensors", "s.safetensors")
    assert scored.exit_code == Exit.INCOMPLETE
    assert "nothing was claimed, so there is nothing to score: LinearLayer()" in scored.stdout
    page = call("attack", "u.safetensors", "--model", "LeNet()", "--with", "idlg()", "--report", "page").stdout
    assert "nothing was claimed; this does not show that nothing leaks" in page
    assert "No attack below claims anything" in (here / "page" / "report.html").read_text()
    assert not list((here / "page").glob("*.png")), "pictures of an earlier claim are gone"


def test_proved_labels_do_not_stop_the_search_for_inputs(here):
    """The label of one example is proved by its signs; the convolutions keep the image from every closed form."""
    model = ("--model", "ConvNet()", "--data", "Synthetic((1, 16, 16), classes=4)")
    captured("--tell", "BatchSize", model=model)
    result = call("attack", "u.safetensors", "--model", "ConvNet()", "--evaluations", 12, "--json")
    said = json.loads(result.stdout)
    outcomes = {one["attack"].partition("(")[0]: one for one in said["tried"]}
    assert outcomes["LabelSigns"]["certificate"]["holds"]
    assert (said["claim"], said["tried"][said["chosen"]]["attack"].partition("(")[0]) == ("Inputs", "Auto")
    assert result.exit_code == Exit.LEAK, "what is proved of the labels is proved"


@contextlib.contextmanager
def impatient(title):
    """A person who presses Ctrl-C when half is done."""

    def watch(progress):
        if progress.fraction > 0.5:
            raise KeyboardInterrupt

    yield watch


def test_a_search_spends_its_budget_and_ends_with_the_best_so_far(here, monkeypatch):
    captured("--tell", "BatchSize", model=("--model", "LeNet()", "--data", "Synthetic((1, 16, 16), classes=4)"))
    search = ("attack", "u.safetensors", "--model", "LeNet()", "--with", "inverting_gradients(steps=100)")
    result = call(*search, "--evaluations", 30, "--json")
    (tried,) = json.loads(result.stdout)["tried"]
    assert (tried["outcome"], tried["evaluations"]) == ("claimed", 30)
    first = (here / "claim.safetensors").read_bytes()
    (hurried,) = json.loads(call(*search, "--seconds", 1e-6, "--json").stdout)["tried"]
    assert hurried["evaluations"] < 10
    call(*search, "--evaluations", 30)
    made = read_claim(here / "claim.safetensors").attempt
    before = read(here / "claim.safetensors", ClaimHeader)[1]["claim.values"]
    call(*search, "--evaluations", 30, "--seed", 1)
    assert not np.array_equal(before, read(here / "claim.safetensors", ClaimHeader)[1]["claim.values"])
    assert len(first) > 1000
    assert made.trace.losses[-1] < made.trace.losses[0]

    monkeypatch.setattr(console, "watching", impatient)
    stopped = call(*search)
    assert "--resume" not in stopped.stderr
    assert stopped.exit_code == Exit.INCOMPLETE
    assert "stopped; the best so far is in claim.safetensors" in stopped.stderr
    made = read_claim(here / "claim.safetensors").attempt
    assert made.outcome is Outcome.INTERRUPTED
    assert made.claim is not None
    scored = call("score", "claim.safetensors", "s.safetensors")
    assert scored.exit_code in (Exit.INCOMPLETE, Exit.LEAK)
    assert "psnr" in scored.stdout


def test_two_recipes_of_one_class_are_told_apart_while_they_run(here, monkeypatch):
    captured("--tell", "BatchSize", model=("--model", "LeNet()", "--data", "Synthetic((1, 16, 16), classes=4)"))
    titles = []

    @contextlib.contextmanager
    def heard(title):
        titles.append(title)
        yield lambda said: None

    monkeypatch.setattr(console, "watching", heard)
    chosen = ("--with", "dlg(evaluations=2)", "--with", "idlg(evaluations=2)")
    call("attack", "u.safetensors", "--model", "LeNet()", *chosen)
    assert titles == ["dlg(evaluations=2)", "idlg(evaluations=2)"]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        # a folder of two classes for a model of ten: where the two come from, and where ten can be told
        ("capture {model} --data pictures --out u.safetensors", "and 2 classes, as --data pictures has them: give"),
        ("capture {model} --domain 3x8x8 --classes 10 --before before.pt --after whole.pt --out u.safetensors",
         "whole.pt holds something else than plain tensors, such as a whole module, or is damaged; save the state"),
        ("capture {model} --domain 3x8x8 --classes 10 --before before.pt --after before.pt --out u.txt",
         "expected a file *.safetensors for --out, got u.txt"),
        ("attack grads.pt {model}", "brought in with `leakscope capture --update FILE --kind gradient`"),
        ("attack before.pt {model} --out c.npz", "expected an update"),
        ("attack u.safetensors {model} --out c.npz", "expected a file *.safetensors for --out, got c.npz"),
    ],
)  # fmt: skip
def test_what_a_newcomer_gets_wrong_is_put_right_in_one_sentence(here, command, says):
    (here / "ten.py").write_text(
        "from torch import nn\n\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))\n"
    )
    for place in ("cat", "dog"):
        (here / "pictures" / place).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(here / "pictures" / place / "0.png")
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
    torch.save(module.state_dict(), here / "before.pt")
    torch.save(dict(module.named_parameters()), here / "grads.pt")
    torch.save(module, here / "whole.pt")
    header = json.dumps({"__metadata__": {"leakscope": json.dumps({"kind": "update"})}}).encode()
    (here / "u.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    given = ["--domain", "3x8x8"] if "pictures" in command else []
    refused = call(*command.format(model="--model ten:net").split(), *given)
    assert refused.exit_code == Exit.USAGE
    assert says in refused.stderr
    assert "\x1b" not in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_a_search_that_was_stopped_goes_on_to_the_same_answer(here, monkeypatch):
    captured("--tell", "BatchSize", model=("--model", "LeNet()", "--data", "Synthetic((1, 16, 16), classes=4)"))
    search = ("attack", "u.safetensors", "--model", "LeNet()", "--with", "inverting_gradients(steps=60)")
    call(*search)
    whole = read(here / "claim.safetensors", ClaimHeader)[1]["claim.values"]
    monkeypatch.setattr(attack_command, "EVERY", 0.0)
    with monkeypatch.context() as patience:
        patience.setattr(console, "watching", impatient)
        stopped = call(*search, "--checkpoint", "state")
    assert "; go on with --resume" in stopped.stderr
    assert not np.array_equal(read(here / "claim.safetensors", ClaimHeader)[1]["claim.values"], whole)
    other = call(*search, "--seed", 1, "--checkpoint", "state", "--resume")
    assert (other.exit_code, "of another attack, observation or key" in other.stderr) == (Exit.USAGE, True)
    result = call(*search, "--checkpoint", "state", "--resume", "--json")
    assert json.loads(result.stdout)["tried"][0]["evaluations"] == 60
    assert np.array_equal(read(here / "claim.safetensors", ClaimHeader)[1]["claim.values"], whole)
    assert not Path("state").exists()


def test_one_update_can_show_a_leak_and_never_that_there_is_none(here):
    captured("--count", 2, "--tell", "BatchSize")
    model = ("--model", "MLP((40,))")
    call("attack", "u.safetensors", *model, "--with", "LabelCounts()")
    scored = call("score", "claim.safetensors", "s.safetensors", "--json")
    said = json.loads(scored.stdout)
    assert (said["word"], scored.exit_code) == ("inconclusive", Exit.INCOMPLETE)
    assert "one update is one trial" in said["sentence"]
    only = call("score", "claim.safetensors", "s.safetensors", "--metric", "LabelAccuracy()").stdout
    assert "label-accuracy" in only
    assert "label-counts" not in only
    captured("--count", 2, "--seed", 1)
    other = call("score", "claim.safetensors", "s.safetensors")
    assert (other.exit_code, "another update" in other.stderr) == (Exit.USAGE, True)


def scored(items, blind, exact=0, metric="psnr"):
    value, chance = float(np.mean(items)), float(np.mean(blind))
    return Score(metric, value, "dB", Direction.HIGHER, value, value, chance, 120.0, items, exact, blind)


@pytest.mark.parametrize(
    ("items", "blind", "residual", "word"),
    [
        ((40.0, 12.0), (13.0, 12.0), None, Word.LEAKS),  # one far beyond
        ((22.0, 12.0), (13.0, 12.0), None, Word.INCONCLUSIVE),  # less than 10 dB above its own
        ((30.0, 25.0), (13.0, 25.0), None, Word.INCONCLUSIVE),  # less than 6 dB above the best blind guess
        ((61.0, 61.0), (57.0, 57.0), 1e-9, Word.LEAKS),  # proved and confirmed
        ((17.0, 17.0), (13.0, 13.0), 1e-9, Word.INCONCLUSIVE),  # proved to within rounding, and no private input
        ((17.0, 17.0), (13.0, 13.0), 1.0, Word.INCONCLUSIVE),  # the proof does not hold
        ((14.0, 14.0), (13.0, 13.0), 1e-9, Word.INCONCLUSIVE),  # proved, but not confirmed
    ],
)
def test_the_word_is_that_of_rules_one_and_two(items, blind, residual, word):
    certificate = None if residual is None else Certificate.alike(residual, 1e-4, "equations", items=len(items))
    assert judged([scored(items, blind)], certificate)[0] is word


def test_an_exact_input_and_all_labels_confirm_a_proof():
    proof = Certificate.alike(0.0, 1e-4, "equations")
    assert judged([scored((120.0,), (116.0,), exact=1)], proof)[0] is Word.LEAKS
    assert judged([scored((120.0,), (120.0,), exact=1)], proof)[0] is Word.INCONCLUSIVE, "a guess has it too"
    labels = Score("label-accuracy", 1.0, "", Direction.HIGHER, 1.0, 1.0, 0.05, 1.0, (1.0, 1.0), 2, (0.0, 0.1))
    assert judged([labels], proof)[0] is Word.LEAKS
    coins = dataclasses.replace(labels, chance=0.5, blind=(0.5, 0.5))
    assert judged([coins], proof)[0] is Word.INCONCLUSIVE, "two coins are right one time in four"
    wrong = dataclasses.replace(labels, value=0.5, low=0.5, high=0.5, items=(1.0, 0.0))
    assert "a defect of the attack" in judged([wrong], Certificate.alike(0.0, 1e-4, "equations", items=2))[1]
    assert judged([labels], None)[0] is Word.INCONCLUSIVE


# --- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--update", "g.npz"), "say what the numbers of --update are: --kind gradient, or --kind delta"),
        (("--kind", "delta"), "--kind says what the numbers of --update are"),
        (("--before", "a.pt"), "--before and --after belong together"),
        (("--before", "a.pt", "--after", "b.pt", "--update", "g.npz", "--kind", "delta"), "give either --update, or"),
        (("--update", "none.npz", "--kind", "gradient"), "no file none.npz"),
        (("--update", "g.npz", "--kind", "delta"), "FedSGD releases a Gradient, got Delta"),
        (("--update", "g.npz", "--kind", "gradient", "--secret", "s.safetensors"), "--secret needs the private"),
        (("--update", "g.npz", "--kind", "gradient", "--tell", "BatchSize"), "write its value, such as BatchSize(4)"),
        (("--update", "g.npz", "--kind", "gradient", "--count", "3"), "--tell 'BatchSize(4)'"),
        (("--update", "short.npz", "--kind", "gradient"), "is a list of 1 arrays without names, the model has 2"),
        ((), "whose data? give --data"),
        (("--data", "no/folder"), "no folder no/folder"),
        (("--data", "Digits(sise=8)"), "did you mean 'size'?"),
        (("--data", "Digits(size=8)", "--tell", "BatchSise"), "did you mean 'BatchSize'?"),
        (("--data", "Digits(size=8)", "--tell", "BatchSize(-1)"), "expected a batch size >= 1"),
        (("--data", "Digits(size=8)", "--mechanism", "FedSDG()"), "did you mean 'FedSGD'?"),
        (("--data", "Digits(size=8)", "--domain", "3x8x8"), "make --domain and the data agree"),
        (("--data", "Digits(size=8)", "--domain", "8 by 8"), "cannot read the domain"),
        (("--batch", "g.npz"), "expected inputs and labels"),
        (("--batch", "b.npz", "--count", "5"), "holds 2 examples, --count says 5"),
    ],
)  # fmt: skip
def test_a_mistake_in_capture_is_one_line(here, more, says):
    np.savez("g.npz", np.zeros((3, 16), np.float32), np.zeros(3, np.float32))
    np.savez("short.npz", np.zeros((3, 16), np.float32))
    np.savez("b.npz", inputs=np.zeros((2, 1, 4, 4), np.float32), labels=np.array([0, 1]))
    takes = () if "--domain" in more or "--data" in more else ("--domain", "1x4x4", "--classes", "3")
    result = call("capture", "--model", "Linear()", *takes, "--out", "u.safetensors", *more)
    assert result.exit_code == Exit.USAGE
    assert says in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert not Path("u.safetensors").exists()


def test_other_weights_other_files_and_other_order_are_refused(here):
    captured("--count", 2)
    call("attack", "u.safetensors", "--model", "MLP((40,))")
    other = ls.MLP((40,)).build(ls.Images(1, 8, 8), 10, key=ls.Key(9))
    torch.save(other.module.state_dict(), "w.pt")
    np.savez("g.npz", np.zeros(3))
    for arguments, says in (
        (("attack", "u.safetensors", "--model", "MLP((40,))", "--state", "w.pt"), "fingerprints of the weights differ"),
        (("attack", "u.safetensors", "--model", "MLP((41,))"), "fingerprints of the weights differ"),
        (("attack", "s.safetensors", "--model", "MLP((40,))"), "s.safetensors is a secret, expected an update"),
        (("attack", "g.npz", "--model", "MLP((40,))"), "is not a safetensors file"),
        (("attack", "u.safetensors", "--model", "MLP((40,))", "--with", "LinerLayer()"), "did you mean 'LinearLayer'?"),
        (("attack", "u.safetensors", "--model", "MLP((40,))", "--resume"), "goes on with the state in --checkpoint"),
        (("attack", "u.safetensors", "--model", "MLP((40,))", "--checkpoint", "w.pt"), "w.pt is there already"),
        (("attack", "u.safetensors", "--model", "MLP((40,))", "--seconds", "-1"), "more than 0 seconds"),
        (("score", "s.safetensors", "claim.safetensors"), "s.safetensors is a secret, expected a claim"),
        (("score", "claim.safetensors", "none.safetensors"), "no file none.safetensors"),
    ):
        result = call(*arguments)
        assert result.exit_code == Exit.USAGE, arguments
        assert says in " ".join(result.stderr.split())
        assert "Traceback" not in result.stderr


def test_models_of_libraries_have_one_place_and_say_what_is_missing(monkeypatch):
    for prefix in ("torchvision", "timm"):
        try:
            __import__(prefix)
        except ImportError:
            with pytest.raises(MissingExtra, match=rf"--model {prefix}:resnet18 needs the package {prefix}, .*models"):
                architecture(f"{prefix}:resnet18", 10)
    made = Library("math", "models", lambda name, classes: ls.MLP((len(name), classes)))
    monkeypatch.setitem(LIBRARIES, "toys", made)
    assert architecture("toys:abc/d-e.f", 7) == ls.MLP((9, 7))
    with pytest.raises(BadInput, match="expected toys:NAME such as toys:resnet18"):
        architecture("toys:__import__('os')", 7)
    with pytest.raises(BadInput, match=r"did you mean 'LeNet'\?"):
        architecture("LeNte()", 10)
    with pytest.raises(BadInput, match=r"expected a target.*PACKAGE.MODULE:FACTORY, or one of torchvision:NAME"):
        architecture("FedSGD()", 10)
    assert architecture("Imported('a:b')", 3) == architecture("a:b", 3) == ls.Imported("a:b")


# --- files ----------------------------------------------------------------------------------------------------------

HEADERS = {"u.safetensors": UpdateHeader, "s.safetensors": SecretHeader, "claim.safetensors": ClaimHeader}
WHOLE = {}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    old = Path.cwd()
    os.chdir(folder)
    try:
        captured("--count", 2)
        call("attack", "u.safetensors", "--model", "MLP((40,))")
    finally:
        os.chdir(old)
    return {name: (folder / name).read_bytes() for name in HEADERS}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(HEADERS)), data=st.data())
def test_a_file_that_is_not_whole_is_refused_with_a_sentence(tmp_path, files, name, data):
    """Cut short or with changed bytes; a change that is read as the same (spaces in JSON) may pass."""
    damaged = bytearray(files[name])
    if data.draw(st.booleans()):
        damaged = damaged[: data.draw(st.integers(0, len(damaged) - 1))]
    else:
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path / name
    path.write_bytes(bytes(damaged))
    with pytest.raises(BadInput, match=re.escape(str(path.name))):
        read(path, HEADERS[name])


def test_numbers_and_kinds_survive_the_file(tmp_path):
    target = ls.Linear().build(ls.Images(1, 2, 2), 3, key=ls.Key(0))
    names = list(target.parameters())
    odd = {names[0]: torch.randn(3, 4).bfloat16().T.T, names[1]: torch.tensor([1.0, -0.0, 1e-30], dtype=torch.float16)}
    for kind in (ls.Gradient, ls.Delta, ls.Weights):
        told = (ls.BatchSize(2), ls.BatchNormStatistics((("bn", ls.LayerStatistics((0.1, 1e-17), (2.0, 3.0))),)))
        seen = ls.Observation(target, kind(odd), ls.FedSGD() >> ls.Clip(1.0), told)
        audit_files.write_update(tmp_path / "u", seen, audit_files.Provenance("Linear()"))
        update = read_update(tmp_path / "u")
        assert type(update.release) is kind
        assert update.release.fingerprint() == seen.release.fingerprint()
        assert update.header.told == tuple(map(repr, told))
        assert update.header.weights == audit_files.fingerprint(target)


@pytest.mark.parametrize(
    "claim",
    [
        ls.Inputs(torch.randn(2, 1, 2, 2)),
        ls.Inputs(torch.randn(2, 5, 3), confidence=torch.tensor([0.5, torch.nan]), lengths=torch.tensor([5, 2])),
        ls.Labels(torch.tensor([2, 0])),
        ls.Attribute("speaker", torch.tensor([1]), scores=torch.tensor([[-torch.inf, 0.5]])),
        ls.Transcripts(((1, 2), (), (3,))),
        ls.Labels(torch.tensor([0, 2]), distinct=True),
        ls.Tokens(((1, 2),), bag=True),
        ls.Attribute("sex", torch.tensor([1]), scores=torch.tensor([[0.2, 0.8]]).log(), scale=ls.Scale.LOG_PROBABILITY),
    ],
    ids=lambda claim: type(claim).__name__,
)
def test_every_kind_of_claim_survives_the_file(tmp_path, claim):
    target = ls.Linear().build(ls.Images(1, 2, 2), 3, key=ls.Key(0))
    seen = ls.Observation(target, ls.Gradient(target.parameters()), ls.FedSGD())
    trace = Trace((1, 2), (0.5, float("nan")), ((1, torch.zeros(2, 1, 2, 2)),))
    refused = Attempt("no()", Outcome.REFUSED, "because")
    made = Attempt(
        "yes()",
        Outcome.CLAIMED,
        "so",
        claim,
        Certificate.alike(float("inf"), 1.0, "x", items=len(claim)),
        Cost(1.5, 3),
        trace,
        ("a",),
    )
    audit_files.write_claim(tmp_path / "c", seen, [refused, made], made)
    found = read_claim(tmp_path / "c")
    back = found.attempt
    assert [one.outcome for one in found.header.tried] == ["refused", "claimed"]
    assert (back.attack, back.outcome, back.sentence, back.certificate, back.cost, back.steps) == (
        made.attack, made.outcome, made.sentence, made.certificate, made.cost, made.steps,
    )  # fmt: skip
    assert back.trace.losses[0] == 0.5
    assert np.isnan(back.trace.losses[1])
    assert back.trace.pictures[0][1].shape == (2, 1, 2, 2)
    assert type(back.claim) is type(claim)
    for name, value in vars(claim).items():
        got = getattr(back.claim, name)
        assert torch.equal(got.nan_to_num(9.0), value.nan_to_num(9.0)) if torch.is_tensor(value) else got == value


def test_every_domain_is_rebuilt_from_what_a_file_says_of_it():
    for source in (build(row.example, Family.DATASETS) for row in rows(Family.DATASETS)):
        if Trait.NEEDS_EXTRA not in next(row for row in rows() if row.build is type(source)).traits:
            assert domain(repr(source.domain)) == source.domain


def test_a_file_from_another_time_is_refused(tmp_path):
    target = ls.Linear().build(ls.Images(1, 2, 2), 3, key=ls.Key(0))
    seen = ls.Observation(target, ls.Gradient(target.parameters()), ls.FedSGD())
    header = audit_files.write_update(tmp_path / "u", seen, audit_files.Provenance("Linear()"))
    from leakscope.ledger import container

    container.write(tmp_path / "u", header.model_copy(update={"format": 99}), {"w": np.zeros(1)})
    with pytest.raises(BadInput, match="has format 99, this leakscope reads 1"):
        read_update(tmp_path / "u")


# --- the page of the documentation ----------------------------------------------------------------------------------


def test_the_page_does_what_it_shows(here, monkeypatch):
    """Every block of docs/bring-your-own.md in turn: modules are written, Python is run, commands end as they say."""
    monkeypatch.syspath_prepend(here)
    text = (ROOT / "docs" / "bring-your-own.md").read_text(encoding="utf-8")
    commands = 0
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        name = re.match(r"# (\w+\.py)\n", block)
        if name is not None:
            (here / name[1]).write_text(block)
        elif language == "python":
            with ls.Key(0).isolated():
                exec(compile(block, "bring-your-own.md", "exec"), {})
        for line in re.findall(r"^leakscope (.*)$", block, flags=re.MULTILINE) if language == "" else ():
            said, _, ends = line.partition("#")
            result = call(*shlex.split(said))
            assert result.exit_code == int((re.findall(r"exits with (\d)", ends) or ["0"])[0]), (line, result.stderr)
            commands += 1
    assert commands == 6
    sys.modules.pop("mymodel")


# --- what an update looks like --------------------------------------------------------------------------------------


def trained_by(make, *, training=False):
    """Two files of weights around one step on one example, by an optimizer of torch."""
    with ls.Key(3).isolated():
        net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(576, 10))
        inputs = torch.rand(2, 1, 8, 8)
    net.train(training)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = make(net.parameters())
    nn.functional.cross_entropy(net(inputs), torch.tensor([3, 4])).backward()
    optimizer.step()
    torch.save(before, "before.pt")
    torch.save(net.state_dict(), "after.pt")
    torch.save({n: v.float() - before[n].float() for n, v in net.state_dict().items()}, "delta.pt")


SMALL_NORM = (
    "from torch import nn\n\n\ndef net():\n    return nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), "
    "nn.ReLU(), nn.Flatten(), nn.Linear(576, 10))\n"
)


@pytest.fixture
def small_norm(here, monkeypatch):
    (here / "small_norm.py").write_text(SMALL_NORM)
    monkeypatch.syspath_prepend(here)
    return ("--model", "small_norm:net", "--domain", "1x8x8", "--classes", 10, "--out", "u.safetensors")


PAIR = ("--before", "before.pt", "--after", "after.pt")


def test_the_doctor_says_what_an_update_looks_like_and_what_to_declare(small_norm):
    trained_by(lambda parameters: torch.optim.Adam(parameters, lr=1e-3))
    done = call("capture", *small_norm, *PAIR, "--mechanism", "FedAvg(steps=1, lr=0.001)")
    assert done.exit_code == 0, done.stderr
    assert "one size, as signs and first steps of Adam" in done.stderr
    assert "optimizer=Adam()" in done.stderr
    look = ("doctor", "--model", "small_norm:net", "--state", "before.pt", "--update", "u.safetensors")
    done = call(*look)
    assert "warning: update entries: nearly all entries of the update have one size" in done.stdout, done.stderr
    assert "declare FedAvg(steps, lr, optimizer=Adam())" in done.stdout
    # declared as it was, it looks like what it is
    done = call("capture", *small_norm, *PAIR, "--mechanism", "FedAvg(steps=1, lr=0.001, optimizer=Adam())")
    assert "one size" not in done.stderr
    done = call(*look)
    assert "one size" not in done.stdout
    assert "Adam" not in done.stdout
    for wrong, words in (
        (("doctor", "--update", "u.safetensors"), "give --model"),
        (("doctor", "--model", "small_norm:net", "--state", "before.pt"), "give both or neither"),
        (("doctor", "--model", "small_norm:net", "--update", "no.safetensors"), "no file no.safetensors"),
        (("doctor", "--model", "small_norm:net", "--update", "u.safetensors"), "the weights differ"),
    ):
        assert words in " ".join(call(*wrong).stderr.split()), wrong


def test_statistics_that_moved_and_a_reversed_sign_are_said_by_capture(small_norm):
    trained_by(lambda parameters: torch.optim.SGD(parameters, lr=0.1), training=True)
    for brought in (PAIR, ("--update", "delta.pt", "--kind", "delta", "--state", "before.pt")):
        done = call("capture", *small_norm, *brought, "--mechanism", "FedAvg(steps=1, lr=0.1)")
        assert done.exit_code == 0, done.stderr
        assert "running statistics moved" in done.stderr
        assert "training=True" in done.stderr
    told = ("--tell", "BatchSize(2)", "--state", "before.pt")
    done = call("capture", *small_norm, "--update", "delta.pt", "--kind", "gradient", *told)
    assert "the sign is reversed" in done.stderr
    assert (
        "the sign is reversed"
        in call("doctor", "--model", "small_norm:net", "--state", "before.pt", "--update", "u.safetensors").stdout
    )
    done = call("capture", *small_norm, *PAIR, "--tell", "BatchSize(2)", "--mechanism", "FedAvg(steps=1, lr=0.1)")
    assert "reversed" not in done.stderr


def test_two_files_of_the_same_weights_are_no_update(small_norm):
    trained_by(lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    done = call("capture", *small_norm, "--before", "after.pt", "--after", "after.pt")
    assert done.exit_code != 0
    assert "hold the same weights: nothing was trained between them" in " ".join(done.stderr.split())
