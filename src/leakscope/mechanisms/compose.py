"""Protocols, defenses, and `>>`: a defended protocol is again a mechanism."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, final

from torch import Tensor

from leakscope.core.arguments import count
from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput, optional
from leakscope.core.mechanism import AbstractMechanism, AbstractStep, Adjacency
from leakscope.core.overriding import acts_as
from leakscope.core.release import Gradient, Release, same_kind
from leakscope.core.target import Target
from leakscope.mechanisms.declared import effect_of, noise_alone
from leakscope.mechanisms.effects import Answer, InputEffect, ModelEffect, ProtocolEffect, UpdateEffect
from leakscope.numerics.rng import Key
from leakscope.numerics.trees import Named

if TYPE_CHECKING:
    from dp_accounting import DpEvent


@final
@dataclass(frozen=True)
class Sensitivity:
    """Upper bounds on the norm of what one client contributes; infinite where nothing bounds it.

    Adjacency: the client's whole update is present or replaced by zero (user level, add or remove).
    """

    # Infinite by default: to forget a bound may cost epsilon, never promise any.
    l1: float = math.inf
    l2: float = math.inf


Cells = tuple[Named, Named]
"""The lowest and the highest value that each entry of an update may have had, equal where it is known."""


class AbstractDefense(ABC):
    """Something that a client does against leakage. Exactly one of the three kinds below."""

    @property
    def only_noise(self) -> bool:
        """Whether it adds noise and does nothing else, so that without noise nothing of it is left.

        What adds noise and more has no control without it, and clears nothing: write both as defenses of their own.
        """
        return False


class AbstractInputDefense(AbstractDefense):
    """Changes the batch before the gradient is computed."""

    @abstractmethod
    def apply(self, target: Target, batch: Batch, *, key: Key) -> Batch:
        """The batch that the client really trains on. Returns a new batch; the secret is never written to."""

    @abstractmethod
    def replay(self, target: Target, batch: Batch) -> Batch:
        """What the adversary expects of `apply`: differentiable, without randomness."""

    @property
    def effect(self) -> InputEffect:
        """What attacks may rely on; by default nothing."""
        return InputEffect()


class AbstractModelDefense(AbstractDefense):
    """Changes how the client runs the model."""

    @abstractmethod
    def apply(self, target: Target) -> Target:
        """The model as the client runs it; its random layers draw from torch's stream, which the caller keys."""

    @abstractmethod
    def replay(self, target: Target) -> Target:
        """The model as the adversary runs it, without randomness."""

    @property
    def effect(self) -> ModelEffect:
        """What attacks may rely on; by default nothing."""
        return ModelEffect()


class AbstractUpdateDefense(AbstractDefense):
    """Changes the update before it leaves the device."""

    @abstractmethod
    def apply(self, update: Named, *, key: Key) -> dict[str, Tensor]:
        """The update that is really sent. Returns new tensors."""

    @abstractmethod
    def replay(self, update: Named) -> dict[str, Tensor]:
        """What the adversary expects of `apply`: differentiable, without randomness."""

    @abstractmethod
    def sensitivity(self, before: Sensitivity) -> Sensitivity:
        """The norm bounds after this step, given those before it."""

    @abstractmethod
    def event(self, before: Sensitivity) -> DpEvent | None:
        """The privacy event of this step given the norm bounds before it, or None where it adds no noise.

        A step that adds noise to something unbounded returns `NonPrivateDpEvent`. The bounds are those of how far
        apart two inputs of this step can be, and it is the step's output alone that is released.
        """

    @property
    def effect(self) -> UpdateEffect:
        """What attacks may rely on; by default nothing."""
        return UpdateEffect()

    def noise(self, sent: Tensor) -> float | None:
        """The standard deviation of what was added to each entry of one tensor, in the units of what was `sent`.

        0 where nothing is; None where it is not declared.
        """
        # None and not 0: silence about noise is not the absence of it.
        del sent
        return None

    def cells(self, sent: Named) -> Cells | None:
        """The intervals that the entries must have come from, given what was `sent`; None where there are none."""
        del sent
        return None


