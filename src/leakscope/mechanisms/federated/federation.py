"""A federation played whole: who takes part in which round, what each sends, and what the server makes of it."""

from __future__ import annotations

import enum
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

import torch

from leakscope.core.arguments import count, flag, instance, member, number
from leakscope.core.batch import Batch
from leakscope.core.effort import Progress, Watch, unwatched
from leakscope.core.errors import BadInput
from leakscope.core.release import Delta, Gradient, Release
from leakscope.core.target import Target
from leakscope.mechanisms.compose import AbstractProtocol, Defended, protocol_of
from leakscope.mechanisms.federated.server import BESIDE, Server
from leakscope.mechanisms.federated.stores import AbstractSink, AbstractStore, Cast, Dropped, Sent
from leakscope.mechanisms.federated.together import Job, releases
from leakscope.mechanisms.federated.user_level import UserLevel
from leakscope.mechanisms.federated.utility import Utility, utility
from leakscope.mechanisms.population import Population
from leakscope.mechanisms.protocols.fedavg import FedAvg
from leakscope.numerics.rng import Key
from leakscope.numerics.trees import Named

Step = AbstractProtocol | Defended
"""What a client does."""
MOST_ROUNDS, MOST_EPOCHS = 1_000_000, 1_000
"""Far more than anybody plays: beyond them a number is a slip of the pen, and would run for years."""


@final
class Sampling(enum.Enum):
    """Who takes part: a fixed number of clients, drawn without replacement; or each by itself, with one probability."""

    FIXED = "fixed"
    POISSON = "poisson"

    def __repr__(self) -> str:
        return f"Sampling.{self.name}"


@final
@dataclass(frozen=True, eq=False)
class Played:
    """What came of a federation. weights: the global ones after the last round. history: utilities on the way."""

    weights: Named
    history: tuple[Utility, ...] = ()


