"""Images one by one from their features, which the output layer's gradient gives exactly."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from leakscope.attacks import citations
from leakscope.attacks.attack import AbstractAttack, Ready
from leakscope.attacks.inputs.layer_by_layer.descent import Ends, descend
from leakscope.attacks.labels.revealed import RevealedLabels, Revealing, inseparable, samples_apart
from leakscope.attacks.labels.rows.known_rows import known_rows
from leakscope.attacks.labels.rows.row_space import RowSpace
from leakscope.attacks.labels.rows.taken_apart import Apart, Row
from leakscope.attacks.parts.labeling.labeling import spells
from leakscope.attacks.parts.search.first_order import Adam, Problem
from leakscope.attacks.parts.search.gauss_newton import gauss_newton
from leakscope.attacks.parts.search.journal import Found, Point, Stop
from leakscope.attacks.parts.spaces import Pixels
from leakscope.attacks.parts.starts import Gray
from leakscope.core.arguments import count
from leakscope.core.attempt import Attempt, Cost, Outcome
from leakscope.core.claim import Inputs
from leakscope.core.domain import rangeless
from leakscope.core.effort import Budget, Clock, Watch, unwatched
from leakscope.core.errors import NoSuchLayer
from leakscope.core.facts import BatchSize
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.core.target import Target
from leakscope.domains.text import Text
from leakscope.mechanisms.running import as_run
from leakscope.numerics.rng import Key
from leakscope.targets.looking.dense_ends import output_layer
from leakscope.targets.looking.dense_tail import TailLayer, dense_tail
from leakscope.targets.looking.tape import listening

FIRST, LAST = 1e-1, 1e-5
"""Weights of total variation at the first and the last step. Much of it first keeps the search out of the many inputs
that rectifiers cannot tell apart; little of it last leaves the features to decide (photographs: 12.9 dB without). Less
last (1e-7) leaves photographs, which their features do not fix, two decibels worse; where features fix an image, what
the variation bends is put right by `gauss_newton`."""
RATE = 0.05
"""Step of Adam in units of the range; it falls to a tenth at eight tenths of the way."""
SUREST = 1e-5
"""The last part of a feature's size to which it is held, where its row knows it that well."""
CAUTION = 30.0
"""How many standard deviations of a row's features are believed: of two samples of one class the rows lie farther off
than their own residuals say. Images of such pairs came back at 42 dB and more, where 3 left them at 19."""
SEARCHED = 0.8
"""Share of a budget for the search by first order; the rest is for its end."""
DEEP = 1e-3
"""Relative error, cautiously, up to which a deeper layer's inputs are taken: a search that ends without a prior copies
what is wrong of them into the image."""
SEVERAL = 4
"""Samples from which images are searched one by one from their features; of fewer, gradient matching finds more."""
ENOUGH = 0.5
"""Numbers that the deepest dense layer is fed, for each of an image's. Two thirds: 29 and 33 dB on photographs, where
the quarter that the layers above kept of them left 17."""
NEAR = 0.1
"""Relative squared distance of features beyond which nothing was found."""


