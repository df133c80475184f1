"""Which labels are present, from the sign of the output layer's gradient."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leakscope.attacks import citations
from leakscope.attacks.attack import AbstractAttack
from leakscope.attacks.labels.rows.along import ALONG, along
from leakscope.attacks.parts.reading.output_gradient import (
    OutputGradient,
    only_row_pattern,
    read_output,
    told_one,
    too_many,
)
from leakscope.attacks.parts.reading.proof import bent, strange
from leakscope.attacks.parts.reading.replayed import last_places
from leakscope.attacks.parts.reading.scaled_error import OneFactor
from leakscope.core.attempt import Attempt, Certificate, Outcome
from leakscope.core.claim import Labels
from leakscope.core.effort import Clock, Watch
from leakscope.core.facts import BatchSize
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.core.release import Delta
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.reading import clipped, keeps_ratios, known_weights
from leakscope.numerics.rng import Key

Array = NDArray[np.float64]

SINGLE = 1e-3
"""Largest 1 + cos between the rows of one example's gradient; batches of two or more are far above (near 1)."""
APART = {torch.float64: 1e-3, torch.float32: 1e-3}
"""Largest relative distance of the output layer's gradient from that of one example, by the dtype of the release."""
COARSE = 2e-2
"""The same for half precision."""
COARSEST = 0.1
"""The largest one that is worth more than a direction."""
TURNED = 0.5
"""Least cosine between dL/db of several steps and that of the first, and largest relative distance."""
STATEMENT = (
    "1 + cos between the true row of dL/dW and every other row; and given the declared loss, whose error "
    "softmax(W h + b) - e_y at features h of one size and this label alone, signs included, gives dL/dW"
)
SIGNS = "the second most negative entry of dL/db, relative to the most negative one"
ALONE = SIGNS + ", given the declared loss; nothing else was sent of the output layer, and nothing else is checked"
FITS = 1e-4
"""Distance of the one error that dL/dW alone leaves from that of the label, relative: rounding of float32."""
PLACES = 8.0
"""Last places of p that p - y may be off."""
SURE = 0.2
"""The least 1 - p_y at which a bias gradient that was sent alone is proof: more than undeclared smoothing shifts."""
BALANCED = 1e-4
"""Largest sum of p - y, relative to the sum of its sizes, that is rounding: both sum to one."""


@final
@dataclass(frozen=True)
class LabelSigns(AbstractAttack[OutputGradient, Labels]):
    """Class c is present if its bias gradient mean_b (p_bc - y_bc) is negative: p is never negative.

    One example (told, or with three classes or more seen from the rank): its label, exactly, with or without a bias
    (Zhao et al. 2020, arXiv:2001.02610, section 3.1). More examples: the set of classes with a negative bias gradient,
    each claimed once; a present class can hide behind a large p, an absent one is never claimed unless noise was added.
    Where entries were changed one by one, weight and bias are read together along the features of noise (`rows.along`).
    The certificate of one example is that no other class is in question; only where one was told, because examples of
    one class can look like one example, and where no defense changed entries one by one.
    Where the weight's gradient is not there (frozen, filtered, pruned to zero) all is read from the bias alone, and
    proved only where its own numbers leave no other reading: see `_alone`.
    Refuses when the model does not end in a dense layer with a cross entropy, or when a batch has no bias gradient.
    """

    @property
    def citation(self) -> str:
        """Zhao et al. 2020."""
        return citations.IDLG

    def _read(self, seen: Observation) -> OutputGradient | Refusal:
        output = read_output(seen)
        if isinstance(output, Refusal):
            return output
        heard = along(seen, output)
        if heard is not None:
            output = replace(output, bias=heard)
        # Without a bias the label is read from the rows (p - y) h^T, which are of one h only for one example.
        if output.bias is None and not _single(seen, output):
            return Refusal("the release has no bias gradient at the output layer, and holds more than one example")
        if seen.target.classes < 3 and output.bias is None:
            return Refusal("two classes without a bias gradient are mirror images: the sign cannot be told")
        return output

    def _attempt(
        self, seen: Observation, read: OutputGradient, *, key: Key, clock: Clock, watch: Watch
    ) -> Attempt[Labels]:
        del key, clock, watch
        output = read
        if _single(seen, output):
            return self._one(seen, output)
        assert output.bias is not None
        # mean(p - y) with p >= 0: only y can make it negative.
        present = (output.bias < 0).nonzero().flatten()
        if not len(present):
            return Attempt(
                repr(self), Outcome.DIVERGED, "no class has a negative bias gradient: the signs were destroyed"
            )
        turned = too_many(seen, output)
        if turned is not None:
            return Attempt(repr(self), Outcome.DIVERGED, turned)
        sentence = f"{len(present)} classes have a negative bias gradient"
        if keeps_ratios(seen.mechanism) is Answer.NO:
            # Below zero by what was changed or by a label: the lowest are the likeliest, and are judged first.
            present = present[output.bias[present].argsort(stable=True)]
            sentence += f"; {ALONG}, the lowest first"
        return Attempt(repr(self), Outcome.CLAIMED, sentence, Labels(present))

    def _one(self, seen: Observation, output: OutputGradient) -> Attempt[Labels]:
        turned = too_many(seen, output)
        if turned is not None:
            return Attempt(repr(self), Outcome.DIVERGED, turned)
        # The bias gradient is p - y itself; in dL/dW it is multiplied by h, whose direction is not known.
        if output.bias is not None:
            label, residual = int(output.bias.argmin()), _second(output.bias)
        else:
            assert output.weight is not None  # one of the two is there
            label, residual = only_row_pattern(output.weight)
        certificate = None
        # Only told: several examples of one class leave the same signs, and nearly parallel rows.
        if told_one(seen) and bent(seen) is None:
            certificate = Certificate.alike(residual, SINGLE, _statement(output))
        why = _doubt(seen, output, label) if certificate is not None and certificate.holds else None
        certificate = certificate if why is None else None
        certified = certificate is not None and certificate.holds
        claim = Labels(torch.tensor([label]), torch.tensor([1.0]) if certified else None)
        sentence = f"one example of class {label}" + ("" if why is None else f"; no proof: {why}")
        return Attempt(repr(self), Outcome.CLAIMED, sentence, claim, certificate)


