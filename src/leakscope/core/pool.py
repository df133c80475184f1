"""Public data in the hands of an adversary: examples, what a corpus tells of them, and nothing of the private part."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import final

from leakscope.core.annotation import Annotation
from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput, UnknownName


@final
@dataclass(frozen=True, eq=False, repr=False)
class Pool:
    """Public examples for shadow models, decoders and chance levels; an attack takes it as a constructor argument.

    A source would hand its private part along: whoever holds one can draw from it. A pool cannot.
    batch: the examples. annotations: what is known of each besides its label. origin: the expression that makes this
    pool again, such as "pool(Digits())", which is its repr; empty where there is none.
    Two pools are equal when their content is. Raises `BadInput` on an annotation of another number of examples.

    >>> import torch
    >>> pool = Pool(Batch(torch.zeros(2, 3), torch.tensor([0, 1])), origin="pool(Digits())")
    >>> pool, len(pool)
    (pool(Digits()), 2)
    """

    batch: Batch
    annotations: tuple[Annotation, ...] = ()
    origin: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "annotations", tuple(self.annotations))
        for one in self.annotations:
            if not one.fits(len(self.batch)):
                raise BadInput(f"{one.name} is known of {len(one.values)} examples, the pool has {len(self.batch)}")

    def __len__(self) -> int:
        return len(self.batch)

    def annotation(self, name: str) -> Annotation:
        """The annotation of this name. Raises `UnknownName` when the corpus does not tell it."""
        for one in self.annotations:
            if one.name == name:
                return one
        raise UnknownName("annotation of the pool", name, [one.name for one in self.annotations])

    def fingerprint(self) -> str:
        """A hash of every example and every annotation, wherever they are from."""
        text = repr((self.batch.fingerprint(), self.annotations))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pool) and self.fingerprint() == other.fingerprint()

    def __hash__(self) -> int:
        return hash(self.fingerprint())

    def __repr__(self) -> str:
        return self.origin or f"Pool({len(self)} examples, fingerprint={self.fingerprint()[:12]})"
