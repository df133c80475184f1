"""Random trials in which a client written in plain PyTorch does something else than what was declared.

    python benchmarks/certificates.py [--quick] [--seed N] [--trials N] [--only NAME] [--wide]

A line per attack and situation: trials, certificates that hold, certificates of wrong claims (expected: 0). A claim is
wrong where an input is more than one percent from every private one (a frame of speech: 0.05), or what a layer was fed
more than a thousandth from all that it was fed by the client's own model, or where labels, tokens or transcripts are
not those of the batch, or more often; and where the statement says that the whole update was replayed although no
training as declared makes it of these examples. Exits with 1 when one certificate is wrong, or when none holds where
all is as declared: a trial that cannot certify cannot fail.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from typing import Any

import plain_blind
import plain_clients
import plain_fronts
import plain_lies
import plain_speech
import torch
from plain_clients import ONE
from plain_judge import (
    bare,
    counting,
    in_one_factor,
    in_size,
    left_open,
    misstated,
    nobody_can_tell,
    told_as_one,
    watched,
    wrong,
    wrong_features,
)
from plain_models import chance, drawn

import leakscope as ls
from leakscope.attacks.parts.reading.proof import MEAN

ATTACKS: dict[str, Any] = {
    "LinearLayer": ls.LinearLayer(),
    "LowRank": ls.LowRank(),
    "LabelSigns": ls.LabelSigns(),
    "Recursive": ls.Recursive(),
    "FirstAttention": ls.FirstAttention(),
    "EmbeddingSpan": ls.EmbeddingSpan(),
    "RevealedFeatures": ls.RevealedFeatures(),
    "RevealedLabels": ls.RevealedLabels(),
    "LabelCounts": ls.LabelCounts(),
}
SITUATIONS = plain_clients.SITUATIONS | plain_lies.ANY | plain_lies.TEXTS | plain_blind.BLIND | plain_fronts.FRONTS
SITUATIONS |= plain_clients.ONCE | plain_clients.once(SITUATIONS)
SPOKEN = plain_speech.SITUATIONS
SLOW = ("EmbeddingSpan", "LongFrames", "CtcTranscript")
"""Attacks that get a third of the trials."""
WIDE = ("as declared", "padded by silence", "padded by zeros", "gated", "all silent", "all zeros")
"""What is said to recognizers of 256 and 2048 units."""


def situations(name: str) -> list[str]:
    """Those that there are for an attack: tokens are whole numbers, to which nothing is added."""
    if name in plain_speech.ATTACKS:
        return list(SPOKEN)
    if name == "EmbeddingSpan":
        return [one for one, what in SITUATIONS.items() if what.fed is None]
    return [one for one in SITUATIONS if one.removesuffix(ONE) not in plain_lies.TEXTS]


def trial(name: str, situation: str, seed: int) -> tuple[bool, bool]:
    """Whether a certificate holds, and whether its claim or its statement is wrong."""
    proved, fault = judged(name, situation, seed)
    return proved, bool(fault)


def judged(name: str, situation: str, seed: int) -> tuple[bool, str]:
    """Whether a certificate holds, and what of its claim or of its statement is not so."""
    if name in plain_speech.ATTACKS:
        return plain_speech.judged(name, situation, seed)
    draw, what = torch.Generator().manual_seed(seed), SITUATIONS[situation]
    world = drawn(name, draw, least=max(what.least, 1 - what.told))
    world = world if what.batch is None else what.batch(world)
    fed = world.inputs if what.fed is None else what.fed(world)
    trained = dataclasses.replace(world, inputs=fed)
    with watched(world.net) as runs:
        sent = what.client(trained)
    release = ls.Delta(sent) if what.moved else ls.Gradient(sent)
    told = len(world.inputs) + what.told
    facts = (ls.BatchSize(told),) if what.told or chance(draw) < 1 - what.untold else ()
    mechanism = ls.FedAvg(steps=1 if what.once else 2, lr=plain_clients.LR) if what.moved else ls.FedSGD()
    seen = ls.Observation(world.target, release, mechanism, facts)
    attempt = ATTACKS[name].run(seen, key=ls.Key(seed), budget=ls.Budget(seconds=5))
    certificate = attempt.certificate
    if attempt.claim is None or certificate is None or not any(certificate.proved):
        return False, ""
    # Where its statement says so, what is claimed of examples of one error is their mean; but where the layer is blind
    # to single pixels, or to all, the words excuse nothing.
    groups = plain_blind.alike(trained) if what.mean and MEAN in certificate.statement else []
    statement = bare(certificate.statement)
    if isinstance(attempt.claim, ls.Features):
        # Proved one by one: others that are not make none of these less so.
        certain = torch.tensor(certificate.proved)
        kept = ls.Features(attempt.claim.layer, attempt.claim.values[certain], attempt.claim.labels[certain])
        if groups:
            runs = {layer: [plain_blind.with_means(torch.cat(fed), groups)] for layer, fed in runs.items()}
        kept = in_one_factor(kept, certificate.statement, runs)
        fault = wrong_features(kept, runs, torch.cat([world.labels, *(world.labels[one[:1]] for one in groups)]))
        if fault and what.told < 0 and told_as_one(kept, trained, sent, what.moved):
            return True, ""
        return True, fault
    if not certificate.holds:
        return False, ""
    private = counting(situation.removesuffix(ONE), statement, world, fed, told=what.told)
    if what.once:
        # A step is a gradient, but for its rate.
        sent = {name: -value / plain_clients.LR for name, value in sent.items()}
    labels = world.labels
    if groups:
        private, labels = (
            plain_blind.with_means(private, groups),
            torch.cat([world.labels, *(world.labels[one[:1]] for one in groups)]),
        )
    if isinstance(attempt.claim, ls.Labels) and not facts and situation.removesuffix(ONE) == "one twice":
        # Nobody told how many there are, and one of them was trained on twice: so it occurs twice.
        labels = torch.cat([labels, labels[-1:]])
    fault = wrong(in_size(attempt.claim, statement, private), private, labels, within=left_open(certificate))
    if fault and what.told < 0 and nobody_can_tell(attempt.claim, world, sent):
        return True, ""
    return True, fault or misstated(statement, trained, sent, moved=what.moved and not what.once)


def row(name: str, situation: str, seeds: list[int], **how: Any) -> tuple[int, bool]:
    """Prints a line; how many trials there were, and whether it is below expectation."""
    start = time.process_time()
    found = [plain_speech.judged(name, situation, one, **how) if how else judged(name, situation, one) for one in seeds]
    faults = [(seed, fault) for seed, (_, fault) in zip(seeds, found, strict=True) if fault]
    proved, false = sum(one for one, _ in found), len(faults)
    # A wide recognizer gets too few trials for that.
    lost = situation == "as declared" and not proved and not how
    mark = "   WRONG" if false else "   NONE PROVED" if lost else ""
    label = f"{situation}, {how['hidden']} units" if how else situation
    seconds = time.process_time() - start
    print(f"{name:15} {label:42} {len(found):6} {proved:6} {false:6} {0:8}  {seconds:.0f} s{mark}", flush=True)
    for seed, fault in faults:
        print(f"    seed {seed}: {fault}", flush=True)
    return len(found), bool(false or lost)


def main() -> int:
    """Run the trials; 1 when a certificate is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few trials, in less than a minute")
    parser.add_argument("--seed", type=int, default=0, help="other trials")
    parser.add_argument("--trials", type=int, default=0, help="for each pair (default: 24; 1 if quick)")
    parser.add_argument("--only", default="", help="one attack")
    parser.add_argument("--wide", action="store_true", help="speech to 256 and 2048 units as well, two minutes more")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    each, rows = asked.trials or (1 if asked.quick else 24), []
    print(f"{'attack':15} {'situation':42} {'trials':>6} {'proved':>6} {'wrong':>6} {'expected':>8}")
    for name in (*ATTACKS, *plain_speech.ATTACKS):
        if asked.only not in ("", name):
            continue
        for place, situation in enumerate(situations(name)):
            count = max(1, each // 3) if name in SLOW else each
            # As declared must reach proofs, so it gets enough trials for that.
            count = max(count, 4) if situation == "as declared" else count
            base = (asked.seed * 1_000_003 + place * 10_007) * 1000
            rows.append(row(name, situation, [base + number for number in range(count)]))
    for units in (256, 2048) if asked.wide else ():
        for name in plain_speech.ATTACKS:
            # seconds each
            count = 2 if (units, name) == (2048, "LongFrames") else 8
            seeds = [asked.seed * 1_000_003 + units + number for number in range(count)]
            rows += [row(name, situation, seeds, hidden=units) for situation in WIDE]
    print(f"{sum(count for count, _ in rows)} trials")
    return 1 if any(failed for _, failed in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
