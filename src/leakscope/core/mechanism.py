"""One public description of what a client does, with three readers: client, adversary, accountant."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from leakscope.core.batch import Batch
from leakscope.core.release import Gradient, Release
from leakscope.core.target import Target
from leakscope.numerics.rng import Key

if TYPE_CHECKING:
    from dp_accounting import DpEvent


class AbstractMechanism(ABC):
    """A frozen description, read by the client (`release`), the adversary (`replay`) and the accountant (`event`)."""

    @abstractmethod
    def release(self, target: Target, batch: Batch, *, key: Key) -> Release:
        """What the client really sends; may be random."""

    @abstractmethod
    def replay(self, target: Target, batch: Batch) -> Release:
        """What the adversary expects: differentiable in `batch.inputs` and soft labels, without randomness."""

    @abstractmethod
    def event(self, *, rounds: int = 1) -> DpEvent:
        """The privacy event of `rounds` releases, for dp-accounting (`NonPrivateDpEvent` where nothing bounds it)."""

    @abstractmethod
    def as_gradient(self, release: Release) -> Gradient:
        """The release read as one (mean) gradient, by the mechanism's own public constants."""

    @property
    @abstractmethod
    def undefended(self) -> AbstractMechanism:
        """The same protocol without any defense: the positive control."""
