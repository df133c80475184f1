"""Several attacks one after the other under one checkpoint: what had ended before a kill is not run again."""

from __future__ import annotations

from typing import final

from torch import Tensor

from leakscope.attacks.attack import Attack, Ready
from leakscope.attacks.failing import FAILURES, failed
from leakscope.core.attempt import Attempt, Certificate, Cost, Outcome, Trace
from leakscope.core.claim import Inputs
from leakscope.core.effort import AbstractCheckpoint, Budget, Clock, State, Watch
from leakscope.core.refusal import Refusal
from leakscope.numerics.rng import Key


@final
class Several:
    """Runs parts in a fixed order. Part n of a second life is what part n of the first was.

    A part that had ended is handed back as it was saved; one that was cut off goes on from its own state, with the
    budget that it was given then.
    """

    def __init__(self, clock: Clock, watch: Watch) -> None:
        self._clock, self._watch = clock, watch
        self._ended: list[State] = []
        saved = clock.saved() or {"ended": [], "part": None}
        self._earlier: list[State] = list(saved["ended"])
        self._cut: State | None = saved["part"]

    def run(
        self, attack: Attack[Inputs], ready: Ready[Inputs] | Refusal, *, key: Key, budget: Budget
    ) -> Attempt[Inputs]:
        """The next part: `attack` as it is `ready`. Interrupted by Ctrl-C, it counts as cut off."""
        # The number of a part is all that a second life knows it by: parts come in a fixed order.
        place = len(self._ended)
        if place < len(self._earlier):
            # Kept for the third life, too.
            self._ended.append(self._earlier[place])
            return _attempt(self._earlier[place])
        cut = self._cut if place == len(self._earlier) else None
        # Not a share of what is left now: that is smaller than it was, and the part would end elsewhere.
        given = budget if cut is None else Budget(cut["budget"][0], cut["budget"][1])
        checkpoint = None if self._clock.checkpoint is None else _Part(self._clock, self._ended, given, cut)
        if isinstance(ready, Refusal):
            attempt: Attempt[Inputs] = Attempt(repr(attack), Outcome.REFUSED, ready.sentence)
        else:
            try:
                attempt = ready.run(key=key, clock=given.start(), watch=self._watch, checkpoint=checkpoint)
            except FAILURES as error:
                # One part that fails must not take along what the others have claimed.
                attempt = failed(attack, error)
        if attempt.outcome is not Outcome.INTERRUPTED:
            self._ended.append(_state(attempt))
            self._clock.keep(lambda: {"ended": list(self._ended), "part": None})
        return attempt


@final
class _Part(AbstractCheckpoint):
    """The state of one part, kept beside what the parts before it came to."""

    def __init__(self, clock: Clock, ended: list[State], budget: Budget, cut: State | None) -> None:
        assert clock.checkpoint is not None
        # A copy: what ends after this part is not part of its state.
        self._clock, self._whole, self._ended = clock, clock.checkpoint, list(ended)
        self._budget, self._cut = budget, cut

    def open(self, owner: str) -> None:
        """The whole file has an owner already, and with it the order of its parts."""
        del owner

    def load(self) -> State | None:
        """What this part had saved."""
        state: State | None = None if self._cut is None else self._cut["state"]
        return state

    def due(self) -> bool:
        """As the whole."""
        return self._whole.due()

    def save(self, state: State, *, seconds: float) -> None:
        """Into the whole, with the seconds of all parts."""
        part = {"state": state, "seconds": seconds, "budget": [self._budget.seconds, self._budget.evaluations]}
        # `seconds` of this part are in its state; those of the whole clock are of all parts and all lives.
        self._whole.save({"ended": self._ended, "part": part}, seconds=self._clock.spent())

    def seconds(self) -> float:
        """What this part had spent."""
        return 0.0 if self._cut is None else float(self._cut["seconds"])

    def close(self) -> None:
        """Nothing: the whole goes on."""


def _state(attempt: Attempt[Inputs]) -> State:
    # Only what a checkpoint can hold: tensors, numbers, texts and lists.
    claim, proof = attempt.claim, attempt.certificate
    return {
        "attack": attempt.attack,
        "outcome": attempt.outcome.value,
        "sentence": attempt.sentence,
        "claim": None if claim is None else [claim.values, claim.labels, claim.confidence, claim.lengths],
        "certificate": None if proof is None else [list(proof.residuals), list(proof.tolerances), proof.statement],
        "cost": [attempt.cost.seconds, attempt.cost.evaluations],
        "trace": [list(attempt.trace.evaluations), list(attempt.trace.losses), _listed(attempt.trace.pictures)],
        "steps": list(attempt.steps),
    }


def _listed(pictures: tuple[tuple[int, Tensor], ...]) -> list[list[int | Tensor]]:
    return [[at, picture] for at, picture in pictures]


def _attempt(state: State) -> Attempt[Inputs]:
    evaluations, losses, pictures = state["trace"]
    return Attempt(
        state["attack"],
        Outcome(state["outcome"]),
        state["sentence"],
        None if state["claim"] is None else Inputs(*state["claim"]),
        None if state["certificate"] is None else Certificate(*state["certificate"]),
        Cost(*state["cost"]),
        Trace(tuple(evaluations), tuple(losses), tuple((at, picture) for at, picture in pictures)),
        tuple(state["steps"]),
    )
