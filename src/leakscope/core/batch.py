"""What one training step consumes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.core.errors import BadInput
from leakscope.numerics import trees


@final
@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs with their labels.

    inputs: (B, ...) floating. labels: (B,) int64 class indices, or (B, C) floating probabilities.
    Shapes are checked here, values by `checked` (values cannot be read inside a traced function).
    Raises `BadInput` on an empty batch or on lengths that differ.

    >>> Batch(torch.zeros(2, 3), torch.tensor([0, 1]))
    Batch(inputs=(2, 3) torch.float32, labels=(2,) torch.int64)
    """

    inputs: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.inputs.dim() < 1 or self.inputs.shape[0] == 0:
            raise BadInput(f"a batch needs at least one example, got inputs of shape {tuple(self.inputs.shape)}")
        if not self.inputs.is_floating_point():
            raise BadInput(f"inputs must be floating point, got {self.inputs.dtype}; convert with .float()")
        if self.labels.dim() < 1 or self.labels.shape[0] != self.inputs.shape[0]:
            raise BadInput(
                f"labels of shape {tuple(self.labels.shape)} do not fit inputs of shape {tuple(self.inputs.shape)}; "
                "give one label (or one row of probabilities) per example"
            )
        if self.labels.dim() == 1 and self.labels.dtype != torch.int64:
            raise BadInput(f"class labels must be int64, got {self.labels.dtype}; convert with .long()")
        if self.labels.dim() > 1 and not self.labels.is_floating_point():
            raise BadInput(f"labels of shape {tuple(self.labels.shape)} must be probabilities, got {self.labels.dtype}")

    def __len__(self) -> int:
        return int(self.inputs.shape[0])

    def __repr__(self) -> str:
        return (
            f"Batch(inputs={tuple(self.inputs.shape)} {self.inputs.dtype}, "
            f"labels={tuple(self.labels.shape)} {self.labels.dtype})"
        )

    def checked(self) -> Batch:
        """This batch if every number in it is finite. Raises `BadInput` otherwise."""
        bad = int((~torch.isfinite(self.inputs)).sum())
        if bad:
            raise BadInput(f"the inputs hold {bad} values that are not finite; clean the data before it is audited")
        return self

    def with_inputs(self, inputs: Tensor) -> Batch:
        """The same batch with other inputs."""
        return dataclasses.replace(self, inputs=inputs)

    def rows(self, index: Tensor) -> Batch:
        """The examples at `index` (n,), in that order."""
        return Batch(self.inputs[index], self.labels[index])

    def fingerprint(self) -> str:
        """A hash of every byte."""
        return trees.fingerprint({"inputs": self.inputs, "labels": self.labels})
