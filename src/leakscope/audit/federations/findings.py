"""Records of federations become rows with verdicts, and the rows a summary; nothing is run here."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from leakscope.audit import by_person
from leakscope.audit.federations.plan import ALL, FederatedCell, FederatedGroup, FederationPlan
from leakscope.audit.measures import LUCK
from leakscope.bounds.user_level import models_epsilon, updates_epsilon
from leakscope.core.errors import BadInput
from leakscope.ledger.played import ClaimRows, Found, Part, PlayedRecord, PlayedRow, PlayedSummary
from leakscope.ledger.record import Word
from leakscope.mechanisms.compose import protocol_of
from leakscope.mechanisms.federated.federation import Federation
from leakscope.mechanisms.protocols.batch_clipped import BOUNDS_NOTHING, BatchClipped
from leakscope.mechanisms.silencing import unsilenced
from leakscope.numerics.rng import Key
from leakscope.scoring import persons
from leakscope.scoring.persons import People
from leakscope.version import VERSION

WORST = (Word.LEAKS, Word.INCONCLUSIVE, Word.NO_LEAK_FOUND)


@functools.lru_cache(maxsize=256)
def epsilons(federation: Federation, *, clients: int, delta: float) -> tuple[float, float, float] | None:
    """(for who sees the models, one update of a client, all of them); None without user-level privacy.

    Kept: every cell and row of a federation asks, and with much noise it takes seconds. Raises as `models_epsilon`, so
    on a delta that is no less than one over the clients.
    """
    if federation.privacy is None:
        return None
    return (
        models_epsilon(federation, clients=clients, delta=delta),
        updates_epsilon(federation, clients=clients, delta=delta, rounds=1),
        updates_epsilon(federation, clients=clients, delta=delta),
    )


def together(audited: Sequence[PlayedRow]) -> tuple[Word, str]:
    """The word for all rows, and how many have which: the worst, a leak only where they are beyond luck among all.

    A row leaks by luck in a hundredth of cases, and of thirty rows one does in a quarter of plans. That k of n p-values
    are at most t has a probability of at most n t / k, however they hang on each other (Rueschendorf 1982,
    doi:10.2307/3213892: n t of them are in the mean): asked at k = 1 (Bonferroni) and for half of the rows, each at a
    half of `LUCK`. A dozen persons who are all told in most rows leak, though no row alone would among thirty.
    """
    word = next(one for one in WORST if any(row.word is one for row in audited))
    said = f"{len(audited)} rows: " + ", ".join(
        f"{sum(row.word is one for row in audited)} {one.value}" for one in WORST
    )
    count = len(audited)
    leaks = sorted(one.luck for row in audited if row.word is Word.LEAKS for one in row.found if one.updates == ALL)
    asked = sorted({1, (count + 1) // 2})
    # Where fewer leak the others are above `LUCK`, and no half of the rows is at that.
    least = min((leaks[k - 1] * count / k for k in asked if k <= len(leaks)), default=1.0)
    if leaks and least > LUCK / len(asked):
        word = Word.INCONCLUSIVE
        said += f"; those that leak do not among {count}, of which luck makes so many look so in too many plans"
    return word, said


def summarized(plan: FederationPlan, done: Mapping[str, PlayedRecord]) -> PlayedSummary:
    """All rows, those without a record too: what is not there is inconclusive, and never cleared."""
    rows = tuple(_row(plan, group, done) for group in plan.groups())
    audited = [row for row in rows if row.part is Part.AUDITED]
    word, said = together(audited)
    cells = plan.cells()
    finished = [cell for cell in cells if cell.spec.identity in done]
    wrong = [row for row in rows if row.part is Part.SHUFFLED and row.word is Word.LEAKS]
    if len(finished) < len(cells):
        said += f"; {len(cells) - len(finished)} of {len(cells)} cells are not run yet"
    if wrong:
        # of a hundred such rows one does at this level
        said += f"; {len(wrong)} shuffled rows leak, as one of a hundred does by luck: more of them are a fault"
    return PlayedSummary(
        title=plan.title,
        word=word,
        sentence=said,
        rows=rows,
        planned=len(cells),
        finished=len(finished),
        seconds=sum(done[cell.spec.identity].seconds for cell in finished),
        seed=plan.seed,
        smallest=plan.smallest,
        delta=plan.delta,
        version=VERSION,
        citations=tuple(dict.fromkeys(one.citation for one in done.values() if one.citation)),
    )


def _row(plan: FederationPlan, group: FederatedGroup, done: Mapping[str, PlayedRecord]) -> PlayedRow:
    first = group.cells[0]
    records = [done[cell.spec.identity] for cell in group.cells if cell.spec.identity in done]
    key = Key(plan.seed).child("rows", *(cell.spec.identity for cell in group.cells))
    word, sentence = _word(plan, group, done, key)
    privacy = first.federation.privacy
    utilities = [one.history[-1] for one in records if one.history]
    numbers = dict.fromkeys(rows.updates for one in records for rows in one.claims)
    joined = {number: _joined(records, number) for number in numbers}
    found = (_found(number, one, key) for number, one in joined.items() if one is not None)
    clipped = isinstance(protocol_of(first.federation.step), BatchClipped)
    clients = min((one.clients for one in records), default=0)
    return PlayedRow(
        part=group.part,
        scene=first.scene.name,
        target=plan.name(first.target),
        federation=plan.name(first.federation),
        attack=first.attack.name,
        attribute=first.attribute,
        word=word,
        sentence=sentence,
        found=tuple(found),
        noise=math.nan if privacy is None else privacy.noise_multiplier,
        epsilons=epsilons(first.federation, clients=clients, delta=plan.delta) if clients else None,
        accuracy=float(np.mean([one.accuracy for one in utilities])) if utilities else math.nan,
        uar=float(np.mean([one.uar for one in utilities])) if utilities else math.nan,
        note=f"no epsilon is computed of BatchClipped: {BOUNDS_NOTHING}" if clipped else "",
    )


def _word(plan: FederationPlan, group: FederatedGroup, done: Mapping[str, PlayedRecord], key: Key) -> tuple[Word, str]:
    """By all updates of each person, beside the control. A direction that is missing clears nothing."""
    records = [done[cell.spec.identity] for cell in group.cells if cell.spec.identity in done]
    people = _joined(records, ALL)
    if people is None:
        why = _unjoined(records, ALL) or next((one.sentence for one in records if one.sentence), "not run yet")
        return Word.INCONCLUSIVE, f"nothing was claimed: {why}"
    silent = [one for record in records for one in record.silent]
    controls = [done[cell.spec.identity] for cell in group.control if cell.spec.identity in done]
    control = _joined(controls, ALL)
    quiet = [done[cell.spec.identity] for cell in group.noiseless if cell.spec.identity in done]
    noiseless = _joined(quiet, ALL)
    try:
        found = by_person.judged(people, control, smallest=plan.smallest, key=key, silent=silent, noiseless=noiseless)
    except BadInput as error:
        return Word.INCONCLUSIVE, str(error)
    lacking = _lacking(records, group.cells, "a direction")
    if group.noiseless and (noiseless is None or len(quiet) < len(group.noiseless)):
        what = "the federation without its noise"
        lacking = lacking or _lacking(quiet, group.noiseless, what) or f"{what} has no claims of one scene"
    # Of the federation's own clip and noise it is known; of a step of somebody else's it may not be.
    why = lacking or unsilenced(group.cells[0].federation.step)
    if found.word is Word.NO_LEAK_FOUND and why:
        return Word.INCONCLUSIVE, f"{found.sentence}; but {why}"
    return found.word, found.sentence


def _lacking(records: Sequence[PlayedRecord], cells: Sequence[FederatedCell], what: str) -> str:
    """Why there is not all of it: it is no person of whom nothing was claimed. Empty where all is there."""
    if len(records) < len(cells):
        return f"{what} was not attacked yet"
    failed = next((one.sentence for one in records if one.sentence), "")
    return f"{what} was attacked without a claim ({failed})" if failed else ""


def _joined(records: Sequence[PlayedRecord], number: int) -> People | None:
    """The claims of both directions; None where there is none, or where they are not of one scene (`_unjoined`)."""
    rows = _rows(records, number)
    return None if not rows or _unjoined(records, number) else _people([claims for _, claims in rows])


def _unjoined(records: Sequence[PlayedRecord], number: int) -> str:
    """Why claims of these directions are not of the persons of one scene; empty where they are."""
    rows = _rows(records, number)
    categories = list(dict.fromkeys(one.categories for one, _ in rows))
    if len(categories) > 1:
        return f"the directions tell other categories apart: {' and '.join(map(str, categories))}"
    # A record knows nothing of the other one: that somebody wrote to it shows only here, and spoils this row alone.
    twice = [name for name, times in Counter(name for _, one in rows for name in set(one.persons)).items() if times > 1]
    if twice:
        return f"{', '.join(sorted(twice)[:3])} is attacked in both directions; a record was written to, start anew"
    return ""


def _rows(records: Sequence[PlayedRecord], number: int) -> list[tuple[PlayedRecord, ClaimRows]]:
    return [(one, rows) for one in records for rows in one.claims if rows.updates == number]


def _people(rows: Sequence[ClaimRows]) -> People:
    names = [name for one in rows for name in one.persons]
    order = {name: place for place, name in enumerate(dict.fromkeys(names))}
    truth = [value for one in rows for value in one.truth]
    scores = np.asarray([row for one in rows for row in one.scores], dtype=np.float64)
    # Each direction has its own attacker, who learned of the other one's people.
    sides = [side for side, one in enumerate(rows) for _ in one.persons]
    return People(truth, scores, [order[name] for name in names], sides)


def _found(number: int, people: People, key: Key) -> Found:
    """All metrics. By all updates a row is a person, whose interval and luck are `by_person`'s."""
    whole = people.fused() if number == ALL else people
    uar = by_person.interval(whole, key=key) if number == ALL else persons.interval(whole, key=key)
    return Found(
        updates=number,
        persons=whole.count,
        uar=uar.value,
        low=uar.low,
        high=uar.high,
        luck=by_person.luck(whole, key=key) if number == ALL else persons.luck(whole, key=key),
        chance=1 / whole.scores.shape[1],
        auc=persons.auc(whole.truth, whole.scores),
        caught=persons.caught(whole.truth, whole.scores),
        log_loss=persons.log_loss(whole.truth, whole.scores),
    )