KINDS = (AbstractInputDefense, AbstractModelDefense, AbstractUpdateDefense)
"""Of which a defense is one."""


class AbstractProtocol(AbstractStep):
    """Computes an update from a batch; `protocol >> defense` defends it. Undefended by itself, but for `DPSGD`."""

    @abstractmethod
    def release(self, target: Target, batch: Batch, *, key: Key) -> Release:
        """What the client computes, by the route that real clients take (module, autograd, optimizer)."""

    @property
    def undefended(self) -> AbstractProtocol:
        """The protocol itself."""
        return self

    @property
    def effect(self) -> ProtocolEffect:
        """What attacks may rely on; by default nothing."""
        return ProtocolEffect()

    def noise(self, examples: int | None) -> float | None:
        """The standard deviation of what is added to each entry of the release, given the number of examples if told.

        0 where nothing is; None where it is not declared or depends on what was not told.
        """
        del examples
        return None

    def evenly(self, examples: int) -> Answer:
        """Whether each of so many examples is in the update as often as every other."""
        del examples
        return Answer.UNKNOWN

    @property
    def passes(self) -> int:
        """How many passes over the model, one after the other, a replay takes."""
        return 1

    def unfit(self, target: Target) -> str | None:
        """Why no client can run it on this model, as a sentence; None where one can."""
        del target
        return None

    def event(self, *, rounds: int = 1) -> DpEvent:
        """Nothing bounds or perturbs the update: not private."""
        # The least that can be said of an undeclared protocol, and true of each: a subclass with noise says more.
        _checked(rounds)
        return accounting().NonPrivateDpEvent()

    def __rshift__(self, defense: AbstractDefense) -> Defended:
        return Defended(self, (defense,))


