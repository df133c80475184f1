"""The published procedure for labels of the row space: perceptrons, then one linear program per class."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog

from leakscope.attacks import citations
from leakscope.attacks.attack import AbstractAttack
from leakscope.attacks.parts.reading.output_gradient import OutputGradient, read_output
from leakscope.core.arguments import count, number
from leakscope.core.attempt import Attempt, Outcome
from leakscope.core.claim import Labels
from leakscope.core.effort import Clock, Progress, Watch
from leakscope.core.errors import BadInput
from leakscope.core.facts import BatchSize, Fact
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.numerics.rng import Key
from leakscope.targets.looking.nonnegative import fed_nonnegative

Array = NDArray[np.float64]

RANK = 1e-5
"""Published: singular values above it are counted as samples, to be compared with the number that was told."""


@final
@dataclass(frozen=True)
class Perceptrons:
    """Passes class i where a perceptron has more than `share` of the columns, or all, on their sides: q_i, the others.

    columns: how many others, drawn at random in a first round, the longest in a second one; None for all. share: in
    [0, 1]; 1 asks for all. epochs: at most. tolerance: of the loss below which it stops; None for all epochs.
    Raises `BadInput` on columns or epochs < 1, tolerance <= 0 and a share outside of [0, 1].

    >>> Perceptrons(columns=1000, share=1.0).share
    1.0
    """

    columns: int | None = None
    share: float = 0.9
    epochs: int = 1000
    tolerance: float | None = 1e-3

    def __post_init__(self) -> None:
        if self.columns is not None:
            object.__setattr__(self, "columns", count("columns", self.columns, low=1))
        object.__setattr__(self, "share", number("share", self.share, low=0, high=1))
        object.__setattr__(self, "epochs", count("epochs", self.epochs, low=1))
        if self.tolerance is not None:
            object.__setattr__(self, "tolerance", number("tolerance", self.tolerance, low=0, low_open=True))

    def passes(self, columns: Array, label: int, others: NDArray[np.int64], key: Key) -> bool:
        """Whether column `label` of (k, C) is told from the columns `others`."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import Perceptron

        chosen, sides = columns[:, [label, *others]].T, np.full(1 + len(others), -1)
        sides[0] = 1
        seed = int(key.child("perceptron", label).numpy().integers(2**31))
        with warnings.catch_warnings():
            # One that does not converge is judged by its accuracy like the others.
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = Perceptron(max_iter=self.epochs, tol=self.tolerance, random_state=seed).fit(chosen, sides)
        right = float(fitted.score(chosen, sides))
        return right > self.share or right == 1.0


@final
@dataclass(frozen=True)
class LinearPrograms:
    """Passes class i where the least q_i x over x in [-1, 1]^k under q_i x <= -epsilon, q_j x >= 0 is below -depth.

    columns: how many others j, the longest. The published program also asks that hardly any constraint is broken, since
    its solver's answers are not exact; here none is. Raises `BadInput` on columns < 1, depth < 0 and epsilon <= 0.

    >>> LinearPrograms(5000, epsilon=1e-8, depth=0.5).columns
    5000
    """

    columns: int = 199
    epsilon: float = 1e-10
    depth: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", count("columns", self.columns, low=1))
        object.__setattr__(self, "epsilon", number("epsilon", self.epsilon, low=0, low_open=True))
        object.__setattr__(self, "depth", number("depth", self.depth, low=0))

    def passes(self, columns: Array, label: int, others: NDArray[np.int64], key: Key) -> bool:
        """Whether the program has such an answer for column `label` of (k, C) and the columns `others`."""
        del key  # nothing is drawn
        own = columns[:, label]
        # -q_j x <= 0 for the others, and q_i x <= -epsilon.
        sides, most = np.vstack([-columns[:, others].T, own]), np.zeros(len(others) + 1)
        most[-1] = -self.epsilon
        solved = linprog(own, A_ub=sides, b_ub=most, bounds=(-1, 1), method="highs")
        # None where no x is on both sides at once.
        return solved.x is not None and float(own @ solved.x) < -self.depth


