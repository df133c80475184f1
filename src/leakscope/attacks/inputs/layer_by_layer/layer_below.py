"""Whether the layer below the output layer confirms the size of what that was fed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from leakscope.attacks.inputs.layered.activations import inverted
from leakscope.core.errors import NoSuchLayer
from leakscope.core.target import Target
from leakscope.targets.looking.layer_chain import layer_chain

Array = NDArray[np.float64]

AGREES = 1e-3
"""Relative distance of a bias gradient from what the errors above make of it that is rounding."""


def confirmed(target: Target, gradient: Mapping[str, Array], features: Array, errors: Array, off: Array) -> bool | None:
    """Whether dL/db of the layer below is sum_s (W^T delta_s) act'(z_s); None where nothing there can say.

    features: (S, d), h_s = act(z_s), what the output layer was fed. errors: (S, C), delta_s = dL/d(W h_s + b), with
    each sample's share of the mean. off: (S,) relative error of the features. A loss that divides the logits by T makes
    all errors 1 / T as large; where the output layer has no bias its own gradient is the same as that of features h / T
    under the declared loss, and it is here that the two differ. It needs a chain of dense and convolutional layers and
    activations, of which the layer below has a bias.
    """
    try:
        links = layer_chain(target)
    except NoSuchLayer:
        return None
    bias = links[-2].bias if len(links) > 1 else None
    if bias is None or bias not in gradient:
        return None
    below, weight = links[-2], links[-1].layer.weight.detach().double().cpu().numpy()
    sizes = np.linalg.norm(features, axis=1)
    # A unit at rest that is not zero by its own rounding would pass an error on.
    kept = np.where(np.abs(features) > (off * sizes)[:, None], features, 0.0)
    slopes = errors @ weight
    terms = [inverted(below.activation, h, slope).errors for h, slope in zip(kept, slopes, strict=True)]
    # A convolution's bias is added at every place.
    each = np.stack(terms).reshape(len(terms), below.returned[0], -1).sum(2)
    sent, expected = gradient[bias], each.sum(0)
    away = float(np.linalg.norm(expected - sent))
    if away <= AGREES * float(np.linalg.norm(expected)):
        return True
    # Terms may cancel to rounding, which contradicts nothing.
    return False if away > AGREES * float(np.linalg.norm(np.abs(each).sum(0))) else None
