"""One round of a federation as the adversary saw it: which, at which weights, and what was sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from leakscope.core.arguments import count
from leakscope.core.errors import BadInput
from leakscope.core.release import Delta, Gradient, Release, Weights, same_kind
from leakscope.numerics.trees import Named


@final
@dataclass(frozen=True, eq=False)
class Round:
    """What one client sent in one round.

    number: of the round, from 0. release: what was sent. weights: the global weights that the client started from, by
    parameter name, all of them; None for the target's own. Of numbers that autograd follows, their values are kept.
    Raises `BadInput` on a number below 0 or on something that is no release.
    """

    number: int
    release: Release
    weights: Named | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "number", count("number", self.number, low=0))
        if not isinstance(self.release, Gradient | Delta | Weights):
            raise BadInput(
                f"expected a Gradient, Delta or Weights, got {type(self.release).__name__}; wrap the tensors"
            )
        # What left a device carries no graph. Here and not in the release, since replays differentiate through theirs.
        if any(value.requires_grad for value in self.release.by_name.values()):
            bare = {name: value.detach() for name, value in self.release.by_name.items()}
            object.__setattr__(self, "release", same_kind(self.release, bare))
