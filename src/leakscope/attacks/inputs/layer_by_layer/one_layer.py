"""What one dense layer was fed, from its gradient and errors that are known but for which units were awake."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

TURNS = 20
"""Rounds in which masks are read again; those that end right need five at most."""
ROUNDING = 2e-6
"""Of a sample's largest feature: up to this one is zero, to rounding of float32."""
NEGATIVE = 3.0
"""Features are never negative, so a sample's own error shows as its most negative one; up to so many times that, one is
none."""
PLACE = 2.0**-24
"""Rounding of float32."""
EXPLAINED = 5e-7
"""What rounding of float32 leaves of a gradient that is explained, relative."""
FLIPS, WORST, TRIED = 24, 3, 10
"""Single entries of a mask that are turned at most; units, and entries of each, that are tried for one."""


@final
@dataclass(frozen=True, eq=False)
class Fed:
    """values: (S, d), what the layer was fed. errors: (S, H), dL/dz of each sample, not divided by their number.

    off: (S,) relative error of `values` that rounding of the gradient and of the errors leaves, estimated.
    replayed: the relative distance of (1 / N) errors^T values from the gradient.
    """

    values: Array
    errors: Array
    off: Array
    replayed: float


def fed(gradient: Array, errors: Array, samples: float, rounding: Array) -> Fed:
    """A = N (Delta^+)^T dL/dW from dL/dW (H, d) = (1 / N) Delta^T A; Delta (S, H) of full rank S.

    rounding: (S,) relative error of each row of Delta.
    """
    inverse = np.linalg.pinv(errors)
    values = samples * inverse.T @ gradient
    left = gradient - errors.T @ values / samples
    height, width = gradient.shape
    # Row by row: the rounding of a row of dL/dW is of its own size.
    free = max(height - len(errors), 1) / height
    rows = np.sqrt((left**2).sum(1) / width / free) + PLACE * np.sqrt((gradient**2).mean(1))
    own = samples * np.sqrt(width) * np.sqrt((inverse**2).T @ rows**2)
    sizes = np.linalg.norm(values, axis=1)
    known = float(np.linalg.norm(sizes * rounding * np.linalg.norm(errors, axis=1)))
    off = (own + known * np.linalg.norm(inverse, axis=0)) / np.maximum(sizes, 1e-300)
    replayed = float(np.linalg.norm(left) / max(float(np.linalg.norm(gradient)), 1e-300))
    return Fed(values, errors, off, replayed)


def awake(features: Array) -> Mask:
    """Which features of each sample (S, H) are above rounding, and above what its own error may be."""
    least = np.maximum(NEGATIVE * np.maximum(-features.min(1), 0), ROUNDING * np.abs(features).max(1))
    return np.asarray(features > least[:, None])


def remasked(gradient: Array, full: Array, mask: Mask, samples: float) -> Mask:
    """Which units were awake for which sample: the mask with which errors `full` * mask explain dL/dW (H, d).

    full: (S, H), the error of each unit if it was awake. From A, solved for with a mask that is nearly right, all
    errors can be solved for in turn, Delta = N (dL/dW A^+)^T, without any mask: a unit was awake where that is nearer
    to `full` than to zero. Few wrong entries of a mask disturb both by little, so that the next one is better; features
    near zero decide nothing. Where that ends, and units are left that no inputs explain, single entries of these are
    turned as long as it explains more.
    """
    # The rows' coordinates in their own span, (H, min(H, S)): all that the errors have to do with.
    left, sizes, _ = np.linalg.svd(gradient, full_matrices=False)
    rows = (left * sizes)[:, : len(full)]
    mask, found = _alternated(rows, full, mask, samples)
    away = _unexplained(rows, full * mask)
    least = EXPLAINED * float(np.linalg.norm(rows))
    for _ in range(FLIPS):
        if float(np.linalg.norm(away)) <= least:
            break
        better = _turned(rows, full, mask, found, away)
        if better is None:
            break
        mask, found = _alternated(rows, full, better, samples)
        ahead = _unexplained(rows, full * mask)
        if not float(np.linalg.norm(ahead)) < float(np.linalg.norm(away)):
            # Read again it became worse: the single entry alone.
            mask, ahead = better, _unexplained(rows, full * better)
        away = ahead
    return mask


def _alternated(rows: Array, full: Array, mask: Mask, samples: float) -> tuple[Mask, Array]:
    """The mask that is read off the errors which the inputs by the mask before give, again and again; those errors."""
    before = [mask]
    for _ in range(TURNS):
        values = samples * np.linalg.pinv(full * mask).T @ rows
        found = samples * (rows @ np.linalg.pinv(values)).T
        # found / full > 1 / 2, where `full` is zero: asleep or awake is the same.
        mask = np.asarray(2 * found * full > full**2)
        if any(np.array_equal(mask, one) for one in before):
            break
        before.append(mask)
    return mask, found


def _unexplained(rows: Array, errors: Array) -> Array:
    """(H,) how much of each unit's row no inputs explain with these errors (S, H)."""
    basis, _ = np.linalg.qr(errors.T)
    return np.asarray(np.linalg.norm(rows - basis @ (basis.T @ rows), axis=1))


def _turned(rows: Array, full: Array, mask: Mask, found: Array, away: Array) -> Mask | None:
    """The mask with the one entry turned that explains most, of those of the worst units; None for none."""
    best, reached = None, float(np.linalg.norm(away))
    for unit in np.argsort(-away)[:WORST]:
        share = found[:, unit] / np.where(full[:, unit] == 0, 1e-300, full[:, unit])
        for sample in np.argsort(np.abs(share - 0.5))[:TRIED]:
            ahead = mask.copy()
            ahead[sample, unit] ^= True
            size = float(np.linalg.norm(_unexplained(rows, full * ahead)))
            if size < reached:
                best, reached = ahead, size
    return best