@final
@dataclass(frozen=True, repr=False)
class Defended(AbstractStep):
    """A protocol followed by defenses, in the order in which they are written.

    Input and model defenses act before the update is computed, update defenses after; within a kind the
    written order counts.
    """

    protocol: AbstractProtocol
    defenses: tuple[AbstractDefense, ...]

    def __post_init__(self) -> None:
        # A list would make a frozen value that changes, and no hash.
        object.__setattr__(self, "defenses", tuple(self.defenses))
        if not isinstance(self.protocol, AbstractProtocol):
            raise BadInput(f"expected a protocol before >>, got {self.protocol!r}; begin with FedSGD() or FedAvg(...)")
        if not self.defenses:
            raise BadInput("expected at least one defense, got none; use the protocol by itself")
        for defense in self.defenses:
            if not isinstance(defense, AbstractDefense):
                raise BadInput(f"expected a defense after >>, got {defense!r}")
            # As one kind it would act in one place, and its effect be read as another's.
            if sum(isinstance(defense, kind) for kind in KINDS) > 1:
                raise BadInput(f"{type(defense).__name__} is a defense of several kinds; write one class for each")

    def __rshift__(self, defense: AbstractDefense) -> Defended:
        # One flat chain: a >> b >> c is a protocol and two defenses, whatever was named in between.
        return Defended(self.protocol, (*self.defenses, defense))

    def __repr__(self) -> str:
        return " >> ".join([repr(self.protocol), *(repr(defense) for defense in self.defenses)])

    @property
    def undefended(self) -> AbstractProtocol:
        """The protocol alone, without the defense that it may have inside."""
        return self.protocol.undefended

    @property
    def noiseless(self) -> AbstractStep | None:
        """Without the protocol's noise and without the defenses that are noise alone; None where there is neither.

        Raises `BadInput` where the protocol without its noise is nothing that defenses can follow.
        """
        found: object = self.protocol.noiseless
        left = tuple(one for one in self.defenses if not noise_alone(one))
        if found is None and len(left) == len(self.defenses):
            return None
        bare = self.protocol if found is None else found
        if isinstance(bare, Defended):
            # One's own protocol may be a chain without its noise: what it does itself stands next to the gradient.
            sent = tuple(one for one in left if isinstance(one, AbstractUpdateDefense))
            before = tuple(one for one in left if not isinstance(one, AbstractUpdateDefense))
            left, bare = (*before, *bare.defenses, *sent), bare.protocol
        if not isinstance(bare, AbstractProtocol):
            # Its noise was kept here, in a control that says it has none.
            raise BadInput(f"{self.protocol!r} without its noise is {found!r}, expected a protocol, defended or not")
        return Defended(bare, left) if left else bare

    def release(self, target: Target, batch: Batch, *, key: Key) -> Release:
        """The defended update; each step draws from its own key, named by its place."""
        # By place: two defenses of one kind draw apart, and a change of one's settings leaves the draws of the others.
        for place, defense in enumerate(self.defenses):
            if isinstance(defense, AbstractInputDefense):
                batch = defense.apply(target, batch, key=key.child("defense", place))
            elif isinstance(defense, AbstractModelDefense):
                target = defense.apply(target)
        # All that acts before the gradient has acted, wherever it was written.
        sent = self.protocol.release(target, batch, key=key.child("protocol"))
        for place, defense in enumerate(self.defenses):
            if isinstance(defense, AbstractUpdateDefense):
                # A defense sees named tensors only: a clip of a delta is a clip of a delta, in its own units.
                sent = same_kind(sent, defense.apply(sent.by_name, key=key.child("defense", place)))
        return sent

    def replay(self, target: Target, batch: Batch) -> Release:
        """The expected update, differentiable in the candidate.

        Expected step by step: noise that a later step bends (noise, then a clip) is replaced by its mean before it
        is bent.
        """
        for defense in self.defenses:
            if isinstance(defense, AbstractInputDefense):
                # The order of `release`, or the two would differ by more than randomness.
                batch = defense.replay(target, batch)
            elif isinstance(defense, AbstractModelDefense):
                target = defense.replay(target)
        expected = self.protocol.replay(target, batch)
        for defense in self.defenses:
            if isinstance(defense, AbstractUpdateDefense):
                expected = same_kind(expected, defense.replay(expected.by_name))
        return expected

    def as_gradient(self, release: Release) -> Gradient:
        """By the protocol's public constants; a defense changes values, not units."""
        return self.protocol.as_gradient(release)

    def at_weights(self, release: Release, weights: Named) -> Gradient:
        """As the protocol, where the defenses leave the update what it is but for a mean of zero; else as it is."""
        updates = [one for one in self.defenses if isinstance(one, AbstractUpdateDefense)]
        # A clip scales what decay added with the rest, by an unknown factor: to take off all of it would be wrong.
        if all(effect_of(one, UpdateEffect).unbiased is Answer.YES for one in updates):
            return self.protocol.at_weights(release, weights)
        return self.protocol.as_gradient(release)

    def event(self, *, rounds: int = 1) -> DpEvent:
        """That of the noisy step which bounds most, `rounds` times; a private protocol's own where it is one.

        What follows a noisy step is post-processing and costs nothing; the bound that counts is the one in force where
        the noise is added. Normal noise that is added to normal noise is one, of the sum of both variances.
        """
        _checked(rounds)
        return self._event(self.protocol.event(rounds=rounds), rounds)

    def training_event(self, *, rounds: int = 1) -> DpEvent:
        """A private protocol's own; else the same as `event`, since no defense samples who takes part."""
        _checked(rounds)
        return self._event(self.protocol.training_event(rounds=rounds), rounds)

    @property
    def adjacency(self) -> Adjacency | None:
        """The protocol's where it is private by itself, else the client's update: defenses see nothing smaller."""
        return self.protocol.adjacency or Adjacency.CLIENT

    def _event(self, own: DpEvent, rounds: int) -> DpEvent:
        dp = accounting()
        # What follows a private protocol is post-processing: it can only lower epsilon, so this is an upper bound.
        if not isinstance(own, dp.NonPrivateDpEvent):
            return own
        once = _best(_noises([one for one in self.defenses if isinstance(one, AbstractUpdateDefense)]))
        return once if rounds == 1 or isinstance(once, dp.NonPrivateDpEvent) else dp.SelfComposedDpEvent(once, rounds)


