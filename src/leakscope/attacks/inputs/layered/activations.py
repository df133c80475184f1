"""What the output of an activation says of its input and of the error there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray
from torch import nn

from leakscope.targets.looking.layer_chain import Elementwise

Array = NDArray[np.float64]

REST = 1e-5
"""Outputs of a ReLU up to this, relative to the root mean square, are rounding around zero."""
NEARLY = 1e-12
"""How near a saturated value may come to the bound that it never reaches."""


@final
@dataclass(frozen=True, eq=False)
class Known:
    """values: z. sure: dy/dz, how exactly y tells z; zero where it says nothing. errors: dL/dz. All (n,)."""

    values: Array
    sure: Array
    errors: Array


def inverted(activation: Elementwise | None, outputs: Array, slopes: Array) -> Known:
    """z, dy/dz and dL/dz = dL/dy * dy/dz from y = activation(z), (n,), and dL/dy, (n,).

    >>> inverted(nn.LeakyReLU(0.5), np.array([2.0, -1.0]), np.array([1.0, 1.0])).values.tolist()
    [2.0, -2.0]
    """
    values, sure = _inverse(activation, outputs)
    return Known(values, sure, slopes * sure)


def _inverse(activation: Elementwise | None, y: Array) -> tuple[Array, Array]:
    if activation is None:
        return y, np.ones_like(y)
    if isinstance(activation, nn.ReLU):
        # At rest y = 0 tells z <= 0 and no more: with dy/dz = 0 it is no equation for z, and no error passes.
        awake = y > REST * np.sqrt(np.mean(y**2))
        return np.where(awake, y, 0.0), awake.astype(np.float64)
    if isinstance(activation, nn.LeakyReLU):
        # y has the sign of z, as long as negative_slope > 0.
        sure = np.where(y > 0, 1.0, activation.negative_slope)
        return y / sure, sure
    if isinstance(activation, nn.ELU):
        # Below zero y = alpha (e^z - 1): z = log(1 + y / alpha), dy/dz = alpha e^z = alpha + y. The floor keeps the
        # logarithm finite where y was rounded to -alpha.
        low = np.maximum(np.minimum(y, 0.0) / activation.alpha, NEARLY - 1)
        return np.where(y > 0, y, np.log1p(low)), np.where(y > 0, 1.0, activation.alpha * (1 + low))
    if isinstance(activation, nn.Tanh):
        # dy/dz = 1 - tanh(z)^2. A saturated y is rounded to the bound, where z is infinite; just inside, z is wrong,
        # but dy/dz near zero gives it next to no weight.
        y = np.clip(y, NEARLY - 1, 1 - NEARLY)
        return np.arctanh(y), 1 - y**2
    if isinstance(activation, nn.Sigmoid):
        # y = 1 / (1 + e^-z): z = log(y / (1 - y)), dy/dz = y (1 - y); saturated as above.
        y = np.clip(y, NEARLY, 1 - NEARLY)
        return np.log(y / (1 - y)), y * (1 - y)
    # Softplus, s = beta y = log(1 + e^(beta z)): beta z = log(e^s - 1) = s + log(1 - e^-s), written so that a large s
    # does not overflow, and dy/dz = sigmoid(beta z) = 1 - e^-s.
    scaled = np.maximum(activation.beta * y, NEARLY)
    z = scaled + np.log(-np.expm1(-scaled))
    return z / activation.beta, -np.expm1(-scaled)
