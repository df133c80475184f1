"""The transcript as logits of every frame: direct search on them, their likeliest strings weighted by a beam."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from leakscope.attacks import citations
from leakscope.attacks.attack import AbstractAttack, Attack, Ready
from leakscope.attacks.inputs.frames.exact.windowed_frames import WindowedFrames
from leakscope.attacks.inputs.matching.objective import Objective, objective, rows_apart, unread
from leakscope.attacks.parts.distance.distances import AbstractDistance, Layers, Squared
from leakscope.attacks.parts.labeling.labeling import Spelled, spells
from leakscope.attacks.parts.search.direct import Shrink
from leakscope.attacks.parts.spaces import Pixels
from leakscope.attacks.transcripts.matching.heard import heard
from leakscope.core.asking import gradient_of, replay_of
from leakscope.core.attempt import Attempt, Cost, Outcome, Trace
from leakscope.core.batch import Batch
from leakscope.core.claim import Inputs, Transcripts
from leakscope.core.effort import Clock, Progress, State, Watch
from leakscope.core.errors import BadInput
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.numerics.beams import String, likeliest
from leakscope.numerics.rng import Key, normal
from leakscope.targets.losses import CTC


@final
@dataclass(frozen=True)
class SoftTranscript(AbstractAttack[Ready[Inputs], Transcripts]):
    """min over logits y_t of distance(sum_i w_i g(x, z_i), observed), with the frames x that `frames` claims.

    z_i are the `paths` likeliest strings of the logits (T, C) of an utterance by a prefix beam of `width`, w_i their
    probabilities divided by their sum, g the update for a transcript: the update of the expected CTC loss.
    Direct search: each step moves the logits of one utterance, drawn by key, from U(-1, 1) on, along the sum of those
    of `directions` random unit steps (each in one frame, `radius` long) that lower the loss; `shrink` says how the
    radius falls and when it ends. Claims the likeliest strings of the best logits. Refuses where `frames` refuses or
    claims none, and where the update is no mean over utterances of what each gives.
    Evaluations count updates of one utterance and one string.
    """

    frames: Attack[Inputs] = field(default_factory=WindowedFrames)
    # The output layer alone: its gradient takes no pass back through the model.
    distance: AbstractDistance = field(default_factory=lambda: Layers(Squared(), ("layer_6.*",)))
    iterations: int = 1000
    directions: int = 15
    radius: float = 1.0
    shrink: Shrink = field(default_factory=lambda: Shrink(steps=100, smallest=0.05))
    width: int = 100
    paths: int = 10

    def __post_init__(self) -> None:
        if min(self.iterations, self.directions, self.width, self.paths) < 1 or not self.radius > 0:
            raise BadInput(
                "expected iterations, directions, width and paths >= 1 and radius > 0, got "
                f"{self.iterations}, {self.directions}, {self.width}, {self.paths} and {self.radius}"
            )

    @property
    def citation(self) -> str:
        """Dang et al. 2021, and the sources of the parts."""
        parts = (citations.SPEECH_RECONSTRUCTION, self.distance.citation, self.frames.citation)
        return "\n\n".join(dict.fromkeys(part for part in parts if part))

    def _read(self, seen: Observation) -> Ready[Inputs] | Refusal:
        if not spells(seen):
            return Refusal(f"{seen.target.name} is not trained on transcripts")
        loss = seen.target.loss
        if isinstance(loss, CTC) and loss.blank >= seen.target.classes:
            return Refusal(f"the loss has the blank {loss.blank}, the model the classes 0 to {seen.target.classes - 1}")
        # The search moves one utterance at a time and takes the others' updates as they were: g has to be their mean.
        if not rows_apart(seen, self.distance):
            return Refusal("an expected loss needs an update that is a mean over utterances")
        return unread(seen, self.distance) or self.frames.ready(seen)

    def _attempt(
        self, seen: Observation, read: Ready[Inputs], *, key: Key, clock: Clock, watch: Watch
    ) -> Attempt[Transcripts]:
        found = heard(read, key=key, clock=clock)
        if isinstance(found, Refusal):
            return Attempt(repr(self), Outcome.REFUSED, found.sentence)
        seen, known = found
        # No prior: the frames are given, and no inputs are searched that it could be about.
        matched = objective(seen, self.distance, lambda inputs: inputs.new_zeros(()), Pixels(), None)
        inputs = known.values.to(matched.target.device())
        shape = (*inputs.shape[:2], seen.target.classes)
        # On the CPU and in float64, as the beam reads them, whatever the model's device and dtype.
        drawn = torch.rand(shape, generator=key.child("start").generator(), dtype=torch.float64)
        assert isinstance(seen.target.loss, CTC)
        beam = _Expected(matched, inputs, seen.target.loss.blank, self.width, self.paths)
        return self._searched(_Way(beam, 2 * drawn - 1, self.radius), key, clock, watch)

    def _searched(self, way: _Way, key: Key, clock: Clock, watch: Watch) -> Attempt[Transcripts]:
        way.resume(clock.saved())
        outcome, ended = Outcome.CLAIMED, "did all its steps"
        try:
            # Also after a resume: the updates are large and not saved.
            way.begin()
            while way.done < self.iterations:
                # Before the step: what is saved is whole, and the step that follows can be repeated.
                clock.keep(way.state)
                if clock.exhausted(way.evaluations):
                    ended = "spent its budget"
                    break
                if self._shrunk(way):
                    ended = "can shrink its radius no more"
                    break
                way.step(self.directions, key.child("step", way.done))
                watch(Progress(way.done / self.iterations, way.loss, evaluations=way.evaluations))
        except KeyboardInterrupt:
            outcome, ended = Outcome.INTERRUPTED, "was interrupted"
        return self._ended(way, outcome, ended)

    def _shrunk(self, way: _Way) -> bool:
        """Every so many steps a smaller radius where the loss did not fall; True where it is the smallest already."""
        if way.done == 0 or way.done % self.shrink.steps:
            return False
        # Not `>=`: a loss that is NaN is stalled too.
        stalled = not way.loss < (1 - self.shrink.improvement) * way.before
        way.before = way.loss
        if not stalled:
            return False
        # The outer minimum: a radius that began below `smallest` is not made larger.
        smaller = min(way.radius, max(self.shrink.factor * way.radius, self.shrink.smallest))
        ended, way.radius = smaller == way.radius, smaller
        return ended

    def _ended(self, way: _Way, outcome: Outcome, ended: str) -> Attempt[Transcripts]:
        trace = Trace(tuple(at for at, _ in way.trace), tuple(loss for _, loss in way.trace))
        cost = Cost(evaluations=way.evaluations)
        first = trace.losses[0] if trace.losses else math.nan
        if not math.isfinite(way.least):
            sentence = "no logits that were tried have a finite loss"
            return Attempt(repr(self), Outcome.DIVERGED, sentence, cost=cost, trace=trace)
        sentence = f"the search {ended}: loss {first:.3g} to {way.least:.3g}"
        # Of the best logits, not the last: all improving steps are added unchecked, so the loss may rise.
        claim = Transcripts(tuple(way.beam.strings(place, one)[0][0] for place, one in enumerate(way.best)))
        return Attempt(repr(self), outcome, sentence, claim, cost=cost, trace=trace)


@final
@dataclass(frozen=True, eq=False)
class _Expected:
    """Updates of expected CTC losses, as vectors: the layers that the distance reads, one after the other."""

    objective: Objective
    inputs: Tensor
    blank: int
    width: int
    paths: int

    def strings(self, item: int, logits: Tensor) -> list[tuple[String, float]]:
        """The likeliest strings of logits (T, C), with weights whose sum is 1."""
        assert self.objective.lengths is not None
        # Without the frames of the padding, which CTC does not read.
        real = logits[: int(self.objective.lengths[item])].numpy()
        found = likeliest(real, blank=self.blank, width=self.width, count=self.paths)
        # w_i = p_i / sum p, as softmax of log p: without underflow, whatever the size of p.
        weights = torch.tensor([chance for _, chance in found], dtype=torch.float64).softmax(0).tolist()
        return [(string, weight) for (string, _), weight in zip(found, weights, strict=True)]

    def updates(self, item: int, tried: Sequence[Tensor]) -> tuple[Tensor, int]:
        """Of one utterance for each of some logits, (K, P), and how many strings they hold."""
        each = [self.strings(item, logits) for logits in tried]
        # The update of an expected loss is the expected update, sum_i w_i g(x, z_i): neighboring logits share most
        # strings, and the update of each string is computed once for all candidates.
        every = list(dict.fromkeys(string for strings in each for string, _ in strings))
        places = {string: place for place, string in enumerate(every)}
        weights = torch.zeros(len(each), len(every))
        for row, strings in enumerate(each):
            for string, weight in strings:
                weights[row, places[string]] = weight
        spelled, step = Spelled.of(every), self.objective.chunk
        one = torch.func.vmap(lambda labels, length: self._update(item, labels, length))
        total = None
        with torch.no_grad():
            for first in range(0, len(every), step):
                part = slice(first, first + step)
                labels, lengths = (value[part].to(self.inputs.device) for value in (spelled.labels, spelled.lengths))
                # (K, strings) by (strings, P), chunk by chunk: only sums over strings are kept.
                share = weights[:, part].to(self.inputs) @ one(labels, lengths)
                total = share if total is None else total + share
        assert total is not None
        return total, len(every)

    def _update(self, item: int, labels: Tensor, length: Tensor) -> Tensor:
        assert self.objective.lengths is not None
        lengths = self.objective.lengths[item : item + 1]
        batch = Batch(self.inputs[item : item + 1], labels[None], lengths, length[None])
        mechanism = self.objective.mechanism
        # What the client would have sent for this utterance alone; by `rows_apart` the update is the mean of these.
        target = self.objective.target
        sent = replay_of(mechanism, target, batch, self.objective.observed)
        found = gradient_of(mechanism, sent, target.parameters()).by_name
        return torch.cat([found[name].flatten() for name in self.objective.observed])

    def loss(self, update: Tensor) -> float:
        """The distance of an update (P,) from the observed one."""
        observed = self.objective.observed
        sizes = [value.numel() for value in observed.values()]
        parts = zip(observed.items(), update.split(sizes), strict=True)
        return float(self.objective.distance({name: part.view_as(value) for (name, value), part in parts}, observed))


@final
@dataclass(eq=False)
class _Way:
    """Where the search is. logits: (B, T, C). updates: (B, P), of each utterance's logits."""

    beam: _Expected
    logits: Tensor
    radius: float
    updates: Tensor | None = None
    loss: float = math.inf
    before: float = math.inf
    best: Tensor = field(default_factory=lambda: torch.zeros(0))
    least: float = math.inf
    done: int = 0
    evaluations: int = 0
    trace: list[tuple[int, float]] = field(default_factory=list)

    def begin(self) -> None:
        """The updates of the logits at the start, or where the search goes on."""
        found = [self.beam.updates(place, [one]) for place, one in enumerate(self.logits)]
        self.updates = torch.cat([update for update, _ in found])
        # Counted and noted before, where the search goes on.
        if not self.trace:
            self.evaluations += sum(count for _, count in found)
            self._note(self.beam.loss(self.updates.mean(0)))
            self.before = self.loss

    def step(self, directions: int, key: Key) -> None:
        """Move one utterance along the sum of the steps that lower the loss."""
        assert self.updates is not None
        assert self.beam.objective.lengths is not None
        item = int(torch.randint(len(self.logits), (1,), generator=key.child("item").generator()))
        frames = int(self.beam.objective.lengths[item])
        chosen = torch.randint(frames, (directions,), generator=key.child("frames").generator())
        # A Gaussian at length 1 is uniform over directions; each step changes one frame.
        unit = torch.nn.functional.normalize(
            normal(self.logits.new_zeros(directions, self.logits.shape[2]), key), dim=1
        )
        changes = torch.zeros(directions, *self.logits.shape[1:], dtype=self.logits.dtype)
        changes[torch.arange(directions), chosen] = self.radius * unit
        updates, count = self.beam.updates(item, [self.logits[item] + change for change in changes])
        losses = torch.tensor([self._with(item, update) for update in updates])
        self.evaluations += count
        self.done += 1
        # Each by itself; their sum is not checked, as in the original (`Take.ALL` of the direct search).
        better = losses < self.loss
        if bool(better.any()):
            moved = self.logits[item] + changes[better].sum(0)
            new, more = self.beam.updates(item, [moved])
            self.logits, self.updates = self.logits.clone(), self.updates.clone()
            self.logits[item], self.updates[item] = moved, new[0]
            self.evaluations += more
        self._note(self.beam.loss(self.updates.mean(0)))

    def _with(self, item: int, update: Tensor) -> float:
        assert self.updates is not None
        # mean_b g_b with one of the B replaced: the change is divided by B too.
        return self.beam.loss(self.updates.mean(0) + (update - self.updates[item]) / len(self.updates))

    def _note(self, loss: float) -> None:
        self.loss = loss
        self.trace.append((self.evaluations, loss))
        if loss < self.least:
            self.best, self.least = self.logits.clone(), loss

    def state(self) -> State:
        """For a checkpoint; updates are computed anew."""
        return {
            "logits": self.logits,
            "best": self.best,
            "numbers": [self.radius, self.loss, self.before, self.least],
            "counts": [self.done, self.evaluations],
            "trace": [list(pair) for pair in self.trace],
        }

    def resume(self, state: State | None) -> None:
        """Go on from a state."""
        if state is not None:
            self.logits, self.best = state["logits"], state["best"]
            self.radius, self.loss, self.before, self.least = state["numbers"]
            self.done, self.evaluations = state["counts"]
            self.trace = [(int(at), float(loss)) for at, loss in state["trace"]]
