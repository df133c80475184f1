"""The kinds of labels that losses ask for, each with the sentence that refuses another kind.

Values are read here, so never inside a traced function: the challenger checks a batch once, before it trains on it.
"""

from __future__ import annotations

from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput

ROUNDED = 1e-3
"""How far probabilities may be from summing to 1: half precision, and files with four decimals, stay below."""


def classes_or_probabilities(batch: Batch, classes: int) -> None:
    """Raises `BadInput` unless labels are (B,) indices from 0 to classes - 1, or (B, classes) probabilities."""
    # one axis is a class per example, two are numbers per class: the rank tells
    if batch.labels.dim() == 1:
        class_indices(batch, classes)
    else:
        probabilities(batch, classes)


def class_indices(batch: Batch, classes: int) -> None:
    """Raises `BadInput` unless labels are (B,) int64 from 0 to classes - 1."""
    labels = batch.labels
    if labels.dim() != 1:
        raise BadInput(f"expected one class per example, got labels of shape {tuple(labels.shape)}")
    if bool(((labels < 0) | (labels >= classes)).any()):
        raise BadInput(
            f"expected labels from 0 to {classes - 1}, got {int(labels.min())} to {int(labels.max())}; "
            "give the target as many classes as the data has"
        )


def probabilities(batch: Batch, classes: int) -> None:
    """Raises `BadInput` unless labels are (B, classes), none negative, each row with sum 1."""
    labels = batch.labels
    if tuple(labels.shape[1:]) != (classes,):
        raise BadInput(f"expected {classes} probabilities per example, got labels of shape {tuple(labels.shape)}")
    sums = labels.sum(1)
    # asked for what is right, not for what is wrong: a value that is not a number is neither
    if not bool((labels >= 0).all()) or not bool(((sums - 1).abs() <= ROUNDED).all()):
        raise BadInput(
            f"expected probabilities, got labels from {float(labels.min()):.4g} to {float(labels.max()):.4g} with sums "
            f"from {float(sums.min()):.4g} to {float(sums.max()):.4g}; for several labels at once use "
            "loss=BinaryCrossEntropy(), for real numbers loss=SquaredError()"
        )


def several_at_once(batch: Batch, classes: int) -> None:
    """Raises `BadInput` unless labels are (B, classes) floating, each entry 0 or 1: which labels an example has."""
    labels = batch.labels
    if not labels.is_floating_point() or tuple(labels.shape[1:]) != (classes,):
        raise BadInput(
            f"expected for each example {classes} numbers 0.0 or 1.0, which labels it has, got labels of shape "
            f"{tuple(labels.shape)} {labels.dtype}"
        )
    # soft labels too would give a loss, but of another meaning: how much, not whether
    odd = labels[(labels != 0) & (labels != 1)]
    if len(odd):
        raise BadInput(
            f"expected 0 or 1 for each label, got {float(odd[0]):.4g}; for probabilities use loss=CrossEntropy()"
        )


def real_numbers(batch: Batch, outputs: int) -> None:
    """Raises `BadInput` unless labels are (B, outputs) floating and finite: what is to be predicted."""
    labels = batch.labels
    if not labels.is_floating_point() or tuple(labels.shape[1:]) != (outputs,):
        raise BadInput(
            f"expected {outputs} real numbers per example (B, {outputs}), got labels of shape {tuple(labels.shape)} "
            f"{labels.dtype}; give the target as many classes as it has outputs"
        )
    if not bool(labels.isfinite().all()):
        raise BadInput("the labels hold values that are not finite; clean the data before it is audited")


def are_classes(batch: Batch) -> bool:
    """Whether each example has one class: labels (B,), or probabilities (B, C) of two classes or more.

    Real numbers and several labels at once are none, and their largest entry is nobody's class.

    >>> import torch
    >>> x = torch.zeros(1, 2)
    >>> are_classes(Batch(x, torch.tensor([0]))), are_classes(Batch(x, torch.tensor([[-0.7]])))
    (True, False)
    """
    if batch.labels.dim() == 1:
        return True
    rows = batch.labels.flatten(1)
    shares = bool((rows >= 0).all()) and bool(((rows.sum(1) - 1).abs() <= ROUNDED).all())
    return batch.labels.is_floating_point() and rows.shape[1] > 1 and shares
