"""What the adversary may be told besides the release. One type for each kind of knowledge."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import final

from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput


class Fact(ABC):
    """Something that an adversary was told. What was not told is absent, not `None`."""

    __slots__ = ()

    def contradiction(self, batch: Batch) -> str | None:
        """Why this is not true of `batch`, or None. The challenger tells no lies by accident."""
        del batch
        return None


@final
@dataclass(frozen=True)
class BatchSize(Fact):
    """The number of examples behind the release."""

    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise BadInput(f"expected a batch size >= 1, got {self.count}")

    def contradiction(self, batch: Batch) -> str | None:
        """Whether the batch has another size."""
        return None if len(batch) == self.count else f"told BatchSize({self.count}), but the batch has {len(batch)}"


@final
@dataclass(frozen=True)
class TrueLabels(Fact):
    """The class of every example, in the order in which the client used them."""

    values: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(int(v) for v in self.values))

    def contradiction(self, batch: Batch) -> str | None:
        """Whether the batch has other labels."""
        if batch.labels.dim() != 1:
            return "told TrueLabels, but the batch is labeled by probabilities"
        true = tuple(int(v) for v in batch.labels)
        return None if true == self.values else f"told {self}, but the labels are others"


@final
@dataclass(frozen=True)
class LayerStatistics:
    """Mean and (biased) variance of one normalization layer's input, per channel."""

    mean: tuple[float, ...]
    variance: tuple[float, ...]


@final
@dataclass(frozen=True)
class BatchNormStatistics(Fact):
    """The batch statistics of each normalization layer on the private batch, as some protocols share them."""

    by_layer: tuple[tuple[str, LayerStatistics], ...]
