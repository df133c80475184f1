"""Whether a mixture of several examples can look like one example, here: asked of the model itself."""

from __future__ import annotations

import itertools
import math
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from leakscope.attacks.inputs.dense.silent_errors import Resting
from leakscope.attacks.parts.reading.output_gradient import read_output
from leakscope.core.observation import Observation
from leakscope.core.overriding import acts_as
from leakscope.core.refusal import Refusal
from leakscope.core.target import CrossEntropy, Target
from leakscope.numerics.rng import Key
from leakscope.targets.looking.dense_ends import DenseLayer, probe_inputs

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

PROBES = 6
"""Random inputs that are compared with each other; near a claim as many with its own values in another order."""
LABELS = 10
"""Labels that are tried, those with the most negative bias gradient first."""
COMMON = 3
"""Units that two inputs must both wake before their errors are compared on them."""
APART = 1e-3
"""Sine between the errors of two examples below which they count as proportional, whatever the residual."""
ROOM = 5000.0
"""The same in units of the claim's residual r. Two inputs at relative distance d have errors at a sine of about s d, s
that of inputs at random, and their mean leaves r = s d^2 / 2: s > 5000 r keeps the mean within 1 % of both."""
FAR = 0.1
"""Sine beyond which errors are of different examples, whatever the residual (a coarse dtype)."""
NEARLY = 0.3
"""The same below which two errors are `twins`."""
EQUAL = 1e-4
"""Largest relative difference of two ratios that are the same for a reason; few of many are so near by chance."""
SHARE = 0.1
"""Share of pairs that may be proportional by chance, and share of units at which a pair is that by chance."""


@final
class Errors:
    """The errors delta that the model gives its input layer, at random inputs and near claims (N, D).

    Where different examples have proportional errors at some units, the rows sum_s delta_si [x_s, 1] of these units
    agree on a mixture, sum_s delta_s x_s / sum_s delta_s, as they do on one input, and no residual tells them apart.
    It is so with two classes, where all p_s - y_s are multiples of one vector; behind a layer of one unit; in a model
    whose outputs are nearly the same for all inputs, or so sure that the softmax is.
    """

    def __init__(self, seen: Observation, layer: DenseLayer, claims: Array) -> None:
        self._groups: list[list[Array]] = []
        if not acts_as(seen.target.loss, CrossEntropy):
            return  # another loss may have the same slope for all inputs
        resting, labels = Resting(seen.target, layer), _labels(seen)
        # Fixed keys: whether a claim is proved may not depend on a draw.
        random = probe_inputs(seen.target, PROBES, key=Key(0).child("mixing")).double().cpu().flatten(1).numpy()
        shuffled = [np.stack([claim, *_shuffled(claim)]) for claim in claims]
        # Group 0 serves every claim, group 1 + n claim n alone: which units wake depends on how bright inputs are.
        for inputs in (random, *shuffled):
            tried = [torch.full((len(inputs),), label) for label in labels]
            self._groups.append([resting.slopes(inputs, labels=one) for one in tried])

    def repeat(self, claim: int, units: Flags, *, residual: float, agreed: int | None = None) -> bool:
        """Whether a claim, by its place, may be a mixture on which units agree.

        It may if, among random inputs or near the claim, more than a tenth of the pairs of inputs with equal labels
        have errors that are proportional at `units` (H,), to within the larger of 1e-3 and 5000 times the claim's
        residual (0.1 at most); or if none can be compared. The labels are those that the update shows. agreed: how many
        units agree, where they were chosen for it: then a tenth of the units that both inputs wake, or so many, do.
        """
        apart = min(max(APART, ROOM * residual), FAR)
        for group in (self._groups[0], self._groups[1 + claim]) if self._groups else ():
            alike = _pairs(group, units, apart, agreed)
            if not alike or sum(alike) > SHARE * len(alike):
                return True
        return not self._groups