@final
@dataclass(frozen=True)
class FeatureInversion(AbstractAttack[Revealing, Inputs]):
    """min over x_s of |phi(x_s) - h_s|^2 / |h_s|^2 + w TV(x_s), each image by itself, with w falling from 1e-1 to 1e-5.

    First by Adam, then without the variation by Gauss-Newton steps (`gauss_newton`), which move an image no farther
    than its features ask for: where they fix it they fix it to rounding (digits: 56 dB by Adam alone, 108 after).

    h_s, what the output layer was fed for sample s, is taken from its gradient without a search (`RevealedLabels`,
    first grade): the batch comes apart before any image is looked for, and no gradient of a gradient is needed. Where
    dense layers lie below it, phi and h_s are of the deepest one that `RevealedFeatures` reaches: a layer throws away
    what the next one cannot bring back, and dropout between them does not matter then.
    layers: how many dense layers down, 1 for the output layer alone; None for as far as it goes.
    Refuses where samples do not come apart: local steps, defenses that destroy rows, no more classes than twice the
    samples. Where phi throws away what pictures differ in (a few pooled numbers), a claim has the features and not the
    picture. Nothing is proved of the images; labels are those of the rows.
    steps: of Adam. Raises `BadInput` on steps < 1 and on layers < 1.
    """

    steps: int = 1600
    layers: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", count("steps", self.steps, low=1))
        if self.layers is not None:
            object.__setattr__(self, "layers", count("layers", self.layers, low=1))

    @property
    def citation(self) -> str:
        """Dang et al. 2021 for labels from the output layer's row space."""
        return citations.RLG

    def _read(self, seen: Observation) -> Revealing | Refusal:
        if isinstance(seen.target.domain, Text) or spells(seen):
            return Refusal("inverts features of images; tokens and utterances are not searched for by it")
        nowhere = rangeless(seen.target.domain, seen.target.domain.shape)
        if nowhere is not None:
            return Refusal(nowhere)
        ready = RevealedLabels().ready(seen)
        if not isinstance(ready, Ready):
            return ready
        read: Revealing = ready.read
        why = inseparable(seen, read)
        return read if why is None else Refusal(why)

    def _attempt(self, seen: Observation, read: Revealing, *, key: Key, clock: Clock, watch: Watch) -> Attempt[Inputs]:
        apart = samples_apart(seen, read, key, lambda: clock.exhausted(0), whole=False)
        if not isinstance(apart, Apart):
            return Attempt(repr(self), Outcome.DIVERGED, f"the batch does not come apart: {apart}")
        assert isinstance(read.space, RowSpace)
        like = next(iter(seen.target.parameters().values()))
        features = torch.from_numpy(np.stack([one.features for one in apart.rows]) @ read.space.left.T).to(like)
        deep = None if self.layers == 1 else deeper(seen, read, apart, self.layers)
        inverting = Inverting(seen.target, features, self.steps, vague(seen, read, apart.rows), deep)
        found = inverting.run(key=key.child("images"), clock=clock, watch=watch)
        if found.point is None:
            cost = Cost(evaluations=found.evaluations)
            return Attempt(repr(self), Outcome.DIVERGED, "the best candidate is not finite", cost=cost)
        images, spent, interrupted = found.point["inputs"].detach(), 0, found.stop is Stop.INTERRUPTED
        if not interrupted:
            # As in the search itself, what was found until an interruption is claimed.
            images, spent, interrupted = inverting.settled(images, clock=clock, spent=found.evaluations, watch=watch)
        cost = Cost(evaluations=found.evaluations + spent)
        with torch.no_grad():
            off = inverting.apart(images)
        sentence = (
            f"{len(apart.rows)} of {read.space.rank} samples came apart at the output layer; the images found have "
            f"their features{inverting.place} to "
            f"{float(off.median().sqrt()):.0e} (median, at worst {float(off.max().sqrt()):.0e})"
        )
        if not bool((off < NEAR).any()) and not interrupted:
            return Attempt(repr(self), Outcome.DIVERGED, sentence, cost=cost, trace=found.trace)
        # Equal samples are one row and one image; where rows are missing, shares speak of those too.
        whole = len(apart.rows) == read.space.rank
        times = torch.tensor(apart.times if whole else [1] * len(apart.rows))
        labels = torch.repeat_interleave(torch.tensor([one.label for one in apart.rows]), times)
        claim = Inputs(torch.repeat_interleave(images.cpu(), times, dim=0), labels)
        outcome = Outcome.INTERRUPTED if interrupted else Outcome.CLAIMED
        return Attempt(repr(self), outcome, sentence, claim, cost=cost, trace=found.trace)


