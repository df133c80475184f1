"""Exact frames of utterances that are too long for the first layer alone, from the second layer's gradient."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from leakscope.attacks.attack import AbstractAttack
from leakscope.attacks.inputs.frames.claimed import claimed
from leakscope.attacks.inputs.frames.exact.repeats import undetermined
from leakscope.attacks.inputs.frames.exact.scale import sized
from leakscope.attacks.inputs.frames.exact.traceless import Counted, traceless
from leakscope.attacks.inputs.frames.exact.windowed_frames import COARSE, EXACT, WindowedFrames
from leakscope.attacks.inputs.frames.long.growing import Grower, Piece, seeds, utterances
from leakscope.attacks.inputs.frames.long.hidden_span import HiddenSpan
from leakscope.attacks.inputs.frames.window.window_span import CLEAR, Span, span_of
from leakscope.attacks.parts.reading.proof import fed, undeclared
from leakscope.core.attempt import Attempt, Certificate, Cost, Outcome
from leakscope.core.claim import Inputs
from leakscope.core.effort import Clock, Progress, Watch
from leakscope.core.errors import BadInput
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.reading import drops_units, keeps_model, known_weights, one_gradient
from leakscope.numerics import banded
from leakscope.numerics.rng import Key
from leakscope.numerics.trees import Named
from leakscope.targets.looking.context_window import ContextWindow, context_window
from leakscope.targets.looking.dense_stack import DenseStack, dense_stack

Array = NDArray[np.float64]

STATEMENT = (
    "[h(x_t); 1] of every window lies in the span of [dL/dW_2; dL/db_2], and together they span it; of "
    "further frames that leave nothing, silence and repetitions at the ends were asked about, and not all other sounds"
)


@final
@dataclass(frozen=True)
class LongFrames(AbstractAttack[tuple[ContextWindow, DenseStack], Inputs]):
    """Solves (I - U U^T) [h(x_t); 1] = 0, h(x) = min(max(W_1^T x + b_1, 0), clip), one window x_t after the other.

    The second dense layer's gradient [dL/dW_2; dL/db_2] (H + 1, H_2) = sum_t [h_t; 1] delta_t^T has the hidden units of
    all T frames in its column space, with basis U: T is its rank, and one window alone has H + 1 - T equations for its
    D unknowns (1299 for 494 in 15 s of speech and 2048 units). An utterance's first window begins with zeros, which
    leaves fewer unknowns: Gauss-Newton from the ratios dL/dW_1 / dL/db_1 of single units finds it, or the last one, or
    one inside (`seeds`). The next window shares all but one frame with it, so the utterance is grown frame by frame
    until the zeros around it show (`Grower`).

    Needs the weights of the first layer as the client had them, and units that were not dropped: FedSGD, no dropout.
    Up to D + 1 - F frames are left to `WindowedFrames`, which needs neither.
    window: the first layer, or None to find it by running the model.
    The certificate is the largest of three relative residuals: any window's units against the span, the gradient
    against the span of all units, and the same for its last row, summed errors against dL/db_2.
    Claims frames (N, T, F), padded with zeros, with their lengths. Raises `BadInput` on something else than a window.
    """

    window: ContextWindow | None = None

    def __post_init__(self) -> None:
        if self.window is not None and not isinstance(self.window, ContextWindow):
            raise BadInput(f"expected a ContextWindow or None, got {self.window!r}")

    @property
    def citation(self) -> str:
        """None: leakscope's own."""
        return ""

    def _attempt(
        self, seen: Observation, read: tuple[ContextWindow, DenseStack], *, key: Key, clock: Clock, watch: Watch
    ) -> Attempt[Inputs]:
        window, stack = read
        # The first layer needs neither weights nor a start, so what it determines is not searched for. Its estimate is
        # kept for the case that nothing can be grown.
        short = None
        if span_of(np.vstack(window.read(seen.gradient().by_name))).rank <= window.most_frames:
            easy = WindowedFrames(window).run(seen, key=key, budget=clock.remaining(), watch=watch)
            short = dataclasses.replace(easy, attack=repr(self))
            if short.certificate is not None and short.certificate.holds:
                return short
        grown = self._grown(seen, (window, stack), key=key, log=_Log(clock, watch))
        return short if short is not None and short.claim is not None and grown.claim is None else grown

    def _grown(
        self, seen: Observation, found: tuple[ContextWindow, DenseStack], *, key: Key, log: _Log
    ) -> Attempt[Inputs]:
        """From the second layer's gradient."""
        window, stack = found
        matrix = _second(seen.gradient().by_name, stack)
        span = span_of(matrix)
        refused = _unsolvable(span, matrix, window)
        if refused is not None:
            return Attempt(repr(self), Outcome.REFUSED, refused.sentence)
        # The weights of layer 1 make windows to hidden units, the gradient of layer 2 says which of these occurred.
        problem = HiddenSpan(stack.layers[0], stack.clip, span)
        log.total = span.rank
        grower = Grower(problem, window, key.child("near").numpy(), log)
        # Starts come from the gradient of layer 1, whose span is full but whose ratios are still mixtures of few
        # windows.
        starts = seeds(problem, window, *window.read(seen.gradient().by_name))
        whole, parts = utterances(problem, window, starts, span.rank, grower)
        cost = Cost(evaluations=grower.steps)
        if not whole:
            return Attempt(repr(self), Outcome.DIVERGED, _lost(parts, span), cost=cost)
        # Growing looked at one window at a time; the certificate is about all of them, and the gradient itself.
        residual = _residual(whole, problem, matrix, window)
        counted = Counted(stack.layers[1].names, lambda sent: _second(sent, stack), span)
        return dataclasses.replace(self._claimed(seen, window, (whole, counted), residual), cost=cost)

    def _claimed(
        self, seen: Observation, window: ContextWindow, found: tuple[list[Array], Counted], residual: float
    ) -> Attempt[Inputs]:
        whole, counted = found
        span = counted.span
        dtype = seen.release.by_name[window.weight].dtype
        tolerance = EXACT.get(dtype, COARSE)
        certificate = Certificate.alike(residual, tolerance, STATEMENT, items=len(whole))
        lengths, like = [len(frames) for frames in whole], seen.target.parameters()[window.weight]
        sentence = (
            f"utterances of {', '.join(map(str, lengths))} frames, grown from single windows: {sum(lengths)} of "
            f"{span.rank} by rank (gap {span.gap:.1e}), relative residual {residual:.1e}"
        )
        doubt = undeclared(seen) or undetermined(seen, whole, window)
        shown: float | Refusal = math.inf
        if doubt is None and certificate.holds:
            # hidden units of a rectified layer without biases are as large as its frames, and no witness of their size
            shown = sized(seen, whole, window)
            doubt = shown if isinstance(shown, Refusal) else traceless(seen, whole, window, counted)
        if doubt is not None:
            sentence += f"; no proof: {doubt.sentence}"
            return Attempt(repr(self), Outcome.CLAIMED, sentence, claimed(whole, like))
        claim = claimed(whole, like, proved=certificate.holds)
        size = math.inf if isinstance(shown, Refusal) else shown
        return fed(seen, Attempt(repr(self), Outcome.CLAIMED, sentence, claim, certificate), window, size=size)

    def _read(self, seen: Observation) -> tuple[ContextWindow, DenseStack] | Refusal:
        # h is computed from the weights that are known: after a local step the client's are others.
        if known_weights(seen.mechanism) is Answer.NO:
            return Refusal(f"{seen.mechanism!r} moves the weights between steps; this needs one gradient (FedSGD)")
        if one_gradient(seen.mechanism) is not Answer.YES:
            return Refusal(f"{seen.mechanism!r} is not known to send the plain mean gradient (FedSGD)")
        if keeps_model(seen.mechanism) is not Answer.YES:
            why = (
                "drops units at random" if drops_units(seen.mechanism) is Answer.YES else "may run the model otherwise"
            )
            return Refusal(f"the client {why}: the hidden units are no function of the frames alone")
        try:
            window = self.window or context_window(seen.target)
            window.read(seen.gradient().by_name)
        except BadInput as error:
            return Refusal(str(error))
        # Growing lives on what neighboring windows share.
        if window.width < 2:
            return Refusal(f"{window.weight} sees one frame at a time: no window leads to the next")
        stack = dense_stack(seen.target, window)
        if len(stack.layers) < 2:
            return Refusal(
                f"no dense layer is fed the ReLU of {window.weight}, unit by unit, as the client runs the model: "
                "another activation, or dropout, which makes the hidden units no function of the frames alone"
            )
        missing = [name for name in stack.layers[1].names if name not in seen.release.by_name]
        if missing:
            return Refusal(f"the release lacks {' and '.join(missing)}")
        return window, stack


