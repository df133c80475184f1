"""How many frames stand out of the noise on an update, and what of it they leave over."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from leakscope.attacks.inputs.frames.window.window_span import compressed, span_of
from leakscope.core.observation import Observation
from leakscope.targets.looking.dense_stack import DenseStack

Array = NDArray[np.float64]

ABOVE = 1.05
"""The largest singular value of noise is random by a percent or so; what is this much above its edge is signal."""
CLEAR = 1.5
"""With this factor between the last value above the edge and the edge, nothing is hidden in the noise."""
DROP = 3.0
"""The same where the noise is not declared: spectra of rounded signs have steps of 1.5 that no frames make."""


@final
@dataclass(frozen=True)
class Count:
    """frames: how many stand out, at least. surely: whether there are no others. gap: the factor that shows it."""

    frames: int
    surely: bool
    gap: float


def counted(matrix: Array, noise: float) -> Count:
    """The rank of A (n, H) above the largest singular value that noise has, sd (sqrt n + sqrt H) (Marchenko-Pastur).

    Without declared noise it is where the spectrum drops to the floor of rounding (`span_of`), by `DROP` at least.
    """
    if not noise > 0:
        # No declared size to compare with, so a rank counts only where the spectrum drops by itself.
        span = span_of(matrix)
        return Count(span.rank, span.gap > DROP, span.gap) if span.gap > DROP else Count(0, False, 1.0)
    spectrum = np.linalg.svd(compressed(matrix), compute_uv=False)
    # With T frames at most T values exceed the largest of noise alone (Weyl): none is counted that is not there.
    edge = ABOVE * noise * (math.sqrt(matrix.shape[0]) + math.sqrt(matrix.shape[1]))
    rank = int((spectrum > edge).sum())
    # The next value is below the edge, or it would have been counted: this is the distance from the edge itself.
    gap = float(spectrum[rank - 1] / max(edge, float(spectrum[rank]))) if 0 < rank < len(spectrum) else 1.0
    return Count(rank, gap > CLEAR, gap)


def remaining_noise(matrix: Array, frames: int) -> float:
    """The standard deviation of what no `frames` directions explain: sqrt(sum_(i > T) s_i^2 / ((n - T) (H - T)))."""
    size, columns = matrix.shape
    if frames >= min(size, columns):
        return math.nan
    spectrum = np.linalg.svd(compressed(matrix), compute_uv=False)
    # T frames take T directions from rows and from columns: noise is left in (n - T) (H - T) of n H entries.
    return float(np.sqrt((spectrum[frames:] ** 2).sum() / ((size - frames) * (columns - frames))))


def matrices(seen: Observation, stack: DenseStack) -> list[Array]:
    """[dL/dW; dL/db] (n + 1, H) of the layers behind the first; as many as the release holds without a gap."""
    gradient = seen.gradient().by_name
    found: list[Array] = []
    for layer in stack.layers[1:]:
        if not all(name in gradient for name in layer.names):
            break
        weight, bias = (gradient[name].detach().double().cpu().numpy() for name in layer.names)
        # torch keeps (out, in); rows are inputs here, the appended 1 last.
        found.append(np.vstack([weight.T, bias]))
    return found
