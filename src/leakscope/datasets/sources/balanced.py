"""A source whose private batches have equally many examples of each class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.core.annotation import Annotation
from leakscope.core.arguments import instance
from leakscope.core.batch import Batch
from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.datasets.draw import AbstractSource


@final
@dataclass(frozen=True)
class Balanced(AbstractSource):
    """The examples of `source`; a private batch of n has n / classes of each class, in random order.

    The draw of few-shot learning, where a head is trained on k examples of each class. Which labels there are is
    public then, and no attack gets credit for it: blind guesses know them, and plans have to tell `TrueLabels`.
    Private and public part are those of `source`. Raises `BadInput` for a batch size that is no multiple of the number
    of classes, and where a class has too few private examples.

    >>> from leakscope.datasets.sources.digits import Digits
    >>> from leakscope.numerics.rng import Key
    >>> sorted(Balanced(Digits()).draw(20, key=Key(0)).reveal().labels.tolist()) == sorted(2 * list(range(10)))
    True
    """

    source: AbstractSource

    def __post_init__(self) -> None:
        instance("source", self.source, AbstractSource, "give a data set such as Digits()")

    @property
    def domain(self) -> AbstractDomain:
        """That of the source."""
        return self.source.domain

    @property
    def classes(self) -> int:
        """Those of the source."""
        return self.source.classes

    @property
    def most(self) -> int | None:
        """As many as the source has."""
        return self.source.most

    def load(self) -> Batch:
        """All examples."""
        return self.source.load()

    def annotations(self) -> tuple[Annotation, ...]:
        """Those of the source."""
        return self.source.annotations()

    def owners(self) -> tuple[int, ...] | None:
        """As the source has it."""
        return self.source.owners()

    def fixed(self, count: int) -> Tensor:
        """Each class count / classes times."""
        if count % self.classes:
            raise BadInput(
                f"{count} examples are not equally many of {self.classes} classes; give a batch size that is a "
                f"multiple of {self.classes}"
            )
        return torch.arange(self.classes).repeat(count // self.classes)