@final
class _Log:
    """Shows progress, and says when the budget is spent."""

    def __init__(self, clock: Clock, watch: Watch) -> None:
        self.total, self.clock, self.watch = 1, clock, watch

    def __call__(self, steps: int, frames: int, residual: float) -> bool:
        note = f"{frames} of {self.total} frames"
        self.watch(Progress(min(frames / self.total, 1.0), residual, note, steps))
        return self.clock.exhausted(steps)


def _second(sent: Named, stack: DenseStack) -> Array:
    """[dL/dW_2; dL/db_2] (H + 1, H_2)."""
    weight, bias = (sent[name].detach().double().cpu().numpy() for name in stack.layers[1].names)
    # Rows are inputs here, as in `ContextWindow.read`; of a square weight torch's order (out, in) is taken for granted.
    return np.vstack([weight.T if weight.shape == (len(bias), len(stack.layers[0].bias)) else weight, bias])


def _unsolvable(span: Span, matrix: Array, window: ContextWindow) -> Refusal | None:
    if span.rank == 0:
        return Refusal("the gradient of the second layer is zero")
    # One window after the other is judged by the span: noise that blurs it would add up along the utterance.
    if span.rank >= min(matrix.shape) or span.gap < CLEAR:
        return Refusal(
            f"the second layer's gradient ({matrix.shape[0]} x {matrix.shape[1]}) has no clear gap in its spectrum: "
            "as many frames as units, or more noise than rounding; FrameLikelihood weighs noise"
        )
    # At an edge the zeros are known: the side with more of them leaves the fewest unknowns.
    edge = window.dimension - max(window.left, window.right) * window.features
    left = len(matrix) - span.rank
    if left <= edge:
        return Refusal(
            f"{span.rank} frames leave {left} equations in {len(matrix) - 1} hidden units, not more than the "
            f"{edge} unknowns of the first or last window"
        )
    return None


