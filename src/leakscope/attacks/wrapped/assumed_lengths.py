"""A search that assumes another number of frames than there are: what a wrong length costs."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, final

from leakscope.attacks.attack import AbstractAttack, Attack, Ready
from leakscope.attacks.inputs.frames.window.true_lengths import with_lengths
from leakscope.attacks.parts.labeling.labeling import Spelled, spells
from leakscope.core.attempt import Attempt
from leakscope.core.claim import Inputs
from leakscope.core.effort import Clock, Watch
from leakscope.core.errors import BadInput
from leakscope.core.facts import BatchSize, Fact, Lengths, TrueTranscripts
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.numerics.ctc import frames_needed
from leakscope.numerics.rng import Key


@final
@dataclass(frozen=True)
class AssumedLengths(AbstractAttack[Ready[Inputs], Inputs]):
    """`attack`, told that each utterance has max(1, round(times * T) + plus) frames, T those that were told or found.

    For studies of wrong lengths: times 1 and plus 0 is `attack` itself. Of an attack that finds the length by itself,
    such as `WindowedFrames`, it changes nothing. Needs `BatchSize`. Refuses a transcript that was told and does not
    fit into so few frames. Raises `BadInput` unless times > 0.
    """

    attack: Attack[Inputs]
    times: float = 1.0
    plus: int = 0
    needs: ClassVar[frozenset[type[Fact]]] = frozenset({BatchSize})

    def __post_init__(self) -> None:
        if not 0 < self.times < math.inf:
            raise BadInput(f"expected times > 0, got {self.times}")

    @property
    def citation(self) -> str:
        """That of the attack inside."""
        return self.attack.citation

    def _read(self, seen: Observation) -> Ready[Inputs] | Refusal:
        assumed = self._assumed(seen)
        return assumed if isinstance(assumed, Refusal) else self.attack.ready(assumed)

    def _attempt(
        self, seen: Observation, read: Ready[Inputs], *, key: Key, clock: Clock, watch: Watch
    ) -> Attempt[Inputs]:
        attempt = read.within(key=key, clock=clock, watch=watch)
        # `read.seen` is what the attack inside was told: the changed lengths.
        note = f"assumed {', '.join(str(count) for count in read.seen.told(Lengths).values)} frames"
        return dataclasses.replace(attempt, attack=repr(self), steps=(*attempt.steps, note))

    def _assumed(self, seen: Observation) -> Observation | Refusal:
        if not spells(seen):
            return Refusal(f"{seen.target.name} is not trained on utterances")
        known = with_lengths(seen)
        if isinstance(known, Refusal):
            return known
        # T, told or else the rank of the first layer's gradient.
        found = known.told(Lengths).values
        # plus may be negative, but an utterance has a frame.
        lengths = tuple(max(1, round(self.times * count) + self.plus) for count in found)
        if seen.knows(TrueTranscripts):
            spelled = Spelled.of(seen.told(TrueTranscripts).values)
            # CTC places a label per frame and a blank between equal ones; with fewer frames the loss is infinite, and
            # so would be every candidate's.
            needed = frames_needed(spelled.labels, spelled.lengths).tolist()
            for count, least in zip(lengths, needed, strict=True):
                if count < least:
                    return Refusal(f"{count} frames are too few for a transcript that needs {least}")
        # In the place of the true ones: the attack inside cannot know both.
        others: tuple[Fact, ...] = tuple(fact for fact in known.facts if not isinstance(fact, Lengths))
        return dataclasses.replace(known, facts=(*others, Lengths(lengths)))
