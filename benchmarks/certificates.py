"""Random trials in which a client written in plain PyTorch does something else than what was declared.

    python benchmarks/certificates.py [--quick] [--seed N] [--trials N] [--only NAME] [--wide]

A line per attack and situation: trials, certificates that hold, certificates of wrong claims (expected: 0). A claim is
wrong where an input is more than one percent from every private one (a frame of speech: 0.05), or where labels, tokens
or transcripts are not those of the batch. Exits with 1 when one certificate is wrong, or when none holds where all is
as declared: a trial that cannot certify cannot fail.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from typing import Any

import plain_clients
import plain_speech
import torch
from plain_models import World, chance, drawn
from torch import Tensor

import leakscope as ls
from leakscope.attacks.parts.reading.proof import FED

EXACT = 1e-2
SAME = 1e-4
"""Relative distance of two gradients within which they count as one."""
ATTACKS: dict[str, Any] = {
    "LinearLayer": ls.LinearLayer(),
    "LowRank": ls.LowRank(),
    "LabelSigns": ls.LabelSigns(),
    "Recursive": ls.Recursive(),
    "FirstAttention": ls.FirstAttention(),
    "EmbeddingSpan": ls.EmbeddingSpan(),
}
SITUATIONS, SPOKEN = plain_clients.SITUATIONS, plain_speech.SITUATIONS
SLOW = ("EmbeddingSpan", "LongFrames", "CtcTranscript")
"""Attacks that get a third of the trials."""
WIDE = ("as declared", "padded by silence", "padded by zeros", "gated")
"""What is said to recognizers of 256 and 2048 units."""


def situations(name: str) -> list[str]:
    """Those that there are for an attack: tokens are whole numbers, to which nothing is added."""
    if name in plain_speech.ATTACKS:
        return list(SPOKEN)
    return [one for one, what in SITUATIONS.items() if what.fed is None or name != "EmbeddingSpan"]


def wrong(claim: Any, inputs: Tensor, labels: Tensor) -> bool:
    """Whether a claim that is certified is not true of these examples."""
    if isinstance(claim, ls.Labels):
        return not set(claim.values.tolist()) <= set(labels.tolist())
    if isinstance(claim, ls.Tokens):
        rows = [tuple(row) for row in inputs.tolist()]
        if claim.bag:
            return set(claim.sequences[0]) != {token for row in rows for token in row}
        return not set(claim.sequences) <= set(rows)
    true, claimed = inputs.flatten(1).double(), claim.values.flatten(1).double()
    away = torch.cdist(claimed, true) / true.norm(dim=1).clamp_min(1e-3)
    if float(away.min(1).values.max()) > EXACT:
        return True
    # labels that stand beside proved inputs are part of what is proved
    pairs = zip(away.argmin(1).tolist(), claim.labels.tolist(), strict=True) if claim.labels is not None else ()
    alike = [[i for i, one in enumerate(true) if torch.equal(one, other)] for other in true]
    return any(label not in labels[alike[row]].tolist() for row, label in pairs)


def counting(situation: str, statement: str, world: World, fed: Tensor) -> Tensor:
    """The inputs that a claim has to be of: the private ones, unless nothing can tell.

    What was fed counts where the certificate speaks of that alone, and where it is a legal input with its own label:
    noise that leaves every value in the range is another input to everybody. So is the mean of two pictures, told as
    one, so dark that the model is linear in them.
    """
    legal = float(fed.min()) >= 0 and float(fed.max()) <= 1
    if situation == "mixup":
        # Two of one class, blended, are one of that class.
        legal = len(fed) > 1 and torch.equal(world.labels, world.labels.flip(0))
    found = fed if legal or statement.endswith(FED) else world.inputs
    if SITUATIONS[situation].told < 0 and fed.is_floating_point() and len(world.labels.unique()) == 1:
        mean = fed.mean(0, keepdim=True).expand(fed.shape)
        apart = plain_clients.apart(world, dataclasses.replace(world, inputs=mean))
        found = mean if apart < SAME else found
    return found


def trial(name: str, situation: str, seed: int) -> tuple[bool, bool]:
    """Whether a certificate holds, and whether its claim is wrong."""
    if name in plain_speech.ATTACKS:
        return plain_speech.trial(name, situation, seed)
    draw, what = torch.Generator().manual_seed(seed), SITUATIONS[situation]
    world = drawn(name, draw, least=1 - what.told if what.told < 0 else 1)
    fed = world.inputs if what.fed is None else what.fed(world)
    sent = what.client(dataclasses.replace(world, inputs=fed))
    release = ls.Delta(sent) if what.moved else ls.Gradient(sent)
    told = len(world.inputs) + what.told
    facts = (ls.BatchSize(told),) if what.told or chance(draw) < 0.9 else ()
    mechanism = ls.FedAvg(steps=2, lr=plain_clients.LR) if what.moved else ls.FedSGD()
    seen = ls.Observation(world.target, release, mechanism, facts)
    attempt = ATTACKS[name].run(seen, key=ls.Key(seed), budget=ls.Budget(seconds=5))
    certificate = attempt.certificate
    if attempt.claim is None or certificate is None or not certificate.holds:
        return False, False
    return True, wrong(attempt.claim, counting(situation, certificate.statement, world, fed), world.labels)


def row(name: str, situation: str, seeds: list[int], **how: Any) -> tuple[int, bool]:
    """Prints a line; how many trials there were, and whether it is below expectation."""
    start = time.process_time()
    found = [plain_speech.trial(name, situation, one, **how) if how else trial(name, situation, one) for one in seeds]
    proved, false = sum(one for one, _ in found), sum(other for _, other in found)
    # A wide recognizer gets too few trials for that.
    lost = situation == "as declared" and not proved and not how
    mark = "   WRONG" if false else "   NONE PROVED" if lost else ""
    label = f"{situation}, {how['hidden']} units" if how else situation
    seconds = time.process_time() - start
    print(f"{name:15} {label:32} {len(found):6} {proved:6} {false:6} {0:8}  {seconds:.0f} s{mark}", flush=True)
    return len(found), bool(false or lost)


def main() -> int:
    """Run the trials; 1 when a certificate is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few trials, in less than a minute")
    parser.add_argument("--seed", type=int, default=0, help="other trials")
    parser.add_argument("--trials", type=int, default=0, help="for each pair (default: 24; 1 if quick)")
    parser.add_argument("--only", default="", help="one attack")
    parser.add_argument("--wide", action="store_true", help="speech to 256 and 2048 units as well, which takes minutes")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    each, rows = asked.trials or (1 if asked.quick else 24), []
    print(f"{'attack':15} {'situation':32} {'trials':>6} {'proved':>6} {'wrong':>6} {'expected':>8}")
    for name in (*ATTACKS, *plain_speech.ATTACKS):
        if asked.only not in ("", name):
            continue
        for place, situation in enumerate(situations(name)):
            count = max(1, each // 3) if name in SLOW else each
            # As declared must reach proofs, so it gets enough trials for that.
            count = max(count, 4) if situation == "as declared" else count
            base = (asked.seed * 1_000_003 + place * 10_007) * 1000
            rows.append(row(name, situation, [base + number for number in range(count)]))
    for units, count in ((256, 4), (2048, 1)) if asked.wide else ():
        for name in plain_speech.ATTACKS:
            seeds = [asked.seed * 1_000_003 + units + number for number in range(count)]
            rows += [row(name, situation, seeds, hidden=units) for situation in WIDE]
    print(f"{sum(count for count, _ in rows)} trials")
    return 1 if any(failed for _, failed in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
