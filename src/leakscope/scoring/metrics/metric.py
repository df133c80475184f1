"""The contract of every metric: one finite number per private item."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, final

import torch
from torch import Tensor

from leakscope.core.claim import AbstractClaim, Attribute, Inputs, Labels, Tokens, Transcripts
from leakscope.scoring.score import Direction
from leakscope.scoring.standing import Standing

EXACT_MSE = 1e-12
"""An input with no more than this mean squared error (root 1e-6, eight float32 roundings of the range) is exact."""

_LARGEST = 1e30
"""Far beyond every real error, and its square is still a float64."""


class AbstractMetric(ABC):
    """A metric is a small frozen value of one family: those below, or that of a kind of claim which brings its own.

    name: as in `scores[name]`. unit: of one item. direction: which way is better for the attacker.
    """

    # On the class: every instance of a metric is the same row of a table, whatever its fields.
    name: ClassVar[str]
    unit: ClassVar[str] = ""
    direction: ClassVar[Direction]

    @property
    @abstractmethod
    def perfect(self) -> float:
        """The score of the truth itself."""

    @property
    def worst(self) -> float | None:
        """The least that a claim can score, None where there is no such end: no interval goes beyond it."""
        return None

    @abstractmethod
    def refusal(self, claim: AbstractClaim) -> str | None:
        """Why this metric cannot judge `claim`, or None when it can."""

    def unavailable(self) -> str | None:
        """What this machine lacks to compute it, or None."""
        return None


class AbstractInputMetric(AbstractMetric):
    """Compares one claimed input with the private one that it was paired with."""

    @abstractmethod
    def items(self, claimed: Tensor, true: Tensor) -> tuple[float, ...]:
        """One finite number per pair; claimed[i] is for true[i], both (B, *shape) float64 in display units."""

    @abstractmethod
    def unfit(self, shape: tuple[int, ...]) -> str | None:
        """Why inputs of this shape (without the batch) cannot be compared, or None."""

    def note(self, shape: tuple[int, ...]) -> str | None:
        """What a reader must know about how inputs of this shape are compared, or None."""
        del shape
        return None

    @final
    def refusal(self, claim: AbstractClaim) -> str | None:
        """Anything but inputs of a fitting shape."""
        if not isinstance(claim, Inputs):
            return f"{self.name} compares inputs, but the claim is {type(claim).__name__}"
        # Padding would count as recovered, or dilute the error of what is real.
        if claim.lengths is not None:
            return f"{self.name} compares inputs of one shape, but the claim holds sequences with lengths"
        return self.unfit(tuple(claim.values.shape[1:]))

    @final
    def exact(self, claimed: Tensor, true: Tensor) -> int:
        """How many pairs agree to within rounding: mean squared error at most `EXACT_MSE`."""
        # By the same measure for all metrics of inputs: whether an input is exact is no matter of the metric.
        return int((squared_errors(claimed, true) <= EXACT_MSE).sum())


class AbstractSequenceMetric(AbstractMetric):
    """Compares one claimed sequence of frames with the private one that it was paired with."""

    @abstractmethod
    def items(self, claimed: Sequence[Tensor], true: Sequence[Tensor]) -> tuple[float, ...]:
        """One finite number per pair; claimed[i] and true[i] are (T_i, F) float64, brought to the same T_i before."""

    @final
    def refusal(self, claim: AbstractClaim) -> str | None:
        """Anything but inputs with lengths."""
        if isinstance(claim, Inputs) and claim.lengths is not None:
            return None
        return f"{self.name} compares sequences with lengths, but the claim ({type(claim).__name__}) holds none"


class AbstractTranscriptMetric(AbstractMetric):
    """Compares one claimed transcript with the private one that it was paired with."""

    @abstractmethod
    def items(self, claimed: Sequence[tuple[int, ...]], true: Sequence[tuple[int, ...]]) -> tuple[float, ...]:
        """One number >= 0 per pair; claimed[i] and true[i] are indices of the alphabet."""

    @final
    def refusal(self, claim: AbstractClaim) -> str | None:
        """Anything but transcripts."""
        if not isinstance(claim, Transcripts):
            return f"{self.name} compares transcripts, but the claim is {type(claim).__name__}"
        return None


class AbstractTokenMetric(AbstractMetric):
    """Compares claimed texts with private ones.

    paired: whether claimed[i] is for true[i]; otherwise `items` is given all that was claimed.
    """

    paired: ClassVar[bool] = True

    @abstractmethod
    def items(self, claimed: Sequence[tuple[int, ...]], true: Sequence[tuple[int, ...]]) -> tuple[float, ...]:
        """One number in [0, 1] per private text; all are token ids."""

    @abstractmethod
    def unfit(self, claim: AbstractClaim) -> str | None:
        """Why this claim of tokens cannot be judged, or None."""

    @final
    def refusal(self, claim: AbstractClaim) -> str | None:
        """Anything but tokens."""
        if isinstance(claim, Tokens):
            return self.unfit(claim)
        return f"{self.name} compares texts, but the claim is {type(claim).__name__}"


class AbstractLabelMetric(AbstractMetric):
    """Compares a multiset of claimed labels with the private one."""

    @abstractmethod
    def items(self, claimed: Tensor, true: Tensor) -> tuple[float, ...]:
        """One number in [0, 1] per private label. claimed: (N,) int64 with N <= B. true: (B,) int64."""

    @abstractmethod
    def unfit(self, claim: AbstractClaim) -> str | None:
        """Why this claim with labels cannot be judged, or None."""

    @property
    def perfect(self) -> float:
        """Every item right: 1."""
        return 1.0

    @property
    def worst(self) -> float:
        """None right: 0."""
        return 0.0

    @final
    def refusal(self, claim: AbstractClaim) -> str | None:
        """Anything that carries no labels."""
        if isinstance(claim, Labels) or (isinstance(claim, Inputs) and claim.labels is not None):
            return self.unfit(claim)
        return f"{self.name} compares labels, but the claim ({type(claim).__name__}) carries none"


class AbstractRankMetric(AbstractMetric):
    """Judges where the true category of one private item stands in a claimed ranking."""

    @abstractmethod
    def item(self, standing: Standing) -> float:
        """One number in [0, 1]."""

    @final
    def items(self, standings: Sequence[Standing | None]) -> tuple[float, ...]:
        """One number per private item; 0 where the truth is no candidate or nothing was claimed."""
        # Zero, not left out: ruling the truth out is the worst that a ranking can say of it.
        return tuple(0.0 if standing is None else self.item(standing) for standing in standings)

    @property
    @final
    def perfect(self) -> float:
        """Always first: 1."""
        return 1.0

    @property
    @final
    def worst(self) -> float:
        """Never a candidate: 0."""
        return 0.0

    @final
    def refusal(self, claim: AbstractClaim) -> str | None:
        """Anything but an attribute."""
        if isinstance(claim, Attribute):
            return None
        return f"{self.name} looks at a ranking, but the claim is {type(claim).__name__}"


def saturated(inputs: Tensor) -> Tensor:
    """`inputs` in float64, cut at +-1e30: absurd claims keep finite errors."""
    # clamp keeps NaN: a claim refuses it where it is made, and a secret where it is revealed.
    return inputs.double().clamp(-_LARGEST, _LARGEST)


def squared_errors(claimed: Tensor, true: Tensor) -> Tensor:
    """mean_d (claimed - true)^2 for each pair, (B,) float64. claimed, true: (B, *shape)."""
    # One mean per input over all of its entries, so that inputs of any shape weigh alike.
    difference = (saturated(claimed) - saturated(true)).flatten(1)
    return torch.square(difference).mean(1)
