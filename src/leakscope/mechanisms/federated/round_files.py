"""A store in a folder: one file for each round, read in parts, so that memory stays flat however long a federation is.

A round is written whole or not at all, with the weights that it began with: the last one is all that is needed to go on
after a kill.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from numpy.typing import NDArray

from leakscope.core.errors import BadInput
from leakscope.core.release import Delta, Gradient, Release, Weights
from leakscope.ledger import container
from leakscope.ledger.exchange import ReleaseKind
from leakscope.ledger.rounds import CastHeader, RoundHeader
from leakscope.mechanisms.federated.stores import AbstractStore, Cast, Sent
from leakscope.numerics.arrays import as_arrays, as_tensors
from leakscope.numerics.trees import Named
from leakscope.version import VERSION

CAST = "federation.safetensors"
WEIGHTS = "weights"
KINDS: dict[ReleaseKind, type[Release]] = {
    ReleaseKind.GRADIENT: Gradient,
    ReleaseKind.DELTA: Delta,
    ReleaseKind.WEIGHTS: Weights,
}


@final
@dataclass(frozen=True, eq=False)
class RoundFiles(AbstractStore):
    """Rounds in the folder `folder`, which is made where it is not there, for its owner only.

    Files of others are read without running code: numbers, names and shapes are compared with the cast's, every part
    with its checksum. Raises `BadInput` on what does not fit, with what to do.
    """

    folder: Path
    # Headers are small, and a client's rounds are looked for in all of them; who sent what in a round never changes.
    _seen: dict[int, RoundHeader] = field(default_factory=dict, init=False, repr=False)
    _casts: list[Cast] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        if self.folder.exists() and not self.folder.is_dir():
            raise BadInput(f"{self.folder} is a file; rounds are kept in a folder, so give another path")

    def begin(self, cast: Cast) -> tuple[int, Named] | None:
        """The last round up to which none is missing or cut short. Raises `BadInput` in another's folder."""
        # first of all: two federations in one folder would be mixed by the next round
        if (self.folder / CAST).exists():
            if self.cast.owner != cast.owner:
                raise BadInput(
                    f"{self.folder} holds another federation (or the same with other data, weights or key); give "
                    "another folder or delete it"
                )
        else:
            header = CastHeader(
                leakscope=VERSION, owner=cast.owner, step=cast.step, clients=cast.clients, sizes=cast.sizes,
                shapes=dict(cast.shapes),
            )  # fmt: skip
            container.write(self.folder / CAST, header, {})
            # What was in the folder before, and is not any more, says nothing.
            self._seen.clear()
        # Of this federation, whatever another process has made of the file since: rounds are called after it.
        self._casts[:] = [cast]
        last: int | None = None
        for number in self.numbers():
            if number != (0 if last is None else last + 1) or not self._whole(number):
                break
            last = number
        return None if last is None else (last, self.load(last, ()).weights)

    def _whole(self, number: int) -> bool:
        """Whether it can be read as far as its description, which knows how long the file is, and its weights.

        Not its updates: to read all of them before going on would take as long as the disk.
        """
        try:
            self.load(number, ())
        except BadInput:
            return False
        return True

    def keep(self, sent: Sent) -> None:
        """One atomic write."""
        parts: dict[str, Mapping[str, NDArray[Any]]] = {}
        narrow: set[str] = set()
        kinds = {type(one) for one in sent.releases.values()}
        if len(kinds) > 1:
            raise BadInput(f"round {sent.number} has releases of several kinds; keep each kind in its own store")
        # places and not names of clients: a name may be anything, also what would be another part's
        trees = {WEIGHTS: sent.weights, **{str(k): one.by_name for k, one in enumerate(sent.releases.values())}}
        for part, tree in trees.items():
            parts[part], short = as_arrays(tree)
            narrow |= {f"{part}/{name}" for name in short}
        kind = next((name for name, one in KINDS.items() if one in kinds), ReleaseKind.DELTA)
        header = RoundHeader(
            leakscope=VERSION, bfloat16=tuple(sorted(narrow)), number=sent.number, owner=self.cast.owner,
            release=kind, senders=tuple(sent.releases),
        )  # fmt: skip
        container.write_parts(self._path(sent.number), header, parts)
        self._seen[sent.number] = header

    @property
    def cast(self) -> Cast:
        """Who played."""
        if not self._casts:
            header, _ = container.read(self.folder / CAST, CastHeader)
            shapes = {name: tuple(shape) for name, shape in header.shapes.items()}
            self._casts.append(Cast(header.owner, header.step, header.clients, header.sizes, shapes))
        return self._casts[0]

    def numbers(self) -> tuple[int, ...]:
        """Of the files that are there."""
        names = {path.name for path in self._paths()}
        found = [name.removeprefix("round-").removesuffix(".safetensors") for name in names]
        # at most ten digits: a name of others may be a number of thousands
        numbers = {int(name) for name in found if name.isdecimal() and len(name) <= 10}
        # in its own spelling: "round-1" beside "round-000001" would be a round twice
        return tuple(sorted(number for number in numbers if self._path(number).name in names))

    def senders(self, number: int) -> tuple[str, ...]:
        """Of whom there are releases in this round."""
        if number not in self._seen:
            header, _ = container.read_parts(self._path(number), RoundHeader, lambda _: ())
            self._seen[number] = self._checked(number, header)
        return self._seen[number].senders

    def load(self, number: int, clients: Sequence[str]) -> Sent:
        """The weights and the updates of these clients; nothing else is read."""
        places = {name: str(place) for place, name in enumerate(self.senders(number))}
        lacking = [name for name in clients if name not in places]
        if lacking:
            raise BadInput(f"{lacking[0]!r} sent nothing in round {number}; who did: {', '.join(places)}")
        # of a hundred updates in a file only these are read from the disk
        wanted = [WEIGHTS, *(places[name] for name in clients)]
        header, parts = container.read_parts(self._path(number), RoundHeader, lambda _: wanted)
        self._checked(number, header)
        trees = {part: self._tree(number, part, arrays, header) for part, arrays in parts.items()}
        kind = KINDS[header.release]
        return Sent(number, trees[WEIGHTS], {name: kind(trees[places[name]]) for name in clients})

    def _tree(self, number: int, part: str, arrays: Mapping[str, NDArray[Any]], header: RoundHeader) -> Named:
        """The tensors of one part, of the shapes that the cast names; the weights must be there whole."""
        shapes, where = self.cast.shapes, f"round {number} of {self.folder}"
        for name, value in arrays.items():
            if value.dtype.kind != "f":
                raise BadInput(f"{where}: {name!r} is of type {value.dtype}, expected floating numbers")
            if shapes.get(name) != value.shape:
                raise BadInput(f"{where}: {name!r} has shape {value.shape}, expected {shapes.get(name)}; play it again")
        if not arrays or (part == WEIGHTS and arrays.keys() != shapes.keys()):
            raise BadInput(f"{where} lacks {sorted(shapes.keys() - arrays.keys())[:4]}; play it again")
        narrow = [name for name in arrays if f"{part}/{name}" in header.bfloat16]
        tensors = as_tensors(arrays, narrow)
        # in the order of the model, which files do not keep
        return {name: tensors[name] for name in shapes if name in tensors}

    def _checked(self, number: int, header: RoundHeader) -> RoundHeader:
        path = self._path(number)
        # a file that was renamed, or copied from another folder, is whole and yet not this round
        if header.number != number or header.owner != self.cast.owner:
            raise BadInput(
                f"{path} is round {header.number} of another federation or file; delete it and play it again"
            )
        # a part for each sender and one for the weights: a list without end would be names without updates
        if len(set(header.senders)) < len(header.senders) or len(header.marks) != len(header.senders) + 1:
            raise BadInput(f"{path} names {len(header.senders)} senders for {len(header.marks) - 1} updates; delete it")
        return header

    def _path(self, number: int) -> Path:
        return self.folder / f"round-{number:06d}.safetensors"

    def _paths(self) -> list[Path]:
        return list(self.folder.glob("round-*.safetensors"))
