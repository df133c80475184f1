"""Exact speech frames from the gradient of a dense layer that is fed a window of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
import torch

from leakscope.attacks.attack import AbstractAttack
from leakscope.attacks.inputs.frames.claimed import claimed
from leakscope.attacks.inputs.frames.exact.recovery import ROUNDED, Recovery, recover
from leakscope.attacks.inputs.frames.exact.repeats import undetermined
from leakscope.attacks.inputs.frames.exact.scale import sized
from leakscope.attacks.inputs.frames.exact.traceless import Counted, traceless
from leakscope.attacks.parts.reading.proof import fed, undeclared
from leakscope.core.attempt import Attempt, Certificate, Outcome
from leakscope.core.claim import Inputs
from leakscope.core.effort import Clock, Watch
from leakscope.core.errors import BadInput
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.numerics.rng import Key
from leakscope.targets.looking.context_window import ContextWindow, context_window

EXACT = {torch.float64: 1e-9}
"""Largest residual that counts as exact where it is not `COARSE`, by the dtype of the release."""
COARSE = 1e-4
"""The same for float32 and all that is coarser: frames of a wrong number or order leave 0.01 to 1 in the middle of the
range of lengths and 1e-3 close to its end. Half precision rounds to more than that, so it seldom proves anything."""
STATEMENT = (
    "windows [x_t; 1] lie in the span of [dL/dW; dL/db], and the errors of all frames sum to dL/db; of "
    "further frames that leave nothing, silence and repetitions at the ends were asked about, and not all other sounds"
)


@final
@dataclass(frozen=True)
class WindowedFrames(AbstractAttack[ContextWindow, Inputs]):
    """Solves (I - U U^T) [x_t; 1] = 0 for all frames of all utterances at once; x_t is the window at frame t.

    The layer's gradient [dL/dW; dL/db] = sum_t [x_t; 1] delta_t^T has the windows in its column space, with basis U and
    as many columns as there are frames. Windows overlap, so the equations are linear in the frames and block-banded.
    The 1 fixes scale and sign. A batch is found by trying every length on dL/dW alone (each zero eigenvalue is one
    utterance of that length), utterances of equal length are told apart by the units at rest (`unmix`). Neither
    weights nor labels nor lengths are needed; several local steps, dropout and the rest of the model do not matter.
    Limit: D + 1 - F frames altogether, D the size of a window and F of a frame; beyond it the attempt is refused.

    window: the layer, or None to find it by running the model. polish: maximum likelihood (`polished`) where the
    update is coarser than float32, such as differences of weights or half precision.
    The certificate is the larger of two relative residuals: windows against the span, sum_t delta_t against dL/db.
    There is none where these windows may have occurred in another number or order (`undetermined`): silence, repeats;
    nor where the model itself, run on the frames, contradicts them. Where it does not show their size (`sized`), as
    behind dropout while biases are zero, what is proved leaves one factor open for all of them.
    Claims frames (N, T, F), padded with zeros, with their lengths.
    """

    window: ContextWindow | None = None
    polish: bool = True

    def __post_init__(self) -> None:
        if self.window is not None and not isinstance(self.window, ContextWindow):
            raise BadInput(f"expected a ContextWindow or None, got {self.window!r}")
        if not isinstance(self.polish, bool):
            raise BadInput(f"expected polish to be True or False, got {self.polish!r}")

    @property
    def citation(self) -> str:
        """None: leakscope's own."""
        return ""

    def _read(self, seen: Observation) -> ContextWindow | Refusal:
        try:
            window = self.window or context_window(seen.target)
            # Read for its refusals only, before anything is solved.
            window.read(seen.gradient().by_name)
        except BadInput as error:
            return Refusal(str(error))
        return window

    def _attempt(
        self, seen: Observation, read: ContextWindow, *, key: Key, clock: Clock, watch: Watch
    ) -> Attempt[Inputs]:
        del key, clock, watch
        found = self.recovered(seen, read)
        if isinstance(found, Refusal):
            return Attempt(repr(self), Outcome.REFUSED, found.sentence)
        # Windows that lie in the span need not be all of them; errors that sum to dL/db are. One residual for the
        # batch, as a span is shared: it does not tell which utterance is off.
        # numpy's maximum is NaN where one is (dL/db = 0 checks nothing), and NaN is no proof.
        worst = float(np.maximum(found.residual, found.bias_residual))
        certificate = Certificate.alike(worst, _tolerance(seen, read), STATEMENT, items=len(found.utterances))
        sentence = _sentence(found, certificate)
        doubt = undeclared(seen) or _mixed(found) or undetermined(seen, found.utterances, read)
        shown: float | Refusal = math.inf
        if doubt is None and certificate.holds:
            # runs the model, so last
            shown = sized(seen, found.utterances, read)
            doubt = (
                shown if isinstance(shown, Refusal) else traceless(seen, found.utterances, read, _counted(found, read))
            )
        like = seen.target.parameters()[read.weight]
        # The frames are claimed all the same; equations that hold prove nothing of a mechanism that is not declared.
        if doubt is not None:
            claim = claimed(found.utterances, like)
            return Attempt(repr(self), Outcome.CLAIMED, f"{sentence}; no proof: {doubt.sentence}", claim)
        claim = claimed(found.utterances, like, proved=certificate.holds)
        size = math.inf if isinstance(shown, Refusal) else shown
        return fed(seen, Attempt(repr(self), Outcome.CLAIMED, sentence, claim, certificate), read, size=size)

    def recovered(self, seen: Observation, window: ContextWindow) -> Recovery | Refusal:
        """What the claim is made of, in float64, or why there is nothing."""
        weight, bias = window.read(seen.gradient().by_name)
        # Above what exact frames leave, other lengths are tried than one utterance's; rounding coarser than float32 is
        # always above it.
        single = min(ROUNDED, _tolerance(seen, window))
        return recover(weight, bias, window, single=single, polish=self.polish)


def _counted(found: Recovery, window: ContextWindow) -> Counted:
    return Counted((window.weight, window.bias), lambda sent: np.vstack(window.read(sent)), found.span)


def _mixed(found: Recovery) -> Refusal | None:
    """Why utterances of equal length are not proved: mixtures with weights that sum to 1 leave the same residuals."""
    if not found.mixed:
        return None
    return Refusal("utterances of equal length may be mixtures of each other: too few units are at rest to tell")


def _tolerance(seen: Observation, window: ContextWindow) -> float:
    # The dtype of what was sent, not of the model: a cast on the way is what rounds.
    return EXACT.get(seen.release.by_name[window.weight].dtype, COARSE)


def _sentence(found: Recovery, certificate: Certificate) -> str:
    lengths = ", ".join(str(len(frames)) for frames in found.utterances)
    sentence = (
        f"utterances of {lengths} frames in closed form: rank {found.span.rank} with a gap of {found.span.gap:.1e}, "
        f"relative residual {certificate.residual:.1e}"
    )
    if not certificate.holds:
        sentence += f" where exact frames leave {certificate.tolerance:.0e} at most: an estimate, its length included"
    return "; ".join((sentence, *found.notes))
