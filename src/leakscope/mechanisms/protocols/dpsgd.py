"""Differentially private SGD: each example's gradient is clipped by itself, and the sum gets noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from leakscope.core.arguments import count, number
from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.core.mechanism import Adjacency
from leakscope.core.release import Gradient, Release
from leakscope.core.target import Target
from leakscope.mechanisms.compose import AbstractProtocol, accounting
from leakscope.mechanisms.effects import Answer, ProtocolEffect
from leakscope.mechanisms.protocols.fedsgd import FedSGD
from leakscope.mechanisms.protocols.passes import client_gradient, own_module, quiet, replayed_gradient, sum_of
from leakscope.numerics import trees
from leakscope.numerics.rng import Key, normal

if TYPE_CHECKING:
    from dp_accounting import DpEvent


@final
@dataclass(frozen=True)
class DPSGD(AbstractProtocol):
    """g = (1/E) (sum_b g_b min(1, C / ||g_b||_2) + sigma C n), g_b = d/dw loss(w; x_b, y_b), n ~ N(0, 1).

    Abadi et al. 2016 (arXiv:1607.00133), algorithm 1: one norm per example over all parameters ("flat" clipping).

    clip: C > 0, in the units of one example's gradient. noise_multiplier: sigma >= 0, in units of C; 0 is clipping
    alone, which is not private. expected: E >= 1, by which the sum is divided; None is the size of the batch, another
    number is what a client with Poisson sampling expects. rate: in (0, 1], the probability with which each example is
    in the batch. It is `training_event`'s alone: `release` takes the batch that it is given, and `event` is about it.
    Raises `BadInput` on other values, and for a model in training mode with batch normalization, in which no example
    has a gradient of its own.

    >>> DPSGD(clip=1.0, noise_multiplier=1.1)
    DPSGD(clip=1.0, noise_multiplier=1.1, expected=None, rate=1.0)
    """

    clip: float
    noise_multiplier: float
    expected: int | None = None
    rate: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "clip", number("clip", self.clip, low=0, low_open=True))
        object.__setattr__(self, "noise_multiplier", number("noise_multiplier", self.noise_multiplier, low=0))
        if self.expected is not None:
            object.__setattr__(self, "expected", count("expected", self.expected))
        object.__setattr__(self, "rate", number("rate", self.rate, low=0, high=1, low_open=True))

    @property
    def undefended(self) -> AbstractProtocol:
        """The same gradient without clipping and noise."""
        return FedSGD()

    @property
    def noiseless(self) -> DPSGD:
        """The clipped gradients alone."""
        return replace(self, noise_multiplier=0.0)

    @property
    def effect(self) -> ProtocolEffect:
        """A weighted sum of the examples' gradients: each shortened by itself, noise on their sum."""
        silent = Answer.NO if self.noise_multiplier > 0 else Answer.YES
        return ProtocolEffect(
            known_weights=Answer.YES,
            one_gradient=Answer.NO,
            keeps_ratios=silent,
            keeps_zeros=silent,
            clips=Answer.YES,
            unbiased=Answer.YES,
            adds_weights=Answer.NO,
            bends=Answer.NO,
            signs=Answer.NO,
            only_disturbs=Answer.YES,
            keeps_inputs=Answer.YES,
        )

    def noise(self, examples: int | None) -> float | None:
        """sigma C / E; None where E is the size of a batch that was not told."""
        divisor = examples if self.expected is None else self.expected
        if self.noise_multiplier == 0:
            return 0.0
        return None if divisor is None else self.noise_multiplier * self.clip / divisor

    def unfit(self, target: Target) -> str | None:
        """Batch normalization in training mode, as above."""
        mixing = [name for name, layer in target.module.named_modules() if _mixes(layer)]
        if not mixing:
            return None
        return (
            f"DPSGD clips each example's gradient, but the batch normalization {mixing[0]!r} of {target.name!r} mixes "
            "the examples of a batch; use group normalization, or audit the model with training=False"
        )

    def release(self, target: Target, batch: Batch, *, key: Key) -> Gradient:
        """Backward through a copy of the module, one example at a time; each tensor's noise from its name's key.

        Raises `BadInput` when the loss does not depend on any parameter, or as above.
        """
        self._checked(target)
        with key.child("model").isolated(), torch.enable_grad():
            module = own_module(target)
            total: dict[str, Tensor] = {}
            for index in range(len(batch)):
                slope = client_gradient(module, target, batch.rows(_row(batch, index)))
                # one norm over all parameters of this example, from the norms of its tensors
                size = float(torch.linalg.vector_norm(torch.stack([value.norm() for value in slope.values()])))
                for name, value in slope.items():
                    # min(1, C / ||g_b||): a short gradient is never stretched, else rounding of zero would get norm C
                    clipped = value * (self.clip / size) if size > self.clip else value.clone()
                    total[name] = total[name] + clipped if name in total else clipped
        # sigma C: one example changes the sum by at most C, so noise is counted in units of it
        scale, noise = self.noise_multiplier * self.clip, key.child("noise")
        # on the sum, once, before it is divided: the divisor is public and costs no privacy
        noisy = {name: value + scale * normal(value, noise.child(name)) for name, value in total.items()}
        return Gradient(trees.scale(noisy, 1.0 / self._divisor(batch)))

    def replay(self, target: Target, batch: Batch) -> Gradient:
        """The same by functional differentiation, differentiable in the candidate; no noise, dropout is off."""
        self._checked(target)
        start = target.parameters()
        shares = []
        with quiet(target):
            for index in range(len(batch)):
                slope = replayed_gradient(target, start, batch.rows(_row(batch, index)))
                # inside the ball the factor is one and has gradient zero
                shares.append(trees.scale(slope, self.clip / trees.norm(slope).clamp_min(self.clip)))
        return Gradient({name: sum_of(shares, name) / self._divisor(batch) for name in start})

    def as_gradient(self, release: Release) -> Gradient:
        """The release itself, which clipping has made shorter. Raises `BadInput` when it is not a gradient."""
        if not isinstance(release, Gradient):
            raise BadInput(f"DPSGD releases a Gradient, got {release!r}; declare the mechanism that made it")
        return release

    def event(self, *, rounds: int = 1) -> DpEvent:
        """The Gaussian mechanism with multiplier sigma, whatever `rate` is; not private without noise.

        Of steps that the example is known to be in: an attack on a step is made on one of its examples, and how seldom
        that is drawn does not help it.
        """
        return self._event(1.0, rounds)

    def training_event(self, *, rounds: int = 1) -> DpEvent:
        """The same on Poisson samples: each example is in a step with probability `rate`, and nobody knows in which.

        It bounds what the trained weights say. Against someone who is told that an example was in a step, `event` does.
        """
        return self._event(self.rate, rounds)

    @property
    def adjacency(self) -> Adjacency | None:
        """One example is there or its gradient is zero (`Clip` of an update hides a client); None without noise."""
        return Adjacency.EXAMPLE if self.noise_multiplier > 0 else None

    def _event(self, rate: float, rounds: int) -> DpEvent:
        count("rounds", rounds)
        dp = accounting()
        if self.noise_multiplier == 0:
            return dp.NonPrivateDpEvent()
        once = dp.GaussianDpEvent(noise_multiplier=self.noise_multiplier)
        # amplification: who is not in the sample has no influence, and nobody knows who is in it
        if rate < 1:
            once = dp.PoissonSampledDpEvent(sampling_probability=rate, event=once)
        return once if rounds == 1 else dp.SelfComposedDpEvent(once, rounds)

    def _checked(self, target: Target) -> None:
        """Refuse what has no gradient per example; a layer that keeps no running statistics always uses the batch's."""
        why = self.unfit(target)
        if why is not None:
            raise BadInput(why)

    def _divisor(self, batch: Batch) -> int:
        return len(batch) if self.expected is None else self.expected


def _row(batch: Batch, index: int) -> Tensor:
    return torch.tensor([index], device=batch.inputs.device)


def _mixes(layer: nn.Module) -> bool:
    # in evaluation with running statistics each example is normalized by constants
    return isinstance(layer, _BatchNorm) and (layer.training or layer.running_mean is None)
