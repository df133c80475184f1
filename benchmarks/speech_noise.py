"""Speech frames from noisy, rounded and pruned gradients of DeepSpeech: mean absolute error of the MFCC, by attack.

    python benchmarks/speech_noise.py [--quick] [--hidden 2048] [--seconds 600] [--out FIGURE.png]

One utterance of 1 s and one of 3 s (synthetic voices), CTC with the true transcript, one gradient each. Noise is given
in units of the root mean square of the first layer's gradient; `Lengths` are told. The blind guess (mean public frame)
is in every row; a refusal is a dash. --quick: hidden=512, the 1 s utterance, 60 s per attack.
Another attack is one line in `ATTACKS`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import leakscope as ls

ATTACKS: dict[str, Any] = {
    "closed form": ls.WindowedFrames(polish=False),
    "polished": ls.WindowedFrames(),
    "likelihood": ls.FrameLikelihood(),
}
NOISES = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
PUBLIC = ls.Spoken(speakers=20, each=3, shortest=1.0, longest=4.0, seed=1)
Release = Callable[[ls.Target, ls.Batch, float], ls.Observation]


def observed(target: ls.Target, batch: ls.Batch, mechanism: Any) -> ls.Observation:
    """What the server sees, with the lengths."""
    assert batch.lengths is not None
    return ls.observe(target, batch, mechanism, key=ls.Key(1), tell=[ls.Lengths(tuple(batch.lengths.tolist()))])


def noisy(level: float) -> Release:
    """Normal noise of `level` times the first layer's root mean square."""

    def release(target: ls.Target, batch: ls.Batch, root: float) -> ls.Observation:
        return observed(target, batch, ls.FedSGD() >> ls.GaussianNoise(level * root) if level else ls.FedSGD())

    return release


def defended(defense: Any) -> Release:
    """One defense."""
    return lambda target, batch, root: observed(target, batch, ls.FedSGD() >> defense)


def cast(dtype: torch.dtype) -> Release:
    """Sent in half precision."""

    def release(target: ls.Target, batch: ls.Batch, root: float) -> ls.Observation:
        del root
        exact = observed(target, batch, ls.FedSGD())
        sent = ls.Gradient({name: value.to(dtype) for name, value in exact.release.by_name.items()})
        return ls.Observation(target, sent, exact.mechanism, exact.facts)

    return release


RELEASES: dict[str, Release] = {
    **{f"noise {level:g}": noisy(level) for level in NOISES},
    "float16": cast(torch.float16),
    "bfloat16": cast(torch.bfloat16),
    "Quantize(8)": defended(ls.Quantize(8)),
    "Quantize(4)": defended(ls.Quantize(4)),
    "Sign()": defended(ls.Sign()),
    "Prune(0.1)": defended(ls.Prune(0.1)),
}


def row(target: ls.Target, batch: ls.Batch, release: Release, seconds: float) -> tuple[list[float], list[float], float]:
    """Errors, seconds, and the error of the blind guess; NaN where an attack claims nothing."""
    exact = observed(target, batch, ls.FedSGD()).gradient().by_name["layer_1.weight"]
    seen = release(target, batch, float(exact.square().mean().sqrt()))
    errors, spent, chance = [], [], float("nan")
    for attack in ATTACKS.values():
        started = time.perf_counter()
        attempt = attack.run(seen, key=ls.Key(2), budget=ls.Budget(seconds=seconds))
        spent.append(time.perf_counter() - started)
        error = float("nan")
        if attempt.claim is not None:
            found = ls.score(attempt.claim, batch, public=PUBLIC.public())["frame-error"]
            error, chance = found.value, found.chance
        errors.append(error)
    return errors, spent, chance


def table(hidden: int, length: float, seconds: float) -> dict[str, list[float]]:
    """Prints one table and returns its errors by release."""
    source = ls.Spoken(speakers=4, each=2, shortest=length, longest=length, seed=5)
    batch = source.draw(1, key=ls.Key(0)).reveal()
    target = ls.DeepSpeech(hidden).build(source.domain, source.classes, key=ls.Key(0))
    print(f"\nhidden={hidden}, {length:g} s ({batch.inputs.shape[1]} frames)")
    print(f"{'release':14}" + "".join(f"{name:>22}" for name in ATTACKS) + f"{'chance':>9}", flush=True)
    found = {}
    for name, release in RELEASES.items():
        errors, spent, chance = row(target, batch, release, seconds)
        cells = "".join(
            f"{'-' if error != error else f'{error:.2g}':>13} {took:5.1f} s "
            for error, took in zip(errors, spent, strict=True)
        )
        print(f"{name:14}{cells}{chance:9.2f}", flush=True)
        found[name] = [*errors, chance]
    return found


def figure(tables: dict[float, dict[str, list[float]]], path: Path) -> None:
    """Error over noise, one panel per length."""
    import matplotlib.pyplot as plt

    panels, axes = plt.subplots(1, len(tables), figsize=(5 * len(tables), 3.6), squeeze=False, sharey=True)
    levels = [level for level in NOISES if level]
    for panel, (length, found) in zip(axes[0], tables.items(), strict=True):
        for place, name in enumerate([*ATTACKS, "chance"]):
            errors = [found[f"noise {level:g}"][place] for level in levels]
            panel.loglog(levels, errors, marker="o", label=name, linestyle=":" if name == "chance" else "-")
        panel.set(xlabel="noise / rms of the first layer's gradient", title=f"{length:g} s")
    axes[0][0].set_ylabel("mean absolute error (MFCC)")
    axes[0][0].legend()
    panels.tight_layout()
    panels.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--hidden", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=None)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    hidden = given.hidden or (512 if given.quick else 2048)
    seconds = given.seconds or (60.0 if given.quick else 600.0)
    lengths = (1.0,) if given.quick else (1.0, 3.0)
    tables = {length: table(hidden, length, seconds) for length in lengths}
    if given.out is not None:
        figure(tables, given.out)


if __name__ == "__main__":
    main()
