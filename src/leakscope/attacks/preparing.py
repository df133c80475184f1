"""Learning from public data once per audit: what shadow models and decoders are trained for, not once per trial."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from dataclasses import dataclass
from typing import final

from torch import Tensor

from leakscope.attacks.attack import AbstractAttack, Attack
from leakscope.attacks.parts.search.state_file import packed, unpacked
from leakscope.core.attempt import Attempt, ClaimT
from leakscope.core.domain import AbstractDomain
from leakscope.core.effort import Clock, State, Watch, unwatched
from leakscope.core.mechanism import AbstractMechanism
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.numerics.rng import Key
from leakscope.targets.recipes.architecture import AbstractArchitecture
from leakscope.version import VERSION


@final
@dataclass(frozen=True)
class Setting:
    """What anybody knows before an update is sent: which model on which kind of data, and what clients do.

    No source, no weights of a trial, no observation: what is not here cannot be learned from.
    """

    architecture: AbstractArchitecture
    domain: AbstractDomain
    classes: int
    mechanism: AbstractMechanism


@final
@dataclass(frozen=True, eq=False)
class Learned:
    """What came of preparing. fingerprint: of all that decides it. state: as a checkpoint keeps it, in files alike."""

    fingerprint: str
    state: State


class AbstractLearner(AbstractAttack[None, ClaimT]):
    """An attack that first learns from public data, which it has as constructor arguments (pools).

    It attacks nothing itself: `taught` makes the attack that does, from what was learned. An audit learns once for
    each setting and hands the same to every trial.
    """

    @abstractmethod
    def _prepare(self, setting: Setting, *, key: Key, clock: Clock, watch: Watch) -> State:
        """Learn. Draws only from `key`; saves to `clock` what a later life needs (`Clock.keep`), as a search does."""

    @abstractmethod
    def taught(self, learned: Learned) -> Attack[ClaimT]:
        """The attack that uses what was learned."""

    @final
    def prepare(self, setting: Setting, *, key: Key, clock: Clock, watch: Watch = unwatched) -> Learned:
        """Learn, within `clock`, from where its checkpoint stands. Raises what the learner raises."""
        state = self._prepare(setting, key=key.child(type(self).__name__), clock=clock, watch=watch)
        tensors: dict[str, Tensor] = {}
        # There and back, as through a file: else the trial that learned could see tuples where later ones see lists.
        layout = json.loads(json.dumps(packed(state, tensors)))
        copies = {name: value.cpu().clone() for name, value in tensors.items()}
        return Learned(self.fingerprint(setting, key), unpacked(layout, copies))

    @final
    def fingerprint(self, setting: Setting, key: Key) -> str:
        """The hash of all that decides what is learned: version, attack with its pools, setting and key.

        By their reprs, which rebuild them; the repr of a pool holds the fingerprint of its examples.
        """
        text = repr((VERSION, self, setting, key))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    @final
    def _read(self, seen: Observation) -> Refusal:
        return Refusal("has learned nothing yet: run what taught(prepare(...)) gives")

    @final
    def _attempt(self, seen: Observation, read: None, *, key: Key, clock: Clock, watch: Watch) -> Attempt[ClaimT]:
        raise AssertionError("a learner refuses before it attempts anything")
