"""Exact frames from one update of a full-size DeepSpeech: accuracy and seconds over length, dropout, batches and steps.

    python benchmarks/windowed_solve.py [--part single|growth|batches|steps|rounded|converged|long] [--hidden 2048]

`seconds` is the attack alone, without the client's forward and backward pass. `growth` states how the banded solve
grows with the number of frames (one factorization each, the spectrum apart), as a ratio to the shortest in one run.
"""

from __future__ import annotations

import argparse
import functools
import time

import numpy as np
import torch

import leakscope as ls
from leakscope.attacks.attack import Attack
from leakscope.attacks.inputs.frames.window.window_span import affine_solution, span_of
from leakscope.targets.looking.context_window import context_window

HEADER = f"{'case':58} {'frames':>16} {'worst MAE':>10} {'seconds':>8}  how it ended"


@functools.cache
def spoken(seconds: float, speakers: int = 3) -> ls.Spoken:
    """Utterances of about `seconds` in as many voices."""
    return ls.Spoken(speakers=speakers, each=4, shortest=0.97 * seconds, longest=1.03 * seconds)


def secret(*lengths: float, key: int = 0) -> ls.Batch:
    """One utterance of each length, all in one batch."""
    rows = [spoken(seconds).draw(1, key=ls.Key(key + 7 * k)).reveal() for k, seconds in enumerate(lengths)]
    return joined(rows)


def joined(rows: list[ls.Batch]) -> ls.Batch:
    """Several batches of sequences as one, padded."""
    frames = max(row.inputs.shape[1] for row in rows)
    letters = max(row.labels.shape[1] for row in rows)
    pad = torch.nn.functional.pad
    return ls.Batch(
        torch.cat([pad(row.inputs, (0, 0, 0, frames - row.inputs.shape[1])) for row in rows]),
        torch.cat([pad(row.labels, (0, letters - row.labels.shape[1])) for row in rows]),
        torch.cat([row.lengths for row in rows if row.lengths is not None]),
        torch.cat([row.label_lengths for row in rows if row.label_lengths is not None]),
    )


def errors(claim: ls.Inputs, batch: ls.Batch) -> list[float]:
    """Mean absolute error of each utterance, against the claimed one of the same length that fits best."""
    assert batch.lengths is not None
    found = []
    for row, length in zip(batch.inputs, batch.lengths.tolist(), strict=True):
        same = [value for value, n in zip(claim.values, claim.lengths.tolist(), strict=True) if n == length]
        gaps = [float((value[:length] - row[:length]).abs().mean()) for value in same]
        found.append(min(gaps, default=float("inf")))
    return found


def report(
    name: str,
    target: ls.Target,
    batch: ls.Batch,
    mechanism: ls.AbstractMechanism,
    *,
    cast: torch.dtype | None = None,
    attack: Attack[ls.Inputs] | None = None,
) -> None:
    """Print one line: release, attack, compare."""
    seen = ls.observe(target, batch, mechanism, key=ls.Key(3))
    if cast is not None:
        release = type(seen.release)({n: v.to(cast) for n, v in seen.release.by_name.items()})
        seen = ls.Observation(seen.target, release, seen.mechanism, seen.facts)
    began = time.perf_counter()
    attempt = (attack or ls.WindowedFrames()).run(seen, key=ls.Key(0))
    seconds = time.perf_counter() - began
    lengths = "+".join(str(n) for n in batch.lengths.tolist())
    mae = max(errors(attempt.claim, batch)) if attempt.claim is not None else float("nan")
    held = "certified" if attempt.certificate is not None and attempt.certificate.holds else "not certified"
    print(f"{name:58} {lengths:>16} {mae:10.1e} {seconds:8.2f}  {held}: {attempt.sentence}", flush=True)


def single(target: ls.Target) -> None:
    """Lengths, voices, dropout."""
    for seconds in (1.0, 3.0, 5.0, 9.0):
        for rate in (0.0, 0.2, 0.5):
            for key in range(3 if rate == 0.2 else 1):
                mechanism = ls.FedSGD() >> ls.Dropout(rate) if rate else ls.FedSGD()
                report(f"{seconds:g} s, draw {key}, dropout {rate}", target, secret(seconds, key=key), mechanism)


