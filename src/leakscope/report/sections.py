"""What the page shows of one group."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from leakscope.ledger.record import CellSpec, Ending, GroupVerdict, Record, ScoreRecord, Word
from leakscope.report import figures, tables
from leakscope.report.figures import Curve, Drawing, Mark
from leakscope.report.redact import Veil
from leakscope.report.strips import Development, Easel, Sound, Strip
from leakscope.report.tables import Cells, Row
from leakscope.report.wording import Wordings, texts, transcripts

MOST_METRICS = 3
MOST_TRIALS = 8
MOST_LABELS = 48
MOST_WORDINGS = 8
MOST_RANKINGS = 24


@final
@dataclass(frozen=True)
class Desk:
    """What every section is made from."""

    cells: Cells
    damaged: Mapping[str, str]
    veil: Veil
    share: int


@final
@dataclass(frozen=True)
class Failure:
    """Cells that ended alike without a claim. `ending` is None for records that are not there."""

    role: str
    trials: tuple[str, ...]
    ending: Ending | None
    sentence: str
    traceback: str


@final
@dataclass(frozen=True)
class Certification:
    """One statement of an exact attack: how many trials it held in, and its worst residual."""

    statement: str
    held: int
    of: int
    residual: float
    tolerance: float


@final
@dataclass(frozen=True)
class Labels:
    """The labels of one trial; `shared` counts those that agree as multisets."""

    trial: int
    true: tuple[str, ...]
    claimed: tuple[str, ...]
    shared: int
    of: int


@final
@dataclass(frozen=True)
class Ranking:
    """Who one private example was of, where that person stands, and the nearest ones: (name, whether it is the truth).

    rank: None where the truth was no candidate.
    """

    name: str
    attribute: str
    true: str
    rank: float | None
    candidates: int
    best: tuple[tuple[str, bool], ...]


@final
@dataclass(frozen=True)
class Answer:
    """What was asked of one private example, the truth and the claim in words; None where nothing was claimed."""

    name: str
    asked: str
    true: str
    claimed: str | None


@final
@dataclass(frozen=True)
class Line:
    """One cell in the list of cells."""

    role: str
    trial: str
    ending: str
    score: ScoreRecord | None
    seconds: float | None
    evaluations: int | None
    seed: str
    identity: str


@final
@dataclass(frozen=True)
class Section:
    """One group, ready for the template."""

    row: Row
    sentence: str
    spec: CellSpec | None
    strip: Strip | None
    development: Development | None
    sounds: tuple[Sound, ...]
    comparisons: tuple[tuple[Mark, ...], ...]
    intervals: Drawing | None
    curves: Drawing | None
    certificates: tuple[Certification, ...]
    labels: tuple[Labels, ...]
    label_trials: int
    transcripts: Wordings
    texts: Wordings
    rankings: tuple[Ranking, ...]
    ranking_total: int
    answers: tuple[Answer, ...]
    answer_total: int
    failures: tuple[Failure, ...]
    steps: tuple[tuple[str, tuple[str, ...]], ...]
    lines: tuple[Line, ...]
    seconds: float

    @property
    def leaks(self) -> bool:
        """Whether this group's word is the worst one."""
        return self.row.group.word is Word.LEAKS

    @property
    def own_control(self) -> bool:
        """Whether the mechanism has no defense, so that the group is its own undefended control."""
        return _own_control(self.row.group)


def _roles(group: GroupVerdict) -> tuple[tuple[str, str], ...]:
    """(role, identity), members first, each identity once: a control may be a member as well."""
    named = (
        ("audited", group.members),
        ("undefended", group.undefended),
        ("blind", group.blind),
        ("replaced", group.replaced),
        ("remaining", group.remaining),
        ("noiseless", group.noiseless),
    )
    seen: dict[str, str] = {}
    for role, identities in named:
        for identity in identities:
            seen.setdefault(identity, role)
    return tuple((role, identity) for identity, role in seen.items())


