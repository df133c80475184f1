"""Where the last layer stops giving a batch away: nets, classes, batch sizes, training, and what is done to the update.

    python benchmarks/where_it_ends.py [--quick] [--seed 0] [--part labels|images|mechanisms] [--net NAME] [--seconds S]

Measures, and expects little: a line for each setting, the figures of `docs/studies/last-layer.md`. Photographs of
32 x 32 with random labels, nothing told. "labels": are the labels of the whole batch right, how many true features are
found to a thousandth, at the output layer and as far down as dense layers go, how many are proved. "images": PSNR of
`FeatureInversion` beside `inverting_gradients` at the same CPU time, which is told how many images there are.
"mechanisms": both, behind noise, clipping and local steps. Exit code 1 where anything proved is wrong.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import leakscope as ls

# Searches end with the clock: by the wall, a machine with other work gives each of them a fraction of its steps.
time.perf_counter = time.process_time

PHOTOGRAPHS = ls.Photographs(size=32)
SECONDS = 60.0
"""CPU seconds that one attack may take."""
RIGHT = 1e-3
"""Relative error up to which a feature was found."""
STEPS = 60
"""Of SGD, in a net that counts as trained: the labels are random, so more would learn them by heart."""
NETS = ("ConvNet(16)", "VGG-11", "ResNet-20", "EfficientNet-Lite0")


def vgg11(classes: int) -> nn.Sequential:
    """VGG-11 (Simonyan & Zisserman 2015, configuration A) on 32 x 32, a quarter as wide; three dense layers."""
    layers: list[nn.Module] = []
    before = 3
    # A number is a convolution of so many channels, "M" halves the image.
    for width in (16, "M", 32, "M", 64, 64, "M", 128, 128, "M", 128, 128, "M"):
        if isinstance(width, int):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
        else:
            layers.append(nn.MaxPool2d(2))
    layers += [nn.Flatten(), nn.Linear(128, 512), nn.ReLU(), nn.Dropout(), nn.Linear(512, 512), nn.ReLU(), nn.Dropout()]
    net = nn.Sequential(*layers, nn.Linear(512, classes))
    for layer in net:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            # The depth needs it: with torch's own initialization the signal is 1e-5 of the biases at the last layer.
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return net


def build(name: str, classes: int, seed: int) -> ls.Target:
    """The fresh net; the Lite0's body has its weights from ImageNet, its last layer is fresh."""
    key, domain = ls.Key(seed), PHOTOGRAPHS.domain
    if name == "VGG-11":
        with key.isolated():
            return ls.Target(vgg11(classes).train(), domain, classes, training=True)
    recipe = {"ConvNet(16)": ls.ConvNet(16), "ResNet-20": ls.ResNet20(), "EfficientNet-Lite0": ls.EfficientNetLite0()}
    return recipe[name].build(domain, classes, key=key)


def trained(target: ls.Target, classes: int, seed: int) -> ls.Target:
    """After a few steps of plain SGD on public photographs with random labels, 32 at a time."""
    net, public = copy.deepcopy(target.module).requires_grad_(True), PHOTOGRAPHS.public().inputs
    with ls.Key(seed).child("train").isolated():
        labels = torch.randint(classes, (len(public),))
        values = list(net.parameters())
        for _ in range(STEPS):
            chosen = torch.randint(len(public), (32,))
            slopes = torch.autograd.grad(F.cross_entropy(net(public[chosen]), labels[chosen]), values)
            size = torch.stack([slope.norm() for slope in slopes]).norm()
            with torch.no_grad():
                for value, slope in zip(values, slopes, strict=True):
                    # Clipped to norm 1: a net without normalization diverges at its first steps otherwise.
                    value.sub_(slope, alpha=0.02 / max(1.0, float(size)))
    return ls.Target(net, target.domain, classes, training=target.training)


@dataclass(frozen=True, eq=False)
class Case:
    """One update: what it is of, what the output layer was fed (B, d), and what the adversary sees."""

    target: ls.Target
    batch: ls.Batch
    fed: dict[str, Tensor]
    seen: ls.Observation


def case(name: str, classes: int, count: int, taught: bool, seed: int, mechanism: Any, tell: bool = False) -> Case:
    """The batch is drawn with replacement of no photograph; what each dense layer was fed is watched in the release."""
    target = build(name, classes, seed)
    if taught:
        target = trained(target, classes, seed)
    inputs = PHOTOGRAPHS.draw(count, key=ls.Key(seed).child("secret", count)).reveal().inputs
    labels = torch.randint(classes, (count,), generator=ls.Key(seed).child("labels", count, classes).generator())
    batch, fed = ls.Batch(inputs, labels), dict[str, Tensor]()

    def watcher(layer: str) -> Any:
        return lambda module, given, returned: fed.update({layer: given[0].detach().double().flatten(1)})

    dense = [(layer, module) for layer, module in target.module.named_modules() if isinstance(module, nn.Linear)]
    handles = [module.register_forward_hook(watcher(layer)) for layer, module in dense]
    facts = [ls.BatchSize(count)] if tell else []
    seen = ls.observe(target, batch, mechanism, key=ls.Key(seed).child("release"), tell=facts)
    for handle in handles:
        handle.remove()
    return Case(target, batch, fed, seen)


