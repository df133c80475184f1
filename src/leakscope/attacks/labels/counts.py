"""How many examples of each class a batch holds, in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from scipy.optimize import nnls
from torch import Tensor

from leakscope.attacks import citations
from leakscope.attacks.attack import AbstractAttack
from leakscope.attacks.parts.reading.output_gradient import OutputGradient, read_output
from leakscope.core.attempt import Attempt, Outcome
from leakscope.core.claim import Labels
from leakscope.core.effort import Clock, Watch
from leakscope.core.errors import BadInput
from leakscope.core.facts import BatchSize, Fact
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.core.target import Target
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.reading import clipped
from leakscope.numerics.rng import Key
from leakscope.targets.looking.dense_ends import features_at, probe_inputs


@final
@dataclass(frozen=True)
class LabelCounts(AbstractAttack[OutputGradient, Labels]):
    """Instance counts n from B g_b = (P - I) n, where column c of P is the softmax for an example of class c.

    g_b = mean_b (p_b - y_b) is the output layer's bias gradient. The feature vector of class c is read from the
    gradient itself, e_c = g_W[c] / g_b[c], pulled toward the mean feature vector by `ridge` where g_b[c] is small;
    p_c = softmax(W e_c + b). Solved with n >= 0 and sum n = B, then rounded by largest remainder.
    Right for batches larger than the number of classes, and for federated updates of one step; an approximation for
    several steps or trained weights. Under clipping the unknown factor is searched for too.
    Source: Ma et al. 2023 (iLRG), section 3; needs `BatchSize`.
    """

    ridge: float = 3.0
    needs: ClassVar[frozenset[type[Fact]]] = frozenset({BatchSize})

    def __post_init__(self) -> None:
        if not self.ridge > 0:
            raise BadInput(f"expected ridge > 0, got {self.ridge}")

    @property
    def citation(self) -> str:
        """Ma et al. 2023."""
        return citations.ILRG

    def _read(self, seen: Observation) -> OutputGradient | Refusal:
        output = read_output(seen)
        if isinstance(output, Refusal):
            return output
        if output.bias is None:
            return Refusal(
                "the release has no bias gradient at the output layer, so features cannot be told from labels"
            )
        return output

    def _attempt(
        self, seen: Observation, read: OutputGradient, *, key: Key, clock: Clock, watch: Watch
    ) -> Attempt[Labels]:
        del key, clock, watch
        output = read
        size = seen.told(BatchSize).count
        if size == 1:
            return self._one(output)
        real = solve_counts(seen, output, size, self.ridge)
        if real is None:
            return Attempt(repr(self), Outcome.DIVERGED, "the linear system for the counts has no finite solution")
        counts = round_to_sum(real, size)
        labels = torch.repeat_interleave(torch.arange(len(counts)), counts)
        margin = (1 - 2 * (real - counts).abs()).clamp(0, 1)
        off = float((real - counts).abs().mean())
        sentence = f"{int((counts > 0).sum())} classes among {size} examples; the counts were {off:.3f} off integers"
        return Attempt(repr(self), Outcome.CLAIMED, sentence, Labels(labels, margin[labels]))

    def _one(self, output: OutputGradient) -> Attempt[Labels]:
        """A single example needs no softmax and no scale: its class alone has a negative bias gradient."""
        assert output.bias is not None
        if not bool(torch.isfinite(output.bias).all()):
            return Attempt(repr(self), Outcome.DIVERGED, "the bias gradient is not finite")
        label = int(output.bias.argmin())
        return Attempt(repr(self), Outcome.CLAIMED, f"one example of class {label}", Labels(torch.tensor([label])))


def solve_counts(seen: Observation, output: OutputGradient, size: int, ridge: float) -> Tensor | None:
    """The real-valued counts (C,), non-negative, before rounding; None when there is no finite solution."""
    bias = output.bias
    assert bias is not None
    parameters = seen.target.parameters()
    weight = parameters[output.layer.weight].double()
    offset = parameters[output.layer.bias].double() if output.layer.bias else torch.zeros_like(bias)
    mean = mean_features(seen, output)
    pull = ridge * bias.square().mean()
    features = (bias[:, None] * output.weight + pull * mean) / (bias.square() + pull)[:, None]
    softmax = torch.softmax(features @ weight.T + offset, dim=1).T
    equations = (softmax - (1 - output.smoothing) * torch.eye(len(bias), dtype=torch.float64).to(bias)).cpu()
    if not bool(torch.isfinite(equations).all()):
        return None
    stretches = (1.0,) if clipped(seen) is Answer.NO else STRETCHES
    solved = [_nonnegative(equations, bias.cpu() * stretch, size) for stretch in stretches]
    # An unclipped release solves the system with stretch 1. A clipped one is a multiple of it: the multiple is the one
    # at which the counts come out as integers and the equations hold.
    best = min(solved, key=lambda one: one[1] + float((one[0] - one[0].round()).square().sum()))[0]
    return best if float(best.sum()) > 0 else None


def _nonnegative(equations: Tensor, bias: Tensor, size: int) -> tuple[Tensor, float]:
    """n >= 0 with equations @ n = size * bias and sum n = size, and the squared residual of the equations."""
    # The sum of the counts is known exactly, so it outweighs the modeled equations.
    sure = 10.0 * torch.ones(1, len(bias), dtype=torch.float64)
    system, right = torch.cat([equations, sure]), torch.cat([size * bias, torch.tensor([10.0 * size]).double()])
    solution, norm = nnls(system.numpy(), right.numpy())
    return torch.from_numpy(solution), float(norm) ** 2


STRETCHES = tuple(1.02**power for power in range(240))
"""Factors by which clipping may have shrunk the release: from 1 to about 100, in steps of 2 %."""


def mean_features(seen: Observation, output: OutputGradient) -> Tensor:
    """The batch's mean feature vector (d,) at the output layer.

    As long as the net is young, g_W = g_b e^T, so e is the least-squares ratio; it is ill-determined for a balanced
    batch (g_b near 0), and pulled there toward the features of noise at the brightness that fits best; of text, which
    has no brightness, toward those of random texts.
    """
    bias = output.bias
    assert bias is not None
    curve = _noise_features(seen.target)
    misfit = (output.weight[None] - bias[None, :, None] * curve[:, None, :]).square().sum((1, 2))
    guess = curve[misfit.argmin()]
    return ((bias[:, None] * output.weight).sum(0) + PULL * guess) / (bias.square().sum() + PULL)


def _noise_features(target: Target) -> Tensor:
    """(K, d) mean features of random inputs, of each brightness that they can have."""
    noise = probe_inputs(target, PROBES, key=Key(0).child("mean features"))
    # Token ids are names, not numbers: a tenth of one is no id.
    if not noise.is_floating_point():
        return features_at(target, noise).double().mean(0)[None]
    low, _ = target.domain.bounds(noise)
    return torch.stack([features_at(target, low + level * (noise - low)).double().mean(0) for level in LEVELS])


PROBES = 128
LEVELS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
PULL = 0.01
"""Weight of the noise features against sum g_b^2, which is about 0.01 for a balanced batch of 256 in 10 classes."""


def round_to_sum(real: Tensor, total: int) -> Tensor:
    """The non-negative integers nearest to `real` (C,) that sum to `total`, by largest remainder.

    >>> round_to_sum(torch.tensor([1.4, 0.7, 0.9]), 3)
    tensor([1, 1, 1])
    """
    scaled = real * (total / real.sum())
    counts = scaled.floor().long()
    order = (scaled - counts).argsort(descending=True)
    counts[order[: total - int(counts.sum())]] += 1
    return counts
