"""Clients and their data: what a federation is played with, by the challenger or, on public data, by an attack."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.core.annotation import Annotation, Per
from leakscope.core.arguments import count, instance, number
from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput, UnknownName
from leakscope.core.owners import by_owner
from leakscope.numerics.rng import Key

MOST = 100_000
"""Clients of one population: as many as large simulations have."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class Population:
    """clients: the data of each, all of one shape of input and one kind of label.

    names: of the clients, all different; their places where none are given. annotations: what is known of each client
    besides, such as its speaker or the speaker's sex: one value for each, in their order. held: data of nobody's
    training, on which a federation is judged; None for none.
    Raises `BadInput` on no or more than 100 000 clients, on data that do not fit together, on equal names and on an
    annotation of another number of clients.

    >>> some = Batch(torch.zeros(4, 3), torch.tensor([0, 1, 0, 1]))
    >>> speaker, sex = Annotation("speaker", (0, 0, 1, 1), ("ada", "ben")), Annotation("sex", (0, 0, 1, 1), ("f", "m"))
    >>> people = Population.of_owners(some, (speaker, sex))
    >>> people, people.names, people.annotation("sex").values
    (Population(2 clients, 4 examples), ('ada', 'ben'), (0, 1))
    """

    clients: tuple[Batch, ...]
    names: tuple[str, ...] = ()
    annotations: tuple[Annotation, ...] = ()
    held: Batch | None = None

    def __post_init__(self) -> None:
        for name in ("clients", "names", "annotations"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not 1 <= len(self.clients) <= MOST:
            raise BadInput(f"expected from 1 to {MOST} clients, got {len(self.clients)}")
        names = self.names or tuple(str(place) for place in range(len(self.clients)))
        object.__setattr__(self, "names", names)
        if len(names) != len(self.clients) or len(set(names)) < len(names):
            raise BadInput(f"expected {len(self.clients)} different names, one for each client, got {len(set(names))}")
        for one in names:
            instance("each name", one, str, 'write for example names=("ada", "ben")')
        for batch in (*self.clients, *(() if self.held is None else (self.held,))):
            instance("each client", batch, Batch, "give Batch(inputs, labels)")
            _alike(self.clients[0], batch)
        for known in self.annotations:
            if known.per is Per.OWNER or not known.fits(len(self.clients)):
                raise BadInput(f"{known.name}: expected one value for each of {len(self.clients)} clients")

    @staticmethod
    def of_owners(
        batch: Batch,
        annotations: Sequence[Annotation],
        *,
        owner: str = "speaker",
        each: int = 1,
        key: Key | None = None,
    ) -> Population:
        """One client for each value of the annotation `owner`, or `each` among whom its examples are divided.

        For a source, `of_owners(source.load(), source.annotations())`; for a pool, of its batch and annotations.
        Clients are named after their owner, with each > 1 "ada 0", "ada 1", ... An annotation of which all examples of
        every client have one value becomes one of the clients. key: divides the examples; needed with each > 1.
        Raises `UnknownName` where nobody is named, `BadInput` on an owner of fewer than `each` examples.
        """
        named = {one.name: one for one in annotations}
        if owner not in named:
            raise UnknownName("annotation", owner, named)
        if key is None and count("each", each) > 1:
            raise BadInput(f"each={each} divides examples at random; give a key")
        who = named[owner]
        parts = by_owner(who.values, each=each, key=key or Key(0))
        # the order of `by_owner`: owner after owner, each with all of its parts
        owners = [who.values[int(part[0])] for part in parts]
        names = [who.categories[one] + (f" {place % each}" if each > 1 else "") for place, one in enumerate(owners)]
        # a set for each client: an annotation is the client's where all of them have one element
        kept = [(one, [{one.values[int(at)] for at in part} for part in parts]) for one in annotations if _several(one)]
        known = [
            Annotation(one.name, tuple(next(iter(own)) for own in values), one.categories)
            for one, values in kept
            if all(len(own) == 1 for own in values)
        ]
        return Population(tuple(batch.rows(part) for part in parts), tuple(names), tuple(known))

    def __len__(self) -> int:
        return len(self.clients)

    def __repr__(self) -> str:
        return f"Population({len(self)} clients, {sum(self.sizes)} examples)"

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many examples each client has."""
        return tuple(len(one) for one in self.clients)

    def of(self, name: str) -> Batch:
        """The data of this client. Raises `UnknownName`."""
        return self.clients[self._place(name)]

    def annotation(self, name: str) -> Annotation:
        """What is known of the clients under this name, one value for each. Raises `UnknownName`."""
        for one in self.annotations:
            if one.name == name:
                return one
        raise UnknownName("annotation of the population", name, [one.name for one in self.annotations])

    def some(self, names: Sequence[str]) -> Population:
        """Only these clients, in this order. Raises `UnknownName`."""
        places = [self._place(name) for name in names]
        return Population(
            tuple(self.clients[at] for at in places),
            tuple(self.names[at] for at in places),
            tuple(one.rows(places) for one in self.annotations),
            self.held,
        )

    def held_out(self, share: float = 0.2, *, key: Key) -> Population:
        """The same clients without that share of each one's examples, which is held out: to judge what is trained.

        Of n examples round(share * n) are taken, drawn by the key, and never all: whoever has one keeps it.
        Raises `BadInput` unless 0 < share < 1, and where nothing is left to hold out.
        """
        share = number("share", share, low=0, high=1, low_open=True, high_open=True)
        kept, held = [], []
        for name, own in zip(self.names, self.clients, strict=True):
            mixed = torch.randperm(len(own), generator=key.child("held", name).generator())
            cut = min(round(share * len(own)), len(own) - 1)
            # in the order in which they were: the first examples stay the first
            held.append(own.rows(mixed[:cut].sort().values) if cut else None)
            kept.append(own.rows(mixed[cut:].sort().values))
        found = [one for one in held if one is not None]
        if not found:
            raise BadInput(f"no client has enough examples for a share of {share} to be held out; give a larger one")
        return dataclasses.replace(self, clients=tuple(kept), held=joined(found))

    def fingerprint(self) -> str:
        """A hash of names and every example; what is held out counts too."""
        digest = hashlib.blake2b(repr((self.names, self.annotations)).encode(), digest_size=16)
        for one in (*self.clients, *(() if self.held is None else (self.held,))):
            digest.update(one.fingerprint().encode())
        return digest.hexdigest()

    def _place(self, name: str) -> int:
        if name not in self.names:
            raise UnknownName("client", str(name), self.names)
        return self.names.index(name)


def joined(batches: Sequence[Batch]) -> Batch:
    """All examples of several batches as one. Raises `BadInput` for sequences, which differ in padding."""
    if any(one.lengths is not None for one in batches):
        raise BadInput("sequences of several clients differ in padding and are not joined; hold nothing out")
    return Batch(torch.cat([one.inputs for one in batches]), torch.cat([one.labels for one in batches]))


def _several(one: Annotation) -> bool:
    return one.per is Per.EXAMPLE


def _alike(first: Batch, other: Batch) -> None:
    """Raises `BadInput` unless both could be of one model; sequences may differ in length."""
    free = first.lengths is not None

    def said(one: Batch) -> tuple[object, ...]:
        wide: Tensor = one.inputs
        return wide.shape[2 if free else 1 :], wide.dtype, one.labels.dtype, one.labels.shape[2 if free else 1 :]

    if said(first) != said(other) or free is not (other.lengths is not None):
        raise BadInput(f"clients must have data of one kind, got {first!r} and {other!r}")
