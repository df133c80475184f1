"""Recipes for targets: small frozen values that build a model from a key, in any process."""

from __future__ import annotations

from abc import ABC, abstractmethod

from leakscope.core.domain import AbstractDomain
from leakscope.core.target import Target
from leakscope.numerics.rng import Key


class AbstractArchitecture(ABC):
    """A model family with its sizes. Concrete ones are frozen dataclasses whose repr rebuilds them."""

    @abstractmethod
    def build(self, domain: AbstractDomain, classes: int, *, key: Key) -> Target:
        """The target with weights drawn from `key`. Raises `BadInput` when the domain does not fit the family."""