def share(claim: Any, fed: dict[str, Tensor]) -> float:
    """How many of the true rows have a claimed one within a thousandth of their size."""
    true = next((rows for layer, rows in fed.items() if claim.layer.endswith(layer)), None)
    if true is None:
        return float("nan")
    away = torch.cdist(true, claim.values.double(), compute_mode="donot_use_mm_for_euclid_dist").min(1).values
    return float((away <= RIGHT * true.norm(dim=1)).double().mean())


def labels(chosen: argparse.Namespace) -> Iterator[bool]:
    """A line for each net, number of classes, batch size, fresh and trained."""
    sizes = (1, 8) if chosen.quick else (1, 8, 32, 64, 128)
    for name in chosen.net or (NETS[:2] if chosen.quick else NETS):
        for classes in (10, 100) if chosen.quick else (10, 100, 1000):
            for taught in (False, True):
                for count in sizes:
                    yield _label_line(name, classes, count, taught, chosen.seed)


def _label_line(name: str, classes: int, count: int, taught: bool, seed: int) -> bool:
    one = case(name, classes, count, taught, seed, ls.FedSGD())
    began, words, right = time.process_time(), "", True
    budget = ls.Budget(seconds=SECONDS)
    attempt = ls.RevealedLabels().run(one.seen, key=ls.Key(seed), budget=budget)
    said = Counter(attempt.claim.values.tolist()) if isinstance(attempt.claim, ls.Labels) else Counter()
    truth = Counter(one.batch.labels.tolist())
    exact = said == truth
    words += "counts exact" if exact else "set exact" if set(said) == set(truth) else f"labels: {attempt.outcome.name}"
    for depth in (1, None):
        found = ls.RevealedFeatures(depth).run(one.seen, key=ls.Key(seed), budget=budget)
        if not isinstance(found.claim, ls.Features):
            words += f"; features: {found.sentence[:110]}"
            break
        near = share(found.claim, one.fed)
        sure = 0 if found.certificate is None else sum(found.certificate.proved)
        words += f"; {found.claim.layer}: {near:.2f} found, {sure} proved"
        # Each proved row is one of the true ones: no more can be proved than were found.
        right &= not sure > round(near * count) + 1e-9
    seconds = time.process_time() - began
    print(
        f"{name:18} {classes:5} {'trained' if taught else 'fresh':8} {count:4}  {seconds:6.1f} s  {words}", flush=True
    )
    return right


def psnr(attempt: ls.Attempt[Any], one: Case) -> str:
    """Mean over the batch, or why there is none."""
    if attempt.claim is None:
        return f"none ({attempt.sentence[:60]})"
    return f"{ls.score(attempt.claim, one.batch, domain=one.target.domain)['psnr'].value:5.1f} dB"


def beside(one: Case, chosen: argparse.Namespace) -> str:
    """`FeatureInversion`, then `inverting_gradients` for as many CPU seconds, at least ten."""
    began, seed = time.process_time(), chosen.seed
    own = ls.FeatureInversion().run(one.seen, key=ls.Key(seed), budget=ls.Budget(seconds=chosen.seconds))
    seconds = max(10.0, time.process_time() - began)
    other = ls.inverting_gradients(steps=100_000).run(one.seen, key=ls.Key(seed), budget=ls.Budget(seconds=seconds))
    return f"{seconds:6.1f} s  one by one {psnr(own, one):24} inverting_gradients {psnr(other, one)}"


def images(chosen: argparse.Namespace) -> Iterator[bool]:
    """Pictures, at 100 classes."""
    for name in chosen.net or (NETS[:1] if chosen.quick else NETS):
        for taught in (False, True):
            for count in (1,) if chosen.quick else (1, 8, 32):
                one = case(name, 100, count, taught, chosen.seed, ls.FedSGD(), tell=True)
                print(f"{name:18} {'trained' if taught else 'fresh':8} {count:4}  {beside(one, chosen)}", flush=True)
                yield True


def mechanisms(chosen: argparse.Namespace) -> Iterator[bool]:
    """ConvNet, 100 classes, eight photographs, and what is done to the update."""
    sent = ls.FedSGD()
    for mechanism in (
        sent, sent >> ls.Clip(0.1), sent >> ls.GaussianNoise(1e-6), sent >> ls.GaussianNoise(1e-5),
        sent >> ls.GaussianNoise(1e-4), sent >> ls.GaussianNoise(1e-3), sent >> ls.Sign(), sent >> ls.Prune(0.1),
        ls.FedAvg(steps=2, lr=0.01), ls.FedAvg(steps=8, lr=0.01),
    )[: 2 if chosen.quick else None]:  # fmt: skip
        one = case("ConvNet(16)", 100, 8, False, chosen.seed, mechanism, tell=True)
        print(f"{mechanism!r:44} {beside(one, chosen)}", flush=True)
        yield True


def main() -> None:
    """All parts, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=300.0, help="CPU seconds that a search for images may take")
    parser.add_argument("--part", choices=("labels", "images", "mechanisms"), action="append")
    parser.add_argument("--net", choices=NETS, action="append")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    parts = {"labels": labels, "images": images, "mechanisms": mechanisms}
    right = [ok for name, part in parts.items() if name in (chosen.part or parts) for ok in part(chosen)]
    sys.exit(0 if all(right) else 1)


if __name__ == "__main__":
    main()
