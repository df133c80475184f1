"""How often each text occurs, by its share of the gradient, and why shares may count nothing."""

from __future__ import annotations

from torch import Tensor

from leakscope.attacks.inputs.text.ordering import Said
from leakscope.attacks.parts.reading.explained import Explained
from leakscope.core.facts import BatchSize
from leakscope.core.observation import Observation
from leakscope.core.overriding import acts_as
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.reading import clipped, evenly
from leakscope.targets.losses import NextToken

WHOLE_NUMBER = 0.05
"""Largest distance from a whole number at which a share of the batch counts as one."""
COUNTED = 1e-3
"""Largest such distance of a proof. Shares are free numbers, which a loss that weighs texts otherwise (by their tokens,
by classes) brings near whole numbers: the residual is theirs, and says nothing of the rounded counts."""
MOST_COPIES = 50_000
"""Copies of texts that are claimed, at most."""


def repeated(seen: Observation, sequences: tuple[Said, ...], proof: Explained) -> tuple[Said, ...]:
    """Each sequence as often as its share says, where the batch size was told and the shares are such numbers."""
    if not seen.knows(BatchSize) or seen.told(BatchSize).count <= len(sequences):
        return sequences
    real = counts(seen, proof)
    # Nothing is gained by a million copies of a text.
    if (
        seen.told(BatchSize).count > MOST_COPIES
        or float((real - real.round()).abs().max()) > WHOLE_NUMBER
        or clipped(seen) is not Answer.NO
        or evenly(seen) is Answer.NO
    ):
        # a clip, a text with several labels that cancel in part, or texts of which some were not taken: no share counts
        return sequences
    return tuple(one for one, count in zip(sequences, real.round().long().tolist(), strict=True) for _ in range(count))


def counts(seen: Observation, proof: Explained) -> Tensor:
    """A share is n_s / B, so times B it counts."""
    return proof.weights.sum(1) * seen.told(BatchSize).count


def short(seen: Observation, proof: Explained) -> str:
    """Why a text may go on where the model predicts it surely, which leaves hardly a gradient; empty where it does not.

    Of T tokens T - 1 are predicted, each with the weight 1 / (T - 1) of its text's mean: a text that is claimed too
    short has a share too small by as much. Where a share need not be a whole number of texts, nothing tells.
    """
    if not acts_as(seen.target.loss, NextToken):
        return ""
    if clipped(seen) is not Answer.NO or evenly(seen) is Answer.NO:
        return "; no proof: a text that goes on as the model expects leaves nothing, and no share tells of it here"
    shares = proof.weights.sum(1)
    if not seen.knows(BatchSize):
        off = abs(float(shares.sum()) - 1)
        return "" if off <= COUNTED else f"; no proof: the shares of the texts miss {off:.0e} of a whole batch"
    real = counts(seen, proof)
    off = float((real - real.round().clamp(min=1)).abs().max())
    return "" if off <= COUNTED else f"; no proof: a share is {off:.0e} from a whole number of texts"


def pinned(seen: Observation, proof: Explained) -> bool:
    """Whether the shares are those of the texts and no free numbers: each counts, or all together are a batch."""
    if clipped(seen) is not Answer.NO or evenly(seen) is Answer.NO:
        return False
    return seen.knows(BatchSize) or abs(float(proof.weights.sum()) - 1) <= COUNTED


def uneven(real: Tensor) -> str:
    """Why counts that are not whole prove no copies; empty where they are."""
    off = float((real - real.round()).abs().max())
    return "" if off <= COUNTED else f"; no proof: a share is {off:.0e} from a whole number, so texts weigh differently"
