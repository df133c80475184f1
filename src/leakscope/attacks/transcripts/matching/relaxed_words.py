"""What was said to a recognizer with a decoder, by matching its output layer's gradient with relaxed pieces."""

from __future__ import annotations

import copy
import math
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import final

import numpy as np
import torch
from torch import Tensor

from leakscope.attacks import citations
from leakscope.attacks.attack import AbstractAttack
from leakscope.attacks.labels.rows.row_space import row_space
from leakscope.attacks.parts.distance.distances import AbstractDistance, OnSupport, Squared
from leakscope.attacks.parts.reading.fed_pieces import fed_pieces
from leakscope.attacks.parts.reading.trained import NOT_TRAINED, idle
from leakscope.attacks.transcripts.matching.shown_pieces import shown_pieces
from leakscope.attacks.transcripts.matching.unheard import AbstractUnheard, AttentionContexts, Recognizer, spread_of
from leakscope.core.arguments import count, number
from leakscope.core.attempt import Attempt, Cost, Outcome, Trace
from leakscope.core.claim import Transcripts
from leakscope.core.effort import Clock, Progress, State, Watch
from leakscope.core.errors import BadInput
from leakscope.core.facts import BatchSize, Lengths
from leakscope.core.observation import Observation
from leakscope.core.pieces import Pieces
from leakscope.core.refusal import Refusal
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.reading import bends, clipped, known_weights, noise, rounds, signs
from leakscope.numerics.rng import Key, normal
from leakscope.numerics.trees import Named
from leakscope.targets.spelling import NextPiece
from leakscope.targets.zoo.listen_attend_spell import Listener, Speller

MOST_PIECES = 64
"""Pieces of a sentence beyond which it has to be told that it is one: so many are of several utterances."""
LONGEST = 2000
"""Pieces beyond which no sentence is searched: the decoder is run over each piece of each at every step."""

LEFT = 4
"""Restarts of which none is dropped. Most end at a wrong order, and after some dozen steps their distance says so."""
MISSED = 1.2
"""How many times the distance of declared noise alone says that a sentence is not the true one: noise of thousands of
entries has one size to a few hundredths, and what is searched fits some of it."""
BETTER = 0.95
"""Of the distance of a shorter sentence, below which a longer one is taken instead."""


@final
@dataclass(frozen=True, eq=False)
class Legible:
    """What is matched. names: of the output layer's weight and bias in `sent`, the bias only where it was sent.
    pieces: (k,) those that are tried at each place. least: length of the shortest sentence that it may be, without the
    end. scaled: whether the update may be a multiple of the gradient. moved: whether it is of weights that
    nobody knows."""

    model: Recognizer
    names: tuple[str, str]
    sent: Named
    pieces: Tensor
    least: int
    scaled: bool
    moved: bool


@final
@dataclass(frozen=True)
class Matched:
    """The best restart of one length. outputs: of the decoder, without the end."""

    outputs: tuple[int, ...]
    distance: float


