"""Which pieces a decoder was fed, by the rows of its embedding's gradient."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from leakscope.attacks.parts.reading.trained import idle
from leakscope.core.observation import Observation
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.reading import keeps_inputs, keeps_zeros, runs_layers

Mask = NDArray[np.bool_]


def fed_pieces(seen: Observation, embedding: str) -> Mask | None:
    """(C,) the pieces that the decoder was fed: only a lookup writes to a row of dL/dE, in any step.

    Melis et al. 2019, section 3.2. The end is among them, which begins each sentence. None where no table was sent, or
    zeros need not have stayed zero.
    """
    sent = seen.gradient().by_name
    if embedding not in sent or embedding in idle(sent) or keeps_zeros(seen.mechanism) is not Answer.YES:
        return None
    if keeps_inputs(seen.mechanism) is not Answer.YES or runs_layers(seen.mechanism) is not Answer.YES:
        return None
    found: Mask = (sent[embedding] != 0).any(1).cpu().numpy()
    return found
