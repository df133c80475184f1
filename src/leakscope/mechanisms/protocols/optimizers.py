"""Optimizers of a client's local steps: torch's own for the release, their recursion for the replay."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leakscope.core.arguments import flag, number
from leakscope.core.errors import BadInput
from leakscope.mechanisms.effects import Answer, ProtocolEffect
from leakscope.numerics import trees
from leakscope.numerics.trees import Named

FloatArray = NDArray[np.float64]


@final
@dataclass(frozen=True, eq=False)
class Moments:
    """What an optimizer remembers after `steps` steps: one tree of the weights' shapes per running mean; none at 0."""

    steps: int = 0
    means: tuple[Named, ...] = ()


@final
@dataclass(frozen=True)
class Course:
    """w_K = kept * w_0 - lr * travel * s, if each of the K steps is -lr * s before its momentum and its decay."""

    kept: float
    travel: float


class AbstractOptimizer(ABC):
    """How one local step is made of a gradient. The size of a step, lr, is the protocol's."""

    @abstractmethod
    def build(self, parameters: Iterable[nn.Parameter], *, lr: float) -> torch.optim.Optimizer:
        """Torch's own optimizer, as a client runs it."""

    @abstractmethod
    def step(self, slope: Named, weights: Named, moments: Moments, *, lr: float) -> tuple[dict[str, Tensor], Moments]:
        """The change of the weights by one step, and what is remembered; differentiable in the slope."""

    @abstractmethod
    def course(self, *, steps: int, lr: float) -> Course:
        """What `steps` steps make of the first weights and of a step that stays the same."""

    @abstractmethod
    def effect(self, *, lr: float) -> ProtocolEffect:
        """What attacks may rely on, after what is known of the weights was taken off (`AbstractStep.at_weights`)."""

    @abstractmethod
    def unfit(self, *, lr: float) -> str | None:
        """Why it cannot run at this lr; None where it can."""

    @property
    @abstractmethod
    def decays(self) -> bool:
        """Whether the weights themselves go into a step."""


@final
@dataclass(frozen=True)
class ClientSGD(AbstractOptimizer):
    """h = g + weight_decay * w, v = momentum * v + (1 - dampening) * h, w = w - lr * (h + momentum * v or v).

    As `torch.optim.SGD`: the first v is h undampened, v itself is the step, and with nesterov h + momentum * v is.
    momentum: in [0, 1). dampening: in [0, 1], with momentum only. nesterov: asks for momentum and no dampening.
    weight_decay: >= 0, L2 in the gradient, of all parameters that have one. Raises `BadInput` on other values.

    >>> ClientSGD(momentum=0.9, nesterov=True)
    ClientSGD(momentum=0.9, dampening=0.0, nesterov=True, weight_decay=0.0)
    """

    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "momentum", number("momentum", self.momentum, low=0, high=1, high_open=True))
        object.__setattr__(self, "dampening", number("dampening", self.dampening, low=0, high=1))
        object.__setattr__(self, "weight_decay", number("weight_decay", self.weight_decay, low=0))
        if flag("nesterov", self.nesterov) and (self.momentum == 0 or self.dampening > 0):
            raise BadInput(f"nesterov asks for momentum > 0 and dampening 0, got {self.momentum} and {self.dampening}")
        if self.dampening > 0 and self.momentum == 0:
            raise BadInput(f"dampening {self.dampening} changes nothing without momentum; give momentum > 0")

    def build(self, parameters: Iterable[nn.Parameter], *, lr: float) -> torch.optim.Optimizer:
        """`torch.optim.SGD`."""
        return torch.optim.SGD(
            parameters, lr=lr, momentum=self.momentum, dampening=self.dampening, nesterov=self.nesterov,
            weight_decay=self.weight_decay,
        )  # fmt: skip

    def step(self, slope: Named, weights: Named, moments: Moments, *, lr: float) -> tuple[dict[str, Tensor], Moments]:
        """By the recursion above, all of it linear in slope and weights."""
        decayed = trees.over(torch.add, slope, trees.scale(weights, self.weight_decay)) if self.weight_decay else slope
        if not moments.steps:
            # The first velocity is the whole gradient: torch dampens from the second step on.
            velocity = dict(decayed)
        else:
            fresh = trees.scale(decayed, 1 - self.dampening)
            velocity = trees.over(torch.add, trees.scale(moments.means[0], self.momentum), fresh)
        ahead = trees.over(torch.add, decayed, trees.scale(velocity, self.momentum)) if self.nesterov else velocity
        # Minus: the weights go against the gradient.
        return trees.scale(ahead, -lr), Moments(moments.steps + 1, (velocity,))

    def course(self, *, steps: int, lr: float) -> Course:
        """By the recursion on numbers: all steps are linear in the gradients and in the first weights."""
        if not self.decays:
            return Course(1.0, -self._run(0.0, 1.0, steps, 1.0))
        return Course(self._run(1.0, 0.0, steps, lr), -self._run(0.0, 1.0, steps, lr) / lr)

    def effect(self, *, lr: float) -> ProtocolEffect:
        """A weighted sum of gradients, of which all but the first are at weights that moved; decay adds weights.

        Momentum and dampening change the weights of that sum only. With weight decay w_K = c w_0 - lr sum_k a_k g_k for
        public c and a_k, so that the sum is there once (c - 1) w_0 is taken off. What was zero is rounding then.
        """
        # (1 - sqrt(momentum))^2: beyond it the weights swing about zero, and some a_k are negative.
        calm = lr * self.weight_decay <= (1 - math.sqrt(self.momentum)) ** 2
        sums = Answer.YES if calm or self.weight_decay == 0 else Answer.NO
        decays = Answer.YES if self.weight_decay > 0 else Answer.NO
        return ProtocolEffect(
            # Of two steps or more: how many there are is the protocol's, which says so of a single one.
            known_weights=Answer.NO,
            one_gradient=Answer.NO,
            keeps_ratios=sums,
            keeps_zeros=Answer.NO if self.weight_decay > 0 else Answer.YES,
            clips=Answer.NO,
            adds_weights=decays,
            bends=Answer.NO,
            signs=Answer.NO,
            only_disturbs=sums,
            keeps_inputs=Answer.YES,
            # No noise is added; what decay adds is no noise either, and known.
            unbiased=Answer.YES,
        )

    @property
    def decays(self) -> bool:
        """With weight decay."""
        return self.weight_decay > 0

    def unfit(self, *, lr: float) -> str | None:
        """Where the decay alone turns a weight around."""
        return _turned(lr, self.weight_decay)

    def _run(self, weight: float, slope: float, steps: int, lr: float) -> float:
        """The weight after all steps, by a power of the matrix of one: a client may take many."""
        # rows: the next weight and velocity, of (weight, velocity, 1); the first velocity is the undampened gradient
        decayed = np.array([self.weight_decay, 0.0, slope])
        first, state = decayed, np.array([weight, 0.0, 1.0])
        later = np.array([0.0, self.momentum, 0.0]) + (1 - self.dampening) * decayed

        def matrix(velocity: FloatArray) -> FloatArray:
            ahead = decayed + self.momentum * velocity if self.nesterov else velocity
            return np.stack([np.array([1.0, 0.0, 0.0]) - lr * ahead, velocity, np.array([0.0, 0.0, 1.0])])

        return float((np.linalg.matrix_power(matrix(later), steps - 1) @ (matrix(first) @ state))[0])


