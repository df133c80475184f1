"""Training losses of particular model families."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.core.target import AbstractLoss
from leakscope.domains.text import PAD
from leakscope.numerics import ctc


@final
class Reduction(enum.Enum):
    """How the loss of one utterance is scaled before the mean over the batch; `Reduction("sum")` names the same.

    SUM: as it is (TensorFlow, DeepSpeech). MEAN: divided by its number of labels, at least 1 (torch's `"mean"`).
    """

    SUM = "sum"
    MEAN = "mean"

    def __repr__(self) -> str:
        return f"Reduction.{self.name}"


@final
@dataclass(frozen=True)
class CTC(AbstractLoss):
    """mean_b nll_b / n_b with nll of `numerics.ctc` in nats and n_b = 1 (SUM) or the number of labels (MEAN).

    outputs: (B, T, C) logits; the batch holds sequences. Infinite where frames do not suffice, which `check` refuses.

    >>> batch = Batch(torch.zeros(1, 2, 1), torch.tensor([[0]]), torch.tensor([2]), torch.tensor([1]))
    >>> round(CTC(blank=1)(torch.zeros(1, 2, 2), batch).exp().item(), 4)  # 3 of 4 alignments spell the label
    1.3333
    """

    reduction: Reduction = Reduction.SUM
    blank: int = 28

    def __post_init__(self) -> None:
        if self.blank < 0:
            raise BadInput(f"expected a blank index >= 0, got {self.blank}")

    def __call__(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The scalar loss. Raises `BadInput` when the batch does not hold sequences or outputs are not (B, T, C)."""
        if batch.lengths is None or batch.label_lengths is None:
            raise BadInput("CTC needs a batch of sequences: give lengths and label_lengths")
        if outputs.dim() != 3 or outputs.shape[:2] != batch.inputs.shape[:2]:
            raise BadInput(
                f"CTC needs logits (B, T, C) for inputs {tuple(batch.inputs.shape)}, got {tuple(outputs.shape)}; "
                "use a model with one output per frame"
            )
        each = ctc.negative_log_likelihood(
            outputs, batch.labels, lengths=batch.lengths, label_lengths=batch.label_lengths, blank=self.blank
        )
        if self.reduction is Reduction.MEAN:
            each = each / batch.label_lengths.clamp(min=1)
        return each.mean()

    def check(self, batch: Batch, classes: int) -> None:
        """Raises `BadInput` where this loss would be infinite, read padding, or read labels that are none.

        For the challenger, before a release: values are read here, so not inside a traced function.
        """
        if batch.lengths is None or batch.label_lengths is None:
            raise BadInput("CTC needs a batch of sequences: give lengths and label_lengths")
        if not self.blank < classes:
            raise BadInput(f"the blank {self.blank} is no output of a model with {classes} classes; use the last one")
        self._check_labels(batch.labels, batch.label_lengths, classes)
        frames = batch.inputs.shape[1]
        if bool(((batch.lengths < 1) | (batch.lengths > frames)).any()):
            raise BadInput(f"expected lengths from 1 to {frames}, got {batch.lengths.tolist()}")
        beyond = torch.arange(frames, device=batch.inputs.device) >= batch.lengths.unsqueeze(1)
        if bool((batch.inputs != 0).any(2)[beyond].any()):
            raise BadInput("frames beyond an utterance's length must be zero: the windows of its last frames read them")
        needed = ctc.frames_needed(batch.labels, batch.label_lengths)
        short = torch.nonzero(needed > batch.lengths).flatten().tolist()
        if short:
            raise BadInput(
                f"utterance {short[0]} has {int(batch.lengths[short[0]])} frames, its transcript needs "
                f"{int(needed[short[0]])}; use longer sound or a shorter transcript"
            )

    def _check_labels(self, labels: Tensor, label_lengths: Tensor, classes: int) -> None:
        if bool(((label_lengths < 0) | (label_lengths > labels.shape[1])).any()):
            raise BadInput(f"expected label lengths from 0 to {labels.shape[1]}, got {label_lengths.tolist()}")
        real = labels[torch.arange(labels.shape[1], device=labels.device) < label_lengths.unsqueeze(1)]
        wrong = real[(real < 0) | (real >= classes) | (real == self.blank)]
        if len(wrong):
            raise BadInput(
                f"expected labels from 0 to {classes - 1} other than the blank {self.blank}, got {int(wrong[0])}; "
                "use the alphabet that the model was made for"
            )


@final
@dataclass(frozen=True)
class NextToken(AbstractLoss):
    """mean_b mean_t -log softmax(outputs_bt)[x_b,t+1] over the tokens that have a next one; labels are not read.

    outputs: (B, T, V) logits for inputs (B, T) of token ids; a sequence of one token counts as 0.
    Raises `BadInput` when the shapes do not fit.

    >>> NextToken()(torch.zeros(1, 3, 4), Batch(torch.tensor([[3, 1, 0]]), torch.tensor([0]))).exp()
    tensor(4.)
    """

    def __call__(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The scalar loss."""
        if not batch.holds_tokens or outputs.dim() != 3 or outputs.shape[:2] != batch.inputs.shape:
            raise BadInput(
                f"NextToken needs token ids (B, T) and logits (B, T, V), got inputs {tuple(batch.inputs.shape)} "
                f"{batch.inputs.dtype} and outputs {tuple(outputs.shape)}"
            )
        following = batch.inputs[:, 1:]
        real = (following != PAD).to(outputs.dtype)
        each = F.cross_entropy(outputs[:, :-1].transpose(1, 2), following, reduction="none") * real
        return (each.sum(1) / real.sum(1).clamp(min=1)).mean()
