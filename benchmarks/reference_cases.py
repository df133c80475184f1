"""The reference cases of the field that leakscope must reach: case, expected, measured, seconds.

    python benchmarks/reference_cases.py [--only WORD]

Everything runs on data that comes with the dependencies, in float32, in one thread. Exits with 1 when a case is below
its expectation.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

import leakscope as ls

COLOR = ls.Images(3, 32, 32)


def standardized(*shape: int) -> ls.Images:
    """A domain whose range is [-5, 5], so that normal inputs lie in it: what lies outside is not proved."""
    return ls.Images(*shape, mean=(0.5,) * shape[0], std=(0.1,) * shape[0])


def smooth(seed: int) -> torch.Tensor:
    """One smooth 3 x 32 x 32 image: U(0, 1) on a 3 x 3 grid, interpolated linearly."""
    grid = torch.rand(1, 3, 3, 3, generator=ls.Key(seed).child("smooth").generator())
    return F.interpolate(grid, size=32, mode="bilinear", align_corners=True)


def decibel(claimed: torch.Tensor, true: torch.Tensor) -> float:
    """PSNR of one image at data range 1."""
    return -10 * float((claimed - true).square().mean().clamp_min(1e-15).log10())


def face(seed: int) -> torch.Tensor:
    """One face photograph, 3 x 32 x 32."""
    return ls.Faces(size=32, channels=3).draw(1, key=ls.Key(seed)).reveal().inputs


def lenets(recipe: ls.GradientInversion, picture: Callable[[int], torch.Tensor]) -> tuple[str, bool]:
    """LeNet sigmoid, weights U(-.5, .5), 100 classes, 8 seeds, 1000 gradient evaluations."""
    errors = []
    for seed in range(8):
        target = ls.LeNet().build(COLOR, 100, key=ls.Key(seed))
        secret = ls.Batch(picture(seed), torch.tensor([(37 * seed) % 100]))
        seen = ls.observe(target, secret, ls.FedSGD(), key=ls.Key(seed), tell=[ls.BatchSize(1)])
        attempt = recipe.run(seen, key=ls.Key(seed), budget=ls.Budget(evaluations=1000))
        errors.append(
            float("inf") if attempt.claim is None else float((attempt.claim.values - secret.inputs).square().mean())
        )
    good = sum(error < 1e-3 for error in errors)
    return f"{good} of 8 (worst MSE {max(errors):.1e})", good >= 7


def idlg_labels() -> tuple[str, bool]:
    """iDLG labels of 1000 fresh LeNets."""
    right = 0
    for trial in range(1000):
        target = ls.LeNet().build(COLOR, 100, key=ls.Key(trial))
        label = torch.randint(100, (1,), generator=ls.Key(trial).child("label").generator())
        seen = ls.observe(target, ls.Batch(face(trial), label), ls.FedSGD(), key=ls.Key(0))
        right += int(ls.LabelSigns().run(seen, key=ls.Key(0)).claim.values.item() == int(label))
    return f"{right} of 1000", right == 1000


def dense() -> tuple[str, bool]:
    """Flatten + Linear(3072, 100), one image."""
    target = ls.Linear().build(COLOR, 100, key=ls.Key(0))
    secret = ls.Batch(face(1), torch.tensor([42]))
    seen = ls.observe(target, secret, ls.FedSGD(), key=ls.Key(0))
    found = decibel(ls.LinearLayer().run(seen, key=ls.Key(0)).claim.values, secret.inputs)
    return f"{found:.1f} dB", found > 100


def together(target: ls.Target, counts: tuple[int, ...]) -> tuple[str, bool]:
    """All inputs of batches of normal inputs by `LowRank`: worst PSNR, worst relative error, longest time."""
    worst, relative, slowest, proven = float("inf"), 0.0, 0.0, True
    for count in counts:
        generator = ls.Key(count).child("normal").generator()
        inputs = torch.randn(count, *target.domain.shape, generator=generator)
        secret = ls.Batch(inputs, torch.randint(target.classes, (count,), generator=generator))
        attempt = ls.LowRank().run(ls.observe(target, secret, ls.FedSGD(), key=ls.Key(0)), key=ls.Key(1))
        if attempt.claim is None:
            return f"batch {count}: {attempt.sentence}", False
        errors = (inputs[:, None] - attempt.claim.values[None]).flatten(2).double()
        nearest = errors.square().mean(2).min(1).values
        worst = min(worst, -10 * float(nearest.max().clamp_min(1e-15).log10()))
        relative = max(relative, float((nearest / inputs.flatten(1).double().square().mean(1)).max().sqrt()))
        slowest = max(slowest, attempt.cost.seconds)
        proven &= attempt.certificate is not None and attempt.certificate.holds
    words = (
        f"{worst:.0f} dB, relative {relative:.0e}, {slowest:.1f} s at most, {'all' if proven else 'not all'} certified"
    )
    return words, worst > 100 and relative < 1e-5 and proven


def too_many(domain: ls.Images, width: int) -> tuple[str, bool]:
    """Batch 64 is refused by the rank test, before anything is tried."""
    target = ls.MLP((width,)).build(domain, 10, key=ls.Key(0))
    inputs = torch.randn(64, *domain.shape, generator=ls.Key(0).generator())
    secret = ls.Batch(inputs, torch.arange(64) % 10)
    seen = ls.observe(target, secret, ls.FedSGD(), key=ls.Key(0), tell=[ls.BatchSize(64)])
    refusal = ls.LowRank().refusal(seen)
    return (f"refused: {refusal.sentence[:100]}", True) if refusal else ("not refused", False)


def chain(seed: int) -> ls.Target:
    """3 x 32 x 32 - 12 - 50 - 104 - 64 channels, LeakyReLU(0.2), 10 classes: 154 k parameters."""
    layers: list[torch.nn.Module] = []
    with ls.Key(seed).isolated():
        for sizes in ((3, 12, 5, 2, 2), (12, 50, 3, 2, 1), (50, 104, 3, 1, 1), (104, 64, 3, 1, 1)):
            layers += [torch.nn.Conv2d(*sizes), torch.nn.LeakyReLU(0.2)]
        return ls.Target(torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(4096, 10)), COLOR, 10)


def undone(build: Callable[[int], ls.Target]) -> tuple[str, bool]:
    """One face through a convolutional network by `Recursive`; the worst of two seeds."""
    worst, slowest, proven = float("inf"), 0.0, True
    for seed in range(2):
        target, secret = build(seed), ls.Batch(face(seed), torch.tensor([seed]))
        seen = ls.observe(target, secret, ls.FedSGD(), key=ls.Key(0), tell=[ls.BatchSize(1)])
        attempt = ls.Recursive().run(seen, key=ls.Key(1))
        if attempt.claim is None:
            return attempt.sentence, False
        worst, slowest = min(worst, decibel(attempt.claim.values, secret.inputs)), max(slowest, attempt.cost.seconds)
        proven &= attempt.certificate is not None and attempt.certificate.holds
    words = f"{worst:.0f} dB, {target.count():,} parameters, {slowest:.0f} s each, {'' if proven else 'not '}certified"
    return words, worst >= 49 and slowest < 20


def convnet() -> tuple[str, bool]:
    """ReLU ConvNet, one smooth image, cosine + TV 1e-3, signed Adam .1, 1000 iterations; mean of four seeds."""
    found = []
    for seed in range(4):
        target = ls.ConvNet().build(COLOR, 10, key=ls.Key(seed))
        secret = ls.Batch(smooth(seed), torch.tensor([seed]))
        seen = ls.observe(target, secret, ls.FedSGD(), key=ls.Key(0), tell=[ls.BatchSize(1)])
        attempt = ls.inverting_gradients(steps=1000, tv=1e-3).run(seen, key=ls.Key(1))
        found.append(decibel(attempt.claim.values, secret.inputs))
    mean = sum(found) / len(found)
    return f"{mean:.1f} dB ({', '.join(f'{x:.1f}' for x in found)})", mean >= 36


def depth_weight() -> tuple[str, bool]:
    """What weighing late layers more gains: `depth` 3 against the paper's 1, four photographs, 400 iterations."""
    gains = []
    for seed in range(4):
        target = ls.ConvNet().build(COLOR, 10, key=ls.Key(seed))
        secret = ls.Photographs(size=32).draw(1, key=ls.Key(seed)).reveal()
        secret = ls.Batch(secret.inputs, torch.tensor([seed]))
        seen = ls.observe(target, secret, ls.FedSGD(), key=ls.Key(0), tell=[ls.BatchSize(1)])
        reached = []
        for depth in (1.0, 3.0):
            attempt = ls.inverting_gradients(steps=400, tv=1e-3, depth=depth).run(seen, key=ls.Key(1))
            reached.append(decibel(attempt.claim.values, secret.inputs))
        gains.append(reached[1] - reached[0])
    mean = sum(gains) / len(gains)
    return f"{mean:+.1f} dB ({', '.join(f'{x:+.1f}' for x in gains)})", mean > 0


