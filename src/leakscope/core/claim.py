"""What an adversary asserts; the referee decides. A new kind derives from `AbstractClaim` in a module of its own."""

from __future__ import annotations

import enum
import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.core.errors import BadInput

UNIT = 1e-3
"""How far the probabilities of one row may sum to something else than 1: float32 rounds thousands of them by less."""


class AbstractClaim(ABC):
    """A frozen dataclass of claimed items. Its fields are tensors, or what JSON can hold, so that a file can.

    How it is compared with the secret is its kind's business (`scoring.kinds`), which attacks cannot see.
    """

    @property
    @abstractmethod
    def confidence(self) -> Tensor | None:
        """(N,) in [0, 1], NaN for an item of which the attack does not say how sure it is; None for none at all."""

    @abstractmethod
    def __len__(self) -> int:
        """How many items are claimed."""


Claim = AbstractClaim
"""Any kind of claim: what an `Attempt` carries."""


def _confidence(given: Tensor | None, count: int) -> Tensor:
    confidence = torch.full((count,), float("nan")) if given is None else given.detach().float().cpu()
    if confidence.shape != (count,):
        raise BadInput(f"expected one confidence per claimed item ({count},), got {tuple(confidence.shape)}")
    if bool(((confidence < 0) | (confidence > 1)).any()):
        raise BadInput("confidences must lie in [0, 1], or be NaN where the attack has none")
    return confidence


def _rising(values: Sequence[int]) -> bool:
    """Whether each is larger than the one before: the one way to write a set down, so equal sets are equal claims."""
    return all(one < other for one, other in itertools.pairwise(values))


@final
@dataclass(frozen=True, eq=False)
class Inputs(AbstractClaim):
    """Asserts: "These are the private inputs", in any order.

    values: (N, *shape) in the model's units. labels: (N,) int64 or None. confidence: (N,) in [0, 1], NaN for none.
    lengths: (N,) int64, for sequences (N, T, F) padded with zeros: how many frames of each are claimed.
    Raises `BadInput` when a value is not finite: a diverged attack claims nothing.
    """

    values: Tensor
    labels: Tensor | None = None
    confidence: Tensor | None = None
    lengths: Tensor | None = None

    def __post_init__(self) -> None:
        if self.values.dim() < 1 or not self.values.is_floating_point():
            raise BadInput(f"claimed inputs must be a floating (N, ...) tensor, got {self.values.dtype}")
        if not bool(torch.isfinite(self.values).all()):
            raise BadInput("claimed inputs must be finite; report divergence as an outcome, not as a picture")
        if self.labels is not None and self.labels.shape != self.values.shape[:1]:
            raise BadInput(
                f"{tuple(self.labels.shape)} labels do not fit {self.values.shape[0]} claimed inputs; give one each"
            )
        if self.lengths is not None and self.lengths.shape != self.values.shape[:1]:
            raise BadInput(
                f"{tuple(self.lengths.shape)} lengths do not fit {self.values.shape[0]} claimed inputs; give one each"
            )
        object.__setattr__(self, "values", self.values.detach().cpu())
        object.__setattr__(self, "confidence", _confidence(self.confidence, len(self.values)))

    def __len__(self) -> int:
        return int(self.values.shape[0])


@final
@dataclass(frozen=True, eq=False)
class Labels(AbstractClaim):
    """Asserts: "These are the private labels", as a multiset. values: (N,) int64. confidence: (N,) in [0, 1] or NaN.

    distinct: asserts only which labels occur in the batch, not how often: each once, in rising order.
    absent: (A,) int64 classes that are said not to occur, in rising order; None where nothing is said of it.
    Raises `BadInput` on distinct or absent values that do not rise, and on a label that is said to occur and not to.

    >>> len(Labels(torch.tensor([1, 4]), distinct=True))
    2
    """

    values: Tensor
    confidence: Tensor | None = None
    distinct: bool = False
    absent: Tensor | None = None

    def __post_init__(self) -> None:
        if self.absent is not None:
            object.__setattr__(self, "absent", _absent(self.absent, self.values))
        if self.values.dim() != 1 or self.values.dtype != torch.int64:
            raise BadInput(f"claimed labels must be (N,) int64, got {tuple(self.values.shape)} {self.values.dtype}")
        if self.distinct and not _rising(self.values.tolist()):
            raise BadInput("a set of labels is written once each, in rising order; give values.unique()")
        object.__setattr__(self, "values", self.values.detach().cpu())
        object.__setattr__(self, "confidence", _confidence(self.confidence, len(self.values)))

    def __len__(self) -> int:
        return int(self.values.shape[0])