def protocol_of(mechanism: AbstractMechanism) -> AbstractMechanism:
    """What stands under the defenses of a chain; the mechanism itself where it is none, or may act otherwise than one.

    >>> from leakscope import Clip, FedSGD
    >>> protocol_of(FedSGD() >> Clip(1.0))
    FedSGD()
    """
    return mechanism.protocol if acts_as(mechanism, Defended) else mechanism


def _noises(defenses: list[AbstractUpdateDefense]) -> list[DpEvent]:
    """Events of single noisy steps, each of which bounds by itself what the last step sends.

    Let v be what goes into a noisy step if the client is there, and v' if its update is zero. What comes after is
    post-processing, so the release says no more of the client than the step's output. If no step before drew noise,
    zero is still zero: v' = 0, and |v - v'| <= C, the bound of the norm there. If one did, v and v' are random, but
    each is in the ball of radius C: |v - v'| <= 2 C for any pair of values. Given a pair the step is private for that
    distance; mixing over pairs (of independent draws) keeps it, since hockey-stick divergences are jointly convex.
    """
    found: list[DpEvent] = []
    run: list[DpEvent] = []
    bound, start, silent = Sensitivity(), Sensitivity(), True
    for defense in defenses:
        apart = bound if silent else Sensitivity(l1=2 * bound.l1, l2=2 * bound.l2)
        effect = effect_of(defense, UpdateEffect)
        adds = effect.adds is Answer.YES
        if not (adds and run):
            # A new run of additions: sums commute, so each of its draws could be the first, on the same distance.
            found += _run(run)
            start, run = apart, []
        event = defense.event(start if adds else apart)
        if event is not None and adds:
            run.append(event)
        elif event is not None:
            found.append(event)
        # First the event, then the bound: noise is measured by what it is added to.
        bound = defense.sensitivity(bound)
        # Whatever does not keep zeros, or does not say so, may send something without the client.
        silent = silent and effect.keeps_zeros is Answer.YES
    return found + _run(run)


def _run(events: list[DpEvent]) -> list[DpEvent]:
    """The events of independent draws that are added to one vector: normal ones are one draw, others bound alone."""
    dp = accounting()
    normal = [event.noise_multiplier for event in events if isinstance(event, dp.GaussianDpEvent)]
    others = [event for event in events if not isinstance(event, dp.GaussianDpEvent)]
    # variances add: std^2 = sum std_i^2, in units of the same bound
    return ([dp.GaussianDpEvent(math.hypot(*normal))] if normal else []) + others


def _best(events: list[DpEvent]) -> DpEvent:
    """The event with the least to lose; not private where there is none."""
    dp = accounting()
    private = [event for event in events if not isinstance(event, dp.NonPrivateDpEvent)]
    # No noise at all, however tightly clipped: what is sent is a function of the data.
    if not private:
        return dp.NonPrivateDpEvent()
    # Any of them is true. By their multiplier m, since both kinds have rho <= 1 / (2 m^2) (Bun and Steinke 2016).
    return max(private, key=_multiplier)


def _multiplier(event: DpEvent) -> float:
    dp = accounting()
    if isinstance(event, dp.NoOpDpEvent):
        return math.inf
    return float(event.noise_multiplier) if isinstance(event, dp.GaussianDpEvent | dp.LaplaceDpEvent) else 0.0


def around(sent: Named, half: Named) -> Cells:
    """The cells from `half` below to `half` above what was sent, in float64."""
    return (
        # In float32 an edge would be rounded by up to 1 / 256 of half a cell where 16 bits are sent.
        {name: value.double() - half[name] for name, value in sent.items()},
        {name: value.double() + half[name] for name, value in sent.items()},
    )


def accounting() -> ModuleType:
    """The dp-accounting package. Raises `MissingExtra` when it is not installed."""
    return optional("dp_accounting", extra="dp", purpose="privacy accounting")


def _checked(rounds: int) -> None:
    count("rounds", rounds)
