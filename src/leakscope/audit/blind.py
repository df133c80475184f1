"""The blind control: what a guess scores that never looked at the release. `audit.plan` plans it, with the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from leakscope.attacks.attack import AbstractAttack, Asks
from leakscope.core.attempt import Attempt, Cost, Outcome
from leakscope.core.claim import AbstractClaim
from leakscope.core.effort import Clock, Watch
from leakscope.core.errors import BadInput
from leakscope.core.facts import MEMBER, Gallery, Suspects
from leakscope.core.observation import Observation
from leakscope.core.release import AbstractRelease, Delta, Gradient, Weights
from leakscope.datasets.draw import AbstractSource
from leakscope.numerics.rng import Key
from leakscope.scoring.kinds.kind import Outsider
from leakscope.scoring.kinds.table import KINDS

SENTENCE = "guessed from public data without looking"


@final
@dataclass(frozen=True)
class BlindGuess(AbstractAttack[None, AbstractClaim]):
    """A claim of every kind that the source holds, each as its kind guesses it blindly; the release is not read.

    Whatever an attack claims on this source is then compared with a claim of the same kind. Of images the one guess,
    (mean of the public inputs) x count with random public labels, serves attacks on inputs and on labels alike; where
    the source fixes the labels, the mean of each label's class.

    source: only its public part is used. count: the number of private examples, given away to the guess.
    Raises `BadInput` when count < 1.
    """

    source: AbstractSource
    count: int

    # it looks at nothing, so nothing is asked of what there is to look at
    reads: ClassVar[frozenset[type[AbstractRelease]]] = frozenset({Gradient, Delta, Weights})
    asks: ClassVar[Asks] = Asks.NOTHING
    several: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.count < 1:
            raise BadInput(f"expected a count of at least 1, got {self.count}")

    @property
    def citation(self) -> str:
        """None: it is no published attack."""
        return ""

    def _read(self, seen: Observation) -> None:
        return None

    def _attempt(
        self, seen: Observation, read: None, *, key: Key, clock: Clock, watch: Watch
    ) -> Attempt[AbstractClaim]:
        return Attempt(repr(self), Outcome.CLAIMED, SENTENCE, self.claims(seen, key=key)[0], cost=Cost())

    def claims(self, seen: Observation, *, key: Key) -> tuple[AbstractClaim, ...]:
        """One claim of each kind, in the order of the table; the first is the attempt's. key: that of the attempt.

        Of what is seen only the lineup is read: it is public, and says who the candidates are.
        """
        gallery = seen.told(Gallery) if seen.knows(Gallery) else None
        labels = self.source.fixed(self.count)
        asked = MEMBER if seen.knows(Suspects) else None
        outsider = Outsider(self.source.public(), self.count, gallery, seen.target, labels, asked)
        made = (kind.control(outsider, key=key) for kind in KINDS)
        return tuple(claim for claim in made if claim is not None)