def section(row: Row, desk: Desk) -> Section:
    """Everything that the page shows of one group."""
    group = row.group
    members = [desk.cells[i][0] for i in group.members if i in desk.cells]
    controls = [desk.cells[i][0] for i in group.undefended if i in desk.cells and i not in group.members]
    triples = _triples(group)
    easel = Easel(group, desk.cells, desk.veil, desk.share)
    labeled = [record for record in members if record.labels_true or record.labels_claimed]
    # The true labels alone compare with nothing: they are shown beside claimed ones or not at all.
    labeled = labeled if any(record.labels_claimed for record in labeled) else []
    return Section(
        row=row,
        sentence=_sentence(group, desk),
        spec=members[0].spec if members else None,
        strip=easel.strip(),
        development=easel.development(),
        sounds=easel.sounds(),
        comparisons=tuple(figures.marks_of(triple) for triple in triples),
        intervals=figures.intervals(triples[:MOST_METRICS]),
        curves=figures.curves(
            [_curve(r, control=False) for r in members] + [_curve(r, control=True) for r in controls]
        ),
        certificates=_certifications(members, desk.veil),
        labels=tuple(_labels(record, desk.veil) for record in labeled[:MOST_TRIALS]),
        label_trials=len(labeled),
        transcripts=transcripts(members, desk.veil, most=MOST_WORDINGS),
        texts=texts(members, desk.veil, most=MOST_WORDINGS),
        rankings=rankings(members, desk.veil)[:MOST_RANKINGS],
        ranking_total=sum(len(record.rankings) for record in members),
        answers=answers(members, desk.veil)[:MOST_RANKINGS],
        answer_total=sum(len(record.answers) for record in members),
        failures=_failures(group, desk),
        steps=_steps(members, desk.veil),
        lines=_lines(group, desk),
        seconds=math.fsum(record.seconds for record in members),
    )


def _sentence(group: GroupVerdict, desk: Desk) -> str:
    """The verdict's sentence. It may quote the sentences of cells, and those pass through the veil."""
    said, names = group.sentence, [identity for _, identity in _roles(group)]
    # A record that is gone may be quoted, and then nobody knows which words are the quotation.
    if any(name not in desk.cells for name in names):
        return desk.veil.text(said)
    # The longest first, since one may be part of another.
    for quoted in sorted({desk.cells[name][0].sentence for name in names}, key=len, reverse=True):
        said = said.replace(quoted, desk.veil.text(quoted)) if quoted else said
    return said


def _triples(group: GroupVerdict) -> list[figures.Triple]:
    """Every metric that the attack or its undefended control has; the group itself is not repeated as a control."""
    undefended = () if _own_control(group) else group.undefended_scores
    lists = (group.scores, undefended, group.blind_scores)
    metrics = dict.fromkeys(score.metric for scores in lists for score in scores)
    found = tables.matching
    triples = [(found(lists[0], name), found(lists[1], name), found(lists[2], name)) for name in metrics]
    return [triple for triple in triples if triple[0] is not None or triple[1] is not None]


def _own_control(group: GroupVerdict) -> bool:
    return group.undefended == group.members


def _curve(record: Record, *, control: bool) -> Curve:
    lost = record.ending is not Ending.CLAIMED
    return Curve(record.trace_evaluations, record.trace_losses, control=control, lost=lost)


def _certifications(records: Sequence[Record], veil: Veil) -> tuple[Certification, ...]:
    found: dict[str, list[tuple[bool, float, float]]] = {}
    for record in records:
        if record.certificate is not None:
            given = record.certificate
            found.setdefault(given.statement, []).append((given.holds, given.residual, given.tolerance))
    # One that does not hold is worse than any that does; then the larger residual, and one that is no number first.
    worst = {
        statement: min(rows, key=lambda row: (row[0], -row[1] if math.isfinite(row[1]) else -math.inf))
        for statement, rows in found.items()
    }
    return tuple(
        Certification(veil.text(statement), sum(row[0] for row in rows), len(rows), *worst[statement][1:])
        for statement, rows in found.items()
    )


def _labels(record: Record, veil: Veil) -> Labels:
    true, claimed = record.labels_true, record.labels_claimed
    return Labels(
        record.spec.trial,
        _capped(veil.labels(true)),
        _capped(veil.labels(claimed)),
        tables.agreement(true, claimed),
        len(true),
    )


def rankings(records: Sequence[Record], veil: Veil) -> tuple[Ranking, ...]:
    """Every private example that a claim ranks candidates for; names are withheld where the page is redacted."""
    return tuple(
        Ranking(
            f"trial {record.spec.trial}, example {item + 1}",
            one.attribute,
            veil.token(one.true),
            one.rank,
            one.candidates,
            () if veil.on else tuple((name, name == one.true) for name in one.best),
        )
        for record in records
        for item, one in enumerate(record.rankings)
    )


