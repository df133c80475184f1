"""One step of the direct search: all candidates in one pass, beside one candidate at a time, in one process.

    python benchmarks/direct_search.py [--rounds 5]

Both sides compute the same losses, 1 - cosine of the last layer's gradient for 128 candidate utterances. One at a time
is done twice: as the field's loop does it, with `loss.backward()` through a trainable model, and with our own value
function, which needs the last layer's gradient only. Prints milliseconds per step of 128 candidates, and the ratios as
minimum, median and maximum over rounds that alternate the three.
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
from leakscope.attacks.parts.labeling.labeling import Spelled
from leakscope.attacks.parts.search.direct import all_losses
from leakscope.attacks.parts.search.directions import By, steps_along
from leakscope.attacks.parts.search.first_order import Problem

CANDIDATES = 128
LAST = ("layer_6.weight", "layer_6.bias")


def common_loop(
    target: ls.Target, batch: ls.Batch, wanted: dict[str, torch.Tensor], tried: torch.Tensor
) -> list[float]:
    """Backward through the whole trainable model, candidate by candidate, with torch's own CTC."""
    net = copy.deepcopy(target.module).requires_grad_(True)
    losses = []
    for inputs in tried:
        net.zero_grad()
        log_probabilities = net(inputs).log_softmax(-1).transpose(0, 1)
        assert batch.lengths is not None
        assert batch.label_lengths is not None
        F.ctc_loss(
            log_probabilities,
            batch.labels,
            batch.lengths,
            batch.label_lengths,
            blank=target.classes - 1,
            reduction="sum",
        ).backward()
        found = torch.cat([dict(net.named_parameters())[name].grad.flatten() for name in LAST])
        losses.append(1 - float(F.cosine_similarity(found, torch.cat([wanted[n].flatten() for n in LAST]), dim=0)))
    return losses


def milliseconds(function: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    function()
    return 1000 * (time.perf_counter() - start)


def compare(hidden: int, frames: int, rounds: int) -> None:
    """One line: three times and two ratios with their spread."""
    target = ls.DeepSpeech(hidden=hidden).build(ls.Frames(26), 29, key=ls.Key(0))
    letters = max(1, round(0.3 * frames))
    labels = torch.randint(28, (1, letters), generator=ls.Key(1).generator())
    inputs = torch.randn(1, frames, 26, generator=ls.Key(0).generator())
    batch = ls.Batch(inputs, labels, torch.tensor([frames]), torch.tensor([letters]))
    facts = [ls.BatchSize(1), ls.Lengths((frames,)), ls.TrueTranscripts((tuple(labels[0].tolist()),))]
    seen = ls.observe(target, batch, ls.FedSGD(), key=ls.Key(0), tell=facts)
    attack = ls.GradientInversion(ls.Layers(ls.Cosine(), ("layer_6.*",)), labeling=ls.Told())
    problem: Problem = attack._problem(seen, Spelled.of(facts[2].values), ls.Key(0))[0]
    start = torch.zeros(1, 1, frames, 26)
    steps = steps_along(start, By.FRAME, CANDIDATES - 1, free=None, item=None, frames=1, key=ls.Key(2)).unit
    tried = torch.cat([start.unsqueeze(1), start.unsqueeze(1) + steps], 1)[0]

    def together() -> list[float]:
        with torch.no_grad():
            return all_losses(problem, {"inputs": start}, {"inputs": steps})[0].tolist()

    def alone() -> list[float]:
        with torch.no_grad():
            return [float(problem.value({"inputs": one})) for one in tried]

    wanted = {name: seen.release.by_name[name] for name in LAST}
    sides: tuple[Callable[[], list[float]], ...] = (together, alone, lambda: common_loop(target, batch, wanted, tried))
    found = [side() for side in sides]
    worst = max(abs(a - b) for other in found[1:] for a, b in zip(found[0], other, strict=True))
    times: list[list[float]] = [[], [], []]
    for _ in range(rounds):
        for side, kept in zip(sides, times, strict=True):
            kept.append(milliseconds(side))
    lines = [
        " / ".join(
            f"{pick([b / a for a, b in zip(times[0], times[k], strict=True)]):.1f}"
            for pick in (min, statistics.median, max)
        )
        for k in (1, 2)
    ]
    shown = "  ".join(f"{statistics.median(kept):9.1f} ms" for kept in times)
    print(f"hidden {hidden:5d}, {frames:3d} frames  {shown}   {lines[0]:22}  {lines[1]:22}  differ by {worst:.0e}")


def main() -> None:
    """Several sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print("a step of 128 candidates: together, alone, common loop; ratio alone / together and common / together")
    for hidden, frames in ((32, 12), (64, 49), (256, 49), (512, 49)):
        compare(hidden, frames, rounds)


if __name__ == "__main__":
    main()
