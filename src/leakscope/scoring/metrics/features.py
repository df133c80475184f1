"""How near what is claimed of a layer's input is to what the layer was fed."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from leakscope.core.claim import AbstractClaim, Features
from leakscope.scoring.metrics.metric import AbstractMetric, saturated
from leakscope.scoring.proved import FEATURES
from leakscope.scoring.score import Direction

EXACT = 1e-5
"""Relative error up to which features count as exact: some roundings of float32, made worse by a layer or two."""
MOST = 1e6
"""A relative error beyond counts as this, as of features that are zero throughout."""


def relative_errors(claimed: Tensor, true: Tensor) -> Tensor:
    """(B,) |claimed - true| / |true| of each row of (B, d) float64, at most `MOST`."""
    left, right = saturated(claimed), saturated(true)
    away, size = (torch.linalg.vector_norm(one, dim=1) for one in (left - right, right))
    # Nothing at all was fed: only a claim of nothing is right.
    return torch.where(away > 0, away / size.clamp_min(1e-300), 0.0).clamp(max=MOST)


class AbstractFeatureMetric(AbstractMetric):
    """Compares what is claimed of a layer's input with what the layer was fed, example by example."""

    @abstractmethod
    def items(self, claimed: Tensor, true: Tensor) -> tuple[float, ...]:
        """One finite number per pair; claimed[i] is for true[i], both (B, d) float64."""

    @final
    def refusal(self, claim: AbstractClaim) -> str | None:
        """Anything but features."""
        if isinstance(claim, Features):
            return None
        return f"{self.name} compares what a layer was fed, but the claim is {type(claim).__name__}"


@final
@dataclass(frozen=True)
class FeatureError(AbstractFeatureMetric):
    """|claimed - true| / |true| of each example, Euclidean; >= 0, 0 for the truth, 1 for a claim of zeros.

    >>> FeatureError().items(torch.tensor([[3.0, 3.0]]).double(), torch.tensor([[3.0, 4.0]]).double())
    (0.2,)
    """

    name: ClassVar[str] = "feature-error"
    direction: ClassVar[Direction] = Direction.LOWER

    @property
    def perfect(self) -> float:
        """No error: 0."""
        return 0.0

    def items(self, claimed: Tensor, true: Tensor) -> tuple[float, ...]:
        """The relative error of each pair."""
        return tuple(relative_errors(claimed, true).tolist())


@final
@dataclass(frozen=True)
class FeaturesFound(AbstractFeatureMetric):
    """1 for each example whose features are right to a thousandth, relative; else 0.

    >>> FeaturesFound().items(torch.tensor([[1.0], [1.01]]).double(), torch.ones(2, 1).double())
    (1.0, 0.0)
    """

    name: ClassVar[str] = "features-found"
    unit: ClassVar[str] = "of 1"
    direction: ClassVar[Direction] = Direction.HIGHER

    @property
    def perfect(self) -> float:
        """Found: 1."""
        return 1.0

    @property
    def worst(self) -> float:
        """Not found: 0."""
        return 0.0

    def items(self, claimed: Tensor, true: Tensor) -> tuple[float, ...]:
        """Whether each pair agrees to within `proved.FEATURES`."""
        return tuple((relative_errors(claimed, true) <= FEATURES).double().tolist())
