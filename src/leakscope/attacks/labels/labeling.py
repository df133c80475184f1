"""Where an input attack takes its labels from: it is told, it infers, or it searches for them too."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.attacks.attack import AbstractAttack
from leakscope.core import claim, facts
from leakscope.core.attempt import Budget, Outcome, Refusal
from leakscope.core.observation import Observation
from leakscope.numerics.rng import Key


class AbstractLabeling(ABC):
    """A source of labels for a search over inputs."""

    @property
    def citation(self) -> str:
        """BibTeX of the source, where it is another than the attack\'s own."""
        return ""

    @abstractmethod
    def refusal(self, seen: Observation) -> Refusal | None:
        """Why labels cannot be had here, or None."""

    @abstractmethod
    def labels(self, seen: Observation, *, key: Key, budget: Budget) -> Tensor | Refusal | None:
        """(B,) int64 labels; None when the search finds them itself; a refusal when they could not be had after all."""


@final
@dataclass(frozen=True)
class Told(AbstractLabeling):
    """The labels that the adversary was told; needs the fact `TrueLabels`."""

    def refusal(self, seen: Observation) -> Refusal | None:
        """Whether `TrueLabels` was told."""
        return None if seen.knows(facts.TrueLabels) else Refusal("needs to be told TrueLabels")

    def labels(self, seen: Observation, *, key: Key, budget: Budget) -> Tensor:
        """The told labels, in the client's order."""
        del key, budget
        return torch.tensor(seen.told(facts.TrueLabels).values)


@final
@dataclass(frozen=True)
class Inferred(AbstractLabeling):
    """The labels that `attack` claims, unless they were told. Refuses where the label attack refuses."""

    attack: AbstractAttack[claim.Labels]

    @property
    def citation(self) -> str:
        """That of the label attack."""
        return self.attack.citation

    def refusal(self, seen: Observation) -> Refusal | None:
        """The label attack's own refusal, when the labels were not told."""
        return None if seen.knows(facts.TrueLabels) else self.attack.refusal(seen)

    def labels(self, seen: Observation, *, key: Key, budget: Budget) -> Tensor | Refusal:
        """The claimed labels, ascending; filled up by repetition when fewer than the batch size are claimed."""
        if seen.knows(facts.TrueLabels):
            return torch.tensor(seen.told(facts.TrueLabels).values)
        attempt = self.attack.run(seen, key=key, budget=budget)
        if attempt.outcome is not Outcome.CLAIMED or attempt.claim is None or not len(attempt.claim):
            return Refusal(f"no labels to start from: {attempt.sentence}")
        size = seen.told(facts.BatchSize).count
        found = attempt.claim.values
        return found.repeat(-(-size // len(found)))[:size].sort().values


@final
@dataclass(frozen=True)
class Joint(AbstractLabeling):
    """Soft labels are searched together with the inputs, as in DLG; nothing about labels is needed."""

    def refusal(self, seen: Observation) -> Refusal | None:
        """Never refuses."""
        del seen
        return None

    def labels(self, seen: Observation, *, key: Key, budget: Budget) -> None:
        """None: the search owns them."""
        del seen, key, budget
