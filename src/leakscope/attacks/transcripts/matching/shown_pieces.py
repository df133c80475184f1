"""Which pieces noise still shows, where no row of the embedding's gradient is zero any more."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from leakscope.attacks.labels.rows.behind_noise import fallen
from leakscope.attacks.parts.reading.output_gradient import OutputGradient
from leakscope.attacks.parts.reading.trained import idle
from leakscope.core.observation import Observation
from leakscope.targets.looking.dense_ends import DenseLayer
from leakscope.targets.zoo.listen_attend_spell import Speller

LIKELY: Final = 1.0
"""How many absent pieces noise alone makes as low, of all together, up to which a piece is tried: one that was said and
is left out is lost for good, one that was not costs the search a candidate."""

Mask = NDArray[np.bool_]


def shown_pieces(seen: Observation, layer: str, speller: Speller, directions: int) -> Mask | None:
    """(C - 1,) the pieces that lie low enough in dL/db to be tried, without the end: less than `LIKELY` of them absent.

    dL/db_c = mean_s p_sc - n_c / N is an entry of the output layer that only a piece that was said makes negative; its
    test (`behind_noise.fallen`) needs no direction of dL/dW. None where it cannot be made, or is sure of fewer pieces
    than the `directions` that stand out of the weight's noise: then the weight knows of more than the bias does.
    """
    sent = seen.gradient().by_name
    bias = f"{layer}.bias"
    if bias not in sent or bias in idle(sent):
        return None
    count, width = speller.output.weight.shape
    dense = DenseLayer(layer, f"{layer}.weight", bias, width, count)
    tests = fallen(seen, OutputGradient(dense, None, sent[bias].double(), 0.0))
    if tests is None:
        return None
    # The end is last among outputs, and each sentence has it.
    sure = int(tests.present[:-1].sum())
    return None if sure < max(directions, 1) else np.asarray(tests.chance[:-1] < LIKELY)
