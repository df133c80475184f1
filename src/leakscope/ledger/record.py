"""The schema of what an audit leaves behind. Unknown keys are refused; NaN survives the round trip."""

from __future__ import annotations

import enum
import math
from typing import final

from pydantic import BaseModel, ConfigDict

SCHEMA = 1


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings", allow_inf_nan=True)


@final
class Role(enum.Enum):
    """Why a cell is run. REMAINING: undefended, what defenses leave of an attack (`AbstractAttack.remaining`).

    NOISELESS: the same on the mechanism without its noise, sampled and clipped (`AbstractMechanism.noiseless`).
    """

    AUDITED = "audited"
    UNDEFENDED = "undefended"
    BLIND = "blind"
    REPLACED = "replaced"
    REMAINING = "remaining"
    NOISELESS = "noiseless"


@final
class Ending(enum.Enum):
    """How a cell ended; `crashed` is the runner's own."""

    CLAIMED = "claimed"
    REFUSED = "refused"
    DIVERGED = "diverged"
    CRASHED = "crashed"


@final
class Word(enum.Enum):
    """The whole vocabulary of verdicts. "Safe" is not in it."""

    LEAKS = "leaks"
    NO_LEAK_FOUND = "no leak found at this power"
    INCONCLUSIVE = "inconclusive"


@final
class CellSpec(_Strict):
    """What a cell is: everything that changes its answer. Its identity is the hash of this (`ledger.identity`).

    target, dataset, mechanism, attack, metrics: the reprs, which rebuild the objects. told: the names of the kinds of
    facts that the adversary is told. seconds, evaluations: the budget of the attempt, None where it is open. Cells
    that differ in role and trial only belong to one row of the report.
    """

    role: Role
    target: str
    dataset: str
    mechanism: str
    attack: str
    batch_size: int
    told: tuple[str, ...]
    metrics: tuple[str, ...]
    trial: int
    seed: int
    seconds: float | None = None
    evaluations: int | None = None


@final
class ScoreRecord(_Strict):
    """One metric of one cell, or of a group of cells. `higher_is_better` is for the attacker.

    low, high: an interval at 95 %, infinite where none follows: from a single item, or few that differ much. chance:
    what a guess that saw nothing scores. items: per example. exact: how many items were recovered to within rounding.
    claimed: for how many anything was claimed. worst: the least that can be scored, None where there is no such end.
    Both None in records of earlier versions. blind: per example, what the guess behind `chance` scores; kept where the
    claim alone says what is guessed, such as which layer's features, so that no blind control can have guessed it.
    nearest: per example, what the public example nearest to it scores; empty in records of earlier versions.
    """

    metric: str
    value: float
    unit: str
    higher_is_better: bool
    low: float
    high: float
    chance: float
    perfect: float
    items: tuple[float, ...] = ()
    exact: int = 0
    claimed: int | None = None
    worst: float | None = None
    blind: tuple[float, ...] = ()
    nearest: tuple[float, ...] = ()

    @property
    def ends(self) -> tuple[float | None, float | None]:
        """The least and the most that can be scored."""
        return (self.worst, self.perfect) if self.higher_is_better else (self.perfect, self.worst)

    @property
    def spans(self) -> bool:
        """Whether there is an interval to be shown. Earlier versions kept the value itself for a single item."""
        return math.isfinite(self.low) and math.isfinite(self.high) and len(self.items) != 1


@final
class CertificateRecord(_Strict):
    """What an exact attack's own equations leave over.

    residual, tolerance: of the claimed item that is farthest from being proved. holds: whether all are. residuals,
    tolerances: of each item, in the claim's order; empty in records of versions that kept one for all. right: of each
    item whether it is a private one, as one must be that is proved; empty where nobody compared them.
    """

    residual: float
    tolerance: float
    holds: bool
    statement: str
    residuals: tuple[float, ...] = ()
    tolerances: tuple[float, ...] = ()
    right: tuple[bool, ...] = ()


