"""What a plan of federations leaves behind: a record of each attack on a federation, and the rows that come of them."""

from __future__ import annotations

import enum
import hashlib
import json
import math
from typing import final

from pydantic import BaseModel, ConfigDict, model_validator

from leakscope.ledger.record import Word

SCHEMA = 1


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings", allow_inf_nan=True)


@final
class Part(enum.Enum):
    """Why a federation is attacked: SHUFFLED is a world in which nothing can leak, as the attribute was drawn anew.

    NOISELESS: the defended federation without its noise, clipped and summed as it is.
    """

    AUDITED = "audited"
    UNDEFENDED = "undefended"
    NOISELESS = "without noise"
    SHUFFLED = "shuffled"


@final
class PlayedSpec(_Strict):
    """Everything that changes the answer. public, private: the sources' reprs; the rest are reprs too.

    updates: how many updates of a client are looked at, 0 for all of them; fewer are drawn `draws` times.
    """

    public: str
    private: str
    target: str
    federation: str
    attack: str
    attribute: str
    each: int
    hold_out: float
    updates: tuple[int, ...]
    draws: int
    shuffled: bool
    seed: int

    @property
    def identity(self) -> str:
        """20 hex digits of all fields, by name."""
        text = json.dumps([SCHEMA, self.model_dump(mode="json")], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


@final
class ClaimRows(_Strict):
    """What was claimed by `updates` updates of a client: a row for each claim.

    truth: places in the categories. scores: log-probabilities (G,). persons: names of whoever the client belongs to.
    """

    updates: int
    truth: tuple[int, ...]
    scores: tuple[tuple[float, ...], ...]
    persons: tuple[str, ...]

    @model_validator(mode="after")
    def _of_one_length(self) -> ClaimRows:
        """What is no claim of anybody is damage of the file, and not a fault of who reads its numbers."""
        widths = {len(row) for row in self.scores}
        if not len(self.truth) == len(self.scores) == len(self.persons) > 0 or len(widths) > 1 or min(widths) < 2:
            raise ValueError("expected a truth, scores of two categories or more and a person for each claim")
        if not all(0 <= one < min(widths) for one in self.truth):
            raise ValueError("a truth is none of the categories")
        if any(math.isnan(score) or score == math.inf for row in self.scores for score in row):
            raise ValueError("scores are numbers below infinity")
        if len(set(zip(self.persons, self.truth, strict=True))) > len(set(self.persons)):
            raise ValueError("a person is of two categories")
        return self


@final
class UtilityRecord(_Strict):
    """How good the model is before the round `number`, on examples that were held out."""

    number: int
    accuracy: float
    uar: float


@final
class PlayedRecord(_Strict):
    """One attack on one federation. sentence: why nothing was claimed of anybody; empty where something was.

    silent: why nothing was claimed of one client or another. clients: of the private federation. failed: whether it
    ended with an error, such as a file that is not there: who goes on tries it again.
    """

    spec: PlayedSpec
    categories: tuple[str, ...] = ()
    claims: tuple[ClaimRows, ...] = ()
    silent: tuple[str, ...] = ()
    sentence: str = ""
    history: tuple[UtilityRecord, ...] = ()
    clients: int = 0
    seconds: float = 0.0
    citation: str = ""
    failed: bool = False

    @model_validator(mode="after")
    def _of_its_categories(self) -> PlayedRecord:
        if any(len(row) != len(self.categories) for rows in self.claims for row in rows.scores):
            raise ValueError("scores are of other categories")
        if self.clients < 0 or len({rows.updates for rows in self.claims}) < len(self.claims):
            raise ValueError("expected a number of clients, and claims by each number of updates once")
        return self


@final
class Found(_Strict):
    """Metrics of the claims by so many updates. persons: how many. chance: of uar and of auc 1/G and 0.5."""

    updates: int
    persons: int
    uar: float
    low: float
    high: float
    luck: float
    chance: float
    auc: float
    caught: float
    log_loss: float


@final
class PlayedRow(_Strict):
    """One attack on one federation, both directions together: a row of the page.

    noise: the multiplier of user-level privacy, NaN without. epsilons: for who sees the models, one update of a client,
    all of them; None without privacy. accuracy, uar: of the model on what was held out, NaN where nothing was. note:
    what is wrong with what is claimed of the defense.
    """

    part: Part
    scene: str
    target: str
    federation: str
    attack: str
    attribute: str
    word: Word
    sentence: str
    found: tuple[Found, ...] = ()
    noise: float = float("nan")
    epsilons: tuple[float, float, float] | None = None
    accuracy: float = float("nan")
    uar: float = float("nan")
    note: str = ""


@final
class PlayedSummary(_Strict):
    """What the page opens with. word: the worst of the audited rows (leaks > inconclusive > no leak found)."""

    schema_version: int = SCHEMA
    title: str
    word: Word
    sentence: str
    rows: tuple[PlayedRow, ...]
    planned: int
    finished: int
    seconds: float
    seed: int
    smallest: float
    delta: float
    version: str
    citations: tuple[str, ...] = ()
