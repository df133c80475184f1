"""A source for models that do not take [0, 1]."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from torch import Tensor

from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.datasets.draw import AbstractSource
from leakscope.domains.vision import Images


@final
@dataclass(frozen=True)
class Scaled(AbstractSource):
    """The images of `source`, handed to the model in [low, high]: inputs = low + (high - low) * displayed.

    Black is `low` and white is `high`; scores are computed in display units, [0, 1], as ever. Private and public
    part are those of `source`. Raises `BadInput` when low >= high or when the source holds no images.

    >>> from leakscope.datasets.sources.synthetic import Synthetic
    >>> scaled = Scaled(Synthetic((1, 4, 4), count=4), -1.0, 1.0)
    >>> bool(scaled.load().inputs.min() < 0)
    True
    """

    source: AbstractSource
    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise BadInput(f"expected a finite range with low < high, got [{self.low}, {self.high}]")
        if not isinstance(self.source.domain, Images):
            raise BadInput(f"{self.source!r} holds no images; an input range is for images only")

    @property
    def domain(self) -> Images:
        """The same images under another normalization: displayed = (inputs - low) / (high - low)."""
        old = self.source.domain
        assert isinstance(old, Images)
        # Images displays inputs * std + mean
        std = 1 / (self.high - self.low)
        mean = -self.low * std
        return Images(old.channels, old.height, old.width, (mean,) * old.channels, (std,) * old.channels)

    @property
    def classes(self) -> int:
        """Those of the source."""
        return self.source.classes

    def owners(self) -> tuple[int, ...] | None:
        """As the source has it."""
        return self.source.owners()

    def fixed(self, count: int) -> Tensor | None:
        """As the source has it."""
        return self.source.fixed(count)

    def load(self) -> Batch:
        """All examples in [low, high]."""
        batch = self.source.load()
        displayed = self.source.domain.to_display(batch.inputs)
        return batch.with_inputs(self.low + (self.high - self.low) * displayed)