@final
@dataclass(frozen=True)
class RelaxedWords(AbstractAttack[Legible, Transcripts | Pieces]):
    """min over z, u of distance((1 / N) sum_i (softmax(W h_i + b) - y_i) [h_i, 1], (dL/dW, dL/db)) of one utterance.

    y_i = softmax(z_i) over the pieces, z (L, pieces) real, and y_N the end, N = L + 1; h_i is what the output layer is
    fed at step i, given the pieces before and u, which stands for the speech: the contexts (`AttentionContexts`), the
    inputs h themselves (`SoftmaxInputs`: no order, so that a bag is claimed), the frames (`SpeechFrames`). Claims the
    largest z_i of the restart with the least distance, without a certificate.

    length: L, pieces without the end. None tries one after the other until `longer` in a row were not a twentieth
    better, from the least that is known: as many as were fed by the embedding's gradient, as lie low in dL/db behind
    declared noise, or one less than directions of dL/dW stand out of that or of rounding. After local steps, whose
    weights moved, a longer sentence always fits better: then as many are taken as were fed, as if none was said twice.
    bag: whether only pieces are tried that the decoder was fed, if the embedding's gradient says which, or behind
    declared noise those that lie low in dL/db, where that shows as many as directions stand out. restarts: run
    together; after every `halve` steps (0: never) the half at the larger distance is dropped, down to `LEFT`. steps: of
    Adam at most, whose rate falls from `lr` to `least_lr` in a geometric series over `decay_steps` from `decay_start`
    on; it ends earlier where of the last `unchanged` transcripts of the best restart more than the share `most` are the
    present one.
    Where a mechanism may have scaled the update, the candidate is scaled to fit.
    The published search, which reads L from the client's own notes, and starts at one-hot z without a softmax:
    RelaxedWords(length=L, restarts=1, steps=100000, lr=0.05, least_lr=0.005, decay_start=4000, decay_steps=4000,
    unchanged=2000). Its objective was not released, so distance and layers are ours: in the output layer all three
    unknowns have a closed form, and none needs a second derivative of the model.
    Raises `BadInput` on numbers out of range. Source: Dang et al. 2021 (arXiv:2111.00556), section 5 and their code.
    """

    of: AbstractUnheard = field(default_factory=AttentionContexts)
    distance: AbstractDistance = field(default_factory=lambda: OnSupport(Squared()))
    length: int | None = None
    longer: int = 2
    bag: bool = True
    restarts: int = 32
    halve: int = 40
    steps: int = 600
    lr: float = 0.1
    least_lr: float = 0.01
    decay_start: int = 0
    decay_steps: int = 600
    unchanged: int = 300
    most: float = 0.99

    def __post_init__(self) -> None:
        if self.length is not None:
            object.__setattr__(self, "length", count("length", self.length, low=0, high=LONGEST))
        for name in ("restarts", "steps", "decay_steps", "unchanged"):
            object.__setattr__(self, name, count(name, getattr(self, name), low=1))
        for name in ("longer", "decay_start", "halve"):
            object.__setattr__(self, name, count(name, getattr(self, name), low=0, high=10**9))
        for name in ("lr", "least_lr"):
            object.__setattr__(self, name, number(name, getattr(self, name), low=0, low_open=True))
        object.__setattr__(self, "most", number("most", self.most, low=0, high=1))
        if self.least_lr > self.lr:
            raise BadInput(f"expected least_lr <= lr, got {self.least_lr} and {self.lr}; the rate only falls")

    @property
    def citation(self) -> str:
        """Dang et al. 2021, and the source of the distance."""
        return "\n\n".join(part for part in (citations.RLG, self.distance.citation) if part)

    def _read(self, seen: Observation) -> Legible | Refusal:
        found = recognizer(seen)
        if isinstance(found, Refusal):
            return found
        name, model = found
        if seen.knows(BatchSize) and seen.told(BatchSize).count != 1:
            return Refusal(f"matches one utterance, and was told BatchSize({seen.told(BatchSize).count})")
        why = self.of.refusal(seen)
        if why is not None:
            return Refusal(why)
        gradient = seen.gradient().by_name
        weight, bias = f"{name}.output.weight", f"{name}.output.bias"
        still = idle(gradient)
        if weight not in gradient or weight in still:
            what = f"the gradient of {weight} {NOT_TRAINED}" if weight in gradient else f"the release lacks {weight}"
            return Refusal(what)
        names = [weight, *([bias] if bias in gradient and bias not in still else [])]
        sent = {one: gradient[one].detach().float().cpu() for one in names}
        # What is cut off or rounded away may be the row of a piece that was fed: then all pieces are tried.
        whole = bends(seen.mechanism) is rounds(seen.mechanism) is Answer.NO
        fed = fed_pieces(seen, f"{name}.embedding.weight") if whole else None
        counted = self._counted(seen, weight) if fed is None else 0
        directions = 0 if isinstance(counted, str) else counted
        shown = shown_pieces(seen, f"{name}.output", model.speller, directions) if fed is None else None
        likely = shown if fed is None else fed[:-1]
        least = self._least(counted, None if likely is None else int(likely.sum()))
        if isinstance(least, str):
            return Refusal(f"{least}; give the length of the sentence in pieces, as in RelaxedWords(length=12)")
        tried = np.arange(model.end) if likely is None or not self.bag or not likely.any() else np.flatnonzero(likely)
        moved = known_weights(seen.mechanism) is not Answer.YES
        scaled = moved or signs(seen.mechanism) is not Answer.NO or clipped(seen) is not Answer.NO
        return Legible(model, (weight, bias), sent, torch.from_numpy(tried), least, scaled, moved)

    def _least(self, counted: int | str, likely: int | None) -> int | str:
        """The length that is tried first, or why none is known."""
        if self.length is not None:
            return self.length
        least = counted if likely is None else likely
        if not isinstance(least, str) and least > MOST_PIECES:
            return f"{least} pieces and more are those of several utterances"
        return least

    def _counted(self, seen: Observation, weight: str) -> int | str:
        """One less than directions of dL/dW stand out."""
        if bends(seen.mechanism) is not Answer.NO:
            return "entries were cut off or turned into signs, so that directions of the gradient do not count pieces"
        if known_weights(seen.mechanism) is not Answer.YES:
            return "weights moved from step to step, so that directions of the update do not count pieces"
        gradient = seen.gradient().by_name[weight].double().cpu()
        added = noise(seen, weight)
        if added:
            # The largest singular value of noise alone (Marchenko-Pastur), and a tenth for chance.
            edge = 1.1 * added * sum(math.sqrt(side) for side in gradient.shape)
            return max(int((torch.linalg.svdvals(gradient) > edge).sum()) - 1, 0)
        # A fixed key: whether an attack refuses may not depend on the trial's.
        space = row_space(gradient.numpy().T, Key(0).child("rows").numpy())
        return space if isinstance(space, str) else space.rank - 1

    def _attempt(
        self, seen: Observation, read: Legible, *, key: Key, clock: Clock, watch: Watch
    ) -> Attempt[Transcripts | Pieces]:
        assert isinstance(seen.target.loss, NextPiece)
        spelling, kept = seen.target.loss.spelling, _Kept()
        kept.resume(clock.saved())
        outcome = Outcome.CLAIMED
        try:
            while not self._longest(kept, read.moved):
                length = read.least + len(kept.found)
                # Before a length: within it, the key draws again what it drew.
                clock.keep(kept.state)
                search = _Search(self, read, length, key.child("start", length))
                try:
                    search.run(kept, clock, watch)
                finally:
                    # Also of a search that was interrupted.
                    kept.found.append(search.best())
                # One less than a step of all restarts takes: a budget is not overspent by the next length.
                if clock.exhausted(kept.evaluations + self.restarts - 1):
                    break
        except KeyboardInterrupt:
            outcome = Outcome.INTERRUPTED
        cost = Cost(evaluations=kept.evaluations)
        trace = Trace(tuple(at for at, _ in kept.trace), tuple(loss for _, loss in kept.trace))
        best = kept.best()
        if not math.isfinite(best.distance):
            return Attempt(repr(self), Outcome.DIVERGED, "no restart has a finite distance", cost=cost, trace=trace)
        longest = read.least + len(kept.found) - 1
        sentence = (
            f"{len(best.outputs)} pieces of {len(read.pieces)} at a distance of {best.distance:.3g}, lengths from "
            f"{read.least} to {longest} tried; {self._reached(seen, read, best.distance, key.child('noise'))}"
            "taken for one utterance, and no proof"
        )
        claim: Transcripts | Pieces
        if self.of.ordered:
            claim = Transcripts((spelling.read(best.outputs),))
        elif not best.outputs:
            return Attempt(repr(self), Outcome.DIVERGED, "a sentence without pieces has no bag", cost=cost, trace=trace)
        else:
            claim = Pieces(tuple(sorted({spelling.read((one,)) for one in best.outputs})))
            sentence += "; no order, on which nothing here depends"
        return Attempt(repr(self), outcome, sentence, claim, cost=cost, trace=trace)

    def _reached(self, seen: Observation, read: Legible, distance: float, key: Key) -> str:
        """What the distance says of the search, beside what declared noise alone leaves of the true sentence; or ""."""
        sizes = {name: noise(seen, name) for name in read.sent}
        if read.scaled or not all(sizes.values()):
            return ""
        noised = {name: one + float(sizes[name] or 0) * normal(one, key.child(name)) for name, one in read.sent.items()}
        # As `_Search._distance`, of another draw of the same noise.
        size = torch.stack([one.square().sum() for one in read.sent.values()]).sum().sqrt()
        mine, sent = ({name: one / size for name, one in side.items()} for side in (noised, read.sent))
        ratio = distance / max(float(self.distance(mine, sent)), 1e-30)
        if ratio > MISSED:
            return (
                f"{ratio:.2g} times what the declared noise leaves of the true sentence: the search ended short of it, "
                "as it does of long ones; "
            )
        return f"no more than the declared noise leaves ({ratio:.2g} times), which tells no nearer sentence apart; "

    def _longest(self, kept: _Kept, moved: bool) -> bool:
        """Whether no longer sentence is tried."""
        tried, best = len(kept.found), kept.best()
        if self.length is not None or moved or not tried or best not in kept.found:
            return tried > 0
        return tried > MOST_PIECES or tried - 1 - kept.found.index(best) >= self.longer

    def rate(self, step: int) -> float:
        """Of Adam at a step.

        >>> [round(RelaxedWords(decay_start=10, decay_steps=10).rate(step), 3) for step in (0, 10, 15, 20, 99)]
        [0.1, 0.1, 0.032, 0.01, 0.01]
        """
        way = min(max((step - self.decay_start) / self.decay_steps, 0.0), 1.0)
        return float(self.lr * (self.least_lr / self.lr) ** way)