@final
class RankingRecord(_Strict):
    """Of one private item: its true category, the claimed ones from the best on, and the rank of the truth.

    rank: from 1 to `candidates`, a half between two where scores tie; None where the truth was no candidate.
    """

    attribute: str
    true: str
    best: tuple[str, ...]
    rank: float | None
    candidates: int


@final
class AnswerRecord(_Strict):
    """Of one private item: what was asked, the truth and the claim in words; None where nothing was claimed."""

    asked: str
    true: str
    claimed: str | None


@final
class Record(_Strict):
    """What came of one cell. Arrays lie beside it in the same file.

    Arrays, by name: `original`, `claim` (N, ...) in display units, paired: claim[i] is for original[i];
    `unclaimed` (N,) bool, where claim[i] is a mere placeholder; absent when everything was claimed;
    `pictures` (K, N, ...) the claim as the search went, at the evaluations in `picture_evaluations`. Of sequences,
    NaN after the end of each; `audio_original`, `audio_claim` (n, S) in [-1, 1], made of the frames, at `audio_rate`.
    transcripts_claimed[i] is for transcripts_true[i], empty where nothing was claimed; tokens_claimed[i] for
    tokens_true[i], None where nothing was claimed; of a bag (tokens_bag) there is one entry, for all of them.

    seconds, evaluations: of the attempt. prepared: the fingerprint of what the attack had learned from public data
    before, empty for nothing; preparing_seconds: what that had taken, once for all records of this fingerprint.
    answers: of kinds of claims that are none of these. owners: whose each private example is, where the source says so.
    accuracy: the share of public examples that released weights classify rightly, in [0, 1]; None where none are
    released, and in records of earlier versions.
    """

    schema_version: int = SCHEMA
    identity: str
    spec: CellSpec
    ending: Ending
    sentence: str
    scores: tuple[ScoreRecord, ...] = ()
    certificate: CertificateRecord | None = None
    seconds: float = 0.0
    evaluations: int = 0
    prepared: str = ""
    preparing_seconds: float = 0.0
    trace_evaluations: tuple[int, ...] = ()
    trace_losses: tuple[float, ...] = ()
    picture_evaluations: tuple[int, ...] = ()
    steps: tuple[str, ...] = ()
    labels_true: tuple[int, ...] = ()
    owners: tuple[int, ...] = ()
    labels_claimed: tuple[int, ...] = ()
    transcripts_true: tuple[str, ...] = ()
    transcripts_claimed: tuple[str, ...] = ()
    tokens_true: tuple[tuple[str, ...], ...] = ()
    tokens_claimed: tuple[tuple[str, ...] | None, ...] = ()
    tokens_bag: bool = False
    rankings: tuple[RankingRecord, ...] = ()
    answers: tuple[AnswerRecord, ...] = ()
    accuracy: float | None = None
    traceback: str = ""


@final
class GainRecord(_Strict):
    """What a group shows in one metric: the mean gain over the blind guess, and what that is evidence of.

    unit: "dB" for inputs and all errors, of a share "of 1". low, high: its 95 % interval, None with too few trials; it
    ends no lower than that of `best`. best: the mean gain where what is worse than a guess, or not claimed, counts as a
    guess; None in records of earlier versions.
    smallest: the smallest leak of interest. luck: the probability that luck alone looks as much like a leak. proven:
    whether something was recovered that no luck explains. cleared: whether the group is *no leak found* in this
    metric. needed: about how many trials like these would exclude the smallest leak; None where no number would.
    """

    metric: str
    unit: str
    gain: float
    low: float | None
    high: float | None
    smallest: float
    luck: float
    proven: bool
    cleared: bool
    needed: int | None = None
    best: float | None = None


@final
class GameRecord(_Strict):
    """How well one mechanism hides which of two examples a release holds: trials beside their replaced control.

    fpr: the rate of false positives that the found share is of, 1 % where the trials are enough for it, else
    1 / (trials + 1). found, low, high: the share of trials whose example is recovered better than that, and its
    interval at 95 % (Clopper and Pearson). power: the largest such share of any attack; allowed: the largest epsilon
    that such trials may show, at the verdict's `delta`; shown: what they show at 95 % confidence. power and allowed are
    None where theory does not know the mechanism. accuracy: mean of the trials with its interval at 95 %; None without
    one.
    """

    trials: int
    fpr: float
    found: float
    low: float
    high: float
    shown: float
    power: float | None
    allowed: float | None
    accuracy: tuple[float, float, float] | None = None


