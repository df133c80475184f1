"""One step of gradient matching: the double-backward loop as it is commonly written, beside ours, in one process.

    python benchmarks/matching_step.py [--rounds 5] [--case lenet|convnet|convnet-large|resnet18] [--no-compile]
    python benchmarks/matching_step.py --part precision [--rounds 5]

Both sides do the same arithmetic: the squared distance between the candidate's gradient and the observed one, and its
gradient with respect to the image. The common loop also steps an Adam and reads the loss back, as it does in the wild
(a few percent of a step). Prints milliseconds per step and reconstruction, and the ratio common / ours as minimum /
median / maximum of rounds that alternate all sides: `written` is torch.func as it stands, `recorded` the same step as
one flat graph, `compiled` that graph through torch.compile. `leakscope` chooses among them by the planned work
(`attacks/parts/search/execution.py`). What recording and compiling cost is printed once for each case.

`--part precision`: the same step in float32 and with its products in bfloat16 (`Bfloat16`), the ratio of their times,
and the PSNR and the float32 loss that both reach in equal steps (cosine, total variation 1e-3, signed Adam).
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import leakscope as ls
from leakscope.attacks.parts.search.execution import Course, Slope, executed
from leakscope.attacks.parts.search.first_order import gradients
from leakscope.attacks.parts.search.precision import rounded


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)
        self.second, self.again = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
        same = stride == 1 and before == after
        self.short = nn.Identity() if same else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) to (B, after, H / stride, W / stride)."""
        return torch.relu(self.again(self.second(torch.relu(self.norm(self.first(x))))) + self.short(x))


def resnet18(domain: ls.Images) -> ls.Target:
    """ResNet-18 with a stem for 32 x 32 images."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    before = 64
    for after, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Block(before, after, stride), Block(after, after, 1)]
        before = after
    with ls.Key(0).isolated():
        net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))
    return ls.Target(net.eval(), domain, 10, "ResNet-18")


def common_loop(target: ls.Target, gradient: ls.Gradient, label: Tensor, steps: int) -> float:
    """The loop of the field's tutorials: autograd twice, python sum, `.item()` at every step."""
    net = copy.deepcopy(target.module).requires_grad_(True)
    wanted = list(gradient.by_name.values())
    dummy = torch.rand(1, *target.domain.shape, requires_grad=True)
    optimizer = torch.optim.Adam([dummy], lr=0.1)
    history = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(dummy), label)
        found = torch.autograd.grad(loss, list(net.parameters()), create_graph=True)
        difference = sum(((a - b) ** 2).sum() for a, b in zip(found, wanted, strict=True))
        difference.backward()
        optimizer.step()
        history.append(difference.item())
    return history[-1]


