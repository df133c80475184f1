"""Which labels are present, from the sign of the output layer's gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from leakscope.attacks import citations
from leakscope.attacks.attack import AbstractAttack
from leakscope.attacks.labels.output import OutputGradient, only_row_pattern, read_output
from leakscope.core.attempt import Attempt, Certificate, Clock, Outcome, Refusal, Watch
from leakscope.core.claim import Labels
from leakscope.core.facts import BatchSize
from leakscope.core.observation import Observation
from leakscope.numerics.rng import Key

SINGLE = 1e-3
"""Largest 1 + cos between the rows of one example's gradient; batches of two or more are far above (near 1)."""


@final
@dataclass(frozen=True)
class LabelSigns(AbstractAttack[Labels]):
    """Class c is present if its bias gradient mean_b (p_bc - y_bc) is negative: p is never negative.

    One example (told, or seen from the rank): its label, exactly, with or without a bias (Zhao et al. 2020,
    arXiv:2001.02610, section 3.1). More examples: the set of classes whose bias gradient is negative, each claimed
    once; a present class can hide behind a large p, an absent one is never claimed unless noise was added.
    Refuses when the model does not end in a dense layer with a cross entropy, or when a batch has no bias gradient.
    """

    @property
    def citation(self) -> str:
        """Zhao et al. 2020."""
        return citations.IDLG

    def _refusal(self, seen: Observation) -> Refusal | None:
        output = read_output(seen)
        if isinstance(output, Refusal):
            return output
        if output.bias is None and not _single(seen, output):
            return Refusal("the release has no bias gradient at the output layer, and holds more than one example")
        if seen.target.classes < 3 and output.bias is None:
            return Refusal("two classes without a bias gradient are mirror images: the sign cannot be told")
        return None

    def _attempt(self, seen: Observation, *, key: Key, clock: Clock, watch: Watch) -> Attempt[Labels]:
        del key, clock, watch
        output = read_output(seen)
        assert not isinstance(output, Refusal)
        if _single(seen, output):
            return self._one(output)
        assert output.bias is not None
        present = (output.bias < 0).nonzero().flatten()
        if not len(present):
            return Attempt(
                repr(self), Outcome.DIVERGED, "no class has a negative bias gradient: the signs were destroyed"
            )
        claim = Labels(present)
        return Attempt(repr(self), Outcome.CLAIMED, f"{len(present)} classes have a negative bias gradient", claim)

    def _one(self, output: OutputGradient) -> Attempt[Labels]:
        label, residual = only_row_pattern(output.weight)
        if output.bias is not None:
            label = int(output.bias.argmin())
        certificate = Certificate(residual, SINGLE, "1 + cos between the true row of dL/dW and every other row")
        claim = Labels(torch.tensor([label]), torch.tensor([1.0]) if certificate.holds else None)
        sentence = f"one example of class {label}"
        return Attempt(repr(self), Outcome.CLAIMED, sentence, claim, certificate)


def _single(seen: Observation, output: OutputGradient) -> bool:
    if seen.knows(BatchSize):
        return seen.told(BatchSize).count == 1
    return only_row_pattern(output.weight)[1] <= SINGLE
