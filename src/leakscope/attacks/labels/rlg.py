"""The published procedure for labels of the row space: perceptrons, then one linear program per class."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog

from leakscope.attacks import citations
from leakscope.attacks.attack import AbstractAttack
from leakscope.attacks.parts.reading.output_gradient import OutputGradient, read_output
from leakscope.core.arguments import count, flag
from leakscope.core.attempt import Attempt, Outcome
from leakscope.core.claim import Labels
from leakscope.core.effort import Clock, Progress, Watch
from leakscope.core.facts import BatchSize, Fact
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.numerics.rng import Key
from leakscope.targets.looking.nonnegative import fed_nonnegative

Array = NDArray[np.float64]

EPSILON = 1e-10
"""The published program asks for q_i x <= -epsilon."""
SEPARATED = 0.9
"""Published share of columns that a perceptron must get right; one column of a thousand on its side always does."""
DEEP, VIOLATION = -0.1, 1e-2
"""Published: what q_i x must be below, and how far a constraint may be broken."""


@final
@dataclass(frozen=True)
class RLG(AbstractAttack[OutputGradient, Labels]):
    """Class i is named where an x exists with q_i x < 0 <= q_j x for all other columns j that are looked at.

    q are the columns of the first N right singular vectors of dL/dW (d, C), with N = `BatchSize`, which has to be told.
    First one perceptron for each class, q_i against the others; then min q_i x with -1 <= x <= 1 over the `constraints`
    other columns of largest norm, accepted where q_i x < -0.1, no constraint is broken by 1e-2 and more than half are
    met. Where features are never negative, only classes with a negative entry in dL/dW are candidates.
    For comparison with `RevealedLabels`: it proves nothing, and leaves out most constraints. One change: the published
    program has no bounds, and its answer is a ray whose length is that of a solver; here x lies in a box.
    Raises `BadInput` on constraints < 1. Source: Dang et al. 2021 (arXiv:2111.00556), section 3 and their code.
    """

    constraints: int = 199
    perceptrons: bool = True
    needs: ClassVar[frozenset[type[Fact]]] = frozenset({BatchSize})

    def __post_init__(self) -> None:
        object.__setattr__(self, "constraints", count("constraints", self.constraints, low=1))
        flag("perceptrons", self.perceptrons)

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
        columns = np.linalg.svd(gradient.T, full_matrices=False)[2][: seen.told(BatchSize).count]
        candidates = np.arange(len(gradient))
        if fed_nonnegative(seen.target, read.layer.name):
            # p h >= 0 for all others: only a label's own class gets a negative entry.
            candidates = np.flatnonzero((gradient < 0).any(1))
        longest = np.argsort(-np.linalg.norm(columns, axis=0), kind="stable")
        found, left = [], 0
        for turn, label in enumerate(candidates.tolist()):
            watch(Progress(clock.fraction(turn, len(candidates)), 0.0, f"class {turn} of {len(candidates)}"))
            if clock.exhausted(turn):
                return Attempt(repr(self), Outcome.DIVERGED, f"stopped after {turn} of {len(candidates)} classes")
            if self.perceptrons and not _separated(columns, label, key):
                continue
            left += 1
            if _programmed(columns, label, longest[longest != label][: self.constraints]):
                found.append(label)
        if not found:
            return Attempt(repr(self), Outcome.DIVERGED, "no class is on a side of its own")
        others = min(self.constraints, len(gradient) - 1)
        sentence = f"{len(found)} classes are each on another side than {others} others; nothing is proved"
        if self.perceptrons:
            sentence += f"; perceptrons left {left} of {len(candidates)} candidates"
        return Attempt(repr(self), Outcome.CLAIMED, sentence, Labels(torch.tensor(found), distinct=True))


def _separated(columns: Array, label: int, key: Key) -> bool:
    """The published first round, which nearly every class passes: all on the other side is right but for one."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import Perceptron

    sides = np.full(columns.shape[1], -1)
    sides[label] = 1
    seed = int(key.child("perceptron", label).numpy().integers(2**31))
    with warnings.catch_warnings():
        # One that does not converge is judged by its accuracy like the others.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = Perceptron(max_iter=1000, tol=1e-3, random_state=seed).fit(columns.T, sides)
    return float(fitted.score(columns.T, sides)) > SEPARATED


def _programmed(columns: Array, label: int, others: NDArray[np.int64]) -> bool:
    """The published second round, by one linear program."""
    own = columns[:, label]
    # -q_j x <= 0 for the others, and q_i x <= -epsilon.
    sides, most = np.vstack([-columns[:, others].T, own]), np.zeros(len(others) + 1)
    most[-1] = -EPSILON
    solved = linprog(own, A_ub=sides, b_ub=most, bounds=(-1, 1), method="highs")
    if solved.x is None:
        return False
    against = columns[:, others].T @ solved.x
    met = float((against >= 0).mean()) > 0.5 if len(others) else True
    return bool(own @ solved.x < DEEP and met and against.min(initial=0.0) > -VIOLATION)
