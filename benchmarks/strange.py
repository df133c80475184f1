"""Files that no honest program writes, for `benchmarks/fuzz.py`: drawn by a seed, each with the command that reads it.

Half of the cases are damage (bytes that changed, files cut short, other kinds of file), half are lies: files that are
whole, with a right checksum, and say what cannot be.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import struct
import wave
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lies import NUMBERS, PLAN, PLAUSIBLE, TEXTS, WEIGHTS
from PIL import Image
from safetensors.numpy import save_file

from leakscope.ledger.container import Content, read_content, write_content

LINEAR = ("--model", "MLP((8,))")
ZEROS = bytes(2**20)
QUICK = ("--with", "LabelCounts()", "--with", "LinearLayer()", "--with", "idlg(evaluations=2)")


def _packed() -> bytes:
    packing = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packing.compress(ZEROS) + packing.flush(zlib.Z_FULL_FLUSH)


PACKED = _packed()
"""One MB of zeros as a part of a compressed stream that fits behind any other."""


@dataclass(frozen=True)
class Case:
    """kind: of the file. line: the command. canary: a place where something is only if code of the file was run.

    codes: how it may end. says: what its sentence has to contain.
    """

    kind: str
    line: tuple[str, ...]
    canary: Path
    codes: tuple[int, ...] = (0, 1, 2, 3)
    says: str = ""


@dataclass(frozen=True)
class World:
    """Honest files to begin with, made once by the command line itself, and where a case may write."""

    honest: Path
    place: Path
    draw: random.Random

    @property
    def canary(self) -> Path:
        """Where planted code would write."""
        return self.place / "CANARY"

    def copy(self, name: str) -> Path:
        """A copy of an honest file or folder."""
        source, made = self.honest / name, self.place / name
        if source.is_dir():
            shutil.copytree(source, made)
        else:
            shutil.copy(source, made)
        return made

    def text(self) -> str:
        """A text that lies."""
        return self.draw.choice(TEXTS).replace("CANARY", str(self.canary))

    def value(self) -> Any:
        """Anything that JSON can hold."""
        return self.draw.choice(
            (self.draw.choice(NUMBERS), self.text(), [self.text()], [self.draw.choice(NUMBERS)] * 3)
        )


class Canary:
    """A pickle that makes a folder when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def damage(world: World, path: Path) -> None:
    """Bytes that changed on their way, or something else in the place of the file."""
    draw, content = world.draw, bytearray(path.read_bytes())
    kind = draw.randrange(8)
    if kind == 0:
        content = content[: draw.randrange(len(content) + 1)]
    elif kind <= 3:
        for _ in range(draw.choice((1, 3, 30))):
            if content:
                content[draw.randrange(min(len(content), draw.choice((16, 200, len(content)))))] = draw.randrange(256)
    elif kind == 4:
        content[:8] = struct.pack("<Q", draw.choice((0, 1, 2**20, 2**40, 2**63, 2**64 - 1)))
    elif kind == 5:
        content += content[: draw.randrange(len(content) + 1)]
    elif kind == 6:
        path.unlink()
        path.mkdir()
        return
    else:
        deep = "[" * 100000
        said = draw.choice((f'{{"__metadata__": {{"leakscope": "{deep}"}}}}', deep, '{"a": 1}', "null")).encode()
        content = bytearray(struct.pack("<Q", len(said)) + said)
    path.write_bytes(bytes(content))


def lie(world: World, path: Path) -> None:
    """The same container with another description or other arrays, and a checksum that is right."""
    found = read_content(path)
    assert isinstance(found, Content)
    try:
        said, arrays = json.loads(found.text), dict(found.arrays)
    except (ValueError, RecursionError):
        return  # a lie already, of which no other can be made
    if world.draw.random() < 0.65:
        for _ in range(world.draw.choice((1, 1, 2))):
            _mutate(world, said)
    else:
        _bend(world, arrays)
    text = json.dumps(said)
    if world.draw.random() < 0.05:
        text = world.draw.choice(
            (text[:-1], "[]", "null", '{"a":' * 3000, text.replace(":", ": " + "9" * 400 + ",", 1))
        )
    write_content(path, found.kind, text, arrays)