@final
@dataclass(frozen=True)
class Federation:
    """In round t the clients S_t compute u_k from the weights w_t, and w_(t+1) = w_t + server_lr * mean_k u_k.

    Minus for gradients (McMahan et al. 2017, arXiv:1602.05629, algorithm 1).
    step: what a client does, `FedSGD()` or `FedAvg(...)`, with defenses or without. rounds: T, at most 10^6. fraction:
    of the clients, in (0, 1], that take part in a round, at least one; drawn anew each round from the key. sampling:
    how.
    batch: at most so many of a client's examples go into one round, None for all: with `FedSGD` this is the gradient of
    the first mini-batch. shuffle: they are drawn anew each round; without it they are the first ones, always the same.
    epochs: local passes of `FedAvg` over a client's examples, whose number of steps then follows from how many it has:
    epochs * ceil(n / batch_size). None takes `step.steps` of everybody.
    server_lr: > 0. weighted: the mean counts clients by their examples. privacy: `UserLevel(...)`, or None.
    secure: that many clients are summed before anybody looks, so that only their means are seen; 1 for none.
    evaluate_every: rounds between two looks at `Population.held`, 0 for none.
    Parameters are what clients and server exchange: buffers stay the target's.
    Raises `BadInput` on other values, on epochs of anything but `FedAvg` with a batch_size, and on a weighted mean
    under privacy, in which one client could count more than its clip says.

    >>> from leakscope.mechanisms.protocols.fedsgd import FedSGD
    >>> Federation(FedSGD(), rounds=60, batch=20, server_lr=0.1).present(24)
    2
    """

    step: Step
    rounds: int = 200
    fraction: float = 0.1
    sampling: Sampling = Sampling.FIXED
    batch: int | None = None
    shuffle: bool = True
    epochs: int | None = None
    server_lr: float = 1.0
    weighted: bool = True
    privacy: UserLevel | None = None
    secure: int = 1
    evaluate_every: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.step, AbstractProtocol | Defended):
            raise BadInput(f"expected what a client does, FedSGD() or FedAvg(...), got {self.step!r}")
        object.__setattr__(self, "rounds", count("rounds", self.rounds, high=MOST_ROUNDS))
        object.__setattr__(self, "secure", count("secure", self.secure))
        object.__setattr__(self, "evaluate_every", count("evaluate_every", self.evaluate_every, low=0))
        object.__setattr__(self, "fraction", number("fraction", self.fraction, low=0, high=1, low_open=True))
        object.__setattr__(self, "sampling", member("sampling", self.sampling, Sampling))
        if self.batch is not None:
            object.__setattr__(self, "batch", count("batch", self.batch))
        if self.epochs is not None:
            object.__setattr__(self, "epochs", count("epochs", self.epochs, high=MOST_EPOCHS))
        object.__setattr__(self, "server_lr", number("server_lr", self.server_lr, low=0, low_open=True))
        flag("shuffle", self.shuffle)
        flag("weighted", self.weighted)
        self._check_together()

    def _check_together(self) -> None:
        local = protocol_of(self.step)
        if self.epochs is not None and not (isinstance(local, FedAvg) and local.batch_size is not None):
            raise BadInput(f"epochs={self.epochs} are local passes of FedAvg(..., batch_size=n), got {local!r}")
        # a group of one would be seen as it is, so that rounds without enough clients would have to end without a step
        if self.secure > 1 and self.sampling is Sampling.POISSON:
            raise BadInput("with Poisson sampling a round may have fewer clients than are summed; sample FIXED")
        if self.privacy is None:
            return
        instance("privacy", self.privacy, UserLevel, "give UserLevel(clip=1.0, noise_multiplier=1.0)")
        if self.weighted:
            raise BadInput("a mean weighted by examples lets a client count more than its clip; give weighted=False")

    def present(self, clients: int) -> int:
        """m, how many of them a round has, or with Poisson sampling is expected to have, at least 1."""
        return max(1, round(self.fraction * clients))

    def chosen(self, clients: int, turn: int, *, key: Key) -> tuple[int, ...]:
        """The places of those who take part in the round `turn`, rising; with Poisson sampling perhaps nobody."""
        # by the round alone, as the original seeds it: who takes part does not depend on what was sent
        own = key.child("chosen", turn)
        if self.sampling is Sampling.POISSON:
            drawn = torch.rand(clients, generator=own.generator(), dtype=torch.float64) < self.fraction
            return tuple(drawn.nonzero().flatten().tolist())
        drawn = torch.randperm(clients, generator=own.generator())[: self.present(clients)]
        return tuple(drawn.sort().values.tolist())

    def sends(self, examples: int, clients: int) -> Step:
        """What a client with so many examples does, of so many clients: the mechanism of an `Observation` of it."""
        step = self.step
        used = examples if self.batch is None else min(examples, self.batch)
        local = protocol_of(step)
        if self.epochs is not None and isinstance(local, FedAvg) and local.batch_size is not None:
            # rounded up: a last step on few examples is a step, filled up from the front
            longer = replace(local, steps=self.epochs * math.ceil(used / local.batch_size))
            step = replace(step, protocol=longer) if isinstance(step, Defended) else longer
        return step if self.privacy is None else self.privacy.on(step, self.present(clients))

    def run(
        self,
        target: Target,
        population: Population,
        *,
        key: Key,
        into: AbstractSink | None = None,
        watch: Watch = unwatched,
    ) -> Played:
        """Play all rounds from the target's weights. The same key gives the same bytes, wherever it was interrupted.

        into: where every update goes, such as `RoundFiles(folder)`; where rounds of this very federation are there, it
        goes on behind them. watch: is told of every round.
        Raises `BadInput` where the data do not fit the model, where clients release something else than gradients or
        deltas, where training diverges, and what the store raises.
        """
        instance("target", target, Target, "wrap a module: Target(module, domain, classes)")
        instance("population", population, Population, "give Population(clients)")
        instance("key", key, Key, "write key=Key(0)")
        self._check_data(target, population)
        sink = Dropped() if into is None else into
        at = sink.begin(self.cast(target, population, key=key))
        begun, weights = (0, target.parameters()) if at is None else at
        server = self._server(population, key)
        history = self._earlier(target, sink, population, begun)
        for turn in range(begun, self.rounds):
            # the weights are copied into a target of their own: what is kept of a round is never written to
            present = target.at(weights)
            history += self._judged(present, population, turn)
            sent = self.play(present, population, turn, key=key)
            after = server.step(weights, sent, turn=turn)
            # behind the step: a round that diverged is not kept as if it had been sent on
            sink.keep(Sent(turn, weights, server.seen(sent)))
            weights = after
            loss = history[-1].loss if history else math.nan
            watch(Progress((turn + 1) / self.rounds, loss, f"round {turn + 1} of {self.rounds}"))
        history += self._judged(target.at(weights), population, self.rounds)
        return Played(weights, tuple(history))

    def play(self, target: Target, population: Population, turn: int, *, key: Key) -> dict[str, Release]:
        """What each client of the round `turn` sends, by name, at the target's weights."""
        places = self.chosen(len(population), turn, key=key)
        # one object for all who do the same: it is looked at once
        does = {n: self.sends(n, len(population)) for n in {len(population.clients[at]) for at in places}}
        jobs = {population.names[at]: self._job(population, at, turn, does, key=key) for at in places}
        made = releases(target, list(jobs.values()))
        for one in made:
            if not isinstance(one, Gradient | Delta):
                raise BadInput(f"a server averages gradients or deltas, clients release {one!r}; choose another step")
        return dict(zip(jobs, made, strict=True))

    def cast(self, target: Target, population: Population, *, key: Key) -> Cast:
        """Who plays what: what a store compares before it goes on."""
        # all that decides a number: what is played again must come out to the byte
        text = repr((self, target.fingerprint(), population.fingerprint(), key))
        shapes = {name: tuple(value.shape) for name, value in target.parameters().items()}
        owner = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        return Cast(owner, repr(self.step), population.names, population.sizes, shapes)

    def _job(self, population: Population, place: int, turn: int, does: Mapping[int, Step], *, key: Key) -> Job:
        own, name = population.clients[place], population.names[place]
        # by name and not by place: the same speaker draws the same in a population of some of them
        mine = key.child("round", turn).child("client", name)
        return Job(does[len(own)], self._used(own, mine), mine.child("release"))

    def _used(self, own: Batch, key: Key) -> Batch:
        if self.batch is None or self.batch >= len(own):
            return own
        if not self.shuffle:
            return own.rows(torch.arange(self.batch))
        return own.rows(torch.randperm(len(own), generator=key.child("batch").generator())[: self.batch])

    def _server(self, population: Population, key: Key) -> Server:
        used = {
            name: size if self.batch is None else min(size, self.batch)
            for name, size in zip(population.names, population.sizes, strict=True)
        }
        return Server(
            lr=self.server_lr,
            sizes=used if self.weighted else None,
            expected=self.present(len(population)),
            secure=self.secure,
            privacy=self.privacy,
            key=key,
        )

    def _judged(self, at: Target, population: Population, turn: int) -> list[Utility]:
        """How good the model is before the round `turn`, where somebody wants to know."""
        held = population.held if self._due(turn) else None
        return [] if held is None else [utility(at, at.parameters(), held, number=turn)]

    def _earlier(self, target: Target, sink: AbstractSink, population: Population, begun: int) -> list[Utility]:
        """What was seen before the round `begun`: no part of a store, as it follows from the weights that are there."""
        if not isinstance(sink, AbstractStore):
            return []
        before = ((turn, sink.load(turn, ()).weights) for turn in range(begun) if self._due(turn))
        return [one for turn, weights in before for one in self._judged(target.at(weights), population, turn)]

    def _due(self, turn: int) -> bool:
        return self.evaluate_every > 0 and turn % self.evaluate_every == 0

    def _check_data(self, target: Target, population: Population) -> None:
        if self.present(len(population)) < self.secure:
            raise BadInput(
                f"a round has {self.present(len(population))} clients, of which secure={self.secure} are to be summed; "
                "raise fraction"
            )
        mixed = [name for name in population.names if BESIDE in name]
        if self.secure > 1 and mixed:
            # two groups could be called alike, and the mean of one would take the place of the other's
            raise BadInput(f"means of clients are named by {BESIDE!r}, which is in the name {mixed[0]!r}; rename it")
        # before the first round: a bad client may come up in the last
        for name, own in zip(population.names, population.clients, strict=True):
            if not target.domain.fits(own.inputs):
                raise BadInput(f"the data of {name!r} ({own!r}) do not fit the target's domain {target.domain}")
            target.loss.check(own, target.classes)
            own.checked()
