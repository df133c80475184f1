"""Photographs from released heads: CIFAR-10 on a backbone of ImageNet (a part of `released_heads.py`, which says how).

The folder has `cifar10-train-2000-per-class.tar.gz`, or the `train/CLASS/*.jpg` that it unpacks to; the first 625 of
each class are used, of which 25 are private. The backbone is the packaged EfficientNet-Lite0 on pictures of 64 x 64,
its 1280 features scaled to a mean norm of 10; heads are of one picture of each class (48 steps, decay 1e-4, init_std
0.0002, as published). What is found is counted as in `head_pictures`, beside the same baselines. ImageNet's network
keeps what a picture shows, and little of how it looks: what a decoder makes of true features is the limit.
"""

from __future__ import annotations

import io
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import head_pictures
import numpy as np
import torch
from head_pictures import CLASSES, NORM, Scene, found, of_true_features, routes, same, split, strip
from PIL import Image
from torch import Tensor

import leakscope as ls
from leakscope.attacks.inputs.heads import head_images, reading
from leakscope.attacks.inputs.heads.reading import Public, features_of, public
from leakscope.attacks.inputs.heads.reading import features_of as features_of_pictures
from leakscope.attacks.preparing import Setting
from leakscope.core.effort import Budget
from leakscope.targets.looking.dense_ends import DenseLayer, output_layer

TRAINING = ls.HeadTraining(48, 0.01, 0.0002, optimizer=ls.ClientSGD(weight_decay=1e-4))
DOMAIN, SIZE, ARCHIVE = ls.Images(3, 32, 32), 64, "cifar10-train-2000-per-class.tar.gz"
HEADS, STEPS, EACH, POOL, NULLS = 1200, 100, 25, 600, 300
"""Public heads behind the decoder, its steps, private and public pictures of each class, heads of the control: what
three minutes of one core pay for. 12 000 heads of 1280 features would take 5 GB."""
QUICK_HEADS, QUICK_STEPS, QUICK_EACH, QUICK_POOL, QUICK_NULLS = 200, 40, 5, 40, 50


def lines(data: str, quick: bool, key: ls.Key, pictures: str | None) -> list[tuple[str, bool]]:
    """Every figure with what is expected of it."""
    begun = time.process_time()
    head_images.HEADS = QUICK_HEADS if quick else HEADS
    # no copies, and every picture once: the backbone is most of the time
    head_images.PICTURES = 1
    for module in (head_images, head_pictures, reading, sys.modules[__name__]):
        module.features_of = _once
    head_pictures.NULLS = QUICK_NULLS if quick else NULLS
    scene = prepared(data, quick, key)
    ways = routes(scene)
    rates = found(scene, ways)
    value, low, _ = rates["attack"]
    beside = max(rates["nearest public neighbor"][0], rates["class mean"][0])
    true, mean = scene.features, scene.known.prior.means
    within = 1 - float((scene.estimates() - true).square().sum() / (true - mean).square().sum())
    agreed = same(scene)
    if pictures is not None:
        strip(scene, ways, Path(pictures))
    spent = time.process_time() - begun
    return [
        (f"CIFAR-10, {len(scene.attack.learner.pool)} public, {len(true)} heads, found at FPR 1 %: {value:.3f}", True),
        *((f"  {name}: {one[0]:.3f} ({one[1]:.3f} to {one[2]:.3f})", True) for name, one in rates.items()),
        (f"beyond both baselines: expected more than {beside:.3f}, measured {low:.3f} at the low end",
         quick or low > beside),
        (f"variance of features within classes that is explained: expected 0.5, measured {within:.3f}", within >= 0.5),
        (f"one head by observe and run: expected the pictures of mass training, measured {agreed}", agreed == "equal"),
        (f"CPU seconds: expected at most 2700 (45 minutes), measured {spent:.0f}", spent <= 2700),
    ]  # fmt: skip


def prepared(data: str, quick: bool, key: ls.Key) -> Scene:
    """As `head_pictures.prepared`, of photographs."""
    batch = photographs(Path(data), QUICK_EACH + QUICK_POOL if quick else EACH + POOL)
    private, pool = split(batch, QUICK_EACH if quick else EACH, key.child("split"))
    backbone = ls.EfficientNetLite0(size=SIZE)
    bare = ls.LinearProbe(backbone, CLASSES).build(DOMAIN, CLASSES, key=ls.Key(0))
    # of 500, since three digits are kept
    norm = float(features_of(bare, output_layer(bare), pool.batch.inputs[:500]).norm(dim=1).mean())
    probe = ls.LinearProbe(backbone, CLASSES, scale=float(f"{NORM / norm:.3g}"))
    learner = ls.HeadImages(pool, steps=QUICK_STEPS if quick else STEPS)
    setting = Setting(probe, DOMAIN, CLASSES, TRAINING)
    learned = learner.prepare(setting, key=key.child("prepare"), clock=Budget().start())
    target = probe.build(DOMAIN, CLASSES, key=ls.Key(0))
    known = public(target, TRAINING, pool)
    assert isinstance(known, Public), known
    pictures = batch.inputs[private]
    features = features_of(target, known.layer, pictures.flatten(0, 1)).unflatten(0, private.shape)
    ceiling = of_true_features(learner, target, known, key.child("ceiling"))
    return Scene(learner.taught(learned), ceiling, target, known, features, pictures, key, TRAINING)


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