def federated(steps: int, batch_size: int | None) -> tuple[str, bool]:
    """ReLU ConvNet, FedAvg of 4 smooth images, 4 steps at lr 1e-3, 1000 iterations; labels inferred."""
    target = ls.ConvNet().build(COLOR, 10, key=ls.Key(0))
    labels = torch.tensor([1, 3, 5, 8])
    secret = ls.Batch(torch.cat([smooth(seed) for seed in range(4)]), labels)
    mechanism = ls.FedAvg(steps=steps, lr=1e-3, batch_size=batch_size)
    seen = ls.observe(target, secret, mechanism, key=ls.Key(0), tell=[ls.BatchSize(4)])
    attempt = ls.inverting_gradients(steps=1000, tv=1e-3).run(seen, key=ls.Key(1))
    items = sorted(ls.score(attempt.claim, secret, domain=COLOR)["psnr"].items, reverse=True)
    right = sorted(attempt.claim.labels.tolist()) == labels.tolist()
    peers = (15.7, 14.5, 14.5, 13.2)
    reached = all(mine >= theirs for mine, theirs in zip(items, peers, strict=True))
    words = f"{' / '.join(f'{x:.1f}' for x in items)} dB, labels {'right' if right else 'wrong'}"
    return words, right and reached


def counts(size: int, mechanism: Any) -> tuple[str, bool]:
    """Label counts on digits, untrained dense net, ten draws."""
    source, total = ls.Digits(size=8), 0.0
    for seed in range(10):
        target = ls.MLP((256, 128)).build(source.domain, 10, key=ls.Key(seed))
        secret = source.draw(size, key=ls.Key(seed)).reveal()
        seen = ls.observe(target, secret, mechanism, key=ls.Key(seed), tell=[ls.BatchSize(size)])
        claimed = ls.LabelCounts().run(seen, key=ls.Key(0)).claim.values
        pairs = torch.minimum(torch.bincount(claimed, minlength=10), torch.bincount(secret.labels, minlength=10))
        total += float(pairs.sum()) / size / 10
    return f"{total:.4f}", total >= 0.99


