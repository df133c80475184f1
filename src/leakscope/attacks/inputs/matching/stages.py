"""The searches of the portfolio: which, in which order, with which share of the budget, and where each begins."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from torch import Tensor

from leakscope.attacks.inputs.matching.inversion import GradientInversion
from leakscope.attacks.labels.counts import LabelCounts
from leakscope.attacks.parts.distance.distances import AbstractDistance, Cosine, Squared, Weighted
from leakscope.attacks.parts.labeling.labeling import Inferred
from leakscope.attacks.parts.priors.images import TotalVariation
from leakscope.attacks.parts.search.first_order import LBFGS, Adam
from leakscope.attacks.parts.spaces import Pixels
from leakscope.attacks.parts.starts import Given, Gray
from leakscope.core.observation import Observation
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.reading import bends, noise, signs
from leakscope.numerics import trees

EDGES = 0.05
"""Mean absolute difference of neighboring pixels of photographs, faces and digits, in units of the range."""
Leg = tuple[float, float, float]
"""Total variation, step, and share of all."""
LEGS: tuple[Leg, ...] = (
    *((1e-1, 0.1, 0.2), (1e-2, 0.1, 0.2), (1e-2, 0.03, 0.15)),
    *((3e-3, 0.01, 0.15), (1e-3, 3e-3, 0.1), (3e-4, 1e-3, 0.1), (1e-4, 3e-4, 0.1)),
)
"""On the cosine. Much total variation keeps a batch out of the wrong valley, little of it leaves the detail; it falls
with the step, since a large step shakes fine detail off again. Where total variation fell first, four photographs came
back 3 dB worse (2500 steps)."""
BENT: tuple[Leg, ...] = (
    *((1.5e-4, 0.1, 0.3), (1.5e-5, 0.1, 0.3), (1.5e-5, 0.03, 0.2)),
    *((1.5e-6, 0.01, 0.1), (1.5e-6, 3e-3, 0.1)),
)
"""On the squared distance to what was kept, total variation in units of the squared norm of the update."""
LARGE = 0.1
"""The step with which a valley is looked for."""
SIGNED: tuple[Leg, ...] = ((1e-2, LARGE, 0.08), (1e-3, LARGE, 0.12))
"""Tried first for signs, which end with the first leg that fits (`FITS`): it is then sharpened with the prior it has.
With one weight for all, faces from a sigmoid net wanted 1e-3 or more of it (21.6 dB, 16.8 at 1.5e-4), digits from a
convolutional net 1.5e-4 (15.4 dB, 11.6 at 3e-3): where these do not fit, `BENT` begins anew (17.5 dB; 15.6 where it
went on from here)."""
FITS = 1e-2
"""Relative squared misfit below which signs are explained: four times the share of signs that differ, so one of 400.
The remaining ones can be driven home by noise in the image, and many images do: faces came back from a sigmoid net at
13 to 17 dB with all signs right, at 21 to 22 dB with 99.96 % of them and ten to a hundred times the total variation."""
_COSINE = Weighted(Cosine(), first=1.0, last=3.0)


@final
@dataclass(frozen=True)
class Stage:
    """One search. share: of the time that is left; of_all: of all evaluations.

    follows: it starts where the stage before it ended, if that was run. polishes: it starts at the best and goes down
    that valley, where there is one. fits: the misfit of the stage before it from which there is nothing to follow it
    for. sharpens: it goes on from the stage before it with the same prior, where that has come to `fits`.
    """

    name: str
    attack: GradientInversion
    share: float
    of_all: float
    follows: bool = False
    polishes: bool = False
    fits: float = 0.0
    sharpens: bool = False

    def started(self, at: Tensor | None) -> GradientInversion:
        """The search from these inputs (B, *shape); None for its own start."""
        return self.attack if at is None else dataclasses.replace(self.attack, start=Given(at))


def stages(seen: Observation, *, smooth: bool = True) -> Iterator[Stage]:
    """The searches for this observation, in order. smooth: those by L-BFGS too, where the distance is smooth."""
    # Noise has a likelihood, so there is a posterior to maximize; without it, the misfit can be driven to zero.
    if overall_noise(seen) > 0:
        yield from _probable(seen)
        return
    # |g*|^2: the squared distance has this unit and total variation has not, so its weights are multiples of it.
    scale = float(trees.norm(seen.gradient().by_name)) ** 2
    if signs(seen.mechanism) is Answer.YES:
        # Nothing for L-BFGS, whose line search needs a loss that falls along a slope: this one is a count.
        yield from _until_fit(scale)
        return
    labeling = Inferred(LabelCounts())
    # L-BFGS solves small smooth models to the last digit: a tenth of the time shows whether this is one, and only then
    # the rest is spent on it (`polishes`).
    newton = GradientInversion(Squared(), start=Gray(0.02), search=LBFGS(evaluations=100_000), labeling=labeling)
    if smooth:
        yield Stage("L-BFGS on the squared distance", newton, 0.1, 0.1)
        yield Stage("L-BFGS from the best", newton, 1.0, 0.9, polishes=True)
    if bends(seen.mechanism) is Answer.YES:
        yield from _legs("squared distance", Squared(), BENT, unit=scale, part=0.5)
    yield from _legs("cosine", _COSINE, LEGS)


def _until_fit(unit: float) -> Iterator[Stage]:
    """Less and less total variation until the signs agree, and then smaller steps with what there was of it."""
    left, tried = 1.0, sum(share for *_, share in SIGNED)
    rest = tuple((weight, step, (1 - tried) * share) for weight, step, share in BENT)
    for place, (weight, step, share) in enumerate((*SIGNED, *rest)):
        prior, said = weight * unit, f"signed Adam on the squared distance, total variation {weight * unit:.2g}"
        search = _signed(Squared(), prior, Adam(lr=step, steps=100_000, signed=True, decay=()))
        named, anew = f"{said}, steps of {step:g}", place in (0, len(SIGNED))
        yield Stage(named, search, min(share / left, 1.0), 0.9 * share, follows=not anew, fits=FITS)
        left -= share
        if step == LARGE:
            # All that is left: those that follow are left out then. From the large step again, as the first leg was
            # cut short: 18.8 dB in the mean of three, 17.8 from 0.03 (450 evaluations).
            finer = _signed(Squared(), prior, Adam(lr=LARGE, steps=100_000, signed=True))
            yield Stage(f"{said}, steps from {LARGE:g} down", finer, 1.0, 0.9 * left, sharpens=True, fits=FITS)


def _legs(
    name: str, distance: AbstractDistance, legs: tuple[Leg, ...], *, unit: float = 1.0, part: float = 1.0
) -> Iterator[Stage]:
    """One leg after the other, together with a part of what is left. unit: of total variation."""
    # A leg's share is of all the time of these legs, a stage's of what is left: share / left, from left = 1 / part on.
    left = 1 / part
    for place, (weight, step, share) in enumerate(legs):
        # decay=(): the step falls from leg to leg, not within one.
        search = _signed(distance, weight * unit, Adam(lr=step, steps=100_000, signed=True, decay=()))
        said = f"signed Adam on the {name}, total variation {weight * unit:.2g}, steps of {step:g}"
        yield Stage(said, search, min(share / left, 1.0), 0.9 * part * share, follows=place > 0)
        left -= share


def _probable(seen: Observation) -> Iterator[Stage]:
    """squared distance + (2 s^2 / b) total variation is the posterior's logarithm for differences of mean size b.

    Noise makes the squared distance rough far from the inputs; the cosine with late layers first leads there.
    """
    yield Stage("signed Adam on the cosine", _signed(_COSINE, 1e-3, Adam(lr=0.1, steps=100_000, signed=True)), 0.6, 0.5)
    for place, edges in enumerate((EDGES, 4 * EDGES)):
        # -log p = |r|^2 / (2 s^2) + sum |d| / b for differences d of a Laplace distribution; times 2 s^2, and the sum
        # is the mean that `TotalVariation` is times the entries of an input.
        belief = 2 * overall_noise(seen) ** 2 / edges * math.prod(seen.target.domain.shape)
        # Smaller steps from leg to leg, as in `LEGS`: a large one shakes off the detail that the last one found.
        step = (0.01, 0.003)[place]
        search = _signed(Squared(), belief, Adam(lr=step, steps=100_000, signed=True, decay=()))
        yield Stage(f"most probable images, edges of {edges:g}", search, (0.5, 1.0)[place], 0.25, follows=True)


def _signed(distance: AbstractDistance, weight: float, search: Adam) -> GradientInversion:
    prior, space, labeling = weight * TotalVariation(), Pixels(boxed=True), Inferred(LabelCounts())
    return GradientInversion(distance, prior, space, Gray(), search, labeling)


def overall_noise(seen: Observation) -> float:
    """Root mean square of the declared noise over all entries of the gradient."""
    squares = entries = 0.0
    for name, value in seen.release.by_name.items():
        squares += (noise(seen, name) or 0.0) ** 2 * value.numel()
        entries += value.numel()
    return math.sqrt(squares / max(entries, 1.0))
