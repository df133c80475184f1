"""The only door between the client and the adversary."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TypeVar, final

from leakscope.core.errors import BadInput, NotTold
from leakscope.core.facts import Fact
from leakscope.core.mechanism import AbstractMechanism
from leakscope.core.release import Gradient, Release
from leakscope.core.target import Target

FactT = TypeVar("FactT", bound=Fact)


@final
@dataclass(frozen=True, eq=False)
class Observation:
    """Everything the adversary sees; the only input of an attack.

    The target model, the release, the mechanism (public, but not its randomness) and the facts that were told.
    """

    target: Target
    release: Release
    mechanism: AbstractMechanism
    facts: tuple[Fact, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "facts", tuple(self.facts))
        kinds = [type(fact) for fact in self.facts]
        for kind in kinds:
            if kinds.count(kind) > 1:
                raise BadInput(f"{kind.__name__} was told {kinds.count(kind)} times; tell each fact once")

    def knows(self, kind: type[Fact]) -> bool:
        """Whether a fact of this kind was told."""
        return any(type(fact) is kind for fact in self.facts)

    def told(self, kind: type[FactT]) -> FactT:
        """The fact of this kind. Raises `NotTold`, with the list of what was told, when it is absent."""
        for fact in self.facts:
            if isinstance(fact, kind):
                return fact
        raise NotTold(kind.__name__, [type(fact).__name__ for fact in self.facts])

    def gradient(self) -> Gradient:
        """The release read as a gradient, by the mechanism's public constants."""
        return self.mechanism.as_gradient(self.release)

    def fingerprint(self) -> str:
        """A hash of all that the adversary sees."""
        text = "|".join([self.target.fingerprint(), self.release.fingerprint(), repr(self.mechanism), repr(self.facts)])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
