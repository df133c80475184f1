"""Gradient matching: search for inputs whose replayed update is the observed one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor

from leakscope.attacks import citations
from leakscope.attacks.attack import AbstractAttack
from leakscope.attacks.labels.labeling import AbstractLabeling, Joint
from leakscope.attacks.parts.distances import AbstractDistance, Cosine
from leakscope.attacks.parts.journal import Found, Point, Stop
from leakscope.attacks.parts.priors.prior import AbstractPrior, Flat
from leakscope.attacks.parts.searches import AbstractSearch, Adam, Problem
from leakscope.attacks.parts.spaces import AbstractSpace, Pixels
from leakscope.attacks.parts.starts import AbstractStart, Uniform
from leakscope.core.attempt import Attempt, Clock, Cost, Outcome, Refusal, Trace, Watch
from leakscope.core.batch import Batch
from leakscope.core.claim import Inputs
from leakscope.core.errors import BadInput, NoSuchLayer
from leakscope.core.facts import BatchSize, Fact
from leakscope.core.observation import Observation
from leakscope.numerics import trees
from leakscope.numerics.rng import Key, normal


@final
@dataclass(frozen=True)
class GradientInversion(AbstractAttack[Inputs]):
    """min over x of distance(replay(x), observed) + prior(x); replay runs the client's own public mechanism.

    Five orthogonal parts and a labeling; a published attack is a value of this class (see `recipes`).
    The final candidate is chosen by its own loss, never by looking at the secret. An attempt whose search ends above
    where it began is DIVERGED and claims nothing. Needs `BatchSize`.
    source: the BibTeX of the recipe.
    """

    distance: AbstractDistance = field(default_factory=Cosine)
    prior: AbstractPrior = field(default_factory=Flat)
    space: AbstractSpace = field(default_factory=Pixels)
    start: AbstractStart = field(default_factory=Uniform)
    search: AbstractSearch = field(default_factory=Adam)
    labeling: AbstractLabeling = field(default_factory=Joint)
    restarts: int = 1
    needs: ClassVar[frozenset[type[Fact]]] = frozenset({BatchSize})

    def __post_init__(self) -> None:
        if self.restarts < 1:
            raise BadInput(f"expected restarts >= 1, got {self.restarts}")

    @property
    def citation(self) -> str:
        """The sources of the parts that are in use, Zhu et al. 2019 first."""
        parts = (citations.DLG, self.distance.citation, self.prior.citation, self.labeling.citation)
        return "\n\n".join(dict.fromkeys(part for part in parts if part))

    def _refusal(self, seen: Observation) -> Refusal | None:
        unknown = sorted(set(seen.release.by_name) - set(seen.target.parameters()))
        if unknown:
            return Refusal(f"the release names {', '.join(unknown[:3])}, which the model does not have")
        try:
            self.prior.penalty(seen)
        except NoSuchLayer as error:
            return Refusal(str(error))
        return self.labeling.refusal(seen)

    def _attempt(self, seen: Observation, *, key: Key, clock: Clock, watch: Watch) -> Attempt[Inputs]:
        labels = self.labeling.labels(seen, key=key.child("labels"), budget=clock.remaining())
        if isinstance(labels, Refusal):
            return Attempt(repr(self), Outcome.REFUSED, labels.sentence)
        problem = Problem(self._objective(seen, labels), self._projection(seen))
        found = self.search.run(problem, self._starts(seen, labels, key), clock=clock, watch=watch)
        return self._classify(seen, found, labels)

    def _starts(self, seen: Observation, labels: Tensor | None, key: Key) -> Point:
        target, size = seen.target, seen.told(BatchSize).count
        like = next(iter(target.parameters().values())).new_zeros((self.restarts, size, *target.domain.shape))
        first = self.start.draw(like, target.domain, key=key.child("start"))
        starts = {"inputs": self.space.encode(first, target.domain)}
        if labels is None:
            logits = like.new_zeros((self.restarts, size, target.classes))
            starts["labels"] = normal(logits, key.child("soft labels"))
        return starts

    def _objective(self, seen: Observation, labels: Tensor | None) -> Callable[[Point], Tensor]:
        target, mechanism = seen.target, seen.mechanism
        observed = trees.detached(seen.gradient().by_name)
        penalty = self.prior.penalty(seen)
        fixed = None if labels is None else labels.to(target.device())

        def value(point: Point) -> Tensor:
            inputs = self.space.decode(point["inputs"], target.domain)
            used = torch.softmax(point["labels"], -1) if fixed is None else fixed
            # Both sides are read as gradients, so that a delta's tiny learning rate does not flatten the landscape.
            expected = mechanism.as_gradient(mechanism.replay(target, Batch(inputs, used))).by_name
            return self.distance(trees.select(expected, observed), observed) + penalty(inputs)

        return value

    def _projection(self, seen: Observation) -> Callable[[Point], Point]:
        domain = seen.target.domain
        return lambda point: {**point, "inputs": self.space.project(point["inputs"], domain)}

    def _classify(self, seen: Observation, found: Found, labels: Tensor | None) -> Attempt[Inputs]:
        cost = Cost(evaluations=found.evaluations)
        trace = self._decoded(seen, found.trace)
        if found.stop is not Stop.INTERRUPTED and (
            found.diverged or (found.stop is Stop.NOT_FINITE and not _fell(found))
        ):
            sentence = f"the search {found.stop.value} without getting below its start ({found.start_loss:.3g})"
            return Attempt(repr(self), Outcome.DIVERGED, sentence, cost=cost, trace=trace)
        outcome = Outcome.INTERRUPTED if found.stop is Stop.INTERRUPTED else Outcome.CLAIMED
        sentence = f"the search {found.stop.value}: loss {found.start_loss:.3g} to {found.loss:.3g}"
        if found.point is None:
            return Attempt(repr(self), outcome, sentence, cost=cost, trace=trace)
        low, high = seen.target.domain.bounds(found.point["inputs"])
        # The domain is public: an adversary never claims a value that no input can have.
        inputs = self.space.decode(found.point["inputs"], seen.target.domain).detach().clamp(low, high)
        if not bool(torch.isfinite(inputs).all()):
            return Attempt(repr(self), Outcome.DIVERGED, "the best candidate is not finite", cost=cost, trace=trace)
        claimed = labels if labels is not None else found.point["labels"].argmax(-1)
        return Attempt(repr(self), outcome, sentence, Inputs(inputs, claimed.cpu()), cost=cost, trace=trace)

    def _decoded(self, seen: Observation, trace: Trace) -> Trace:
        domain = seen.target.domain
        pictures = tuple((at, self.space.decode(point, domain).detach().cpu()) for at, point in trace.pictures)
        return Trace(trace.evaluations, trace.losses, pictures)


def _fell(found: Found) -> bool:
    """Whether the best loss is clearly below the start, by a tenth."""
    return math.isfinite(found.loss) and found.loss < 0.9 * found.start_loss