def _statement(output: OutputGradient) -> str:
    if output.bias is None:
        return STATEMENT
    return SIGNS if output.weight is not None else ALONE


def _alone(seen: Observation, bias: Tensor) -> str | None:
    """Why p - y, sent alone, is not sure to be that of one example with its label; None where nothing speaks against.

    No features are known, so p cannot be computed again. What is left are its own numbers, in the true scale: they sum
    to zero, as p and y do; no reading with the opposite sign exists, as it does of two classes; and 1 - p_y is more
    than what an undeclared shift of all labels could make of a class that is not there.
    """
    if known_weights(seen.mechanism) is not Answer.YES or clipped(seen) is not Answer.NO:
        return "the bias gradient was sent alone, and in no known scale"
    if len(bias) < 3 or _second(-bias) <= SINGLE:
        return "the bias gradient was sent alone, and could be read with the opposite sign as well"
    if not abs(float(bias.sum())) <= BALANCED * float(bias.abs().sum()):
        return "the bias gradient does not sum to zero, as that of a cross entropy does"
    if not -1 <= float(bias.min()) <= -SURE:
        return "the bias gradient was sent alone, and is too small or too large to be sure of"
    return strange(seen)


def _unsized(seen: Observation, output: OutputGradient, label: int) -> str | None:
    """Why dL/dW alone is not that of one example with this label; None where nothing speaks against.

    Rows (p - y) h^T leave one unknown, the size of h: the error softmax(W h + b) - y at one of them has to be that of
    the rows, which soft labels and other losses than the declared one do not give.
    """
    assert output.weight is not None  # one of the two is there
    layer, parameters = output.layer, seen.target.parameters()
    weight = parameters[layer.weight].detach().double().cpu().numpy()
    bias = np.zeros(len(weight)) if layer.bias is None else parameters[layer.bias].detach().double().cpu().numpy()
    slope = output.weight.cpu().numpy()
    one = OneFactor(slope, weight, bias)
    dtype, size = seen.release.by_name[layer.weight].dtype, float(np.linalg.norm(slope))
    places = last_places(seen, layer.weight, size) / max(size, 1e-300)
    apart = APART.get(dtype, COARSE) + places
    if not one.second <= apart:
        return f"the output layer's gradient is not of rank one ({one.second:.0e}), so there are several examples"
    # Of a clipped update its size says nothing, of several steps neither much nor to the last digit.
    found = one.solved(label, output.smoothing)
    sized = clipped(seen) is Answer.NO
    away = float("inf") if found is None else found.residual
    if not sized:
        away = one.turned(label, output.smoothing)
    exact = known_weights(seen.mechanism) is Answer.YES and apart <= COARSEST
    fits = COARSEST
    if exact:
        # A sure model's p - y is rounded at the last place of p.
        left = 1.0 if found is None else float(np.linalg.norm(found.errors))
        own = FITS + PLACES * torch.finfo(dtype).eps / max(left, 1e-300)
        fits = max(min(own, apart), places) if dtype in APART else apart
    if not away <= fits:
        return "the declared loss gives another error for this label than was sent, at features of any size"
    # Turned around, the rows could only be those of the class whose row is the second to stand out.
    other = _second_row(slope, label)
    turned = OneFactor(-slope, weight, bias)
    again = turned.solved(other, output.smoothing) if sized else None
    against = turned.turned(other, output.smoothing) if not sized else float("inf") if again is None else again.residual
    if against <= max(fits, apart):
        return (
            "another label, with the opposite sign, explains the same, and nothing shows that signs were not reversed"
        )
    return None if exact and not isinstance(seen.release, Delta) else strange(seen)


