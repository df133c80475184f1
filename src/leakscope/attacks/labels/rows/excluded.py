"""Which labels cannot occur, from the row space alone: no weights, no bias, no forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from leakscope.attacks.labels.rows.row_space import RowSpace

Array = NDArray[np.float64]

FEW = 6
"""Columns per dimension that a combination is looked for among first: nearly always enough, at a tenth of the time."""
EXACT = 1e-9
"""Distance of a unit column from a combination of others that is rounding in float64."""
ERROR = 4.0
"""How many times its expected rounding a row may lie outside of the space and still contradict."""


@final
@dataclass(frozen=True, eq=False)
class Excluded:
    """For each class: absent[c], whether no sample of the row space can have label c; decided[c], whether that was
    found out at all; margin[c]: the least relative error of a row that could undo the contradiction, infinite where
    there is none."""

    absent: NDArray[np.bool_]
    decided: NDArray[np.bool_]
    margin: Array

    def proved(self, space: RowSpace) -> NDArray[np.bool_]:
        """Those that stay absent whatever rounding did to the row space: a row in it is off by at most
        noise sqrt(C) / (the last singular value) of its own length (the worst direction of left Sigma right + E)."""
        classes = len(self.absent)
        # sqrt(C) once more: the entry of a present class is at least the mean one of its row, columns being alike.
        error = ERROR * space.noise * classes / float(space.values[-1])
        return np.asarray(self.absent & (self.margin > error))


def excluded(space: RowSpace, stop: Callable[[], bool]) -> Excluded:
    """T1 by Farkas: q_i = sum_j lambda_j q_j with lambda >= 0 over the other columns of `right` excludes label i.

    For a row g of the space, scaled, u_i = sum_j lambda_j u_j; of a sample with label i the left side is negative and
    all of the right side is not. Found by least squares with lambda >= 0, whose remainder is the other answer: a
    direction x with q_i x < 0 <= q_j x, a row that such a sample could have, so that label i is not excluded.
    Needs that every sample's row lies in the space: as many samples as its rank, or equal ones.
    """
    length = np.linalg.norm(space.right, axis=0)
    columns = np.divide(space.right, length, out=np.zeros_like(space.right), where=length > 0)
    rank, classes = columns.shape
    absent, decided, margin = np.zeros(classes, bool), np.zeros(classes, bool), np.full(classes, math.inf)
    # Those of present classes stand apart from the crowd of absent ones, and are what a combination needs.
    crowd = columns @ np.ones(classes)
    order = np.argsort(crowd @ columns / max(float(np.linalg.norm(crowd)), 1e-300))
    few = order[: FEW * rank // 2].tolist() + order[:: max(1, classes // (FEW * rank))].tolist()
    first = np.unique(few)
    # The likely absent ones first, while there is time.
    for label in order[::-1]:
        if stop():
            break
        if length[label] == 0:
            # A column of zeros: e_y of a sample would stand in it.
            absent[label] = decided[label] = True
            continue
        for among in (first, np.arange(classes)):
            others = among[among != label]
            try:
                weights, left = nnls(columns[:, others], columns[:, label], maxiter=30 * rank + 100)
            except RuntimeError:  # did not converge: nothing is said of this class
                continue
            decided[label] = True
            if left <= EXACT:
                absent[label] = True
                # |v| of v = e_i - sum lambda_j e_j, in the scale in which column i has length one.
                shares = weights * length[label] / np.where(length[others] > 0, length[others], 1.0)
                margin[label] = 1 / math.sqrt(1 + float(shares @ shares))
                break
    return Excluded(absent, decided, margin)