@final
@dataclass(frozen=True)
class ClientAdam(AbstractOptimizer):
    """h = g + weight_decay * w, m = b1 m + (1 - b1) h, v = b2 v + (1 - b2) h^2, w = w - lr * m' / (sqrt(v') + eps).

    m' = m / (1 - b1^k), v' = v / (1 - b2^k) in step k (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1), as
    `torch.optim.Adam` without amsgrad. betas: b1 and b2, each in [0, 1). eps > 0. weight_decay: >= 0, L2 in the
    gradient. Raises `BadInput` on other values.

    >>> ClientAdam()
    ClientAdam(betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0)
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", _betas(self.betas))
        object.__setattr__(self, "eps", number("eps", self.eps, low=0, low_open=True))
        object.__setattr__(self, "weight_decay", number("weight_decay", self.weight_decay, low=0))

    def build(self, parameters: Iterable[nn.Parameter], *, lr: float) -> torch.optim.Optimizer:
        """`torch.optim.Adam`."""
        return torch.optim.Adam(parameters, lr=lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay)

    def step(self, slope: Named, weights: Named, moments: Moments, *, lr: float) -> tuple[dict[str, Tensor], Moments]:
        """By the equations above; the slope is straight through, see `_normalized`."""
        decayed = trees.over(torch.add, slope, trees.scale(weights, self.weight_decay)) if self.weight_decay else slope
        ahead, after = _normalized(decayed, moments, self.betas, self.eps)
        return trees.scale(ahead, -lr), after

    def course(self, *, steps: int, lr: float) -> Course:
        """Steps of size one: what weight decay adds to a gradient is normalized with it, and cannot be taken off."""
        del lr
        return Course(1.0, float(steps))

    def effect(self, *, lr: float) -> ProtocolEffect:
        """Each entry is divided by its own size: signs in the first step, something between -1 and 1 later.

        A gradient that is zero throughout stays zero, as 0 / (0 + eps) is; unless decay adds the weight.
        """
        del lr
        return _bent(keeps_zeros=Answer.YES if self.weight_decay == 0 else Answer.NO, adds_weights=Answer.NO)

    @property
    def decays(self) -> bool:
        """With weight decay."""
        return self.weight_decay > 0

    def unfit(self, *, lr: float) -> str | None:
        """Never: its steps are at most about lr, whatever the decay."""
        del lr
        return None


@final
@dataclass(frozen=True)
class ClientAdamW(AbstractOptimizer):
    """w = (1 - lr * weight_decay) * w, then a step of `ClientAdam` whose gradient has no decay.

    Loshchilov & Hutter 2019 (arXiv:1711.05101, algorithm 2), as `torch.optim.AdamW` without amsgrad. betas, eps: as
    there. weight_decay: >= 0, its default is torch's. Raises `BadInput` on other values.

    >>> ClientAdamW()
    ClientAdamW(betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01)
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", _betas(self.betas))
        object.__setattr__(self, "eps", number("eps", self.eps, low=0, low_open=True))
        object.__setattr__(self, "weight_decay", number("weight_decay", self.weight_decay, low=0))

    def build(self, parameters: Iterable[nn.Parameter], *, lr: float) -> torch.optim.Optimizer:
        """`torch.optim.AdamW`."""
        return torch.optim.AdamW(parameters, lr=lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay)

    def step(self, slope: Named, weights: Named, moments: Moments, *, lr: float) -> tuple[dict[str, Tensor], Moments]:
        """By the equations above; the slope is straight through, see `_normalized`."""
        ahead, after = _normalized(slope, moments, self.betas, self.eps)
        # -lr (m' / (sqrt(v') + eps) + weight_decay w): both are of the weights before the step.
        return trees.scale(trees.over(torch.add, ahead, trees.scale(weights, self.weight_decay)), -lr), after

    def course(self, *, steps: int, lr: float) -> Course:
        """w_K = c^K w_0 - lr sum_k c^(K - k) s_k with c = 1 - lr * weight_decay: the decay is apart from the steps."""
        lost = lr * self.weight_decay
        # sum_(k < K) c^k = (1 - c^K) / (1 - c), without the difference of two numbers near 1
        travel = -math.expm1(steps * math.log1p(-lost)) / lost if lost > 0 else float(steps)
        return Course((1 - lost) ** steps, travel)

    def effect(self, *, lr: float) -> ProtocolEffect:
        """As `ClientAdam`; the decay is a public multiple of the first weights, which leaves rounding where it was."""
        del lr
        decays = Answer.YES if self.weight_decay > 0 else Answer.NO
        return _bent(keeps_zeros=Answer.NO if self.weight_decay > 0 else Answer.YES, adds_weights=decays)

    @property
    def decays(self) -> bool:
        """With weight decay."""
        return self.weight_decay > 0

    def unfit(self, *, lr: float) -> str | None:
        """Where the decay alone turns a weight around."""
        return _turned(lr, self.weight_decay)


