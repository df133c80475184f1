"""Which labels an update that noise was added to speaks for: a test per class, a statistic and no proof."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from leakscope.attacks.parts.reading.output_gradient import OutputGradient
from leakscope.core.observation import Observation
from leakscope.core.release import Gradient
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.reading import bends, keeps_inputs, noise, rounds, runs_layers
from leakscope.targets.looking.nonnegative import fed_nonnegative

Array = NDArray[np.float64]

LEVEL = 0.01
"""Probability that any absent class is named, over all classes together."""


@final
@dataclass(frozen=True, eq=False)
class Fallen:
    """chance: (C,) how likely an absent class falls as low by noise, times the number of classes. read: from what."""

    chance: Array
    read: str

    @property
    def present(self) -> NDArray[np.bool_]:
        """(C,) the classes that noise alone would make as low in less than `LEVEL` of all batches."""
        return np.asarray(self.chance < LEVEL)


def fallen(seen: Observation, output: OutputGradient) -> Fallen | None:
    """The signs of `signed` behind noise; None where the noise is not declared, is none, or is not mean-zero noise.

    For an absent class mean_s p_sc >= 0 is the mean of dL/db_c, and mean_s p_sc (u h_s) >= 0 that of u dL/dW_c along
    any u >= 0, where features h are never negative. u is the mean size of the other rows' entries: positive, and
    independent of the noise in row c. z = u dL/dW_c / (sigma |u|), and of the smaller p-value twice (Bonferroni).
    """
    mechanism = seen.mechanism
    if keeps_inputs(mechanism) is not Answer.YES or runs_layers(mechanism) is not Answer.YES:
        return None
    if not (bends(mechanism) is rounds(mechanism) is Answer.NO) or not isinstance(seen.release, Gradient):
        return None
    below, read = [], []
    size = noise(seen, output.layer.bias) if output.bias is not None and output.layer.bias is not None else None
    if size and output.bias is not None:
        # One entry is as the noise is drawn, and Laplace's tails are the heaviest that are declared:
        # P(X < -z sigma) = exp(-sqrt(2) z) / 2.
        low = -output.bias.cpu().numpy() / size
        below.append(np.where(low > 0, np.maximum(norm.sf(low), 0.5 * np.exp(-np.sqrt(2) * low.clip(0))), 1.0))
        read.append("dL/db")
    size = noise(seen, output.layer.weight) if output.weight is not None else None
    # A smoothed label shifts absent classes below zero by a share of h that h alone knows.
    if size and output.weight is not None and output.smoothing == 0 and fed_nonnegative(seen.target, output.layer.name):
        rows = output.weight.cpu().numpy()
        along = np.abs(rows).sum(0) - np.abs(rows)
        # A sum over many entries: close to normal whatever each is drawn from.
        below.append(norm.cdf((rows * along).sum(1) / (size * np.linalg.norm(along, axis=1).clip(1e-300))))
        read.append("dL/dW of features that are never negative")
    if not below:
        return None
    return Fallen(np.min(below, axis=0) * len(below) * output.layer.outputs, " and ".join(read))
