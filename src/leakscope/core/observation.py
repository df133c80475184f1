"""The only door between the client and the adversary."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, final

from leakscope.core.arguments import instance
from leakscope.core.asking import gradient_of
from leakscope.core.errors import BadInput, NotTold
from leakscope.core.facts import Fact
from leakscope.core.facts import facts as checked
from leakscope.core.mechanism import AbstractMechanism, AbstractReplayable, AbstractStep
from leakscope.core.release import Delta, Gradient, Release, Weights
from leakscope.core.rounds import Round
from leakscope.core.target import Target
from leakscope.numerics import trees

FactT = TypeVar("FactT", bound=Fact)


@final
@dataclass(frozen=True, eq=False, init=False)
class Observation:
    """Everything the adversary sees; the only input of an attack.

    target: the model. rounds: what one client sent, in rising order of their numbers; a bare release is the only round.
    mechanism: public, but not its randomness. facts: what was told besides.
    Where the only round has weights of its own, `target` has these.
    Raises `BadInput` without a round, on rounds out of order or of several kinds, and on a fact that is told twice.
    """

    target: Target
    rounds: tuple[Round, ...]
    mechanism: AbstractMechanism
    facts: tuple[Fact, ...] = ()

    def __init__(
        self,
        target: Target,
        rounds: Release | Sequence[Round],
        mechanism: AbstractMechanism,
        facts: Sequence[Fact] = (),
    ) -> None:
        instance("target", target, Target, "wrap a module: Target(module, domain, classes)")
        instance("mechanism", mechanism, AbstractMechanism, "give an object, such as FedSGD()")
        if isinstance(rounds, Mapping):
            raise BadInput("expected a release, got tensors by name; say what they are: Gradient(...), Delta(...)")
        many = (Round(0, rounds),) if isinstance(rounds, Gradient | Delta | Weights) else _in_order(rounds)
        if len(many) == 1 and many[0].weights is not None:
            target, many = target.at(many[0].weights), (dataclasses.replace(many[0], weights=None),)
        object.__setattr__(self, "target", target)
        object.__setattr__(self, "rounds", many)
        object.__setattr__(self, "mechanism", mechanism)
        object.__setattr__(self, "facts", checked(facts))
        kinds = [type(fact) for fact in self.facts]
        for kind in kinds:
            if kinds.count(kind) > 1:
                raise BadInput(f"{kind.__name__} was told {kinds.count(kind)} times; tell each fact once")

    @property
    def release(self) -> Release:
        """That of the only round. Raises `BadInput`, with their number, when there are several."""
        if len(self.rounds) > 1:
            raise BadInput(f"the observation has {len(self.rounds)} rounds, no single release; take one with `each`")
        return self.rounds[0].release

    def each(self) -> tuple[Observation, ...]:
        """An observation of each round alone, its target at the weights of that round."""
        return tuple(Observation(self.target, (one,), self.mechanism, self.facts) for one in self.rounds)

    def knows(self, kind: type[Fact]) -> bool:
        """Whether a fact of this kind was told."""
        return any(type(fact) is kind for fact in self.facts)

    def told(self, kind: type[FactT]) -> FactT:
        """The fact of this kind. Raises `NotTold`, with the list of what was told, when it is absent."""
        for fact in self.facts:
            if isinstance(fact, kind):
                return fact
        raise NotTold(kind.__name__, [type(fact).__name__ for fact in self.facts])

    def gradient(self) -> Gradient:
        """The release read as a gradient, by public constants and the known weights. Raises as `step`.

        Raises `UnusableMechanism` where the mechanism's code raises, or returns other names or shapes.
        """
        return gradient_of(self.step, self.release, self.target.parameters())

    @property
    def step(self) -> AbstractStep:
        """The mechanism as one whose release is a gradient in disguise. Raises `BadInput` where it is none."""
        if isinstance(self.mechanism, AbstractStep):
            return self.mechanism
        raise BadInput(f"what {self.mechanism!r} releases cannot be read as a gradient; choose an attack on its kind")

    @property
    def replayable(self) -> AbstractReplayable:
        """The mechanism as one that can be repeated on a candidate. Raises `BadInput` where its course is unknown."""
        if isinstance(self.mechanism, AbstractReplayable):
            return self.mechanism
        raise BadInput(f"the course of {self.mechanism!r} is not known, so it cannot be replayed")

    def fingerprint(self) -> str:
        """A hash of all that the adversary sees."""
        sent = [
            f"{one.number}:{one.release.fingerprint()}:{'' if one.weights is None else trees.fingerprint(one.weights)}"
            for one in self.rounds
        ]
        text = "|".join([self.target.fingerprint(), *sent, repr(self.mechanism), repr(self.facts)])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _in_order(rounds: Sequence[Round]) -> tuple[Round, ...]:
    many = tuple(rounds)
    if not many or not all(isinstance(one, Round) for one in many):
        raise BadInput(
            f"expected a release or at least one Round, got {[type(one).__name__ for one in many] or 'none'}"
        )
    numbers = [one.number for one in many]
    if any(later <= earlier for earlier, later in itertools.pairwise(numbers)):
        raise BadInput(f"expected rounds of rising numbers, got {numbers[:8]}; sort them, each once")
    if len({type(one.release) for one in many}) > 1:
        raise BadInput("the rounds hold releases of several kinds; observe each kind by itself")
    return many
