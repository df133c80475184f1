"""Symmetric positive definite systems that are known only by their products, on arrays of any shape."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, cg

Array = NDArray[np.float64]
Times = Callable[[Array], Array]


def solved(times: Times, right_hand: Array, *, within: float, most: int, near: Times | None = None) -> Array:
    """x with |times(x) - right_hand| <= within |right_hand|, or what `most` products give, by conjugate gradients.

    times: a symmetric positive definite map between arrays of the shape of `right_hand`. near: its approximate inverse,
    symmetric positive definite too, which makes fewer products suffice. within: relative, as the recursion sees the
    residual; rounding keeps the true one above 1e-16 times the condition number. Zero for a `right_hand` of zeros.
    Hestenes and Stiefel 1952 (doi:10.6028/jres.049.044), as scipy has it.

    >>> solved(lambda x: np.diag([1.0, 4.0]) @ x, np.array([1.0, 2.0]), within=1e-12, most=2)
    array([1. , 0.5])
    """
    shape, size = right_hand.shape, right_hand.size

    def flat(function: Times) -> LinearOperator:
        return LinearOperator(
            (size, size), matvec=lambda vector: function(vector.reshape(shape)).ravel(), dtype=np.float64
        )

    # atol=0: the size of what is solved for says nothing, and an absolute bound would stop a small system at once.
    # That `most` was reached is no failure: whoever asks for a step judges it by the value it leads to.
    found, _ = cg(
        flat(times),
        right_hand.ravel(),
        rtol=within,
        atol=0.0,
        maxiter=most,
        M=None if near is None else flat(near),
    )
    return np.asarray(found.reshape(shape), dtype=np.float64)
