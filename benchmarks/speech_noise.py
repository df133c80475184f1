"""Speech from noisy, rounded and pruned gradients of DeepSpeech: error of the MFCC and rank of the speaker, by attack.

    python benchmarks/speech_noise.py [--quick] [--hidden 2048] [--least 60] [--only noise] [--out FIGURE.png]

One utterance of 1 s and one of 3 s (synthetic voices), CTC with the true transcript, one gradient each. Noise is given
in units of the root mean square of the first layer's gradient. All attacks are told the length; the two searches are
told the transcript too, as the original's are, and may take as long as `FrameLikelihood` took, or `--least` seconds
where that was less. Error: mean absolute error of the MFCC; chance: that of the mean public frame. Rank: of the true
speaker among ten by `CepstralMoments` with one recording each, the median over five recordings; chance 5.5. A refusal
is a dash. --quick: hidden=512, the 1 s utterance, no half precision, 20 s at least: about ten minutes on one core.
Another attack is one line in `SOLVERS` or `SEARCHES`.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch

import leakscope as ls
from leakscope.scoring.kinds.attributes import table

SOLVERS: dict[str, Any] = {
    "closed form": ls.WindowedFrames(polish=False),
    "polished": ls.WindowedFrames(),
    "likelihood": ls.FrameLikelihood(),
}
SEARCHES: dict[str, Any] = {
    "direct search": ls.hessian_free(),
    "matching": ls.speech_matching(),
}
NAMES = (*SOLVERS, *SEARCHES)
NOISES = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
SPEAKERS, RECORDINGS, FOLDS = 10, 10, 5
Release = Callable[[ls.Target, ls.Batch, float], ls.Observation]


@final
@dataclass(frozen=True)
class Cell:
    """What one attack did with one release; NaN where it claimed nothing."""

    error: float
    rank: float
    seconds: float

    def __str__(self) -> str:
        if math.isnan(self.error):
            return f"{'-':>9} {'-':>3} {self.seconds:5.1f} s"
        return f"{self.error:9.2g} {self.rank:3g} {self.seconds:5.1f} s"


@final
class Scene:
    """One private utterance and the public ones of ten speakers."""

    def __init__(self, hidden: int, length: float) -> None:
        source = ls.Spoken(speakers=SPEAKERS, each=RECORDINGS, shortest=length, longest=length, seed=5)
        secret = source.draw(1, key=ls.Key(0))
        self.batch, (self.speaker, *_) = secret.reveal(), secret.annotation("speaker").values
        self.public = source.public()
        (members, *_) = source.public_annotations()
        self.gallery = ls.Gallery("speaker", members.categories, tuple(members.values), self.public)
        self.target = ls.DeepSpeech(hidden).build(source.domain, source.classes, key=ls.Key(0))
        gradient = observed(self.target, self.batch, ls.FedSGD()).gradient().by_name["layer_1.weight"]
        self.root = float(gradient.square().mean().sqrt())

    def judged(self, claim: Any, seconds: float) -> Cell:
        """The error and the speaker's rank of one claim."""
        if claim is None:
            return Cell(math.nan, math.nan, seconds)
        error = ls.score(claim, self.batch, public=self.public)["frame-error"].value
        return Cell(error, self.rank(claim.values[0, : int(claim.lengths[0])]), seconds)

    def rank(self, frames: torch.Tensor) -> float:
        """The median over enrollments; ties count half."""
        found = []
        for fold in range(FOLDS):
            attack = ls.SpeakerIdentity(encoder=ls.CepstralMoments(), fold=fold)
            scores = attack.named([frames], self.gallery)[0].scores
            standing = None if scores is None else table(scores, [self.speaker])[0][0]
            assert standing is not None
            found.append(1 + standing.above + standing.tied / 2)
        return statistics.median(found)

    def chance(self) -> float:
        """The error of the mean public frame."""
        assert self.batch.lengths is not None
        guess = ls.Inputs(torch.zeros_like(self.batch.inputs), lengths=self.batch.lengths)
        chance = ls.score(guess, self.batch, public=self.public)["frame-error"].chance
        return math.nan if chance is None else chance


