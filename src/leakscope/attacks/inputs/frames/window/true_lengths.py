"""How many frames each utterance behind an update has: told, or read off the layer that is fed windows of frames."""

from __future__ import annotations

import dataclasses

import numpy as np

from leakscope.attacks.inputs.frames.window.null_space import lengths_of
from leakscope.attacks.inputs.frames.window.window_span import span_of
from leakscope.core.errors import BadInput, NoSuchLayer
from leakscope.core.facts import BatchSize, Lengths
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.targets.looking.context_window import context_window


def with_lengths(seen: Observation) -> Observation | Refusal:
    """The observation with `Lengths` among its facts: told, or else found and then in ascending order."""
    if seen.knows(Lengths):
        count, size = len(seen.told(Lengths).values), seen.told(BatchSize).count
        if count != size:
            return Refusal(f"told {count} lengths for a batch of {size}")
        return seen
    found = frame_lengths(seen)
    return found if isinstance(found, Refusal) else dataclasses.replace(seen, facts=(*seen.facts, Lengths(found)))


def frame_lengths(seen: Observation) -> tuple[int, ...] | Refusal:
    """The lengths, ascending, from dL/dW of the first layer on windows; needs `BatchSize`.

    One utterance: the rank of [dL/dW; dL/db]. Several: the lengths whose windows fit into its span (`lengths_of`).
    Refuses where the rank is not clear (noise) or there is no such layer; then the lengths must be told.
    """
    told = "or tell Lengths"
    try:
        window = context_window(seen.target)
        weight, bias = window.read(seen.gradient().by_name)
    except (NoSuchLayer, BadInput) as error:
        return Refusal(f"the number of frames is unknown: {error}; {told}")
    # [x_t; 1] of all frames are independent, so the rank is the number of frames of the whole batch.
    matrix = np.vstack([weight, bias])
    span = span_of(matrix)
    # With the rank full no floor is seen, and there may be more frames than rows.
    if not 0 < span.rank <= window.most_frames or span.rank >= min(matrix.shape):
        return Refusal(f"the number of frames is unknown: {window.weight} has no clear rank; {told}")
    count = seen.told(BatchSize).count
    if count == 1:
        return (span.rank,)
    # Without the 1 any multiple of an utterance is in the span: a zero eigenvalue of its length. With it, none is.
    form = span.without_last().form()
    found = lengths_of(form, span.rank, left=window.left, features=window.features)
    # An update does not say which utterance came first; ascending is what `GradientInversion` takes found lengths for.
    lengths = () if found is None else tuple(sorted(t for t, times in found.items() for _ in range(times)))
    if len(lengths) != count:
        return Refusal(f"the numbers of frames of {count} utterances are unknown: no set of lengths fits; {told}")
    return lengths
