"""What one training step consumes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.core.arguments import instance
from leakscope.core.errors import BadInput
from leakscope.numerics import trees


@final
@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs with their labels.

    inputs: (B, ...) floating, or (B, T) int64 token ids. labels: (B,) int64 class indices, or (B, C) floating that the
    loss reads: probabilities, several labels at once (0 or 1 each), real numbers.
    For sequences, inputs are (B, T, F) padded with zeros, lengths (B,) int64 counts the real frames, labels are
    (B, L) int64 padded, and label_lengths (B,) int64 counts the labels that are real; both are given or neither.
    Shapes are checked here, values by `checked` (values cannot be read inside a traced function).
    Raises `BadInput` on an empty batch or on lengths that differ.

    >>> Batch(torch.zeros(2, 3), torch.tensor([0, 1]))
    Batch(inputs=(2, 3) torch.float32, labels=(2,) torch.int64)
    """

    inputs: Tensor
    labels: Tensor
    lengths: Tensor | None = None
    label_lengths: Tensor | None = None

    def __post_init__(self) -> None:
        instance("inputs", self.inputs, Tensor, "use torch.as_tensor")
        instance("labels", self.labels, Tensor, "use torch.as_tensor")
        if self.inputs.dim() < 1 or self.inputs.shape[0] == 0:
            raise BadInput(f"a batch needs at least one example, got inputs of shape {tuple(self.inputs.shape)}")
        if not self.inputs.is_floating_point() and not self.holds_tokens:
            raise BadInput(
                f"inputs must be floating point, or token ids (B, T) int64, got {tuple(self.inputs.shape)} "
                f"{self.inputs.dtype}; convert with .float() or .long()"
            )
        if self.labels.dim() < 1 or self.labels.shape[0] != self.inputs.shape[0]:
            raise BadInput(
                f"labels of shape {tuple(self.labels.shape)} do not fit inputs of shape {tuple(self.inputs.shape)}; "
                "give one label (or one row of probabilities) per example"
            )
        if self.labels.dim() == 1 and self.labels.dtype != torch.int64:
            raise BadInput(
                f"labels of shape {tuple(self.labels.shape)} are classes and must be int64, got {self.labels.dtype}; "
                "convert classes with .long(), give numbers to be predicted as (B, outputs), with .unsqueeze(1)"
            )
        if (self.lengths is None) is not (self.label_lengths is None):
            raise BadInput("a batch of sequences needs both lengths and label_lengths; give both or neither")
        if self.lengths is not None and self.label_lengths is not None:
            self._check_sequences(self.lengths, self.label_lengths)
        elif self.labels.dim() > 1 and not self.labels.is_floating_point():
            raise BadInput(
                f"labels of shape {tuple(self.labels.shape)} must be probabilities or other floating numbers, got "
                f"{self.labels.dtype}; convert with .float()"
            )

    def _check_sequences(self, lengths: Tensor, label_lengths: Tensor) -> None:
        count = (self.inputs.shape[0],)
        if lengths.shape != count or label_lengths.shape != count:
            raise BadInput(
                f"expected one length per example {count}, got lengths {tuple(lengths.shape)} and "
                f"label_lengths {tuple(label_lengths.shape)}"
            )
        if lengths.dtype != torch.int64 or label_lengths.dtype != torch.int64:
            raise BadInput(f"lengths must be int64, got {lengths.dtype} and {label_lengths.dtype}")
        if self.inputs.dim() != 3 or self.labels.dim() != 2 or self.labels.dtype != torch.int64:
            raise BadInput(
                f"sequences need inputs (B, T, F) and int64 labels (B, L), got {tuple(self.inputs.shape)} and "
                f"{tuple(self.labels.shape)} {self.labels.dtype}"
            )

    @property
    def holds_tokens(self) -> bool:
        """Whether the inputs are token ids: whole numbers, in which nothing can be differentiated or noised."""
        return self.inputs.dtype == torch.int64 and self.inputs.dim() == 2

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
        lengths = None if self.lengths is None else self.lengths[index]
        label_lengths = None if self.label_lengths is None else self.label_lengths[index]
        return Batch(self.inputs[index], self.labels[index], lengths, label_lengths)

    def trimmed(self) -> Batch:
        """The same sequences without the padding that none of them needs; other batches as they are."""
        if self.lengths is None or self.label_lengths is None:
            return self
        frames, letters = int(self.lengths.max()), int(self.label_lengths.max())
        return Batch(self.inputs[:, :frames], self.labels[:, :letters], self.lengths, self.label_lengths)

    def transcripts(self) -> tuple[tuple[int, ...], ...]:
        """The labels of each sequence without their padding. Raises `BadInput` where the batch holds no sequences.

        >>> one, said = torch.ones(2, 3, 1), torch.tensor([[5, 3], [7, 0]])
        >>> Batch(one, said, torch.tensor([3, 3]), torch.tensor([2, 1])).transcripts()
        ((5, 3), (7,))
        """
        if self.label_lengths is None:
            raise BadInput("the batch has no transcripts: its examples have classes or probabilities")
        return unpadded(self.labels, self.label_lengths)

    def fingerprint(self) -> str:
        """A hash of every byte."""
        named = {
            "inputs": self.inputs,
            "labels": self.labels,
            "lengths": self.lengths,
            "label_lengths": self.label_lengths,
        }
        return trees.fingerprint({name: value for name, value in named.items() if value is not None})


def unpadded(labels: Tensor, lengths: Tensor) -> tuple[tuple[int, ...], ...]:
    """The first lengths[b] of each row of (B, L) labels; what lies beyond is filling and means nothing."""
    rows = zip(labels.tolist(), lengths.tolist(), strict=True)
    return tuple(tuple(int(one) for one in row[: int(count)]) for row, count in rows)
