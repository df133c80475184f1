"""User-level differential privacy: the whole update of a client is clipped, and noise hides whether it is there."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import final

from leakscope.core.arguments import count, member, number
from leakscope.mechanisms.compose import AbstractProtocol, Defended
from leakscope.mechanisms.defenses.clip import Clip
from leakscope.mechanisms.defenses.noise import GaussianNoise

LOUDEST = 1e6
"""Noise beyond which nothing is left of an update, and accountants divide by what rounds to zero."""


@final
class NoiseBy(enum.Enum):
    """Who adds the noise: each client its share, before anything leaves it; or the server, to the sum."""

    CLIENTS = "clients"
    SERVER = "server"

    def __repr__(self) -> str:
        return f"NoiseBy.{self.name}"


@final
@dataclass(frozen=True)
class UserLevel:
    """sum_k min(1, C / ||u_k||_2) u_k + N(0, (z C)^2), over m: DP-FedAvg (McMahan et al. 2018, arXiv:1710.06963).

    clip: C > 0, of a client's whole update, in its units. noise_multiplier: z, 0 to 10^6, in units of C, of the noise
    in the sum of one round. Divided is by m, how many clients a round is expected to have, a public constant.
    by: CLIENTS, each adds noise of z C / sqrt(m), so that single updates are noisy too and the sum of m has z C; or
    SERVER, which adds it to the sum: whoever sees single updates sees them without noise.
    What it is worth: `bounds.user_level.models_epsilon`. Raises `BadInput` on other values.

    >>> UserLevel(clip=1.0, noise_multiplier=1.0)
    UserLevel(clip=1.0, noise_multiplier=1.0, by=NoiseBy.CLIENTS)
    >>> UserLevel(clip=2.0, noise_multiplier=1.0).share(4)
    1.0
    """

    clip: float
    noise_multiplier: float
    by: NoiseBy = NoiseBy.CLIENTS

    def __post_init__(self) -> None:
        object.__setattr__(self, "clip", number("clip", self.clip, low=0, low_open=True))
        object.__setattr__(
            self, "noise_multiplier", number("noise_multiplier", self.noise_multiplier, low=0, high=LOUDEST)
        )
        object.__setattr__(self, "by", member("by", self.by, NoiseBy))

    def share(self, clients: int) -> float:
        """The standard deviation of what each of `clients` adds to its own update; 0 where the server does it."""
        clients = count("clients", clients)
        # variances add: m of them make (z C)^2
        return self.noise_multiplier * self.clip / math.sqrt(clients) if self.by is NoiseBy.CLIENTS else 0.0

    def on(self, step: AbstractProtocol | Defended, clients: int) -> Defended:
        """What one of `clients` in a round does: its step, the clip, and its share of the noise."""
        clipped = step >> Clip(self.clip)
        share = self.share(clients)
        return clipped >> GaussianNoise(share) if share > 0 else clipped

    @property
    def added(self) -> float:
        """The standard deviation of what the server adds to the sum of a round."""
        return self.noise_multiplier * self.clip if self.by is NoiseBy.SERVER else 0.0
