"""One container for whatever is kept: named arrays, and a header that says what they are. No torch.

A file is a safetensors file with one entry `leakscope` among its metadata: the kind of file, a text (JSON) that
describes it, and a checksum over text and arrays. Nothing in it can run code.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar, final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from leakscope.core import file_limits
from leakscope.core.errors import BadInput
from leakscope.ledger.files import Arrays, checksum, write_atomically

ENTRY = "leakscope"
RECORD, STATE, ENCODER = "record", "state", "encoder"

FORMAT = 1
"""Raised when a file of the same kind is read otherwise than before."""

_UNREADABLE = (
    SafetensorError, OSError, ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError,
    RecursionError,
)  # fmt: skip
"""What bytes that are no container raise on the way: the reader's own, and JSON that is none or nested without end."""


@final
class Fault(enum.Enum):
    """Why a file is not what a container is."""

    UNREADABLE = "cut short, damaged or of another kind"
    FOREIGN = "not written by leakscope"
    CHANGED = "not what was written: its checksum differs"


@final
@dataclass(frozen=True)
class Damage:
    """A file that cannot be used. why: what the reader said of it."""

    fault: Fault
    why: str = ""


@final
@dataclass(frozen=True, eq=False)
class Content:
    """A whole file. kind: for machines; text: the description, JSON; arrays: by name."""

    kind: str
    text: str
    arrays: dict[str, NDArray[Any]]


def write_content(path: Path, kind: str, text: str, arrays: Arrays) -> None:
    """Write the file, whole or not at all, for its owner only; the same content is the same bytes."""
    # safetensors writes a strided view as if it were contiguous; ascontiguousarray would give a scalar a dimension
    plain = {name: np.asarray(value, order="C") for name, value in arrays.items()}
    _write(path, kind, text, checksum(text, plain), plain)


def _write(path: Path, kind: str, text: str, mark: str, plain: dict[str, NDArray[Any]]) -> None:
    # one entry: safetensors writes several in an order that differs from run to run
    said = {"kind": kind, "checksum": mark, "header": text}
    write_atomically(path, save(plain, metadata={ENTRY: json.dumps(said)}))


def read_content(path: Path) -> Content | Damage:
    """What the file holds, or why it cannot be used.

    Every shape and offset that the header names was compared with the length of the file by safetensors before
    memory is asked for, so a header cannot promise more than is there.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            said = _said(file.metadata() or {})
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a mapping
    except _UNREADABLE as error:
        return Damage(Fault.UNREADABLE, str(error))
    if said is None:
        return Damage(Fault.FOREIGN)
    kind, mark, text = said
    # States and encoders of 0.1.0 carry no checksum; everything else does.
    if mark is not None and mark != checksum(text, arrays):
        return Damage(Fault.CHANGED)
    return Content(kind, text, arrays)


def _said(metadata: Mapping[str, str]) -> tuple[str, str | None, str] | None:
    """Kind, checksum and text of a header, None where it is not leakscope's."""
    if ENTRY not in metadata:
        return _earlier(metadata)
    said = file_limits.parsed(metadata[ENTRY])
    whole = isinstance(said, dict) and said.keys() == {"kind", "checksum", "header"}
    if not whole or not all(isinstance(one, str) for one in said.values()):
        return None
    return said["kind"], said["checksum"], said["header"]


def _earlier(metadata: Mapping[str, str]) -> tuple[str, str | None, str] | None:
    """The same of the kinds of file that had headers of their own up to version 0.1.0."""
    if metadata.keys() == {"record", "checksum"}:
        return RECORD, metadata["checksum"], metadata["record"]
    if metadata.get("format") == "leakscope search state 1":
        said = {"owner": metadata["owner"], "seconds": float(metadata["seconds"]), "layout": metadata["layout"]}
        return STATE, None, json.dumps({"leakscope": "0.1.0", **said})
    if metadata.keys() == {"shape"}:
        return ENCODER, None, json.dumps({"leakscope": "0.1.0", "shape": file_limits.parsed(metadata["shape"])})
    return None


