"""Where the rounds of a federation go: somewhere that takes them one by one, or a store from which they are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

from leakscope.core.errors import BadInput, UnknownName
from leakscope.core.release import Release, same_kind
from leakscope.core.rounds import Round
from leakscope.numerics import trees
from leakscope.numerics.trees import Named


@final
@dataclass(frozen=True)
class Cast:
    """Who plays what. owner: a hash of all that decides the course. step: what clients do, for people.

    clients, sizes: the names of all of them, and how many examples each has. shapes: of every parameter, by name.
    """

    owner: str
    step: str
    clients: tuple[str, ...]
    sizes: tuple[int, ...]
    shapes: Mapping[str, tuple[int, ...]]


@final
@dataclass(frozen=True, eq=False)
class Sent:
    """What leaves the clients in one round. number: of the round, from 0. weights: the global ones that it began with.

    releases: by name of the client, or of the clients whose mean it is.
    """

    number: int
    weights: Named
    releases: Mapping[str, Release]


class AbstractSink(ABC):
    """Takes the rounds of a federation in their order; what is not needed need not be kept."""

    @abstractmethod
    def begin(self, cast: Cast) -> tuple[int, Named] | None:
        """The last round that is here whole, and the weights that it began with, to be played again; None for none.

        Raises `BadInput` where rounds of another federation are here.
        """

    @abstractmethod
    def keep(self, sent: Sent) -> None:
        """Take one round; a number that is here already is replaced by the same."""


@final
class Dropped(AbstractSink):
    """Keeps nothing: for a federation of which only the trained model is wanted."""

    def begin(self, cast: Cast) -> None:
        """From the start."""
        del cast

    def keep(self, sent: Sent) -> None:
        """Nothing is kept."""
        del sent


class AbstractStore(AbstractSink):
    """Rounds that can be read again, by client or in their order, one at a time."""

    @property
    @abstractmethod
    def cast(self) -> Cast:
        """Who played. Raises `BadInput` before anything was kept."""

    @abstractmethod
    def numbers(self) -> tuple[int, ...]:
        """The numbers of the rounds that are here, rising."""

    @abstractmethod
    def senders(self, number: int) -> tuple[str, ...]:
        """Of whom there are releases in this round. Raises `BadInput` where it is not here."""

    @abstractmethod
    def load(self, number: int, clients: Sequence[str]) -> Sent:
        """The round with the releases of these clients alone. Raises `BadInput` where it is not here, or damaged."""

    @final
    def rounds_of(self, client: str, *, only: Sequence[str] = ()) -> tuple[Round, ...]:
        """What this client sent, in the order of rounds: what an `Observation` takes.

        only: names of tensors; the releases then have no others, the weights stay whole. Raises `UnknownName` for a
        client of whom nothing is here.
        """
        return tuple(self.each_of(client, only=only))

    @final
    def each_of(self, client: str, *, only: Sequence[str] = ()) -> Iterator[Round]:
        """The same one after the other, so that a single one is in memory."""
        # descriptions first, which are short: the rounds without this client are not read
        found = [number for number in self.numbers() if client in self.senders(number)]
        if not found:
            everybody = sorted({name for number in self.numbers() for name in self.senders(number)})
            raise UnknownName("client of the store", client, everybody)
        for number in found:
            sent = self.load(number, (client,))
            yield Round(number, _part(sent.releases[client], only), sent.weights)

    @final
    def updates(self, *, only: Sequence[str] = ()) -> Iterator[tuple[str, Round]]:
        """Every (client, round), round after round; one round is in memory at a time."""
        for number in self.numbers():
            # a round at once and not an update: the weights of a round are read once
            sent = self.load(number, self.senders(number))
            for client, release in sent.releases.items():
                yield client, Round(number, _part(release, only), sent.weights)


@final
@dataclass(frozen=True, eq=False)
class RoundsInMemory(AbstractStore):
    """All rounds in memory: for small ones."""

    # lists and dicts in a frozen value: what is stored grows, what the store is does not change
    _casts: list[Cast] = field(default_factory=list, init=False, repr=False)
    _kept: dict[int, Sent] = field(default_factory=dict, init=False, repr=False)

    def begin(self, cast: Cast) -> tuple[int, Named] | None:
        """The last round that is here."""
        if self._casts and self._casts[0] != cast:
            raise BadInput("the store holds rounds of another federation; make a new RoundsInMemory()")
        self._casts[:] = [cast]
        last = max(self._kept, default=None)
        return None if last is None else (last, self._kept[last].weights)

    def keep(self, sent: Sent) -> None:
        """Held as it is: a federation writes to nothing that it has handed over."""
        self._kept[sent.number] = sent

    @property
    def cast(self) -> Cast:
        """Who played."""
        if not self._casts:
            raise BadInput("the store is empty; play a federation into it")
        return self._casts[0]

    def numbers(self) -> tuple[int, ...]:
        """Rising."""
        return tuple(sorted(self._kept))

    def senders(self, number: int) -> tuple[str, ...]:
        """Of whom there are releases in this round."""
        return tuple(self._at(number).releases)

    def load(self, number: int, clients: Sequence[str]) -> Sent:
        """The round with these alone."""
        sent = self._at(number)
        return Sent(number, sent.weights, {name: sent.releases[name] for name in clients})

    def _at(self, number: int) -> Sent:
        if number not in self._kept:
            raise BadInput(f"round {number} is not in the store, which has {len(self._kept)}")
        return self._kept[number]


def _part(release: Release, only: Sequence[str]) -> Release:
    """Some tensors of a release. Raises `BadInput` where it lacks one."""
    if not only:
        return release
    lacking = [name for name in only if name not in release.by_name]
    if lacking:
        raise BadInput(f"the releases have no {lacking[0]!r}; they have {', '.join(release.by_name)}")
    return same_kind(release, trees.select(release.by_name, list(only)))
