"""Photographs from released heads: CIFAR-10 on a backbone of ImageNet (a part of `released_heads.py`, which says how).

The folder has `cifar10-train-2000-per-class.tar.gz`, or the `train/CLASS/*.jpg` that it unpacks to; of its 2 000
pictures of each class 400 are private, the others public (earlier 100 and 1 100: the question was the same, and the
interval of a thousand pictures too wide for an answer). The backbone is the packaged EfficientNet-Lite0 on
pictures of 64 x 64, its 1280 features scaled to a mean norm of 10; heads are of one picture of each class (48 steps,
decay 1e-4, init_std 0.0002, as published). What counts as found, and what stands beside it, says `head_scene.py`.
ImageNet's network keeps what a picture shows, and little of how it looks: what a decoder makes of true features is the
limit.
"""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import head_scene
import numpy as np
import torch
from head_scene import ATTACK, CLASSES, Lines, Scene, found, routes, scaled, split
from PIL import Image
from torch import Tensor

import leakscope as ls
from leakscope.attacks.inputs.heads import head_images, reading
from leakscope.attacks.inputs.heads.reading import features_of as features_of_pictures
from leakscope.targets.looking.dense_ends import DenseLayer

TRAINING = ls.HeadTraining(48, 0.01, 0.0002, optimizer=ls.ClientSGD(weight_decay=1e-4))
DOMAIN, SIZE, ARCHIVE = ls.Images(3, 32, 32), 64, "cifar10-train-2000-per-class.tar.gz"
HEADS, EACH, POOL, NULLS = 1600, 400, 1600, 400
"""Public heads behind the decoder, so that it sees each picture once, private and public pictures of each class, heads
of the control."""
QUICK_HEADS, QUICK_EACH, QUICK_POOL, QUICK_NULLS = 200, 5, 40, 50


def lines(data: str, quick: bool, key: ls.Key, pictures: str | None) -> Lines:
    """Every figure with what is expected of it."""
    begun = time.process_time()
    for module in (head_images, reading):
        module.features_of = _once
    scene = prepared(data, quick, key)
    learned, ways = time.process_time() - begun, routes(scene)
    rates = found(scene, ways, QUICK_NULLS if quick else NULLS)
    value, low, high = rates.of(ATTACK)
    rows = head_scene.said(scene, ways, rates, pictures, within=0.5, beyond=not quick)
    spent = time.process_time() - begun
    return [
        (f"CIFAR-10, {len(scene.attack.learner.pool)} public, {len(scene.features)} heads, found at FPR 1 %: "
         f"{value:.3f} ({low:.3f} to {high:.3f})", True),
        *rows,
        (f"CPU seconds: expected at most 2700 (45 minutes), measured {spent:.0f}, of which learning "
         f"{learned:.0f}", spent <= 2700),
    ]  # fmt: skip


def prepared(data: str, quick: bool, key: ls.Key) -> Scene:
    """As `head_pictures.prepared`, of photographs."""
    batch = photographs(Path(data), QUICK_EACH + QUICK_POOL if quick else EACH + POOL)
    private, pool = split(batch, QUICK_EACH if quick else EACH, key.child("split"))
    # of 500, since three digits are kept
    probe = scaled(ls.LinearProbe(ls.EfficientNetLite0(size=SIZE), CLASSES), DOMAIN, pool.batch.inputs[:500])
    # no copies: the backbone is most of the time
    learner = ls.HeadImages(pool, heads=QUICK_HEADS if quick else HEADS, pictures=1, local=True)
    return head_scene.prepared(probe, DOMAIN, learner, TRAINING, batch.inputs[private], key)


KNOWN: dict[tuple[tuple[int, ...], float], Tensor] = {}


def _once(target: ls.Target, layer: DenseLayer, inputs: Tensor) -> Tensor:
    """The features, divided by the target's constant so that they serve every target on this backbone."""
    scale = float(target.module.scale)
    key = (tuple(inputs.shape), float(inputs.double().sum()))
    if key not in KNOWN:
        KNOWN[key] = features_of_pictures(target, layer, inputs) / scale
    return KNOWN[key] * scale


def photographs(folder: Path, each: int) -> ls.Batch:
    """The first `each` pictures of each class; classes in the order of their names."""
    taken: dict[str, list[Tensor]] = {}
    for name, content in _files(folder):
        own = taken.setdefault(name, [])
        if len(own) < each:
            pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=np.float32)
            own.append(torch.from_numpy(pixels / 255).permute(2, 0, 1))
    names = sorted(taken)
    labels = torch.cat([torch.full((len(taken[name]),), place) for place, name in enumerate(names)])
    return ls.Batch(torch.stack([one for name in names for one in taken[name]]), labels)


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Class and content of each picture."""
    if (folder / ARCHIVE).is_file():
        with tarfile.open(folder / ARCHIVE) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.name.endswith(".jpg") else None
                if file is not None:
                    yield Path(member.name).parent.name, file.read()
        return
    paths = sorted(folder.glob("train/*/*.jpg"))
    if not paths:
        raise SystemExit(
            f"{folder} has neither {ARCHIVE} nor train/CLASS/*.jpg; give the folder with CIFAR-10's pictures"
        )
    for path in paths:
        yield path.parent.name, path.read_bytes()