def growth(target: ls.Target) -> None:
    """Seconds of the banded solve over frames."""
    window = context_window(target)
    rows = []
    for seconds in (1.0, 2.0, 4.0, 8.0):
        batch = secret(seconds)
        seen = ls.observe(target, batch, ls.FedSGD(), key=ls.Key(3))
        weight, bias = window.read(seen.gradient().by_name)
        span = span_of(np.vstack([weight, bias]))
        form, took = span.form(), []
        for _ in range(9):
            began = time.perf_counter()
            affine_solution(form, span.rank, left=window.left, features=window.features)
            took.append(time.perf_counter() - began)
        rows.append((span.rank, min(took)))
    for frames, took in rows:
        relative = f"{took / rows[0][1]:.2f} times {rows[0][0]} frames, whose share is {frames / rows[0][0]:.2f}"
        print(f"banded solve of {frames:4} frames: {1e3 * took:7.1f} ms; {relative}")


def batches(target: ls.Target) -> None:
    """Mixed lengths, equal lengths, too many frames."""
    cases = {"2 of mixed lengths": (1.5, 3.0), "4 of mixed lengths": (1.0, 1.5, 2.0, 3.0)}
    for name, lengths in cases.items():
        for rate in (0.0, 0.2):
            mechanism = ls.FedSGD() >> ls.Dropout(rate) if rate else ls.FedSGD()
            report(f"{name}, dropout {rate}", target, secret(*lengths), mechanism)
    one, other = secret(2.0), secret(2.0, key=5)
    shortest = int(min(one.lengths.min(), other.lengths.min()))
    cut = [
        ls.Batch(row.inputs[:, :shortest], row.labels, torch.tensor([shortest]), row.label_lengths)
        for row in (one, other)
    ]
    report("2 of equal length", target, joined(cut), ls.FedSGD())
    report("4 that are too long together", target, secret(3.0, 3.5, 2.5, 2.0), ls.FedSGD())


def steps(target: ls.Target) -> None:
    """Several local steps, from float32 weight differences."""
    for seconds in (1.0, 3.0):
        report(f"{seconds:g} s, 2 steps lr 1e-4", target, secret(seconds), ls.FedAvg(steps=2, lr=1e-4))
        report(f"{seconds:g} s, 8 steps lr 1e-5", target, secret(seconds), ls.FedAvg(steps=8, lr=1e-5))


def rounded(target: ls.Target) -> None:
    """Half precision on the way."""
    for seconds in (1.0, 3.0):
        for dtype in (torch.float16, torch.bfloat16):
            report(f"{seconds:g} s, cast to {dtype}", target, secret(seconds), ls.FedSGD(), cast=dtype)


def converged(target: ls.Target) -> None:
    """A small model trained on a few utterances, then audited on one of them and on a new one."""
    del target
    net = ls.DeepSpeech(hidden=256).build(spoken(1.0).domain, spoken(1.0).classes, key=ls.Key(0))
    known = joined([secret(1.0, key=k) for k in range(4)])
    module = net.module.requires_grad_(True)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    for step in range(601):
        loss = net.loss_at(dict(module.named_parameters()), known)
        if step in (0, 100, 300, 600):
            print(f"after {step} steps of Adam the loss per utterance is {loss.item():.4g}")
            trained = ls.Target(module, net.domain, net.classes, net.name, loss=net.loss)
            report(f"  trained {step} steps, an utterance of training", trained, secret(1.0), ls.FedSGD())
            report(f"  trained {step} steps, a new utterance", trained, secret(1.0, key=11), ls.FedSGD())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def long(target: ls.Target) -> None:
    """Utterances that are too long for the first layer, and two that are together."""
    for seconds in (10.0, 12.0, 15.0, 20.0, 25.0):
        for key in range(3 if seconds == 15.0 else 1):
            report(f"{seconds:g} s, draw {key}", target, secret(seconds, key=key), ls.FedSGD(), attack=ls.LongFrames())
    report("2 that are too long together", target, secret(6.0, 7.0), ls.FedSGD(), attack=ls.LongFrames())


PARTS = {f.__name__: f for f in (single, growth, batches, steps, rounded, converged, long)}


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--hidden", type=int, default=2048)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    target = ls.DeepSpeech(hidden=chosen.hidden).build(spoken(1.0).domain, spoken(1.0).classes, key=ls.Key(1))
    print(f"{sum(p.numel() for p in target.parameters().values())} parameters\n{HEADER}")
    for name in chosen.part or PARTS:
        PARTS[name](target)


if __name__ == "__main__":
    main()