def mean_of_identical() -> tuple[str, bool]:
    """The mean of identical updates of several users is the update itself (a peer gives 0.75)."""
    update = ls.Gradient({"w": torch.ones(3)})
    mean = ls.mean_update([update] * 4)
    return str(mean.by_name["w"].tolist()), torch.equal(mean.by_name["w"], torch.ones(3))


def attention(dim: int, size: int, recipe: ls.ViT) -> tuple[str, bool]:
    """One attention block, patches of 4 x 4 x 3, one image of noise; the worst of four seeds, all certified."""
    found, domain = [], ls.Images(3, size, size)
    for seed in range(4):
        target = dataclasses.replace(recipe, dim=dim).build(domain, 10, key=ls.Key(seed))
        image = torch.rand(1, 3, size, size, generator=ls.Key(seed).child("image").generator())
        secret = ls.Batch(image, torch.tensor([seed]))
        seen = ls.observe(target, secret, ls.FedSGD(), key=ls.Key(0), tell=[ls.BatchSize(1)])
        attempt = ls.FirstAttention().run(seen, key=ls.Key(0))
        if attempt.certificate is None or not attempt.certificate.holds:
            return attempt.sentence, False
        found.append(decibel(attempt.claim.values, image))
    return f"{min(found):.1f} dB at least, certified", min(found) > 100


