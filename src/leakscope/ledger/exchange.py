"""Files that go from hand to hand: an update, the secret behind it, what an attack made of it. No torch.

One container each (`ledger.container`), whose description is declared here. An update file has no field for anything
private but the facts that are told; the secret is a file of its own.
"""

from __future__ import annotations

import enum
from typing import Any, ClassVar, final

from pydantic import BaseModel, Field

from leakscope.core.annotation import Per
from leakscope.ledger.container import Header
from leakscope.ledger.record import CertificateRecord


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
    classes: int = Field(ge=1, lt=2**63)
    weights: str
    weights_seed: int | None = Field(ge=0, lt=2**63)
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
    classes: int = Field(ge=1, lt=2**63)
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
    chosen: int = Field(ge=-1)
    steps: tuple[str, ...] = ()
    trace_evaluations: tuple[int, ...] = ()
    trace_losses: tuple[float, ...] = ()
    picture_evaluations: tuple[int, ...] = ()
