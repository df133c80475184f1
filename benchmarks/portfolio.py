"""`Auto` beside every single attack at the same budget, on ten mixed targets.

    python benchmarks/portfolio.py [--seconds 60] [--case NAME] [--alone]

Prints mean PSNR (dB) and the share of right labels of each, and what `Auto` lacks to the best single one. Seconds are
CPU seconds of this process, so that the figures do not depend on what else the machine is doing.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

import leakscope as ls

# Searches end with the clock: by the wall, a machine with other work gives each of them a fraction of its steps.
time.perf_counter = time.process_time

SINGLES: tuple[ls.AbstractAttack, ...] = (
    ls.LinearLayer(),
    ls.LowRank(),
    ls.FirstAttention(),
    ls.idlg(evaluations=100_000),
    ls.inverting_gradients(steps=100_000, tv=1e-3),
    ls.inverting_gradients(steps=100_000, tv=1e-2),
    ls.GradientInversion(
        ls.Squared(),
        0.02 * ls.TotalVariation(),
        ls.Pixels(boxed=True),
        ls.Gray(),
        ls.Adam(lr=0.1, steps=100_000, signed=True),
        ls.Inferred(ls.LabelCounts()),
    ),
)
FACES, DIGITS, PHOTOGRAPHS = ls.Faces(), ls.Digits(size=16), ls.Photographs()
SGD = ls.FedSGD()
Case = tuple[Any, Any, Any, int]
CASES: dict[str, Case] = {
    "dense, batch 8": (DIGITS, ls.MLP((256, 128)), SGD, 8),
    "dense, 4 local steps": (DIGITS, ls.MLP((256, 128)), ls.FedAvg(steps=4, lr=0.01), 4),
    "LeNet": (FACES, ls.LeNet(), SGD, 1),
    "LeNet, clipped": (FACES, ls.LeNet(), SGD >> ls.Clip(0.1), 1),
    "ConvNet": (PHOTOGRAPHS, ls.ConvNet(), SGD, 1),
    "ConvNet, batch 4": (PHOTOGRAPHS, ls.ConvNet(), SGD, 4),
    "ConvNet, 4 local steps": (DIGITS, ls.ConvNet(8), ls.FedAvg(steps=4, lr=0.01), 2),
    "ConvNet, noisy": (DIGITS, ls.ConvNet(8), SGD >> ls.Clip(1.0) >> ls.GaussianNoise(1e-3), 1),
    "ConvNet, signed": (DIGITS, ls.ConvNet(8), SGD >> ls.Sign(), 1),
    "ResNet-20": (PHOTOGRAPHS, ls.ResNet20(), SGD, 1),
    "transformer": (PHOTOGRAPHS, ls.ViT(), SGD, 1),
}


def scores(attempt: ls.Attempt, batch: ls.Batch, domain: ls.Images) -> tuple[float, float]:
    """Mean PSNR and share of right labels; those of nothing where nothing was claimed."""
    if attempt.claim is None:
        return math.nan, math.nan
    found = ls.score(attempt.claim, batch, domain=domain)
    labels = found["label-accuracy"].value if attempt.claim.labels is not None else math.nan
    return found["psnr"].value, labels


def run(name: str, seconds: float, singles: Sequence[ls.AbstractAttack], write: Callable[[str], None]) -> None:
    """One case."""
    source, architecture, mechanism, size = CASES[name]
    target = architecture.build(source.domain, source.classes, key=ls.Key(0))
    batch = source.draw(size, key=ls.Key(1)).reveal()
    seen = ls.observe(target, batch, mechanism, key=ls.Key(2), tell=[ls.BatchSize(size)])
    best, best_labels = -math.inf, -math.inf
    for attack in singles:
        attempt = attack.run(seen, key=ls.Key(3), budget=ls.Budget(seconds=seconds))
        psnr, right = scores(attempt, batch, source.domain)
        if attempt.claim is not None:
            write(f"{name:24} {repr(attack)[:60]:60} {psnr:7.2f} dB  labels {right:.2f}  {attempt.cost.seconds:5.1f} s")
            best, best_labels = max(best, psnr), max(best_labels, -1 if math.isnan(right) else right)
    attempt = ls.Auto().run(seen, key=ls.Key(3), budget=ls.Budget(seconds=seconds))
    psnr, right = scores(attempt, batch, source.domain)
    lacks = f"lacks {best - psnr:.2f} dB and {best_labels - right:.2f} of the labels" if singles else ""
    write(f"{name:24} {'Auto':60} {psnr:7.2f} dB  labels {right:.2f}  {attempt.cost.seconds:5.1f} s  {lacks}")
    for step in attempt.steps:
        write(f"    {step[:230]}")


def main() -> None:
    """All cases, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--alone", action="store_true", help="`Auto` without the single attacks beside it")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    for name in chosen.case or CASES:
        run(name, chosen.seconds, () if chosen.alone else SINGLES, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