def recognizer(seen: Observation) -> tuple[str, Recognizer] | Refusal:
    """The name of the decoder in the model, and both halves of the recognizer; why there is none."""
    target = seen.target
    spellers = [(name, one) for name, one in target.module.named_modules() if isinstance(one, Speller)]
    listeners = [one for one in target.module.modules() if isinstance(one, Listener)]
    if not isinstance(target.loss, NextPiece) or len(spellers) != 1 or len(listeners) != 1:
        return Refusal(f"runs the decoder of ListenAttendSpell, got {target.name} trained with {target.loss!r}")
    name, speller = spellers[0]
    # Copies: an attack changes nothing of the target, and the search runs in one kind of number.
    speller = copy.deepcopy(speller).float().cpu().requires_grad_(False)
    listener = copy.deepcopy(listeners[0]).float().cpu().requires_grad_(False)
    width = target.domain.shape[-1]
    frames = max(seen.told(Lengths).values) if seen.knows(Lengths) else 0
    spread = spread_of(listener, width, Key(0).child("noise"))
    return name, Recognizer(listener, speller, target.loss.spelling.end, frames, width, spread)


@final
@dataclass(eq=False)
class _Kept:
    """What is done. found: of each length. trace: evaluations and least distance."""

    found: list[Matched] = field(default_factory=list)
    evaluations: int = 0
    trace: list[tuple[int, float]] = field(default_factory=list)

    def best(self) -> Matched:
        """The shortest that no longer one is a twentieth better than: more numbers always fit a little better."""
        best = Matched((), math.inf)
        for one in self.found:
            best = one if one.distance < BETTER * best.distance else best
        return best

    def state(self) -> State:
        """For a checkpoint."""
        return {
            "found": [[list(one.outputs), one.distance] for one in self.found],
            "evaluations": self.evaluations,
            "trace": [list(pair) for pair in self.trace],
        }

    def resume(self, state: State | None) -> None:
        """Go on from a state."""
        if state is not None:
            self.found = [Matched(tuple(outputs), float(distance)) for outputs, distance in state["found"]]
            self.evaluations = int(state["evaluations"])
            self.trace = [(int(at), float(loss)) for at, loss in state["trace"]]


