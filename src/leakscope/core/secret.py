"""The challenger's private data. `attacks` cannot import this module; import-linter checks it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn, final

from leakscope.core.batch import Batch


@final
@dataclass(frozen=True, eq=False, repr=False)
class Secret:
    """A private batch: it can be revealed to the mechanism and the referee, but not printed and not pickled.

    >>> import torch
    >>> str(Secret(Batch(torch.zeros(1, 2), torch.tensor([0])))).startswith("Secret(fingerprint=")
    True
    """

    batch: Batch

    def reveal(self) -> Batch:
        """The private batch; called by the challenger and by scoring."""
        return self.batch

    def fingerprint(self) -> str:
        """A hash that tells whether two secrets are the same without telling what they are."""
        return self.batch.fingerprint()

    def __repr__(self) -> str:
        return f"Secret(fingerprint={self.fingerprint()[:12]})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled: draw it again from its source and key where it is needed")
