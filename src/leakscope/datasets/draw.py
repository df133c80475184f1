"""Sources of private batches, with a public part that never overlaps the private one."""

from __future__ import annotations

import functools
import hashlib
from abc import ABC, abstractmethod
from typing import final

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from leakscope.core.annotation import Annotation
from leakscope.core.arguments import count as whole
from leakscope.core.arguments import instance
from leakscope.core.batch import Batch
from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.core.pool import Pool
from leakscope.core.secret import Secret
from leakscope.numerics.rng import Key

PUBLIC_SHARE = 0.5
"""The share of every source that attackers and chance levels may use; the rest is private."""


class AbstractSource(ABC):
    """Labeled examples. Concrete sources are frozen dataclasses; loading is cached by the process.

    The split into a public and a private part is a fixed permutation of the examples, the same in every run;
    examples with equal bytes are on the same side, and so are those of one owner where the source has `owners`.
    Overlapping or derived examples are not recognized: a source must not offer them.
    """

    @property
    @abstractmethod
    def domain(self) -> AbstractDomain:
        """What one example is."""

    @property
    @abstractmethod
    def classes(self) -> int:
        """The number of classes."""

    @property
    def most(self) -> int | None:
        """No more examples than these, public and private together; None where only loading tells."""
        return None

    @property
    def most_private(self) -> int | None:
        """As many private examples; None where only loading tells, as equal ones are on one side of the split."""
        return None

    @abstractmethod
    def load(self) -> Batch:
        """All examples in the domain's units, labels (N,) int64. Raises `BadInput` when the data is not there.

        The tensors belong to the process's cache: read them, never write to them. `draw` and `public` copy.
        """

    def annotations(self) -> tuple[Annotation, ...]:
        """What is known of every example besides its label, in the order of `load`; nothing unless a source says so."""
        return ()

    def owners(self) -> tuple[int, ...] | None:
        """Whose each example is, in the order of `load`, where nobody may be on both sides of the split; else None."""
        return None

    def fixed(self, count: int) -> Tensor | None:
        """The labels (count,) int64 of every private batch, in no order; None where they are drawn with the examples.

        Raises `BadInput` where there is no batch of that size.
        """
        del count
        return None

    def words(self) -> tuple[str, ...]:
        """How token ids are read, words()[id] and "" for no word; nothing unless a source holds texts."""
        return ()

    @final
    def draw(self, count: int, *, key: Key) -> Secret:
        """A private batch of `count` different examples.

        Raises `BadInput` when the private part has fewer than `count` examples.
        """
        instance("key", key, Key, "write key=Key(0)")
        count = whole("count", count)
        everything, (_, private) = self.load(), _split(self)
        if not 1 <= count <= len(private):
            raise BadInput(f"{self!r} has {len(private)} private examples, cannot draw {count}")
        chosen = torch.randperm(len(private), generator=key.child("draw").generator())
        labels = self.fixed(count)
        index = private[chosen[:count]] if labels is None else self._of(labels, everything.labels, private[chosen])
        owners = self.owners()
        whose = () if owners is None else tuple(owners[int(place)] for place in index)
        return Secret(everything.rows(index).trimmed(), tuple(one.rows(index) for one in self.annotations()), whose)

    def _of(self, labels: Tensor, all_labels: Tensor, private: Tensor) -> Tensor:
        """The first of `private`, positions in random order, that have these labels. Raises `BadInput`."""
        own, wanted = all_labels[private], torch.bincount(labels)
        # of each example, how many of its class stand before it
        before = torch.stack([(own == one).cumsum(0) - 1 for one in range(len(wanted))], 1)
        taken = before.gather(1, own.clamp_max(len(wanted) - 1).unsqueeze(1)).squeeze(1) < wanted[own]
        if int(taken.sum()) < len(labels):
            short = int((torch.bincount(own, minlength=len(wanted))[: len(wanted)] - wanted).argmin())
            raise BadInput(
                f"{self!r} has too few private examples of class {short} for {int(wanted[short])} in a batch"
            )
        return private[taken]

    @final
    def alike(self, label: int, *, besides: Batch, key: Key) -> Tensor | None:
        """The inputs (1, ...) of a private example of this class that is none of `besides`; None without one."""
        everything, (_, private) = self.load(), _split(self)
        same = private[everything.labels[private] == label]
        inputs = everything.inputs[same]
        taken = torch.stack([(inputs == one).flatten(1).all(1) for one in besides.inputs]).any(0)
        free = same[~taken]
        if len(free) == 0:
            return None
        chosen = free[torch.randint(len(free), (1,), generator=key.child("alike").generator())]
        return everything.inputs[chosen].clone()

    @final
    def public(self) -> Batch:
        """The public part: for chance levels, shadow data and decoders. Raises `BadInput` when it is empty."""
        everything, (public, _) = self.load(), _split(self)
        if len(public) == 0:
            raise BadInput(
                f"{self!r} has too few different examples for a public part; it needs at least 2, of two owners where "
                "it keeps those of one together"
            )
        return everything.rows(public).trimmed()

    @final
    def public_annotations(self) -> tuple[Annotation, ...]:
        """What is known of the examples of `public()`, in its order."""
        return tuple(one.rows(_split(self)[0]) for one in self.annotations())

    @final
    def public_owners(self) -> tuple[int, ...] | None:
        """Whose each example of `public()` is, in its order; None as `owners`."""
        owners = self.owners()
        return None if owners is None else tuple(owners[at] for at in _split(self)[0].tolist())

    @final
    def pool(self) -> Pool:
        """The public part as an attack takes it: it cannot be asked for the private one. Raises as `public`."""
        return Pool(self.public(), self.public_annotations(), origin=f"pool({self!r})")


