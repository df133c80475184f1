"""All verdicts of a plan's records: each group judged, the findings about mechanisms, the word for the whole audit."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from leakscope.audit.evidence import pooled
from leakscope.audit.findings import findings
from leakscope.audit.game import Sides, game
from leakscope.audit.measures import WORST_FIRST
from leakscope.audit.plan import Cell, Group, Plan
from leakscope.audit.promises import Promises
from leakscope.audit.replaced import firsts
from leakscope.audit.theory import broken_by_scores
from leakscope.audit.verdict import Trials, judge
from leakscope.bounds.lower import lower_from_scores
from leakscope.core.facts import Suspects, TrueLabels, TrueTranscripts
from leakscope.ledger.record import GroupVerdict, Record, Summary


def summarize(plan: Plan, records: Mapping[str, Record]) -> Summary:
    """The verdicts of all groups and of the whole. What only the runner knows (`versions`, `machine`, ...) is empty."""
    promises = Promises(plan.delta)
    groups = tuple(_verdict(plan, group, records, promises) for group in plan.groups())
    found = findings(plan, groups, promises)
    counts = Counter(one.word for one in found)
    word = next(word for word in WORST_FIRST if counts[word])
    said = ", ".join(f"{word.value}: {counts[word]}" for word in WORST_FIRST if counts[word])
    planned = {cell.identity for cell in plan.cells()}
    attacks = [cell.attack for cell in plan.cells() if cell.identity in records]
    return Summary(
        title=plan.title,
        word=word,
        sentence=f"{said} (of {len(found)} mechanisms, each in its scene)",
        groups=groups,
        planned=len(planned),
        finished=len(planned & records.keys()),
        seconds=math.fsum(record.seconds for record in records.values()),
        findings=found,
        # by fingerprint: every trial that used a learned state names what it took, and it was learned once
        preparing_seconds=math.fsum({one.prepared: one.preparing_seconds for one in records.values()}.values()),
        seed=plan.seed,
        versions={},
        machine="",
        command="",
        started="",
        citations=tuple(dict.fromkeys(attack.citation for attack in attacks if attack.citation)),
    )


def _verdict(plan: Plan, group: Group, records: Mapping[str, Record], promises: Promises) -> GroupVerdict:
    def of(cells: tuple[Cell, ...]) -> list[Record | None]:
        return [records.get(cell.identity) for cell in cells]

    audited, undefended, blind = of(group.audited), of(group.undefended), of(group.blind)
    replaced, remaining = of(group.replaced), of(group.remaining)
    undefended_replaced = of(group.undefended_replaced)
    told = plan.told_in(group.scene)
    judged = judge(
        Trials(
            audited,
            undefended,
            blind,
            labels_told=TrueLabels in told,
            transcripts_told=TrueTranscripts in told,
            own_control=group.own_control,
            smallest=dict(plan.smallest),
            replaced=replaced,
            remaining=remaining,
            undefended_replaced=undefended_replaced,
            noiseless=of(group.noiseless),
            silent=group.silent,
            unsilenced=group.unsilenced,
        )
    )
    promised = promises.of(group.mechanism)
    return GroupVerdict(
        title=_title(plan, group),
        target=repr(group.scene.architecture),
        dataset=repr(group.scene.source),
        mechanism=plan.name(group.mechanism),
        attack=plan.name(group.attack),
        word=judged.word,
        sentence=judged.sentence,
        members=tuple(cell.identity for cell in group.audited),
        undefended=tuple(cell.identity for cell in group.undefended),
        blind=tuple(cell.identity for cell in group.blind),
        planned=len(group.audited),
        finished=sum(record is not None for record in audited),
        scores=pooled(audited),
        undefended_scores=pooled(undefended),
        blind_scores=pooled(blind),
        epsilon=None if promised is None else promised.epsilon,
        training_epsilon=None if promised is None else promised.training_epsilon,
        adjacency="" if promised is None or promised.adjacency is None else promised.adjacency.value,
        delta=None if promised is None else plan.delta,
        gains=judged.gains,
        replaced=tuple(cell.identity for cell in group.replaced),
        replaced_scores=pooled(replaced),
        remaining=tuple(cell.identity for cell in group.remaining),
        noiseless=tuple(cell.identity for cell in group.noiseless),
        **_shown(plan, group, firsts(audited, replaced), promises),
        **_games(plan, group, (audited, replaced), (undefended, undefended_replaced), promises),
    )


def _games(plan: Plan, group: Group, own: Sides, without: Sides, promises: Promises) -> dict[str, Any]:
    """Both games of a verdict; none where what is told says which of the two examples is in the release."""
    if Suspects in plan.told_in(group.scene):
        return {}
    bare = group.mechanism.undefended
    return {"game": game(group.mechanism, own, promises), "undefended_game": game(bare, without, promises)}


def _shown(plan: Plan, group: Group, scores: tuple[list[float], list[float]], promises: Promises) -> dict[str, Any]:
    """What the replaced control shows of epsilon, as fields of the verdict; nothing where it was not run."""
    present, absent = scores
    if not group.replaced:
        return {}
    found: dict[str, Any] = {"uncompared": promises.too_few(group.mechanism, len(present))}
    if len(present) < 2:
        return found
    said = broken_by_scores(group.mechanism, present=present, absent=absent)
    return found | {"observed_epsilon": lower_from_scores(present, absent, delta=plan.delta), "broken": said or ""}


def _title(plan: Plan, group: Group) -> str:
    size = f" · batch of {group.batch_size}" if group.batch_size > 1 else ""
    return f"{group.scene.name}{size} · {plan.name(group.mechanism)} · {plan.name(group.attack)}"