PLAIN = ClientSGD()
"""What is meant where no optimizer is named."""


def _bent(*, keeps_zeros: Answer, adds_weights: Answer) -> ProtocolEffect:
    return ProtocolEffect(
        known_weights=Answer.NO,
        one_gradient=Answer.NO,
        # m / sqrt(v) is no multiple of a sum: large and small entries come out alike.
        keeps_ratios=Answer.NO,
        keeps_zeros=keeps_zeros,
        clips=Answer.NO,
        adds_weights=adds_weights,
        bends=Answer.YES,
        # Sizes are left where gradients are as small as eps, and after the first step everywhere.
        signs=Answer.NO,
        unbiased=Answer.NO,
        only_disturbs=Answer.NO,
        keeps_inputs=Answer.YES,
    )


def _normalized(
    slope: Named, moments: Moments, betas: tuple[float, float], eps: float
) -> tuple[dict[str, Tensor], Moments]:
    """m' / (sqrt(v') + eps) for each entry, and the moments after this step.

    Straight through: the true slope of a first step, eps / (|g| + eps)^2, is zero but for the smallest entries, and a
    search could not follow it. The slope is that of m' over the typical size of the denominators instead.
    """
    steps = moments.steps + 1
    zeros = {name: torch.zeros_like(value) for name, value in slope.items()}
    first, second = moments.means or (zeros, zeros)
    first = trees.over(lambda old, new: betas[0] * old + (1 - betas[0]) * new, first, slope)
    second = trees.over(lambda old, new: betas[1] * old + (1 - betas[1]) * new.detach().square(), second, slope)
    mean = trees.scale(first, 1 / (1 - betas[0] ** steps))
    root = {name: (value / (1 - betas[1] ** steps)).sqrt() + eps for name, value in second.items()}
    typical = torch.cat([value.flatten() for value in root.values()]).mean()
    ahead = {n: (value / root[n]).detach() + (value - value.detach()) / typical for n, value in mean.items()}
    return ahead, Moments(steps, (first, second))


def _betas(given: object) -> tuple[float, float]:
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise BadInput(f"expected two betas, got {given!r}; write betas=(0.9, 0.999)")
    one, other = (number("betas", beta, low=0, high=1, high_open=True) for beta in given)
    return one, other


def _turned(lr: float, decay: float) -> str | None:
    return None if lr * decay < 1 else f"expected lr * weight_decay < 1, got {lr} * {decay}; give a smaller decay"
