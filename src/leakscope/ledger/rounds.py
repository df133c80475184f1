"""The files of a federation: who plays, and one file for each round with what was sent in it. No torch."""

from __future__ import annotations

from typing import ClassVar, final

from pydantic import Field

from leakscope.ledger.container import Header, Parted
from leakscope.ledger.exchange import ReleaseKind


@final
class CastHeader(Header):
    """Who plays, as `mechanisms.federated.stores.Cast` has it: read there.

    owner: a hash of all that decides the course. step: what clients do, for people. clients, sizes: the name of each
    and how many examples it has. shapes: of every parameter.
    """

    kind: ClassVar[str] = "federation"
    wanted: ClassVar[str] = "the cast of a federation, as RoundFiles writes it"

    owner: str
    step: str
    clients: tuple[str, ...]
    sizes: tuple[int, ...]
    shapes: dict[str, tuple[int, ...]]


@final
class RoundHeader(Parted):
    """One round. number: from 0. release: what kind of update clients sent. senders: who, in the order of the parts.

    owner: of the cast to which it belongs. The parts are "weights", the global ones that it began with, and "0", "1",
    ..., the update of each sender.
    """

    kind: ClassVar[str] = "round"
    wanted: ClassVar[str] = "a round of a federation, as RoundFiles writes it"

    number: int = Field(ge=0, lt=2**31)
    owner: str
    release: ReleaseKind
    senders: tuple[str, ...]