class Header(BaseModel):
    """What a file says of itself. kind, wanted: its name for machines and for people.

    bfloat16: names of arrays that are stored as float32, since numpy has no such type.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings", allow_inf_nan=True)
    kind: ClassVar[str]
    wanted: ClassVar[str]

    format: int = FORMAT
    leakscope: str
    bfloat16: tuple[str, ...] = ()


HeaderT = TypeVar("HeaderT", bound=Header)


def write(path: Path, header: Header, arrays: Arrays) -> None:
    """Write a file of the header's kind, whole or not at all, for its owner only.

    >>> import tempfile
    >>> from leakscope.ledger.exchange import SecretHeader, UpdateHeader
    >>> path = Path(tempfile.mkdtemp()) / "secret.safetensors"
    >>> said = SecretHeader(leakscope="0", domain="Images(1, 1, 2)", classes=2, data="", update="")
    >>> write(path, said, {"inputs": np.zeros((1, 1, 1, 2), np.float32)})
    >>> read(path, SecretHeader)[0] == said
    True
    >>> read(path, UpdateHeader)
    Traceback (most recent call last):
    leakscope.core.errors.BadInput: secret.safetensors is a secret, expected an update, as `leakscope capture` writes it
    """
    write_content(path, header.kind, header.model_dump_json(), arrays)


def read(path: Path, kind: type[HeaderT], *, hint: str = "") -> tuple[HeaderT, dict[str, NDArray[Any]]]:
    """The description and the arrays of a file of this kind. hint: what to do where it is not leakscope's.

    Raises `BadInput` when it is absent, cut short, changed, not leakscope's, of another kind or of another format.
    """
    if not path.is_file():
        raise BadInput(f"no file {path}; expected {kind.wanted}")
    found = read_content(path)
    if isinstance(found, Damage):
        raise BadInput(_complaint(path, found, kind, hint))
    return _header(path, found, kind), found.arrays


def _header(path: Path, found: Content, kind: type[HeaderT]) -> HeaderT:
    """The description, checked. Raises as `read`."""
    if found.kind != kind.kind:
        article = "an" if found.kind[:1] in "ue" else "a"
        raise BadInput(f"{path.name} is {article} {found.kind}, expected {kind.wanted}")
    try:
        file_limits.parsed(found.text)
        header = kind.model_validate_json(found.text)
    except ValidationError as error:
        unknown = [one for one in error.errors() if one["type"] == "extra_forbidden"]
        # A list or a number is JSON too.
        given = json.loads(found.text)
        wrote = given.get("leakscope") if isinstance(given, dict) else None
        advice = file_limits.written_by(wrote) if len(unknown) == len(error.errors()) else "make it anew"
        raise BadInput(f"{path} describes itself wrongly: {first_fault(error)}; {advice}") from None
    except ValueError as error:
        raise BadInput(f"{path} describes itself wrongly: {error}; make it anew") from None
    if header.format != FORMAT:
        raise BadInput(
            f"{path} has format {header.format}, this leakscope reads {FORMAT}; "
            f"{file_limits.written_by(header.leakscope)}"
        )
    return header


class Parted(Header):
    """A file whose arrays belong to several parts, each read and checked by itself. marks: the checksum of each part.

    An array is called after its part, "part/name". The checksum of the file is over the description, marks included.
    """

    marks: dict[str, str] = {}


PartedT = TypeVar("PartedT", bound=Parted)


def write_parts(path: Path, header: Parted, parts: Mapping[str, Arrays]) -> None:
    """Write a file of the header's kind, whole or not at all; `marks` are filled in."""
    plain = {part: {name: np.asarray(value, order="C") for name, value in own.items()} for part, own in parts.items()}
    text = header.model_copy(update={"marks": {part: checksum(part, own) for part, own in plain.items()}})
    arrays = {f"{part}/{name}": value for part, own in plain.items() for name, value in own.items()}
    _write(path, header.kind, text.model_dump_json(), checksum(text.model_dump_json(), {}), arrays)


def read_parts(
    path: Path, kind: type[PartedT], wanted: Callable[[PartedT], Collection[str]]
) -> tuple[PartedT, dict[str, dict[str, NDArray[Any]]]]:
    """The description and the arrays of the parts that `wanted` names of it; no others are read from the disk.

    Raises as `read`, and where a part is not there or not what its mark says.
    """
    if not path.is_file():
        raise BadInput(f"no file {path}; expected {kind.wanted}")
    damage = Damage(Fault.FOREIGN)
    try:
        with safe_open(path, framework="numpy") as file:
            said = _said(file.metadata() or {})
            if said is not None and said[1] != checksum(said[2], {}):
                damage = Damage(Fault.CHANGED)
            elif said is not None:
                header = _header(path, Content(said[0], said[2], {}), kind)
                names = sorted(file.keys())
                found = {part: _part(file, names, part) for part in wanted(header)}
                odd = [part for part, own in found.items() if checksum(part, own) != header.marks.get(part)]
                if not odd:
                    return header, found
                damage = Damage(Fault.CHANGED)
    except BadInput:
        raise
    except _UNREADABLE as error:
        damage = Damage(Fault.UNREADABLE, str(error))
    raise BadInput(_complaint(path, damage, kind, ""))


def _part(file: Any, names: Sequence[str], part: str) -> dict[str, NDArray[Any]]:
    start = f"{part}/"
    return {name.removeprefix(start): file.get_tensor(name) for name in names if name.startswith(start)}


def _complaint(path: Path, damage: Damage, kind: type[Header], hint: str) -> str:
    why = file_limits.shortened(damage.why, 200)
    return {
        Fault.UNREADABLE: f"{path} cannot be read ({why}); expected {kind.wanted}: it is {damage.fault.value}",
        Fault.FOREIGN: f"{path} was {damage.fault.value}, expected {kind.wanted}{hint}",
        Fault.CHANGED: f"{path} is {damage.fault.value}; copy it again or make it anew",
    }[damage.fault]


def first_fault(error: ValidationError) -> str:
    """The first thing that is wrong with a description: where, and what.

    >>> from leakscope.ledger.exchange import SecretHeader
    >>> try:
    ...     SecretHeader.model_validate({"leakscope": "0"})
    ... except ValidationError as error:
    ...     first_fault(error)
    'domain: Field required'
    """
    first = error.errors(include_input=False, include_url=False)[0]
    return file_limits.shortened(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}", 200)
