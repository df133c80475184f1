"""Whether a label may have been said in silence that left no trace: the model sure of it, its error is zero."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from leakscope.attacks.inputs.frames.exact.traceless import longer
from leakscope.attacks.transcripts.exact.masked_runs import passed
from leakscope.attacks.transcripts.exact.occupancy import last_layer
from leakscope.core.facts import BatchSize, Lengths
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.targets.looking.context_window import ContextWindow
from leakscope.targets.losses import CTC

Array = NDArray[np.float64]

SURE = 1e-3
"""Largest probability of all other classes that is asked about: an error that is larger shows in any gradient."""
SAFETY = 10.0
"""How many times what the frames found leave of the output layer's gradient another one has to leave, to be seen."""
ROUNDING = 1e-7
"""The least that is left in float32."""
NOTHING = 1e-4
"""Inputs of the output layer below this share of the others leave nothing in the gradient of its weight."""


def silent_labels(
    seen: Observation, frames: Sequence[Array], window: ContextWindow, residual: float, divisor: float
) -> Refusal | None:
    """Why a transcript need not be all that was said, or two of them may be one; None where that would have shown.

    The output layer's gradient is sum_t (p_t - gamma_t) h_t^T. Silence around the frames that were found is missing
    from them where it leaves no error in any layer, and a label said there is then missing from the transcript. Where
    the model is not sure, p - gamma shows in the output layer; where it is sure of the blank, gamma is that of the
    blank, and nothing was said. What is left is a model that is sure of a label in silence, and one whose output layer
    is fed nothing there. A pause in which it is sure, of whatever class, may stand between two utterances.
    residual: the share of that gradient that is left. divisor: by which the loss divides, the largest that is likely:
    a frame of which all other classes have r leaves r |h| / divisor or more.
    """
    if seen.knows(Lengths):
        return None
    layer, loss = last_layer(seen), seen.target.loss
    assert isinstance(loss, CTC)
    whole = float(seen.gradient().by_name[layer.weight].double().norm())
    least = SAFETY * max(residual, ROUNDING) * whole * divisor
    biased = layer.bias is not None and layer.bias in seen.release.by_name
    size = float(
        passed(seen.target, [torch.from_numpy(np.ascontiguousarray(one)) for one in frames], {}, [layer.name])[
            layer.name
        ]
        .given.norm(dim=1)
        .mean()
    )
    for one in longer(frames, window, joined=not seen.knows(BatchSize)):
        call = passed(seen.target, [torch.from_numpy(one.frames)], {}, [layer.name])[layer.name]
        place = one.added(len(call.returned))
        given, others = call.given[place], call.returned[place].softmax(-1)
        label = others.argmax(-1)
        # Not 1 - p, which rounds: what all others sum to.
        rest = others.scatter(1, label[:, None], 0.0).sum(-1)
        unseen = (rest < SURE) & (rest * given.norm(dim=1) < least)
        hidden = unseen & ((label != loss.blank) | one.joined)
        if not biased:
            hidden |= given.norm(dim=1) < NOTHING * size
        if bool(hidden.any() if not one.joined else hidden.all()):
            return Refusal(
                f"of {one.what} the model is so sure that they would leave no trace: what was said there is not known"
            )
    return None
