"""Exact inputs from a dense layer that is fed the input itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.attacks import citations
from leakscope.attacks.attack import AbstractAttack
from leakscope.attacks.inputs.dense.mixtures import Errors
from leakscope.attacks.inputs.dense.near_duplicates import hidden_distance
from leakscope.attacks.inputs.dense.own_errors import fitted
from leakscope.attacks.parts.reading.explained import explained
from leakscope.attacks.parts.reading.output_gradient import told_one
from leakscope.attacks.parts.reading.proof import bent, settled, undeclared
from leakscope.attacks.parts.reading.trained import NOT_TRAINED, idle
from leakscope.core.attempt import Attempt, Certificate, Outcome
from leakscope.core.claim import Inputs
from leakscope.core.effort import Clock, Watch
from leakscope.core.facts import BatchSize
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.reading import keeps_ratios, known_weights
from leakscope.numerics.rng import Key
from leakscope.numerics.trees import Named
from leakscope.targets.looking.dense_ends import DenseLayer, input_layer

EXACT = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Largest relative residual that counts as exact, by the dtype of the release: rounding stays far below it, and a
mixture of two inputs or noise far above."""

AGREE = {torch.float64: 1e-11, torch.float32: 1e-5}
"""Largest distance of two units' normalized rows that counts as agreement, a few roundings."""

WITNESSES = 3
"""Units that must agree on an input. Two of a thousand units do so by chance when two examples are mixed along a
line; three within `AGREE` do not."""

STATEMENT = "relative residual of dL/dW = (dL/db) x^T on the units that one example alone activates"

ALIKE = 0.3
"""Largest relative residual at which a rank-one fit is worth claiming when no proof is possible."""


