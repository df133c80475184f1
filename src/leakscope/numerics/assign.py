"""One-to-one assignment at the lowest total cost; numpy and scipy only, no torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

Indices = NDArray[np.int64]


def assign(costs: ArrayLike) -> tuple[Indices, Indices]:
    """The pairs (rows[k], columns[k]) that minimize sum_k costs[rows[k], columns[k]], each index used at most once.

    costs: (R, C), finite; min(R, C) pairs come back, rows in rising order (Crouse 2016, doi:10.1109/TAES.2016.140952).
    Raises `ValueError` on costs that are not a matrix or not finite: NaN orders nothing, and a forbidden pair
    (infinite cost) would leave an item without a partner.

    >>> rows, columns = assign([[4.0, 1.0], [2.0, 0.0], [9.0, 9.0]])
    >>> rows.tolist(), columns.tolist()
    ([0, 1], [1, 0])
    """
    matrix = np.asarray(costs, dtype=np.float64)
    if matrix.ndim != 2:
        raise ValueError(f"expected a matrix of costs (rows, columns), got shape {matrix.shape}")
    # scipy raises on NaN too, but takes an infinite cost for a pair that is forbidden.
    bad = int((~np.isfinite(matrix)).sum())
    if bad:
        raise ValueError(
            f"expected finite costs, got {bad} of {matrix.size} that are NaN or infinite; repair them first"
        )
    rows, columns = linear_sum_assignment(matrix)
    # They come as intp, whose size is that of the platform.
    return rows.astype(np.int64), columns.astype(np.int64)
