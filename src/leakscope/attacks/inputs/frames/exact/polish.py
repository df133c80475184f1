"""Maximum likelihood under noise that is alike in all entries of the update: a step or two beyond the linear system."""

from __future__ import annotations

from typing import final

import numpy as np
from numpy.typing import NDArray

from leakscope.attacks.inputs.frames.window.window_span import Span, compressed
from leakscope.numerics import banded, conjugate
from leakscope.targets.looking.context_window import ContextWindow

Array = NDArray[np.float64]


def polished(
    matrix: Array, utterances: tuple[Array, ...], span: Span, window: ContextWindow, *, inner: int = 200
) -> tuple[Array, ...]:
    """Gauss-Newton on |A - S [X; 1] Delta|^2, Delta eliminated (variable projection; Golub and Pereyra 1973).

    matrix: [dL/dW; dL/db] (D + 1, H), brought to A by the span's factors of rows (S) and columns. The linear system
    weighs all frames alike; here a combination of frames counts as much as its errors are large, so that weak ones no
    longer spoil the strong. Up to three steps while the value falls; each is solved by at most `inner` conjugate
    gradients, preconditioned by the banded matrix that leaves out what couples distant frames.
    """
    scaled = matrix * span.scale[:, None] * span.columns
    small = compressed(scaled)
    best = _Step(small, utterances, span.scale, window)
    for _ in range(3):
        following = _Step(small, best.taken(inner), span.scale, window)
        if not following.value < best.value:
            break
        # A step that gains less than a thousandth is the last: the next would gain a millionth.
        done = following.value > 0.999 * best.value
        best = following
        if done:
            break
    return best.utterances


@final
class _Step:
    """The problem, linearized at `utterances`."""

    def __init__(self, matrix: Array, utterances: tuple[Array, ...], scale: Array, window: ContextWindow) -> None:
        self.window, self.utterances = window, utterances
        self.edges = np.cumsum([0, *(len(frames) for frames in utterances)])
        # S [X; 1] = Q R by the transpose's QR: Q Q^T projects on the span of the windows, and Delta = R^-1 Q^T A.
        stacked = np.hstack([self.windows(np.vstack(utterances)), np.ones((self.edges[-1], 1))]) * scale
        inside, triangle = np.linalg.qr(stacked.T)
        seen = inside.T @ matrix
        errors = np.linalg.solve(triangle, seen)
        rest = matrix - inside @ seen
        self.value = float((rest**2).sum())
        # The derivative of the residual by X is -(I - Q Q^T) S dX Delta; that through Delta is left out (Kaufman 1975).
        # Gauss-Newton matrix: (I - Q Q^T between the rows' scales) (x) Delta Delta^T, the 1 cannot move.
        self.gram = errors @ errors.T
        within = inside[:-1] * scale[:-1, None]
        self.outside = np.diag(scale[:-1] ** 2) - within @ within.T
        # Minus half the derivative of |rest|^2 by the frames, so it points downhill.
        self.slope = self.folded((errors @ rest.T)[:, :-1] * scale[:-1])
        # Delta Delta^T without what couples two frames: each utterance has one weight per window, and is banded.
        self.factors = [
            banded.factor(banded.assemble(self.outside, weights, left=window.left, features=window.features))
            for weights in np.split(np.diag(self.gram), self.edges[1:-1])
        ]

    def windows(self, frames: Array) -> Array:
        """Of all utterances, one below the other."""
        parts = np.split(frames, self.edges[1:-1])
        return np.vstack([banded.windows(part, left=self.window.left, right=self.window.right) for part in parts])

    def folded(self, parts: Array) -> Array:
        """The transpose of `windows`."""
        pieces = np.split(parts, self.edges[1:-1])
        return np.vstack(
            [banded.overlap_add(piece, left=self.window.left, features=self.window.features) for piece in pieces]
        )

    def normal(self, frames: Array) -> Array:
        """The Gauss-Newton matrix times a direction."""
        return self.folded(self.gram @ (self.windows(frames) @ self.outside))

    def preconditioned(self, frames: Array) -> Array:
        """Utterance by utterance."""
        parts = np.split(frames, self.edges[1:-1])
        solved = [
            part if factor is None else banded.solve(factor, part.ravel()).reshape(part.shape)
            for factor, part in zip(self.factors, parts, strict=True)
        ]
        return np.vstack(solved)

    def taken(self, inner: int) -> tuple[Array, ...]:
        """The utterances after the step, by preconditioned conjugate gradients."""
        # The slope is minus half the derivative, so the step is added. To 1e-5: nothing is refined after this, and to
        # 1e-3 would save a third of the products and lose 5e-7 of what the step gains.
        change = conjugate.solved(self.normal, self.slope, within=1e-5, most=inner, near=self.preconditioned)
        return tuple(np.split(np.vstack(self.utterances) + change, self.edges[1:-1]))