@final
class Inverting:
    """The search for inputs with given `features` (N, d) at the output layer of `target`, or deeper where given."""

    def __init__(
        self, target: Target, features: Tensor, steps: int, vague: Vague | None = None, deep: Deep | None = None
    ) -> None:
        self.target, self.features, self.steps, self.vague, self.deep = target, features, steps, vague, deep
        self.layer = output_layer(target).name
        # Held: only inputs are searched.
        self.parameters = {name: value.detach() for name, value in target.parameters().items()}
        self.size = features.square().sum(1).clamp(min=torch.finfo(features.dtype).tiny)

    @property
    def place(self) -> str:
        """Where the features are of another layer than the output, in words."""
        if self.deep is None:
            return ""
        few = "" if bool(self.deep.known.all()) else f" (of {int(self.deep.known.sum())} of them)"
        return f" at {self.deep.layer}{few}"

    def run(self, *, key: Key, clock: Clock, watch: Watch = unwatched) -> Found:
        """The best images, all in one batch; each image's loss depends on itself alone."""
        domain, planned = self.target.domain, self.steps
        # A clock of a part of the budget; its start and its checkpoint are those of the whole.
        clock = dataclasses.replace(clock, budget=_most(clock.budget))
        if clock.budget.evaluations is not None:
            planned = min(planned, clock.budget.evaluations)
        shape = (1, len(self.features), *domain.shape)
        first = Gray().draw(self.features.new_zeros(shape), domain, key=key.child("start"))
        low, high = domain.bounds(first[0])
        width = torch.as_tensor(high - low).to(first)

        def value(point: Point) -> Tensor:
            # Means over samples, so that the step does not depend on how many there are.
            smooth = _variation(point["inputs"] / width)
            return (self.apart(point["inputs"], point["sure"]) + 10 ** point["weight"] * smooth).mean()

        def between(point: Point, done: int) -> Point:
            way = clock.fraction(done, planned)
            exponent = np.log10(FIRST) + way * np.log10(LAST / FIRST)
            sure = way * np.log10(SUREST)
            return {
                **point,
                "weight": torch.full_like(point["weight"], float(exponent)),
                "sure": torch.full_like(point["sure"], float(sure)),
            }

        problem = Problem(
            value,
            lambda point: {**point, "inputs": Pixels(boxed=True).project(point["inputs"], domain)},
            key=key.child("search"),
            between=between,
            still=frozenset({"weight", "sure"}),
        )
        starts = {"inputs": first, "weight": first.new_zeros(1), "sure": first.new_zeros(1)}
        search = Adam(lr=RATE * float(width.max()), steps=self.steps, decay=(0.8,))
        return search.run(problem, starts, clock=clock, watch=watch)

    def settled(
        self, images: Tensor, *, clock: Clock, spent: int, watch: Watch = unwatched
    ) -> tuple[Tensor, int, bool]:
        """The images after what Gauss-Newton steps add without the prior, as `gauss_newton` returns them."""
        limits = self.target.domain.bounds(images)
        return gauss_newton(self.off, images, limits, clock=clock, spent=spent, watch=watch)

    def apart(self, inputs: Tensor, sure: Tensor | None = None) -> Tensor:
        """(N,) |phi(x_s) - h_s|^2 / |h_s|^2, of what is known of h_s to about 10^sure of its size."""
        return self.off(inputs, sure).square().sum(1)

    def off(self, inputs: Tensor, sure: Tensor | None = None) -> Tensor:
        """(N, m), the numbers whose squares `apart` sums.

        Directions in which h_s is known to s of its size weigh e^2 / (s^2 + e^2), e = 10^sure. Without `sure` the
        end of the search.
        """
        heard, below = list[Tensor](), list[Tensor]()
        listeners = {self.layer: heard.append}
        if self.deep is not None:
            listeners[self.deep.layer] = below.append
        # Of a layer that is called again and again, the last call gives the output.
        with listening(self.target.module, listeners):
            # A copy: what counts a step's work hangs on to what a module is given, which may not be a leaf.
            self.target.outputs(self.parameters, inputs.clone())
        above = self._above(heard[-1], sure)
        if self.deep is None:
            return above
        deep = self.deep.off(below[-1])
        # What dropout leaves of the layers above is another part each time, so it may not even be added as zero
        # times something: each sample is held to one layer.
        known = self.deep.known.unsqueeze(1)
        deep = torch.where(known, deep, torch.zeros_like(deep))
        if bool(known.all()):
            return deep
        return torch.cat([torch.where(known, torch.zeros_like(above), above), deep], 1)

    def _above(self, fed: Tensor, sure: Tensor | None) -> Tensor:
        """(N, m) of the output layer, weighed by how well its rows are known."""
        off = (fed.flatten(1) - self.features) / self.size.sqrt().unsqueeze(1)
        if self.vague is None:
            return off
        along = off @ self.vague.left
        inside = torch.einsum("skj,sk->sj", self.vague.vectors, along)
        least = SUREST**2 if sure is None else 100**sure
        # Apart from what lies inside, and not by a difference of squares: e^2 is below float32's rounding of them.
        return torch.cat([off - along @ self.vague.left.T, inside * (least / (self.vague.squares + least)) ** 0.5], 1)