@final
@dataclass(frozen=True)
class LinearLayer(AbstractAttack["FirstLayer", Inputs]):
    """x = (dL/dW)_i / (dL/db)_i for every unit i that one example alone activates (Phong et al. 2017, section 3).

    dL/dW = sum_s delta_s x_s^T (H, D), dL/db = sum_s delta_s (H,). When the rows are all multiples of one vector there
    is one example: x is their least-squares ratio. Otherwise the inputs on which at least three units agree are exact,
    since mixtures of examples do not repeat by chance; each is claimed once, and no other is claimed.
    The certificate is the relative residual |dL/dW - (dL/db) x^T| / |dL/dW| on the units that were used; no weights,
    labels or batch size are needed, and several local steps on one example do not matter. A defense that changes
    entries one by one (pruning, quantization, signs, noise) makes agreement worthless: there is no certificate then,
    and only the fit of a single example is claimed.
    Where errors of different examples are proportional, mixtures repeat too: with two classes, with a model whose
    output is the same for all inputs, with fewer than three live units. Then only claims that explain the whole update
    have a certificate, as many as the told batch size, and what no input can be is not claimed.
    Refuses when no dense layer is fed the input, or its weight or bias is not in the release.
    """

    @property
    def citation(self) -> str:
        """Phong et al. 2017."""
        return citations.PHONG

    def _read(self, seen: Observation) -> FirstLayer | Refusal:
        return first_layer(seen)

    def _attempt(self, seen: Observation, read: FirstLayer, *, key: Key, clock: Clock, watch: Watch) -> Attempt[Inputs]:
        del key, clock, watch
        weight, bias, dtype = read.weight, read.bias, read.dtype
        single, residual = ratio(weight, bias)
        alone = told_one(seen)
        # Signs agree by themselves, noise never: there agreement of units is no evidence, and unknown is no yes.
        if keeps_ratios(seen.mechanism) is not Answer.YES:
            return self._unproven(seen, single, residual, told_one=alone)
        # One example makes dL/dW = dL/db x^T of rank one, after local steps too: each adds a multiple of [x, 1]. Told
        # of one, the fit is claimed even where it is bad; its residual then withholds the proof.
        if residual <= EXACT[dtype] or alone:
            values, residuals, units = single[None], [residual], weight.new_ones((1, len(weight)), dtype=torch.bool)
        else:
            values, residuals, units = agreeing(weight, bias, AGREE[dtype])
        repeating = not alone and len(values) > 0 and _repeating(seen, read, (values, residuals, units))
        if repeating:
            # Errors of both signs can put a mixture sum_s delta_s x_s / sum_s delta_s out of the range of its inputs.
            legal = [place for place, value in enumerate(values) if _legal(seen, value)]
            values, residuals, units = values[legal], [residuals[place] for place in legal], units[legal]
        if seen.knows(BatchSize):
            # Most witnesses come first, so the claims that fewest units agree on are cut off.
            count = seen.told(BatchSize).count
            values, residuals, units = values[:count], residuals[:count], units[:count]
        if not len(values):
            sentence = "no three units agree on an input: every unit is activated by several examples, or by noise"
            return Attempt(repr(self), Outcome.CLAIMED, sentence, Inputs(_shaped(seen, values)))
        if not bool(torch.isfinite(values).all()):
            return Attempt(repr(self), Outcome.DIVERGED, "the bias gradient vanishes, so the ratio is not finite")
        whole = 0.0
        if repeating:
            used, whole = _explaining(seen, _shaped(seen, values), EXACT[dtype])
            if not whole <= EXACT[dtype]:
                sentence = f"{len(values)} inputs or mixtures of several: here units agree on mixtures as well"
                return Attempt(repr(self), Outcome.CLAIMED, sentence, Inputs(_shaped(seen, values)))
            values, residuals, units = values[used], [residuals[place] for place in used], units[used]
        # an input is proved by its own units; where mixtures repeat too, only together with the whole update
        certificate = Certificate(tuple(max(one, whole) for one in residuals), (EXACT[dtype],) * len(values), STATEMENT)
        sentence = f"{len(values)} inputs in closed form, worst relative residual {certificate.residual:.1e}"
        doubt = undeclared(seen)
        if doubt is not None:
            claim = Inputs(_shaped(seen, values))
            return Attempt(repr(self), Outcome.CLAIMED, f"{sentence}; no proof: {doubt.sentence}", claim)
        confidence = torch.ones(len(values)) if certificate.holds else None
        claim = Inputs(_shaped(seen, values), confidence=confidence)
        found = Attempt(repr(self), Outcome.CLAIMED, sentence, claim, certificate)
        # Of several examples only those that wake units alone are claimed, unless they are told to be all.
        whole = bool(units.all()) or alone or (seen.knows(BatchSize) and seen.told(BatchSize).count == len(values))
        return settled(
            seen,
            found,
            partial=not whole,
            fitted=lambda: fitted(seen, read.layer, values, units),
            near=lambda claim: hidden_distance(seen, read.layer, claim, tuple(residuals), units=units),
        )

    def _unproven(self, seen: Observation, single: Tensor, residual: float, *, told_one: bool) -> Attempt[Inputs]:
        """The fit of a single example, without proof, where a defense changed the entries one by one."""
        if not (told_one or residual <= ALIKE) or not bool(torch.isfinite(single).all()):
            sentence = f"{seen.mechanism!r} may change entries one by one, so agreement of units proves nothing"
            return Attempt(repr(self), Outcome.CLAIMED, sentence, Inputs(_shaped(seen, single[None][:0])))
        low, high = seen.target.domain.bounds(_shaped(seen, single[None]))
        why = bent(seen)
        sentence = f"the fit of one example, relative residual {residual:.1e}; {'' if why is None else why.sentence}"
        claim = Inputs(_shaped(seen, single[None]).clamp(low, high))
        return Attempt(repr(self), Outcome.CLAIMED, sentence, claim)


