"""Batch-norm statistics as a belief: a candidate batch should move the normalization layers as real data do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from leakscope.attacks import citations
from leakscope.attacks.parts.priors.prior import AbstractPrior, Penalty
from leakscope.core.errors import NoSuchLayer
from leakscope.core.facts import BatchNormStatistics, PublicStatistics
from leakscope.core.observation import Observation
from leakscope.core.target import Target
from leakscope.targets.looking.tape import listening, named


@final
@dataclass(frozen=True)
class BatchNorm(AbstractPrior):
    """sum_l |mean_l(x) - m_l|_2 + |var_l(x) - v_l|_2 over normalization layers (Yin et al. 2021, equation 9).

    (m, v) are the statistics of the private batch when they were told (`BatchNormStatistics`), else what the adversary
    estimates from public examples (`PublicStatistics`), else the running statistics of the released model.
    Raises `NoSuchLayer` when the model has no batch normalization with statistics.
    """

    @property
    def citation(self) -> str:
        """Yin et al. 2021."""
        return citations.GRAD_INVERSION

    def penalty(self, seen: Observation) -> Penalty:
        """The penalty; runs the model once per call."""
        target = seen.target
        wanted = _wanted(seen)
        parameters = target.parameters()

        def mismatch(inputs: Tensor) -> Tensor:
            found = layer_statistics(target, parameters, inputs)
            # |.|_2 over the channels of a layer, not squared, as in equation 9.
            terms = [
                torch.linalg.vector_norm(found[name][part] - wanted[name][part]) for name in wanted for part in (0, 1)
            ]
            return torch.stack(terms).sum()

        return mismatch


def _wanted(seen: Observation) -> dict[str, tuple[Tensor, Tensor]]:
    kinds: tuple[type[BatchNormStatistics | PublicStatistics], ...] = (BatchNormStatistics, PublicStatistics)
    for kind in kinds:
        # From the most to the least that can be known: the batch's own, public examples', the model's own below.
        if not seen.knows(kind):
            continue
        like = next(iter(seen.target.parameters().values()))
        told = seen.told(kind).by_layer
        return {n: (like.new_tensor(s.mean), like.new_tensor(s.variance)) for n, s in told}
    # torch keeps the unbiased variance here, that of a candidate is biased: smaller by (n - 1) / n for n values.
    running = {
        name: (module.running_mean, module.running_var)
        for name, module in seen.target.module.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None
    }
    if not running:
        raise NoSuchLayer(f"{seen.target.name} has no batch-norm layer with running statistics; drop this prior")
    return {n: (m.clone(), v.clone()) for n, (m, v) in running.items() if m is not None and v is not None}


def layer_statistics(target: Target, parameters: dict[str, Tensor], inputs: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and biased variance per channel of every batch-norm layer's input, by layer name; differentiable."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def listener(name: str) -> Callable[[Tensor], None]:
        # at once, not afterwards: a later layer in place may overwrite what this one is given
        def note(given: Tensor) -> None:
            # All but the channels: batch, and height and width where there are.
            axes = [d for d in range(given.dim()) if d != 1]
            found[name] = (given.mean(axes), given.var(axes, correction=0))

        return note

    with listening(target.module, {name: listener(name) for name in named(target.module, _BatchNorm)}):
        target.outputs(parameters, inputs)
    return found
