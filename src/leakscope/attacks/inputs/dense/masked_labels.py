"""Labels of inputs that were solved for in front of dropout: layer by layer upward, as errors show what dropped."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leakscope.core.errors import NoSuchLayer
from leakscope.core.observation import Observation
from leakscope.core.overriding import acts_as
from leakscope.core.target import CrossEntropy
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.reading import keeps_ratios, known_weights
from leakscope.mechanisms.running import as_run
from leakscope.targets.looking.dense_ends import DenseLayer
from leakscope.targets.looking.dense_tail import TailLayer, dense_tail

Array = NDArray[np.float64]

ROUNDING = 4.0
"""An error counts as one above so many times the largest that units below zero seem to have."""
CONDITION = 1e-6
"""Least share of the largest direction that what a layer was fed has in every other: below, errors are rounding."""
AGREES = 1e-2
"""Relative distance of an error from what the layer above makes of it that is rounding; a wrong mask is some tenths."""
ALIKE = 0.999
"""Least cosine of an error at the output with p - e_y; those of two labels are 0.87 apart at most."""
EVEN = 1e-2
"""Relative difference of two samples' shares of the batch, all of which are 1 / N."""


def masked_labels(seen: Observation, layer: DenseLayer, inputs: Array) -> Tensor | None:
    """The label (N,) int64 of each input (N, D) that the dense layer `layer` was fed.

    Its errors d (N, H) solve [dL/dW, dL/db] = d^T [X, 1]. A unit whose error is zero was at rest or dropped, all others
    were kept: so h = relu(W x + b) / keep at these is what the next layer was fed, its errors solve dL/dW' = d'^T h,
    and so on to the output, where d = (p - e_y) / N. Every step is checked: d' W' / keep of the next layer's errors are
    those below again, at the output one label alone explains each error, and all samples have one share of the mean.
    None where any of it fails, as after several steps, where examples repeat, or where there are more examples than
    units awake; and where the model is more than dense layers with ReLU and dropout. No proof: the certificate of the
    inputs does not speak of labels.
    """
    if not acts_as(seen.target.loss, CrossEntropy) or keeps_ratios(seen.mechanism) is not Answer.YES:
        return None
    if known_weights(seen.mechanism) is not Answer.YES:
        return None
    try:
        tail = dense_tail(as_run(seen.mechanism, seen.target))[::-1]
    except NoSuchLayer:
        return None
    update = seen.gradient().by_name
    if tail[0].weight != layer.weight or not all(one.weight in update and one.relu for one in tail[:-1]):
        return None
    if tail[-1].weight not in update or len(tail) < 2:
        return None
    weights = {name: value.double().cpu().numpy() for name, value in seen.target.parameters().items()}
    sent = {one.weight: update[one.weight].double().cpu().numpy() for one in tail}
    first, fed = sent[layer.weight], inputs
    if layer.bias is not None and layer.bias in update:
        # of data that are normalized together the last row follows from the others, but for its one
        first = np.hstack([first, update[layer.bias].double().cpu().numpy()[:, None]])
        fed = np.hstack([inputs, np.ones((len(inputs), 1))])
    own, fed = _errors(first, fed), inputs
    for below, above in itertools.pairwise(tail):
        if own is None:
            return None
        away, made = _outputs(below, weights, fed), own
        # a unit below zero has no error, so that what it seems to have is what rounding makes
        rounding = np.where(away <= 0, np.abs(own), 0.0).max(1, keepdims=True)
        awake = (away > 0) & (np.abs(own) > ROUNDING * rounding)
        fed = np.where(awake, away / below.keep, 0.0)
        own = _errors(sent[above.weight], fed)
        if own is None or not _agree(np.where(awake, own @ weights[above.weight] / below.keep, 0.0), made):
            return None
    return None if own is None else _named(_outputs(tail[-1], weights, fed), own)


def _outputs(layer: TailLayer, weights: dict[str, Array], fed: Array) -> Array:
    bias = 0.0 if layer.bias is None else weights[layer.bias]
    return np.asarray(fed @ weights[layer.weight].T + bias)


def _errors(gradient: Array, fed: Array) -> Array | None:
    """The d (N, C) with dL/dW = d^T h (C, H) of what the layer was fed (N, H); None for none, and for several."""
    found, _, rank, _ = np.linalg.lstsq(fed.T, gradient.T, rcond=CONDITION)
    if rank < len(fed) or not _agree((fed.T @ found)[None], gradient.T[None]):
        return None
    return np.asarray(found)


def _agree(expected: Array, sent: Array) -> bool:
    """Of each sample by itself."""
    away = np.linalg.norm((expected - sent).reshape(len(sent), -1), axis=1)
    return bool((away <= AGREES * np.linalg.norm(sent.reshape(len(sent), -1), axis=1)).all())


def _named(logits: Array, errors: Array) -> Tensor | None:
    """The label of each sample with these logits (N, C) whose error points along p - e_y, one share for all."""
    away = np.exp(logits - logits.max(1, keepdims=True))
    # (N, y, C): p - e_y for each label
    each = (away / away.sum(1, keepdims=True))[:, None] - np.eye(logits.shape[1])
    along = (each * errors[:, None]).sum(2)
    sizes = np.maximum(np.linalg.norm(each, axis=2), 1e-300)
    alike = along / sizes / np.maximum(np.linalg.norm(errors, axis=1), 1e-300)[:, None]
    labels, rows = alike.argmax(1), np.arange(len(logits))
    shares = along[rows, labels] / sizes[rows, labels] ** 2
    # Not `<`, which NaN would pass.
    fits = bool((alike[rows, labels] >= ALIKE).all()) and bool(np.ptp(shares) <= EVEN * shares.mean())
    return torch.from_numpy(labels) if fits else None
