"""Exact inputs from a dense layer that is fed the input itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.attacks import citations
from leakscope.attacks.attack import AbstractAttack
from leakscope.core.attempt import Attempt, Certificate, Clock, Outcome, Refusal, Watch
from leakscope.core.claim import Inputs
from leakscope.core.errors import NoSuchLayer
from leakscope.core.facts import BatchSize
from leakscope.core.observation import Observation
from leakscope.numerics.rng import Key
from leakscope.targets.anatomy import DenseLayer, input_layer

EXACT = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Largest relative residual that counts as exact, by the dtype of the release: rounding stays far below it, and a
mixture of two inputs, noise or quantization far above."""


@final
@dataclass(frozen=True)
class LinearLayer(AbstractAttack[Inputs]):
    """x = (dL/dW)_i / (dL/db)_i for every unit i that one example alone activates (Phong et al. 2017, section 3).

    dL/dW = sum_s delta_s x_s^T (H, D), dL/db = sum_s delta_s (H,). When the rows are all multiples of one vector there
    is one example: x is their least-squares ratio. Otherwise the inputs on which at least two units agree are exact,
    since mixtures of examples do not repeat by chance; each is claimed once, and no other is claimed.
    The certificate is the relative residual |dL/dW - (dL/db) x^T| / |dL/dW| on the units that were used; no weights,
    labels or batch size are needed, and several local steps on one example do not matter.
    Refuses when no dense layer is fed the input, or its weight or bias is not in the release.
    """

    @property
    def citation(self) -> str:
        """Phong et al. 2017."""
        return citations.PHONG

    def _refusal(self, seen: Observation) -> Refusal | None:
        found = _read(seen)
        return found if isinstance(found, Refusal) else None

    def _attempt(self, seen: Observation, *, key: Key, clock: Clock, watch: Watch) -> Attempt[Inputs]:
        del key, clock, watch
        found = _read(seen)
        assert not isinstance(found, Refusal)
        weight, bias = found
        tolerance = EXACT[seen.release.by_name[input_layer(seen.target).weight].dtype]
        single, residual = ratio(weight, bias)
        told_one = seen.knows(BatchSize) and seen.told(BatchSize).count == 1
        if residual <= tolerance or told_one:
            values, residuals = single[None], [residual]
        else:
            values, residuals = agreeing(weight, bias, tolerance)
        shaped = values.reshape(-1, *seen.target.domain.shape).to(seen.target.parameters()[_first(seen).weight].dtype)
        if not len(shaped):
            sentence = "no two units agree on an input: every unit is activated by several examples, or by noise"
            return Attempt(repr(self), Outcome.CLAIMED, sentence, Inputs(shaped))
        if not bool(torch.isfinite(shaped).all()):
            return Attempt(repr(self), Outcome.DIVERGED, "the bias gradient vanishes, so the ratio is not finite")
        worst = max(residuals)
        statement = "relative residual of dL/dW = (dL/db) x^T on the units that one example alone activates"
        certificate = Certificate(worst, tolerance, statement)
        confidence = torch.ones(len(shaped)) if certificate.holds else None
        sentence = f"{len(shaped)} inputs in closed form, worst relative residual {worst:.1e}"
        return Attempt(repr(self), Outcome.CLAIMED, sentence, Inputs(shaped, confidence=confidence), certificate)


def _first(seen: Observation) -> DenseLayer:
    return input_layer(seen.target)


def _read(seen: Observation) -> tuple[Tensor, Tensor] | Refusal:
    """The first layer's weight (H, D) and bias (H,) gradients in float64, or why they cannot be read."""
    try:
        layer = _first(seen)
    except NoSuchLayer as error:
        return Refusal(str(error))
    if layer.bias is None:
        return Refusal(f"the dense layer {layer.name or 'of the model'} has no bias, so the scale of the input is lost")
    gradient = seen.gradient().by_name
    missing = [name for name in (layer.weight, layer.bias) if name not in gradient]
    if missing:
        return Refusal(f"the release lacks {' and '.join(missing)}")
    if gradient[layer.weight].dtype not in EXACT:
        return Refusal(f"the update is {gradient[layer.weight].dtype}: too coarse for a ratio of its entries")
    weight, bias = gradient[layer.weight].double(), gradient[layer.bias].double()
    if not bool((bias != 0).any()):
        return Refusal("the bias gradient is zero everywhere: no unit of the first layer was active")
    return weight, bias


def ratio(weight: Tensor, bias: Tensor) -> tuple[Tensor, float]:
    """The x (D,) that minimizes |weight - bias x^T|, and the relative residual.

    >>> ratio(torch.tensor([[2.0, 4.0], [1.0, 2.0]]), torch.tensor([2.0, 1.0]))
    (tensor([1., 2.]), 0.0)
    """
    x = bias @ weight / bias.square().sum()
    norm = torch.linalg.vector_norm(weight)
    return x, float(torch.linalg.vector_norm(weight - torch.outer(bias, x)) / norm) if norm > 0 else float("nan")


def agreeing(weight: Tensor, bias: Tensor, tolerance: float) -> tuple[Tensor, list[float]]:
    """The inputs (N, D) on which at least two units agree to within `tolerance`, with their residuals.

    Rows [weight_i, bias_i] of units that the same single example activates are multiples of one another.
    """
    rows = torch.cat([weight, bias[:, None]], dim=1)
    norms = torch.linalg.vector_norm(rows, dim=1)
    heard = (norms > 1e-6 * norms.max()) & (bias.abs() > 1e-12 * norms)
    rows, weight, bias = rows[heard], weight[heard], bias[heard]
    unit = rows / (torch.linalg.vector_norm(rows, dim=1) * bias.sign())[:, None]
    left = torch.ones(len(unit), dtype=torch.bool, device=unit.device)
    values, residuals = [], []
    for index in range(len(unit)):
        if not left[index]:
            continue
        same = left & (torch.linalg.vector_norm(unit - unit[index], dim=1) <= tolerance)
        left &= ~same
        if int(same.sum()) >= 2:
            x, residual = ratio(weight[same], bias[same])
            values.append(x)
            residuals.append(residual)
    return (torch.stack(values) if values else weight.new_zeros((0, weight.shape[1]))), residuals