def _pairs(group: list[Array], units: Flags, apart: float, agreed: int | None) -> list[bool]:
    """For each pair of inputs with equal labels that can be compared, whether their errors are proportional."""
    # Equal labels only: p - y of others points elsewhere, except for two classes, where equal ones do as well.
    pairs = [pair for errors in group for pair in itertools.combinations(errors[:, units], 2)]
    return [found for one, other in pairs if (found := _alike(one, other, apart, agreed)) is not None]


def _alike(one: Array, other: Array, apart: float, agreed: int | None) -> bool | None:
    """Whether two errors (units,) are proportional, as `repeat` says; None where they cannot be compared."""
    # With all units in use (None), one that only one of the two wakes tells them apart. Units that were picked for
    # agreeing on a mixture are awake for both.
    if agreed is not None:
        awake = (one != 0) & (other != 0)
        one, other = one[awake], other[awake]
    sizes = np.linalg.norm(one), np.linalg.norm(other)
    if len(one) < COMMON or not min(sizes) > 0:
        return None
    first, second = one / sizes[0], other / sizes[1]
    # |a - (a.b) b| is the sine of the angle: the same for b and -b, and exact near zero, where 1 - (a.b)^2 is not.
    if np.linalg.norm(first - (first @ second) * second) < apart:
        return True
    # Not proportional as a whole, but with one ratio delta_1i / delta_2i on enough units: these agree on a mixture.
    return agreed is not None and _most(one / other) >= min(agreed, max(COMMON, math.ceil(SHARE * len(one))))


def _most(ratios: Array) -> int:
    """How many of the ratios are the same, at most."""
    most = 0
    # Equal ratios are neighbors as logarithms, hence sorted and counted in a window; another sign is another ratio.
    for part in (ratios[ratios > 0], -ratios[ratios < 0]):
        logs = np.sort(np.log(part))
        most = max([most, *(np.searchsorted(logs, logs + EQUAL, side="right") - np.arange(len(logs)))])
    return most


def twins(target: Target, resting: Resting) -> float:
    """The share of pairs of examples whose errors are nearly proportional where both wake a unit, labels drawn evenly.

    Their difference vanishes where both are at rest and where both are awake: as often as one example's error does.
    0 where the loss does not tell (no cross entropy).
    """
    if not acts_as(target.loss, CrossEntropy):
        return 0.0
    inputs = probe_inputs(target, PROBES, key=Key(0).child("twins")).double().cpu().flatten(1).numpy()
    classes = min(target.classes, LABELS)
    errors = [resting.slopes(inputs, labels=torch.full((PROBES,), label)) for label in range(classes)]
    same: list[bool] = []
    other: list[bool] = []
    for one, two in itertools.product(range(classes), repeat=2):
        for i, j in itertools.combinations(range(PROBES), 2):
            # All units as `agreed`: compared are those that both wake. Too few of them (None) hide nothing: no twin.
            alike = _alike(errors[one][i], errors[two][j], NEARLY, len(errors[one][i]))
            (same if one == two else other).append(bool(alike))
    # Labels drawn evenly are equal with probability 1 / C.
    return float(np.mean(same) / target.classes + np.mean(other) * (1 - 1 / target.classes))


def _shuffled(claim: Array) -> list[Array]:
    """Inputs as bright and as sparse as a claim."""
    rng = Key(0).child("shuffled").numpy()
    return [rng.permutation(claim) for _ in range(PROBES - 1)]


def _labels(seen: Observation) -> list[int]:
    """The classes that the output layer's bias gradient shows, or all where it is not released; `LABELS` at most."""
    output = read_output(seen)
    if isinstance(output, Refusal) or output.bias is None or not bool((output.bias < 0).any()):
        return list(range(min(seen.target.classes, LABELS)))
    # mean(p - y) is negative only at classes that occur.
    order = output.bias.argsort()[:LABELS].tolist()
    return [label for label in order if output.bias[label] < 0]
