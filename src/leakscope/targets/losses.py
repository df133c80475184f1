"""Training losses of particular model families."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from leakscope.core import labels
from leakscope.core.arguments import number
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
        object.__setattr__(self, "reduction", Reduction(self.reduction))
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
        self._check_labels(batch, batch.label_lengths, classes)
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

    def labeled(self, inputs: Tensor, classes: int) -> Batch:
        """Whole utterances with two symbols each, the first that are not the blank."""
        symbols = [symbol for symbol in range(classes) if symbol != self.blank][:2]
        said = torch.tensor([symbols] * len(inputs), device=inputs.device)
        whole = torch.full((len(inputs),), inputs.shape[1], device=inputs.device)
        return Batch(inputs, said, whole, torch.full_like(whole, len(symbols)))

    def _check_labels(self, batch: Batch, label_lengths: Tensor, classes: int) -> None:
        said = batch.labels
        if bool(((label_lengths < 0) | (label_lengths > said.shape[1])).any()):
            raise BadInput(f"expected label lengths from 0 to {said.shape[1]}, got {label_lengths.tolist()}")
        real = said[torch.arange(said.shape[1], device=said.device) < label_lengths.unsqueeze(1)]
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

    def check(self, batch: Batch, classes: int) -> None:
        """Token ids; labels are not read, so any will do."""
        del classes
        if not batch.holds_tokens:
            raise BadInput(f"NextToken needs token ids (B, T) int64, got inputs {tuple(batch.inputs.shape)}")

    def labeled(self, inputs: Tensor, classes: int) -> Batch:
        """Each class in turn, which nobody reads."""
        return Batch(inputs, torch.arange(len(inputs), device=inputs.device) % classes)


@final
@dataclass(frozen=True)
class BinaryCrossEntropy(AbstractLoss):
    """mean_b mean_c log(1 + exp(z_bc)) - y_bc z_bc: several labels at once, each there or not by itself. In nats.

    outputs z: (B, C) logits. labels y: (B, C), 1 where example b has label c and 0 elsewhere. Its slope by z_bc is
    (sigmoid(z_bc) - y_bc) / (B C): negative exactly where the label is there.
    Raises `BadInput` when the two shapes differ.

    >>> loss = BinaryCrossEntropy()(torch.zeros(1, 2), Batch(torch.zeros(1, 3), torch.tensor([[1.0, 0.0]])))
    >>> round(loss.exp().item(), 4)
    2.0
    """

    def __call__(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The scalar loss."""
        _alike(self, outputs, batch)
        return F.binary_cross_entropy_with_logits(outputs, batch.labels.to(outputs.dtype))

    def check(self, batch: Batch, classes: int) -> None:
        """Which labels each example has, 0 or 1 each."""
        labels.several_at_once(batch, classes)

    def labeled(self, inputs: Tensor, classes: int) -> Batch:
        """Every other label, beginning with the second for the first example."""
        return Batch(inputs, (_table(inputs, classes) % 2).to(torch.get_default_dtype()))


@final
@dataclass(frozen=True)
class OneLogit(AbstractLoss):
    """mean_b w_b (log(1 + exp(z_b)) - y_b z_b), w_b = positive_weight where y_b = 1, 1 elsewhere: two classes, in nats.

    outputs z: (B, 1), the logit of class 1. labels y: (B,) int64, 0 or 1. positive_weight: > 0; above 1 where class 1
    is the rare one. Raises `BadInput` on other shapes and weights.

    >>> loss = OneLogit(3.0)(torch.zeros(2, 1), Batch(torch.zeros(2, 3), torch.tensor([0, 1])))
    >>> round(loss.exp().item(), 4)
    4.0
    """

    positive_weight: float = 1.0

    def __post_init__(self) -> None:
        weight = number("positive_weight", self.positive_weight, low=0, low_open=True)
        object.__setattr__(self, "positive_weight", weight)

    def __call__(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The scalar loss."""
        if outputs.shape != (len(batch), 1) or batch.labels.shape != (len(batch),):
            raise BadInput(
                f"{self!r} takes logits ({len(batch)}, 1) and labels ({len(batch)},), got {tuple(outputs.shape)} and "
                f"{tuple(batch.labels.shape)}; give a head of one output"
            )
        weight = torch.tensor(self.positive_weight, dtype=outputs.dtype, device=outputs.device)
        true = batch.labels.to(outputs.dtype)
        return F.binary_cross_entropy_with_logits(outputs[:, 0], true, pos_weight=weight)

    def check(self, batch: Batch, classes: int) -> None:
        """Labels 0 and 1 of a target of two classes."""
        if classes != 2:
            raise BadInput(f"{self!r} tells 2 classes apart, the target has {classes}; use CrossEntropy()")
        labels.class_indices(batch, classes)

    def outputs(self, classes: int) -> int:
        """One, for two classes."""
        return 1 if classes == 2 else classes


@final
@dataclass(frozen=True)
class SquaredError(AbstractLoss):
    """mean_b mean_k (z_bk - y_bk)^2: real numbers are predicted, K for each example.

    outputs z and labels y: (B, K), in the labels' own unit; K is the target's number of classes, 1 for one number.
    Raises `BadInput` when the two shapes differ: (B,) beside (B, 1) would be broadcast to (B, B).

    >>> SquaredError()(torch.zeros(1, 2), Batch(torch.zeros(1, 3), torch.tensor([[1.0, 3.0]])))
    tensor(5.)
    """

    def __call__(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The scalar loss."""
        _alike(self, outputs, batch)
        return F.mse_loss(outputs, batch.labels.to(outputs.dtype))

    def check(self, batch: Batch, classes: int) -> None:
        """Real numbers, as many as the model gives."""
        labels.real_numbers(batch, classes)

    def labeled(self, inputs: Tensor, classes: int) -> Batch:
        """Minus one, zero and one in turn."""
        return Batch(inputs, (_table(inputs, classes) % 3 - 1).to(torch.get_default_dtype()))


def _table(inputs: Tensor, classes: int) -> Tensor:
    """(B, classes) whole numbers, entry b, c is b + c."""
    return torch.arange(len(inputs), device=inputs.device)[:, None] + torch.arange(classes, device=inputs.device)


def _alike(loss: AbstractLoss, outputs: Tensor, batch: Batch) -> None:
    if outputs.shape != batch.labels.shape:
        raise BadInput(
            f"{loss!r} compares outputs and labels one by one, got {tuple(outputs.shape)} and "
            f"{tuple(batch.labels.shape)}; give the labels the shape of the outputs"
        )
