"""Files that go from hand to hand: an update, the secret behind it, what an attack made of it. No torch.

One safetensors file each: named arrays, and in its header a description (JSON) and a checksum. Nothing in them can run
code. An update file has no field for anything private but the facts that are told; the secret is a file of its own.
"""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Any, ClassVar, TypeVar, final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from leakscope.core.annotation import Per
from leakscope.core.errors import BadInput
from leakscope.ledger.files import Arrays, checksum, write_atomically
from leakscope.ledger.record import CertificateRecord

FORMAT = 1
"""Raised when a file of the same kind is read otherwise than before."""

_UNREADABLE = (SafetensorError, OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError)


class Header(BaseModel):
    """What every such file says of itself. kind, wanted: its name for machines and for people.

    bfloat16: names of arrays that are stored as float32, since numpy has no such type.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings", allow_inf_nan=True)
    kind: ClassVar[str]
    wanted: ClassVar[str]

    format: int = FORMAT
    leakscope: str
    bfloat16: tuple[str, ...] = ()


HeaderT = TypeVar("HeaderT", bound=Header)


@final
class ReleaseKind(enum.Enum):
    """The sign and scale of an update, as in `core.release`."""

    GRADIENT = "gradient"
    DELTA = "delta"
    WEIGHTS = "weights"


@final
class UpdateHeader(Header):
    """What the server knows of an update.

    mechanism, domain, told: expressions. model: what was given as --model, for people: it is not run. weights: the
    fingerprint of the weights at which the update was computed, empty where they are not known; weights_seed: from
    which they were drawn, None where a file or the model brings them. notes: what a reader of another format said.
    """

    kind: ClassVar[str] = "update"
    wanted: ClassVar[str] = "an update, as `leakscope capture` writes it"

    release: ReleaseKind
    mechanism: str
    model: str
    domain: str
    classes: int
    weights: str
    weights_seed: int | None
    told: tuple[str, ...]
    notes: tuple[str, ...] = ()


@final
class Annotated(BaseModel):
    """What a corpus tells of each private example, such as its speaker: one place in `categories` for each.

    per: EXAMPLE, or OWNER where the one value is of whoever the whole batch belongs to.
    """

    model_config = Header.model_config

    name: str
    values: tuple[int, ...]
    categories: tuple[str, ...]
    per: Per = Per.EXAMPLE


@final
class SecretHeader(Header):
    """What the client keeps. data: where it is from, for people. update: the fingerprint of the update.

    words: of texts, how their token ids are read, for people.
    """

    kind: ClassVar[str] = "secret"
    wanted: ClassVar[str] = "a secret, as `leakscope capture --secret` writes it"

    domain: str
    classes: int
    data: str
    update: str
    annotations: tuple[Annotated, ...] = ()
    words: tuple[str, ...] = ()


@final
class Tried(BaseModel):
    """One attack of several on the same update."""

    model_config = Header.model_config

    attack: str
    outcome: str
    sentence: str
    certificate: CertificateRecord | None = None
    seconds: float = 0.0
    evaluations: int = 0


@final
class ClaimHeader(Header):
    """What came of an attack. claim: the kind of claim, empty for none. text: its fields that are no arrays.

    tried: everything that was run, in its order, refusals included; chosen: the place in it of the claim, -1 for none.
    trace_*: of the chosen one; pictures lie beside it as `picture.0`, `picture.1`, ...
    """

    kind: ClassVar[str] = "claim"
    wanted: ClassVar[str] = "a claim, as `leakscope attack` writes it"

    update: str
    domain: str
    claim: str
    text: dict[str, Any]
    tried: tuple[Tried, ...]
    chosen: int
    steps: tuple[str, ...] = ()
    trace_evaluations: tuple[int, ...] = ()
    trace_losses: tuple[float, ...] = ()
    picture_evaluations: tuple[int, ...] = ()


def write(path: Path, header: Header, arrays: Arrays) -> None:
    """Write the file, whole or not at all, for its owner only.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "secret.safetensors"
    >>> said = SecretHeader(leakscope="0", domain="Images(1, 1, 2)", classes=2, data="", update="")
    >>> write(path, said, {"inputs": np.zeros((1, 1, 1, 2), np.float32)})
    >>> read(path, SecretHeader)[0] == said
    True
    >>> read(path, UpdateHeader)
    Traceback (most recent call last):
    leakscope.core.errors.BadInput: secret.safetensors is a secret, expected an update, as `leakscope capture` writes it
    """
    # safetensors writes a strided view as if it were contiguous; ascontiguousarray would give a scalar a dimension
    plain = {name: np.asarray(value, order="C") for name, value in arrays.items()}
    text = header.model_dump_json()
    # one entry: safetensors writes several in an order that differs from run to run
    said = {"kind": header.kind, "checksum": checksum(text, plain), "header": text}
    write_atomically(path, save(plain, metadata={"leakscope": json.dumps(said)}))


def read(path: Path, kind: type[HeaderT]) -> tuple[HeaderT, dict[str, NDArray[Any]]]:
    """The description and the arrays of a file of this kind.

    Raises `BadInput` when it is absent, cut short, changed, not leakscope's, of another kind or of another format.
    """
    if not path.is_file():
        raise BadInput(f"no file {path}; expected {kind.wanted}")
    said, arrays = _opened(path, kind)
    if said is None:
        raise BadInput(
            f"{path} was not written by leakscope, expected {kind.wanted}; an update from elsewhere is brought in with "
            "`leakscope capture --update` or `--before` and `--after`"
        )
    if said["kind"] != kind.kind:
        article = "an" if said["kind"].startswith("u") else "a"
        raise BadInput(f"{path.name} is {article} {said['kind']}, expected {kind.wanted}")
    if said["checksum"] != checksum(said["header"], arrays):
        raise BadInput(f"{path} is not what was written: its checksum differs; copy it again or make it anew")
    try:
        header = kind.model_validate_json(said["header"])
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"{path} describes itself wrongly: {place}: {first['msg']}; make it anew") from None
    if header.format != FORMAT:
        raise BadInput(
            f"{path} has format {header.format}, this leakscope reads {FORMAT}; use the version that wrote it"
        )
    return header, arrays


def _opened(path: Path, kind: type[Header]) -> tuple[dict[str, str] | None, dict[str, NDArray[Any]]]:
    """What leakscope wrote into the header, None where it did not, and the arrays."""
    try:
        with safe_open(path, framework="numpy") as file:
            said = json.loads((file.metadata() or {}).get("leakscope", "null"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a mapping
    except _UNREADABLE as error:
        raise BadInput(
            f"{path} cannot be read ({error}); expected {kind.wanted}: it is cut short, damaged or of another kind"
        ) from None
    whole = isinstance(said, dict) and said.keys() == {"kind", "checksum", "header"}
    return (said if whole and all(isinstance(one, str) for one in said.values()) else None), arrays