@final
class GroupVerdict(_Strict):
    """One row of the report: all trials of one target, dataset, mechanism and attack, beside their controls.

    members, undefended, blind: identities of the cells. scores: pooled over trials, `blind_scores` and
    `undefended_scores` likewise for the controls. epsilon: of one release that is known to hold whoever `adjacency`
    hides, at `delta`, infinite where nothing bounds it; training_epsilon: of a round of training in which nobody knows
    who takes part. adjacency: in words, empty where nobody is hidden.
    replaced, replaced_scores: of the control whose release holds another example in place of the first, where it was
    run; observed_epsilon: what it and the trials together show of epsilon, at 95 % confidence and `delta`. broken: how
    that contradicts the declared event, empty where it does not; uncompared: why it could not have contradicted it.
    gains: of the metric that decides and, where labels were claimed along, of these; empty in runs of version 0.1.
    remaining: of the control that is what defenses leave of the attack, undefended; empty where that is the attack.
    noiseless: of the control that is the mechanism without its noise; empty where that is the undefended one.
    game, undefended_game: what the trials and the replaced control say of one example in the place of another, and the
    same without the defense; None where the control was not run, and in runs of earlier versions.
    """

    title: str
    target: str
    dataset: str
    mechanism: str
    attack: str
    word: Word
    sentence: str
    members: tuple[str, ...]
    undefended: tuple[str, ...]
    blind: tuple[str, ...]
    planned: int
    finished: int
    scores: tuple[ScoreRecord, ...]
    undefended_scores: tuple[ScoreRecord, ...]
    blind_scores: tuple[ScoreRecord, ...]
    epsilon: float | None = None
    delta: float | None = None
    gains: tuple[GainRecord, ...] = ()
    training_epsilon: float | None = None
    adjacency: str = ""
    replaced: tuple[str, ...] = ()
    replaced_scores: tuple[ScoreRecord, ...] = ()
    observed_epsilon: float | None = None
    broken: str = ""
    uncompared: str = ""
    remaining: tuple[str, ...] = ()
    noiseless: tuple[str, ...] = ()
    game: GameRecord | None = None
    undefended_game: GameRecord | None = None


@final
class Finding(_Strict):
    """What is found about one mechanism in one scene, from all the groups that judge it.

    scene: its name in the plan. groups: their places in `Summary.groups`. attack: the one that leaks most, empty where
    none does. luck: of the whole finding, corrected for the number of tests (Holm); 0 where something was proved.
    theory: what is known without any attack, and whether anything could have shown that it is wrong, in a sentence;
    empty where nothing is. broken: how more was found than the mechanism's declared event allows, empty where that is
    not so.
    """

    scene: str
    target: str
    dataset: str
    mechanism: str
    word: Word
    sentence: str
    groups: tuple[int, ...]
    attack: str = ""
    luck: float = 1.0
    theory: str = ""
    broken: str = ""


@final
class Summary(_Strict):
    """What the report opens with; written by the runner next to the records.

    word: the worst of the findings (leaks > inconclusive > no leak found). findings: one for each mechanism in each
    scene, in the plan's order; empty in runs of version 0.1, where the word is the worst of the groups. citations:
    BibTeX of what ran.
    seconds: of all attempts. preparing_seconds: of what attacks had learned for them, each thing once.
    """

    schema_version: int = SCHEMA
    title: str
    word: Word
    sentence: str
    groups: tuple[GroupVerdict, ...]
    planned: int
    finished: int
    seconds: float
    seed: int
    versions: dict[str, str]
    machine: str
    command: str
    started: str
    citations: tuple[str, ...] = ()
    preparing_seconds: float = 0.0
    findings: tuple[Finding, ...] = ()
