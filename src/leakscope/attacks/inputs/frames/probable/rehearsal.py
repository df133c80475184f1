"""What the errors of each layer are like over time, from the public model alone: covariances of rehearsals."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from leakscope.attacks.parts.priors.speech import Chain
from leakscope.core.batch import Batch
from leakscope.core.overriding import acts_as
from leakscope.core.target import Target
from leakscope.numerics.rng import Key
from leakscope.targets.looking.dense_stack import DenseStack
from leakscope.targets.looking.tape import rewritten
from leakscope.targets.losses import CTC

Array = NDArray[np.float64]

PACE = 0.3
"""Characters per frame of 20 ms: 15 a second."""


def rehearsed(
    target: Target, stack: DenseStack, chain: Chain, lengths: tuple[int, ...], *, key: Key, times: int = 6
) -> list[Array] | None:
    """Roots R (T, T) of E[delta delta^T] for each layer of `stack`, over frames drawn from the prior and random labels.

    The errors of a recognizer depend on what was said less than on when: on the labels' places, on the ends of the
    utterance, on what the layers above do with time. Their scale is arbitrary. None where the loss is not CTC,
    or a layer is no `torch.nn.Linear`.
    """
    modules = dict(target.module.named_modules())
    linear = [modules.get(layer.names[0].rpartition(".")[0]) for layer in stack.layers]
    if not acts_as(target.loss, CTC) or not all(isinstance(module, nn.Linear) for module in linear):
        return None
    # Utterances do not meet in the model, so their errors are uncorrelated: zero outside the diagonal blocks.
    total = [np.zeros((sum(lengths), sum(lengths))) for _ in stack.layers]
    for time in range(times):
        here = 0
        for place, count in enumerate(lengths):
            random = key.child("rehearsal", time, place).numpy()
            frames = chain.drawn(count, random)
            # All classes but the blank, wherever the loss has it.
            said = random.integers(0, target.classes - 1, max(1, round(PACE * count)))
            said += said >= target.loss.blank
            said = said[np.insert(said[1:] != said[:-1], 0, True)]  # repeated ones would need more frames
            part = slice(here, here + count)
            for sums, errors in zip(total, _errors(target, stack, frames, said, key), strict=True):
                sums[part, part] += errors @ errors.T
            here += count
    return [_root(sums) for sums in total]


def _root(matrix: Array) -> Array:
    values, axes = np.linalg.eigh(matrix)
    # R R^T = sum delta delta^T; rounding leaves eigenvalues below zero where it has none. The number of rehearsals is
    # no matter, as the scale is arbitrary.
    return np.asarray(axes * np.sqrt(np.maximum(values, 0.0)))


def _errors(target: Target, stack: DenseStack, frames: Array, said: Array, key: Key) -> list[Array]:
    """The loss's slope at each layer's output, (T, H) each."""
    like = next(iter(target.parameters().values()))
    inputs = torch.from_numpy(frames).to(like).unsqueeze(0)
    labels = torch.from_numpy(said).to(like.device).unsqueeze(0)
    batch = Batch(inputs, labels, torch.tensor([len(frames)]), torch.tensor([len(said)]))
    produced: list[torch.Tensor] = []

    def start(given: torch.Tensor, returned: torch.Tensor) -> torch.Tensor:
        del given  # the model's parameters are constants here, so that the first layer's output is a leaf
        produced.append(returned if returned.requires_grad else returned.detach().requires_grad_())
        return produced[-1]

    names = [layer.names[0].rpartition(".")[0] for layer in stack.layers]
    with rewritten(target.module, dict.fromkeys(names, start)), key.child("model").isolated(), torch.enable_grad():
        loss = target.loss_at(target.parameters(), batch)
        slopes = torch.autograd.grad(loss, produced)
    return [slope[0].double().cpu().numpy() for slope in slopes]