def _repeating(seen: Observation, read: FirstLayer, found: tuple[Tensor, list[float], Tensor]) -> bool:
    """Whether some of the values (N, D) may be mixtures of several examples, by the units (N, H) that agree on them."""
    values, residuals, units = found
    sizes = torch.linalg.vector_norm(read.weight, dim=1)
    # Rows of units that no example wakes are rounding, and witness nothing.
    live = sizes > 1e-6 * sizes.max()
    agreed = (units & live).sum(1).tolist()
    # A single row is a multiple of one vector for any batch, and two need only be proportional.
    if min(agreed) < WITNESSES or not bool(torch.isfinite(values).all()):
        return True
    single = len(values) == 1 and bool(units.all())
    if seen.knows(BatchSize) and (single or len(values) > seen.told(BatchSize).count):
        return True  # one input that explains a batch is a mixture of all, rather than all the same
    # A fit to all live units is a mixture only if errors are proportional on all of them (agreed=None). Units that were
    # picked because they agree can be few of many: then a share of the units with proportional errors is enough.
    errors, awake = Errors(seen, read.layer, values.cpu().numpy()), live.cpu().numpy()
    return any(
        errors.repeat(claim, awake, residual=one, agreed=None if single else agreed[claim])
        for claim, one in enumerate(residuals)
    )


def _legal(seen: Observation, value: Tensor) -> bool:
    """Whether an input can be this, to within a hundredth of the range."""
    shaped = _shaped(seen, value[None])
    low, high = seen.target.domain.bounds(shaped)
    # An input at the end of the range may be rounded beyond it.
    slack = 0.01 * (high - low)
    return bool(((shaped >= low - slack) & (shaped <= high + slack)).all())


def _explaining(seen: Observation, values: Tensor, tolerance: float) -> tuple[list[int], float]:
    """Inputs none of which can be missed in explaining the whole update, and the share of it that they leave.

    Infinite where it cannot be explained, or where they are not as many as the batch holds.
    """
    if known_weights(seen.mechanism) is not Answer.YES or not seen.knows(BatchSize):
        return [], math.inf  # of an unknown number of examples, one in the middle may explain as much as all of them
    used = list(range(len(values)))
    left = _left(seen, values)
    # Tried once each: fewer inputs explain less, so one that was needed before stays needed.
    for place in range(len(values)) if left <= tolerance else ():
        # With two labels an input can explain away its own gradient, so a positive weight does not mean that it counts.
        rest = [one for one in used if one != place]
        without = _left(seen, values[rest])
        if without <= tolerance:
            used, left = rest, without
    return used, left if len(used) == seen.told(BatchSize).count else math.inf


def _left(seen: Observation, values: Tensor) -> float:
    found = explained(seen, values) if len(values) else None
    return math.inf if found is None else found.residual


def _shaped(seen: Observation, values: Tensor) -> Tensor:
    """(N, D) float64 to (N, *shape) in the model's own dtype."""
    like = next(iter(seen.target.parameters().values()))
    return values.reshape(-1, *seen.target.domain.shape).to(like.dtype)


@final
@dataclass(frozen=True, eq=False)
class FirstLayer:
    """The dense layer that is fed the input, its weight (H, D) and bias (H,) gradients in float64; as sent: dtype."""

    layer: DenseLayer
    weight: Tensor
    bias: Tensor
    dtype: torch.dtype


def biased_layer(seen: Observation) -> tuple[DenseLayer, Named] | Refusal:
    """The dense layer that is fed the input, which has a bias, and the gradient with both of its tensors.

    Or why there is none. Raises `NoSuchLayer` where the first layer is not dense.
    """
    layer = input_layer(seen.target)
    if layer.bias is None:
        return Refusal(f"the dense layer {layer.name or 'of the model'} has no bias, so the scale of the input is lost")
    gradient = seen.gradient().by_name
    missing = [name for name in (layer.weight, layer.bias) if name not in gradient]
    return (layer, gradient) if not missing else Refusal(f"the release lacks {' and '.join(missing)}")


