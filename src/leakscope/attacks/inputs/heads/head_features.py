"""What a released classifier head was trained on, in the features of its public backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from leakscope.attacks import citations
from leakscope.attacks.attack import AbstractAttack, Asks
from leakscope.attacks.inputs.heads.inversion import fitted, invert
from leakscope.attacks.inputs.heads.reading import SeenHead, read_head
from leakscope.core.arguments import instance
from leakscope.core.attempt import ASSISTED, Attempt, Outcome
from leakscope.core.claim import Features
from leakscope.core.effort import Clock, Watch
from leakscope.core.facts import BatchSize, Fact
from leakscope.core.observation import Observation
from leakscope.core.pool import Pool
from leakscope.core.refusal import Refusal
from leakscope.core.release import AbstractRelease, Weights
from leakscope.numerics.rng import Key


@final
@dataclass(frozen=True)
class HeadFeatures(AbstractAttack[SeenHead, Features]):
    """The posterior mean of what a head was fed for the example of each class, given its weights (`inversion.invert`).

    pool: public examples of all classes; their features make the prior. fit: the declared rates and init_std are not
    believed but fitted to the head, and said in the attempt's sentence; the first weights count as secret then.
    With several examples of each class only the class means are determined: one row for each class is claimed, the
    posterior mean of its mean.
    """

    pool: Pool
    fit: bool = False

    needs: ClassVar[frozenset[type[Fact]]] = frozenset({BatchSize})
    reads: ClassVar[frozenset[type[AbstractRelease]]] = frozenset({Weights})
    asks: ClassVar[Asks] = Asks.NOTHING

    def __post_init__(self) -> None:
        instance("pool", self.pool, Pool, "write pool(Digits())")
        instance("fit", self.fit, bool, "write True or False")

    @property
    def citation(self) -> str:
        """Balle et al. 2022, who reconstruct from released models; the inversion is derived here."""
        return citations.INFORMED

    def _read(self, seen: Observation) -> SeenHead | Refusal:
        found = read_head(seen, self.pool)
        if isinstance(found, SeenHead) and self.fit and found.weights.shape[1] == 1:
            return Refusal(
                "the rates of one logit are not fitted: its one row has one size for rates and examples; declare"
            )
        return found

    def _attempt(self, seen: Observation, read: SeenHead, *, key: Key, clock: Clock, watch: Watch) -> Attempt[Features]:
        del key, clock, watch  # nothing is drawn, and it is over at once
        prior, training, start = read.public.prior.mean_of(read.each), read.public.training, read.start
        said = f"from {len(self.pool)} public examples and the declared training"
        if self.fit:
            training, start = fitted(read.weights[0], prior, training), None
            found = f"rates that sum to {sum(training.rates):.3g}, init_std {training.init_std:.3g}"
            said = f"{said}, of which fitted: {found}"
        weight = read.public.positive_weight
        values = invert(read.weights, prior, training, start=start, floor=read.public.floor, positive_weight=weight)[0]
        if not bool(torch.isfinite(values).all()):
            return Attempt(repr(self), Outcome.DIVERGED, "the features are not finite: the declared training diverges")
        claim = Features(read.public.layer.name, values, torch.arange(len(values)))
        return Attempt(repr(self), Outcome.CLAIMED, f"{many(read)} {said}", claim)


def many(read: SeenHead) -> str:
    """What is claimed, in words: with several examples of a class their mean is determined, and no one of them."""
    if read.weights.shape[1] == 1:
        return f"{ASSISTED}of one example of each class one logit holds the difference, and not their sum,"
    if read.each == 1:
        return "the example of each class,"
    return (
        f"{ASSISTED}of the {read.each} examples of each class only the mean is determined, and claimed for one of them,"
    )
