"""The contract of every attack: refuse, seed, time, attempt, classify."""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from typing import ClassVar, Generic, final

from leakscope.core.attempt import (
    AbstractCheckpoint,
    Attempt,
    Budget,
    ClaimT,
    Clock,
    Cost,
    Outcome,
    Refusal,
    Watch,
    unwatched,
)
from leakscope.core.facts import Fact
from leakscope.core.observation import Observation
from leakscope.numerics import trees
from leakscope.numerics.rng import Key


class AbstractAttack(ABC, Generic[ClaimT]):
    """A small value: frozen, printable, repeatable. `run` is final and owns what all attacks share.

    needs: the facts without which the attack refuses.
    """

    needs: ClassVar[frozenset[type[Fact]]] = frozenset()

    @property
    @abstractmethod
    def citation(self) -> str:
        """BibTeX of the sources, printed by the report; empty when there is none."""

    @abstractmethod
    def _refusal(self, seen: Observation) -> Refusal | None:
        """Why this attack does not apply to `seen`, beyond missing facts; None when it does."""

    @abstractmethod
    def _attempt(self, seen: Observation, *, key: Key, clock: Clock, watch: Watch) -> Attempt[ClaimT]:
        """The attack itself. Draws only from `key`, stops when `clock` says so, never changes `seen`."""

    @final
    def refusal(self, seen: Observation) -> Refusal | None:
        """A dry run: None when the attack applies, otherwise the missing fact or layer in a sentence."""
        missing = sorted(kind.__name__ for kind in self.needs if not seen.knows(kind))
        if missing:
            told = ", ".join(type(fact).__name__ for fact in seen.facts) or "nothing"
            return Refusal(f"needs to be told {' and '.join(missing)}; told: {told}")
        if not trees.finite(seen.release.by_name):
            return Refusal("the release holds values that are not finite")
        return self._refusal(seen)

    @final
    def run(
        self,
        seen: Observation,
        *,
        key: Key,
        budget: Budget | None = None,
        watch: Watch = unwatched,
        checkpoint: AbstractCheckpoint | None = None,
    ) -> Attempt[ClaimT]:
        """Attack `seen` within `budget`. Numerical failure is an outcome of the attempt, not an exception.

        Ctrl-C ends a search early with the best claim so far and the outcome INTERRUPTED. With a checkpoint, a search
        that was killed or interrupted goes on where it was saved last, and ends as if it had never stopped (unless it
        is the seconds that end it). Raises `BadInput` when the checkpoint is that of another attack, observation or
        key.
        """
        clock = (budget or Budget()).start()
        refusal = self.refusal(seen)
        if refusal is not None:
            return Attempt(repr(self), Outcome.REFUSED, refusal.sentence, cost=Cost(clock.spent()))
        if checkpoint is not None:
            checkpoint.open(self._owner(seen, key))
            clock = clock.kept(checkpoint)
        attempt = self._attempt(seen, key=key.child(type(self).__name__), clock=clock, watch=watch)
        if checkpoint is not None and attempt.outcome is not Outcome.INTERRUPTED:
            checkpoint.close()
        return dataclasses.replace(attempt, cost=Cost(clock.spent(), attempt.cost.evaluations))

    @final
    def _owner(self, seen: Observation, key: Key) -> str:
        """The hash of all that decides what a search does; the budget decides only when it ends."""
        return hashlib.blake2b(repr((self, seen.fingerprint(), key)).encode(), digest_size=16).hexdigest()
