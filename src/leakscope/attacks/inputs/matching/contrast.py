"""The contrast of what was found where the update does not tell it: normalization over the batch divides it out."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from leakscope.attacks.inputs.matching.objective import Objective
from leakscope.attacks.parts.priors.statistics import layer_statistics
from leakscope.attacks.parts.search.journal import Point
from leakscope.core.facts import BatchNormStatistics
from leakscope.core.observation import Observation
from leakscope.domains.vision import Images
from leakscope.targets.looking.batch_statistics import variance_traces

ALIKE = 1.1
"""Times the distance that a stretched candidate may be away: as near as what was found, `NEARLY` apart."""
NEARLY = 1e-3
"""The same, as a share of the distance at gray. What was found by the cosine is nearer than its offset is right: of an
image that was right to 1e-4 once its contrast was set, that was 2e-4 away."""
BLIND = "the update does not tell the contrast of its inputs, which were normalized over the batch"
AGREES = 0.3
"""Share of what the channels say of the variance that the inputs found may leave unexplained: by chance it is about 1,
of inputs that are found 1e-3 to 1e-1."""
CHANNELS = 4
"""That have to say so, at least."""
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
    return f"{BLIND} but for the small number that is added to their variance, by which it was set"


def stretched(seen: Observation, objective: Objective, point: Point) -> Point | None:
    """The point with the likelier contrast, where that fits as well; None where none does.

    x and a x + c give (W x - mean) / std the same numbers, and dL/dW too: 1 / a from the error, a from the input. Only
    eps and the zeros around an image tell a and c, and a prior on smoothness makes a small. Statistics of the batch
    that were told say both; without them eps says a (`variance_traces`). Where neither does, nothing is done: to
    stretch what was found to the range cost inputs that do not fill it 8 dB.
    """
    values = objective.inputs(point["inputs"]).detach()
    low, high = seen.target.domain.bounds(values)
    if not bool(torch.isfinite(values).all()) or not float(values.max() - values.min()) > 0:
        return None
    with torch.no_grad():
        tried = _by_statistics(seen, values) if seen.knows(BatchNormStatistics) else _by_traces(seen, values)
        near = ALIKE * float(objective.apart(point))
        near += NEARLY * float(objective.apart(_at(objective, point, torch.zeros_like(values) + (low + high) / 2)))
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


def _by_traces(seen: Observation, values: Tensor) -> list[Tensor]:
    """a x, and a x + c where a x leaves the range, with the a that explains the traces of variance best, or nothing.

    q_c (a^2 v_c + eps) = t_c with the variance v_c of the inputs found: least squares in 1 / a^2.
    """
    target = seen.target
    # Utterances are padded, and what is set to zero for it would be stretched as well.
    traces = variance_traces(target, seen.gradient().by_name) if isinstance(target.domain, Images) else None
    if traces is None:
        return []
    name, found, learned = traces
    layer = target.module.get_submodule(name)
    assert isinstance(layer, _BatchNorm)
    scaled, away = values, torch.inf
    for _ in range(TURNS):
        variance = layer_statistics(target, target.parameters(), scaled)[name][1].to(found)
        explained = learned / (variance + layer.eps)
        inverse = float((found @ explained) / (explained @ explained).clamp_min(1e-300))
        if len(found) < CHANNELS or not inverse > 0:
            return []
        away = float((found - inverse * explained).norm() / found.norm())
        scaled = scaled / math.sqrt(inverse)
    if not away < AGREES:
        return []
    low, high = target.domain.bounds(values)
    # Each channel by itself, as the offset of each is lost by itself; what is wider than the range stays in its middle.
    axes = [axis for axis in range(values.dim()) if axis != 1]
    least, most = scaled.amin(axes, keepdim=True), scaled.amax(axes, keepdim=True)
    inside = (low - least).clamp_min(0) + (high - most).clamp_max(0)
    return [scaled, scaled + inside]


def _at(objective: Objective, point: Point, inputs: Tensor) -> Point:
    return {**point, "inputs": objective.space.encode(inputs, objective.target.domain)}
