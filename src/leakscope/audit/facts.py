"""Which facts an adversary may be told, by kind; the challenger makes them from the secret."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from leakscope.attacks.parts.priors.statistics import layer_statistics
from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput, UnknownName
from leakscope.core.facts import BatchNormStatistics, BatchSize, Fact, LayerStatistics, TrueLabels
from leakscope.core.target import Target


def _batch_size(target: Target, batch: Batch) -> Fact:
    return BatchSize(len(batch))


def _labels(target: Target, batch: Batch) -> Fact:
    if batch.labels.dim() != 1:
        raise BadInput("there are no class labels to tell: each example has a transcript or probabilities")
    return TrueLabels(tuple(int(v) for v in batch.labels))


def _statistics(target: Target, batch: Batch) -> Fact:
    found = layer_statistics(target, target.parameters(), batch.inputs)
    pairs = ((name, LayerStatistics(tuple(m.tolist()), tuple(v.tolist()))) for name, (m, v) in found.items())
    return BatchNormStatistics(tuple(pairs))


MAKERS: dict[type[Fact], Callable[[Target, Batch], Fact]] = {
    BatchSize: _batch_size,
    TrueLabels: _labels,
    BatchNormStatistics: _statistics,
}
"""Every kind of fact that a plan can tell, with the function that makes it."""


def kind_named(name: str) -> type[Fact]:
    """The kind of fact with this name. Raises `UnknownName`.

    >>> kind_named("BatchSize").__name__
    'BatchSize'
    """
    kinds = {kind.__name__: kind for kind in MAKERS}
    if name not in kinds:
        raise UnknownName("fact", name, kinds)
    return kinds[name]


def tell(kinds: Iterable[type[Fact]], target: Target, batch: Batch) -> list[Fact]:
    """The facts of exactly these kinds, nothing else."""
    return [MAKERS[kind](target, batch) for kind in kinds]
