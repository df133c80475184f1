"""Utterances of the same length in one batch, told apart because each leaves many units of the layer at rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Every tried one is compared with every sampled one: 600 x 40 000 angles are 0.2 GB. Fewer tried would miss utterances
# that are seldom alone: of 1 % of all, 600 hit none in 0.99^600 = 0.2 % of cases.
SAMPLED = 40_000
"""Directions that are looked at."""
TRIED = 600
"""Directions that are tried as the one of an utterance."""
RESTING = 0.25
"""See `Unmixing.at_rest`."""


@final
@dataclass(frozen=True, eq=False)
class Unmixing:
    """directions: (B, B) rows of unit length, utterance b is their combination of the basis up to a factor.

    shares: (B,) the part of all looked-at directions that each one repeats.
    """

    directions: Array
    shares: Array

    @property
    def at_rest(self) -> bool:
        """Whether every direction repeats as often as units at rest make it: only then is it surely one utterance.

        With half of all units awake for each utterance, the one alone is awake at 2^-B of them; a quarter of that is
        asked for. Directions that merely lie close, as the errors of tanh and GELU do where they are small, reach .6 %
        for B = 2, where 6.3 % are asked for and ReLU gives over 20 %.
        """
        return bool(self.shares.min() > RESTING * 0.5 ** len(self.shares))


def unmix(errors: Array, *, tolerance: float = 1e-3) -> Unmixing | None:
    """The directions that repeat most among e = M^T delta, delta the sparse (B,) errors of one unit at one frame.

    errors: (B, n). Utterance b is sum_k M_bk Y_k. Where only utterance b makes the unit err, e is collinear with row b
    of M; mixtures of several point anywhere. A direction repeats when it is within `tolerance` radians.
    None when fewer than ten repeat one of the B directions, or these are not independent.
    """
    several = len(errors)
    directions = _large(errors)
    rows, shares = [], []
    left = np.ones(directions.shape[1], dtype=bool)
    for _ in range(several):
        remaining = directions[:, left]
        if remaining.shape[1] < 10 * several:
            return None
        found = _most_repeated(remaining, tolerance)
        if found is None:
            return None
        row, share = found
        # Ten are more than chance for B > 2 alone. In the plane 2 tolerance / pi of all are this near to any direction,
        # 25 of 40 000.
        if share * remaining.shape[1] < 10:
            return None
        rows.append(row)
        shares.append(share * remaining.shape[1] / directions.shape[1])
        # Wider than what was counted, so that the flank of this peak is not found as the next.
        left &= _angles(row[None], directions)[0] > 3 * tolerance
    stacked = np.stack(rows)
    # Rows closer to dependent than a direction is known: one utterance found twice.
    if np.linalg.cond(stacked) > 1 / tolerance:
        return None
    return Unmixing(stacked, np.array(shares))


def _large(errors: Array) -> Array:
    """Directions (B, n) of the errors that stand clear of rounding, evenly thinned out."""
    norms = np.linalg.norm(errors, axis=0)
    # Rounding turns a direction by its share of the norm: the louder half of what is not at rest is turned least.
    alive = norms > 1e-4 * np.quantile(norms, 0.99)
    places = np.flatnonzero(alive & (norms >= np.median(norms[alive])))
    places = places[:: max(1, len(places) // SAMPLED)]
    return np.asarray(errors[:, places] / norms[places])


def _angles(rows: Array, directions: Array) -> Array:
    """Angles in [0, pi/2] between lines, (rows, directions), to 1e-8."""
    along = rows @ directions
    # A line has no sign, hence |cos|. Rounding of cos^2 is 1e-16, so an angle of 1e-8 is still seen.
    across = np.sqrt(np.maximum(0.0, 1 - along**2))
    return np.arctan2(across, np.abs(along))


def _most_repeated(directions: Array, tolerance: float) -> tuple[Array, float] | None:
    """The direction with most others within the tolerance, averaged over them, and their share; None for strays."""
    tried = directions[:, :: max(1, directions.shape[1] // TRIED)].T
    near = _angles(tried, directions) < tolerance
    best = tried[int(near.sum(1).argmax())]
    for reach in (tolerance, tolerance / 3):
        close = directions[:, _angles(best[None], directions)[0] < reach]
        if not close.shape[1]:  # the mean of two that merely lie near is near to neither
            return None
        # Lines cannot be averaged as vectors; the first singular vector is nearest to all, whatever their signs. Then
        # once more from a third of the tolerance, with fewer strangers.
        vectors, _, _ = np.linalg.svd(close, full_matrices=False)
        best = vectors[:, 0]
    share = float((_angles(best[None], directions)[0] < tolerance).mean())
    return best, share