@final
class _Search:
    """All restarts of one length."""

    def __init__(self, attack: RelaxedWords, read: Legible, length: int, key: Key) -> None:
        self.attack, self.read, self.length = attack, read, length
        shape = (attack.restarts, length)
        self.free = attack.of.start(read.model, (attack.restarts, length + 1), key.child("speech")).requires_grad_()
        drawn = torch.randint(len(read.pieces), shape, generator=key.child("pieces").generator())
        # As published: each place begins at a piece of its own, drawn at random.
        self.scores = torch.nn.functional.one_hot(drawn, len(read.pieces)).float().requires_grad_()
        self.each = torch.full((attack.restarts,), math.inf)

    def run(self, kept: _Kept, clock: Clock, watch: Watch) -> None:
        """To the last step, to the end of the budget, or until the transcript stays as it is."""
        attack = self.attack
        adam = torch.optim.Adam([self.free, self.scores], lr=attack.lr)
        latest: deque[tuple[int, ...]] = deque(maxlen=attack.unchanged)
        for step in range(attack.steps):
            if step and clock.exhausted(kept.evaluations + len(self.each) - 1):
                return
            if self._halved(step):
                # From rest: moments of Adam are forgotten in some steps anyway.
                adam = torch.optim.Adam([self.free, self.scores], lr=attack.lr)
            elif step:
                # Before the distances and not after them: `best` reads the numbers that they are of.
                adam.param_groups[0]["lr"] = attack.rate(step)
                adam.step()
            adam.zero_grad()
            each = self.distances()
            each.sum().backward()
            self.each = each.detach()
            best = self.best()
            kept.evaluations += len(each)
            kept.trace.append((kept.evaluations, best.distance))
            watch(Progress(step / attack.steps, best.distance, f"{self.length} pieces", kept.evaluations))
            latest.append(best.outputs)
            if self._settled(latest) or not math.isfinite(best.distance):
                return

    def _halved(self, step: int) -> bool:
        """Whether the worse half of the restarts has gone."""
        count, often = len(self.each), self.attack.halve
        if not often or not step or step % often or count <= LEFT:
            return False
        order = torch.nan_to_num(self.each, nan=math.inf).argsort(stable=True)[: max(LEFT, count // 2)]
        self.free, self.scores = (one.detach()[order].requires_grad_() for one in (self.free, self.scores))
        self.each = self.each[order]
        return True

    def _settled(self, latest: deque[tuple[int, ...]]) -> bool:
        """The published rule: of the latest transcripts nearly all are alike, and as the present one."""
        often, times = Counter(latest).most_common(1)[0]
        full = len(latest) == self.attack.unchanged
        return full and times > self.attack.most * self.attack.unchanged and often == latest[-1]

    def distances(self) -> Tensor:
        """(R,) of each restart."""
        read, model = self.read, self.read.model
        shares = torch.softmax(self.scores, 2)
        pieces = torch.zeros(*shares.shape[:2], model.end + 1).index_copy(2, read.pieces, shares)
        fed = self.attack.of.inputs(model, self.free, pieces)
        ends = torch.zeros(len(pieces), 1, model.end + 1)
        ends[:, :, model.end] = 1
        errors = torch.softmax(model.speller.output(fed), 2) - torch.cat([pieces, ends], 1)
        count = self.length + 1
        found = (errors.transpose(1, 2) @ fed / count, errors.mean(1))
        return torch.stack([self._distance(*one) for one in zip(*found, strict=True)])

    def _distance(self, weight: Tensor, bias: Tensor) -> Tensor:
        sent = self.read.sent
        mine = {name: value for name, value in zip(self.read.names, (weight, bias), strict=True) if name in sent}
        # Squares are relative to the update's own, so that one rate serves small and large ones.
        size = torch.stack([value.square().sum() for value in sent.values()]).sum().sqrt()
        mine, sent = ({name: value / size for name, value in side.items()} for side in (mine, sent))
        if self.read.scaled:
            inner = torch.stack([(mine[name] * sent[name]).sum() for name in sent]).sum()
            own = torch.stack([mine[name].square().sum() for name in sent]).sum()
            mine = {name: value * (inner / own.clamp(min=1e-30)) for name, value in mine.items()}
        return self.attack.distance(mine, sent)

    def best(self) -> Matched:
        """The restart with the least distance; infinite where none is finite."""
        each = torch.nan_to_num(self.each, nan=math.inf)
        place = int(each.argmin())
        with torch.no_grad():
            outputs = self.read.pieces[self.scores[place].argmax(1)] if self.length else self.read.pieces[:0]
        return Matched(tuple(outputs.tolist()), float(each[place]))
