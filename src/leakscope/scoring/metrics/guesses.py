"""How much of the private labels a claim has right, as a multiset: the gradient of a batch has no order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from leakscope.core.claim import AbstractClaim, Labels
from leakscope.scoring.metrics.metric import AbstractLabelMetric
from leakscope.scoring.score import Direction


@final
@dataclass(frozen=True)
class LabelAccuracy(AbstractLabelMetric):
    """sum_c min(claimed_c, true_c) / B, the instance accuracy; in [0, 1].

    claimed_c, true_c: how often class c is claimed and true. An item that was not claimed counts as wrong. The
    instance-wise reading of Ma et al. 2023 (iLRG, ICLR), as a share of the batch.

    >>> LabelAccuracy().items(torch.tensor([1, 1, 0]), torch.tensor([1, 2, 1]))
    (1.0, 0.0, 1.0)
    """

    name: ClassVar[str] = "label-accuracy"
    unit: ClassVar[str] = "of 1"
    direction: ClassVar[Direction] = Direction.HIGHER

    def unfit(self, claim: AbstractClaim) -> str | None:
        """Judges every claim of labels; a set as a multiset with each label once, which is the least that it says."""
        del claim
        return None

    def items(self, claimed: Tensor, true: Tensor) -> tuple[float, ...]:
        """1 for a private label with a claimed one to match it, each claimed one used once."""
        # Each claimed label is used once: claiming a class twice must not find one item of it twice.
        left = _counts(claimed)
        hits = []
        for label in true.tolist():
            hits.append(float(left.get(label, 0) > 0))
            left[label] = left.get(label, 0) - 1
        return tuple(hits)


@final
@dataclass(frozen=True)
class LabelCounts(AbstractLabelMetric):
    """sum_c true_c [claimed_c = true_c] / B, the share of private items whose class was counted right; in [0, 1].

    Stricter than `LabelAccuracy`: one instance too few or too many spoils the whole class.

    >>> LabelCounts().items(torch.tensor([1, 1, 0]), torch.tensor([1, 2, 1]))
    (1.0, 0.0, 1.0)
    """

    name: ClassVar[str] = "label-counts"
    unit: ClassVar[str] = "of 1"
    direction: ClassVar[Direction] = Direction.HIGHER

    def unfit(self, claim: AbstractClaim) -> str | None:
        """A set has no counts."""
        return f"{self.name} compares counts, but the claim is a set of labels" if _is_set(claim) else None

    def items(self, claimed: Tensor, true: Tensor) -> tuple[float, ...]:
        """1 for a private label whose class has the true count."""
        # A class that is not claimed is counted as zero, which is wrong for every private item of it.
        asserted, real = _counts(claimed), _counts(true)
        return tuple(float(asserted.get(label, 0) == real[label]) for label in true.tolist())


@final
@dataclass(frozen=True)
class LabelPresence(AbstractLabelMetric):
    """sum_c true_c [claimed_c > 0] / B, the share of private items whose class was found at all; in [0, 1].

    The class-wise reading of Ma et al. 2023 (iLRG, ICLR), weighted by items. A claim of every class scores 1
    once the batch is as large as the number of classes; so does the blind guess that its chance level contains.

    >>> LabelPresence().items(torch.tensor([1, 0]), torch.tensor([1, 2, 1]))
    (1.0, 0.0, 1.0)
    """

    name: ClassVar[str] = "label-presence"
    unit: ClassVar[str] = "of 1"
    direction: ClassVar[Direction] = Direction.HIGHER

    def unfit(self, claim: AbstractClaim) -> str | None:
        """Judges every claim of labels."""
        del claim
        return None

    def items(self, claimed: Tensor, true: Tensor) -> tuple[float, ...]:
        """1 for a private label whose class is among the claimed ones."""
        return tuple(torch.isin(true, claimed).double().tolist())


@final
@dataclass(frozen=True)
class LabelSet(AbstractLabelMetric):
    """2 P R_b / (P + R_b) for each private label b: R_b is 1 if it is claimed, else 0; P the share of claims
    that occur.

    In [0, 1]; 1 for the set of private labels alone. P is of the whole claim, so that claiming every class does not
    pay. Judges sets (`Labels.distinct`) only: of a multiset `LabelAccuracy` says more.

    >>> LabelSet().items(torch.tensor([0, 1, 2, 3]), torch.tensor([1, 2, 1, 5]))
    (0.6666666666666666, 0.6666666666666666, 0.6666666666666666, 0.0)
    """

    name: ClassVar[str] = "label-set"
    unit: ClassVar[str] = "of 1"
    direction: ClassVar[Direction] = Direction.HIGHER

    def unfit(self, claim: AbstractClaim) -> str | None:
        """Anything but a set."""
        return None if _is_set(claim) else f"{self.name} compares sets, but the claim says how often each label occurs"

    def items(self, claimed: Tensor, true: Tensor) -> tuple[float, ...]:
        """One for each private label; all that are found score alike."""
        # P against the batch as a whole: a claimed label is no mistake of one example because it is that of another.
        found, real = set(claimed.tolist()), set(true.tolist())
        precision = len(found & real) / len(found) if found else 0.0
        # With R_b = 1 the harmonic mean is 2 P / (P + 1), and P > 0 as b itself is claimed rightly.
        return tuple(2 * precision / (precision + 1) if label in found else 0.0 for label in true.tolist())


def _is_set(claim: AbstractClaim) -> bool:
    return isinstance(claim, Labels) and claim.distinct


def _counts(labels: Tensor) -> dict[int, int]:
    classes, counts = labels.unique(return_counts=True)
    return dict(zip(classes.tolist(), counts.tolist(), strict=True))
