"""What the server of a federation makes of a round: the next weights, and what anybody gets to see of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.core.errors import BadInput
from leakscope.core.release import Delta, Gradient, Release
from leakscope.mechanisms.federated.user_level import UserLevel
from leakscope.mechanisms.federation import mean_update
from leakscope.numerics import trees
from leakscope.numerics.rng import Key, normal
from leakscope.numerics.trees import Named

BESIDE = " + "
"""Between the names of clients whose mean is all that is seen."""


@final
@dataclass(frozen=True, eq=False)
class Server:
    """w + lr * mean_k u_k, minus for gradients.

    sizes: by name of the client, how many examples it uses; None counts all alike. expected: how many clients a round
    is expected to have, by which a sum under `privacy` is divided. secure: that many are summed before anybody looks.
    """

    lr: float
    sizes: Mapping[str, int] | None
    expected: int
    secure: int
    privacy: UserLevel | None
    key: Key

    def step(self, weights: Named, sent: Mapping[str, Release], *, turn: int) -> dict[str, Tensor]:
        """The global weights after the round `turn`. Raises `BadInput` where they are not finite."""
        after = dict(weights)
        move = self._mean(sent, list(sent)) if self.privacy is None else self._private(weights, sent, turn)
        if move is None:
            return after
        # a gradient points uphill, a change of weights is one already
        sign = -1.0 if isinstance(move, Gradient) else 1.0
        for name, value in move.by_name.items():
            after[name] = weights[name] + sign * self.lr * value.to(weights[name])
        if not trees.finite(after):
            raise BadInput(f"the weights are not finite after round {turn}: training diverged; lower server_lr or lr")
        return after

    def seen(self, sent: Mapping[str, Release]) -> dict[str, Release]:
        """What anybody sees: each update, or with secure aggregation the means of `secure` of them and more."""
        if self.secure == 1:
            return dict(sent)
        means = {BESIDE.join(group): self._mean(sent, group) for group in _groups(list(sent), self.secure)}
        return {names: mean for names, mean in means.items() if mean is not None}

    def _mean(self, sent: Mapping[str, Release], names: Sequence[str]) -> Release | None:
        """Of these clients; None where there are none."""
        counts = None if self.sizes is None else [self.sizes[name] for name in names]
        return mean_update([sent[name] for name in names], counts) if names else None

    def _private(self, weights: Named, sent: Mapping[str, Release], turn: int) -> Release | None:
        """The sum over a public constant; None where nobody took part and the server adds no noise."""
        many, added = list(sent.values()), 0.0 if self.privacy is None else self.privacy.added
        if not many and added == 0:
            return None
        if added > 0 and any(one.by_name.keys() != weights.keys() for one in many):
            raise BadInput("the server adds noise to whole updates, clients send a part; let the clients add it")
        own = self.key.child("round", turn).child("server")
        # zeros where nobody came: the noise is there all the same, or its absence would say that nobody did
        kind, names = (type(many[0]), many[0].by_name) if many else (Delta, weights)
        total = {name: sum((one.by_name[name] for one in many), torch.zeros_like(like)) for name, like in names.items()}
        if added > 0:
            total = {name: value + added * normal(value, own.child(name)) for name, value in total.items()}
        # not by who came: a divisor that follows one client's presence would say that it was there
        return kind(trees.scale(total, 1 / self.expected))


def _groups(names: Sequence[str], least: int) -> list[list[str]]:
    """Runs of `least` or more: nobody is left over alone.

    >>> _groups("abcdefg", 3)
    [['a', 'b', 'c', 'd'], ['e', 'f', 'g']]
    """
    parts = torch.arange(len(names)).tensor_split(max(1, len(names) // least))
    return [[names[int(at)] for at in part] for part in parts]
