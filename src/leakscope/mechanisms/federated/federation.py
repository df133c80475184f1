"""A federation played whole: who takes part in which round, what each sends, and what the server makes of it."""

from __future__ import annotations

import enum
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from leakscope.core.arguments import count, flag, instance, member, number
from leakscope.core.batch import Batch
from leakscope.core.effort import Progress, Watch, unwatched
from leakscope.core.errors import BadInput
from leakscope.core.release import Delta, Gradient, Release
from leakscope.core.target import Target
from leakscope.mechanisms.compose import AbstractProtocol, Defended, protocol_of
from leakscope.mechanisms.federated.stores import AbstractSink, AbstractStore, Cast, Dropped, Sent
from leakscope.mechanisms.federated.together import Job, releases
from leakscope.mechanisms.federated.user_level import UserLevel
from leakscope.mechanisms.federated.utility import Utility, utility
from leakscope.mechanisms.federation import mean_update
from leakscope.mechanisms.population import Population
from leakscope.mechanisms.protocols.fedavg import FedAvg
from leakscope.numerics import trees
from leakscope.numerics.rng import Key, normal
from leakscope.numerics.trees import Named

Step = AbstractProtocol | Defended
"""What a client does."""
BESIDE = " + "
"""Between the names of clients whose mean is all that is seen."""


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
    step: what a client does, `FedSGD()` or `FedAvg(...)`, with defenses or without. rounds: T >= 1. fraction: of the
    clients, in (0, 1], that take part in a round, at least one; drawn anew each round from the key. sampling: how.
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
        for name, low in (("rounds", 1), ("secure", 1), ("evaluate_every", 0)):
            object.__setattr__(self, name, count(name, getattr(self, name), low=low))
        object.__setattr__(self, "fraction", number("fraction", self.fraction, low=0, high=1, low_open=True))
        object.__setattr__(self, "sampling", member("sampling", self.sampling, Sampling))
        for name in ("batch", "epochs"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, count(name, getattr(self, name)))
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
        history = self._earlier(target, sink, population, begun)
        for turn in range(begun, self.rounds):
            self._judge(target, weights, population, turn, history)
            # the weights are copied into a target of their own: what is kept of a round is never written to
            sent = self.play(target.at(weights), population, turn, key=key)
            after = self._stepped(weights, sent, population, turn, key=key)
            # behind the step: a round that diverged is not kept as if it had been sent on
            sink.keep(Sent(turn, weights, self._seen(sent, population)))
            weights = after
            loss = history[-1].loss if history else math.nan
            watch(Progress((turn + 1) / self.rounds, loss, f"round {turn + 1} of {self.rounds}"))
        self._judge(target, weights, population, self.rounds, history)
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

    def _stepped(
        self, weights: Named, sent: Mapping[str, Release], population: Population, turn: int, *, key: Key
    ) -> dict[str, Tensor]:
        """The global weights after the round."""
        after = dict(weights)
        move = self._move(sent, weights, population, turn, key=key)
        if move is None:
            return after
        # a gradient points uphill, a change of weights is one already
        sign = -1.0 if isinstance(move, Gradient) else 1.0
        for name, value in move.by_name.items():
            after[name] = weights[name] + sign * self.server_lr * value.to(weights[name])
        if not trees.finite(after):
            raise BadInput(f"the weights are not finite after round {turn}: training diverged; lower server_lr or lr")
        return after

    def _move(
        self, sent: Mapping[str, Release], weights: Named, population: Population, turn: int, *, key: Key
    ) -> Release | None:
        """The mean update; None where nobody took part and nobody adds noise."""
        many = list(sent.values())
        if self.privacy is None:
            sizes = [self._size(population, name) for name in sent] if self.weighted else None
            return mean_update(many, sizes) if many else None
        added = self.privacy.added
        if not many and added == 0:
            return None
        if added > 0 and any(one.by_name.keys() != weights.keys() for one in many):
            raise BadInput("the server adds noise to whole updates, clients send a part; let the clients add it")
        # not by who came: a divisor that follows one client's presence would say that it was there
        expected = self.present(len(population))
        own = key.child("round", turn).child("server")
        # zeros where nobody came: the noise is there all the same, or its absence would say that nobody did
        kind, names = (type(many[0]), many[0].by_name) if many else (Delta, weights)
        total = {name: sum((one.by_name[name] for one in many), torch.zeros_like(like)) for name, like in names.items()}
        if added > 0:
            total = {name: value + added * normal(value, own.child(name)) for name, value in total.items()}
        return kind(trees.scale(total, 1 / expected))

    def _size(self, population: Population, name: str) -> int:
        own = len(population.of(name))
        return own if self.batch is None else min(own, self.batch)

    def _seen(self, sent: Mapping[str, Release], population: Population) -> dict[str, Release]:
        """What anybody sees: each update, or with secure aggregation the means of `secure` of them."""
        if self.secure == 1:
            return dict(sent)
        groups = _groups(list(sent), self.secure)
        return {BESIDE.join(group): self._mean(sent, group, population) for group in groups}

    def _mean(self, sent: Mapping[str, Release], group: Sequence[str], population: Population) -> Release:
        sizes = [self._size(population, name) for name in group] if self.weighted else None
        return mean_update([sent[name] for name in group], sizes)

    def _judge(self, target: Target, weights: Named, population: Population, turn: int, history: list[Utility]) -> None:
        if self._due(turn) and population.held is not None:
            history.append(utility(target, weights, population.held, number=turn))

    def _earlier(self, target: Target, sink: AbstractSink, population: Population, begun: int) -> list[Utility]:
        """What was seen before the round `begun`: no part of a store, as it follows from the weights that are there."""
        history: list[Utility] = []
        if isinstance(sink, AbstractStore):
            for turn in filter(self._due, range(begun)):
                self._judge(target, sink.load(turn, ()).weights, population, turn, history)
        return history

    def _due(self, turn: int) -> bool:
        return self.evaluate_every > 0 and turn % self.evaluate_every == 0

    def _check_data(self, target: Target, population: Population) -> None:
        if self.present(len(population)) < self.secure:
            raise BadInput(
                f"a round has {self.present(len(population))} clients, of which secure={self.secure} are to be summed; "
                "raise fraction"
            )
        # before the first round: a bad client may come up in the last
        for name, own in zip(population.names, population.clients, strict=True):
            if not target.domain.fits(own.inputs):
                raise BadInput(f"the data of {name!r} ({own!r}) do not fit the target's domain {target.domain}")
            target.loss.check(own, target.classes)
            own.checked()


def _groups(names: Sequence[str], least: int) -> list[list[str]]:
    """Runs of `least` or more: nobody is left over alone.

    >>> _groups("abcdefg", 3)
    [['a', 'b', 'c', 'd'], ['e', 'f', 'g']]
    """
    parts = torch.arange(len(names)).tensor_split(max(1, len(names) // least))
    return [[names[int(at)] for at in part] for part in parts]
