"""What the output layer's gradient reveals, with clients in plain PyTorch: `RevealedLabels` at each of its grades.

    python benchmarks/revealed_labels.py [--quick] [--seed 0] [--only NAME]

A line for each point, expected and measured with 95 % intervals (Clopper-Pearson); exit code 1 below expectation.
Batches have repeated labels; features are those of a rectified layer, near-uniform or confident softmax.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from torch import Tensor, nn

import leakscope as ls


@dataclass(frozen=True, eq=False)
class Drawn:
    """A head on given features: the target, its labels and what an honest client sends of it."""

    target: ls.Target
    features: Tensor
    labels: Tensor
    sent: dict[str, Tensor]


def head(random: np.random.Generator, classes: int, width: int, count: int, *, confident: bool) -> Drawn:
    """`count` samples of `classes` classes, a third of which repeat a label; logits of size 1/2, or margins to 14."""
    weight = random.standard_normal((classes, width)) / np.sqrt(width)
    offset = 0.1 * random.standard_normal(classes)
    pool = random.choice(classes, size=max(2, min(classes, round(0.7 * count))), replace=False)
    labels = random.choice(pool, size=count)
    shared = 0.5 * np.abs(random.standard_normal(width))
    features = np.maximum(shared + 0.5 * random.standard_normal((count, width)), 0)
    features *= (1.0 if confident else 0.5) / np.sqrt((features**2).mean())
    for row, label in zip(features, labels, strict=True) if confident else ():
        logits = row @ weight.T + offset
        rival = np.delete(logits, label).max()
        push = np.maximum(weight[label], 0)
        row += push * max(0.0, rival + random.uniform(0, 14) - logits[label]) / (push @ weight[label])
    net = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(width, classes))
    with torch.no_grad():
        net[2].weight.copy_(torch.from_numpy(weight))
        net[2].bias.copy_(torch.from_numpy(offset))
    inputs = torch.from_numpy(features).float().reshape(count, 1, 1, width)
    truth = torch.from_numpy(labels)
    loss = F.cross_entropy(net(inputs), truth)
    slopes = torch.autograd.grad(loss, list(net.parameters()))
    sent = {name: value for (name, _), value in zip(net.named_parameters(), slopes, strict=True)}
    target = ls.Target(net, ls.Images(1, 1, width), classes)
    return Drawn(target, inputs.flatten(1), truth, sent)


def seen(drawn: Drawn, sent: dict[str, Tensor], mechanism: Any, *, told: bool) -> ls.Observation:
    """What the adversary sees of it."""
    facts = (ls.BatchSize(len(drawn.labels)),) if told else ()
    return ls.Observation(drawn.target, ls.Gradient(sent), mechanism, facts)


LIES = (
    "none", "none", "none", "none", "smoothing", "mixup", "sum", "bfloat16", "noise", "reversed", "scaled", "dropped",
    "normalized", "clipped", "weighted", "focal", "half", "two clients",
)  # fmt: skip
"""What a client does that is not declared; a third of them nothing."""


def trial(seed: int) -> tuple[str, bool, str]:
    """One random client: what it did, whether anything was proved, and what of it is wrong."""
    random = np.random.default_rng([911, seed])
    classes, width = int(random.choice([3, 5, 10, 30, 100, 200])), int(random.choice([8, 32, 64, 128]))
    count, lie = int(random.choice([1, 2, 3, 4, 8, 16, 32])), str(random.choice(LIES))
    act = [nn.ReLU, nn.Sigmoid, nn.Tanh, nn.GELU][int(random.integers(4))]
    with ls.Key(seed).isolated():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Flatten(), nn.Linear(64, width), act(), nn.Linear(width, classes, bias=random.random() < 0.8)
        )
        with torch.no_grad():
            net[3].weight.mul_(float(random.choice([0.3, 1, 5, 30])))
            net[1].weight.mul_(3)
        inputs = torch.rand(count, 1, 8, 8)
        if count > 1 and random.random() < 0.2:
            inputs[1] = inputs[0]
        few = min(classes, int(random.choice([2, classes])))
        labels = torch.randint(few, (count,)) if random.random() < 0.7 else net(inputs).argmax(1)
        sent = _sent(net, inputs, labels, lie, random)
    mechanism = ls.FedSGD()
    if lie == "dropped" and random.random() < 0.5:
        mechanism = ls.FedSGD() >> ls.RandomDrop(0.3)
    if lie == "normalized" and random.random() < 0.5:
        mechanism = ls.FedSGD() >> ls.Sign()
    facts = (ls.BatchSize(count),) if random.random() < 0.6 else ()
    observation = ls.Observation(ls.Target(net, ls.Images(1, 8, 8), classes), ls.Gradient(sent), mechanism, facts)
    attempt = ls.RevealedLabels(weights=random.random() < 0.7).run(observation, key=ls.Key(seed))
    return lie, *_false(attempt, labels)


def _sent(net: nn.Module, inputs: Tensor, labels: Tensor, lie: str, random: np.random.Generator) -> dict[str, Tensor]:
    outputs = net(inputs)
    if lie == "mixup":
        order, share = torch.randperm(len(inputs)), 0.3
        mixed = net(share * inputs + (1 - share) * inputs[order])
        loss = share * F.cross_entropy(mixed, labels) + (1 - share) * F.cross_entropy(mixed, labels[order])
    elif lie == "sum":
        loss = F.cross_entropy(outputs, labels, reduction="sum")
    elif lie == "weighted":
        loss = F.cross_entropy(outputs, labels, weight=torch.rand(outputs.shape[1]) + 0.2)
    elif lie == "focal":
        sure = outputs.softmax(1)[torch.arange(len(labels)), labels]
        loss = ((1 - sure) ** 2 * F.cross_entropy(outputs, labels, reduction="none")).mean()
    else:
        smoothing = float(random.choice([0.05, 0.1, 0.2])) if lie == "smoothing" else 0.0
        loss = F.cross_entropy(outputs, labels, label_smoothing=smoothing)
    slopes = torch.autograd.grad(loss, list(net.parameters()))
    sent = {name: value for (name, _), value in zip(net.named_parameters(), slopes, strict=True)}
    scale = 10 ** float(random.uniform(-6, -2))
    change: dict[str, Callable[[Tensor], Tensor]] = {
        "bfloat16": lambda v: v.bfloat16().float(),
        "half": lambda v: v.half().float(),
        "noise": lambda v: v + scale * v.abs().max() * torch.randn_like(v),
        "reversed": lambda v: -v,
        "scaled": lambda v: 3.7 * v,
        "dropped": lambda v: v * (torch.rand_like(v) > 0.3),
        "normalized": lambda v: v / (v.abs() + 1e-8),
        "clipped": lambda v: v / max(1.0, float(v.norm()) / 1e-2),
    }
    return {name: change[lie](value) for name, value in sent.items()} if lie in change else sent


def _false(attempt: Any, labels: Tensor) -> tuple[bool, str]:
    """Whether something was proved, and which of it is not so."""
    if attempt.claim is None or attempt.certificate is None or not any(attempt.certificate.proved):
        return False, ""
    truth = Counter(labels.tolist())
    proved = [v for v, p in zip(attempt.claim.values.tolist(), attempt.certificate.proved, strict=True) if p]
    wrong = set(proved) - set(truth) if attempt.claim.distinct else set(Counter(proved) - truth)
    if not wrong and not attempt.claim.distinct and attempt.certified:
        wrong = set(truth - Counter(proved))
    return True, f"labels {sorted(wrong)}: {attempt.sentence}" if wrong else ""


@dataclass(frozen=True)
class Point:
    """One line: what is expected of a share, and how often it was so."""

    name: str
    least: float
    good: int
    of: int
    also: str = ""

    def show(self) -> bool:
        """Prints it; whether it is as expected."""
        inside = binomtest(self.good, self.of).proportion_ci()
        ok = self.good >= self.least * self.of - 1e-9
        print(
            f"{self.name:84} expected >= {self.least:.3f}  measured {self.good / self.of:.3f} "
            f"[{inside.low:.3f}, {inside.high:.3f}] of {self.of}  {self.also}{'' if ok else '   BELOW'}",
            flush=True,
        )
        return ok


def soundness(seed: int, quick: bool) -> Iterator[Point]:
    """No false proof, whatever the client did."""
    found = [trial(seed * 100_000 + turn) for turn in range(120 if quick else 1200)]
    for lie, _, wrong in found:
        if wrong:
            print(f"    {lie}: {wrong}")
    proved = sum(one for _, one, _ in found)
    yield Point(
        "random clients: nothing false is proved", 1.0, sum(not w for *_, w in found), len(found), f"{proved} proofs"
    )


def known(seed: int, quick: bool) -> Iterator[Point]:
    """1000 classes, 512 features, nothing told: labels, counts, features."""
    for count, many in ((10, 12), (50, 4)) if quick else ((10, 60), (50, 30), (100, 10)):
        for confident in (False, True):
            random = np.random.default_rng([1, seed, count, confident])
            sets, counts, wrong, rows = 0, 0, 0, 0
            seconds = []
            for _ in range(many):
                drawn = head(random, 1000, 512, count, confident=confident)
                start = time.process_time()
                attempt = ls.RevealedLabels().run(seen(drawn, drawn.sent, ls.FedSGD(), told=False), key=ls.Key(seed))
                seconds.append(time.process_time() - start)
                truth = Counter(drawn.labels.tolist())
                claimed = Counter(attempt.claim.values.tolist()) if attempt.claim is not None else Counter()
                sets += set(claimed) == set(truth)
                counts += claimed == truth and not attempt.claim.distinct
                wrong += sum((claimed - truth).values())
                rows += count
            kind = "confident" if confident else "near-uniform"
            also = f"median {np.median(seconds):.2f} s"
            yield Point(
                f"1000 classes, batch of {count}, {kind}: sets", 0.99 if count < 100 else 0.95, sets, many, also
            )
            yield Point(f"1000 classes, batch of {count}, {kind}: counts", 0.95 if count < 100 else 0.0, counts, many)
            yield Point(f"1000 classes, batch of {count}, {kind}: rows that are right", 0.999, rows - wrong, rows)


def unknown(seed: int, quick: bool) -> Iterator[Point]:
    """Without the weights: what the row space excludes."""
    for count, many in ((10, 8),) if quick else ((10, 40), (50, 12)):
        for confident in (False, True):
            random = np.random.default_rng([2, seed, count, confident])
            exact, seconds = 0, []
            for _ in range(many):
                drawn = head(random, 1000, 512, count, confident=confident)
                weight_only = {"2.weight": drawn.sent["2.weight"]}
                attack = ls.RevealedLabels(weights=False)
                start = time.process_time()
                attempt = attack.run(seen(drawn, weight_only, ls.FedSGD(), told=True), key=ls.Key(seed))
                seconds.append(time.process_time() - start)
                exact += attempt.claim is not None and set(attempt.claim.values.tolist()) == set(drawn.labels.tolist())
            kind, also = "confident" if confident else "near-uniform", f"median {np.median(seconds):.2f} s"
            yield Point(f"weights not known, batch of {count}, {kind}: sets", 0.99, exact, many, also)


def defended(seed: int, quick: bool) -> Iterator[Point]:
    """Defenses that keep signs, on features that are never negative."""
    for defense in (ls.Sign(), ls.RandomDrop(0.9), ls.Prune(0.1), ls.Quantize(8)):
        for count, many in ((10, 6),) if quick else ((10, 30), (50, 20), (100, 10)):
            yield from _defended(seed, defense, count, many, confident=False)
            yield from _defended(seed, defense, count, many, confident=True)


def _defended(seed: int, defense: Any, count: int, many: int, *, confident: bool) -> Iterator[Point]:
    random, exact, false = np.random.default_rng([3, seed, count, confident]), 0, 0
    for turn in range(many):
        drawn = head(random, 1000, 512, count, confident=confident)
        mechanism = ls.FedSGD() >> defense
        sent = defense.apply(drawn.sent, key=ls.Key(seed).child(turn))
        attempt = ls.RevealedLabels().run(seen(drawn, sent, mechanism, told=True), key=ls.Key(seed))
        claimed = set(attempt.claim.values.tolist()) if attempt.claim is not None else set()
        exact += claimed == set(drawn.labels.tolist())
        false += bool(claimed - set(drawn.labels.tolist()))
    name = f"{defense!r}, {'confident' if confident else 'near-uniform'}, batch of {count}"
    # Of a sample that the model is sure of to five digits nothing is left by eight bits or by one entry in ten.
    yield Point(f"{name}: sets", 0.0 if confident else 0.99, exact, many, "as measured" if confident else "")
    yield Point(f"{name}: no class too many", 1.0, many - false, many)


PARTS = {"soundness": soundness, "known": known, "unknown": unknown, "defended": defended}


def main() -> int:
    """All parts, or one; 1 below expectation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few batches, in less than a minute")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=PARTS, action="append")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    shown = [point.show() for name in asked.only or PARTS for point in PARTS[name](asked.seed, asked.quick)]
    return 0 if all(shown) else 1


if __name__ == "__main__":
    sys.exit(main())
