"""The algebra of priors: sums and multiples of penalties."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from torch import Tensor

from leakscope.core.errors import BadInput
from leakscope.core.observation import Observation

Penalty = Callable[[Tensor], Tensor]
"""Candidate inputs (B, *shape) to a scalar >= 0."""


class AbstractPrior(ABC):
    """A penalty on candidate inputs, made once for each observation."""

    @property
    def citation(self) -> str:
        """BibTeX of the source, where it is another than the attack\'s own."""
        return ""

    @abstractmethod
    def penalty(self, seen: Observation) -> Penalty:
        """The differentiable penalty for this observation."""

    @final
    def __rmul__(self, weight: float) -> WeightedPrior:
        # Only from the left: `0.1 * prior`, as it is written and printed.
        return WeightedPrior(float(weight), self)

    @final
    def __add__(self, other: AbstractPrior) -> Sum:
        # Flat, so that (a + b) + c and a + (b + c) print alike, and are the same attack to a record.
        return Sum((*self.terms, *other.terms))

    @property
    def terms(self) -> tuple[AbstractPrior, ...]:
        """The summands."""
        return (self,)


@final
@dataclass(frozen=True, repr=False)
class WeightedPrior(AbstractPrior):
    """`weight * prior`."""

    weight: float
    prior: AbstractPrior

    @property
    def citation(self) -> str:
        """That of the prior inside."""
        return self.prior.citation

    def __post_init__(self) -> None:
        # A negative weight would reward what is improbable. "not >=" refuses NaN as well.
        if not self.weight >= 0:
            raise BadInput(f"a prior's weight must be >= 0, got {self.weight}")

    def __repr__(self) -> str:
        # The repr has to read back as the same value: 2 * (a + b), and not 2 * a + b.
        inner = f"({self.prior!r})" if isinstance(self.prior, (Sum, WeightedPrior)) else repr(self.prior)
        return f"{self.weight!r} * {inner}"

    def penalty(self, seen: Observation) -> Penalty:
        """The scaled penalty."""
        # Made once for an observation, outside of the loop.
        of, weight = self.prior.penalty(seen), self.weight
        return lambda inputs: weight * of(inputs)


@final
@dataclass(frozen=True, repr=False)
class Sum(AbstractPrior):
    """The sum of several priors."""

    summands: tuple[AbstractPrior, ...]

    @property
    def citation(self) -> str:
        """Those of the summands."""
        # Each source once, in the order of the summands.
        return "\n\n".join(dict.fromkeys(p.citation for p in self.summands if p.citation))

    def __repr__(self) -> str:
        return " + ".join(repr(summand) for summand in self.summands)

    @property
    def terms(self) -> tuple[AbstractPrior, ...]:
        """The summands."""
        return self.summands

    def penalty(self, seen: Observation) -> Penalty:
        """The sum of the penalties."""
        penalties = [summand.penalty(seen) for summand in self.summands]

        def total(inputs: Tensor) -> Tensor:
            # Begun with the first tensor and not with 0, whose kind and device would be guessed.
            first, *rest = (penalty(inputs) for penalty in penalties)
            return sum(rest, start=first)

        return total


@final
@dataclass(frozen=True)
class Flat(AbstractPrior):
    """No belief: the penalty is zero everywhere."""

    def penalty(self, seen: Observation) -> Penalty:
        """Zero, with the candidate's dtype and device."""
        del seen
        return lambda inputs: inputs.new_zeros(())
