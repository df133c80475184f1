"""Whether updates under two names are of one client: what a person repeats from round to round."""

from __future__ import annotations

import torch
from torch import Tensor

from leakscope.attacks.attributes.decide import FLOOR
from leakscope.attacks.attributes.shadow import AttributeOfUpdates
from leakscope.core.effort import State
from leakscope.core.errors import BadInput
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal


def likeness(attack: AttributeOfUpdates, one: Observation, other: Observation) -> float:
    """cos(z, z'), z the mean over rounds of the normalized signals of an observation; in [-1, 1], higher is more alike.

    Normalized by mean and deviation over shadow updates: what all updates share says nothing of who sent one. Of
    several signals the mean of their cosines. No probability: compare it with that of updates which are known to be of
    different clients, or take the area under the curve over pairs (`scoring.persons.auc`).
    Raises `BadInput` where the attack refuses one of them.
    """
    first, second = (_rows(attack, seen) for seen in (one, other))
    parts: list[State] = attack.learned.state["parts"]
    found = [
        torch.cosine_similarity(_mean(mine, part), _mean(theirs, part), dim=0)
        for mine, theirs, part in zip(first, second, parts, strict=True)
    ]
    return float(torch.stack(found).mean())


def _rows(attack: AttributeOfUpdates, seen: Observation) -> tuple[Tensor, ...]:
    ready = attack.ready(seen)
    if isinstance(ready, Refusal):
        raise BadInput(f"the updates cannot be compared: {ready.sentence}")
    read: tuple[Tensor, ...] = ready.read
    return read


def _mean(rows: Tensor, part: State) -> Tensor:
    # The mean of what is normalized: rounds whose updates are larger count no more than others.
    found: Tensor = ((rows.double() - part["mean"]) / (part["deviation"] + FLOOR)).mean(0)
    return found
