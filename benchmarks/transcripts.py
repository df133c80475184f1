"""Transcripts from one update by their CTC occupancies: trained models and batches of several utterances.

    python benchmarks/transcripts.py [--part trained|batches|noise] [--hidden 256] [--seeds 2]

`exact` counts utterances whose transcript is claimed to the letter, `proved` those that are claimed as certain, and
`false` those that are claimed as certain and wrong: the number that must be 0. `seconds` is the attack alone.
"""

from __future__ import annotations

import argparse
import copy
import functools
import time
from collections import Counter
from collections.abc import Iterator

import torch

import leakscope as ls

HEADER = (
    f"{'case':58} {'labels':>14} {'exact':>6} {'proved':>6} {'false':>5} {'misfit':>8} {'of':>8} "
    f"{'seconds':>8}  how it ended"
)


@functools.cache
def spoken(seconds: float, seed: int = 0) -> ls.Spoken:
    """Utterances of about `seconds` in six voices; other sentences with another seed."""
    return ls.Spoken(speakers=6, each=4, shortest=0.9 * seconds, longest=1.1 * seconds, seed=seed)


def report(
    name: str,
    target: ls.Target,
    batch: ls.Batch,
    mechanism: ls.AbstractMechanism | None = None,
    *,
    attack: ls.CtcTranscript | None = None,
) -> int:
    """Print one line: release, attack, compare. Returns how many wrong transcripts were claimed as certain."""
    seen = ls.observe(target, batch, mechanism or ls.FedSGD(), key=ls.Key(3), tell=[ls.BatchSize(len(batch))])
    began = time.perf_counter()
    attempt = (attack or ls.CtcTranscript()).run(seen, key=ls.Key(0), budget=ls.Budget(seconds=120))
    seconds = time.perf_counter() - began
    said = batch.transcripts()
    true = Counter(said)
    claimed = [] if attempt.claim is None else list(attempt.claim.labels)
    sure = (
        []
        if attempt.claim is None
        else [one for one, p in zip(claimed, attempt.claim.confidence, strict=True) if p == 1]
    )
    exact, false = (true & Counter(claimed)).total(), (Counter(sure) - true).total()
    proof = attempt.certificate
    found = f"{proof.residual:8.1e} {proof.tolerance:8.1e}" if proof else f"{'-':>8} {'-':>8}"
    labels = "+".join(str(len(one)) for one in said)
    print(
        f"{name:58} {labels:>14} {exact:4}/{len(said)} {len(sure):4}/{len(said)} {false:5} {found} {seconds:8.2f}"
        f"  {attempt.sentence}",
        flush=True,
    )
    return false


def training(hidden: int, batch: ls.Batch, seed: int, marks: tuple[int, ...]) -> Iterator[tuple[int, float, ls.Target]]:
    """What Adam (1e-3, all utterances in each step) makes of a fresh model: steps, loss per utterance, target."""
    fresh = ls.DeepSpeech(hidden=hidden).build(spoken(1.0).domain, spoken(1.0).classes, key=ls.Key(seed))
    module = copy.deepcopy(fresh.module).requires_grad_(True)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    for step in range(max(marks) + 1):
        loss = fresh.loss(module(batch.inputs), batch)
        if step in marks:
            yield step, loss.item(), ls.Target(module, fresh.domain, fresh.classes, loss=fresh.loss)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 100.0)
        optimizer.step()


MARKS = (0, 50, 150, 300, 600)


def trained(hidden: int, seeds: int) -> int:
    """From fresh to converged: an utterance of training, a new one, and a batch of both."""
    false = 0
    for seed in range(seeds):
        known = spoken(1.5, seed=1).draw(6, key=ls.Key(100 + seed)).reveal()
        others = spoken(2.5).draw(2, key=ls.Key(200 + seed)).reveal()
        for step, loss, target in training(hidden, known, seed, MARKS):
            print(f"seed {seed}, {step} steps of Adam: loss per utterance {loss:.4g}")
            for name, batch in {
                "an utterance of training": known.rows(torch.tensor([0])).trimmed(),
                "a new utterance": others.rows(torch.tensor([0])).trimmed(),
                "another new one": others.rows(torch.tensor([1])).trimmed(),
                "two of training in a batch": known.rows(torch.tensor([1, 2])).trimmed(),
            }.items():
                false += report(f"  {step} steps, {name}", target, batch)
    return false


def batches(hidden: int, seeds: int) -> int:
    """Two and four utterances, fresh and after some training, for both reductions and through dropout."""
    false = 0
    for seed in range(seeds):
        for count, seconds in ((2, 1.5), (4, 1.0)):
            batch = spoken(seconds).draw(count, key=ls.Key(300 + seed)).reveal()
            domain, classes = spoken(1.0).domain, spoken(1.0).classes
            for reduction in ls.Reduction:
                fresh = ls.DeepSpeech(hidden=hidden, reduction=reduction).build(domain, classes, key=ls.Key(seed))
                false += report(f"seed {seed}, {count} utterances, {reduction!r}", fresh, batch)
            fresh = ls.DeepSpeech(hidden=hidden).build(domain, classes, key=ls.Key(seed))
            if batch.lengths is not None and int(batch.lengths.sum()) < 0.8 * hidden:
                dropped = ls.FedSGD() >> ls.Dropout(0.2)
                false += report(f"seed {seed}, {count} utterances, dropout 0.2", fresh, batch, dropped)
            known = spoken(1.5, seed=1).draw(6, key=ls.Key(100 + seed)).reveal()
            for step, _, target in training(hidden, known, seed, (150,)):
                false += report(f"seed {seed}, {count} new utterances, {step} steps of Adam", target, batch)
    return false


def noise(hidden: int, seeds: int) -> int:
    """Rounding and noise from harmless to hopeless, fresh and trained: where proofs end, no false one may begin."""
    false = 0
    for seed in range(seeds):
        known = spoken(1.5, seed=1).draw(6, key=ls.Key(100 + seed)).reveal()
        batch = spoken(1.0).draw(1, key=ls.Key(400 + seed)).reveal()
        for step, _, target in training(hidden, known, seed, (0, 50, 150)):
            for size in (1e-5, 1e-4, 1e-3, 1e-2):
                update = ls.FedSGD().replay(target, batch).by_name
                spread = float(update["layer_6.weight"].std())
                mechanism = ls.FedSGD() >> ls.GaussianNoise(size * spread)
                attack = ls.CtcTranscript(frames=ls.FrameLikelihood())
                name = f"seed {seed}, {step} steps, noise {size:g} of the last layer's"
                false += report(name, target, batch, mechanism, attack=attack)
    return false


PARTS = {f.__name__: f for f in (trained, batches, noise)}


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(HEADER)
    false = sum(PARTS[name](chosen.hidden, chosen.seeds) for name in chosen.part or PARTS)
    print(f"wrong transcripts that were claimed as certain: {false}")


if __name__ == "__main__":
    main()
