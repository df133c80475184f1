"""Training a head and releasing it: the weights themselves, without noise and with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from leakscope.core.arguments import count, instance, number
from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.core.mechanism import AbstractMechanism, AbstractReplayable, Adjacency
from leakscope.core.release import Weights
from leakscope.core.target import Target
from leakscope.mechanisms.compose import accounting
from leakscope.mechanisms.protocols.dpsgd import DPSGD
from leakscope.mechanisms.protocols.optimizers import PLAIN, AbstractOptimizer, Moments
from leakscope.mechanisms.protocols.passes import client_gradient, own_module, quiet, reached, replayed_gradient
from leakscope.numerics import trees
from leakscope.numerics.rng import Key, normal
from leakscope.numerics.trees import Named

if TYPE_CHECKING:
    from dp_accounting import DpEvent


@final
@dataclass(frozen=True)
class HeadTraining(AbstractReplayable):
    """w_K of w_k = w_(k-1) - lr_k * s(g(w_(k-1))), k = 1..K, g on the whole batch: the trained model is published.

    The target is the head (its inputs are a backbone's features), or any model that is trained whole.
    steps: K >= 1, one for each pass over the batch ("epochs"). lr > 0: lr_1. last_lr: lr_K, > 0, with equal steps in
    between; None keeps lr. optimizer: s, `ClientSGD`, `ClientAdam` or `ClientAdamW`.
    init_std: None, and training begins at the target's weights, which everybody knows; or the standard deviation, >= 0,
    of normal weights that the trainer draws and keeps, with biases 0.
    Raises `BadInput` on other values.

    >>> HeadTraining(steps=32, lr=0.01, init_std=0.002)
    HeadTraining(steps=32, lr=0.01, init_std=0.002, last_lr=None, optimizer=ClientSGD(momentum=0.0, dampening=0.0, \
nesterov=False, weight_decay=0.0))
    """

    steps: int
    lr: float
    init_std: float | None = None
    last_lr: float | None = None
    optimizer: AbstractOptimizer = PLAIN

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", count("steps", self.steps))
        object.__setattr__(self, "lr", number("lr", self.lr, low=0, low_open=True))
        if self.init_std is not None:
            object.__setattr__(self, "init_std", number("init_std", self.init_std, low=0))
        if self.last_lr is not None:
            object.__setattr__(self, "last_lr", number("last_lr", self.last_lr, low=0, low_open=True))
            if self.steps == 1:
                raise BadInput("last_lr changes nothing in a single step; give steps >= 2")
        instance("optimizer", self.optimizer, AbstractOptimizer, "give ClientSGD(...), ClientAdam() or ClientAdamW()")
        unfit = self.optimizer.unfit(lr=max(self.rates))
        if unfit is not None:
            raise BadInput(unfit)

    @property
    def rates(self) -> tuple[float, ...]:
        """lr_1 to lr_K.

        >>> HeadTraining(steps=3, lr=0.3, last_lr=0.1).rates
        (0.3, 0.2, 0.1)
        """
        if self.last_lr is None:
            return (self.lr,) * self.steps
        # from both ends, so that the last one is last_lr to the bit
        last, most = self.last_lr, self.steps - 1
        return tuple((self.lr * (most - k) + last * k) / most for k in range(self.steps))

    @property
    def undefended(self) -> AbstractMechanism:
        """The training itself: nothing defends it."""
        return self

    def event(self, *, rounds: int = 1) -> DpEvent:
        """Not private: what is released is a function of the data, but for the first weights."""
        count("rounds", rounds)
        return accounting().NonPrivateDpEvent()

    def start(self, target: Target, *, key: Key) -> dict[str, Tensor]:
        """The weights before the first step, each tensor's from its name's key."""
        given = target.parameters()
        if self.init_std is None:
            return given
        # Vectors are biases (or a normalization's, of which a head has none): they begin at zero, as in the original.
        return {
            name: self.init_std * normal(value, key.child(name)) if value.dim() > 1 else torch.zeros_like(value)
            for name, value in given.items()
        }

    def release(self, target: Target, batch: Batch, *, key: Key) -> Weights:
        """A copy of the module is trained with an optimizer of `torch.optim`.

        Raises `BadInput` when the loss does not depend on any parameter.
        """
        begun = target.at(self.start(target, key=key.child("start")))
        with key.child("model").isolated(), torch.enable_grad():
            module = own_module(begun)
            optimizer = self.optimizer.build(module.parameters(), lr=self.lr)
            for rate in self.rates:
                # by hand: a scheduler of torch would compute the rates by a recursion of its own
                for group in optimizer.param_groups:
                    group["lr"] = rate
                client_gradient(module, begun, batch)
                optimizer.step()
        return Weights({name: value.detach() for name, value in module.named_parameters()})

    def replay(self, target: Target, batch: Batch) -> Weights:
        """The steps unrolled, differentiable in the candidate; from the first weights' mean where they are secret.

        Exact where `init_std` is None or 0. Of one dense layer the mean of the released weights is this but for terms
        of the order init_std^2. Raises `BadInput` for secret first weights of several layers: at their mean, which is
        0, a hidden layer has no gradient, so that nothing of its course would be repeated.
        """
        start = target.parameters()
        if self.init_std is not None:
            if self.init_std > 0 and sum(value.dim() > 1 for value in start.values()) > 1:
                raise BadInput(
                    f"the first weights of {target.name!r} are secret and of several layers, so that its training "
                    "cannot be replayed; where they are known, make a target of them and give init_std=None"
                )
            start = {name: torch.zeros_like(value) for name, value in start.items()}
        weights, moments = dict(start), Moments()
        with quiet(target):
            trained = reached(target, batch) if self.optimizer.decays else frozenset(start)
            for rate in self.rates:
                slope = replayed_gradient(target, weights, batch)
                change, moments = self.optimizer.step(slope, weights, moments, lr=rate)
                weights = {n: value + change[n] if n in trained else value for n, value in weights.items()}
        return Weights(weights)


@final
@dataclass(frozen=True)
class PrivateHeadTraining(AbstractMechanism):
    """The same with each step's gradient that of `step`, on a Poisson sample; only the last weights are released.

    In each of K steps every example is drawn with probability q = step.rate, apart from all others. With the sample S:
    g = (1/E) (sum_(b in S) g_b min(1, C / ||g_b||_2) + sigma C n), E = step.expected (Abadi et al. 2016,
    arXiv:1607.00133, algorithm 1). An empty sample is a step of noise alone, as it has to be.
    training: its steps, rates, optimizer and first weights. Raises `BadInput` without `step.expected`: the size of the
    sample is secret, and nothing may be divided by it.

    >>> PrivateHeadTraining(HeadTraining(64, 0.01, 0.002), DPSGD(4.0, 2.0, expected=5, rate=0.5)).adjacency
    <Adjacency.EXAMPLE: 'one example'>
    """

    training: HeadTraining
    step: DPSGD

    def __post_init__(self) -> None:
        instance("training", self.training, HeadTraining, "give HeadTraining(steps=32, lr=0.01)")
        instance("step", self.step, DPSGD, "give DPSGD(clip=1.0, noise_multiplier=1.0, expected=5, rate=0.5)")
        if self.step.expected is None:
            raise BadInput(
                "the size of a Poisson sample is secret and cannot divide its sum; give "
                "DPSGD(..., expected=n, rate=q), usually with n = q times the number of examples"
            )

    @property
    def undefended(self) -> AbstractMechanism:
        """The training on the whole batch, without sampling, clip and noise."""
        return self.training

    @property
    def noiseless(self) -> PrivateHeadTraining:
        """The same samples and clips without noise: who took part in which step is a secret of its own."""
        return replace(self, step=self.step.noiseless)

    @property
    def adjacency(self) -> Adjacency | None:
        """One example; None without noise."""
        return self.step.adjacency

    def event(self, *, rounds: int = 1) -> DpEvent:
        """K steps on Poisson samples, `rounds` times over.

        Whoever is hidden is known to be among the examples, and not in which steps they were drawn: the sample is a
        secret of the training, inside what is released once. It bounds all iterates together, hence the last.
        """
        count("rounds", rounds)
        return self.step.training_event(rounds=self.training.steps * rounds)

    def release(self, target: Target, batch: Batch, *, key: Key) -> Weights:
        """A copy of the module, one example at a time; the sample and the noise of each step from keys of their own.

        Raises `BadInput` as `DPSGD` does, and when the loss does not depend on any parameter.
        """
        begun = target.at(self.training.start(target, key=key.child("start")))
        # The divisor, and so the noise, does not depend on the sample; an empty one has no gradient to clip.
        silent = replace(self.step, noise_multiplier=0.0)
        scale = self.step.noise_multiplier * self.step.clip / (self.step.expected or 1)
        weights, moments = begun.parameters(), Moments()
        for place, rate in enumerate(self.training.rates):
            at, own = begun.at(weights), key.child("step", place)
            drawn = torch.rand(len(batch), generator=own.child("sample").generator()) < self.step.rate
            rows = drawn.nonzero().flatten().to(batch.inputs.device)
            slope: Named = {name: torch.zeros_like(value) for name, value in weights.items()}
            if len(rows):
                slope = silent.release(at, batch.rows(rows), key=own.child("model")).by_name
            noise = own.child("noise")
            noisy = {name: value + scale * normal(value, noise.child(name)) for name, value in slope.items()}
            change, moments = self.training.optimizer.step(noisy, weights, moments, lr=rate)
            weights = trees.over(torch.add, weights, change)
        return Weights(weights)