@final
@dataclass(frozen=True, eq=False)
class Features(AbstractClaim):
    """Asserts: "The dense layer `layer` was fed these, one row for each private example", in any order.

    layer: its name in the model. values: (N, d). labels: (N,) int64 or None. confidence: (N,) in [0, 1] or NaN.
    Raises `BadInput` where they are not of one shape or not finite.

    >>> len(Features("fc", torch.zeros(2, 5)))
    2
    """

    layer: str
    values: Tensor
    labels: Tensor | None = None
    confidence: Tensor | None = None

    def __post_init__(self) -> None:
        if self.values.dim() != 2 or not self.values.is_floating_point():
            raise BadInput(f"claimed features are floating (N, d), got {tuple(self.values.shape)} {self.values.dtype}")
        if not bool(torch.isfinite(self.values).all()):
            raise BadInput("claimed features must be finite; report divergence as an outcome")
        if self.labels is not None and self.labels.shape != self.values.shape[:1]:
            raise BadInput(
                f"{tuple(self.labels.shape)} labels do not fit {len(self.values)} claimed features; give one each"
            )
        object.__setattr__(self, "values", self.values.detach().cpu())
        object.__setattr__(self, "confidence", _confidence(self.confidence, len(self.values)))

    def __len__(self) -> int:
        return int(self.values.shape[0])


def _absent(given: Tensor, claimed: Tensor) -> Tensor:
    if given.dim() != 1 or given.dtype != torch.int64 or not _rising(given.tolist()):
        raise BadInput(f"absent classes are (A,) int64 in rising order, got {tuple(given.shape)} {given.dtype}")
    both = set(given.tolist()) & set(claimed.tolist())
    if both:
        raise BadInput(f"class {min(both)} is claimed and said to be absent; give one of the two")
    return given.detach().cpu()


@final
class Scale(enum.Enum):
    """What the scores of an attribute mean: only their order, or the logarithm of each category's probability."""

    RANK = "rank"
    LOG_PROBABILITY = "log-probability"


@final
@dataclass(frozen=True, eq=False)
class Attribute(AbstractClaim):
    """Asserts: "The person behind this has this attribute." values, confidence: as in `Labels`, one category each.

    scores: (N, G) floating or None: how well each of G categories fits, the better the higher, -inf for one that is
    ruled out. They are the ranking behind the values: scoring looks at the rank of the truth.
    scale: RANK, or LOG_PROBABILITY where score g of a row is log P(category g), sum_g exp(score_g) = 1; log-odds
    become such rows by `torch.log_softmax`.
    Raises `BadInput` on scores of another shape, NaN or +inf, on values outside 0..G-1, and on probabilities of which
    a row does not sum to 1 within `UNIT`.
    """

    name: str
    values: Tensor
    confidence: Tensor | None = None
    scores: Tensor | None = None
    scale: Scale = Scale.RANK

    def __post_init__(self) -> None:
        if self.values.dim() != 1 or self.values.dtype != torch.int64:
            raise BadInput(f"claimed attributes must be (N,) int64, got {tuple(self.values.shape)} {self.values.dtype}")
        object.__setattr__(self, "values", self.values.detach().cpu())
        if self.scores is not None:
            object.__setattr__(self, "scores", self._checked(self.scores.detach().cpu()))
        elif self.scale is Scale.LOG_PROBABILITY:
            raise BadInput("a claim of log-probabilities needs scores (N, G); give them, or the scale RANK")
        object.__setattr__(self, "confidence", _confidence(self.confidence, len(self.values)))

    def __len__(self) -> int:
        return int(self.values.shape[0])

    def _checked(self, scores: Tensor) -> Tensor:
        if scores.dim() != 2 or len(scores) != len(self.values) or not scores.is_floating_point():
            raise BadInput(
                f"expected floating scores ({len(self.values)}, G), got {tuple(scores.shape)} {scores.dtype}"
            )
        if bool((torch.isnan(scores) | (scores == torch.inf)).any()):
            raise BadInput("scores must be numbers below infinity; give -inf to a category that is ruled out")
        if bool(((self.values < 0) | (self.values >= scores.shape[1])).any()):
            raise BadInput(f"claimed categories must lie in 0..{scores.shape[1] - 1}, the columns of the scores")
        if self.scale is Scale.LOG_PROBABILITY:
            sums = scores.double().exp().sum(1)
            if bool(((sums - 1).abs() > UNIT).any()):
                worst = float(sums[(sums - 1).abs().argmax()])
                raise BadInput(f"the probabilities of a row sum to {worst:.4g}, expected 1; use torch.log_softmax")
        return scores


@final
@dataclass(frozen=True, eq=False)
class Transcripts(AbstractClaim):
    """Asserts: "These are the private transcripts." labels: one tuple of alphabet indices per item, in any order."""

    labels: tuple[tuple[int, ...], ...]
    confidence: Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "confidence", _confidence(self.confidence, len(self.labels)))

    def __len__(self) -> int:
        return len(self.labels)


@final
@dataclass(frozen=True, eq=False)
class Tokens(AbstractClaim):
    """Asserts: "These are the private texts." sequences: one tuple of token ids per item, in any order.

    bag: there is one sequence, and it is only the set of tokens that occur in the batch, sorted, each once.
    Raises `BadInput` on a bag that is none.
    """

    sequences: tuple[tuple[int, ...], ...]
    confidence: Tensor | None = None
    bag: bool = False

    def __post_init__(self) -> None:
        if self.bag and (len(self.sequences) != 1 or not _rising(self.sequences[0])):
            raise BadInput("a bag of tokens is one sequence of different ids in rising order")
        object.__setattr__(self, "confidence", _confidence(self.confidence, len(self.sequences)))

    def __len__(self) -> int:
        return len(self.sequences)