def _second_row(slope: Array, label: int) -> int:
    """The class of the longest row (C, d) but the label's."""
    sizes = np.linalg.norm(slope, axis=1)
    sizes[label] = -1.0
    return int(sizes.argmax())


def _doubt(seen: Observation, output: OutputGradient, label: int) -> str | None:
    """Why the output layer's gradient is not that of one example with this label; None where nothing speaks against.

    Of one example dL/dW = (p - y) h^T and dL/db = p - y: the features h are the rows' ratio, whatever the sign, and
    p = softmax(W h + b) has to give dL/db again. With a wrong sign, two classes change places and nothing else shows.
    """
    parameters = seen.target.parameters()
    if output.bias is None or output.layer.bias is None:
        return _unsized(seen, output, label)
    # as sent: what `read_output` took out for smoothing stands in dL/dW too
    bias = output.bias - output.smoothing / len(output.bias)
    if output.weight is None:
        return _alone(seen, bias)
    apart = APART.get(seen.release.by_name[output.layer.weight].dtype, COARSE)
    size = torch.linalg.vector_norm(bias)
    features = bias @ output.weight / size.square().clamp_min(1e-300)
    left = float(torch.linalg.vector_norm(output.weight - torch.outer(bias, features)))
    left /= max(float(torch.linalg.vector_norm(output.weight)), 1e-300)
    if not left <= apart:
        return f"the output layer's gradient is not of rank one ({left:.0e}), so there are several examples"
    weight, start = parameters[output.layer.weight].double(), parameters[output.layer.bias].double()
    shares = torch.softmax(weight @ features + start, 0) - output.smoothing / len(bias)
    # Row y: the error p - (1 - s) e_y - s / C of label y.
    errors = shares - (1 - output.smoothing) * torch.eye(len(bias), dtype=shares.dtype, device=shares.device)
    expected = errors[label]
    cosine = float(expected @ bias / (torch.linalg.vector_norm(expected) * size).clamp_min(1e-300))
    # What a difference of weights is rounded by; a tenth of the size leaves no more than steps do.
    apart += last_places(seen, output.layer.bias, float(size)) / float(size.clamp_min(1e-300))
    # After local steps p is one of moved weights, and only the direction is left.
    exact = known_weights(seen.mechanism) is Answer.YES and apart <= COARSEST
    if not cosine >= (1 - apart if exact else TURNED):
        return "the model gives another error for this label than was sent, its sign included"
    scaled = clipped(seen) is not Answer.NO
    if _reversible(errors, bias, label, apart if exact else TURNED, scaled=scaled):
        return (
            "another label, with the opposite sign, explains the same, and nothing shows that signs were not reversed"
        )
    # Of a change of weights the numbers are looked at too: they may be another optimizer's.
    sure = exact and not isinstance(seen.release, Delta)
    if scaled:
        return None if sure else strange(seen)
    away = float(torch.linalg.vector_norm(expected - bias) / size.clamp_min(1e-300))
    if not away <= (apart if exact else TURNED):
        return f"what was sent is not the gradient of a mean: off by {away:.0e}"
    return None if sure else strange(seen)


def _reversible(errors: Tensor, bias: Tensor, label: int, apart: float, *, scaled: bool) -> bool:
    """Whether -bias (C,) is the error of another label, errors (C, C) by label: within `apart`, or up to a factor.

    It is where the model is torn between two classes: p - e_0 = -(p - e_1) for p = (1/2, 1/2). Of two classes it is so
    up to a factor whatever p is, which a clip and local steps leave open.
    """
    size = torch.linalg.vector_norm(bias).clamp_min(1e-300)
    others = torch.arange(len(bias), device=bias.device) != label
    rows = errors[others]
    cosines = -(rows @ bias) / (torch.linalg.vector_norm(rows, dim=1) * size).clamp_min(1e-300)
    # After local steps directions are loose as well, and so is what counts as alike.
    alike = cosines >= 1 - apart
    near = torch.linalg.vector_norm(rows + bias, dim=1) / size <= apart
    return bool((alike if scaled or apart >= TURNED else alike & near).any())


def _second(bias: Tensor) -> float:
    """How negative the second class is beside the first, p - y (C,): 0 for one example; infinite where none is.

    p - y of one example is negative at its class alone, and largest there unless labels are smoothed.
    """
    low = bias.sort().values[:2]
    # The most negative entry, that of the true class, must stand out from rounding.
    if not float(-low[0]) > SINGLE * float(bias.abs().max()):
        return float("inf")
    # Both negative: a positive ratio, and a second class is possible. The second one positive: 0.
    return max(0.0, float(low[1] / low[0]))


def _single(seen: Observation, output: OutputGradient) -> bool:
    if seen.knows(BatchSize):
        return seen.told(BatchSize).count == 1
    # The rows of two classes are mirror images, however many examples there are.
    if told_one(seen) or seen.target.classes == 2 or output.weight is None:
        return told_one(seen)
    return only_row_pattern(output.weight)[1] <= SINGLE
