"""The challenger's private data. `attacks` cannot import this module; import-linter checks it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn, final

from leakscope.core.annotation import Annotation
from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput, UnknownName


@final
@dataclass(frozen=True, eq=False, repr=False)
class Secret:
    """A private batch: it can be revealed to the mechanism and the referee, but not printed and not pickled.

    annotations: what else is private about its examples or their owner; the mechanism has no use for them. owners:
    whose each example is, by number; empty where the source does not say.
    Raises `BadInput` on an annotation, or owners, of another number of examples.

    >>> import torch
    >>> str(Secret(Batch(torch.zeros(1, 2), torch.tensor([0])))).startswith("Secret(fingerprint=")
    True
    """

    batch: Batch
    annotations: tuple[Annotation, ...] = ()
    owners: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for one in self.annotations:
            if not one.fits(len(self.batch)):
                raise BadInput(f"{one.name} is known of {len(one.values)} examples, the batch has {len(self.batch)}")

        if self.owners and len(self.owners) != len(self.batch):
            raise BadInput(f"owners are known of {len(self.owners)} examples, the batch has {len(self.batch)}")

    def reveal(self) -> Batch:
        """The private batch; called by the challenger and by scoring."""
        return self.batch

    def annotation(self, name: str) -> Annotation:
        """The annotation of this name. Raises `UnknownName` when the corpus does not tell it."""
        for one in self.annotations:
            if one.name == name:
                return one
        raise UnknownName("annotation of the secret", name, [one.name for one in self.annotations])

    def fingerprint(self) -> str:
        """A hash of the batch that tells whether two secrets are the same without telling what they are."""
        return self.batch.fingerprint()

    def __repr__(self) -> str:
        return f"Secret(fingerprint={self.fingerprint()[:12]})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled: draw it again from its source and key where it is needed")
