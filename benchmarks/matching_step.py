"""One step of gradient matching: the double-backward loop as it is commonly written, beside ours, in one process.

    python benchmarks/matching_step.py [--rounds 7]

Both sides do the same arithmetic: the squared distance between the candidate's gradient and the observed one, its
gradient with respect to the image, one Adam step, and the loss read back. Prints milliseconds per step and
reconstruction, and the ratio (common / ours) as minimum, median and maximum over rounds that alternate the two.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

import leakscope as ls
from leakscope.core.attempt import unwatched


def common_loop(target: ls.Target, gradient: ls.Gradient, label: torch.Tensor, steps: int) -> float:
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


def our_search(seen: ls.Observation, label: torch.Tensor, steps: int, restarts: int) -> float:
    """`Adam` of leakscope on the same objective, `restarts` reconstructions at once."""
    attack = ls.GradientInversion(ls.Squared(), start=ls.Uniform(), search=ls.Adam(steps=steps), restarts=restarts)
    problem, _ = attack._problem(seen, label, ls.Key(0))
    starts = attack._starts(seen, label, ls.Key(0))
    found = attack.search.run(problem, starts, clock=ls.Budget().start(), watch=unwatched)
    return found.loss


def seconds(function: Callable[[], float]) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(name: str, target: ls.Target, *, restarts: int, steps: int, rounds: int) -> None:
    """Print one line: both times and the ratio with its spread."""
    label = torch.tensor([1])
    image = torch.rand(1, *target.domain.shape, generator=ls.Key(0).generator())
    seen = ls.observe(target, ls.Batch(image, label), ls.FedSGD(), key=ls.Key(0), tell=[ls.BatchSize(1)])
    gradient = seen.gradient()
    common_loop(target, gradient, label, 2)
    our_search(seen, label, 2, restarts)
    theirs, ours = [], []
    for _ in range(rounds):
        theirs.append(1000 * seconds(lambda: common_loop(target, gradient, label, steps)) / steps)
        ours.append(1000 * seconds(lambda: our_search(seen, label, steps, restarts)) / (steps * restarts))
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    print(
        f"{name:28} {restarts:3d} at once  common {statistics.median(theirs):8.2f} ms  ours "
        f"{statistics.median(ours):8.2f} ms  "
        f"ratio {min(ratios):.2f} / {statistics.median(ratios):.2f} / {max(ratios):.2f}"
    )


def main() -> None:
    """Both nets, one reconstruction and many."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    domain = ls.Images(3, 32, 32)
    lenet = ls.LeNet().build(domain, 100, key=ls.Key(0))
    convnet = ls.ConvNet().build(domain, 10, key=ls.Key(0))
    print("per step and reconstruction; ratio = common / ours as minimum / median / maximum of the rounds")
    for restarts, steps in ((1, 60), (16, 12), (64, 6)):
        compare("LeNet", lenet, restarts=restarts, steps=steps, rounds=rounds)
    for restarts, steps in ((1, 20), (8, 5)):
        compare("ConvNet, 74 k parameters", convnet, restarts=restarts, steps=steps, rounds=rounds)


if __name__ == "__main__":
    main()
