"""Cases for `benchmarks/fuzz.py` that are the same in every run: each way in which the limits were once passed.

Random cases may miss a limit that is switched off; these are made to hit it, and each says how it has to end.
"""

from __future__ import annotations

import json
import pickle
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from lies import PLAN, WEIGHTS
from places import full, read_only
from strange import LINEAR, Canary, Case, World, archive

from leakscope.ledger.container import Content, read_content, write_content

Line = tuple[str, ...]
REFUSED, INCOMPLETE = (2,), (3,)
DIGITS = "9" * 400


@final
@dataclass(frozen=True)
class Deliberate:
    """draw: writes the files and gives the command. codes: how it may end. says: what the sentence has to contain."""

    draw: Callable[[World], Line]
    codes: tuple[int, ...] = REFUSED
    says: str = ""


def attacked(path: Path | str, world: World, model: Line = LINEAR) -> Line:
    return ("attack", str(path), *model, "--with", "LabelCounts()", "--seconds", "2", "--out", _out(world))


def _out(world: World) -> str:
    return str(world.place / "out.safetensors")


def header(says: str = "", /, *, name: str = "update", **changes: Any) -> Deliberate:
    """An update whose description says something else; its checksum is right."""
    return Deliberate(lambda world: attacked(lied(world, f"{name}.safetensors", changes), world), says=says)


def lied(world: World, name: str, changes: Mapping[str, Any]) -> Path:
    path = world.copy(name)
    found = read_content(path)
    assert isinstance(found, Content)
    write_content(path, found.kind, json.dumps({**json.loads(found.text), **changes}), found.arrays)
    return path


def bare(content: bytes, says: str = "") -> Deliberate:
    """An update of these bytes."""

    def draw(world: World) -> Line:
        (world.place / "u.safetensors").write_bytes(content)
        return attacked(world.place / "u.safetensors", world)

    return Deliberate(draw, says=says)


def scored(name: str, changes: Mapping[str, Any]) -> Deliberate:
    """A claim or a secret whose description says something else."""

    def draw(world: World) -> Line:
        files = {one: str(world.honest / f"{one}.safetensors") for one in ("claim", "secret")}
        files[name] = str(lied(world, f"{name}.safetensors", changes))
        return ("score", files["claim"], files["secret"])

    return Deliberate(draw)


def archived(declared: int | None, use: str = "--update") -> Deliberate:
    """Some MB that inflate to 1.2 GB. declared: the size that the archive's list gives, None for the true one."""

    def draw(world: World) -> Line:
        # A batch is told by the names of its arrays, before anything of it is read.
        names = ("inputs", "labels") if use == "--batch" else ("w", "o")
        path = archive(world, shape="(314572800,)", kind="<f4", pieces=1200, declared=declared, names=names)
        return brought(path, use, world)

    # Python's reader stops at the declared size, and finds the rest wrong
    return Deliberate(draw, says="would take" if declared is None else "cannot be read")


def brought(path: Path, use: str, world: World) -> Line:
    """A file of another program: as an update, as weights, as private examples."""
    rest = ("--domain", "1x8x8", "--classes", "10", "--out", _out(world))
    more = {"--update": ("--kind", "gradient"), "--state": ("--data", "Digits(size=8)"), "--batch": ()}[use]
    return ("capture", *LINEAR, use, str(path), *more, *rest)


def saved(make: Callable[[World], Any], *, suffix: str = ".pt", use: str = "--update", says: str = "") -> Deliberate:
    """What torch saved, or pickle where the suffix says so."""

    def draw(world: World) -> Line:
        path = world.place / f"f{suffix}"
        if suffix == ".pkl":
            path.write_bytes(pickle.dumps(make(world)))
        else:
            torch.save(make(world), path)
        return brought(path, use, world)

    return Deliberate(draw, says=says)


def weight(value: Any, says: str = "", *, name: Any = "1.weight") -> Deliberate:
    """A state dict with something strange in it."""
    rest = {one: torch.from_numpy(array.astype(np.float32)) for one, array in WEIGHTS.items()}
    return saved(lambda world: {**rest, name: value}, says=says)


