"""Gradient matching: search for inputs whose replayed update is the observed one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor

from leakscope.attacks import citations
from leakscope.attacks.attack import AbstractAttack
from leakscope.attacks.inputs.frames.window.true_lengths import with_lengths
from leakscope.attacks.inputs.matching.contrast import blind_to_contrast, contrast, stretched
from leakscope.attacks.inputs.matching.objective import Objective, objective, rows_apart, unread
from leakscope.attacks.labels.counts import SUMMED, factor_of
from leakscope.attacks.parts.distance.distances import AbstractDistance, Cosine
from leakscope.attacks.parts.labeling.labeling import AbstractLabeling, Joint, Spelled, numbers, spells
from leakscope.attacks.parts.labeling.spelling import AbstractSpelling
from leakscope.attacks.parts.priors.prior import AbstractPrior, Flat
from leakscope.attacks.parts.reading.trained import as_mean, as_trained
from leakscope.attacks.parts.search.first_order import AbstractSearch, Adam, Problem
from leakscope.attacks.parts.search.journal import Found, Point, Stop
from leakscope.attacks.parts.spaces import AbstractSpace, Pixels
from leakscope.attacks.parts.starts import AbstractStart, Uniform
from leakscope.core import file_limits
from leakscope.core.attempt import Attempt, Cost, Outcome, Trace
from leakscope.core.claim import Inputs
from leakscope.core.domain import rangeless
from leakscope.core.effort import Clock, Watch
from leakscope.core.errors import BadInput, first_line
from leakscope.core.facts import BatchSize, Fact, Lengths
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.domains.text import Text
from leakscope.numerics.ctc import frames_needed
from leakscope.numerics.rng import Key, normal

BATCH = (
    "the update was computed with the batch's own statistics (batch normalization in training mode), so the model was "
    "run like that; declare training=True"
)


@final
@dataclass(frozen=True)
class GradientInversion(AbstractAttack[Observation, Inputs]):
    """min over x of distance(replay(x), observed) + prior(x); replay runs the client's own public mechanism.

    Five orthogonal parts and a labeling; a published attack is a value of this class (see `recipes`).
    The final candidate is chosen by its own loss, never by looking at the secret. An attempt whose search ends above
    where it began is DIVERGED and claims nothing. Needs `BatchSize`. Of a model that is trained on transcripts it
    claims utterances (B, T, F) with their lengths: told, or the rank of the gradient of the layer on windows
    (`utterances`); where only the transcripts are known in order, the longest goes to the longest utterance.
    """

    distance: AbstractDistance = field(default_factory=Cosine)
    prior: AbstractPrior = field(default_factory=Flat)
    space: AbstractSpace = field(default_factory=Pixels)
    start: AbstractStart = field(default_factory=Uniform)
    search: AbstractSearch = field(default_factory=Adam)
    labeling: AbstractLabeling = field(default_factory=Joint)
    restarts: int = 1
    needs: ClassVar[frozenset[type[Fact]]] = frozenset({BatchSize})

    def __post_init__(self) -> None:
        if self.restarts < 1:
            raise BadInput(f"expected restarts >= 1, got {self.restarts}")

    @property
    def citation(self) -> str:
        """The sources of the parts that are in use, Zhu et al. 2019 first."""
        of = self
        # Each once, in this order: parts share sources.
        parts = (citations.DLG, *(part.citation for part in (of.distance, of.prior, of.search, of.labeling)))
        return "\n\n".join(dict.fromkeys(part for part in parts if part))

    def _read(self, seen: Observation) -> Observation | Refusal:
        """The observation with the lengths of its utterances, told or found."""
        # What costs nothing is asked first, the lengths last: these cost a spectrum.
        unknown = sorted(set(seen.release.by_name) - set(seen.target.parameters()))
        if unknown:
            return Refusal(f"the release names {', '.join(unknown[:3])}, which the model does not have")
        nothing = unread(seen, self.distance)
        if nothing is not None:
            return nothing
        if isinstance(seen.target.domain, Text):
            return Refusal("tokens are whole numbers, through which no search can follow a gradient; use EmbeddingSpan")
        if not self.search.follows and isinstance(self.labeling, AbstractSpelling):
            return Refusal(f"{self.search!r} cannot follow a loss whose transcript changes; use Adam or DirectSearch")
        searched = self.restarts * seen.told(BatchSize).count * math.prod(self._shape(seen))
        if searched * HELD > file_limits.memory():
            return Refusal(
                f"searches {searched} numbers at once, which takes {file_limits.size(searched * HELD)}, and this "
                f"machine has {file_limits.size(file_limits.memory())}; search fewer examples or restarts"
            )
        nowhere = rangeless(seen.target.domain, self._shape(seen))
        if nowhere is not None:
            return Refusal(nowhere)
        if self.search.apart and not rows_apart(seen, self.distance):
            return Refusal("one utterance at a time needs speech and an update that is a mean over utterances")
        # Not sooner: it runs the model, and it reads names that were checked above.
        seen = as_mean(as_trained(seen), 1 if self.distance.scale_free else factor_of(seen))
        # For its exception only: a layer that the prior needs and the model lacks becomes the refusal.
        self.prior.penalty(seen)
        informed = with_lengths(seen) if spells(seen) else seen
        if isinstance(informed, Refusal):
            return informed
        return self.labeling.refusal(informed) or self.start.refusal(informed) or informed

    def _attempt(
        self, seen: Observation, read: Observation, *, key: Key, clock: Clock, watch: Watch
    ) -> Attempt[Inputs]:
        informed = read
        labels = self.labeling.labels(informed, key=key.child("labels"), budget=clock.remaining())
        if isinstance(labels, Refusal):
            return Attempt(repr(self), Outcome.REFUSED, labels.sentence)
        # Found lengths are ascending, told transcripts in the client's order: brought together by what fits.
        if isinstance(labels, Spelled) and not seen.knows(Lengths):
            labels = _by_length(labels)
        # A start may be another attack's claim: what labels left of the budget is for it and the search.
        start = self.start.informed(informed, key=key.child("claimed start"), budget=clock.remaining())
        if isinstance(start, Refusal):
            return Attempt(repr(self), Outcome.REFUSED, start.sentence)
        problem, objective = self._problem(informed, labels, key)
        starts = self._starts(informed, labels, key, start=start)
        try:
            found = self.search.run(problem, starts, clock=clock, watch=watch)
        # Torch's word for an operation whose slope has none itself; the sentence names it.
        except NotImplementedError as error:
            sentence = f"the model cannot be differentiated twice, as a search must: {first_line(error)}"
            return Attempt(repr(self), Outcome.DIVERGED, sentence)
        moved = None
        if found.point is not None and blind_to_contrast(informed) and not objective.real:
            moved = stretched(informed, objective, found.point)
            found = found if moved is None else dataclasses.replace(found, point=moved)
        attempt = self._classify(seen, found, objective, goes_on=start.goes_on)
        said = [attempt.sentence]
        if moved is not None and attempt.claim is not None:
            said.append(contrast(informed))
        if informed.target.training is not seen.target.training:
            said.append(BATCH)
        if informed.rounds is not seen.rounds:
            said.append(f"the update is a multiple of the mean gradient, and was divided: {SUMMED}")
        return dataclasses.replace(attempt, sentence="; ".join(said))

    @staticmethod
    def _shape(seen: Observation) -> tuple[int, ...]:
        """Of one input, as it is searched."""
        shape = seen.target.domain.shape
        if seen.knows(Lengths) and spells(seen):
            # One tensor for all utterances, as long as the longest; the objective sets the padding to zero.
            return (max(seen.told(Lengths).values), *shape[1:])
        return shape

    def _starts(
        self, seen: Observation, labels: Tensor | Spelled | None, key: Key, *, start: AbstractStart | None = None
    ) -> Point:
        target, size = seen.target, seen.told(BatchSize).count
        like = next(iter(target.parameters().values())).new_zeros((self.restarts, size, *self._shape(seen)))
        first = (start or self.start).draw(like, target.domain, key=key.child("start"))
        starts = {"inputs": self.space.encode(first, target.domain)}
        if labels is None:
            # Logits of soft labels, or the labels of a regression, N(0, 1) as in DLG.
            each = numbers(target) or (target.classes,)
            starts["labels"] = normal(like.new_zeros((self.restarts, size, *each)), key.child("soft labels"))
        elif isinstance(labels, Spelled) and isinstance(self.labeling, AbstractSpelling):
            # `clone`, since each restart changes its own transcripts; as floats, like all that a search holds.
            starts["labels"] = labels.labels.to(like).expand(self.restarts, *labels.labels.shape).clone()
            starts["label_lengths"] = labels.lengths.to(like).expand(self.restarts, *labels.lengths.shape).clone()
        return starts

    def _problem(self, seen: Observation, labels: Tensor | Spelled | None, key: Key) -> tuple[Problem, Objective]:
        """What is searched, and what it means: all but where it begins."""
        domain, labeling = seen.target.domain, self.labeling
        # Transcripts that change are part of the point, those that do not of the objective.
        spelling = labeling if isinstance(labeling, AbstractSpelling) else None
        fixed = None if spelling is not None else labels
        found = objective(seen, self.distance, self.prior.penalty(seen), self.space, fixed)
        problem = Problem(
            found,
            # Only inputs have a legal range; labels pass through.
            lambda point: {**point, "inputs": self.space.project(point["inputs"], domain)},
            key=key.child("search"),
            free=found.searched,
            alone=found.alone if rows_apart(seen, self.distance) else None,
            between=None if spelling is None else _respelling(spelling, found, seen, key.child("spelling")),
            still=frozenset() if spelling is None else frozenset({"labels", "label_lengths"}),
            parts=found.parts,
            chunk=found.chunk,
        )
        return problem, found

    def _classify(self, seen: Observation, found: Found, objective: Objective, *, goes_on: bool) -> Attempt[Inputs]:
        cost = Cost(evaluations=found.evaluations)
        trace = _decoded(found.trace, objective)
        # The candidate is the best that was seen, but a search that ends above its start did not converge to it: it may
        # be luck. A start that is a claim already may be improved on by luck too.
        diverged = found.fruitless or (found.ended_above and not goes_on)
        # Who interrupts a search wants what there is. One that met NaN had fallen clearly before, or has nothing to
        # say.
        if found.stop is not Stop.INTERRUPTED and (diverged or (found.stop is Stop.NOT_FINITE and not _fell(found))):
            how = "without getting below" if found.fruitless else "and ended above"
            sentence = f"the search {found.stop.value} {how} its start ({found.start_loss:.3g})"
            return Attempt(repr(self), Outcome.DIVERGED, sentence, cost=cost, trace=trace)
        outcome = Outcome.INTERRUPTED if found.stop is Stop.INTERRUPTED else Outcome.CLAIMED
        sentence = f"the search {found.stop.value}: loss {found.start_loss:.3g} to {found.loss:.3g}"
        if found.point is None:
            return Attempt(repr(self), outcome, sentence, cost=cost, trace=trace)
        claim = _claim(seen, found.point, objective)
        if claim is None:
            return Attempt(repr(self), Outcome.DIVERGED, "the best candidate is not finite", cost=cost, trace=trace)
        if objective.real:
            sentence += f"; its labels are numbers: {_listed(found.point['labels'])}"
        inputs = objective.inputs(found.point["inputs"]).detach()
        outside, ends = _outside(seen, inputs), _at_ends(seen, inputs)
        # Only where the loss fell so far that what lies outside is what was sent, and not where the search got stuck.
        if outside > 0 and found.loss < MATCHED * found.start_loss:
            sentence += f"; {outside:.0%} of what matches lies outside the range of {seen.target.domain}: {NORMALIZED}"
        # A search that is kept within the range gets stuck at its ends instead, far from a match.
        # Without the prior: what beliefs cost says nothing of the match.
        elif ends > PRESSED and float(objective.apart(found.point).detach()) > MATCHED * found.start_loss:
            sentence += (
                f"; nothing within the range of {seen.target.domain} was found that matches, and {ends:.0%} of the "
                f"claim lies at its ends: {NORMALIZED}"
            )
        return Attempt(repr(self), outcome, sentence, claim, cost=cost, trace=trace)


HELD = 16
"""Bytes of memory for each number that is searched: itself, its slope and two moments, in float32, at the least."""
MATCHED = 1e-3
"""Share of the first loss below which a candidate counts as what the update is of."""
NORMALIZED = "if the client normalizes its inputs, give the domain their mean and std, else the claim is clipped"


PRESSED = 0.25
"""Share of entries at the ends of the range from which a candidate seems to be pressed against it. Of searches that
find what they look for it is 0.03 at most, black and white pictures included; of forgotten normalizations 0.4 to 1."""


def _at_ends(seen: Observation, inputs: Tensor) -> float:
    """The share of entries within a thousandth of the range of one of its ends."""
    low, high = seen.target.domain.bounds(inputs)
    slack = 1e-3 * (high - low)
    return float(((inputs <= low + slack) | (inputs >= high - slack)).float().mean())


def _listed(labels: Tensor) -> str:
    """(B, ...) numbers, a few of them."""
    some = [f"{value:.3g}" for value in labels.detach().flatten()[:6].tolist()]
    return ", ".join(some) + (", ..." if labels.numel() > len(some) else "")


def _outside(seen: Observation, inputs: Tensor) -> float:
    """The share of entries more than a twentieth of the range beyond it, 0 where it is less than a twentieth of all."""
    low, high = seen.target.domain.bounds(inputs)
    slack = 0.05 * (high - low)
    share = float(((inputs < low - slack) | (inputs > high + slack)).float().mean())
    return share if share > 0.05 else 0.0


def _claim(seen: Observation, point: Point, objective: Objective) -> Inputs | None:
    """The candidate as a claim, None when it is not finite."""
    inputs = objective.inputs(point["inputs"]).detach()
    low, high = seen.target.domain.bounds(inputs)
    # The domain is public: an adversary never claims a value that no input can have.
    legal = torch.maximum(torch.minimum(inputs, high), low)
    if not bool(torch.isfinite(legal).all()):
        return None
    if objective.lengths is not None:
        # Clipping to the range may have moved the zeros of the padding.
        padding = torch.arange(legal.shape[1], device=legal.device) >= objective.lengths.unsqueeze(1)
        return Inputs(legal.masked_fill(padding.unsqueeze(2), 0.0), lengths=objective.lengths.cpu())
    # Numbers are no classes, and are told in the sentence.
    if objective.real:
        return Inputs(legal)
    # Joint labels: the most probable class of each soft label.
    labels = objective.labels if isinstance(objective.labels, Tensor) else point["labels"].argmax(-1)
    return Inputs(legal, labels.cpu())


def _decoded(trace: Trace, objective: Objective) -> Trace:
    pictures = tuple((at, objective.inputs(point).detach().cpu()) for at, point in trace.pictures)
    return Trace(trace.evaluations, trace.losses, pictures)


def _by_length(labels: Spelled) -> Spelled:
    """The transcript that needs the most frames last: lengths that were not told are in ascending order."""
    # stable: of transcripts that need as many frames the order is the client's.
    order = frames_needed(labels.labels, labels.lengths).argsort(stable=True)
    return Spelled(labels.labels[order], labels.lengths[order])


def _respelling(
    spelling: AbstractSpelling, objective: Objective, seen: Observation, key: Key
) -> Callable[[Point, int], Point]:
    """Every so many steps, better transcripts for each restart's present inputs."""

    def between(point: Point, step: int) -> Point:
        if step == 0 or step % spelling.every:
            return point
        changed = {name: value.clone() for name, value in point.items()}
        for restart in range(len(point["inputs"])):
            one = {name: value[restart] for name, value in point.items()}
            now = Spelled(one["labels"].round().long(), one["label_lengths"].round().long())
            drawn = key.child("step", step, "restart", restart)
            better = spelling.respelled(now, objective.spelled(one), seen=seen, key=drawn)
            changed["labels"][restart] = better.labels.to(one["labels"])
            changed["label_lengths"][restart] = better.lengths.to(one["labels"])
        return changed

    return between


def _fell(found: Found) -> bool:
    """Whether the best loss is clearly below the start, by a tenth."""
    # Clearly: a search that breaks down may have lowered the loss a little on its way.
    return math.isfinite(found.loss) and found.loss < 0.9 * found.start_loss