def observed(target: ls.Target, batch: ls.Batch, mechanism: Any) -> ls.Observation:
    """What the server sees, with the length and the transcript."""
    assert batch.lengths is not None
    said = ls.TrueTranscripts(batch.transcripts())
    tell = [ls.Lengths(tuple(batch.lengths.tolist())), ls.BatchSize(len(batch)), said]
    return ls.observe(target, batch, mechanism, key=ls.Key(1), tell=tell)


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
    "Quantize(8)": defended(ls.Quantize(8)),
    "Quantize(4)": defended(ls.Quantize(4)),
    "Sign()": defended(ls.Sign()),
    "Prune(0.1)": defended(ls.Prune(0.1)),
}
HALVES: dict[str, Release] = {"float16": cast(torch.float16), "bfloat16": cast(torch.bfloat16)}


def row(scene: Scene, release: Release, *, least: float, most: float) -> list[Cell]:
    """All attacks on one release, the searches limited to the time that the likelihood took."""
    seen = release(scene.target, scene.batch, scene.root)
    cells: list[Cell] = []
    for name, attack in {**SOLVERS, **SEARCHES}.items():
        seconds = max(least, cells[NAMES.index("likelihood")].seconds) if name in SEARCHES else most
        started = time.perf_counter()
        attempt = attack.run(seen, key=ls.Key(2), budget=ls.Budget(seconds=seconds))
        spent = time.perf_counter() - started
        cells.append(scene.judged(attempt.claim, spent))
    return cells


def rows(scene: Scene, releases: dict[str, Release], *, least: float, most: float) -> dict[str, list[Cell]]:
    """Prints one table and returns its cells by release."""
    assert scene.batch.lengths is not None
    print(
        f"chance {scene.chance():.2f}; from the true frames the speaker's rank is {scene.rank(scene.batch.inputs[0]):g}"
    )
    print(f"{'release':13}" + "".join(f"{name:>23}" for name in NAMES))
    print(f"{'':13}" + f"{'error rank    time':>23}" * len(NAMES), flush=True)
    found = {}
    for name, release in releases.items():
        found[name] = row(scene, release, least=least, most=most)
        print(f"{name:13}" + "".join(f"{cell!s:>23}" for cell in found[name]), flush=True)
    return found


def figure(found: dict[float, tuple[Scene, dict[str, list[Cell]]]], path: Path) -> None:
    """Error and rank over noise, one row per length; what sends no noise is drawn at the left end."""
    import matplotlib.pyplot as plt

    panels, axes = plt.subplots(len(found), 2, figsize=(10.5, 3.8 * len(found)), squeeze=False)
    there = [level for level in NOISES if all(f"noise {level:g}" in cells for _, cells in found.values())]
    levels = [level or 1e-6 for level in there]
    for (left, right), (length, (scene, cells)) in zip(axes, found.items(), strict=True):
        for place, name in enumerate(NAMES):
            own = [cells[f"noise {level:g}"][place] for level in there]
            left.loglog(levels, [cell.error for cell in own], marker="o", label=name)
            # beside each other where they agree
            right.semilogx(levels, [cell.rank + 0.08 * (place - 2) for cell in own], marker="o", label=name)
        left.axhline(scene.chance(), color="black", linestyle=":", label="blind guess")
        right.axhline((SPEAKERS + 1) / 2, color="black", linestyle=":")
        left.set(ylabel="mean absolute error (MFCC)", title=f"{length:g} s: frames")
        right.set(ylabel=f"rank of the speaker among {SPEAKERS}", title=f"{length:g} s: who spoke", ylim=(10.5, 0.5))
        for panel in (left, right):
            panel.set_xlabel("noise / rms of the first layer's gradient")
            panel.set_xticks(levels, [f"{level:g}" if level else "none" for level in there])
            panel.minorticks_off()
    axes[0][0].legend(fontsize=8)
    panels.tight_layout()
    panels.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--hidden", type=int, default=None)
    parser.add_argument("--least", type=float, default=None, help="seconds that a search may take in any case")
    parser.add_argument("--most", type=float, default=None, help="seconds that a solver may take")
    parser.add_argument("--only", default="", help="releases whose names contain this")
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    hidden = given.hidden or (512 if given.quick else 2048)
    least = given.least or (20.0 if given.quick else 60.0)
    most = given.most or (60.0 if given.quick else 600.0)
    releases = RELEASES if given.quick else {**RELEASES, **HALVES}
    releases = {name: release for name, release in releases.items() if given.only in name}
    found = {}
    for length in (1.0,) if given.quick else (1.0, 3.0):
        scene = Scene(hidden, length)
        print(f"\nhidden={hidden}, {length:g} s ({scene.batch.inputs.shape[1]} frames)")
        found[length] = (scene, rows(scene, releases, least=least, most=most))
    if given.out is not None:
        figure(found, given.out)


if __name__ == "__main__":
    main()
