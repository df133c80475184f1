"""Where a search begins. A start is drawn in the domain's range, whatever the model's units."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor

from leakscope.attacks.attack import Attack
from leakscope.core.claim import Inputs
from leakscope.core.domain import AbstractDomain
from leakscope.core.effort import Budget
from leakscope.core.errors import BadInput
from leakscope.core.facts import Lengths
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.numerics.rng import Key, normal, uniform


class AbstractStart(ABC):
    """Draws first candidates.

    goes_on: whether they are a claim already, so that any better one on the way is a gain, wherever the search ends.
    """

    goes_on: ClassVar[bool] = False

    @abstractmethod
    def draw(self, like: Tensor, domain: AbstractDomain, *, key: Key) -> Tensor:
        """First candidates with the shape (..., *shape), dtype and device of `like`."""

    def refusal(self, seen: Observation) -> Refusal | None:
        """Why there is no such start here, or None."""
        del seen
        return None

    def informed(self, seen: Observation, *, key: Key, budget: Budget) -> AbstractStart | Refusal:
        """The start for this observation: itself, unless it has to be found out first."""
        del seen, key, budget
        return self


@final
@dataclass(frozen=True)
class Uniform(AbstractStart):
    """U(low, high) within the domain."""

    def draw(self, like: Tensor, domain: AbstractDomain, *, key: Key) -> Tensor:
        """Uniform noise."""
        low, high = domain.bounds(like)
        # Bounds are those of a channel or coefficient, and spread over (R, B).
        return low + (high - low) * uniform(like, key)


@final
@dataclass(frozen=True)
class Gaussian(AbstractStart):
    """N(0, std^2) in the model's units, the start of the original papers."""

    std: float = 1.0

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise BadInput(f"expected std > 0, got {self.std}")

    def draw(self, like: Tensor, domain: AbstractDomain, *, key: Key) -> Tensor:
        """Gaussian noise."""
        del domain
        # Not cut to the range, which the original papers do not look at.
        return self.std * normal(like, key)


@final
@dataclass(frozen=True)
class Gray(AbstractStart):
    """The middle of the domain's range plus U(-spread/2, spread/2) of the range; the same for every key at spread 0.

    What a search with a line search wants on smooth inputs: noise that it never draws it need not remove.
    """

    spread: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.spread <= 1:
            raise BadInput(f"expected a spread between 0 and 1, got {self.spread}")

    def draw(self, like: Tensor, domain: AbstractDomain, *, key: Key) -> Tensor:
        """Nearly constant candidates."""
        low, high = domain.bounds(like)
        # U[0, 1) - 1/2 is centered, so that the mean stays gray.
        return (low + high) / 2 + self.spread * (high - low) * (uniform(like, key) - 0.5)


@final
@dataclass(frozen=True)
class Between(AbstractStart):
    """U(low, high) in the model's units, low <= high: U(-1, 1) where the domain's range says nothing of size.

    A constant where both are the same. Raises `BadInput` when low > high.
    """

    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise BadInput(f"expected low <= high, got {self.low} and {self.high}")

    def draw(self, like: Tensor, domain: AbstractDomain, *, key: Key) -> Tensor:
        """Uniform noise."""
        del domain
        return self.low + (self.high - self.low) * uniform(like, key)


@final
@dataclass(frozen=True)
class Repeated(AbstractStart):
    """One frame drawn from `of` for each utterance and repeated along time; inputs are (..., T, F)."""

    of: AbstractStart = field(default_factory=Between)

    def draw(self, like: Tensor, domain: AbstractDomain, *, key: Key) -> Tensor:
        """The same frame at every time."""
        # Drawn for one frame, (..., 1, F), by the start inside.
        one: Tensor = self.of.draw(like[..., :1, :], domain, key=key)
        # A clone: an expanded tensor shares its frames, and a step in place would move all of them.
        return one.expand(like.shape).clone()


@final
@dataclass(frozen=True)
class Claimed(AbstractStart):
    """What another attack claims, plus U(-noise, noise) in the model's units: an exact attack begins, a search goes on.

    Refuses where that attack refuses or claims nothing. Claimed sequences of other lengths are cut or padded with
    zeros, and are taken in the order of their lengths. Raises `BadInput` on noise < 0.
    """

    attack: Attack[Inputs]
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not self.noise >= 0:
            raise BadInput(f"expected noise >= 0, got {self.noise}")

    def draw(self, like: Tensor, domain: AbstractDomain, *, key: Key) -> Tensor:
        """Raises `BadInput`: it takes an observation, see `informed`."""
        raise BadInput("what another attack claims is drawn for an observation; use `informed` first")

    def refusal(self, seen: Observation) -> Refusal | None:
        """That of the attack."""
        return self.attack.refusal(seen)

    def informed(self, seen: Observation, *, key: Key, budget: Budget) -> AbstractStart | Refusal:
        """The claim as a start."""
        # In the budget that is left, without the checkpoint, which is the search's: a second life runs this again.
        attempt = self.attack.run(seen, key=key, budget=budget)
        if attempt.claim is None:
            return Refusal(f"no inputs to start from: {attempt.sentence}")
        return Given(_in_order(attempt.claim, seen), self.noise)


def _in_order(claim: Inputs, seen: Observation) -> Tensor:
    """The claimed values; of sequences the shortest where the shortest is expected, and so on."""
    # Nothing to order by, or not one to one.
    if claim.lengths is None or not seen.knows(Lengths) or len(seen.told(Lengths).values) != len(claim):
        return claim.values
    expected = torch.tensor(seen.told(Lengths).values)
    # argsort twice is the rank: where the k-th shortest is expected goes the k-th shortest that is claimed.
    return claim.values[claim.lengths.argsort(stable=True)[expected.argsort(stable=True).argsort()]]


@final
@dataclass(frozen=True, eq=False)
class Given(AbstractStart):
    """Claimed values (N, ...) as a start, plus U(-noise, noise)."""

    claimed: Tensor
    noise: float = 0.0
    goes_on: ClassVar[bool] = True

    def draw(self, like: Tensor, domain: AbstractDomain, *, key: Key) -> Tensor:
        """The claim in the shape of `like` (R, B, ...); rows that it lacks are repeated."""
        del domain
        values = self.claimed.to(like)
        # In turn, where fewer were claimed than the batch holds.
        rows = torch.arange(like.shape[1]) % len(values)
        values = values[rows]
        if values.shape[1:] != like.shape[2:]:
            fitted = like.new_zeros(like.shape[1:])
            frames = min(values.shape[1], like.shape[2])
            # Frames are along the second dimension; what is beyond the shorter of both stays zero, as padding is.
            fitted[:, :frames] = values[:, :frames]
            values = fitted
        # 2 U - 1 is in [-1, 1). The noise has the shape of `like`, so each restart begins elsewhere.
        return values + self.noise * (2 * uniform(like, key) - 1)