def seconds(function: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def repeated(slope: Slope, point: dict[str, Tensor], steps: int) -> None:
    """Some steps without moving."""
    for _ in range(steps):
        slope(point)


def compare(target: ls.Target, *, restarts: int, steps: int, rounds: int, compiles: bool) -> None:
    """Print a line for each course."""
    label = torch.tensor([1])
    image = torch.rand(1, *target.domain.shape, generator=ls.Key(0).generator())
    seen = ls.observe(target, ls.Batch(image, label), ls.FedSGD(), key=ls.Key(0), tell=[ls.BatchSize(1)])
    attack = ls.GradientInversion(ls.Squared(), start=ls.Uniform(), restarts=restarts)
    problem, _ = attack._problem(seen, label, ls.Key(0))
    point = attack._starts(seen, label, ls.Key(0))
    written = gradients(problem, restarts)
    slopes, once = {Course.WRITTEN: written}, {Course.WRITTEN: 0.0}
    for course in (Course.RECORDED, Course.COMPILED) if compiles else (Course.RECORDED,):
        began = time.perf_counter()
        slopes[course] = executed(written, point, course)
        once[course] = time.perf_counter() - began
    gradient = seen.gradient()
    common_loop(target, gradient, label, 2)
    theirs: list[float] = []
    ours: dict[Course, list[float]] = {course: [] for course in slopes}
    for _ in range(rounds):
        theirs.append(1000 * seconds(lambda: common_loop(target, gradient, label, steps)) / steps)
        for course, slope in slopes.items():
            spent = seconds(lambda slope=slope: repeated(slope, point, steps))
            ours[course].append(1000 * spent / (steps * restarts))
    for course, took in ours.items():
        ratios = [a / b for a, b in zip(theirs, took, strict=True)]
        print(
            f"{target.name[:34]:34} {restarts:3d} at once  common {statistics.median(theirs):8.2f} ms  "
            f"{course.name.lower():8} {statistics.median(took):8.2f} ms  "
            f"ratio {min(ratios):5.2f} / {statistics.median(ratios):5.2f} / {max(ratios):5.2f}  "
            f"once {once[course]:5.1f} s",
            flush=True,
        )


@dataclass(frozen=True)
class Rounding:
    """A case of the part `precision`. steps: of the two searches that are compared, 0 for none; timed: a round."""

    build: Callable[[], ls.Target]
    batch: int
    steps: int
    timed: int


def precision(name: str, case: Rounding, rounds: int) -> None:
    """Print the ratio of a step and what both searches end with."""
    target, source = case.build(), ls.Synthetic((3, 32, 32), classes=10, count=64)
    batch = source.draw(case.batch, key=ls.Key(1)).reveal()
    labels = ls.TrueLabels(tuple(batch.labels.tolist()))
    seen = ls.observe(target, batch, ls.FedSGD(), key=ls.Key(0), tell=[ls.BatchSize(case.batch), labels])
    full = ls.Adam(lr=0.1, steps=max(case.steps, 1), signed=True)
    attacks = {
        search: ls.GradientInversion(ls.Cosine(), 1e-3 * ls.TotalVariation(), search=search, labeling=ls.Told())
        for search in (full, ls.Bfloat16(full))
    }
    problem, _ = attacks[full]._problem(seen, batch.labels, ls.Key(0))
    point = attacks[full]._starts(seen, batch.labels, ls.Key(0))
    slopes = [gradients(one, 1) for one in (problem, rounded(problem))]
    took: list[list[float]] = [[], []]
    for slope in slopes:
        slope(point)
    for _ in range(rounds):
        for slope, times in zip(slopes, took, strict=True):
            times.append(1000 * seconds(lambda slope=slope: repeated(slope, point, case.timed)) / case.timed)
    ratios = [a / b for a, b in zip(*took, strict=True)]
    line = (
        f"{name:16} batch {case.batch}  float32 {statistics.median(took[0]):8.2f} ms  bfloat16 "
        f"{statistics.median(took[1]):8.2f} ms  ratio {min(ratios):5.2f} / {statistics.median(ratios):5.2f} / "
        f"{max(ratios):5.2f}"
    )
    for what, attack in zip(("float32", "bfloat16"), attacks.values(), strict=True) if case.steps else ():
        attempt = attack.run(seen, key=ls.Key(2))
        assert attempt.claim is not None
        psnr = ls.score(attempt.claim, batch, domain=DOMAIN)["psnr"].value
        line += f"  {what}: {psnr:.1f} dB, loss {attempt.sentence.rpartition(' ')[2]} after {case.steps}"
    print(line, flush=True)


DOMAIN = ls.Images(3, 32, 32)
ROUNDED = {
    "lenet": Rounding(lambda: ls.LeNet().build(DOMAIN, 10, key=ls.Key(0)), 1, 1000, 40),
    "convnet": Rounding(lambda: ls.ConvNet().build(DOMAIN, 10, key=ls.Key(0)), 1, 1000, 10),
    "convnet-large": Rounding(lambda: ls.ConvNet(width=140).build(DOMAIN, 10, key=ls.Key(0)), 1, 0, 2),
    "convnet-large, 8": Rounding(lambda: ls.ConvNet(width=140).build(DOMAIN, 10, key=ls.Key(0)), 8, 0, 1),
    "resnet20": Rounding(lambda: ls.ResNet20().build(DOMAIN, 10, key=ls.Key(0)), 1, 200, 2),
    "resnet20, 8": Rounding(lambda: ls.ResNet20().build(DOMAIN, 10, key=ls.Key(0)), 8, 0, 1),
}
CASES = {
    "lenet": (lambda: ls.LeNet().build(DOMAIN, 100, key=ls.Key(0)), ((1, 60), (16, 12), (64, 6))),
    "convnet": (lambda: ls.ConvNet().build(DOMAIN, 10, key=ls.Key(0)), ((1, 20), (8, 5))),
    "convnet-large": (lambda: ls.ConvNet(width=140).build(DOMAIN, 10, key=ls.Key(0)), ((1, 4),)),
    "resnet18": (lambda: resnet18(DOMAIN), ((1, 2),)),
}


def main() -> None:
    """All nets, one reconstruction and many."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--part", choices=("step", "precision"), default="step")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.part == "precision":
        for name, case in ROUNDED.items():
            precision(name, case, chosen.rounds)
        return
    print("per step and reconstruction; ratio = common / ours as minimum / median / maximum of the rounds")
    for name in chosen.case or CASES:
        build, sizes = CASES[name]
        target = build()
        for restarts, steps in sizes:
            compare(target, restarts=restarts, steps=steps, rounds=chosen.rounds, compiles=not chosen.no_compile)


if __name__ == "__main__":
    main()