def worthwhile(seen: Observation) -> bool:
    """Whether the batch has several images, and dense layers are fed enough numbers to say what each looks like."""
    if not seen.knows(BatchSize) or seen.told(BatchSize).count < SEVERAL:
        return False
    deepest = _tail(seen)[-1:]
    if not deepest:
        return False
    return seen.target.parameters()[deepest[0].weight].shape[1] >= ENOUGH * math.prod(seen.target.domain.shape)


def masked(seen: Observation) -> bool:
    """Whether units between the dense layers were dropped, by masks that only a way down through them tells."""
    return any(layer.keep < 1 for layer in _tail(seen))


def _tail(seen: Observation) -> tuple[TailLayer, ...]:
    """The dense layers at the model's end, the output layer first; none of a model without."""
    try:
        return dense_tail(as_run(seen.mechanism, seen.target))
    except NoSuchLayer:
        return ()


@final
@dataclass(frozen=True, eq=False)
class Deep:
    """What a dense layer below the output was fed. values: (N, d). known: (N,) whose values are known well enough."""

    layer: str
    values: Tensor
    known: Tensor

    def off(self, fed: Tensor) -> Tensor:
        """(N, d), how far what the layer is fed is from them, relative to their length."""
        size = self.values.square().sum(1, keepdim=True).sqrt().clamp(min=torch.finfo(self.values.dtype).tiny)
        return (fed.flatten(1) - self.values) / size


def deeper(seen: Observation, read: Revealing, apart: Apart, layers: int | None) -> Deep | None:
    """The deepest dense layer that is reached from the rows of all samples; None where that is the output layer."""
    assert isinstance(read.space, RowSpace)
    if len(apart.rows) < read.space.rank:
        return None
    ends = Ends(read.output, read.space, dense_tail(as_run(seen.mechanism, seen.target)))
    reached = descend(seen, ends, known_rows(seen.target, read.output, read.space), apart, layers)
    if reached is None or reached.depth == 1:
        return None
    known = reached.residuals <= DEEP
    if not known.any():
        return None
    like = next(iter(seen.target.parameters().values()))
    return Deep(reached.layer, torch.from_numpy(reached.values).to(like), torch.from_numpy(known).to(like.device))


@final
@dataclass(frozen=True, eq=False)
class Vague:
    """left: (d, k) basis of what all samples were fed. vectors: (N, k, k) in whose columns each sample's features are
    known to the square roots of `squares` (N, k), relative to their length; across `left` they are zero to rounding."""

    left: Tensor
    vectors: Tensor
    squares: Tensor


def vague(seen: Observation, read: Revealing, rows: Sequence[Row]) -> Vague:
    """How well each row's features are known, direction by direction.

    With nearly equal logits a row fixes its features to a hundredth, but their space, in which all of them lie, is
    known to rounding: an image whose features lie there is one of the batch, and the row need only say which.
    """
    assert isinstance(read.space, RowSpace)
    known = known_rows(seen.target, read.output, read.space)
    vectors, squares = list[Tensor](), list[Tensor]()
    for one in rows:
        spread = known.covariance(one.features, one.label, max(one.misfit, one.expected))
        values, basis = np.linalg.eigh(spread)
        size = max(float(one.features @ one.features), 1e-300)
        vectors.append(torch.from_numpy(basis))
        squares.append(torch.from_numpy(np.maximum(values, 0) * (CAUTION**2 / size)))
    like = next(iter(seen.target.parameters().values()))
    return Vague(
        torch.from_numpy(read.space.left).to(like), torch.stack(vectors).to(like), torch.stack(squares).to(like)
    )


def _most(budget: Budget) -> Budget:
    """What the search by first order may spend."""
    seconds, evaluations = budget.seconds, budget.evaluations
    return Budget(
        None if seconds is None else SEARCHED * seconds,
        None if evaluations is None else max(round(SEARCHED * evaluations), 1),
    )


def _variation(inputs: Tensor) -> Tensor:
    """(N,) total variation of each of (N, ..., H, W), as `priors.images.total_variation`; 0 of what is no picture."""
    found = inputs.new_zeros(len(inputs))
    if inputs.dim() > 2:
        for axis in (-2, -1):
            if inputs.shape[axis] > 1:
                found = found + inputs.diff(dim=axis).abs().flatten(1).mean(1)
    return found
