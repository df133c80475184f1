"""What came of one run of an attack: a claim or none, always with a sentence."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Generic, TypeVar, final

from torch import Tensor

from leakscope.core.claim import Claim
from leakscope.core.errors import BadInput

ClaimT = TypeVar("ClaimT", bound=Claim, covariant=True)

ASSISTED = "prior-assisted: "
"""How the sentence of a claim begins that is filled in, where the update leaves it open, by what public examples are
like: it may look right where nothing leaked, and is never proved."""


@final
class Outcome(enum.Enum):
    """How an attempt ended. Only the first carries a claim that may be scored as a finished attack."""

    CLAIMED = "claimed"
    REFUSED = "refused"
    DIVERGED = "diverged"
    INTERRUPTED = "interrupted"


@final
@dataclass(frozen=True)
class Certificate:
    """What an exact attack's own equations leave over, for each claimed item, without knowing the secret.

    residuals, tolerances: one for each claimed item, in the claim's order; residuals[i] <= tolerances[i] proves item i
    to within rounding. statement: which equations these are, hence what is proved.
    Raises `BadInput` when they are not equally many.

    >>> one = Certificate((1e-7, 0.3), (1e-4, 1e-4), "relative residual of the first layer")
    >>> one.proved, one.holds, one.residual
    ((True, False), False, 0.3)
    """

    residuals: tuple[float, ...]
    tolerances: tuple[float, ...]
    statement: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "residuals", tuple(float(one) for one in self.residuals))
        object.__setattr__(self, "tolerances", tuple(float(one) for one in self.tolerances))
        if len(self.residuals) != len(self.tolerances):
            raise BadInput(f"{len(self.residuals)} residuals do not fit {len(self.tolerances)} tolerances; one each")

    @staticmethod
    def alike(residual: float, tolerance: float, statement: str, *, items: int = 1) -> Certificate:
        """One residual of equations in which all claimed items stand: it proves all of them or none."""
        return Certificate((residual,) * items, (tolerance,) * items, statement)

    @property
    def proved(self) -> tuple[bool, ...]:
        """Of each item whether its residual is within its tolerance; False for NaN."""
        return tuple(left <= most for left, most in zip(self.residuals, self.tolerances, strict=True))

    @property
    def holds(self) -> bool:
        """Whether there are items and all of them are proved."""
        return bool(self.residuals) and all(self.proved)

    @property
    def residual(self) -> float:
        """That of the item that is farthest from being proved; NaN without items."""
        return self._worst()[0]

    @property
    def tolerance(self) -> float:
        """That of the item that is farthest from being proved; NaN without items."""
        return self._worst()[1]

    def _worst(self) -> tuple[float, float]:
        pairs = zip(self.residuals, self.tolerances, strict=True)
        # NaN is no proof, hence the worst; a tolerance of 0 leaves only the residual to compare
        return max(
            pairs,
            key=lambda one: math.inf if math.isnan(one[0]) else one[0] / one[1] if one[1] > 0 else one[0],
            default=(math.nan, math.nan),
        )


@final
@dataclass(frozen=True)
class Cost:
    """Wall seconds and gradient evaluations spent."""

    seconds: float = 0.0
    evaluations: int = 0


@final
@dataclass(frozen=True, eq=False)
class Trace:
    """The search as it went: gradient evaluations, loss at each, and pictures of the best candidate on the way.

    evaluations, losses: equally long. pictures: (evaluation, (N, *shape)) pairs.
    """

    evaluations: tuple[int, ...] = ()
    losses: tuple[float, ...] = ()
    pictures: tuple[tuple[int, Tensor], ...] = ()


@final
@dataclass(frozen=True, eq=False)
class Attempt(Generic[ClaimT]):
    """The result of one attack on one observation.

    steps: what a portfolio did, one sentence each, for the question "why did nothing leak?".
    """

    attack: str
    outcome: Outcome
    sentence: str
    claim: ClaimT | None = None
    certificate: Certificate | None = None
    cost: Cost = Cost()
    trace: Trace = Trace()
    steps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.sentence:
            raise BadInput("an attempt needs a sentence that says how it ended")
        if (self.outcome is Outcome.CLAIMED) and self.claim is None:
            raise BadInput("an attempt that claims needs a claim")
        if self.outcome in (Outcome.REFUSED, Outcome.DIVERGED) and self.claim is not None:
            raise BadInput(f"a {self.outcome.value} attempt carries no claim")
        if self.claim is not None and self.certificate is not None:
            claimed, certified = len(self.claim), len(self.certificate.residuals)
            if claimed != certified:
                raise BadInput(f"a certificate of {certified} items does not fit a claim of {claimed}; give one each")

    @property
    def certified(self) -> bool:
        """Whether it claims something that its own equations prove."""
        return self.claim is not None and self.certificate is not None and self.certificate.holds
