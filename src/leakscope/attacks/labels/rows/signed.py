"""What signs alone prove of a batch's labels, and the bias gradient of their counts (T3 and T4)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from leakscope.attacks.parts.reading.output_gradient import OutputGradient
from leakscope.core.observation import Observation
from leakscope.core.release import Delta
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.reading import clipped, keeps_inputs, keeps_ratios, keeps_signs, known_weights, runs_layers
from leakscope.numerics.rng import Key
from leakscope.targets.looking.dense_ends import features_at, probe_inputs
from leakscope.targets.looking.nonnegative import fed_nonnegative

Array = NDArray[np.float64]

DECAY = 0.01
"""The largest penalty lambda on weights, lambda |theta|^2 / 2, that nobody declared and that no sign is taken for: ten
times what is usual for networks, and what decoupled decay is often set to."""
HEAVY = 10.0
"""How many times larger momentum that nobody declared makes a penalty over local steps, 1 / (1 - 0.9): weights hardly
move, so that all steps add up, while the errors of labels fall."""
SMOOTHED = 0.4
"""The largest label smoothing that nobody declared and that no sign is taken for, where the scale is known."""
HIGHER = 3.0
"""How many times higher than those of noise the features of a sample may be."""
ULPS = 4.0
"""Roundings of the weights by which the difference of two sets of weights may be off."""
OWED = 1.01
"""Largest sum of the negative entries of dL/db that is one label for each example, up to rounding in half precision."""
SIGNED = (
    "rounding over the depth of the negative entry that only a label of this class can make, given the declared loss "
    "and no larger penalty on the weights than a hundredth, over local steps with momentum of no more than 0.9, and a "
    "client that adds nothing of earlier rounds (momentum that it kept, what it had left out)"
)
SIGNED_BENT = (
    "rounding over the depth of the negative entry that only a label of this class can make, given the declared loss "
    "without a penalty on the weights, and a client that adds nothing of earlier rounds (momentum that it kept, what "
    "it had left out)"
)
"""Behind a defense that changed entries one by one nothing says how much of them a penalty could be."""


@final
@dataclass(frozen=True, eq=False)
class Signed:
    """depth: (C,) how far the most negative entry that speaks for class c lies below zero, 0 where none does, relative
    to the largest entry of its kind. rounding: (C,) what of that may be rounding, in the same unit. firm: (C,) what is
    left of the depth if the loss had any penalty up to `DECAY` on the weights, over local steps with momentum, and
    labels were smoothed by `SMOOTHED`, the latter where the scale is known. upright: how many classes have a
    positive entry. read: from what."""

    depth: Array
    rounding: Array
    firm: Array
    upright: int
    read: str

    @property
    def present(self) -> NDArray[np.bool_]:
        """(C,) the classes that a sign proves."""
        return np.asarray((self.depth > 0) & (self.depth > self.rounding))


def signed(seen: Observation, output: OutputGradient) -> Signed | None:
    """T3: which classes have a negative entry that only a label of theirs can make; None where no sign is sure.

    dL/db_c = mean_s (p_sc - y_sc) and, for features h >= 0, dL/dW_c = mean_s (p_sc - y_sc) h_s: no term is negative but
    those with y_sc > 0, and floating-point sums of numbers >= 0 are >= 0, so that of a gradient any negative entry is
    proof. The difference of two sets of weights is off by their own rounding. A penalty adds lambda b_c and lambda W_c,
    which are negative where the weights are: of a class that nobody had for long its bias is. Smoothing by s adds
    -s / C and -s h / C to classes that are not there, which is little beside the error of a label, 1 - p, unless the
    model is about as sure as it was trained to be with smoothing: then all entries are as small, and of either sign.
    """
    mechanism = seen.mechanism
    # What was trained on has the labels that are asked for only where inputs and model are those that were declared.
    if keeps_inputs(mechanism) is not Answer.YES or runs_layers(mechanism) is not Answer.YES:
        return None
    if keeps_signs(mechanism) is not Answer.YES:
        return None
    found = []
    if output.bias is not None:
        assert output.layer.bias is not None
        found.append((output.bias[:, None], output.layer.bias, "dL/db"))
    # With smoothing dW_c of an absent class is mean (p_c - s / C) h, and how large the shift is h knows alone.
    if output.weight is not None and output.smoothing == 0 and fed_nonnegative(seen.target, output.layer.name):
        found.append((output.weight, output.layer.weight, "dL/dW of features that are never negative"))
    if not found:
        return None
    depth, upright = np.zeros(output.layer.outputs), 0
    rounding, firm = np.zeros_like(depth), np.zeros_like(depth)
    for rows, name, _ in found:
        size, slack = max(float(rows.abs().max()), 1e-300), _slack(seen, name)
        other = _deepest(rows, size)
        better = other - slack > depth - rounding
        depth, rounding = np.where(better, other, depth), np.where(better, slack, rounding)
        most = DECAY if known_weights(mechanism) is Answer.YES else HEAVY * DECAY
        pulled = most * seen.target.parameters()[name].double().to(rows.device).reshape(rows.shape).clamp(max=0)
        # Of each kind by itself: what a penalty explains in one it need not in the other.
        smoothed = _smoothed(seen, output, weighed=rows is output.weight)
        firm = np.maximum(firm, _deepest(rows - pulled + smoothed, size) - slack)
        upright = max(upright, int((_deepest(-rows, size) > slack).sum()))
    return Signed(depth, rounding, firm, upright, " and ".join(read for _, _, read in found))


def overdrawn(seen: Observation, output: OutputGradient) -> str | None:
    """Why the negative entries are more than the labels of one batch make; None where nothing says so.

    sum_c max(0, mean_s (y_sc - p_sc)) <= mean_s sum_c y_sc = 1, of one gradient and of a mean of several. Momentum that
    a client kept from earlier rounds adds their labels, up to nine times as many, and what was left out of an update
    and is sent with the next one adds those of that.
    """
    if output.bias is None or clipped(seen) is not Answer.NO or keeps_ratios(seen.mechanism) is not Answer.YES:
        return None
    owed = float((-output.bias).clamp(min=0).sum())
    if owed <= OWED:
        return None
    return (
        f"the negative entries of dL/db sum to {owed:.3g}, and those of a mean over examples to one at most: it is no "
        "mean, or labels of earlier rounds are in it"
    )


def proved_counts(bias: Array, samples: int) -> NDArray[np.int64]:
    """T4: n_c >= ceil(-N dL/db_c), since N dL/db_c = sum_s p_sc - n_c and p >= 0; (C,) of the mean loss of N samples.

    They are the counts where they sum to N, and lower bounds of them otherwise.

    >>> proved_counts(np.array([-0.55, 0.2, 0.35]), 3).tolist()
    [2, 0, 0]
    """
    # Rounding must not make 2.0000001 of two examples three.
    return np.asarray(np.ceil(np.clip(-samples * bias - 1e-4 * samples, 0, None)), dtype=np.int64)


def _deepest(rows: torch.Tensor, size: float) -> Array:
    return np.asarray((-rows.min(1).values).clamp(min=0).cpu().numpy() / size)


def _smoothed(seen: Observation, output: OutputGradient, *, weighed: bool) -> float:
    """How far below zero smoothing that nobody declared could take a class that is not there: s / C, times its features
    in dL/dW. The size of a mean says so; of what was clipped, or changed entry by entry, nothing does: zero."""
    if clipped(seen) is not Answer.NO or keeps_ratios(seen.mechanism) is not Answer.YES:
        return 0.0
    shift = SMOOTHED / output.layer.outputs
    if not weighed:
        return shift
    inputs = probe_inputs(seen.target, 8, key=Key(0).child("size of features"))
    highest = float(features_at(seen.target, inputs).abs().max())
    return shift * HIGHER * highest


def _slack(seen: Observation, name: str | None) -> float:
    """Rounding of a difference of weights, relative to its largest entry; 0 for what was sent as a gradient."""
    if name is None or not isinstance(seen.release, Delta):
        return 0.0
    sent = seen.release.by_name[name]
    ulp = torch.finfo(sent.dtype).eps if sent.is_floating_point() else math.inf
    weights = float(seen.target.parameters()[name].abs().max())
    return ULPS * ulp * weights / max(float(sent.abs().max()), 1e-300)
