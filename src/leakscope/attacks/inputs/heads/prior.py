"""What the public says of the features of each class, before a head is seen."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.core.errors import BadInput

LEAST = 1e-8
"""Of the largest variance: what a direction keeps in which public features do not differ, so that none divides by 0."""
SMALLEST, BIGGEST = 1e-12, 1e12
"""Deviation of public features along their main direction, and their size: beyond, float32 holds no products."""


@final
@dataclass(frozen=True, eq=False)
class FeaturePrior:
    """x | class c ~ N(means[c], axes diag(variances) axes^T), and how often each feature is exactly zero.

    means: (C, d). axes: (d, d), orthonormal columns. variances: (d,), > 0. zeros: (C, d) in [0, 1].
    """

    means: Tensor
    axes: Tensor
    variances: Tensor
    zeros: Tensor

    @staticmethod
    def of(features: Tensor, labels: Tensor, classes: int) -> FeaturePrior:
        """Class means and the covariance that is left around them, which all classes share: ten times the examples.

        features: (n, d). labels: (n,) int64. Raises `BadInput` unless every class has an example, there are two
        more examples than classes, and features are numbers that float32 can calculate with.
        """
        counts = torch.bincount(labels, minlength=classes)
        if len(counts) > classes or int(counts.min()) < 1:
            raise BadInput(
                f"the pool has {counts.tolist()} examples of its classes, and the head tells {classes} apart; give a "
                "pool with examples of each and no others"
            )
        if len(features) < classes + 2:
            raise BadInput(
                f"the pool has {len(features)} examples, expected at least {classes + 2} to see how those of a class "
                "differ; give more of each class"
            )
        size = float(features.abs().max())
        if not size <= BIGGEST:
            raise BadInput(
                f"public features are as large as {size:.3g}, expected finite ones of at most {BIGGEST:g}; give a "
                "backbone whose weights are those of a trained network"
            )
        # float64: sums over tens of thousands of examples
        wide, hot = features.double(), torch.eye(classes, dtype=torch.float64)[labels]
        means = hot.T @ wide / counts.unsqueeze(1)
        around = wide - means[labels]
        variances, axes = torch.linalg.eigh(around.T @ around / (len(features) - classes))
        if not float(variances[-1]) > 0:
            raise BadInput("all public features of each class are the same; give another backbone or a larger pool")
        if float(variances[-1]) < SMALLEST**2:
            raise BadInput(
                f"public features of a class differ by {float(variances[-1]) ** 0.5:.3g}, expected at least "
                f"{SMALLEST:g}; give a backbone whose weights are those of a trained network"
            )
        zeros = hot.T @ (wide == 0).double() / counts.unsqueeze(1)
        parts = (means, axes, variances.clamp_min(LEAST * float(variances[-1])), zeros)
        return FeaturePrior(*(one.to(features.dtype) for one in parts))

    def mean_of(self, each: int) -> FeaturePrior:
        """The prior of the mean of `each` independent examples of a class, which is zero where all of them are."""
        return dataclasses.replace(self, variances=self.variances / each, zeros=self.zeros**each)