def _mutate(world: World, said: Any) -> None:
    """Change, add or remove something somewhere in a JSON value, in its place."""
    draw = world.draw
    while True:
        inner = [
            one for one in (said.values() if isinstance(said, dict) else said) if isinstance(one, dict | list) and one
        ]
        if not inner or draw.random() < 0.4:
            break
        said = draw.choice(inner)
    keys: list[Any] = list(said) if isinstance(said, dict) else list(range(len(said)))
    if not keys:
        return
    key = draw.choice(keys)
    if draw.random() < 0.1:
        del said[key]
    elif draw.random() < 0.1 and isinstance(said, dict):
        said[world.text()] = world.value()
    elif isinstance(said[key], str) and draw.random() < 0.7:
        said[key] = world.text()
    elif isinstance(said[key], list) and draw.random() < 0.7:
        said[key] = [world.text() for _ in range(draw.choice((1, 1, 2, 50)))]
    else:
        said[key] = world.value()


def _bend(world: World, arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    """Other types, shapes, names and numbers."""
    draw = world.draw
    name = draw.choice(list(arrays) or ["w"])
    value = arrays.pop(name, np.zeros((2, 2), np.float32))
    changes: tuple[Callable[[], Any], ...] = (
        lambda: value.astype(bool),
        lambda: value.astype(np.int64),
        lambda: value.astype(np.uint8),
        lambda: value.astype(np.float16),
        lambda: value.astype(np.float64) * 1e300,
        lambda: np.full_like(value, np.nan, dtype=np.float32),
        lambda: np.full_like(value, np.inf, dtype=np.float32),
        lambda: np.full_like(value, -(2**62), dtype=np.int64),
        lambda: value[:0],
        lambda: value.reshape(-1),
        lambda: value.reshape(1, *value.shape),
        lambda: value[..., None][..., :0],
        lambda: np.concatenate([value.reshape(-1)] * 3),
        lambda: np.zeros((), np.float32),
        lambda: np.zeros_like(value),
        lambda: value.reshape(-1)[: max(value.size // 2, 1)],
    )
    if draw.random() < 0.8:
        arrays[name] = draw.choice(changes)()
    if draw.random() < 0.3:
        arrays[draw.choice(("n" * 3000, "", "a.b.c", "inputs", "claim.values", "picture.0", "\U0001f600"))] = value
    if draw.random() < 0.05:
        arrays |= {f"many.{i}": np.zeros(1, np.float32) for i in range(3000)}


def spoiled(world: World, name: str) -> Path:
    """A copy of an honest container, damaged or lying."""
    path = world.copy(name)
    (damage if world.draw.random() < 0.4 else lie)(world, path)
    return path


def update(world: World) -> tuple[str, ...]:
    """An update that is attacked."""
    name = world.draw.choice(("update.safetensors", "average.safetensors"))
    more = () if world.draw.random() < 0.1 else QUICK
    limits = ("--seconds", "2", "--evaluations", "2", "--out", str(world.place / "out.safetensors"))
    return ("attack", str(spoiled(world, name)), *LINEAR, *more, *limits)


def foreign(world: World) -> tuple[str, ...]:
    """Tensors of another program that are brought in: as an update, as weights, as private examples."""
    draw = world.draw
    path = _tensors(world)
    if draw.random() < 0.3:
        damage(world, path)
    rest = ("--domain", "1x8x8", "--classes", "10", "--out", str(world.place / "out.safetensors"))
    use = draw.choice((
        ("--update", str(path), "--kind", "gradient"),
        ("--data", "Digits(size=8)", "--state", str(path)),
        ("--batch", str(path)),
        ("--before", str(path), "--after", str(path)),
    ))  # fmt: skip
    return ("capture", *LINEAR, *use, *rest)


def _tensors(world: World) -> Path:
    draw, place = world.draw, world.place
    named = {name: value.astype(np.float32) for name, value in WEIGHTS.items()}
    if draw.random() < 0.3:
        named = {"inputs": np.zeros((2, 1, 8, 8), np.float32), "labels": np.array([1, 2])}
    kind = draw.randrange(7)
    if kind == 0:
        _bend(world, named)
        save_file({key: np.ascontiguousarray(value) for key, value in named.items()}, place / "f.safetensors")
        return place / "f.safetensors"
    if kind == 1:
        _bend(world, named)
        np.savez_compressed(place / "f.npz", **{key or "empty": value for key, value in named.items()})
        return place / "f.npz"
    if kind == 2:
        return _bomb(world)
    odd: dict[Any, Any] = {name: torch.from_numpy(value) for name, value in named.items()}
    key = draw.choice(list(odd))
    odd[draw.choice((key, 3, None, ("a", 1), "z" * 3000))] = draw.choice((
        torch.zeros(0), torch.ones(3, dtype=torch.bool), torch.zeros(2, 2).to(torch.float8_e4m3fn),
        torch.empty(2, 2, device="meta"), torch.eye(3).to_sparse(), torch.zeros(1).expand(10**9), "text", None, 3.5,
        [1, 2], torch.zeros(2, dtype=torch.complex64), torch.zeros(2).bfloat16(), {"a": torch.zeros(1)},
        Canary(world.canary), odd[key].double() * 1e300, torch.full_like(odd[key], 2),
    ))  # fmt: skip
    suffix = draw.choice((".pt", ".pth", ".ckpt", ".pkl", ".bin"))
    if kind == 3:
        (place / f"f{suffix}").write_bytes(pickle.dumps(Canary(world.canary)))
    else:
        torch.save({"state_dict": odd} if kind == 4 else list(odd.values()) if kind == 5 else odd, place / f"f{suffix}")
    return place / f"f{suffix}"


def _bomb(world: World) -> Path:
    """An archive whose members are far larger than it, declared or not, or arrays that are shorter than they say."""
    draw = world.draw
    shape = draw.choice(("(1000000000000,)", "(-1,)", "(1048576,)", "(10**9,)", "(8, 64)", "(" * 40, "(True,)"))
    return archive(
        world,
        shape=shape,
        kind=draw.choice(("<f4", "|O", "<U99999", "V8")),
        pieces=draw.choice((0, 1, 4, 1200)),
        # small where the content is large
        declared=draw.choice((None, 100)),
    )


def archive(
    world: World, *, shape: str, kind: str, pieces: int, declared: int | None, names: tuple[str, str] = ("w", "o")
) -> Path:
    """An `.npz` with one array of this header and so many MB of zeros, and a pickle. declared: its size in the list at
    the end. names: of both."""
    path, name = world.place / "f.npz", f"{names[0]}.npy".encode()
    said = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    body = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + said.ljust(117).encode()[:117] + b"\n"
    packed, check = zlib.compressobj(9, zlib.DEFLATED, -15), zlib.crc32(body)
    head = packed.compress(body) + packed.flush(zlib.Z_FULL_FLUSH)
    for _ in range(pieces):
        check = zlib.crc32(ZEROS, check)
    # The same MB once more is the same bytes once more: packing gigabytes takes longer than all that reads them.
    content = head + PACKED * pieces + packed.flush()
    size = len(body) + pieces * len(ZEROS)
    sizes = struct.pack("<HHHHHIII", 20, 0, zipfile.ZIP_DEFLATED, 0, 33, check, len(content), size)
    local = b"PK\x03\x04" + sizes + struct.pack("<HH", len(name), 0) + name + content
    sizes = struct.pack("<HHHHHIII", 20, 0, 8, 0, 33, check, len(content), size if declared is None else declared)
    central = (
        b"PK\x01\x02" + struct.pack("<H", 20) + sizes + struct.pack("<HHHHHII", len(name), 0, 0, 0, 0, 0, 0) + name
    )
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local), 0)
    path.write_bytes(local + central + end)
    with zipfile.ZipFile(path, "a") as more:
        more.writestr(f"{names[1]}.npy", pickle.dumps(Canary(world.canary)))
    return path


def secret(world: World) -> tuple[str, ...]:
    """A secret that a claim is compared with."""
    return ("score", str(world.honest / "claim.safetensors"), str(spoiled(world, "secret.safetensors")), *_page(world))


def claim(world: World) -> tuple[str, ...]:
    """A claim that is compared with the secret."""
    name = world.draw.choice(("claim.safetensors", "labels.safetensors"))
    return ("score", str(spoiled(world, name)), str(world.honest / "secret.safetensors"), *_page(world))


def _page(world: World) -> tuple[str, ...]:
    return ("--report", str(world.place / "page")) if world.draw.random() < 0.3 else ()


def plan(world: World) -> tuple[str, ...]:
    """A plan that is audited."""
    draw, text = world.draw, PLAN
    for _ in range(draw.choice((1, 1, 2))):
        lines = text.splitlines()
        at = draw.randrange(len(lines))
        key = lines[at].partition(" = ")[0]
        said = draw.choice((
            json.dumps(world.text()), json.dumps([world.text()]), json.dumps(draw.choice(NUMBERS)), "9" * 5000,
            "[" * 500, json.dumps(["FedSGD()", world.text()]), "1e999", "nan", "-1", "0x" + "f" * 400,
            "1979-05-27", '"""',
        ))  # fmt: skip
        if key in PLAUSIBLE and draw.random() < 0.6:
            said = draw.choice(PLAUSIBLE[key]).replace("CANARY", str(world.canary))
        lines[at] = f"{key} = {said}" if draw.random() < 0.9 else world.text()
        text = "\n".join(lines)
    path = world.place / "p.toml"
    path.write_text(text, encoding="utf-8", errors="replace")
    if draw.random() < 0.1:
        damage(world, path)
    out = ("--engine", "inline", "--out", str(world.place / "run"))
    more = ("--model", world.text()) if draw.random() < 0.1 else ()
    return ("audit", str(path), *out, *more)


def ledger(world: World) -> tuple[str, ...]:
    """A run folder that a page is made of, that an audit goes on in, or that is merged."""
    draw, run = world.draw, world.copy("run")
    cells = sorted((run / "cells").iterdir())
    for _ in range(draw.choice((1, 1, 3))):
        path = draw.choice((run / "plan.json", run / "summary.json", draw.choice(cells), draw.choice(cells)))
        if not path.is_file():
            continue
        if draw.random() < 0.35:
            damage(world, path)
        elif path.suffix == ".safetensors":
            if isinstance(read_content(path), Content):
                lie(world, path)
        else:
            _write_json(world, path)
    plan = str(world.honest / "plan.toml")
    return draw.choice((
        ("report", str(run)),
        ("report", str(run), "--redact"),
        ("audit", plan, "--engine", "inline", "--resume", "--out", str(run)),
        ("merge", plan, str(run), "--out", str(world.place / "whole")),
    ))  # fmt: skip


def _write_json(world: World, path: Path) -> None:
    try:
        said = json.loads(path.read_text())
    except (ValueError, RecursionError):
        return
    if not isinstance(said, dict):
        return
    _mutate(world, said)
    text = world.draw.choice(
        (json.dumps(said), json.dumps(said), json.dumps(said), "[]", "{}", "null", '{"cells": []}')
    )
    path.write_text(text)


def image(world: World) -> tuple[str, ...]:
    """A folder of pictures that private examples are drawn from."""
    draw, folder = world.draw, world.place / "pictures"
    folder.mkdir()
    suffix = draw.choice((".png", ".jpg", ".bmp", ".gif", ".tif", ".webp", ".ppm"))
    path = folder / f"{draw.choice(('a', 'n' * 200))}{suffix}"
    mode = draw.choice(("L", "RGB", "1", "P") if suffix in (".gif", ".bmp") else ("L", "RGB"))
    wide = draw.choice(((8, 8), (1, 1), (3, 500), (64, 64), (12000, 9000) if draw.random() < 0.2 else (9, 9)))
    Image.new(mode, wide).save(path)
    if wide != (12000, 9000) and draw.random() < 0.8:
        damage(world, path)
    if draw.random() < 0.2:
        (folder / "more").mkdir()
        Image.new("RGB", (8, 8)).save(folder / "more" / "b.png")
    rest = ("--domain", draw.choice(("1x8x8", "3x8x8", "3x8x8", "2x8x8", "1x0x8", "1x90000x90000")))
    return ("capture", *LINEAR, "--data", str(folder), *rest, "--out", str(world.place / "out.safetensors"))


def audio(world: World) -> tuple[str, ...]:
    """Recordings, with their transcripts or in a list, that private examples are drawn from."""
    draw, folder = world.draw, world.place / "sounds"
    folder.mkdir()
    for name in ("a", "b"):
        _wav(world, folder / f"{name}.wav")
        said = draw.choice(("ab", "a", "it is", world.text())) if draw.random() < 0.3 else "ab"
        (folder / f"{name}.txt").write_text(said, encoding="utf-8", errors="replace")
    if draw.random() < 0.3:
        damage(world, folder / "a.wav")
    data = folder
    if draw.random() < 0.3:
        data = folder / "list.csv"
        lines = [
            "wav_filename,wav_filesize,transcript",
            "a.wav,1,ab",
            f"{draw.choice(('b.wav', world.text()))},x,{world.text()}",
        ]
        data.write_text("\n".join(lines), encoding="utf-8", errors="replace")
        if draw.random() < 0.3:
            damage(world, data)
    return (
        "capture",
        "--model",
        "DeepSpeech(hidden=4)",
        "--data",
        str(data),
        "--out",
        str(world.place / "out.safetensors"),
    )


def _wav(world: World, path: Path) -> None:
    draw = world.draw
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(np.random.default_rng(draw.randrange(99)).integers(-9999, 9999, 8000, np.int16).tobytes())
    content = bytearray(path.read_bytes())
    if draw.random() < 0.5:
        content[24:28] = struct.pack(
            "<I", draw.choice((0, 1, 3999, 4000, 8000, 44100, 767999, 10**6, 2**31 - 1, 2**32 - 1))
        )
    if draw.random() < 0.2:
        content[22:24] = struct.pack("<H", draw.choice((0, 2, 255, 65535)))
    if draw.random() < 0.2:
        # IEEE floats of 32 bits, among them what is not finite
        content[20:22], content[32:36] = struct.pack("<H", 3), struct.pack("<HH", 4, 32)
        content[44:56] = struct.pack("<3f", *draw.choice(((np.nan, 0, 0), (np.inf, 0, 1), (1e38, 3e38, 0), (0, 0, 0))))
    if draw.random() < 0.2:
        content[40:44] = struct.pack("<I", draw.choice((0, 1, 2**31, 2**32 - 1)))
    path.write_bytes(bytes(content))


KINDS: dict[str, Callable[[World], tuple[str, ...]]] = {
    "update": update,
    "foreign": foreign,
    "secret": secret,
    "claim": claim,
    "plan": plan,
    "ledger": ledger,
    "image": image,
    "audio": audio,
}
"""Each kind of file, and how a case of it is drawn."""


def case(kind: str, seed: int, number: int, honest: Path, place: Path) -> Case:
    """The case of this number, a function of kind, seed and number; its files are written to the empty `place`."""
    world = World(honest, place, random.Random(f"{seed} {kind} {number}"))
    return Case(kind, KINDS[kind](world), world.canary)
