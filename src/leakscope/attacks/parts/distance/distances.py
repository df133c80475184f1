"""How far a candidate's gradient is from the observed one. Every distance is zero exactly at equality (up to scale)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import final

import torch
from torch import Tensor

from leakscope.attacks import citations
from leakscope.core.errors import BadInput
from leakscope.numerics import trees
from leakscope.numerics.trees import Named


class AbstractDistance(ABC):
    """A differentiable, non-negative function of two updates with the same names."""

    @property
    def citation(self) -> str:
        """BibTeX of the source, where it is another than the attack\'s own."""
        return ""

    @abstractmethod
    def __call__(self, candidate: Named, observed: Named) -> Tensor:
        """The distance, a scalar."""

    @property
    def scale_free(self) -> bool:
        """Whether a positive factor on either side changes nothing."""
        return False

    def reads(self, names: list[str]) -> list[str]:
        """Which of `names` the distance depends on, in their order: gradients of the others need not be computed."""
        return names


@final
@dataclass(frozen=True)
class Squared(AbstractDistance):
    """sum (g - g*)^2, the distance of Zhu et al. 2019 (arXiv:1906.08935, equation 1).

    >>> Squared()({"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([0.0, 0.0])})
    tensor(5.)
    """

    def __call__(self, candidate: Named, observed: Named) -> Tensor:
        """The distance, a scalar >= 0."""
        # Name by name: to flatten both sides would copy them at every step.
        return torch.stack([(candidate[n] - observed[n]).square().sum() for n in observed]).sum()


@final
@dataclass(frozen=True)
class L1(AbstractDistance):
    """sum |g - g*| (Deng et al. 2021, arXiv:2103.06819, in combination).

    >>> L1()({"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([0.0, 0.0])})
    tensor(3.)
    """

    def __call__(self, candidate: Named, observed: Named) -> Tensor:
        """The distance, a scalar >= 0."""
        # Its slope is a sign: a wrong entry pulls as hard near the truth as far from it.
        return torch.stack([(candidate[n] - observed[n]).abs().sum() for n in observed]).sum()


@final
@dataclass(frozen=True)
class Cosine(AbstractDistance):
    """1 - <g, g*> / (|g| |g*|) over all entries together, in [0, 2] (Geiping et al. 2020, arXiv:2003.14053, eq. 4).

    Blind to the scale of either side.

    >>> abs(Cosine()({"w": torch.tensor([2.0, 2.0])}, {"w": torch.tensor([1.0, 1.0])}).item()) < 1e-6
    True
    """

    @property
    def citation(self) -> str:
        """Geiping et al. 2020."""
        return citations.INVERTING

    @property
    def scale_free(self) -> bool:
        """True."""
        # Both norms are divided out.
        return True

    def __call__(self, candidate: Named, observed: Named) -> Tensor:
        """The distance, a scalar in [0, 2]."""
        # One angle for all layers together, as in equation 4: layers with large gradients count most.
        inner = torch.stack([(candidate[n] * observed[n]).sum() for n in observed]).sum()
        mine = torch.stack([candidate[n].square().sum() for n in observed]).sum()
        other = torch.stack([observed[n].square().sum() for n in observed]).sum()
        # The tiny constant keeps the gradient finite at a candidate whose gradient vanishes.
        return 1 - inner / (mine * other + torch.finfo(inner.dtype).tiny).sqrt()


@final
@dataclass(frozen=True)
class Layers(AbstractDistance):
    """`of`, on a subset of the layers: those whose name matches one of `patterns` (shell wildcards).

    Raises `BadInput` when no name matches.

    >>> far = {"a.weight": torch.tensor([9.0]), "b.weight": torch.tensor([1.0])}
    >>> Layers(Squared(), ("b.*",))(far, {name: torch.zeros(1) for name in far})
    tensor(1.)
    """

    of: AbstractDistance
    patterns: tuple[str, ...]

    @property
    def citation(self) -> str:
        """That of the distance inside."""
        return self.of.citation

    @property
    def scale_free(self) -> bool:
        """As the distance inside."""
        return self.of.scale_free

    def reads(self, names: list[str]) -> list[str]:
        """Those that match, as far as the distance inside reads them."""
        # Filtered first: the distance inside sees no other names, as in the call below.
        return self.of.reads([n for n in names if self._chosen(n)])

    def _chosen(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.patterns)

    def __call__(self, candidate: Named, observed: Named) -> Tensor:
        """The distance on the chosen layers."""
        # Of the observed names: a release may be partial, a candidate's gradient has them all.
        names = {n for n in observed if self._chosen(n)}
        if not names:
            raise BadInput(f"no parameter matches {self.patterns}; the release has {', '.join(sorted(observed))}")
        return self.of(trees.select(candidate, names), trees.select(observed, names))


@final
@dataclass(frozen=True)
class Weighted(AbstractDistance):
    """`of`, after layer k of n has been multiplied on both sides by `first + (last - first) * k / (n - 1)`.

    Linear weights by depth: GradInversion and its followers trust some layers more than others.

    >>> near, far = {"a": torch.zeros(1), "b": torch.zeros(1)}, {"a": torch.ones(1), "b": torch.ones(1)}
    >>> Weighted(L1(), first=1.0, last=3.0)(far, near)
    tensor(4.)
    """

    of: AbstractDistance
    first: float
    last: float

    @property
    def citation(self) -> str:
        """That of the distance inside."""
        return self.of.citation

    def __post_init__(self) -> None:
        if self.first < 0 or self.last < 0 or self.first + self.last == 0:
            raise BadInput(f"layer weights must be >= 0 and not both 0, got {self.first} and {self.last}")

    @property
    def scale_free(self) -> bool:
        """As the distance inside."""
        return self.of.scale_free

    def __call__(self, candidate: Named, observed: Named) -> Tensor:
        """The distance of the weighted layers."""
        # A single layer gets `first`; 0 / 0 otherwise.
        count = max(len(observed) - 1, 1)
        # k counts in the order of the model's parameters, from the input to the output, whatever order the client had.
        weight = {n: self.first + (self.last - self.first) * k / count for k, n in enumerate(observed)}
        # Both sides, so that equal gradients stay equal: the zero of the distance does not move.
        return self.of({n: candidate[n] * weight[n] for n in observed}, {n: observed[n] * weight[n] for n in observed})


@final
@dataclass(frozen=True)
class OnSupport(AbstractDistance):
    """`of`, on the entries that were really sent (not exactly zero).

    The adaptive attack against pruning and random dropping: what was zeroed says nothing about the input.

    >>> OnSupport(L1())({"w": torch.tensor([5.0, 2.0])}, {"w": torch.tensor([0.0, 1.0])})
    tensor(1.)
    """

    of: AbstractDistance

    @property
    def citation(self) -> str:
        """That of the distance inside."""
        return self.of.citation

    @property
    def scale_free(self) -> bool:
        """As the distance inside."""
        return self.of.scale_free

    def reads(self, names: list[str]) -> list[str]:
        """As the distance inside."""
        return self.of.reads(names)

    def __call__(self, candidate: Named, observed: Named) -> Tensor:
        """The distance on the support of `observed`."""
        # Only the candidate needs the mask: the observed side is zero outside of it by definition.
        return self.of({n: candidate[n] * (observed[n] != 0) for n in observed}, observed)
