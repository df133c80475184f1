"""The transcript by matching the gradient: the frames are given by another attack, the characters are searched."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import final

from torch import Tensor

from leakscope.attacks import citations
from leakscope.attacks.attack import AbstractAttack, Attack, Ready
from leakscope.attacks.inputs.frames.exact.windowed_frames import WindowedFrames
from leakscope.attacks.inputs.matching.objective import Objective, objective, unread
from leakscope.attacks.parts.distance.distances import AbstractDistance, Layers, Squared
from leakscope.attacks.parts.labeling.labeling import Spelled, spells
from leakscope.attacks.parts.labeling.spelling import AbstractSpelling, Edits
from leakscope.attacks.parts.spaces import Pixels
from leakscope.attacks.transcripts.matching.heard import heard
from leakscope.core.attempt import Attempt, Cost, Outcome, Trace
from leakscope.core.claim import Inputs, Transcripts
from leakscope.core.effort import Clock, Progress, State, Watch
from leakscope.core.errors import BadInput
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.numerics.rng import Key


@final
@dataclass(frozen=True)
class TranscriptMatching(AbstractAttack[Ready[Inputs], Transcripts]):
    """min over transcripts y of distance(replay(x, y), observed), with the frames x that `frames` claims.

    `rounds` times the transcripts are changed as `spelling` does (its `every` is of no account here: the frames stay).
    Local: it ends at a transcript that the tried edits do not improve. Refuses where `frames` refuses or claims none.
    """

    frames: Attack[Inputs] = field(default_factory=WindowedFrames)
    # The output layer alone: its gradient takes no pass back through the model.
    distance: AbstractDistance = field(default_factory=lambda: Layers(Squared(), ("layer_6.*",)))
    spelling: AbstractSpelling = field(default_factory=lambda: Edits(width=16, rounds=3, resize=True))
    rounds: int = 200

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise BadInput(f"expected rounds >= 1, got {self.rounds}")

    @property
    def citation(self) -> str:
        """Dang et al. 2021, and the sources of the parts."""
        parts = (citations.SPEECH_RECONSTRUCTION, self.distance.citation, self.frames.citation)
        return "\n\n".join(dict.fromkeys(part for part in parts if part))

    def _read(self, seen: Observation) -> Ready[Inputs] | Refusal:
        if not spells(seen):
            return Refusal(f"{seen.target.name} is not trained on transcripts")
        return self.spelling.refusal(seen) or unread(seen, self.distance) or self.frames.ready(seen)

    def _attempt(
        self, seen: Observation, read: Ready[Inputs], *, key: Key, clock: Clock, watch: Watch
    ) -> Attempt[Transcripts]:
        found = heard(read, key=key, clock=clock)
        if isinstance(found, Refusal):
            return Attempt(repr(self), Outcome.REFUSED, found.sentence)
        # From here on `seen` knows the lengths of the claim.
        seen, known = found
        start = self.spelling.labels(seen, key=key.child("start"), budget=clock.remaining())
        if not isinstance(start, Spelled):
            sentence = start.sentence if isinstance(start, Refusal) else "the spelling gives no transcripts"
            return Attempt(repr(self), Outcome.REFUSED, sentence)
        # No prior: the frames are given, and no inputs are searched that it could be about.
        matched = objective(seen, self.distance, lambda inputs: inputs.new_zeros(()), Pixels(), None)
        return self._searched(seen, _Round(matched, known.values, start), key, clock, watch)

    def _searched(self, seen: Observation, now: _Round, key: Key, clock: Clock, watch: Watch) -> Attempt[Transcripts]:
        now.resume(clock.saved())
        outcome, ended = Outcome.CLAIMED, "did all its rounds"
        try:
            # The start counts as round 0; after a resume it is in the trace already.
            now.look()
            while now.done < self.rounds:
                # Before the round: what is saved is whole, and the round that follows can be repeated.
                clock.keep(now.state)
                if clock.exhausted(now.evaluations):
                    ended = "spent its budget"
                    break
                # A key for each round, so that a resumed search draws what the first would have drawn.
                drawn = key.child("round", now.done)
                now.spelled = self.spelling.respelled(now.spelled, now.losses, seen=seen, key=drawn)
                now.done += 1
                now.look()
                watch(Progress(now.done / self.rounds, now.trace[-1][1], evaluations=now.evaluations))
        except KeyboardInterrupt:
            outcome, ended = Outcome.INTERRUPTED, "was interrupted"
        first, last = now.trace[0][1], now.trace[-1][1]
        trace = Trace(tuple(at for at, _ in now.trace), tuple(loss for _, loss in now.trace))
        cost = Cost(evaluations=now.evaluations)
        # Infinite where all strings that were tried need more frames than there are.
        if not math.isfinite(last):
            sentence = "no transcript that was tried has a finite loss"
            return Attempt(repr(self), Outcome.DIVERGED, sentence, cost=cost, trace=trace)
        sentence = f"the search {ended}: loss {first:.3g} to {last:.3g}"
        claim = Transcripts(now.spelled.transcripts())
        return Attempt(repr(self), outcome, sentence, claim, cost=cost, trace=trace)


@final
@dataclass(eq=False)
class _Round:
    """Where the search is. trace: evaluations and loss after each round."""

    objective: Objective
    inputs: Tensor
    spelled: Spelled
    done: int = 0
    evaluations: int = 0
    trace: list[tuple[int, float]] = field(default_factory=list)

    def losses(self, tried: Spelled) -> Tensor:
        """Of candidates (C, B, L), counted."""
        # One for each candidate transcript of the whole batch.
        self.evaluations += len(tried.labels)
        # Frames as they were claimed, for every candidate the same.
        point = {"inputs": self.inputs.to(self.objective.target.device())}
        return self.objective.spelled(point)(tried)

    def look(self) -> None:
        """Note the loss of the present transcripts, once per round."""
        if len(self.trace) <= self.done:
            one = Spelled(self.spelled.labels.unsqueeze(0), self.spelled.lengths.unsqueeze(0))
            loss = float(self.losses(one)[0])
            self.trace.append((self.evaluations, loss))

    def state(self) -> State:
        """For a checkpoint."""
        return {
            "labels": self.spelled.labels,
            "lengths": self.spelled.lengths,
            "done": self.done,
            "evaluations": self.evaluations,
            "trace": [list(pair) for pair in self.trace],
        }

    def resume(self, state: State | None) -> None:
        """Go on from a state."""
        if state is not None:
            self.spelled = Spelled(state["labels"], state["lengths"])
            self.done, self.evaluations = state["done"], state["evaluations"]
            self.trace = [(int(at), float(loss)) for at, loss in state["trace"]]