def planned(*changes: tuple[str, str], codes: tuple[int, ...] = REFUSED, says: str = "") -> Deliberate:
    """A plan with some texts replaced."""

    def draw(world: World) -> Line:
        text = PLAN
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        (world.place / "p.toml").write_text(text)
        return _audit(world, world.place / "p.toml")

    return Deliberate(draw, codes, says)


def runs(path: str, /, *, around: str = "{}", **arguments: Any) -> Deliberate:
    """A plan whose target is something else to call. The canary's folder is the current one."""
    said = f"Imported({path!r}, {tuple(arguments.items())!r})"
    return planned(("Linear()", around.format(said).replace('"', "'")))


def _audit(world: World, plan: Path, *more: str) -> Line:
    return ("audit", str(plan), "--engine", "inline", "--out", str(world.place / "run"), *more)


def spoiled(name: str, text: str, command: str, codes: tuple[int, ...] = REFUSED) -> Deliberate:
    """A run with another text in one of its files; with an empty one, a folder is in its place."""

    def draw(world: World) -> Line:
        run = world.copy("run")
        path = run / name if name != "cell" else sorted((run / "cells").iterdir())[0]
        path.unlink()
        if text:
            path.write_text(text)
        else:
            path.mkdir()
        plan = world.honest / "plan.toml"
        lines = {
            "report": ("report", str(run)),
            "resume": _audit(world, plan, "--resume"),
            "merge": ("merge", str(plan), str(run), "--out", str(world.place / "whole")),
        }
        return lines[command]

    return Deliberate(draw, codes)


def drawn(arrays: Mapping[str, np.ndarray[Any, Any]]) -> Deliberate:
    """A record whose arrays no page can draw."""

    def draw(world: World) -> Line:
        run = world.copy("run")
        path = sorted((run / "cells").iterdir())[0]
        found = read_content(path)
        assert isinstance(found, Content)
        write_content(path, found.kind, found.text, {**found.arrays, **arrays})
        return ("report", str(run))

    # a page says of one damaged cell that it is damaged
    return Deliberate(draw, codes=(0, 1, 2, 3))


def pictured(name: str, content: bytes | None, says: str = "") -> Deliberate:
    """A folder with one picture of these bytes; None: a folder in its place."""

    def draw(world: World) -> Line:
        folder = world.place / "pictures"
        folder.mkdir()
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)
        return ("capture", *LINEAR, "--data", str(folder), "--domain", "3x8x8", "--out", _out(world))

    return Deliberate(draw, says=says)