def _lost(parts: list[Piece], span: Span) -> str:
    longest = max((len(part.frames) for part in parts), default=0)
    return (
        f"no utterance was found whole among {span.rank} frames (gap {span.gap:.1e}): {len(parts)} pieces, the longest "
        f"of {longest} frames"
    )


def _residual(whole: list[Array], problem: HiddenSpan, matrix: Array, window: ContextWindow) -> float:
    """The certificate's: infinite unless the windows are as many as the span has dimensions."""
    stacked = np.vstack([banded.windows(frames, left=window.left, right=window.right) for frames in whole])
    # Fewer windows cannot span it; more are dependent, so some are not of the utterances.
    if len(stacked) != problem.rank:
        return float("inf")
    scaled = matrix * problem.scale[:, None]
    # The other way round: not only is each [h; 1] in the span, all of them explain the gradient, A - Q Q^T A = 0. Its
    # last row, dL/db_2, is one of H + 1 and would hardly show in the norm of all.
    inside = np.linalg.qr(problem.hidden(stacked).T)[0]
    rest = scaled - inside @ (inside.T @ scaled)
    if not scaled[-1].any():  # dL/db_2 = 0 checks nothing
        return float("inf")
    ratios = [np.linalg.norm(rest) / np.linalg.norm(scaled), np.linalg.norm(rest[-1]) / np.linalg.norm(scaled[-1])]
    # numpy's maximum is NaN where one is, and NaN is no proof.
    return float(np.max([*problem.residuals(stacked), *ratios]))
