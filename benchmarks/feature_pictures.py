"""Pictures from revealed features: a decoder of public pictures beside the nearest public one, the mean and a search.

    python benchmarks/feature_pictures.py --data DIR [--quick] [--seed 0] [--net NAME] [--steps 1000]

DIR: an image folder with a subfolder for each class, such as the training pictures of CIFAR-10 unpacked. The first
half of each class by file name is public, private batches are drawn from the other. Labels are random ones of 100
classes, nothing is told. A line for each net, batch and route: mean PSNR over the private pictures of all batches with
a 95 % interval (bootstrap over pictures); of a sample that did not come apart it is the referee's blind guess, or the
mean public picture where nothing was claimed. Exit code 1 where the decoder is not above nearest and mean.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import leakscope as ls
from leakscope.attacks.preparing import Setting
from leakscope.core.effort import Budget
from leakscope.core.pool import Pool
from leakscope.targets.recipes.architecture import AbstractArchitecture

DOMAIN = ls.Images(3, 32, 32)
CLASSES = 100


class Vgg(AbstractArchitecture):
    """conv, conv, dense 512, dense 256, dense: fresh as torch draws it, or by He's rule; the same for every key."""

    def __init__(self, seed: int, *, he: bool) -> None:
        self.seed, self.he = seed, he

    def __repr__(self) -> str:
        return f"Vgg({self.seed}, he={self.he})"

    def build(self, domain: Any, classes: int, *, key: ls.Key) -> ls.Target:
        """The target."""
        del key
        with ls.Key(self.seed).child("net").isolated():
            net = nn.Sequential(
                nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten(),
                nn.Linear(2048, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, classes),
            )  # fmt: skip
            for layer in net if self.he else ():
                if isinstance(layer, nn.Linear | nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight)
                    nn.init.zeros_(layer.bias)
            if self.he:
                nn.init.normal_(net[-1].weight, std=0.05)
        return ls.Target(net, domain, classes)