def answers(records: Sequence[Record], veil: Veil) -> tuple[Answer, ...]:
    """Every private example of a kind of claim that is shown in words; both sides are withheld where it is redacted."""
    return tuple(
        Answer(
            f"trial {record.spec.trial}, example {item + 1}",
            one.asked,
            veil.token(one.true),
            None if one.claimed is None else veil.token(one.claimed),
        )
        for record in records
        for item, one in enumerate(record.answers)
    )


def _capped(labels: tuple[str, ...]) -> tuple[str, ...]:
    rest = len(labels) - MOST_LABELS
    return (*labels[:MOST_LABELS], f"and {rest} more") if rest > 0 else labels


def _failures(group: GroupVerdict, desk: Desk) -> tuple[Failure, ...]:
    """Cells without a claim, those that ended alike together; none is left out."""
    alike: dict[tuple[str, Ending | None, str], tuple[list[str], str]] = {}
    for role, identity in _roles(group):
        # A cell without a record is a failure like any other: left out, the page would look better than the run.
        if identity not in desk.cells:
            name = desk.veil.token(identity)
            why = desk.damaged.get(identity)
            sentence = "planned, but there is no record of it" if why is None else desk.veil.token(why)
            alike.setdefault((role, None, sentence), ([], ""))[0].append(f"cell {name}")
            continue
        record = desk.cells[identity][0]
        if record.ending is Ending.CLAIMED:
            continue
        key = (role, record.ending, desk.veil.text(record.sentence))
        trace = desk.veil.token(record.traceback) if record.traceback else ""
        alike.setdefault(key, ([], trace))[0].append(f"trial {record.spec.trial}")
    return tuple(Failure(k[0], tuple(trials), k[1], k[2], trace) for k, (trials, trace) in alike.items())


def _steps(records: Sequence[Record], veil: Veil) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """What a portfolio did, by trial; trials with the same steps are told once."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for record in records:
        if record.steps:
            alike.setdefault(tuple(map(veil.text, record.steps)), []).append(str(record.spec.trial))
    return tuple((f"trial {', '.join(trials)}", steps) for steps, trials in list(alike.items())[:MOST_TRIALS])


def _line(role: str, record: Record, metric: str, veil: Veil) -> Line:
    return Line(
        role,
        str(record.spec.trial),
        record.ending.value,
        tables.matching(record.scores, metric),
        record.seconds,
        record.evaluations,
        veil.token(str(record.spec.seed)),
        veil.token(record.identity),
    )


def _lines(group: GroupVerdict, desk: Desk) -> tuple[Line, ...]:
    metric = group.scores[0].metric if group.scores else ""
    lines = []
    for role, identity in _roles(group):
        if identity in desk.cells:
            lines.append(_line(role, desk.cells[identity][0], metric, desk.veil))
        else:
            ending = "damaged" if identity in desk.damaged else "missing"
            lines.append(Line(role, "–", ending, None, None, None, "–", desk.veil.token(identity)))
    return tuple(lines)


@final
@dataclass(frozen=True)
class LooseLine:
    """One cell of a run that has no summary."""

    line: Line
    title: str
    sentence: str


def loose_lines(
    cells: Cells, damaged: Mapping[str, str], planned: Mapping[str, CellSpec], veil: Veil
) -> tuple[LooseLine, ...]:
    """Every cell of a run that has not ended: those in the folder, those that cannot be read, those not yet there."""
    found = sorted((cells[name][0] for name in cells), key=lambda r: (_setting(r.spec), r.spec.trial))
    whole = [
        LooseLine(
            _line(record.spec.role.value, record, record.scores[0].metric if record.scores else "", veil),
            _setting(record.spec),
            veil.text(record.sentence),
        )
        for record in found
    ]
    absent = {name: "not run yet" for name in planned if name not in cells}
    for name, sentence in (absent | {name: veil.token(why) for name, why in damaged.items()}).items():
        spec = planned.get(name)
        role, trial = ("–", "–") if spec is None else (spec.role.value, str(spec.trial))
        line = Line(role, trial, "damaged" if name in damaged else "missing", None, None, None, "–", veil.token(name))
        whole.append(LooseLine(line, "–" if spec is None else _setting(spec), sentence))
    return tuple(whole)


def _setting(spec: CellSpec) -> str:
    return f"{spec.mechanism} · {spec.attack} · {spec.target} · {spec.dataset}"