@final
@dataclass(frozen=True)
class RLG(AbstractAttack[OutputGradient, Labels]):
    """Class i is named where an x exists with q_i x < 0 <= q_j x for all other columns j that are looked at.

    q are the columns of the first N right singular vectors of dL/dW (d, C), with N = `BatchSize`, which has to be told.
    Two rounds, each of which a class has to pass: by default those of the published program for images, one perceptron
    for each class against all others, which nearly every class passes, and one linear program for each class that is
    left. first=None or second=None leaves a round out. Where features are never negative, only classes with a negative
    entry in dL/dW are candidates. The published program for speech is
    RLG(Perceptrons(1000, share=1.0), LinearPrograms(5000, 1e-8, depth=0.0)), by its other condition depth=0.5, with
    second=Perceptrons(5000, share=1.0, epochs=5000, tolerance=None) by perceptrons alone, with second=None relaxed.
    For comparison with `RevealedLabels`: it proves nothing, and leaves out most constraints. One change: a published
    linear program has no bounds, and its answer is a ray whose length is that of a solver; here x lies in a box.
    Raises `BadInput` where no round is left. Source: Dang et al. 2021 (arXiv:2111.00556), section 3 and their code.
    """

    first: Perceptrons | None = field(default_factory=Perceptrons)
    second: LinearPrograms | Perceptrons | None = field(default_factory=LinearPrograms)
    needs: ClassVar[frozenset[type[Fact]]] = frozenset({BatchSize})

    def __post_init__(self) -> None:
        if self.first is None and self.second is None:
            raise BadInput("expected a round that classes have to pass, got first=None and second=None")

    @property
    def citation(self) -> str:
        """Dang et al. 2021."""
        return citations.RLG

    def _read(self, seen: Observation) -> OutputGradient | Refusal:
        output = read_output(seen)
        if isinstance(output, Refusal):
            return output
        if output.weight is None:
            return Refusal("the output layer's weight gradient was not sent")
        samples, most = seen.told(BatchSize).count, min(output.weight.shape)
        if samples >= most:
            return Refusal(f"{samples} samples fill the row space of a {tuple(output.weight.shape)} gradient")
        return output

    def _attempt(
        self, seen: Observation, read: OutputGradient, *, key: Key, clock: Clock, watch: Watch
    ) -> Attempt[Labels]:
        assert read.weight is not None
        gradient = read.weight.cpu().numpy()
        if not gradient.any():
            return Attempt(repr(self), Outcome.DIVERGED, "the output layer's gradient is zero throughout")
        size = seen.told(BatchSize).count
        values, rows = np.linalg.svd(gradient.T, full_matrices=False)[1:]
        candidates = np.arange(len(gradient))
        if fed_nonnegative(seen.target, read.layer.name):
            # p h >= 0 for all others: only a label's own class gets a negative entry.
            candidates = np.flatnonzero((gradient < 0).any(1))
        columns = rows[:size]
        longest = np.argsort(-np.linalg.norm(columns, axis=0), kind="stable")
        drawn = key.child("columns").numpy().permutation(len(gradient))
        found, left = [], 0
        for turn, label in enumerate(candidates.tolist()):
            watch(Progress(clock.fraction(turn, len(candidates)), 0.0, f"class {turn} of {len(candidates)}"))
            if clock.exhausted(turn):
                return Attempt(repr(self), Outcome.DIVERGED, f"stopped after {turn} of {len(candidates)} classes")
            if self.first is not None and not self.first.passes(*_against(self.first, columns, label, drawn), key):
                continue
            left += 1
            if self.second is None or self.second.passes(*_against(self.second, columns, label, longest), key):
                found.append(label)
        if not found:
            return Attempt(repr(self), Outcome.DIVERGED, "no class is on a side of its own")
        sentence = f"{len(found)} classes are each on a side of their own; nothing is proved"
        if self.first is not None:
            sentence += f"; the first round left {left} of {len(candidates)} candidates"
        counted = int((values > RANK).sum())
        if counted != size:
            sentence += f"; {counted} singular values are above {RANK:g}, and {size} examples were told"
        return Attempt(repr(self), Outcome.CLAIMED, sentence, Labels(torch.tensor(found), distinct=True))


def _against(
    passing: Perceptrons | LinearPrograms, columns: Array, label: int, order: NDArray[np.int64]
) -> tuple[Array, int, NDArray[np.int64]]:
    """What a round is given: the columns, the class, and the first of the other classes in this order."""
    return columns, label, order[order != label][: passing.columns]
