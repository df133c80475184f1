"""Errors p - y read along the features that inputs usually have, where single entries were noised or rounded."""

from __future__ import annotations

import torch
from torch import Tensor

from leakscope.attacks.parts.reading.output_gradient import OutputGradient
from leakscope.core.observation import Observation
from leakscope.core.target import Target
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.reading import keeps_ratios
from leakscope.numerics.rng import Key
from leakscope.targets.looking.dense_ends import features_at, probe_inputs

PROBES = 128
LEVELS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
ALONG = "weight and bias were read together along the features of noise, since entries were changed one by one"
OPPOSED = -0.5
"""Cosine of dL/dW h and dL/db below which features of noise say nothing of those of the batch: by chance, of ten
classes, it is as low one time in fifteen."""


def along(seen: Observation, output: OutputGradient) -> Tensor | None:
    """(C,) the mean of p - y, as `OutputGradient.bias`, that dL/dW and dL/db say together, or dL/dW alone; None where
    dL/db says it better, or nothing does.

    dL/dW_c = mean_s (p_sc - y_sc) h_s: what changed single entries (noise, signs, few bits, dropping) changed d of them
    for each class, and one of dL/db. With h for h_s, the mean features of noise at the brightness that explains most,
    the least squares are e = (dL/dW h + dL/db) / (|h|^2 + 1), off by sqrt(|h|^2 + 1) times less than dL/db. Features
    of noise are not those of the batch, so that entries which nobody changed are read from dL/db alone, and so is a
    batch whose features point the other way.
    """
    if output.weight is None or keeps_ratios(seen.mechanism) is not Answer.NO:
        return None
    # `read_output` took the smoothing's share out of the bias alone.
    shift = output.smoothing / len(output.weight)
    bias = torch.zeros_like(output.weight[:, 0]) if output.bias is None else output.bias - shift
    best, most = None, 0.0
    for features in noise_features(seen.target):
        mean = features.mean(0).to(output.weight)
        told, size = output.weight @ mean, float(mean @ mean) + (output.bias is not None)
        if not size > 0:
            continue
        errors = (told + bias) / size
        explained = size * float(errors.square().sum())
        # Not `<=`: features that are not finite explain nothing.
        if explained > most:
            best, most = (errors, told), explained
    if best is None:
        return None
    errors, told = best
    opposed = float(torch.nn.functional.cosine_similarity(told, bias, dim=0)) < OPPOSED
    return None if opposed else errors + shift


def noise_features(target: Target) -> list[Tensor]:
    """The features (PROBES, d) of random inputs, for each brightness that they can have."""
    noise = probe_inputs(target, PROBES, key=Key(0).child("mean features"))
    # Token ids are names, not numbers: a tenth of one is no id.
    if not noise.is_floating_point():
        return [features_at(target, noise).double()]
    low, _ = target.domain.bounds(noise)
    return [features_at(target, low + level * (noise - low)).double() for level in LEVELS]
