"""One public description of what a client does, in three steps: what all release, what can be replayed, what is a step.

AbstractMechanism       release, event, undefended    a trained head, a whole training of unknown course
└── AbstractReplayable  + replay                      a training whose course is known
    └── AbstractStep    + as_gradient                 an update that can be read as one gradient
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, final

from leakscope.core.batch import Batch
from leakscope.core.release import Gradient, Release
from leakscope.core.target import Target
from leakscope.numerics.rng import Key
from leakscope.numerics.trees import Named

if TYPE_CHECKING:
    from dp_accounting import DpEvent


@final
class Adjacency(enum.Enum):
    """Whose presence an event hides: its release is compared with the one in which that contribution is zero.

    Add or remove by zeroing out: what is divided by, and who else takes part, stay as they are. EXAMPLE: the gradient
    of one example is zero. CLIENT: the whole update of one client is zero. For a batch of one they are the same.
    """

    EXAMPLE = "one example"
    CLIENT = "one client's whole update"


class AbstractMechanism(ABC):
    """A frozen description, read by the client (`release`) and the accountant (`event`)."""

    @abstractmethod
    def release(self, target: Target, batch: Batch, *, key: Key) -> Release:
        """What the client really sends; may be random."""

    @abstractmethod
    def event(self, *, rounds: int = 1) -> DpEvent:
        """The privacy event of `rounds` releases, for dp-accounting (`NonPrivateDpEvent` where nothing bounds it).

        Given participation: whoever is hidden is known to be in each of them, as it is to somebody who attacks a
        release. No amplification by sampling.
        """

    def training_event(self, *, rounds: int = 1) -> DpEvent:
        """The event of a whole training of `rounds` releases, in which the draw of who takes part is secret too.

        It bounds who sees the training's results and does not know in which rounds somebody was. The same as `event`
        where nothing is sampled.
        """
        return self.event(rounds=rounds)

    @property
    def adjacency(self) -> Adjacency | None:
        """Whom both events hide; None where that is not declared, or where nothing is promised to anybody."""
        return None

    @property
    @abstractmethod
    def undefended(self) -> AbstractMechanism:
        """The same protocol without any defense: the positive control."""

    @property
    def noiseless(self) -> AbstractMechanism | None:
        """The same with its noise taken away and all else left, samples and clips; None where no noise is declared.

        The second positive control: what works without any defense may fail by what is sampled or clipped, and a
        failure that less noise would not undo says nothing of the noise. With a noise of size 0, itself.
        """
        return None


class AbstractReplayable(AbstractMechanism):
    """A mechanism whose course the adversary knows but for its randomness, and can therefore repeat on a candidate."""

    @abstractmethod
    def replay(self, target: Target, batch: Batch) -> Release:
        """What the adversary expects: differentiable in `batch.inputs` and soft labels, without randomness."""


class AbstractStep(AbstractReplayable):
    """A mechanism whose release says, by public constants, what the mean gradient on the batch was."""

    @abstractmethod
    def as_gradient(self, release: Release) -> Gradient:
        """The release read as one (mean) gradient, by the mechanism's own public constants."""

    def at_weights(self, release: Release, weights: Named) -> Gradient:
        """The same, less what the known weights add by themselves, as weight decay does; by default nothing is."""
        del weights
        return self.as_gradient(release)