def pool(source: AbstractSource) -> Pool:
    """The public part of a source, for an attack that learns from public data; written so in plans.

    >>> from leakscope import Digits
    >>> pool(Digits(size=8))
    pool(Digits(size=8))
    """
    return source.pool()


@functools.lru_cache(maxsize=32)
def _split(source: AbstractSource) -> tuple[Tensor, Tensor]:
    """Positions of the public and of the private examples."""
    groups = _groups(source.load().inputs)
    owners = source.owners()
    if owners is not None:
        groups = _joined(groups, owners)
    count = int(groups.max()) + 1
    order = torch.randperm(count, generator=Key(0).child("public", "private").generator())
    rank = torch.empty_like(order)
    rank[order] = torch.arange(count)
    place = rank[groups]
    examples = torch.argsort(place, stable=True)
    public = place[examples] < int(count * PUBLIC_SHARE)
    return examples[public], examples[~public]


def _groups(inputs: Tensor) -> Tensor:
    """(N,) int64: equal examples have equal numbers, counted from 0 in the order of first appearance."""
    seen: dict[bytes, int] = {}
    digests = (hashlib.blake2b(row.contiguous().numpy().tobytes(), digest_size=16).digest() for row in inputs)
    return torch.tensor([seen.setdefault(digest, len(seen)) for digest in digests])


def _joined(groups: Tensor, owners: tuple[int, ...]) -> Tensor:
    """(N,) int64: equal where examples hang together, by a group or by an owner that they share, or over others."""
    first, second = groups.numpy(), np.asarray(owners, dtype=np.int64)
    if len(first) != len(second):
        raise BadInput(f"expected the owner of each of {len(first)} examples, got {len(second)}")
    size = int(first.max()) + 1
    edges = (np.ones(len(first)), (first, size + second))
    graph = coo_matrix(edges, shape=(size + int(second.max()) + 1,) * 2)
    parts = connected_components(graph, directed=False)[1][first]
    # Numbered anew, since an owner without an example is a part of its own.
    return torch.from_numpy(np.unique(parts, return_inverse=True)[1].astype(np.int64))