def first_layer(seen: Observation) -> FirstLayer | Refusal:
    """The first layer's gradients, or why they cannot be read. Raises `NoSuchLayer` where it is not dense."""
    found = biased_layer(seen)
    if isinstance(found, Refusal):
        return found
    layer, gradient = found
    assert layer.bias is not None
    if gradient[layer.weight].dtype not in EXACT:
        return Refusal(f"the update is {gradient[layer.weight].dtype}: too coarse for a ratio of its entries")
    # float64, so that ratios and differences of rows add no rounding to that of the release, which sets the tolerances.
    weight, bias = gradient[layer.weight].double(), gradient[layer.bias].double()
    if not bool((bias != 0).any()):
        return Refusal("the bias gradient is zero everywhere: no unit of the first layer was active")
    if layer.weight in idle(gradient):
        return Refusal(f"the gradient of {layer.weight} {NOT_TRAINED}: inputs that are all zero look the same")
    return FirstLayer(layer, weight, bias, seen.release.by_name[layer.weight].dtype)


def ratio(weight: Tensor, bias: Tensor) -> tuple[Tensor, float]:
    """The x (D,) that minimizes |weight - bias x^T|, and the relative residual.

    >>> ratio(torch.tensor([[2.0, 4.0], [1.0, 2.0]]), torch.tensor([2.0, 1.0]))
    (tensor([1., 2.]), 0.0)
    """
    # Normal equations of min_x |W - b x^T|^2, one number each: |b|^2 x = b^T W.
    x = bias @ weight / bias.square().sum()
    norm = torch.linalg.vector_norm(weight)
    left = torch.linalg.vector_norm(weight - torch.outer(bias, x))
    # An input that is zero throughout leaves rows of zeros, which it explains exactly: 0 / 0 is 0 here.
    return x, float(left / norm) if norm > 0 else float(left)


def agreeing(weight: Tensor, bias: Tensor, tolerance: float) -> tuple[Tensor, list[float], Tensor]:
    """The inputs (N, D) on which at least `WITNESSES` units agree to within `tolerance`, most witnesses first, the
    residuals and the units (N, H).

    Rows [weight_i, bias_i] of units that the same single example activates are multiples of one another.
    """
    # Row i is delta_si [x_s, 1] where example s alone wakes unit i.
    rows = torch.cat([weight, bias[:, None]], dim=1)
    norms = torch.linalg.vector_norm(rows, dim=1)
    # A millionth of the largest row is rounding in float32; without a bias entry a row has neither scale nor sign.
    heard = (norms > 1e-6 * norms.max()) & (bias.abs() > 1e-12 * norms)
    places = heard.nonzero().flatten()
    rows, weight, bias = rows[heard], weight[heard], bias[heard]
    # The 1 of [x, 1] is positive, so the bias entry has the sign of delta: divided by it, rows of one input coincide.
    unit = rows / (torch.linalg.vector_norm(rows, dim=1) * bias.sign())[:, None]
    left = torch.ones(len(unit), dtype=torch.bool, device=unit.device)
    found: list[tuple[int, Tensor, float, Tensor]] = []
    for index in range(len(unit)):
        if not left[index]:
            continue
        away = torch.linalg.vector_norm(unit - unit[index], dim=1)
        same = left & (away <= tolerance)
        if int(same.sum()) >= WITNESSES:
            units = torch.zeros_like(heard).index_fill(0, places[same], True)
            found.append((int(same.sum()), *ratio(weight[same], bias[same]), units))
            # The rim of a cluster, a few roundings farther out, is the same input again.
            left &= away > 10 * tolerance
        left[index] = False
    found.sort(key=lambda one: -one[0])
    if not found:
        return weight.new_zeros((0, weight.shape[1])), [], heard.new_zeros((0, len(heard)))
    return torch.stack([x for _, x, _, _ in found]), [one[2] for one in found], torch.stack([one[3] for one in found])