class Body(AbstractArchitecture):
    """EfficientNet-Lite0 with its ImageNet weights and 1280 pooled numbers, under a fresh last layer of one key."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __repr__(self) -> str:
        return f"Body({self.seed})"

    def build(self, domain: Any, classes: int, *, key: ls.Key) -> ls.Target:
        """The target."""
        del key
        return ls.EfficientNetLite0().build(domain, classes, key=ls.Key(self.seed))


def pictures(folder: Path, most: int, seed: int) -> tuple[Tensor, Tensor]:
    """(public, private): `most` public ones, and as many private ones as batches take, both drawn by the seed."""
    if not folder.is_dir():
        sys.exit(f"{folder} is no folder; give --data DIR with a subfolder of pictures for each class")
    batch = ls.ImageFolder(str(folder), DOMAIN.shape).load()
    public, private = list[Tensor](), list[Tensor]()
    for one in batch.labels.unique():
        own = batch.inputs[batch.labels == one]
        public.append(own[: len(own) // 2])
        private.append(own[len(own) // 2 :])
    draw = np.random.default_rng([71, seed])

    def some(parts: list[Tensor], count: int) -> Tensor:
        whole = torch.cat(parts)
        return whole[torch.from_numpy(draw.permutation(len(whole))[:count])]

    return some(public, most), some(private, 400)


def of_each(attempt: ls.Attempt[Any], batch: ls.Batch, mean: Tensor) -> list[float]:
    """PSNR of each private picture: of the claimed one that the referee pairs with it, else of the mean picture."""
    guess = [float(-10 * (one - mean).square().mean().log10()) for one in batch.inputs]
    if not isinstance(attempt.claim, ls.Inputs):
        return guess
    return list(ls.score(attempt.claim, batch, domain=DOMAIN)["psnr"].items)


def interval(values: list[float], seed: int) -> tuple[float, float, float]:
    """Mean and the middle 95 % of bootstrapped means."""
    draw, own = np.random.default_rng([72, seed]), np.array(values)
    means = own[draw.integers(len(own), size=(2000, len(own)))].mean(1)
    return float(own.mean()), float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def measured(name: str, recipe: AbstractArchitecture, data: tuple[Tensor, Tensor], asked: argparse.Namespace) -> bool:
    """All routes on the batches of one net; whether the decoder is above nearest and mean."""
    public, private = data
    pool = Pool(ls.Batch(public, torch.zeros(len(public), dtype=torch.int64)))
    mean, right = public.mean(0), True
    steps = 200 if asked.quick else asked.steps
    depths = (None,) if asked.quick or isinstance(recipe, Body) else (None, 1)
    target = recipe.build(DOMAIN, CLASSES, key=ls.Key(0))
    routes: dict[str, Any] = {}
    learned: dict[str, float] = {}
    for depth in depths:
        learner = ls.FeatureImages(pool, of=ls.RevealedFeatures(depth), steps=steps, pictures=1)
        began = time.process_time()
        setting = Setting(recipe, DOMAIN, CLASSES, ls.FedSGD())
        ready = learner.taught(learner.prepare(setting, key=ls.Key(asked.seed), clock=Budget().start()))
        said = "decoded, deepest layer" if depth is None else "decoded, output layer's features"
        learned[said] = time.process_time() - began
        routes[said] = ready
    routes["nearest public, deepest layer"] = ls.FeatureNeighbors(pool)
    if not asked.quick:
        routes["FeatureInversion"] = ls.FeatureInversion()
    for count in (8,) if asked.quick else (8, 32):
        batches = []
        for turn in range(1 if asked.quick else 32 // count):
            place = 40 * turn if count < 32 else 200 + 40 * turn
            own = private[place : place + count]
            labels = torch.randint(CLASSES, (count,), generator=ls.Key(asked.seed).child(count, turn).generator())
            batches.append(ls.Batch(own, labels))
        found: dict[str, list[float]] = {}
        for said, attack in routes.items():
            began, values, claimed = time.process_time(), list[float](), 0
            for one in batches:
                seen = ls.observe(target, one, ls.FedSGD(), key=ls.Key(asked.seed))
                attempt = attack.run(seen, key=ls.Key(asked.seed))
                claimed += 0 if attempt.claim is None else len(attempt.claim)
                values += of_each(attempt, one, mean)
            seconds = (time.process_time() - began) / len(batches)
            found[said] = values
            also = f"{seconds:.1f} CPU s a batch" + (f", {learned[said]:.0f} to learn" if said in learned else "")
            _show(name, count, said, values, f"{claimed} of {len(values)} claimed; {also}", asked.seed)
        guess = [float(-10 * (x - mean).square().mean().log10()) for one in batches for x in one.inputs]
        _show(name, count, "mean public picture", guess, "", asked.seed)
        best = np.mean(found["decoded, deepest layer"])
        right &= bool(best > np.mean(found["nearest public, deepest layer"]) and best > np.mean(guess))
    return right


def _show(name: str, count: int, said: str, values: list[float], also: str, seed: int) -> None:
    middle, low, high = interval(values, seed)
    print(f"{name:22} batch {count:3}  {said:34} {middle:5.1f} dB [{low:.1f}, {high:.1f}]  {also}", flush=True)


def main() -> int:
    """All nets, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="one net, one batch, few steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1000, help="of the decoder's training")
    parser.add_argument("--public", type=int, default=8000, help="public pictures")
    nets = ("VGG-like, He", "VGG-like, torch's", "Lite0")
    parser.add_argument("--net", choices=nets, action="append")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    recipes = (Vgg(asked.seed, he=True), Vgg(asked.seed, he=False), Body(asked.seed))
    made: dict[str, AbstractArchitecture] = dict(zip(nets, recipes, strict=True))
    data = pictures(asked.data, 1500 if asked.quick else asked.public, asked.seed)
    right = [measured(name, made[name], data, asked) for name in asked.net or nets[: 1 if asked.quick else None]]
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main())
