"""The contrast of what was found where the update does not tell it: normalization over the batch divides it out."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from leakscope.attacks.inputs.matching.objective import Objective
from leakscope.attacks.parts.priors.statistics import layer_statistics
from leakscope.attacks.parts.search.journal import Point
from leakscope.core.facts import BatchNormStatistics
from leakscope.core.observation import Observation

ALIKE = 1.1
"""Times the distance that a stretched candidate may be away: as near as what was found, `ROUNDED` apart."""
ROUNDED = 1e-6
"""The same, as a share of the distance at gray."""
BLIND = "the update does not tell the contrast of its inputs, which were normalized over the batch"
GUESS = "its contrast is a guess, since inputs that do not fill the range fit as well"
ASSUMED = "where buffers gave them, this assumes one client alone that has the model's momentum"
TURNS = 4
"""How often scale and offset are set in turn; each is closed by itself, and they meet but for the edges of an image."""


def blind_to_contrast(seen: Observation) -> bool:
    """Whether the model normalizes over the batch in training mode."""
    return any(one.training and isinstance(one, _BatchNorm) for one in seen.target.module.modules())


def contrast(seen: Observation) -> str:
    """What was done about it, as a part of a sentence."""
    if seen.knows(BatchNormStatistics):
        return f"{BLIND}: it was taken from the statistics of the batch; {ASSUMED}"
    return f"{BLIND} by statistics that were not told, so the claim is stretched to the range; {GUESS}"


def stretched(seen: Observation, objective: Objective, point: Point) -> Point | None:
    """The point with the likelier contrast, where that fits as well; None where none does.

    x and a x + c give (W x - mean) / std the same numbers, and dL/dW too: 1 / a from the error, a from the input. Only
    eps and the zeros around an image tell a and c, and a prior on smoothness makes a small. Statistics of the batch
    that were told say both; without them, among inputs that fit alike those that fill the range are the likelier ones:
    first a and c by both ends, then a alone, about zero.
    """
    values = objective.inputs(point["inputs"]).detach()
    low, high = seen.target.domain.bounds(values)
    least, most = values.min(), values.max()
    if not bool(torch.isfinite(values).all()) or not float(most - least) > 0:
        return None
    with torch.no_grad():
        if seen.knows(BatchNormStatistics):
            tried = _by_statistics(seen, values)
        else:
            tried = [low + (high - low) * (values - least) / (most - least), values * _factor(values, low, high)]
        near = ALIKE * float(objective.apart(point))
        near += ROUNDED * float(objective.apart(_at(objective, point, torch.zeros_like(values) + (low + high) / 2)))
        for one in tried:
            moved = _at(objective, point, torch.maximum(torch.minimum(one, high), low))
            if float(objective.apart(moved)) <= near:
                return moved
    return None


def _by_statistics(seen: Observation, values: Tensor) -> list[Tensor]:
    """a x + c with the told mean and variance in the first normalization, and a x with the variance alone.

    Behind a linear layer the variance of each channel grows as a^2, its mean as c times that of an input of ones: two
    least-squares problems with one unknown each.
    """
    target, parameters = seen.target, seen.target.parameters()
    name, told = seen.told(BatchNormStatistics).by_layer[0]
    mean, variance = (values.new_tensor(given) for given in (told.mean, told.variance))
    ones = layer_statistics(target, parameters, torch.ones_like(values))[name][0]
    ones = ones - layer_statistics(target, parameters, torch.zeros_like(values))[name][0]
    scaled = moved = values
    for _ in range(TURNS):
        scaled = scaled * _root(variance, layer_statistics(target, parameters, scaled)[name][1])
        moved = moved * _root(variance, layer_statistics(target, parameters, moved)[name][1])
        away = mean - layer_statistics(target, parameters, moved)[name][0]
        moved = moved + (ones @ away) / (ones @ ones).clamp_min(1e-30)
    return [moved, scaled]


def _root(wanted: Tensor, found: Tensor) -> Tensor:
    """The a for which a^2 times the variances found are nearest to those wanted."""
    return ((wanted @ found) / (found @ found).clamp_min(1e-30)).clamp_min(0).sqrt()


def _factor(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The largest a with a * values in the range."""
    up = (high / values.clamp_min(1e-12)).masked_fill(values <= 0, torch.inf)
    down = (low / values.clamp_max(-1e-12)).masked_fill(values >= 0, torch.inf)
    return torch.minimum(up, down).min().clamp_min(1.0)


def _at(objective: Objective, point: Point, inputs: Tensor) -> Point:
    return {**point, "inputs": objective.space.encode(inputs, objective.target.domain)}
