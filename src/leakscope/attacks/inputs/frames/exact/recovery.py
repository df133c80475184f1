"""All frames of all utterances from the gradient of a layer on context windows: one spectrum, then linear systems."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from leakscope.attacks.inputs.frames.exact.polish import polished
from leakscope.attacks.inputs.frames.exact.unmixing import unmix
from leakscope.attacks.inputs.frames.window.null_space import lengths_of, null_space
from leakscope.attacks.inputs.frames.window.window_span import Span, affine_solution, spans_of
from leakscope.core.refusal import Refusal
from leakscope.numerics import banded
from leakscope.targets.looking.context_window import ContextWindow

Array = NDArray[np.float64]

ROUNDED = 1e-5
"""Above this residual the update carries more noise than that of a float32 sum, and is worth the likelihood."""
LOST = 0.2
"""From this residual on, the windows are no more in the span than those of a guess."""


@final
@dataclass(frozen=True, eq=False)
class Recovery:
    """utterances: (T_u, F) each. span: of [dL/dW; dL/db]. residual: relative distance of the windows from the span.

    scales: (U,) how much of each utterance's summed errors the bias gradient holds; 1 when scale and sign are right.
    bias_residual: relative residual of that fit. notes: what else was found, a sentence each. mixed: whether utterances
    of equal length may be mixtures of each other, which neither residual tells.
    """

    utterances: tuple[Array, ...]
    span: Span
    residual: float
    scales: Array
    bias_residual: float
    notes: tuple[str, ...] = ()
    mixed: bool = False


def residual_of(span: Span, utterances: tuple[Array, ...], window: ContextWindow) -> float:
    """The root of sum |P [x; 1]|^2 / sum |[x; 1]|^2 over all windows, rows scaled as in the span; 0 inside the span."""
    stacked = np.vstack([_with_one(frames, window) for frames in utterances]) * span.scale
    outside = stacked @ span.basis[:, span.rank :]
    return float(np.linalg.norm(outside) / np.linalg.norm(stacked))


def recover(
    weight: Array, bias: Array, window: ContextWindow, *, single: float = ROUNDED, polish: bool = True
) -> Recovery | Refusal:
    """The utterances behind dL/dW (D, H) and dL/db (H,), or a sentence that says why there are none to be had.

    One utterance is tried first, with as many frames as the rank; when its residual is above `single`, every length.
    """
    matrix = np.vstack([weight, bias])
    first, other = spans_of(matrix)
    # [x_t; 1] of all frames, one row more than dL/dW: the 1 is what fixes scale and sign.
    refused = _too_many(first, len(matrix), window)
    best = _solved(matrix, first, window, single) if refused is None else None
    # another number of frames may be the right one; with the same, the wider gap has the better weights
    if (best is None or best.residual > single) and other.rank != first.rank:
        found = None if _too_many(other, len(matrix), window) else _solved(matrix, other, window, single)
        if found is not None and (best is None or found.residual < best.residual):
            best = found
    if best is None or not best.residual < LOST:
        return refused or _unexplained(window)
    # Gauss-Newton only refines: frames whose errors do not even half sum to dL/db are not near enough.
    if polish and best.residual > ROUNDED and best.bias_residual < 0.5:
        better = polished(matrix, best.utterances, best.span, window)
        best = dataclasses.replace(_judged(better, best.span, matrix, window, best.notes), mixed=best.mixed)
    return best


def _solved(matrix: Array, span: Span, window: ContextWindow, single: float) -> Recovery | None:
    """One utterance with as many frames as the rank, or, when its residual is above `single`, a batch."""
    # One utterance has T = rank frames. A batch solved as one leaves a residual, so it need not be told which it is.
    frames = affine_solution(span.form(), span.rank, left=window.left, features=window.features)
    found = None if frames is None else _judged((frames,), span, matrix, window)
    if found is None or found.residual > single:
        found = _several(matrix, span, window) or found
    return found


def _too_many(span: Span, size: int, window: ContextWindow) -> Refusal | None:
    if span.rank == 0:
        return Refusal(f"the gradient of {window.weight} is zero")
    limit = window.most_frames
    # No gap: `rank_of` then answers with the number of rows.
    if span.rank >= min(size, len(span.spectrum)):
        return _unexplained(window)
    if span.rank > limit:
        return Refusal(
            f"{span.rank} frames (gap {span.gap:.1e} in the spectrum) are more than the {limit} that windows of "
            f"{window.width} x {window.features} determine: {window.dimension} + 1 - {window.features}; "
            "LongFrames solves for more from the second layer, where the weights are known"
        )
    return None


def _unexplained(window: ContextWindow) -> Refusal:
    return Refusal(
        f"no number of frames explains the gradient of {window.weight}: more frames than the {window.most_frames} that "
        f"windows of {window.width} x {window.features} determine, or more noise than the closed form bears; "
        "LongFrames solves for more frames from the second layer, FrameLikelihood weighs noise"
    )


def _with_one(frames: Array, window: ContextWindow) -> Array:
    stacked = banded.windows(frames, left=window.left, right=window.right)
    return np.hstack([stacked, np.ones((len(stacked), 1))])


def _judged(
    utterances: tuple[Array, ...], span: Span, matrix: Array, window: ContextWindow, notes: tuple[str, ...] = ()
) -> Recovery:
    sums = _error_sums(utterances, matrix[:-1], span, window)
    scales, residual = _fit(sums, matrix[-1])
    return Recovery(utterances, span, residual_of(span, utterances, window), scales, residual, notes)


def _error_sums(utterances: tuple[Array, ...], weight: Array, span: Span, window: ContextWindow) -> Array:
    """sum_t delta_t of each utterance (U, H), delta the least-squares errors with dL/dW = sum_t x_t delta_t^T."""
    errors = _errors(utterances, weight, span, window)
    edges = np.cumsum([0, *(len(frames) for frames in utterances)])
    return np.stack([errors[first:last].sum(0) for first, last in itertools.pairwise(edges)])


def _errors(utterances: tuple[Array, ...], weight: Array, span: Span, window: ContextWindow) -> Array:
    stacked = np.vstack([banded.windows(frames, left=window.left, right=window.right) for frames in utterances])
    scale = span.scale[: window.dimension]
    # S dL/dW = (X S)^T Delta with X (T, D): in rows scaled as the span's, where noise is alike, least squares is due.
    return np.asarray(np.linalg.lstsq((stacked * scale).T, weight * scale[:, None], rcond=None)[0])


def _fit(sums: Array, bias: Array) -> tuple[Array, float]:
    """The factors c (U,) with bias = sum_u c_u sums_u in the least squares, and the relative residual."""
    # An utterance f times too large has errors f times too small, since x delta^T is what is observed: c = f.
    factors = np.asarray(np.linalg.lstsq(sums.T, bias, rcond=None)[0])
    norm = np.linalg.norm(bias)
    return factors, float(np.linalg.norm(bias - factors @ sums) / norm) if norm > 0 else float("nan")


def _several(matrix: Array, span: Span, window: ContextWindow) -> Recovery | None:
    """The utterances of a batch, or None when no set of lengths explains the rank."""
    homogeneous = span.without_last().form()
    lengths = lengths_of(homogeneous, span.rank, left=window.left, features=window.features)
    if lengths is None:
        return None
    # The 1 scales an utterance that is alone with its length. Of several, all mixtures with weights that sum to 1 solve
    # the affine system: it is singular.
    affine = span.form()
    alone: list[Array] = []
    groups: list[Array] = []
    for count, several in sorted(lengths.items(), reverse=True):
        if several > 1:
            groups.append(null_space(homogeneous, count, several, left=window.left, features=window.features))
            continue
        frames = affine_solution(affine, count, left=window.left, features=window.features)
        if frames is None:
            return None
        alone.append(frames)
    notes: tuple[str, ...] = (
        f"lengths {', '.join(f'{n} x {t}' if n > 1 else str(t) for t, n in sorted(lengths.items()))}",
    )
    if groups:
        apart = _apart(tuple(alone), groups, matrix, span, window)
        if apart is None:
            return None
        alone, shares, resting = [*alone, *apart[0]], apart[1], apart[2]
        notes = (*notes, f"utterances of equal length told apart by {shares.min():.1%} to {shares.max():.1%} of errors")
        return dataclasses.replace(_judged(tuple(alone), span, matrix, window, notes), mixed=not resting)
    return _judged(tuple(alone), span, matrix, window, notes)


def _apart(
    alone: tuple[Array, ...], groups: list[Array], matrix: Array, span: Span, window: ContextWindow
) -> tuple[list[Array], Array, bool] | None:
    """The utterances of each group of equal length, scaled by the bias gradient, the shares of `unmix`, and whether all
    are surely apart (`at_rest`)."""
    mixtures = [sequence for group in groups for sequence in group]
    # dL/dW = sum_u X_u^T delta_u + sum_k X(Y_k)^T E_k: with utterance b = sum_k M_bk Y_k, E_k = sum_b M_bk delta_b.
    errors = _errors((*alone, *mixtures), matrix[:-1], span, window)
    start = sum(len(frames) for frames in alone)
    directions: list[Array] = []
    shares: list[float] = []
    resting = True
    for group in groups:
        several, count = len(group), group.shape[1]
        # (B T, H) to (B, T H): e of one unit at one frame is a column.
        part = errors[start : start + several * count].reshape(several, -1)
        start += several * count
        found = unmix(part)
        if found is None:
            return None
        directions += list(np.tensordot(found.directions, group, axes=1))
        shares += list(found.shares)
        resting &= found.at_rest
    # By c = f above. The factors make the weights of each mixture sum to 1, unmixed or not, so that neither residual
    # tells wrong directions from right ones; only the shares do.
    factors, _ = _fit(_error_sums((*alone, *directions), matrix[:-1], span, window), matrix[-1])
    scaled = [frames / factor for frames, factor in zip(directions, factors[len(alone) :], strict=True)]
    return scaled, np.array(shares), resting
