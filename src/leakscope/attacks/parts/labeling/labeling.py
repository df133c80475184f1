"""Where an input attack takes its labels from: it is told, it infers, or it searches for them too."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.attacks.attack import Attack
from leakscope.core import claim, facts
from leakscope.core.attempt import Outcome
from leakscope.core.batch import unpadded
from leakscope.core.effort import Budget
from leakscope.core.observation import Observation
from leakscope.core.overriding import acts_as
from leakscope.core.refusal import Refusal
from leakscope.core.target import CrossEntropy, Target
from leakscope.numerics.rng import Key
from leakscope.targets.looking.dense_ends import probe_inputs
from leakscope.targets.losses import CTC


@final
@dataclass(frozen=True, eq=False)
class Spelled:
    """Transcripts as tensors: labels (..., L) int64, padded with zeros, of which the first `lengths` (...) are real."""

    labels: Tensor
    lengths: Tensor

    @staticmethod
    def of(transcripts: Sequence[Sequence[int]], *, room: int = 1) -> Spelled:
        """Padded to the longest, and to `room` at least.

        >>> Spelled.of([(3, 1), (2,)]).labels
        tensor([[3, 1],
                [2, 0]])
        """
        width = max(room, *(len(one) for one in transcripts))
        # 0 is a class like any other: only `lengths` says what is padding.
        rows = [list(one) + [0] * (width - len(one)) for one in transcripts]
        return Spelled(torch.tensor(rows), torch.tensor([len(one) for one in transcripts]))

    def transcripts(self) -> tuple[tuple[int, ...], ...]:
        """As tuples, for labels (B, L)."""
        return unpadded(self.labels, self.lengths)


def spells(seen: Observation) -> bool:
    """Whether the model's labels are transcripts."""
    # The loss decides what a label is; the shape of the inputs or the name of the model could mislead.
    return acts_as(seen.target.loss, CTC)


def numbers(target: Target) -> tuple[int, ...] | None:
    """The shape of one example's label where the loss asks for numbers; None where for classes or transcripts.

    >>> from torch import nn
    >>> from leakscope import Images, SquaredError
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    >>> numbers(Target(net, Images(1, 8, 8), 2, loss=SquaredError())), numbers(Target(net, Images(1, 8, 8), 2))
    ((2,), None)
    """
    # Of classes and their probabilities: a softmax is searched then, which keeps to them.
    if acts_as(target.loss, CrossEntropy):
        return None
    labels = target.loss.labeled(probe_inputs(target, 1, key=Key(0).child("labels")), target.classes).labels
    return tuple(labels.shape[1:]) if labels.is_floating_point() else None


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
    def labels(self, seen: Observation, *, key: Key, budget: Budget) -> Tensor | Spelled | Refusal | None:
        """(B,) int64 labels or transcripts; None when the search finds them; a refusal when there are none."""


@final
@dataclass(frozen=True)
class Told(AbstractLabeling):
    """The labels that the adversary was told; needs the fact `TrueLabels`, or `TrueTranscripts` for speech."""

    def refusal(self, seen: Observation) -> Refusal | None:
        """Whether they were told."""
        return None if _told(seen) is not None else Refusal(f"needs to be told {_fact(seen).__name__}")

    def labels(self, seen: Observation, *, key: Key, budget: Budget) -> Tensor | Spelled | Refusal:
        """The told labels, in the client's order."""
        del key, budget
        told = _told(seen)
        return Refusal(f"needs to be told {_fact(seen).__name__}") if told is None else told


def _fact(seen: Observation) -> type[facts.Fact]:
    return facts.TrueTranscripts if spells(seen) else facts.TrueLabels


def _told(seen: Observation) -> Tensor | Spelled | None:
    """The labels or transcripts that were told, in the client's order."""
    if spells(seen):
        known = seen.knows(facts.TrueTranscripts)
        return Spelled.of(seen.told(facts.TrueTranscripts).values) if known else None
    return torch.tensor(seen.told(facts.TrueLabels).values) if seen.knows(facts.TrueLabels) else None


@final
@dataclass(frozen=True)
class Inferred(AbstractLabeling):
    """The labels or transcripts that `attack` claims, unless they were told. Refuses where that attack refuses."""

    attack: Attack[claim.Labels] | Attack[claim.Transcripts]

    @property
    def citation(self) -> str:
        """That of the label attack."""
        return self.attack.citation

    def refusal(self, seen: Observation) -> Refusal | None:
        """The label attack's own refusal, when the labels were not told."""
        # What was told is not inferred anew, so that the attack on labels need not apply.
        return None if _told(seen) is not None else self.attack.refusal(seen)

    def labels(self, seen: Observation, *, key: Key, budget: Budget) -> Tensor | Spelled | Refusal:
        """The claimed labels, ascending; filled up by repetition when fewer than the batch size are claimed."""
        told = _told(seen)
        if told is not None:
            return told
        # The budget is what the search has left, which so pays for the labels.
        attempt = self.attack.run(seen, key=key, budget=budget)
        # An interrupted attempt may hold a claim; a search is not begun on half of one.
        if attempt.outcome is not Outcome.CLAIMED or attempt.claim is None or not len(attempt.claim):
            return Refusal(f"no labels to start from: {attempt.sentence}")
        # A search needs B labels: what is claimed is repeated in turn, and cut where it is more.
        size = seen.told(facts.BatchSize).count
        found = attempt.claim
        if isinstance(found, claim.Transcripts):
            if not spells(seen):
                return Refusal("the attack claims transcripts, but the model's labels are classes")
            return Spelled.of([found.labels[place % len(found)] for place in range(size)])
        if spells(seen):
            return Refusal("the attack claims classes, but the model's labels are transcripts")
        # -(-B // n) is B / n rounded up. Sorted, since a claim is a multiset: which input has which label is open.
        return found.values.repeat(-(-size // len(found)))[:size].sort().values


@final
@dataclass(frozen=True, eq=False)
class Held(AbstractLabeling):
    """What another source gave before, or its refusal: for several searches that share one reading of the labels."""

    found: Tensor | Spelled | Refusal

    @staticmethod
    def of(source: Told | Inferred, seen: Observation, *, key: Key, budget: Budget) -> Held:
        """What `source` gives for `seen`."""
        return Held(source.refusal(seen) or source.labels(seen, key=key, budget=budget))

    def refusal(self, seen: Observation) -> Refusal | None:
        """That of the source."""
        del seen
        return self.found if isinstance(self.found, Refusal) else None

    def labels(self, seen: Observation, *, key: Key, budget: Budget) -> Tensor | Spelled | Refusal:
        """As they were given, whatever the observation."""
        del seen, key, budget
        return self.found


@final
@dataclass(frozen=True)
class Joint(AbstractLabeling):
    """Soft labels are searched together with the inputs, as in DLG; nothing about labels is needed.

    Where the loss asks for numbers, as in regression, the numbers themselves are searched.
    """

    def refusal(self, seen: Observation) -> Refusal | None:
        """Where labels are transcripts, or classes of a loss that need not read probabilities."""
        # softmax gives each example one distribution over classes, a transcript is a string of any length.
        if spells(seen):
            return Refusal("soft labels do not spell transcripts; use Told, Inferred, Guessed or Edits")
        if not acts_as(seen.target.loss, CrossEntropy) and numbers(seen.target) is None:
            return Refusal(
                f"soft labels are probabilities of classes, but the target is trained with {seen.target.loss!r}, which "
                "asks for classes themselves; use an attack that needs no labels"
            )
        return None

    def labels(self, seen: Observation, *, key: Key, budget: Budget) -> None:
        """None: the search owns them."""
        del seen, key, budget
