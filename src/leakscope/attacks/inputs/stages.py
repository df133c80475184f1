"""The searches of the portfolio: which, in which order, with which share of the budget, and where each begins."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from torch import Tensor

from leakscope.attacks.inputs.frame_noise import bent, declared_noise
from leakscope.attacks.inputs.inversion import GradientInversion
from leakscope.attacks.inputs.recipes import inverting_gradients
from leakscope.attacks.labels.counts import LabelCounts
from leakscope.attacks.labels.labeling import Inferred
from leakscope.attacks.parts.distances import AbstractDistance, Squared
from leakscope.attacks.parts.priors.images import TotalVariation
from leakscope.attacks.parts.searches import LBFGS, Adam
from leakscope.attacks.parts.spaces import Pixels
from leakscope.attacks.parts.starts import Given, Gray
from leakscope.core.observation import Observation
from leakscope.numerics import trees

EDGES = 0.05
"""Mean absolute difference of neighboring pixels of photographs, faces and digits, in units of the range."""
LEGS = (
    *((1e-1, 0.1, 0.2), (1e-2, 0.1, 0.2), (1e-2, 0.03, 0.15)),
    *((3e-3, 0.01, 0.15), (1e-3, 3e-3, 0.1), (3e-4, 1e-3, 0.1), (1e-4, 3e-4, 0.1)),
)
"""Total variation, step, and share of all, of each leg on the cosine. Much total variation keeps a batch out of the
wrong valley, little of it leaves the detail; it falls with the step, since a large step shakes fine detail off again.
Where total variation fell first, four photographs came back 3 dB worse (2500 steps)."""


@final
@dataclass(frozen=True)
class Stage:
    """One search. share: of the time that is left; of_all: of all evaluations.

    follows: it starts where the stage before it ended, if that was run. polishes: it starts at the best and goes down
    that valley, where there is one.
    """

    name: str
    attack: GradientInversion
    share: float
    of_all: float
    follows: bool = False
    polishes: bool = False

    def started(self, at: Tensor | None) -> GradientInversion:
        """The search from these inputs (B, *shape); None for its own start."""
        return self.attack if at is None else dataclasses.replace(self.attack, start=Given(at))


def stages(seen: Observation) -> Iterator[Stage]:
    """The searches for this observation, in order."""
    if noise_of(seen) > 0:
        yield from _probable(seen)
        return
    labeling = Inferred(LabelCounts())
    smooth = GradientInversion(Squared(), start=Gray(0.02), search=LBFGS(evaluations=100_000), labeling=labeling)
    yield Stage("L-BFGS on the squared distance", smooth, 0.1, 0.1)
    yield Stage("L-BFGS from the best", smooth, 1.0, 0.9, polishes=True)
    if bent(seen.mechanism):
        scale = float(trees.norm(seen.gradient().by_name)) ** 2
        yield Stage("signed Adam on the squared distance", _signed(Squared(), 1e-4 * scale, 0.1), 0.6, 0.5)
    left = 1.0
    for place, (weight, step, share) in enumerate(LEGS):
        search = Adam(lr=step, steps=100_000, signed=True, decay=())
        cosine = dataclasses.replace(inverting_gradients(tv=weight), search=search)
        name = f"signed Adam on the cosine, total variation {weight:g}, steps of {step:g}"
        yield Stage(name, cosine, share / left, 0.9 * share, follows=place > 0)
        left -= share


def _probable(seen: Observation) -> Iterator[Stage]:
    """squared distance + (2 s^2 / b) total variation is the posterior's logarithm for differences of mean size b."""
    for place, edges in enumerate((EDGES, 4 * EDGES)):
        belief = 2 * noise_of(seen) ** 2 / edges * math.prod(seen.target.domain.shape)
        search = _signed(Squared(), belief, (0.1, 0.02)[place])
        yield Stage(f"most probable images, edges of {edges:g}", search, (0.5, 1.0)[place], 0.5, follows=place > 0)


def _signed(distance: AbstractDistance, weight: float, step: float) -> GradientInversion:
    prior, space, labeling = weight * TotalVariation(), Pixels(boxed=True), Inferred(LabelCounts())
    return GradientInversion(distance, prior, space, Gray(), _adam(step), labeling)


def _adam(step: float) -> Adam:
    return Adam(lr=step, steps=100_000, signed=True)


def noise_of(seen: Observation) -> float:
    """Root mean square of the declared noise over all entries of the gradient."""
    squares = entries = 0.0
    for name, value in seen.release.by_name.items():
        squares += declared_noise(seen, name) ** 2 * value.numel()
        entries += value.numel()
    return math.sqrt(squares / max(entries, 1.0))