def png(wide: int, high: int, *, rows: int = 0) -> bytes:
    """A PNG that says it has wide x high pixels, and holds so many rows of zeros."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packed = zlib.compressobj()
    body = b"".join(packed.compress(bytes(1 + 3 * wide)) for _ in range(rows)) + packed.flush()
    head = struct.pack(">IIBBBBB", wide, high, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def recorded(
    *,
    rate: int = 16000,
    code: int = 1,
    samples: bytes = bytes(32000),
    channels: int = 1,
    stated: int = 0,
    codes: tuple[int, ...] = REFUSED,
) -> Deliberate:
    """Recordings of these samples. code: 1 for whole numbers of 16 bits, 3 for floats of 32. stated: another size."""
    wide, stated = {1: 2, 3: 4}[code], stated or len(samples)
    head = struct.pack("<HHIIHH", code, channels, rate, rate * wide % 2**32, wide * channels % 2**16, 8 * wide)
    body = b"WAVEfmt " + struct.pack("<I", 16) + head + b"data" + struct.pack("<I", stated) + samples

    def draw(world: World) -> Line:
        folder = world.place / "sounds"
        folder.mkdir()
        for name in ("a", "b"):
            (folder / f"{name}.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
            (folder / f"{name}.txt").write_text("ab")
        return ("capture", "--model", "DeepSpeech(hidden=4)", "--data", str(folder), "--out", _out(world))

    return Deliberate(draw, codes)


def modeled(text: str, command: str = "capture", *, codes: tuple[int, ...] = REFUSED, module: str = "") -> Deliberate:
    """A model that is named, in this module where one is given."""

    def draw(world: World) -> Line:
        if module:
            (world.place / "far_too_large.py").write_text(module)
        if command == "audit":
            return _audit(world, world.honest / "plan.toml", "--model", text)
        if command == "attack":
            return attacked(world.copy("update.safetensors"), world, ("--model", text))
        return ("capture", "--model", text, "--data", "Digits(size=8)", "--out", _out(world))

    return Deliberate(draw, codes)


def written(where: Callable[[Path], Path], command: str, codes: tuple[int, ...]) -> Deliberate:
    """A command whose results have no place. where: makes of an empty folder the one to write to."""

    def draw(world: World) -> Line:
        (world.place / "there").mkdir()
        copied = world.copy("run") if command in ("report", "resume") else None
        if command == "report":
            (world.place / "there").rmdir()
            assert copied is not None
            copied.rename(world.place / "there")
        place = where(world.place / "there")
        lines = {
            "capture": ("capture", *LINEAR, "--data", "Digits(size=8)", "--out", str(place / "o.safetensors")),
            "attack": (*attacked(world.copy("update.safetensors"), world)[:-1], str(place / "o.safetensors")),
            "score": ("score", *(str(world.honest / f"{one}.safetensors") for one in ("claim", "secret")),
                      "--report", str(place / "page")),
            "audit": ("audit", str(world.honest / "plan.toml"), "--engine", "inline", "--out", str(place / "run")),
            "merge": ("merge", str(world.honest / "plan.toml"), str(world.honest / "run"), "--out", str(place / "w")),
            "report": ("report", str(place)),
        }  # fmt: skip
        return lines[command]

    return Deliberate(draw, codes)


def placed(name: str | None) -> Deliberate:
    """A path that is a folder, or longer than a system takes, where an update is expected."""

    def draw(world: World) -> Line:
        path = world.place / (name or "d.safetensors")
        if name is None:
            path.mkdir()
        return attacked(path, world)

    return Deliberate(draw)


SIGNS = "FedSGD()" + " >> Clip(1.0)" * 3000
DEEP = "[" * 100_000
LARGE = """
from torch import nn
def wide(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 4_000_000_000), nn.Linear(4_000_000_000, 10))
def beyond(): return nn.Linear(2**40, 2**40)
def layers(): return nn.Sequential(nn.Flatten(), *(nn.Linear(64, 100_000) for _ in range(20_000)))
"""

CASES: dict[str, Deliberate] = {
    "honest": Deliberate(lambda world: attacked(world.copy("update.safetensors"), world), codes=(1, 3)),
    "steps": header("local steps", name="average", mechanism="FedAvg(steps=300000000, lr=0.1)"),
    "steps-clipped": header("local steps", name="average", mechanism="FedAvg(steps=300000000, lr=0.1) >> Clip(1.0)"),
    "micro-batches": header("", name="average", mechanism="FedAvg(steps=3, lr=0.1, accumulate=300000000)"),
    "batch": header("would take", told=["BatchSize(100000000)"]),
    "labels": header("", told=[f"TrueLabels(({'1, ' * 2_000_000}))"]),
    "classes": header("classes", classes=10**9),
    "pixels": header("would take", domain="Images(1, 100000, 100000)"),
    "letters": header("does not combine", mechanism="MLP(('a' * 1000000000,))"),
    "digits": header("", classes=int(DIGITS)),
    "digits-told": header("", told=[f"BatchSize({DIGITS})"]),
    "digits-rate": header("", mechanism=f"FedAvg(steps=1, lr={DIGITS})"),
    "power": header("", mechanism="FedAvg(steps=10 ** 10 ** 10, lr=0.1)"),
    "seed": header("", weights_seed=-1),
    "many-signs": header("", mechanism=SIGNS),
    "planted": header("", mechanism="__import__('os').mkdir('CANARY')"),
    "long-header": bare(struct.pack("<Q", 2**62) + b"{}"),
    "deep-header": bare(struct.pack("<Q", len(DEEP)) + DEEP.encode()),
    "empty": bare(b""),
    "folder": placed(None),
    "long-name": placed("n" * 400),
    "secret-classes": scored("secret", {"classes": 10**12}),
    "secret-pixels": scored("secret", {"domain": "Images(1, 100000, 100000)"}),
    "secret-words": scored("secret", {"words": 5}),
    "claim-kind": scored("claim", {"claim": "Labels"}),
    "claim-text": scored("claim", {"text": []}),
    "claim-chosen": scored("claim", {"chosen": 10**9}),
    "archive": archived(None),
    "archive-lies": archived(100),
    "archive-weights": archived(None, "--state"),
    "archive-batch": archived(100, "--batch"),
    "pickle": saved(lambda world: Canary(world.canary), suffix=".pkl", says="pickle"),
    "pickle-in-torch": saved(lambda world: {"1.weight": Canary(world.canary)}),
    "pickle-weights": saved(lambda world: Canary(world.canary), use="--state"),
    "repeated": weight(torch.zeros(1).expand(10**9), "would take"),
    "repeated-batch": saved(lambda world: {"inputs": torch.zeros(1, 1, 1, 1).expand(10**8, 1, 8, 8),
                                           "labels": torch.zeros(1, dtype=torch.int64).expand(10**8)}, use="--batch"),
    "no-numbers": weight(torch.zeros(0)),
    "truths": weight(torch.ones(8, 64, dtype=torch.bool)),
    "fp8": weight(torch.zeros(8, 64).to(torch.float8_e4m3fn)),
    "meta": weight(torch.empty(8, 64, device="meta")),
    "sparse": weight(torch.zeros(8, 64).to_sparse()),
    "complex": weight(torch.zeros(8, 64, dtype=torch.complex64)),
    "text": weight("text"),
    "nan": weight(torch.full((8, 64), torch.nan)),
    "number-as-name": weight(torch.zeros(1), name=3),
    "plan-letters": planned(("Linear()", "MLP(('a' * 1000000000,))")),
    "plan-digits": planned(("trials = 1", f"trials = {DIGITS}")),
    "plan-seed": planned(("seed = 0", "seed = -1")),
    "plan-data-seed": planned(("count=24", "seed=-1")),
    "plan-signs": planned(('"FedSGD()"', f'"{SIGNS}"')),
    "plan-trials": planned(("trials = 1", "trials = 1000000000")),
    "plan-batch": planned(("batch_size = 1", "batch_size = 1000000000")),
    "plan-count": planned(("count=24", "count=1000000000")),
    "plan-classes": planned(("classes=3", "classes=1000000000")),
    "plan-shape": planned(("(1, 4, 4)", "(1, 100000, 100000)")),
    "plan-pixels": planned(("Synthetic((1, 4, 4), classes=3, count=24)", "Digits(size=20000)")),
    "plan-steps": planned(('"FedSGD()"', '"FedAvg(steps=300000000, lr=0.1)"')),
    "plan-width": planned(("Linear()", "MLP((1000000, 1000000))")),
    "plan-runs": runs("os:mkdir", path="CANARY"),
    "plan-runs-inside": runs("torch:os.mkdir", path="CANARY"),
    "plan-runs-torch": runs("torch:save", obj=1, f="CANARY"),
    "plan-runs-fitted": runs("os:mkdir", path="CANARY", around="Fitted({}, Synthetic((1, 4, 4), count=24))"),
    "plan-runs-hidden": runs("torch.nn:Linear.__init__.__globals__"),
    "plan-runs-beside": runs("test.support.os_helper:create_empty_file", filename="CANARY"),
    "plan-runs-installed": runs("numpy:save", file="CANARY", arr=1),
    "plan-runs-library": planned(("Linear()", "Torchvision('resnet.torch.hub.load', (('repo_or_dir', '.'),))")),
    "plan-runs-wide": runs("torch.nn:Linear", in_features=10**6, out_features=10**9),
    "plan-list": spoiled("plan.json", "[]", "resume"),
    "plan-list-merged": spoiled("plan.json", "[]", "merge"),
    "plan-list-shown": spoiled("plan.json", "[]", "report", (0, 1, 2, 3)),
    "plan-lacks": spoiled("plan.json", '{"cells": {"a": 1}, "leakscope": "0"}', "resume"),
    "plan-deep": spoiled("plan.json", DEEP, "resume"),
    "plan-folder": spoiled("plan.json", "", "resume"),
    "summary-list": spoiled("summary.json", "[]", "report"),
    "summary-deep": spoiled("summary.json", '{"a":' * 100_000, "report"),
    "summary-folder": spoiled("summary.json", "", "report"),
    "index-folder": spoiled("index.jsonl", "", "resume", (0, 1, 2, 3)),
    "cell-folder": spoiled("cell", "", "report", (0, 1, 2, 3)),
    "cell-folder-resumed": spoiled("cell", "", "resume", (0, 1, 2, 3)),
    "cell-scalar": drawn({"original": np.zeros(()), "claim": np.zeros(())}),
    "cell-rate": drawn({"audio_original": np.zeros((1, 9)), "audio_rate": np.array([2**62])}),
    "cell-wide": drawn({"original": np.zeros((1, 1, 1, 3_000_000), np.uint8)}),
    "picture-bomb": pictured("a.png", png(100_000, 100_000), "pixels"),
    "picture-inflates": pictured("a.png", png(30_000, 30_000, rows=30_000)),
    "picture-thin": pictured("a.png", png(2**31 - 1, 1)),
    "picture-folder": pictured("a.png", None),
    "picture-text": pictured("a.png", b"hello"),
    "sound-rate": recorded(rate=2**31 - 1),
    "sound-rate-prime": recorded(rate=767_999),
    "sound-slow": recorded(rate=1),
    "sound-nan": recorded(code=3, samples=struct.pack("<f", float("nan")) + bytes(32000)),
    "sound-infinite": recorded(code=3, samples=struct.pack("<f", float("inf")) + bytes(32000)),
    "sound-loud": recorded(code=3, samples=struct.pack("<f", 3e38) + bytes(32000)),
    "sound-short": recorded(stated=2**32 - 1, codes=(0,)),
    "sound-channels": recorded(channels=65535),
    "model-width": modeled("MLP((1000000, 1000000))"),
    "model-width-attacked": modeled("MLP((1000000, 1000000))", "attack"),
    "model-beyond": modeled("MLP((9000000000000000000,))"),
    "model-speech": modeled("DeepSpeech(hidden=1000000)"),
    "model-depth": modeled("TextEncoder(depth=1000000)"),
    "own-wide": modeled("far_too_large:wide", module=LARGE),
    "own-beyond": modeled("far_too_large:beyond", module=LARGE),
    "own-layers": modeled("far_too_large:layers", module=LARGE),
    "own-audited": modeled("far_too_large:wide", "audit", module=LARGE),
    **{f"full-{command}-{kb}": written(lambda place, kb=kb: full(place, kb), command, INCOMPLETE)  # type: ignore[misc]
       for command, kb in (("capture", 0), ("attack", 0), ("score", 0), ("score", 16), ("audit", 0), ("audit", 8),
                           ("audit", 24), ("audit", 40), ("merge", 8), ("merge", 20), ("report", 12))},
    **{f"read-only-{command}": written(read_only, command, REFUSED)
       for command in ("capture", "attack", "score", "audit", "merge", "report")},
}  # fmt: skip
"""By name: what is in the way, and how it has to end."""


def case(name: str, honest: Path, place: Path) -> Case:
    """The case of this name; its files are written to the empty `place`."""
    import random

    world, wanted = World(honest, place, random.Random(name)), CASES[name]
    return Case("known", wanted.draw(world), world.canary, wanted.codes, wanted.says)