def too_many_tokens() -> tuple[str, bool]:
    """64 tokens in 48 dimensions."""
    target = ls.ViT(dim=48, depth=1).build(COLOR, 10, key=ls.Key(0))
    seen = ls.observe(target, ls.Batch(face(1), torch.tensor([4])), ls.FedSGD(), key=ls.Key(0))
    refusal = ls.FirstAttention().refusal(seen)
    return (
        ("", False)
        if refusal is None
        else (refusal.sentence[:88], "64 tokens have at most rank 48" in refusal.sentence)
    )


def decoded(dim: int) -> tuple[str, bool]:
    """Batches of 1 to d / 6 sentences through a decoder; all B * T below d, beyond it refused."""
    source, right, wrong, refused, tried = ls.Sentences(length=10), 0, 0, 0, 0
    target = ls.TextDecoder(dim=dim).build(source.domain, 2, key=ls.Key(0))
    for count in range(1, dim // 6 + 1, 2):
        secret = source.draw(count, key=ls.Key(count)).reveal()
        seen = ls.observe(target, secret, ls.FedSGD(), key=ls.Key(0), tell=[ls.BatchSize(count)])
        attempt = ls.EmbeddingSpan().run(seen, key=ls.Key(0))
        below = int((secret.inputs != 0).sum()) < dim
        tried += below
        refused += attempt.claim is None
        if attempt.claim is not None:
            exact = ls.score(attempt.claim, secret, metrics=[ls.ExactText()])["exact-text"].exact == count
            right, wrong = right + (exact and below), wrong + (not exact)
    crowd = ls.observe(target, source.draw(dim // 2, key=ls.Key(0)).reveal(), ls.FedSGD(), key=ls.Key(0))
    beyond = ls.EmbeddingSpan().refusal(crowd)
    words = f"{right} of {tried} batches below d exact, {wrong} false, {refused} refused"
    said = "" if beyond is None else beyond.sentence[:47]
    return f"{words}; {dim // 2} sentences: {said}", right == tried and not wrong and beyond is not None


def within(seconds: float, mechanism: Any, wanted: float) -> tuple[str, bool]:
    """Four photographs behind a ReLU ConvNet of 73 802 parameters, labels inferred, mean over two draws."""
    source, found = ls.Photographs(), []
    for seed in range(2):
        target = ls.ConvNet().build(source.domain, 10, key=ls.Key(seed))
        secret = source.draw(4, key=ls.Key(seed)).reveal()
        seen = ls.observe(target, secret, mechanism, key=ls.Key(seed), tell=[ls.BatchSize(4)])
        attack = ls.inverting_gradients(steps=100_000, tv=1e-2)
        attempt = attack.run(seen, key=ls.Key(0), budget=ls.Budget(seconds=seconds))
        found.append(ls.score(attempt.claim, secret, domain=source.domain)["psnr"].value)
    mean = sum(found) / len(found)
    return f"{mean:.1f} dB ({', '.join(f'{one:.1f}' for one in found)})", mean >= wanted


CASES: tuple[tuple[str, str, Callable[[], tuple[str, bool]]], ...] = (
    ("Flatten + Linear(3072,100), batch 1", "> 100 dB", dense),
    (
        "dense 784-200, normal inputs, batch 4 to 12",
        "> 100 dB each, certified",
        lambda: together(ls.MLP((200,)).build(standardized(1, 28, 28), 10, key=ls.Key(0)), (4, 6, 8, 10, 12)),
    ),
    (
        "dense 3072-400, normal inputs, batch 4 to 12",
        "> 100 dB each, certified",
        lambda: together(ls.MLP((400,)).build(standardized(3, 32, 32), 10, key=ls.Key(0)), (4, 6, 8, 10, 12)),
    ),
    (
        "988-256-128-4 with dropout .2, batch 16",
        "relative 1e-5, certified",
        lambda: together(
            ls.MLP((256, 128), dropout=0.2, training=True).build(standardized(1, 1, 988), 4, key=ls.Key(0)), (16,)
        ),
    ),
    ("dense 784-200, batch 64", "refused beforehand", lambda: too_many(standardized(1, 28, 28), 200)),
    ("dense 3072-400, batch 64", "refused beforehand", lambda: too_many(standardized(3, 32, 32), 400)),
    ("convolutional chain 154 k, one face", ">= 49 dB in < 20 s", lambda: undone(chain)),
    (
        "LeNet, one face, recursive",
        ">= 49 dB in < 20 s",
        lambda: undone(lambda s: ls.LeNet().build(COLOR, 100, key=ls.Key(s))),
    ),
    ("mean of identical updates", "the update", mean_of_identical),
    ("label counts, batch 24, FedSGD", ">= .99", lambda: counts(24, ls.FedSGD())),
    ("label counts, batch 256, FedSGD", ">= .99", lambda: counts(256, ls.FedSGD())),
    ("label counts, batch 24, FedAvg of one step", ">= .99", lambda: counts(24, ls.FedAvg(steps=1, lr=0.05))),
    ("label counts, batch 256, FedAvg of one step", ">= .99", lambda: counts(256, ls.FedAvg(steps=1, lr=0.05))),
    ("one attention block, 64 tokens, d 128", "> 100 dB", lambda: attention(128, 32, ls.ViT(depth=1))),
    (
        "the same without normalization, 16 tokens, d 96",
        "> 100 dB",
        lambda: attention(96, 16, ls.ViT(depth=1, norm=False, skip=False)),
    ),
    ("one attention block, 64 tokens, d 48", "reported as rank-deficient", too_many_tokens),
    ("decoder, d 64", "exact below d, else refused", lambda: decoded(64)),
    ("decoder, d 128", "exact below d, else refused", lambda: decoded(128)),
    ("iDLG labels, 1000 fresh LeNets", "1000 of 1000", idlg_labels),
    ("LeNet, smooth image, idlg, 1000 evaluations", ">= 7 of 8", lambda: lenets(ls.idlg(), smooth)),
    ("LeNet, smooth image, dlg, 1000 evaluations", ">= 7 of 8", lambda: lenets(ls.dlg(), smooth)),
    ("LeNet, face, idlg, 1000 evaluations", ">= 7 of 8", lambda: lenets(ls.idlg(), face)),
    ("ConvNet 74 k, smooth image, 1000 iterations", ">= 36 dB", convnet),
    ("ConvNet, photographs, depth 3 against 1", "> 0 dB", depth_weight),
    ("ConvNet, batch 4, 35 s", ">= 23 dB", lambda: within(35.0, ls.FedSGD(), 23.0)),
    ("ConvNet, FedAvg 4 images 4 steps, 24 s", ">= 16.5 dB", lambda: within(24.0, ls.FedAvg(steps=4, lr=1e-3), 16.5)),
    ("ConvNet, FedAvg 4 images, 4 steps of all", ">= 15.7/14.5/14.5/13.2 dB", lambda: federated(4, None)),
    ("ConvNet, FedAvg 4 images, 4 steps of one", ">= 15.7/14.5/14.5/13.2 dB", lambda: federated(4, 1)),
)


def main() -> int:
    """Run the cases; 1 when one is below its expectation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="run only the cases whose name holds this word")
    only = parser.parse_args().only
    torch.set_num_threads(1)
    missed = 0
    for name, expected, case in CASES:
        if only in name:
            start = time.perf_counter()
            measured, reached = case()
            missed += not reached
            mark = "" if reached else "   BELOW"
            print(f"{name:46} {expected:26} {measured}  {time.perf_counter() - start:.0f} s{mark}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
