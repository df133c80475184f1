"""Which pieces were said at all, where no order comes: by what was fed, by rows, by signs or by a test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from leakscope.attacks.labels.rows.behind_noise import LEVEL, Fallen, fallen
from leakscope.attacks.labels.rows.excluded import excluded
from leakscope.attacks.labels.rows.row_space import RowSpace, row_space
from leakscope.attacks.labels.rows.signed import Signed, signed
from leakscope.attacks.parts.reading.fed_pieces import fed_pieces
from leakscope.attacks.parts.reading.output_gradient import OutputGradient
from leakscope.attacks.parts.reading.trained import NOT_TRAINED, idle
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.reading import bends, keeps_zeros, rounds
from leakscope.numerics.rng import Key
from leakscope.targets.looking.dense_ends import DenseLayer
from leakscope.targets.zoo.listen_attend_spell import Speller

Mask = NDArray[np.bool_]


@final
@dataclass(frozen=True, eq=False)
class Bag:
    """What speaks for pieces. fed: (C,) those whose rows of the embedding moved. signs, tests: of dL/db. space: of the
    output layer's summed gradient, or why there is none; None where none was sent."""

    fed: Mask | None
    signs: Signed | None
    tests: Fallen | None
    space: RowSpace | str | None

    def read(self, stop: Callable[[], bool]) -> tuple[tuple[int, ...], str]:
        """The outputs, and by what; none and why, where nothing is left.

        A piece that a sign shows is there whatever else is said. Of rows those are claimed that no combination of the
        others excludes (`excluded`), which holds over several steps too: their sum has a row for each piece, with one
        negative entry, whatever the weights were.
        """
        if self.fed is not None:
            shown = self.fed if self.signs is None else self.fed | self.signs.present
            return _numbers(shown), "by the rows of the embedding that moved, which are those that were fed"
        there = None if self.signs is None else self.signs.present
        why = f"; {self.space}" if isinstance(self.space, str) else ""
        if isinstance(self.space, RowSpace):
            found = excluded(self.space, stop)
            if bool(found.decided.all()) and bool(found.absent.any()):
                left = ~found.absent if there is None else ~found.absent | there
                seen = "none" if there is None else f"{int(there.sum())}"
                return _numbers(left), (
                    f"not excluded by the {self.space.rank} rows of dL/dW, if these are all; by the signs of dL/db "
                    f"{seen} of them are there"
                )
            why = "; the rows of dL/dW exclude no piece"
        if there is not None:
            return _numbers(there), f"by the signs of dL/db{why}"
        if self.tests is not None:
            return _numbers(self.tests.present), f"by a test of dL/db at the level of {LEVEL:.0%}{why}"
        return (), why.removeprefix("; ")


def _numbers(which: Mask) -> tuple[int, ...]:
    return tuple(np.flatnonzero(which).tolist())


def said_pieces(seen: Observation, layer: str, embedding: str, speller: Speller) -> Bag | Refusal:
    """What the update holds of the bag; why that is nothing."""
    sent, still = seen.gradient().by_name, idle(seen.gradient().by_name)
    weight, bias = f"{layer}.weight", f"{layer}.bias"
    count, width = speller.output.weight.shape
    fed = fed_pieces(seen, embedding)
    if bias in sent and bias not in still:
        # The weights' rows have no sign of their own: what the decoder reached is negative as often as not.
        dense = DenseLayer(layer, weight, bias, width, count)
        output = OutputGradient(dense, None, sent[bias].double(), 0.0)
        signs, tests = signed(seen, output), fallen(seen, output)
    else:
        signs = tests = None
    space: RowSpace | str | None = None
    # What fills zeros is noise, and its rows are not those of pieces.
    whole = rounds(seen.mechanism) is bends(seen.mechanism) is Answer.NO and keeps_zeros(seen.mechanism) is Answer.YES
    if weight in sent and weight not in still and whole:
        gradient = sent[weight].detach().double().cpu().numpy()
        # A fixed key: whether an attack refuses may not depend on the trial's.
        space = row_space(gradient.T, Key(0).child("rows").numpy())
    if fed is None and signs is None and tests is None and not isinstance(space, RowSpace):
        if not {weight, bias} & (sent.keys() - still):
            return Refusal(f"the gradient of {bias} {NOT_TRAINED}" if bias in sent else f"the release lacks {bias}")
        why = f" and {space}" if isinstance(space, str) else ""
        return Refusal(f"no sign of {bias} is sure, no noise is declared to test against{why}")
    return Bag(fed, signs, tests, space)
